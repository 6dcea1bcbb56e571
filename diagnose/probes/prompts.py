"""One function per probe: which question it puts to the model."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from diagnose.config import ProbesConfig
from diagnose.grading.content import content
from diagnose.grading.grade import form_of
from diagnose.items.evalset import EvalSet
from diagnose.probes.answers import AnswerLog, Ask
from diagnose.records import EvalItem, Prompt

MAX_OPTIONS = 7
Turns = tuple[tuple[str, str], ...]
NEUTRAL = "Answer:"
"""Stands in for the question when an answer's prior is measured."""


# ---------------------------------------------------------------- one function per rung


def plain(item: EvalItem) -> Ask:
    """The prompt as production sends it, greedy."""
    return Ask(probe="plain", item=item.id, prompt=Prompt(item.turns), graded=item)


def shaped(
    items: list[EvalItem], evalset: EvalSet, settings: ProbesConfig, seed: int, own: dict[str, str] | None = None
) -> list[Ask]:
    """The prompt after exemplars in the target form; with `own` (the placebo) in the form the base gave them itself."""
    asks = []
    for item in items:
        kept = evalset.exemplars.get(item.slices[0], [])
        for draw in range(settings.shaped_draws if kept else 0):
            shots = random.Random(f"{seed}|{item.slices[0]}|{draw}").sample(kept, min(settings.shots, len(kept)))
            asked = [(e, own[e.id] if own else e.wanted or "") for e in shots]
            turns = [turn for e, said in asked for turn in (*_without_system(e.turns), ("assistant", said))]
            system = item.turns[: len(item.turns) - len(_without_system(item.turns))]
            probe = "shaped_own" if own is not None else "shaped"
            asks.append(
                Ask(
                    probe=probe,
                    item=item.id,
                    prompt=Prompt((*system, *turns, *item.turns[len(system) :])),
                    graded=item,
                    draw=draw,
                )
            )
    return asks


def _without_system(turns: Turns) -> Turns:
    """A conversation has one system turn, its first: exemplars must not bring another."""
    return turns[1:] if turns[0][0] == "system" else turns


def sampled(item: EvalItem, settings: ProbesConfig, more: bool = False) -> Ask:
    """n samples; `more` goes on where the first n never had the content."""
    n, draw = (settings.more_samples, settings.samples) if more else (settings.samples, 0)
    ask = Ask(probe="sampled", item=item.id, prompt=Prompt(item.turns), graded=item)
    return replace(ask, n=n, draw=draw, temperature=settings.temperature)


def ranked_question(item: EvalItem) -> list[Ask]:
    """Gold and same-type distractors as answers to the question."""
    return _options(item, "ranked_question", Prompt(item.turns), "")


def ranked_statement(item: EvalItem) -> list[Ask]:
    """The same options as the end of a statement of the fact."""
    if not item.statement:
        return []
    space = "" if item.statement.endswith((" ", "\n")) else " "
    return _options(item, "ranked_statement", Prompt((("user", item.statement),), raw=True), space)


def priors(items: list[EvalItem], options: Callable[[EvalItem], list[Ask]], form: str) -> list[Ask]:
    """How likely each option is without the question or statement; asked once per option."""
    neutral = Prompt((("user", NEUTRAL),), raw=form == "statement")
    texts = sorted({ask.continuation or "" for item in items for ask in options(item)})
    return [Ask(probe=f"prior_{form}", item=text, prompt=neutral, continuation=text) for text in texts]


def given(item: EvalItem, context: str, probe: str = "given", graded: EvalItem | None = None) -> Ask:
    """The prompt behind a context."""
    role, text = item.turns[-1]
    prompt = Prompt((*item.turns[:-1], (role, f"{context}\n\n{text}")))
    return Ask(probe=probe, item=item.id, prompt=prompt, graded=graded or item)


def given_swapped(item: EvalItem) -> Ask | None:
    """Placebo: the context with the answer swapped; reading it means to give the swapped answer."""
    old = [text for t in item.targets if (text := content(item, t)) in (item.context or "")]
    if not old or not item.options:
        return None
    option = item.options[0]
    swapped = (item.context or "").replace(old[0], content(item, option))
    rival = replace(item, targets=(option,), distractors=item.targets, chosen=None)
    return given(item, swapped, "given_swapped", rival)


def margins(item: EvalItem, log: AnswerLog) -> list[Ask]:
    """Log-probability of chosen and rejected, and of the model's own samples to compare chosen with."""
    if not (item.chosen and item.rejected):
        return []
    texts = [item.chosen, item.rejected, *(a.text for a in log.of("self").get(item.id, []) if a.text)]
    prompt = Prompt(item.turns)
    return [Ask(probe="margins", item=item.id, prompt=prompt, continuation=t, draw=d) for d, t in enumerate(texts)]


def constrained(item: EvalItem) -> Ask | None:
    """The prompt, with the answer forced into the item's schema or choices."""
    form = form_of(item)
    return replace(plain(item), probe="constrained", form=form) if form else None


def drawn(item: EvalItem, probe: str, n: int, settings: ProbesConfig) -> Ask:
    """n samples of an item that the model gets right."""
    return replace(plain(item), probe=probe, n=n, temperature=settings.temperature)


def paraphrased(item: EvalItem) -> list[Ask]:
    """The same question in other words."""
    role = item.turns[-1][0]
    prompts = [Prompt((*item.turns[:-1], (role, text))) for text in item.paraphrases]
    return [Ask(probe="paraphrased", item=item.id, prompt=p, graded=item, draw=d) for d, p in enumerate(prompts)]


def _options(item: EvalItem, probe: str, prompt: Prompt, space: str) -> list[Ask]:
    if not item.targets or len(item.options) < 1:
        return []
    texts = [content(item, t) for t in (item.targets[0], *item.options[:MAX_OPTIONS])]
    texts = list(dict.fromkeys(texts))
    return [Ask(probe=probe, item=item.id, prompt=prompt, continuation=space + t, draw=d) for d, t in enumerate(texts)]
