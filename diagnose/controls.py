"""What the graders themselves get wrong, measured on answers of known truth before any slice is judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from diagnose.answers import AnswerLog
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
        out[kind] = _shown("sensitivity", right) | _shown("specificity", wrong)
    return out


def margin_controls(items: list[EvalItem], log: AnswerLog) -> dict[str, Any]:
    """How often the base ranks `chosen` above `rejected` by log-probability per token, in all and by length.

    The terciles of the difference in length are the placebo: a margin that lives in one of them is about length.
    Empty where no item has a pair.
    """
    margins = []
    for item in items:
        scored = [a for a in log.of_item("margins", item.id) if a.logprob is not None and a.tokens]
        if len(scored) >= 2:
            chosen, rejected = scored[:2]
            gap = (chosen.logprob or 0.0) / chosen.tokens - (rejected.logprob or 0.0) / rejected.tokens
            margins.append((chosen.tokens - rejected.tokens, gap > 0))
    if not margins:
        return {}
    margins.sort(key=lambda m: m[0])
    third = max(1, len(margins) // 3)
    terciles = {"shorter": margins[:third], "middle": margins[third:-third], "longer": margins[-third:]}
    by_length = {name: _shown("rank_accuracy", [right for _, right in part]) for name, part in terciles.items()}
    return _shown("rank_accuracy", [right for _, right in margins]) | {"by_length": by_length}


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


def _shown(name: str, values: list[bool]) -> dict[str, Any]:
    found = rate(sum(values), len(values))
    share = found.k / found.n if found.n else None
    return {name: share, f"{name}_n": found.n, f"{name}_interval95": [found.low, found.high]}
