"""The table of PlantedGap as Markdown and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diagnose.records import CLASSES
from scripts.planted import scores
from scripts.planted.scores import Slices

FIGURES = {
    "f1_six_64": ("macro-F1, 6 classes, 64 items", ".90"),
    "f1_64": ("macro-F1, 4 verdicts, 64 items", ".95 seen, .88 unseen"),
    "f1_16": ("macro-F1, 4 verdicts, 16 items", ""),
    "f1_32": ("macro-F1, 4 verdicts, 32 items", ""),
    "f1_128": ("macro-F1, 4 verdicts, 128 items", ""),
    "dominant": ("largest gap of a mixture found", ".88"),
    "mixture_error": ("error of a class's share", "≤ .04"),
    "coverage90": ("90 % intervals contain the truth", ".85 to .95"),
    "sure_and_right": ("accuracy where P ≥ .9", ".97"),
    "sure": ("share of slices with P ≥ .9", ".70"),
    "log_loss": ("log loss of the verdict", ""),
    "stopped_right": ("accuracy when stopped early", ""),
    "stopped_items": ("items asked until then, of 96", "≤ 58"),
    "fixed_64_right": ("accuracy with the first 64 items", ""),
    "fixed_96_right": ("accuracy with all 96 items", ""),
}
"""Figure → its label and target."""
BASELINES = {
    "threshold_f1": "macro-F1, 4 verdicts, 64 items: threshold rule on the waterfall",
    "two_rates_f1": "macro-F1, 4 verdicts, 64 items: lenient minus strict",
    "threshold_dominant": "largest gap of a mixture found: threshold rule on the waterfall",
    "two_rates_dominant": "largest gap of a mixture found: lenient minus strict",
    "commonest_dominant": "largest gap of a mixture found: always the commonest verdict",
}
"""Simple methods, applied to the same answers."""
INTRO = """# PlantedGap

Two small bases of different shape, trained from scratch with known gaps planted in the training corpus: facts that
never occur, occur in only one wording, occur a tenth as often, or can only be recalled with a key; answers that are
right in another format or tone; questions that need two facts at once; and a LoRA that flips a preference. The
truth is what the corpus contains, checked before any probe by two other instruments: teacher-forced argmax, and
fine-tuning on 64 items of a group, which must fix the other 80 if only format, preference or the key was missing,
and must not if knowledge was.

Class templates and the effective weight of an item were fitted on 12 recipes of one base ("seen"); the next three
columns are recipes, a base, or both that nothing was fitted on; the last is the first base with the LoRA. Intervals
are 95 %, over recipes and slices.

One target is missed: 90 % intervals contain the truth too rarely everywhere but in the last two columns. The prior of
the reader's error comes from people's judgements of free answers; here every reading is right, so that it is a bias:
some wrong answers are taken for right ones unseen. With a reader known to be right the intervals are better (last row).
Mixtures are where the threshold rule fails; on pure slices it reaches the same, because the people who planted the
gaps also wrote the answers and the graders.
"""


def markdown(result: dict[str, Any]) -> str:
    """The tables with their introduction."""
    parts = result["splits"]
    head = " | ".join(parts)
    rule = "|---" * (2 + len(parts)) + "|"
    lines = [INTRO, f"`{result['command']}`\n", f"| | target | {head} |", rule]
    for name, (words, target) in FIGURES.items():
        cells = [shown(part[name], 0 if name == "stopped_items" else 2) for part in parts.values()]
        lines.append(f"| {words} | {target} | {' | '.join(cells)} |")
    for name, words in (("stopped_calibration", "ECE, stopped early"), ("calibration", "ECE, 64 items of every slice")):
        cells = [against_null(part[name]) for part in parts.values()]
        lines.append(
            f"| {words} (a perfectly calibrated model would show: mean, 95th percentile) | | {' | '.join(cells)} |"
        )
    for name, words in (("false_gaps", "false gaps, 64 items"), ("false_gaps_stopped", "false gaps, stopped early")):
        cells = [f"{part[name]['k']} of {part[name]['n']} (≤ {two(part[name]['high'])})" for part in parts.values()]
        lines.append(f"| {words} | ≤ 2 % | {' | '.join(cells)} |")
    lines += ["", "Baselines:", "", f"| | {head} |", rule.removesuffix("---|")]
    for name, words in BASELINES.items():
        lines.append(f"| {words} | {' | '.join(shown(part[name]) for part in parts.values())} |")
    lines += [
        "",
        "Ablations, 64 items, all splits:",
        "",
        "| | verdict right | class right | log loss | 90 % contain the truth | ECE (perfect: mean, 95th percentile) |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["ablations"].items():
        cells = [shown(value) for key, value in row.items() if key != "calibration"]
        lines.append(f"| {name} | {' | '.join(cells)} | {against_null(row['calibration'])} |")
    return "\n".join(lines) + "\n"


def shown(found: dict[str, Any], digits: int = 2) -> str:
    if found["value"] is None:
        return "–"
    return f"{two(found['value'], digits)} [{two(found['low'], digits)}, {two(found['high'], digits)}]"


def against_null(found: dict[str, Any]) -> str:
    return f"{two(found['ece'])} ({two(found['null'])}, {two(found['null95'])})"


def two(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1) if digits and abs(value) < 1 else f"{value:.{digits}f}"


def draw(parts: dict[str, dict[str, Slices]], path: Path) -> None:
    """Per split: confusion matrix on pure slices; reliability diagram, for all items and stopped early."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(parts), figsize=(3.4 * len(parts), 7), constrained_layout=True)
    short = [c.removeprefix("knowledge_") for c in CLASSES]
    for column, (split, part) in enumerate(parts.items()):
        counts = scores.confusion(part["pure"])
        grid = np.array([[counts[t][c] for c in CLASSES] for t in CLASSES])
        upper, lower = axes[0, column], axes[1, column]
        upper.imshow(grid / np.maximum(grid.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (row, col), count in np.ndenumerate(grid):
            dark = count > grid[row].sum() / 2
            upper.text(col, row, count or "", ha="center", va="center", fontsize=8, color="white" if dark else "black")
        upper.set_xticks(range(len(short)), short, rotation=60, ha="right", fontsize=8)
        upper.set_yticks(range(len(short)), short if column == 0 else [""] * len(short), fontsize=8)
        upper.set_title(split, fontsize=10)
        reliability(lower, part["all"], "#1f5fa8", "64 items of all")
        reliability(lower, part["stopped"], "#c2571a", "stopped")
        lower.set_xlabel("P(verdict), as stated")
    axes[0, 0].set_ylabel("planted (rows), diagnosed (columns)")
    axes[1, 0].set_ylabel("accuracy")
    axes[1, 0].legend(loc="lower right", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def reliability(axis: Any, slices: Slices, colour: str, label: str, bins: int = 5) -> None:
    """Equal-sized bins with Wilson intervals; the diagonal is perfect calibration."""
    ordered = sorted((scores.stated(s) for s in slices), key=lambda pair: pair[0])
    axis.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for part in np.array_split(np.arange(len(ordered)), min(bins, len(ordered))):
        inside = [ordered[k] for k in part]
        hit = scores.interval(sum(right for _, right in inside), len(inside))
        stated = float(np.mean([p for p, _ in inside]))
        axis.errorbar(
            stated,
            hit["share"],
            [[max(0.0, hit["share"] - hit["low"])], [max(0.0, hit["high"] - hit["share"])]],
            fmt="o",
            color=colour,
            markersize=4,
            label=label if part[0] == 0 else None,
        )
    axis.set_xlim(0, 1.02)
    axis.set_ylim(0, 1.02)
    axis.set_aspect("equal")
