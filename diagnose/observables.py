"""What the probes of one slice say about methods: the observables that the recommendation is conditional on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diagnose.answers import AnswerLog
from diagnose.evidence import duel
from diagnose.grade import prefers
from diagnose.records import Attribution, EvalItem


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
    reach: float | None
    """Median z-score of `chosen` among the model's own samples."""
    best: float | None
    """Share of items whose best of sixteen samples the judge likes at least as well as `chosen`."""
    one: float | None
    """The same for one of the sixteen at random: the placebo."""
    base_success: float
    """Share of items with any lenient success, so that a reward has something to find."""
    rows: int
    """SFT rows at hand for the slice."""


def measure(items: list[EvalItem], found: Attribution, log: AnswerLog, rows: int) -> Measured:
    """Collect the observables that recommend conditions on."""
    items = [i for i in items if i.id in found.items]
    shaped = log.of("shaped")
    form = [i for i in items if (a := log.get("plain", i.id)).lenient and a.strict is False]
    lost = [i for i in items if log.get("plain", i.id).lenient is False]
    given = [a for i in lost for a in log.of_item("given", i.id) if a.lenient is not None]
    any_success = [any(a.lenient for p in ("plain", "sampled") for a in log.of_item(p, i.id)) for i in items]
    headroom = best_of(items, log)
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
        reach=reach(items, log),
        best=headroom[0] if headroom else None,
        one=headroom[1] if headroom else None,
        base_success=float(np.mean(any_success)) if any_success else 0.0,
        rows=rows,
    )


def reach(items: list[EvalItem], log: AnswerLog) -> float | None:
    """Median over items of (a(chosen) - mean a(own)) / sd, a = log p per token, sd pooled (EVIDENCE §1, Dcov)."""
    gaps, spreads = [], []
    for item in items:
        scores = {
            a.draw: a.logprob / max(a.tokens, 1) for a in log.of_item("margins", item.id) if a.logprob is not None
        }
        own = [value for draw, value in scores.items() if draw >= 2]
        if 0 in scores and len(own) >= 2:
            gaps.append(scores[0] - float(np.mean(own)))
            spreads.append(float(np.var(own, ddof=1)))
    return float(np.median(gaps) / max(np.sqrt(np.mean(spreads)), 1e-6)) if gaps else None


def best_of(items: list[EvalItem], log: AnswerLog) -> tuple[float, float] | None:
    """Best of the samples against a random one: how often each is liked (EVIDENCE §1, r9); None where nobody judged."""
    best, one = [], []
    for item in items:
        wins = _liked(item, log)
        if wins:
            best.append(any(wins))
            one.append(sum(wins) / len(wins))
    return (float(np.mean(best)), float(np.mean(one))) if best else None


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
            return [a.logprob > chosen.logprob for a in log.of_item("reward_best", item.id)] if chosen else []  # type: ignore[operator]
    found = [duel(item.id, log, "judged_best", k) for k in range(len(log.of_item("judged_best", item.id)) // 2)]
    return [won >= 0 for won in found if won is not None]


def _tally(values: Sequence[bool | None]) -> tuple[float, float]:
    read = [v for v in values if v is not None]
    return float(read.count(True)), float(read.count(False))
