"""Rates with their intervals, and the agreement of annotators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diagnose.records import Rate


def rate(k: int, n: int, level: float = 0.95) -> Rate:
    """A share with its Jeffreys interval; without observations it has no bounds.

    Where no item or every item succeeds the interval ends at 0 or 1 (Brown, Cai and DasGupta 2001).
    """
    from statsmodels.stats.proportion import proportion_confint  # 1.5 s to import

    if n == 0:
        return Rate(k=k, n=n, low=None, high=None)
    low, high = proportion_confint(k, n, 1 - level, "jeffreys")
    return Rate(k=k, n=n, low=0.0 if k == 0 else float(low), high=1.0 if k == n else float(high))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(ps, method="holm")[1]] if ps else []


def nominal_alpha(counts: np.ndarray) -> float | None:
    """Krippendorff's alpha for nominal labels; None if all labels are the same, or no item has two.

    Args:
        counts: [items, labels], how many annotators gave each label.

    Source: Krippendorff (2011), Computing Krippendorff's alpha-reliability, section C.
    """
    counts = counts[counts.sum(1) > 1]
    sizes, totals = counts.sum(1), counts.sum(0)
    n = totals.sum()
    if (totals > 0).sum() < 2:
        return None
    observed = ((sizes**2 - (counts**2).sum(1)) / (sizes - 1)).sum() / n
    expected = (n**2 - (totals**2).sum()) / (n * (n - 1))
    return float(1 - observed / expected)
