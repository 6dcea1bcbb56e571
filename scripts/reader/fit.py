"""Fit what the lenient reading gets wrong: Beta priors of its sensitivity and of the wrong answers it takes for right.

From answers that people judged (EVOUNA: exact) and from flagged solutions (GSM8K: number), per kind of thing asked
for, because names are read far better than places. The means are measured; so is how much systems differ, but the
weight is at most MOST, and nearly always that: other tasks differ by more than systems do. What no public answers
measure gets a wide hand-set prior.

    python -m scripts.reader.fit --data DIR                 # writes conf/calibration/reader-1.json, a minute on 2 cores
    python -m scripts.reader.fit --data DIR --check         # and how well it holds for a system that it has not seen

`--check` writes scripts/results/reader_prior.json: each system of Natural Questions with the prior of the four others;
the systems of TriviaQA, another task, with the prior of the file; and a simulated reader of sensitivity .75 and
specificity .95, with and without 20 labels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diagnose.provenance import ROOT, file_sha
from diagnose.records import rounded
from diagnose.verdict.reader_error import Prior, ReaderPrior, Readings, asked_for, reader_error
from scripts.bench_reader import DATA
from scripts.reader.cases import SOURCES, Case
from scripts.reader.scores import Readings as Read
from scripts.reader.scores import rules

MOST = 14.0
"""Answers that a prior may weigh (hand-set): other tasks differ from the measured ones by more than systems do."""
UNMEASURED = Prior((12.0, 2.0), (1.0, 20.0))
"""Hand-set: half of its weight above a sensitivity of .87, and wide."""
WEIGHED = {"EVOUNA Natural Questions": "exact", "GSM8K example solutions": "number"}
SMALL, LABELLED = 100, 20
"""Answers of a small slice, and labels in it."""
REPEATS = 100
LIGHT = 0.05
"""Least pseudo-count (hand-set)."""
LEAST = 10
"""Answers of a system from which its rate counts."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="as of scripts.bench_reader")
    parser.add_argument("--out", type=Path, default=ROOT / "conf" / "calibration" / "reader-1.json")
    parser.add_argument("--check", action="store_true", help="also measure how well it holds")
    args = parser.parse_args()
    graders: dict[str, dict[str, Prior]] = {}
    fitted_on: dict[str, Any] = {}
    exact: tuple[list[Case], Read] = ([], [])
    for source in (s for s in SOURCES if s.block in WEIGHED):
        path = args.data / source.path
        if not path.exists():
            print(f"{source.block}: not at {path}; get it from {source.url}", file=sys.stderr)
            return 2
        cases = source.load(path, source)
        read = rules(cases)
        kind = WEIGHED[source.block]
        graders[kind] = fitted(cases, read)
        fitted_on[kind] = {"source": source.url, "sha256": file_sha(path)[:16], "answers": len(cases)}
        if kind == "exact":
            exact = (cases, read)
    args.out.write_text(json.dumps(rounded(_file(args.out.stem, fitted_on, graders), 3), indent=1) + "\n")
    print(f"written {args.out}")
    if args.check:
        found = {"systems": list(unseen_systems(*exact)), "labels": list(worse_reader(graders["exact"]))}
        found["another task"] = list(another_task(args.data, ReaderPrior("", {}, graders, UNMEASURED)))
        path = ROOT / "scripts" / "results" / "reader_prior.json"
        path.write_text(json.dumps(rounded(found, 3), indent=1) + "\n")
        print(f"written {path}")
    return 0


def _file(version: str, fitted_on: dict[str, Any], graders: dict[str, dict[str, Prior]]) -> dict[str, Any]:
    def shown(prior: Prior) -> dict[str, Any]:
        return {"sensitivity": prior.sensitivity, "invented": prior.invented}

    priors = {kind: {what: shown(p) for what, p in sorted(of.items())} for kind, of in sorted(graders.items())}
    return {"version": version, "fitted_on": fitted_on, "graders": priors, "unmeasured": shown(UNMEASURED)}


# ---------------------------------------------------------------- the fit


def fitted(cases: Sequence[Case], read: Read) -> dict[str, Prior]:
    """What is asked for → prior, with each system as one group; `other` alone where no question word matters."""
    by_cell: dict[str, dict[str, list[tuple[bool, bool]]]] = defaultdict(lambda: defaultdict(list))
    for case, lenient in zip(cases, read, strict=True):
        if lenient is not None:
            what = asked_for(case.item.turns[-1][1]) if case.item.grader.kind == "exact" else "other"
            by_cell[what][case.group].append((lenient, case.truth == "right"))
    return {what: _prior(list(groups.values())) for what, groups in by_cell.items()}


def _prior(groups: list[list[tuple[bool, bool]]]) -> Prior:
    def beta(truth: bool) -> tuple[float, float]:
        of = [[read for read, right in g if right is truth] for g in groups]
        return moments([(sum(reads), len(reads)) for reads in of if len(reads) >= LEAST])

    return Prior(beta(True), beta(False))


def moments(groups: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Beta pseudo-counts from (successes, trials) of groups: the variance between them less what chance explains.

    The weighted estimator of DerSimonian and Laird (1986), with one binomial variance for all. Half a success and half
    a failure are added, so that a rate of 0 or 1 is not certain; the weight is between 2 and MOST.
    """
    k, n = np.array(groups, float).T
    mean = (k.sum() + 0.5) / (n.sum() + 1)
    spread = (n * (k / n - mean) ** 2).sum() - (len(n) - 1) * mean * (1 - mean)
    between = spread / max(n.sum() - (n**2).sum() / n.sum(), 1e-9)
    size = min(max(mean * (1 - mean) / between - 1, 2.0), MOST) if between > 0 else MOST
    return max(float(mean * size), LIGHT), max(float((1 - mean) * size), LIGHT)


# ---------------------------------------------------------------- how well it holds


def unseen_systems(cases: Sequence[Case], read: Read) -> Any:
    """Each system and half with the prior of the other systems: does the 90 % interval hold people's share?"""
    pairs = [(case, lenient) for case, lenient in zip(cases, read, strict=True) if lenient is not None]
    rng = np.random.default_rng(0)
    for system in dict.fromkeys(case.group for case, _ in pairs):
        others = [pair for pair in pairs if pair[0].group != system]
        known = fitted([case for case, _ in others], [lenient for _, lenient in others])
        prior = ReaderPrior("", {}, {"exact": known}, UNMEASURED)
        for half in ("even", "odd"):
            mine = [pair for pair in pairs if pair[0].group == system and pair[0].half == half]
            yield {"system": system, "half": half, **_held(mine, prior, rng)}


def another_task(data: Path, prior: ReaderPrior) -> Any:
    """The systems of TriviaQA with the prior of Natural Questions; nothing where it is not there."""
    source = next(s for s in SOURCES if "TriviaQA" in s.block)
    if not (data / source.path).exists():
        return
    cases = source.load(data / source.path, source)
    pairs = [(case, lenient) for case, lenient in zip(cases, rules(cases), strict=True) if lenient is not None]
    rng = np.random.default_rng(2)
    for system in dict.fromkeys(case.group for case, _ in pairs):
        yield {"system": system, **_held([pair for pair in pairs if pair[0].group == system], prior, rng)}


def _held(pairs: Sequence[tuple[Case, bool | None]], prior: ReaderPrior, rng: np.random.Generator) -> dict[str, Any]:
    """Does the 90 % interval of the share of right content hold people's, of all these answers and of SMALL of them?"""
    people = float(np.mean([case.truth == "right" for case, _ in pairs]))
    low, high = _interval(pairs, prior, rng)
    some = [[pairs[i] for i in rng.choice(len(pairs), SMALL, replace=False)] for _ in range(REPEATS)]
    small = [_interval(part, prior, rng) for part in some]
    return {
        "n": len(pairs),
        "read": float(np.mean([lenient for _, lenient in pairs])),
        "people": people,
        "interval90": [low, high],
        "holds": low <= people <= high,
        f"width_of_{SMALL}": float(np.median([b - a for a, b in small])),
        f"holds_of_{SMALL}": float(np.mean([a <= people <= b for a, b in small])),
    }


def _interval(pairs: Sequence[tuple[Case, bool | None]], prior: ReaderPrior, rng: np.random.Generator) -> list[float]:
    right = sum(bool(lenient) for _, lenient in pairs)
    priors = [p for case, _ in pairs if (p := prior.of(case.item)) is not None]
    error = reader_error(priors, Readings(0, right, len(pairs) - right), 2000, rng)
    assert error is not None
    return [float(q) for q in np.quantile(error.share, [0.05, 0.95])]


def worse_reader(priors: dict[str, Prior]) -> Any:
    """A reader of sensitivity .75, specificity .95: how often does the 90 % interval hold the true share?"""
    rng = np.random.default_rng(1)
    for what in ("other", "mixed"):
        mix = [priors["other"]] * SMALL if what == "other" else [p for p in priors.values() for _ in range(SMALL // 5)]
        for share in (0.3, 0.5, 0.7, 0.9):
            runs = [_labelled_run(mix, share, rng) for _ in range(4 * REPEATS)]
            without, with_labels, width = np.mean(runs, 0)
            yield {
                "asked for": what,
                "share": share,
                "holds_without_labels": float(without),
                f"holds_with_{LABELLED}": float(with_labels),
                "width_with_labels": float(width),
            }


def _labelled_run(mix: list[Prior], share: float, rng: np.random.Generator) -> tuple[bool, bool, float]:
    truth = rng.random(SMALL) < share
    read = np.where(truth, rng.random(SMALL) < 0.75, rng.random(SMALL) < 0.05)
    half = [rng.permutation(np.flatnonzero(read == side)) for side in (True, False)]
    seen_right = half[0][: LABELLED // 2]
    unclear = half[1][: LABELLED - len(seen_right)]
    labels = tuple(float((truth[part] == right).sum()) for part in (seen_right, unclear) for right in (True, False))
    n = float(read.sum())
    bounds = []
    for said in ((0.0, 0.0, 0.0, 0.0), (labels[0], labels[1], labels[2], labels[3])):
        error = reader_error(mix, Readings(0, n, SMALL - n, labels=said), 2000, rng)
        assert error is not None
        bounds.append(np.quantile(error.share, [0.05, 0.95]))
    real = truth.mean()
    (a, b), (c, d) = bounds
    return bool(a <= real <= b), bool(c <= real <= d), float(d - c)


if __name__ == "__main__":
    sys.exit(main())
