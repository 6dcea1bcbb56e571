"""Scores of verdicts on slices with known ground truth, simulated or planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from diagnose.records import CLASSES
from diagnose.verdict.decide import GAPS

VERDICTS = ("none", *GAPS)
Slices = list[dict[str, Any]]
"""Results of `slices.judged`, of one or of many worlds."""


def interval(k: int, n: int) -> dict[str, Any]:
    """k of n with its 95 % Wilson interval."""
    if n == 0:
        return {"k": k, "n": n, "share": None, "low": None, "high": None}
    low, high = proportion_confint(k, n, method="wilson")
    return {"k": k, "n": n, "share": k / n, "low": float(low), "high": float(high)}


def macro_f1(pairs: list[tuple[str, str | None]], names: list[str]) -> float:
    """Mean of 2 tp / (2 tp + fp + fn) over the classes that occur in the truth."""

    def f1(name: str) -> float:
        tp = sum(t == s == name for t, s in pairs)
        missed = sum((t == name) != (s == name) for t, s in pairs)
        return 2 * tp / (2 * tp + missed)

    return float(np.mean([f1(name) for name in names if any(t == name for t, _ in pairs)]))


def ece(pairs: list[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error over bins of equal width (ten: hand-set): mean |stated - realised|."""

    def binned() -> Iterator[float]:
        for k in range(bins):
            inside = [(p, hit) for p, hit in pairs if min(int(p * bins), bins - 1) == k]
            if inside:
                yield len(inside) * abs(float(np.mean([p for p, _ in inside]) - np.mean([hit for _, hit in inside])))

    return sum(binned()) / max(len(pairs), 1)


def ece_null(stated: Sequence[float], rng: np.random.Generator, draws: int = 1000) -> tuple[float, float]:
    """Mean and 95 % quantile of the ECE of a perfectly calibrated model that states these probabilities."""
    p = np.array(stated)
    found = [ece(list(zip(p, rng.random(len(p)) < p, strict=True))) for _ in range(draws)]
    return float(np.mean(found)), float(np.quantile(found, 0.95))


def by_organism(
    score: Callable[[Slices], float | None], slices: Slices, rng: np.random.Generator, draws: int = 400
) -> dict[str, Any]:
    """A score with its 95 % bootstrap interval: organisms within classes, then slices within organisms.

    A slice of several recipes belongs to the organism of most of its items. None if no slice has a value.
    """
    strata: dict[str, dict[str, Slices]] = {}
    for s in slices:
        strata.setdefault(s["lead"], {}).setdefault(s["organism"], []).append(s)
    value, again = score(slices), []
    for _ in range(draws if value is not None else 0):
        drawn: Slices = []
        for organisms in strata.values():
            parts = list(organisms.values())
            for k in rng.integers(len(parts), size=len(parts)):
                drawn += [parts[k][j] for j in rng.integers(len(parts[k]), size=len(parts[k]))]
        again.append(score(drawn))
    read = [v for v in again if v is not None]
    low, high = (float(q) for q in np.quantile(read, [0.025, 0.975])) if read else (None, None)
    organisms_seen = sum(map(len, strata.values()))
    return {"value": value, "low": low, "high": high, "slices": len(slices), "organisms": organisms_seen}


# ---------------------------------------------------------------- scores of judged slices


def f1(slices: Slices, said: str = "best") -> float:
    """Macro-F1 of the most probable verdict, or of a baseline."""
    return macro_f1([(s["truth"], s[said]) for s in slices], list(VERDICTS))


def f1_six(slices: Slices) -> float:
    """Macro-F1 over the six classes."""
    return macro_f1([(s["class"], s["best_class"]) for s in slices], list(CLASSES))


def right(slices: Slices, said: str = "best") -> float:
    """Share of slices with the most probable verdict, or that of a baseline, correct."""
    return float(np.mean([s[said] in s["right"] for s in slices]))


def commonest(slices: Slices) -> float:
    """Baseline: always the most common verdict."""
    return max(float(np.mean([verdict in s["right"] for s in slices])) for verdict in VERDICTS)


def right_class(slices: Slices, said: str = "best_class") -> float | None:
    """Accuracy of the class, or of that of a baseline, on slices with one gap."""
    hits = [s[said] == s["class"] for s in slices if s["class"] in CLASSES]
    return float(np.mean(hits)) if hits else None


def covered(slices: Slices) -> float | None:
    """Share of the 90 % intervals that contain the true share of their class, where that is not 0 or 1."""
    hits = [c for s in slices for c in s["covered"]]
    return float(np.mean(hits)) if hits else None


def error(slices: Slices) -> float:
    """Mean absolute error of the class shares."""
    return float(np.mean([s["error"] for s in slices]))


def log_loss(slices: Slices) -> float:
    """Mean of -log P(correct verdict); a slice without probabilities counts as a uniform guess over the verdicts."""
    stated = [
        sum(p for c, p in s["p_classes"].items() if c in s["right"]) if s["p_classes"] else 1 / len(VERDICTS)
        for s in slices
    ]
    return float(-np.log(np.maximum(stated, 1e-9)).mean())


def claimed(s: dict[str, Any]) -> bool:
    """Whether it got a verdict (P of .9 or more)."""
    return bool(s["verdict"] != "insufficient")


def sure(slices: Slices) -> float:
    """Share of slices that got a verdict."""
    return float(np.mean([claimed(s) for s in slices]))


def sure_and_right(slices: Slices) -> float | None:
    """Accuracy on the slices that got a verdict."""
    hits = [s["verdict"] in s["right"] for s in slices if claimed(s)]
    return float(np.mean(hits)) if hits else None


def wrong_claims(slices: Slices, said: str = "verdict") -> float:
    """Share of slices that got a wrong verdict; a baseline gives one to every slice."""
    return float(np.mean([s[said] not in (*s["right"], "insufficient") for s in slices]))


def false_gaps(slices: Slices) -> dict[str, Any]:
    """Slices without a gap that were diagnosed with one."""
    healthy = [s for s in slices if s["truth"] == "none"]
    return interval(sum(s["verdict"] not in ("none", "insufficient") for s in healthy), len(healthy))


def stated(s: dict[str, Any]) -> tuple[float, bool]:
    """P(verdict) and whether the verdict is correct; without a verdict, of the most probable one."""
    return (s["p"], s["verdict"] in s["right"]) if claimed(s) else (s["p_best"], s["best"] in s["right"])


def right_as_stated(slices: Slices) -> float:
    """Accuracy, including mixed verdicts; without a verdict, of the most probable one."""
    return float(np.mean([stated(s)[1] for s in slices]))


def calibration(slices: Slices, rng: np.random.Generator) -> dict[str, Any]:
    """ECE of P(verdict), and what a perfectly calibrated diagnosis would score on the same slices."""
    pairs = [stated(s) for s in slices]
    mean, limit = ece_null([p for p, _ in pairs], rng)
    found = ece(pairs)
    return {"ece": found, "null": mean, "null95": limit, "debiased": max(0.0, found - mean), "slices": len(pairs)}


def confusion(slices: Slices) -> dict[str, dict[str, int]]:
    """Confusion counts over the six classes: truth → diagnosed → count."""
    return {t: {c: sum(s["class"] == t and s["best_class"] == c for s in slices) for c in CLASSES} for t in CLASSES}
