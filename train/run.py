"""The outer process of train.py: check everything, start one worker and record the outcome in run.json."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, fields, replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from diagnose.children import run_child
from diagnose.config import DataConfig, ModelConfig
from diagnose.errors import BadInput, Blocked, RunFailed
from diagnose.items.evalset import read_evalset
from diagnose.models.base import prompt_format_sha
from diagnose.models.identity import base_sha
from diagnose.models.weights import prompt_format_of
from diagnose.provenance import ROOT, open_run, provenance, write_json
from diagnose.records import Diagnosis, EvalItem, Recommendation
from diagnose.report.words import safe, short
from diagnose.text import override
from train.bootstrap import own_rows, taught
from train.config import (
    ALGORITHMS,
    DISTRIBUTED,
    STAGES,
    TrainConfig,
    check_lora,
    check_settings,
    measured_config,
    read_diagnosis,
    stages_of,
)
from train.data import Rows, read_training
from train.pii import masked_row
from train.plan import Plan
from train.preflight import Check, preflight, shown_rows
from train.records import TrainingRun
from train.references import refuse_tools, with_references


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
    evalset = read_evalset(then.evalset)
    if config.method.name == "merge":
        from train.merge import merge

        merge(config, diagnosis, config.model, evalset)
        return
    check_settings(config)
    check_lora(config)
    items = [*evalset.items, *evalset.held_out]  # few-shot examples are eval items too
    advised = _advised(diagnosis, config.method.name)
    slices = config.data.slices or _slices(diagnosis, advised)
    excluded = taught(evalset.items, config.seed) if config.data.bootstrap else set[str]()
    data = _rows(config, items, slices, excluded)
    plan = Plan(config, diagnosis, data, slices, evalset.sha256)
    checks = preflight(plan) if config.preflight.mode != "off" else []
    _show(plan, checks, advised)
    if config.preflight.mode == "only":
        return
    out = Path(config.out or "")
    record = replace(_record(plan, checks, advised), excluded_items=sorted(excluded))
    command = _command(config, out)
    with open_run(out, record, redo=False):
        _write_inputs(out, config, data, items)
        code = run_child(command, _environment(config))
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


def _rows(config: TrainConfig, items: list[EvalItem], slices: list[str] | None, taught: set[str]) -> dict[str, Rows]:
    """The rows to train on, ready for the method.

    Args:
        taught: ids of the items whose own answers are the rows; none: the rows are those of files.
    """
    own = own_rows(str(config.diagnosis), [i for i in items if i.id in taught]) if taught else None
    data = read_training(config.data, config.method.name, slices, [i for i in items if i.id not in taught], own)
    if config.pii == "mask":
        data = {kind: replace(rows, rows=list(map(masked_row, rows.rows))) for kind, rows in data.items()}
    if set(stages_of(config.method)) & set(ALGORITHMS):
        refuse_tools(data)
    if config.method.name == "rlvr":
        graders = {name: item.grader for item in items for name in item.slices}
        data = {kind: with_references(rows, graders) for kind, rows in data.items()}
    return data


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
    named = [kind for kind in ("sft", "preferences", "prompts") if getattr(given, kind)]
    if given.bootstrap and named:
        raise BadInput(f"data.bootstrap: makes rows of the diagnosis's own answers; leave out data.{named[0]}")
    if named or given.bootstrap:
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


def _record(plan: Plan, checks: list[Check], advised: list[Recommendation]) -> TrainingRun:
    config, diagnosis, slices = plan.config, plan.diagnosis, plan.slices
    method: Any = config.method.name
    lifts = {
        s: r.lifts[s][method]
        for r in diagnosis.recommendations
        for s in r.slices
        if (not slices or s in slices) and method in r.lifts[s]
    }
    return TrainingRun(
        **provenance(config),
        identity=_identity(config, plan.data),
        diagnosis=str(config.diagnosis),
        decision_id=diagnosis.decision_id,
        base=config.model.path,
        base_sha=base_sha(str(config.model.path)),
        prompt_format_sha=prompt_format_sha(prompt_format_of(config.model, plan.tokenizer, plan.ends)),
        evalset_sha256=diagnosis.evalset["sha256"],
        method=method,
        recommended=bool(advised),
        lora=config.lora,
        args=config.method.args,
        data={kind: rows.summary() for kind, rows in plan.data.items()},
        predicted_lift=lifts,
        gates={c.name: c.level for c in checks},
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


ENDED = 0.95
"""Share of greedy answers to held-out rows that should end within `model.max_new_tokens` (hand-set)."""
READ, TRAINED = 36, 48
"""Characters of a row that are shown of what is only read, and of what the loss is on."""
MARKS = {"passed": "[green]ok  [/green]", "warned": "[yellow]warn[/yellow]", "blocked": "[red]stop[/red]"}


def _show(plan: Plan, checks: list[Check], advised: list[Recommendation]) -> None:
    """Each check in a line, and some rows as they are trained on.

    Raises:
        Blocked: naming the checks that stop the run.
    """
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    method = plan.config.method.name
    console.print(f"[bold]preflight[/bold] {method}, seed {plan.config.seed}")
    for check in checks:
        console.print(f"  {MARKS[check.level]} {check.name:<13} {safe(check.message)}", highlight=False)
    for where, asked, answer in shown_rows(plan) if checks else ():
        before, trained = (safe(text.replace("\n", "⏎")) for text in (asked[-READ:], answer[:TRAINED]))
        console.print(f"  row  {safe(Path(where).name)}: [dim]…{before}[/dim]▸{trained}", highlight=False)
    if not advised:
        console.print(f"  [yellow]note[/yellow] the diagnosis recommends {method} for no slice; training anyway")
    if stopped := [c for c in checks if c.level == "blocked"]:
        force = override("preflight.force", [c.name for c in stopped])
        raise Blocked(
            f"preflight: {'; '.join(f'{c.name}: {c.message}' for c in stopped)}\n  {force} trains in spite of it"
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
        preset = str(files("trl.accelerate_configs") / f"{DISTRIBUTED[config.distributed]}.yaml")
        if config.distributed.startswith("zero") and not find_spec("deepspeed"):
            raise BadInput(f"distributed={config.distributed}: needs DeepSpeed: pip install deepspeed")
        # The presets switch to bfloat16, whatever the settings of the run say.
        launcher = ["-m", "accelerate.commands.launch", "--config_file", preset, "--mixed_precision", "no"]
        launcher += ["--num_processes", count]
    elif config.distributed != "ddp":
        # accelerate 1.15 shards nothing on CPUs, and says nothing: state.py leaves MULTI_CPU as it is.
        raise BadInput(f"distributed={config.distributed}: needs GPUs; on CPUs it would silently be ddp")
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
    if looks := metrics.get("curve"):
        kept = next(look for look in looks if look["step"] == metrics["kept_step"])
        for name in ("score", "reward"):
            if (before := looks[0][name]) is not None:
                parts.append(f"held-out {name} {short(before)} → {short(kept[name])}")
        if kept["ended"] < ENDED:
            parts.append(f"{short(1 - kept['ended'])} of the answers do not come to their end")
        parts.append(f"kept step {metrics['kept_step']}")
    return "; ".join(parts)
