"""Prompts that do not say what is wanted: nobody could answer them, and a few examples repair everything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from diagnose.grading.content import contains
from diagnose.grading.numbers import quantities
from diagnose.probes.answers import AnswerLog
from diagnose.probes.table import Probe
from diagnose.records import EvalItem
from diagnose.stats import rate
from diagnose.verdict.evidence import names

LEVEL = 0.8
"""Of the intervals, two-sided, so that each bound holds with 90 % (hand-set)."""
REPAIRED, RELATED = 0.7, 0.25
"""Least share of attempts that examples repair; largest share of plain answers of the wanted type (both hand-set)."""
CLOSED = 0.5
"""Targets that repeat so much that at most this share of them is different are a closed set (hand-set)."""
TRIED = 50
"""Targets of a closed set that an answer is searched for (hand-set)."""


def unstated(items: Sequence[EvalItem], log: AnswerLog) -> bool:
    """Do examples repair the failures of a slice whose plain answers are not even of the type of its targets?

    Not said where the type is open, as in questions with a different answer each.
    """
    failed = [i for i in items if log.get(Probe.PLAIN, i.id).lenient is False]
    if 2 * len(failed) < len(items):
        return False
    shown = [bool(a.lenient) for i in failed for a in log.of_item(Probe.FEW_SHOT, i.id) if a.lenient is not None]
    repaired = rate(sum(shown), len(shown), LEVEL).low
    if repaired is None or repaired < REPAIRED:
        return False
    known = Counter(t for i in items for t in i.targets)
    closed = list(known)[:TRIED] if len(known) <= CLOSED * len(items) else []
    if 2 * sum(_states(i, closed) for i in failed) >= len(failed):
        return False
    typed = [t for i in failed if (t := _of_type(i, log.get(Probe.PLAIN, i.id).text, closed)) is not None]
    related = rate(sum(typed), len(typed), LEVEL).high
    return related is not None and related <= RELATED


def _states(item: EvalItem, closed: Sequence[str]) -> bool:
    """Does the prompt name what is wanted: one of the answers, or a field of the JSON object?"""
    prompt = " ".join(text for _, text in item.turns)
    return any(contains(prompt, name) for name in (*_keys(item), *item.choices, *item.options, *closed))


def _of_type(item: EvalItem, text: str, closed: Sequence[str]) -> bool | None:
    """Is the text an answer of the target's type, though a wrong one? None where the type is open."""
    match item.grader.kind:
        case "number":
            return bool(quantities(text))
        case "json":
            keys = _keys(item)
            return any(f'"{key}"' in text for key in keys) if keys else None
    rivals = [*item.options, *closed]
    return any(names(item, rival, text) for rival in rivals) if rivals else None


def _keys(item: EvalItem) -> list[str]:
    try:
        found = [json.loads(t) for t in item.targets]
    except ValueError:
        return []
    return [key for value in found if isinstance(value, dict) for key in value]
