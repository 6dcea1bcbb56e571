"""Training rows of the slices to train on, without what the eval set asks; TRL's columns of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import regex

from diagnose.config import DataConfig
from diagnose.errors import BadInput
from diagnose.items.rows import read_rows
from diagnose.models.base import lay_out
from diagnose.provenance import source_sha
from diagnose.records import EvalItem
from train.bootstrap import RawRow
from train.leakage import Leakage
from train.rows import COLUMNS, Columns, Message, Row, key, read_row, said

NEEDS = {
    "sft": ("sft",),
    "dpo": ("preferences",),
    "sft_dpo": ("preferences",),
    "rlhf": ("preferences",),
    "rlvr": ("sft",),
}
ANSWERS = ("completion", "chosen", "rejected")


@dataclass
class Rows:
    """Training rows of one kind, how their columns were read, and how many were dropped for which reason."""

    kind: str
    path: str
    sha256: str
    rows: list[Row] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    mappings: Counter[str] = field(default_factory=Counter)
    """Of a format other than TRL's → rows."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Column that nothing reads → rows."""

    @property
    def by_slice(self) -> dict[str, int]:
        """Rows per slice; '' counts rows without one."""
        return dict(Counter(row["slice"] for row in self.rows))

    def summary(self) -> dict[str, Any]:
        """For run.json."""
        return {"path": self.path, "sha256": self.sha256, "rows": self.by_slice, "dropped": dict(self.dropped)}


def read_training(
    data: DataConfig,
    method: str,
    slices: list[str] | None,
    measured: Collection[EvalItem],
    own: dict[str, list[RawRow]] | None = None,
) -> dict[str, Rows]:
    """The rows a method needs, from the selected slices, without rows that hold something of the eval set.

    Args:
        slices: keep only rows of these slices; rows without a slice are always kept.
        measured: what the eval set asks; training on it would contaminate the comparison.
        own: rows of the diagnosis itself, by kind, instead of those of files.

    Raises:
        BadInput: a required file is missing or unreadable, or no rows are left.
    """
    if method == "rlvr" and not (data.sft or own) and data.prompts:
        asked = Path(data.prompts)
        return {"prompts": _read(asked, "prompts", _of_file(asked, data), slices, Leakage(measured))}
    kinds = [*NEEDS[method], *(["prompts"] if method == "rlhf" and data.prompts else [])]
    leakage = Leakage(measured)
    found = {}
    for kind in kinds:
        if own is not None:
            found[kind] = _read(Path("answers.jsonl"), kind, own[kind], slices, leakage)
            continue
        path = getattr(data, kind)
        if not path and kind == "sft" and data.preferences:
            kind, path = "preferences", data.preferences
        if not path:
            raise BadInput(f"data.{kind}: missing; {method} needs rows with {', '.join(COLUMNS[kind])}")
        found[kind] = _without_sources(_read(Path(path), kind, _of_file(Path(path), data), slices, leakage), data)
    if "preferences" in found and method in ("sft", "sft_dpo", "rlvr"):
        # Every method trains on the same rows: given only pairs, SFT trains on the chosen answers.
        found["sft"] = _chosen_side(found["preferences"])
        if method != "sft_dpo":
            found.pop("preferences")
    return found


def _chosen_side(pairs: Rows) -> Rows:
    """Each prompt with its chosen answer, without duplicates."""
    unique = {key(row) + said(row["chosen"]): row for row in pairs.rows}
    return replace(pairs, kind="sft", rows=[_completed(row, row["chosen"]) for row in unique.values()])


def _completed(row: Row, answer: Message) -> Row:
    kept: Any = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    return kept | {"completion": answer}


def _without_sources(rows: Rows, data: DataConfig) -> Rows:
    """Columns that `data.columns` makes others of are read."""
    sources = " ".join(data.columns.values())
    unread = {name: n for name, n in rows.ignored.items() if not regex.search(rf"\b{regex.escape(name)}\b", sources)}
    return replace(rows, ignored=Counter(unread))


def _of_file(path: Path, data: DataConfig) -> Iterable[RawRow]:
    return read_rows(path, data.columns, data.split, data.subset, "data")


def _read(path: Path, kind: str, raws: Iterable[RawRow], slices: list[str] | None, leakage: Leakage) -> Rows:
    out = Rows(kind, str(path), "")
    for raw, where in raws:
        row, columns = read_row(raw, kind, where)
        _note(out, columns)
        if why := _unwanted(row, kind, slices, leakage):
            out.dropped[why] += 1
        else:
            out.rows.append(row)
    if kind == "preferences":
        out.rows = _paired(out)
    out.sha256 = source_sha(path, [{name: v for name, v in row.items() if name != "where"} for row in out.rows])
    if not out.rows:
        why = ", ".join(f"{n} {reason}" for reason, n in out.dropped.items()) or "the file is empty"
        wanted = f" for slices {', '.join(slices)}" if slices else ""
        raise BadInput(f"{path}: no training rows left{wanted} ({why})")
    _check_one_kind(out.rows)
    return out


def _note(out: Rows, columns: Columns) -> None:
    out.mappings.update([columns.mapping] if columns.mapping else [])
    out.ignored.update(columns.ignored)


def _unwanted(row: Row, kind: str, slices: list[str] | None, leakage: Leakage) -> str | None:
    """Why a row is not trained on."""
    if slices and row["slice"] and row["slice"] not in slices:
        return "other slice"
    if "chosen" in row and row["chosen"] == row["rejected"]:
        return "chosen equals rejected"
    if row.get("label") is False and kind == "sft":
        return "marked as wrong"
    return leakage.of(row)


def _paired(rows: Rows) -> list[Row]:
    """Pairs; of completions that are marked, each right one with a wrong one of the same prompt."""
    pairs = [row for row in rows.rows if "chosen" in row]
    marked: dict[str, dict[bool, list[Row]]] = defaultdict(lambda: {True: [], False: []})
    for row in rows.rows:
        if "chosen" not in row:
            marked[key(row)][bool(row.get("label"))].append(row)
    for by_mark in marked.values():
        right, wrong = by_mark[True], by_mark[False]
        if lone := abs(len(right) - len(wrong)):
            rows.dropped["marked, without a counterpart of the same prompt"] += lone
        for good, bad in zip(right, wrong, strict=False):
            row = _completed(good, good["completion"])
            row |= {"chosen": row.pop("completion"), "rejected": bad["completion"]}
            pairs.append(row)
    return pairs


def _check_one_kind(rows: list[Row]) -> None:
    """Texts without prompts are trained on as a whole, so that they cannot stand among others."""
    first = rows[0]
    if other := next((row for row in rows if ("text" in row) != ("text" in first)), None):
        kind, wanted = ("a text", "prompts with answers") if "text" in other else ("a prompt with an answer", "texts")
        raise BadInput(f"{other['where']}: {kind}, while {first['where']} begins a file of {wanted}")


def for_trl(rows: Sequence[Row], tokenizer: Any, system_prompt: str | None) -> list[dict[str, Any]]:
    """Conversational columns if the tokenizer has a chat template, else plain text laid out as in the diagnosis."""
    # As in HFModel.encode: the prompt starts with BOS exactly once, added here unless the tokenizer adds it.
    bos = tokenizer.bos_token
    start = "" if bos is None or tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id] else bos
    return list(_columns(rows, tokenizer.chat_template is not None, start, system_prompt))


def _columns(rows: Sequence[Row], chat: bool, start: str, system_prompt: str | None) -> Iterator[dict[str, Any]]:
    tools = any(row.get("tools") for row in rows)
    for row in rows:
        answers = {name: row[name] for name in ANSWERS if name in row}  # type: ignore[literal-required]
        if "text" in row:
            yield {"text": start + row["text"]}
        elif chat:
            columns: dict[str, Any] = {"prompt": with_system_turn(row["prompt"], system_prompt)}
            columns |= {name: [message] for name, message in answers.items()}
            yield columns | ({"tools": row.get("tools")} if tools else {})
        else:
            turns = [(turn["role"], turn["content"]) for turn in with_system_turn(row["prompt"], system_prompt)]
            yield {"prompt": start + lay_out(turns)} | {name: said(message) for name, message in answers.items()}


def with_system_turn(prompt: list[Message], system: str | None) -> list[Message]:
    """The system prompt, then the turns; unchanged if they already start with a system turn."""
    if not system or prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": system}, *prompt]
