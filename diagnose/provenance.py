"""The record of a run and its directory: all three commands start, resume, write and read them in the same way."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from diagnose.errors import BadInput, Blocked, GapwiseError, RunFailed
from diagnose.records import SCHEMA_VERSION, RunRecord
from diagnose.redact import redacted, redacted_text
from diagnose.text import first_line, override

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "hydra-core", "wandb", "numpy")
ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")
LOCK = "run.lock"
BEAT = 30.0
"""Seconds between signs of life in run.json (hand-set)."""
OF_THE_PROCESS = ("pid", "host", "heartbeat")
"""Fields of a record that no result repeats."""
_writing = threading.RLock()


def provenance(config: Any) -> dict[str, Any]:
    """The fields of a RunRecord that are known before anything is loaded."""
    return {
        "command": typed_command(),
        "config": redacted(asdict(config)),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "seed": config.seed,
        "started": _now(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def open_run(out: Path, record: RunRecord, redo: bool = True) -> Iterator[None]:
    """Start a run directory, or resume one that holds the same work, and keep others from working in it meanwhile.

    Args:
        redo: may a finished run be reopened? Its answers are kept, its results are rewritten.

    Raises:
        BadInput: it holds something else, or another process works in it.
    """
    with _alone_in(out):
        _check_same(out, record, redo)
        write_json(out / "run.json", record)
        try:
            with _beating(out / "run.json"):
                yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                print(f"\nto go on, repeat the command with {override('out', str(out))}", file=sys.stderr)
            with suppress(GapwiseError):  # no room for it either: the error that is on its way says more
                _write_end(out / "run.json", record, error)
            raise


@contextmanager
def _beating(path: Path) -> Iterator[None]:
    """While a run goes on, write the time into its record now and then: one that was killed stays `running`."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            # No room on the disk, or a record that somebody removed: the run itself will say so.
            with suppress(OSError, ValueError, GapwiseError), _writing:
                found = json.loads(path.read_text(encoding="utf-8"))
                if found["status"] == "running":
                    write_json(path, found | {"heartbeat": _now()})

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _write_end(path: Path, record: RunRecord, error: BaseException) -> None:
    """Why a run has ended, unless it has been written, or the run was discarded."""
    if not path.exists() or read_record(path, RunRecord).status != "running":
        return
    if isinstance(error, KeyboardInterrupt):
        reason = f"stopped by {getattr(error, 'signal', 'SIGINT')}"
    elif isinstance(error, GapwiseError):
        reason = redacted_text(first_line(error))
    else:
        reason = redacted_text(f"{type(error).__name__}: {first_line(error)}")
    write_json(path, replace(record, status="blocked" if isinstance(error, Blocked) else "failed", reason=reason))


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Hold the lock file of the directory, which names process and host; that of a process that is gone is taken over.

    Raises:
        BadInput: another process holds it.
    """
    from filelock import SoftFileLock, Timeout

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = SoftFileLock(out / LOCK, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            if not _is_gone(lock.pid, out / LOCK):
                raise BadInput(
                    f"out={out}: process {lock.pid} works in it; wait until it has ended, or choose another directory "
                    f"(if it ran on another machine and is gone: rm {shlex.quote(str(out / LOCK))})"
                ) from None
            (out / LOCK).unlink(missing_ok=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):  # a run that was discarded, or refused before it began, leaves no empty directory
            out.rmdir()


def _is_gone(pid: int | None, lock: Path) -> bool:
    """Has the process that made a lock ended? Asked where the file system does not let filelock take the lock over.

    A lock that a kill left empty names nobody; a living process writes its name into it at once.
    """
    if pid is None:
        return lock.exists() and lock.stat().st_size == 0 and time.time() - lock.stat().st_mtime > 10
    if socket.gethostname() not in lock.read_text(encoding="utf-8", errors="replace").split():
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def _check_same(out: Path, record: RunRecord, redo: bool) -> None:
    path = out / "run.json"
    if path.exists():
        try:
            old = read_record(path, RunRecord)
        except BadInput as error:
            raise BadInput(f"out={out}: {error}; choose a new directory") from None
        differs = sorted(
            k for k in record.identity.keys() | old.identity if old.identity.get(k) != record.identity.get(k)
        )
        if differs:
            raise BadInput(f"out={out}: holds another run (differs in {', '.join(differs)}); choose a new directory")
        if old.status == "finished" and not redo:
            raise BadInput(f"out={out}: holds a finished run; choose a new directory")
    elif any(path.name != LOCK for path in out.iterdir()):
        raise BadInput(f"out={out}: is not empty and holds no run; choose a new directory")


def origin(record: RunRecord) -> dict[str, Any]:
    """What a result says of the run that made it: the record without the state of the run directory."""
    left_out = ("identity", "status", "reason", "schema_version", *OF_THE_PROCESS)
    return {k: v for k, v in asdict(record).items() if k not in left_out}


def read_record(path: Path, kind: type[T]) -> T:
    """A JSON file of a run as the dataclass it was written from.

    Raises:
        BadInput: it is not such a file, or of another schema version; naming the file and the first wrong key.
    """
    from pydantic import TypeAdapter, ValidationError

    wanted = f"expected a file written by this version of Gapwise (schema_version {SCHEMA_VERSION})"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {first_line(error)}; {wanted}") from None
    schema = found.get("schema_version", 1) if isinstance(found, dict) else None
    if schema != SCHEMA_VERSION:
        what = "not the record of a run" if schema is None else f"schema_version {schema}"
        raise BadInput(f"{path}: {what}; {wanted}")
    try:
        return TypeAdapter(kind).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; {wanted}") from None


def typed_command() -> list[str]:
    """The command as it was typed, before the root scripts complete it; without secrets."""
    script, typed = Path(sys.argv[0]).name, sys.orig_argv
    at = next((i for i, part in enumerate(typed) if Path(part).name == script), None)
    return [script, *map(redacted_text, sys.argv[1:] if at is None else typed[at + 1 :])]


def file_sha(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def source_sha(path: Path, rows: Sequence[object]) -> str:
    """sha256 of a file's bytes; of the rows that were read if it is not a file, such as a name on the hub."""
    return file_sha(path) if path.is_file() else hashlib.sha256(repr(rows).encode()).hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that is full or read-only ends the run with one message.

    Raises:
        RunFailed: naming the file.
    """
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"{path}: cannot be written: {error.strerror}; earlier results are kept: free some space, then repeat the "
            "command with the same out=DIR; it resumes from here"
        ) from None


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    with _writing, writing(path):
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def discard(path: Path) -> None:
    """Remove a file that nothing is to be kept of, whoever may be about to write it again."""
    with _writing:
        path.unlink()


def write_json(path: Path, value: Any) -> None:
    """A JSON file of a dictionary or a dataclass, whole or not at all."""
    value = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
