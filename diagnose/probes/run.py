"""The elicitation ladder (DESIGN §5): each rung isolates one cause, is asked only where it can tell something, and
stands beside its placebo, because every extra attempt is another lottery ticket."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from diagnose.config import ProbesConfig
from diagnose.grading.content import right_in_wrong_form, wrong_answers
from diagnose.items.evalset import EvalSet
from diagnose.models.base import Model
from diagnose.probes.answers import AnswerLog
from diagnose.probes.contexts import Contexts, oracles
from diagnose.probes.judge import Judges, by_judge, judgements, own_answer
from diagnose.probes.prompts import (
    constrained,
    drawn,
    given,
    given_swapped,
    margins,
    paraphrased,
    plain,
    priors,
    ranked_question,
    ranked_statement,
    sampled,
    shaped,
)
from diagnose.records import EvalItem
from diagnose.text import hash_order

SELF_DRAWS = 4
BEST_OF = 16
CONTROLS = 24
"""Items per slice whose answers of known truth are shown to a judging grader."""


def climb(
    model: Model,
    evalset: EvalSet,
    settings: ProbesConfig,
    log: AnswerLog,
    judges: Judges,
    part: list[EvalItem] | None = None,
) -> None:
    """Ask every enabled probe of the items it can tell something about; the answers are in the log.

    Args:
        settings: names probes that the model can answer only.
        part: the items of this turn, where a budget asks them bit by bit; None: all.
    """
    items, on = evalset.items if part is None else part, set(settings.enabled)
    log.ask(model, [plain(item) for item in items])
    _control(items, log)
    _climb_failures(model, items, evalset, settings, log)
    _climb_passes(model, items, settings, log)
    for members, judge in by_judge(items, judges):
        log.ask(judge, [a for i in members for a in judgements(i, log)])
    if "paraphrased" in on:
        some = _some([i for i in items if i.paraphrases], settings.paraphrased_items)
        log.ask(model, [a for item in some for a in paraphrased(item)])
    if "margins" in on:
        log.ask(model, [a for item in items for a in margins(item, log)])


def _climb_failures(
    model: Model, items: list[EvalItem], evalset: EvalSet, settings: ProbesConfig, log: AnswerLog
) -> None:
    """What is missing where the plain answer was not right?"""
    on = set(settings.enabled)
    failed = [i for i in items if log.get("plain", i.id).strict is False]
    lost = [i for i in failed if log.get("plain", i.id).lenient is False]
    if "shaped" in on:
        exemplars = {e.id: e for kept in evalset.exemplars.values() for e in kept}
        log.ask(model, [replace(plain(e), probe="own_form") for e in exemplars.values()])
        own = {item_id: answers[0].text for item_id, answers in log.of("own_form").items()}
        log.ask(model, shaped(failed, evalset, settings, log.seed))
        log.ask(model, shaped(failed, evalset, settings, log.seed, own))
    if "constrained" in on:
        log.ask(model, [a for item in failed if (a := constrained(item))])
    if "ranked" in on:
        log.ask(model, [a for item in failed for a in ranked_question(item)])
        log.ask(model, [a for item in failed for a in ranked_statement(item)])
        log.ask(model, priors(failed, ranked_question, "question"))
        log.ask(model, priors(failed, ranked_statement, "statement"))
    if "sampled" in on:
        log.ask(model, [sampled(item, settings) for item in lost])
        # Only the first draws: a resumed log may hold later ones already, and the plan must stay the same.
        first = {i.id: log.of_item("sampled", i.id)[: settings.samples] for i in lost}
        never = [i for i in lost if not any(a.lenient for a in first[i.id])]
        log.ask(model, [sampled(item, settings, more=True) for item in never if settings.more_samples])
    if "given" in on:
        contexts, known = Contexts(evalset.items), oracles(evalset.items)
        with_context = [i for i in lost if i.id in known]
        log.ask(model, [given(item, known[item.id]) for item in with_context])
        log.ask(model, [a for item in with_context if (a := contexts.other(item))])
        log.ask(model, [a for item in with_context if (a := given_swapped(item))])


def _climb_passes(model: Model, items: list[EvalItem], settings: ProbesConfig, log: AnswerLog) -> None:
    """Is there something that users would like better, within the model's reach?"""
    liked = [i for i in items if i.judge and own_answer(i, log) is not None]
    if "judged" in settings.enabled and "self" not in model.lacks:
        log.ask(model, [drawn(i, "self", SELF_DRAWS, settings) for i in liked])
    if "best" in settings.enabled:
        log.ask(model, [drawn(i, "best", BEST_OF, settings) for i in _some(liked, settings.best_items)])


def _control(items: list[EvalItem], log: AnswerLog) -> None:
    """Answers of known truth for graders that are models; the others are measured without asking anybody."""
    judged = [i for i in items if i.grader["kind"] == "judge" and i.targets]
    shown = _some(judged, CONTROLS)
    log.note("control_right", [(i, text) for i in shown for text in right_in_wrong_form(i)])
    log.note("control_wrong", [(i, text) for i in shown for text in wrong_answers(i)])
    log.note("control_gold", [(i, i.targets[0]) for i in shown])


def _some(items: list[EvalItem], limit: int) -> list[EvalItem]:
    """At most so many items of each slice, by hash."""
    taken: Counter[str] = Counter()
    out = []
    for item in sorted(items, key=lambda i: hash_order(i.id)):
        if taken[item.slices[0]] < limit:
            taken[item.slices[0]] += 1
            out.append(item)
    return out
