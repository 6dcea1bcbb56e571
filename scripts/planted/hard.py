"""PlantedGap made hard: small gaps, half-sure knowledge and a reader that errs, where simple rules can fail.

Of each slice 15, 20 or 30 % of the items have a gap and the rest none, so that no rate is near 0 or 1. Each is read
twice: as graded, and by a reader that misses 15 % of the right answers which are not word for word what production
accepts, and takes 3 % of the wrong ones for right (slices.misread). The truth about the slice stays what was planted.
The latent-class model and two simple rules see the same answers.

    python -m scripts.planted.hard                # after table: about 25 minutes on 2 cores
    python -m scripts.planted.hard --splits seen --worlds 2 --result hard_try

Finished cells are kept in outputs/planted/cells. Writes scripts/results/hard.json and hard.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diagnose.config import RuleConfig
from diagnose.records import CLASSES, rounded
from scripts.planted import scores
from scripts.planted.picture import shown
from scripts.planted.scores import Slices, by_organism
from scripts.planted.slices import Reader, World, recording, shipped_rule
from scripts.planted.table import ABLATIONS, FULL, PURE, RESULTS, Job, Variant, answered, kept

SPLITS: dict[str, tuple[str, bool]] = {
    "seen": ("a", False),
    "unseen recipe": ("a", True),
    "unseen base": ("b", False),
    "both unseen": ("b", True),
    "half-sure model": ("unsure", True),
}
"""Name → model, and whether the gaps are of recipes held out from fitting."""
GAPS = (0.15, 0.20, 0.30)
"""Shares of the items with a gap, all above rule.tau (hand-set)."""
SIZE = 64
"""Items per slice."""
WORSE = Reader(misses=0.15, invents=0.03)
READERS = {"as graded": Reader(), "misread": WORSE}
"""Hand-set: about what lenient graders get wrong on answers that people judged (scripts/results/bench_reader.md)."""
ALL = (FULL, *ABLATIONS)
SOUGHT = tuple(c for c in CLASSES if c != "none")


def main() -> int:
    args = parsed()
    rule = replace(shipped_rule(), calibration=args.calibration or shipped_rule().calibration)
    runs = {base: answered(base, args.out) for base in dict.fromkeys(SPLITS[split][0] for split in args.splits)}
    with ProcessPoolExecutor() as pool:
        jobs = cells(args.splits, runs, rule, args.worlds, args.size)
        found = {name: kept(args.out / "cells", name, part, pool) for name, part in jobs}
    result = {"command": " ".join(["python -m scripts.planted.hard", *sys.argv[1:]])} | table(args.splits, found)
    (RESULTS / f"{args.result}.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
    (RESULTS / f"{args.result}.md").write_text(markdown(result))
    print(markdown(result))
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/planted"), help="directory for intermediate results")
    parser.add_argument("--calibration", help="calibration file; default: that of conf/rule")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--worlds", type=int, default=10, help="worlds of two slices, per split, share and reader")
    parser.add_argument("--size", type=int, default=SIZE, help="items per slice")
    parser.add_argument("--result", default="hard", help="name of the files in scripts/results")
    return parser.parse_args()


# ---------------------------------------------------------------- worlds


def cells(
    splits: list[str], runs: dict[str, Path], rule: RuleConfig, worlds: int, size: int
) -> Iterator[tuple[str, list[Job]]]:
    """Name → jobs: per split and reader, small gaps, and slices without a gap."""
    for split in splits:
        number = list(SPLITS).index(split)
        for name, reader in READERS.items():
            variant = Variant(name, reader=reader)
            for share in GAPS:
                drawn = [small(split, runs, share, size, (9, number, GAPS.index(share), k)) for k in range(worlds)]
                yield f"{split} | gap {share:.0%} | {name}", [Job(w, variant, rule) for w in drawn]
            drawn = [healthy(split, runs, size, (8, number, k)) for k in range(worlds)]
            yield f"{split} | no gap | {name}", [Job(w, variant, rule) for w in drawn]
        few = max(1, worlds // 2)
        some = [small(split, runs, g, size, (9, number, GAPS.index(g), k)) for g in GAPS for k in range(few)]
        some += [healthy(split, runs, size, (8, number, k)) for k in range(few)]
        for variant in ALL:
            yield f"{split} | {variant.name} | hard", [Job(w, replace(variant, reader=WORSE), rule) for w in some]


def small(split: str, runs: dict[str, Path], share: float, size: int, seed: tuple[int, ...]) -> World:
    """Two slices of neighbouring classes; the rest of each is healthy items, of any recipe of the model."""
    base, held_out = SPLITS[split]
    source = recording(runs[base])
    sought = tuple(c for c in SOUGHT if any(p.truth == c and p.held_out == held_out for p in source.pools))
    first = 2 * seed[-1] + seed[-2]  # so that few worlds have gaps of every class
    leads = tuple(sought[(first + k) % len(sought)] for k in range(2))
    return World(runs[base], leading(source.pools, held_out), (share, 1 - share), size, seed, leads, rest="none")


def healthy(split: str, runs: dict[str, Path], size: int, seed: tuple[int, ...]) -> World:
    """One slice without a gap."""
    base, held_out = SPLITS[split]
    return World(runs[base], leading(recording(runs[base]).pools, held_out), PURE, size, seed, ("none",))


def leading(pools: Any, held_out: bool) -> tuple[str, ...]:
    """The organisms whose gaps are sought, and every healthy one."""
    return tuple(sorted({p.organism for p in pools if p.held_out == held_out or p.truth == "none"}))


# ---------------------------------------------------------------- the table


def table(splits: list[str], found: dict[str, Slices]) -> dict[str, Any]:
    """Per reader and split: figures with 95 % intervals over organisms."""
    rng = np.random.default_rng(0)
    by_reader = {name: {split: figures(split, name, found, rng) for split in splits} for name in READERS}
    ablations = {
        v.name: ablated([s for split in splits for s in found[f"{split} | {v.name} | hard"]], rng) for v in ALL
    }
    return {"readers": by_reader, "ablations": ablations}


def ablated(slices: Slices, rng: np.random.Generator) -> dict[str, Any]:
    """Scores of a variant over all splits, read by the worse reader."""
    return {name: by_organism(score, slices, rng) for name, (score, _) in ABLATED.items()}


def figures(split: str, reader: str, found: dict[str, Slices], rng: np.random.Generator) -> dict[str, Any]:
    gaps = [s for share in GAPS for s in found[f"{split} | gap {share:.0%} | {reader}"]]
    none = found[f"{split} | no gap | {reader}"]
    wanted: dict[str, tuple[Any, Slices]] = {
        "right": (scores.right, gaps),
        "threshold_right": (lambda part: scores.right(part, "waterfall"), gaps),
        "two_rates_right": (lambda part: scores.right(part, "lenient_minus_strict"), gaps),
        "ahead": (lambda part: scores.right(part) - scores.right(part, "waterfall"), gaps + none),
        "sure": (scores.sure, gaps),
        "sure_and_right": (scores.sure_and_right, gaps),
        "wrong_claims": (scores.wrong_claims, gaps + none),
        "threshold_wrong_claims": (lambda part: scores.wrong_claims(part, "waterfall"), gaps + none),
        "right_class": (scores.right_class, gaps),
        "threshold_class": (lambda part: scores.right_class(part, "waterfall_class"), gaps),
        "coverage90": (scores.covered, gaps),
        "mixture_error": (scores.error, gaps),
        "log_loss": (scores.log_loss, gaps),
    }
    wanted |= {f"right_{share:.0%}": (scores.right, found[f"{split} | gap {share:.0%} | {reader}"]) for share in GAPS}
    return {name: by_organism(score, part, rng) for name, (score, part) in wanted.items()} | {
        "calibration": scores.calibration(gaps + none, rng),
        "false_gaps": scores.false_gaps(none),
        "threshold_false_gaps": scores.interval(sum(s["waterfall"] != "none" for s in none), len(none)),
    }


LABELS = {
    "right": "gap named: latent-class model, its most probable verdict",
    "threshold_right": "gap named: threshold rule on the waterfall",
    "two_rates_right": "gap named: lenient minus strict",
    "ahead": "model ahead of the threshold rule, with the slices without a gap",
    **{f"right_{share:.0%}": f"gap named: model, gaps of {share:.0%}" for share in GAPS},
    "sure": "share of slices with P ≥ .9",
    "sure_and_right": "accuracy where P ≥ .9",
    "wrong_claims": "wrong verdicts given, with the slices without a gap: model",
    "threshold_wrong_claims": "the same: threshold rule, which always gives one",
    "right_class": "class named, of six: model",
    "threshold_class": "class named, of six: largest step of the waterfall",
    "coverage90": "90 % intervals contain the truth",
    "mixture_error": "error of a class's share",
    "log_loss": "log loss of the verdict",
}


INTRO = """# PlantedGap, hard slices

Of each slice 15, 20 or 30 % of the items have one planted gap and the rest none. Each is read twice: as graded, and
by a reader that misses 15 % of the right answers which are not word for word what production accepts and takes 3 % of
the wrong ones for right. The half-sure model heard two answers to each question. Everybody sees the same answers: the
latent-class model may withhold a verdict, the simple rules always give one. Intervals are 95 %, over recipes and
slices.
"""
ABLATED: dict[str, tuple[Callable[[Slices], float | None], str]] = {
    "right": (scores.right, "verdict right"),
    "wrong_claims": (scores.wrong_claims, "wrong verdicts given"),
    "sure": (scores.sure, "P ≥ .9"),
    "right_class": (scores.right_class, "class right"),
    "log_loss": (scores.log_loss, "log loss"),
    "coverage90": (scores.covered, "90 % contain the truth"),
    "mixture_error": (scores.error, "error of a class's share"),
}


def markdown(result: dict[str, Any]) -> str:
    """One table per reader, and one of the ablations."""
    lines = [INTRO, f"`{result['command']}`"]
    for name in READERS:
        parts = result["readers"][name]
        lines += ["", f"Reader: {name}.", "", f"| | {' | '.join(parts)} |", "|---" * (1 + len(parts)) + "|"]
        for key, words in LABELS.items():
            lines.append(f"| {words} | {' | '.join(shown(part[key]) for part in parts.values())} |")
        for key, words in (("false_gaps", "model"), ("threshold_false_gaps", "threshold rule")):
            cells = [f"{part[key]['k']} of {part[key]['n']} (≤ {part[key]['high']:.2f})" for part in parts.values()]
            lines.append(f"| false gaps: {words} | {' | '.join(cells)} |")
    heads = " | ".join(words for _, words in ABLATED.values())
    lines += ["", "Ablations, misread, all splits:", "", f"| | {heads} |", "|---" * (1 + len(ABLATED)) + "|"]
    for variant, row in result["ablations"].items():
        lines.append(f"| {variant} | {' | '.join(map(shown, row.values()))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
