"""Personal data and keys in training rows: what carries a checksum or a fixed form, so that little else is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import regex

from diagnose.redact import ISSUED
from train.data import ANSWERS
from train.rows import Row

CARD = regex.compile(r"(?<![\d.,-])(?:\d[ -]?){12,18}\d(?![\d-])")
IBAN = regex.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,3})?\b")
EMAIL = regex.compile(r"\b[\w.+-]{1,64}@(?:[A-Za-z\d-]{1,63}\.)+[A-Za-z]{2,24}\b")


def luhn(number: str) -> bool:
    """Whether the digits of a payment card check (ISO/IEC 7812-1, annex B), and are not all the same."""
    digits = [int(c) for c in number if c.isdigit()]
    doubled = [2 * d - 9 * (d > 4) if at % 2 else d for at, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0 and len(set(digits)) > 1


def mod_97(account: str) -> bool:
    """Whether an IBAN checks (ISO 13616-1)."""
    plain = account.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


KINDS: dict[str, tuple[regex.Pattern[str], Callable[[str], bool]]] = {
    "key": (ISSUED, bool),
    "e-mail address": (EMAIL, bool),
    "IBAN": (IBAN, mod_97),
    "card number": (CARD, luhn),
}


def found(text: str) -> Iterator[str]:
    """The kinds of personal data in a text, once for each place."""
    for kind, (pattern, checks) in KINDS.items():
        for place in pattern.finditer(text):
            if checks(place[0]):
                yield kind


def masked(text: str) -> str:
    """The text with the name of its kind in the place of each finding."""
    for kind, (pattern, checks) in KINDS.items():
        label = f"[{kind}]"
        text = pattern.sub(lambda place, c=checks, to=label: to if c(place[0]) else place[0], text)
    return text


def texts_of(row: Row) -> list[str]:
    """Every text of a row that training sees, those in calls of tools too."""
    return list(_leaves([row["prompt"], _answers(row), row.get("tools"), row.get("text")]))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)


def counted(rows: list[Row]) -> tuple[Counter[str], str]:
    """Kind → rows that hold it, and where the first of them is."""
    total: Counter[str] = Counter()
    first = ""
    for row in rows:
        kinds = {kind for text in texts_of(row) for kind in found(text)}
        total.update(kinds)
        first = first or (row["where"] if kinds else "")
    return total, first


def masked_row(row: Row) -> Row:
    """The row without personal data."""
    seen = ("prompt", "tools", "text", *ANSWERS)
    return {name: _masked(value) if name in seen else value for name, value in row.items()}  # type: ignore[return-value]


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _masked(part) for name, part in value.items()}
    if isinstance(value, list):
        return list(map(_masked, value))
    return masked(value) if isinstance(value, str) else value


def _answers(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ANSWERS if name in row}  # type: ignore[literal-required]
