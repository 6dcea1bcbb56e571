"""One response, two readings: `strict` is what production would accept, `lenient` is whether the content is there.

Lenient is not a lottery: an answer that names a rival too, hedges between two answers, or only repeats the prompt fails
it. Each function below reads one grader kind of CONTRACTS.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from string import ascii_uppercase
from typing import Any

from diagnose.errors import BadInput
from diagnose.grading.ifeval import check_instructions, follows
from diagnose.records import EvalItem, Reading
from diagnose.text import first_line

KINDS = ("exact", "regex", "number", "contains", "choice", "json", "instructions", "judge")
JUDGES = ("rule", "reward_model", "model")
NEEDS_NO_GOLD = ("regex", "instructions", "judge")
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
KEYS = ("kind", "judge", "schema", "pattern", "lenient", "tolerance", "marker", "instructions", "model", "rubric")
WORD = re.compile(r"((?:[%$€£°#+./:-]*+\w++)++[%$€£°#+]*+)|[%$€£°#+./:-]++")
"""Words with the signs that belong to them, or signs alone; possessive, because a long row of dots would else cost
quadratic time."""
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, Han."""


def grade(item: EvalItem, text: str) -> Reading:
    """Read one response.

    Returns:
        strict and lenient; both None with a reason where the item cannot be scored.
    """
    if not item.graded:
        return Reading(None, None, "ungraded")
    match item.grader["kind"]:
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
            strict, lenient = follows(item.grader["instructions"], item.turns[-1][1], text)
        case "judge":
            return Reading(None, None, "judge")
    return Reading(strict, strict or lenient)


def prefers(item: EvalItem, text: str) -> bool | None:
    """Does the item's rule accept this response? None where the item has no rule."""
    judge = item.judge
    return None if judge is None or judge["kind"] != "rule" else _rule(judge["prefer"]).search(text) is not None


def separates_content(item: EvalItem) -> bool:
    """Can this grader see right content in a wrong form at all? If not, FORMAT leaves the model."""
    match item.grader["kind"]:
        case "contains":
            return False
        case "instructions" | "judge":
            return True
        case "regex":
            return bool(item.targets) or "lenient" in item.grader
    return bool(item.targets)


def form_of(item: EvalItem) -> dict[str, Any] | None:
    """What production could force an answer into: a JSON Schema or one of the choices; None where there is neither."""
    if item.grader.get("schema") is not None:
        return {"schema": item.grader["schema"]}
    return {"choices": list(item.choices)} if item.grader["kind"] == "choice" and item.choices else None


def check_grader(grader: Any, where: str) -> None:
    """Refuse an unknown kind or key, a schema that is none, or a pattern that RE2 does not take.

    Raises:
        BadInput: naming the key.
    """
    if not isinstance(grader, dict) or grader.get("kind") not in KINDS:
        found = grader.get("kind") if isinstance(grader, dict) else grader
        raise BadInput(f"{where}: grader kind {found!r}; allowed: {', '.join(KINDS)}")
    _check_values(grader, where)
    if grader.get("schema") is not None:
        _check_schema(grader["schema"], where)
    if grader["kind"] == "instructions":
        check_instructions(grader.get("instructions"), where)
    for key in ("pattern", "lenient") if grader["kind"] == "regex" else ():
        if key == "pattern" or key in grader:
            if not isinstance(grader.get(key), str):
                raise BadInput(f"{where}: grader.{key} is {grader.get(key)!r}; expected an RE2 pattern")
            _rule(grader[key], f"{where}: grader.{key}")
    if grader.get("judge") is not None:
        _check_judge(grader["judge"], where)


def _check_values(grader: dict[str, Any], where: str) -> None:
    if unknown := sorted(set(grader) - set(KEYS)):
        raise BadInput(f"{where}: grader.{unknown[0]}: no such key; allowed: {', '.join(KEYS)}")
    tolerance = grader.get("tolerance", 0.0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1e300:
        raise BadInput(f"{where}: grader.tolerance is {tolerance!r}; expected a number, 0 or more")
    for key in ("marker", "model", "rubric"):
        if key in grader and (not isinstance(grader[key], str) or not grader[key]):
            raise BadInput(f"{where}: grader.{key} is {grader[key]!r}; expected a text")


def _check_judge(judge: Any, where: str) -> None:
    kind = judge.get("kind") if isinstance(judge, dict) else None
    needs = {"rule": "prefer", "reward_model": "path"}.get(str(kind))
    texts = [judge.get(key) for key in ("prefer", "path", "model")] if isinstance(judge, dict) else []
    wrong = kind not in JUDGES or any(not isinstance(text, str | None) for text in texts)
    if wrong or (needs and not judge.get(needs)):
        raise BadInput(
            f'{where}: judge {judge!r}; allowed: {{"kind": "rule", "prefer": "RE2 pattern"}}, '
            '{"kind": "reward_model", "path": "DIR_OR_HUB_NAME"}, {"kind": "model"}'
        )
    if kind == "rule":
        _rule(judge["prefer"], f"{where}: judge.prefer")


@lru_cache(maxsize=256)
def _rule(pattern: str, where: str = "pattern") -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise BadInput(f"{where} {pattern!r}: not an RE2 pattern: {first_line(error)}") from None


def _check_schema(schema: Any, where: str) -> None:
    if not isinstance(schema, dict | bool):
        raise BadInput(f"{where}: grader.schema is a {type(schema).__name__}, not a JSON Schema")
    try:
        _validator(json.dumps(schema)).is_valid({})
    except RecursionError:
        raise BadInput(f"{where}: grader.schema is nested too deeply, or refers to itself without end") from None
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    import jsonschema
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    loaded = json.loads(schema)
    try:
        kind = jsonschema.validators.validator_for(loaded)
        kind.check_schema(loaded)
        _check_parts(loaded, kind.META_SCHEMA["$schema"])
    except Unresolvable as error:
        raise BadInput(f"grader.schema is not a JSON Schema: it holds no {error.ref!r}, to which it refers") from None
    except (jsonschema.SchemaError, TypeError, AttributeError) as error:
        raise BadInput(f"grader.schema is not a JSON Schema: {getattr(error, 'message', error)}") from None
    kind = jsonschema.validators.extend(kind, {"pattern": _matches})
    # An empty registry of our own: the default one fetches what a schema refers to from the network.
    return kind(loaded, registry=Registry())


def _matches(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Exception]:
    """The keyword `pattern` under RE2: Python's own patterns can take forever on what a model wrote."""
    from jsonschema import ValidationError

    if isinstance(value, str) and not _rule(pattern).search(value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _check_parts(schema: Any, dialect: str) -> None:
    """Resolve every reference and compile every pattern now, and not in the middle of a run."""
    from jsonschema_specifications import REGISTRY
    from referencing.jsonschema import DRAFT202012, specification_with

    root = specification_with(dialect, default=DRAFT202012).create_resource(schema)
    left = [(root, REGISTRY.resolver_with_root(root))]
    while left:
        part, resolver = left.pop()
        here = part.contents if isinstance(part.contents, dict) else {}
        if isinstance(here.get("$ref"), str):
            resolver.lookup(here["$ref"])
        if "pattern" in here:
            _rule(here["pattern"], "grader.schema: pattern")
        if "patternProperties" in here:
            raise BadInput("grader.schema: patternProperties is not supported; name the properties")
        left += [(inner, resolver.in_subresource(inner)) for inner in part.subresources()]


# ---------------------------------------------------------------- content, read leniently


def normal(text: str) -> str:
    """NFKC, case folded, white space and punctuation at word borders collapsed to single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " " + " ".join(filter(None, WORD.findall(folded))) + " "


def holds(text: str, value: str) -> bool:
    """Does the value stand in the (normalised) text as whole words (in scripts without spaces: at all)?"""
    if UNSPACED.search(value):
        return normal(value).strip() in text
    return normal(value) in text and bool(normal(value).strip())


def one_content(item: EvalItem, text: str, wanted: Iterable[str], rivals: Iterable[str]) -> bool:
    """The wanted content stands in the text, no rival does, it is not a hedge and not an echo of the prompt."""
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
    """Strict: the number alone, or the grader's `marker` and the number last. Lenient: the last number of the text."""
    golds = [value for target in _golds(item) for value in _numbers(target)[-1:] if math.isfinite(value)]
    tolerance = float(item.grader.get("tolerance", 0.0))
    marker = item.grader.get("marker")

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
    schema = item.grader.get("schema")
    fits = value is not None and (schema is None or _validator(json.dumps(schema)).is_valid(value))
    strict = fits and (not gold or any(_same(value, g) for g in gold))
    said = _embedded(text)
    if (embedded := _loads(said)) is not None and any(_same(embedded, g) for g in gold):
        return strict, True
    rivals = [leaf for option in item.options for leaf in _leaves(_loads(option))]
    lenient = any(all(one_content(item, said, [leaf], rivals) for leaf in _leaves(g)) for g in gold if _leaves(g))
    return strict, lenient


def _regex(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: the pattern is found and, where it has a group and the item a target, captures the target only.

    Lenient: the `lenient` pattern is found, or the target's content stands in the text and no rival's.
    """
    golds = {_nfc(target) for target in _golds(item)}
    found = [m.group(1) if m.re.groups else m.group() for m in _rule(item.grader["pattern"]).finditer(text)]
    captured = {_nfc(value or "") for value in found}
    held = _rule(item.grader["pattern"]).groups and golds
    strict = captured <= golds and bool(captured) if held else bool(captured)
    if "lenient" in item.grader:
        return strict, _rule(item.grader["lenient"]).search(text) is not None
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
    except (ValueError, RecursionError):  # ValueError: also an integer of more digits than Python reads
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
