"""Fit the calibration of diagnose on slices with known ground truth.

Pass the `out` directories of finished diagnoses; each eval set needs a truth.json next to it: slice → verdict and kind.
Pools marked there as held out are not used. Everything except the templates is chosen by two-fold cross-validation: the
pools are split into halves, and each half is judged with templates fitted on the other.

    python -m scripts.planted.fit outputs/planted/a/run --version planted-3
    python diagnose.py rule.calibration=conf/calibration/planted-3.json …
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, expit, gammaln

from diagnose.config import ProbesConfig, RuleConfig
from diagnose.errors import BadInput
from diagnose.items.evalset import EvalSet
from diagnose.probes.missing import missing_probes
from diagnose.probes.table import COUNT, LEVELS, WINS
from diagnose.provenance import read_record
from diagnose.records import CLASSES, DiagnosisRun, rounded
from diagnose.verdict.calibration import Calibration
from diagnose.verdict.evidence import Evidence, gather, slice_floors
from scripts.planted import scores
from scripts.planted.slices import Pool, Recording, World, judged, recording, shipped_rule
from scripts.planted.stopping import stopped

Array = np.ndarray
SHARES = ((1.0,), (0.7, 0.3), (0.5, 0.5), (0.4, 0.3, 0.3))
"""Shares of the classes in a slice: pure ones and mixtures (hand-set)."""
SIZES = (32, 64)
OPTIONAL = ("format_suppressed",)
"""Classes that keep the templates of conf/rule where nobody has planted them."""
GRID = {"strength": (12.0, 36.0), "effective": (0.5, 0.7, 1.0)}
"""Hand-set."""
LEAST_ITEMS = 8
"""A rate over fewer items is not used (hand-set)."""
LEAST, MOST = 0.02, 0.98
"""Templates are clipped to this range, because an unseen recipe may do what the fitted ones never did (hand-set)."""


def main() -> int:
    args = parsed()
    try:
        sources = [(r := recording(run)).only(r.organisms(held_out=False)) for run in args.runs]
        check(sources)
        prior = replace(shipped_rule(), calibration=None)
        cases = list(worlds(args.runs, prior, args.worlds, args.seed))
        with ProcessPoolExecutor() as pool:
            tried = list(search(cases, prior, pool))
            best = taken(tried)
            print(f"chosen: {summary(best)}", flush=True)
            more = [c for c in worlds(args.runs, prior, 3 * args.worlds, args.seed + 1) if c[0].size == max(SIZES)]
            stops = at_the_stop(more, changed(prior, best), pool)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    found = Calibration(
        version=args.version,
        models=sorted({name for run in args.runs if (name := fingerprint(run))}),
        fitted_on={
            "command": " ".join(["python -m scripts.planted.fit", *sys.argv[1:]]),
            "organisms": sorted({f"{s.name}/{p.organism}" for s in sources for p in s.pools}),
            "items": sum(len(p.items) for s in sources for p in s.pools),
            "tried": rounded(tried, 4),
            "stopped": rounded(stops, 4),
        },
        strength=best["strength"],
        effective=best["effective"],
        templates=templates(sources, prior),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.version}.json"
    path.write_text(json.dumps(asdict(found), indent=1) + "\n")
    print(f"{path}\nto use it: python diagnose.py rule.calibration={path} …")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="out=DIR of finished diagnoses")
    parser.add_argument("--version", required=True, help="name of the calibration, recorded in diagnosis.json")
    parser.add_argument("--out", type=Path, default=Path("conf/calibration"))
    parser.add_argument("--worlds", type=int, default=2, help="simulated eval sets per half, mixture and size")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def check(sources: Sequence[Recording]) -> None:
    """Every class but the optional ones needs one slice for fitting and another for validation.

    Raises:
        BadInput: naming the classes with fewer than two slices.
    """
    for source in sources:
        counts = Counter(truth for truth, _ in {(p.truth, p.organism) for p in source.pools})
        few = [f"{name} {counts[name]}" for name in CLASSES if counts[name] < 2 and name not in OPTIONAL]
        if few:
            raise BadInput(
                f"{source.name}: a calibration needs two slices or more of each class; found: {', '.join(few)}"
            )


def fingerprint(run: Path) -> str | None:
    """Hash of the weights and the prompt format that were diagnosed; None for a server or a log of answers."""
    return read_record(run / "run.json", DiagnosisRun).fingerprint


# ---------------------------------------------------------------- templates


def templates(sources: Sequence[Recording], prior: RuleConfig) -> dict[str, Any]:
    """Per probe and class: the mean over organisms; the rule's own template counts as one more organism."""
    seen: dict[tuple[str, str], list[Array]] = {}
    for truth, shown in (o for source in sources for o in organisms(source, prior)):
        for probe, rate in shown.items():
            seen.setdefault((probe, truth), []).append(rate)
    out: dict[str, Any] = {}
    for probe, by_class in prior.templates.items():
        out[probe] = {}
        for name, believed in by_class.items():
            mean = mean_of([np.array(believed, float), *seen.get((probe, name), [])])
            if probe == "samples":
                out[probe][name] = [round(float(mean[0].clip(LEAST, MOST)), 3), round(float(mean[1]), 2)]
            else:
                clipped = np.round(mean.clip(LEAST, MOST), 3).tolist()
                out[probe][name] = clipped
    return out


def organisms(source: Recording, rule: RuleConfig) -> Iterator[tuple[str, dict[str, Array]]]:
    """Per organism: its class, and probe → floor-corrected rates, averaged over its pools."""
    by_name: dict[str, list[Pool]] = {}
    for pool in source.pools:
        by_name.setdefault(pool.organism, []).append(pool)
    for _, pools in sorted(by_name.items()):
        shown = [rates(seen_of(pool, source, rule)) for pool in pools]
        yield pools[0].truth, {probe: mean_of([s[probe] for s in shown]) for probe in shown[0]}


def mean_of(values: list[Array]) -> Array:
    """Mean ignoring NaN; NaN if all values are."""
    stacked = np.array(values, float)
    known = (~np.isnan(stacked)).sum(0)
    return np.asarray(np.where(known, np.nansum(stacked, 0) / np.maximum(known, 1), np.nan))


def seen_of(pool: Pool, source: Recording, rule: RuleConfig) -> Evidence:
    """The evidence of all probes on a pool."""
    items = list(pool.items)
    name = items[0].slices[0]
    log = source.log.part({i.id for i in items})
    missing = {name: missing_probes(items, EvalSet(items, {name: []}, ""), ProbesConfig(), name)}
    return gather(items, log, missing, {name: slice_floors(items, log)}, rule)


def rates(seen: Evidence) -> dict[str, Array]:
    """Success rates, corrected for the floor."""
    out: dict[str, Array] = {}
    for probe in LEVELS:
        lenient, strict = seen.levels[probe].T
        form = seen.format_floors.get(probe, np.zeros(len(strict)))
        formed = np.where(lenient > 0, strict / np.maximum(lenient, 1e-9), np.nan)
        out[probe] = np.array([above(lenient, seen.floors[probe]), above(formed, form)])
    for probe in WINS:
        out[probe] = np.array(above(seen.wins[probe], seen.floors[probe]))
    for probe in COUNT:
        out[probe] = beta_binomial(seen.counts[probe])
    return out


def above(y: Array, floor: Array) -> float:
    """(y - g) / (1 - g) of the means; NaN where fewer than LEAST_ITEMS were asked."""
    asked = ~np.isnan(y)
    if asked.sum() < LEAST_ITEMS or (g := float(floor[asked].mean())) >= 1:
        return float("nan")
    return max(0.0, (float(y[asked].mean()) - g) / (1 - g))


def beta_binomial(counts: Array) -> Array:
    """Mean and concentration of the best-fitting beta-binomial; NaN where fewer than LEAST_ITEMS were asked."""
    x, n = counts[counts[:, 1] > 0].T
    if len(x) < LEAST_ITEMS:
        return np.full(2, np.nan)

    def loss(free: Array) -> float:
        mean, size = expit(free[0]), np.exp(free[1])
        a, b = mean * size, (1 - mean) * size
        choose = gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1)
        # A weak prior on the concentration (hand-set): if all items score 0, any value fits.
        return float(-(choose + betaln(x + a, n - x + b) - betaln(a, b)).sum() + 0.5 * (free[1] - np.log(2)) ** 2)

    best = minimize(loss, np.array([0.0, 0.7]), method="Nelder-Mead").x
    return np.array([expit(best[0]), np.exp(best[1])])


# ---------------------------------------------------------------- everything else

Case = tuple[World, dict[str, Any]]
"""A world, and templates fitted on organisms that are not in it."""


def worlds(runs: Sequence[Path], prior: RuleConfig, count: int, seed: int) -> Iterator[Case]:
    """Both halves of every run, as pure slices and mixtures of all sizes."""
    for number, run in enumerate(runs):
        for half, (mine, others) in enumerate(itertools.permutations(split(recording(run)))):
            foreign = templates([recording(run).only(others)], prior)
            for shares, size, draw in itertools.product(SHARES, SIZES, range(count)):
                yield World(run, mine, shares, size, (seed, number, half, SHARES.index(shares), draw)), foreign


def search(cases: Sequence[Case], prior: RuleConfig, pool: ProcessPoolExecutor) -> Iterator[dict[str, Any]]:
    """Every setting of GRID with its log loss of the verdict."""
    for values in itertools.product(*GRID.values()):
        setting = dict(zip(GRID, values, strict=True))
        rule = changed(prior, setting)
        jobs = [(world, replace(rule, templates=foreign), k) for k, (world, foreign) in enumerate(cases)]
        found = setting | measured([s for part in pool.map(judge, jobs) for s in part])
        print(summary(found), flush=True)
        yield found


def at_the_stop(cases: Sequence[Case], rule: RuleConfig, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """What the verdicts at which the adaptive diagnosis stops state, and how often they are right."""
    jobs = [(world, replace(rule, templates=foreign), k) for k, (world, foreign) in enumerate(cases)]
    slices = [s for part in pool.map(stop, jobs) for s in part]
    stated = [scores.stated(s) for s in slices]
    found = {
        "right": float(np.mean([right for _, right in stated])),
        "stated": float(np.mean([p for p, _ in stated])),
        "items": float(np.mean([s["n"] for s in slices])),
        "slices": len(slices),
    }
    print("stopped: ", "  ".join(f"{k} {v:.3g}" for k, v in found.items()), flush=True)
    return found


def taken(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """Items are discounted (`effective`) no more than it takes: the largest value at which nothing shows that 90 %
    intervals hold the truth too rarely; then the lowest log loss.
    """
    covering = [t for t in tried if t["coverage90"] + 1.96 * t["coverage90_se"] >= 0.9]
    return max(covering or [max(tried, key=lambda t: t["coverage90"])], key=lambda t: (t["effective"], -t["loss"]))


def split(source: Recording) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the organisms for fitting into two halves: of each class, every second one."""
    by_class: dict[str, list[str]] = {}
    known = source.organisms(held_out=False)
    for pool in source.only(known).pools:
        names = by_class.setdefault(pool.truth, [])
        if pool.organism not in names:
            names.append(pool.organism)
    first = {name for names in by_class.values() for name in sorted(names)[::2]}
    return tuple(n for n in known if n in first), tuple(n for n in known if n not in first)


def judge(job: tuple[World, RuleConfig, int]) -> list[dict[str, Any]]:
    world, rule, seed = job
    return judged(world.draw(), recording(world.run).log, rule, seed)


def stop(job: tuple[World, RuleConfig, int]) -> list[dict[str, Any]]:
    world, rule, _ = job
    return stopped(world.draw(), recording(world.run).log, rule, ProbesConfig())


def changed(prior: RuleConfig, setting: dict[str, Any]) -> RuleConfig:
    """The rule with a setting of GRID."""
    return replace(prior, **{name: setting[name] for name in GRID})


def measured(slices: list[dict[str, Any]]) -> dict[str, Any]:
    """Log loss and accuracy of the verdicts, and coverage."""
    slices = [s for s in slices if s["p_classes"]]
    p = np.array([list(s["p_classes"].values()) for s in slices])
    right = np.array([[c in s["right"] for c in s["p_classes"]] for s in slices])
    losses = -np.log(((p / p.sum(1, keepdims=True)) * right).sum(1).clip(1e-12))
    covered = np.array([np.mean(s["covered"]) for s in slices if s["covered"]])  # the shares of a slice sum to one
    return {
        "loss": float(losses.mean()),
        "right": float(np.mean([s["best"] in s["right"] for s in slices])),
        "coverage90": float(covered.mean()),
        "coverage90_se": float(covered.std() / np.sqrt(len(covered))),
        "slices": len(slices),
    }


def summary(found: dict[str, Any]) -> str:
    return (
        f"strength {found['strength']:4.0f}  effective {found['effective']:.1f}   log loss {found['loss']:.3f}  "
        f"right {found['right']:.3f}  90 % covers {found['coverage90']:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
