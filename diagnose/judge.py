"""Models that read answers: as a grader, as a judge of two answers, and reward models.

A judge sees two answers in both orders, because judges favour a place; what it gets wrong is measured on pairs of
known truth (chosen against rejected) and on two samples of the same model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.grade import grade
from diagnose.model import Model, load_model
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
                from diagnose.reward import RewardModel

                self._loaded[key] = RewardModel(spec["path"], self.settings.device, self.settings.batch_size)
            else:
                self._loaded[key] = _judge(self._settings(spec.get("model")))
        return self._loaded[key]

    def check(self, items: Sequence[EvalItem]) -> None:
        """Load the models that the items name, and see that the servers among them answer, before anything is asked.

        Raises:
            BadInput: none is configured, or it does not answer.
        """
        from diagnose.served import ServedModel

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
    from diagnose.served import ServedModel

    return ServedModel(settings, "judge")


def _task(item: EvalItem) -> str:
    return "\n".join(text for _, text in item.turns)


def _asked(text: str) -> Prompt:
    return Prompt((("user", text),))
