"""Training rows → TRL's columns, in exactly the prompt format of the diagnosis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diagnose.config import DataConfig
from diagnose.errors import BadInput
from diagnose.items.evalset import slice_name
from diagnose.items.rows import read_rows
from diagnose.models.base import lay_out, with_system
from diagnose.provenance import source_sha

COLUMNS = {"sft": ("prompt", "completion"), "preferences": ("prompt", "chosen", "rejected"), "prompts": ("prompt",)}
NEEDS = {"sft": ("sft",), "dpo": ("preferences",), "sft_dpo": ("preferences",), "rlhf": ("preferences",)}
ROLES = ("system", "user", "assistant")
UNRENDERED = ("tools", "chat_template_kwargs")
"""Columns with which TRL would render another prompt than the diagnosis asked."""
Turns = list[tuple[str, str]]


@dataclass
class Rows:
    """Training rows of one kind, and how many were dropped for which reason."""

    kind: str
    path: str
    sha256: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    """prompt as (role, content) pairs; answers as text; slice."""
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def by_slice(self) -> dict[str, int]:
        """Rows per slice; '' counts rows without one."""
        return dict(Counter(row["slice"] for row in self.rows))

    def summary(self) -> dict[str, Any]:
        """For run.json."""
        return {"path": self.path, "sha256": self.sha256, "rows": self.by_slice, "dropped": dict(self.dropped)}


def read_training(data: DataConfig, method: str, slices: list[str] | None, measured: set[str]) -> dict[str, Rows]:
    """The rows a method needs, from the selected slices, without rows whose prompt is in the eval set.

    Args:
        slices: keep only rows of these slices; rows without a slice are always kept.
        measured: texts of the eval set's prompts; training on one of them would contaminate the comparison.

    Raises:
        BadInput: a required file is missing or unreadable, or no rows are left.
    """
    kinds = [*NEEDS[method], *(["prompts"] if method == "rlhf" and data.prompts else [])]
    found = {}
    for kind in kinds:
        path = getattr(data, kind)
        if not path and kind == "sft" and data.preferences:
            kind, path = "preferences", data.preferences
        if not path:
            raise BadInput(f"data.{kind}: missing; {method} needs rows with {', '.join(COLUMNS[kind])}")
        found[kind] = _read(Path(path), kind, data, slices, measured)
    if "preferences" in found and method in ("sft", "sft_dpo"):
        # Every method trains on the same rows: given only pairs, SFT trains on the chosen answers.
        found["sft"] = _chosen_side(found["preferences"])
        if method == "sft":
            found.pop("preferences")
    return found


def _chosen_side(pairs: Rows) -> Rows:
    """Each prompt with its chosen answer, without duplicates."""
    unique = {str(r["prompt"]) + r["chosen"]: r for r in pairs.rows}
    rows = [{"prompt": r["prompt"], "completion": r["chosen"], "slice": r["slice"]} for r in unique.values()]
    return replace(pairs, kind="sft", rows=rows)


def _read(path: Path, kind: str, data: DataConfig, slices: list[str] | None, measured: set[str]) -> Rows:
    out = Rows(kind, str(path), "")
    for row, where in read_rows(path, data.columns, data.split, data.subset, "data"):
        read = _row(row, kind, where)
        if slices and read["slice"] and read["slice"] not in slices:
            out.dropped["other slice"] += 1
        elif read["prompt"][-1][1] in measured:
            out.dropped["prompt is in the eval set"] += 1
        elif kind == "preferences" and read["chosen"] == read["rejected"]:
            out.dropped["chosen equals rejected"] += 1
        else:
            out.rows.append(read)
    out.sha256 = source_sha(path, out.rows)
    if not out.rows:
        why = ", ".join(f"{n} {reason}" for reason, n in out.dropped.items()) or "the file is empty"
        wanted = f" for slices {', '.join(slices)}" if slices else ""
        raise BadInput(f"{path}: no training rows left{wanted} ({why})")
    return out


def _row(row: dict[str, Any], kind: str, where: str) -> dict[str, Any]:
    for column in UNRENDERED:
        if row.get(column):
            raise BadInput(f"{where}: {column}: not supported: the diagnosis asks without it, so training must too")
    prompt, answers = _conversation(row, kind, where)
    if prompt[-1][0] == "assistant":
        raise BadInput(f"{where}: prompt ends with a turn of the assistant; expected it to end before the answer")
    if not prompt[-1][1].strip():
        raise BadInput(f"{where}: prompt is empty")
    read = {column: _answer(turns, column, where) for column, turns in answers.items()}
    return {"slice": slice_name(row), "target": row.get("target"), "prompt": prompt} | read


def _conversation(row: dict[str, Any], kind: str, where: str) -> tuple[Turns, dict[str, Turns]]:
    """Prompt and answers, by column; the prompt may be part of `messages` in sft, and of both answers in pairs."""
    columns = COLUMNS[kind][1:]
    if kind == "sft" and row.get("messages") is not None and row.get("completion") is None:
        *prompt, last = _turns(row["messages"], "messages", where)
        if not prompt or last[0] != "assistant":
            raise BadInput(f"{where}: messages must end with the assistant's turn to train on, after others")
        return prompt, {"completion": [last]}
    if kind == "preferences" and row.get("prompt") is None and all(isinstance(row.get(c), list) for c in columns):
        whole = {column: _turns(row[column], column, where) for column in columns}
        prompt, other = (turns[:-1] for turns in whole.values())
        if prompt != other:
            raise BadInput(f"{where}: chosen and rejected differ before their last turns; expected one prompt")
        if prompt:
            return prompt, {column: turns[-1:] for column, turns in whole.items()}
    if missing := [column for column in COLUMNS[kind] if row.get(column) is None]:
        raise BadInput(
            f"{where}: no {', '.join(missing)}; {kind} rows need {', '.join(COLUMNS[kind])}; found: {', '.join(row)}"
        )
    return _turns(row["prompt"], "prompt", where), {c: _turns(row[c], c, where, "assistant") for c in columns}


def _answer(turns: Turns, column: str, where: str) -> str:
    """The text of one turn of the assistant."""
    role, text = turns[-1]
    if len(turns) > 1 or role != "assistant":
        found = f"{len(turns)} turns; earlier ones belong in prompt" if len(turns) > 1 else f"a turn of {role}"
        raise BadInput(f"{where}: {column} must be one turn of the assistant; found {found}")
    if not text.strip():
        raise BadInput(f"{where}: {column} is empty")
    return text


def _turns(messages: Any, column: str, where: str, speaker: str = "user") -> Turns:
    """The turns of a column; a text is one turn of the speaker."""
    if isinstance(messages, str):
        return [(speaker, messages)]
    if not isinstance(messages, list) or not messages:
        raise BadInput(f'{where}: {column} must be text or [{{"role": …, "content": …}}, …]')
    return [_turn(message, column, where) for message in messages]


def _turn(message: Any, column: str, where: str) -> tuple[str, str]:
    """One message as (role, text); a list of text parts is one text."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        other = role in ("human", "gpt") or (isinstance(message, dict) and "from" in message)
        hint = "; of ShareGPT, rename from/value to role/content, human to user and gpt to assistant" if other else ""
        raise BadInput(f"{where}: {column}: role {role!r}; allowed: {', '.join(ROLES)}{hint}")
    if message.get("tool_calls"):
        raise BadInput(f"{where}: {column}: tool calls are not supported; expected text in `content`")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        found = "a list with parts other than text" if isinstance(content, list) else f"a {type(content).__name__}"
        raise BadInput(f"{where}: {column}: content of {role} is {found}; expected text")
    return role, content


def for_trl(rows: list[dict[str, Any]], tokenizer: Any, system_prompt: str | None) -> list[dict[str, Any]]:
    """Conversational columns if the tokenizer has a chat template, else plain text laid out as in the diagnosis."""
    # As in HFModel.encode: the prompt starts with BOS exactly once, added here unless the tokenizer adds it.
    bos = tokenizer.bos_token
    start = "" if bos is None or tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id] else bos
    out = []
    for row in rows:
        turns = with_system(row["prompt"], system_prompt)
        answers = {k: row[k] for k in ("completion", "chosen", "rejected") if k in row}
        if tokenizer.chat_template:
            prompt: Any = [{"role": role, "content": text} for role, text in turns]
            out.append({"prompt": prompt} | {k: [{"role": "assistant", "content": v}] for k, v in answers.items()})
        else:
            out.append({"prompt": start + lay_out(turns)} | answers)
    return out
