"""Rows → list[EvalItem]. Every error names file:line, and every reference answer must pass its own grader."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from diagnose.config import DataConfig, EvalSetConfig
from diagnose.errors import BadInput
from diagnose.grading.grade import grade, prefers
from diagnose.grading.grader import NEEDS_NO_GOLD, parse_grader
from diagnose.items.demand import check_demand
from diagnose.items.exemplars import RESERVED, example, lenders, reserve
from diagnose.items.rows import read_rows
from diagnose.provenance import source_sha
from diagnose.records import EvalItem, Grader
from diagnose.text import hash_order, printable

TEXT_FIELDS = ("context", "chosen", "rejected", "free_prompt", "statement", "cluster", "group")
LIST_FIELDS = ("choices", "distractors", "paraphrases")
PARSED = ("grader", "judge", "messages", "slice", "annotations", *LIST_FIELDS)
"""Fields that may come as JSON text."""
OWN_FIELDS = {"id", "prompt", "target", *PARSED, *TEXT_FIELDS}
NEAR = {name: name for name in sorted(OWN_FIELDS)} | {"reference": "target"}
"""What somebody may have meant → our field."""
ALIKE = 0.83
"""From this share of matching characters on (difflib), a name is taken for a misspelt field: `traget` is, `context_id`
is not (hand-set)."""


@dataclass(frozen=True)
class EvalSet:
    """The scored items, and the few-shot examples of each slice."""

    items: list[EvalItem]
    exemplars: dict[str, list[EvalItem]]
    """slice → what it is shown: held-out items of its own, or borrowed ones."""
    sha256: str
    lenders: dict[str, str] = field(default_factory=dict)
    """slice that borrows → the slice, or the file of training rows, that its examples come from."""
    misspelt: dict[str, str] = field(default_factory=dict)
    """field that is read by nobody, but looks like one of ours → where it occurs first."""
    format_demand: str | None = None
    """What in the prompts demands a format; items/demand.py."""

    @property
    def slices(self) -> list[str]:
        """Names of all slices, sorted."""
        return sorted({name for item in self.items for name in item.slices})

    @property
    def held_out(self) -> list[EvalItem]:
        """The items of this set that serve as examples, once each."""
        own = (kept for name, kept in self.exemplars.items() if name not in self.lenders)
        return list({e.id: e for kept in own for e in kept}.values())


def read_evalset(config: EvalSetConfig) -> EvalSet:
    """Read, check and split an eval set.

    Raises:
        BadInput: the file, a row or a reference answer is unusable.
    """
    assert config.path is not None
    if unknown := sorted(set(config.columns) - OWN_FIELDS):
        allowed = ", ".join(sorted(OWN_FIELDS))
        raise BadInput(f"evalset.columns.{unknown[0]}: not a field of an eval item; allowed: {allowed}")
    rows = read_rows(config.path, config.columns, config.split, config.subset)
    items: list[EvalItem] = []
    misspelt: dict[str, str] = {}
    for number, (row, where) in enumerate(rows, 1):
        items.append(_item(row, where, number, config))
        for name in _misspelt(row, config):
            misspelt.setdefault(name, where)
    if not items:
        raise BadInput(f"{config.path}: contains no rows; an eval set has one item per row")
    _check_ids(items)
    _check_one_kind(items)
    _check_gold(items)
    check_demand(items, config.format_demand)
    items = _limited(items, config.limit)
    members = by_slice(items)
    own, kept_back = reserve(members)
    lent = lenders(members, own)
    shown = own | {name: own[lender] for name, lender in lent.items()}
    scored = [i for i in items if i.id not in kept_back]
    return EvalSet(scored, shown, _identity(config, items), lent, misspelt, config.format_demand)


def lend_rows(evalset: EvalSet, data: DataConfig) -> EvalSet:
    """Slices to which no slice could lend examples are shown rows of theirs from `data.sft`, if there are any.

    Raises:
        BadInput: the file cannot be read.
    """
    without = set(evalset.slices) - set(evalset.exemplars)
    if not data.sft or not without:
        return evalset
    asked = {i.turns[-1][1] for i in (*evalset.items, *evalset.held_out)}
    found: dict[str, list[EvalItem]] = defaultdict(list)
    for row, where in read_rows(data.sft, data.columns, data.split, data.subset, "data"):
        shown = example(row, where, slice_name(row)) if slice_name(row) in without else None
        if shown and shown.turns[-1][1] not in asked:
            found[slice_name(row)].append(shown)
    rows = {name: sorted(part, key=lambda e: hash_order(e.id))[:RESERVED] for name, part in sorted(found.items())}
    return replace(evalset, exemplars=evalset.exemplars | rows, lenders=evalset.lenders | dict.fromkeys(rows, data.sft))


def by_slice(items: list[EvalItem]) -> dict[str, list[EvalItem]]:
    """slice → its items; an item of several slices appears in each."""
    members: dict[str, list[EvalItem]] = defaultdict(list)
    for item in items:
        for name in item.slices:
            members[name].append(item)
    return members


def hints(evalset: EvalSet) -> list[str]:
    """What is allowed but probably not intended: misspelt fields, and JSON answers graded as text."""
    found = [
        f"hint: {where}: {printable(name)} is not a field of an eval item and is ignored; did you mean {_near(name)}?"
        for name, where in evalset.misspelt.items()
    ]
    # `exact` cannot read a JSON answer's content in another format.
    as_text = [i for i in evalset.items if i.grader.kind == "exact" and i.targets and _is_object(i.targets[0])]
    if as_text:
        names = printable(", ".join(sorted({name for i in as_text for name in i.slices})))
        found.append(
            f"hint: {len(as_text)} targets in {names} are JSON objects graded by the exact grader, which counts "
            "correct content in another format as wrong; evalset.grader.kind=json (or a grader per row) handles both"
        )
    return found


def _misspelt(row: dict[str, Any], config: EvalSetConfig) -> Iterator[str]:
    """Columns that look like a field which the row does not have, and that no column mapping reads."""
    for name in sorted(row.keys() - OWN_FIELDS):
        near = _near(name)
        if near and row.get(near) is None and not any(name in source for source in config.columns.values()):
            yield name


@lru_cache(maxsize=4096)
def _near(name: str) -> str | None:
    close = get_close_matches(name.lower(), NEAR, n=1, cutoff=ALIKE)
    return NEAR[close[0]] if close else None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def slice_name(row: dict[str, Any]) -> str:
    """The slice of a training row: the first if there are several, '' if there is none."""
    value = row.get("slice")
    if isinstance(value, list):
        value = value[0] if value else None
    return "" if value is None else str(value)


def _item(row: dict[str, Any], where: str, number: int, config: EvalSetConfig) -> EvalItem:
    row = row | {name: _parsed(row[name], name, where) for name in PARSED if isinstance(row.get(name), str)}
    grader = parse_grader(_with_judge(row, where, config), where)
    for name in TEXT_FIELDS:
        if not isinstance(row.get(name), str | None):
            raise BadInput(f"{where}: {name} is a {type(row[name]).__name__}; expected text")
    optional: dict[str, Any] = {name: row.get(name) for name in TEXT_FIELDS}
    optional |= {name: _texts(None if row.get(name) == "" else row.get(name), name, where) for name in LIST_FIELDS}
    item = EvalItem(
        id=_id(row.get("id"), number, where),
        slices=tuple(dict.fromkeys(_texts("all" if row.get("slice") is None else row["slice"], "slice", where))),
        turns=_turns(row, where),
        targets=_texts(_several(row.get("target", ()), grader), "target", where),
        grader=grader,
        chat=row.get("messages") is not None,
        annotations=_annotations(row.get("annotations"), where),
        where=where,
        **optional,
    )
    goldless = grader.kind in NEEDS_NO_GOLD or (grader.kind == "json" and grader.schema)
    if not item.targets and not item.chosen and not goldless:
        raise BadInput(f"{where}: neither target nor chosen; the {grader.kind} grader needs one")
    if not item.slices:
        raise BadInput(f"{where}: slice is an empty list")
    for name, texts in (("target", item.targets), ("slice", item.slices), ("distractors", item.distractors)):
        if any(not text.strip() for text in texts):
            found = "is empty" if len(texts) == 1 else "contains an empty string"
            raise BadInput(f"{where}: {name} {found}; expected non-empty text")
    if item.chosen and not item.chosen.strip():
        raise BadInput(f"{where}: chosen is empty")
    if item.free_prompt is not None and not item.free_prompt.strip():
        raise BadInput(f"{where}: free_prompt is empty; expected the prompt without its format demand")
    if both := set(item.targets) & set(item.distractors):
        raise BadInput(f"{where}: {min(both)!r} is both target and distractor; a distractor must be a wrong answer")
    return item


def _with_judge(row: dict[str, Any], where: str, config: EvalSetConfig) -> Any:
    """The description of a row's grader; a `judge` beside it belongs into it."""
    own = row.get("grader")
    grader, judge = own or config.grader, row.get("judge")
    if judge is None or not isinstance(grader, dict):
        return grader
    if own and own.get("judge") is not None and own["judge"] != judge:
        raise BadInput(f"{where}: judge {judge!r} and grader.judge {own['judge']!r} differ; give one of them")
    return grader | {"judge": judge}


def _id(value: Any, number: int, where: str) -> str:
    if value is None:
        return f"line-{number}"
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise BadInput(f"{where}: id is {value!r}; expected a string or a number")
    return str(value)


def _turns(row: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    if row.get("messages") is not None:
        messages = row["messages"]
        fine = isinstance(messages, list) and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
        if not fine or not messages or messages[-1]["role"] == "assistant" or not messages[-1]["content"].strip():
            raise BadInput(f'{where}: messages must be [{{"role": …, "content": …}}, …], ending before the answer')
        return tuple((m["role"], m["content"]) for m in messages)
    prompt = row.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise BadInput(f"{where}: prompt is a {type(prompt).__name__}; expected text")
    if prompt is None or not prompt.strip():
        raise BadInput(f"{where}: no prompt and no messages; found: {', '.join(row)}")
    return (("user", prompt),)


def _annotations(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    labels = [] if value is None else value
    if not isinstance(labels, list) or not all(
        isinstance(v, dict) and {"annotator", "label"} <= set(v) for v in labels
    ):
        raise BadInput(f'{where}: annotations must be [{{"annotator": "a1", "label": "…"}}, …]')
    return tuple((str(v["annotator"]), str(v["label"])) for v in labels if v["label"] is not None)


def _parsed(text: str, name: str, where: str) -> Any:
    """CSV cells and templates give text; lists and objects in them are written as JSON."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if name == "slice":
            return text
        raise BadInput(f"{where}: {name} is not JSON: {error}") from None


def _several(target: Any, grader: Grader) -> Any:
    """A target that is a JSON list of strings means several targets, unless the grader is `json`."""
    if not isinstance(target, str) or grader.kind == "json" or not target.startswith('["'):
        return target
    try:
        return json.loads(target)
    except (ValueError, RecursionError):
        return target


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if any(isinstance(v, dict | list | bool) or v is None for v in values):
        raise BadInput(f"{where}: {name} contains a {type(value).__name__}; expected text or a list of texts")
    return tuple(str(v) for v in values)


def _check_ids(items: Iterable[EvalItem]) -> None:
    seen: dict[str, str] = {}
    for item in items:
        if item.id in seen:
            raise BadInput(f"{item.where}: duplicate id {item.id!r} (also at {seen[item.id]}); ids must be unique")
        seen[item.id] = item.where


def _check_one_kind(items: list[EvalItem]) -> None:
    """Chat rows and plain rows would be prompted differently."""
    first = items[0]
    other = next((i for i in items if i.chat != first.chat), None)
    if other:
        names = {True: "messages", False: "prompt"}
        raise BadInput(
            f"{other.where}: has {names[other.chat]}, while {first.where} has {names[first.chat]}; "
            "an eval set uses one or the other"
        )


def _check_gold(items: list[EvalItem]) -> None:
    """Otherwise a grader bug would be reported as a gap of the model."""
    failed = []
    for item in items:
        # A regex target is what the pattern captures, not an answer.
        gold = [*(item.targets if item.grader.kind != "regex" else ()), *([item.chosen] if item.chosen else [])]
        by_rule = item.graded and item.grader.kind != "judge"
        failed += [(item, text) for text in gold if by_rule and not grade(item, text).strict]
        if item.chosen and prefers(item, item.chosen) is False:
            rule = item.judge.prefer if item.judge else None
            raise BadInput(f"{item.where} ({item.id}): chosen fails its own rule {rule!r}")
    if failed:
        shown = "\n".join(f"  {item.where} ({item.id}): {text[:80]!r}" for item, text in failed[:5])
        more = f"\n  … and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise BadInput(f"reference answers that fail their own {failed[0][0].grader.kind} grader:\n{shown}{more}")


def _limited(items: list[EvalItem], limit: int | None) -> list[EvalItem]:
    """At most `limit` items per slice, picked by hash, because files are often sorted by label."""
    if limit is None:
        return items
    taken: dict[str, int] = defaultdict(int)
    kept = set()
    for item in sorted(items, key=lambda i: hash_order(i.id)):
        if all(taken[name] < limit for name in item.slices):
            kept.add(item.id)
            for name in item.slices:
                taken[name] += 1
    return [item for item in items if item.id in kept]


def _identity(config: EvalSetConfig, items: list[EvalItem]) -> str:
    """Changes when the rows, their mapping or the default grader change."""
    parts = [source_sha(Path(str(config.path)), items), config.columns, config.grader, config.limit]
    if config.format_demand is not None:  # else a set keeps the identity that it had before there was this setting
        parts.append(config.format_demand)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
