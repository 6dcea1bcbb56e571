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
LETTER = re.compile(r"^[^\w]*(?:(?:grade|answer|verdict)[\s:*]+)?([ABC])\b", re.IGNORECASE)


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
        key = json.dumps([spec.get("kind"), spec.get("model"), spec.get("path")], sort_keys=True)
        if key not in self._loaded:
            if spec["kind"] == "reward_model":
                from diagnose.hf import RewardModel

                self._loaded[key] = RewardModel(spec["path"], self.settings.device, self.settings.batch_size)
            else:
                self._loaded[key] = load_model(self._settings(spec.get("model")))
        return self._loaded[key]

    def read(self, pairs: Sequence[tuple[EvalItem, str]]) -> list[Reading]:
        """Grade responses, asking a model where the grader is one."""
        out = [grade(item, text) for item, text in pairs]
        asked = [k for k, reading in enumerate(out) if reading.reason == "judge"]
        by_model: dict[int, list[int]] = {}
        for k in asked:
            by_model.setdefault(id(self.of(pairs[k][0].grader)), []).append(k)
        for places in by_model.values():
            judge = self.of(pairs[places[0]][0].grader)
            prompts = [graded(*pairs[k]) for k in places]
            answers = judge.generate(prompts, [f"0|judge|{pairs[k][0].id}" for k in places])
            for k, (answer, *_) in zip(places, answers, strict=True):
                letter = LETTER.match(answer.text)
                known = GRADES[letter[1].upper()] if letter else None
                out[k] = Reading(*known) if known else Reading(None, None, "judge_unreadable")
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


def _task(item: EvalItem) -> str:
    return "\n".join(text for _, text in item.turns)


def _asked(text: str) -> Prompt:
    return Prompt((("user", text),))
