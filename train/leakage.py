"""Training rows that would teach what the eval set asks: the comparison afterwards could not tell learning from
having seen the answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import regex

from diagnose.records import EvalItem
from train.rows import Row, said

GRAM = 13
"""Words in a row that are no coincidence (arXiv 2005.14165, appendix C)."""
LEAST = 6
"""An eval prompt of fewer words is found only where it is a whole turn: inside another text it may be anything
(hand-set)."""
WORD = regex.compile(r"\w+|[^\w\s.,;:!?'\"“”‘’()\[\]]")
"""Words, and signs that are no punctuation: 2 + 3 and 2 - 3 are two questions."""


class Leakage:
    """What the eval set asks, and whether a row holds some of it."""

    def __init__(self, items: Collection[EvalItem]) -> None:
        asked = {item.id: item.turns[-1][1] for item in items}
        self.exact = set(asked.values())
        self.turns = {_words(text) for text in self.exact}
        self.clusters = {item.cluster for item in items if item.cluster is not None}
        self.grams = _own_grams(items)
        self.lengths = sorted({len(gram) for gram in self.grams})

    def of(self, row: Row) -> str | None:
        """Why a row is left out; None: it shares nothing with the eval set."""
        texts = [said(message) for message in row["prompt"] if message["role"] == "user"]
        if "text" in row:
            texts.append(row["text"])
        if texts and texts[-1] in self.exact:
            return "prompt is in the eval set"
        if row.get("cluster") in self.clusters:
            return "from a source (cluster) of the eval set"
        words = [_words(text) for text in texts]
        if any(turn in self.turns for turn in words[-1:]):
            return "prompt is in the eval set but for case and punctuation"
        if any(turn in self.turns for turn in words):
            return "an earlier turn is in the eval set"
        if any(not self.grams.isdisjoint(_grams(turn, n)) for turn in words for n in self.lengths):
            return "holds a prompt of the eval set, or 13 words of one in a row"
        return None


def _own_grams(items: Collection[EvalItem]) -> set[tuple[str, ...]]:
    """Runs of words that only one source of the eval set has; what several share is the wording of the task."""
    owner: dict[tuple[str, ...], str | None] = {}
    for item in items:
        source = f"cluster {item.cluster}" if item.cluster is not None else f"item {item.id}"
        words = _words(item.turns[-1][1])
        for gram in _grams(words, min(GRAM, len(words))) if len(words) >= LEAST else ():
            owner[gram] = source if owner.get(gram, source) == source else None
    return {gram for gram, source in owner.items() if source}


def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.casefold()))


def _grams(words: tuple[str, ...], n: int) -> Iterator[tuple[str, ...]]:
    return (words[start : start + n] for start in range(len(words) - n + 1))
