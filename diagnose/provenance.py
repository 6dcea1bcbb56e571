"""What a run was: command, resolved config, commit, versions, machine. All three verbs write the same record."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diagnose.errors import RunFailed

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "hydra-core", "wandb", "numpy")
ROOT = Path(__file__).resolve().parent.parent
SECRETS = ("key", "token", "secret", "password")


def provenance(config: Any) -> dict[str, Any]:
    """The record without device, which is known only once a model is loaded."""
    return {
        "command": typed_command(),
        "config": asdict(config),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "seed": getattr(config, "seed", None),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def typed_command() -> list[str]:
    """The command as it was typed, before the root scripts complete it; without secrets."""
    script, typed = Path(sys.argv[0]).name, sys.orig_argv
    at = next((i for i, part in enumerate(typed) if Path(part).name == script), None)
    return [script, *(hide(arg) for arg in (sys.argv[1:] if at is None else typed[at + 1 :]))]


def hide(argument: str) -> str:
    """A secret that slipped into an override does not get into a file; names of tokens and variables may."""
    key, _, _ = argument.partition("=")
    last = key.rsplit(".", 1)[-1].lower()
    harmless = last in ("eos_token", "api_key_env", "max_new_tokens")
    return f"{key}=***" if "=" in argument and not harmless and any(s in last for s in SECRETS) else argument


def file_sha(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def source_sha(path: Path, rows: Sequence[object]) -> str:
    """Of a file's bytes; of what was read from anything else, such as a name on the hub."""
    return file_sha(path) if path.is_file() else hashlib.sha256(repr(rows).encode()).hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that is full or read-only ends the run with one sentence.

    Raises:
        RunFailed: naming the file.
    """
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"{path}: cannot be written: {error.strerror}; nothing before it is lost: with room on the disk, the same "
            "command with the same out=DIR goes on from here"
        ) from None


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    with writing(path):
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
