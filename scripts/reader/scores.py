"""Scores of readers against known readings: who reads what, and the rates with intervals that respect clusters."""

from __future__ import annotations

import os
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import snowballstemmer
from statsmodels.stats.proportion import proportion_confint

from diagnose.config import ReaderConfig
from diagnose.grading.grade import grade
from diagnose.grading.grader import NEEDS_NO_GOLD
from diagnose.grading.known_texts import content
from diagnose.probes.model_reader import ModelReader
from diagnose.records import EvalItem, rounded
from scripts.reader.cases import Case

Readings = list[bool | None]
"""One per case: the content is there, is not, or the answer is unread."""
Reader = Callable[[Sequence[Case]], Readings]
WORTH_PROCESSES = 2000
"""From so many answers on, several processes read them (hand-set)."""


# ---------------------------------------------------------------- readers


def rules(cases: Sequence[Case]) -> Readings:
    """The lenient reading of diagnose."""
    if len(cases) < WORTH_PROCESSES:
        return [_lenient(case) for case in cases]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(_lenient, cases, chunksize=200))


def _lenient(case: Case) -> bool | None:
    return grade(case.item, case.text, case.cut_off).lenient


def by_model(cases: Sequence[Case], path: str) -> Readings:
    """The reading with `reader=model reader.path=PATH`."""
    reader = ModelReader(ReaderConfig(by="model", path=path))
    responses = [(case.item, case.text, case.cut_off) for case in cases]
    return [reading.lenient for reading in reader.read(responses, [grade(*response) for response in responses])]


def contained(cases: Sequence[Case]) -> Readings:
    """Rival (a): a gold answer is in the answer, both normalised as SQuAD does; leaves nothing unread."""
    return [any(f" {_squad(g)} " in f" {_squad(c.text)} " for g in golds(c.item)) for c in cases]


def stemmed(cases: Sequence[Case]) -> Readings:
    """Rival (b): the stems of all content words of a gold answer are in the answer; leaves nothing unread."""
    return [any(_stems(g) <= _stems(c.text) for g in golds(c.item)) for c in cases]


def golds(item: EvalItem) -> list[str]:
    """The gold answers as bare text: of an option its text, of a JSON object with one value that value."""
    options = dict(zip(string.ascii_uppercase, item.choices, strict=False))
    found = [content(item, options.get(target, target)) for target in item.targets]
    return [text for text in found if _squad(text)]


@lru_cache(maxsize=1 << 15)
def _squad(text: str) -> str:
    """Lower case, without punctuation and articles (the normalisation of SQuAD's evaluation script)."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


_STEMMER = snowballstemmer.stemmer("english")
_FUNCTION = """of in on at to for and or is are was were be by with from as that it"""


@lru_cache(maxsize=1 << 15)
def _stems(text: str) -> frozenset[str]:
    words = _squad(text).split()
    return frozenset(_STEMMER.stemWords([w for w in words if w not in _FUNCTION.split()] or words))


RIVALS: dict[str, Reader] = {"contained": contained, "stemmed": stemmed}


def measurable(case: Case, reader: str) -> bool:
    """The rivals need a gold answer to look for."""
    return reader not in RIVALS or (case.item.grader.kind not in NEEDS_NO_GOLD and bool(golds(case.item)))


# ---------------------------------------------------------------- scores


@dataclass(frozen=True)
class Share:
    """k of n with its 95 % interval, which allows for answers to one question being alike."""

    k: int
    n: int
    clusters: int
    low: float | None
    high: float | None

    @property
    def value(self) -> float | None:
        """None of nothing."""
        return self.k / self.n if self.n else None


@dataclass(frozen=True)
class Score:
    """One reader on one group of answers. Unread is never wrong: it has rates of its own."""

    block: str
    group: str
    half: str
    grader: str
    reader: str
    right: int
    """Answers that are right, by the known truth …"""
    wrong: int
    unread: int
    """… and that should be left unread."""
    sensitivity: Share
    """Of the right answers that it READ: found."""
    found: Share
    """Of ALL right answers, those left unread included: found. Never above the sensitivity."""
    specificity: Share
    """Of the wrong answers that it READ: not taken for right."""
    unread_right: Share
    """Of all right answers: left unread."""
    unread_wrong: Share
    """Of all wrong answers: left unread."""
    declined: Share
    """Of the answers that should be left unread: left unread."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; null for a share of nothing."""
        plain = rounded(asdict(self), 4)
        return {k: None if isinstance(v, dict) and not v["n"] else v for k, v in plain.items()}


def share(values: Sequence[bool], clusters: Sequence[str]) -> Share:
    """A share with the Jeffreys interval of its effective sample size (Korn and Graubard 1998).

    The design effect is the linearised variance of the share between clusters, over that of independent answers; it is
    never taken to be below 1. Where all values are the same there is no variance: then a cluster counts once.
    """
    k, n = sum(values), len(values)
    by_cluster: dict[str, list[bool]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        by_cluster[cluster].append(value)
    if n == 0:
        return Share(0, 0, 0, None, None)
    p, groups = k / n, len(by_cluster)
    if k in (0, n) or groups == 1:
        effective = float(groups)
    else:
        residuals = np.array([sum(part) - p * len(part) for part in by_cluster.values()])
        variance = groups / (groups - 1) * float((residuals**2).sum()) / n**2
        effective = n / max(1.0, variance / (p * (1 - p) / (n - 1)))
    low, high = proportion_confint(p * effective, effective, 0.05, "jeffreys")
    return Share(k, n, groups, 0.0 if k == 0 else float(low), 1.0 if k == n else float(high))


def score(cases: Sequence[Case], readings: Sequence[bool | None], reader: str, name: Sequence[str]) -> Score:
    """Score one group; `name` is its block, group, half and grader."""
    by_truth: dict[str, list[tuple[bool | None, str]]] = defaultdict(list)
    for case, reading in zip(cases, readings, strict=True):
        by_truth[case.truth].append((reading, case.cluster))

    def of(truth: str, holds: Callable[[bool | None], bool], among_read: bool = False) -> Share:
        kept = [(r, c) for r, c in by_truth[truth] if r is not None or not among_read]
        return share([holds(r) for r, _ in kept], [c for _, c in kept])

    counts = Counter(case.truth for case in cases)
    block, group, half, grader = name
    return Score(
        block,
        group,
        half,
        grader,
        reader,
        right=counts["right"],
        wrong=counts["wrong"],
        unread=counts["unread"],
        sensitivity=of("right", lambda r: r is True, among_read=True),
        found=of("right", lambda r: r is True),
        specificity=of("wrong", lambda r: r is False, among_read=True),
        unread_right=of("right", lambda r: r is None),
        unread_wrong=of("wrong", lambda r: r is None),
        declined=of("unread", lambda r: r is None),
    )


ALL = "all"
HALVES = ("even", "odd")


def scores(cases: Sequence[Case], readings: dict[str, Readings]) -> list[Score]:
    """Every reader on every group, half and grader, and on all of a block together; the totals come last."""
    places: dict[tuple[str, str, str, str], list[int]] = {}
    for k, case in enumerate(cases):
        for name in _names(case):
            places.setdefault(name, []).append(k)
    rank = {name: k for k, name in enumerate(dict.fromkeys(part for c in cases for part in (c.block, c.group)))}
    rank |= {half: k for k, half in enumerate(HALVES)} | {ALL: len(rank)}
    ordered = sorted(places, key=lambda name: [rank.get(part, 0) for part in name])
    found = []
    for name in ordered:
        for reader, read in readings.items():
            if kept := [k for k in places[name] if measurable(cases[k], reader)]:
                found.append(score([cases[k] for k in kept], [read[k] for k in kept], reader, name))
    return found


def _names(case: Case) -> Iterable[tuple[str, str, str, str]]:
    """The groups that a case counts in: (block, group, half, grader)."""
    kind = case.item.grader.kind
    names: list[tuple[str, str, str, str]]
    names = [(case.block, case.group, half, kind) for half in (case.half or ALL, ALL)]
    names += [(case.block, ALL, half, grader) for half in (case.half or ALL, ALL) for grader in (kind, ALL)]
    return dict.fromkeys(names)
