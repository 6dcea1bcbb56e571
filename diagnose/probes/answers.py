"""answers.jsonl: what was asked and what came back, append-only, in batches that are there whole or not at all."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from diagnose.grading.grade import grade
from diagnose.models.base import Completion, Constraint, Model
from diagnose.probes.table import Probe, Role
from diagnose.provenance import writing
from diagnose.records import Answer, EvalItem, Prompt, Reading, Unread

Progress = Callable[[str, int, int], None]
"""Called with (probe, answers so far, answers planned)."""
Response = tuple[EvalItem, str, bool]
"""What is read: whose answer, its text, and whether that was cut off at the limit of its length."""
Reader = Callable[[Sequence[Response]], list[Reading]]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One question to the model: generate `n` texts, or score `continuation`."""

    probe: Probe
    item: str
    prompt: Prompt
    graded: EvalItem | None = None
    """The item whose grader reads the text; None: nobody does."""
    continuation: str | None = None
    draw: int = 0
    n: int = 1
    temperature: float = 0.0
    constraint: Constraint | None = None
    """What the answer is constrained to."""
    role: Role = Role.NONE
    """What the text stands for, where the probe puts several to the model."""

    @property
    def name(self) -> int:
        """Which question this is, within one process."""
        return hash((self.probe, self.item, self.draw, self.prompt.sha))


WORTH_A_BATCH = 8
"""From this many prompts on, those behind the same few-shot examples get batches of their own (hand-set)."""
NOTHING = Prompt(())
"""What a model was asked that was only shown a text to grade."""
READ = ("stop", "length", "control")
"""How an answer ends that a grader may read."""


class AnswerLog:
    """Asks what is not yet answered, and remembers."""

    def __init__(
        self,
        path: Path,
        seed: int,
        progress: Progress | None = None,
        read: Reader | None = None,
        saw: Callable[[Iterable[Answer]], None] | None = None,
    ) -> None:
        """`read` grades responses; without it, the graders that need no model do. `saw` is shown every answer kept."""
        self.path, self.seed = path, seed
        self.read = read or (lambda responses: [grade(*response) for response in responses])
        self._finished: set[int] = set()
        self.progress = progress or (lambda probe, done, planned: None)
        self.saw = saw or (lambda answers: None)
        self._answers: dict[str, dict[str, dict[int, Answer]]] = defaultdict(lambda: defaultdict(dict))
        if path.exists():
            self._read()

    def part(self, items: set[str], probes: set[str] | None = None) -> AnswerLog:
        """What it knows of some items, and of texts that belong to no item (priors); `probes`: these only."""
        out = copy.copy(self)
        out._answers = defaultdict(lambda: defaultdict(dict))
        for probe in self._answers if probes is None else probes & set(self._answers):
            known = self._answers[probe]
            wanted = known if probe.startswith("prior_") else items & set(known)
            out._answers[probe].update({item: known[item] for item in wanted})
        return out

    def changed(self, how: Callable[[Answer], Answer]) -> AnswerLog:
        """A copy with every answer replaced; the file stays as it is."""
        out = copy.copy(self)
        out._answers = defaultdict(lambda: defaultdict(dict))
        for probe, items in self._answers.items():
            for item, draws in items.items():
                out._answers[probe][item] = {draw: how(answer) for draw, answer in draws.items()}
        return out

    def ask(self, model: Model, asks: Sequence[Ask]) -> None:
        """Answer all asks of one stage; batches that the file already holds are not asked again.

        What an earlier stage of this very run has asked leaves the plan; what a killed run has left does not, so that
        the batches stay the same.
        """
        asks = [a for a in asks if a.name not in self._finished]
        planned, done = sum(a.n for a in asks), 0
        for batch in _batches(asks, model.batch_size):
            if not all(self._knows(a, d) for a in batch for d in range(a.draw, a.draw + a.n)):
                self.progress(asks[0].probe, done, planned)
                self._append(list(self._answer(model, batch)))
            done += sum(a.n for a in batch)
        if asks:
            self.progress(asks[0].probe, done, planned)
        self._finished |= {a.name for a in asks}

    def note(self, probe: Probe, pairs: Sequence[tuple[EvalItem, str]]) -> None:
        """Have texts graded that no model said: controls, with what they are as `finish`."""
        if all(self._answers[probe].get(item.id) for item, _ in pairs):
            return
        drawn: Counter[str] = Counter()
        answers = []
        for (item, text), reading in zip(pairs, self.read([(item, text, False) for item, text in pairs]), strict=True):
            shown = Ask(probe=probe, item=item.id, prompt=NOTHING)
            answers.append(_answered(shown, drawn[item.id], Completion(text, 0, "control"), reading))
            drawn[item.id] += 1
        self._append(answers)

    def relabelled(self, right: Mapping[str, bool]) -> AnswerLog:
        """The same answers, with what people say of plain ones (item id → right content?) in place of the reading.

        A strict pass stays one.
        """
        out = copy.copy(self)
        out._answers = copy.copy(self._answers)
        plain = self._answers[Probe.PLAIN]
        said = {item: replace(plain[item][0], lenient=so) for item, so in right.items() if not plain[item][0].strict}
        out._answers[Probe.PLAIN] = defaultdict(dict, plain) | {item: {0: a} for item, a in said.items()}
        return out

    def __len__(self) -> int:
        """Answers known."""
        return sum(len(draws) for items in self._answers.values() for draws in items.values())

    @property
    def probes(self) -> set[str]:
        """Names of the probes of which there are answers."""
        return set(self._answers)

    def get(self, probe: str, item: str, draw: int = 0) -> Answer:
        """One answer; KeyError where it was not asked."""
        return self._answers[probe][item][draw]

    def find(self, probe: str, item: str, role: Role = Role.NONE) -> Answer | None:
        """The first answer to a probe in a role, or None where it was not asked."""
        return next(iter(self.of_item(probe, item, role)), None)

    def of(self, probe: str) -> dict[str, list[Answer]]:
        """item id → its answers to this probe, by draw."""
        return {item: self.of_item(probe, item) for item in self._answers[probe]}

    def of_item(self, probe: str, item: str, role: Role | None = None) -> list[Answer]:
        """The answers of one item to this probe, by draw; `role`: those in this role only."""
        draws = self._answers[probe].get(item, {})
        return [draws[d] for d in sorted(draws) if role is None or draws[d].role == role]

    def _knows(self, ask: Ask, draw: int) -> bool:
        known = self._answers[ask.probe].get(ask.item, {}).get(draw)
        return known is not None and known.prompt == ask.prompt.sha

    def _answer(self, model: Model, batch: list[Ask]) -> Iterator[Answer]:
        fitting = []
        for a in batch:
            if model.fits(a.prompt, a.continuation):
                fitting.append(a)
                continue
            for draw in range(a.draw, a.draw + a.n):
                yield _answered(a, draw, Completion("", 0, "stop"), Reading(None, None, "too_long"))
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
                    role=a.role,
                )
            return
        keys = [f"{self.seed}|{a.probe.stream}|{a.item}" for a in fitting]
        constraints = [a.constraint for a in fitting if a.constraint is not None] or None
        several = model.generate([a.prompt for a in fitting], keys, first.n, first.draw, first.temperature, constraints)
        said = [
            (a, a.draw + k, c)
            for a, completions in zip(fitting, several, strict=True)
            for k, c in enumerate(completions)
        ]
        graded = [(a.graded, c.text, c.finish == "length") for a, _, c in said if a.graded and c.finish in READ]
        readings = iter(self.read(graded))
        for a, draw, c in said:
            reading: Reading | None
            if c.finish not in READ:
                reading = Reading(None, None, cast(Unread, c.finish))
            else:
                reading = next(readings) if a.graded else None
            yield _answered(a, draw, c, reading)

    def _append(self, batch: list[Answer]) -> None:
        lines = [json.dumps({"of": len(batch)} | asdict(answer), ensure_ascii=False) for answer in batch]
        with writing(self.path), self.path.open("ab") as handle:
            handle.write(("\n".join(lines) + "\n").encode())
            handle.flush()
            os.fsync(handle.fileno())
        self._keep(batch)

    def _keep(self, batch: Iterable[Answer]) -> None:
        for answer in batch:
            self._answers[answer.probe][answer.item][answer.draw] = answer
        self.saw(batch)

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


def _answered(ask: Ask, draw: int, said: Completion, reading: Reading | None) -> Answer:
    return Answer(
        probe=ask.probe,
        item=ask.item,
        draw=draw,
        prompt=ask.prompt.sha,
        role=ask.role,
        text=said.text,
        strict=reading.strict if reading else None,
        lenient=reading.lenient if reading else None,
        reason=reading.reason if reading else None,
        tokens=said.tokens,
        finish=said.finish,
    )


def _row(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return row if isinstance(row, dict) and "of" in row else None


def _batches(asks: Sequence[Ask], size: int) -> Iterator[list[Ask]]:
    """Like with like: the same number of draws and examples, similar lengths; the plan depends on the asks alone.

    `size` counts generated rows; texts to be scored count by their prompts, because a prompt of several is read once.
    """

    heads = Counter(_head(ask.prompt) for ask in asks)

    def kind(ask: Ask) -> tuple[Any, ...]:
        head = _head(ask.prompt)
        draw = ask.draw if ask.temperature > 0 else 0
        return ask.n, draw, ask.temperature, ask.constraint is not None, head if heads[head] >= WORTH_A_BATCH else ""

    def length(ask: Ask) -> int:
        return sum(len(text) for _, text in ask.prompt.turns)

    ordered = sorted(asks, key=lambda a: (*kind(a), -length(a), a.item, a.draw))
    batch: list[Ask] = []
    prompts: set[Prompt] = set()
    for ask in ordered:
        full = len(batch) >= 4 * size or len(prompts | {ask.prompt}) > size
        if ask.continuation is None:
            full = (len(batch) + 1) * ask.n > max(size, ask.n)
        if batch and (full or kind(ask) != kind(batch[0])):
            yield batch
            batch, prompts = [], set()
        batch.append(ask)
        prompts.add(ask.prompt)
    if batch:
        yield batch


def _head(prompt: Prompt) -> str:
    """What precedes the question itself: few-shot examples, shared by many prompts."""
    return "\n".join(text for _, text in prompt.turns[:-1])
