"""The outer process of train.py: check everything, start one worker and record the outcome in run.json."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from diagnose.children import run_child
from diagnose.config import DataConfig, ModelConfig
from diagnose.errors import BadInput, Blocked, RunFailed
from diagnose.items.evalset import read_evalset
from diagnose.models.base import prompt_format_sha
from diagnose.provenance import ROOT, open_run, provenance, write_json
from diagnose.records import Diagnosis, EvalItem, Recommendation
from diagnose.report.words import safe, short
from diagnose.text import override
from train.config import STAGES, TrainConfig, check_lora, check_settings, measured_config, read_diagnosis
from train.data import Rows, read_training
from train.preflight import Check, current_prompt_format, preflight
from train.records import TrainingRun


def run(config: TrainConfig) -> None:
    """One training run.

    Raises:
        BadInput: the diagnosis, the data or a setting is unusable.
        Blocked: preflight or a gate of the method failed.
        RunFailed: the worker crashed.
    """
    diagnosis = read_diagnosis(config.diagnosis)
    then = measured_config(diagnosis)
    config = replace(config, model=merge_model(then.model, config.model), data=merge_data(then.data, config.data))
    check_settings(config)
    check_lora(config)
    evalset = read_evalset(then.evalset)
    items = [*evalset.items, *evalset.held_out]  # few-shot examples are eval items too
    advised = _advised(diagnosis, config.method.name)
    slices = config.data.slices or _slices(diagnosis, advised)
    measured = {item.turns[-1][1] for item in items}
    data = read_training(config.data, config.method.name, slices, measured)
    checks = preflight(config, diagnosis, data) if config.preflight != "off" else []
    _show(config, data, checks, advised)
    if config.preflight == "only":
        return
    out = Path(config.out or "")
    record = _record(config, diagnosis, data, checks, advised, slices)
    with open_run(out, record, redo=False):
        _write_inputs(out, config, data, items)
        code = run_child(_command(config, out), _environment(config))
        why = "no room on the disk" if code == errno.ENOSPC else f"the worker exited with code {code}"
        result = _result(out) or {"status": "failed", "reason": why}
        gates = record.gates | result.pop("method_gates", {})
        write_json(out / "run.json", replace(record, **result, gates=gates))
        if result["status"] == "blocked":
            raise Blocked(f"{out}: blocked: {result['reason']}")
        if result["status"] == "failed":
            raise RunFailed(
                f"{out}: {result['reason']}; to resume, repeat the command with {override('out', str(out))}"
            )
        shutil.rmtree(out / "trainer", ignore_errors=True)
    _farewell(out, config, result)


def merge_model(measured: ModelConfig, given: ModelConfig) -> ModelConfig:
    """The model settings of the diagnosis, overridden by the command line.

    Raises:
        BadInput: the diagnosis used a server or a log, and model.path is not set.
    """
    blank = ModelConfig()
    if measured.kind != "hf":
        if not given.path:
            raise BadInput(
                f"model.path: missing; the diagnosis used model.kind={measured.kind}, "
                "but training needs the weights: model.path=DIR_OR_HUB_NAME"
            )
        kept = {k: getattr(measured, k) for k in ("system_prompt", "stop", "max_new_tokens")}
        measured = replace(blank, **kept)
    if measured.adapter:
        raise BadInput(
            f"model.adapter={measured.adapter}: the diagnosis measured an adapter; training on top of one is not "
            "supported: merge it into the base and diagnose the merged model"
        )
    changed = {
        f.name: getattr(given, f.name) for f in fields(ModelConfig) if getattr(given, f.name) != getattr(blank, f.name)
    }
    train = {stage: measured.train.get(stage, {}) | given.train.get(stage, {}) for stage in STAGES}
    return replace(measured, **changed | {"train": train})


def merge_data(diagnosed: DataConfig, given: DataConfig) -> DataConfig:
    """The data settings given now or those of the diagnosis, never a mixture.

    Raises:
        BadInput: split, subset or columns are set without a data file.
    """
    if given.sft or given.preferences or given.prompts:
        return given
    if alone := next((key for key in ("split", "subset", "columns") if getattr(given, key)), None):
        raise BadInput(f"data.{alone}: goes with rows named here too: data.sft=F, data.preferences=F or data.prompts=F")
    return replace(diagnosed, slices=given.slices or diagnosed.slices)


def _slices(diagnosis: Diagnosis, advised: list[Recommendation]) -> list[str] | None:
    """The slices the method is recommended for, and those without a gap, to prevent regressions."""
    healthy = [v.slice for v in diagnosis.slices if v.verdict == "none"]
    return [*(s for r in advised for s in r.slices), *healthy] if advised else None


def _advised(diagnosis: Diagnosis, method: str) -> list[Recommendation]:
    return [r for r in diagnosis.recommendations if r.train_method == method]


def _record(
    config: TrainConfig,
    diagnosis: Diagnosis,
    data: dict[str, Rows],
    checks: list[Check],
    advised: list[Recommendation],
    slices: list[str] | None,
) -> TrainingRun:
    lifts = {
        s: r.lifts[s][config.method.name]
        for r in diagnosis.recommendations
        for s in r.slices
        if not slices or s in slices
    }
    method: Any = config.method.name
    return TrainingRun(
        **provenance(config),
        identity=_identity(config, data),
        diagnosis=str(config.diagnosis),
        decision_id=diagnosis.decision_id,
        base=config.model.path,
        prompt_format_sha=prompt_format_sha(current_prompt_format(config)),
        evalset_sha256=diagnosis.evalset["sha256"],
        method=method,
        recommended=bool(advised),
        lora=config.lora,
        args=config.method.args,
        data={kind: rows.summary() for kind, rows in data.items()},
        predicted_lift=lifts,
        gates={c.name: "passed" if c.ok else "warned" for c in checks},
        metrics={},
    )


def _identity(config: TrainConfig, data: dict[str, Rows]) -> dict[str, str]:
    """Two runs with the same values are the same job."""

    def sha(value: Any) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "seed", "preflight", "wandb")}
    return {
        "settings": sha(settings),
        "data": sha({kind: rows.rows for kind, rows in data.items()}),
        "seed": str(config.seed),
    }


def _show(config: TrainConfig, data: dict[str, Rows], checks: list[Check], advised: list[Recommendation]) -> None:
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    console.print(f"[bold]preflight[/bold] {config.method.name}, seed {config.seed}")
    for check in checks:
        mark = "[green]ok  [/green]" if check.ok else "[red]stop[/red]" if check.blocks else "[yellow]warn[/yellow]"
        console.print(f"  {mark} {check.name:<13} {safe(check.message)}", highlight=False)
    if not advised:
        console.print(
            f"  [yellow]note[/yellow] the diagnosis recommends {config.method.name} for no slice; training anyway"
        )
    if stopped := [c for c in checks if c.blocks and not c.ok]:
        raise Blocked(
            "preflight: "
            + "; ".join(f"{c.name}: {c.message}" for c in stopped)
            + "\n  preflight=off skips these checks"
        )


def _write_inputs(out: Path, config: TrainConfig, data: dict[str, Rows], items: list[EvalItem]) -> None:
    """What the worker reads."""
    (out / "result.json").unlink(missing_ok=True)
    write_json(out / "graders.json", {name: asdict(item.grader) for item in items for name in item.slices})
    write_json(out / "job.json", {"config": asdict(config), "data": {kind: rows.rows for kind, rows in data.items()}})


def _command(config: TrainConfig, out: Path) -> list[str]:
    """The worker's command; several processes use accelerate on GPUs and torchrun on CPUs.

    `accelerate launch --cpu` starts only one process: https://github.com/huggingface/accelerate/issues/2741
    """
    worker = ["-m", "train.worker", str(out.resolve())]
    if config.num_processes == 1:
        return [sys.executable, *worker]
    import torch

    count = str(config.num_processes)
    if torch.cuda.is_available():
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", count]
    else:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
    return [sys.executable, *launcher, *worker]


def _environment(config: TrainConfig) -> dict[str, str]:
    """No telemetry; one process sees one GPU, because TRL does not support nn.DataParallel."""
    env = os.environ | {
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if config.num_processes == 1:
        env["CUDA_VISIBLE_DEVICES"] = env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return env


def _result(out: Path) -> dict[str, Any]:
    path = out / "result.json"
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return found


def _farewell(out: Path, config: TrainConfig, result: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    for stage, metrics in result["metrics"].items():
        console.print(f"  {stage:<8} {safe(_line(metrics))}", highlight=False)
    console.print(f"adapter     {out / 'adapter'}", highlight=False)
    console.print("next        ", end="")
    command = f"python eval.py {override('diagnosis', str(config.diagnosis))} {override('runs', str(out))}"
    console.print(command, soft_wrap=True, highlight=False, markup=False)


def _line(metrics: dict[str, Any]) -> str:
    """The key metrics of a stage."""
    parts = []
    if "steps" in metrics:
        first, last = metrics["first"].get("loss"), metrics["last"].get("loss")
        loss = f", loss {float(first):.3f} → {float(last):.3f}" if first is not None and last is not None else ""
        parts.append(f"{metrics['steps']} steps{loss}")
    if held_out := metrics.get("held_out"):
        parts.append(f"accuracy {short(held_out['rate'])} on {held_out['n']} held-out pairs")
    if looks := metrics.get("gold_watch"):
        gold = "" if looks[0]["gold"] is None else f", gold {looks[0]['gold']:.2f} → {looks[-1]['gold']:.2f}"
        parts.append(
            f"held-out reward {looks[0]['reward']:.2f} → {looks[-1]['reward']:.2f}{gold}, "
            f"kept step {metrics['kept_step']}"
        )
    return "; ".join(parts)
