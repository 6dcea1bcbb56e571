"""Checks, before any training step, for mistakes that would otherwise go unnoticed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from diagnose.models.base import lay_out, prompt_format_differs
from diagnose.models.gguf import alone, is_gguf
from diagnose.models.weights import end_ids, load_tokenizer, prompt_format_of
from diagnose.records import Diagnosis
from train.config import ARGS_OF, TrainConfig
from train.data import Rows

UNSAFE_INITS = ("pissa", "olora", "corda", "loftq")
"""Initialisations that modify the base weights: disabling the adapter no longer yields the base model.

https://huggingface.co/docs/peft/developer_guides/lora; PiSSA (arXiv 2404.02948), OLoRA (2406.01775), CorDA
(2406.05223), LoftQ (2310.08659).
"""

CHARACTERS = 32
"""More than a token has on average in any text but white space (hand-set)."""


@dataclass(frozen=True)
class Check:
    """Result of one check; a failed check with `blocks` stops the run."""

    name: str
    ok: bool
    message: str
    blocks: bool = True


def preflight(config: TrainConfig, diagnosis: Diagnosis, data: dict[str, Rows]) -> list[Check]:
    """All checks, in the order in which they are shown."""
    tokenizer = load_tokenizer(config.model)
    return [
        _same_prompt_format(config, diagnosis, tokenizer),
        _ends(tokenizer, data),
        _fits(config, tokenizer, data),
        _enough(config, data),
        _clean(data),
        _reference(config),
    ]


def _same_prompt_format(config: TrainConfig, diagnosis: Diagnosis, tokenizer: Any) -> Check:
    measured = diagnosis.run.get("prompt_format") or {}
    now = current_prompt_format(config, tokenizer)
    differs = prompt_format_differs(now, measured)
    same = not differs
    text = (
        "prompts are tokenized exactly as in the diagnosis"
        if same
        else f"the prompt format differs from the diagnosis in: {', '.join(differs)}"
    )
    return Check("prompt format", same, text)


def current_prompt_format(config: TrainConfig, tokenizer: Any = None) -> dict[str, Any]:
    """The prompt format this run trains with."""
    tokenizer = tokenizer or load_tokenizer(config.model)
    return prompt_format_of(config.model, tokenizer, _configured_ends(config, tokenizer))


def _configured_ends(config: TrainConfig, tokenizer: Any) -> set[int]:
    """End-of-sequence ids without loading weights: from generation_config.json or a GGUF header, if there is one."""
    from types import SimpleNamespace

    from transformers import AutoConfig, GenerationConfig

    path = str(config.model.path)
    generation: Any = SimpleNamespace(eos_token_id=None)
    if is_gguf(path):
        with alone(path, "model.path") as where:
            generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(**where))
    else:
        with suppress(OSError):
            generation = GenerationConfig.from_pretrained(path)
    return end_ids(config.model, tokenizer, SimpleNamespace(generation_config=generation))


def _ends(tokenizer: Any, data: dict[str, Rows]) -> Check:
    """A chat template must end the answer with the EOS token, or the tuned model never stops."""
    if not tokenizer.chat_template:
        return Check("end token", True, f"answers end with {tokenizer.eos_token!r}, appended by TRL")
    turns = next(iter(data.values())).rows[0]["prompt"]
    messages = [{"role": r, "content": t} for r, t in turns] + [{"role": "assistant", "content": "x"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()
    ok = text.endswith(tokenizer.eos_token)
    message = f"the chat template ends answers with {tokenizer.eos_token!r}"
    if not ok:
        message = f"the chat template ends answers with {text[-12:]!r}, but the EOS token is {tokenizer.eos_token!r}"
        message += "; set model.eos_token"
    return Check("end token", ok, message)


def _fits(config: TrainConfig, tokenizer: Any, data: dict[str, Rows]) -> Check:
    stage = ARGS_OF[config.method.name]
    limit = int(config.method.args.get("max_length") or config.model.train.get(stage, {}).get("max_length") or 1024)
    texts = [
        lay_out(row["prompt"])
        + max((row[c] for c in ("completion", "chosen", "rejected") if c in row), key=len, default="")
        for rows in data.values()
        for row in rows.rows
    ]
    # A row of megabytes would take a minute, and is too long whatever its end is.
    longest = max(len(ids) for ids in tokenizer([text[: CHARACTERS * limit] for text in texts])["input_ids"]) + 16
    ok = longest <= limit
    about = "more than" if max(map(len, texts)) > CHARACTERS * limit else "about"
    return Check("length", ok, f"the longest row has {about} {longest} tokens; max_length is {limit}", blocks=False)


def _enough(config: TrainConfig, data: dict[str, Rows]) -> Check:
    """Warn below 32 rows (hand-set): fewer make only a few batches."""
    found = {kind: len(rows.rows) for kind, rows in data.items()}
    few = [f"{n} {kind}" for kind, n in found.items() if n < 32]
    text = ", ".join(f"{n} {kind} rows" for kind, n in found.items())
    return Check("rows", not few, text if not few else f"{text}: fewer than 32", blocks=False)


def _clean(data: dict[str, Rows]) -> Check:
    dropped = {reason: n for rows in data.values() for reason, n in rows.dropped.items() if reason != "other slice"}
    text = ", ".join(f"{n} dropped: {reason}" for reason, n in dropped.items()) or "no training prompt in the eval set"
    return Check("leakage", not dropped, text, blocks=False)


def _reference(config: TrainConfig) -> Check:
    init = str(config.lora.get("init_lora_weights", ""))
    bad = config.method.name != "sft" and init.startswith(UNSAFE_INITS)
    text = f"lora.init_lora_weights={init} modifies the base weights; {config.method.name} would use a wrong reference"
    return Check("reference", not bad, text if bad else "the reference model is the base with the adapter disabled")
