"""Sweeps on other launchers: every job has its directory, a job that fails costs only itself, and the sweep says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_verb

LAUNCHERS = {
    "joblib": ["+cluster=joblib"],
    "slurm": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20"],
}
"""Extra → what selects it; without SLURM its jobs are processes of this machine."""


def runs_since(before: set[Path]) -> dict[str, Any]:
    found = set((ROOT / "outputs" / "train").glob("*")) - before
    return {path.name: json.loads((path / "run.json").read_text()) for path in found if (path / "run.json").exists()}


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_a_sweep_goes_on_past_a_job_that_fails_and_ends_non_zero(launcher: str, demo_diagnosis: Path) -> None:
    before = set((ROOT / "outputs" / "train").glob("*"))
    short = ["method=sft", "data.slices=[stone_json]", "method.args.max_steps=2", "watch.every=0"]
    command = ["-m", *LAUNCHERS[launcher], f"diagnosis={demo_diagnosis}", *short, "wandb.mode=disabled"]
    # The first job cannot fit its rows into so few tokens; the second can.
    done = run_verb("train", *command, "method.args.max_length=4,64", fresh=True)
    assert done.returncode == 3, done.stderr[-2000:]
    assert "have no room for an answer" in done.stderr
    (run,) = [run for name, run in runs_since(before).items() if run["diagnosis"] == str(demo_diagnosis)]
    assert run["status"] == "finished" and run["args"]["sft"]["max_length"] == 64


@pytest.mark.parametrize("name", ["joblib", "slurm", "ray"])
def test_clusters_name_settings_that_their_launchers_have(name: str) -> None:
    """Composed as a sweep would, where the launcher is installed."""
    from omegaconf import OmegaConf

    found = OmegaConf.load(ROOT / "conf" / "cluster" / f"{name}.yaml")
    plugin = {"joblib": "hydra_joblib_launcher", "slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}[name]
    config = pytest.importorskip(f"hydra_plugins.{plugin}.{'_config' if name == 'ray' else 'config'}")
    kind = {"joblib": "JobLibLauncherConf", "slurm": "SlurmQueueConf", "ray": "RayLauncherConf"}[name]
    known = OmegaConf.structured(getattr(config, kind))
    assert set(found.hydra.launcher) <= set(known), set(found.hydra.launcher) - set(known)
