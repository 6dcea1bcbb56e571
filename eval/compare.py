"""Paired answers → deltas with intervals, exact tests, equivalence tests of the guard slices, a verdict per run."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import norm, permutation_test, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from diagnose.grading.words import words_of
from diagnose.probes.table import Probe
from diagnose.records import EvalItem
from diagnose.stats import holm
from eval.config import GateConfig
from eval.measure import ARM_PROBE, Measurement
from eval.records import Change, Outcome, Role, RunResult, SliceDelta
from train.records import TrainingRun

ALPHA = 0.05
"""Two-sided level after Holm's correction (convention)."""
FLIPS = 10_000
"""Draws of the clustered sign-flip test (hand-set; standard error .002 at p = .05)."""
TIE = 0.02
"""Methods whose success rates differ by less count as tied (hand-set)."""


def compare_run(
    record: TrainingRun,
    name: str,
    base: Measurement,
    tuned: Measurement,
    gate: GateConfig,
    guard: list[str],
    arms: list[str],
) -> RunResult:
    """Compare one run with the base, slice by slice.

    Args:
        record: the run's run.json.
        guard: slices that must not change.

    Items that the run was trained on, or that share their source, are not compared.
    """
    base, tuned = base.without(record.excluded_items), tuned.without(record.excluded_items)
    slices = sorted({s for i in base.items.values() for s in i.slices})
    named = {s for rows in record.data.values() for s in rows["rows"] if s}
    targets = (named & set(slices) or set(slices)) - set(guard)
    raw = [_slice(s, base, tuned, gate, _role(s, targets, guard, gate.critical), arms, record) for s in slices]
    deltas = _holm(raw)
    pooled = _pooled_guard(base, tuned, guard, gate.margin)
    verdict, reason = _verdict(deltas, pooled, gate)
    realised = {d.slice: {"predicted": d.predicted, "realised": d.delta} for d in deltas if d.predicted}
    return RunResult(
        run=name,
        method=record.method,
        seed=record.seed or 0,
        slices=deltas,
        guard=pooled,
        predicted_lift=realised,
        verdict=verdict,
        reason=reason,
    )


def pairs(base: Measurement, tuned: Measurement, items: list[EvalItem]) -> tuple[list[EvalItem], np.ndarray]:
    """Items scored both before and after training, and their successes as [items, 2]."""
    both = [(i, base.success(i.id), tuned.success(i.id)) for i in items]
    kept = [(i, b, a) for i, b, a in both if b is not None and a is not None]
    return [i for i, _, _ in kept], np.array([[b, a] for _, b, a in kept], float).reshape(len(kept), 2)


def paired_interval(success: np.ndarray, level: float, clusters: list[str] | None = None) -> tuple[float, float]:
    """Interval of mean(after) - mean(before).

    Newcombe's (1998, method 10) hybrid score interval for paired proportions; with clusters, a t interval over
    cluster sums (Miller 2024, arXiv 2411.00640).
    """
    if clusters is not None:
        return _clustered_interval(success, level, clusters)
    n = len(success)
    before, after = success.sum(0)
    p1, p2 = after / n, before / n
    l1, u1 = proportion_confint(after, n, 1 - level, "wilson")
    l2, u2 = proportion_confint(before, n, 1 - level, "wilson")
    both = float((success.min(1) == 1).sum())
    a, b, c, d = both, after - both, before - both, n - after - before + both
    under = (a + b) * (c + d) * (a + c) * (b + d)
    top = a * d - b * c
    phi = 0.0 if under == 0 else (max(top - n / 2, 0.0) if top > 0 else top) / np.sqrt(under)
    delta = p1 - p2
    low = delta - np.sqrt(max((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2, 0.0))
    high = delta + np.sqrt(max((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2, 0.0))
    return float(low), float(high)


def paired_p(success: np.ndarray, clusters: list[str] | None = None) -> float:
    """Exact McNemar test; with clusters, a sign-flip test of the cluster sums."""
    diff = success[:, 1] - success[:, 0]
    if clusters is None:
        b, c = int((diff > 0).sum()), int((diff < 0).sum())
        return float(mcnemar([[0, b], [c, 0]], exact=True).pvalue)
    sums = _sums(diff, clusters)
    if len(sums) < 2:
        return 1.0
    settings = {"permutation_type": "samples", "n_resamples": FLIPS, "rng": 0, "vectorized": True}
    found = permutation_test((sums,), lambda x, axis: x.sum(axis), **settings)
    return float(found.pvalue)


def minimum_detectable(success: np.ndarray, n: int) -> float:
    """Smallest true delta detectable with power .8 at two-sided .05: 2.8 sqrt(d / n), d the discordant share.

    d is at least 1 / n, so that the result is never 0.

    Args:
        n: independent units: items, or clusters if there are any.
    """
    discordant = max(float((success[:, 0] != success[:, 1]).mean()), 1 / n)
    return float((norm.ppf(0.975) + norm.ppf(0.8)) * np.sqrt(discordant / n))


def _clustered_interval(success: np.ndarray, level: float, clusters: list[str]) -> tuple[float, float]:
    """At least as wide as with one item per cluster, because the t interval has zero width if no cluster changes."""
    diff = success[:, 1] - success[:, 0]
    sums = _sums(diff - diff.mean(), clusters)
    k, n = len(sums), len(diff)
    if k < 2:
        return -1.0, 1.0
    se = float(np.sqrt(k / (k - 1) * (sums**2).sum()) / n)
    width = float(t.ppf(0.5 + level / 2, k - 1)) * se
    first = success[[clusters.index(c) for c in dict.fromkeys(clusters)]]
    low, high = paired_interval(first, level)
    narrow = (first[:, 1] - first[:, 0]).mean()
    mean = float(diff.mean())
    return max(min(mean - width, mean + low - narrow), -1.0), min(max(mean + width, mean + high - narrow), 1.0)


def _sums(diff: np.ndarray, clusters: list[str]) -> np.ndarray:
    by: dict[str, float] = defaultdict(float)
    for value, cluster in zip(diff, clusters, strict=True):
        by[cluster] += float(value)
    return np.array(list(by.values()))


def clusters_of(items: list[EvalItem]) -> list[str] | None:
    """The cluster of each item; None where no item has one."""
    return [i.cluster or i.id for i in items] if any(i.cluster for i in items) else None


def _role(name: str, targets: set[str], guard: list[str], critical: list[str]) -> Role:
    if name in critical:
        return "critical"
    return "guard" if name in guard else "target" if name in targets else "other"


def _slice(
    name: str,
    base: Measurement,
    tuned: Measurement,
    gate: GateConfig,
    role: Role,
    arms: list[str],
    record: TrainingRun,
) -> SliceDelta:
    members = [i for i in base.items.values() if name in i.slices]
    items, success = pairs(base, tuned, members)
    n, clusters = len(items), clusters_of(items)
    diff = success[:, 1] - success[:, 0]
    low, high = paired_interval(success, 0.95, clusters) if n else (None, None)
    fixed = [i.id for i, d in zip(items, diff, strict=True) if d > 0]
    return SliceDelta(
        slice=name,
        n=n,
        measure="preferred" if any(i.judge for i in items) else "strict",
        before=_share([bool(b) for b in success[:, 0]]),
        after=_share([bool(a) for a in success[:, 1]]),
        delta=float(diff.mean()) if n else None,
        low=low,
        high=high,
        p=paired_p(success, clusters) if n else None,
        p_holm=None,
        mde=minimum_detectable(success, len(set(clusters)) if clusters else n) if n else None,
        fixed=fixed,
        broken=[i.id for i, d in zip(items, diff, strict=True) if d < 0],
        strict=_both(base, tuned, lambda m: [m.reading(i.id, "strict") for i in items]),
        lenient=_both(base, tuned, lambda m: [m.reading(i.id, "lenient") for i in items]),
        accepted=_both(base, tuned, lambda m: [x for i in items for x in m.accepted(i.id)]),
        arms={
            arm: both
            for arm in arms
            if (both := _both(base, tuned, lambda m, p=ARM_PROBE[arm]: [m.success(i.id, p) for i in items]))["before"]
            is not None
        },
        reversion=_reversion(fixed, base, tuned),
        confidence_when_wrong={"before": _overconfidence(base, items), "after": _overconfidence(tuned, items)},
        predicted=record.predicted_lift.get(name),
        role=role,
        verdict=_slice_verdict(success, low, high, gate.margin, clusters),
    )


def _slice_verdict(
    success: np.ndarray, low: float | None, high: float | None, margin: float, clusters: list[str] | None
) -> Change:
    if low is None or high is None:
        return "tie"
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    lower, upper = paired_interval(success, 0.90, clusters)
    return "equivalent" if -margin < lower and upper < margin else "tie"


def _holm(deltas: list[SliceDelta]) -> list[SliceDelta]:
    """Holm's correction over the slices of one run; a change that is no longer significant is a tie."""
    tested = {d.slice: d.p for d in deltas if d.p is not None}
    by_slice = dict(zip(tested, holm(list(tested.values())), strict=True))
    out = []
    for d in deltas:
        p = by_slice.get(d.slice)
        lost = d.verdict in ("better", "worse") and p is not None and p >= ALPHA
        out.append(replace(d, p_holm=p, verdict="tie" if lost else d.verdict))
    return out


def _pooled_guard(base: Measurement, tuned: Measurement, guard: list[str], margin: float) -> dict[str, Any]:
    """All guard items pooled: two one-sided tests (TOST) at .05, by the 90 % interval."""
    members = [i for i in base.items.values() if set(i.slices) & set(guard)]
    items, success = pairs(base, tuned, members)
    if not items:
        return {"slices": guard, "n": 0, "delta": None, "low": None, "high": None, "equivalent": None}
    low, high = paired_interval(success, 0.90, clusters_of(items))
    delta = float((success[:, 1] - success[:, 0]).mean())
    same = -margin < low and high < margin
    return {"slices": guard, "n": len(items), "delta": delta, "low": low, "high": high, "equivalent": bool(same)}


def _verdict(deltas: list[SliceDelta], guard: dict[str, Any], gate: GateConfig) -> tuple[Outcome, str]:
    """PASS, WARN, BLOCK or INCONCLUSIVE, and why."""
    hurt = [d.slice for d in deltas if d.slice in gate.critical and d.high is not None and d.high < 0]
    if hurt:
        return "BLOCK", f"critical slices got worse: {', '.join(hurt)}"
    better = [d.slice for d in deltas if d.role in ("target", "critical") and d.low is not None and d.low > 0]
    if not better:
        return "INCONCLUSIVE", "no target slice improved (every 95 % interval includes or lies below 0)"
    if guard["equivalent"] is False:
        return "INCONCLUSIVE", (
            f"{', '.join(better)} improved, but the pooled guards are not shown equivalent: {guard['delta']:+.2f}, "
            f"90 % [{guard['low']:+.2f}, {guard['high']:+.2f}], margin {gate.margin:.2f}"
        )
    worse = [d.slice for d in deltas if d.verdict == "worse"]
    if worse:
        return "WARN", f"{', '.join(better)} improved, {', '.join(worse)} got worse"
    unguarded = "" if guard["n"] else "; there is no guard slice"
    return "PASS", f"{', '.join(better)} improved{unguarded}"


def _both(base: Measurement, tuned: Measurement, read: Any) -> dict[str, float | None]:
    return {"before": _share(read(base)), "after": _share(read(tuned))}


def _share(values: list[bool | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _reversion(fixed: list[str], base: Measurement, tuned: Measurement) -> float | None:
    back = [
        words_of(a.text) == words_of(base.text(item))
        for item in fixed
        for a in tuned.log.of_item(Probe.PARAPHRASED, item)
    ]
    return sum(back) / len(back) if back else None


def _overconfidence(m: Measurement, items: list[EvalItem]) -> float | None:
    sure = [c for i in items if m.success(i.id) is False and (c := m.confidence(i.id)) is not None]
    return float(np.mean(sure)) if sure else None


# ---------------------------------------------------------------- which method was best


def best_and_regret(
    results: list[RunResult], success: dict[str, dict[str, float]], recommended: str | None
) -> tuple[str | None, dict[str, Any] | None]:
    """The best method over the union of target slices, and the regret of the recommended one.

    The maximum over noisy runs is biased upwards, so the winner is chosen on one half of the items and scored on
    the other, both ways. A difference below TIE, or with 0 in its 90 % interval, is a tie.

    Args:
        success: run → item → 0 or 1, on the target items.
    """
    by_method: dict[str, list[str]] = defaultdict(list)
    for r in results:
        by_method[r.method].append(r.run)
    items = sorted(set.intersection(*(set(success[r.run]) for r in results))) if results else []
    if not items:
        return None, None
    score = {m: np.mean([[success[r][i] for i in items] for r in runs], axis=0) for m, runs in by_method.items()}
    best = max(score, key=lambda m: float(score[m].mean()))
    if recommended not in score or len(score) < 2:
        return best, None
    half = np.array([int(hashlib.sha256(i.encode()).hexdigest(), 16) % 2 for i in items], bool)
    gains = []
    for pick, judge in ((half, ~half), (~half, half)):
        if pick.any() and judge.any():
            winner = max(score, key=lambda m: float(score[m][pick].mean()))
            gains.append(float((score[winner] - score[recommended])[judge].mean()))
    diff = score[best] - score[recommended]
    se = float(diff.std(ddof=1) / np.sqrt(len(diff))) if len(diff) > 1 else 0.0
    low, high = float(diff.mean() - 1.645 * se), float(diff.mean() + 1.645 * se)
    regret = float(np.mean(gains)) if gains else float(diff.mean())
    tie = bool(low <= 0 <= high or abs(diff.mean()) < TIE)
    found = {"recommended": recommended, "best": best, "regret": regret, "low": low, "high": high, "tie": tie}
    return best, found | {"items": len(items)}
