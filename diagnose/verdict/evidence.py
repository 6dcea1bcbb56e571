"""What the probes saw, as arrays: outcomes per item, rates of the controls, and which classes the data distinguish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diagnose.config import RuleConfig
from diagnose.grading.content import contains
from diagnose.grading.grade import constraint_of, has_content
from diagnose.grading.known_texts import content
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import lost_to_reference, self_losses
from diagnose.probes.table import COUNT, FLOORS, LEVELS, MODELLED, TABLE, WINS, Floor, Probe, Role
from diagnose.records import CLASSES, FORMAT, KNOWLEDGE, Answer, EvalItem

SAID_LEAST = 3
"""Characters of an answer that can speak against a reference answer (hand-set)."""
SLICE_LEAST, SLICE_KNOWN = 12, 0.7
"""A slice of so many items of which the model knows this share counts as known (hand-set)."""
SELF_CONSISTENT = 0.9
"""Samples of which this share agree, agree (hand-set)."""
PRIOR_OF = {
    Probe.RANKED_QUESTION: Probe.PRIOR_QUESTION,
    Probe.RANKED_STATEMENT: Probe.PRIOR_STATEMENT,
}
Array = np.ndarray
Rates = dict[Probe, Array]
CONTEXTS_READ = 3
"""Answers that contexts must have brought out, or turned, before the model is known to read them (hand-set)."""


@dataclass(frozen=True)
class Evidence:
    """What the probes saw, as arrays over items; NaN where a probe was not asked."""

    levels: Rates
    """probe → [items, 2]: trials that were lenient or better, and strict; averaged over draws."""
    wins: Rates
    """probe → [items]: 1 success, 0 failure."""
    counts: Rates
    """probe → [items, 2]: lenient samples, samples."""
    floors: Rates
    """probe → [items]: the rate of its control, or of a guess."""
    format_floors: Rates
    """probe → [items]: how often its control brings the wanted format."""
    allowed: Array
    """[items, classes]: those that the data of the item and of its cell can distinguish."""
    weights: Array
    """[items]: effective count under clustering."""
    cells: Array
    """[items]: index of the disjoint cell."""
    cell_prior: Array
    """[cells]: share of kappa that a cell carries, so that no slice carries more than all of it."""
    home: Array
    """[cells, cells]: 1 where a cell belongs to the largest slice of another, the prior of whose items it shapes."""


def gather(
    items: list[EvalItem],
    log: AnswerLog,
    missing: dict[str, tuple[str, ...]],
    floors: dict[str, dict[str, float]],
    rule: RuleConfig,
) -> Evidence:
    """Turn the log into arrays."""
    cells = sorted({i.slices for i in items})
    sizes = Counter(name for i in items for name in i.slices)
    largest = [max(sorted(cell), key=lambda name: sizes[name]) for cell in cells]
    in_cell = Counter(i.slices for i in items)
    measured = [floors[i.slices[0]] for i in items]
    wins = {p: np.array([_won(p)(i, log) for i in items]) for p in WINS} | {Probe.FREE: _said_freely(items, log)}
    told = np.array([allowed(i.slices, missing) for i in items])
    told[:, CLASSES.index("format_suppressed")] &= ~np.isnan(wins[Probe.FREE])
    return Evidence(
        levels={p: np.array([_levels(log.of_item(p, i.id)) for i in items]) for p in LEVELS},
        wins=wins,
        counts={p: np.array([_count(log.of_item(p, i.id)) for i in items], float) for p in COUNT},
        floors={p: np.array([_floor(p, i, log, m) for i, m in zip(items, measured, strict=True)]) for p in MODELLED},
        format_floors={Probe.FEW_SHOT: np.array([m.get(Probe.FEW_SHOT, 0.0) for m in measured])},
        allowed=told,
        weights=effective_weights(items, rule.icc),
        cells=np.array([cells.index(i.slices) for i in items]),
        cell_prior=np.array([in_cell[cell] / sizes[name] for cell, name in zip(cells, largest, strict=True)]),
        home=np.array([[float(name in cell) for cell in cells] for name in largest]),
    )


def _said_freely(items: list[EvalItem], log: AnswerLog) -> Array:
    """Is the content there without the format demand?

    Among items that were asked without it, a plain answer that has the content in another format counts as one that
    was: it ignored the demand. Examples and schemas do not let it, and may then cost the content; such items are not
    barely known. Where no item was asked the class of lost content is closed, and nothing is read.
    """
    asked = {i.slices for i in items if log.of_item(Probe.FREE, i.id)}
    ignored = {
        i.id for i in items if i.slices in asked and (a := log.get(Probe.PLAIN, i.id)).lenient and a.strict is False
    }
    return np.array([1.0 if i.id in ignored else _won(Probe.FREE)(i, log) for i in items])


def _won(probe: Probe) -> Callable[[EvalItem, AnswerLog], float]:
    """How one success or failure is read: a ranking, a judgement, else whether the answers have the content."""
    if probe in PRIOR_OF:
        return lambda item, log: _first(rank(item, log, probe))
    if probe is Probe.PREFERENCE_JUDGED:
        return lambda item, log: _mean([lost_to_reference(item, log)])
    if probe is Probe.ORACLE_CONTEXT:
        return lambda item, log: _mean(with_context(item, log))
    return lambda item, log: _mean([a.lenient for a in log.of_item(probe, item.id)])


def with_context(item: EvalItem, log: AnswerLog) -> list[bool | None]:
    """Whether the answers to the oracle context are right; None where they are not, and yet name the reference.

    A list of candidates, or `not A but B`, was found in the context as a bare answer would be; that it does not commit
    is the manner of the model, and tells nothing of what it can read.
    """
    answers = log.of_item(Probe.ORACLE_CONTEXT, item.id)
    return [None if a.lenient is False and _names_reference(item, a.text) else a.lenient for a in answers]


def _names_reference(item: EvalItem, text: str) -> bool:
    return any(contains(text, content(item, target)) for target in item.targets)


def _floor(probe: Probe, item: EvalItem, log: AnswerLog, measured: dict[str, float]) -> float:
    """`measured`: the rates of the item's slice, from slice_floors."""
    match FLOORS[probe]:
        case Floor.FORCED:
            return max(measured["guess"], luck(item))
        case Floor.CHANCE:
            return 1 / max(len(log.of_item(probe, item.id)), 2)
        case Floor.CONTROL:
            return measured.get(probe, 0.0)
        case Floor.SELF_PAIRS:
            return measured.get(Probe.SELF_PAIRS, 0.0)
    return measured["guess"]


def slice_floors(items: list[EvalItem], log: AnswerLog) -> dict[str, float]:
    """Measured control rates of a slice: what succeeds without the active ingredient.

    guess: chance that a guess hits one given option of the item's type. With r the rate at which a given
    distractor is hit by failing answers, a uniform guesser over k options has r = 1/(k-1), so g = r / (1 + r).
    """
    floors: dict[str, float] = {"guess": _guess_rate(items, log)}
    without_content = [i for i in items if log.get(Probe.PLAIN, i.id).lenient is False]
    for name, members, control, level in (
        (Probe.FEW_SHOT, items, Probe.FEW_SHOT_CONTROL, "strict"),
        ("few_shot_content", without_content, Probe.FEW_SHOT_CONTROL, "lenient"),
        *((e.probe, items, e.controls[0], "lenient") for e in TABLE if e.floor is Floor.CONTROL),
        ("follows_swap", items, Probe.SWAPPED_CONTEXT, "lenient"),
    ):
        read = [r for i in members for a in log.of_item(control, i.id) if (r := getattr(a, level)) is not None]
        if read:
            floors[name] = _mean(read)
    losses = [loss for i in items for loss in self_losses(i, log)]
    if losses or any(i.judge.kind != "rule" for i in items if i.judge):
        # Half a win and half a loss added: five samples without a loss do not prove that there is none. A rule reads a
        # text the same way each time: where nobody sampled, there is no noise.
        floors[Probe.SELF_PAIRS] = (sum(losses) + 0.5) / (len(losses) + 1)
    return floors


def rank(item: EvalItem, log: AnswerLog, probe: Probe) -> int | None:
    """Rank of the reference (0 is best) by length-normalised, prior-corrected log-probability; None if not asked."""
    reference = log.find(probe, item.id, Role.REFERENCE)
    distractors = log.of_item(probe, item.id, Role.DISTRACTOR)
    if reference is None or not distractors:
        return None
    values = []
    for a in (reference, *distractors):
        prior = log.get(PRIOR_OF[probe], a.text)
        if a.logprob is None or prior.logprob is None:
            return None
        values.append((a.logprob - prior.logprob) / max(a.tokens, 1))
    return sum(v >= values[0] for v in values[1:])


def readable(item: EvalItem, log: AnswerLog) -> bool:
    """Was the plain answer graded, or, where nothing grades content, judged?"""
    return log.get(Probe.PLAIN, item.id).strict is not None or (
        not item.graded and lost_to_reference(item, log) is not None
    )


def suspects(items: list[EvalItem], log: AnswerLog) -> set[str]:
    """Ids of the items of one slice whose reference answer the evidence contradicts: suspected label errors.

    The model says, unaided, what the item's own context says, and the reference answer is nowhere in it, though it
    should be: the answer is one of several wrong ones of the reference's type, or the slice's other references are; and
    with the context before it, the model does not come to the reference either. Or, in a slice that the model otherwise
    knows, all its samples agree on another answer. Such an item says something about its label first.
    """
    wrong = [i for i in items if log.get(Probe.PLAIN, i.id).lenient is False and i.targets]
    with_context = [i for i in items if i.context and i.targets]
    verbatim = sum(map(_in_context, with_context)) > 0.5 * len(with_context)
    found = {i.id for i in wrong if _contradicted(i, log, verbatim)}
    rest = [i for i in items if i.id not in found and log.get(Probe.PLAIN, i.id).strict is not None]
    known = sum(bool(log.get(Probe.PLAIN, i.id).lenient) for i in rest)
    if len(rest) >= SLICE_LEAST and known >= SLICE_KNOWN * len(rest):
        found |= {i.id for i in wrong if _agreed(i, log)}
    return found


def _in_context(item: EvalItem) -> bool:
    return any(contains(item.context or "", content(item, t)) for t in item.targets)


def _contradicted(item: EvalItem, log: AnswerLog, verbatim: bool) -> bool:
    """Letters and numbers occur in many a context by chance."""
    answer = content(item, log.get(Probe.PLAIN, item.id).text.strip())
    if item.grader.kind in ("choice", "number") or len(answer) < SAID_LEAST:
        return False
    same_type = verbatim or (len(item.options) > 2 and answer in {content(item, o) for o in item.options})
    read = [a.lenient for a in log.of_item(Probe.ORACLE_CONTEXT, item.id)]
    return same_type and contains(item.context or "", answer) and not _in_context(item) and not any(read)


def _agreed(item: EvalItem, log: AnswerLog) -> bool:
    answer = log.get(Probe.PLAIN, item.id).text.strip()
    samples = [a.text.strip() for a in log.of_item(Probe.SAMPLES, item.id)]
    return bool(samples) and sum(s == answer for s in samples) >= SELF_CONSISTENT * len(samples)


def luck(item: EvalItem) -> float:
    """How often a random valid answer is right: 1/k for k choices, by enumerations for a schema."""
    constraint = constraint_of(item)
    if constraint is None:
        return 0.0
    if "choices" in constraint:
        return 1 / len(constraint["choices"])
    fields = constraint["schema"].get("properties") or {}
    sizes = [1 if "const" in f else len(f.get("enum") or ()) if isinstance(f, dict) else 0 for f in fields.values()]
    return float(np.prod([1 / size if size else 0.0 for size in sizes])) if sizes else 0.0


def _guess_rate(items: list[EvalItem], log: AnswerLog) -> float:
    hits = chances = 0.0
    for item in items:
        if not item.options:
            continue
        said = [a for p in (Probe.PLAIN, Probe.SAMPLES) for a in log.of_item(p, item.id) if a.lenient is False]
        for text, times in Counter(a.text for a in said).items():
            named = sum(names(item, option, text) for option in item.options)
            hits += times * named / len(item.options)
            chances += times
    r = hits / chances if chances else 0.0
    return r / (1 + r)


def names(item: EvalItem, option: str, text: str) -> bool:
    """Would the text be read as right if this option were the reference?"""
    wanted = replace(item, targets=(option,), distractors=(), choices=item.choices, chosen=None)
    return has_content(wanted, text)


def _levels(answers: list[Answer]) -> list[float]:
    """NaN where nothing was read to its end: a draw that was cut off tells of neither content nor format."""
    read = [a for a in answers if a.strict is not None and a.lenient is not None]
    return [_mean([a.lenient for a in read]), _mean([a.strict for a in read])]


def _mean(values: Sequence[bool | None]) -> float:
    read = [v for v in values if v is not None]
    return float(np.mean(read)) if read else float("nan")


def _first(rank: int | None) -> float:
    return float("nan") if rank is None else float(rank == 0)


def _count(answers: list[Answer]) -> list[int]:
    read = [a for a in answers if a.lenient is not None]
    return [sum(bool(a.lenient) for a in read), len(read)]


def reads_contexts(items: Sequence[EvalItem], log: AnswerLog) -> bool:
    """Does anything show that the model reads what it is given?

    Contexts bring out answers that other items' contexts do not, or turn them to the answer that they hold. Where no
    context of the whole eval set does so, failing with one shows a model that ignores contexts as much as a missing
    skill.
    """

    def right(probe: Probe, item: EvalItem) -> bool:
        return any(a.lenient for a in log.of_item(probe, item.id))

    brought = sum(right(Probe.ORACLE_CONTEXT, i) and not right(Probe.OTHER_CONTEXT, i) for i in items)
    turned = sum(right(Probe.SWAPPED_CONTEXT, i) for i in items)
    return max(brought, turned) >= CONTEXTS_READ


def allowed(slices: tuple[str, ...], missing: dict[str, tuple[str, ...]]) -> list[bool]:
    """A class that the data cannot distinguish from another leaves the model."""
    lacks = {what for name in slices for what in missing[name]}
    gone = {what for what in lacks if what in ("format", "preference")}
    if all(set(missing[name]) & {"judge", "agreement"} for name in slices):
        gone.add("preference")  # an item whose other slice has a usable judge can still have one
    if "content" in lacks:
        gone |= {*FORMAT, *KNOWLEDGE}
    if "free" in lacks:
        gone.add("format_suppressed")  # content that the demand costs then looks like missing knowledge
    if "context" in lacks:
        gone.add("knowledge_skill")  # absent then means absent or skill; `decide` reports the kind as unresolved
    return [name not in gone for name in CLASSES]


def effective_weights(items: list[EvalItem], icc: float) -> Array:
    """1 / design effect per item, deff = 1 + (m - 1) icc (Kish 1965, Survey Sampling)."""
    sizes = Counter(i.cluster for i in items if i.cluster is not None)
    return np.array([1 / (1 + (sizes[i.cluster] - 1) * icc) if i.cluster is not None else 1.0 for i in items])
