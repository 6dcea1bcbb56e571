"""Fit the calibration of diagnose on slices whose truth is known.

Give the `out` directories of finished diagnoses; beside each eval set lies a truth.json: slice → verdict and kind.
Pools that it marks as held out are not read. Everything but the templates is chosen by what it does on pools that the
templates were not fitted on: pools are split in two, and each half is judged with templates of the other.

    python -m scripts.planted.fit outputs/planted/a/run --version planted-1
    python diagnose.py rule.calibration=conf/calibration/planted-1.json …
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

from diagnose.calibration import Calibration
from diagnose.config import ProbesConfig, RuleConfig
from diagnose.errors import BadInput
from diagnose.evalset import EvalSet
from diagnose.evidence import LEVELS, WINS, Evidence, gather, slice_floors
from diagnose.probes import missing_probes
from diagnose.records import CLASSES, rounded
from scripts.planted.slices import Pool, Recording, World, judged, recording, shipped_rule

Array = np.ndarray
SHARES = ((1.0,), (0.7, 0.3), (0.5, 0.5), (0.4, 0.3, 0.3))
"""Of the classes in a slice: pure ones and the mixtures of the issue."""
SIZES = (32, 64)
GRID = {"strength": (12.0, 36.0), "weights": (0.7, 1.0), "effective": (0.3, 0.5, 0.7, 1.0)}
LEAST_ITEMS = 8
LEAST, MOST = 0.02, 0.98
"""Templates stay off 0 and 1: what two recipes never did, a third may."""


def main() -> int:
    args = parsed()
    try:
        sources = [(r := recording(run)).only(r.organisms(held_out=False)) for run in args.runs]
        check(sources)
        tried = list(search(args.runs, replace(shipped_rule(), calibration=None), args.worlds, args.seed))
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    prior = replace(shipped_rule(), calibration=None)
    best = taken(tried)
    print(f"taken: {summary(best)}")
    found = Calibration(
        version=args.version,
        families=sorted({name for run in args.runs if (name := family(run))}),
        fitted_on={
            "command": " ".join(["python -m scripts.planted.fit", *sys.argv[1:]]),
            "organisms": sorted({f"{s.name}/{p.organism}" for s in sources for p in s.pools}),
            "items": sum(len(p.items) for s in sources for p in s.pools),
            "tried": [rounded({k: v for k, v in t.items() if k != "losses"}, 4) for t in tried],
        },
        strength=best["strength"],
        effective=best["effective"],
        temperature=round(best["temperature"], 3),
        weights=weights(best["weights"], prior),
        templates=templates(sources, prior),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.version}.json"
    path.write_text(json.dumps(asdict(found), indent=1) + "\n")
    print(f"{path}\nuse it: python diagnose.py rule.calibration={path} …")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="out=DIR of finished diagnoses")
    parser.add_argument("--version", required=True, help="name of the calibration, as diagnosis.json will state it")
    parser.add_argument("--out", type=Path, default=Path("conf/calibration"))
    parser.add_argument("--worlds", type=int, default=2, help="per half, mixture and size")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def check(sources: Sequence[Recording]) -> None:
    """Every class needs a slice to fit on and another to try it on.

    Raises:
        BadInput: naming the classes that have fewer than two.
    """
    for source in sources:
        counts = Counter(truth for truth, _ in {(p.truth, p.organism) for p in source.pools})
        few = [f"{name} {counts[name]}" for name in CLASSES if counts[name] < 2]
        if few:
            raise BadInput(
                f"{source.name}: a calibration needs two slices or more of each class; found: {', '.join(few)}"
            )


def family(run: Path) -> str | None:
    """Type of the model that was diagnosed, a served model's name; None: a log of answers says neither."""
    found = json.loads((run / "run.json").read_text()).get("family")
    return str(found) if found else None


# ---------------------------------------------------------------- templates


def templates(sources: Sequence[Recording], prior: RuleConfig) -> dict[str, Any]:
    """Per rung and class: the mean over organisms, in which the rule's own template counts as one more."""
    seen: dict[tuple[str, str], list[Array]] = {}
    for truth, shown in (o for source in sources for o in organisms(source, prior)):
        for rung, rate in shown.items():
            seen.setdefault((rung, truth), []).append(rate)
    out: dict[str, Any] = {}
    for rung, by_class in prior.templates.items():
        out[rung] = {}
        for name, believed in by_class.items():
            mean = mean_of([np.array(believed, float), *seen.get((rung, name), [])])
            if rung == "sampled":
                out[rung][name] = [round(float(mean[0].clip(LEAST, MOST)), 3), round(float(mean[1]), 2)]
            else:
                clipped = np.round(mean.clip(LEAST, MOST), 3).tolist()
                out[rung][name] = clipped
    return out


def organisms(source: Recording, rule: RuleConfig) -> Iterator[tuple[str, dict[str, Array]]]:
    """Of each organism its class, and rung → what its items show before the floor; the mean over its pools."""
    by_name: dict[str, list[Pool]] = {}
    for pool in source.pools:
        by_name.setdefault(pool.organism, []).append(pool)
    for _, pools in sorted(by_name.items()):
        shown = [rates(seen_of(pool, source, rule)) for pool in pools]
        yield pools[0].truth, {rung: mean_of([s[rung] for s in shown]) for rung in shown[0]}


def mean_of(values: list[Array]) -> Array:
    """Mean of what is known; NaN where nothing is."""
    stacked = np.array(values, float)
    known = (~np.isnan(stacked)).sum(0)
    return np.asarray(np.where(known, np.nansum(stacked, 0) / np.maximum(known, 1), np.nan))


def seen_of(pool: Pool, source: Recording, rule: RuleConfig) -> Evidence:
    """What the probes saw of a pool."""
    items = list(pool.items)
    name = items[0].slices[0]
    log = source.log.part({i.id for i in items})
    missing = {name: missing_probes(items, EvalSet(items, {name: []}, ""), ProbesConfig(), name)}
    return gather(items, log, missing, {name: slice_floors(items, log)}, rule)


def rates(seen: Evidence) -> dict[str, Array]:
    """Success rates before the floor."""
    out: dict[str, Array] = {}
    for rung in LEVELS:
        lenient, strict = seen.levels[rung].T
        form = seen.floors.get(f"{rung}_form", np.zeros(len(strict)))
        formed = np.where(lenient > 0, strict / np.maximum(lenient, 1e-9), np.nan)
        out[rung] = np.array([above(lenient, seen.floors[rung]), above(formed, form)])
    for rung in WINS:
        out[rung] = np.array(above(seen.wins[rung], seen.floors[rung]))
    out["sampled"] = beta_binomial(seen.counts)
    return out


def above(y: Array, floor: Array) -> float:
    """(y - g) / (1 - g) of the means; NaN where fewer than LEAST_ITEMS were asked."""
    asked = ~np.isnan(y)
    if asked.sum() < LEAST_ITEMS or (g := float(floor[asked].mean())) >= 1:
        return float("nan")
    return max(0.0, (float(y[asked].mean()) - g) / (1 - g))


def beta_binomial(counts: Array) -> Array:
    """Mean and concentration of the likeliest beta-binomial; NaN where fewer than LEAST_ITEMS were asked."""
    x, n = counts[counts[:, 1] > 0].T
    if len(x) < LEAST_ITEMS:
        return np.full(2, np.nan)

    def loss(free: Array) -> float:
        mean, size = expit(free[0]), np.exp(free[1])
        a, b = mean * size, (1 - mean) * size
        choose = gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1)
        # A weak prior on the concentration: items that all score 0 fit any.
        return float(-(choose + betaln(x + a, n - x + b) - betaln(a, b)).sum() + 0.5 * (free[1] - np.log(2)) ** 2)

    best = minimize(loss, np.array([0.0, 0.7]), method="Nelder-Mead").x
    return np.array([expit(best[0]), np.exp(best[1])])


# ---------------------------------------------------------------- everything else


def search(runs: Sequence[Path], prior: RuleConfig, worlds: int, seed: int) -> Iterator[dict[str, Any]]:
    """One setting of GRID after another, and what it costs: log loss of the verdict, at its best temperature."""
    cases = []
    for number, run in enumerate(runs):
        for half, (mine, others) in enumerate(itertools.permutations(split(recording(run)))):
            foreign = templates([recording(run).only(others)], prior)
            for shares, size, draw in itertools.product(SHARES, SIZES, range(worlds)):
                world = World(run, mine, shares, size, (seed, number, half, SHARES.index(shares), draw))
                cases.append((world, foreign))
    with ProcessPoolExecutor() as pool:
        for strength, weight, effective in itertools.product(*GRID.values()):
            changed = replace(prior, strength=strength, weights=weights(weight, prior), effective=effective)
            jobs = [(world, replace(changed, templates=foreign), k) for k, (world, foreign) in enumerate(cases)]
            slices = [s for part in pool.map(judge, jobs) for s in part]
            found = {"strength": strength, "weights": weight, "effective": effective} | measured(slices)
            print(summary(found), flush=True)
            yield found


def taken(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the settings that judge as well as the best, within a standard error, and whose intervals cover: the modest.

    Planted models are cleaner than the world; sharpness that was not needed there is not believed. Weights below 1 must
    be needed; of `effective`, the least share with which 90 % intervals still hold the truth in .85 to .95.
    """
    best = min(tried, key=lambda t: t["loss"])
    equal = []
    for one in tried:
        worse = np.array(one["losses"]) - np.array(best["losses"])
        if worse.mean() <= worse.std() / np.sqrt(len(worse)):
            equal.append(one)
    covering = [t for t in equal if 0.85 <= t["coverage90"] <= 0.95]
    if not covering:
        return min(equal, key=lambda t: abs(t["coverage90"] - 0.9))
    return min(covering, key=lambda t: (-t["weights"], t["effective"], t["strength"]))


def split(source: Recording) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two halves of the organisms that are for fitting: of every class, every second one."""
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


def weights(weight: float, prior: RuleConfig) -> dict[str, float]:
    """All rungs but the plain answer itself, which is what the others are compared with."""
    return {rung: 1.0 if rung == "plain" else weight for rung in prior.weights}


def measured(slices: list[dict[str, Any]]) -> dict[str, Any]:
    """Log loss at the best temperature of 1 or more, that temperature, the share of right verdicts, and coverage."""
    slices = [s for s in slices if s["p_classes"]]
    p = np.array([list(s["p_classes"].values()) for s in slices])
    right = np.array([[c in s["right"] for c in s["p_classes"]] for s in slices])

    def losses(temperature: float) -> Array:
        cooled = (p / p.sum(1, keepdims=True)) ** (1 / temperature)
        cooled /= cooled.sum(1, keepdims=True)
        return -np.log((cooled * right).sum(1).clip(1e-12))

    # Never sharper than the draws themselves: planted models are cleaner than the world.
    best = minimize(lambda free: losses(1 + free[0] ** 2).mean(), np.ones(1), method="Nelder-Mead")
    temperature = float(1 + best.x[0] ** 2)
    return {
        "loss": float(best.fun),
        "losses": losses(temperature).tolist(),
        "temperature": temperature,
        "right": float(np.mean([s["best"] in s["right"] for s in slices])),
        "coverage90": float(np.mean([c for s in slices for c in s["covered"]])),
        "slices": len(slices),
    }


def summary(found: dict[str, Any]) -> str:
    return (
        f"strength {found['strength']:4.0f}  weights {found['weights']:.1f}  effective {found['effective']:.1f}   "
        f"log loss {found['loss']:.3f}  temperature {found['temperature']:.2f}  right {found['right']:.3f}  "
        f"90 % covers {found['coverage90']:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
