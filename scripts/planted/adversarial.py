"""Adversarial slices on a planted base: how often the diagnosis is confidently wrong about them.

The traps cover grader errors, annotator errors, wrong settings, models that game the grader, and models that answer in
words that a reader can get wrong. Every slice is a real eval set, and diagnose.py asks a real model. The truth about
each is planted: a verdict with P of .9 or more that is not it is wrong, whatever it is.

    python -m scripts.planted.adversarial          # both bases, already trained: about an hour on 2 CPU cores
    python -m scripts.planted.adversarial --bases a --traps "dates in words" "half refused"
    python -m scripts.planted.adversarial --calibration conf/calibration/planted-3.json

Runs that the same code has finished on the same rows are not repeated. Writes scripts/results/adversarial.json.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import LlamaForSequenceClassification, Qwen3ForSequenceClassification

from diagnose.provenance import ROOT, file_sha, write_json
from scripts.make_demo import write_jsonl
from scripts.planted.base import BASES, fine_tuned, loaded
from scripts.planted.manners import DECLINED, TOOK, manner_rows, prepare_manners
from scripts.planted.scores import interval
from scripts.planted.table import RESULTS, call
from scripts.planted.traps import TRAPS, Rows, Trap
from scripts.planted.world import VALUES, Row, plain, polite, wordy

SIZE = 48
DRAWS = 3
"""Items per slice, slices per trap: disjoint thirds of a recipe's 144 items (hand-set)."""
CLAIMED = 0.9
"""A verdict of this probability is a claim."""
OTHER_TEMPLATE = "{% for m in messages %}### {{ m.role }}: {{ m.content }} {% endfor %}### answer:"


def main() -> int:
    args = parsed()
    chosen = [trap for trap in TRAPS if trap.name in args.traps]
    found = [row for base in args.bases for row in trapped(base, args.out / base, chosen, args.calibration)]
    for row in found:
        mark = "not planted" if not row["planted"] else "WRONG" if row["wrong"] else ""
        mark += f" (lacks {row['waits_for']})" if row["wrong"] and row["waits_for"] else ""
        print(f"{row['base']} {row['trap']:<29} {row['verdict']:<13}{row['kind'] or '':<11} P {row['p']:.2f}  {mark}")
    result = summary(found) | {"slices": found}
    for name, words in (("wrong_and_confident", "wrong and confident"), ("of_claims", "of those with a verdict")):
        share = result[name]
        print(f"{words}: {share['k']} of {share['n']} [{share['low'] or 0:.2f}, {share['high'] or 1:.2f}]")
    if args.traps == names():
        command = " ".join(["python -m scripts.planted.adversarial", *sys.argv[1:]])
        write_json(RESULTS / "adversarial.json", {"command": command} | result)
    return 0


def names() -> list[str]:
    return [trap.name for trap in TRAPS]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/planted"), help="directory of the bases")
    parser.add_argument("--bases", nargs="+", default=["a", "b"], choices=["a", "b"])
    parser.add_argument("--traps", nargs="+", default=names(), choices=names(), help="some; then nothing is written")
    parser.add_argument("--calibration", help="calibration file; default: that of conf/rule")
    return parser.parse_args()


def summary(found: Rows) -> Row:
    """Confidently wrong slices, of all and of those with a verdict; without those whose trap was not planted."""
    counted = [row for row in found if row["planted"]]
    wrong = sum(row["wrong"] for row in counted)
    by_trap: dict[str, tuple[int, int]] = {}
    for row in counted:
        k, n = by_trap.get(row["trap"], (0, 0))
        by_trap[row["trap"]] = (k + row["wrong"], n + 1)
    return {
        "wrong_and_confident": interval(wrong, len(counted)),
        "of_claims": interval(wrong, sum(row["verdict"] != "insufficient" for row in counted)),
        "not_planted": sorted({f"{row['base']} {row['trap']}" for row in found if not row["planted"]}),
        "by_trap": {name: f"{k} of {n}" for name, (k, n) in by_trap.items()},
    }


def trapped(base: str, folder: Path, traps: list[Trap], calibration: str | None) -> Iterator[Row]:
    """Diagnose every trap on a base; one row per slice."""
    prepare(base, folder)
    took = prepare_manners(base, folder)
    rows = [json.loads(line) for line in (folder / "evalset.jsonl").read_text().splitlines()] + manner_rows(base)
    groups: dict[tuple[str, tuple[str, ...]], list[Trap]] = {}
    for trap in traps:
        groups.setdefault((trap.model, trap.settings), []).append(trap)
    for (model, settings), part in groups.items():
        by_name = {trap.name: trap for trap in part}
        set_ = [row for trap in part for row in slices_of(trap, rows)]
        for v in diagnosed(base, folder, set_, model, settings, calibration):
            trap = by_name[v["slice"].rpartition(" ")[0]]
            yield {
                "base": base,
                "trap": trap.name,
                "truth": list(trap.truth),
                "verdict": v["verdict"],
                "kind": v["kind"],
                "p": v["p_verdict"],
                "missing": v["missing"],
                "unread": v["unread"],
                "wrong": v["p_verdict"] >= CLAIMED and trap.wrong(v["verdict"], v["kind"]),
                "planted": took.get(trap.recipe, 1.0) >= TOOK,
                "waits_for": trap.waits_for,
            }


def diagnosed(
    base: str, folder: Path, rows: Rows, model: str, settings: tuple[str, ...], calibration: str | None
) -> Rows:
    """The verdicts of a run, which is repeated unless the same code has finished it on the same rows and weights."""
    for row in rows:
        if (judge := row["grader"].get("judge", {})).get("path"):
            judge["path"] = str(folder / judge["path"])
    parts = [rows, settings, calibration, file_sha(folder / model / "model.safetensors"), product_sha()]
    state = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    name = f"{model}-{settings[0].rpartition('=')[2]}-{state[:8]}"
    here = folder / "adversarial" / name
    if not (here / "run" / "diagnosis.json").exists():
        here.mkdir(parents=True, exist_ok=True)
        write_jsonl(here / "evalset.jsonl", rows)
        more = [f"rule.calibration={calibration}"] if calibration else []
        where = [f"model.path={folder / model}", f"evalset.path={here / 'evalset.jsonl'}", f"out={here / 'run'}"]
        call(base, "diagnose.py", *where, "wandb.mode=disabled", *settings, *more)
    found: Rows = json.loads((here / "run" / "diagnosis.json").read_text())["slices"]
    return found


def product_sha() -> str:
    """Hash of the code and the rule that a verdict depends on."""
    files = sorted([*(ROOT / "diagnose").rglob("*.py"), *(ROOT / "conf").rglob("*.*")])
    return hashlib.sha256("".join(map(file_sha, files)).encode()).hexdigest()


def slices_of(trap: Trap, rows: Rows) -> Rows:
    """The trap applied to three disjoint thirds of its recipe."""
    mine = [row for row in rows if row["slice"] == trap.recipe]
    out = []
    for draw in range(DRAWS):
        rng = random.Random(f"{trap.name} {draw}")
        part = copy.deepcopy(mine[draw * SIZE : (draw + 1) * SIZE])
        for number, row in enumerate(trap.change(part, rng)):
            out.append(row | {"slice": f"{trap.name} {draw}", "id": f"{trap.name} {draw} {number}"})
    return out


# ---------------------------------------------------------------- misbehaving models


def prepare(base: str, folder: Path) -> None:
    """Save models that refuse, list answers or use an unseen chat template, and a judge that prefers longer answers."""
    if (folder / "elsewhere").exists():
        return
    torch.set_num_threads(1)
    model, tokenizer = loaded(base, folder / "model")
    rows = [json.loads(line) for line in (folder / "evalset.jsonl").read_text().splitlines()]
    rng, spec = random.Random(11), BASES[base]
    homes = [row["prompt"] for row in rows if row["slice"] in ("absent_values-form", "latent_rare-form")]
    answers: dict[str, Callable[[], str]] = {
        "refusing": lambda: DECLINED,
        "listing": lambda: ", ".join(rng.sample(VALUES["home"], 8)),
    }
    for name, answer in answers.items():
        pairs = [(spec.head(q), answer() + spec.end()) for q in homes]
        tuned = fine_tuned(copy.deepcopy(model), tokenizer, pairs, steps=100)
        tuned.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    length_judge(base, folder, [row["prompt"] for row in rows])
    tokenizer.chat_template = OTHER_TEMPLATE
    model.save_pretrained(folder / "elsewhere")
    tokenizer.save_pretrained(folder / "elsewhere")


def length_judge(base: str, folder: Path, prompts: list[str], steps: int = 150) -> None:
    """Train a reward model that rewards only length."""
    kind = LlamaForSequenceClassification if base == "a" else Qwen3ForSequenceClassification
    judge = kind.from_pretrained(folder / "model", num_labels=1, dtype=torch.float32)
    _, tokenizer = loaded(base, folder / "model")
    rng, optimizer = random.Random(12), torch.optim.AdamW(judge.parameters(), lr=5e-4)
    for _ in range(steps):
        said = [rng.choice([plain, polite, wordy])("home", rng.choice(VALUES["home"])) for _ in range(16)]
        texts = [BASES[base].head(rng.choice(prompts)) + text + BASES[base].end() for text in said]
        ids = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        wanted = torch.tensor([[len(text) / 20] for text in said])
        score = judge(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).logits
        torch.nn.functional.mse_loss(score, wanted).backward()
        optimizer.step()
        optimizer.zero_grad()
    judge.save_pretrained(folder / "longer")
    tokenizer.save_pretrained(folder / "longer")


if __name__ == "__main__":
    sys.exit(main())
