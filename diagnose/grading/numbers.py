"""Numbers as people write them, in digits or in words, with their units."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import regex
from text_to_num import alpha2digit

from diagnose.grading.words import FUNCTION_WORDS, magnitudes, number_text

NUMBER = regex.compile(
    r"(?<![\w.,])[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:\.\d{3})+(?=,\d)|\d+)(?:[.,]\d+)?(?:[eE][-+]?\d+|\s?[×x]\s?10\^?[-+]?\d+)?"
    r"|(?<=[$€£¥])\d+"
)
LONGEST_UNITS = 24
"""Characters of two units; longer words are none, and not worth a search among all units and prefixes."""
ORDINAL = ("st", "nd", "rd", "th")
UNIT = regex.compile(r"\s?(?P<unit>°\s?[CF]\b|%|[\p{L}µ][\p{L}/²³]*)")


@dataclass(frozen=True)
class Quantity:
    """A number and the word or sign after it."""

    value: float
    unit: str


def number_alone(text: str) -> float | None:
    """The number, where the text is nothing else."""
    text = _plain(text).strip()
    return _float(text) if NUMBER.fullmatch(text) else None


def amount_alone(text: str) -> Quantity | None:
    """The number and its unit, where the text is nothing else: 42, forty-two, 42 km."""
    text = _in_digits(_plain(text)).strip()
    found = quantities(text)
    lone = len(found) == 1 and NUMBER.match(text) and NUMBER.sub("", text, count=1).strip() == found[0].unit
    return found[0] if lone else None


def quantities(text: str) -> list[Quantity]:
    """Every number of a text, in digits or in words, with what stands after it."""
    text = _in_digits(_plain(text))
    out = []
    for m in NUMBER.finditer(text):
        unit = UNIT.match(text, m.end())
        word = unit["unit"] if unit and unit["unit"].casefold() not in FUNCTION_WORDS else ""
        value = _float(m.group())
        if math.isfinite(value) and word not in ORDINAL:
            out.append(Quantity(value, word))
    return out


def restated(first: Quantity, second: Quantity) -> bool:
    """Is the second the first in another unit, as people round it (5 %, or one degree)?"""
    other = _in_unit(second, first.unit)
    return other is not None and math.isclose(other, first.value, rel_tol=0.05, abs_tol=1.0 if "°" in first.unit else 0)


def equal(said: Quantity, gold: Quantity, tolerance: float = 0.0) -> bool:
    """The same number, or the same amount in another unit."""
    if math.isclose(said.value, gold.value, rel_tol=1e-9, abs_tol=tolerance) and not _clash(said.unit, gold.unit):
        return True
    other = _in_unit(said, gold.unit)
    return other is not None and math.isclose(other, gold.value, rel_tol=1e-6, abs_tol=tolerance)


def _clash(a: str, b: str) -> bool:
    """Two units of one kind of which one is another amount: 42 miles are not 42 km."""
    one = _in_unit(Quantity(1.0, a), b) if a and b and a != b else None
    return one is not None and not math.isclose(one, 1.0)


def _in_unit(q: Quantity, unit: str) -> float | None:
    """The amount in another unit; None where one of the two is no unit, or they measure different things."""
    if not q.unit or not unit or q.unit == unit or len(q.unit + unit) > LONGEST_UNITS:
        return None
    import pint

    try:
        return float(_registry().Quantity(q.value, _name(q.unit)).to(_name(unit)).magnitude)
    except (pint.errors.PintError, AttributeError, TypeError, ValueError, AssertionError):
        return None


def _name(unit: str) -> str:
    return {"°C": "degC", "°F": "degF", "%": "percent"}.get(unit.replace(" ", ""), unit)


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()


def _in_digits(text: str) -> str:
    """With number words as digits; small ones ("one of them") only where the text is hardly more."""
    return magnitudes(str(alpha2digit(text, "en", threshold=0.0 if len(text.split()) < 4 else 3.0)))


def _plain(text: str) -> str:
    """With one kind of minus, and no typographic spaces inside numbers."""
    text = regex.sub(r"(?<=\d)[\u00a0\u202f\u2009'’](?=\d{3}\b)", "", text)
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2012", "-").replace("\u2013", "-")


def _float(text: str) -> float:
    mantissa, _, power = regex.sub(r"\s?[×x]\s?10\^?", "e", text.lstrip("+")).lower().partition("e")
    return float(f"{number_text(mantissa)}e{power or 0}")
