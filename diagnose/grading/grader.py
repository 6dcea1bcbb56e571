"""Graders as described in rows: parsed and checked, with their patterns and schemas compiled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, get_args

from diagnose.errors import BadInput
from diagnose.grading.ifeval import check_instructions
from diagnose.records import Grader, GraderKind, Judge, JudgeKind
from diagnose.text import first_line

KINDS = get_args(GraderKind)
JUDGES = get_args(JudgeKind)
NEEDS_NO_GOLD = ("regex", "instructions", "judge")
KEYS = tuple(f.name for f in fields(Grader))
DEFINITIONS = ("$defs", "definitions")
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
MAX_PARTS = 10_000
"""Of a JSON schema whose definitions double 25 times a validator would check 33 million parts of every answer."""


def parse_grader(grader: Any, where: str) -> Grader:
    """The grader that a row or the configuration describes.

    Raises:
        BadInput: an unknown kind or key, an invalid schema, or a pattern that RE2 rejects; naming the key.
    """
    if isinstance(grader, dict):  # Parquet gives every row all keys of a column, null where the row has none
        grader = {key: value for key, value in grader.items() if value is not None}
    kind = grader.get("kind") if isinstance(grader, dict) else grader
    if not isinstance(grader, dict) or kind not in KINDS:
        raise BadInput(f"{where}: grader kind {kind!r}; allowed: {', '.join(KINDS)}")
    _check_values(grader, where)
    if "schema" in grader:
        _check_schema(grader["schema"], where)
    if kind == "instructions":
        check_instructions(grader.get("instructions"), where)
    for key in ("pattern", "lenient") if kind == "regex" else ():
        if key == "pattern" or key in grader:
            if not isinstance(grader.get(key), str):
                raise BadInput(f"{where}: grader.{key} is {grader.get(key)!r}; expected an RE2 pattern")
            compiled(grader[key], f"{where}: grader.{key}")
    judge = {"judge": _parse_judge(grader["judge"], where)} if "judge" in grader else {}
    return Grader(**grader | judge)


def _check_values(grader: dict[str, Any], where: str) -> None:
    if unknown := sorted(set(grader) - set(KEYS)):
        raise BadInput(f"{where}: grader.{unknown[0]}: unknown key; allowed: {', '.join(KEYS)}")
    tolerance = grader.get("tolerance", 0.0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1e300:
        raise BadInput(f"{where}: grader.tolerance is {tolerance!r}; expected a number, 0 or more")
    for key in ("marker", "model", "rubric"):
        if key in grader and (not isinstance(grader[key], str) or not grader[key]):
            raise BadInput(f"{where}: grader.{key} is {grader[key]!r}; expected a string")


def _parse_judge(judge: Any, where: str) -> Judge:
    known: dict[str, Any] = (
        {key: judge.get(key) for key in ("kind", "prefer", "path", "model")} if isinstance(judge, dict) else {}
    )
    kind = known.get("kind")
    needs = {"rule": "prefer", "reward_model": "path"}.get(str(kind))
    wrong = kind not in JUDGES or any(not isinstance(text, str | None) for text in known.values())
    if wrong or (needs and not known[needs]):
        raise BadInput(
            f'{where}: judge {judge!r}; allowed: {{"kind": "rule", "prefer": "RE2 pattern"}}, '
            '{"kind": "reward_model", "path": "DIR_OR_HUB_NAME"}, {"kind": "model"}'
        )
    if kind == "rule":
        compiled(known["prefer"], f"{where}: judge.prefer")
    return Judge(**known)


@lru_cache(maxsize=256)
def compiled(pattern: str, where: str = "pattern") -> Any:
    """A user's pattern compiled with RE2, which matches in linear time."""
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
        validator(json.dumps(schema)).is_valid({})
    except RecursionError:
        raise BadInput(f"{where}: grader.schema is nested too deeply or endlessly recursive") from None
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


@lru_cache(maxsize=256)
def validator(schema: str) -> Validator:
    """A validator for a JSON Schema (given as JSON text); it never uses the network."""
    import jsonschema
    from referencing import Registry

    loaded = json.loads(schema)
    try:
        kind = jsonschema.validators.validator_for(loaded)
        kind.check_schema(loaded)
        _check_parts(loaded, kind.META_SCHEMA["$schema"])
    except (jsonschema.SchemaError, TypeError, AttributeError) as error:
        raise BadInput(f"grader.schema is not a JSON Schema: {getattr(error, 'message', error)}") from None
    steps = Steps()
    counted = {name: steps.counting(check) for name, check in kind.VALIDATORS.items() if name in REFERENCES}
    kind = jsonschema.validators.extend(kind, {"pattern": _matches, **counted})
    # An explicit empty registry: the default one fetches references over the network.
    return Validator(kind(loaded, registry=Registry()), steps)


class Steps:
    """References followed for one value: those of a schema that contains itself can grow without end."""

    taken = 0

    def counting(self, check: Any) -> Any:
        """The check of a keyword, which counts itself.

        Raises:
            RecursionError: more than MAX_PARTS.
        """

        def counted(*arguments: Any) -> Any:
            self.taken += 1
            if self.taken > MAX_PARTS:
                raise RecursionError
            return check(*arguments)

        return counted


@dataclass(frozen=True)
class Validator:
    """A JSON Schema that can be asked about values."""

    schema: Any
    steps: Steps

    def is_valid(self, value: Any) -> bool:
        """Does the value fit?

        Raises:
            RecursionError: the value is nested too deeply for this schema to be checked.
        """
        self.steps.taken = 0
        fits: bool = self.schema.is_valid(value)
        return fits


def _matches(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Exception]:
    """The keyword `pattern` with RE2: Python's `re` can take forever on model output."""
    from jsonschema import ValidationError

    if isinstance(value, str) and not compiled(pattern).search(value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _check_parts(schema: Any, dialect: str) -> None:
    """Resolve every reference, compile every pattern and count what has to be checked, now and not in a run."""
    from jsonschema_specifications import REGISTRY
    from referencing.jsonschema import DRAFT202012, specification_with

    draft = specification_with(dialect, default=DRAFT202012)
    root = draft.create_resource(schema)
    if _size(root, REGISTRY.resolver_with_root(root), draft, {}) > MAX_PARTS:
        raise BadInput(f"grader.schema: with its references written out it has more than {MAX_PARTS} parts")


def _size(part: Any, resolver: Any, draft: Any, sizes: dict[int, int]) -> int:
    """How many parts a part has with all references written out; one that contains itself counts once."""
    from referencing.exceptions import Unresolvable

    here = part.contents if isinstance(part.contents, dict) else {}
    if id(here) in sizes:
        return sizes[id(here)]
    sizes[id(here)] = 1
    if "pattern" in here:
        compiled(here["pattern"], "grader.schema: pattern")
    if "patternProperties" in here:
        raise BadInput("grader.schema: patternProperties is not supported; list the properties by name")
    # What is only defined here is walked for its patterns, and counted where it is used.
    defined = {id(sub) for name in DEFINITIONS for sub in (here.get(name) or {}).values()}
    sizes[id(here)] += sum(
        _size(sub, resolver.in_subresource(sub), draft, sizes) * (id(sub.contents) not in defined)
        for sub in part.subresources()
    )
    for keyword in REFERENCES:
        if isinstance(here.get(keyword), str):
            try:
                found = resolver.lookup(here[keyword])
            except Unresolvable:
                what = f"unresolvable reference {here[keyword]!r}"
                raise BadInput(f"grader.schema is not a JSON Schema: {what}") from None
            sizes[id(here)] += _size(draft.create_resource(found.contents), found.resolver, draft, sizes)
    return sizes[id(here)]
