"""One training row: the formats that people have it in, checked and turned into TRL's columns.

https://huggingface.co/docs/trl/dataset_formats; ShareGPT, Alpaca and OpenAI's pairs as their files have them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypedDict

from diagnose.errors import BadInput
from diagnose.items.evalset import slice_name

Message = dict[str, Any]
"""role and content; of an assistant also tool_calls, whose arguments are an object."""
COLUMNS = {
    "sft": ("prompt", "completion"),
    "preferences": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
}
ROLES = ("system", "user", "assistant", "tool")
SHAREGPT = {"human": "user", "gpt": "assistant", "observation": "tool"} | {role: role for role in ROLES}
READ = frozenset({"prompt", "messages", "completion", "chosen", "rejected", "text", "tools"})
NOTED = frozenset({"slice", "target", "cluster", "annotator", "id", "source", "guideline"})
"""Columns that training does not see, but that say something about a row."""
MARKS = {"true": True, "false": False}
"""A label with which KTO's rows mark a completion as right or wrong; of another value, it is not that."""
PARSED = ("messages", "conversations", "tools")
"""Columns that may come as JSON text."""


THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that templates render each in their own way, or not at all."""


class Row(TypedDict, total=False):
    """A training row; of the last five, those of its kind."""

    where: str
    """file:line, for messages."""
    slice: str
    target: Any
    cluster: str | None
    annotator: str | None
    tools: list[Any] | None
    prompt: list[Message]
    """Ends where the answer starts; empty for a text without a prompt."""
    completion: Message
    chosen: Message
    rejected: Message
    text: str
    label: bool | None
    """Of a completion that was marked right or wrong, as in KTO; None: it was not marked."""


@dataclass(frozen=True)
class Columns:
    """How the columns of a row were read."""

    mapping: str
    """Of another format than TRL's; else empty."""
    ignored: tuple[str, ...]


def key(row: Row) -> str:
    """The same for rows that ask the same."""
    return json.dumps([row["prompt"], row.get("tools")], sort_keys=True)


def asking(row: Row) -> Row:
    """The row without its answers."""
    return {"prompt": row["prompt"], "tools": row.get("tools")}


def said(message: Message) -> str:
    """The text of a turn; of one that only calls tools, their calls."""
    calls = message.get("tool_calls") or ()
    return str(message.get("content") or "") + "".join(json.dumps(call["function"], sort_keys=True) for call in calls)


def read_row(raw: dict[str, Any], kind: str, where: str) -> tuple[Row, Columns]:
    """A row of one kind (sft, preferences, prompts), whatever format it is in.

    Raises:
        BadInput: naming file:line; something in it could not be trained as it stands there.
    """
    raw = {name: _parsed(name, value, where) for name, value in raw.items() if value is not None}
    if raw.get("chat_template_kwargs"):
        raise BadInput(
            f"{where}: chat_template_kwargs: not supported: the diagnosis asks without it, so training must too"
        )
    as_trl, mapping = _as_trl(raw, where)
    row = _text(as_trl, where) if _is_text(as_trl, kind) else _conversation(as_trl, kind, where)
    row |= {
        "where": where,
        "slice": slice_name(raw),
        "target": raw.get("target"),
        "cluster": _name(raw, "cluster"),
        "annotator": _name(raw, "annotator"),
    }
    ignored = tuple(name for name in as_trl if name not in READ | NOTED and not (name == "label" and "label" in row))
    return row, Columns(mapping, ignored)


def _name(raw: dict[str, Any], column: str) -> str | None:
    return str(raw[column]) if raw.get(column) is not None else None


def _parsed(name: str, value: Any, where: str) -> Any:
    """Cells of a table give text."""
    if name not in PARSED or not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: {name} is not JSON: {error}") from None


def _as_trl(raw: dict[str, Any], where: str) -> tuple[dict[str, Any], str]:
    """The row with TRL's columns, and what they were made of."""
    rest = dict(raw)
    if "preferred_output" in raw:
        asked = rest.pop("input", None)
        asked = _parsed("messages", asked, where)
        if not isinstance(asked, dict) or "messages" not in asked:
            raise BadInput(f'{where}: input must be {{"messages": […]}} beside preferred_output')
        rest |= {"prompt": asked["messages"], "tools": asked.get("tools")}
        rest |= {"chosen": rest.pop("preferred_output"), "rejected": rest.pop("non_preferred_output", None)}
        return rest, "input.messages → prompt, preferred_output → chosen, non_preferred_output → rejected (OpenAI)"
    if "conversations" in raw:
        turns = rest.pop("conversations")
        pair = "chosen" in raw
        if (system := rest.pop("system", None)) and isinstance(turns, list):
            turns = [{"role": "system", "content": system}, *turns]
        return rest | {"prompt" if pair else "messages": turns}, (
            f"conversations → {'prompt' if pair else 'messages'} (ShareGPT)"
        )
    if "instruction" in raw and "prompt" not in raw:
        parts = [part for part in (rest.pop("instruction"), rest.pop("input", None)) if part not in (None, "")]
        if any(isinstance(part, list | dict) for part in parts):
            raise BadInput(f"{where}: instruction and input must be text")
        rest["prompt"] = "\n\n".join(map(str, parts))
        if "output" in raw:
            rest["completion"] = rest.pop("output")
        return rest, "instruction and input → prompt, output → completion (Alpaca)"
    return rest, ""


def _is_text(raw: dict[str, Any], kind: str) -> bool:
    return kind == "sft" and "text" in raw and not {"prompt", "messages", "completion"} & set(raw)


def _text(raw: dict[str, Any], where: str) -> Row:
    """A text that is trained on as a whole."""
    if not isinstance(raw["text"], str) or not raw["text"].strip():
        raise BadInput(f"{where}: text is empty or not text")
    return {"prompt": [], "text": raw["text"]}


def _conversation(raw: dict[str, Any], kind: str, where: str) -> Row:
    prompt, answers = _turns_of(raw, kind, where)
    if prompt[-1]["role"] == "assistant":
        raise BadInput(f"{where}: prompt ends with a turn of the assistant; expected it to end before the answer")
    if not said(prompt[-1]).strip():
        raise BadInput(f"{where}: prompt is empty")
    row: Row = {"prompt": prompt, "tools": _tools(raw.get("tools"), where)}
    for column, turns in answers.items():
        row[column] = _answer(turns, column, where)  # type: ignore[literal-required]
    if "completion" in row and (mark := _mark(raw)) is not None:
        row["label"] = mark
    return row


def _turns_of(raw: dict[str, Any], kind: str, where: str) -> tuple[list[Message], dict[str, list[Message]]]:
    """Prompt and answers, by column; the prompt may be part of `messages` in sft, and of both answers in pairs."""
    columns = COLUMNS[kind][1:]
    if kind == "sft" and "messages" in raw and "completion" not in raw:
        *prompt, last = _turns(raw["messages"], "messages", where)
        if not prompt or last["role"] != "assistant":
            raise BadInput(f"{where}: messages must end with the assistant's turn to train on, after others")
        return prompt, {"completion": [last]}
    if kind == "preferences" and "prompt" not in raw and all(isinstance(raw.get(c), list) for c in columns):
        whole = {column: _turns(raw[column], column, where) for column in columns}
        prompt, other = (turns[:-1] for turns in whole.values())
        if prompt != other:
            raise BadInput(f"{where}: chosen and rejected differ before their last turns; expected one prompt")
        if prompt:
            return prompt, {column: turns[-1:] for column, turns in whole.items()}
    if kind == "preferences" and "completion" in raw and _mark(raw) is not None:
        columns = ("completion",)
    if kind == "prompts" and "prompt" not in raw and "messages" in raw:
        return _turns(raw["messages"], "messages", where), {}
    if missing := [column for column in ("prompt", *columns) if column not in raw]:
        raise BadInput(
            f"{where}: no {', '.join(missing)}; {kind} rows need {', '.join(COLUMNS[kind])}; found: {', '.join(raw)}"
        )
    return _turns(raw["prompt"], "prompt", where), {c: _turns(raw[c], c, where, "assistant") for c in columns}


def _mark(raw: dict[str, Any]) -> bool | None:
    """Whether the completion is marked as right; cells of a table give text."""
    return MARKS.get(str(raw.get("label")).lower())


def _answer(turns: list[Message], column: str, where: str) -> Message:
    """One turn of the assistant."""
    last = turns[-1]
    if len(turns) > 1 or last["role"] != "assistant":
        found = f"{len(turns)} turns; earlier ones belong in prompt" if len(turns) > 1 else f"a turn of {last['role']}"
        raise BadInput(f"{where}: {column} must be one turn of the assistant; found {found}")
    if not said(last).strip():
        raise BadInput(f"{where}: {column} is empty")
    return last


def _turns(messages: Any, column: str, where: str, speaker: str = "user") -> list[Message]:
    """The turns of a column; a text is one turn of the speaker."""
    if isinstance(messages, str):
        return [{"role": speaker, "content": messages}]
    if isinstance(messages, dict) and speaker == "assistant":
        messages = [messages]
    if not isinstance(messages, list) or not messages:
        raise BadInput(f'{where}: {column} must be text or [{{"role": …, "content": …}}, …]')
    return [_turn(message, column, where) for message in messages]


def _turn(message: Any, column: str, where: str) -> Message:
    """One message; a list of text parts is one text, ShareGPT's names are the usual ones."""
    if isinstance(message, dict) and "from" in message and "role" not in message:
        message = {"role": SHAREGPT.get(str(message["from"]), message["from"]), "content": message.get("value")}
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        hint = f"; {role} is {SHAREGPT[str(role)]} here" if str(role) in SHAREGPT else ""
        raise BadInput(f"{where}: {column}: role {role!r}; allowed: {', '.join(ROLES)}{hint}")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise BadInput(f"{where}: {column}: tool_calls must be a list")
    if calls and role != "assistant":
        raise BadInput(f"{where}: {column}: tool_calls of {role}; only the assistant calls tools")
    if not isinstance(content, str) and not (content is None and calls):
        found = "a list with parts other than text" if isinstance(content, list) else f"a {type(content).__name__}"
        raise BadInput(f"{where}: {column}: content of {role} is {found}; expected text")
    if thought := next((name for name in THOUGHTS if message.get(name)), None):
        raise BadInput(
            f"{where}: {column}: {thought}: not supported; put the thought into content, as the model writes it"
        )
    turn = {"role": role, "content": content or ""}
    turn |= {name: message[name] for name in ("name", "tool_call_id") if message.get(name)}
    return turn | ({"tool_calls": [_call(call, column, where) for call in calls]} if calls else {})


def _call(call: Any, column: str, where: str) -> dict[str, Any]:
    """A tool call, its arguments as an object, as templates expect them: OpenAI has them as JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadInput(f'{where}: {column}: a tool call must be {{"function": {{"name": …, "arguments": {{…}}}}}}')
    arguments = function.get("arguments") or {}
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise BadInput(f"{where}: {column}: the arguments of {function['name']} are no JSON object")
    return call | {"type": "function", "function": function | {"arguments": arguments}}


def _tools(tools: Any, where: str) -> list[Any] | None:
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadInput(f"{where}: tools must be a list of function descriptions")
    return tools
