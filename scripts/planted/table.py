"""PlantedGap: how often the diagnosis is right about models whose gaps are known, and whether its confidence holds.

Everything from nothing, each stage kept and not repeated: two bases are trained, all their items are asked once by
`diagnose.py`, and thousands of slices are drawn from the answers and judged. Truth is what the corpus holds.

    python -m scripts.planted.table                # some hours on 2 CPU cores, 30 minutes once the bases are there
    python -m scripts.planted.table --worlds 8     # as committed: 20 minutes

Writes scripts/results/planted.json, planted.md and planted.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diagnose.budget import settled
from diagnose.calibration import calibrated
from diagnose.config import PROBES, ProbesConfig, RuleConfig
from diagnose.provenance import ROOT, file_sha
from diagnose.records import CLASSES, rounded
from scripts.planted import scores
from scripts.planted.scores import Slices, by_organism
from scripts.planted.slices import Planted, World, judged, recording, shipped_rule

RESULTS = ROOT / "scripts" / "results"
SIZES = (16, 32, 64, 128)
PURE, MIXED = (1.0,), ((0.7, 0.3), (0.5, 0.5), (0.4, 0.3, 0.3))
SPLITS = {
    "seen": ("a", False),
    "unseen recipe": ("a", True),
    "unseen base": ("b", False),
    "both unseen": ("b", True),
    "inverted LoRA": ("inverted", True),
}
"""Name → base, and whether the recipes are those held out from fitting."""
MOST = 96
"""Items of a slice that is asked bit by bit: a recipe has 140, and stands in several slices of a world."""
TURNS = tuple(range(16, MOST + 1, 8))
PLACEBOS = {"shaped_own", "own_form", "given_other", "given_swapped"}


@dataclass(frozen=True)
class Variant:
    """The diagnosis, or the diagnosis without a part of it."""

    name: str
    without: str | None = None
    """A probe that is not asked."""
    placebo: bool = True
    self_duels: bool = True
    pooled: bool = True
    """Slices of one eval set learn from each other what probes show."""
    calibrated: bool = True


FULL = Variant("full")
ABLATIONS = (
    *(Variant(f"without {p}", p) for p in ("shaped", "constrained", "sampled", "ranked", "given", "judged")),
    Variant("without placebos", placebo=False),
    Variant("without self against self", self_duels=False),
    Variant("each slice alone", pooled=False),
    Variant("uncalibrated", calibrated=False),
)


@dataclass(frozen=True)
class Job:
    """One world, judged once."""

    world: World
    variant: Variant
    rule: RuleConfig
    stopped: bool = False
    """Bit by bit, until each slice is settled."""


def main() -> int:
    args = parsed()
    rule = shipped_rule()
    rule = replace(rule, calibration=args.calibration or rule.calibration)
    runs = {base: answered(base, args.out) for base in ("a", "b", "inverted")}
    found = {}
    with ProcessPoolExecutor() as pool:
        for name, jobs in cells(runs, rule, args.worlds):
            found[name] = kept(args.out / "cells", name, jobs, pool)
    result = {"command": " ".join(["python -m scripts.planted.table", *sys.argv[1:]])} | table(found)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "planted.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
    (RESULTS / "planted.md").write_text(markdown(result))
    print(markdown(result))
    draw(found)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/planted"), help="bases, answers and judged slices")
    parser.add_argument("--calibration", help="default: that of conf/rule")
    parser.add_argument("--worlds", type=int, default=12, help="of six slices, per split, mixture and size")
    return parser.parse_args()


def answered(base: str, out: Path) -> Path:
    """The run directory of a base: trained and diagnosed if that has not been done."""
    folder, weights, adapter = out / base, out / base / "model", []
    if base == "inverted":
        weights, adapter = out / "a" / "model", [f"model.adapter={folder / 'dpo' / 'adapter'}"]
    if not (folder / "checks.json").exists():
        call(
            "-m",
            *(["scripts.planted.invert"] if adapter else ["scripts.planted.base", base]),
            "--out",
            str(out if adapter else folder),
        )
    if not (folder / "run" / "diagnosis.json").exists():
        paths = [f"model.path={weights}", *adapter, f"evalset.path={folder / 'evalset.jsonl'}", f"out={folder / 'run'}"]
        call("diagnose.py", *paths, "model.max_new_tokens=40", "wandb=disabled")
    return folder / "run"


def call(*arguments: str) -> None:
    print("\n$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT)


# ---------------------------------------------------------------- worlds


def cells(runs: dict[str, Path], rule: RuleConfig, worlds: int) -> Iterator[tuple[str, list[Job]]]:
    """Name → jobs. Every split in pure slices of all sizes and in mixtures; then ablations; then healthy slices."""
    for number, (split, (base, held_out)) in enumerate(SPLITS.items()):
        any_world = World(runs[base], recording(runs[base]).organisms(held_out), PURE, 64, ())

        def worlds_of(
            shares: tuple[float, ...], size: int, count: int = worlds, start: World = any_world, number: int = number
        ) -> list[World]:
            seeds = [(number, (PURE, *MIXED).index(shares), k) for k in range(count)]
            return [replace(start, shares=shares, size=size, seed=seed) for seed in seeds]

        for size in SIZES:
            yield f"{split} | pure | {size}", [Job(w, FULL, rule) for w in worlds_of(PURE, size)]
        for shares in MIXED:
            yield f"{split} | {named(shares)} | 64", [Job(w, FULL, rule) for w in worlds_of(shares, 64)]
        few = max(1, worlds // 4)
        for variant in ABLATIONS:
            some = [w for shares in (PURE, *MIXED) for w in worlds_of(shares, 64, count=few)]
            yield f"{split} | {variant.name} | 64", [Job(w, variant, rule) for w in some]
        some = [w for shares in (PURE, *MIXED) for w in worlds_of(shares, MOST, count=few)]
        yield f"{split} | stopped | {MOST}", [Job(w, FULL, rule, stopped=True) for w in some]
        yield f"{split} | all | {MOST}", [Job(w, FULL, rule) for w in some]
        none = replace(any_world, leads=("none",) * (1 if held_out else 2))
        healthy = worlds_of(PURE, MOST if held_out else 64, 2 * worlds, none)
        yield f"{split} | healthy, stopped | {MOST}", [Job(w, FULL, rule, stopped=True) for w in healthy]


def kept(folder: Path, name: str, jobs: list[Job], pool: ProcessPoolExecutor) -> Slices:
    """The judged slices of a cell; a job that was done before comes from disk."""
    path = folder / f"{name.replace('/', '-').replace(' | ', '_').replace(' ', '-').replace(',', '')}.json"
    state = code_sha()
    keys = [
        hashlib.sha256(json.dumps([asdict(job), answers_sha(job.world.run), state], default=str).encode()).hexdigest()[
            :16
        ]
        for job in jobs
    ]
    done: dict[str, Slices] = json.loads(path.read_text()) if path.exists() else {}
    new = [(key, job) for key, job in zip(keys, jobs, strict=True) if key not in done]
    done |= dict(zip((key for key, _ in new), pool.map(work, (job for _, job in new)), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(done))
    slices = [s for key in keys for s in done[key]]
    print(f"{name:<45} {len(slices):>4} slices{'' if new else ', judged before'}", flush=True)
    return slices


@cache
def answers_sha(run: Path) -> str:
    return file_sha(run / "answers.jsonl") + file_sha(run.parent / "truth.json")


@cache
def code_sha() -> str:
    """Of everything that a judged slice depends on, besides its job and the answers."""
    files = [*(ROOT / "diagnose").glob("*.py"), *(ROOT / "scripts" / "planted").glob("slices.py")]
    files += (ROOT / "conf" / "calibration").glob("*.json")
    return hashlib.sha256("".join(file_sha(path) for path in sorted(files)).encode()).hexdigest()


def work(job: Job) -> Slices:
    """Draw a world and judge it."""
    log, variant = recording(job.world.run).log, job.variant
    slices = job.world.draw()
    settings = ProbesConfig(enabled=[p for p in PROBES if p != variant.without])
    rule = calibrated(job.rule if variant.calibrated else replace(job.rule, calibration=None))
    hidden = names_of(variant)
    log = log.part({i.id for s in slices for i in s.items}, {p for p in log.probes if p not in hidden})
    if job.stopped:
        return stopped(slices, log, rule, settings)
    groups = [slices] if variant.pooled else [[s] for s in slices]
    return [s for group in groups for s in judged(group, log, rule, job.world.seed[-1], settings)]


def names_of(variant: Variant) -> set[str]:
    """What of the log a variant must not see."""
    probes = {
        "shaped": {"shaped", "shaped_own"},
        "ranked": {"ranked_question", "ranked_statement"},
        "given": {"given", "given_other", "given_swapped"},
        "judged": {"judged", "self"},
    }
    hidden = probes.get(variant.without or "", {variant.without or ""})
    return hidden | (set() if variant.placebo else PLACEBOS) | (set() if variant.self_duels else {"self"})


def stopped(slices: list[Planted], log: Any, rule: RuleConfig, settings: ProbesConfig) -> Slices:
    """As probes.budget=adaptive does: 16 items of each slice, then 8 more of those that are not settled."""
    whole = {s.name: shuffled(s) for s in slices}
    done: dict[str, dict[str, Any]] = {}
    for turn in TURNS:
        asked = {name: done[name]["n"] if name in done else turn for name in whole}
        seen = [replace(s, items=s.items[: asked[n]]) for n, s in whole.items()]
        for found in judged(seen, log, rule, turn, settings):
            name = found["slice"]
            sure = settled(found["verdict"], found["said_kind"], found["p"], found["missing"], rule)
            if name not in done and (sure or turn >= len(whole[name].items)):
                done[name] = found
        if len(done) == len(whole):
            break
    return [done[name] for name in whole]


def shuffled(s: Planted) -> Planted:
    """Items of a mixture in an order that says nothing of their class."""
    order = np.random.default_rng(len(s.items)).permutation(len(s.items))
    return replace(s, items=tuple(s.items[k] for k in order))


# ---------------------------------------------------------------- the table


def table(found: dict[str, Slices]) -> dict[str, Any]:
    """Every figure with its 95 % interval over organisms, per split; ablations over all splits."""
    rng = np.random.default_rng(0)
    return {
        "splits": {split: figures(split, found, rng) for split in SPLITS},
        "ablations": {variant.name: ablated(variant, found, rng) for variant in (FULL, *ABLATIONS)},
        "confusion": {split: scores.confusion(found[f"{split} | pure | 64"]) for split in SPLITS},
    }


def figures(split: str, found: dict[str, Slices], rng: np.random.Generator) -> dict[str, Any]:
    pure = {str(n): found[f"{split} | pure | {n}"] for n in SIZES}
    mixed = [s for shares in MIXED for s in found[f"{split} | {named(shares)} | 64"]]
    at_64, stopped = pure["64"] + mixed, found[f"{split} | stopped | {MOST}"]
    wanted: dict[str, tuple[Any, Slices]] = {
        "threshold_f1": (lambda part: scores.f1(part, "waterfall"), pure["64"]),
        "two_rates_f1": (lambda part: scores.f1(part, "lenient_minus_strict"), pure["64"]),
        "dominant": (scores.right, mixed),
        "commonest_dominant": (scores.commonest, mixed),
        "threshold_dominant": (lambda part: scores.right(part, "waterfall"), mixed),
        "two_rates_dominant": (lambda part: scores.right(part, "lenient_minus_strict"), mixed),
        "mixture_error": (scores.error, mixed),
        "coverage90": (scores.covered, mixed),
        "log_loss": (scores.log_loss, at_64),
        "sure": (scores.sure, at_64),
        "sure_and_right": (scores.sure_and_right, at_64),
        "stopped_right": (scores.right, stopped),
        "fixed_64_right": (scores.right, same_worlds(split, found)),
        "fixed_96_right": (scores.right, found[f"{split} | all | {MOST}"]),
        "stopped_items": (lambda part: float(np.mean([s["n"] for s in part])), stopped),
    }
    wanted |= {f"f1_{n}": (scores.f1, slices) for n, slices in pure.items()}
    wanted |= {f"f1_six_{n}": (scores.f1_six, slices) for n, slices in pure.items()}
    return {name: by_organism(score, slices, rng) for name, (score, slices) in wanted.items()} | {
        "calibration": scores.calibration(at_64, rng),
        "false_gaps": scores.false_gaps(pure["64"]),
        "false_gaps_stopped": scores.false_gaps(stopped + found[f"{split} | healthy, stopped | {MOST}"]),
    }


def ablated(variant: Variant, found: dict[str, Slices], rng: np.random.Generator) -> dict[str, Any]:
    """On the worlds on which all variants were tried."""
    few: Slices = []
    for split in SPLITS:
        few += same_worlds(split, found) if variant is FULL else found[f"{split} | {variant.name} | 64"]
    kinds = {
        "right": scores.right,
        "right_class": scores.right_class,
        "log_loss": scores.log_loss,
        "coverage90": scores.covered,
    }
    return {name: by_organism(score, few, rng) for name, score in kinds.items()}


def same_worlds(split: str, found: dict[str, Slices]) -> Slices:
    """The slices of the full diagnosis at 64 items on whose worlds the variants and the stopping were tried."""
    each = len(found[f"{split} | {ABLATIONS[0].name} | 64"]) // len((PURE, *MIXED))
    return [s for kind in map(named, (PURE, *MIXED)) for s in found[f"{split} | {kind} | 64"][:each]]


def named(shares: tuple[float, ...]) -> str:
    return "pure" if shares == PURE else "/".join(f"{100 * s:.0f}" for s in shares)


TARGETS = {
    "f1_six_64": ("macro-F1, 6 classes, 64 items", ".90"),
    "f1_64": ("macro-F1, 4 verdicts, 64 items", ".95 seen, .88 unseen"),
    "threshold_f1": ("- threshold waterfall", "beaten"),
    "two_rates_f1": ("- lenient minus strict", "beaten"),
    "f1_16": ("macro-F1, 4 verdicts, 16 items", ""),
    "f1_32": ("… 32 items", ""),
    "f1_128": ("… 128 items", ""),
    "dominant": ("largest gap of a mixture found", ".88"),
    "threshold_dominant": ("- threshold waterfall", "beaten"),
    "two_rates_dominant": ("- lenient minus strict", "beaten"),
    "commonest_dominant": ("- always the commonest verdict", "beaten"),
    "mixture_error": ("error of a class's share", ".04"),
    "coverage90": ("90 % intervals hold the truth", ".85-.95"),
    "sure_and_right": ("right when P ≥ .9", ".97"),
    "sure": ("slices with P ≥ .9", ".70"),
    "log_loss": ("log loss of the verdict", ""),
    "stopped_right": ("right when stopped", ""),
    "stopped_items": ("… after so many items", "40 % saved"),
    "fixed_64_right": ("… with 64 items of all", ""),
    "fixed_96_right": ("… with 96 items of all", ""),
}
"""Figure → what a reader calls it, and what was to be reached."""


def markdown(result: dict[str, Any]) -> str:
    """The table of the README."""
    lines = [f"| | to reach | {' | '.join(SPLITS)} |", "|---" * (2 + len(SPLITS)) + "|"]
    parts = result["splits"]
    for name, (words, target) in TARGETS.items():
        cells = [shown(parts[split][name], 0 if name == "stopped_items" else 2) for split in SPLITS]
        lines.append(f"| {words} | {target} | {' | '.join(cells)} |")
    found = [parts[split]["calibration"] for split in SPLITS]
    cells = [f"{two(c['ece'])} ({two(c['null'])}, {two(c['null95'])})" for c in found]
    lines.append(f"| ECE (of the perfectly calibrated: mean, 95 %) | within | {' | '.join(cells)} |")
    for name, words in (("false_gaps", "false gaps, 64 items"), ("false_gaps_stopped", "false gaps, stopped")):
        cells = [f"{f['k']} of {f['n']}" for f in (parts[split][name] for split in SPLITS)]
        lines.append(f"| {words} | ≤ 2 % | {' | '.join(cells)} |")
    lines += [
        "",
        "| 64 items, all splits | verdict right | class right | log loss | 90 % holds |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["ablations"].items():
        lines.append(f"| {name} | {' | '.join(shown(value) for value in row.values())} |")
    return "\n".join(lines) + "\n"


def shown(found: dict[str, Any], digits: int = 2) -> str:
    if found["value"] is None:
        return "–"
    return f"{two(found['value'], digits)} [{two(found['low'], digits)}, {two(found['high'], digits)}]"


def two(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".removeprefix("0") if digits else f"{value:.0f}"


def draw(found: dict[str, Slices]) -> None:
    """Confusion of the classes, and stated against realised probability, per split."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(SPLITS), figsize=(3.4 * len(SPLITS), 7), constrained_layout=True)
    short = [c.removeprefix("knowledge_") for c in CLASSES]
    for column, split in enumerate(SPLITS):
        counts = scores.confusion(found[f"{split} | pure | 64"])
        grid = np.array([[counts[t][c] for c in CLASSES] for t in CLASSES])
        upper, lower = axes[0, column], axes[1, column]
        upper.imshow(grid / np.maximum(grid.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (row, col), count in np.ndenumerate(grid):
            dark = count > grid[row].sum() / 2
            upper.text(col, row, count or "", ha="center", va="center", fontsize=8, color="white" if dark else "black")
        upper.set_xticks(range(len(short)), short, rotation=60, ha="right", fontsize=8)
        upper.set_yticks(range(len(short)), short if column == 0 else [""] * len(short), fontsize=8)
        upper.set_title(split, fontsize=10)
        slices = [s for kind in map(named, (PURE, *MIXED)) for s in found[f"{split} | {kind} | 64"]]
        reliability(lower, slices)
        lower.set_xlabel("P of the likeliest verdict, as stated")
    axes[0, 0].set_ylabel("planted (rows), said (columns)")
    axes[1, 0].set_ylabel("share that was right")
    figure.savefig(RESULTS / "planted.png", dpi=110)


def reliability(axis: Any, slices: Slices, bins: int = 5) -> None:
    """Equal-sized bins with Wilson intervals; the diagonal is perfect calibration."""
    ordered = sorted(slices, key=lambda s: s["p_best"])
    axis.plot([0.25, 1], [0.25, 1], color="#999999", linewidth=1)
    for part in np.array_split(np.arange(len(ordered)), bins):
        inside = [ordered[k] for k in part]
        hit = scores.interval(sum(s["best"] in s["right"] for s in inside), len(inside))
        stated = float(np.mean([s["p_best"] for s in inside]))
        axis.errorbar(
            stated,
            hit["share"],
            [[max(0.0, hit["share"] - hit["low"])], [max(0.0, hit["high"] - hit["share"])]],
            fmt="o",
            color="#1f5fa8",
            markersize=4,
        )
    axis.set_xlim(0.25, 1.02)
    axis.set_ylim(0.25, 1.02)
    axis.set_aspect("equal")


if __name__ == "__main__":
    sys.exit(main())
