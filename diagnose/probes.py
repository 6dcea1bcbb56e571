"""The elicitation ladder (DESIGN §5): each rung isolates one cause, is asked only where it can tell something, and
stands beside its placebo, because every extra attempt is another lottery ticket."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from diagnose.answers import AnswerLog, Ask
from diagnose.config import ProbesConfig
from diagnose.evalset import EvalSet
from diagnose.grade import separates_content
from diagnose.model import Model
from diagnose.records import EvalItem, Prompt

MAX_OPTIONS = 7
SELF_DRAWS = 4
NEUTRAL = "Answer:"
"""Stands in for the question when an answer's prior is measured."""


def climb(model: Model, evalset: EvalSet, settings: ProbesConfig, log: AnswerLog) -> None:
    """Ask every enabled probe of the items it can tell something about; the answers are in the log."""
    items, on = evalset.items, set(settings.enabled)
    log.ask(model, [plain(item) for item in items])
    read = {item.id: log.get("plain", item.id) for item in items}
    failed = [i for i in items if read[i.id].strict is False]
    lost = [i for i in failed if read[i.id].lenient is False]
    passed = [i for i in items if read[i.id].strict]

    if "shaped" in on:
        exemplars = {e.id: e for kept in evalset.exemplars.values() for e in kept}
        log.ask(model, [replace(plain(e), probe="own_form") for e in exemplars.values()])
        own = {item_id: answers[0].text for item_id, answers in log.of("own_form").items()}
        log.ask(model, shaped(failed, evalset, settings, log.seed))
        log.ask(model, shaped(failed, evalset, settings, log.seed, own))
    if "ranked" in on:
        log.ask(model, [a for item in failed for a in ranked_question(item)])
        log.ask(model, [a for item in failed for a in ranked_statement(item)])
        log.ask(model, priors(failed, ranked_question, "question"))
        log.ask(model, priors(failed, ranked_statement, "statement"))
    if "sampled" in on:
        log.ask(model, [sampled(item, settings) for item in lost])
        never = [i for i in lost if not any(a.lenient for a in log.of("sampled").get(i.id, []))]
        if settings.more_samples:
            log.ask(model, [sampled(item, settings, more=True) for item in never])
    if "given" in on:
        with_context = [i for i in lost if i.context]
        log.ask(model, [given(item, item.context or "") for item in with_context])
        log.ask(model, [a for item in with_context if (a := given_other(item, items))])
        log.ask(model, [a for item in with_context if (a := given_swapped(item))])
    if "judged" in on:
        judged = [i for i in passed if i.judge]
        log.ask(
            model, [replace(plain(i), probe="self", n=SELF_DRAWS, temperature=settings.temperature) for i in judged]
        )
    if "margins" in on:
        log.ask(model, [a for item in items for a in margins(item, log)])


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
            turns = [turn for e in shots for turn in (*e.turns, ("assistant", own[e.id] if own else e.wanted or ""))]
            probe = "shaped_own" if own is not None else "shaped"
            asks.append(Ask(probe=probe, item=item.id, prompt=Prompt((*turns, *item.turns)), graded=item, draw=draw))
    return asks


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


def given_other(item: EvalItem, items: list[EvalItem]) -> Ask | None:
    """Placebo: another item's context of similar length that does not hold the answer."""
    gold = [content(item, t).casefold() for t in item.targets]
    others = [
        i.context
        for i in items
        if i.context
        and i.id != item.id
        and i.slices == item.slices
        and not any(g in i.context.casefold() for g in gold)
    ]
    if not others:
        return None
    near = sorted(others, key=lambda c: (abs(len(c) - len(item.context or "")), _spread(item.id + c)))
    return given(item, near[0], "given_other")


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


def content(item: EvalItem, text: str) -> str:
    """The bare content of an answer: the value of a JSON object that has one, else the text itself."""
    if item.grader["kind"] != "json":
        return text
    try:
        value: Any = json.loads(text)
    except ValueError:
        return text
    leaves = list(value.values()) if isinstance(value, dict) else [value]
    return str(leaves[0]) if len(leaves) == 1 and not isinstance(leaves[0], dict | list) else text


def missing_probes(items: list[EvalItem], evalset: EvalSet, settings: ProbesConfig, name: str) -> tuple[str, ...]:
    """What cannot be told apart in a slice with the data and probes at hand; named in CONTRACTS' `missing`."""
    on, out = set(settings.enabled), []
    if not any(separates_content(i) for i in items):
        out.append("format")
    if "given" not in on or not any(i.context for i in items):
        out.append("context")
    if "judged" not in on or not any(i.judge for i in items):
        out.append("preference")
    if "ranked" not in on or not any(i.options for i in items):
        out.append("ranked")
    if "shaped" not in on or name not in evalset.exemplars:
        out.append("shaped")
    return tuple(out)


def _options(item: EvalItem, probe: str, prompt: Prompt, space: str) -> list[Ask]:
    if not item.targets or len(item.options) < 1:
        return []
    texts = [content(item, t) for t in (item.targets[0], *item.options[:MAX_OPTIONS])]
    texts = list(dict.fromkeys(texts))
    return [Ask(probe=probe, item=item.id, prompt=prompt, continuation=space + t, draw=d) for d, t in enumerate(texts)]


def _spread(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
