"""W&B: one run per job, explicit about everything, and nothing written outside the outputs directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from diagnose.config import WandbConfig
from diagnose.records import Diagnosis


def start_run(settings: WandbConfig, *, group: str, job_type: str, name: str, config: dict[str, Any], out: Path) -> Any:
    """wandb.init with every directory of its own named by us.

    Returns:
        The W&B run, or None when disabled or when W&B refuses (said on stderr): tracking never costs a result.
    """
    if settings.mode == "disabled":
        return None
    home = wandb_home(out)
    for variable in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        os.environ[variable] = str(home / "wandb" / "home")
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    (home / "wandb" / "home").mkdir(parents=True, exist_ok=True)
    try:
        return _init(settings, group, job_type, name, config, home)
    except wandb.Error as error:
        print(f"wandb: not tracked: {error}", file=sys.stderr)
        return None


def _init(settings: WandbConfig, group: str, job_type: str, name: str, config: dict[str, Any], home: Path) -> Any:
    import wandb

    return wandb.init(
        project=settings.project,
        group=settings.group or group,
        job_type=job_type,
        name=name,
        mode=settings.mode,  # type: ignore[arg-type]
        dir=str(home),
        config=config,
        reinit="finish_previous",
    )


def wandb_home(out: Path) -> Path:
    """`outputs/`, shared by all runs in it so that one `wandb leet outputs/wandb` shows a sweep; else the run's own."""
    shared = Path("outputs").resolve()
    return shared if shared in out.resolve().parents else out.resolve()


def log_diagnosis(settings: WandbConfig, diagnosis: Diagnosis, out: Path) -> None:
    """One W&B run with the table of slices."""
    config = {
        "model": diagnosis.run["config"]["model"],
        "evalset": diagnosis.evalset["sha256"],
        "seed": diagnosis.run["seed"],
    }
    run = start_run(settings, group=diagnosis.decision_id, job_type="diagnose", name=out.name, config=config, out=out)
    if run is None:
        return
    import wandb

    columns = ["slice", "n", "verdict", "kind", "p_verdict", "strict"]
    rows = [[v.slice, v.n, v.verdict, v.kind, v.p_verdict, v.strict.k / max(v.strict.n, 1)] for v in diagnosis.slices]
    run.log({"slices": wandb.Table(columns=columns, data=rows)})
    for v in diagnosis.slices:
        run.summary[f"{v.slice}/verdict"] = v.verdict
        run.summary[f"{v.slice}/p_verdict"] = v.p_verdict
    run.finish()
