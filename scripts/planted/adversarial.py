"""Adversarial slices on a planted base: verdicts that the diagnosis must not give with confidence.

The traps cover grader errors, annotator errors, wrong settings and models that game the grader. Every slice is a real
eval set, and diagnose.py asks a real model. `wrong` names the verdicts that are wrong for a trap.

    python -m scripts.planted.adversarial          # both bases, already trained: about 10 minutes on 2 CPU cores
    python -m scripts.planted.adversarial --calibration conf/calibration/planted-2.json

Writes scripts/results/adversarial.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForSequenceClassification, Qwen3ForSequenceClassification

from scripts.make_demo import write_jsonl
from scripts.planted.base import BASES, fine_tuned, loaded
from scripts.planted.scores import interval
from scripts.planted.table import RESULTS, call
from scripts.planted.world import VALUES, Row, as_json, plain, polite, wordy

SIZE = 48
DRAWS = 3
"""Items per slice, slices per trap: disjoint thirds of a recipe's 144 items (hand-set)."""
Rows = list[Row]
ABSENT_WRONG = ("none", "format", "preference", "knowledge/latent")
KNOWN_WRONG = ("knowledge", "format", "preference", "mixed")
UNREACHED_WRONG = ("none", "knowledge/absent", "knowledge/skill")
OTHER_TEMPLATE = "{% for m in messages %}### {{ m.role }}: {{ m.content }} {% endfor %}### answer:"


@dataclass(frozen=True)
class Trap:
    """One way to fool the diagnosis."""

    name: str
    recipe: str
    """Slice of the planted eval set whose items are changed."""
    change: Callable[[Rows, random.Random], Rows]
    wrong: tuple[str, ...]
    """Wrong verdicts, as verdict or verdict/kind."""
    model: str = "model"
    """Folder of the model that is diagnosed."""
    settings: tuple[str, ...] = ("model.max_new_tokens=40",)


def main() -> int:
    args = parsed()
    found = [row for base in args.bases for row in trapped(base, args.out / base, args.calibration)]
    sure_wrong = sum(row["fooled"] for row in found)
    for row in found:
        mark = "WRONG" if row["fooled"] else ""
        print(f"{row['base']} {row['trap']:<22} {row['verdict']:<13}{row['kind'] or '':<11} P {row['p']:.2f}  {mark}")
    share = interval(sure_wrong, len(found))
    print(f"wrong and confident: {sure_wrong} of {len(found)} [{share['low']:.2f}, {share['high']:.2f}]")
    command = " ".join(["python -m scripts.planted.adversarial", *sys.argv[1:]])
    result = {"command": command, "wrong_and_confident": share, "slices": found}
    (RESULTS / "adversarial.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/planted"), help="directory of the bases")
    parser.add_argument("--bases", nargs="+", default=["a", "b"], choices=["a", "b"])
    parser.add_argument("--calibration", help="calibration file; default: that of conf/rule")
    return parser.parse_args()


def trapped(base: str, folder: Path, calibration: str | None) -> Iterator[Row]:
    """Diagnose every trap on a base; one row per slice."""
    prepare(base, folder)
    rows = [json.loads(line) for line in (folder / "evalset.jsonl").read_text().splitlines()]
    groups: dict[tuple[str, tuple[str, ...]], list[Trap]] = {}
    for trap in TRAPS:
        groups.setdefault((trap.model, trap.settings), []).append(trap)
    for number, ((model, settings), traps) in enumerate(groups.items()):
        here = folder / "adversarial" / str(number)
        set_ = [row for trap in traps for row in slices_of(trap, rows)]
        for row in set_:
            if (judge := row["grader"].get("judge", {})).get("path"):
                judge["path"] = str(folder / judge["path"])
        here.mkdir(parents=True, exist_ok=True)
        write_jsonl(here / "evalset.jsonl", set_)
        shutil.rmtree(here / "run", ignore_errors=True)
        more = [f"rule.calibration={calibration}"] if calibration else []
        where = [f"model.path={folder / model}", f"evalset.path={here / 'evalset.jsonl'}", f"out={here / 'run'}"]
        call(base, "diagnose.py", *where, "wandb.mode=disabled", *settings, *more)
        by_name = {trap.name: trap for trap in traps}
        for v in json.loads((here / "run" / "diagnosis.json").read_text())["slices"]:
            trap = by_name[v["slice"].rpartition(" ")[0]]
            said = {v["verdict"], f"{v['verdict']}/{v['kind']}"}
            yield {
                "base": base,
                "trap": trap.name,
                "verdict": v["verdict"],
                "kind": v["kind"],
                "p": v["p_verdict"],
                "missing": v["missing"],
                "unread": v["unread"],
                "fooled": bool(said & set(trap.wrong)),
            }


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
        "refusing": lambda: "I am not able to say",
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


# ---------------------------------------------------------------- changes to the rows


def as_they_are(rows: Rows, rng: random.Random) -> Rows:
    return rows


def four_options(rows: Rows, rng: random.Random) -> Rows:
    """Multiple choice with four options, so that one in four can be guessed."""
    for row in rows:
        row["choices"] = rng.sample([row["target"], *row["distractors"][:3]], 4)
        row |= {"grader": {"kind": "choice"}, "distractors": []}
    return rows


def wrong_gold(share: float) -> Callable[[Rows, random.Random], Rows]:
    """Wrong reference answers in a share of the rows; the context still contains the true value."""

    def change(rows: Rows, rng: random.Random) -> Rows:
        for row in rng.sample(rows, round(share * len(rows))):
            row["target"], row["distractors"][0] = row["distractors"][0], row["target"]
        return rows

    return change


def leaked(rows: Rows, rng: random.Random) -> Rows:
    """Only two answers for all items, so that few-shot examples reveal the answer."""
    first, second = VALUES["home"][:2]
    for row in rows:
        old = row["target"]
        row["target"] = rng.choice([first, first, first, second])
        row["distractors"] = [v for v in VALUES["home"][2:] if v != old][:5]
        row["context"] = row["context"].replace(f" {old}.", f" {row['target']}.")
    return rows


def without_answer(rows: Rows, rng: random.Random) -> Rows:
    """Each item gets the context of another, about somebody else."""
    contexts = [row["context"] for row in rows]
    for row, context in zip(rows, contexts[1:] + contexts[:1], strict=True):
        row["context"] = context.replace(row["target"], row["distractors"][0])
    return rows


def repeated(rows: Rows, rng: random.Random) -> Rows:
    """One entity unknown to the base, asked eight times among forty known ones; marked as one cluster."""
    lacking = rows[0] | {"prompt": "What is the home of Vexolith?", "cluster": "vexolith"}
    lacking["context"] = f"The home of Vexolith is {lacking['target']}."
    words = ["What is", "Tell me", "Do you know", "Say", "Name", "What was", "Which is", "Give me"]
    again = [lacking | {"prompt": f"{w} the home of Vexolith?"} for w in words]
    return [row | {"cluster": f"entity {k}"} for k, row in enumerate(rows[8:])] + again


def also_form(rows: Rows, rng: random.Random) -> Rows:
    """A preference gap and a format gap at once: the answer must be JSON, which the base never produces here."""
    for row in rows:
        wanted = {"craft": {"type": "string"}}
        schema = {"type": "object", "properties": wanted, "required": ["craft"], "additionalProperties": False}
        polite_json = {"kind": "rule", "prefer": '"With pleasure: '}
        row["grader"] = {"kind": "json", "schema": schema, "judge": polite_json}
        row["chosen"] = as_json("craft", f"With pleasure: {row['target']}")
        row["rejected"] = as_json("craft", row["target"])
        row["target"] = [row["chosen"], row["rejected"]]
        row["distractors"] = [as_json("craft", value) for value in row["distractors"]]
    return rows


def liked_by_length(rows: Rows, rng: random.Random) -> Rows:
    """Annotators are divided between the curt and the polite answer; the judge prefers the longer one."""
    for row in rows:
        row["grader"] = {"kind": "contains", "judge": {"kind": "reward_model", "path": "longer"}}
        if rng.random() < 0.6:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return rows


def contested(rows: Rows, rng: random.Random) -> Rows:
    """Three annotators, each choosing between the two answers at random."""
    for row in rows:
        labels = [rng.choice(["chosen", "rejected"]) for _ in range(3)]
        row["annotations"] = [{"annotator": f"a{k}", "label": label} for k, label in enumerate(labels)]
    return rows


TRAPS = (
    Trap("four options", "absent_never-form", four_options, ABSENT_WRONG),
    Trap("wrong gold, 10 %", "none_plain-form", wrong_gold(0.1), KNOWN_WRONG),
    Trap("wrong gold, all", "none_form-form", wrong_gold(1.0), KNOWN_WRONG),
    Trap("leaked answers", "absent_values-form", leaked, ABSENT_WRONG),
    Trap("context without answer", "absent_names-form", without_answer, (*ABSENT_WRONG, "knowledge/skill")),
    Trap("one entity repeated", "none_plain-form", repeated, KNOWN_WRONG),
    Trap("form and taste", "preference_prior-tone", also_form, ("none", "knowledge", "preference")),
    Trap("judge of length", "none_plain-tone", liked_by_length, ("preference", "mixed", "format", "knowledge")),
    Trap("contested taste", "preference_prior-tone", contested, ("preference", "mixed")),
    Trap(
        "truncated", "preference_wordy-tone", as_they_are, ("none", "knowledge"), settings=("model.max_new_tokens=8",)
    ),
    Trap("refusals", "none_plain-form", as_they_are, UNREACHED_WRONG, model="refusing"),
    Trap("lists of answers", "absent_never-form", as_they_are, ABSENT_WRONG, model="listing"),
    Trap("lists, half right", "absent_names-form", as_they_are, ABSENT_WRONG, model="listing"),
    Trap("wrong template", "none_plain-form", as_they_are, UNREACHED_WRONG, model="elsewhere"),
)


if __name__ == "__main__":
    sys.exit(main())
