"""What a user reads in the terminal. Everything a model wrote is stripped of control characters first."""

from __future__ import annotations

import sys
import unicodedata
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from diagnose.records import Diagnosis, Rate, Recommendation, SliceVerdict

COLOURS = {
    "none": "green",
    "format": "cyan",
    "knowledge": "magenta",
    "preference": "blue",
    "mixed": "yellow",
    "insufficient": "bright_black",
}


def safe(text: str) -> str:
    """No escape sequences, no direction marks, no markup: what is left prints as it reads."""
    shown = "".join(
        c if c.isprintable() or c == " " else "\ufffd" if unicodedata.category(c) != "Cf" else "" for c in text
    )
    return escape(shown)


class Bars:
    """One progress bar per probe on stderr; a line per probe where stderr is no terminal."""

    def __init__(self, title: str = "") -> None:
        self.title = f"{title} " if title else ""
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.tasks: dict[tuple[str, int], TaskID] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, probe: str, done: int, planned: int) -> None:
        """Advance the bar of a probe."""
        key = (probe, planned)
        if key not in self.tasks:
            self.tasks[key] = self.progress.add_task(self.title + probe, total=planned)
        self.progress.update(self.tasks[key], completed=done)
        if self.progress.disable and done == planned:
            print(f"{self.title + probe:<18} {planned:>6} answers", file=sys.stderr, flush=True)


def show_diagnosis(diagnosis: Diagnosis, report: str) -> None:
    """Table of verdicts, then what to do, then the next command."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_verdict_table(diagnosis.slices))
    for note in _notes(diagnosis.slices):
        console.print(f"[dim]{note}[/dim]")
    console.print("\n[bold]What to do[/bold]")
    for r in diagnosis.recommendations:
        _show_recommendation(console, r)
    commands = [r.command for r in diagnosis.recommendations if r.train_method]
    console.print(f"\nreport      {report}")
    if commands:
        console.print("next        ", end="")
        console.print(commands[0], soft_wrap=True, markup=False, highlight=False)
    else:
        console.print("next        nothing to train: follow the advice above")


def interval(rate: Rate) -> str:
    """`.82 [.71, .90]`, or what is known of an empty share."""
    if rate.low is None or rate.high is None:
        return "no items"
    return f"{short(rate.k / rate.n)} [{short(rate.low)}, {short(rate.high)}]"


def short(value: float) -> str:
    """Two decimals without the leading zero, as rates are printed."""
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def verdict_text(v: SliceVerdict) -> str:
    """`knowledge · latent`."""
    return f"{v.verdict} · {v.kind}" if v.kind else v.verdict


def _verdict_table(slices: list[SliceVerdict]) -> Table:
    table = Table(
        title="Which gap, and how sure", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    columns = ("slice", "n", "strict 95 %", "lenient", "preferred", "gap 90 %", "verdict", "P")
    for name in columns:
        table.add_column(name, justify="left" if name in ("slice", "verdict") else "right", no_wrap=True)
    for v in slices:
        colour = COLOURS[v.verdict]
        preferred = "–" if v.preferred is None else short(v.preferred.k / v.preferred.n)
        lenient = "–" if not v.lenient.n else short(v.lenient.k / v.lenient.n)
        text = f"[{colour}]{verdict_text(v)}[/{colour}]" + (f" (needs ~{v.needs_items} more)" if v.needs_items else "")
        table.add_row(
            safe(v.slice), str(v.n), interval(v.strict), lenient, preferred, _gap(v), text, short(v.p_verdict)
        )
    return table


def _gap(v: SliceVerdict) -> str:
    bounds = v.interval90.get("none")
    return (
        "–"
        if bounds is None or bounds[0] != bounds[0]
        else f"[{short(1 - bounds[1])}, {short(1 - bounds[0])}]".replace("[", "\\[", 1)
    )


def _notes(slices: list[SliceVerdict]) -> list[str]:
    """What the data given cannot tell, one line per reason, and what was not scored."""
    reasons = {
        "preference": "no judge and pairs, so a preference gap cannot be seen",
        "format": "the grader cannot see right content in a wrong form, so a format gap cannot be seen",
        "context": "no oracle context, so absent facts and missing skill cannot be told apart",
        "ranked": "no options to rank, so stored facts are hard to see",
        "shaped": "no exemplars to spare, so `shaped` was not asked",
    }
    notes = []
    for what, reason in reasons.items():
        names = [safe(v.slice) for v in slices if what in v.missing and (what != "context" or v.verdict == "knowledge")]
        if names:
            notes.append(f"{', '.join(names)}: {reason}")
    for v in slices:
        if v.unscored:
            notes.append(
                f"{safe(v.slice)}: unscored: " + ", ".join(f"{n} {safe(why)}" for why, n in v.unscored.items())
            )
    return notes


def _show_recommendation(console: Console, r: Recommendation) -> None:
    lift: dict[str, Any] = r.predicted_lift
    best = f"[bold]{r.method}[/bold]"
    train = f"; if you train: [bold]{r.train_method}[/bold]" if r.train_method and r.train_method != r.method else ""
    console.print(f"\n  {', '.join(map(safe, r.slices))}: {best}{train}")
    if r.train_method or r.method not in ("none", "collect_data"):
        expected = f"{short(lift['mean'])} \\[{short(lift['low'])}, {short(lift['high'])}]"
        console.print(f"    expected lift {expected} by {r.train_method or r.method}, P(best advice) {short(r.p_best)}")
    console.print(f"    why      {safe(r.why)}", highlight=False)
    console.print(f"    flips it {safe(r.would_flip)}", highlight=False)
    if r.train_method:
        console.print(f"    data     {r.data_needed['have']} rows at hand, {r.data_needed['rows']} wanted")
        console.print("    command  ", end="")
        console.print(r.command, soft_wrap=True, markup=False, highlight=False)
