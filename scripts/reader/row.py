"""One row of a test set for the reader of answers, and the rules that both test sets share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Truth = Literal["right", "wrong", "unread"]
REASONS = ("cut_off", "refused", "empty", "foreign", "gibberish", "unreachable")


@dataclass(frozen=True)
class Row:
    """A question, a model's answer to it, and how a careful person reads that answer."""

    kind: str
    grader: dict[str, Any]
    prompt: str
    targets: tuple[str, ...]
    text: str
    truth: Truth
    reason: str = ""
    choices: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()
    cut_off: bool = False


@dataclass(frozen=True)
class Fact:
    """A question, what it asks for, its answer, and an answer that many give in its place."""

    prompt: str
    topic: str
    gold: str
    rival: str


@dataclass(frozen=True)
class Options:
    """A multiple-choice question: its options, and the places of the answer, a rival and another wrong option."""

    question: str
    choices: tuple[str, ...]
    gold: int
    rival: int
    other: int

    @property
    def prompt(self) -> str:
        """The question with its lettered options below it."""
        return "\n".join([self.question, *(f"{'ABCDEF'[i]}. {text}" for i, text in enumerate(self.choices))])


def fill(template: str, fact: Fact, answer: str, rival: str) -> str:
    """Put an answer (`<a>`), a rival (`<b>`) and the topic (`<t>`, or `<T>` at the start of a sentence) in a text."""
    topic = fact.topic
    for mark, value in {"<a>": answer, "<A>": answer[0].upper() + answer[1:], "<b>": rival,
                        "<B>": rival[0].upper() + rival[1:], "<t>": topic, "<T>": topic[0].upper() + topic[1:]}.items():
        template = template.replace(mark, value)
    return template


def exact(kind: str, fact: Fact, text: str, truth: Truth, reason: str = "", *, hint: bool = True,
          cut_off: bool = False) -> Row:
    """Return a row with the `exact` grader; `hint` lists the rival among the distractors."""
    return Row(kind, {"kind": "exact"}, fact.prompt, (fact.gold,), text, truth, reason,
               distractors=(fact.rival,) if hint else (), cut_off=cut_off)


def paired(kind: str, facts: Sequence[Fact], templates: Iterable[str], *, cut_off: bool = False) -> list[Row]:
    """Write each template twice: with the answer as `<a>` (right), and with the rival as `<a>` (wrong)."""
    rows = []
    for i, template in enumerate(templates):
        fact, hint = facts[i % len(facts)], i % 2 == 0
        rows.append(exact(kind, fact, fill(template, fact, fact.gold, fact.rival), "right", hint=hint, cut_off=cut_off))
        rows.append(exact(kind, fact, fill(template, fact, fact.rival, fact.gold), "wrong", hint=hint, cut_off=cut_off))
    return rows


def unread(kind: str, facts: Sequence[Fact], templates: Iterable[str], reason: str, *,
           cut_off: bool = False) -> list[Row]:
    """Write each template once, as an answer that cannot be read for the given reason."""
    rows = []
    for i, template in enumerate(templates):
        fact = facts[i % len(facts)]
        text = fill(template, fact, fact.gold, fact.rival)
        rows.append(exact(kind, fact, text, "unread", reason, hint=i % 2 == 0, cut_off=cut_off))
    return rows


def variants(kind: str, facts: Iterable[tuple[str, str, Sequence[str], Sequence[str]]], wordings: Sequence[str],
             grader: str = "exact") -> list[Row]:
    """Write each right and wrong variant of an answer in one of the wordings, which stand for it as `<a>`."""
    rows: list[Row] = []
    for prompt, gold, right, wrong in facts:
        for truth, texts in (("right", right), ("wrong", wrong)):
            for text in texts:
                filled = wordings[len(rows) % len(wordings)].replace("<a>", text)
                if text.endswith("."):  # an abbreviation at the end of a sentence takes no second full stop
                    filled = filled.replace(text + ".", text)
                rows.append(Row(kind, {"kind": grader}, prompt, (gold,), filled,
                                "right" if truth == "right" else "wrong"))
    return rows


def choice(kind: str, item: Options, text: str, truth: Truth, *, letter: bool = True) -> Row:
    """Return a row with the `choice` grader, whose target is the letter or the text of the option."""
    target = "ABCDEF"[item.gold] if letter else item.choices[item.gold]
    return Row(kind, {"kind": "choice"}, item.prompt, (target,), text, truth, choices=item.choices)


def options(kind: str, items: Sequence[Options], templates: Iterable[str]) -> list[Row]:
    """Write each template with the answer's letter and text as `<a>` and `<at>` (right), and with the rival's (wrong).

    `<b>` and `<bt>` stand for the other one of the two, `<c>` and `<ct>` for a third option.
    """
    rows = []
    for i, template in enumerate(templates):
        item = items[i % len(items)]
        for first, second, truth in ((item.gold, item.rival, "right"), (item.rival, item.gold, "wrong")):
            places = {"a": first, "b": second, "c": item.other}
            text = re.sub(r"<([abc])(t?)>",
                          lambda m, item=item, places=places: (  # type: ignore[misc]
                              item.choices[places[m[1]]] if m[2] else "ABCDEF"[places[m[1]]]), template)
            rows.append(choice(kind, item, text, "right" if truth == "right" else "wrong", letter=i % 2 == 0))
    return rows
