"""The three commands as a user runs them, in processes of their own.

Each is forked from one that has imported the libraries, and nothing of ours, which takes seconds.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ["torch", "transformers.modeling_utils", "peft", "scipy.stats", "pydantic", "hydra"]
SECONDS = 600
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(LIBRARIES)


def run_verb(
    verb: str, *overrides: str, env: dict[str, str] | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """A verb to its end.

    Args:
        env: added to the environment, which libraries read when they are imported; so nothing is imported before.
        fresh: nothing in any case, for what starts processes in ways of its own.
    """
    script = str(ROOT / f"{verb}.py")
    command = [sys.executable, script, *overrides]
    if env or fresh:
        environment = os.environ | (env or {})
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        said = [str(Path(folder) / name) for name in ("stdout", "stderr")]
        process = _processes.Process(target=_run, args=(script, overrides, dict(os.environ), *said))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(command, SECONDS)
        out, err = (Path(path).read_text(encoding="utf-8", errors="replace") for path in said)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(command, process.exitcode, out, err)


def _run(script: str, overrides: tuple[str, ...], environment: dict[str, str], out: str, err: str) -> None:
    """Become `python script overrides`."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [script, *overrides]
    sys.orig_argv = [sys.executable, *sys.argv]
    sys.path[0] = str(ROOT)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
