"""audit.csv: the plain answers whose label by a person would tell most, and the labels that come back.

Part of each slice's rows is drawn by chance, half of them from answers read as right content and half from the unclear
ones; they measure the reader. The others are the items of which the posterior knows least whether the content is there.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from diagnose.errors import BadInput
from diagnose.items.evalset import EvalSet, by_slice
from diagnose.probes.answers import AnswerLog
from diagnose.probes.table import Probe
from diagnose.provenance import write_whole
from diagnose.records import Attribution, EvalItem
from diagnose.verdict.readings import LABELS, Labels, content_missing, doubted

Said = Literal["right", "wrong", "cannot tell"]
Labelled = tuple[str, dict[str, str]]
"""Where a row stands (file:line), and its cells."""
LABEL = "label"
FIELDS = ("item", "slice", "picked", "question", "wanted", "answer", "read_as", "answer_sha", LABEL)
AT_RANDOM, TELLING = "at random", "would tell most"
MOST = 10
"""Rows of a slice that are not drawn by chance (hand-set)."""
SHOWN = 4000
"""Characters of a text that are shown (hand-set)."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""How a cell begins that a spreadsheet would run, or that is escaped already."""


@dataclass(frozen=True)
class _Row:
    item: EvalItem
    slice: str
    picked: str
    answer: str
    read_as: str


def write_audit(path: Path, evalset: EvalSet, log: AnswerLog, found: Attribution) -> int:
    """Write the file; rows that have a label stay as they are. Nothing is written where no answer was read with doubt.

    A file that is there and cannot be read is left alone, with a warning: somebody may have worked on it.

    Args:
        log: the answers as they were read, without labels.

    Returns:
        How many rows it has.
    """
    try:
        old = list(_read(path)) if path.exists() else []
        labelled = {_plain_text(row["item"]): row for _, row in old if row[LABEL].strip()}
    except BadInput as error:
        print(f"warning: {error}; it is left as it is, and no new one is written", file=sys.stderr)
        return 0
    rows = [row for row in _rows(evalset, log, found) if row.item.id not in labelled]
    if not rows and not labelled:
        return 0
    text = io.StringIO()
    out = csv.DictWriter(text, FIELDS, lineterminator="\n", quoting=csv.QUOTE_ALL)
    out.writeheader()
    out.writerows(labelled.values())
    for row in rows:
        cells = (row.item.id, row.slice, row.picked, row.item.turns[-1][1], " / ".join(row.item.references), row.answer)
        shown = (*(_inert(cell[:SHOWN]) for cell in cells), row.read_as, _sha(row.answer), "")
        out.writerow(dict(zip(FIELDS, shown, strict=True)))
    write_whole(path, text.getvalue())
    return len(rows) + len(labelled)


def read_audit(path: str) -> list[Labelled]:
    """The rows of a filled-in file that have a label.

    Raises:
        BadInput: the file cannot be read, or a label is none.
    """
    rows = []
    for where, row in _read(Path(path)):
        said = row[LABEL].strip().lower()
        if said and said not in get_args(Said):
            raise BadInput(f"{where}: label {row[LABEL]!r}; allowed: {', '.join(get_args(Said))}, or nothing")
        rows += [(where, row | {LABEL: said})] if said else []
    return rows


def labels_of(rows: list[Labelled], log: AnswerLog) -> Labels:
    """What they say of the plain answers of this run; `cannot tell` says nothing.

    Raises:
        BadInput: an answer is not the one that this model gave.
    """
    right: dict[str, bool] = {}
    at_random = set()
    for where, row in rows:
        said, item = row[LABEL], _plain_text(row["item"])
        given = next(iter(log.of_item(Probe.PLAIN, item)), None)
        if given is None or _sha(given.text) != row["answer_sha"]:
            raise BadInput(f"{where}: item {item!r} has another answer in this run; label the audit.csv of this run")
        if said != "cannot tell":
            right[item] = said == "right"
            at_random |= {item} if row["picked"] == AT_RANDOM else set()
    return Labels(right, frozenset(at_random))


def _rows(evalset: EvalSet, log: AnswerLog, found: Attribution) -> Iterator[_Row]:
    """Those drawn by chance first, in every slice: what tells most in one is not drawn by chance in another."""
    slices = {name: part for name, part in sorted(by_slice(evalset.items).items()) if name in found.content}
    doubtful = {name: doubted(part, log) for name, part in slices.items()}
    taken: set[str] = set()
    for picked in (AT_RANDOM, TELLING):
        for name, items in doubtful.items():
            rest = [i for i in items if i.id not in taken and i.id in found.items]
            telling = sorted(rest, key=lambda i: (abs(content_missing(found.items[i.id]) - 0.5), i.id))[:MOST]
            for i in items[:LABELS] if picked == AT_RANDOM else telling:
                answer = log.get(Probe.PLAIN, i.id)
                if i.id not in taken:
                    yield _Row(i, name, picked, answer.text, "right content" if answer.lenient else "wrong")
                taken.add(i.id)


def _read(path: Path) -> Iterator[Labelled]:
    """Its rows; a spreadsheet may have written it with semicolons or tabs."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            head = handle.readline()
            handle.seek(0)
            reader = csv.DictReader(handle, delimiter=max(",;\t", key=head.count))
            if missing := [name for name in FIELDS if name not in (reader.fieldnames or ())]:
                raise BadInput(f"{path}: not an audit.csv of a diagnosis: lacks the column {missing[0]!r}")
            for row in reader:
                yield f"{path}:{reader.line_num}", {name: row[name] or "" for name in FIELDS}
    except OSError as error:
        raise BadInput(f"evalset.audit={path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as CSV in UTF-8: {error}") from None


def _sha(text: str) -> str:
    """Begins with letters, so that no spreadsheet takes it for a number."""
    return f"sha-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _inert(text: str) -> str:
    """A cell that no spreadsheet runs as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _plain_text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell
