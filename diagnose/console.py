"""What a user reads in the terminal. Everything a model wrote is stripped of control characters first."""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from diagnose.records import Answer, Diagnosis, EvalItem, Interval, Rate, Recommendation, SliceVerdict

COLOURS = {
    "none": "green",
    "format": "cyan",
    "knowledge": "magenta",
    "preference": "blue",
    "mixed": "yellow",
    "insufficient": "bright_black",
}
MISSING = {
    "content": (
        "nothing grades content, so only preference can be seen",
        "a `target` with a grader: it makes format and knowledge gaps visible",
    ),
    "format": (
        "the grader cannot see right content in a wrong form, so a format gap cannot be seen",
        "a grader with two readings, such as `exact` or `json`: it makes a format gap visible",
    ),
    "preference": (
        "no judge was heard, so a preference gap cannot be seen",
        "`chosen` answers with a judge, and the probe `judged`: they make a preference gap visible",
    ),
    "judge": (
        "the judge does not prefer what people chose, so a preference gap cannot be claimed",
        "a judge that tells chosen from rejected better than a coin: `judge.path` or the row's grader",
    ),
    "agreement": (
        "annotators do not agree on what is better, so a preference gap cannot be claimed",
        "a guideline that annotators follow alike (Krippendorff's alpha of .4 or more)",
    ),
    "misfit": (
        "no kind of gap explains what all probes saw, so the kind is not said",
        "the render: chat template, stop strings, refusals; look at the answers, mend it and ask again",
    ),
    "context": (
        "no oracle context was read, so absent facts and missing skill cannot be told apart",
        "a `context` per item, and the probe `given`: it tells an absent fact from a missing skill",
    ),
    "ranked": (
        "no options were ranked, so stored facts are hard to see",
        "`distractors` and a `statement` per item: ranking them finds facts that are stored but not said",
    ),
    "sampled": (
        "not sampled, so content that comes out only sometimes is not seen",
        "the probe `sampled`: it finds content that greedy decoding hides",
    ),
    "shaped": (
        "no exemplars were shown, so what a prompt repairs is not known",
        "the probe `shaped` and 12 items or more: four of them are its exemplars",
    ),
    "constrained": (
        "nothing was decoded under the schema, so what forcing the form repairs is not known",
        "the probe `constrained`, of a model that can be asked: it shows whether a schema suffices",
    ),
    "margins": (
        "no pairs were scored, so how near the preferred answer is to the model's own is not known",
        "the probe `margins`, of a local model or by model.api=completions: it tells dpo from rlhf",
    ),
}
"""What `missing` names → what cannot be told without it, and what would make it known."""
BLANKS = {
    "ROWS.jsonl": "your training rows",
    "DIR_OR_HUB_NAME": "the weights of the model that answered",
}
"""What a printed command leaves to be filled in."""
BARS = 6
"""So many probes have a bar at once: the latest."""
ROWS = 40
"""So many slices stand in the terminal; the report has all of them."""
NAME = 32
"""Columns for the name of a slice among other words."""
NARROW = 100
"""Columns of a terminal under which the table keeps only what the verdict rests on."""


def safe(text: str) -> str:
    """No escape sequences, no direction marks, no markup: what is left prints as it reads."""
    return escape(_printable(text))


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() or c == " " else "\ufffd" if unicodedata.category(c) != "Cf" else "" for c in text
    )


# ---------------------------------------------------------------- while it runs


class Standing:
    """What is known of a slice so far."""

    def __init__(self, items: int) -> None:
        self.items, self.asked, self.right, self.content = items, 0, 0, 0
        self.lost: set[str] = set()
        self.back: dict[str, set[str]] = {"shaped": set(), "constrained": set(), "sampled": set(), "given": set()}

    def saw(self, answer: Answer) -> None:
        """Count one answer."""
        if answer.probe == "plain":
            self.asked += 1
            self.right += bool(answer.strict)
            self.content += bool(answer.lenient)
            if answer.strict is False:
                self.lost.add(answer.item)
        elif answer.probe in self.back and answer.item in self.lost:
            form = answer.probe in ("shaped", "constrained")
            if answer.strict if form else answer.lenient:
                self.back[answer.probe].add(answer.item)

    def recovered(self) -> str:
        """`shaped 12 · given 3`: of the failures, how many items came back and by what."""
        return " · ".join(f"{probe} {len(items)}" for probe, items in self.back.items() if items)


class Bars:
    """One progress bar per probe on stderr and under them what is known per slice; plain lines where no terminal is."""

    def __init__(self, title: str = "", items: Sequence[EvalItem] = ()) -> None:
        """`items`: those whose answers `saw` counts by slice."""
        self.title = f"{title} " if title else ""
        self.slices = {i.id: i.slices for i in items}
        sizes = Counter(name for i in items for name in i.slices)
        self.standing = {name: Standing(size) for name, size in sizes.items()}
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = _Progress(*columns, console=console, disable=not console.is_terminal)
        self.progress.below = self._table
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
            for old in self.progress.task_ids[: 1 - BARS]:
                self.progress.update(old, visible=False)
            self.tasks[key] = self.progress.add_task(self.title + probe, total=planned)
        self.progress.update(self.tasks[key], completed=done, visible=True)
        if self.progress.disable and done == planned:
            print(f"{self.title + probe:<18} {planned:>6} answers", file=sys.stderr, flush=True)

    def saw(self, answers: Iterable[Answer]) -> None:
        """Count answers by slice."""
        for answer in answers:
            for name in self.slices.get(answer.item, ()):
                self.standing[name].saw(answer)

    def settled(self, verdict: SliceVerdict) -> None:
        """A line for a slice of which nothing more is asked."""
        said = f"{safe(verdict.slice)}: {verdict_text(verdict)}, P {chance(verdict.p_verdict)}, {verdict.n} items asked"
        word = "unsettled" if verdict.verdict == "insufficient" else "settled"
        self.progress.console.print(f"{word:<10} {said}", soft_wrap=True, highlight=False)

    def _table(self) -> Table | None:
        """The slices with the most failures so far, as many as a terminal has room for."""
        if not any(s.asked for s in self.standing.values()):
            return None
        table = _table()
        for name in ("slice", "asked", "right", "content"):
            table.add_column(name, justify="left" if name == "slice" else "right", no_wrap=True)
        table.add_column("failures that came back", no_wrap=True, overflow="ellipsis")
        started = [(name, s) for name, s in self.standing.items() if s.asked]
        started.sort(key=lambda pair: (pair[1].right - pair[1].asked, pair[0]))
        shown = started[: max(3, self.progress.console.height // 3)]
        for name, s in shown:
            shares = (short(s.right / s.asked), short(s.content / s.asked))
            table.add_row(Text(cut(name, NAME)), f"{s.asked}/{s.items}", *shares, s.recovered())
        if len(shown) < len(started):
            table.add_row(f"and {len(started) - len(shown)} more")
        return table


class _Progress(Progress):
    """Bars with something below them."""

    below: Callable[[], RenderableType | None] | None = None

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        below = self.below() if self.below else None
        if below is not None:
            yield below


# ---------------------------------------------------------------- at the end


def show_diagnosis(diagnosis: Diagnosis, report: str) -> None:
    """Table of verdicts, then what to do, then the next command."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    slices = by_gap(diagnosis.slices)
    console.print("[bold]Which gap, and how sure[/bold]")
    console.print(_verdict_table(slices[:ROWS], console.width))
    for note in _notes(slices):
        console.print(Text(_printable(note), "dim"))
    console.print("\n[bold]What to do[/bold]")
    for r in diagnosis.recommendations:
        _show_recommendation(console, r)
    commands = [r.command for r in diagnosis.recommendations if r.train_method]
    console.print("\nreport      ", end="")
    console.print(report, soft_wrap=True, markup=False, highlight=False)
    console.print("next        ", end="")
    next_step = commands[0] if commands else "nothing to train: follow the advice above"
    console.print(_printable(next_step), soft_wrap=True, markup=False, highlight=False)
    for blank, what in BLANKS.items():
        if f"={blank}" in next_step:
            console.print(f"            {blank} stands for {what}", style="dim", highlight=False)


def by_gap(slices: Sequence[SliceVerdict]) -> list[SliceVerdict]:
    """The largest gap first; slices of which nothing was scored last."""
    return sorted(slices, key=lambda v: (-gap(v) if gap(v) is not None else 1.0, v.slice))  # type: ignore[operator]


def gap(v: SliceVerdict) -> float | None:
    """Posterior mean of the share of items with any gap."""
    none = v.mixture.get("none")
    return None if none is None else 1 - none


def gap_interval(v: SliceVerdict) -> Interval | None:
    """Its 90 % interval."""
    bounds = v.interval90.get("none")
    return None if bounds is None else (1 - bounds[1], 1 - bounds[0])


def interval(rate: Rate) -> str:
    """`.82 [.71, .90]`, or what is known of an empty share."""
    if rate.low is None or rate.high is None:
        return "no items"
    return f"{short(rate.k / rate.n)} [{short(rate.low)}, {short(rate.high)}]"


def short(value: float) -> str:
    """Two decimals without the leading zero, as rates are printed."""
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def chance(p: float) -> str:
    """A probability from some hundred draws is never certain."""
    return "<.01" if p < 0.005 else ">.99" if p > 0.995 else short(p)


def verdict_text(v: SliceVerdict) -> str:
    """`knowledge · latent`."""
    return f"{v.verdict} · {v.kind}" if v.kind else v.verdict


def sure(v: SliceVerdict) -> str:
    """P(verdict); a slice with too few items has none."""
    return chance(v.p_verdict) if v.p_classes else "–"


def cut(text: str, room: int) -> str:
    """A name in so many columns, without its middle: slices often share how they begin."""
    text = _printable(text)
    if cell_len(text) <= room:
        return text
    head, tail = text[: (room - 1) // 2], text[-(room // 2) :]
    while cell_len(head) + cell_len(tail) >= room:
        head, tail = head[:-1], tail[1:]
    return f"{head}…{tail}"


def some(names: Sequence[str], most: int = 4) -> str:
    """`a, b and 12 more`."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)


def _verdict_table(slices: list[SliceVerdict], width: int) -> Table:
    """Fits the width: the names of slices give way, and in a narrow terminal what the verdict does not rest on."""
    rows = [_cells(v, wide=width >= NARROW) for v in slices]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    taken = {name: max(cell_len(name), *(cell_len(row[name]) for row in rows)) for name in columns}
    room = max(8, width - sum(taken[name] + 2 for name in columns if name != "slice") - 2)
    table = _table()
    for name in columns:
        table.add_column(name, justify="left" if name in ("slice", "verdict") else "right", no_wrap=True)
    for v, row in zip(slices, rows, strict=True):
        shown = row | {"slice": cut(v.slice, room)}
        table.add_row(*(Text(shown[name], COLOURS[v.verdict] if name == "verdict" else "") for name in columns))
    return table


def _cells(v: SliceVerdict, wide: bool) -> dict[str, str]:
    rate = interval(v.strict) if wide else _share(v.strict)
    out = {"slice": _printable(v.slice), "n": str(v.n), "strict 95 %" if wide else "strict": rate}
    if wide:
        out |= {"lenient": _share(v.lenient), "preferred": _share(v.preferred)}
    bounds = gap_interval(v)
    out["gap 90 %"] = "–" if bounds is None else f"[{short(bounds[0])}, {short(bounds[1])}]"
    out |= {"verdict": verdict_text(v), "P": sure(v)}
    return out | {"needs": f"+{v.needs_items}" if v.needs_items else ""}


def _share(rate: Rate | None) -> str:
    return "–" if rate is None or not rate.n else short(rate.k / rate.n)


def _notes(slices: list[SliceVerdict]) -> list[str]:
    """What the table leaves out, what the data given cannot tell (one line per reason), and what was not scored."""
    notes = [f"{len(slices) - ROWS} more slices with smaller gaps: in the report"] if len(slices) > ROWS else []
    for what, (reason, _) in MISSING.items():
        names = [cut(v.slice, NAME) for v in slices if what in v.missing and matters(what, v)]
        if names:
            notes.append(f"{'all slices' if len(names) == len(slices) > 1 else some(names)}: {reason}")
    for v in slices:
        if v.doubted:
            notes.append(
                f"{cut(v.slice, NAME)}: {len(v.doubted)} gold answers are doubted ({some(list(v.doubted))}): their own "
                "context or all of the model's samples say otherwise; look at them first"
            )
    unscored = sum((Counter(v.unscored) for v in slices), Counter[str]())
    if unscored:
        names = [cut(v.slice, NAME) for v in slices if v.unscored]
        notes.append(f"{some(names)}: unscored: " + ", ".join(f"{n} {why}" for why, n in unscored.most_common()))
    return notes


def matters(what: str, v: SliceVerdict) -> bool:
    """Would it change what is said of this slice? Where nothing grades content, the probes of content would not."""
    if what in ("context", "misfit"):
        return v.verdict in ("knowledge", "mixed")
    if what in ("constrained", "margins"):
        return v.verdict in ({"constrained": "format", "margins": "preference"}[what], "mixed")
    return what in ("content", "preference", "judge", "agreement") or "content" not in v.missing


def _show_recommendation(console: Console, r: Recommendation) -> None:
    console.print()
    console.print(Padding(_headline(r), (0, 0, 0, 2), expand=False), highlight=False)
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in _advice(r).items():
        table.add_row(name, Text(_printable(text)))
    console.print(Padding(table, (0, 0, 0, 4), expand=False))
    if r.train_method:
        console.print("    command  ", end="")
        console.print(_printable(r.command), soft_wrap=True, markup=False, highlight=False)


def _headline(r: Recommendation) -> str:
    best = f"[bold]{r.method}[/bold]"
    train = f"; if you train: [bold]{r.train_method}[/bold]" if r.train_method and r.train_method != r.method else ""
    return f"{safe(some([cut(name, NAME) for name in r.slices]))}: {best}{train}"


def expected_lifts(r: Recommendation) -> Iterator[str]:
    """`.88 [.60, .99] by sft`, of what is advised and of training, each in the slice that it lifts least."""
    methods = [m for m in dict.fromkeys((r.method, r.train_method)) if m and m not in ("none", "collect_data")]
    for method in methods:
        x = r.least_lifts[method]
        yield f"{short(x['mean'])} [{short(x['low'])}, {short(x['high'])}] by {method}"


def _advice(r: Recommendation) -> dict[str, str]:
    out = {}
    if r.train_method or r.method not in ("none", "collect_data"):
        out["lift"] = f"expected {'; '.join(expected_lifts(r))}; P(best advice) {chance(r.p_best)}"
    out |= {"why": r.why, "flips it": r.would_flip}
    return out | ({"data": data} if (data := wanted_data(r)) else {})


def wanted_data(r: Recommendation) -> str:
    """Training rows or items that the advice needs; empty where it needs none."""
    if r.data_needed["rows"]:
        return f"{r.data_needed['have']} training rows at hand, {r.data_needed['rows']} wanted"
    items = r.data_needed.get("items")
    return f"about {items} more items{' in all' if len(r.slices) > 1 else ''}" if items else ""
