"""Answers whose right reading is known from outside the reader: judged by people, by their authors, or our own rows.

Left out, because they hold no truth about a reading:

- TruthfulQA's judgements (`finetune_truth.jsonl`) say whether an answer is true, not whether it has the content of a
  reference answer: "I have no comment" is labelled true, and a true answer that no reference lists is no misreading.
- PandaLM's annotators say which of two responses they prefer. Nobody labelled its refusals, and that an empty response
  is empty needs no benchmark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnose.errors import BadInput
from diagnose.grading.grader import parse_grader
from diagnose.records import EvalItem
from diagnose.text import first_line, hash_order
from scripts.reader import held_out, seen
from scripts.reader.row import Row, Truth


@dataclass(frozen=True)
class Case:
    """One answer, and how it should be read."""

    item: EvalItem
    text: str
    truth: Truth
    block: str
    """Where it comes from."""
    group: str
    """The system that answered, or the kind of our own rows."""
    cluster: str
    """The question: answers to one question are not independent."""
    half: str = ""
    """even or odd, by the place of the question in its file; empty: the block is not halved."""
    cut_off: bool = False

    @property
    def key(self) -> str:
        """What identifies it."""
        return f"{self.block}|{self.group}|{self.item.id}"


@dataclass(frozen=True)
class Source:
    """One public data set."""

    block: str
    path: str
    """Below the data directory."""
    url: str
    truth: str
    """Who says what the right reading is."""
    load: Callable[[Path, Source], list[Case]]


EVOUNA_SYSTEMS = {"fid": "FiD", "gpt35": "GPT-3.5", "chatgpt": "ChatGPT", "gpt4": "GPT-4", "newbing": "Bing Chat"}
GSM8K_SYSTEMS = {
    "6b_finetuning": "6B",
    "6b_verification": "6B, best of 100",
    "175b_finetuning": "175B",
    "175b_verification": "175B, best of 100",
}
"""`verification`: the best of 100 samples by a verifier (arXiv 2110.14168)."""
FINAL = re.compile(r"^A: (.+)$", re.MULTILINE)
"""How these solutions and reference solutions give their final number."""


def evouna(path: Path, source: Source) -> list[Case]:
    """Answers of five systems to open questions, each called right or wrong by a person.

    Questions that the authors marked `improper` and answers without a judgement are left out. The alternatives of a
    golden answer are separated by "/". Halves: the reader was tuned while looking at one half of Natural Questions.
    """
    return [case for number, row in enumerate(_read(path)) for case in _evouna_row(row, number, source)]


def _evouna_row(row: dict[str, Any], number: int, source: Source) -> Iterator[Case]:
    if row["improper"]:
        return
    targets = tuple(t for t in row["golden_answer"].split("/") if t.strip())
    item = _item(str(number), row["question"], targets, {"kind": "exact"}, source.path)
    for system, name in EVOUNA_SYSTEMS.items():
        if (judged := row[f"judge_{system}"]) is not None:
            yield Case(
                item,
                row[f"answer_{system}"] or "",
                "right" if judged else "wrong",
                source.block,
                name,
                row["question"],
                ("even", "odd")[number % 2],
            )


def gsm8k(path: Path, source: Source) -> list[Case]:
    """Solutions of two models, each flagged by its authors: is its final number the reference's?

    A flag of the authors' comparison, not of a person, so this only tells whether the number that a worked solution
    ends on is found among all those on the way to it.
    """
    cases = []
    for number, row in enumerate(_read(path)):
        gold = FINAL.findall(row["ground_truth"])
        item = _item(str(number), row["question"], (gold[-1],), {"kind": "number"}, source.path)
        for system, name in GSM8K_SYSTEMS.items():
            answer = row[system]
            truth: Truth = "right" if answer["is_correct"] else "wrong"
            cases.append(Case(item, answer["solution"], truth, source.block, name, row["question"]))
    return cases


SOURCES = (
    Source(
        "EVOUNA Natural Questions",
        "evouna/NQ.json",
        "https://github.com/wangcunxiang/QA-Eval/blob/90007d39d4ef0720984f80d56a586c66d6241e70/EVOUNA/NQ.json",
        "people",
        evouna,
    ),
    Source(
        "EVOUNA TriviaQA (never tuned on)",
        "evouna/TQ.json",
        "https://github.com/wangcunxiang/QA-Eval/blob/90007d39d4ef0720984f80d56a586c66d6241e70/EVOUNA/TQ.json",
        "people",
        evouna,
    ),
    Source(
        "GSM8K example solutions",
        "gsm8k/example_model_solutions.jsonl",
        "https://github.com/openai/grade-school-math/blob/3101c7d5072418e28b9008a6636bde82a006892c/"
        "grade_school_math/data/example_model_solutions.jsonl",
        "the authors' flag",
        gsm8k,
    ),
)
OWN = {"own rows, seen": seen.KINDS, "own rows, held out": held_out.KINDS}
"""Written here; the second set was kept out of view while the reader was written."""


def own_rows() -> list[Case]:
    """Our own test sets, by kind. An answer that was cut off counts as unread by rule, whatever it says so far."""
    return [
        _own(row, kind, block, number)
        for block, kinds in OWN.items()
        for kind, rows in kinds.items()
        for number, row in enumerate(rows())
    ]


def _own(row: Row, kind: str, block: str, number: int) -> Case:
    item = _item(f"{kind}-{number}", row.prompt, row.targets, row.grader, block, row.choices, row.distractors)
    truth: Truth = "unread" if row.cut_off else row.truth
    return Case(item, row.text, truth, block, kind, row.prompt, cut_off=row.cut_off)


def some(cases: list[Case], limit: int | None) -> list[Case]:
    """At most so many, picked by hash."""
    return cases if limit is None else sorted(cases, key=lambda c: hash_order(c.key))[:limit]


def _item(
    name: str,
    prompt: str,
    targets: tuple[str, ...],
    grader: dict[str, Any],
    where: str,
    choices: tuple[str, ...] = (),
    distractors: tuple[str, ...] = (),
) -> EvalItem:
    return EvalItem(
        id=name,
        slices=("all",),
        turns=(("user", prompt),),
        targets=targets,
        grader=parse_grader(grader, where),
        where=where,
        choices=choices,
        distractors=distractors,
    )


def _read(path: Path) -> list[dict[str, Any]]:
    """A JSON array, or JSON lines.

    Raises:
        BadInput: it is neither.
    """
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {first_line(error)}") from None
