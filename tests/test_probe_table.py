"""Adding a probe touches four files; everything else reads the table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from diagnose.probes.run import STAGES
from diagnose.probes.table import MODELLED, PROBES, TABLE, Probe
from scripts.planted.slices import shipped_rule

EDITS = {
    "diagnose/probes/table.py": [
        ('    MARGINS = "margins"\n', '    MARGINS = "margins"\n    INSTRUCTED = "instructed"\n'),
        (
            '\n)\n"""In the order in which they are asked."""',
            """
    Entry(
        probe=Probe.INSTRUCTED,
        asked_of=AskedOf.FAILURES,
        label="with an instruction about the format",
        outcome=Outcome.LEVELS,
        recovers="strict",
        step=("right with an instruction", "guess"),
        missing="instructed",
        unknown_without="no instruction was tried, so what one would fix is not known",
        would_show="the probe `instructed`",
    ),
)
\"\"\"In the order in which they are asked.\"\"\"""",
        ),
    ],
    "diagnose/probes/prompts.py": [
        (
            "def paraphrased(",
            '''def instructed(item: EvalItem) -> Ask:
    """The prompt with an instruction about the format."""
    role, text = item.turns[-1]
    prompt = Prompt((*item.turns[:-1], (role, f"{text} Give only the answer.")))
    return Ask(probe=Probe.INSTRUCTED, item=item.id, prompt=prompt, graded=item)


def paraphrased(''',
        )
    ],
    "diagnose/probes/run.py": [
        ("    few_shot,\n", "    few_shot,\n    instructed,\n"),
        (
            "STAGES: dict",
            "def _instructed(r: Round) -> Iterator[list[Ask]]:\n"
            "    yield [instructed(i) for i in r.items]\n\n\nSTAGES: dict",
        ),
        ("    Probe.MARGINS: _margins,\n", "    Probe.MARGINS: _margins,\n    Probe.INSTRUCTED: _instructed,\n"),
    ],
    "conf/rule/default.yaml": [
        (
            "templates:\n",
            "templates:\n  instructed: {none: [.97, .97], format: [.85, .6], format_suppressed: [.05, .5], "
            "knowledge_latent: [.12, .6], knowledge_absent: [.02, .5], knowledge_skill: [.02, .5], "
            "preference: [.97, .97]}\n",
        ),
    ],
}
"""File → (text, what takes its place)."""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one more probe."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("diagnose", "conf"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "diagnose.py", root)
    (root / "tests").mkdir()
    (root / "tests" / "data").symlink_to(ROOT / "tests" / "data")
    assert len(EDITS) <= 4
    for file, edits in EDITS.items():
        text = (root / file).read_text()
        for old, new in edits:
            assert text.count(old) == 1, (file, old)
            text = text.replace(old, new)
        (root / file).write_text(text)
    return root


def diagnosed(root: Path, out: str, *overrides: str) -> tuple[Path, str]:
    command = [sys.executable, "diagnose.py", f"out={out}", "evalset.limit=24", "wandb.mode=disabled", *overrides]
    done = subprocess.run(
        [*command, "rule.calibration=null"],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root / out, done.stdout


def test_a_probe_that_was_added_is_asked_modelled_and_shown(extended: Path) -> None:
    out, _ = diagnosed(extended, "with")
    asked = [row for line in (out / "answers.jsonl").open() if (row := json.loads(line))["probe"] == "instructed"]
    failed = {
        row["item"]
        for line in (out / "answers.jsonl").open()
        if (row := json.loads(line))["probe"] == "plain" and row["strict"] is False
    }
    assert {row["item"] for row in asked} == failed and failed
    found = json.loads((out / "diagnosis.json").read_text())
    assert all("instructed" in v["waterfall"] and "instructed" not in v["missing"] for v in found["slices"])
    assert any(row["probe"] == "instructed" for v in found["slices"] for row in v["evidence"])
    page = (out / "report.html").read_text()
    assert "with an instruction about the format" in page and "right with an instruction" in page


def test_a_probe_that_was_added_and_left_out_is_missing(extended: Path) -> None:
    out, printed = diagnosed(extended, "without", "probes.enabled=[plain,few_shot,samples]")
    found = json.loads((out / "diagnosis.json").read_text())
    assert all("instructed" in v["missing"] for v in found["slices"])
    assert "no instruction was tried, so what one would fix is not known" in " ".join(printed.split())


def test_every_entry_is_complete() -> None:
    """A stage for each, a template for each that the mixture model reads, an explanation for each gap."""
    rule = shipped_rule()
    assert set(STAGES) | {Probe.PLAIN} == set(PROBES)
    assert set(rule.templates) == set(MODELLED)
    for entry in TABLE:
        assert (entry.missing is None) == (entry.unknown_without == "") == (entry.would_show == "")
