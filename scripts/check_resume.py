"""Kill every command at random moments: repeated, it must go on and end in the same result.

Each trial starts a command in a fresh directory and ends it after a random share of the time that an uninterrupted run
takes: with SIGKILL to its whole process group, with SIGKILL to its first process alone, with SIGTERM or with SIGINT.
Then the same command runs to its end. Required of each trial: apart from times, the same bytes as the uninterrupted
run; the exit code of the signal; a run.json that says how the run ended; no process left behind.

    python -m scripts.check_resume               # all commands, an hour on 2 CPU cores
    python -m scripts.check_resume --only sft eval --kills 3

Writes scripts/results/check_resume.json, command by command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os import killpg
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).resolve().parent / "results" / "check_resume.json"
CHANGES = (
    *("command", "started", "config", "commit", "dirty", "wandb_run", "first", "last"),
    *("pid", "host", "heartbeat"),
)
"""Fields that may differ: times, process, directory, state of the repository, and the averages that a trainer logs:
after a resume they begin anew."""
DEMO = ("diagnose.py", "evalset.limit=24")
TRAIN = ("train.py", "diagnosis={base}", "method.args.save_steps=5")
WORKS = {
    "diagnose": DEMO,
    "sft": (*TRAIN, "method=sft", "data.slices=[stone_json]", "method.args.max_steps=40"),
    "dpo": (*TRAIN, "method=dpo", "data.slices=[craft_tone]", "method.args.max_steps=20"),
    "sft_dpo": (
        *(*TRAIN, "method=sft_dpo", "data.slices=[craft_tone]", "method.args.max_steps=15"),
        *("method.first.max_steps=20", "method.first.save_steps=5"),
    ),
    "rlhf": (
        *(*TRAIN, "method=rlhf", "data.slices=[craft_tone]", "method.args.max_steps=20", "watch.every=5"),
        *("method.first.max_steps=60", "method.first.save_steps=20"),
    ),
    "rlvr": (*TRAIN, "method=rlvr", "data.slices=[home_latent]", "method.args.max_steps=20", "watch.every=5"),
    "eval": ("eval.py", "diagnosis={base}", "runs={base}_sft"),
}
"""Every stage saves a few times, so that a kill falls before, between and behind checkpoints."""
SIGNALS = {
    "kill": signal.SIGKILL,
    "kill parent": signal.SIGKILL,
    "terminate": signal.SIGTERM,
    "interrupt": signal.SIGINT,
}


@dataclass(frozen=True)
class Ended:
    """How a command was ended, and what was wrong with that."""

    after: float
    wrong: str


def main() -> int:
    args = parsed()
    right = True
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        finish(command_of(DEMO, base), base)
        for name in dict.fromkeys(["sft", *args.only] if "eval" in args.only else args.only):
            whole = Path(f"{base}_{name}")
            command = command_of(WORKS[name], base)
            start = time.perf_counter()
            finish(command, whole)
            seconds = time.perf_counter() - start
            if name in args.only:
                trials = list(tried(name, command, whole, seconds, args.kills, random.Random(f"{args.seed} {name}")))
                right &= keep(name, seconds, trials)
    return 0 if right else 1


def keep(name: str, seconds: float, trials: list[dict[str, Any]]) -> bool:
    """Write what a command's trials came to beside those of the others. Were all right?"""
    right = sum(not trial["wrong"] for trial in trials)
    print(f"{name}: {right} of {len(trials)} right; an uninterrupted run took {seconds:.1f} s", flush=True)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result[name] = {
        "command": shlex.join(["python", "-m", "scripts.check_resume", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "undisturbed_s": round(seconds, 1),
        "right": right,
        "n": len(trials),
        "trials": trials,
    }
    RESULT.write_text(json.dumps({work: result[work] for work in WORKS if work in result}, indent=1) + "\n")
    return right == len(trials)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, default=20, help="of the whole group; a quarter as many of each other kind"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(WORKS), default=list(WORKS), help="some of the commands")
    return parser.parse_args()


def command_of(work: tuple[str, ...], base: Path) -> list[str]:
    return [sys.executable, *(part.format(base=base) for part in work), "wandb.mode=disabled"]


def tried(
    name: str, command: list[str], whole: Path, seconds: float, kills: int, rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Every trial of a command, told as it ends."""
    expected = result_in(whole)
    plan = [how for how in SIGNALS for _ in range(kills if how == "kill" else max(1, kills // 4))]
    for number, how in enumerate(plan, 1):
        out = Path(f"{whole}_{number}")
        ended = end(command, out, how, rng.uniform(0.1, 1.0) * seconds)
        wrong = ended.wrong or differs(command, out, expected)
        print(f"{name:<9} {number:>3}/{len(plan)} {how:<11} after {ended.after:>5.1f} s: {wrong or 'same'}", flush=True)
        yield {"how": how, "after_s": round(ended.after, 1), "wrong": wrong}


def end(command: list[str], out: Path, how: str, after: float) -> Ended:
    """Start a command, end it, and look at what it left."""
    process = subprocess.Popen(
        [*command, f"out={out}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
        # What a shell starts in the background ignores SIGINT, and so do its children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        said = process.communicate(timeout=after)[1].decode()
        return Ended(after, "" if process.returncode == 0 else f"ended by itself: {said[-200:]}")
    except subprocess.TimeoutExpired:
        pass
    killpg(process.pid, SIGNALS[how]) if how in ("kill", "interrupt") else process.send_signal(SIGNALS[how])
    said = process.communicate()[1].decode()
    return Ended(after, complaint(how, process.returncode, said, out))


def complaint(how: str, code: int, said: str, out: Path) -> str:
    """What is wrong with how it ended."""
    record = json.loads((out / "run.json").read_text()) if (out / "run.json").exists() else None
    status = record["status"] if record else "none"
    if left := left_behind(out):
        return f"left behind: {left}"
    if status in ("finished", "blocked"):
        return ""
    if SIGNALS[how] == signal.SIGKILL:
        return "" if code == -signal.SIGKILL and status in ("running", "none") else f"exit code {code}, {status}"
    if not record:  # before Python could listen, or before the run began
        return "" if code in (128 + SIGNALS[how], -SIGNALS[how]) else f"exit code {code}"
    if code != 128 + SIGNALS[how] or "Traceback" in said or f"out={out}" not in said:
        return f"exit code {code}: {said[-300:]}"
    right = status == "failed" and record["reason"] == f"stopped by {SIGNALS[how].name}"
    return "" if right else f"{status}: {record['reason']}"


def left_behind(out: Path) -> list[str]:
    """Processes that still work in the directory five seconds later."""
    for _ in range(50):
        found = subprocess.run(["pgrep", "-f", f"train.worker {out}$"], capture_output=True, text=True).stdout.split()
        if not found:
            return []
        time.sleep(0.1)
    return found


def finish(command: list[str], out: Path) -> None:
    """Run a command to its end; a method may end blocked by a gate of its own.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run([*command, f"out={out}"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr[-500:])


def differs(command: list[str], out: Path, expected: dict[str, Any]) -> str:
    """What is not as expected when the command is repeated; a finished training run refuses to be repeated."""
    try:
        finish(command, out)
    except RuntimeError as error:
        if "holds a finished run" not in str(error):
            return f"repeated: {error}"
    found = result_in(out)
    return ", ".join(f"{k}: {found.get(k)} for {v}" for k, v in expected.items() if found.get(k) != v)


def result_in(out: Path) -> dict[str, Any]:
    """Everything that must be the same, by name: weights and answers by their hash, and what the JSON files say."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name in ("answers.jsonl", "adapter_model.safetensors"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif name in ("run.json", "diagnosis.json", "comparison.json"):
            said = lasting(json.loads(path.read_text().replace(str(out), "OUT")))
            found |= {f"{name}: {key}": value for key, value in said.items()}
    return found


def lasting(value: Any) -> Any:
    """Without what may change, at any depth."""
    if isinstance(value, dict):
        return {key: lasting(part) for key, part in value.items() if key not in CHANGES}
    return [lasting(part) for part in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
