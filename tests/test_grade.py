"""Rows of grader, response, strict, lenient; each with the reason it is there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diagnose.errors import BadInput
from diagnose.grading.grade import grade, prefers
from diagnose.grading.grader import parse_grader
from diagnose.records import EvalItem

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}


def item(grader: dict[str, Any], target: str, **more: Any) -> EvalItem:
    return EvalItem(
        id="x", slices=("s",), turns=(("user", "What is the capital of France?"),), targets=(target,),
        grader=parse_grader(grader, "f:1"), where="f:1", **more,
    )  # fmt: skip


EXACT, NUMBER, CHOICE, JSON = (
    {"kind": "exact"},
    {"kind": "number"},
    {"kind": "choice"},
    {"kind": "json", "schema": PERSON},
)
CITIES = {"distractors": ("London", "Rome")}
OPTIONS = {"choices": ("Rome", "Paris", "London")}
ROWS = [
    (EXACT, "Paris", CITIES, "Paris", True, True, "the answer itself"),
    (EXACT, "Paris", CITIES, " Paris\n", True, True, "white space around it"),
    (EXACT, "Paris", CITIES, "It is Paris.", False, True, "content in a sentence"),
    (EXACT, "Paris", CITIES, "paris", False, True, "another case"),
    (EXACT, "Paris", CITIES, "Paris, London or Rome", False, False, "shotgun"),
    (EXACT, "Paris", {}, "Paris or Lyon", False, False, "hedge with an unlisted rival"),
    (EXACT, "Paris", CITIES, "Parisian", False, False, "not a whole word"),
    (EXACT, "France", {}, "What is the capital of France?", False, False, "echo of the prompt holds the target"),
    (EXACT, "Paris", CITIES, "1.264.837 million people? It is Paris.", False, True, "a number that is none"),
    (EXACT, "Paris", CITIES, "It is Paris, 1.2.3 billion", False, True, "nor is a version"),
    (EXACT, "Paris", CITIES, "", None, None, "empty"),
    (EXACT, "café", {}, "cafe\u0301", True, True, "decomposed unicode"),
    (EXACT, "C++", {"distractors": ("C",)}, "I would use C++.", False, True, "symbols are part of a word"),
    (EXACT, "Paris", {"distractors": ("Paris Hilton",)}, "Paris", True, True, "a rival that holds the gold"),
    (NUMBER, "1,234", {}, "1234", True, True, "thousands separator"),
    (NUMBER, "42", {}, "So 6*7 = 42", False, True, "last number of a text"),
    (NUMBER, "42", {}, "42 or 43", False, False, "hedge"),
    (NUMBER, "42", {}, "42 apples, then 41", False, False, "another last number"),
    (NUMBER | {"marker": "####"}, "#### 7", {}, "3+4\n#### 7", True, True, "the marker's convention"),
    (NUMBER | {"marker": "####"}, "#### 7", {}, "3+4 is 7", False, True, "right number without the marker"),
    (NUMBER | {"tolerance": 0.1}, "3.14", {}, "3.2", True, True, "within tolerance"),
    (NUMBER, "-5", {}, "5", False, False, "sign"),
    (CHOICE, "Paris", OPTIONS, "B", True, True, "the letter"),
    (CHOICE, "B", OPTIONS, "Paris", True, True, "the text where the target is a letter"),
    (CHOICE, "Paris", OPTIONS, "The answer is (B).", False, True, "letter in a sentence"),
    (CHOICE, "Paris", OPTIONS, "A or B", False, False, "two letters"),
    (CHOICE, "Paris", OPTIONS, "Rome, Paris and London", False, False, "every option"),
    (JSON, '{"name": "Ada"}', {}, '{"name":"Ada"}', True, True, "spacing does not matter"),
    (JSON, '{"name": "Ada"}', {}, '```json\n{"name": "Ada"}\n```', False, True, "a fence is not JSON"),
    ({"kind": "json"}, '{"ok": true, "n": 3}', {}, '```\n{"ok": true, "n": 3.0}\n```', False, True, "a fence"),
    ({"kind": "json"}, '{"ok": true}', {}, '{"ok": 1}', False, False, "1 is not true"),
    ({"kind": "json"}, '{"n": 1}', {}, "9" * 5000, None, None, "more digits than Python reads"),
    (EXACT, "北京", {}, "答案是北京。", False, True, "a script without spaces"),
    (CHOICE, "Paris", OPTIONS, "B\nBecause it is so.", False, True, "letter on its own line"),
    (JSON, '{"name": "Ada"}', {}, "Ada", False, True, "value without form"),
    (JSON, '{"name": "Ada"}', {}, '{"name": "Ada", "age": 3}', False, True, "additional property"),
    (JSON, '{"name": "Ada"}', {"distractors": ('{"name": "Bob"}',)}, "Ada, Bob", False, False, "a rival's value too"),
    (JSON, '{"name": "Ada"}', {}, '{"kind": "person", "entry": "Ada"}', False, True, "under another key"),
    (JSON, '{"name": "Ada"}', {}, '{"name": "Bob", "boss": "Ada"}', False, False, "its own key has another value"),
    (JSON, '{"name": "Ada"}', {"distractors": ('{"name": "Bob"}',)}, '{"a": "Ada", "b": "Bob"}', False, False, "both"),
    (JSON, '{"name": "Ada"}', {}, '{"name": "Bob"}', False, False, "fits the schema, wrong value"),
    ({"kind": "contains"}, "Paris", CITIES, "Gladly: Paris", True, True, "contained"),
    ({"kind": "contains"}, "Paris", CITIES, "Paris, London", False, False, "with a rival"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("grader", "target", "more", "text", "strict", "lenient", "why"), ROWS, ids=[r[-1] for r in ROWS]
)
def test_reading(
    grader: dict[str, Any],
    target: str,
    more: dict[str, Any],
    text: str,
    strict: bool | None,
    lenient: bool | None,
    why: str,
) -> None:
    read = grade(item(grader, target, **more), text)
    assert (read.strict, read.lenient) == (strict, lenient), why


@pytest.mark.parametrize(
    ("grader", "says"),
    [
        ({"kind": "exakt"}, "allowed: exact"),
        ("exact", "grader kind 'exact'"),
        ({"kind": "number", "tolerance": "5%"}, "expected a number"),
        ({"kind": "json", "schema": {"$ref": "#/nowhere"}}, "not a JSON Schema"),
        ({"kind": "json", "schema": {"type": "objekt"}}, "not a JSON Schema"),
        ({"kind": "json", "schema": {"items": {"pattern": "(?=x)"}}}, "not an RE2 pattern"),
        ({"kind": "json", "schema": {"patternProperties": {"^a": {}}}}, "patternProperties is not supported"),
        ({"kind": "exact", "judge": {"kind": "rule"}}, "RE2 pattern"),
        ({"kind": "exact", "judge": {"kind": "rule", "prefer": "(?=x)"}}, "not an RE2 pattern"),
        ({"kind": "exact", "judge": {"kind": "rule", "prefer": r"(a)\1"}}, "not an RE2 pattern"),
    ],
)
def test_bad_graders_are_named_with_their_place(grader: Any, says: str) -> None:
    with pytest.raises(BadInput, match="f:1") as caught:
        parse_grader(grader, "f:1")
    assert says in str(caught.value)


def test_a_rule_is_searched_and_absent_rules_say_nothing() -> None:
    ruled = item({"kind": "contains", "judge": {"kind": "rule", "prefer": "^Gladly"}}, "Paris")
    assert prefers(ruled, "Gladly: Paris") is True
    assert prefers(ruled, "Paris, Gladly") is False
    assert prefers(item(EXACT, "Paris"), "Paris") is None


def test_a_schema_s_pattern_is_searched_and_does_not_hang() -> None:
    shaped = item({"kind": "json", "schema": {"type": "string", "pattern": "^(a+)+$"}}, '"aaa"')
    assert grade(shaped, '"aaa"').strict is True
    assert not grade(shaped, json.dumps("a" * 50_000 + "b")).strict


def test_a_catastrophic_pattern_does_not_hang() -> None:
    ruled = item({"kind": "contains", "judge": {"kind": "rule", "prefer": "^(a+)+$"}}, "Paris")
    assert prefers(ruled, "a" * 50_000 + "b") is False
