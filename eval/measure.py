"""Ask the base and every run the same questions, with the functions that made the diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp

from diagnose.config import ProbesConfig
from diagnose.grading.grade import prefers
from diagnose.items.evalset import EvalSet
from diagnose.models.base import Model
from diagnose.probes.answers import AnswerLog, Ask
from diagnose.probes.judge import Judges, by_judge, judgements, lost_to_reference
from diagnose.probes.prompts import few_shot, oracle_context, paraphrased, plain, samples
from diagnose.probes.table import Probe
from diagnose.records import EvalItem, Prompt

JUDGED_SAMPLES = 4
ARM_PROBE = {"prompt": Probe.FEW_SHOT, "retrieval": Probe.ORACLE_CONTEXT}


@dataclass(frozen=True)
class Measurement:
    """All answers of one model, by item."""

    log: AnswerLog
    items: dict[str, EvalItem]

    def without(self, ids: Sequence[str]) -> Measurement:
        """The same, as if these items had not been asked."""
        return replace(self, items={name: item for name, item in self.items.items() if name not in set(ids)})

    def success(self, item: str, probe: Probe = Probe.PLAIN) -> bool | None:
        """Whether the first answer is acceptable: strict, and preferred if the item has a judge. None: not graded.

        A model judge sees plain answers only; an answer is preferred if it does not lose to `chosen`.
        """
        answers, asked = self.log.of_item(probe, item), self.items[item]
        if not answers or (asked.graded and answers[0].strict is None):
            return None
        if asked.graded and not answers[0].strict:
            return False
        if asked.judge is None:
            return True if asked.graded else None
        if asked.judge.kind == "rule":
            return prefers(asked, answers[0].text)
        lost = lost_to_reference(asked, self.log) if probe is Probe.PLAIN else None
        return None if lost is None else not lost

    def accepted(self, item: str) -> list[bool | None]:
        """For each correct sample: whether the rule accepts it."""
        right = [a for a in self.log.of_item(Probe.SAMPLES, item) if a.strict]
        return [prefers(self.items[item], a.text) for a in right]

    def reading(self, item: str, level: str) -> bool | None:
        """Whether the plain answer passes strict or lenient grading."""
        answer = self.log.get(Probe.PLAIN, item)
        return answer.strict if level == "strict" else answer.lenient

    def text(self, item: str) -> str:
        """The plain answer."""
        return self.log.get(Probe.PLAIN, item).text

    def confidence(self, item: str) -> float | None:
        """Geometric mean of the token probabilities of the plain answer."""
        scored = self.log.of_item(Probe.CONFIDENCE, item)
        if not scored or scored[0].logprob is None or not scored[0].tokens:
            return None
        return exp(scored[0].logprob / scored[0].tokens)


def measure(
    model: Model, evalset: EvalSet, probes: ProbesConfig, arms: list[str], log: AnswerLog, judges: Judges
) -> Measurement:
    """Ask the plain prompt and every arm on ALL items, paraphrases, the confidence of each answer, and the judges."""
    items = evalset.items
    log.ask(model, [plain(i) for i in items])
    if "prompt" in arms:
        log.ask(model, few_shot(items, evalset, replace(probes, few_shot_draws=1), log.seed))
    if "retrieval" in arms:
        log.ask(model, [oracle_context(i, i.context) for i in items if i.context])
    log.ask(model, [samples(i, replace(probes, samples=JUDGED_SAMPLES)) for i in items if i.judge])
    log.ask(model, [a for i in items for a in paraphrased(i)])
    log.ask(model, [a for i in items if (a := confidence(i, log.get(Probe.PLAIN, i.id).text))])
    for members, judge in by_judge(items, judges):
        duels = [a for i in members for a in judgements(i, log) if a.probe in (Probe.PREFERENCE_JUDGED, Probe.REWARD)]
        log.ask(judge, duels)
    return Measurement(log, {i.id: i for i in items})


def confidence(item: EvalItem, text: str) -> Ask | None:
    """Score the model's own answer."""
    return Ask(probe=Probe.CONFIDENCE, item=item.id, prompt=Prompt(item.turns), continuation=text) if text else None
