"""One response, two grades: `strict` is what production would accept, `lenient` is whether the content is there.

Lenient is not lax: an answer that also names a wrong option, hedges between two answers, or only repeats the prompt
fails it. Each function below implements one kind of grader.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from string import ascii_uppercase
from typing import Any

from diagnose.grading.grader import compiled, validator
from diagnose.grading.ifeval import follows
from diagnose.records import EvalItem, Reading

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
WORD = re.compile(r"((?:[%$€£°#+./:-]*+\w++)++[%$€£°#+]*+)|[%$€£°#+./:-]++")
"""Words with the symbols attached to them, or symbols alone. Possessive, because a long run of dots would otherwise
take quadratic time."""
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, Han."""


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
            strict, lenient = _json(item, text)
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
    """Can this grader recognise correct content in another format at all? If not, FORMAT leaves the model."""
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


# ---------------------------------------------------------------- content, read leniently


def normal(text: str) -> str:
    """NFKC, case folded, white space and punctuation at word borders collapsed to single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " " + " ".join(filter(None, WORD.findall(folded))) + " "


def holds(text: str, value: str) -> bool:
    """Does the value occur in the (normalised) text as whole words (in scripts without spaces: at all)?"""
    if UNSPACED.search(value):
        return normal(value).strip() in text
    return normal(value) in text and bool(normal(value).strip())


def one_content(item: EvalItem, text: str, wanted: Iterable[str], rivals: Iterable[str]) -> bool:
    """The wanted content occurs in the text, no rival does, it is not a hedge and not an echo of the prompt."""
    said = normal(text)
    echo = normal(item.turns[-1][1])
    if len(echo.split()) > 1:
        said = said.replace(echo, " ")
    found = [w for w in wanted if holds(said, w)]
    if not found or any(holds(said, r) for r in rivals if not any(holds(normal(w), r) for w in found)):
        return False
    return not any(_hedged(said, w) for w in found)


def _hedged(said: str, value: str) -> bool:
    v = re.escape(normal(value).strip())
    return re.search(rf" (?:either {v}|{v} or|or {v}) ", said) is not None


# ---------------------------------------------------------------- one function per kind: (strict, lenient)


def _exact(item: EvalItem, text: str) -> tuple[bool, bool]:
    strict = _nfc(text) in {_nfc(target) for target in _golds(item)}
    return strict, one_content(item, text, _golds(item), item.options)


def _contains(item: EvalItem, text: str) -> tuple[bool, bool]:
    found = one_content(item, text, item.targets or _golds(item), item.options)
    return found, found


def _number(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: the number alone, or the `marker` and then only the number. Lenient: the last number in the text."""
    golds = [value for target in _golds(item) for value in _numbers(target)[-1:] if math.isfinite(value)]
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
    gold = {letters.get(target, _nfc(target)) for target in _golds(item)} & set(choices)
    said = _nfc(text)
    strict = said in gold or letters.get(said.rstrip(".)").lstrip("(")) in gold
    alone = re.findall(r"(?:^|[\s(])([A-Z])(?:[.):]|$)", text.strip(), re.MULTILINE)
    named = {letters[m] for m in alone if m in letters}
    named |= {c for c in choices if one_content(item, text, [c], [o for o in choices if o != c])}
    several = re.search(r"\b[A-Z]\s*(?:,|/|or|and)\s*[A-Z]\b", text)
    return strict, len(named) == 1 and named <= gold and not several


def _json(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: one JSON value that fits the schema and has the gold fields. Lenient: the gold values, no rival's."""
    try:
        return _json_read(item, text)
    except RecursionError:  # nested more deeply than any gold answer that passed on load
        return False, False


def _json_read(item: EvalItem, text: str) -> tuple[bool, bool]:
    gold = [value for target in _golds(item) if (value := _loads(target)) is not None]
    value = _loads(text)
    schema = item.grader.schema
    fits = value is not None and (schema is None or validator(json.dumps(schema)).is_valid(value))
    strict = fits and (not gold or any(_same(value, g) for g in gold))
    said = _embedded(text)
    if (embedded := _loads(said)) is not None and any(_same(embedded, g) for g in gold):
        return strict, True
    rivals = [leaf for option in item.options for leaf in _leaves(_loads(option))]
    lenient = any(all(one_content(item, said, [leaf], rivals) for leaf in _leaves(g)) for g in gold if _leaves(g))
    return strict, lenient


def _regex(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: the pattern is found and, where it has a group and the item a target, captures the target only.

    Lenient: the `lenient` pattern is found, or the target's content occurs in the text and no rival's.
    """
    golds = {_nfc(target) for target in _golds(item)}
    found = [m.group(1) if m.re.groups else m.group() for m in compiled(item.grader.pattern).finditer(text)]
    captured = {_nfc(value or "") for value in found}
    held = compiled(item.grader.pattern).groups and golds
    strict = captured <= golds and bool(captured) if held else bool(captured)
    if item.grader.lenient is not None:
        return strict, compiled(item.grader.lenient).search(text) is not None
    return strict, bool(golds) and one_content(item, text, golds, item.options)


def _golds(item: EvalItem) -> tuple[str, ...]:
    return (*item.targets, item.chosen) if item.chosen else item.targets


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _numbers(text: str) -> list[float]:
    return [_float(found) for found in NUMBER.findall(text)]


def _float(text: str) -> float:
    return float(text.replace(",", ""))


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also an integer with more digits than Python parses
        return None


def _embedded(text: str) -> str:
    """From the first brace or bracket to the last one that could close it; else the whole text."""
    spans = [(text.find(opening), text.rfind(closing)) for opening, closing in ("{}", "[]")]
    start, end = min(((a, b) for a, b in spans if 0 <= a < b), default=(0, len(text)))
    return text[start : end + 1]


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: 3 is 3.0, but true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [] if value is None or isinstance(value, bool) else [str(value)]
