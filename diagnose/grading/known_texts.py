"""Texts whose content is known, to test graders with: the gold answer in other formats, and wrong answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from diagnose.records import EvalItem


def right_in_another_format(item: EvalItem) -> Iterator[str]:
    """The reference content in five other formats; a lenient reading should still find it."""
    gold = content(item, item.targets[0])
    yield f"The answer is {gold}."
    yield f'"{gold}"'
    yield f"Answer: {gold}\n"
    yield gold.lower()
    yield f"**{gold}**"


def wrong_answers(item: EvalItem) -> Iterator[str]:
    """Same-type wrong answers, a list of every option, a hedge and an echo of the prompt."""
    gold, options = content(item, item.targets[0]), [content(item, o) for o in item.options]
    yield from options[:3]
    if options:
        yield ", ".join([gold, *options])
        yield f"{gold} or {options[0]}"
    yield item.turns[-1][1]


def content(item: EvalItem, text: str) -> str:
    """The bare content of an answer: the value of a JSON object that has one, else the text itself."""
    if item.grader.kind != "json":
        return text
    try:
        value: Any = json.loads(text)
    except ValueError:
        return text
    leaves = list(value.values()) if isinstance(value, dict) else [value]
    return str(leaves[0]) if len(leaves) == 1 and not isinstance(leaves[0], dict | list) else text
