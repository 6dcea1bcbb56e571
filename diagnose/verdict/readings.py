"""How the plain answers of a slice were read, what people say of them, and the reader's error that follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np

from diagnose.config import RuleConfig
from diagnose.grading.known_texts import content
from diagnose.probes.answers import AnswerLog
from diagnose.probes.table import Probe
from diagnose.records import CLASSES, KNOWLEDGE, EvalItem, Rate
from diagnose.text import hash_order
from diagnose.verdict.evidence import effective_weights, names
from diagnose.verdict.likelihood import Reader
from diagnose.verdict.reader_error import ERRORLESS, ReaderError, Readings, read_prior, reader_error

DRAWS = 1000
"""Of each slice's reader error (hand-set)."""
LABELS = 20
"""Answers of a slice that people are asked to label (hand-set; scripts/results/reader_prior.json tries it)."""
Array = np.ndarray


@dataclass(frozen=True)
class Labels:
    """What people say of plain answers: item id → has it the right content?"""

    right: Mapping[str, bool] = field(default_factory=dict)
    at_random: frozenset[str] = frozenset()
    """Those that were picked by chance, and so say something about the reader."""


def apart(items: list[EvalItem], log: AnswerLog) -> dict[str, bool]:
    """item id → was its wrong plain answer recognised as another answer of its type?

    As one of its options, or word for word as what another item asks for.

    Args:
        items: all items of a slice.
    """
    wanted = {_bare(i, t): i.id for i in items for t in i.targets}
    out = {}
    for item in items:
        answer = log.get(Probe.PLAIN, item.id)
        if answer.lenient is not False:
            continue
        other = wanted.get(_bare(item, answer.text), item.id) != item.id
        out[item.id] = other or any(names(item, option, answer.text) for option in item.options)
    return out


def doubted(items: list[EvalItem], log: AnswerLog) -> list[EvalItem]:
    """Items whose plain answers a person may read otherwise, in random order: an unclear one, one read as right, …

    Args:
        items: all items of a slice.
    """
    plain = {i.id: log.get(Probe.PLAIN, i.id) for i in items}
    other = apart(items, log)
    open_ones = [i for i in items if plain[i.id].lenient is not None and not plain[i.id].strict]
    open_ones = [i for i in open_ones if i.grader.kind not in ERRORLESS and not other.get(i.id)]
    shuffled = sorted(open_ones, key=lambda i: hash_order(f"audit {i.id}"))
    unclear, right = ([i for i in shuffled if bool(plain[i.id].lenient) is read] for read in (False, True))
    both = [i for pair in zip_longest(unclear, right) for i in pair]
    return [i for i in both if i is not None]


def content_missing(posterior: list[float]) -> float:
    """Probability that an item's content is missing, from its posterior over CLASSES."""
    return sum(posterior[CLASSES.index(kind)] for kind in KNOWLEDGE)


def _bare(item: EvalItem, text: str) -> str:
    return " ".join(content(item, text).casefold().strip(" .\n\"'*").split())


def reader_errors(
    members: Mapping[str, list[EvalItem]],
    log: AnswerLog,
    rule: RuleConfig,
    labels: Labels,
    by_model: bool,
    rng: np.random.Generator,
) -> dict[str, tuple[ReaderError, Rate]]:
    """Slice → posterior of the reader's error, and of the share of right content; without those it reads without error.

    Args:
        members: the items of each slice.
        by_model: a model reads them, of which nothing is known.
    """
    if rule.reader_error is None:
        return {}
    prior = read_prior(rule.reader_error)
    out = {}
    for name, part in members.items():
        read = {i.id: log.get(Probe.PLAIN, i.id).lenient for i in part}
        priors = {i.id: p for i in part if read[i.id] is not None and (p := prior.of(i, by_model)) is not None}
        seen = _readings(part, set(priors), log, rule, labels)
        if error := reader_error(list(priors.values()), seen, DRAWS, rng):
            certain = [bool(read[i.id]) for i in part if read[i.id] is not None and i.id not in priors]
            out[name] = error, error.content(len(priors), (sum(certain), len(certain)))
    return out


def _readings(items: list[EvalItem], doubtful: set[str], log: AnswerLog, rule: RuleConfig, labels: Labels) -> Readings:
    """Numbers of readings of doubtful items; those of clustered items are effective ones."""
    other = apart(items, log)
    mine = [i for i in items if i.id in doubtful]
    n: Counter[str] = Counter()
    said: Counter[tuple[str, bool]] = Counter()
    for item, weight in zip(mine, effective_weights(mine, rule.icc), strict=True):
        answer = log.get(Probe.PLAIN, item.id)
        wrong = "apart" if other.get(item.id) else "unclear"
        read = "strict" if answer.strict else "lenient" if answer.lenient else wrong
        n[read] += weight
        if item.id in labels.at_random and item.id in labels.right:
            said[read, labels.right[item.id]] += weight
    found, false = (float(said["lenient", truth]) for truth in (True, False))
    missed, wrong_too = (float(said["unclear", truth]) for truth in (True, False))
    strict, lenient, unclear, wrong_ones = (float(n[read]) for read in ("strict", "lenient", "unclear", "apart"))
    return Readings(strict, lenient, unclear, wrong_ones, (found, false, missed, wrong_too))


def reader_of(
    items: list[EvalItem],
    home: Mapping[str, str],
    errors: Mapping[str, ReaderError],
    log: AnswerLog,
    rule: RuleConfig,
    labels: Labels,
    by_model: bool,
) -> Reader:
    """The reader of all items, each with the error of its largest slice.

    Args:
        home: item id → that slice.
        log: the answers as they were read, without labels.
    """
    groups = list(errors)
    prior = read_prior(rule.reader_error) if rule.reader_error else None
    read = {i.id: log.get(Probe.PLAIN, i.id).lenient for i in items}
    other: dict[str, bool] = {}
    for name in sorted(set(home.values())):
        other |= apart([i for i in items if home[i.id] == name and read[i.id] is not None], log)

    def column(item: EvalItem) -> int:
        doubtful = prior is not None and prior.of(item, by_model) is not None and home[item.id] in errors
        return groups.index(home[item.id]) if doubtful else -1

    none = np.zeros((1, 0))
    return Reader(
        group=np.array([column(i) for i in items], int),
        sensitivity=np.stack([e.sensitivity for e in errors.values()], 1) if errors else none,
        invented=np.stack([e.invented for e in errors.values()], 1) if errors else none,
        told_apart=np.stack([e.apart for e in errors.values()], 1) if errors else none,
        apart=np.array([other.get(i.id, False) and not labels.right.get(i.id, False) for i in items]),
        labelled=np.array([i.id in labels.right for i in items]),
        missed=np.array([labels.right.get(i.id, False) and read[i.id] is False for i in items]),
    )
