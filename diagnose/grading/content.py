"""Is the content of a reference answer in a text? Read from the text alone, without a model.

Measured on answers that people judged: scripts/bench_reader.py, scripts/results/bench_reader.md.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

import regex
from rapidfuzz.distance import OSA

from diagnose.grading.dates import LONE_YEAR, Date, dates_in, in_words, only_a_date
from diagnose.grading.numbers import amount_alone, equal, quantities
from diagnose.grading.settled import asserted, committed, final, hedged, settled
from diagnose.grading.times import only_a_share, only_a_time, shares_in, times_in
from diagnose.grading.words import FUNCTION_WORDS, SYMBOL, UNSPACED, Words, content_words, stem, words_of
from diagnose.records import EvalItem

_TITLES = """sir dr doctor mr mrs ms miss prof professor justice king queen prince princess president prime minister
 lord lady dame saint st jr sr ii iii iv senator governor general colonel captain chef rev reverend pope emperor"""
TITLES = frozenset(_TITLES.split())
"""Words of a name that people leave out."""
_NAMES = """united states of america; united states; usa; us; america
united kingdom; uk; great britain; britain
soviet union; ussr
european union; eu
united nations; un
united arab emirates; uae
south korea; republic of korea
north korea; dprk; democratic people s republic of korea; democratic peoples republic of korea
czech republic; czechia
netherlands; holland
russia; russian federation
iran; islamic republic of iran
ivory coast; cote d ivoire
myanmar; burma
turkey; turkiye
eswatini; swaziland
north macedonia; macedonia
cape verde; cabo verde
east timor; timor leste
democratic republic of the congo; dr congo; drc
vatican city; holy see
new york city; nyc; new york
los angeles; la
washington dc; washington d c
kyiv; kiev
beijing; peking
mumbai; bombay
kolkata; calcutta
chennai; madras
yangon; rangoon
istanbul; constantinople
ho chi minh city; saigon
munich; munchen; muenchen
cologne; koln; koeln
vienna; wien
prague; praha
rome; roma
venice; venezia
florence; firenze
milan; milano
naples; napoli
turin; torino
lisbon; lisboa
warsaw; warszawa
krakow; cracow
moscow; moskva
copenhagen; kobenhavn
gothenburg; goteborg
brussels; bruxelles; brussel
antwerp; antwerpen
geneva; geneve; genf
zurich; zuerich
athens; athina
bucharest; bucuresti
belgrade; beograd
seville; sevilla
germany; deutschland
spain; espana
italy; italia
austria; osterreich; oesterreich
switzerland; schweiz; suisse
tchaikovsky; chaikovsky; tschaikowski; tchaikovski
muhammad; mohammed; mohammad; muhammed
qur an; quran; koran
gaddafi; qaddafi; gadhafi; kadafi"""
SAME_NAME = tuple(tuple(name.strip() for name in line.split(";")) for line in _NAMES.splitlines())
"""Names of one place or body."""
SPREAD, SLACK = 3, 4
"""The n words of a gold answer must stand within 3 n + 4 consecutive words (of 1 to 3 and 0 to 6, tried on half of
EVOUNA's Natural Questions: narrower loses two right answers for each wrong one)."""
SLIP_LEAST = 7
"""Letters of a word that one slip does not turn into another word (hand-set)."""
SQUASHED_LEAST = 8
"""Characters of a gold answer that cannot be found inside other words by chance (hand-set)."""
POLARITY = regex.compile(
    r"\b(?:(?P<no>no|nope|false|incorrect|untrue|wrong|never|not (?:true|correct|right|the case|really|quite|at all))"
    r"|(?P<no2>(?:is|are|was|were|do|does|did|can|has|have|would)(?:n['’]t| not))"
    r"|(?P<yes>yes|yeah|yep|true|correct|indeed|right|certainly|absolutely|definitely|of course|affirmative|that is so"
    r"|it (?:is|does|can|was|did)))\b",
    regex.I,
)
LIST_ITEM = regex.compile(r"\s*(?:[-*•]|\(?[A-Za-z0-9]{1,2}[.)])?\s*(?P<text>[^\n,;]+?)\s*(?:[,;\n]|$)")


def one_content(item: EvalItem, text: str, wanted: Iterable[str], rivals: Iterable[str]) -> bool:
    """Does the text commit itself to the wanted content: names it, not only to reject it, and no rival beside it?

    What the text ends on counts: where it names its answer as such ("the final answer is …"), that is read. A hedge
    between two answers, a bare list of candidates and an echo of the prompt are no commitment.
    """
    prompt = item.turns[-1][1]
    golds = _telling([w for w in wanted if w.strip()], prompt)
    said = without_echo(settled(text), prompt)
    others = [r for r in rivals if r.strip() and not any(contains(g, r) for g in golds)]
    if (last := committed(said)) is not None and (final(said) or any(contains(asserted(said, r), r) for r in others)):
        said = last
    if another_day(said, golds):
        return False
    found = [g for g in golds if says(asserted(said, g), g)]
    if not found or any(contains(asserted(said, r), r) for r in others if not any(contains(g, r) for g in found)):
        return False
    return not any(hedged(said, g) for g in found) and not _bare_list(said, found)


@lru_cache(maxsize=1 << 14)
def says(text: str, gold: str) -> bool:
    """Does the text say what the gold answer says, in its words or in others that mean the same?

    The words of the gold answer close together, in any order and inflection, without its titles, middle names and
    what it adds in brackets or after a comma ("Oslo, Norway"); the same date or number in another notation.
    """
    return any(_says(text, form) for form in forms(gold))


def contains(text: str, value: str) -> bool:
    """Does the text contain exactly these words, in this order (in scripts without spaces: these characters)?"""
    if SYMBOL.search(value):
        return _spaced(value) in _spaced(text)
    if UNSPACED.search(value):
        return _folded(value) in _folded(text)
    words = _joined(value)
    return bool(words.strip()) and words in _joined(text)


def without_echo(text: str, prompt: str) -> str:
    """The text without a repetition of the prompt."""
    tokens = regex.findall(r"\w+", prompt)
    if len(tokens) < 2 or tokens[0].casefold() not in text.casefold():
        return text
    pattern = r"\W+".join(map(regex.escape, tokens)) + r"\W?"
    return str(regex.sub(rf"(?<!\w){pattern}(?!\w)|(?<!\w){pattern}$", " ", text, flags=regex.I))


def forms(gold: str) -> Iterator[str]:
    """The gold answer, and the shorter answers that say as much."""
    yield gold
    plain = regex.sub(r"\[[^\]]*\]|\([^)]*\)", " ", gold)
    if plain != gold and plain.strip(" .,"):
        yield plain
    if nick := regex.search(r"^(\w+)\s[\"“‘']([^\"”’']+)[\"”’']\s(.+)$", plain):
        yield f"{nick[1]} {nick[3]}"
        yield f"{nick[2]} {nick[3]}"
    if " or " in plain:
        yield from (part for part in plain.split(" or ") if part.strip())
    if place := regex.fullmatch(r"(\p{Lu}[\w .'’-]+), \p{Lu}[\w .'’-]+", plain):
        yield place[1]


def another_day(text: str, golds: list[str]) -> bool:
    """Does the text give a full date, and only ones that are other days of the year of a gold answer?"""
    wanted = {d for g in golds for d in dates_in(g)}
    said = {d for d in dates_in(text) if d.full} if wanted else set()
    days = {w for w in wanted if w.full}
    return bool(said and days) and not said & days and bool({d.year for d in said} & {w.year for w in days})


def _telling(golds: list[str], prompt: str) -> list[str]:
    """Without the gold answers that the prompt itself says, where there are others: repeating them tells nothing."""
    asked = words_of(prompt).stems
    if "or" in asked:  # a question that offers its answers
        return golds
    return [g for g in golds if not {stem(w) for w in content_words(words_of(g).words)} <= asked] or golds


def _says(text: str, gold: str) -> bool:
    if SYMBOL.search(gold):
        return contains(text, gold)
    if UNSPACED.search(gold):
        return _folded(gold) in _folded(text)
    if (dated := _says_date(text, gold)) is not None:
        return dated
    if only_a_time(gold):
        return bool(times_in(text) & times_in(gold))
    if only_a_share(gold):
        return bool(shares_in(text) & shares_in(gold))
    if (truth := _truth(gold)) is not None:
        return _polarity(text) is truth
    if (amount := amount_alone(gold)) is not None and amount.unit:
        return any(equal(q, amount) for q in quantities(text))
    said, words = words_of(text), words_of(gold)
    if len(words.squashed) >= SQUASHED_LEAST and not words.squashed.isdigit() and words.squashed in said.squashed:
        return True
    return _says_words(said, words, gold) or _same_name(text, gold)


def _truth(gold: str) -> bool | None:
    """A gold answer that is nothing but yes or no."""
    return {"yes": True, "true": True, "no": False, "false": False}.get(gold.strip(" .!").casefold())


def _polarity(text: str) -> bool | None:
    """Does the text affirm or deny? Its first word that does either tells; None where none does."""
    found = POLARITY.search(text)
    return None if found is None else found.lastgroup == "yes"


def _says_date(text: str, gold: str) -> bool | None:
    """None where the gold answer is no date, or where only its words can tell."""
    wanted = dates_in(gold)
    if not wanted:
        return None
    said, years = dates_in(text), {int(y) for y in LONE_YEAR.findall(text)}
    for date in said:
        if any(w.fits(date) or (date.year is None and w.year in years and _same_day(w, date)) for w in wanted):
            return True
    # "When?" is answered by the year as well; a date in a machine's notation is a demand for the day.
    if in_words(gold) and all(w.full and w.year in years and w.year not in {d.year for d in said} for w in wanted):
        return True
    return False if only_a_date(gold) else None


def _same_day(wanted: Date, said: Date) -> bool:
    return (wanted.month, wanted.day) == (said.month, said.day)


def _says_words(said: Words, gold: Words, written: str) -> bool:
    words = content_words(gold.words)
    if not words:
        return False
    stems = [stem(w) for w in words]
    there = [s in said.stems or _misspelt(w, said) for s, w in zip(stems, words, strict=True)]
    if not all(there) and not _enough(words, there, written, said):
        return False
    found = frozenset(s for s in stems if s in said.stems)
    return len(found) < 2 or said.together(found, SPREAD * len(found) + SLACK)


def _misspelt(word: str, said: Words) -> bool:
    """Is there a word that differs from this one by one slip, behind the same first letter?"""
    if len(word) < SLIP_LEAST or not word.isalpha():
        return False
    alike = (w for w in said.words if w[0] == word[0] and abs(len(w) - len(word)) < 2)
    return any(OSA.distance(w, word, score_cutoff=1) < 2 for w in alike)


def _same_name(text: str, gold: str) -> bool:
    """Another name of the gold answer, or its initials: USA, the United States; WHO, the World Health Organization."""
    name = " ".join(w for w in words_of(gold).words if w != "the")
    others = next((group for group in SAME_NAME if name in group), ())
    longer = (n for group in SAME_NAME if group != others for n in group if any(f" {o}" in n for o in others))
    if any(contains(text, n) for n in longer):  # the Democratic People's Republic of Korea is no Republic of Korea
        return False
    # `us` and `la` are words as well: as names they are in capitals.
    if any(o != name and (contains(text, o) if len(o) > 2 else _in_capitals(o, text)) for o in others):
        return True
    short, long = gold.replace(".", "").strip(), [w for w in regex.findall(r"\p{L}+", text) if w[0].isupper()]
    if regex.fullmatch(r"\p{Lu}{3,6}", short):
        return short in "".join(w[0] for w in long) and any(
            "".join(w[0] for w in long[k : k + len(short)]) == short for k in range(len(long))
        )
    initials = "".join(w[0] for w in regex.findall(r"\p{L}+", gold) if w[0].isupper())
    numbered = any(len(w) > 1 and w.isupper() for w in regex.findall(r"\p{L}+", gold))  # World War II is not WWI
    return len(initials) > 2 and _is_name(gold) and not numbered and _in_capitals(initials, text)


def _in_capitals(name: str, text: str) -> bool:
    return regex.search(r"\b" + r"\.?".join(map(regex.escape, name.upper())) + r"(?!\w)", text) is not None


def _enough(words: list[str], there: list[bool], written: str, said: Words) -> bool:
    """Is what is missing only a title or, of a person's name, what stands between the first and the last?"""
    needed = [(w, t) for w, t in zip(words, there, strict=True) if w not in TITLES]
    if not needed or not needed[-1][1]:
        return False
    first = needed[0][1] or (_is_name(written) and any(len(w) == 1 and w == needed[0][0][0] for w in said.words))
    return all(t for _, t in needed) or (_is_name(written) and len(needed) > 1 and first)


@lru_cache(maxsize=1 << 12)
def _is_name(text: str) -> bool:
    """Two words or more, all with capitals and none with digits."""
    words = [w for w in regex.findall(r"[\p{L}\p{M}]+", text) if w.casefold() not in FUNCTION_WORDS]
    return len(words) > 1 and all(w[0].isupper() for w in words) and not any(c.isdigit() for c in text)


def _bare_list(said: str, golds: list[str]) -> bool:
    """Is the text nothing but three candidates or more, one of which is the gold answer?"""
    parts = [m["text"] for m in LIST_ITEM.finditer(said.strip()) if m["text"].strip()]
    parts = [regex.sub(r"^(?:and|or)\s+", "", part.strip(" .")) for part in parts]
    if len(parts) < 3 or any(len(part.split()) > 3 for part in parts) or any("," in g for g in golds):
        return False
    return sum(any(contains(part, g) for g in golds) for part in parts) == 1


@lru_cache(maxsize=1 << 14)
def _joined(text: str) -> str:
    return " " + " ".join(map(stem, words_of(text).words)) + " "


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


@lru_cache(maxsize=1 << 14)
def _spaced(text: str) -> str:
    """Words with the symbols attached to them, each once, with a space on either side: C++ is not C."""
    parts = regex.findall(r"[\w%$€£°#+]++(?:[./:'’-]\w++)*+[%°#+]*+|[^\w\s.,;:!?\"'()\[\]{}*`]++", _folded(text))
    return " " + " ".join(parts) + " "
