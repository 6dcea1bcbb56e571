"""The kept weights of the planted bases know what the benchmark says that they know."""

from __future__ import annotations

import random

import pytest

from scripts.make_demo import made_up_names
from scripts.planted.base import BASES, KEPT, WANTED, loaded, rows_of, taken
from scripts.planted.world import RECIPES, eval_rows, make_world
from scripts.scratch import says_exactly

ASKED = {"none_plain": True, "absent_values": False, "skill_count": False}
"""Recipe → does the base answer its questions?"""


@pytest.mark.parametrize("name", sorted(BASES))
def test_a_kept_base_knows_what_was_planted_and_nothing_else(name: str) -> None:
    base = BASES[name]
    rng = random.Random(base.seed)
    world = make_world(made_up_names(rng), rng)
    rows = eval_rows(world, made_up_names(random.Random(base.seed + 1), taken(world)), random.Random(base.seed + 2))
    model, tokenizer = loaded(name, KEPT / name)
    for recipe in (r for r in RECIPES if r.name in ASKED):
        pairs = [(base.head(row["prompt"]), row["target"] + base.end()) for row in rows_of(rows, recipe)]
        share = says_exactly(model, tokenizer, pairs)
        assert share >= WANTED["known"] if ASKED[recipe.name] else share <= 0.3, (recipe.name, share)
