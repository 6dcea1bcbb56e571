"""A run directory has one writer at a time, and no process outlives the command that started it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, run_verb
from filelock import SoftFileLock

from diagnose import provenance
from diagnose.errors import BadInput
from diagnose.provenance import LOCK, discard, open_run, origin, write_json
from diagnose.records import RunRecord

SHORT = ["evalset.limit=20", "probes.enabled=[plain]", "wandb.mode=disabled"]


def record(**identity: str) -> RunRecord:
    empty = {"command": [], "config": {}, "commit": None, "dirty": False, "versions": {}, "python": "", "seed": 0}
    return RunRecord(**empty, started="", identity=identity or {"x": "1"})


def until(happened: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_writer_is_refused_while_the_first_works_and_welcome_afterwards(tmp_path: Path) -> None:
    with open_run(tmp_path / "o", record()):
        before = sorted(p.name for p in (tmp_path / "o").iterdir())
        with pytest.raises(BadInput, match=rf"process {os.getpid()} works in it"), open_run(tmp_path / "o", record()):
            pass
        assert sorted(p.name for p in (tmp_path / "o").iterdir()) == before == ["run.json", LOCK]
    with open_run(tmp_path / "o", record()):
        pass
    assert not (tmp_path / "o" / LOCK).exists()


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    """As `kill -9` leaves it."""
    lock = f"lock = filelock.SoftFileLock({str(tmp_path / LOCK)!r}); lock.acquire()"
    hold = f"import filelock, os; {lock}; os._exit(9)"
    assert subprocess.run([sys.executable, "-c", hold]).returncode == 9 and (tmp_path / LOCK).exists()
    with open_run(tmp_path, record()):
        assert SoftFileLock(tmp_path / LOCK).pid == os.getpid()


@pytest.mark.parametrize("left", ["dead", "empty"])
def test_a_lock_is_taken_over_where_the_file_system_cannot_exchange_names(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS: there filelock leaves the lock of a process that is gone alone."""
    monkeypatch.setattr(SoftFileLock, "_try_break_stale_lock", lambda self: None)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with SoftFileLock(tmp_path / "x"):
        mine = (tmp_path / "x").read_text()
    (tmp_path / "x").unlink(missing_ok=True)
    (tmp_path / LOCK).write_text(mine.replace(str(os.getpid()), gone.stdout.strip()) if left == "dead" else "")
    os.utime(tmp_path / LOCK, (0, 0))
    with open_run(tmp_path, record()):
        assert SoftFileLock(tmp_path / LOCK).pid == os.getpid()


def test_the_lock_of_another_machine_is_left_alone_and_named(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with SoftFileLock(tmp_path / "x"):
        mine = (tmp_path / "x").read_text()
    theirs = mine.replace(socket.gethostname(), "node-7").replace(str(os.getpid()), gone.stdout.strip())
    assert theirs != mine
    (tmp_path / LOCK).write_text(theirs)
    with pytest.raises(BadInput, match=r"another machine and is gone: rm .*run\.lock"), open_run(tmp_path, record()):
        pass


def test_what_is_refused_leaves_no_directory_and_no_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "new", record()):
        (tmp_path / "new" / "run.json").unlink()
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()
    with open_run(tmp_path / "old", record()):
        pass
    with pytest.raises(BadInput, match="differs in x"), open_run(tmp_path / "old", record(x="2")):
        pass
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["run.json"]


def test_two_diagnoses_into_one_directory_ask_everything_once(tmp_path: Path) -> None:
    out = tmp_path / "o"
    settings = [f"out={out}", "evalset.limit=20", "wandb.mode=disabled"]
    command = [sys.executable, str(ROOT / "diagnose.py"), *settings]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until(lambda: (out / LOCK).exists() or first.poll() is not None)
    second = run_verb("diagnose", *settings)
    assert (second.returncode, first.wait()) == (2, 0), second.stderr
    assert second.stderr.strip() == (
        f"out={out}: process {first.pid} works in it; wait until it has ended, or choose another directory (if it ran "
        f"on another machine and is gone: rm {out / LOCK})"
    )
    lines = (out / "answers.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines))


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("short") / "d"
    done = run_verb("diagnose", f"out={out}", *SHORT)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_a_worker_ends_with_its_parent(diagnosis: Path, tmp_path: Path, how: signal.Signals) -> None:
    """An orphan would write into the directory that the repeated command resumes; and the record says what happened."""
    out = tmp_path / "t"
    settings = [
        "method=sft",
        "data.slices=[stone_json,home_known]",
        "method.args.max_steps=2000",
        "wandb.mode=disabled",
    ]
    command = [sys.executable, str(ROOT / "train.py"), f"diagnosis={diagnosis}", f"out={out}", *settings]
    # A shell that starts the suite in the background has it ignore SIGINT, which children inherit.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    parent = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    listing = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    until(lambda: (out / "trainer").exists() or parent.poll() is not None)
    (worker,) = (int(pid) for pid in listing.read_text().split())
    assert alive(worker)
    parent.send_signal(how)
    said = parent.communicate()[1]
    until(lambda: not alive(worker), 20)
    record = json.loads((out / "run.json").read_text())
    if how == signal.SIGKILL:
        assert (parent.returncode, record["status"]) == (-how, "running")
    else:
        assert (parent.returncode, record["status"], record["reason"]) == (
            128 + how,
            "failed",
            f"stopped by {how.name}",
        )
        assert f"to go on, repeat the command with out={out}" in said and "Traceback" not in said


# ---------------------------------------------------------------- signs of life


def status(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "run.json").read_text())
    return found


def test_a_run_shows_that_it_lives_and_never_undoes_its_own_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "BEAT", 0.001)
    mine = replace(record(), pid=os.getpid(), host=socket.gethostname())
    for trial in range(20):
        out = tmp_path / str(trial)
        with open_run(out, mine):
            until(lambda: status(out)["heartbeat"])  # noqa: B023
            assert status(out)["status"] == "running" and status(out)["pid"] == os.getpid()
            write_json(out / "run.json", replace(mine, status="finished"))
            time.sleep(0.005)
        assert status(out)["status"] == "finished"
    assert not {"pid", "host", "heartbeat"} & origin(mine).keys(), "results would differ from machine to machine"


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_run_whose_record_was_removed_or_spoilt_goes_on(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "BEAT", 0.001)
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with open_run(tmp_path / "o", record()):
        discard(tmp_path / "o" / "run.json")
        if content is not None:
            (tmp_path / "o" / "run.json").write_text(content)
        time.sleep(0.05)
    assert not failed and (tmp_path / "o").exists() is (content is not None)
