"""Which base it is: by what its weight files hold, whatever they are called and wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diagnose.errors import BadInput
from diagnose.models.gguf import check_installed, is_gguf
from diagnose.text import first_line

SAMPLE = 4096
"""Bytes read of each tensor: a base of 100 GB is told in a second, and no training leaves all of them (hand-set)."""
Tensor = tuple[str, str, list[int], bytes]
"""Name, type, shape, first bytes."""


def base_sha(path: str) -> str:
    """Hash of every tensor's name, type, shape and first bytes; loads no weight.

    The same from one file, from shards, from a copy and from the hub; another type or another training is another base.

    Args:
        path: what `model.path` names.

    Raises:
        BadInput: there are no weights, or a file is not whole.
    """
    found = hashlib.sha256()
    try:
        tensors = sorted(_in_gguf(path) if is_gguf(path) else _in_safetensors(path))
    except BadInput:
        raise
    except Exception as error:  # from transformers, huggingface_hub, gguf or numpy; each is about these files
        raise BadInput(f"model.path={path}: its weights cannot be read: {first_line(error)}") from None
    for name, kind, shape, head in tensors:
        found.update(f"{name} {kind} {shape}".encode() + head)
    return found.hexdigest()[:16]


def differs(sha: str | None, path: str | None, other_sha: str | None, other_path: str | None) -> bool:
    """Are these two bases? By their contents; by their paths where an older record knows no more."""
    return sha != other_sha if sha and other_sha else path != other_path


def _in_safetensors(path: str) -> Iterator[Tensor]:
    for file in _files(path):
        with file.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if size > file.stat().st_size:
                raise ValueError(f"{file}: is no safetensors file")
            header: dict[str, Any] = json.loads(handle.read(size))
            header.pop("__metadata__", None)
            ends = [about["data_offsets"][1] for about in header.values()]
            if file.stat().st_size != 8 + size + max(ends, default=0):
                raise ValueError(f"{file}: is cut off or damaged")
            for name, about in header.items():
                start, end = about["data_offsets"]
                handle.seek(8 + size + start)
                yield name, about["dtype"], about["shape"], handle.read(min(end - start, SAMPLE))


def _files(path: str) -> list[Path]:
    """The files that transformers would load."""
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

    if (single := cached_file(path, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)) is not None:
        return [Path(single)]
    index = Path(str(cached_file(path, SAFE_WEIGHTS_INDEX_NAME)))
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [Path(str(cached_file(path, shard))) for shard in shards]


def _in_gguf(path: str) -> Iterator[Tensor]:
    check_installed(f"model.path={path}")
    from gguf import GGUFReader

    for tensor in GGUFReader(path).tensors:
        head = tensor.data.reshape(-1).view("uint8")[:SAMPLE].tobytes()
        yield tensor.name, tensor.tensor_type.name, [int(side) for side in tensor.shape], head
