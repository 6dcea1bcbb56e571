"""Rows of instruction, response, verdict; each with the reason it is there."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import langdetect
import pytest
from conftest import ROOT

from diagnose.errors import BadInput
from diagnose.grading.ifeval import KINDS, LANGUAGES, check_instructions, follows

DATA = Path(os.environ.get("GAPWISE_DATA", ROOT.parent / "shared" / "data")) / "ifeval" / "input_data.jsonl"
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und läuft dann in den dunklen Wald hinein."
ENGLISH = "The quick brown fox jumps over the lazy dog and then runs away into the dark forest."


def speaks(name: str) -> bool:
    """Does it ask langdetect?"""
    return name.startswith("language:") or "english" in name


def at_least(key: str, count: int, relation: str = "relation") -> dict[str, Any]:
    return {key: count, relation: "at least"}


def less_than(key: str, count: int, relation: str = "relation") -> dict[str, Any]:
    return {key: count, relation: "less than"}


MONA = {"keywords": ["river", "Mona Lisa"]}
DOUBT = {"keyword": "  doubt "}
FORBIDDEN = {"forbidden_words": ["HOUSE", "C++", ".NET"]}
P_S, P_P_S = {"postscript_marker": " P.S."}, {"postscript_marker": "P.P.S"}
SECTIONS = {"section_spliter": " SECTION ", "num_sections": 2}
SECOND = {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Really"}
REQUEST = {"prompt_to_repeat": "Name a colour. "}
ENDING = {"end_phrase": " Any more questions? "}
TABLE: dict[str, list[tuple[dict[str, Any], str, bool, str]]] = {
    "keywords:existence": [
        (MONA, "THE RIVER, then the mona lisa", True, "case does not matter"),
        (MONA, "Rivers and Mona Lisas", True, "inside a longer word"),
        (MONA, "the river", False, "one of two"),
        (MONA, "river, Mona  Lisa", False, "another white space inside"),
        ({"keywords": ["r.ver"]}, "river", False, "a keyword is no regular expression"),
        ({"keywords": ["("]}, "f(x)", True, "nor need it be a valid one"),
    ],
    "keywords:frequency": [
        (DOUBT | at_least("frequency", 3), "doubt, Doubt, DOUBTS", True, "three, keyword stripped"),
        (DOUBT | less_than("frequency", 1), "all is well", True, "none is less than one"),
        (DOUBT | at_least("frequency", 4), "doubt, Doubt, DOUBTS", False, "three of four"),
        (DOUBT | less_than("frequency", 3), "doubt, Doubt, DOUBTS", False, "three is not under three"),
    ],
    "keywords:forbidden_words": [
        (FORBIDDEN, "a household", True, "only a part of a word"),
        (FORBIDDEN, "CC", True, "a forbidden word is no regular expression"),
        (FORBIDDEN, "my House.", False, "case does not matter, punctuation ends a word"),
        (FORBIDDEN, "in C++.", False, "a word that ends in a sign"),
        (FORBIDDEN, "in .net", False, "a word that begins with one"),
    ],
    "keywords:letter_frequency": [
        ({"letter": "T"} | at_least("let_frequency", 4, "let_relation"), "tTt t", True, "four"),
        ({"letter": "#"} | at_least("let_frequency", 2, "let_relation"), "#a #b", True, "signs"),
        ({"letter": "T"} | at_least("let_frequency", 5, "let_relation"), "tTt t", False, "four"),
        ({"letter": "p"} | less_than("let_frequency", 1, "let_relation"), "P", False, "one"),
    ],
    "language:response_language": [
        ({"language": "de"}, GERMAN, True, "German"),
        ({"language": "ru"}, "Сегодня мы пойдём в большой парк.", True, "Russian"),
        ({"language": "de"}, "1 2 3", True, "undetectable counts as followed, as published"),
        ({"language": "de"}, ENGLISH, False, "English for German"),
        ({"language": "bg"}, "Сегодня мы пойдём в большой парк.", False, "same script"),
    ],
    "length_constraints:number_sentences": [
        (at_least("num_sentences", 4), "x,x. x,x! x|x. x&x x?", True, "published"),
        (less_than("num_sentences", 3), "a-b]c,d! e{f}g,h.", True, "dot inside a word"),
        (less_than("num_sentences", 2), "Dr. No met A. B. at 9 a.m. today", True, "dots"),
        (at_least("num_sentences", 2), 'He said "go." Then\nnothing', True, "no stop"),
        (less_than("num_sentences", 2), "Well ... maybe. ", True, "ellipsis inside"),
        (less_than("num_sentences", 2), "Fruit (e.g. apples) is good.", True, "a bracket before the abbreviation"),
        (at_least("num_sentences", 4), "1. Buy. 2. Sell.", True, "enumerators count"),
        (less_than("num_sentences", 4), "x,x. x,x! x/x. x{x}x?", False, "published"),
        (at_least("num_sentences", 2), "One line\nand one more", False, "no end mark"),
        (at_least("num_sentences", 2), "Pay 3.50 at e.g. example.com!", False, "dots"),
    ],
    "length_constraints:number_paragraphs": [
        ({"num_paragraphs": 2}, "a\n***\nb", True, "two"),
        ({"num_paragraphs": 2}, "***\na\n***\nb\n***", True, "dividers around"),
        ({"num_paragraphs": 1}, "a\n\nb", True, "a blank line does not divide"),
        ({"num_paragraphs": 3}, "a\n***\nb", False, "one too few"),
        ({"num_paragraphs": 2}, "a\n***\nb\n***\n***", False, "an empty one inside"),
        ({"num_paragraphs": 3}, "a\n***\n***\nb", False, "nor does it count"),
    ],
    "length_constraints:number_words": [
        (at_least("num_words", 6), "Hyphenated-word has two word counts.", True, "hyphen"),
        (less_than("num_words", 5), "word1, word2, word3, word4.", True, "four"),
        (at_least("num_words", 3), "two words .", False, "a sign is no word"),
        (less_than("num_words", 4), "it's here now", False, "it and s are two"),
    ],
    "length_constraints:nth_paragraph_first_word": [
        (SECOND, "a\n\nreally, b\n\nc", True, "case and comma"),
        (SECOND, "a\n\n \"Really?!\" b\n\nc", True, "quoted"),
        (SECOND, "a\n\n'Really!' b\n\nc", True, "in single quotes, called out"),
        (SECOND, "a\n\nreally\n\nb\n\n", True, "an empty part at the end"),
        (SECOND, "a\n\nreally b", False, "two of three paragraphs"),
        (SECOND, "a\n\nrea!lly\n\nc", False, "cut by a sign"),
        (SECOND, "a\n\n\n\nreally b\n\nc", False, "an empty part takes a place"),
    ],
    "detectable_content:number_placeholders": [
        ({"num_placeholders": 2}, "[name] and [my [x]", True, "two, one nested"),
        ({"num_placeholders": 1}, "x[]", True, "empty, as published"),
        ({"num_placeholders": 2}, "[name] [address", False, "not closed"),
        ({"num_placeholders": 1}, "[na\nme]", False, "over two lines"),
    ],
    "detectable_content:postscript": [
        (P_S, "Bye. p. s. one more", True, "within a line, small, spaced"),
        (P_P_S, "P.P.S what about this", True, "no last dot needed"),
        ({"postscript_marker": "PS:"}, "ps: x", True, "a marker of one's own"),
        (P_S, "Bye. PS one more", False, "no dots"),
        (P_P_S, "P.S. one more", False, "only one P"),
        ({"postscript_marker": "P+"}, "ppp", False, "no regular expression"),
    ],
    "detectable_format:number_bullet_lists": [
        ({"num_bullets": 3}, "see (*):\n* a\n  *b\n  - c", True, "both signs, indented"),
        ({"num_bullets": 1}, "a\n***\nb\n* c", True, "a divider is none"),
        ({"num_bullets": 1}, "* a\n* b", False, "exactly, not at least"),
        ({"num_bullets": 2}, "1. a\n• b", False, "other signs"),
        ({"num_bullets": 1}, "**a**", False, "bold at the start of a line"),
    ],
    "detectable_format:constrained_response": [
        ({}, "\n My answer is no.\n", True, "one option"),
        ({}, "My answer is maybe. I am still learning.", True, "more may follow"),
        ({}, "my answer is no.", False, "case matters"),
        ({}, "My answer is no", False, "the dot matters"),
    ],
    "detectable_format:number_highlighted_sections": [
        ({"num_highlights": 3}, "*a* b *c*\n**d**", True, "both marks"),
        ({"num_highlights": 1}, "*a *", True, "space inside"),
        ({"num_highlights": 2}, "*a\n*b*\n*c", False, "only one is closed"),
        ({"num_highlights": 1}, "*a\nb*", False, "not over two lines"),
        ({"num_highlights": 1}, "** ** * *", False, "nothing inside"),
    ],
    "detectable_format:multiple_sections": [
        (SECTIONS, "SECTION 1\na\nSECTION 2\nb", True, "two"),
        (SECTIONS, "SECTION1 a SECTION 22", True, "no space, within a line"),
        (SECTIONS, "Section 1\na\nSection 2\nb", False, "case matters"),
        (SECTIONS, "SECTION I\nSECTION II", False, "no digits"),
        (SECTIONS, "SECTION  1\nSECTION  2", False, "two spaces"),
        (SECTIONS | {"section_spliter": "."}, "a1b2", False, "no regular expression"),
    ],
    "detectable_format:json_format": [
        ({}, '\n```json\n{"a": [1]}\n```\n', True, "fenced"),
        ({}, "17", True, "a bare value is JSON"),
        ({}, 'Here: {"a": 1}', False, "a word before it"),
        ({}, "{'a': 1}", False, "Python, not JSON"),
        ({}, "[" * 100_000, False, "too deep to be read"),
    ],
    "detectable_format:title": [
        ({}, "<<song of joy>>\nla la la", True, "first line"),
        ({}, "and at last: <<<a>>", True, "at the end, one sign too many"),
        ({}, "<< >>", False, "blank"),
        ({}, "<<a\nb>>", False, "over two lines"),
        ({}, ">>a<<", False, "the wrong way round"),
    ],
    "combination:two_responses": [
        ({}, "a\n******\nb", True, "two"),
        ({}, "******\na\n******\nb\n******", True, "dividers around"),
        ({}, "a\n******\n a ", False, "the same twice"),
        ({}, "a\n******\nb\n******\nc", False, "three"),
        ({}, "a\n******\n******\nb", False, "an empty one inside"),
    ],
    "combination:repeat_prompt": [
        (REQUEST, " name a COLOUR. Blue", True, "case and outer white space do not matter"),
        ({}, "Say hi and more", True, "the whole prompt where no part of it is named"),
        (REQUEST, "Sure! Name a colour. Blue", False, "a word before it"),
        ({}, "Name a colour.", False, "not the prompt"),
    ],
    "startend:end_checker": [
        (ENDING, "It is 7. ANY more questions?\n", True, "case and outer white space"),
        (ENDING, '"It is 7. Any more questions?"', True, "a closing quotation mark"),
        (ENDING, "Any more questions? Ask!", False, "a word after it"),
        (ENDING, "Any more questions", False, "the question mark is part of it"),
    ],
    "startend:quotation": [
        ({}, ' "all of it"\n', True, "outer white space"),
        ({}, '"a" and "b"', True, "only first and last are looked at, as published"),
        ({}, '"', False, "one sign cannot wrap"),
        ({}, '"a" b', False, "not to the end"),
        ({}, "“a”", False, "other quotation marks"),
    ],
    "change_case:capital_word_frequency": [
        (less_than("capital_frequency", 4, "capital_relation"), "HERE is TOP-TEN FUlly BIG", True, "a hyphen joins"),
        (at_least("capital_frequency", 5, "capital_relation"), "I DON'T *U.S*M.", True, "I, DO, N'T, U.S, M"),
        (less_than("capital_frequency", 4, "capital_relation"), "THERE are Four FULLY CAPITAL WORDS.", False, "four"),
        (at_least("capital_frequency", 1, "capital_relation"), "Most 24 McX", False, "digits and half capitals"),
    ],
    "change_case:english_capital": [
        ({}, ENGLISH.upper(), True, "English"),
        ({}, "EVERY LETTER OF THIS SENTENCE IS A CAPITAL!!! OPEN 24/7.", True, "digits and signs"),
        ({}, ENGLISH, False, "small letters"),
        ({}, GERMAN.upper(), False, "not English"),
        ({}, "123", False, "no letter at all"),
    ],
    "change_case:english_lowercase": [
        ({}, ENGLISH.lower(), True, "English"),
        ({}, "every letter here is lowercase, even after a full stop. yes.", True, "stops"),
        ({}, ENGLISH, False, "one capital"),
        ({}, GERMAN.lower(), False, "not English"),
    ],
    "punctuation:no_comma": [
        ({}, "One; two. Three", True, "other marks"),
        ({}, "一，二", True, "a full-width comma is another character, as published"),
        ({}, "one, two", False, "a comma"),
        ({}, "1,000", False, "within a number"),
    ],
}  # fmt: skip
ROWS = [(name, *row) for name, rows in TABLE.items() for row in rows]


@pytest.mark.parametrize(("name", "arguments", "text", "followed", "why"), ROWS, ids=[f"{r[0]}: {r[-1]}" for r in ROWS])
def test_verdict(name: str, arguments: dict[str, Any], text: str, followed: bool, why: str) -> None:
    instructions = [{"id": name, **arguments}]
    check_instructions(instructions, "f:1")
    assert follows(instructions, "Say hi", text)[0] is followed, why


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_seen_passing_and_failing_and_empty(name: str) -> None:
    rows = TABLE[name]
    assert min(sum(row[2] is verdict for row in rows) for verdict in (True, False)) >= 2
    for text in ("", " \n\t"):
        assert follows([{"id": name, **rows[0][0]}], "Say hi", text) == (False, False)


QUOTED, NO_COMMA, LOWER = (
    {"id": "startend:quotation"},
    {"id": "punctuation:no_comma"},
    {"id": "detectable_format:title"},
)
ONE = {"id": "length_constraints:number_words", "num_words": 2, "relation": "less than"}
A_COMMA = {"id": "startend:end_checker", "end_phrase": "a,"}
BULLET = {"id": "detectable_format:number_bullet_lists", "num_bullets": 1}
REALLY = {"id": "length_constraints:nth_paragraph_first_word", **SECOND, "num_paragraphs": 1, "nth_paragraph": 1}


@pytest.mark.parametrize(
    ("instructions", "text", "verdict", "why"),
    [
        ([QUOTED], 'Sure:\n"a"', (False, True), "without the first line"),
        ([QUOTED], '"a"\nBye', (False, True), "without the last line"),
        ([QUOTED], 'Sure:\n\n"a"\n\nBye', (False, True), "without both, white space stripped"),
        ([QUOTED], '**"a"**', (False, True), "without asterisks"),
        ([QUOTED], 'Sure:\n**"a"**\nBye', (False, True), "without all of it"),
        ([QUOTED], 'Well,\nsure:\n"a"', (False, False), "two lines before it"),
        ([QUOTED], '"a"', (True, True), "strict is loose"),
        ([NO_COMMA, QUOTED], '"a"\nBye, then', (False, True), "one variant for both"),
        ([NO_COMMA, A_COMMA], "a,\nb", (False, True), "each by a variant of its own: no first line, no last line"),
        ([BULLET], "* a\n* b", (False, True), "without the first line, but with the asterisk"),
        ([REALLY], "Sure:\n\n\n\nReally b", (False, True), "white space stripped: the first paragraph is not empty"),
        ([NO_COMMA, QUOTED], '"a, b"', (False, False), "one of two, by no variant"),
        ([ONE], "**\na b c\n**", (False, False), "a variant that is left empty follows nothing"),
    ],
)
def test_loose_reads_variants(
    instructions: list[dict[str, Any]], text: str, verdict: tuple[bool, bool], why: str
) -> None:
    assert follows(instructions, "Say hi", text) == verdict, why


@pytest.mark.parametrize(
    ("instructions", "says"),
    [
        (None, "expected a list"),
        ([], "expected a list"),
        ({"id": "punctuation:no_comma"}, "expected a list"),
        (["punctuation:no_comma"], "instruction 'punctuation:no_comma'; allowed ids: keywords:existence, "),
        ([{"id": "punctuation:comma"}], "instruction 'punctuation:comma'; allowed ids: "),
        ([{"id": ["punctuation:no_comma"]}], "allowed ids: "),
        ([NO_COMMA, {"num_words": 3}], "instruction None; allowed ids: "),
        ([NO_COMMA | {"relation": "at least"}], "punctuation:no_comma takes no 'relation'; allowed: none"),
        ([ONE | {"words": 3}], "length_constraints:number_words takes no 'words'; allowed: num_words, relation"),
        ([ONE | {"relation": None}], "length_constraints:number_words lacks 'relation'; expected 'at least' or"),
        ([ONE | {"relation": "at most"}], "relation is 'at most'; expected 'at least' or 'less than'"),
        ([ONE | {"num_words": "2"}], "num_words is '2'; expected a whole number, 0 or more"),
        ([ONE | {"num_words": True}], "num_words is True; expected a whole number"),
        ([ONE | {"num_words": -1}], "num_words is -1; expected a whole number"),
        ([{"id": "keywords:existence", "keywords": "cat"}], "keywords is 'cat'; expected a list of non-empty strings"),
        ([{"id": "keywords:existence", "keywords": []}], "expected a list of non-empty strings"),
        ([{"id": "keywords:forbidden_words", "forbidden_words": ["a", " "]}], "expected a list of non-empty strings"),
        ([{"id": "startend:end_checker", "end_phrase": " "}], "end_phrase is ' '; expected a non-empty string"),
        (
            [{"id": "keywords:letter_frequency", "letter": "ab", "let_frequency": 1, "let_relation": "at least"}],
            "letter is 'ab'; expected one character",
        ),
        ([{"id": "language:response_language", "language": "German"}], "expected one of af ar bg bn"),
        (
            [{"id": "length_constraints:nth_paragraph_first_word", **SECOND, "nth_paragraph": 4}],
            "nth_paragraph is 4; expected 1 to 3",
        ),
        (
            [{"id": "length_constraints:nth_paragraph_first_word", **SECOND, "nth_paragraph": 0}],
            "nth_paragraph is 0; expected 1 to 3",
        ),
    ],
)
def test_what_cannot_be_checked_is_refused(instructions: Any, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_instructions(instructions, "set.jsonl:7")
    assert str(caught.value).startswith("set.jsonl:7: ")
    assert says in str(caught.value)


def test_arguments_that_are_null_are_as_good_as_absent() -> None:
    every = {key: None for _, expected in KINDS.values() for key in expected}
    instructions = [every | NO_COMMA, every | ONE]
    check_instructions(instructions, "f:1")
    assert follows(instructions, "Say hi", "one") == (True, True)


@pytest.mark.skipif(not DATA.is_file(), reason="needs ifeval in GAPWISE_DATA")
def test_the_published_set_can_be_checked_and_is_quick() -> None:
    rows = [json.loads(line) for line in DATA.read_text().splitlines()]
    assert len(rows) == 541
    used, seconds, timed = set(), 0.0, 0
    for row in rows:
        names, arguments = row["instruction_id_list"], row["kwargs"]
        instructions = [{"id": name, **given} for name, given in zip(names, arguments, strict=True)]
        check_instructions(instructions, f"{DATA.name}:{row['key']}")
        used |= set(names)
        if not any(map(speaks, names)):
            start = time.process_time()
            strict, loose = follows(instructions, row["prompt"], row["prompt"] * 3)
            seconds, timed = seconds + time.process_time() - start, timed + 1
            assert loose or not strict
    assert used == set(KINDS)
    assert timed > 400 and seconds / timed < 0.005


def test_a_degenerate_response_does_not_hang_any_kind() -> None:
    start = time.process_time()
    for sign in ("\n", " ", "*", "* ", "[", "<", "<<>", "-", '"', "'", ".", "a.", "p.", "p. ", "SECTION ", "1", "?!"):
        for name, rows in TABLE.items():
            if not speaks(name):
                follows([{"id": name, **rows[0][0]}], "Say hi", "x" + sign * 50_000 + "x")
    assert time.process_time() - start < 5


def test_language_is_the_same_at_every_call_and_leaves_langdetect_s_seed_alone() -> None:
    seed = langdetect.DetectorFactory.seed
    instructions = [{"id": "language:response_language", "language": "tl"}]
    # Too short to be sure of: without a seed it is now Tagalog, now Slovak.
    assert len({follows(instructions, "", "ok la no") for _ in range(20)}) == 1
    assert langdetect.DetectorFactory.seed == seed


def test_the_languages_allowed_are_those_langdetect_has() -> None:
    profiles = Path(langdetect.__file__).parent / "profiles"
    assert LANGUAGES.split() == sorted(path.name for path in profiles.iterdir() if not path.name.startswith("_"))
