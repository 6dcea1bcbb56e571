"""Texts as words that can be compared: one form for accents, number words, separators and inflections."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import regex
import snowballstemmer
from text_to_num import alpha2digit

WORD = regex.compile(
    # a number; 3n and 1970s are words
    r"(?<![\w.])[-\u2212\u2013]?\d+(?:[.,]\d+)*+(?:\p{L}(?!\p{L})|(?:st|nd|rd|th)\b)?"
    r"|[\p{L}\p{M}]+(?:\d+\p{L}*)?"
    r"|\d+(?:[.,]\d+)*+"
)
_FUNCTION = """a an the of in on at to for and or is are was were be been by with from as that this it its his her their
 he she they who what when where which"""
_VAGUE = """over more than approximately approx around about circa ca nearly almost up during sometime some only just
 roughly least most estimated known called also usually between into through within"""
FUNCTION_WORDS, VAGUE = frozenset(_FUNCTION.split()), frozenset(_VAGUE.split())
"""Words around a fact that an answer with the same fact may well lack."""
SYMBOL = regex.compile(r"[+#<>=@^|~\\/\p{So}\p{Sm}\p{Emoji_Presentation}]")
"""Symbols that carry content: C++ is not C, and `>` is not `<`."""
UNSPACED = regex.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, Han."""
YEARS = regex.compile(r"\b(1\d|20)(\d\d)\s?[-\u2013\u2014]\s?(\d\d)\b(?![-\u2013])")
"""1979-80: two years."""
ROMAN = regex.compile(r"(?<=\p{Lu}\p{L}+\s)(?:X{0,3}(?:IX|IV|VI{0,3}|I{2,3})|X{2,3}I?|XI)\b(?!['’.]?\p{L})")
"""The number of a king, a war, a part: Henry VIII, World War II."""
MAGNITUDE = regex.compile(
    r"(?<![\w.,])(?P<count>\d+(?:[.,]\d+)*|half an?|an?)(?:\s?(?P<name>hundred|thousand|million|billion|trillion"
    r"|dozen|[kK]|mn|bn|[mM]io)|(?<=\d)(?P<short>[MB]))"
    r"(?P<half> and a half)?(?!\w)"
)
_NAMED = {"hundred": 100, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12, "k": 1e3}
MAGNITUDES = _NAMED | {"mn": 1e6, "mio": 1e6, "m": 1e6, "bn": 1e9, "b": 1e9}
SPELLINGS = tuple(
    (regex.compile(british), american)
    for british, american in (
        (r"our(?=s?$|ed$|ing$|ful|able|ite|ist)", "or"),
        (r"(?<=\w{2})is(?=e[sd]?$|ing$|ation)", "iz"),
        (r"ys(?=e[sd]?$|ing$)", "yz"),
        (r"(?<=[tb])re(?=s?$)", "er"),
        (r"ogue(?=s?$)", "og"),
        (r"ence(?=s?$)", "ense"),
        (r"ll(?=ed$|ing$|er$)", "l"),
        (r"(?<=\w)(?:ae|oe)(?=\w\w)", "e"),
    )
)
"""British endings, and the American ones that they become."""
LETTERS = str.maketrans(dict(zip("ßøØłŁæÆœđðþı", ("ss", *"oOlL", "ae", "Ae", "oe", *"dd", "th", "i"), strict=True)))
_stemmer = snowballstemmer.stemmer("english")


@dataclass(frozen=True)
class Words:
    """The words of one text."""

    words: tuple[str, ...]

    @cached_property
    def stems(self) -> frozenset[str]:
        """Every stem that occurs."""
        return frozenset(map(stem, self.words))

    @cached_property
    def squashed(self) -> str:
        """All words in one: finds a name that a line break or a lost space has split or glued."""
        return "".join(self.words)

    def together(self, stems: frozenset[str], within: int) -> bool:
        """Do all these stems occur within so many consecutive words?"""
        hits = [(k, s) for k, s in enumerate(map(stem, self.words)) if s in stems]
        last: dict[str, int] = {}
        for k, s in hits:
            last[s] = k
            if len(last) == len(stems) and k - min(last.values()) <= within:
                return True
        return False


@lru_cache(maxsize=1 << 14)
def words_of(text: str) -> Words:
    """The words of a text, case folded, without accents, numbers in one form (twenty-three, 23; 1,234.50, 1234.5)."""
    text = YEARS.sub(r"\1\2 \1\3", unicodedata.normalize("NFKC", text)).replace("&", " and ")
    text = magnitudes(ROMAN.sub(lambda m: str(_value_of(m.group())), text))
    text = regex.sub(r"(?<=\p{L})[-\u2010\u2011](?=\p{L})", " ", text)
    text = _unaccented(alpha2digit(text, "en", threshold=0.0) if text.isascii() or _latin(text) else text)
    return Words(tuple(_canonical(w) for w in WORD.findall(regex.sub(r"(?<=\p{L})['’]s?\b", "", text.casefold()))))


def content_words(words: Sequence[str]) -> list[str]:
    """Without function words and vague ones; all of them where nothing else is left."""
    for dropped in (FUNCTION_WORDS | VAGUE, FUNCTION_WORDS, frozenset[str]()):
        if kept := [w for w in words if w not in dropped]:
            return kept
    return []


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Snowball's English stem, of the American spelling; a number or a word in another script is its own."""
    if not (word.isascii() and word.isalpha()):
        return word
    for british, american in SPELLINGS if len(word) > 4 else ():
        word = british.sub(american, word)
    return str(_stemmer.stemWord(word))


def magnitudes(text: str) -> str:
    """With 1.2 million, 3k, two dozen and half a million written out."""
    return str(MAGNITUDE.sub(_written_out, text))


def _written_out(m: regex.Match[str]) -> str:
    digits = number_text(m["count"])
    if digits.count(".") > 1:
        return str(m.group())  # a version, not a count
    count = 0.5 if m["count"].startswith("half") else 1.0 if m["count"][0] == "a" else float(digits)
    return f"{(count + 0.5 * bool(m['half'])) * MAGNITUDES[(m['name'] or m['short']).casefold()]:.0f}"


def _value_of(roman: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10}[c] for c in roman]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


def _canonical(word: str) -> str:
    if not any(c.isdigit() for c in word):
        return word
    word = regex.sub(r"(?<=\d)(?:st|nd|rd|th)$", "", word)
    return number_text(word) if word[-1].isdigit() else word


def number_text(text: str) -> str:
    """One form for equal numbers: without separators of thousands, trailing zeros or a typographic minus.

    With both separators the last one is decimal (1.234,50 and 1,234.50); a comma alone is, unless three digits follow.
    """
    sign = "-" if text[0] in "-\u2212\u2013" else ""
    text = text.lstrip("-\u2212\u2013")
    comma, dot = text.rfind(","), text.rfind(".")
    if comma >= 0 and dot >= 0:
        decimal, thousands = (",", ".") if comma > dot else (".", ",")
        text = text.replace(thousands, "").replace(decimal, ".")
    elif regex.fullmatch(r"\d{1,3}(,\d{3})+", text) or text.count(",") > 1:
        text = text.replace(",", "")
    elif regex.fullmatch(r"\d{1,3}(\.\d{3}){2,}", text):
        text = text.replace(".", "")
    elif text.count(".") > 1:
        return sign + text  # a version or a date, not a number
    else:
        text = text.replace(",", ".")
    return sign + (text.rstrip("0").rstrip(".") if "." in text else text)


def _unaccented(text: str) -> str:
    """Without the accents of Latin, Greek and Cyrillic letters; marks of other scripts are part of their letters."""
    plain = (c for c in unicodedata.normalize("NFD", text.translate(LETTERS)) if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", "".join(plain))


def _latin(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and sum(c < "\u0250" for c in letters) > 0.5 * len(letters)
