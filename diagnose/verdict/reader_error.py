"""What the lenient reading gets wrong, as a prior from public answers that people judged, and what it does to a share.

A reader finds the right content with probability `sensitivity` and takes a wrong answer for a right one with
probability `invented`. Both differ between tasks, so they are drawn, not fixed: Beta priors per grader and per kind
of thing asked for, made by `python -m scripts.reader.fit`; the answers of a slice and people's labels update them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import regex
from scipy.special import betaincinv, expit

from diagnose.errors import BadInput
from diagnose.provenance import ROOT
from diagnose.records import EvalItem, Rate

Array = np.ndarray
Asked = Literal["who", "when", "where", "how many", "other"]
QUESTION = regex.compile(r"\b(who|whom|whose|when|where|how (?:many|much)|how|what|which|why)\b", regex.IGNORECASE)
ASKED: dict[str, Asked] = {"who": "who", "whom": "who", "whose": "who", "when": "when", "where": "where"}
ASKED |= {"how many": "how many", "how much": "how many"}
LEAST = 1e-9
ERRORLESS = ("contains", "instructions")
"""Graders that have one reading only, or one that does not depend on content."""
SHARES = np.linspace(0.005, 0.995, 100)
"""Shares of answers with the right content that are tried (hand-set)."""
QUANTILES = {"sensitivity": 81, "invented": 31}
"""How many quantiles of a prior are tried, far into its tails, because labels may contradict it (hand-set)."""


@dataclass(frozen=True)
class Prior:
    """Two Beta distributions, each as pseudo-counts: (found, missed) and (taken for right, told to be wrong)."""

    sensitivity: tuple[float, float]
    invented: tuple[float, float]


@dataclass(frozen=True)
class ReaderPrior:
    """One versioned file of them."""

    version: str
    fitted_on: dict[str, Any]
    graders: dict[str, dict[str, Prior]]
    """grader kind → what is asked for → prior; `other` is always there."""
    unmeasured: Prior
    """Of graders that no public answers measure, and of a reader that is a model."""

    def of(self, item: EvalItem, by_model: bool = False) -> Prior | None:
        """The prior for one item; None where the grader's lenient reading is right by definition."""
        kind = item.grader.kind
        if kind in ERRORLESS or item.grader.lenient is not None or not item.graded:
            return None
        known = {} if by_model else self.graders.get("exact" if kind == "regex" else kind, {})
        return known.get(asked_for(item.turns[-1][1])) or known.get("other") or self.unmeasured


@dataclass(frozen=True)
class Readings:
    """How the answers of a slice were read; numbers may be effective ones."""

    strict: float
    """Right in form: beyond doubt."""
    lenient: float
    """Read as right content only."""
    unclear: float
    """Read as wrong, for want of anything better."""
    apart: float = 0.0
    """Recognised as another answer of the same type, and so wrong."""
    labels: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """A person's labels of random ones: right and wrong of the lenient, then of the unclear."""


@dataclass(frozen=True)
class ReaderError:
    """Posterior draws, all [draws]."""

    sensitivity: Array
    invented: Array
    apart: Array
    """Share of wrong answers that the reader recognises as another answer."""
    share: Array
    """Share of the answers that have the right content."""

    def content(self, n: int, certain: tuple[int, int] = (0, 0)) -> Rate:
        """Mean and 95 % interval of the share of n answers; k is not a count.

        Args:
            certain: right ones, and all, of further answers that are read without error.
        """
        right, more = certain
        share = (self.share * n + right) / (n + more)
        low, high = np.quantile(share, [0.025, 0.975])
        return Rate(k=float(share.mean()) * (n + more), n=n + more, low=float(low), high=float(high))


def asked_for(question: str) -> Asked:
    """What kind of thing a question wants, by its first question word; names are read far better than places."""
    found = QUESTION.search(question)
    return ASKED.get(found[1].lower(), "other") if found else "other"


@cache
def read_prior(path: str) -> ReaderPrior:
    """The prior in a file; a relative path may also be one of this repository.

    Raises:
        BadInput: there is none, or it is not what `scripts.reader.fit` writes.
    """
    file = Path(path) if Path(path).exists() else ROOT / path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        graders = {
            kind: {what: _prior(pair) for what, pair in priors.items()} for kind, priors in found["graders"].items()
        }
        return ReaderPrior(found["version"], found["fitted_on"], graders, _prior(found["unmeasured"]))
    except OSError as error:
        raise BadInput(f"rule.reader_error={path}: {error.strerror}; `null` trusts the reader") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"rule.reader_error={path}: not a file of scripts.reader.fit ({error})") from None


def _prior(pair: Mapping[str, Sequence[float]]) -> Prior:
    (a, b), (c, d) = pair["sensitivity"], pair["invented"]
    if not min(a, b, c, d) > 0 or max(a, b, c, d) > 1e6:
        raise ValueError("pseudo-counts must be above 0 and below 1e6")
    return Prior((float(a), float(b)), (float(c), float(d)))


def reader_error(priors: Sequence[Prior], seen: Readings, draws: int, rng: np.random.Generator) -> ReaderError | None:
    """Posterior of the reader's error and of the true share, from the priors of a slice's items and its readings.

    On a grid: quantiles of the priors by shares. How many of the answers that are read as right pass strictly, and how
    often a wrong answer is recognised as another one, are set to what explains the readings best (profile likelihood).
    Labels count given the reading that they were drawn by, so that any number of either may be labelled.

    Args:
        priors: one per item that is read with error.

    Returns:
        None where there is none.
    """
    if not priors:
        return None
    s, at_s = _quantiles([p.sensitivity for p in priors], QUANTILES["sensitivity"])
    f, at_f = _quantiles([p.invented for p in priors], QUANTILES["invented"])
    s, f, theta = s[:, None, None], f[None, :, None], SHARES[None, None, :]
    found, wrong = theta * s, (1 - theta) * (1 - f)
    right = (found + (1 - theta) * f).clip(LEAST, 1 - LEAST)
    strict = np.minimum(found, right * _part(seen.strict, seen.lenient))
    apart = np.minimum(wrong, (1 - right) * _part(seen.apart, seen.unclear))
    lenient, unclear = (np.maximum(x, LEAST) for x in (right - strict, 1 - right - apart))
    loglik = np.log(at_s)[:, None, None] + np.log(at_f)[None, :, None] + np.zeros(right.shape)
    for n, p in ((seen.strict, strict), (seen.lenient, lenient), (seen.apart, apart), (seen.unclear, unclear)):
        loglik += n * np.log(np.maximum(p, LEAST))
    for of, p in ((seen.labels[:2], (found - strict) / lenient), (seen.labels[2:], theta * (1 - s) / unclear)):
        p = p.clip(1e-6, 1 - 1e-6)
        loglik += of[0] * np.log(p) + of[1] * np.log(1 - p)
    weight = np.exp(loglik - loglik.max())
    i, j, k = np.unravel_index(rng.choice(weight.size, draws, p=weight.ravel() / weight.sum()), weight.shape)
    half = (SHARES[1] - SHARES[0]) / 2
    recognised = (apart / np.maximum(wrong, LEAST))[i, j, k]
    share = SHARES[k] + rng.uniform(-half, half, draws)
    return ReaderError(s[i, 0, 0], f[0, j, 0], recognised.clip(0.001, 0.999), share)


def _part(of: float, other: float) -> float:
    return of / max(of + other, LEAST)


def _quantiles(betas: Sequence[tuple[float, float]], n: int) -> tuple[Array, Array]:
    """Quantiles of the mean rate of the items, and the weight of each: [n] and [n].

    The rates of what is asked for are drawn independently (over EVOUNA's five systems they correlate by .19 in the
    mean); their mean is taken for a Beta variable of the same mean and variance.
    """
    mix = Counter(betas)
    parts = [(k / mix.total(), a / (a + b), a + b) for (a, b), k in sorted(mix.items())]
    mean = sum(w * m for w, m, _ in parts)
    variance = sum(w**2 * m * (1 - m) / (size + 1) for w, m, size in parts)
    size = mean * (1 - mean) / variance - 1
    u = expit(np.linspace(-12, 12, n))
    weight = u * (1 - u)
    return betaincinv(mean * size, (1 - mean) * size, u).clip(LEAST, 1 - LEAST), weight / weight.sum()
