"""The worker process of one training run: `python -m train.worker RUN_DIR`, started by train.run.

Writes the adapter and result.json into the run directory. Only rank 0 logs to W&B and writes result.json.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from diagnose.errors import Blocked
from diagnose.models.weights import best_device
from diagnose.provenance import read_record, write_json
from diagnose.report.wandb import start_run
from train.records import TrainingRun


def end_with_parent() -> None:
    """End this process when stdin does: train.run holds the other end, so it is gone, by `kill -9` or in any other way.

    An orphan would go on writing into a run directory that the repeated command resumes.
    """

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(128 + signal.SIGHUP)

    threading.Thread(target=wait, daemon=True).start()


def main(out: Path) -> int:
    """Train with one method.

    Returns:
        0, or 3 if a gate of the method blocked the run.
    """
    from train.job import load_job

    job = load_job(out)
    first_rank = os.environ.get("RANK", "0") == "0"
    name = job.config.method.name
    run = _track(job) if first_rank else None
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
        metrics, reason, code = fit(job), None, 0
    except Blocked as block:
        metrics, reason, code = {}, str(block), 3
    if first_rank:
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


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1])))
