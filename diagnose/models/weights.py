"""Loading from a model's directory (tokenizer, weights), and the prompt format that follows from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.models.base import LAYOUT, PLAIN_STOP, lay_out, prompt_format_sha
from diagnose.models.gguf import READABLE, dequantised, is_gguf, tokenizer_in
from diagnose.text import first_line

ALLOWED = (
    "expected a directory with config.json, weights as .safetensors (no pickle) and a tokenizer, a .gguf file, or a "
    "hub name"
)
TOKENIZER, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
"""Files in which a directory says how prompts are laid out; an adapter's may hold only the second."""
FETCHED = Path("outputs/models")
"""Where `python -m scripts.get_model NAME` puts a model."""


def load_weights(kind: Any, path: str, key: str, allowed: str, fresh: tuple[str, ...] = (), **settings: Any) -> Any:
    """A network that takes every weight from the files; a missing one would silently be random.

    Args:
        kind: an AutoModel class of transformers.
        fresh: weights that may be random, because they are about to be trained.

    Raises:
        BadInput: the files cannot be read, or lack weights.
    """
    settings |= {"trust_remote_code": False, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        if is_gguf(path):
            network, loaded = dequantised(kind, path, key, **settings)
        else:
            network, loaded = kind.from_pretrained(path, use_safetensors=True, **settings)
    except BadInput:
        raise
    except Exception as error:  # from transformers, huggingface_hub, safetensors or gguf; each is about these files
        raise BadInput(f"{key}={path}: {first_line(error)}; {READABLE if is_gguf(path) else allowed}") from None
    wrong = [name for name, *_ in loaded["mismatched_keys"]] + sorted(loaded["missing_keys"] - set(fresh))
    if wrong:
        raise BadInput(
            f"{key}={path}: not the weights of the {type(network).__name__} that config.json describes: "
            f"{len(wrong)} missing or of another shape (first: {wrong[0]}); {allowed}"
        )
    return network


def quantized(settings: ModelConfig) -> Any:
    """How transformers packs the weights while it loads them; None: as they are.

    Raises:
        BadInput: bitsandbytes is not installed, or the file is packed already.
    """
    if settings.quantization is None:
        return None
    if is_gguf(str(settings.path)):
        raise BadInput(f"model.quantization={settings.quantization}: {settings.path} is a GGUF file; leave it out")
    if find_spec("bitsandbytes") is None:
        raise BadInput(f"model.quantization={settings.quantization}: needs bitsandbytes: pip install bitsandbytes")
    import torch
    from transformers import BitsAndBytesConfig

    computes = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computes,
    )


def load_base(settings: ModelConfig, device: str) -> Any:
    """The base as a causal language model on its device, in eval mode.

    Raises:
        BadInput: see `load_weights`, `quantized` and `placed`.
    """
    from transformers import AutoModelForCausalLM

    packed: dict[str, Any] = {}
    if (how := quantized(settings)) is not None:
        packed = {"quantization_config": how, "device_map": {"": device}}
    dtype = settings.dtype or "auto"
    network = load_weights(AutoModelForCausalLM, str(settings.path), "model.path", ALLOWED, dtype=dtype, **packed)
    return network.eval() if packed else placed(network, device)


def placed(network: Any, device: str) -> Any:
    """The network on its device, in eval mode.

    Raises:
        BadInput: this machine has no such device.
    """
    try:
        return network.to(device).eval()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = "cpu" if best_device() == "cpu" else f"cpu, {best_device()}"
        raise BadInput(f"model.device={device}: {first_line(error)}; this machine has: {here}") from None


def load_tokenizer(settings: ModelConfig, key: str = "model.path") -> Any:
    """The tokenizer with the end token that the settings name.

    Raises:
        BadInput: no tokenizer there, or `model.eos_token` is not in its vocabulary.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path, template = str(settings.path), None
    if settings.tokenizer:
        key, template = key.replace(".path", ".tokenizer"), Path(settings.tokenizer) / TEMPLATE
        if (Path(settings.tokenizer) / TOKENIZER).exists() or not template.exists():
            path, template = settings.tokenizer, None
    check_exists(path, key)
    try:
        if is_gguf(path):
            tokenizer = tokenizer_in(path, key)
        else:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except BadInput:
        raise
    except Exception as error:  # from transformers, huggingface_hub, tokenizers or gguf; each is about these files
        allowed = READABLE if is_gguf(path) else ALLOWED
        raise BadInput(f"{key}={path}: cannot load a tokenizer: {first_line(error)}; {allowed}") from None
    if template:
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    if settings.eos_token:
        if settings.eos_token not in tokenizer.get_vocab():
            allowed = ", ".join(tokenizer.all_special_tokens)
            raise BadInput(f"model.eos_token={settings.eos_token!r}: not in the vocabulary; special tokens: {allowed}")
        tokenizer.eos_token = settings.eos_token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text without chat template, which starts with the beginning token, if there is one, once."""
    ids: list[int] = tokenizer(text)["input_ids"]
    bos = tokenizer.bos_token_id
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def asked_ids(tokenizer: Any, turns: Sequence[tuple[str, str]], continuation: str = "") -> list[int]:
    """The tokens of a conversation that waits for its answer, and of a beginning of that.

    What the chat template raises about a turn passes through: it runs code, and can raise anything.
    """
    if not tokenizer.chat_template:
        return plain_ids(tokenizer, lay_out(turns) + continuation)
    messages = [{"role": role, "content": text} for role, text in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text + continuation, add_special_tokens=False)["input_ids"]
    return ids


def check_exists(path: str, key: str) -> None:
    """Refuse a path that is not there; a name on the hub is looked up later.

    Raises:
        BadInput: naming the command that fetches the model, if it is one of ours.
    """
    if is_gguf(path):
        if not Path(path).is_file():
            raise BadInput(f"{key}={path}: no such file; {ALLOWED}")
    elif key.endswith(".path") and (Path(path) / "adapter_config.json").exists():
        raise BadInput(f"{key}={path}: is an adapter; expected its base, and {key.partition('.')[0]}.adapter={path}")
    elif (path.startswith((".", "/", "~")) or path.count("/") > 1) and not Path(path).is_dir():
        get = f"`python -m scripts.get_model {Path(path).name}` makes it" if Path(path).parent == FETCHED else ALLOWED
        raise BadInput(f"{key}={path}: no such directory; {get}")


def stop_strings(settings: ModelConfig, tokenizer: Any) -> list[str]:
    """A base model without a chat template ends its answer with an empty line, as the layout of its prompt does."""
    if settings.stop is not None:
        return list(settings.stop)
    return [] if tokenizer.chat_template else [PLAIN_STOP]


def end_ids(settings: ModelConfig, tokenizer: Any, model: Any = None) -> set[int]:
    """Token ids that end an answer."""
    if settings.eos_token or model is None:
        return {tokenizer.eos_token_id}
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {i for i in [*several, tokenizer.eos_token_id] if i is not None}


def prompt_format_of(settings: ModelConfig, tokenizer: Any, ends: set[int]) -> dict[str, Any]:
    """The prompt format of a local model."""
    vocabulary = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    return {
        "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest()[:16],
        "chat_template": tokenizer.chat_template,
        "layout": None if tokenizer.chat_template else LAYOUT,
        "bos": tokenizer.bos_token,
        "eos": sorted(tokenizer.convert_ids_to_tokens(i) for i in ends),
        "system_prompt": settings.system_prompt,
        "stop": stop_strings(settings, tokenizer),
        "mask": "completion",
    }


def fingerprint_of(network: Any, prompt_format: dict[str, Any]) -> str:
    """Hash of every weight, those of an adapter included, and of the prompt format.

    Of the tensors, not of their files: the same from a directory, shards or the hub, on any device; another dtype is
    another model.
    """
    import torch

    found = hashlib.sha256(prompt_format_sha(prompt_format).encode())
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def best_device() -> str:
    """CUDA, else Apple's GPU, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
