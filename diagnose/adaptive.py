"""How many items are asked: all, or only as many per slice as its verdict needs.

scripts/planted/stopping.py replays this on planted slices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from diagnose.config import ProbesConfig, RuleConfig
from diagnose.items.evalset import EvalSet, by_slice
from diagnose.models.base import Model
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import Judges
from diagnose.probes.run import run_probes
from diagnose.records import SliceVerdict
from diagnose.text import hash_order
from diagnose.verdict.decide import verdicts
from diagnose.verdict.mixture import attribute


def spend(
    model: Model,
    evalset: EvalSet,
    settings: ProbesConfig,
    rule: RuleConfig,
    log: AnswerLog,
    judges: Judges,
    tell: Callable[[SliceVerdict], None] = lambda verdict: None,
    by_model: bool = False,
) -> EvalSet:
    """Run the probes.

    Args:
        by_model: a model, not the rules, reads the answers.
        tell: called with the verdict of each slice that is asked no more items.

    Returns:
        The eval set without the items that were not needed.
    """
    if settings.budget == "full":
        run_probes(model, evalset, settings, log, judges)
        return evalset
    waiting = {
        name: sorted(part, key=lambda i: hash_order(f"turn {i.id}")) for name, part in by_slice(evalset.items).items()
    }
    asked: set[str] = set()
    turn = settings.first_items
    while waiting:
        part = list({i.id: i for items in waiting.values() for i in items[:turn] if i.id not in asked}.values())
        run_probes(model, evalset, settings, log, judges, part)
        asked |= {i.id for i in part}
        seen = replace(evalset, items=[i for i in evalset.items if i.id in asked])
        found = attribute(seen, log, settings, rule, np.random.default_rng(log.seed), by_model=by_model)
        judged = verdicts(seen, log, found, rule)
        sure = {v.slice for v in judged if settled(v.verdict, v.kind, v.p_verdict, v.missing, rule)}
        turn += settings.more_items
        done = {name for name, items in waiting.items() if all(i.id in asked for i in items)}
        for v in judged:
            if v.slice in waiting and v.slice in sure | done:
                tell(v)
        waiting = {name: items for name, items in waiting.items() if name not in sure | done}
    return replace(evalset, items=[i for i in evalset.items if i.id in asked])


def settled(verdict: str, kind: str | None, p: float, missing: Collection[str], rule: RuleConfig) -> bool:
    """Is a verdict of probability p sure enough to stop asking, and its kind known as far as the data can tell it?

    Where no kind explains the answers (`misfit`) asking continues: sixteen items may be odd by chance.
    """
    open_kind = kind == "unresolved" and not {"context", "ranked"} & set(missing)
    return p >= rule.stop and verdict != "insufficient" and not open_kind
