"""Progress on stderr: a bar per probe, and below them what is known per slice; lines where it is no terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from diagnose.probes.table import BY_NAME, TABLE, Probe
from diagnose.records import Answer, EvalItem, SliceVerdict
from diagnose.report.words import chance, cut, safe, short, verdict_text

BARS = 6
"""Probes that have a bar at once: the latest."""
NAME = 32
"""Columns for the name of a slice among other words."""
EVERY = 30.0
"""Seconds between two lines where stderr is no terminal (hand-set)."""
Stage = tuple[str, int]
"""A probe and how many answers are planned."""


class Tally:
    """What is known of a slice so far."""

    def __init__(self, items: int) -> None:
        self.items, self.asked, self.right, self.content = items, 0, 0, 0
        self.failed: set[str] = set()
        self.recovered: dict[str, set[str]] = {e.probe: set() for e in TABLE if e.recovers}

    def saw(self, answer: Answer) -> None:
        """Count one answer."""
        if answer.probe == Probe.PLAIN:
            self.asked += 1
            self.right += bool(answer.strict)
            self.content += bool(answer.lenient)
            if answer.strict is False:
                self.failed.add(answer.item)
        elif answer.item in self.failed and answer.probe in self.recovered:
            recovers = BY_NAME[Probe(answer.probe)].recovers
            if recovers and getattr(answer, recovers):
                self.recovered[answer.probe].add(answer.item)

    def recoveries(self) -> str:
        """`few_shot 12 · oracle_context 3`: how many of the failures were recovered, and by what."""
        return " · ".join(f"{probe} {len(items)}" for probe, items in self.recovered.items() if items)


class Bars:
    """A progress bar per probe and the slices below them; plain lines where stderr is no terminal."""

    def __init__(
        self, title: str = "", items: Sequence[EvalItem] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`items`: those whose answers `saw` counts by slice; `clock`: seconds, never going back."""
        self.title = f"{title} " if title else ""
        self.slices = {i.id: i.slices for i in items}
        sizes = Counter(name for i in items for name in i.slices)
        self.tallies = {name: Tally(size) for name, size in sizes.items()}
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:<24}"), BarColumn(24), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = _Progress(*columns, *times, console=console, disable=not console.is_terminal, get_time=clock)
        self.progress.below = self._table
        self.tasks: dict[Stage, TaskID] = {}
        self.clock, self.told = clock, clock()
        self.started: dict[Stage, tuple[float, int]] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, probe: str, done: int, planned: int) -> None:
        """Advance the bar of a probe; the first call of a resumed one comes with what is on disk already."""
        stage = (probe, planned)
        if stage not in self.tasks:
            for old in self.progress.task_ids[: 1 - BARS]:
                self.progress.update(old, visible=False)
            self.tasks[stage] = self.progress.add_task(self.title + probe, total=planned)
        self.progress.update(self.tasks[stage], completed=done, visible=True)
        if self.progress.disable:
            self._print(stage, done)

    def _print(self, stage: Stage, done: int) -> None:
        """The line of a finished probe, or every half-minute that of an unfinished one."""
        (probe, planned), now = stage, self.clock()
        start, before = self.started.setdefault(stage, (now, done))
        if done < planned and now - self.told < EVERY:
            return
        self.told = now
        if done == planned:
            del self.started[stage]
            print(f"{self.title + probe:<24} {planned:>6} answers", file=sys.stderr, flush=True)
            return
        took, new = now - start, done - before
        left = f"about {_span(took / new * (planned - done))} left" if new else "time left not known yet"
        count = f"{done}/{planned} answers"
        print(
            f"{self.title + probe:<24} {count}, {_span(took)} elapsed, {left} for this probe",
            file=sys.stderr,
            flush=True,
        )

    def saw(self, answers: Iterable[Answer]) -> None:
        """Count answers by slice."""
        for answer in answers:
            for name in self.slices.get(answer.item, ()):
                self.tallies[name].saw(answer)

    def settled(self, verdict: SliceVerdict) -> None:
        """A line for a slice that is asked no more items."""
        said = f"{safe(verdict.slice)}: {verdict_text(verdict)}, P {chance(verdict.p_verdict)}, {verdict.n} items asked"
        word = "undecided" if verdict.verdict == "insufficient" else "decided"
        self.progress.console.print(f"{word:<10} {said}", soft_wrap=True, highlight=False)

    def _table(self) -> Table | None:
        """The slices with the most failures so far, as many as a terminal has room for."""
        if not any(s.asked for s in self.tallies.values()):
            return None
        table = borderless()
        for name in ("slice", "asked", "right", "content"):
            table.add_column(name, justify="left" if name == "slice" else "right", no_wrap=True)
        table.add_column("failures recovered by", no_wrap=True, overflow="ellipsis")
        started = [(name, s) for name, s in self.tallies.items() if s.asked]
        started.sort(key=lambda pair: (pair[1].right - pair[1].asked, pair[0]))
        shown = started[: max(3, self.progress.console.height // 3)]
        for name, s in shown:
            shares = (short(s.right / s.asked), short(s.content / s.asked))
            table.add_row(Text(cut(name, NAME)), f"{s.asked}/{s.items}", *shares, s.recoveries())
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


def _span(seconds: float) -> str:
    """h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def borderless() -> Table:
    """A table without lines."""
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
