"""Columns by Jinja template. A template is a program, so it runs in a process with limits on time and memory."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pickle import PicklingError
from typing import Any

from diagnose.errors import BadInput
from diagnose.text import first_line

SECONDS = 10
"""For one row (hand-set); a template of the size of a chat template takes less than a millisecond."""
MAX_BYTES = 2**30
"""Of the process, above what it takes to start (hand-set)."""
TOO_LARGE = f"needs more than {MAX_BYTES >> 20} MB"
Fill = Callable[[dict[str, Any], str], str]


def template_column(source: str, key: str, longest: int) -> Fill:
    """A function that fills the template of `key` with a row, giving a text of at most `longest` characters.

    Raises:
        BadInput: not a Jinja template. The function: what the template raised, or which limit it exceeded.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        ImmutableSandboxedEnvironment().parse(source)
    except (TemplateError, RecursionError) as error:
        raise BadInput(f"{key}: not a Jinja template: {first_line(error)}") from None
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, source, longest), daemon=True)
    process.start()
    theirs.close()

    def fill(row: dict[str, Any], where: str) -> str:
        text, complaint = "", TOO_LARGE
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            try:
                ours.send(row)
            except (TypeError, AttributeError, PicklingError) as error:
                raise BadInput(f"{where}: {key}: a column that is no plain value: {first_line(error)}") from None
            if ours.poll(SECONDS):
                text, complaint = ours.recv()
            else:
                process.kill()
                complaint = f"takes longer than {SECONDS} s"
        if complaint:
            raise BadInput(f"{where}: {key}: {complaint}; found: {', '.join(row)}")
        return text

    return fill


def _serve(rows: Connection, source: str, longest: int) -> None:
    """Answer each row with its text and what was wrong."""
    from jinja2 import StrictUndefined, Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    _limit_memory()
    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_no_none)
    template: Template | None = None
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            row = rows.recv()
            _end_after(2 * SECONDS)  # whatever becomes of the process that waits
            try:
                template = template or sandbox.from_string(source)  # this already computes what is constant in it
                text = template.render(row | {"row": row})
                rows.send((text, "") if len(text) <= longest else ("", f"makes more than {longest} characters"))
            except MemoryError:
                rows.send(("", TOO_LARGE))
            except Exception as error:  # a template runs code, so it can raise anything
                rows.send(("", first_line(error)))
            _end_after(0)


def _end_after(seconds: float) -> None:
    """Let the system end this process; 0: not at all. Windows has no such timer."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory() -> None:
    if sys.platform != "linux":
        return  # elsewhere the limit has no effect; the time is limited
    import resource

    with open("/proc/self/statm") as handle:
        now = int(handle.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_BYTES, now + MAX_BYTES))


def _no_none(value: Any) -> Any:
    """Null becomes an empty string, not the word None."""
    return "" if value is None else value
