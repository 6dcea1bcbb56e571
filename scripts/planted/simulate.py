"""PlantedGap without a language model: are known mixtures recovered if templates are wrong and items vary?

Items are drawn from known mixtures, and probe outcomes from perturbed templates of the shipped rule: each probe's rate
in each class is shifted by a logit-normal error, and all probes of an item share its difficulty, so that they are not
independent, contrary to what the mixture model assumes. Both standard deviations are hand-set.

    python -m scripts.planted.simulate     # about 10 minutes on 2 CPU cores; writes results/simulate.json

What rule.min_items rests on:

    python -m scripts.planted.simulate --sizes 4 6 8 12 16 --worlds 24 --result small_slices.json
    python -m scripts.planted.simulate --sizes 8 10 12 16 --worlds 96 --seed 1 --result small_mixtures.json
                                       --settings small balanced stress       (on the same line)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit

from diagnose.config import RuleConfig
from diagnose.probes.table import LEVELS, WINS, Probe
from diagnose.provenance import ROOT
from diagnose.records import CLASSES, FORMAT, KNOWLEDGE
from diagnose.verdict.calibration import calibrated
from diagnose.verdict.decide import GAPS, decide
from diagnose.verdict.evidence import Evidence
from diagnose.verdict.gibbs import gibbs
from scripts.planted.scores import ece, interval, macro_f1
from scripts.planted.slices import shipped_rule

RESULTS = ROOT / "scripts" / "results"
SAMPLES, OPTIONS, SELF = 8, 6, 0.1
"""Samples per item, options ranked, and how often one of a model's samples loses to another (hand-set)."""
FLAT = 0.02
"""Templates are kept this far from 0 and 1, which have no logit (hand-set)."""
Array = np.ndarray


@dataclass(frozen=True)
class Setting:
    """How far the simulated world departs from the model's assumptions; all values are hand-set."""

    name: str
    gap: float = 1.0
    """Share of items with a gap; slices whose truth is none have no gap at all."""
    dominant: float = 1.0
    """Share of the dominant class in the gap; the rest is divided between two others."""
    theta_sd: float = 0.4
    item_sd: float = 0.8
    grader_error: float = 0.0
    """Share of plain answers whose grade is flipped."""
    context: bool = True
    """Whether the items have contexts."""
    alone: bool = False
    """Whether each slice is an eval set of its own, so that no other slice helps to fit the templates."""


SETTINGS = (
    Setting("pure"),
    Setting("half", gap=0.5, dominant=0.7),
    Setting("small", gap=0.25, dominant=0.7),
    Setting("balanced", gap=0.5, dominant=0.5),
    Setting("stress", gap=0.5, dominant=0.7, theta_sd=0.8, item_sd=1.5),
    Setting("grader", gap=0.5, dominant=0.7, grader_error=0.05),
    Setting("no context", gap=0.5, dominant=0.7, context=False),
    Setting("alone", alone=True),
    Setting("alone half", gap=0.5, dominant=0.7, alone=True),
)
SIZES = (16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=12, help="per setting and size; each has two slices of a class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="items per slice")
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--settings", nargs="+", default=names, choices=names)
    parser.add_argument("--result", default="simulate.json", help="file in scripts/results")
    args = parser.parse_args()
    chosen = [setting for setting in SETTINGS if setting.name in args.settings]
    cells = [(setting, size) for setting in chosen for size in args.sizes]
    jobs = [(setting, size, args.seed * 1000 + world) for setting, size in cells for world in range(args.worlds)]
    with ProcessPoolExecutor() as pool:
        worlds = iter(pool.map(judged_world, jobs, chunksize=1))
        found = []
        for setting, size in cells:
            slices = [s for _ in range(args.worlds) for s in next(worlds)]
            found.append({"setting": setting.name, "n": size} | scores(slices))
            print(line(found[-1]), flush=True)
    settings = [asdict(setting) for setting in chosen]
    result = {"command": vars(args), "settings": settings, "found": found}
    (RESULTS / args.result).write_text(json.dumps(result, indent=1) + "\n")


# ---------------------------------------------------------------- one world


def judged_world(job: tuple[Setting, int, int]) -> list[dict[str, Any]]:
    """Two slices of each class, diagnosed together like the slices of one eval set."""
    setting, size, seed = job
    # Whatever the posterior carries is claimed: this is where the least number of items comes from.
    rule = replace(calibrated(shipped_rule()), min_items=1)
    rng = np.random.default_rng([seed, size, SETTINGS.index(setting)])
    truths = [c for c in CLASSES for _ in range(2)]
    sets = [[c] for c in truths] if setting.alone else [truths]
    return [found for part in sets for found in _judged_set(part, setting, size, rule, rng)]


def _judged_set(
    truths: list[str], setting: Setting, size: int, rule: RuleConfig, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    mixtures = np.array([mixture(c, setting, rng) for c in truths])
    seen, z = drawn(mixtures, size, setting, rule, rng)
    gamma, _ = gibbs(seen, rule, rng)
    missing = () if setting.context else ("context",)
    for k, truth in enumerate(truths):
        draws = gamma[:, k] / gamma[:, k].sum(1, keepdims=True)
        verdict, kind, p, p_classes = decide(draws, size, missing, rule)
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        real = np.bincount(z[seen.cells == k], minlength=len(CLASSES)) / size
        yield {
            "truth": verdict_of(truth),
            "kind": truth.removeprefix("knowledge_") if truth in KNOWLEDGE else None,
            "verdict": verdict,
            "said_kind": kind,
            "p": p,
            "best": max(p_classes, key=lambda c: p_classes[c] * (c != "mixed")) if p_classes else None,
            "p_best": max((v for c, v in p_classes.items() if c != "mixed"), default=0.0),
            # Shares of 0 and 1 are on the boundary, so no interval of draws can contain them.
            "covered": [bool(a <= x <= b) for a, x, b in zip(low, mixtures[k], high, strict=True) if 0 < x < 1],
            "error": float(np.abs(draws.mean(0) - real).mean()),
        }


def mixture(truth: str, setting: Setting, rng: np.random.Generator) -> Array:
    """Class shares of a slice whose dominant gap is `truth`; two other gaps divide the rest."""
    pi = np.zeros(len(CLASSES))
    if truth == "none":
        pi[0] = 1.0
        return pi
    others = [c for c in CLASSES if c not in ("none", truth) and verdict_of(c) != verdict_of(truth)]
    pi[0] = 1 - setting.gap
    pi[CLASSES.index(truth)] = setting.gap * setting.dominant
    for c in rng.choice(others, 2, replace=False):
        pi[CLASSES.index(c)] += setting.gap * (1 - setting.dominant) / 2
    return pi


def verdict_of(name: str) -> str:
    return "knowledge" if name in KNOWLEDGE else "format" if name in FORMAT else name


def drawn(
    mixtures: Array, size: int, setting: Setting, rule: RuleConfig, rng: np.random.Generator
) -> tuple[Evidence, Array]:
    """Simulated probe outcomes for `size` items per slice, and the items' classes."""
    cells = np.repeat(np.arange(len(mixtures)), size)
    z = np.array([rng.choice(len(CLASSES), p=mixtures[c]) for c in cells])
    n, effect = len(z), rng.normal(0, setting.item_sd, len(z))

    def rates(means: Array) -> Array:
        """[items]: the rate of the class, shifted by the error of this world and the difficulty of the item."""
        moved = logit(means.clip(FLAT, 1 - FLAT)) + rng.normal(0, setting.theta_sd, len(CLASSES))
        return expit(moved[z] + effect)

    def hits(p: Array) -> Array:
        return (rng.random(n) < p).astype(float)

    levels = {}
    for probe in LEVELS:
        template = np.array([rule.templates[probe][c] for c in CLASSES], float)
        up, top = rates(template[:, 0]), rates(template[:, 1])
        lenient = hits(up)
        levels[probe] = np.stack([lenient, lenient * hits(top)], 1)
    if setting.grader_error:
        turned = rng.random(n) < setting.grader_error
        levels[Probe.PLAIN][turned] = 1 - levels[Probe.PLAIN][turned][:, [1, 1]]
    wins = {}
    for probe in (Probe.FREE, Probe.RANKED_QUESTION, Probe.RANKED_STATEMENT, Probe.ORACLE_CONTEXT):
        p = rates(np.array([rule.templates[probe][c] for c in CLASSES], float))
        wins[probe] = hits(1 / OPTIONS + (1 - 1 / OPTIONS) * p if probe.startswith("ranked") else p)
    judged = np.full(len(CLASSES), SELF)
    judged[CLASSES.index("preference")] = rule.templates[Probe.PREFERENCE_JUDGED]["preference"]
    # Only strictly correct answers are compared by the judge.
    wins[Probe.PREFERENCE_JUDGED] = np.where(levels[Probe.PLAIN][:, 1] > 0, hits(rates(judged)), np.nan)
    failed = levels[Probe.PLAIN][:, 1] == 0
    allowed = np.ones((n, len(CLASSES)), bool)
    if not setting.context:
        wins[Probe.ORACLE_CONTEXT][:] = np.nan
        allowed[:, CLASSES.index("knowledge_skill")] = False
    # As in a diagnosis, this probe is asked only where the plain answer fails …
    wins[Probe.ORACLE_CONTEXT] = np.where(failed, wins[Probe.ORACLE_CONTEXT], np.nan)
    # … and this one where its content is missing; content in another format was given without the demand.
    free = np.where(levels[Probe.PLAIN][:, 0] > 0, 1.0, wins[Probe.FREE])
    wins[Probe.FREE] = np.where(failed, free, np.nan)
    allowed[:, CLASSES.index("format_suppressed")] = failed
    samples = rng.binomial(SAMPLES, rates(np.array([rule.templates["samples"][c][0] for c in CLASSES])))
    floors = dict.fromkeys((*LEVELS, Probe.SAMPLES, Probe.FREE, Probe.ORACLE_CONTEXT), np.zeros(n))
    floors |= {probe: np.full(n, 1 / OPTIONS) for probe in WINS if probe.startswith("ranked")}
    floors[Probe.PREFERENCE_JUDGED] = np.full(n, SELF)
    counts = {Probe.SAMPLES: np.stack([np.where(failed, samples, 0), np.where(failed, SAMPLES, 0)], 1).astype(float)}
    one = np.ones(len(mixtures))
    seen = Evidence(levels, wins, counts, floors, {}, allowed, np.ones(n), cells, one, np.eye(len(mixtures)))
    return seen, z


def scores(slices: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores of the slices of one setting and size."""
    four: list[str] = ["none", *GAPS]
    claimed = [s for s in slices if s["verdict"] in four]
    right = [s["verdict"] == s["truth"] for s in claimed]
    none = [s for s in slices if s["truth"] == "none"]
    false_gaps = sum(s["verdict"] not in ("none", "insufficient") for s in none)
    kinds = [s for s in claimed if s["truth"] == s["verdict"] == "knowledge"]
    covered = [c for s in slices for c in s["covered"]]
    return {
        "slices": len(slices),
        "macro_f1": macro_f1([(s["truth"], s["best"]) for s in slices], four),
        "claimed": interval(len(claimed), len(slices)),
        "right_when_claimed": interval(sum(right), len(claimed)),
        "right_kind_when_knowledge": interval(sum(s["kind"] == s["said_kind"] for s in kinds), len(kinds)),
        "false_gaps": interval(false_gaps, len(none)),
        "coverage90": interval(sum(covered), len(covered)),
        "mixture_error": float(np.mean([s["error"] for s in slices])),
        "ece": ece([(s["p_best"], s["best"] == s["truth"]) for s in slices]),
    }


def line(row: dict[str, Any]) -> str:
    def share(name: str) -> str:
        found = row[name]
        return "     –" if found["share"] is None else f"{found['share']:6.2f}"

    return (
        f"{row['setting']:<11}n {row['n']:<4} macro-F1 {row['macro_f1']:.2f}  claimed{share('claimed')}  "
        f"correct when claimed{share('right_when_claimed')}  kind{share('right_kind_when_knowledge')}  "
        f"false gaps{share('false_gaps')}  90 % covers{share('coverage90')}  mixture ±{row['mixture_error']:.3f}  "
        f"ECE {row['ece']:.3f}"
    )


if __name__ == "__main__":
    main()
