"""GGUF files, the format of llama.cpp: what transformers is given to read one, and the network dequantised."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diagnose.errors import BadInput

MAGIC = b"GGUF"
READABLE = "expected a complete GGUF file of an architecture listed at https://huggingface.co/docs/transformers/gguf"

DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Values of tokenizer.ggml.pre for which llama.cpp splits off each digit before it splits as GPT-2 does.

See https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp.
"""


def is_gguf(path: str) -> bool:
    """Whether a path names a GGUF file, which need not exist."""
    return path.endswith(".gguf")


def check_installed(what: str) -> None:
    """Refuse to go on without the package `gguf`.

    Raises:
        BadInput: naming `what` needs it.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise BadInput(f"{what}: needs the gguf package: pip install gguf (or this project's extra `real`)") from None


@contextmanager
def alone(path: str, key: str) -> Iterator[dict[str, Any]]:
    """Arguments of `from_pretrained` that name a GGUF file.

    The directory they name is empty: transformers would prefer a tokenizer.json beside the file to the file's own.

    Raises:
        BadInput: not a GGUF file, or the package `gguf` is not installed.
    """
    check_installed(f"{key}={path}")
    with Path(path).open("rb") as handle:
        if handle.read(len(MAGIC)) != MAGIC:
            raise BadInput(f"{key}={path}: not a GGUF file; {READABLE}")
    with TemporaryDirectory() as empty:
        yield {"pretrained_model_name_or_path": empty, "gguf_file": str(Path(path).resolve())}


def tokenizer_in(path: str, key: str) -> Any:
    """The tokenizer in a GGUF file, with its chat template.

    Raises:
        BadInput: see `alone`. What transformers raises about the file passes through.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer
    from transformers.integrations.gguf import read_gguf_metadata

    with alone(path, key) as where:
        tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    metadata, _ = read_gguf_metadata(path)
    if metadata.get("tokenizer.ggml.pre") in DIGITS_APART:
        # transformers 5.24 splits as GPT-2 only, which gives "\n\n1" tokens that the model was not trained on.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def dequantised(kind: Any, path: str, key: str, **settings: Any) -> Any:
    """What `kind.from_pretrained` returns for a GGUF file, with plain weights that LoRA can be trained on.

    Raises:
        BadInput: see `alone`. What transformers raises about the file passes through.
    """
    from transformers import GgufConfig

    # Else a GPU with the right kernels would keep the weights packed.
    settings["quantization_config"] = GgufConfig(dequantize=True)
    # transformers draws a progress bar that no setting turns off.
    with alone(path, key) as where, redirect_stderr(io.StringIO()):
        network, loaded = kind.from_pretrained(**where, **settings)
    # No name instead of that of the empty directory, which PEFT would look up on the hub.
    network.name_or_path = network.config.name_or_path = ""
    _announce(path, str(network.dtype).removeprefix("torch."))
    return network, loaded


@functools.cache
def _announce(path: str, dtype: str) -> None:
    """Once per process, however often the file is loaded."""
    print(f"{path}: GGUF weights dequantised to {dtype}", file=sys.stderr)
