"""The three verbs as a user runs them, on the demo."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, run_verb
from peft import LoraConfig
from safetensors.torch import save_file

from diagnose.errors import BadInput
from diagnose.models.adapter import lora_shapes
from diagnose.provenance import write_json
from eval.config import EvalConfig
from eval.run import find_runs
from eval.run import run as eval_run
from train.config import TrainConfig, measured_config, read_diagnosis
from train.records import TrainingRun
from train.run import run as train_run

TRUTH = json.loads((ROOT / "tests" / "data" / "demo" / "truth.json").read_text())


def test_the_demo_s_planted_gaps_are_found(demo_diagnosis: Path) -> None:
    found = json.loads((demo_diagnosis / "diagnosis.json").read_text())
    assert {v["slice"]: {"verdict": v["verdict"], "kind": v["kind"]} for v in found["slices"]} == TRUTH
    assert all(v["p_verdict"] >= 0.9 and v["n"] >= 48 for v in found["slices"])
    assert found["schema_version"] == 2 and found["calibration"] == "none", "the demo is not the model that was fitted"
    assert (demo_diagnosis / "report.html").stat().st_size > 10_000


def test_a_killed_diagnosis_goes_on_to_the_same_bytes(demo_diagnosis: Path, tmp_path: Path) -> None:
    """The log is cut in the middle of a line; the same command goes on and ends in the same diagnosis."""
    out = tmp_path / "diagnosis"
    shutil.copytree(demo_diagnosis, out)
    log = (out / "answers.jsonl").read_bytes()
    (out / "answers.jsonl").write_bytes(log[: len(log) * 2 // 3])
    (out / "diagnosis.json").unlink()
    done = run_verb("diagnose", f"out={out}", "wandb.mode=disabled")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "answers.jsonl").read_bytes() == log
    one, two = (json.loads((d / "diagnosis.json").read_text()) for d in (demo_diagnosis, out))
    for found in (one, two):
        found.pop("run")
        for r in found["recommendations"]:
            r.pop("command")
    assert one == two


def test_another_seed_into_the_same_directory_is_refused(demo_diagnosis: Path) -> None:
    done = run_verb("diagnose", f"out={demo_diagnosis}", "seed=1")
    assert done.returncode == 2
    assert "holds another run (differs in seed)" in done.stderr


def test_sweep_then_eval(demo_diagnosis: Path, tmp_path: Path) -> None:
    """A sweep in one Hydra process: one directory and one W&B run per job; then the comparison and its gate."""
    before = set((ROOT / "outputs" / "train").glob("*")) if (ROOT / "outputs" / "train").exists() else set()
    args = ["data.slices=[stone_json,home_known]", "method.args.max_steps=60", "seed=0,1"]
    done = run_verb("train", "-m", f"diagnosis={demo_diagnosis}", "method=sft", *args)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = sorted(set((ROOT / "outputs" / "train").glob("*_sft_*")) - before)
    try:
        assert [r.name.split("_sft_")[1] for r in runs] == ["0_0", "1_1"]
        tracked = {json.loads((r / "run.json").read_text())["wandb_run"] for r in runs}
        assert len(tracked) == 2 and None not in tracked
        for run_id in tracked:
            assert list((ROOT / "outputs" / "wandb").glob(f"offline-run-*-{run_id}"))
        for run in runs:
            shutil.copytree(run, tmp_path / "runs" / run.name)
    finally:
        for run in runs:
            shutil.rmtree(run)
    compare(demo_diagnosis, tmp_path)


def compare(diagnosis: Path, folder: Path) -> None:
    out = folder / "comparison"
    done = run_verb(
        "eval", f"diagnosis={diagnosis}", f"runs={folder}/runs/*", f"out={out}", "gate=true", "wandb.mode=disabled"
    )
    found = json.loads((out / "comparison.json").read_text())
    by = {d["slice"]: d for d in found["runs"][0]["slices"]}
    assert len(found["runs"]) == 2
    assert by["stone_json"]["role"] == "target" and by["home_known"]["role"] == "guard"
    assert by["stone_json"]["before"] < 0.1 < 0.9 < by["stone_json"]["after"]
    assert by["stone_json"]["low"] > 0 and by["stone_json"]["p_holm"] < 0.001
    assert by["stone_json"]["arms"]["prompt"]["before"] > 0.9, "exemplars alone repair the form, as was advised"
    assert by["stone_json"]["verdict"] == "better"
    verdicts = {r["verdict"] for r in found["runs"]}
    assert done.returncode == (4 if "INCONCLUSIVE" in verdicts else 0)
    assert "stone_json" in done.stdout and (out / "report.html").exists()


def training_run(**changes: Any) -> TrainingRun:
    fields: dict[str, Any] = {
        "command": ["train.py"], "config": {}, "commit": None, "dirty": False, "versions": {}, "python": "3.11",
        "seed": 0, "started": "", "identity": {}, "status": "finished", "diagnosis": "d", "decision_id": "d",
        "base": "m", "prompt_format_sha": "r", "evalset_sha256": "e", "method": "sft", "recommended": True, "lora": {},
        "args": {}, "data": {}, "predicted_lift": {}, "gates": {}, "metrics": {},
    }  # fmt: skip
    return TrainingRun(**fields | changes)


def test_runs_on_another_eval_set_are_refused(demo_diagnosis: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    found = json.loads((demo_diagnosis / "diagnosis.json").read_text())
    record = training_run(
        evalset_sha256="0" * 64,
        prompt_format_sha=found["prompt_format_sha"],
        base=found["run"]["config"]["model"]["path"],
    )
    write_json(run / "run.json", record)
    done = run_verb("eval", f"diagnosis={demo_diagnosis}", f"runs={run}", f"out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "evalset_sha256: 00000000" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", ["nothing_here/*", "tests"])
def test_no_runs_to_compare(demo_diagnosis: Path, pattern: str) -> None:
    done = run_verb("eval", f"diagnosis={demo_diagnosis}", f"runs={pattern}")
    assert done.returncode == 2
    assert "matches" in done.stderr


def test_unfinished_runs_are_not_compared(demo_diagnosis: Path, tmp_path: Path) -> None:
    for name in ("failed", "running"):
        (tmp_path / name).mkdir()
    write_json(tmp_path / "failed" / "run.json", training_run(status="failed", reason="killed"))
    (tmp_path / "older").mkdir()
    write_json(tmp_path / "older" / "run.json", training_run(status="running", started="2025-12-31"))
    there = training_run(status="running", pid=7, host="node3", heartbeat="2026-01-02T03:04:05+00:00")
    write_json(tmp_path / "running" / "run.json", there)
    done = run_verb("eval", f"diagnosis={demo_diagnosis}", f"runs={tmp_path}/*")
    assert done.returncode == 2
    assert "no run is finished" in done.stderr and "failed: killed" in done.stderr
    assert "older: running: last seen 2025-12-31" in done.stderr
    assert "running: process 7 on node3, last seen 2026-01-02T03:04:05+00:00" in done.stderr


def save_adapter(folder: Path, base: str) -> Path:
    """An adapter that fits, untrained; returns its weights."""
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    lora.save_pretrained(folder)
    weights = {name: torch.zeros(shape) for name, shape in lora_shapes(base, lora).items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder / "adapter_model.safetensors"


def test_a_run_that_cannot_be_read_costs_only_itself(demo_diagnosis: Path, tmp_path: Path) -> None:
    texts = {
        "broken": b"{",
        "list": b"[]",
        "older": b'{"schema_version": 1, "status": "finished"}',
        "latin": b"\xff\xfe{}",
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes(text)
    found = read_diagnosis(str(demo_diagnosis))
    model = measured_config(found).model
    record = training_run(
        evalset_sha256=found.evalset["sha256"],
        prompt_format_sha=found.prompt_format_sha,
        base=model.path,
    )
    for name in ("whole", "cut off", "no adapter", "endless rank"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "run.json", record)
        if name != "no adapter":
            weights = save_adapter(tmp_path / name / "adapter", str(model.path))
        if name == "cut off":
            weights.write_bytes(weights.read_bytes()[:1000])
        if name == "endless rank":
            about = weights.with_name("adapter_config.json")
            about.write_text(json.dumps(json.loads(about.read_text()) | {"r": 10**9}))
    runs, skipped, _ = find_runs(f"{tmp_path}/*", found, model)
    assert [path.name for path, _ in runs] == ["whole"] and runs[0][1] == record
    why = {Path(path).name: text for path, text in skipped.items()}
    assert set(why) == {*texts, "cut off", "no adapter", "endless rank"}
    assert "schema_version 1" in why["older"] and "contains no adapter_config.json" in why["no adapter"]
    assert "does not fit this base" in why["cut off"] and "of another shape" in why["endless rank"]


def changed(**sections: Any) -> Any:
    def change(text: str) -> bytes:
        found = json.loads(text)
        found["run"]["config"] = found["run"]["config"] | {
            name: found["run"]["config"][name] | values if isinstance(values, dict) else values
            for name, values in sections.items()
        }
        return json.dumps(found).encode()

    return change


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda text: b"", "cannot be read"),
        (lambda text: b"{}", "schema_version 1"),
        (lambda text: b"[]", "not the record of a run"),
        (lambda text: b"\xff\xfe" + text.encode("utf-16-le"), "cannot be read"),
        (lambda text: text[:2000].encode(), "cannot be read"),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": 99').encode(), "schema_version 99"),
        (lambda text: text.replace('"decision_id"', '"id"').encode(), "decision_id: Field required"),
        (changed(model={"new_key": 1}), "run.config.model.new_key: unknown here"),
        (changed(model={"batch_size": "many"}), "run.config.model.batch_size: Input should be a valid integer"),
        (changed(probes=[]), "run.config.probes: Input should be"),
        (None, "diagnosis.json"),
    ],
    ids=["empty", "no keys", "list", "UTF-16", "half", "newer", "no id", "newer key", "type", "section", "directory"],
)
@pytest.mark.parametrize("verb", ["train", "eval"])
def test_a_broken_diagnosis_is_one_sentence(
    verb: str, broken: Any, says: str, demo_diagnosis: Path, tmp_path: Path
) -> None:
    path = tmp_path / "diagnosis.json"
    if broken is None:
        path.mkdir()
    else:
        path.write_bytes(broken((demo_diagnosis / "diagnosis.json").read_text()))
    run: Any = {"train": train_run, "eval": eval_run}[verb]
    config: Any = {"train": TrainConfig, "eval": EvalConfig}[verb]
    with pytest.raises(BadInput) as error:
        run(config(diagnosis=str(tmp_path), out=str(tmp_path / "out")))
    assert says in str(error.value) and "diagnosis.json" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_directory_of_an_older_version_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"identity": {}, "status": "finished"}')
    done = run_verb("diagnose", f"out={tmp_path}", "evalset.limit=16")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "schema_version 1" in done.stderr and "choose a new directory" in done.stderr


def test_launch_trains_what_is_recommended_first(demo_diagnosis: Path, tmp_path: Path) -> None:
    out = tmp_path / "diagnosis"
    shutil.copytree(demo_diagnosis, out)
    done = run_verb("diagnose", f"out={out}", "launch=true", "wandb.mode=disabled")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "launch: python train.py" in done.stdout and "launch: not started" in done.stdout
    run = Path(done.stdout.split("adapter     ")[1].split()[0]).parent
    try:
        record = json.loads((ROOT / run / "run.json").read_text())
        assert (record["method"], record["status"], record["recommended"]) == ("sft", "finished", True)
        assert record["predicted_lift"]["stone_json"]["mean"] > 0.5
        assert record["wandb_run"] is None
    finally:
        shutil.rmtree(ROOT / run)


def test_launch_without_rows_is_refused_before_probing(tmp_path: Path) -> None:
    sets = ["evalset.path=tests/data/demo/evalset.jsonl", "launch=true", f"out={tmp_path / 'out'}"]
    done = run_verb("diagnose", *sets)
    assert done.returncode == 2
    assert "needs rows to train on" in done.stderr


def test_a_window_in_which_nothing_fits_is_an_error(tmp_path: Path) -> None:
    done = run_verb("diagnose", "model.max_new_tokens=256", f"out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "model.max_new_tokens=256" in done.stderr
    assert not (tmp_path / "out").exists()


def test_recommended_resolves_to_the_advice(demo_diagnosis: Path) -> None:
    done = run_verb("train", f"diagnosis={demo_diagnosis}", "method=recommended", "preflight=only")
    assert done.returncode == 0
    assert "preflight sft" in done.stderr
