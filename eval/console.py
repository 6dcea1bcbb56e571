"""The console output of eval.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from diagnose.report.words import safe, short
from eval.records import Comparison, RunResult, SliceDelta

COLOURS = {"PASS": "green", "WARN": "yellow", "BLOCK": "red", "INCONCLUSIVE": "bright_black"}
CHANGES = {"better": "green", "worse": "red", "equivalent": "bright_black", "tie": "bright_black"}


def show_comparison(comparison: Comparison, report: str) -> None:
    """One table per run, then the best method."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    for result in comparison.runs:
        console.print(_run_table(result, comparison.arms))
        colour = COLOURS[result.verdict]
        console.print(f"[{colour}]{result.verdict}[/{colour}]  {safe(result.reason)}", highlight=False)
        if any(d.verdict == "tie" and d.low is not None and d.low * (d.high or 0.0) > 0 for d in result.slices):
            console.print("[dim]intervals are per slice; better/worse also needs p < .05 after Holm[/dim]")
        console.print()
    if comparison.retention:
        console.print(_retention_table(comparison.retention))
        console.print()
    for path, why in comparison.skipped.items():
        console.print(f"[dim]skipped {safe(path)}: {safe(why)}[/dim]", highlight=False)
    for group in (g for g in comparison.by_target if len(g["methods"]) > 1):
        console.print(f"best        {', '.join(map(safe, group['slices']))}: {_best(group)}", highlight=False)
    console.print(f"report      {report}", highlight=False)


def _best(group: dict[str, Any]) -> str:
    r = group["regret"]
    if r is None:
        return str(group["best"])
    if r["best"] == r["recommended"]:
        return f"{r['best']}, as recommended"
    gap = f"regret {short(r['regret'])}, 90 % \\[{short(r['low'])}, {short(r['high'])}], n {r['items']}"
    return f"{r['best']}; the recommended {r['recommended']} {'is tied with it' if r['tie'] else 'is worse'} ({gap})"


def _run_table(result: RunResult, arms: list[str]) -> Table:
    title = f"{safe(result.run)} · {result.method} · seed {result.seed}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("slice", "role", "n", "before", "after", "delta 95 %", "p Holm", "fixed", "broken", "predicted"):
        table.add_column(name, justify="left" if name in ("slice", "role") else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for d in sorted(result.slices, key=lambda d: (d.role not in ("critical", "target"), d.slice)):
        colour = CHANGES[d.verdict]
        before, after = (_rate(x) for x in (d.before, d.after))
        counts = (str(len(d.fixed)), str(len(d.broken)))
        predicted = f"{d.predicted['mean']:+.2f}" if d.predicted else "–"
        p = p_text(d.p_holm)
        table.add_row(
            safe(d.slice), d.role, str(d.n), before, after, delta_text(d).replace("[", "\\["), p, *counts, predicted,
            f"[{colour}]{d.verdict}[/{colour}]",
        )  # fmt: skip
    return table


ROUTES = {"kept": "[green]kept[/green]", "lost": "[red]lost: route or train jointly[/red]", "unsure": "unsure"}


def _retention_table(rows: list[dict[str, Any]]) -> Table:
    """What merges keep; `own` is what sending each slice to its own run gives."""
    table = Table(title="merged", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("merge", "slice", "n", "base", "own", "merged", "retention 95 %", ""):
        table.add_column(name, justify="right" if name in ("n", "base", "own", "merged") else "left")
    for r in rows:
        rates = (_rate(r[key]) for key in ("before", "own", "merged"))
        kept = retained_text(r["retention"]).replace("[", "\\[")
        table.add_row(safe(Path(r["merge"]).name), safe(r["slice"]), str(r["n"]), *rates, kept, ROUTES[r["verdict"]])
    return table


def retained_text(ratio: dict[str, float]) -> str:
    """`.97 [.90, 1.00]`."""
    return f"{short(ratio['ratio'])} [{short(ratio['low'])}, {short(ratio['high'])}]"


def delta_text(d: SliceDelta) -> str:
    """`+.88 [+.76, +.94]`."""
    if d.delta is None or d.low is None or d.high is None:
        return "no items"
    return f"{signed(d.delta)} [{signed(d.low)}, {signed(d.high)}]"


def p_text(p: float | None) -> str:
    """Three decimals, never 0."""
    return "–" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)


def signed(value: float) -> str:
    """A signed share without the leading zero: `+.88`."""
    return f"{value:+.2f}".replace("0.", ".", 1)


def _rate(value: float | None) -> str:
    return "–" if value is None else short(value)
