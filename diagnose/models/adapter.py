"""LoRA adapters in PEFT's format: whether one fits a base, from the headers of its files; and loading it."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.models.gguf import alone, is_gguf
from diagnose.models.identity import base_sha
from diagnose.models.weights import TEMPLATE, TOKENIZER, asked_ids, load_tokenizer
from diagnose.text import first_line, override

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONVERSATIONS = (
    [("user", "What is 2 + 2?")],
    [("system", "Be brief."), ("user", "Größe?\n- a")],
    [("user", "What is 2 + 2?"), ("assistant", "4"), ("user", "And 3 + 3?")],
)
"""Whose tokens show whether two tokenizers ask in the same way: alone, with a system turn, after examples."""
Shapes = Mapping[str, tuple[int, ...]]


def adapted(base: str, lora: Any) -> Any:
    """The network of a base with what a `LoraConfig` adds to it, without memory for any weight of either.

    Raises:
        OSError, ValueError, TypeError and others of PEFT and transformers: it does not fit this base.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    if is_gguf(base):
        with alone(base, "model.path") as where:
            config = AutoConfig.from_pretrained(**where)
    else:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    # Other initialisations decompose the weights of the base, which are not there; the shapes are the same.
    plain = LoraConfig(**lora.to_dict() | {"init_lora_weights": True, "inference_mode": False})
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(AutoModelForCausalLM.from_config(config, trust_remote_code=False), plain)


def lora_shapes(base: str, lora: Any) -> Shapes:
    """Name → shape of the weights that a `LoraConfig` adds to a base.

    Raises:
        OSError, ValueError, TypeError and others: see `adapted`.
    """
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(adapted(base, lora), save_embedding_layers=False)
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def check_adapter(path: str, base: str) -> None:
    """Whether an adapter is whole and belongs to a base; reads no weight, only what the files say of them.

    Raises:
        BadInput: not an adapter saved by PEFT as safetensors, or one for another base.
    """
    from peft import PeftConfig

    for name in (CONFIG, WEIGHTS):
        if not (Path(path) / name).is_file():
            raise BadInput(f"model.adapter={path}: contains no {name}; expected a directory saved by PEFT")
    try:
        found, wanted = shapes_in(Path(path) / WEIGHTS), lora_shapes(base, PeftConfig.from_pretrained(path))
    except Exception as error:  # from PEFT, safetensors or the JSON inside; each is about this directory
        raise BadInput(f"model.adapter={path}: does not fit this base: {first_line(error)}") from None
    if wrong := [name for name, shape in wanted.items() if found.get(name) != shape]:
        raise BadInput(
            f"model.adapter={path}: does not fit this base: {len(wrong)} of {len(wanted)} weights missing or of "
            f"another shape (first: {wrong[0]})"
        )


def check_prompt_format(settings: ModelConfig, tokenizer: Any) -> None:
    """Refuse an adapter whose own tokenizer or chat template asks in another way than `tokenizer`, the base's, does.

    Raises:
        BadInput: naming the setting that chooses one of them.
    """
    path = str(settings.adapter)
    if settings.tokenizer or not any((Path(path) / name).exists() for name in (TOKENIZER, TEMPLATE)):
        return
    as_base = f"{override('model.tokenizer', str(settings.path))} asks as the base is asked"
    try:
        own = load_tokenizer(replace(settings, tokenizer=path))
    except BadInput as error:
        raise BadInput(f"model.adapter={path}: its tokenizer cannot be loaded ({error}); {as_base}") from None
    if any(_asked(own, turns) != _asked(tokenizer, turns) for turns in CONVERSATIONS):
        raise BadInput(
            f"model.adapter={path}: its own chat template or tokenizer lays out a prompt in another way than the "
            f"base's; {override('model.tokenizer', path)} asks as it was trained, {as_base}"
        )


def _asked(tokenizer: Any, turns: Sequence[tuple[str, str]]) -> list[int] | str:
    """The tokens of a conversation that waits for its answer, or why there are none."""
    try:
        return asked_ids(tokenizer, turns)
    except Exception as error:  # of the chat template
        return type(error).__name__


def say_other_base(path: str, base: str) -> None:
    """Say it if an adapter's configuration names another base: by its weights if they are here, else by its name."""
    named = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not named or named == base:
        return
    same = Path(named).name == Path(base).name
    if Path(named).exists():
        with suppress(BadInput):
            same = base_sha(named) == base_sha(base)
    if not same:
        print(f"model.adapter={path}: was trained on {named}, and is used on {base}", file=sys.stderr)


def adapter_sha(path: str) -> str:
    """Which adapter: a hash of its weights, and of how they are scaled and placed, whatever base it names.

    Raises:
        OSError, ValueError: there is none.
    """
    about = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
    weights = (Path(path) / WEIGHTS).read_bytes()
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode() + weights).hexdigest()[:16]


def shapes_in(weights: Path) -> Shapes:
    """Name → shape of the tensors in a safetensors file, from its header.

    Raises:
        SafetensorError: the file is cut off or is no such file.
    """
    from safetensors import safe_open

    with safe_open(weights, "pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def with_adapter(model: Any, path: str, base: str) -> Any:
    """The network of `base` with a LoRA adapter that takes every weight from the files.

    Raises:
        BadInput: see `check_adapter`.
    """
    from peft import PeftModel

    check_adapter(path, base)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT uses a deprecated attribute of transformers
            return PeftModel.from_pretrained(model, path, use_safetensors=True)
    except Exception as error:  # from PEFT or safetensors; each is about this directory
        raise BadInput(f"model.adapter={path}: does not fit this base: {first_line(error)}") from None
