"""What the probes of one slice say about methods: the observables that the recommendation is conditional on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diagnose.grading.grade import prefers
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import duel
from diagnose.records import Attribution, EvalItem

SAME = 0.01
"""Nats per token that a text may differ by when it is scored twice in other batches, and nobody would care about."""


@dataclass(frozen=True)
class Measured:
    """What the probes of one slice say about methods."""

    shaped: tuple[float, float]
    """Successes and failures of the exemplars on the format gap, placebo-corrected."""
    shaped_lost: tuple[float, float]
    """The same where the content was missing."""
    forced: tuple[float, float]
    """Successes and failures of constrained decoding on the format gap, and where the content was missing."""
    forced_lost: tuple[float, float]
    given: tuple[float, float]
    constrainable: bool
    has_context: bool
    has_options: bool
    judged: bool
    """Do items name a judge?"""
    pairs: bool
    near: tuple[float, float]
    """Items whose `chosen` is about as likely as the model's own samples, or more, and the others with pairs."""
    best: tuple[float, float]
    """Items of whose samples the judge likes one at least as well as `chosen`, and the others that were judged."""
    one: float | None
    """The same of one sample at random, as a share: the placebo."""
    base_success: float | None
    """Share of items with any lenient success, so that a reward has something to find; None: content was not read."""
    rows: int
    """SFT rows at hand for the slice."""


def measure(items: list[EvalItem], found: Attribution, log: AnswerLog, rows: int, reach: float) -> Measured:
    """Collect the observables that recommend conditions on. `reach` is RuleConfig.reach."""
    items = [i for i in items if i.id in found.items]
    shaped = log.of("shaped")
    form = [i for i in items if (a := log.get("plain", i.id)).lenient and a.strict is False]
    lost = [i for i in items if log.get("plain", i.id).lenient is False]
    given = [a for i in lost for a in log.of_item("given", i.id) if a.lenient is not None]
    said = [[a.lenient for p in ("plain", "sampled") for a in log.of_item(p, i.id)] for i in items]
    any_success = [any(read) for read in said if any(r is not None for r in read)]
    liked = [wins for i in items if (wins := _liked(i, log))]
    return Measured(
        shaped=_tally([a.strict for i in form for a in shaped.get(i.id, [])]),
        shaped_lost=_tally([a.lenient for i in lost for a in shaped.get(i.id, [])]),
        forced=_tally([a.strict for i in form for a in log.of_item("constrained", i.id)]),
        forced_lost=_tally([a.lenient for i in lost for a in log.of_item("constrained", i.id)]),
        given=_tally([a.lenient for a in given]),
        constrainable=any(i.grader["kind"] == "choice" or i.grader.get("schema") for i in items),
        has_context=any(i.context for i in items),
        has_options=any(i.options for i in items),
        judged=any(i.judge for i in items),
        pairs=any(i.judge or (i.chosen and i.rejected) for i in items),
        near=_tally([in_reach(i, log, reach) for i in items]),
        best=_tally([any(wins) for wins in liked]),
        one=float(np.mean([np.mean(wins) for wins in liked])) if liked else None,
        base_success=float(np.mean(any_success)) if any_success else None,
        rows=rows,
    )


def in_reach(item: EvalItem, log: AnswerLog, cut: float) -> bool | None:
    """Is (a(chosen) - mean a(own)) / sd a(own) at least `cut`? a = log p per token; own: the model's own samples.

    The slice's median of this z-score (EVIDENCE §1, Dcov) is at least `cut` iff it is for half of the items: counted
    item by item, no single odd sample decides, and the count says how sure it is. None without pairs or with fewer than
    two samples.
    """
    scores = {a.draw: a.logprob / max(a.tokens, 1) for a in log.of_item("margins", item.id) if a.logprob is not None}
    own = [value for draw, value in scores.items() if draw >= 2]
    if 0 not in scores or len(own) < 2:
        return None
    return scores[0] - float(np.mean(own)) >= cut * float(np.std(own, ddof=1)) - SAME


def _liked(item: EvalItem, log: AnswerLog) -> list[bool]:
    """Per sample of `best`: right, and liked as the reference is."""
    samples = log.of_item("best", item.id)
    if item.judge is None or not samples:
        return []
    match item.judge["kind"]:
        case "rule":
            return [bool(prefers(item, a.text)) and a.strict is not False for a in samples]
        case "reward_model":
            chosen = log.find("reward", item.id, 0)
            if chosen is None or chosen.logprob is None:
                return []
            return [a.logprob >= chosen.logprob for a in log.of_item("reward_best", item.id) if a.logprob is not None]
    found = [duel(item.id, log, "judged_best", k) for k in range(len(log.of_item("judged_best", item.id)) // 2)]
    return [won >= 0 for won in found if won is not None]


def _tally(values: Sequence[bool | None]) -> tuple[float, float]:
    read = [v for v in values if v is not None]
    return float(read.count(True)), float(read.count(False))
