"""What a training run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diagnose.records import RunRecord, TrainMethod


@dataclass(frozen=True, kw_only=True)
class TrainingRun(RunRecord):
    """run.json of a training run."""

    diagnosis: str
    decision_id: str
    base: str | None
    """The weights that were trained on."""
    prompt_format_sha: str
    evalset_sha256: str
    method: TrainMethod
    recommended: bool
    """Does the diagnosis recommend this method for any slice?"""
    lora: dict[str, Any]
    args: dict[str, Any]
    """Fields of the TRL config; once finished, as they were used, by stage."""
    data: dict[str, Any]
    """Kind of rows → path, sha256, rows by slice, dropped."""
    predicted_lift: dict[str, dict[str, float]]
    """slice → lift of the method, predicted before training."""
    gates: dict[str, str]
    metrics: dict[str, Any]
    adapter: str = "adapter"
    """Relative to the run directory."""
    wandb_run: str | None = None
