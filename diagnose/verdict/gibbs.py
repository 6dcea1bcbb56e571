"""Gibbs sampling of the model in mixture.py: the mixtures of the cells, the classes of the items, the rates of the
probes, and which answers were misread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from diagnose.config import RuleConfig
from diagnose.probes.table import LEVELS, WINS, Probe
from diagnose.records import CLASSES
from diagnose.verdict.evidence import Evidence
from diagnose.verdict.likelihood import (
    ACCEPTED,
    READ_WINS,
    READABLE,
    SUPPRESSED,
    UNREADABLE,
    Misread,
    Reader,
    flawless,
    format_floor,
    loglik,
    template,
)

HELD = 4
"""Sweeps that share a draw of the reader's error; the second half counts (hand-set)."""
STEPS = 30
"""Of expectation-maximisation before them (hand-set)."""
DEFINING = (Probe.PLAIN, Probe.FREE)
"""Probes that define the classes: is the content there, in form, with the demand for a format and without? Their rates
are not learnt; a class would come to mean what it is not."""
Array = np.ndarray


@dataclass(frozen=True)
class Drawn:
    """What a sweep has drawn so far."""

    onehot: Array
    """[items, classes]: the class of each item."""
    readable: Array
    """[items]: the reader knows this item's right content when it sees it."""
    error: Misread


def gibbs(
    seen: Evidence, rule: RuleConfig, rng: np.random.Generator, reader: Reader | None = None
) -> tuple[Array, Array]:
    """Gibbs sampling.

    A cell's mixture is drawn as unnormalised gamma variables: sums of them over the cells of a slice, normalised, are
    again Dirichlet, so that a slice has its own sampling error and no more prior weight than kappa however finely other
    slices cut it. An item's class prior is the mixture of its largest slice.

    Returns:
        gamma [draws, cells, classes] and the items' mean class posterior [items, classes].
    """
    n, cells = len(seen.weights), int(seen.cells.max()) + 1
    seen = replace(seen, weights=seen.weights * rule.effective)
    reader = reader or flawless(n)
    theta: dict[Probe, Array] = {p: template(rule, p) for p in (*LEVELS, *WINS) if p is not Probe.PREFERENCE_JUDGED}
    theta[Probe.PREFERENCE_JUDGED] = np.array([rule.templates[Probe.PREFERENCE_JUDGED]["preference"]])
    open_cells = np.array([seen.allowed[seen.cells == c].any(0) for c in range(cells)])
    prior = rule.kappa * seen.cell_prior[:, None] * open_cells / open_cells.sum(1, keepdims=True)
    gamma = open_cells / open_cells.sum(1, keepdims=True)
    draws, posterior = [], np.zeros((n, len(CLASSES)))
    for sweep in range(rule.sweeps):
        error = reader.held(sweep // HELD)
        both = loglik(seen, rule, reader, error, theta)
        ll = np.where(seen.allowed, np.logaddexp(*both), -np.inf)
        if sweep % HELD == 0 and reader.sensitivity.shape[1]:
            gamma = _settled(ll, seen, prior, gamma)
        p = _posterior(ll, seen, gamma)
        z = (p.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=len(CLASSES) - 1)
        odds = both[READABLE, np.arange(n), z] - both[UNREADABLE, np.arange(n), z]
        readable = rng.random(n) < expit(odds)
        onehot = np.eye(len(CLASSES))[z]
        gamma = _mixture(onehot, seen, prior, open_cells, rng)
        drawn = Drawn(onehot, readable, error)
        for probe in (p for p in LEVELS if p not in DEFINING):
            theta[probe] = _update_levels(seen, probe, theta[probe], drawn, rule, rng)
        for probe in (p for p in WINS if p not in DEFINING):
            theta[probe] = _update_wins(seen, probe, theta[probe], drawn, rule, rng)
        if kept(sweep, rule):
            hidden = np.isin(z, ACCEPTED) & ~readable
            as_seen = np.where(hidden[:, None], np.eye(len(CLASSES))[CLASSES.index("format")], onehot)
            draws.append(_mixture(as_seen, seen, prior, open_cells, rng) if hidden.any() else gamma)
            posterior += _as_seen(p, both)
    return np.array(draws), posterior / len(draws)


def kept(sweep: int, rule: RuleConfig) -> bool:
    """Past the burn-in, and past the first half of the sweeps that share a reader's error."""
    return sweep >= rule.burn and sweep % HELD >= HELD // 2


def _posterior(ll: Array, seen: Evidence, gamma: Array) -> Array:
    """[items, classes]: of each item's class, given the mixtures."""
    pi = seen.home @ gamma
    pi /= pi.sum(1, keepdims=True)
    logp = ll + np.log(np.maximum(pi[seen.cells], 1e-300))
    p: Array = np.exp(logp - logp.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def _settled(ll: Array, seen: Evidence, prior: Array, gamma: Array) -> Array:
    """The mixtures that belong to a new draw of the reader's error, by expectation-maximisation.

    Where two classes explain the same answers, sampling alone would follow the reader only slowly.
    """
    for _ in range(STEPS):
        counts = np.zeros(prior.shape)
        np.add.at(counts, seen.cells, _posterior(ll, seen, gamma) * seen.weights[:, None])
        gamma = np.maximum(prior + counts, 1e-300) * (prior > 0)
    return gamma


def _mixture(onehot: Array, seen: Evidence, prior: Array, open_cells: Array, rng: np.random.Generator) -> Array:
    """Conjugate draw of every cell's mixture, unnormalised: [cells, classes]."""
    counts = np.zeros(prior.shape)
    np.add.at(counts, seen.cells, onehot * seen.weights[:, None])
    return np.where(open_cells, np.maximum(rng.gamma(np.maximum(prior + counts, 1e-9)), 1e-300), 0.0)


def _as_seen(p: Array, both: Array) -> Array:
    """The class posteriors of items, with what passes in truth but not for this reader as FORMAT."""
    hidden = p[:, ACCEPTED] * expit(both[UNREADABLE] - both[READABLE])[:, ACCEPTED]
    out = p.copy()
    out[:, ACCEPTED] -= hidden
    out[:, CLASSES.index("format")] += hidden.sum(1)
    return out


def _update_levels(
    seen: Evidence, probe: Probe, mu: Array, drawn: Drawn, rule: RuleConfig, rng: np.random.Generator
) -> Array:
    """Draw the rates of one probe, after drawing which answers had the content in truth."""
    onehot, readable, error = drawn.onehot, drawn.readable, drawn.error
    lenient, strict = np.nan_to_num(seen.levels[probe]).T
    asked = (~np.isnan(seen.levels[probe][:, 0])) * seen.weights
    up, top = onehot @ mu[:, 0], onehot @ mu[:, 1]
    g = seen.floors[probe]
    there = g + (1 - g) * up
    hidden, missed = there * (1 - top) * readable, there * ~readable
    of_only = hidden / np.maximum(hidden + (1 - there) * error.invented, 1e-9)
    of_failed = missed / np.maximum(missed + (1 - there) * (1 - error.invented), 1e-9)
    only = (lenient - strict) * (rng.random(len(g)) < of_only)
    content = strict + only + (1 - lenient) * (rng.random(len(g)) < of_failed)
    active = content * _thin(g, up, rng)
    out = mu.copy()
    out[:, 0] = _beta(rule, probe, 0, onehot, asked * active, asked * (1 - active), rng)
    formed = strict * _thin(format_floor(seen, probe), top, rng)
    out[:, 1] = _beta(rule, probe, 1, onehot, asked * formed, asked * (strict + only - formed), rng)
    return out


def _update_wins(
    seen: Evidence, probe: Probe, mu: Array, drawn: Drawn, rule: RuleConfig, rng: np.random.Generator
) -> Array:
    """Draw the rate of one probe, after drawing which answers were right in truth, where a reader read them."""
    onehot, readable, error = drawn.onehot, drawn.readable, drawn.error
    y = np.nan_to_num(seen.wins[probe])
    asked = (~np.isnan(seen.wins[probe])) * seen.weights
    if probe is Probe.PREFERENCE_JUDGED:
        mine = onehot[:, CLASSES.index("preference")] * asked
        active = y * _thin(seen.floors[probe], np.broadcast_to(mu, y.shape), rng)
        prior = rule.templates[probe]["preference"] * rule.strength
        return rng.beta(prior + (mine * active).sum(), rule.strength - prior + (mine * (1 - active)).sum(), 1)
    if probe in READ_WINS:
        there = seen.floors[probe] + (1 - seen.floors[probe]) * (onehot @ mu)
        seen_right, missed = there * readable, there * ~readable
        of_won = seen_right / np.maximum(seen_right + (1 - there) * error.invented, 1e-9)
        of_lost = missed / np.maximum(missed + (1 - there) * (1 - error.invented), 1e-9)
        y = np.where(y > 0, rng.random(len(y)) < of_won, rng.random(len(y)) < of_lost).astype(float)
    active = y * _thin(seen.floors[probe], onehot @ mu, rng)
    return _beta(rule, probe, None, onehot, asked * active, asked * (1 - active), rng)


def _thin(g: Array, mu: Array, rng: np.random.Generator) -> Array:
    """Which successes came from the class and not from the floor: data augmentation, so that mu stays conjugate."""
    share = mu / np.maximum(g + (1 - g) * mu, 1e-9)
    return (rng.random(g.shape) < share).astype(float)


def _beta(
    rule: RuleConfig,
    probe: Probe,
    level: int | None,
    onehot: Array,
    hits: Array,
    misses: Array,
    rng: np.random.Generator,
) -> Array:
    """Conjugate draw of mu for every class; template classes without items stay at their prior."""
    mean = template(rule, probe) if level is None else template(rule, probe)[:, level]
    learnt = onehot * (np.arange(len(CLASSES)) != SUPPRESSED)  # it looks like several kinds, and teaches none of them
    a = rule.strength * mean + hits @ learnt
    b = rule.strength * (1 - mean) + misses @ learnt
    drawn: Array = rng.beta(np.maximum(a, 1e-3), np.maximum(b, 1e-3))
    return drawn.clip(1e-4, 1 - 1e-4)
