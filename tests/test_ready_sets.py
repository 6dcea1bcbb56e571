"""Every ready eval set goes end to end on a real model that knows nothing of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import ROOT, run_verb

DATA = Path(os.environ.get("GAPWISE_DATA", ROOT.parent / "shared" / "data"))
MODELS = Path(os.environ.get("GAPWISE_MODELS", ROOT.parent / "shared" / "models"))
SETS = {
    "gsm8k": ("model.max_new_tokens=400",),
    "ifeval": ("model.max_new_tokens=64",),
    "truthfulqa": ("model.max_new_tokens=140",),
    "sciq": (),
    # A window of 512 tokens holds hardly any whole receipt.
    "sroie": (
        "model.max_new_tokens=220",
        "evalset.columns.prompt='Company, date, address and total of this receipt as JSON: "
        """{{ ocr_lines[:6] | join(" ") }}'""",
    ),
    "pararel": (),
}

LIMIT = {"ifeval": 4, "truthfulqa": 3}
"""Rows of a slice, where a set has many of them."""


@pytest.mark.skipif(not (DATA.is_dir() and MODELS.is_dir()), reason=f"no data at {DATA} or models at {MODELS}")
@pytest.mark.parametrize("name", SETS)
def test_a_ready_set_runs_to_its_report(name: str, tmp_path: Path) -> None:
    import json

    out = tmp_path / "out"
    done = run_verb(
        "diagnose",
        "model=stories260k",
        f"model.path={MODELS / 'stories260K'}",
        "model.eos_token='<s>'",
        f"evalset={name}",
        f"evalset.limit={LIMIT.get(name, 20)}",
        "data=own",
        "probes.samples=1",
        "probes.more_samples=0",
        "wandb.mode=disabled",
        f"out={out}",
        *SETS[name],
        env={"GAPWISE_DATA": str(DATA)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    diagnosis = json.loads((out / "diagnosis.json").read_text())
    assert diagnosis["slices"]
    assert all(v["verdict"] != "none" for v in diagnosis["slices"]), "a model of 260 K parameters cannot do this"
    assert all(v["verdict"] == "insufficient" for v in diagnosis["slices"] if v["n"] < 16)
    assert (out / "report.html").stat().st_size > 1000
