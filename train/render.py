"""Rows as the tokens that are trained on, to look at them before any step is taken.

The worker gives TRL the columns of `for_trl`; a test holds these tokens equal to those that TRL makes of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from diagnose.errors import BadInput
from diagnose.models.weights import plain_ids
from diagnose.text import first_line
from train.data import ANSWERS, for_trl
from train.rows import Row

CHUNK = 512
"""Rows that are tokenized together."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence that is trained on, or, of a row without an answer, a prompt that is asked."""

    where: str
    column: str
    asked: int
    """Tokens of the prompt as the diagnosis asks it."""
    shared: int
    """Of those, how many the sequence starts with; the loss is on what follows."""
    length: int
    end: int
    """Where its answer ends with a token that ends generation; -1: nowhere."""
    lost: str
    """The role of a turn whose text is not in it; else empty."""


@dataclass(frozen=True, slots=True)
class Text:
    """A row as text: the prompt as it is asked, and the whole as it is trained on."""

    row: Row
    column: str
    asked: str
    whole: str


def tokens(
    rows: Sequence[Row], tokenizer: Any, system_prompt: str | None, ends: Collection[int], longest: int
) -> Iterator[Tokens]:
    """What each answer of each row becomes.

    Args:
        ends: tokens that end generation.
        longest: characters from which on a text is cut off: it is too long whatever its end is.

    Raises:
        BadInput: naming file:line; the chat template refuses a row, or there is none and the row needs one.
    """
    for start in range(0, len(rows), CHUNK):
        found = list(texts(rows[start : start + CHUNK], tokenizer, system_prompt))
        asked = {text.asked: prompt_ids(tokenizer, text.asked[:longest]) for text in found}
        whole = whole_ids(tokenizer, found, longest)
        for text, ids in zip(found, whole, strict=True):
            prompt = asked[text.asked]
            shared = common(prompt, ids)
            end = max((at for at in range(shared, len(ids)) if ids[at] in ends), default=-1)
            if len(text.whole) > longest:
                end = len(ids)  # behind any limit
            yield Tokens(text.row["where"], text.column, len(prompt), shared, len(ids), end, _lost(text))


def texts(rows: Sequence[Row], tokenizer: Any, system_prompt: str | None) -> Iterator[Text]:
    """Each answer of each row with its prompt, as text.

    Raises:
        BadInput: see `tokens`.
    """
    end = tokenizer.eos_token or ""
    for row, columns in zip(rows, for_trl(rows, tokenizer, system_prompt), strict=True):
        if "text" in row:
            whole = columns["text"]
            yield Text(row, "text", "", whole if whole.endswith(end) else whole + end)
            continue
        names = [name for name in ANSWERS if name in row]
        asked, chat = columns["prompt"], bool(tokenizer.chat_template)
        turns = [*row["prompt"], *(row[name] for name in names)]  # type: ignore[literal-required]
        if not chat and (row.get("tools") or any(turn.get("tool_calls") for turn in turns)):
            raise BadInput(f"{row['where']}: calls tools, but the tokenizer has no chat template")
        if chat:
            asked = rendered(tokenizer, columns["prompt"], row, add_generation_prompt=True)
        for name in names:
            if chat:
                yield Text(row, name, asked, rendered(tokenizer, columns["prompt"] + columns[name], row))
            else:
                answer = columns[name]
                yield Text(row, name, asked, asked + answer + ("" if answer.endswith(end) else end))
        if not names:
            yield Text(row, "prompt", asked, asked)


def rendered(tokenizer: Any, messages: list[dict[str, Any]], row: Row, **more: Any) -> str:
    """A conversation through the chat template.

    Raises:
        BadInput: naming file:line and the roles that the template refuses.
    """
    try:
        text: str = tokenizer.apply_chat_template(messages, tools=row.get("tools"), tokenize=False, **more)
    except Exception as error:  # a template runs code, and can raise anything to reject a turn
        roles = ", ".join(message["role"] for message in messages)
        raise BadInput(f"{row['where']}: the chat template does not accept {roles}: {first_line(error)}") from None
    return text


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a prompt, as the diagnosis asks it."""
    if not text:
        return []
    if not tokenizer.chat_template:
        bos = tokenizer.bos_token or ""
        return plain_ids(tokenizer, text.removeprefix(bos))
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def whole_ids(tokenizer: Any, found: Sequence[Text], longest: int | None = None) -> list[list[int]]:
    """The tokens of texts, as TRL trains on them; a chat template writes the special tokens itself."""
    special = not tokenizer.chat_template or any(text.column == "text" for text in found)
    ids: list[list[int]] = tokenizer([text.whole[:longest] for text in found], add_special_tokens=special)["input_ids"]
    return ids


def common(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """With how many tokens of the prompt the whole starts."""
    pairs = zip(prompt, whole, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(prompt), len(whole)))


def _lost(text: Text) -> str:
    """Earlier answers may be shortened (of their thoughts); a turn of another role that is not there was dropped."""
    if text.column == "text":
        return ""
    turns = [turn for turn in text.row["prompt"] if turn["role"] != "assistant"]
    if text.column in ANSWERS:
        turns.append(text.row[text.column])  # type: ignore[literal-required]
    whole = _spaced(text.whole)
    for turn in turns:
        parts = [turn["content"], *(call["function"]["name"] for call in turn.get("tool_calls", ()))]
        if not all(
            _spaced(part) in whole or _spaced(json.dumps(part, ensure_ascii=False)[1:-1]) in whole for part in parts
        ):
            return str(turn["role"])
    return ""


def _spaced(text: str) -> str:
    """Without white space, which templates trim and add."""
    return "".join(text.split())
