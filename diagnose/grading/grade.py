"""One response, two grades: `strict` is what production would accept, `lenient` is whether the content is there.

Lenient is not lax: an answer that also names a wrong option, hedges between two answers, or only repeats the prompt
fails it. Each function below implements one kind of grader.
"""

from __future__ import annotations

import math
import re
import unicodedata
from string import ascii_uppercase
from typing import Any

from diagnose.grading.content import one_content
from diagnose.grading.grader import compiled
from diagnose.grading.ifeval import follows
from diagnose.grading.json_answer import read_json
from diagnose.records import EvalItem, Reading

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")


def grade(item: EvalItem, text: str) -> Reading:
    """Grade one response.

    Returns:
        strict and lenient; both None with a reason where the item cannot be scored.
    """
    if not item.graded:
        return Reading(None, None, "ungraded")
    match item.grader.kind:
        case "exact":
            strict, lenient = _exact(item, text)
        case "number":
            strict, lenient = _number(item, text)
        case "contains":
            strict, lenient = _contains(item, text)
        case "choice":
            strict, lenient = _choice(item, text)
        case "json":
            strict, lenient = read_json(item, text)
        case "regex":
            strict, lenient = _regex(item, text)
        case "instructions":
            strict, lenient = follows(item.grader.instructions, item.turns[-1][1], text)
        case "judge":
            return Reading(None, None, "judge")
    return Reading(strict, strict or lenient)


def prefers(item: EvalItem, text: str) -> bool | None:
    """Does the item's rule accept this response? None where the item has no rule."""
    judge = item.judge
    return None if judge is None or judge.kind != "rule" else compiled(judge.prefer or "").search(text) is not None


def separates_content(item: EvalItem) -> bool:
    """Can this grader recognise correct content in another format at all? If not, the mixture model drops FORMAT."""
    match item.grader.kind:
        case "contains":
            return False
        case "instructions" | "judge":
            return True
        case "regex":
            return bool(item.targets) or item.grader.lenient is not None
    return bool(item.targets)


def constraint_of(item: EvalItem) -> dict[str, Any] | None:
    """What production could constrain an answer to: a JSON Schema or one of the choices; None if it has neither."""
    if item.grader.schema is not None:
        return {"schema": item.grader.schema}
    return {"choices": list(item.choices)} if item.grader.kind == "choice" and item.choices else None


# ---------------------------------------------------------------- one function per kind: (strict, lenient)


def _exact(item: EvalItem, text: str) -> tuple[bool, bool]:
    strict = _nfc(text) in {_nfc(target) for target in item.references}
    return strict, one_content(item, text, item.references, item.options)


def _contains(item: EvalItem, text: str) -> tuple[bool, bool]:
    found = one_content(item, text, item.targets or item.references, item.options)
    return found, found


def _number(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: the number alone, or the `marker` and then only the number. Lenient: the last number in the text."""
    golds = [value for target in item.references for value in _numbers(target)[-1:] if math.isfinite(value)]
    tolerance = float(item.grader.tolerance)
    marker = item.grader.marker

    def right(value: float) -> bool:
        return any(math.isclose(value, gold, rel_tol=1e-9, abs_tol=tolerance) for gold in golds)

    tail = text.rsplit(marker, 1)[-1] if marker and marker in text else text
    alone = NUMBER.fullmatch(tail.strip()) if marker is None or marker in text else None
    strict = alone is not None and right(_float(alone.group()))
    found = _numbers(text)
    return strict, bool(found) and right(found[-1]) and not re.search(r"\bor\s+[-+]?\d", text)


def _choice(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: the choice's text or its letter, alone. Lenient: exactly one choice is named, and it is the gold one."""
    choices = [_nfc(choice) for choice in item.choices]
    letters = dict(zip(ascii_uppercase, choices, strict=False))
    gold = {letters.get(target, _nfc(target)) for target in item.references} & set(choices)
    said = _nfc(text)
    strict = said in gold or letters.get(said.rstrip(".)").lstrip("(")) in gold
    alone = re.findall(r"(?:^|[\s(])([A-Z])(?:[.):]|$)", text.strip(), re.MULTILINE)
    named = {letters[m] for m in alone if m in letters}
    named |= {c for c in choices if one_content(item, text, [c], [o for o in choices if o != c])}
    several = re.search(r"\b[A-Z]\s*(?:,|/|or|and)\s*[A-Z]\b", text)
    return strict, len(named) == 1 and named <= gold and not several


def _regex(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: the pattern matches and, if it has a group and the item has a target, captures only the target.

    Lenient: the `lenient` pattern matches, or the text contains the target's content and no rival's.
    """
    golds = {_nfc(target) for target in item.references}
    found = [m.group(1) if m.re.groups else m.group() for m in compiled(item.grader.pattern).finditer(text)]
    captured = {_nfc(value or "") for value in found}
    held = compiled(item.grader.pattern).groups and golds
    strict = captured <= golds and bool(captured) if held else bool(captured)
    if item.grader.lenient is not None:
        return strict, compiled(item.grader.lenient).search(text) is not None
    return strict, bool(golds) and one_content(item, text, golds, item.options)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _numbers(text: str) -> list[float]:
    return [_float(found) for found in NUMBER.findall(text)]


def _float(text: str) -> float:
    return float(text.replace(",", ""))
