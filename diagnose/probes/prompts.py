"""What each probe puts to the model: one function per probe, from an item to its questions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from diagnose.config import ProbesConfig
from diagnose.grading.grade import constraint_of, separates_content
from diagnose.grading.known_texts import content
from diagnose.items.demand import without_demand
from diagnose.items.evalset import EvalSet
from diagnose.probes.answers import AnswerLog, Ask
from diagnose.probes.table import Probe, Role
from diagnose.records import EvalItem, Prompt, Turns

MAX_OPTIONS = 7
"""Distractors that are ranked against the reference (hand-set: each costs a forward pass)."""
IN_PLAIN_WORDS = "Answer in plain words."
"""Precedes a question whose format demand is not known word for word."""
NEUTRAL = "Answer:"
"""Takes the place of the question when an option's prior is measured."""


def plain(item: EvalItem) -> Ask:
    """The prompt as production sends it, greedy."""
    return Ask(probe=Probe.PLAIN, item=item.id, prompt=Prompt(item.turns), graded=item)


def free(item: EvalItem, demand: str | None) -> list[Ask]:
    """The twin of the prompt that demands no format, greedy: is content lost to the demand itself?

    Where a format is wanted in a way that is not known word for word, a request for plain words comes before the last
    turn. Not asked where the grader could not find the content in plain words.

    Args:
        demand: evalset.format_demand.
    """
    if not separates_content(item) and item.grader.kind != "contains":
        return []
    turns = without_demand(item, demand)
    if turns is None and item.grader.kind in ("json", "regex"):
        role, text = item.turns[-1]
        turns = (*item.turns[:-1], (role, f"{IN_PLAIN_WORDS}\n\n{text}"))
    return [Ask(probe=Probe.FREE, item=item.id, prompt=Prompt(turns), graded=item)] if turns else []


def few_shot(
    items: list[EvalItem], evalset: EvalSet, settings: ProbesConfig, seed: int, own: dict[str, str] | None = None
) -> list[Ask]:
    """The prompt after few-shot examples in the target format; with `own` (the control) in the base's own format.

    Args:
        own: id of a few-shot example → what the base itself answers to it.
    """
    asks = []
    for item in items:
        kept = evalset.exemplars.get(item.slices[0], [])
        for draw in range(settings.few_shot_draws if kept else 0):
            shots = random.Random(f"{seed}|{item.slices[0]}|{draw}").sample(kept, min(settings.shots, len(kept)))
            answered = [(e, own[e.id] if own else e.wanted or "") for e in shots]
            turns = [turn for e, answer in answered for turn in (*_without_system(e.turns), ("assistant", answer))]
            system = item.turns[: len(item.turns) - len(_without_system(item.turns))]
            asks.append(
                Ask(
                    probe=Probe.FEW_SHOT_CONTROL if own is not None else Probe.FEW_SHOT,
                    item=item.id,
                    prompt=Prompt((*system, *turns, *item.turns[len(system) :])),
                    graded=item,
                    draw=draw,
                )
            )
    return asks


def _without_system(turns: Turns) -> Turns:
    """A conversation has one system turn, its first: the examples must not bring another."""
    return turns[1:] if turns[0][0] == "system" else turns


def constrained(item: EvalItem) -> list[Ask]:
    """The prompt, with the answer constrained to the item's schema or choices."""
    constraint = constraint_of(item)
    return [replace(plain(item), probe=Probe.CONSTRAINED, constraint=constraint)] if constraint else []


def ranked_question(item: EvalItem) -> list[Ask]:
    """The reference and same-type distractors as answers to the question."""
    return _options(item, Probe.RANKED_QUESTION, Prompt(item.turns), "")


def ranked_statement(item: EvalItem) -> list[Ask]:
    """The same options as the end of a statement of the fact."""
    if not item.statement:
        return []
    space = "" if item.statement.endswith((" ", "\n")) else " "
    return _options(item, Probe.RANKED_STATEMENT, Prompt((("user", item.statement),), raw=True), space)


def priors(items: list[EvalItem], options: Callable[[EvalItem], list[Ask]], probe: Probe) -> list[Ask]:
    """How likely each option is without the question or the statement; asked once per option."""
    neutral = Prompt((("user", NEUTRAL),), raw=probe is Probe.PRIOR_STATEMENT)
    texts = sorted({ask.continuation or "" for item in items for ask in options(item)})
    return [Ask(probe=probe, item=text, prompt=neutral, continuation=text) for text in texts]


def _options(item: EvalItem, probe: Probe, prompt: Prompt, space: str) -> list[Ask]:
    if not item.targets or not item.options:
        return []
    texts = dict.fromkeys(content(item, text) for text in (item.targets[0], *item.options[:MAX_OPTIONS]))
    return [
        Ask(
            probe=probe,
            item=item.id,
            prompt=prompt,
            continuation=space + text,
            draw=draw,
            role=Role.DISTRACTOR if draw else Role.REFERENCE,
        )
        for draw, text in enumerate(texts)
    ]


def samples(item: EvalItem, settings: ProbesConfig, more: bool = False) -> Ask:
    """n samples; `more` continues where the first n never had the content."""
    n, draw = (settings.more_samples, settings.samples) if more else (settings.samples, 0)
    return replace(plain(item), probe=Probe.SAMPLES, n=n, draw=draw, temperature=settings.temperature)


def drawn(item: EvalItem, probe: Probe, n: int, settings: ProbesConfig) -> Ask:
    """n samples of an item that the model gets right, to be judged."""
    return replace(plain(item), probe=probe, n=n, temperature=settings.temperature)


def oracle_context(
    item: EvalItem, context: str, probe: Probe = Probe.ORACLE_CONTEXT, graded: EvalItem | None = None
) -> Ask:
    """The prompt behind a context."""
    role, text = item.turns[-1]
    prompt = Prompt((*item.turns[:-1], (role, f"{context}\n\n{text}")))
    return Ask(probe=probe, item=item.id, prompt=prompt, graded=graded or item)


def swapped_context(item: EvalItem) -> list[Ask]:
    """Control: the context with the answer swapped; reading it means giving the swapped answer."""
    old = [text for t in item.targets if (text := content(item, t)) in (item.context or "")]
    if not old or not item.options:
        return []
    option = item.options[0]
    swapped = (item.context or "").replace(old[0], content(item, option))
    rival = replace(item, targets=(option,), distractors=item.targets, chosen=None)
    return [oracle_context(item, swapped, Probe.SWAPPED_CONTEXT, rival)]


def paraphrased(item: EvalItem) -> list[Ask]:
    """The same question in other words."""
    role = item.turns[-1][0]
    prompts = [Prompt((*item.turns[:-1], (role, text))) for text in item.paraphrases]
    return [
        Ask(probe=Probe.PARAPHRASED, item=item.id, prompt=prompt, graded=item, draw=draw)
        for draw, prompt in enumerate(prompts)
    ]


def margins(item: EvalItem, log: AnswerLog) -> list[Ask]:
    """Log-probability of chosen and rejected, and of the model's own samples to compare chosen with."""
    if not (item.chosen and item.rejected):
        return []
    own = [(Role.OWN, a.text) for a in log.of_item(Probe.SELF_PAIRS, item.id) if a.text]
    texts = [(Role.CHOSEN, item.chosen), (Role.REJECTED, item.rejected), *own]
    return [
        Ask(probe=Probe.MARGINS, item=item.id, prompt=Prompt(item.turns), continuation=text, draw=draw, role=role)
        for draw, (role, text) in enumerate(texts)
    ]
