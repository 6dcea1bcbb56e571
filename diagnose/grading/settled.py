"""What a text settles on: without what it rejects, takes back, hedges, or goes on to ask itself."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import regex

LONGEST, RUN_KEPT = 8_000, 4
"""Characters of a text, and of a run of one sign, that are read for content (both hand-set)."""
RUN = regex.compile(r"([^\w\s])\1{8,}|\s{9,}")
CLAUSE = regex.compile(
    r"[^.!?;:,()\n\u2014]+?(?:(?=(?<!thing )\b(?:but|however|whereas|while)\b)|[.!?;:,()\n\u2014]+|$)", regex.I
)
NOT = (
    r"(?:\b(?:not|never|nor|neither|cannot|rather than|instead of|unlike|other than|(?:any|every)thing but"
    r"|except|whether"
    r"|rul(?:e|es|ed|ing) out|eliminat\w+|exclud\w+|so (?:is|are))\b|n['’]t\b)"
)
OTHERS_SAY = (
    r"\b(?:people|many|most|some|others|you)\b(?:\W+\w+){0,3}?\W+(?:say|think|believe|guess|name|assume|suppose|confuse|mistake)\b"
    r"|\bsaying\b"
)
"""What the text says that others think."""
WRONG = r"\b(?:wrong|incorrect|false|untrue)\b"
MISTAKE = r"(?:\w+\W+){0,2}(?:mistake|misconception|guess|trap|confusion)\b"
CUE = regex.compile(rf"{NOT}|{WRONG}|{OTHERS_SAY}|{MISTAKE}|\b(?:only|just|merely|no)\b", regex.I)
BEFORE = rf"(?:{NOT}(?!\W+(?:only|just|sure)\b)|{OTHERS_SAY})"
AFTER = (
    rf"(?:(?:is|was|are|were|would be)\W+(?:(?:\w+\W+)?(?:{WRONG}|not (?:right|correct|true|the|it)\b)"
    rf"|(?:only|just|merely)\W+an|{MISTAKE})|no\b(?!\W+\w))"
)
NEGATION = regex.compile(
    r"\b(?:no|not|none|nobody|nothing|nowhere|never|nor|neither|cannot|without|hardly|wrong|incorrect|false"
    r"|untrue|inaccurate|doubt\w*|den(?:y|ies|ied|ying)|disagree\w*|mistaken?|question"
    r"|other than|else than|rather than|instead of|except|unlike)\b"
    r"|n['’]t\b|(?<=thing |where )but\b|\bno one (?=but)",
    regex.I,
)
"""Two in one clause affirm: "none other than", "not wrong", "there is no doubt"."""
STRUCK = regex.compile(
    r"~~.+?~~|<(del|s|strike)>.*?</\1>|^\s*[-*+]?\s*\[ \][^\n]*$|^[^\n]*[❌✗✘🚫][^\n]*$", regex.S | regex.M
)
"""What markdown strikes through, a box that is not ticked, a line with a cross."""
TAKEN_BACK = regex.compile(
    r"\b(?:wait|scratch that|correction|on second thought|let me (?:correct|rephrase|fix)"
    r"|i (?:meant|misspoke|take that back)|no,? sorry|sorry,? no|oops|strike that|hmm+,? no|my mistake"
    r"|i made a(?:n error| mistake))\b[\s,.:;!\u2014-]*",
    regex.I,
)
EMPHASIS = regex.compile(r"\*\*|__|(?<!\w)`+|`+(?!\w)|^#{1,3}\s+|\\text\{(?=[^{}]*\})", regex.M)
GOES_ON = regex.compile(
    r"\n\s*(?:#+\s*)?(?:\*\*)?(?:Q|Question|User|Human|Input|Instruction|Prompt"
    r"|Problem|Passage|Exercise)(?:\s*\d+)?(?:\*\*)?\s*[:.)]|<\|(?:im_start|user|endoftext|eot_id)\|>"
)
"""Where a model that has answered asks itself the next question."""
UNSURE = regex.compile(r"\b(?:either|not sure|unsure|maybe|perhaps|possibly|(?:could|might|may) be)\b", regex.I)
SHORT = 10
"""Words of a text in which "Paris or Lyon" is a hedge; in longer ones "or" mostly joins two names of one thing (on
EVOUNA's Natural Questions: 75 right answers lost for 2 wrong ones)."""
HEDGE = r"\b(?:either\W+(?:the\W+)?{0}|{0}\W+or\b|or\W+(?:the\W+)?{0})(?!\w)"
COMMITTED = regex.compile(
    r"####\s*(?P<a>[^\n]+)|\\boxed\{(?P<b>[^{}]+(?:\{[^{}]*\}[^{}]*)*)\}|<answer>(?P<c>.*?)(?:</answer>|$)"
    r"|\b(?:final|correct|right|best) answer(?: is|:)+\s*(?P<d>[^\n]+)|\banswer(?: is|:)+\s*(?P<e>[^\n]+)"
    r"|(?P<f>[^\n.,;:?!]{1,60}?)\W{1,4}is\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|one|option|choice))?\b",
    regex.I | regex.S,
)


def brief(text: str) -> str:
    """The text without long runs of one sign, and without the middle of what is longer than LONGEST.

    A model that finds no end repeats itself, and patterns that look around may take the square of its length.
    """
    text = str(RUN.sub(lambda m: m.group()[:RUN_KEPT], text))
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"


def settled(text: str) -> str:
    """The text up to where it asks itself the next question, without what it strikes through or takes back."""
    if (on := GOES_ON.search(text)) and text[: on.start()].strip():
        text = text[: on.start()]
    text = EMPHASIS.sub("", text)
    text = STRUCK.sub(" ", text) if STRUCK.search(text) and STRUCK.sub("", text).strip() else text
    back = [m for m in TAKEN_BACK.finditer(text) if len(text[m.end() :].split()) > 0]
    return text[back[-1].end() :] if back and text[: back[-1].start()].strip() else text


def asserted(text: str, value: str) -> str:
    """The text without the clauses that reject this value: "not Lyon", "B is wrong", "rather than …"."""
    if not CUE.search(text):
        return text
    name = r"\W+".join(map(regex.escape, regex.findall(r"\w+", value)[-3:])) or regex.escape(value.strip())
    rejects = _rejects(name)
    clauses = (m.group() for m in CLAUSE.finditer(text))
    return "".join(c for c in clauses if not rejects.search(c) or (n := len(NEGATION.findall(c))) and n % 2 == 0)


@lru_cache(maxsize=1 << 10)
def _rejects(name: str) -> Any:
    return regex.compile(rf"{BEFORE}(?:\W+\w+){{0,3}}?\W+{name}(?!\w)|(?<!\w){name}\W+(?:\w+\W+)?{AFTER}", regex.I)


def committed(text: str) -> str | None:
    """What the text itself names as its answer, the last time it does; None where it does not."""
    found = list(COMMITTED.finditer(text))
    return next(value for value in found[-1].groupdict().values() if value is not None) if found else None


def final(text: str) -> bool:
    """Does the text mark its answer as the final one?"""
    return regex.search(r"####|\\boxed\{|<answer>|\bfinal answer\b|^\W*answer\s*:", text, regex.I | regex.M) is not None


def hedged(text: str, gold: str) -> bool:
    """Does the text leave open whether it is the gold answer or another?"""
    if len(text.split()) > SHORT and not UNSURE.search(text):
        return False
    name = r"\W+".join(map(regex.escape, regex.findall(r"\w+", gold))) or regex.escape(gold.strip())
    return regex.search(HEDGE.format(name), text, regex.I) is not None
