"""Posterior draws of a slice's mixture → one verdict, its probability, and the waterfall that people read."""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy.stats import beta, norm

from diagnose.answers import AnswerLog
from diagnose.attribute import lost_to_reference
from diagnose.config import RuleConfig
from diagnose.evalset import EvalSet
from diagnose.records import CLASSES, KNOWLEDGE, Answer, Attribution, EvalItem, Rate, SliceVerdict

GAPS = ("format", "knowledge", "preference")
Array = np.ndarray


def verdicts(evalset: EvalSet, log: AnswerLog, found: Attribution, rule: RuleConfig) -> list[SliceVerdict]:
    """One SliceVerdict per slice, by name."""
    return [_verdict(name, [i for i in evalset.items if name in i.slices], log, found, rule) for name in evalset.slices]


def rate(k: int, n: int, level: float = 0.95) -> Rate:
    """A share with its Jeffreys interval; an empty one has no bounds."""
    if n == 0:
        return Rate(k=k, n=n, low=None, high=None)
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(beta.ppf(tail, k + 0.5, n - k + 0.5))
    high = 1.0 if k == n else float(beta.ppf(1 - tail, k + 0.5, n - k + 0.5))
    return Rate(k=k, n=n, low=low, high=high)


def _verdict(name: str, items: list[EvalItem], log: AnswerLog, found: Attribution, rule: RuleConfig) -> SliceVerdict:
    plain = {i.id: log.get("plain", i.id) for i in items}
    scored = [i for i in items if plain[i.id].strict is not None]
    draws = found.draws[name]
    verdict, kind, p_verdict, p_classes = _decide(draws, len(scored), found.missing[name], rule)
    judged = [not lost for i in scored if (lost := lost_to_reference(i, log)) is not None]
    return SliceVerdict(
        slice=name,
        n=len(scored),
        verdict=verdict,
        kind=kind,
        p_verdict=p_verdict,
        p_classes=p_classes,
        needs_items=_needs(draws, len(scored), rule) if verdict == "insufficient" else 0,
        mixture={c: _mean(draws[:, k]) for k, c in enumerate(CLASSES)},
        interval90={c: _interval(draws[:, k]) for k, c in enumerate(CLASSES) if not np.isnan(draws[0, k])},
        strict=rate(sum(bool(plain[i.id].strict) for i in scored), len(scored)),
        lenient=rate(sum(bool(plain[i.id].lenient) for i in scored), len(scored)),
        preferred=rate(sum(judged), len(judged)) if judged else None,
        waterfall=waterfall(scored, log, found.floors[name]),
        floors=found.floors[name],
        missing=found.missing[name],
        unscored=dict(Counter(a.reason or "unscored" for a in plain.values() if a.strict is None)),
        evidence=evidence(scored, log, found, verdict),
    )


def masses(draws: Array) -> dict[str, Array]:
    """Mass of each gap a user sees, per draw; the knowledge kinds are summed first."""
    parts = {c: np.nan_to_num(draws[:, k]) for k, c in enumerate(CLASSES)}
    return {
        "format": parts["format"],
        "knowledge": sum((parts[kind] for kind in KNOWLEDGE), np.zeros(len(draws))),
        "preference": parts["preference"],
    }


def _decide(
    draws: Array, n: int, missing: tuple[str, ...], rule: RuleConfig
) -> tuple[str, str | None, float, dict[str, float]]:
    """verdict, kind, P(verdict), P of each possible verdict (DESIGN §6)."""
    if n < rule.min_items:
        return "insufficient", None, 0.0, {}
    mass = masses(draws)
    stacked = np.array([mass[g] for g in GAPS])
    gap = stacked.sum(0)
    open_gap = gap > rule.tau
    top = stacked.argmax(0)
    p = {"none": float((~open_gap).mean())}
    p |= {g: float((open_gap & (top == k)).mean()) for k, g in enumerate(GAPS)}
    second = np.sort(stacked, 0)[-2]
    p_mixed = float((open_gap & (second >= rule.mixed_share * gap)).mean())
    if p_mixed >= rule.claim:
        return "mixed", None, p_mixed, p | {"mixed": p_mixed}
    best = max(p, key=lambda c: p[c])
    if p[best] < rule.claim:
        return "insufficient", None, p[best], p | {"mixed": p_mixed}
    kind = _kind(draws, missing, rule) if best == "knowledge" else None
    return best, kind, p[best], p | {"mixed": p_mixed}


def _kind(draws: Array, missing: tuple[str, ...], rule: RuleConfig) -> str:
    parts = np.nan_to_num(np.array([draws[:, CLASSES.index(kind)] for kind in KNOWLEDGE]))
    top = parts.argmax(0)
    shares = [float((top == k).mean()) for k in range(len(KNOWLEDGE))]
    best = int(np.argmax(shares))
    kind = KNOWLEDGE[best].removeprefix("knowledge_")
    blind = (kind == "absent" and "context" in missing) or (kind == "latent" and "ranked" in missing)
    return kind if shares[best] >= rule.claim and not blind else "unresolved"


def _needs(draws: Array, n: int, rule: RuleConfig) -> int:
    """Further items until the leading verdict would be claimed, if the shares stay as they are.

    Normal approximation: the standard error of the deciding difference shrinks with the square root of n.
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
    """Where success comes back along the ladder; placebo-corrected increments that sum to 1 (EVIDENCE §1).

    An item counts at the first rung that recovers it; the recoveries of a rung are reduced by those that its placebo
    makes on the same failures.
    """
    if not items:
        return {}
    left = dict.fromkeys((i.id for i in items), 1.0)
    out = {}
    steps = (
        ("strict", "plain", True, 0.0),
        ("lenient", "plain", False, 0.0),
        ("shaped", "shaped", False, floors.get("shaped_content", 0.0)),
        ("sampled", "sampled", False, floors.get("guess", 0.0)),
        ("given", "given", False, floors.get("given", 0.0)),
    )
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


def evidence(items: list[EvalItem], log: AnswerLog, found: Attribution, verdict: str) -> list[dict[str, str]]:
    """The items that speak most clearly for the verdict, with what each probe said."""
    wanted = [k for k, c in enumerate(CLASSES) if c.startswith(verdict)] or list(range(1, len(CLASSES)))
    telling = sorted(items, key=lambda i: (-sum(found.items[i.id][k] for k in wanted), i.id))[:2]
    out = []
    for item in telling:
        rows = [("prompt", item.turns[-1][1]), ("wanted", item.wanted or "")]
        for probe in ("plain", "shaped", "sampled", "given", "self"):
            rows += [(probe, a.text) for a in log.of_item(probe, item.id)[:1]]
        out += [{"item": item.id, "probe": probe, "text": text[:500]} for probe, text in rows]
    return out


def _mean(values: Array) -> float | None:
    return None if np.isnan(values).any() else float(values.mean())


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return float(low), float(high)
