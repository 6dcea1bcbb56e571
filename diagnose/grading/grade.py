"""One response, read twice: `strict` is what production would accept, `lenient` is whether the content is there.

Lenient is not lax: an answer that also names a wrong option, hedges between two answers, or only repeats the prompt
fails it. A response that gives no answer, or none that these graders can compare, is unread: neither right nor wrong.
Each function below implements one kind of grader.
"""

from __future__ import annotations

import math
import unicodedata
from string import ascii_uppercase
from typing import Any, Literal

import regex

from diagnose.grading.content import contains, one_content
from diagnose.grading.grader import compiled
from diagnose.grading.ifeval import follows
from diagnose.grading.json_answer import read_json
from diagnose.grading.numbers import Quantity, amount_alone, equal, number_alone, quantities, restated
from diagnose.grading.settled import asserted, brief, committed, settled
from diagnose.grading.unread import beyond_refusal, spoken, why_unread
from diagnose.records import EvalItem, Reading

RULES = 2
"""Version of the rules by which answers are read; answers read by others belong to another run."""
ASIDE = regex.compile(r"[(\[][^()\[\]]*[)\]]")
BEFORE_A_REASON = regex.compile(
    r"^([^\n]{1,80}?\d[^\n]{0,40}?)[,;]?\s*\b(?:since|because|given that|as (?=\d))\b"
    r"(?!.*(?:=|\b(?:so|therefore|thus|hence)\b))[^\n]*$",
    regex.I,
)
"""One line that gives the answer first and then why."""
CALCULATOR = regex.compile(r"<<[^<>]*>>")
"""GSM8K's notes of what a calculator was asked."""
LAST = 20
"""Numbers at the end of a text that are tried (hand-set)."""
FIRST_SENTENCE = regex.compile(r"[\s*_$€£]*(.+?)[*_]*(?:[.!]+(?=\s|$)|\n|$)")
TWO_NUMBERS = regex.compile(r"\d\s+or\s+(?:maybe\s+)?[-+$€£]?\d[\d.,]*+(?!\s?[*×x/+=^-])", regex.I)
BOUND = regex.compile(
    r"\b(?:(?:more|less|fewer|greater|higher|lower|bigger|smaller) than|over|under|above|below"
    r"|up to) [$€£]?\d(?:[\d.,]*\d)?",
    regex.I,
)
"""A number that the text gives as a bound is not its answer."""
TWO_LETTERS = regex.compile(r"\b([A-Z])\s*(?:,|/|or|and)\s*\(?([A-Z])\b")
REJECTED_LINE = regex.compile(
    r"\W*[A-Z]\W.*\b(?:no|wrong|incorrect|false|not (?:right|correct|it|true|this))\b[\s.!]*$", regex.I
)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
LETTER = regex.compile(
    r"(?:^|[\s(*\[{>\"'])([A-Z])(?=[.):*\]}<\"',]|\s*$)"
    r"|\b(?:is|be|answer:?|option|choice|leaves|choose|pick|with)\s+\(?([A-Z])\b",
    regex.M,
)

SMALL_LETTER = regex.compile(
    r"^\W*([a-f])\W*$|\(([a-f])\)|(?:^|\s)([a-f])\)|\b(?:option|choice|answer(?: is|:)?)\s+([a-f])\b"
)
OPTION = r"\b(?:the {0} (?:one|option|choice|answer|alternative)|(?:option|choice|answer) (?:number |no\.? ?|#)?{1})\b"


def grade(item: EvalItem, text: str, cut_off: bool = False) -> Reading:
    """Grade one response.

    A thinking trace is not part of the answer. What is not right is looked at for a reason why it could not be read.

    Args:
        cut_off: it ended at the limit of its length: what is not right in form has not been read to its end.

    Returns:
        strict and lenient; both None with a reason where the response cannot be scored.
    """
    answer = spoken(text)
    if answer is None:
        return Reading(None, None, "unreachable")
    if not item.graded or item.grader.kind == "judge":
        by_nobody: Literal["ungraded", "judge"] = "judge" if item.graded else "ungraded"
        return Reading(None, None, "cut_off" if cut_off else why_unread(item, brief(answer)) or by_nobody)
    strict, lenient = _read(item, answer)
    if strict:
        return Reading(True, True)
    if cut_off:
        return Reading(None, None, "cut_off")
    if item.grader.kind != "instructions" and lenient:
        short = brief(answer)
        kept = beyond_refusal(short)  # what is named only to be declined is not answered
        if kept == short or _read(item, kept)[1]:
            return Reading(False, True)
    reason = why_unread(item, brief(answer))
    return Reading(None, None, reason) if reason else Reading(False, lenient and item.grader.kind == "instructions")


def _read(item: EvalItem, text: str) -> tuple[bool, bool]:
    match item.grader.kind:
        case "exact":
            return _exact(item, text)
        case "number":
            return _number(item, text)
        case "contains":
            return _contains(item, text)
        case "choice":
            return _choice(item, text)
        case "json":
            return read_json(item, text)
        case "regex":
            return _regex(item, text)
        case "instructions":
            # Whatever it says: an instruction on the form that is not followed is a matter of form.
            return follows(item.grader.instructions, item.turns[-1][1], text)[0], True
    raise AssertionError(item.grader.kind)


def has_content(item: EvalItem, text: str) -> bool:
    """Do the rules find the content there, whatever else the text is? False where a model has to say it."""
    return item.grader.kind != "judge" and _read(item, spoken(text) or "")[1]


def prefers(item: EvalItem, text: str) -> bool | None:
    """Does the item's rule accept this response? None where the item has no rule."""
    judge = item.judge
    if judge is None or judge.kind != "rule":
        return None
    return compiled(judge.prefer or "").search(spoken(text) or "") is not None


def separates_content(item: EvalItem) -> bool:
    """Can this grader recognise correct content in another format at all? If not, the mixture model drops FORMAT."""
    match item.grader.kind:
        case "contains":
            return False
        case "instructions" | "judge":
            return True
        case "regex":
            return bool(item.targets) or item.grader.lenient is not None
    return bool(item.targets)


def constraint_of(item: EvalItem) -> dict[str, Any] | None:
    """What production could constrain an answer to: a JSON Schema or one of the choices; None if it has neither."""
    if item.grader.schema is not None:
        return {"schema": item.grader.schema}
    return {"choices": list(item.choices)} if item.grader.kind == "choice" and item.choices else None


# ---------------------------------------------------------------- one function per kind: (strict, lenient)


def _exact(item: EvalItem, text: str) -> tuple[bool, bool]:
    strict = _nfc(text) in {_nfc(target) for target in item.references}
    return strict, one_content(item, brief(text), item.references, item.options)


def _contains(item: EvalItem, text: str) -> tuple[bool, bool]:
    wanted = item.targets or item.references
    found = any(contains(text, w) for w in wanted) and one_content(item, brief(text), wanted, item.options)
    return found, found


def _number(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: the number alone, or the `marker` and then only the number. Lenient: the number given as the answer."""
    golds = [found[-1] for target in item.references if (found := quantities(target))]
    marker, tolerance = item.grader.marker, float(item.grader.tolerance)
    tail = brief(text.rsplit(marker, 1)[-1] if marker and marker in text else text)
    alone = number_alone(tail) if marker is None or marker in text else None
    strict = alone is not None and any(
        math.isclose(alone, gold.value, rel_tol=1e-9, abs_tol=tolerance) for gold in golds
    )
    said = answered(tail)
    return strict, said is not None and any(equal(said, gold, tolerance) for gold in golds)


def answered(text: str) -> Quantity | None:
    """The number that a text gives as its answer.

    Of what it names as its answer the first; a number that is the whole first sentence; of a line that then gives a
    reason, the last before the reason; else what its last equation comes to, if the last number stands behind one; else
    the last number. Asides in brackets, numbers that the text rejects and the same amount in another unit do not count.
    None where it gives none, or hedges between two.
    """
    text = settled(CALCULATOR.sub("", text))
    if TWO_NUMBERS.search(text):
        return None
    if (named := committed(text)) is not None and (found := _amounts(named)):
        return _result(named) or found[0]
    if (opening := FIRST_SENTENCE.match(text)) and (alone := amount_alone(opening[1])) is not None:
        return alone
    reasoned = BEFORE_A_REASON.match(text.strip())
    said = ASIDE.sub(" ", reasoned[1] if reasoned else text)
    said = said if quantities(said) else text
    if (result := _result(said)) is not None:
        return result
    amounts = _amounts(BOUND.sub(" ", said) or said)[-LAST:]
    return next((q for q in reversed(amounts) if q in quantities(asserted(said, f"{q.value:g}"))), None)


def _result(text: str) -> Quantity | None:
    """The number behind the last equals sign, if it is in the last sentence that has a number."""
    sentences = [s for s in regex.split(r"(?<=[^\d\s])[.!?]\s+|\n", text) if quantities(s)]
    if not sentences or "=" not in sentences[-1]:
        return None
    return next(iter(quantities(sentences[-1].rpartition("=")[2])), None)


def _amounts(text: str) -> list[Quantity]:
    """The numbers outside brackets, an amount that is said in two units once."""
    found = quantities(ASIDE.sub(" ", text)) or quantities(text)
    again = [k for k in range(1, len(found)) if restated(found[k - 1], found[k])]
    return [q for k, q in enumerate(found) if k not in again]


def _choice(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: the choice's text or its letter, alone. Lenient: one choice is settled on, and it is the gold one."""
    choices = [_nfc(choice) for choice in item.choices]
    letters = dict(zip(ascii_uppercase, choices, strict=False))
    gold = {letters.get(target, _nfc(target)) for target in item.references} & set(choices)
    said = _nfc(text)
    strict = said in gold or letters.get(said.rstrip(".)").lstrip("(")) in gold
    said = settled(brief(said))
    last = committed(said)
    named = _named(item, last, letters, choices) if last is not None else set()
    if len(named) != 1:
        named = _named(item, said, letters, choices)
    return strict, len(named) == 1 and named <= gold


def _named(item: EvalItem, text: str, letters: dict[str, str], choices: list[str]) -> set[str]:
    """The choices that a text names by letter or by their text, less those that it rejects."""
    text = "\n".join(line for line in text.split("\n") if not REJECTED_LINE.match(line))
    kept = {m for m in letters if regex.search(rf"\b{m}\b", asserted(text, m))}
    if any({a, b} <= kept for a, b in TWO_LETTERS.findall(text)):
        return set()
    named = {letters[m] for m in {a or b for a, b in LETTER.findall(text)} & kept}
    named |= {letters[m] for found in SMALL_LETTER.findall(text) if (m := "".join(found).upper()) in letters}
    said = (regex.compile(OPTION.format(word, k), regex.I) for k, word in enumerate(ORDINALS, 1))
    named |= {c for c, option in zip(choices, said, strict=False) if option.search(text)}
    return named | {c for c in choices if one_content(item, text, [c], [o for o in choices if o != c])}


def _regex(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Strict: the pattern matches and, if it has a group and the item has a target, captures only the target.

    Lenient: the `lenient` pattern matches, or the text contains the target's content and no rival's.
    """
    golds = {_nfc(target) for target in item.references}
    found = [m.group(1) if m.re.groups else m.group() for m in compiled(item.grader.pattern).finditer(text)]
    captured = {_nfc(value or "") for value in found}
    held = compiled(item.grader.pattern).groups and golds
    strict = captured <= golds and bool(captured) if held else bool(captured)
    if item.grader.lenient is not None:
        return strict, strict or compiled(item.grader.lenient).search(text) is not None
    return strict, strict or (bool(golds) and one_content(item, brief(text), golds, item.options))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()
