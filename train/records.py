"""What a training run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from diagnose.records import RunRecord, TrainMethod


@dataclass(frozen=True, kw_only=True)
class TrainingRun(RunRecord):
    """run.json of a training run."""

    diagnosis: str
    decision_id: str
    base: str | None
    """The weights that the adapter was trained on …"""
    prompt_format_sha: str
    evalset_sha256: str
    method: TrainMethod | Literal["merge"]
    recommended: bool
    """Whether the diagnosis recommends this method for any slice."""
    lora: dict[str, Any]
    args: dict[str, Any]
    """Fields of the TRL config; in a finished run, as used, by stage."""
    data: dict[str, Any]
    """Kind of rows → path, sha256, rows by slice, dropped."""
    predicted_lift: dict[str, dict[str, float]]
    """slice → lift predicted for the method before training."""
    gates: dict[str, str]
    metrics: dict[str, Any]
    adapter: str = "adapter"
    """Relative to the run directory."""
    excluded_items: list[str] = field(default_factory=list)
    """Of the eval set: those that it was trained on, and others of their sources."""
    wandb_run: str | None = None
    base_sha: str | None = None
    """… and which they are, wherever they lie (models/identity.py)."""
    merge: dict[str, Any] | None = None
    """Of a merge: its runs, how they were combined, and what was checked."""
