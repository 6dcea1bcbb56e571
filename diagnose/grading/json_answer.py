"""The two readings of an answer that should be JSON."""

from __future__ import annotations

import json
from typing import Any

from diagnose.grading.content import one_content
from diagnose.grading.grader import validator
from diagnose.records import EvalItem


def read_json(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: one JSON value that fits the schema and has the gold fields. Lenient: the gold values, no rival's."""
    try:
        return _read(item, text)
    except RecursionError:  # nested more deeply than any gold answer that passed on load
        return False, False


def _read(item: EvalItem, text: str) -> tuple[bool, bool]:
    gold = [value for target in item.references if (value := _loads(target)) is not None]
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
