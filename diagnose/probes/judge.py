"""Models that read answers: graders, judges of pairs, and reward models.

A judge sees two answers in both orders, because judges favour a position; its error rate is measured on pairs whose
winner is known (chosen against rejected) and on two samples of the same model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from diagnose.config import ModelConfig, ReaderConfig
from diagnose.errors import BadInput
from diagnose.grading.grade import grade, prefers
from diagnose.grading.unread import spoken
from diagnose.models import load_model
from diagnose.models.base import Model
from diagnose.probes.answers import READ, AnswerLog, Ask, Response
from diagnose.probes.model_reader import ModelReader, controls_read, reads, refuse_misreading
from diagnose.probes.table import Probe, Role
from diagnose.records import NO_ANSWER, Answer, EvalItem, Grader, Judge, Prompt, Reading

GRADES = {"A": (True, True), "B": (False, True), "C": (False, False)}
"""What the letters of `graded` mean: strict, lenient."""
LETTER = re.compile(
    r"^\W*(?:(?:grade|answer|verdict)[\s:*]+)?([ABC])(?:\W*(?:$|\n)|[.:;)*\"\]]|\s+[-–—(]|,?\s+(?:is|because|since|as)\b)",
    re.IGNORECASE,
)
"""A letter that stands for itself: not the article of `A good answer …`, not the first of `A or B`."""


class Judges:
    """The models that the items of an eval set name, each loaded once and only if it is needed."""

    def __init__(self, settings: ModelConfig, reader: ReaderConfig | None = None) -> None:
        """`settings` is the judge that rows mean when they name none; `reader`: who reads the content of answers."""
        self.settings = settings
        self.reader = ModelReader(reader) if reader and reader.by == "model" else None
        self.trust = (reader or ReaderConfig()).trust
        self._loaded: dict[str, Model] = {}

    def of(self, spec: Judge | Grader) -> Model:
        """The model of one judge or judging grader.

        Raises:
            BadInput: none is configured.
        """
        path = spec.path if isinstance(spec, Judge) and spec.kind == "reward_model" else None
        key = json.dumps([path, spec.model])
        if key not in self._loaded:
            if path:
                from diagnose.models.reward import RewardModel

                self._loaded[key] = RewardModel(path, self.settings.device, self.settings.batch_size)
            else:
                self._loaded[key] = _judge(self._settings(spec.model))
        return self._loaded[key]

    def check(self, items: Sequence[EvalItem]) -> None:
        """Load the models that the items name, and see that the servers among them answer, before anything is asked.

        Raises:
            BadInput: none is configured, or it does not answer.
        """
        from diagnose.models.served import ServedModel

        if self.reader and any(map(reads, items)):
            self.reader.check()
        specs: list[Judge | Grader] = [i.grader for i in items if i.grader.kind == "judge"]
        specs += [i.judge for i in items if i.judge and i.judge.kind != "rule"]
        for model in {id(model): model for model in map(self.of, specs)}.values():
            if isinstance(model, ServedModel):
                model.reach()

    def reads(self, item: EvalItem) -> bool:
        """Does a model say whether the content of this item's answers is right?"""
        return item.grader.kind == "judge" or (self.reader is not None and reads(item))

    def check_errors(self, items: Sequence[EvalItem], log: AnswerLog) -> None:
        """Refuse a model that reads or grades, and misreads the texts of known content in the log.

        Raises:
            Blocked: naming its error rates.
        """
        if self.reader:
            self.reader.check_errors([i for i in items if reads(i)], log)
        found, taken = controls_read([i for i in items if i.grader.kind == "judge"], log)
        if any(r is not None for r in (*found, *taken)):  # grades that cannot be read leave answers unread instead
            who = f"judge={self.settings.path or self.settings.name or 'of the rows'}"
            refuse_misreading(who, "", found, taken, self.trust, "a grader that is a rule")

    def read(self, responses: Sequence[Response]) -> list[Reading]:
        """Grade responses, asking a model where the grader or the reader is one."""
        out = [grade(*response) for response in responses]
        if self.reader:
            out = self.reader.read(responses, out)
        pairs = [(item, spoken(text) or "") for item, text, _ in responses]
        asked = [k for k, reading in enumerate(out) if reading.reason == "judge"]
        by_model: dict[int, list[int]] = {}
        for k in asked:
            by_model.setdefault(id(self.of(pairs[k][0].grader)), []).append(k)
        for places in by_model.values():
            judge = self.of(pairs[places[0]][0].grader)
            prompts = {k: graded(*pairs[k]) for k in places}
            fitting = [k for k in places if judge.fits(prompts[k])]
            keys = [f"0|judge|{pairs[k][0].id}" for k in fitting]
            answers = judge.generate([prompts[k] for k in fitting], keys) if fitting else []
            said = dict(zip(fitting, answers, strict=True))
            for k in places:
                letter = LETTER.match(said[k][0].text) if k in said else None
                out[k] = Reading(*GRADES[letter[1].upper()]) if letter else Reading(None, None, "judge_unreadable")
        return out

    def _settings(self, model: Any) -> ModelConfig:
        """A row may name a local model or a hub name; servers and keys come from the configuration only."""
        if model is None:
            if not (self.settings.path or self.settings.base_url):
                raise BadInput("judge.path: missing; rows ask for a judge model: judge.path=DIR, or judge.kind=openai")
            return self.settings
        return ModelConfig(path=str(model), device=self.settings.device, max_new_tokens=16)


def graded(item: EvalItem, text: str) -> Prompt:
    """The question that makes a model a grader."""
    gold = f"\n\nReference answer:\n{item.wanted}" if item.wanted else ""
    rubric = f"\n\nWhat counts:\n{item.grader.rubric}" if item.grader.rubric else ""
    return _asked(
        f"Grade one answer.\n\nTask:\n{_task(item)}{gold}{rubric}\n\nAnswer to grade:\n{text}\n\n"
        "A: right, and in the form that the task wants\nB: the right content in another form\n"
        "C: wrong, empty, or several answers at once\n\nReply with one letter, A, B or C."
    )


def compared(item: EvalItem, first: str, second: str) -> Prompt:
    """The question that makes a model a judge."""
    return _asked(
        f"Two answers to the same task. Which one would its user rather have?\n\nTask:\n{_task(item)}\n\n"
        f"Answer A:\n{first}\n\nAnswer B:\n{second}\n\nReply with one letter, A or B."
    )


def pick(text: str) -> str | None:
    """The letter that a judge chose; None where it chose none."""
    letter = LETTER.match(text)
    return letter[1].upper() if letter and letter[1].upper() != "C" else None


def _judge(settings: ModelConfig) -> Model:
    if settings.kind != "openai":
        return load_model(settings)
    from diagnose.models.served import ServedModel

    return ServedModel(settings, "judge")


def _task(item: EvalItem) -> str:
    return "\n".join(text for _, text in item.turns)


def _asked(text: str) -> Prompt:
    return Prompt((("user", text),))


JUDGED_BEST = 4
"""Of the sixteen, so many are shown to a judge model, which sees each twice (hand-set)."""
WON = {"AB": 1, "BA": -1}
"""Letters in both orders → which text won."""
Pair = tuple[str | None, str | None]


def by_judge(items: list[EvalItem], judges: Judges) -> Iterator[tuple[list[EvalItem], Model]]:
    """Items together with the model that judges them; a rule needs no model."""
    groups: dict[Judge, list[EvalItem]] = {}
    for item in items:
        if item.judge and item.judge.kind != "rule":
            groups.setdefault(item.judge, []).append(item)
    for judge, members in groups.items():
        yield members, judges.of(judge)


def judgements(item: EvalItem, log: AnswerLog) -> list[Ask]:
    """What a model that judges is asked.

    Own answer against `chosen`; chosen against rejected; two samples against each other; some of sixteen samples
    against `chosen`. A judge model sees each pair in both orders, a reward model each text once.
    """
    own = own_answer(item, log.get(Probe.PLAIN, item.id))
    if item.judge is None or own is None:
        return []
    samples = [a.text for a in log.of_item(Probe.SELF_PAIRS, item.id) if a.strict is not False]
    best = [a.text for a in log.of_item(Probe.BEST_OF_N, item.id) if a.strict is not False]
    if item.judge.kind == "reward_model":
        roles = [(Role.CHOSEN, item.chosen), (Role.OWN, own), (Role.REJECTED, item.rejected)]
        return [
            *_scored(item, Probe.REWARD, roles),
            *_scored(item, Probe.REWARD_SELF_PAIRS, [(Role.OWN, text) for text in samples]),
            *_scored(item, Probe.REWARD_BEST_OF_N, [(Role.OWN, text) for text in best]),
        ]
    return [
        *_paired(item, Probe.PREFERENCE_JUDGED, [(own, item.chosen)]),
        *_paired(item, Probe.JUDGE_CONTROL, [(item.chosen, item.rejected)]),
        *_paired(item, Probe.JUDGED_SELF_PAIRS, list(zip(samples[::2], samples[1::2], strict=False))),
        *_paired(item, Probe.JUDGED_BEST_OF_N, [(text, item.chosen) for text in dict.fromkeys(best[:JUDGED_BEST])]),
    ]


def _scored(item: EvalItem, probe: Probe, texts: Sequence[tuple[Role, str | None]]) -> Iterator[Ask]:
    for draw, (role, text) in enumerate(texts):
        if text:
            yield Ask(probe=probe, item=item.id, prompt=Prompt(item.turns), continuation=text, draw=draw, role=role)


def _paired(item: EvalItem, probe: Probe, pairs: Sequence[Pair]) -> Iterator[Ask]:
    """Both orders of each pair: judges favour a place (arXiv 2306.05685)."""
    for k, (a, b) in enumerate(pairs):
        if a and b:
            orders = ((Role.AS_PAIRED, compared(item, a, b)), (Role.SWAPPED, compared(item, b, a)))
            for turned, (role, prompt) in enumerate(orders):
                yield Ask(probe=probe, item=item.id, prompt=prompt, draw=2 * k + turned, role=role)


def own_answer(item: EvalItem, plain: Answer) -> str | None:
    """The plain answer that is compared with others: a strict pass, or any where nothing grades content."""
    whole = plain.reason not in NO_ANSWER
    return plain.text if plain.strict or (not item.graded and plain.text and whole) else None


def lost_to_reference(item: EvalItem, log: AnswerLog) -> bool | None:
    """Does the item's own answer lose to `chosen` (or fail the rule)? None where nobody judged.

    Against a judge model it loses if `chosen` wins in both orders: a verdict that changes with the order is a tie.
    """
    own = own_answer(item, log.get(Probe.PLAIN, item.id))
    if item.judge is None or own is None:
        return None
    match item.judge.kind:
        case "rule":
            return not prefers(item, own)
        case "reward_model":
            return beaten(item.id, log, Role.OWN)
    wins = duels(item.id, log, Probe.PREFERENCE_JUDGED)
    return wins[0] == -1 if wins else None


def beaten(item: str, log: AnswerLog, role: Role) -> bool | None:
    """Does the reward model score `chosen` above the text in this role? None where one of them was not read."""
    scores = [log.find(Probe.REWARD, item, r) for r in (Role.CHOSEN, role)]
    chosen, other = (a.logprob if a else None for a in scores)
    return None if chosen is None or other is None else chosen > other


def duels(item: str, log: AnswerLog, probe: Probe) -> list[int]:
    """Per pair that a judge model saw: 1 if the first text won in both orders, -1 if the second did, 0 for a tie.

    Pairs of which an answer names no winner are left out.
    """
    orders = (log.of_item(probe, item, role) for role in (Role.AS_PAIRED, Role.SWAPPED))
    letters = [(pick(a.text), pick(b.text)) for a, b in zip(*orders, strict=False)]
    return [WON.get(f"{a}{b}", 0) for a, b in letters if a and b]


def self_losses(item: EvalItem, log: AnswerLog) -> list[float]:
    """Two samples of the model against each other, taken both ways round: how often the first loses to the second."""
    if item.judge is None:
        return []
    if item.judge.kind == "model":
        return [0.5 * abs(won) for won in duels(item.id, log, Probe.JUDGED_SELF_PAIRS)]
    if item.judge.kind == "reward_model":
        scores = log.of_item(Probe.REWARD_SELF_PAIRS, item.id)
        values: list[Any] = [a.logprob for a in scores if a.logprob is not None]
    else:
        samples = log.of_item(Probe.SELF_PAIRS, item.id)
        values = [prefers(item, a.text) for a in samples if a.finish in READ and a.strict is not False]
    return [0.5 * (a != b) for a, b in zip(values[::2], values[1::2], strict=False)]
