"""answers.jsonl: what was asked and what came back, append-only, in batches that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from diagnose.grade import grade
from diagnose.model import Model
from diagnose.records import Answer, EvalItem, Prompt

Progress = Callable[[str, int, int], None]
"""Called with (probe, answers so far, answers planned)."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One question to the model: generate `n` texts, or score `continuation`."""

    probe: str
    item: str
    prompt: Prompt
    graded: EvalItem | None = None
    """The item whose grader reads the text; None: nobody does."""
    continuation: str | None = None
    draw: int = 0
    n: int = 1
    temperature: float = 0.0


class AnswerLog:
    """Asks what is not yet answered, and remembers."""

    def __init__(self, path: Path, seed: int, progress: Progress | None = None) -> None:
        self.path, self.seed = path, seed
        self.progress = progress or (lambda probe, done, planned: None)
        self._answers: dict[str, dict[str, dict[int, Answer]]] = defaultdict(lambda: defaultdict(dict))
        if path.exists():
            self._read()

    def ask(self, model: Model, asks: Sequence[Ask]) -> None:
        """Answer all asks of one stage; batches that the file already holds are not asked again."""
        planned, done = sum(a.n for a in asks), 0
        for batch in _batches(asks, model.batch_size):
            if not all(self._knows(a, d) for a in batch for d in range(a.draw, a.draw + a.n)):
                self._append(list(self._answer(model, batch)))
            done += sum(a.n for a in batch)
            self.progress(batch[0].probe, done, planned)

    def get(self, probe: str, item: str, draw: int = 0) -> Answer:
        """One answer; KeyError where it was not asked."""
        return self._answers[probe][item][draw]

    def of(self, probe: str) -> dict[str, list[Answer]]:
        """item id → its answers to this probe, by draw."""
        return {item: self.of_item(probe, item) for item in self._answers[probe]}

    def of_item(self, probe: str, item: str) -> list[Answer]:
        """The answers of one item to this probe, by draw."""
        draws = self._answers[probe].get(item, {})
        return [draws[d] for d in sorted(draws)]

    def _knows(self, ask: Ask, draw: int) -> bool:
        known = self._answers[ask.probe].get(ask.item, {}).get(draw)
        return known is not None and known.prompt == ask.prompt.sha

    def _answer(self, model: Model, batch: list[Ask]) -> Iterator[Answer]:
        fitting = [a for a in batch if model.fits(a.prompt, a.continuation)]
        for a in batch:
            if a not in fitting:
                for draw in range(a.draw, a.draw + a.n):
                    yield Answer(probe=a.probe, item=a.item, draw=draw, prompt=a.prompt.sha, text="", reason="too_long")
        if not fitting:
            return
        first = fitting[0]
        if first.continuation is not None:
            texts = [a.continuation or "" for a in fitting]
            for a, s in zip(fitting, model.logprob([a.prompt for a in fitting], texts), strict=True):
                yield Answer(
                    probe=a.probe,
                    item=a.item,
                    draw=a.draw,
                    prompt=a.prompt.sha,
                    text=a.continuation or "",
                    logprob=s.logprob,
                    tokens=s.tokens,
                    finish="scored",
                )
            return
        keys = [f"{self.seed}|{a.probe}|{a.item}" for a in fitting]
        several = model.generate([a.prompt for a in fitting], keys, first.n, first.draw, first.temperature)
        for a, completions in zip(fitting, several, strict=True):
            for draw, c in enumerate(completions, a.draw):
                reading = grade(a.graded, c.text) if a.graded else None
                yield Answer(
                    probe=a.probe,
                    item=a.item,
                    draw=draw,
                    prompt=a.prompt.sha,
                    text=c.text,
                    strict=reading.strict if reading else None,
                    lenient=reading.lenient if reading else None,
                    reason=reading.reason if reading else None,
                    tokens=c.tokens,
                    finish=c.finish,
                )

    def _append(self, batch: list[Answer]) -> None:
        lines = [json.dumps({"of": len(batch)} | asdict(answer), ensure_ascii=False) for answer in batch]
        with self.path.open("ab") as handle:
            handle.write(("\n".join(lines) + "\n").encode())
            handle.flush()
            os.fsync(handle.fileno())
        self._keep(batch)

    def _keep(self, batch: Iterable[Answer]) -> None:
        for answer in batch:
            self._answers[answer.probe][answer.item][answer.draw] = answer

    def _read(self) -> None:
        """Keep whole batches and cut off what a kill left behind them."""
        names = {f.name for f in fields(Answer)}
        whole = 0
        batch: list[Answer] = []
        with self.path.open("rb") as handle:
            for line in handle:
                row = _row(line)
                if row is None:
                    break
                batch.append(Answer(**{key: value for key, value in row.items() if key in names}))
                if len(batch) == row["of"]:
                    self._keep(batch)
                    batch = []
                    whole = handle.tell()
        os.truncate(self.path, whole)


def _row(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return row if isinstance(row, dict) and "of" in row else None


def _batches(asks: Sequence[Ask], size: int) -> Iterator[list[Ask]]:
    """Like with like: the same number of draws, similar lengths; the plan depends on the asks alone."""

    def length(ask: Ask) -> int:
        return sum(len(text) for _, text in ask.prompt.turns)

    ordered = sorted(
        asks, key=lambda a: (a.n, a.draw if a.continuation is None else 0, a.temperature, -length(a), a.item)
    )
    batch: list[Ask] = []
    for ask in ordered:
        same = batch and (ask.n, ask.temperature) == (batch[0].n, batch[0].temperature)
        if ask.continuation is None:
            same = same and ask.draw == batch[0].draw
        if batch and (not same or (len(batch) + 1) * ask.n > max(size, ask.n)):
            yield batch
            batch = []
        batch.append(ask)
    if batch:
        yield batch
