"""Processes that a command starts: none outlives it, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

ENDS_WITH_STDIN = "GAPWISE_ENDS_WITH_STDIN"
"""Set in the environment of a child, which then watches its stdin."""


def run_child(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """The exit code of a child, whose stdin ends when this process does; if this one is stopped, the child is too."""
    with subprocess.Popen(command, env={**environment, ENDS_WITH_STDIN: "1"}, stdin=subprocess.PIPE) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            raise


def end_with_parent() -> None:
    """If `run_child` started this process: end it when stdin does, as the parent is then gone, by `kill -9` or else.

    An orphan would go on writing into a run directory that the repeated command resumes.
    """

    def wait() -> None:
        while os.read(0, 1):  # unbuffered: Python could not shut down while this thread held the lock of sys.stdin
            pass
        os._exit(128 + signal.SIGHUP)

    if os.environ.pop(ENDS_WITH_STDIN, None):
        threading.Thread(target=wait, daemon=True).start()
