"""The worker process of one training run: `python -m train.worker RUN_DIR`, started by train.run.

Writes the adapter and result.json into the run directory. Only rank 0 logs to W&B and writes result.json.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from diagnose.children import end_with_parent
from diagnose.errors import NO_ROOM, Blocked, RunFailed
from diagnose.models.weights import best_device
from diagnose.provenance import read_record, write_json
from diagnose.redact import redacted_text
from diagnose.report.wandb import start_run
from diagnose.text import first_line
from train.records import TrainingRun

FIRST_RANK = os.environ.get("RANK", "0") == "0"
SAYS_NO_ROOM = (
    "No space left",
    "os error 28",
    "File too large",
    "os error 27",
    "PytorchStreamWriter failed",
    "unexpected pos",
)
"""How the writers of safetensors and torch say it."""


def main(out: Path) -> int:
    """Train with one method.

    Returns:
        0, or 3 if a gate of the method blocked the run.
    """
    from train.job import load_job

    job = load_job(out)
    name = job.config.method.name
    run = _track(job) if FIRST_RANK else None
    job.tracked = run is not None
    try:
        match name:
            case "sft":
                from train.sft import fit
            case "dpo":
                from train.dpo import fit
            case "sft_dpo":
                from train.dpo import fit_after_sft as fit
            case "rlhf":
                from train.rlhf import fit
            case "rlvr":
                from train.rlvr import fit
        metrics, reason, code = fit(job), None, 0
    except Blocked as block:
        metrics, reason, code = {}, str(block), 3
    if FIRST_RANK:
        result: dict[str, Any] = {
            "status": "blocked" if code else "finished",
            "reason": reason,
            "metrics": metrics,
            "lora": job.resolved.pop("lora", {}),
            "args": job.resolved,
            "method_gates": job.gates,
            "device": best_device(),
            "wandb_run": run.id if run else None,
        }
        write_json(out / "result.json", result)
    if run is not None:
        run.summary["status"] = "blocked" if code else "finished"
        run.finish()
    return code


def _track(job: Any) -> Any:
    record = read_record(job.out / "run.json", TrainingRun)
    shown = ("diagnosis", "decision_id", "method", "lora", "args", "seed", "predicted_lift")
    config = {name: getattr(record, name) for name in shown}
    return start_run(
        job.config.wandb, group=record.decision_id, job_type="train", name=job.out.name, config=config, out=job.out
    )


def without_room(error: BaseException | None) -> str | None:
    """What to say of an error that a full disk caused, if one did; torch and safetensors raise their own types."""
    while error is not None:
        text = str(error)
        if (isinstance(error, OSError) and error.errno in NO_ROOM) or any(words in text for words in SAYS_NO_ROOM):
            return f"no room on the disk: {first_line(error)}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent ends this process
    end_with_parent()
    out = Path(sys.argv[1])
    try:
        sys.exit(main(out))
    except Exception as failure:
        full = without_room(failure)
        reason = full or redacted_text(f"{type(failure).__name__}: {first_line(failure)}")
        if FIRST_RANK:
            with suppress(RunFailed):
                write_json(out / "result.json", {"status": "failed", "reason": reason})
        if not full:
            raise
        if FIRST_RANK:
            print(reason, file=sys.stderr)
        sys.exit(errno.ENOSPC)
