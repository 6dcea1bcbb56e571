"""Log the comparison to W&B: one run with job type `compare` in the decision's group."""

from __future__ import annotations

from pathlib import Path

from diagnose.config import WandbConfig
from diagnose.report.wandb import start_run
from eval.records import Comparison


def log_comparison(settings: WandbConfig, comparison: Comparison, out: Path) -> None:
    """Log a table with one row per run and slice; the summary holds each run's deltas and verdict."""
    config = {"diagnosis": comparison.diagnosis, "runs": [r.run for r in comparison.runs]}
    run = start_run(settings, group=comparison.decision_id, job_type="compare", name=out.name, config=config, out=out)
    if run is None:
        return
    import wandb

    columns = ["run", "method", "seed", "slice", "role", "n", "before", "after", "delta", "low", "high", "p_holm"]
    rows = [
        [r.run, r.method, r.seed, d.slice, d.role, d.n, d.before, d.after, d.delta, d.low, d.high, d.p_holm]
        for r in comparison.runs
        for d in r.slices
    ]
    run.log({"comparison": wandb.Table(columns=columns, data=rows)})
    for r in comparison.runs:
        name = Path(r.run).name
        run.summary[f"{name}/verdict"] = r.verdict
        for d in r.slices:
            run.summary[f"{name}/{d.slice}/delta"] = d.delta
    run.finish()
