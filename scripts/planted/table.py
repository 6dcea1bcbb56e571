"""PlantedGap: accuracy and calibration of the diagnosis on models whose gaps are known.

Skips finished stages: two bases are taken from scripts/planted/bases, `diagnose.py` asks all their items once, and
thousands of slices are drawn from the answers and judged. The ground truth follows from the training corpus.

    python -m scripts.planted.table                # about 90 minutes on 2 CPU cores
    python -m scripts.planted.table --worlds 8     # as committed: an hour

Writes scripts/results/planted.json, planted.md and planted.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diagnose.config import ProbesConfig, RuleConfig
from diagnose.probes.table import PROBES
from diagnose.provenance import ROOT, file_sha, write_whole
from diagnose.records import rounded
from diagnose.verdict.calibration import calibrated
from scripts.planted import scores
from scripts.planted.picture import draw, markdown
from scripts.planted.scores import Slices, by_organism
from scripts.planted.slices import Reader, World, judged, misread, recording, shipped_rule
from scripts.planted.stopping import shuffled, stopped

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
"""Name → base, and whether to use the recipes held out from fitting."""
MOST = 96
"""Items of an adaptively asked slice (hand-set): a recipe has 144, shared by the slices of a world."""
CONTROLS = {"few_shot_control", "own_answers", "other_context", "swapped_context"}


@dataclass(frozen=True)
class Variant:
    """The full diagnosis or an ablation."""

    name: str
    without: str | None = None
    """A probe that is not run."""
    controls: bool = True
    self_pairs: bool = True
    pooled: bool = True
    """Whether the slices of an eval set are diagnosed together."""
    calibrated: bool = True
    changed: tuple[tuple[str, Any], ...] = ()
    """Other values of fitted settings."""
    reader: Reader = Reader()
    """Errors added to the reading of every answer."""


FULL = Variant("full")
ABLATIONS = (
    *(
        Variant(f"without {p}", p)
        for p in ("few_shot", "constrained", "samples", "ranked", "oracle_context", "preference_judged")
    ),
    Variant("without controls", controls=False),
    Variant("without self-pairs", self_pairs=False),
    Variant("each slice alone", pooled=False),
    Variant("uncalibrated", calibrated=False),
    *(Variant(f"effective {e}", changed=(("effective", e),)) for e in (0.5, 1.0)),
    Variant("a reader known to be right", changed=(("reader_error", None),)),
)


@dataclass(frozen=True)
class Job:
    """One world to judge with one variant."""

    world: World
    variant: Variant
    rule: RuleConfig
    stopped: bool = False
    """With the adaptive budget, until each slice is decided."""
    first: int | None = None
    """Only the first items of each slice, in the order of the adaptive budget."""


def main() -> int:
    args = parsed()
    rule = shipped_rule()
    rule = replace(rule, calibration=args.calibration or rule.calibration)
    with ThreadPoolExecutor() as side_by_side:
        list(side_by_side.map(lambda base: planted(base, args.out), ("a", "b")))
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
    draw({split: parts(split, found) for split in SPLITS}, RESULTS / "planted.png")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/planted"), help="directory for intermediate results")
    parser.add_argument("--calibration", help="calibration file; default: that of conf/rule")
    parser.add_argument("--worlds", type=int, default=12, help="worlds of six slices, per split, mixture and size")
    return parser.parse_args()


def planted(base: str, out: Path) -> None:
    """Train and check a base unless already done; uses one core."""
    if not (out / base / "checks.json").exists():
        call(base, "-m", "scripts.planted.base", base, "--out", str(out / base))


def answered(base: str, out: Path) -> Path:
    """The run directory of a base, which is diagnosed unless already done."""
    folder, weights, adapter = out / base, out / base / "model", []
    if base == "inverted":
        weights, adapter = out / "a" / "model", [f"model.adapter={folder / 'dpo' / 'adapter'}"]
        if not (folder / "checks.json").exists():
            call(base, "-m", "scripts.planted.invert", "--out", str(out))
    if base == "unsure" and not (folder / "checks.json").exists():
        call(base, "-m", "scripts.planted.unsure", "--out", str(out))
    if not (folder / "run" / "diagnosis.json").exists():
        paths = [f"model.path={weights}", *adapter, f"evalset.path={folder / 'evalset.jsonl'}", f"out={folder / 'run'}"]
        call(base, "diagnose.py", *paths, "model.max_new_tokens=40", "wandb.mode=disabled")
    return folder / "run"


def call(base: str, *arguments: str) -> None:
    """Run a command of this repository; each output line is prefixed with the base, as two may run in parallel."""
    print(f"\n{base:>8} | $ python", *arguments, flush=True)
    command = [sys.executable, "-u", *arguments]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{base:>8} | {line}", end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{base}: the command above failed")


# ---------------------------------------------------------------- worlds


def cells(runs: dict[str, Path], rule: RuleConfig, worlds: int) -> Iterator[tuple[str, list[Job]]]:
    """Name → jobs: for every split pure slices of all sizes, mixtures, ablations, and slices without a gap."""
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
        some = [w for shares in (PURE, *MIXED) for w in worlds_of(shares, MOST, count=max(1, worlds // 2))]
        yield f"{split} | stopped | {MOST}", [Job(w, FULL, rule, stopped=True) for w in some]
        yield f"{split} | first | 64", [Job(w, FULL, rule, first=64) for w in some]
        yield f"{split} | all | {MOST}", [Job(w, FULL, rule) for w in some]
        none = replace(any_world, leads=("none",) * (1 if held_out else 2))
        healthy = worlds_of(PURE, MOST if held_out else 64, 2 * worlds, none)
        yield f"{split} | healthy, stopped | {MOST}", [Job(w, FULL, rule, stopped=True) for w in healthy]


def kept(folder: Path, name: str, jobs: list[Job], pool: ProcessPoolExecutor) -> Slices:
    """The judged slices of a cell; results of finished jobs are read from disk."""
    path = folder / f"{name.replace('/', '-').replace(' | ', '_').replace(' ', '-').replace(',', '')}.json"
    state = code_sha()

    def key(job: Job) -> str:
        parts = [asdict(job), asdict(calibrated(job.rule)), answers_sha(job.world.run), state]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()

    keys = [key(job) for job in jobs]
    done: dict[str, Slices] = json.loads(path.read_text()) if path.exists() else {}
    new = [(key, job) for key, job in zip(keys, jobs, strict=True) if key not in done]
    done |= dict(zip((key for key, _ in new), pool.map(work, (job for _, job in new)), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(done))
    slices = [s for key in keys for s in done[key]]
    print(f"{name:<45} {len(slices):>4} slices{'' if new else ', judged before'}", flush=True)
    return slices


@cache
def answers_sha(run: Path) -> str:
    return file_sha(run / "answers.jsonl") + file_sha(run.parent / "truth.json")


@cache
def code_sha() -> str:
    """Hash of the code that the results depend on."""
    files = [*(ROOT / "diagnose").rglob("*.py")]
    files += [ROOT / "scripts" / "planted" / name for name in ("slices.py", "stopping.py", "table.py")]
    return hashlib.sha256("".join(file_sha(path) for path in sorted(files)).encode()).hexdigest()


def work(job: Job) -> Slices:
    """Draw a world and diagnose it."""
    log, variant = recording(job.world.run).log, job.variant
    slices = job.world.draw()
    settings = ProbesConfig(enabled=[p for p in PROBES if p != variant.without])
    if job.first:
        slices = [replace(s, items=s.items[: job.first]) for s in map(shuffled, slices)]
    rule = ruled(job.rule, variant)
    hidden = names_of(variant)
    log = log.part({i.id for s in slices for i in s.items}, {p for p in log.probes if p not in hidden})
    if variant.reader != Reader():
        log = misread(log, [i for s in slices for i in s.items], variant.reader)
    if job.stopped:
        return stopped(slices, log, rule, settings)
    groups = [slices] if variant.pooled else [[s] for s in slices]
    return [s for group in groups for s in judged(group, log, rule, job.world.seed[-1], settings)]


def ruled(rule: RuleConfig, variant: Variant) -> RuleConfig:
    """The calibrated rule with the changes of the variant."""
    if not variant.calibrated:
        return replace(rule, calibration=None)
    rule = calibrated(rule)
    for name, value in variant.changed:
        setting, _, probe = name.partition(".")
        rule = replace(rule, **{setting: getattr(rule, setting) | {probe: value} if probe else value})
    return rule


def names_of(variant: Variant) -> set[str]:
    """Probes whose answers are hidden from a variant."""
    probes = {
        "few_shot": {"few_shot", "few_shot_control"},
        "ranked": {"ranked_question", "ranked_statement"},
        "oracle_context": {"oracle_context", "other_context", "swapped_context"},
        "preference_judged": {"preference_judged", "self_pairs"},
    }
    hidden = probes.get(variant.without or "", {variant.without or ""})
    return hidden | (set() if variant.controls else CONTROLS) | (set() if variant.self_pairs else {"self_pairs"})


# ---------------------------------------------------------------- the table


def table(found: dict[str, Slices]) -> dict[str, Any]:
    """All figures with 95 % intervals over organisms, per split; ablations over all splits."""
    rng = np.random.default_rng(0)
    return {
        "splits": {split: figures(split, found, rng) for split in SPLITS},
        "ablations": {variant.name: ablated(variant, found, rng) for variant in (FULL, *ABLATIONS)},
        "confusion": {split: scores.confusion(found[f"{split} | pure | 64"]) for split in SPLITS},
    }


def parts(split: str, found: dict[str, Slices]) -> dict[str, Slices]:
    """The slices of a split, by type."""
    pure = found[f"{split} | pure | 64"]
    mixed = [s for shares in MIXED for s in found[f"{split} | {named(shares)} | 64"]]
    return {"pure": pure, "mixed": mixed, "all": pure + mixed, "stopped": found[f"{split} | stopped | {MOST}"]}


def figures(split: str, found: dict[str, Slices], rng: np.random.Generator) -> dict[str, Any]:
    pure = {str(n): found[f"{split} | pure | {n}"] for n in SIZES}
    _, mixed, at_64, stopped = parts(split, found).values()
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
        "stopped_right": (scores.right_as_stated, stopped),
        "fixed_64_right": (scores.right_as_stated, found[f"{split} | first | 64"]),
        "fixed_96_right": (scores.right_as_stated, found[f"{split} | all | {MOST}"]),
        "stopped_items": (lambda part: float(np.mean([s["n"] for s in part])), stopped),
    }
    wanted |= {f"f1_{n}": (scores.f1, slices) for n, slices in pure.items()}
    wanted |= {f"f1_six_{n}": (scores.f1_six, slices) for n, slices in pure.items()}
    return {name: by_organism(score, slices, rng) for name, (score, slices) in wanted.items()} | {
        "calibration": scores.calibration(at_64, rng),
        "stopped_calibration": scores.calibration(stopped, rng),
        "false_gaps": scores.false_gaps(pure["64"]),
        "false_gaps_stopped": scores.false_gaps(stopped + found[f"{split} | healthy, stopped | {MOST}"]),
    }


def ablated(variant: Variant, found: dict[str, Slices], rng: np.random.Generator) -> dict[str, Any]:
    """Scores of a variant, on the worlds common to all variants."""
    few: Slices = []
    for split in SPLITS:
        tried = found[f"{split} | {ABLATIONS[0].name if variant is FULL else variant.name} | 64"]
        few += same_worlds(split, found, len(tried)) if variant is FULL else tried
    kinds: dict[str, Callable[[Slices], float | None]] = {
        "right": scores.right,
        "right_class": scores.right_class,
        "log_loss": scores.log_loss,
        "coverage90": scores.covered,
    }
    return {name: by_organism(score, few, rng) for name, score in kinds.items()} | {
        "calibration": scores.calibration(few, rng)
    }


def same_worlds(split: str, found: dict[str, Slices], count: int) -> Slices:
    """Results of the full diagnosis at 64 items on the worlds of the ablations."""
    each = count // len((PURE, *MIXED))
    return [s for kind in map(named, (PURE, *MIXED)) for s in found[f"{split} | {kind} | 64"][:each]]


def named(shares: tuple[float, ...]) -> str:
    return "pure" if shares == PURE else "/".join(f"{100 * s:.0f}" for s in shares)


if __name__ == "__main__":
    sys.exit(main())
