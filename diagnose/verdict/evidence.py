"""What the probes saw, as arrays: outcomes per item, the placebos' rates, and which classes the data can tell apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from diagnose.config import RuleConfig
from diagnose.grading.content import content, mentions
from diagnose.grading.grade import form_of, grade
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import lost_to_reference, self_duels
from diagnose.records import CLASSES, KNOWLEDGE, Answer, EvalItem

LEVELS = ("plain", "shaped", "constrained")
WINS = ("ranked_question", "ranked_statement", "given", "judged")
SAID_LEAST = 3
"""Characters of an answer that can speak against another."""
SLICE_LEAST, SLICE_KNOWN, SELF_CONSISTENT = 12, 0.7, 0.9
"""A slice of so many items of which the model knows this share is known; samples of which this share agree, agree
(judgement)."""
Array = np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What the probes saw, as arrays over items; NaN where a probe was not asked."""

    levels: dict[str, Array]
    """rung → [items, 2]: trials that were lenient or better, and strict; averaged over draws."""
    wins: dict[str, Array]
    """rung → [items]: 1 success, 0 failure."""
    counts: Array
    """[items, 2]: lenient samples, samples."""
    floors: dict[str, Array]
    """rung → [items]: the placebo's or the guess rate g."""
    allowed: Array
    """[items, 6]: classes that the data of the item's cell can tell apart."""
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
    found = {probe: log.of(probe) for probe in ("plain", "shaped", "constrained", "sampled", "given")}
    cells = sorted({i.slices for i in items})
    sizes = Counter(name for i in items for name in i.slices)
    largest = [max(sorted(cell), key=lambda name: sizes[name]) for cell in cells]
    in_cell = Counter(i.slices for i in items)
    guess = np.array([floors[i.slices[0]]["guess"] for i in items])
    return Evidence(
        levels={rung: np.array([_levels(found[rung].get(i.id, [])) for i in items]) for rung in LEVELS},
        wins={
            "ranked_question": np.array([_first(ranks(i, log, "question")) for i in items]),
            "ranked_statement": np.array([_first(ranks(i, log, "statement")) for i in items]),
            "given": np.array([_mean([a.lenient for a in found["given"].get(i.id, [])]) for i in items]),
            "judged": np.array([_mean([lost_to_reference(i, log)]) for i in items]),
        },
        counts=np.array([_count(found["sampled"].get(i.id, [])) for i in items], float),
        floors={
            "plain": guess,
            "shaped": guess,
            "constrained": np.maximum(guess, [luck(i) for i in items]),
            "shaped_form": np.array([floors[i.slices[0]].get("shaped", 0.0) for i in items]),
            "sampled": guess,
            "ranked_question": np.array([_chance(i, log, "question") for i in items]),
            "ranked_statement": np.array([_chance(i, log, "statement") for i in items]),
            "given": np.array([floors[i.slices[0]].get("given", 0.0) for i in items]),
            "judged": np.array([floors[i.slices[0]].get("self", 0.0) for i in items]),
        },
        allowed=np.array([allowed(i.slices, missing) for i in items]),
        weights=_weights(items, rule.icc),
        cells=np.array([cells.index(i.slices) for i in items]),
        cell_prior=np.array([in_cell[cell] / sizes[name] for cell, name in zip(cells, largest, strict=True)]),
        home=np.array([[float(name in cell) for cell in cells] for name in largest]),
    )


def slice_floors(items: list[EvalItem], log: AnswerLog) -> dict[str, float]:
    """Measured placebo rates of a slice: what succeeds without the active ingredient.

    guess: chance that a guess hits one given option of the item's type. With r the rate at which a given
    distractor is hit by failing answers, a uniform guesser over k options has r = 1/(k-1), so g = r / (1 + r).
    """
    floors = {"guess": _guess_rate(items, log)}
    own, other, swapped = log.of("shaped_own"), log.of("given_other"), log.of("given_swapped")
    lost = [i for i in items if log.get("plain", i.id).lenient is False]
    for name, members, answers, level in (
        ("shaped", items, own, "strict"),
        ("shaped_content", lost, own, "lenient"),
        ("given", items, other, "lenient"),
        ("follows_swap", items, swapped, "lenient"),
    ):
        read = [r for i in members for a in answers.get(i.id, []) if (r := getattr(a, level)) is not None]
        if read:
            floors[name] = _mean(read)
    duels = [loss for i in items for loss in self_duels(i, log)]
    if duels or any(i.judge["kind"] != "rule" for i in items if i.judge):
        # Half a win and half a loss added: five samples without a loss do not prove that there is none. A rule says the
        # same of a text each time: where nobody sampled, there is no noise.
        floors["self"] = (sum(duels) + 0.5) / (len(duels) + 1)
    return floors


def ranks(item: EvalItem, log: AnswerLog, form: str) -> list[int]:
    """Rank of the gold option (0 is best) by length-normalised, prior-corrected log-probability; empty if not asked."""
    options = log.of_item(f"ranked_{form}", item.id)
    if len(options) < 2:
        return []
    values = []
    for a in options:
        prior = log.get(f"prior_{form}", a.text)
        if a.logprob is None or prior.logprob is None:
            return []
        values.append((a.logprob - prior.logprob) / max(a.tokens, 1))
    return [sum(v >= values[0] for v in values[1:])]


def readable(item: EvalItem, log: AnswerLog) -> bool:
    """Was the plain answer graded, or, where nothing grades content, judged?"""
    return log.get("plain", item.id).strict is not None or (
        not item.graded and lost_to_reference(item, log) is not None
    )


def doubted(items: list[EvalItem], log: AnswerLog) -> set[str]:
    """Ids of the items of one slice whose gold answer the evidence speaks against.

    The model says, unaided, what the item's own context says, and the gold answer stands nowhere in it, though it
    should: the answer is one of several wrong ones of the gold's type, or the slice's other golds do; and with the
    context before it, it does not come to the gold either. Or, in a slice that the model otherwise knows, all its
    samples agree on another answer. Such an item tells of its gold first.
    """
    wrong = [i for i in items if log.get("plain", i.id).lenient is False and i.targets]
    with_context = [i for i in items if i.context and i.targets]
    verbatim = sum(map(_holds_gold, with_context)) > 0.5 * len(with_context)
    found = {i.id for i in wrong if _contradicted(i, log, verbatim)}
    rest = [i for i in items if i.id not in found and log.get("plain", i.id).strict is not None]
    known = sum(bool(log.get("plain", i.id).lenient) for i in rest)
    if len(rest) >= SLICE_LEAST and known >= SLICE_KNOWN * len(rest):
        found |= {i.id for i in wrong if _agreed(i, log)}
    return found


def _holds_gold(item: EvalItem) -> bool:
    return any(mentions(item.context or "", content(item, t)) for t in item.targets)


def _contradicted(item: EvalItem, log: AnswerLog, verbatim: bool) -> bool:
    """Letters and numbers stand in many a context by chance."""
    said = content(item, log.get("plain", item.id).text.strip())
    if item.grader["kind"] in ("choice", "number") or len(said) < SAID_LEAST:
        return False
    same_type = verbatim or (len(item.options) > 2 and said in {content(item, o) for o in item.options})
    read = [a.lenient for a in log.of_item("given", item.id)]
    return same_type and mentions(item.context or "", said) and not _holds_gold(item) and not any(read)


def _agreed(item: EvalItem, log: AnswerLog) -> bool:
    said = log.get("plain", item.id).text.strip()
    samples = [a.text.strip() for a in log.of_item("sampled", item.id)]
    return bool(samples) and sum(s == said for s in samples) >= SELF_CONSISTENT * len(samples)


def luck(item: EvalItem) -> float:
    """How often a random answer of the forced form is right: 1/k for k choices, by enumerations for a schema."""
    form = form_of(item)
    if form is None:
        return 0.0
    if "choices" in form:
        return 1 / len(form["choices"])
    fields = form["schema"].get("properties") or {}
    sizes = [1 if "const" in f else len(f.get("enum") or ()) if isinstance(f, dict) else 0 for f in fields.values()]
    return float(np.prod([1 / size if size else 0.0 for size in sizes])) if sizes else 0.0


def _guess_rate(items: list[EvalItem], log: AnswerLog) -> float:
    hits = chances = 0.0
    for item in items:
        if not item.options:
            continue
        wrong = [a for p in ("plain", "sampled") for a in log.of_item(p, item.id) if a.lenient is False]
        for a in wrong:
            named = sum(bool(grade(_as_gold(item, option), a.text).lenient) for option in item.options)
            hits += named / len(item.options)
            chances += 1
    r = hits / chances if chances else 0.0
    return r / (1 + r)


def _as_gold(item: EvalItem, option: str) -> EvalItem:
    return replace(item, targets=(option,), distractors=(), choices=item.choices, chosen=None)


def _levels(answers: list[Answer]) -> list[float]:
    """NaN where nothing was read to its end: a draw that was cut off tells of neither content nor form."""
    read = [a for a in answers if a.strict is not None and a.lenient is not None]
    return [_mean([a.lenient for a in read]), _mean([a.strict for a in read])]


def _mean(values: list[bool | None]) -> float:
    read = [v for v in values if v is not None]
    return float(np.mean(read)) if read else float("nan")


def _first(rank: list[int]) -> float:
    return float(rank[0] == 0) if rank else float("nan")


def _count(answers: list[Answer]) -> list[int]:
    read = [a for a in answers if a.lenient is not None]
    return [sum(bool(a.lenient) for a in read), len(read)]


def _chance(item: EvalItem, log: AnswerLog, form: str) -> float:
    return 1 / max(len(log.of_item(f"ranked_{form}", item.id)), 2)


def allowed(slices: tuple[str, ...], missing: dict[str, tuple[str, ...]]) -> list[bool]:
    """A class that the data cannot tell from another leaves the model."""
    lacks = {what for name in slices for what in missing[name]}
    gone = {what for what in lacks if what in ("format", "preference")}
    if all(set(missing[name]) & {"judge", "agreement"} for name in slices):
        gone.add("preference")  # an item that another slice hears a taste on can still have one
    if "content" in lacks:
        gone |= {"format", *KNOWLEDGE}
    if "context" in lacks:
        gone.add("knowledge_skill")  # absent then stands for absent or skill; `verdicts` reports the kind as unresolved
    return [name not in gone for name in CLASSES]


def _weights(items: list[EvalItem], icc: float) -> Array:
    """1 / design effect per item, deff = 1 + (m - 1) icc (EVIDENCE §2.3)."""
    sizes = Counter(i.cluster for i in items if i.cluster is not None)
    return np.array([1 / (1 + (sizes[i.cluster] - 1) * icc) if i.cluster is not None else 1.0 for i in items])
