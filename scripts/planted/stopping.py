"""Adaptive budget (probes.budget=adaptive) simulated on the recorded answers of planted slices."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from diagnose.adaptive import settled
from diagnose.config import ProbesConfig, RuleConfig
from diagnose.probes.answers import AnswerLog
from scripts.planted.slices import Planted, judged


def stopped(slices: list[Planted], log: AnswerLog, rule: RuleConfig, settings: ProbesConfig) -> list[dict[str, Any]]:
    """As probes.budget=adaptive does: ask some items of each slice, then more of the undecided slices."""
    whole = {s.name: shuffled(s) for s in slices}
    done: dict[str, dict[str, Any]] = {}
    for turn in count(settings.first_items, settings.more_items):
        asked = {name: done[name]["n"] if name in done else turn for name in whole}
        seen = [replace(s, items=s.items[: asked[n]]) for n, s in whole.items()]
        for found in judged(seen, log, rule, turn, settings):
            name = found["slice"]
            sure = settled(found["verdict"], found["said_kind"], found["p"], found["missing"], rule)
            if name not in done and (sure or turn >= len(whole[name].items)):
                done[name] = found
        if len(done) == len(whole):
            break
    return [done[name] for name in whole]


def shuffled(s: Planted) -> Planted:
    """The items in an order independent of their class."""
    order = np.random.default_rng(len(s.items)).permutation(len(s.items))
    return replace(s, items=tuple(s.items[k] for k in order))
