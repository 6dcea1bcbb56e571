"""Posterior draws of a slice's mixture → one verdict, its probability, and the waterfall that people read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta, norm

from diagnose.config import RuleConfig
from diagnose.items.evalset import EvalSet, by_slice
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import lost_to_reference
from diagnose.probes.table import TABLE, Probe
from diagnose.records import (
    CLASSES,
    FORMAT,
    KNOWLEDGE,
    NO_ANSWER,
    Answer,
    Attribution,
    EvalItem,
    Kind,
    Rate,
    SliceVerdict,
    Verdict,
)
from diagnose.stats import rate
from diagnose.verdict.evidence import readable
from diagnose.verdict.readings import LABELS, content_missing, doubted
from diagnose.verdict.unread import remedy, unread

GAPS: tuple[Verdict, ...] = ("format", "knowledge", "preference")
MORE, MOST = 8, 1000
"""Fewest and most further items that are asked for (hand-set)."""
Array = np.ndarray
KINDS: tuple[Kind, ...] = ("latent", "absent", "skill")
"""In the order of KNOWLEDGE."""
Controls = dict[str, dict[str, Any]]
SHOWN = (Probe.PLAIN, *(e.probe for e in TABLE if e.recovers), Probe.SELF_PAIRS)
"""The probes whose answers are shown side by side for the most telling items."""


def verdicts(
    evalset: EvalSet, log: AnswerLog, found: Attribution, rule: RuleConfig, graders: Controls | None = None
) -> list[SliceVerdict]:
    """One SliceVerdict per slice, by name.

    Args:
        graders: grader kind → what it gets wrong (controls.grader_controls); None: nothing is known of it.
    """
    members = by_slice(evalset.items)
    return [_verdict(name, members[name], log, found, rule, graders or {}) for name in evalset.slices]


def _verdict(
    name: str, items: list[EvalItem], log: AnswerLog, found: Attribution, rule: RuleConfig, graders: Controls
) -> SliceVerdict:
    draws, suspect, why = found.draws[name], set(found.suspect[name]), unread(items, log)
    scored = [i for i in items if readable(i, log)]
    trusted = [i for i in scored if i.id not in suspect]
    lost = sum(n for reason, n in why.items() if reason in NO_ANSWER)
    parts = _Parts(name, items, trusted, len(suspect), lost, len(scored) + lost)
    decided = _decided(parts, log, found, rule, _rejects(items, graders))
    return SliceVerdict(
        slice=name,
        n=len(scored),
        **decided,
        mixture={c: _mean(draws[:, k]) for k, c in enumerate(CLASSES)},
        interval90={c: _interval(draws[:, k]) for k, c in enumerate(CLASSES) if not np.isnan(draws[0, k])},
        **_rates(scored, log),
        content=found.content.get(name),
        robust=_robust(items, log),
        without_demand=_without_demand(scored, log),
        waterfall=waterfall(scored, log, found.floors[name]),
        floors=found.floors[name],
        missing=found.missing[name],
        unread=why,
        remedy=remedy(why, [log.get(Probe.PLAIN, i.id) for i in items]),
        suspect=found.suspect[name],
        evidence=evidence(trusted, log, found, decided["verdict"], decided["kind"]),
    )


@dataclass(frozen=True)
class _Parts:
    """The items of a slice by what came of them."""

    name: str
    items: list[EvalItem]
    trusted: list[EvalItem]
    """Read, and with a reference that does not look wrong."""
    suspect: int
    lost: int
    """Without an answer."""
    asked: int


def _decided(
    parts: _Parts, log: AnswerLog, found: Attribution, rule: RuleConfig, rejects_gold: float
) -> dict[str, Any]:
    """Verdict and probabilities; where there is no verdict, how many more items or labels it needs."""
    n, draws, missing = len(parts.trusted), found.draws[parts.name], found.missing[parts.name]
    unsure = (parts.suspect + parts.lost) / max(parts.asked, 1)
    verdict, kind, p_verdict, p_classes = decide(draws, n, missing, rule, rejects_gold, unsure)
    mostly = parts.lost > 0.5 * parts.asked
    # Where no kind of gap explains the answers, a probability that supposes one of them says nothing.
    odd = verdict in ("knowledge", "mixed") and "misfit" in missing
    if mostly or odd:
        verdict, kind = "insufficient", None
    if odd:
        p_verdict, p_classes = 0.0, {}
    label = needs = 0
    # Where the items would suffice but for those that cannot be read, more of them would not help …
    enough = mostly or odd or (unsure > 0 and decide(draws, n, missing, rule, rejects_gold)[0] != "insufficient")
    if verdict == "insufficient" and not enough:
        # … nor where they would but for the reader; there labels do.
        if n >= rule.min_items:
            open_ones = [i for i in doubted(parts.items, log) if i.id not in found.labelled]
            label = min(LABELS, len(open_ones)) if turns_on_reader(open_ones, parts.name, n, found, rule) else 0
        needs = 0 if label else _needs(draws, n, p_verdict, rule)
    said = {"verdict": verdict, "kind": kind, "p_verdict": p_verdict, "p_classes": p_classes}
    return said | {"needs_items": needs, "label": label}


def _rejects(items: list[EvalItem], graders: Controls) -> float:
    """The share of right answers that the commonest grader of a slice rejects."""
    kinds = Counter(i.grader.kind for i in items)
    return (graders.get(kinds.most_common(1)[0][0], {}) if kinds else {}).get("rejects_gold") or 0.0


def _rates(scored: list[EvalItem], log: AnswerLog) -> dict[str, Any]:
    """Of the plain answers: in the right form, with the right content, at least as preferred as the reference."""
    plain = [log.get(Probe.PLAIN, i.id) for i in scored]
    graded = [answer for answer in plain if answer.strict is not None]
    content = [answer.lenient for answer in graded if answer.lenient is not None]
    judged = [not worse for i in scored if (worse := lost_to_reference(i, log)) is not None]
    return {
        "strict": rate(sum(bool(answer.strict) for answer in graded), len(graded)),
        "lenient": rate(sum(map(bool, content)), len(content)),
        "preferred": rate(sum(judged), len(judged)) if judged else None,
    }


def turns_on_reader(doubtful: list[EvalItem], name: str, n: int, found: Attribution, rule: RuleConfig) -> bool:
    """Could labels decide?

    Where the items whose content may be there or not outweigh the deciding difference (one that turns out the other way
    moves it by 2 / n), or where that difference follows the reader's sensitivity so much that no number of items helps.

    Args:
        doubtful: items of the slice whose plain answers nobody has labelled.
    """
    if name not in found.sensitivity or not doubtful:
        return False
    deciding, sensitivity = _deciding(found.draws[name], rule), found.sensitivity[name]
    missing = [content_missing(found.items[i.id]) for i in doubtful if i.id in found.items]
    unsure = sum(min(p, 1 - p) for p in missing)
    by_reader = abs(np.cov(deciding, sensitivity)[0, 1]) / max(float(sensitivity.std()), 1e-9)
    return abs(float(deciding.mean())) <= max(2 * unsure / n, float(norm.ppf(rule.claim)) * by_reader)


def _deciding(draws: Array, rule: RuleConfig) -> Array:
    """The difference on which the verdict rests: between the two largest gaps, or between all gaps and `tau`."""
    mass = np.sort(np.array(list(masses(draws).values())), 0)
    pairs: tuple[Array, Array] = (mass[-1] - mass[-2], mass.sum(0) - rule.tau)
    return min(pairs, key=lambda d: float(abs(d.mean()) / max(d.std(), 1e-9)))


def masses(draws: Array) -> dict[str, Array]:
    """Mass of each gap a user sees, per draw; the kinds of a gap are summed first."""
    parts = {c: np.nan_to_num(draws[:, k]) for k, c in enumerate(CLASSES)}
    return {
        "format": sum((parts[kind] for kind in FORMAT), np.zeros(len(draws))),
        "knowledge": sum((parts[kind] for kind in KNOWLEDGE), np.zeros(len(draws))),
        "preference": parts["preference"],
    }


def _robust(items: list[EvalItem], log: AnswerLog) -> Rate | None:
    """Of the paraphrases asked: how many are read as their plain prompt was."""
    same = [
        a.strict == log.get(Probe.PLAIN, i.id).strict
        for i in items
        for a in log.of_item(Probe.PARAPHRASED, i.id)
        if a.strict is not None
    ]
    return rate(sum(same), len(same)) if same else None


def _without_demand(items: list[EvalItem], log: AnswerLog) -> Rate | None:
    """Of the failures with missing content that were asked without the format demand: how many then have it."""
    failed = [i for i in items if log.get(Probe.PLAIN, i.id).lenient is False]
    read = [a.lenient for i in failed for a in log.of_item(Probe.FREE, i.id) if a.lenient is not None]
    return rate(sum(map(bool, read)), len(read)) if read else None


def decide(
    draws: Array, n: int, missing: tuple[str, ...], rule: RuleConfig, error: float = 0.0, unsure: float = 0.0
) -> tuple[Verdict, Kind | None, float, dict[str, float]]:
    """Verdict, kind, P(verdict), P of each possible verdict.

    Args:
        n: items behind the draws.
        error: the grader's; a gap within it is none.
        unsure: share of the slice's items of which it is not known whether they are right: their reference is
            suspect, or they were cut off. There is no gap only if there were none with all of them counted as one,
            and there is one only if without them.
    """
    if n < rule.min_items:
        return "insufficient", None, 0.0, {}
    mass = masses(draws)
    stacked = np.array([mass[g] for g in GAPS])
    gap = stacked.sum(0)
    least = gap * (1 - unsure)
    open_gap = least > max(rule.tau, error)
    none = least + unsure <= max(rule.tau, error)
    top = stacked.argmax(0)
    said = np.where(open_gap, top + 1, np.where(none, 0, 1 + len(GAPS)))
    believed = _believed(said, 2 + len(GAPS) if unsure else 1 + len(GAPS))
    p: dict[Verdict, float] = dict(zip(("none", *GAPS), believed, strict=False))
    second = np.sort(stacked, 0)[-2]
    p_mixed = _believed(open_gap & (second >= rule.mixed_share * gap), 2)[1]
    every = {**{str(c): share for c, share in p.items()}, "mixed": p_mixed}
    if p_mixed >= rule.claim:
        return "mixed", None, p_mixed, every
    best = max(p, key=lambda c: p[c])
    if p[best] < rule.claim:
        return "insufficient", None, p[best], every
    return best, _kind(best, draws, missing, rule), p[best], every


def _believed(said: Array, outcomes: int) -> list[float]:
    """Probabilities of outcomes 0, 1, … from draws of them: no sharper than their number allows.

    Half a draw is added to each outcome (Jeffreys): 400 draws that agree have not shown certainty.
    """
    shares = (np.bincount(said.astype(int), minlength=outcomes) + 0.5) / (len(said) + 0.5 * outcomes)
    return [float(p) for p in shares]


def _kind(verdict: Verdict, draws: Array, missing: tuple[str, ...], rule: RuleConfig) -> Kind | None:
    match verdict:
        case "format" if "task" in missing:
            return "unstated"
        case "format":
            plain, suppressed = (np.nan_to_num(draws[:, CLASSES.index(kind)]) for kind in FORMAT)
            return "suppressed" if _believed(suppressed > plain, 2)[1] >= rule.claim else None
        case "knowledge":
            return _kind_of_knowledge(draws, missing, rule)
    return None


def _kind_of_knowledge(draws: Array, missing: tuple[str, ...], rule: RuleConfig) -> Kind:
    parts = np.nan_to_num(np.array([draws[:, CLASSES.index(kind)] for kind in KNOWLEDGE]))
    top = parts.argmax(0)
    shares = _believed(top, len(KNOWLEDGE))
    best = int(np.argmax(shares))
    kind = KINDS[best]
    stored = {"ranked", "samples"} <= set(missing)  # nothing asked whether what is not said is stored
    undetermined = (kind in ("latent", "absent") and stored) or (
        kind in ("absent", "skill") and {"context", "reading"} & set(missing)
    )
    return kind if shares[best] >= rule.claim and not undetermined else "unresolved"


def _needs(draws: Array, n: int, p: float, rule: RuleConfig) -> int:
    """Further items until the leading verdict would be claimed, if the shares stay as they are.

    Between gaps by a normal approximation: the standard error of the deciding difference shrinks with the square root
    of n; z is taken to be .1 or more (hand-set).
    """
    if n < rule.min_items:
        return rule.min_items - n
    gap = np.sum(list(masses(draws).values()), axis=0)
    if (gap < rule.tau).mean() > 0.5:
        return _needs_to_be_healthy(gap, n, rule)
    deciding = _deciding(draws, rule)
    z = abs(float(deciding.mean())) / max(float(deciding.std()), 1e-9)
    factor = (float(norm.ppf(rule.claim)) / max(z, float(norm.ppf(p)), 0.1)) ** 2
    return int(min(max(np.ceil(n * (factor - 1)), MORE), MOST))


def _needs_to_be_healthy(gap: Array, n: int, rule: RuleConfig) -> int:
    """The same for a gap below tau, whose draws are skewed: taken for a Beta variable, whose failures grow with n."""
    mean = float(gap.mean())
    size = mean * (1 - mean) / max(float(gap.var()), 1e-9) - 1
    prior = min(mean * size, rule.kappa)
    more = np.arange(MORE, MOST + 1)
    grown = (n + more) / n
    sure = beta.cdf(rule.tau, prior + (mean * size - prior) * grown, (1 - mean) * size * grown) >= rule.claim
    return int(more[sure.argmax()]) if sure.any() else MOST


def waterfall(items: list[EvalItem], log: AnswerLog, floors: dict[str, float]) -> dict[str, float]:
    """What each probe recovers, corrected by its control: increments that sum to 1.

    An item counts at the first probe that recovers it; the recoveries of a probe are reduced by those of its
    control on the same failures.
    """
    if not items:
        return {}
    left = dict.fromkeys((i.id for i in items), 1.0)
    out = {}
    steps: list[tuple[str, Probe, bool, float]] = [
        ("strict", Probe.PLAIN, True, 0.0),
        ("lenient", Probe.PLAIN, False, 0.0),
        *((e.probe, e.probe, False, floors.get(e.step[1], 0.0)) for e in TABLE if e.step),
    ]
    for name, probe, strict, g in steps:
        gained = 0.0
        for item in left:
            success = _success(log.of_item(probe, item), strict, g)
            gained += left[item] * success
            left[item] *= 1 - success
        out[name] = gained / len(items)
    return out | {"rest": max(0.0, 1.0 - sum(out.values()))}


def _success(answers: list[Answer], strict: bool, g: float) -> float:
    """Any success in these answers, less what as many lucky guesses would give."""
    read = [bool(a.strict if strict else a.lenient) for a in answers if a.strict is not None]
    if not read or not any(read):
        return 0.0
    return 1.0 - (1 - (1 - g) ** len(read)) if g else 1.0


def evidence(
    items: list[EvalItem], log: AnswerLog, found: Attribution, verdict: str, kind: str | None
) -> list[dict[str, str]]:
    """The items that speak most clearly for the verdict and its kind, with what each probe said and how it was read."""
    name = f"{verdict}_{kind}" if f"{verdict}_{kind}" in CLASSES else verdict
    wanted = [k for k, c in enumerate(CLASSES) if c.startswith(name)] or list(range(1, len(CLASSES)))
    telling = sorted(items, key=lambda i: (-sum(found.items[i.id][k] for k in wanted), i.id))[:2]
    out = []
    for item in telling:
        rows = [("prompt", item.turns[-1][1], ""), ("wanted", item.wanted or "", "")]
        for probe in SHOWN:
            rows += [(probe, a.text, _read(a)) for a in log.of_item(probe, item.id)[:1]]
        out += [{"item": item.id, "probe": probe, "text": text[:500], "read": read} for probe, text, read in rows]
    return out


def _read(a: Answer) -> str:
    """How the grader read it; empty where nobody did."""
    return "" if a.strict is None else "strict" if a.strict else "lenient" if a.lenient else "wrong"


def _mean(values: Array) -> float | None:
    return None if np.isnan(values).any() else float(values.mean())


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return float(low), float(high)
