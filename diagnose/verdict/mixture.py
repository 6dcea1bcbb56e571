"""The probes are annotators, the gap classes are labels: a hierarchical latent-class model after Dawid and
Skene (1979, https://doi.org/10.2307/2346806) gives, per slice, posterior draws of the mixture of gaps.

    z_i ~ Cat(pi_cell)            pi_cell ~ Dir(kappa / classes)
    y_ir | z_i = c                one three-level outcome per probe, a count for samples, a win for rankings
    P(success) = g + (1 - g) mu   g: its control's measured rate; mu_rc ~ Beta(strength * template), pooled over slices

Content that a format demand costs is the exception: but for the probe without the demand, it may look like any missing
knowledge, and no rates are learnt of it.

An item counts by `effective` (at most 1), because the items of a slice share what the templates get wrong; it comes
from models of known gaps (calibration.py). Slices that overlap are fitted on disjoint cells and reported as sums.
Clustered items count by their effective number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from diagnose.config import ProbesConfig, RuleConfig
from diagnose.items.evalset import EvalSet, by_slice
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import lost_to_reference, own_answer
from diagnose.probes.missing import missing_probes
from diagnose.probes.table import COUNT, LEVELS, WINS, Probe
from diagnose.records import CLASSES, KNOWLEDGE, Attribution, EvalItem
from diagnose.verdict.controls import agreement, judge_controls
from diagnose.verdict.evidence import (
    Evidence,
    gather,
    rank,
    readable,
    reads_contexts,
    slice_floors,
    suspects,
    with_context,
)
from diagnose.verdict.gibbs import HELD, gibbs, kept
from diagnose.verdict.likelihood import READ_WINS, SUPPRESSED, Reader, floored, template
from diagnose.verdict.reader_error import ReaderError
from diagnose.verdict.readings import Labels, reader_errors, reader_of
from diagnose.verdict.unstated import unstated

JUDGED_LEAST = 8
"""Pairs a judge must have seen before it can be called unreliable (hand-set)."""
MISFIT_LEAST = 8
"""Items a probe must have run on before it can contradict a kind (hand-set)."""
ONE_SIDED_95 = 1.645
"""Standard errors below the mean: the one-sided 95 % bound of a normal distribution."""
UNTOLD = ("knowledge_latent", "knowledge_absent")
"""Kinds of missing knowledge that only ranked options or samples tell apart."""
UNREAD = ("knowledge_absent", "knowledge_skill")
"""Kinds that only contexts tell apart, of a model that reads them."""
NOBODY = Labels()
Array = np.ndarray


def attribute(
    evalset: EvalSet,
    log: AnswerLog,
    settings: ProbesConfig,
    rule: RuleConfig,
    rng: np.random.Generator,
    labels: Labels = NOBODY,
    by_model: bool = False,
) -> Attribution:
    """Posterior draws of each slice's mixture over CLASSES.

    Items of which nothing could be read, or whose reference answer is suspect, take no part. Labels of people take the
    place of readings, in everything but the measurement of the reader.

    Args:
        labels: what people say of plain answers.
        by_model: a model, not the rules, reads the answers.
    """
    groups = by_slice(evalset.items)
    as_read, log = log, log.relabelled(labels.right)
    by_name = {name: suspects(part, log) for name, part in groups.items()}
    suspect = {i.id for i in evalset.items if all(i.id in by_name[name] for name in i.slices)}
    suspected = {name: tuple(i.id for i in part if i.id in suspect) for name, part in groups.items()}
    items = [i for i in evalset.items if readable(i, log) and i.id not in suspect]
    members = {name: [i for i in items if name in i.slices] for name in evalset.slices}
    missing = {
        name: _lacking(part, missing_probes(part or groups[name], evalset, settings, name), log, rule)
        for name, part in members.items()
    }
    floors = {name: slice_floors(part, log) for name, part in members.items()}
    read = reader_errors(groups, as_read, rule, labels, by_model, rng)
    errors = {name: error for name, (error, _) in read.items()}
    content = {name: share for name, (_, share) in read.items()}
    if not items:
        nothing = np.full((rule.sweeps, len(CLASSES)), np.nan)
        return Attribution({name: nothing for name in members}, {}, missing, floors, suspected, content, {})
    seen = gather(items, log, missing, floors, rule)
    sizes = Counter(name for i in items for name in i.slices)
    home = {i.id: max(sorted(i.slices), key=lambda name: sizes[name]) for i in items}
    reader = reader_of(items, home, errors, as_read, rule, labels, by_model)
    gamma, z = gibbs(seen, rule, rng, reader)
    missing |= {name: (*missing[name], "misfit") for name in _unexplained(items, seen, z, rule, reader)}
    if not reads_contexts(items, log):
        missing |= {name: (*missing[name], "reading") for name, part in members.items() if _given_contexts(part, log)}
    missing |= {name: (*missing[name], "task") for name, part in members.items() if unstated(part, log)}
    cells = sorted({i.slices for i in items})
    draws = {
        name: _of_slice(gamma, [c for c, cell in enumerate(cells) if name in cell], seen, missing[name], rng)
        for name in members
    }
    of = {name: Counter(home[i.id] for i in part).most_common(1)[0][0] for name, part in members.items() if part}
    found = {name: _aligned(error, rule) for name in of if (error := errors.get(of[name]))}
    by_item = {i.id: z[k].tolist() for k, i in enumerate(items)}
    return Attribution(draws, by_item, missing, floors, suspected, content, found, frozenset(labels.right))


def _of_slice(
    gamma: Array, mine: list[int], seen: Evidence, missing: tuple[str, ...], rng: np.random.Generator
) -> Array:
    """[draws, classes]: the mixture of a slice that consists of these cells; NaN for a class that the model drops."""
    if not mine:
        return np.full((gamma.shape[0], len(CLASSES)), np.nan)
    mixed: Array = gamma[:, mine].sum(1)
    mixed /= mixed.sum(1, keepdims=True)
    mixed[:, ~seen.allowed[np.isin(seen.cells, mine)].any(0)] = np.nan
    if {"ranked", "samples"} <= set(missing):
        mixed = _either(mixed, UNTOLD, rng)
    if "reading" in missing:
        mixed = _either(mixed, UNREAD, rng)
    return _as_format(mixed) if "task" in missing else mixed


def _aligned(error: ReaderError, rule: RuleConfig) -> Array:
    """The reader's sensitivity in each draw of the mixture that is kept."""
    held = np.array([sweep for sweep in range(rule.sweeps) if kept(sweep, rule)]) // HELD
    aligned: Array = error.sensitivity[held % len(error.sensitivity)]
    return aligned


def _lacking(items: list[EvalItem], missing: tuple[str, ...], log: AnswerLog, rule: RuleConfig) -> tuple[str, ...]:
    """What is missing for want of data, of a judge that can be heard, and of answers that could be read."""
    missing = _without_judge(items, missing, log, rule)
    return (*missing, *_unanswered(items, missing, log))


def _unanswered(items: list[EvalItem], missing: tuple[str, ...], log: AnswerLog) -> Iterator[str]:
    """Probes that tell kinds of missing knowledge apart, were asked, and brought nothing that could be read.

    Of contexts it must be most: a few that were read say little of a model whose other answers to them do not commit.
    """
    failed = [i for i in items if log.get(Probe.PLAIN, i.id).lenient is False]
    given = [with_context(i, log) for i in failed if log.of_item(Probe.ORACLE_CONTEXT, i.id)]
    read = {
        "ranked": any(
            rank(i, log, p) is not None for i in failed for p in (Probe.RANKED_QUESTION, Probe.RANKED_STATEMENT)
        ),
        "samples": any(a.lenient is not None for i in failed for a in log.of_item(Probe.SAMPLES, i.id)),
        "context": 2 * sum(any(right is not None for right in one) for one in given) > len(given),
    }
    yield from (name for name, was in read.items() if failed and name not in missing and not was)


def _given_contexts(items: list[EvalItem], log: AnswerLog) -> bool:
    return any(a.lenient is not None for i in items for a in log.of_item(Probe.ORACLE_CONTEXT, i.id))


def _either(draws: Array, kinds: tuple[str, ...], rng: np.random.Generator) -> Array:
    """The mass of kinds that no probe tells apart, divided between them in every way alike."""
    out = draws.copy()
    columns = [column for kind in kinds if not np.isnan(draws[0, column := CLASSES.index(kind)])]
    if columns:
        out[:, columns] = draws[:, columns].sum(1, keepdims=True) * rng.dirichlet(np.ones(len(columns)), len(draws))
    return out


def _as_format(draws: Array) -> Array:
    """Content that examples bring out of prompts that ask for nothing is not missing."""
    out = draws.copy()
    columns = [CLASSES.index(kind) for kind in (*KNOWLEDGE, "format_suppressed")]
    every = [CLASSES.index("format"), *columns]
    out[:, CLASSES.index("format")] = np.nan_to_num(draws[:, every]).sum(1)
    out[:, columns] *= 0.0
    return out


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


def _unexplained(items: list[EvalItem], seen: Evidence, z: Array, rule: RuleConfig, reader: Reader) -> Iterator[str]:
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
    off, error = {}, reader.mean()
    for probe, y in asked.items():
        shown = template(rule, probe)
        expected = (z * floored(seen.floors[probe], shown if shown.ndim == 1 else shown[:, 0])).sum(1)
        if probe in (*LEVELS, *COUNT, *READ_WINS):
            expected = expected * error.sensitivity + (1 - expected) * error.invented
        # What the demand costs may be gone wherever the demand is made, and contradicts nothing.
        told = (probe is Probe.FREE) | (z[:, SUPPRESSED] < 0.5)
        off[probe] = np.where(told, y - expected, np.nan)
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
