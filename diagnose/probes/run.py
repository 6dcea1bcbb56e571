"""Asking: each probe isolates one cause, is asked only where it can tell something, and is paired with a control,
because every extra attempt is another lottery ticket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from diagnose.config import ProbesConfig
from diagnose.grading.known_texts import right_in_another_format, wrong_answers
from diagnose.items.evalset import EvalSet
from diagnose.models.base import Model
from diagnose.probes.answers import AnswerLog, Ask
from diagnose.probes.judge import Judges, by_judge, judgements, own_answer
from diagnose.probes.oracle_contexts import Contexts, oracles
from diagnose.probes.prompts import (
    constrained,
    drawn,
    few_shot,
    free,
    margins,
    oracle_context,
    paraphrased,
    plain,
    priors,
    ranked_question,
    ranked_statement,
    samples,
    swapped_context,
)
from diagnose.probes.table import TABLE, AskedOf, Probe
from diagnose.records import EvalItem
from diagnose.text import hash_order

SELF_DRAWS = 4
"""Samples per item that are compared with each other: two pairs (hand-set)."""
BEST_OF = 16
"""n of best-of-n; its KL from the policy is at most log n - (n - 1)/n (arXiv 2401.01879), 1.8 nats here (hand-set)."""
CONTROLS = 24
"""Items per slice whose answers of known reading are shown to a grader that is a model (hand-set)."""


@dataclass(frozen=True)
class Round:
    """What a probe may look at while it asks."""

    items: list[EvalItem]
    """Those that it is asked of."""
    evalset: EvalSet
    settings: ProbesConfig
    log: AnswerLog
    lacks: frozenset[Probe]
    """What cannot be asked of this model."""


Stage = Callable[[Round], Iterator[list[Ask]]]
"""Lists of questions, each answered before the next is planned."""


def run_probes(
    model: Model,
    evalset: EvalSet,
    settings: ProbesConfig,
    log: AnswerLog,
    judges: Judges,
    part: list[EvalItem] | None = None,
) -> None:
    """Ask every enabled probe of the items it can tell something about; the answers are in the log.

    Args:
        settings: names only probes that the model can answer.
        part: the items of this turn, where a budget asks them bit by bit; None: all.

    Raises:
        Blocked: the model that reads cannot tell right from wrong content.
    """
    items = evalset.items if part is None else part
    _show_controls([i for i in items if i.targets and judges.reads(i)], log)
    judges.check_errors(items, log)
    log.ask(model, [plain(item) for item in items])
    for entry in TABLE:
        if entry.probe in settings.enabled and entry.probe in STAGES:
            about = Round(_asked_of(entry.asked_of, items, log), evalset, settings, log, model.lacks)
            for asks in STAGES[entry.probe](about):
                log.ask(model, asks)
    for members, judge in by_judge(items, judges):
        log.ask(judge, [a for i in members for a in judgements(i, log)])


def _asked_of(whom: AskedOf, items: list[EvalItem], log: AnswerLog) -> list[EvalItem]:
    answers = {i.id: log.get(Probe.PLAIN, i.id) for i in items}
    match whom:
        case AskedOf.FAILURES:
            return [i for i in items if answers[i.id].strict is False]
        case AskedOf.MISSING_CONTENT:
            return [i for i in items if answers[i.id].strict is False and answers[i.id].lenient is False]
        case AskedOf.PREFERRED:
            return [i for i in items if i.judge and own_answer(i, answers[i.id]) is not None]
    return items


def _show_controls(items: list[EvalItem], log: AnswerLog) -> None:
    """Texts of known reading for items that a model reads; the rules are measured without asking anybody."""
    shown = _some(items, CONTROLS)
    log.note(Probe.CONTROL_RIGHT, [(i, text) for i in shown for text in right_in_another_format(i)])
    log.note(Probe.CONTROL_WRONG, [(i, text) for i in shown for text in wrong_answers(i)])
    log.note(Probe.CONTROL_REFERENCE, [(i, i.targets[0]) for i in shown])


def _some(items: list[EvalItem], limit: int) -> list[EvalItem]:
    """At most so many items of each slice, by hash."""
    taken: Counter[str] = Counter()
    out = []
    for item in sorted(items, key=lambda i: hash_order(i.id)):
        if taken[item.slices[0]] < limit:
            taken[item.slices[0]] += 1
            out.append(item)
    return out


# ---------------------------------------------------------------- one stage function per probe


def _free(r: Round) -> Iterator[list[Ask]]:
    yield [ask for item in r.items for ask in free(item, r.evalset.format_demand)]


def _few_shot(r: Round) -> Iterator[list[Ask]]:
    exemplars = {e.id: e for kept in r.evalset.exemplars.values() for e in kept}
    yield [replace(plain(e), probe=Probe.OWN_ANSWERS) for e in exemplars.values()]
    own = {item_id: answers[0].text for item_id, answers in r.log.of(Probe.OWN_ANSWERS).items()}
    yield few_shot(r.items, r.evalset, r.settings, r.log.seed)
    yield few_shot(r.items, r.evalset, r.settings, r.log.seed, own)


def _constrained(r: Round) -> Iterator[list[Ask]]:
    yield [ask for item in r.items for ask in constrained(item)]


def _ranked(r: Round) -> Iterator[list[Ask]]:
    yield [ask for item in r.items for ask in ranked_question(item)]
    yield [ask for item in r.items for ask in ranked_statement(item)]
    yield priors(r.items, ranked_question, Probe.PRIOR_QUESTION)
    yield priors(r.items, ranked_statement, Probe.PRIOR_STATEMENT)


def _samples(r: Round) -> Iterator[list[Ask]]:
    yield [samples(item, r.settings) for item in r.items]
    # Only the first draws: a resumed log may hold later ones already, and the plan must stay the same.
    first = {i.id: r.log.of_item(Probe.SAMPLES, i.id)[: r.settings.samples] for i in r.items}
    never = [i for i in r.items if not any(a.lenient for a in first[i.id])]
    yield [samples(item, r.settings, more=True) for item in never if r.settings.more_samples]


def _oracle_context(r: Round) -> Iterator[list[Ask]]:
    contexts, known = Contexts(r.evalset.items), oracles(r.evalset.items)
    items = [i for i in r.items if i.id in known]
    yield [oracle_context(item, known[item.id]) for item in items]
    yield [ask for item in items for ask in contexts.other(item)]
    yield [ask for item in items for ask in swapped_context(item)]


def _preference_judged(r: Round) -> Iterator[list[Ask]]:
    """Only the samples for the self-pairs are asked of the model; the judge's part is `judgements`."""
    if Probe.SELF_PAIRS not in r.lacks:
        yield [drawn(i, Probe.SELF_PAIRS, SELF_DRAWS, r.settings) for i in r.items]


def _best_of_n(r: Round) -> Iterator[list[Ask]]:
    yield [drawn(i, Probe.BEST_OF_N, BEST_OF, r.settings) for i in _some(r.items, r.settings.best_of_n_items)]


def _paraphrased(r: Round) -> Iterator[list[Ask]]:
    some = _some([i for i in r.items if i.paraphrases], r.settings.paraphrased_items)
    yield [ask for item in some for ask in paraphrased(item)]


def _margins(r: Round) -> Iterator[list[Ask]]:
    yield [ask for item in r.items for ask in margins(item, r.log)]


STAGES: dict[Probe, Stage] = {
    Probe.FREE: _free,
    Probe.FEW_SHOT: _few_shot,
    Probe.CONSTRAINED: _constrained,
    Probe.RANKED: _ranked,
    Probe.SAMPLES: _samples,
    Probe.ORACLE_CONTEXT: _oracle_context,
    Probe.PREFERENCE_JUDGED: _preference_judged,
    Probe.BEST_OF_N: _best_of_n,
    Probe.PARAPHRASED: _paraphrased,
    Probe.MARGINS: _margins,
}
