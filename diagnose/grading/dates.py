"""Dates as people and machines write them: 2018-12-25, 25/12/2018, December 25th, 2018, May 2018."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import datetime

import regex

MONTHS = "|".join(name for names in (calendar.month_name, calendar.month_abbr, ("sept",)) for name in names if name)
DAY, YEAR = r"\d{1,2}(?:st|nd|rd|th)?", r"(?:1\d|20)\d\d"
DATE = regex.compile(
    rf"\b{YEAR}-\d\d?-\d\d?\b|\b\d{{1,2}}([./-])\d{{1,2}}\1{YEAR}\b|\b{YEAR}([./])\d{{1,2}}\2\d{{1,2}}\b"
    rf"|\b(?:{DAY}\s+(?:of\s+)?)?(?:{MONTHS})\b\.?(?:\s+(?:the\s+)?{DAY}\b)?(?:,?\s+(?:of\s+)?{YEAR}\b)?",
    regex.IGNORECASE,
)
"""What may be a date; dateutil decides."""
LONE_YEAR = regex.compile(rf"\b{YEAR}\b")


@dataclass(frozen=True)
class Date:
    """A date, with None for the parts that were not said."""

    year: int | None
    month: int
    day: int | None

    @property
    def full(self) -> bool:
        """Are year, month and day known?"""
        return self.year is not None and self.day is not None

    def fits(self, said: Date) -> bool:
        """Does `said` say all of this date, and nothing else?"""
        return (
            said.month == self.month
            and (self.day is None or self.day == said.day)
            and (self.year is None or self.year == said.year)
        )


def dates_in(text: str) -> list[Date]:
    """Every date with a month in a text; one that can be read with the day or with the month first is there twice."""
    found = (m.group() for m in DATE.finditer(text) if any(c.isdigit() for c in m.group()))
    return list(dict.fromkeys(date for part in found for date in _readings(part)))


def only_a_date(text: str) -> bool:
    """Is there nothing in the text but one date?"""
    found = DATE.search(text)
    return bool(found and any(c.isdigit() for c in found.group()) and not text.replace(found.group(), "").strip(" .,"))


def in_words(text: str) -> bool:
    """Does the text name a month, as people do?"""
    return regex.search(rf"\b(?:{MONTHS})\b", text, regex.IGNORECASE) is not None


def _readings(text: str) -> list[Date]:
    from dateutil import parser

    text = regex.sub(r"\bsept\b", "sep", regex.sub(r"\b(?:of|the)\b", "", text, flags=regex.I), flags=regex.I)
    out = []
    # What the text does not say comes from the default: parsed with two, it shows.
    for dayfirst in (False, True):
        try:
            one, two = (
                parser.parse(text, dayfirst=dayfirst, default=datetime(year, month, day))
                for year, month, day in ((1904, 1, 1), (1908, 2, 2))
            )
        except (ValueError, OverflowError):
            continue
        if one.month == two.month:
            out.append(
                Date(one.year if one.year == two.year else None, one.month, one.day if one.day == two.day else None)
            )
    return out
