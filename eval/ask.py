"""Ask the base and every run the same questions, with the functions that made the diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp

from diagnose.answers import AnswerLog, Ask
from diagnose.config import ProbesConfig
from diagnose.evalset import EvalSet
from diagnose.grade import prefers
from diagnose.model import Model
from diagnose.probes import given, plain, sampled, shaped
from diagnose.records import EvalItem, Prompt

JUDGED_SAMPLES = 4
ARM_PROBE = {"prompt": "shaped", "retrieval": "given"}


@dataclass(frozen=True)
class Measurement:
    """Everything one model said, by item."""

    log: AnswerLog
    items: dict[str, EvalItem]

    def success(self, item: str, probe: str = "plain") -> bool | None:
        """Would production accept the first answer: strict, and liked where the item has a rule? None: unscored."""
        answers = self.log.of_item(probe, item)
        if not answers or answers[0].strict is None:
            return None
        accepted = prefers(self.items[item], answers[0].text)
        return bool(answers[0].strict) and accepted is not False

    def accepted(self, item: str) -> list[bool | None]:
        """Of the right samples: does the rule accept them?"""
        right = [a for a in self.log.of_item("sampled", item) if a.strict]
        return [prefers(self.items[item], a.text) for a in right]

    def reading(self, item: str, level: str) -> bool | None:
        """The strict or the lenient reading of the plain answer."""
        answer = self.log.get("plain", item)
        return answer.strict if level == "strict" else answer.lenient

    def text(self, item: str) -> str:
        """The plain answer."""
        return self.log.get("plain", item).text

    def confidence(self, item: str) -> float | None:
        """Geometric mean probability of the tokens of the plain answer."""
        scored = self.log.of_item("confidence", item)
        if not scored or scored[0].logprob is None or not scored[0].tokens:
            return None
        return exp(scored[0].logprob / scored[0].tokens)


def measure(model: Model, evalset: EvalSet, probes: ProbesConfig, arms: list[str], log: AnswerLog) -> Measurement:
    """plain and every arm on ALL items, paraphrases where there are some, and the confidence of each answer."""
    items = evalset.items
    log.ask(model, [plain(i) for i in items])
    if "prompt" in arms:
        log.ask(model, shaped(items, evalset, replace(probes, shaped_draws=1), log.seed))
    if "retrieval" in arms:
        log.ask(model, [given(i, i.context) for i in items if i.context])
    log.ask(model, [sampled(i, replace(probes, samples=JUDGED_SAMPLES)) for i in items if i.judge])
    log.ask(model, [a for i in items for a in paraphrased(i)])
    log.ask(model, [a for i in items if (a := confidence(i, log.get("plain", i.id).text))])
    return Measurement(log, {i.id: i for i in items})


def paraphrased(item: EvalItem) -> list[Ask]:
    """The same question in other words."""
    role = item.turns[-1][0]
    prompts = [Prompt((*item.turns[:-1], (role, text))) for text in item.paraphrases]
    return [Ask(probe="paraphrased", item=item.id, prompt=p, graded=item, draw=d) for d, p in enumerate(prompts)]


def confidence(item: EvalItem, text: str) -> Ask | None:
    """How sure the model is of what it said."""
    return Ask(probe="confidence", item=item.id, prompt=Prompt(item.turns), continuation=text) if text else None
