"""What a user reads in the terminal. Everything a model wrote is stripped of control characters first."""

from __future__ import annotations

import sys
from collections import Counter

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from diagnose.advice.wording import reasons
from diagnose.records import Diagnosis, Rate, Recommendation, SliceVerdict
from diagnose.report.progress import NAME, borderless
from diagnose.report.words import (
    MISSING,
    by_gap,
    chance,
    cut,
    expected_lifts,
    gap_interval,
    interval,
    matters,
    mostly_unread,
    one_line,
    safe,
    short,
    some,
    sure,
    verdict_text,
    wanted_data,
)

COLOURS = {
    "none": "green",
    "format": "cyan",
    "knowledge": "magenta",
    "preference": "blue",
    "mixed": "yellow",
    "insufficient": "bright_black",
}
BLANKS = {
    "ROWS.jsonl": "your training rows",
    "DIR_OR_HUB_NAME": "the weights of the model that answered",
}
"""What a printed command leaves to be filled in."""
ROWS = 40
"""Slices shown in the terminal; the report has all of them."""
NARROW = 100
"""In a narrower terminal the table keeps only what the verdict rests on."""


def show_diagnosis(diagnosis: Diagnosis, report: str) -> None:
    """Table of verdicts, then what to do, then the next command."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    slices = by_gap(diagnosis.slices)
    for v in slices[:ROWS]:
        if said := mostly_unread(v):
            console.print(Text(one_line(f"{cut(v.slice, NAME)}: {said}"), "yellow"))
    console.print("[bold]Which gap, and how confident[/bold]")
    console.print(_verdict_table(slices[:ROWS], console.width))
    for note in _notes(slices):
        console.print(Text(one_line(note), "dim"))
    console.print("\n[bold]What to do[/bold]")
    for r in diagnosis.recommendations:
        _show_recommendation(console, r)
    commands = [r.command for r in diagnosis.recommendations if r.train_method]
    console.print("\nreport      ", end="")
    console.print(report, soft_wrap=True, markup=False, highlight=False)
    console.print("next        ", end="")
    next_step = commands[0] if commands else _without_training(slices)
    console.print(one_line(next_step), soft_wrap=True, markup=False, highlight=False)
    for blank, what in BLANKS.items():
        if f"={blank}" in next_step:
            console.print(f"            {blank}: {what}", style="dim", highlight=False)


def _without_training(slices: list[SliceVerdict]) -> str:
    settings = [v.remedy for v in slices if v.remedy and v.remedy.startswith("model.max_new_tokens=")]
    if not settings:
        return "nothing to train: follow the advice above"
    largest = max(settings, key=lambda setting: int(setting.partition("=")[2]))
    return f"the same command with {largest} and another out="


def _verdict_table(slices: list[SliceVerdict], width: int) -> Table:
    """Fits the width: the names of slices give way, and in a narrow terminal what the verdict does not rest on."""
    rows = [_cells(v, wide=width >= NARROW) for v in slices]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    taken = {name: max(cell_len(name), *(cell_len(row[name]) for row in rows)) for name in columns}
    room = max(8, width - sum(taken[name] + 2 for name in columns if name != "slice") - 2)
    table = borderless()
    for name in columns:
        table.add_column(name, justify="left" if name in ("slice", "verdict") else "right", no_wrap=True)
    for v, row in zip(slices, rows, strict=True):
        shown = row | {"slice": cut(v.slice, room)}
        table.add_row(*(Text(shown[name], COLOURS[v.verdict] if name == "verdict" else "") for name in columns))
    return table


def _cells(v: SliceVerdict, wide: bool) -> dict[str, str]:
    rate = interval(v.strict) if wide else _share(v.strict)
    out = {"slice": one_line(v.slice), "n": str(v.n), "strict 95 %" if wide else "strict": rate}
    if wide:
        out |= {"lenient": _share(v.lenient), "preferred": _share(v.preferred)}
    bounds = gap_interval(v)
    out["gap 90 %"] = "–" if bounds is None else f"[{short(bounds[0])}, {short(bounds[1])}]"
    out |= {"verdict": verdict_text(v), "P": sure(v)}
    return out | {"needs": f"+{v.needs_items}" if v.needs_items else ""}


def _share(rate: Rate | None) -> str:
    return "–" if rate is None or not rate.n else short(rate.k / rate.n)


def _notes(slices: list[SliceVerdict]) -> list[str]:
    """What the table leaves out, what the data cannot show (one line per reason), and what was not read."""
    notes = [f"{len(slices) - ROWS} more slices with smaller gaps: in the report"] if len(slices) > ROWS else []
    for what, (reason, _) in MISSING.items():
        names = [cut(v.slice, NAME) for v in slices if what in v.missing and matters(what, v)]
        if names:
            notes.append(f"{'all slices' if len(names) == len(slices) > 1 else some(names)}: {reason}")
    for v in slices:
        if v.suspect:
            notes.append(
                f"{cut(v.slice, NAME)}: {len(v.suspect)} reference answers look wrong ({some(list(v.suspect))}); check "
                "them first: their own context, or all of the model's samples, contradict them"
            )
    few = [v for v in slices if v.unread and not v.remedy]
    if few:
        unread = sum((Counter(v.unread) for v in few), Counter[str]())
        total = sum(v.n for v in few) + unread.total()
        notes.append(f"{some([cut(v.slice, NAME) for v in few])}: unread: of {total} answers {reasons(unread)}")
    return notes


def _show_recommendation(console: Console, r: Recommendation) -> None:
    console.print()
    console.print(Padding(_headline(r), (0, 0, 0, 2), expand=False), highlight=False)
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in _advice(r).items():
        table.add_row(name, Text(one_line(text)))
    console.print(Padding(table, (0, 0, 0, 4), expand=False))
    if r.train_method:
        console.print(f"    {'command':<18}", end="")
        console.print(one_line(r.command), soft_wrap=True, markup=False, highlight=False)


def _headline(r: Recommendation) -> str:
    best = f"[bold]{r.method}[/bold]"
    train = f"; if you train: [bold]{r.train_method}[/bold]" if r.train_method and r.train_method != r.method else ""
    return f"{safe(some([cut(name, NAME) for name in r.slices]))}: {best}{train}"


def _advice(r: Recommendation) -> dict[str, str]:
    out = {}
    if r.train_method or r.method not in ("none", "collect_data"):
        out["lift"] = f"expected {', '.join(expected_lifts(r))}; P(best) {chance(r.p_best)}"
    out |= {"why": r.why, "would change this": r.would_flip}
    return out | ({"data": data} if (data := wanted_data(r)) else {})
