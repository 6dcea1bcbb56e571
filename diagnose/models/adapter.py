"""LoRA adapters in PEFT's format: whether one fits a base, from the headers of its files; and loading it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagnose.errors import BadInput
from diagnose.models.gguf import alone, is_gguf
from diagnose.text import first_line

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
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
