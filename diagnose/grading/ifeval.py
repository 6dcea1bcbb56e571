"""Does a response follow its instructions? The 25 verifiable kinds of IFEval, checked strictly and loosely.

Definitions: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models" (arXiv 2311.07911) and
google-research/instruction_following_eval (Apache-2.0), of which this is a rewrite: same ids, same arguments, same
verdicts, even where a verdict is crude (an option quoted inside a sentence counts as the constrained response).

Deliberate differences from the published verdicts:

- Strings given by the user are literal. Published: keywords, section names and postscript markers are regular
  expressions, so one of them could hang the evaluation; none of the 541 published rows relies on that.
- Sentences and capital words are counted without NLTK's Punkt, which is a download; see `_num_sentences`.
- `prompt_to_repeat` may be omitted; then the whole prompt must be repeated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnose.errors import BadInput
from diagnose.grading.language import language as language_of

RELATIONS = ("at least", "less than")
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
POSTSCRIPTS = {"P.S.": re.compile(r"p\.\s?s\."), "P.P.S": re.compile(r"p\.\s?p\.\s?s")}
LANGUAGES = (
    "af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt ro "
    "ru sk sl so sq sv sw ta te th tl tr uk ur vi zh-cn zh-tw"
)
"""The languages that langdetect distinguishes."""

OPENERS, CLOSERS = "\"'([{*_“‘«", "\"')]}*_”’»"
ABBREVIATION = re.compile(r"mr|mrs|ms|dr|prof|rev|gen|sen|st|jr|sr|vs|inc|ltd|co|corp|ph\.d|([a-z]\.)*[a-z]")
"""Without its last dot; the last alternative: an initial, or letters with dots between them, as in e.g, U.S, a.m."""
BETWEEN_TOKENS = re.compile(r"""[][\s(){}<>,:;!?"`«»“”‘’„@#$%&*‒–—―]|--|\.\.+|(?=N'T\b|'(?:S|M|D|LL|RE|VE)\b)""")


def check_instructions(instructions: Any, where: str) -> None:
    """Refuse what `follows` could not check: a wrong structure, an unknown id, wrong arguments.

    Null arguments count as absent: the copy of the data set on the Hugging Face hub lists every argument.

    Raises:
        BadInput: naming the instruction and the argument.
    """
    if not isinstance(instructions, list) or not instructions:
        raise BadInput(f'{where}: instructions is {instructions!r}; expected a list of {{"id": …, its arguments}}')
    for entry in instructions:
        name = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in KINDS:
            found = name if isinstance(entry, dict) else entry
            raise BadInput(f"{where}: instruction {found!r}; allowed ids: {', '.join(KINDS)}")
        _check_arguments(name, _arguments(entry), where)


def follows(instructions: list[dict[str, Any]], prompt: str, text: str) -> tuple[bool, bool]:
    """Are all instructions followed? An empty response follows none.

    Returns:
        strict, by the response as it is; loose, each by any variant of it: without its first line, its last line
        or both, and each of these without asterisks.
    """
    checks = [_bound(entry, prompt) for entry in instructions]
    variants = _variants(text)
    strict = text in variants and all(check(text) for check in checks)
    return strict, strict or all(any(check(variant) for variant in variants) for check in checks)


def _variants(text: str) -> list[str]:
    lines = text.split("\n")
    shorter = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    plain = [variant.replace("*", "") for variant in (text, *shorter)]
    return [variant for variant in dict.fromkeys((text, *shorter, *plain)) if variant.strip()]


def _bound(entry: dict[str, Any], prompt: str) -> Callable[[str], bool]:
    function, expected = KINDS[entry["id"]]
    arguments = _arguments(entry)
    if "prompt_to_repeat" in expected:
        arguments.setdefault("prompt_to_repeat", prompt)
    return partial(function, **arguments)


def _arguments(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "id" and value is not None}


def _check_arguments(name: str, given: dict[str, Any], where: str) -> None:
    expected = KINDS[name][1]
    if unknown := [key for key in given if key not in expected]:
        raise BadInput(f"{where}: {name} takes no {unknown[0]!r}; allowed: {', '.join(expected) or 'none'}")
    for key, (wanted, fits) in expected.items():
        if key not in given and key != "prompt_to_repeat":
            raise BadInput(f"{where}: {name} lacks {key!r}; expected {wanted}")
        if key in given and not fits(given[key]):
            raise BadInput(f"{where}: {name}: {key} is {given[key]!r}; expected {wanted}")
    if "nth_paragraph" in expected and not 1 <= given["nth_paragraph"] <= given["num_paragraphs"]:
        last = given["num_paragraphs"]
        raise BadInput(f"{where}: {name}: nth_paragraph is {given['nth_paragraph']}; expected 1 to {last}")


# ---------------------------------------------------------------- one function per kind


def _related(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


def _found(words: str, text: str) -> int:
    """As published, matches inside other words too: `day` is found in `Monday`."""
    return len(re.findall(re.escape(words), text, re.IGNORECASE))


def _keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _related(_found(keyword.strip(), text), relation, frequency)


def _forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    # Whole words only; not \b, which would never find a word like "C++" that ends in a symbol.
    return not any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text, re.IGNORECASE) for w in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _related(text.lower().count(letter.lower()), let_relation, let_frequency)


def _response_language(text: str, language: str) -> bool:
    return language_of(text) in (language, None)  # no language, for instance only digits: followed, as published


def _num_sentences(text: str, num_sentences: int, relation: str) -> bool:
    """The last word ends a sentence, and so does each word before it for which `_ends_sentence` holds.

    Against Punkt, the published splitter: the same count in 1,247 of 1,293 responses of chat models, ±1 in 32 more.
    """
    words = text.split()
    return _related(1 + sum(map(_ends_sentence, words, words[1:])), relation, num_sentences)


def _ends_sentence(word: str, following: str) -> bool:
    """By . ! or ?, but not by an abbreviation's dot, an ellipsis before a non-capital, or `1.` before lowercase."""
    said = word.rstrip(CLOSERS)
    if not said.endswith("."):
        return said.endswith(("!", "?"))
    stem = said.lstrip(OPENERS)[:-1].lower()
    if stem.endswith("."):
        return following[0].isupper()
    return not following[0].islower() if stem.isdigit() else not ABBREVIATION.fullmatch(stem)


def _num_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs between dividers; an empty one is ignored at the start and the end, and fails anywhere else."""
    first, *more = (part.strip() for part in text.split("***"))
    inner, last = more[:-1], more[-1:]
    return all(inner) and len(inner) + bool(first) + any(last) == num_paragraphs


def _num_words(text: str, num_words: int, relation: str) -> bool:
    return _related(len(re.findall(r"\w+", text)), relation, num_words)


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part.strip() for part in text.split("\n\n")]
    # As published, empty parts are not counted but keep their position.
    if sum(map(bool, parts)) != num_paragraphs or not parts[nth_paragraph - 1]:
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower() == first_word.lower()


def _num_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^][\n]*\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    pattern = POSTSCRIPTS.get(marker) or re.compile(re.escape(marker.lower()))
    return pattern.search(text.lower()) is not None


def _num_bullets(text: str, num_bullets: int) -> bool:
    stars = re.findall(r"^[^\S\n]*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^[^\S\n]*-", text, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def _num_highlights(text: str, num_highlights: int) -> bool:
    found = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(section.strip("*").strip()) for section in found) >= num_highlights


def _num_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def _json_format(text: str) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    inside = (line.partition("<<")[2].rpartition(">>")[0] for line in text.split("\n"))
    return any(title.lstrip("<").rstrip(">").strip() for title in inside)


def _two_responses(text: str) -> bool:
    first, *more = (part.strip() for part in text.split("******"))
    given = [part for part in (first, *more) if part]
    return all(more[:-1]) and len(given) == 2 and given[0] != given[1]


def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """Words as split by NLTK's `word_tokenize`, as far as it matters for the count: DON'T is two, TOP-TEN is one."""
    count = sum(word.isupper() for word in BETWEEN_TOKENS.split(text))
    return _related(count, capital_relation, capital_frequency)


# ---------------------------------------------------------------- the table: id → function, arguments

Argument = tuple[str, Callable[[Any], bool]]
COUNT: Argument = ("a whole number, 0 or more", lambda v: type(v) is int and v >= 0)
TEXT: Argument = ("a non-empty string", lambda v: isinstance(v, str) and bool(v.strip()))
TEXTS: Argument = ("a list of non-empty strings", lambda v: isinstance(v, list) and bool(v) and all(map(TEXT[1], v)))
LETTER: Argument = ("one character", lambda v: TEXT[1](v) and len(v) == 1)
RELATION: Argument = (" or ".join(map(repr, RELATIONS)), lambda v: v in RELATIONS)
LANGUAGE: Argument = (f"one of {LANGUAGES}", lambda v: v in LANGUAGES.split())

KINDS: dict[str, tuple[Callable[..., bool], dict[str, Argument]]] = {
    "keywords:existence": (lambda text, keywords: all(_found(word, text) for word in keywords), {"keywords": TEXTS}),
    "keywords:frequency": (_keyword_frequency, {"keyword": TEXT, "frequency": COUNT, "relation": RELATION}),
    "keywords:forbidden_words": (_forbidden_words, {"forbidden_words": TEXTS}),
    "keywords:letter_frequency": (
        _letter_frequency,
        {"letter": LETTER, "let_frequency": COUNT, "let_relation": RELATION},
    ),
    "language:response_language": (_response_language, {"language": LANGUAGE}),
    "length_constraints:number_sentences": (_num_sentences, {"num_sentences": COUNT, "relation": RELATION}),
    "length_constraints:number_paragraphs": (_num_paragraphs, {"num_paragraphs": COUNT}),
    "length_constraints:number_words": (_num_words, {"num_words": COUNT, "relation": RELATION}),
    "length_constraints:nth_paragraph_first_word": (
        _first_word,
        {"num_paragraphs": COUNT, "nth_paragraph": COUNT, "first_word": TEXT},
    ),
    "detectable_content:number_placeholders": (_num_placeholders, {"num_placeholders": COUNT}),
    "detectable_content:postscript": (_postscript, {"postscript_marker": TEXT}),
    "detectable_format:number_bullet_lists": (_num_bullets, {"num_bullets": COUNT}),
    "detectable_format:constrained_response": (lambda text: any(option in text for option in OPTIONS), {}),
    "detectable_format:number_highlighted_sections": (_num_highlights, {"num_highlights": COUNT}),
    "detectable_format:multiple_sections": (_num_sections, {"section_spliter": TEXT, "num_sections": COUNT}),
    "detectable_format:json_format": (_json_format, {}),
    "detectable_format:title": (_title, {}),
    "combination:two_responses": (_two_responses, {}),
    "combination:repeat_prompt": (_repeat_prompt, {"prompt_to_repeat": TEXT}),
    "startend:end_checker": (_end, {"end_phrase": TEXT}),
    "startend:quotation": (lambda text: re.fullmatch(r'\s*".*"\s*', text, re.DOTALL) is not None, {}),
    "change_case:capital_word_frequency": (
        _capital_words,
        {"capital_frequency": COUNT, "capital_relation": RELATION},
    ),
    "change_case:english_capital": (lambda text: text.isupper() and _response_language(text, "en"), {}),
    "change_case:english_lowercase": (lambda text: text.islower() and _response_language(text, "en"), {}),
    "punctuation:no_comma": (lambda text: "," not in text, {}),
}
