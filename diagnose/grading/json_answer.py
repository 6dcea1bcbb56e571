"""The two readings of an answer that should be JSON."""

from __future__ import annotations

import ast
import json
from functools import lru_cache
from typing import Any

import regex

from diagnose.grading.content import contains, one_content
from diagnose.grading.grader import validator
from diagnose.grading.numbers import Quantity, equal, quantities
from diagnose.grading.settled import asserted, brief
from diagnose.records import EvalItem

TRUE, FALSE = ("true", "yes", "y"), ("false", "no", "n")
LONGEST = 20_000
"""Characters of a text that is parsed as a Python literal (hand-set)."""
NOTHING = ("", "null", "none", "n/a")


def read_json(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: one JSON value that fits the schema and has the gold fields.

    Lenient: every gold field has its value, in JSON, in lines of "key: value" or in a sentence, in another type or
    notation, with more fields beside them.
    """
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
    return strict, any(_says(item, text, g) for g in gold)


def _says(item: EvalItem, text: str, gold: Any) -> bool:
    said = _embedded(text)
    embedded = _literal(said) if len(said) < LONGEST else _loads(said)
    if isinstance(embedded, dict | list) and isinstance(gold, dict | list):
        return _alike(item, embedded, gold) or _alike(item, _only(embedded), gold) or _renamed(item, embedded, gold)
    short = brief(text)
    if isinstance(gold, dict) and (fields := _lines(short, list(gold))) is not None:
        return _alike(item, fields, gold)
    return _in_prose(item, short, gold)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also an integer with more digits than Python parses
        return None


def _literal(text: str) -> Any:
    """JSON, or a Python literal: models print dictionaries with single quotes."""
    try:
        return _loads(text) if "'" not in text else _loads(text) or ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _embedded(text: str) -> str:
    """From the first brace or bracket to the last one that could close it; else the whole text."""
    spans = [(text.find(opening), text.rfind(closing)) for opening, closing in ("{}", "[]")]
    start, end = min(((a, b) for a, b in spans if 0 <= a < b), default=(0, len(text)))
    return text[start : end + 1]


def _only(value: Any) -> Any:
    """What a list or an object of one holds: answers come wrapped."""
    inner = list(value.values()) if isinstance(value, dict) else value
    return inner[0] if len(inner) == 1 else None


def _renamed(item: EvalItem, said: Any, gold: Any) -> bool:
    """The only value of the gold answer under another key, and no rival's beside it."""
    if not (isinstance(gold, dict) and isinstance(said, dict) and len(gold) == 1):
        return False
    (key, wanted), *_ = gold.items()
    if _key(key) in map(_key, said) or isinstance(wanted, dict | list | bool):
        return False
    leaves = [leaf for _, leaf in _leaves(said)]
    rivals = [leaf for option in item.options for _, leaf in _leaves(_loads(option))]
    named = any(_alike(item, leaf, rival) for leaf in leaves for rival in rivals)
    return not named and any(_alike(item, leaf, wanted) for leaf in leaves)


def _lines(text: str, keys: list[str]) -> dict[str, str] | None:
    """The values of all keys from lines such as `Key: value`; None where one key has no line."""
    found = {}
    for key in keys:
        name = r"[\s_-]?".join(map(regex.escape, regex.findall(r"\p{Lu}?\p{Ll}+|\w+", key))) or regex.escape(key)
        line = regex.search(rf"(?:^|[\n;,{{]|[-*•]\s)\W{{0,4}}{name}\W{{0,4}}?[:=]\W{{0,3}}([^\n;}}]*)", text, regex.I)
        if line is None:
            return None
        found[key] = line[1].strip(" \"'*,.`")
    return found


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: 3 is 3.0, but true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _alike(item: EvalItem, said: Any, gold: Any) -> bool:
    """The same content field by field; keys in any case, more keys than the gold ones, values in any type."""
    if isinstance(gold, dict):
        if not isinstance(said, dict):
            return False
        named = {_key(k): v for k, v in said.items()}
        return all(_key(k) in named and _alike(item, named[_key(k)], v) for k, v in gold.items())
    if isinstance(gold, list):
        same_length = isinstance(said, list) and len(said) == len(gold)
        return same_length and all(_alike(item, s, g) for s, g in zip(said, gold, strict=True))
    if isinstance(said, dict | list):
        return isinstance(said, list) and len(said) == 1 and _alike(item, said[0], gold)
    text = "" if said is None else str(said).strip()
    if gold is None:
        return text.casefold() in NOTHING
    if isinstance(gold, bool):
        if isinstance(said, bool):
            return said is gold
        return not isinstance(said, int | float) and text.casefold() in (TRUE if gold else FALSE)
    if isinstance(said, bool):
        return False
    if isinstance(gold, int | float):
        return _has_number(text, gold)
    return text == gold or (bool(gold.strip()) and one_content(item, text, [gold], []))


@lru_cache(maxsize=4096)
def _key(key: str) -> str:
    return str(regex.sub(r"[\W_]+", "", key)).casefold()


def _has_number(text: str, gold: float) -> bool:
    found = quantities(text)
    return len(found) == 1 and equal(found[0], Quantity(float(gold), ""))


def _in_prose(item: EvalItem, text: str, gold: Any) -> bool:
    """Every value of the gold answer is in the text, and no rival's."""
    rivals = [leaf for option in item.options for _, leaf in _leaves(_loads(option)) if isinstance(leaf, str)]
    leaves = [(key, leaf) for key, leaf in _leaves(gold) if leaf is not None]
    booleans = sum(isinstance(leaf, bool) for _, leaf in leaves)
    return bool(leaves) and all(
        _said_in_prose(item, text, key, leaf, rivals, alone=booleans == 1) for key, leaf in leaves
    )


def _said_in_prose(item: EvalItem, text: str, key: str, leaf: Any, rivals: list[str], alone: bool) -> bool:
    if isinstance(leaf, bool):
        return _truth(text, key, alone) is leaf
    if isinstance(leaf, int | float):
        return any(equal(q, Quantity(float(leaf), "")) for q in quantities(asserted(text, f"{leaf:g}")))
    return one_content(item, text, [leaf], rivals)


def _truth(text: str, key: str, alone: bool) -> bool | None:
    """Is the key said to hold? Yes, no or true at the start, if it is the only such field, else as it is asserted."""
    start = regex.match(r"\W*(yes|no|true|false)\b", text, regex.I)
    if start and alone:
        return start[1].casefold() in TRUE
    name = regex.sub(r"^(?:is|has|was)[_\s]", "", key.replace("_", " "))
    if not contains(text, name):
        return None
    return contains(asserted(text, name), name)


def _leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """(key, value) of every value that is no object and no list."""
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in _leaves(item, name)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item, key)]
    return [(key, value)]
