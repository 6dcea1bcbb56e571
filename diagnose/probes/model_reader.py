"""A model that reads answers: is the content of a reference answer in a text? (`reader=model`)

The rules of diagnose/grading read first. What they accept as production would (strict) and what they leave unread stays
as it is; of the rest, the model decides whether the content is there. Its readings are kept in answers.jsonl with the
answers, so that a resumed run does not ask again; its error rates are measured on texts of known content, like those of
a grader that is a model (verdict/controls.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from diagnose.config import ReaderConfig
from diagnose.errors import Blocked
from diagnose.grading.grade import separates_content
from diagnose.grading.unread import spoken
from diagnose.models import load_model
from diagnose.models.base import Model
from diagnose.probes.answers import AnswerLog, Response
from diagnose.probes.table import Probe
from diagnose.records import EvalItem, Prompt, Reading

YES, NO = "Yes", "No"
SAID = re.compile(r"^\W*(yes|no)\b", re.IGNORECASE)
"""How an answer in words begins."""
Readings = list[bool | None]
"""Is the content there? None where what the model said could not be used."""


class ModelReader:
    """Asks one model, by the log-probabilities of Yes and No; where a server does not tell them, by what it says."""

    def __init__(self, settings: ReaderConfig) -> None:
        """The model is loaded when it is first needed."""
        self.settings = settings
        self._model: Model | None = None
        self._known: dict[str, bool | None] = {}
        """Hash of the question → what was answered: samples repeat each other."""

    @property
    def model(self) -> Model:
        """The model that reads.

        Raises:
            BadInput: it cannot be loaded.
        """
        if self._model is None:
            self._model = self._load()
        return self._model

    def check(self) -> None:
        """Load it, or see that its server answers.

        Raises:
            BadInput: it does not.
        """
        from diagnose.models.served import ServedModel

        if isinstance(self.model, ServedModel):
            self.model.reach()

    def check_errors(self, items: Sequence[EvalItem], log: AnswerLog) -> None:
        """Refuse a model that cannot tell right from wrong content: every verdict would follow from its errors.

        Raises:
            Blocked: naming the kind of grader and what the model read of the texts shown to it.
        """
        who = f"reader={self.settings.path or self.settings.name}"
        for kind in sorted({i.grader.kind for i in items}):
            mine = [i for i in items if i.grader.kind == kind]
            refuse_misreading(who, f" ({kind})", *controls_read(mine, log), self.settings.trust, "reader=rules")

    def read(self, responses: Sequence[Response], readings: Sequence[Reading]) -> list[Reading]:
        """Readings with the model's word on the content where the rules did not accept the whole response.

        Args:
            readings: what the rules read.

        Returns:
            `judge_unreadable` where the question does not fit the model's window, or its answer is neither Yes nor No.
        """
        out = list(readings)
        asked = {
            k: question(item, spoken(text) or "")
            for k, (item, text, _) in enumerate(responses)
            if out[k].strict is False and reads(item)
        }
        self._ask([prompt for prompt in dict.fromkeys(asked.values()) if prompt.sha not in self._known])
        for k, prompt in asked.items():
            there = self._known[prompt.sha]
            out[k] = Reading(None, None, "judge_unreadable") if there is None else Reading(False, there)
        return out

    def _load(self) -> Model:
        if self.settings.kind != "openai":
            return load_model(self.settings)
        from diagnose.models.served import ServedModel

        return ServedModel(self.settings, "reader")

    def _ask(self, prompts: list[Prompt]) -> None:
        """Answer them all, like with like in length, and remember."""
        self._known |= dict.fromkeys((p.sha for p in prompts), None)
        fitting = [p for p in prompts if self.model.fits(p, YES)]
        fitting.sort(key=lambda p: len(p.turns[-1][1]))
        for start in range(0, len(fitting), self.model.batch_size):
            batch = fitting[start : start + self.model.batch_size]
            scored = {} if Probe.RANKED in self.model.lacks else self._scored(batch)
            left = [p for p in batch if scored.get(p) is None and self.model.fits(p)]
            for prompt, there in (scored | self._said(left)).items():
                self._known[prompt.sha] = there

    def _scored(self, prompts: Sequence[Prompt]) -> dict[Prompt, bool | None]:
        """Is Yes the likelier continuation? None where one of the two has no log-probability."""
        scores = self.model.logprob([p for p in prompts for _ in (YES, NO)], [YES, NO] * len(prompts))
        pairs = zip(prompts, scores[::2], scores[1::2], strict=True)
        return {p: None if y.logprob is None or n.logprob is None else y.logprob > n.logprob for p, y, n in pairs}

    def _said(self, prompts: list[Prompt]) -> dict[Prompt, bool | None]:
        if not prompts:
            return {}
        answers = self.model.generate(prompts, [f"0|reader|{p.sha}" for p in prompts])
        found = (SAID.match(several[0].text) for several in answers)
        return {p: None if m is None else m[1].lower() == "yes" for p, m in zip(prompts, found, strict=True)}


def controls_read(items: Sequence[EvalItem], log: AnswerLog) -> tuple[Readings, Readings]:
    """How a model read the texts with the right content that were shown to it, and those with a wrong one."""
    found, taken = (
        [a.lenient for i in items for a in log.of_item(probe, i.id)]
        for probe in (Probe.CONTROL_RIGHT, Probe.CONTROL_WRONG)
    )
    return found, taken


def refuse_misreading(who: str, of: str, found: Readings, taken: Readings, trust: float, instead: str) -> None:
    """End the run where sensitivity + specificity is less than `trust`; it is 0 where no reading could be used.

    Raises:
        Blocked: it is.
    """
    right, wrong = ([r for r in readings if r is not None] for readings in (found, taken))
    both = sum(right) / len(right) + 1 - sum(wrong) / len(wrong) if right and wrong else 0.0
    if (found or taken) and both < trust:
        raise Blocked(
            f"{who}: of texts of known content{of} it finds {sum(right)} of {len(right)} right ones and takes "
            f"{sum(wrong)} of {len(wrong)} wrong ones for right; sensitivity + specificity {both:.2f}, needed "
            f"reader.trust={trust}\n  fix: another model, or {instead}"
        )


def reads(item: EvalItem) -> bool:
    """Can the content of this item's answers be asked about? Not where the row says itself what right content is."""
    own = item.grader.kind in ("instructions", "judge") or item.grader.lenient is not None
    return bool(item.targets) and separates_content(item) and not own


def question(item: EvalItem, text: str) -> Prompt:
    """What makes a model a reader."""
    task = "\n".join(said for _, said in item.turns)
    options = dict(zip(ascii_uppercase, item.choices, strict=False))
    golds = "\n".join(dict.fromkeys(f"{t}: {options[t]}" if t in options else t for t in item.references))
    any_of = " (any of these)" if "\n" in golds else ""
    return Prompt(((
        "user",
        f"Does a response give the reference answer?\n\nQuestion:\n{task}\n\nReference answer{any_of}:\n{golds}\n\n"
        f"Response:\n{text}\n\n{YES}: it gives the reference answer, in whatever words or form.\n"
        f"{NO}: it gives another answer, several answers, or none.\n\nReply with {YES} or {NO}.",
    ),))  # fmt: skip
