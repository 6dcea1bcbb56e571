"""The probes are annotators, the gap classes are labels: a hierarchical latent-class model after Dawid and
Skene (1979, https://doi.org/10.2307/2346806) gives, per slice, posterior draws of the mixture of gaps.

    z_i ~ Cat(pi_cell)            pi_cell ~ Dir(kappa / classes)
    y_ir | z_i = c                one three-level outcome per probe, a count for samples, a win for rankings
    P(success) = g + (1 - g) mu   g: its control's measured rate; mu_rc ~ Beta(strength * template), pooled over slices

The log-likelihood of a probe counts by its weight (at most 1), because the probes of an item share its difficulty; an
item counts by `effective` (at most 1), because the items of a slice share what the templates get wrong. Both come from
models of known gaps (calibration.py). Slices that overlap are fitted on disjoint cells and reported as sums. Clustered
items count by their effective number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.special import betaln, gammaln

from diagnose.config import ProbesConfig, RuleConfig
from diagnose.items.evalset import EvalSet, by_slice
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import lost_to_reference, own_answer
from diagnose.probes.missing import missing_probes
from diagnose.probes.table import COUNT, LEVELS, WINS, Probe
from diagnose.records import CLASSES, Attribution, EvalItem
from diagnose.verdict.controls import agreement, judge_controls
from diagnose.verdict.evidence import Evidence, allowed, gather, readable, slice_floors, suspects

JUDGED_LEAST = 8
"""Pairs a judge must have seen before it can be called unreliable (hand-set)."""
MISFIT_LEAST = 8
"""Items a probe must have run on before it can contradict a kind (hand-set)."""
ONE_SIDED_95 = 1.645
"""Standard errors below the mean: the one-sided 95 % bound of a normal distribution."""
Array = np.ndarray


def attribute(
    evalset: EvalSet, log: AnswerLog, settings: ProbesConfig, rule: RuleConfig, rng: np.random.Generator
) -> Attribution:
    """Posterior draws of each slice's mixture over CLASSES.

    Items of which nothing could be read, or whose reference answer is suspect, take no part.
    """
    groups = by_slice(evalset.items)
    by_name = {name: suspects(part, log) for name, part in groups.items()}
    suspect = {i.id for i in evalset.items if all(i.id in by_name[name] for name in i.slices)}
    suspected = {name: tuple(i.id for i in part if i.id in suspect) for name, part in groups.items()}
    items = [i for i in evalset.items if readable(i, log) and i.id not in suspect]
    members = {name: [i for i in items if name in i.slices] for name in evalset.slices}
    missing = {name: missing_probes(part, evalset, settings, name) for name, part in members.items()}
    missing = {name: _without_judge(members[name], missing[name], log, rule) for name in members}
    floors = {name: slice_floors(part, log) for name, part in members.items()}
    if not items:
        nothing = np.full((rule.sweeps - rule.burn, len(CLASSES)), np.nan)
        return Attribution({name: nothing for name in members}, {}, missing, floors, suspected)
    seen = gather(items, log, missing, floors, rule)
    gamma, z = gibbs(seen, rule, rng)
    missing |= {name: (*missing[name], "misfit") for name in _unexplained(items, seen, z, rule)}
    cells = sorted({i.slices for i in items})
    draws = {}
    for name, part in members.items():
        mine = [c for c, cell in enumerate(cells) if name in cell]
        if not part:
            draws[name] = np.full((gamma.shape[0], len(CLASSES)), np.nan)
            continue
        mixed = gamma[:, mine].sum(1)
        mixed /= mixed.sum(1, keepdims=True)
        mixed[:, ~np.any([allowed(cells[c], missing) for c in mine], axis=0)] = np.nan
        draws[name] = mixed
    return Attribution(draws, {i.id: z[k].tolist() for k, i in enumerate(items)}, missing, floors, suspected)


def _without_judge(
    items: list[EvalItem], missing: tuple[str, ...], log: AnswerLog, rule: RuleConfig
) -> tuple[str, ...]:
    """A preference that no usable judge reports on leaves the model; it must not float in it.

    Because nobody could read the judge, because it does not prefer what people chose, or because people do not agree.
    """
    judged = [i for i in items if i.judge and own_answer(i, log.get(Probe.PLAIN, i.id)) is not None]
    judge = judge_controls(items, log)
    accuracy = judge.get("accuracy_interval95", [None, None])
    people = agreement(items)
    why = {
        "preference": bool(judged) and all(lost_to_reference(i, log) is None for i in judged),
        "judge": (judge.get("accuracy_n", 0) >= JUDGED_LEAST and accuracy[0] <= 0.5)
        or judge.get("by_length") == "alone",
        "agreement": "alpha" in people
        and people["alpha"] is not None
        and people["alpha"] < rule.agreement
        and people["pairwise"] < rule.agreement_pairs,
    }
    return tuple(dict.fromkeys((*missing, *(what for what, so in why.items() if so))))


def _unexplained(items: list[EvalItem], seen: Evidence, z: Array, rule: RuleConfig) -> Iterator[str]:
    """Slices in which a probe saw something else than the templates of the classes named for their items expect.

    The rates of the classes move with the data; where a prompt format is wrong or a model refuses,
    they can move so far that a class means what it is not. The templates do not move.
    """
    asked = {p: seen.levels[p][:, 0] for p in LEVELS}
    asked |= {p: seen.wins[p] for p in WINS if p is not Probe.PREFERENCE_JUDGED}
    with np.errstate(invalid="ignore"):
        asked |= {
            p: np.where(seen.counts[p][:, 1] > 0, seen.counts[p][:, 0] / seen.counts[p][:, 1], np.nan) for p in COUNT
        }
    off = {}
    for probe, y in asked.items():
        template = _template(rule, probe)
        mean = template if template.ndim == 1 else template[:, 0]
        off[probe] = y - (z * _floored(seen.floors[probe], mean)).sum(1)
    for name in sorted({name for i in items for name in i.slices}):
        inside = np.array([name in i.slices for i in items])
        asked_here = [inside & ~np.isnan(d) for d in off.values()]
        least = [_least_offset(d[k], seen.weights[k]) for d, k in zip(off.values(), asked_here, strict=True) if k.any()]
        if max(least, default=0.0) > rule.misfit:
            yield name


def _least_offset(off: Array, weights: Array) -> float:
    """How far the mean is off at least (one-sided 95 %); 0 with too few items.

    One success and one failure added: items that all agree have not been measured without error either.
    """
    if len(off) < MISFIT_LEAST:
        return 0.0
    n = weights.sum()
    error = np.sqrt((off.var() * n + 1) / (n + 2) / n)
    return float(abs(off.mean()) - ONE_SIDED_95 * error)


# ---------------------------------------------------------------- inference


def gibbs(seen: Evidence, rule: RuleConfig, rng: np.random.Generator) -> tuple[Array, Array]:
    """Gibbs sampling.

    A cell's mixture is drawn as unnormalised gamma variables: sums of them over the cells of a slice, normalised, are
    again Dirichlet, so that a slice has its own sampling error and no more prior weight than kappa however finely other
    slices cut it. An item's class prior is the mixture of its largest slice.

    Returns:
        gamma [draws, cells, classes] and the items' mean class posterior [items, classes].
    """
    n, cells = len(seen.weights), int(seen.cells.max()) + 1
    seen, weigh = replace(seen, weights=seen.weights * rule.effective), rule.weights
    theta: dict[Probe, Array] = {p: _template(rule, p) for p in (*LEVELS, *WINS) if p is not Probe.PREFERENCE_JUDGED}
    theta[Probe.PREFERENCE_JUDGED] = np.array([rule.templates[Probe.PREFERENCE_JUDGED]["preference"]])
    counted = sum((weigh[p] * _counts_loglik(seen, p, rule) for p in COUNT), np.zeros(1))
    fixed = np.where(seen.allowed, counted, -np.inf)
    open_cells = np.array([seen.allowed[seen.cells == c].any(0) for c in range(cells)])
    prior = rule.kappa * seen.cell_prior[:, None] * open_cells / open_cells.sum(1, keepdims=True)
    gamma = open_cells / open_cells.sum(1, keepdims=True)
    kept, posterior = [], np.zeros((n, len(CLASSES)))
    for sweep in range(rule.sweeps):
        pi = seen.home @ gamma
        pi /= pi.sum(1, keepdims=True)
        logp = fixed + np.log(np.maximum(pi[seen.cells], 1e-300))
        for probe in LEVELS:
            logp = logp + weigh[probe] * _levels_loglik(seen, probe, theta[probe])
        for probe in WINS:
            logp = logp + weigh[probe] * _wins_loglik(seen, probe, theta[probe])
        p = np.exp(logp - logp.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        z = (p.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=len(CLASSES) - 1)
        onehot = np.eye(len(CLASSES))[z]
        counts = np.zeros((cells, len(CLASSES)))
        np.add.at(counts, seen.cells, onehot * seen.weights[:, None])
        gamma = np.where(open_cells, np.maximum(rng.gamma(np.maximum(prior + counts, 1e-9)), 1e-300), 0.0)
        for probe in LEVELS:
            theta[probe] = _update_levels(seen, probe, theta[probe], onehot, rule, rng)
        for probe in WINS:
            theta[probe] = _update_wins(seen, probe, theta[probe], onehot, rule, rng)
        if sweep >= rule.burn:
            kept.append(gamma)
            posterior += p
    return np.array(kept), posterior / len(kept)


def _template(rule: RuleConfig, probe: Probe) -> Array:
    """[6] or [6, 2] prior means."""
    return np.array([rule.templates[probe][name] for name in CLASSES], float)


def _floored(g: Array, mu: Array) -> Array:
    """theta = g + (1 - g) mu, as [items, classes]."""
    theta: Array = g[:, None] + (1 - g[:, None]) * mu[None, :]
    return theta.clip(1e-6, 1 - 1e-6)


def _levels_loglik(seen: Evidence, probe: Probe, mu: Array) -> Array:
    """One three-level outcome: fail, lenient only, strict; draws of one item are averaged, not multiplied."""
    lenient, strict = seen.levels[probe].T
    up = _floored(seen.floors[probe], mu[:, 0])
    top = _floored(_format_floor(seen, probe), mu[:, 1])
    only = (lenient - strict)[:, None]
    ll = (1 - lenient)[:, None] * np.log(1 - up) + only * np.log(up * (1 - top)) + strict[:, None] * np.log(up * top)
    return np.nan_to_num(ll)


def _format_floor(seen: Evidence, probe: Probe) -> Array:
    """The control of `few_shot` is about format: examples in the base's own format make an answer strict this often."""
    return seen.format_floors.get(probe, np.zeros(len(seen.weights)))


def _wins_loglik(seen: Evidence, probe: Probe, mu: Array) -> Array:
    y = seen.wins[probe][:, None]
    if probe is Probe.PREFERENCE_JUDGED:
        # The reference wins against every class at the rate of self against self; PREFERENCE is the excess over it.
        theta = np.repeat(seen.floors[probe][:, None], len(CLASSES), 1).clip(1e-3, 1 - 1e-3)
        theta[:, CLASSES.index("preference")] = _floored(seen.floors[probe], mu)[:, 0]
    else:
        theta = _floored(seen.floors[probe], mu)
    return np.nan_to_num(y * np.log(theta) + (1 - y) * np.log(1 - theta))


def _counts_loglik(seen: Evidence, probe: Probe, rule: RuleConfig) -> Array:
    """Beta-binomial: items of one class share a mean, not a difficulty."""
    x, n = seen.counts[probe].T
    mean, size = _template(rule, probe).T
    m = _floored(seen.floors[probe], mean)
    a, b = m * size, (1 - m) * size
    x, n = x[:, None], n[:, None]
    choose = gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1)
    ll: Array = choose + betaln(x + a, n - x + b) - betaln(a, b)
    return np.where(n > 0, ll, 0.0)


def _update_levels(
    seen: Evidence, probe: Probe, mu: Array, onehot: Array, rule: RuleConfig, rng: np.random.Generator
) -> Array:
    lenient, strict = np.nan_to_num(seen.levels[probe]).T
    asked = (~np.isnan(seen.levels[probe][:, 0])) * seen.weights
    active = lenient * _thin(seen.floors[probe], onehot @ mu[:, 0], rng)
    out = mu.copy()
    out[:, 0] = _beta(rule, probe, 0, onehot, asked * active, asked * (1 - active), rng)
    formed = strict * _thin(_format_floor(seen, probe), onehot @ mu[:, 1], rng)
    out[:, 1] = _beta(rule, probe, 1, onehot, asked * formed, asked * (lenient - formed), rng)
    return out


def _update_wins(
    seen: Evidence, probe: Probe, mu: Array, onehot: Array, rule: RuleConfig, rng: np.random.Generator
) -> Array:
    y = np.nan_to_num(seen.wins[probe])
    asked = (~np.isnan(seen.wins[probe])) * seen.weights
    if probe is Probe.PREFERENCE_JUDGED:
        mine = onehot[:, CLASSES.index("preference")] * asked
        active = y * _thin(seen.floors[probe], np.broadcast_to(mu, y.shape), rng)
        prior = rule.templates[probe]["preference"] * rule.strength
        return rng.beta(prior + (mine * active).sum(), rule.strength - prior + (mine * (1 - active)).sum(), 1)
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
    mean = _template(rule, probe) if level is None else _template(rule, probe)[:, level]
    a = rule.strength * mean + hits @ onehot
    b = rule.strength * (1 - mean) + misses @ onehot
    drawn: Array = rng.beta(np.maximum(a, 1e-3), np.maximum(b, 1e-3))
    return drawn.clip(1e-4, 1 - 1e-4)
