"""What the probes of one slice say about methods: the observables that the recommendation is conditional on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diagnose.grading.grade import prefers
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import duels
from diagnose.probes.table import Probe, Role
from diagnose.records import Attribution, EvalItem

SAME = 0.01
"""Nats per token by which a score may differ from batch to batch without meaning anything (hand-set)."""


Tally = tuple[float, float]
"""Successes and failures."""


@dataclass(frozen=True)
class Measured:
    """What the probes of one slice say about methods."""

    few_shot: Tally
    """Few-shot examples on the format gap."""
    few_shot_suppressed: Tally
    """Few-shot examples where the format demand cost the content."""
    few_shot_missing: Tally
    """Few-shot examples where the content was missing in any case."""
    constrained: Tally
    """Constrained decoding on the format gap."""
    constrained_suppressed: Tally
    """Constrained decoding where the format demand cost the content."""
    constrained_missing: Tally
    """Constrained decoding where the content was missing in any case."""
    oracle_context: Tally
    """The oracle context where the content was missing in any case."""
    free: Tally
    """Of the failures with missing content: those that have it without the format demand, and the others."""
    constrainable: bool
    has_context: bool
    has_options: bool
    judged: bool
    """Do items name a judge?"""
    pairs: bool
    near: Tally
    """Items whose `chosen` is about as likely as the model's own samples, or more, and the others with pairs."""
    best_of_n: Tally
    """Items with a sample that the judge prefers at least as much as `chosen`, and the others that were judged."""
    one: float | None
    """The same of one sample at random, as a share: the control of best-of-n."""
    base_success: float | None
    """Share of items with any lenient success, so that a reward has something to find; None: content was not read."""
    rows: int
    """SFT rows available for the slice."""


def measure(items: list[EvalItem], found: Attribution, log: AnswerLog, rows: int, reach: float) -> Measured:
    """Collect the observables that recommend conditions on. `reach` is RuleConfig.reach."""
    items = [i for i in items if i.id in found.items]
    misformatted = [i for i in items if (a := log.get(Probe.PLAIN, i.id)).lenient and a.strict is False]
    failed = [i for i in items if log.get(Probe.PLAIN, i.id).lenient is False]
    suppressed = [i for i in failed if any(a.lenient for a in log.of_item(Probe.FREE, i.id))]
    missing = [i for i in failed if not any(a.lenient for a in log.of_item(Probe.FREE, i.id))]
    read = [[a.lenient for p in (Probe.PLAIN, Probe.SAMPLES) for a in log.of_item(p, i.id)] for i in items]
    any_success = [any(one) for one in read if any(r is not None for r in one)]
    preferred = [wins for i in items if (wins := _preferred(i, log))]

    def strict(probe: Probe, part: list[EvalItem]) -> Tally:
        return _tally([a.strict for i in part for a in log.of_item(probe, i.id)])

    def lenient(probe: Probe, part: list[EvalItem]) -> Tally:
        return _tally([a.lenient for i in part for a in log.of_item(probe, i.id)])

    return Measured(
        few_shot=strict(Probe.FEW_SHOT, misformatted),
        few_shot_suppressed=strict(Probe.FEW_SHOT, suppressed),
        few_shot_missing=lenient(Probe.FEW_SHOT, missing),
        constrained=strict(Probe.CONSTRAINED, misformatted),
        constrained_suppressed=strict(Probe.CONSTRAINED, suppressed),
        constrained_missing=lenient(Probe.CONSTRAINED, missing),
        oracle_context=lenient(Probe.ORACLE_CONTEXT, missing),
        free=lenient(Probe.FREE, failed),
        constrainable=any(i.grader.kind == "choice" or i.grader.schema for i in items),
        has_context=any(i.context for i in items),
        has_options=any(i.options for i in items),
        judged=any(i.judge for i in items),
        pairs=any(i.judge or (i.chosen and i.rejected) for i in items),
        near=_tally([in_reach(i, log, reach) for i in items]),
        best_of_n=_tally([any(wins) for wins in preferred]),
        one=float(np.mean([np.mean(wins) for wins in preferred])) if preferred else None,
        base_success=float(np.mean(any_success)) if any_success else None,
        rows=rows,
    )


def in_reach(item: EvalItem, log: AnswerLog, cut: float) -> bool | None:
    """Is (a(chosen) - mean a(own)) / sd a(own) at least `cut`? a = log p per token; own: the model's own samples.

    The slice's median of this z-score is at least `cut` iff it is for half of the items: counted
    item by item, no single odd sample decides, and the count says how sure it is. None without pairs or with fewer than
    two samples.
    """
    chosen, own = (
        [a.logprob / max(a.tokens, 1) for a in log.of_item(Probe.MARGINS, item.id, role) if a.logprob is not None]
        for role in (Role.CHOSEN, Role.OWN)
    )
    if not chosen or len(own) < 2:
        return None
    return chosen[0] - float(np.mean(own)) >= cut * float(np.std(own, ddof=1)) - SAME


def _preferred(item: EvalItem, log: AnswerLog) -> list[bool]:
    """Per sample of best-of-n: right, and at least as preferred as the reference."""
    samples = log.of_item(Probe.BEST_OF_N, item.id)
    if item.judge is None or not samples:
        return []
    match item.judge.kind:
        case "rule":
            return [bool(prefers(item, a.text)) and a.strict is not False for a in samples]
        case "reward_model":
            chosen = log.find(Probe.REWARD, item.id, Role.CHOSEN)
            scored = [a.logprob for a in log.of_item(Probe.REWARD_BEST_OF_N, item.id) if a.logprob is not None]
            return [] if chosen is None or chosen.logprob is None else [score >= chosen.logprob for score in scored]
    return [won >= 0 for won in duels(item.id, log, Probe.JUDGED_BEST_OF_N)]


def _tally(values: Sequence[bool | None]) -> Tally:
    read = [v for v in values if v is not None]
    return float(read.count(True)), float(read.count(False))
