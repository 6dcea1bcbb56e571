"""Which contexts can be oracle contexts, and another item's context of similar length as their control."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from diagnose.grading.content import contains
from diagnose.grading.known_texts import content
from diagnose.grading.words import UNSPACED, words_of
from diagnose.probes.answers import Ask
from diagnose.probes.prompts import oracle_context
from diagnose.probes.table import Probe
from diagnose.records import EvalItem
from diagnose.text import hash_order

NEAR = 32
"""Contexts of similar length that are considered as a control (hand-set)."""


class Contexts:
    """Every slice's contexts by length, to find a control of similar length quickly."""

    def __init__(self, items: list[EvalItem]) -> None:
        self._by_slices: dict[tuple[str, ...], list[tuple[int, str, str]]] = {}
        for item in items:
            if item.context:
                row = (len(item.context), hash_order(item.context), item.context)
                self._by_slices.setdefault(item.slices, []).append(row)
        for rows in self._by_slices.values():
            rows.sort()

    def other(self, item: EvalItem) -> list[Ask]:
        """Control: another item's context of similar length that does not hold the answer."""
        rows = self._by_slices.get(item.slices, [])
        gold = [content(item, t).casefold() for t in item.targets]
        at = bisect_left(rows, (len(item.context or ""),))
        near = sorted(rows[max(0, at - NEAR) : at + NEAR], key=lambda r: (abs(r[0] - len(item.context or "")), r[1]))
        for _, _, context in near:
            if context != item.context and not any(g in context.casefold() for g in gold):
                return [oracle_context(item, context, Probe.OTHER_CONTEXT)]
        return []


def oracles(items: list[EvalItem]) -> dict[str, str]:
    """id → context, where it can be one: it holds the answer, or what its question alone among the slice's asks about.

    A context that has neither is about something else; failing with it would look like missing skill.
    """
    asked: Counter[tuple[str, str]] = Counter()
    words = {i.id: set(words_of(i.turns[-1][1]).words) for i in items if i.context}
    for item in items:
        asked.update((item.slices[0], word) for word in words.get(item.id, ()))
    sizes = Counter(i.slices[0] for i in items if i.context)
    out = {}
    for item in items:
        if not item.context:
            continue
        own = {w for w in words[item.id] if asked[item.slices[0], w] <= max(1, sizes[item.slices[0]] // 4)}
        # Where words are not set apart by spaces, a question has none of its own that could be looked for.
        if (
            not own
            or UNSPACED.search(item.context)
            or own & set(words_of(item.context).words)
            or any(contains(item.context, content(item, t)) for t in item.targets)
        ):
            out[item.id] = item.context
    return out
