"""JSONL → list[EvalItem]; every complaint names file:line, and every gold answer must pass its own grader."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnose.config import EvalSetConfig
from diagnose.errors import BadInput
from diagnose.grade import check_grader, grade, prefers
from diagnose.provenance import file_sha
from diagnose.records import EvalItem

TEXT_FIELDS = ("context", "chosen", "rejected", "statement", "cluster", "group")
LIST_FIELDS = ("choices", "distractors", "paraphrases")
OWN_FIELDS = {"id", "slice", "prompt", "messages", "target", "grader", *TEXT_FIELDS, *LIST_FIELDS}
RESERVED = 4
"""Items per slice kept back as exemplars, never scored."""
RESERVE_FROM = 12
"""Smaller slices keep all their items; `shaped` is then missing."""


@dataclass(frozen=True)
class EvalSet:
    """The items that are scored, and per slice the exemplars that are not."""

    items: list[EvalItem]
    exemplars: dict[str, list[EvalItem]]
    sha256: str

    @property
    def slices(self) -> list[str]:
        """Names of all slices, sorted."""
        return sorted({name for item in self.items for name in item.slices})


def read_evalset(config: EvalSetConfig) -> EvalSet:
    """Read, check and split an eval set.

    Raises:
        BadInput: the file, a row or a gold answer is not usable.
    """
    assert config.path is not None
    path = Path(config.path)
    items = [_item(row, where, config) for row, where in read_rows(path, config.columns)]
    if not items:
        raise BadInput(f"{path}: holds no rows; an eval set has one JSON object a line")
    _check_ids(items)
    _check_gold(items)
    items = _limited(items, config.limit)
    exemplars = _reserve(items)
    kept_back = {item.id for kept in exemplars.values() for item in kept}
    return EvalSet([i for i in items if i.id not in kept_back], exemplars, _identity(path, config))


def hints(evalset: EvalSet) -> list[str]:
    """What is allowed but probably not meant: `exact` cannot see a JSON answer's content in another form."""
    as_text = [i for i in evalset.items if i.grader["kind"] == "exact" and i.targets and _is_object(i.targets[0])]
    if not as_text:
        return []
    names = ", ".join(sorted({name for i in as_text for name in i.slices}))
    return [
        f"hint: {len(as_text)} targets in {names} are JSON objects read by the exact grader, which takes right content "
        "in another form for wrong; evalset.grader.kind=json (or a grader per row) reads both"
    ]


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def read_rows(path: Path, columns: dict[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of a JSONL file with their file:line, columns mapped.

    Args:
        columns: our field → a column name, or a Jinja template over the row's columns.
    """
    if not path.is_file():
        found = "is a directory" if path.is_dir() else "does not exist"
        raise BadInput(f"{path}: {found}; expected a JSONL file")
    rename = {ours: _column(ours, source) for ours, source in columns.items()}
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, 1):
            where = f"{path}:{number}"
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise BadInput(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
            if not text:
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise BadInput(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
            if not isinstance(row, dict):
                raise BadInput(f"{where}: a {type(row).__name__}; expected a JSON object")
            yield row | {ours: source(row, where) for ours, source in rename.items()}, where


def slice_name(row: dict[str, Any]) -> str:
    """The slice of a training row; '' where it has none; the first of several."""
    value = row.get("slice")
    if isinstance(value, list):
        value = value[0] if value else None
    return "" if value is None else str(value)


def _column(ours: str, source: str) -> Callable[[dict[str, Any], str], Any]:
    """A reader of one mapped field."""
    if "{{" not in source and "{%" not in source:

        def read(row: dict[str, Any], where: str) -> Any:
            if source not in row:
                raise BadInput(f"{where}: no column {source!r} (mapped to {ours}); found: {', '.join(row)}")
            return row[source]

        return read

    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        template = ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(source)
    except TemplateError as error:
        raise BadInput(f"columns.{ours}: not a Jinja template: {error}") from None

    def fill(row: dict[str, Any], where: str) -> str:
        try:
            return template.render(row)
        except TemplateError as error:
            raise BadInput(f"{where}: columns.{ours}: {error}; found: {', '.join(row)}") from None

    return fill


def _item(row: dict[str, Any], where: str, config: EvalSetConfig) -> EvalItem:
    grader = row.get("grader") or config.grader
    check_grader(grader, where)
    for name in TEXT_FIELDS:
        if not isinstance(row.get(name), str | None):
            raise BadInput(f"{where}: {name} is a {type(row[name]).__name__}; expected text")
    optional: dict[str, Any] = {name: row.get(name) for name in TEXT_FIELDS}
    optional |= {name: _texts(row.get(name, ()), name, where) for name in LIST_FIELDS}
    item = EvalItem(
        id=str(row["id"] if row.get("id") is not None else f"line-{where.rsplit(':', 1)[1]}"),
        slices=_texts("all" if row.get("slice") is None else row["slice"], "slice", where),
        turns=_turns(row, where),
        targets=_texts(row.get("target", ()), "target", where),
        grader=grader,
        where=where,
        extra={key: value for key, value in row.items() if key not in OWN_FIELDS},
        **optional,
    )
    if not item.targets and not item.chosen and not (grader["kind"] == "json" and grader.get("schema")):
        raise BadInput(f"{where}: neither target nor chosen; the {grader['kind']} grader needs one")
    if any(not text.strip() for text in item.targets):
        raise BadInput(f"{where}: target is empty")
    if not item.slices:
        raise BadInput(f"{where}: slice is an empty list")
    return item


def _turns(row: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    if row.get("messages") is not None:
        messages = row["messages"]
        fine = isinstance(messages, list) and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
        if not fine or not messages or messages[-1]["role"] == "assistant":
            raise BadInput(f'{where}: messages must be [{{"role": …, "content": …}}, …] that ends before the answer')
        return tuple((m["role"], m["content"]) for m in messages)
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput(f"{where}: no prompt and no messages; found: {', '.join(row)}")
    return (("user", prompt),)


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if any(isinstance(v, dict | list | bool) or v is None for v in values):
        raise BadInput(f"{where}: {name} holds a {type(value).__name__}; expected text or a list of texts")
    return tuple(str(v) for v in values)


def _check_ids(items: Iterable[EvalItem]) -> None:
    seen: dict[str, str] = {}
    for item in items:
        if item.id in seen:
            raise BadInput(f"{item.where}: id {item.id!r} stands at {seen[item.id]} too; ids must be unique")
        seen[item.id] = item.where


def _check_gold(items: list[EvalItem]) -> None:
    """Otherwise the grader's bug is reported as the model's gap."""
    failed = []
    for item in items:
        gold = [*item.targets, *([item.chosen] if item.chosen else [])]
        failed += [(item, text) for text in gold if grade(item, text).strict is False]
        if item.chosen and prefers(item, item.chosen) is False:
            raise BadInput(f"{item.where} ({item.id}): chosen fails its own rule {item.grader['judge']['prefer']!r}")
    if failed:
        shown = "\n".join(f"  {item.where} ({item.id}): {text[:80]!r}" for item, text in failed[:5])
        more = f"\n  … and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise BadInput(f"gold answers that fail their own {failed[0][0].grader['kind']} grader:\n{shown}{more}")


def _limited(items: list[EvalItem], limit: int | None) -> list[EvalItem]:
    """At most `limit` items of every slice, drawn by hash: files are often sorted by label."""
    if limit is None:
        return items
    taken: dict[str, int] = defaultdict(int)
    kept = set()
    for item in sorted(items, key=_hash):
        if all(taken[name] < limit for name in item.slices):
            kept.add(item.id)
            for name in item.slices:
                taken[name] += 1
    return [item for item in items if item.id in kept]


def _hash(item: EvalItem) -> str:
    """An order that depends neither on the file's order nor on the seed."""
    return hashlib.sha256(item.id.encode()).hexdigest()


def _reserve(items: list[EvalItem]) -> dict[str, list[EvalItem]]:
    """Per slice, the items of smallest hash; no scored item shares a cluster with them.

    The choice does not depend on the seed, so that every run on this file is measured with the same ruler.
    """
    reserved: dict[str, list[EvalItem]] = {}
    for name in sorted({s for item in items for s in item.slices}):
        members = [i for i in items if name in i.slices and i.wanted and i.cluster is None]
        members.sort(key=_hash)
        if len(members) >= RESERVE_FROM:
            reserved[name] = members[:RESERVED]
    return reserved


def _identity(path: Path, config: EvalSetConfig) -> str:
    """Changes when the rows, their mapping or the default grader change."""
    parts = [file_sha(path), config.columns, config.grader, config.limit]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
