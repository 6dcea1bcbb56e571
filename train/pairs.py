"""What preference pairs teach besides what they are meant to."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from math import comb

import regex

from diagnose.stats import rate
from train.rows import Row, key, said

GIVEN_AWAY = 0.7
"""Pairs are warned about where a rule that reads no word tells more of them apart than this, at the lower end of its
95 % interval (hand-set)."""
MARKUP = regex.compile(r"^\s*(?:[-*#>|]|\d+[.)])\s|```|\*\*|<\w+>", regex.MULTILINE)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


SHAPES: dict[str, Callable[[str], float]] = {
    "longer": len,
    "of more lines": lambda text: text.count("\n"),
    "with more markup": lambda text: len(MARKUP.findall(text)),
    "with more digits": lambda text: sum(map(str.isdigit, text)),
    "JSON": _is_json,
}
"""What can be seen of an answer without reading it."""


def contradictions(pairs: list[Row]) -> list[Row]:
    """Pairs of which the same two answers are elsewhere preferred the other way round."""
    ways = {(key(row), said(row["chosen"]), said(row["rejected"])) for row in pairs}
    return [row for row in pairs if (key(row), said(row["rejected"]), said(row["chosen"])) in ways]


def agreement(pairs: list[Row]) -> tuple[int, int]:
    """How many pairs of judgements of the same two answers agree, of how many; one judgement of each annotator."""
    judged: dict[tuple[str, frozenset[str]], dict[str, str]] = defaultdict(dict)
    for at, row in enumerate(pairs):
        both = frozenset((said(row["chosen"]), said(row["rejected"])))
        judged[key(row), both][row.get("annotator") or f"row {at}"] = said(row["chosen"])
    votes = [list(Counter(by.values()).values()) for by in judged.values()]
    return sum(comb(n, 2) for found in votes for n in found), sum(comb(sum(found), 2) for found in votes)


def giveaways(pairs: list[Row]) -> Iterator[tuple[str, float, float]]:
    """Shapes that tell the chosen answer from the rejected one, more often than not: name, share, lower end."""
    for name, shape in SHAPES.items():
        sizes = [(shape(said(row["chosen"])), shape(said(row["rejected"]))) for row in pairs]
        order = Counter((a > b) - (a < b) for a, b in sizes)
        for sign, words in ((1, name), (-1, f"not {name}" if name == "JSON" else name.replace("more", "fewer"))):
            right = order[sign] + order[0] // 2  # where both are alike, it can only guess
            found = rate(right, len(pairs))
            if found.low is not None and found.low > GIVEN_AWAY:
                yield "shorter" if sign < 0 and name == "longer" else words, right / len(pairs), found.low
