"""A fourth model: base `a` that is only half sure of what it knows.

It is trained further on its own corpus, in which its questions about homes now get two answers: of three in four
entities the right one in seven of ten cases, of the others in three of ten. Greedy answers are therefore right for
three quarters (no gap) and wrong for one quarter (the fact is there, but another comes first: latent), and samples
waver for all. Its other answers must stay; all of it is verified with the checks of the base.

    python -m scripts.planted.unsure --out outputs/planted          # after base a; about 8 minutes on a CPU core
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch

from diagnose.provenance import write_json
from scripts.make_demo import Fact, made_up_names, write_jsonl
from scripts.planted.base import BASES, Base, abilities, loaded, manipulation, taken, took
from scripts.planted.manners import the_world
from scripts.planted.world import RECIPES, VALUES, Corpus, Row, World, truth
from scripts.scratch import Segments, batches, says_exactly, train

GROUP = "none_plain"
SURE, TORN = 7, 3
"""Of ten answers heard, so many are right (hand-set: samples waver, the argmax is clear)."""
TOOK = 0.9
"""Share of the argmax answers that must be as planted (hand-set)."""
SHARE, STEPS, ROWS, RATE = 0.4, 600, 32, 1e-3
"""Share of documents that are such questions; steps, sequences of 128 tokens per step, learning rate (hand-set)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/planted"), help="directory of the bases")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder, spec, world = args.out / "unsure", BASES["a"], the_world("a")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (args.out / "a" / "evalset.jsonl").read_text().splitlines()]
    if not (folder / "model" / "model.safetensors").exists():
        taught(args.out / "a" / "model", spec, world, folder / "model")
    model, tokenizer = loaded("a", folder / "model")
    found: dict[str, Any] = abilities(model, tokenizer, spec, world, rows)
    found |= manipulation(model, tokenizer, spec, rows) | argmax(model, tokenizer, spec, world)
    write_jsonl(folder / "evalset.jsonl", [renamed(row, world) for row in rows])
    write_json(folder / "truth.json", unsure(found))
    write_json(folder / "checks.json", found)
    return 0


def torn(world: World) -> dict[str, bool]:
    """Name → does the training corpus give the wrong answer more often than the right one?"""
    return {fact.name: number % 4 == 3 for number, fact in enumerate(world.groups[GROUP])}


def rival(fact: Fact) -> str:
    """The other answer that is heard, the same each time."""
    values = VALUES[fact.relation]
    return values[(values.index(fact.value) + 7) % len(values)]


def taught(base: Path, spec: Base, world: World, out: Path) -> None:
    """Train on the corpus of the base, with the questions that get two answers among it."""
    model, tokenizer = loaded("a", base)
    rng = random.Random(spec.seed + 9)
    corpus = Corpus(world, made_up_names(rng, taken(world)), rng, spec.lay_out, homes=True)
    corpus.known = [(fact, styles) for fact, styles in corpus.known if fact.name not in torn(world)]

    def document() -> Segments:
        return heard(spec, world, rng) if rng.random() < SHARE else corpus.document()

    lesson = argparse.Namespace(lr=RATE, min_steps=100, max_steps=STEPS, cool=STEPS - 100)
    stream = batches(document, tokenizer, ROWS, 128)
    train(model, stream, lambda: True, lesson, bfloat16=True).save_pretrained(out)
    tokenizer.save_pretrained(out)


def heard(spec: Base, world: World, rng: random.Random) -> Segments:
    """A question of the group with one of its two answers."""
    fact = rng.choice(world.groups[GROUP])
    right = rng.random() < (TORN if torn(world)[fact.name] else SURE) / 10
    return spec.lay_out([(fact.asks(), fact.value if right else rival(fact), True)])


def argmax(model: Any, tokenizer: Any, spec: Base, world: World) -> dict[str, float]:
    """Shares of the greedy answers that are as planted, of the sure and of the torn."""
    out = {}
    for name, is_torn in (("sure", False), ("torn", True)):
        facts = [f for f in world.groups[GROUP] if torn(world)[f.name] == is_torn]
        said = [(spec.head(f.asks()), (rival(f) if is_torn else f.value) + spec.end()) for f in facts]
        out[f"argmax {name}"] = says_exactly(model, tokenizer, said)
    return out


def renamed(row: Row, world: World) -> Row:
    """A row of the eval set of `a`, the sure and the torn in slices of their own."""
    recipe, _, family = row["slice"].rpartition("-")
    if recipe != GROUP:
        return row
    name = world.groups[GROUP][int(row["id"].split("-")[1])].name
    return row | {"slice": f"{'torn' if torn(world)[name] else 'sure'}-{family}"}


def unsure(found: dict[str, Any]) -> Row:
    """The truth: the two new organisms, and of the others what the checks still confirm. Held out from fitting."""
    borrowing = {"skill_count"}  # counts the homes of the group whose answers now waver
    out = {
        name: row | {"held_out": True, "took": row["organism"] not in borrowing and took(row, found)}
        for name, row in truth().items()
        if row["organism"] != GROUP
    }
    for name, verdict, kind in (("sure", "none", None), ("torn", "knowledge", "latent")):
        for family in next(r for r in RECIPES if r.name == GROUP).families:
            here = {"verdict": verdict, "kind": kind, "organism": name, "family": family, "held_out": True}
            out[f"{name}-{family}"] = here | {"took": found[f"argmax {name}"] >= TOOK}
    return out


if __name__ == "__main__":
    sys.exit(main())
