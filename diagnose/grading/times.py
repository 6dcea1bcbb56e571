"""Times of day and shares of a whole, as people write them: half past three, 15:30; three quarters, 75 %."""

from __future__ import annotations

from collections.abc import Iterator

import regex
from text_to_num import alpha2digit

CLOCK = regex.compile(
    r"\b(?P<hour>[01]?\d|2[0-4])(?:[:.h](?P<minute>[0-5]\d))?\s?(?P<half>[ap]\.?\s?m\b\.?|in the (?:morning|afternoon"
    r"|evening)|at night)?"
    r"(?:\s?(?P<sharp>o['’]?clock))?",
    regex.I,
)
PAST = regex.compile(
    r"\b(?P<minute>half|(?:a )?quarter|\d{1,2})(?: minutes?)? (?P<side>past|to|after|before) (?P<hour>\d{1,2})\b",
    regex.I,
)
NAMED = {"midnight": 0, "noon": 720, "midday": 720}
HALF_DAY = 720
"""Minutes."""
PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5}
PARTS |= {"sixth": 6, "seventh": 7, "eighth": 8, "tenth": 10}
PERCENT = regex.compile(r"(\d+(?:[.,]\d+)?)\s?(?:%|per\s?cent\b|pct\b)", regex.I)
FRACTION = regex.compile(r"(?<![\d/.])(\d+)\s?(?:/|out of(?: every)?|in(?: every)?|of every)\s?(\d+)(?![\d/])", regex.I)
PART = regex.compile(rf"\b(?:(\d+|an?|one|two|three|four|five|six|seven|nine)[\s-])?({'|'.join(PARTS)})s?\b", regex.I)
DECIMAL = regex.compile(r"(?<![\d.])0?[.,]\d+(?![\d.])")
COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "nine": 9}


def times_in(text: str) -> set[int]:
    """Minutes after midnight of every time of day; one without a half of the day is there twice."""
    text = str(alpha2digit(text, "en", threshold=0.0))
    return {t for found in (_clock(text), _past(text), _named(text)) for t in found}


def only_a_time(text: str) -> bool:
    """Is there nothing in the text but a time of day, written so that it can be nothing else?"""
    text = str(alpha2digit(text, "en", threshold=0.0)).strip(" .,")
    text = regex.sub(r"^\W*(?:at|around|about)\s+", "", text, flags=regex.I)
    clock = CLOCK.fullmatch(text)
    marked = clock is not None and any(clock.group("minute", "half", "sharp"))
    return marked or text.casefold() in NAMED or PAST.fullmatch(text) is not None


def shares_in(text: str) -> set[float]:
    """Every share of a whole: a percentage, a fraction, "three quarters", "one in four", .75."""
    found = {float(m[1].replace(",", ".")) / 100 for m in PERCENT.finditer(text)}
    spelled = str(alpha2digit(text, "en", threshold=0.0)) if " out of " in text or " in " in text else text
    found |= {int(m[1]) / int(m[2]) for m in FRACTION.finditer(spelled) if 0 < int(m[1]) <= int(m[2])}
    found |= {_part(m[1], m[2]) for m in PART.finditer(text)}
    found |= {float(m.group().replace(",", ".")) for m in DECIMAL.finditer(text)}
    return {round(share, 4) for share in found}


def only_a_share(text: str) -> bool:
    """Is there nothing in the text but a share of a whole?"""
    text = regex.sub(r"^(?:about|around|roughly)\s+|\s+(?:of|of it|of them)$", "", text.strip(" .,"), flags=regex.I)
    return any(p.fullmatch(text) for p in (PERCENT, FRACTION, PART)) and len(shares_in(text)) == 1


def _clock(text: str) -> Iterator[int]:
    for m in CLOCK.finditer(text):
        if any(m.group("minute", "half", "sharp")):
            hour, minute, half = int(m["hour"]), int(m["minute"] or 0), (m["half"] or "").casefold()
            if hour > 12 or (m["minute"] and not half and m["hour"].startswith("0")):
                yield hour % 24 * 60 + minute
            elif half:
                late = half[0] == "p" or "noon" in half or "evening" in half or "night" in half
                yield hour % 12 * 60 + minute + HALF_DAY * late
            else:
                yield from (hour % 12 * 60 + minute, hour % 12 * 60 + minute + HALF_DAY)


def _past(text: str) -> Iterator[int]:
    for m in PAST.finditer(text):
        word = m["minute"].casefold()
        minute = 30 if word == "half" else 15 if "quarter" in word else int(word)
        at = int(m["hour"]) % 12 * 60 + (minute if m["side"].casefold() in ("past", "after") else -minute)
        half = regex.match(r"\s?([ap])\.?\s?m\b|\s?in the (morning|afternoon|evening)", text[m.end() :], regex.I)
        late = half and (half[1] or "").casefold() != "a" and half[2] != "morning"
        yield from [(at + HALF_DAY * bool(late)) % 1440] if half else (at % 1440, (at + HALF_DAY) % 1440)


def _named(text: str) -> Iterator[int]:
    yield from (t for name, t in NAMED.items() if regex.search(rf"\b{name}\b", text, regex.I))


def _part(count: str | None, part: str) -> float:
    n = 1 if count is None else COUNTS.get(count.casefold()) or int(count)
    return n / PARTS[part.casefold()]
