"""The elicitation ladder (DESIGN §5): each rung isolates one cause, is asked only where it can tell something, and
stands beside its placebo, because every extra attempt is another lottery ticket."""

from __future__ import annotations

import hashlib
import json
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from diagnose.answers import AnswerLog, Ask
from diagnose.config import ProbesConfig
from diagnose.evalset import EvalSet
from diagnose.grade import UNSPACED, form_of, holds, normal, separates_content
from diagnose.judge import Judges, compared
from diagnose.model import Model
from diagnose.records import EvalItem, Prompt

MAX_OPTIONS = 7
SELF_DRAWS = 4
BEST_OF = 16
JUDGED_BEST = 4
"""Of the sixteen, so many are shown to a judge model: it sees each twice."""
CONTROLS = 24
"""Items per slice whose answers of known truth are shown to a judging grader."""
NEAR = 32
"""Contexts of similar length that are looked at for a placebo."""
Turns = tuple[tuple[str, str], ...]
NEUTRAL = "Answer:"
"""Stands in for the question when an answer's prior is measured."""


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
    for item in sorted(items, key=lambda i: _spread(i.id)):
        if taken[item.slices[0]] < limit:
            taken[item.slices[0]] += 1
            out.append(item)
    return out


def by_judge(items: list[EvalItem], judges: Judges) -> Iterator[tuple[list[EvalItem], Model]]:
    """Items together with the model that judges them; a rule needs no model."""
    groups: dict[str, list[EvalItem]] = {}
    for item in items:
        if item.judge and item.judge["kind"] != "rule":
            groups.setdefault(json.dumps(item.judge, sort_keys=True), []).append(item)
    for members in groups.values():
        yield members, judges.of(members[0].judge or {})


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


class Contexts:
    """Every slice's contexts by length, to find a placebo of similar length quickly."""

    def __init__(self, items: list[EvalItem]) -> None:
        self._by_slices: dict[tuple[str, ...], list[tuple[int, str, str]]] = {}
        for item in items:
            if item.context:
                row = (len(item.context), _spread(item.context), item.context)
                self._by_slices.setdefault(item.slices, []).append(row)
        for rows in self._by_slices.values():
            rows.sort()

    def other(self, item: EvalItem) -> Ask | None:
        """Placebo: another item's context of similar length that does not hold the answer."""
        rows = self._by_slices.get(item.slices, [])
        gold = [content(item, t).casefold() for t in item.targets]
        at = bisect_left(rows, (len(item.context or ""),))
        near = sorted(rows[max(0, at - NEAR) : at + NEAR], key=lambda r: (abs(r[0] - len(item.context or "")), r[1]))
        for _, _, context in near:
            if context != item.context and not any(g in context.casefold() for g in gold):
                return given(item, context, "given_other")
        return None


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


def judgements(item: EvalItem, log: AnswerLog) -> list[Ask]:
    """What a model that judges is asked.

    Own answer against `chosen`; chosen against rejected; two samples against each other; some of sixteen samples
    against `chosen`. A judge model sees each pair in both orders, a reward model each text once.
    """
    own = own_answer(item, log)
    if item.judge is None or own is None:
        return []
    self_texts = [a.text for a in log.of_item("self", item.id) if a.strict is not False]
    best = [a.text for a in log.of_item("best", item.id) if a.strict is not False]
    if item.judge["kind"] == "reward_model":
        texts: dict[str, list[str | None]] = {"reward": [item.chosen, own, item.rejected]}
        texts |= {"reward_self": [*self_texts], "reward_best": [*best]}
        scored = [(probe, draw, text) for probe, several in texts.items() for draw, text in enumerate(several) if text]
        return [
            Ask(probe=probe, item=item.id, prompt=Prompt(item.turns), continuation=text, draw=draw)
            for probe, draw, text in scored
        ]
    pairs: dict[str, list[tuple[str | None, str | None]]] = {
        "judged": [(own, item.chosen)],
        "judged_control": [(item.chosen, item.rejected)],
        "judged_self": list(zip(self_texts[::2], self_texts[1::2], strict=False)),
        "judged_best": [(text, item.chosen) for text in dict.fromkeys(best[:JUDGED_BEST])],
    }
    return [
        Ask(probe=probe, item=item.id, prompt=compared(item, *order), draw=2 * k + turned)
        for probe, several in pairs.items()
        for k, (a, b) in enumerate(several)
        if a and b
        for turned, order in enumerate(((a, b), (b, a)))
    ]


def own_answer(item: EvalItem, log: AnswerLog) -> str | None:
    """The plain answer that takes part in a duel: a strict pass, or any where nothing grades content."""
    answer = log.get("plain", item.id)
    return answer.text if answer.strict or (not item.graded and answer.text) else None


def right_in_wrong_form(item: EvalItem) -> Iterator[str]:
    """Gold content as a lenient reader should still find it."""
    gold = content(item, item.targets[0])
    yield f"The answer is {gold}."
    yield f'"{gold}"'
    yield f"Answer: {gold}\n"
    yield gold.lower()
    yield f"**{gold}**"


def wrong_answers(item: EvalItem) -> Iterator[str]:
    """Same-type wrong answers, a list of every option, a hedge, and an echo of the prompt."""
    gold, options = content(item, item.targets[0]), [content(item, o) for o in item.options]
    yield from options[:3]
    if options:
        yield ", ".join([gold, *options])
        yield f"{gold} or {options[0]}"
    yield item.turns[-1][1]


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


def oracles(items: list[EvalItem]) -> dict[str, str]:
    """id → context, where it can be one: it holds the answer, or what its question alone among the slice's asks about.

    A context that has neither is about something else; failing with it would look like missing skill.
    """
    asked: Counter[tuple[str, str]] = Counter()
    words = {i.id: set(normal(i.turns[-1][1]).split()) for i in items if i.context}
    for item in items:
        asked.update((item.slices[0], word) for word in words.get(item.id, ()))
    sizes = Counter(i.slices[0] for i in items if i.context)
    out = {}
    for item in items:
        if not item.context:
            continue
        own = {w for w in words[item.id] if asked[item.slices[0], w] <= max(1, sizes[item.slices[0]] // 4)}
        text = normal(item.context)
        # Where words are not set apart by spaces, a question has none of its own that could be looked for.
        if (
            not own
            or UNSPACED.search(text)
            or own & set(text.split())
            or any(holds(text, content(item, t)) for t in item.targets)
        ):
            out[item.id] = item.context
    return out


def mentions(text: str, part: str) -> bool:
    """Does a text hold these words, whole and in this order? Signs and case do not count."""
    return holds(normal(text), part)


def missing_probes(items: list[EvalItem], evalset: EvalSet, settings: ProbesConfig, name: str) -> tuple[str, ...]:
    """What cannot be told apart in a slice with the data and probes at hand; named in CONTRACTS' `missing`."""
    on, out = set(settings.enabled), []
    if not any(i.graded for i in items):
        out.append("content")
    if not any(separates_content(i) for i in items):
        out.append("format")
    if "given" not in on or not oracles(items):
        out.append("context")
    if "judged" not in on or not any(i.judge for i in items):
        out.append("preference")
    if "ranked" not in on or not any(i.options for i in items):
        out.append("ranked")
    if "shaped" not in on or name not in evalset.exemplars:
        out.append("shaped")
    if "sampled" not in on:
        out.append("sampled")
    if "constrained" not in on and any(form_of(i) for i in items):
        out.append("constrained")
    if "margins" not in on and any(i.chosen and i.rejected for i in items):
        out.append("margins")
    return tuple(out)


def _options(item: EvalItem, probe: str, prompt: Prompt, space: str) -> list[Ask]:
    if not item.targets or len(item.options) < 1:
        return []
    texts = [content(item, t) for t in (item.targets[0], *item.options[:MAX_OPTIONS])]
    texts = list(dict.fromkeys(texts))
    return [Ask(probe=probe, item=item.id, prompt=prompt, continuation=space + t, draw=d) for d, t in enumerate(texts)]


def _spread(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
