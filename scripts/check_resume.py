"""Kill a diagnosis at random moments: repeating the command must resume it and give the same result.

Each trial starts `diagnose.py` in a fresh directory, kills it with SIGKILL (no cleanup) after a random share of the
time an uninterrupted run takes, repeats the command, possibly kills it again, and finally lets it finish. Apart from
times, diagnosis.json must then equal that of the uninterrupted run, and answers.jsonl must be identical byte for byte.

    python -m scripts.check_resume evalset.limit=24      # 20 kill points; writes scripts/results/check_resume.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).resolve().parent / "results" / "check_resume.json"
CHANGES = ("command", "started", "config", "commit", "dirty")
"""Fields of the run record that may differ: times, directory, state of the repository."""


def main() -> int:
    args = parsed()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        whole = finish(Path(folder) / "whole", args.overrides)
        seconds = time.perf_counter() - start
        trials: list[dict[str, Any]] = []
        for trial in range(args.kills):
            out = Path(folder) / str(trial)
            kills = interrupt(out, args.overrides, seconds, rng)
            same = finish(out, args.overrides) == whole
            trials.append({"killed_after_s": kills, "same": same})
            print(
                f"{trial + 1:>3} of {args.kills}: killed after {kills} s: {'same' if same else 'DIFFERENT'}", flush=True
            )
    right = sum(t["same"] for t in trials)
    print(f"{right} of {len(trials)} ended in the same diagnosis; an uninterrupted run took {seconds:.1f} s")
    typed = shlex.join(["python", "-m", "scripts.check_resume", *sys.argv[1:]])
    where = {"cpu": platform.machine(), "python": platform.python_version()}
    result: dict[str, Any] = {
        "command": typed,
        "machine": where,
        "undisturbed_s": round(seconds, 1),
        "trials": trials,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if right == len(trials) else 1


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="overrides of diagnose.py; default: the demo")
    return parser.parse_args()


def command(out: Path, overrides: list[str]) -> list[str]:
    return [sys.executable, str(ROOT / "diagnose.py"), f"out={out}", "wandb.mode=disabled", *overrides]


def interrupt(out: Path, overrides: list[str], seconds: float, rng: random.Random) -> list[float]:
    """Start and kill the run, once or several times.

    Returns:
        Seconds until each kill.
    """
    kills: list[float] = []
    while not kills or rng.random() < 0.3:
        process = subprocess.Popen(
            command(out, overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        after = rng.uniform(0.1, 1.0) * seconds
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        kills.append(round(after, 1))
    return kills


def finish(out: Path, overrides: list[str]) -> tuple[dict[str, Any], bytes]:
    """Run the command to its end; returns the diagnosis without CHANGES, and the answers."""
    subprocess.run(command(out, overrides), check=True, capture_output=True, cwd=ROOT)
    diagnosis = json.loads((out / "diagnosis.json").read_text().replace(str(out), "OUT"))
    diagnosis["run"] = {key: value for key, value in diagnosis["run"].items() if key not in CHANGES}
    return diagnosis, (out / "answers.jsonl").read_bytes()


if __name__ == "__main__":
    sys.exit(main())
