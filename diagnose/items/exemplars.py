"""Few-shot examples: held out of large slices; small slices are shown those of another slice, or training rows."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from diagnose.records import EvalItem, Grader, Turns
from diagnose.text import hash_order

RESERVED = 4
"""Items per slice held out as few-shot examples, never scored (hand-set)."""
RESERVE_FROM = 24
"""Smaller slices keep all their items and borrow examples: four of 24 are a sixth (hand-set)."""
Members = dict[str, list[EvalItem]]
"""slice → items."""


def reserve(members: Members) -> tuple[Members, set[str]]:
    """The few-shot examples of each slice, and the ids of all unscored items: these and the rest of their clusters.

    Small clusters first, then by hash. The choice does not depend on the seed, so every run on this file scores the
    same items. A slice whose clusters are too large to hold out four items reserves none.
    """
    clusters: dict[str, dict[str, EvalItem]] = defaultdict(dict)
    for item in (i for part in members.values() for i in part):
        clusters[_source(item)][item.id] = item
    reserved: Members = {}
    kept_back: set[str] = set()
    for name in sorted(members):
        able = sorted(
            (i for i in members[name] if i.wanted), key=lambda i: (len(clusters[_source(i)]), hash_order(i.id))
        )
        chosen = list({_source(i): i for i in reversed(able)}.values())[::-1][:RESERVED]
        lost = {item_id for e in chosen for item_id in clusters[_source(e)]}
        spent = sum(i.id in lost for i in members[name])
        if len(able) >= RESERVE_FROM and len(chosen) == RESERVED and spent <= max(RESERVED, len(members[name]) // 6):
            reserved[name] = chosen
            kept_back |= lost
    return reserved, kept_back


def lenders(members: Members, reserved: Members) -> dict[str, str]:
    """Slice without examples of its own → the largest slice that has some and wants answers of the same format."""
    ordered = sorted(reserved, key=lambda name: (-len(members[name]), name))
    wanted = {name: _formats(part) for name, part in members.items()}
    found = {
        name: next((lender for lender in ordered if wanted[name] & _formats(reserved[lender])), None)
        for name in members
        if name not in reserved
    }
    return {name: lender for name, lender in found.items() if lender is not None}


def _formats(items: list[EvalItem]) -> set[str]:
    """The formats of the wanted answers: the grader's kind; of JSON also the schema, or the keys of a target."""
    return {f"{i.grader.kind} {_json_format(i) if i.grader.kind == 'json' else ''}" for i in items}


def _json_format(item: EvalItem) -> str:
    if item.grader.schema is not None or not item.targets:
        return json.dumps(item.grader.schema, sort_keys=True)
    target = json.loads(item.targets[0])
    return json.dumps(sorted(target) if isinstance(target, dict) else type(target).__name__)


def _source(item: EvalItem) -> str:
    """The cluster of an item; an item without one is its own cluster."""
    return f"cluster {item.cluster}" if item.cluster is not None else f"item {item.id}"


def example(row: dict[str, Any], where: str, name: str) -> EvalItem | None:
    """An SFT row as a few-shot example of a slice; None: it has no prompt and completion that could be shown."""
    turns = _turns(row.get("messages"), "") or (
        *_turns(row.get("prompt"), "user"),
        *_turns(row.get("completion"), "assistant"),
    )
    if len(turns) < 2 or turns[-1][0] != "assistant" or not turns[-1][1].strip():
        return None
    # Nobody grades an example, so any grader will do.
    return EvalItem(id=where, slices=(name,), turns=turns[:-1], targets=(turns[-1][1],), grader=Grader(), where=where)


def _turns(value: Any, role: str) -> Turns:
    if isinstance(value, str) and role:
        return ((role, value),)
    if not isinstance(value, list) or not all(isinstance(m, dict) for m in value):
        return ()
    return tuple((str(m.get("role")), str(m.get("content"))) for m in value)
