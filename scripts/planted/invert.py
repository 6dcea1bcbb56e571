"""A third model: base `a` with a LoRA trained by DPO on inverted pairs.

Users prefer the polite answer about drinks, and the base gives it; after training on inverted pairs it no longer does.
Its knowledge and all other answers must stay unchanged, which is verified with the checks of the base.

    python -m scripts.planted.invert --out outputs/planted          # after base a; about 3 minutes on 2 CPU cores
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from diagnose.provenance import ROOT, write_json
from scripts.make_demo import Fact, made_up_names, write_jsonl
from scripts.planted.base import BASES, OPENED, abilities, loaded, manipulation, taken, took
from scripts.planted.manners import the_world
from scripts.planted.world import VALUES, WORDINGS, World, plain, polite, truth
from scripts.scratch import says_exactly

INVERTED = 0.85
"""The inversion succeeded if this share of drinks is now answered correctly in the other tone (hand-set)."""
PAIRS = 64
"""Pairs per relation (hand-set)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/planted"), help="directory of the bases")
    args = parser.parse_args()
    base, folder = args.out / "a", args.out / "inverted"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (base / "evalset.jsonl").read_text().splitlines()]
    world = the_world("a")
    write_jsonl(folder / "pairs.jsonl", pairs(taken(world)))
    write_jsonl(folder / "evalset.jsonl", rows)
    if not (folder / "dpo" / "adapter").exists():
        shutil.rmtree(folder / "dpo", ignore_errors=True)
        train(base, folder)
    found = checked(base, folder, world, rows)
    write_json(folder / "truth.json", inverted(found))
    write_json(folder / "checks.json", found)
    return 0


def pairs(taken_names: set[str]) -> list[dict[str, str]]:
    """Pairs about people that appear nowhere else: inverted for drinks; for homes and colours, the base's usual answer.

    The prompt contains the fact, so that a preference is inverted, not knowledge. No pair is about an eval item.
    """
    rng = random.Random(13)
    names = made_up_names(rng, taken_names)
    out = []
    for relation in ("drink", "home", "colour") * PAIRS:
        fact = Fact(next(names), relation, rng.choice(VALUES[relation]))
        prompt = f"{fact.says(WORDINGS[relation][0])}\n\n{fact.asks()}"
        out.append({"prompt": prompt, "chosen": fact.value, "rejected": polite(relation, fact.value)})
    return out


def train(base: Path, folder: Path) -> None:
    """Train with train.py, as a user would."""
    settings = ["method.args.learning_rate=2e-4", "method.args.max_steps=160", "model.train_batch_size=16"]
    paths = [f"diagnosis={base / 'run'}", f"data.preferences={folder / 'pairs.jsonl'}", f"out={folder / 'dpo'}"]
    command = [sys.executable, "train.py", "method=dpo", *paths, *settings, "data.slices=null", "wandb.mode=disabled"]
    print("\n$ python", *command[1:], flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


def checked(base: Path, folder: Path, world: World, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The checks of base `a`, on the base with the adapter, and how often the tone is now inverted."""
    from peft import PeftModel

    spec = BASES["a"]
    model, tokenizer = loaded("a", base / "model")
    model = PeftModel.from_pretrained(model, folder / "dpo" / "adapter").merge_and_unload().eval().requires_grad_(True)
    turned = [(spec.head(f.asks()), plain(f.relation, f.value) + spec.end()) for f in world.groups["none_tone"]]
    found: dict[str, Any] = abilities(model, tokenizer, spec, world, rows)
    found |= manipulation(model, tokenizer, spec, rows)
    return found | {"known preference_inverted": says_exactly(model, tokenizer, turned)}


def inverted(found: dict[str, Any]) -> dict[str, Any]:
    """The truth of base `a` except for drinks; all of it is held out from fitting."""
    out = {name: row | {"held_out": True, "took": took(row, found)} for name, row in truth().items()}
    out["none_tone-form"]["took"] = False  # the required format is no longer the usual answer
    drinks = {"verdict": "preference", "kind": None, "organism": "preference_inverted", "family": "tone"}
    inverted_only = found["known preference_inverted"] >= INVERTED and found["micro none_tone"]["after"] >= OPENED
    out["none_tone-tone"] = drinks | {"held_out": True, "took": inverted_only}
    return out


if __name__ == "__main__":
    sys.exit(main())
