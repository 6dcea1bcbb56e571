"""Posterior draws of a slice's mixture → one verdict, its probability, and the waterfall that people read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from scipy.stats import norm

from diagnose.config import RuleConfig
from diagnose.items.evalset import EvalSet, by_slice
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import lost_to_reference
from diagnose.probes.table import TABLE, Probe
from diagnose.records import CLASSES, KNOWLEDGE, Answer, Attribution, EvalItem, Kind, Rate, SliceVerdict, Verdict
from diagnose.stats import corrected, rate
from diagnose.verdict.evidence import readable

GAPS: tuple[Verdict, ...] = ("format", "knowledge", "preference")
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
    plain = {i.id: log.get(Probe.PLAIN, i.id) for i in items}
    suspect = set(found.suspect[name])
    scored = [i for i in items if readable(i, log)]
    trusted = [i for i in scored if i.id not in suspect]
    cut_off = [i for i in trusted if plain[i.id].reason == "truncated"]
    graded = [i for i in scored if plain[i.id].strict is not None]
    draws = found.draws[name]
    kinds = Counter(i.grader.kind for i in items)
    grader = graders.get(kinds.most_common(1)[0][0], {}) if kinds else {}
    error = grader.get("rejects_gold") or 0.0
    unsure = (len(suspect) + len(cut_off)) / max(len(scored), 1)
    verdict, kind, p_verdict, p_classes = decide(draws, len(trusted), found.missing[name], rule, error, unsure)
    # Where the items would suffice but for those that cannot be read, more of them would not help.
    enough = unsure and decide(draws, len(trusted), found.missing[name], rule, error)[0] != "insufficient"
    content = [plain[i.id].lenient for i in graded if plain[i.id].lenient is not None]
    lenient = rate(sum(map(bool, content)), len(content))
    judged = [not lost for i in scored if (lost := lost_to_reference(i, log)) is not None]
    return SliceVerdict(
        slice=name,
        n=len(scored),
        verdict=verdict,
        kind=kind,
        p_verdict=p_verdict,
        p_classes=p_classes,
        needs_items=_needs(draws, len(trusted), rule) if verdict == "insufficient" and not enough else 0,
        mixture={c: _mean(draws[:, k]) for k, c in enumerate(CLASSES)},
        interval90={c: _interval(draws[:, k]) for k, c in enumerate(CLASSES) if not np.isnan(draws[0, k])},
        strict=rate(sum(bool(plain[i.id].strict) for i in graded), len(graded)),
        lenient=lenient,
        lenient_corrected=corrected(lenient, grader, rule.grader_trust),
        preferred=rate(sum(judged), len(judged)) if judged else None,
        robust=_robust(items, log),
        waterfall=waterfall(scored, log, found.floors[name]),
        floors=found.floors[name],
        missing=found.missing[name],
        unread=unread(items, log),
        suspect=found.suspect[name],
        evidence=evidence(trusted, log, found, verdict, kind),
    )


def unread(items: list[EvalItem], log: AnswerLog) -> dict[str, int]:
    """Why plain answers, or their content, could not be read."""
    plain = [(i, log.get(Probe.PLAIN, i.id)) for i in items]
    return dict(Counter(a.reason or "unscored" for i, a in plain if not readable(i, log) or a.reason == "truncated"))


def masses(draws: Array) -> dict[str, Array]:
    """Mass of each gap a user sees, per draw; the knowledge kinds are summed first."""
    parts = {c: np.nan_to_num(draws[:, k]) for k, c in enumerate(CLASSES)}
    return {
        "format": parts["format"],
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
    believed = _believed(said, 2 + len(GAPS) if unsure else 1 + len(GAPS), rule)
    p: dict[Verdict, float] = dict(zip(("none", *GAPS), believed, strict=False))
    second = np.sort(stacked, 0)[-2]
    p_mixed = _believed(open_gap & (second >= rule.mixed_share * gap), 2, rule)[1]
    every = {**{str(c): share for c, share in p.items()}, "mixed": p_mixed}
    if p_mixed >= rule.claim:
        return "mixed", None, p_mixed, every
    best = max(p, key=lambda c: p[c])
    if p[best] < rule.claim:
        return "insufficient", None, p[best], every
    kind = _kind(draws, missing, rule) if best == "knowledge" else None
    return best, kind, p[best], every


def _believed(said: Array, outcomes: int, rule: RuleConfig) -> list[float]:
    """Probabilities of outcomes 0, 1, … from draws of them: no sharper than their number and the temperature allow.

    Half a draw is added to each outcome (Jeffreys): 400 draws that agree have not shown certainty.
    """
    shares = (np.bincount(said.astype(int), minlength=outcomes) + 0.5) / (len(said) + 0.5 * outcomes)
    cooled = shares ** (1 / rule.temperature)
    return [float(p) for p in cooled / cooled.sum()]


def _kind(draws: Array, missing: tuple[str, ...], rule: RuleConfig) -> Kind:
    parts = np.nan_to_num(np.array([draws[:, CLASSES.index(kind)] for kind in KNOWLEDGE]))
    top = parts.argmax(0)
    shares = _believed(top, len(KNOWLEDGE), rule)
    best = int(np.argmax(shares))
    kind = KINDS[best]
    undetermined = (
        "misfit" in missing or (kind == "absent" and "context" in missing) or (kind == "latent" and "ranked" in missing)
    )
    return kind if shares[best] >= rule.claim and not undetermined else "unresolved"


def _needs(draws: Array, n: int, rule: RuleConfig) -> int:
    """Further items until the leading verdict would be claimed, if the shares stay as they are.

    Normal approximation: the standard error of the deciding difference shrinks with the square root of n. The
    result is kept between 8 and 1,000, z at .1 or more (all hand-set).
    """
    if n < rule.min_items:
        return rule.min_items - n
    mass = np.sort(np.array([m for m in masses(draws).values()]), 0)
    gap = mass.sum(0)
    deciding = min((mass[-1] - mass[-2], gap - rule.tau), key=lambda d: abs(d.mean()) / max(d.std(), 1e-9))
    z = abs(float(deciding.mean())) / max(float(deciding.std()), 1e-9)
    wanted = float(norm.ppf(rule.claim))
    factor = (wanted / max(z, 0.1)) ** 2
    return int(min(max(np.ceil(n * (factor - 1)), 8), 1000))


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
