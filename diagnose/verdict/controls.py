"""What the graders themselves get wrong, measured on answers of known truth before any slice is judged."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from diagnose.grading.grade import grade, separates_content
from diagnose.grading.known_texts import right_in_another_format, wrong_answers
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import beaten, duels
from diagnose.probes.table import Probe, Role
from diagnose.records import EvalItem
from diagnose.stats import nominal_alpha, rate

PER_KIND = 200
"""Items per kind of grader that its controls are made of (hand-set)."""
SHOWN = (Probe.CONTROL_RIGHT, Probe.CONTROL_WRONG, Probe.CONTROL_REFERENCE)


def grader_controls(items: list[EvalItem], log: AnswerLog) -> dict[str, dict[str, Any]]:
    """Sensitivity and specificity of the lenient reading per grader kind, each with n and its 95 % interval.

    Sensitivity: gold content in five other formats is read as there. Specificity: same-type wrong answers, a list of
    every option, a hedge between two answers and an echo of the prompt are not. `rejects_gold`: share of gold answers
    that the strict reading refuses; 0 for graders that were checked on load, measured for a model that grades.
    `read_by`: a model, not the rules, said whether the content is there (`reader=model`).
    """
    by_kind: dict[str, list[EvalItem]] = defaultdict(list)
    for item in items:
        if separates_content(item) and item.targets:
            by_kind[item.grader.kind].append(item)
    out = {}
    for kind, members in sorted(by_kind.items()):
        asked = any(log.find(Probe.CONTROL_RIGHT, i.id) for i in members)
        if kind == "judge" or asked:
            right, wrong, gold = (_noted(probe, members, log) for probe in SHOWN)
        else:
            some = members[:PER_KIND]
            right = [bool(grade(i, text).lenient) for i in some for text in right_in_another_format(i)]
            wrong = [bool(grade(i, text).lenient) for i in some for text in wrong_answers(i)]
            gold = []
        out[kind] = _shown("sensitivity", right) | _shown("specificity", [not w for w in wrong])
        out[kind] |= _shown("rejects_gold", [not g for g in gold])
        out[kind] |= {"read_by": "model"} if asked and kind != "judge" else {}
    return out


def _noted(probe: Probe, items: list[EvalItem], log: AnswerLog) -> list[bool]:
    """How a judging grader read the controls; what it left unreadable does not count."""
    answers = [a for i in items for a in log.of_item(probe, i.id)]
    read = [a.strict if probe is Probe.CONTROL_REFERENCE else a.lenient for a in answers]
    return [r for r in read if r is not None]


def judge_controls(items: list[EvalItem], log: AnswerLog) -> dict[str, Any]:
    """How often the judge prefers chosen to rejected, and how often a place and not a text decided (both orders).

    `by_length` is `alone` where its preference follows from which text is longer, on pairs that are chosen either way.
    Empty where no model judges.
    """
    pairs: list[bool] = []
    longer: list[bool] = []
    turned: list[bool] = []
    for item in items:
        if item.judge is None or item.judge.kind == "rule":
            continue
        won = duels(item.id, log, Probe.JUDGE_CONTROL)
        right = [w == 1 for w in won]
        if item.judge.kind == "reward_model":
            better = beaten(item.id, log, Role.REJECTED)
            right = [] if better is None else [better]
        pairs += right
        longer += [len(item.chosen or "") > len(item.rejected or "") for _ in right]
        turned += [w == 0 for w in (*won, *duels(item.id, log, Probe.PREFERENCE_JUDGED))]
    if not pairs and not turned:
        return {}
    return _shown("accuracy", pairs) | _shown("position_bias", turned) | {"by_length": _by_length(pairs, longer)}


def _by_length(pairs: list[bool], longer: list[bool]) -> str | None:
    """None where all the chosen are longer, or all are shorter: then nobody can tell length from worth."""
    either = [[right for right, long in zip(pairs, longer, strict=True) if long == side] for side in (True, False)]
    if not all(either):
        return None
    worse = [found for side in either if (found := rate(sum(side), len(side))).high is not None and found.high < 0.5]
    return "alone" if worse else "not alone"


def agreement(items: list[EvalItem]) -> dict[str, Any]:
    """Krippendorff's alpha (nominal) of the annotators, and how often two of them give one item the same label.

    Where nearly all labels are the same, alpha is near 0 however well people agree; `pairwise` shows that.
    Empty where nobody annotated; None where fewer than eight items (hand-set) have two labels, alpha also
    where all labels are the same.
    """
    labels = [Counter(label for _, label in i.annotations) for i in items if len(dict(i.annotations)) > 1]
    if not any(i.annotations for i in items):
        return {}
    out: dict[str, Any] = {"alpha": None, "pairwise": None, "items": len(labels)}
    if len(labels) < 8:
        return out
    counts = np.array([[one[value] for value in sorted(set().union(*labels))] for one in labels], float)
    sizes = counts.sum(1)
    out["pairwise"] = float(((counts * (counts - 1)).sum(1) / (sizes * (sizes - 1))).mean())
    out["alpha"] = nominal_alpha(counts)
    return out


def margin_controls(items: list[EvalItem], log: AnswerLog) -> dict[str, Any]:
    """How often the base ranks `chosen` above `rejected` by log-probability per token, in all and by length.

    The terciles of the difference in length are the control: a margin that shows in only one of them is about length.
    Empty where no item has a pair.
    """
    margins = []
    for item in items:
        chosen, rejected = (log.find(Probe.MARGINS, item.id, role) for role in (Role.CHOSEN, Role.REJECTED))
        if chosen and rejected and None not in (chosen.logprob, rejected.logprob) and chosen.tokens and rejected.tokens:
            gap = (chosen.logprob or 0.0) / chosen.tokens - (rejected.logprob or 0.0) / rejected.tokens
            margins.append((chosen.tokens - rejected.tokens, gap > 0))
    if not margins:
        return {}
    margins.sort(key=lambda m: m[0])
    third = max(1, len(margins) // 3)
    terciles = {"shorter": margins[:third], "middle": margins[third:-third], "longer": margins[-third:]}
    by_length = {name: _shown("rank_accuracy", [right for _, right in part]) for name, part in terciles.items()}
    return _shown("rank_accuracy", [right for _, right in margins]) | {"by_length": by_length}


def _shown(name: str, values: list[bool]) -> dict[str, Any]:
    found = rate(sum(values), len(values))
    share = found.k / found.n if found.n else None
    return {name: share, f"{name}_n": found.n, f"{name}_interval95": [found.low, found.high]}
