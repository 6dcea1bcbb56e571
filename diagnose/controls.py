"""What the graders themselves get wrong, measured on answers of known truth before any slice is judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from diagnose.grade import grade, separates_content
from diagnose.probes import content
from diagnose.records import EvalItem
from diagnose.verdicts import rate

PER_KIND = 200


def grader_controls(items: list[EvalItem]) -> dict[str, dict[str, Any]]:
    """Sensitivity and specificity of the lenient reading per grader kind, each with n and its 95 % interval.

    Sensitivity: gold content in five wrong forms is read as there. Specificity: same-type wrong answers, a list of
    every option, a hedge between two answers and an echo of the prompt are not.
    """
    by_kind: dict[str, list[EvalItem]] = defaultdict(list)
    for item in items:
        if separates_content(item) and item.targets:
            by_kind[item.grader["kind"]].append(item)
    out = {}
    for kind, members in sorted(by_kind.items()):
        right = [bool(grade(i, text).lenient) for i in members[:PER_KIND] for text in _right_in_wrong_form(i)]
        wrong = [not grade(i, text).lenient for i in members[:PER_KIND] for text in _wrong(i)]
        out[kind] = {"sensitivity": _shown(right), "specificity": _shown(wrong)}
    return out


def _right_in_wrong_form(item: EvalItem) -> Iterator[str]:
    gold = content(item, item.targets[0])
    yield f"The answer is {gold}."
    yield f'"{gold}"'
    yield f"Answer: {gold}\n"
    yield gold.lower()
    yield f"**{gold}**"


def _wrong(item: EvalItem) -> Iterator[str]:
    gold, options = content(item, item.targets[0]), [content(item, o) for o in item.options]
    yield from options[:3]
    if options:
        yield ", ".join([gold, *options])
        yield f"{gold} or {options[0]}"
    yield item.turns[-1][1]


def _shown(values: list[bool]) -> dict[str, Any]:
    found = rate(sum(values), len(values))
    share = found.k / found.n if found.n else None
    return {"rate": share, "n": found.n, "low": found.low, "high": found.high}
