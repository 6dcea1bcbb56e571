"""Training rows as eval items: what can be said of an answer to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diagnose.errors import BadInput
from diagnose.grading.grade import grade, prefers
from diagnose.models.base import lay_out
from diagnose.records import EvalItem, Grader
from train.data import ANSWERS, Rows
from train.rows import Row, said


def gradable(row: Row, graders: dict[str, Grader]) -> EvalItem | None:
    """A row as an eval item with its slice's grader; None if nothing could be said of an answer to it."""
    if (grader := graders.get(row["slice"])) is None or not row["prompt"]:
        return None
    turns = tuple((turn["role"], turn["content"]) for turn in row["prompt"])
    item = EvalItem(id=lay_out(turns), slices=(row["slice"],), turns=turns, targets=(), grader=grader, where="")
    if row.get("target") is not None and grader.kind != "judge":
        return replace(item, targets=_targets(row["target"]))
    answer = next((said(row[name]) for name in ("completion", "chosen") if name in row), None)
    if answer is not None and grader.kind != "judge":
        named = replace(item, targets=(answer,))
        # One preferred answer of many, in many words, is no reference to compare another with word by word.
        if grade(named, answer).strict and ("completion" in row or grader.judge is None):
            return named
    return item if grader.judge else None


def _targets(target: Any) -> tuple[str, ...]:
    return tuple(map(str, target)) if isinstance(target, list) else (str(target),)


def graded(item: EvalItem, text: str) -> float:
    """1 if an answer is right by the strict grader and the preference rule, as far as the row has them; else 0."""
    right = bool(grade(item, text).strict) if item.targets else True
    return float(right and prefers(item, text) is not False)


def with_references(rows: Rows, graders: dict[str, Grader]) -> Rows:
    """The rows whose answers the graders can tell right from wrong.

    Raises:
        BadInput: there are none.
    """
    found = [row for row in rows.rows if (item := gradable(row, graders)) and (item.targets or item.judge)]
    if lost := len(rows.rows) - len(found):
        rows.dropped["no reference that its slice's grader accepts"] += lost
    if not found:
        raise BadInput(f"{rows.path}: no row has a reference that its slice's grader accepts; rlvr needs some")
    return replace(rows, rows=found)


def refuse_tools(data: dict[str, Rows]) -> None:
    """TRL's RL trainers and reward models see neither the tools of a row nor the calls in an answer.

    Raises:
        BadInput: naming the first row that has some.
    """
    for rows in data.values():
        for row in rows.rows:
            answers = [row[name] for name in ANSWERS if name in row]  # type: ignore[literal-required]
            if row.get("tools") or any(answer.get("tool_calls") for answer in answers):
                raise BadInput(f"{row['where']}: calls tools, which reinforcement learning does not support here")
