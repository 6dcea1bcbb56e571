"""The demand for a format inside a prompt: found, and taken out of it for the twin that demands none."""

from __future__ import annotations

from collections.abc import Sequence

from diagnose.errors import BadInput
from diagnose.grading.grader import compiled
from diagnose.records import EvalItem, Turns


def without_demand(item: EvalItem, demand: str | None) -> Turns | None:
    """The conversation without its format demand; None where none is known, or where nothing but it is asked.

    The last turn is the row's `free_prompt`, if it has one. Elsewhere `demand` is taken out of it, and out of the
    system turn in any case.

    Args:
        demand: evalset.format_demand: removed where it occurs word for word, else where it matches as an RE2 pattern.
    """
    *before, (role, last) = item.turns
    first = [(r, removed(demand, text) if r == "system" else text) for r, text in before]
    last = removed(demand, last) if item.free_prompt is None else item.free_prompt
    turns = tuple((r, text) for r, text in (*first, (role, last)) if text.strip())
    return turns if last.strip() and turns != item.turns else None


def removed(demand: str | None, text: str) -> str:
    """The text without the demand and the blanks around it."""
    kept, at = "", 0
    for start, end in _found(demand, text):
        kept = _joined(kept, text[at:start])
        at = end
    return _joined(kept, text[at:]).strip() if at else text


def _joined(a: str, b: str) -> str:
    if not a or not b:
        return a or b
    a, b = a.rstrip(" \t"), b.lstrip(" \t")
    return a + b if a.endswith("\n") or b.startswith("\n") else f"{a} {b}".rstrip(" ")


def _found(demand: str | None, text: str) -> list[tuple[int, int]]:
    if demand is None:
        return []
    if demand in text:
        starts = [len(part) for part in text.split(demand)[:-1]]
        at, out = 0, []
        for length in starts:
            out.append((at + length, at + length + len(demand)))
            at = out[-1][1]
        return out
    return [m.span() for m in compiled(demand, "evalset.format_demand").finditer(text) if m.end() > m.start()]


def check_demand(items: Sequence[EvalItem], demand: str | None) -> None:
    """Refuse a demand that cannot be searched for, or that is in no prompt.

    Raises:
        BadInput: naming the first line in which it is not found word for word.
    """
    if demand is None:
        return
    if not demand.strip():
        raise BadInput("evalset.format_demand: is empty; expected a sentence of the prompts, or an RE2 pattern")
    other = next((i for i in items if not any(demand in text for _, text in i.turns)), None)
    if other is not None:
        compiled(demand, f"{other.where}: evalset.format_demand")
    if all(without_demand(i, demand) is None for i in items if i.free_prompt is None):
        raise BadInput(
            f"evalset.format_demand {demand!r}: in no prompt, or nothing else is; first prompt ({items[0].where}): "
            f"{items[0].turns[-1][1][:80]!r}"
        )
