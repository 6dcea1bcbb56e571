"""The content of an answer apart from its format, and texts of known content to test graders with."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from diagnose.records import EvalItem

WORD = re.compile(r"((?:[%$€£°#+./:-]*+\w++)++[%$€£°#+]*+)|[%$€£°#+./:-]++")
"""Words with the symbols attached to them, or symbols alone. Possessive, because a long run of dots would otherwise
take quadratic time."""
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, Han."""


def normal(text: str) -> str:
    """NFKC, case folded, white space and punctuation at word borders collapsed to single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " " + " ".join(filter(None, WORD.findall(folded))) + " "


def holds(text: str, value: str) -> bool:
    """Does the (normalised) text contain the value, as whole words or, in scripts without spaces, anywhere?"""
    if UNSPACED.search(value):
        return normal(value).strip() in text
    return normal(value) in text and bool(normal(value).strip())


def one_content(item: EvalItem, text: str, wanted: Iterable[str], rivals: Iterable[str]) -> bool:
    """Does the text contain the wanted content and no rival, without hedging or just echoing the prompt?"""
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


def mentions(text: str, part: str) -> bool:
    """Does a text contain these words, whole and in this order? Punctuation and case are ignored."""
    return holds(normal(text), part)
