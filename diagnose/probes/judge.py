"""Models that read answers: as a grader, as a judge of two answers, and reward models.

A judge sees two answers in both orders, because judges favour a place; what it gets wrong is measured on pairs of
known truth (chosen against rejected) and on two samples of the same model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.grading.grade import grade, prefers
from diagnose.models import load_model
from diagnose.models.base import Model
from diagnose.probes.answers import READ, AnswerLog, Ask
from diagnose.records import EvalItem, Prompt, Reading

GRADES = {"A": (True, True), "B": (False, True), "C": (False, False)}
"""What the letters of `graded` mean: strict, lenient."""
LETTER = re.compile(
    r"^\W*(?:(?:grade|answer|verdict)[\s:*]+)?([ABC])(?:\W*(?:$|\n)|[.:;)*\"\]]|\s+[-–—(]|,?\s+(?:is|because|since|as)\b)",
    re.IGNORECASE,
)
"""A letter that stands for itself: not the article of `A good answer …`, not the first of `A or B`."""


class Judges:
    """The models that the items of an eval set name, each loaded once and only if it is needed."""

    def __init__(self, settings: ModelConfig) -> None:
        """`settings` is the judge that rows mean when they name none."""
        self.settings = settings
        self._loaded: dict[str, Model] = {}

    def of(self, spec: dict[str, Any]) -> Model:
        """The model of one judge or judging grader.

        Raises:
            BadInput: none is configured.
        """
        rewards = spec["kind"] == "reward_model"
        key = json.dumps([rewards, spec["path"] if rewards else spec.get("model")])
        if key not in self._loaded:
            if rewards:
                from diagnose.models.reward import RewardModel

                self._loaded[key] = RewardModel(spec["path"], self.settings.device, self.settings.batch_size)
            else:
                self._loaded[key] = _judge(self._settings(spec.get("model")))
        return self._loaded[key]

    def check(self, items: Sequence[EvalItem]) -> None:
        """Load the models that the items name, and see that the servers among them answer, before anything is asked.

        Raises:
            BadInput: none is configured, or it does not answer.
        """
        from diagnose.models.served import ServedModel

        specs = [i.grader for i in items if i.grader["kind"] == "judge"]
        specs += [i.judge for i in items if i.judge and i.judge["kind"] != "rule"]
        for model in {id(model): model for model in map(self.of, specs)}.values():
            if isinstance(model, ServedModel):
                model.reach()

    def read(self, pairs: Sequence[tuple[EvalItem, str]]) -> list[Reading]:
        """Grade responses, asking a model where the grader is one."""
        out = [grade(item, text) for item, text in pairs]
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
        """A row may name a local model or a hub name; servers and keys stand in the configuration only."""
        if model is None:
            if not (self.settings.path or self.settings.base_url):
                raise BadInput("judge.path: missing; rows ask for a judge model: judge.path=DIR, or judge.kind=openai")
            return self.settings
        return ModelConfig(path=str(model), device=self.settings.device, max_new_tokens=16)


def graded(item: EvalItem, text: str) -> Prompt:
    """The question that makes a model a grader."""
    gold = f"\n\nReference answer:\n{item.wanted}" if item.wanted else ""
    rubric = f"\n\nWhat counts:\n{item.grader['rubric']}" if item.grader.get("rubric") else ""
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
"""Of the sixteen, so many are shown to a judge model: it sees each twice."""


def by_judge(items: list[EvalItem], judges: Judges) -> Iterator[tuple[list[EvalItem], Model]]:
    """Items together with the model that judges them; a rule needs no model."""
    groups: dict[str, list[EvalItem]] = {}
    for item in items:
        if item.judge and item.judge["kind"] != "rule":
            groups.setdefault(json.dumps(item.judge, sort_keys=True), []).append(item)
    for members in groups.values():
        yield members, judges.of(members[0].judge or {})


def judgements(item: EvalItem, log: AnswerLog) -> list[Ask]:
    """What a model that judges is asked.

    Own answer against `chosen`; chosen against rejected; two samples against each other; some of sixteen samples
    against `chosen`. A judge model sees each pair in both orders, a reward model each text once.
    """
    own = own_answer(item, log)
    if item.judge is None or own is None:
        return []
    self_texts = [a.text for a in log.of_item("self", item.id) if a.strict is not False]
    best = [a.text for a in log.of_item("best", item.id) if a.strict is not False]
    if item.judge["kind"] == "reward_model":
        texts: dict[str, list[str | None]] = {"reward": [item.chosen, own, item.rejected]}
        texts |= {"reward_self": [*self_texts], "reward_best": [*best]}
        scored = [(probe, draw, text) for probe, several in texts.items() for draw, text in enumerate(several) if text]
        return [
            Ask(probe=probe, item=item.id, prompt=Prompt(item.turns), continuation=text, draw=draw)
            for probe, draw, text in scored
        ]
    pairs: dict[str, list[tuple[str | None, str | None]]] = {
        "judged": [(own, item.chosen)],
        "judged_control": [(item.chosen, item.rejected)],
        "judged_self": list(zip(self_texts[::2], self_texts[1::2], strict=False)),
        "judged_best": [(text, item.chosen) for text in dict.fromkeys(best[:JUDGED_BEST])],
    }
    return [
        Ask(probe=probe, item=item.id, prompt=compared(item, *order), draw=2 * k + turned)
        for probe, several in pairs.items()
        for k, (a, b) in enumerate(several)
        if a and b
        for turned, order in enumerate(((a, b), (b, a)))
    ]


def own_answer(item: EvalItem, log: AnswerLog) -> str | None:
    """The plain answer that takes part in a duel: a strict pass, or any where nothing grades content."""
    answer = log.get("plain", item.id)
    return answer.text if answer.strict or (not item.graded and answer.text) else None


def lost_to_reference(item: EvalItem, log: AnswerLog) -> bool | None:
    """Does the item's own answer lose to `chosen` (or to what the rule accepts)? None where nobody judged.

    Against a judge model it loses if `chosen` wins in both orders: a verdict that turns with the places is a tie.
    """
    own = own_answer(item, log)
    if item.judge is None or own is None:
        return None
    match item.judge["kind"]:
        case "rule":
            return not prefers(item, own)
        case "reward_model":
            chosen, mine = log.find("reward", item.id, 0), log.find("reward", item.id, 1)
            if not chosen or not mine or chosen.logprob is None or mine.logprob is None:
                return None
            return chosen.logprob > mine.logprob
    won = duel(item.id, log, "judged", 0)
    return None if won is None else won == -1


def duel(item: str, log: AnswerLog, probe: str, k: int) -> int | None:
    """1 if the first text of pair k won in both orders, -1 if the second did, 0 for a tie; None if not readable."""
    answers = [log.find(probe, item, 2 * k), log.find(probe, item, 2 * k + 1)]
    letters = [pick(a.text) if a else None for a in answers]
    if None in letters:
        return None
    return {("A", "B"): 1, ("B", "A"): -1}.get((str(letters[0]), str(letters[1])), 0)


def self_duels(item: EvalItem, log: AnswerLog) -> list[float]:
    """Two samples of the model against each other, taken both ways round: how often the first loses to the second."""
    if item.judge is None:
        return []
    if item.judge["kind"] == "model":
        found = [duel(item.id, log, "judged_self", k) for k in range(len(log.of_item("judged_self", item.id)) // 2)]
        return [0.5 * abs(won) for won in found if won is not None]
    if item.judge["kind"] == "reward_model":
        values: list[Any] = [a.logprob for a in log.of_item("reward_self", item.id) if a.logprob is not None]
    else:
        values = [
            prefers(item, a.text) for a in log.of_item("self", item.id) if a.finish in READ and a.strict is not False
        ]
    return [0.5 * (a != b) for a, b in zip(values[::2], values[1::2], strict=False)]
