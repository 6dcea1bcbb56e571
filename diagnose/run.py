"""The story of diagnose, in order; leaves run.json, answers.jsonl, diagnosis.json and report.html in `out`."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from diagnose.adaptive import spend
from diagnose.advice.recommend import SOURCE, recommend
from diagnose.advice.wording import TRAINING
from diagnose.children import run_child
from diagnose.config import DataConfig, DiagnoseConfig
from diagnose.errors import BadInput, Blocked, RunFailed
from diagnose.grading.grade import RULES
from diagnose.items.evalset import EvalSet, by_slice, hints, lend_rows, read_evalset, slice_name
from diagnose.items.rows import read_rows
from diagnose.models import load_model
from diagnose.models.adapter import adapter_sha, say_other_base
from diagnose.models.base import Model, prompt_format_sha
from diagnose.models.identity import base_sha
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import Judges
from diagnose.provenance import ROOT, discard, open_run, origin, provenance, write_json, write_whole
from diagnose.records import Attribution, Diagnosis, DiagnosisRun
from diagnose.report.console import show_diagnosis
from diagnose.report.html import render_markdown, render_report
from diagnose.report.progress import Bars
from diagnose.report.wandb import log_diagnosis
from diagnose.text import override
from diagnose.verdict.audit import labels_of, read_audit, write_audit
from diagnose.verdict.calibration import calibrated, version_for
from diagnose.verdict.controls import agreement, grader_controls, judge_controls, margin_controls
from diagnose.verdict.decide import verdicts
from diagnose.verdict.mixture import NOBODY, attribute
from diagnose.verdict.reader_error import read_prior
from diagnose.verdict.readings import Labels

SAME_ANSWERS = (
    *("base_url", "api_key_env", "concurrency", "timeout_seconds", "retries"),
    *("batch_size", "lora_targets", "train_batch_size", "train"),
)
"""Settings of a model that do not change what it answers: one that is served is the same wherever and however often."""


def run(config: DiagnoseConfig) -> Diagnosis:
    """Diagnose, write everything, print it, and launch training if asked to.

    Raises:
        BadInput: the eval set, the training rows or the model cannot be used.
        Blocked: the model's end token is not the one it ends with.
    """
    config = replace(config, rule=calibrated(config.rule))
    if config.rule.reader_error:
        read_prior(config.rule.reader_error)  # unusable: said before anything is asked
    audited = read_audit(config.evalset.audit) if config.evalset.audit else []
    evalset = read_evalset(config.evalset)
    for hint in hints(evalset):
        print(hint, file=sys.stderr)
    rows = rows_at_hand(config.data)
    evalset = lend_rows(evalset, config.data)
    out = Path(config.out or "")
    judges = Judges(config.judge, config.reader)
    judges.check(evalset.items)
    reads = config.reader.by == "model"
    model = load_model(config.model)
    model.check(evalset.items)
    config = replace(config, probes=replace(config.probes, enabled=_askable(config, model)))
    base = base_sha(str(config.model.path)) if config.model.kind == "hf" else None
    if config.model.adapter:
        say_other_base(config.model.adapter, str(config.model.path))
    record = DiagnosisRun(
        **provenance(config),
        identity=_identity(evalset, model, config, base),
        device=model.device,
        fingerprint=model.fingerprint,
        prompt_format=model.prompt_format,
        prompt_format_sha=prompt_format_sha(model.prompt_format),
        base_sha=base,
    )
    with open_run(out, record):
        _check_end_token(model, evalset, config.seed, out)
        with Bars(items=evalset.items) as bars:
            log = AnswerLog(out / "answers.jsonl", config.seed, bars, judges.read, bars.saw)
            print(_asked(evalset, config, len(log)), file=sys.stderr)
            evalset = spend(model, evalset, config.probes, config.rule, log, judges, bars.settled, reads)
        diagnosis, found = conclude(config, evalset, log, record, rows, labels_of(audited, log))
        write_whole(out / "diagnosis.json", diagnosis.to_json())
        write_whole(out / "report.html", render_report(diagnosis))
        write_whole(out / "report.md", render_markdown(diagnosis))
        write_audit(out / "audit.csv", evalset, log, found)
        write_json(out / "run.json", replace(record, status="finished"))
    log_diagnosis(config.wandb, diagnosis, out)
    show_diagnosis(diagnosis, str(out / "report.html"))
    if config.launch:
        launch(diagnosis, config)
    return diagnosis


def _check_end_token(model: Model, evalset: EvalSet, seed: int, out: Path) -> None:
    """Check it once per run directory: an answer log, though empty, means that it passed.

    A model that is refused leaves no run directory, because the fix makes it another run.
    """
    path = out / "answers.jsonl"
    if path.exists():
        return
    try:
        model.check_end_token(evalset.items, seed)
    except Blocked:
        discard(out / "run.json")
        raise
    write_whole(path, "")


def _asked(evalset: EvalSet, config: DiagnoseConfig, before: int) -> str:
    """What is about to happen, in a line."""
    borrowers = len(evalset.lenders)
    borrowing = f"; borrowed in {borrowers} slice{'s' * (borrowers > 1)}" if borrowers else ""
    limit = f" (evalset.limit={config.evalset.limit} of every slice)" if config.evalset.limit else ""
    resuming = f"; resuming: {before} answers already on disk" if before else ""
    most = "up to " if config.probes.budget == "adaptive" else ""
    slices = f"{len(evalset.slices)} slice{'s' * (len(evalset.slices) > 1)}{limit}"
    held_out = f"{len(evalset.held_out)} held out as few-shot examples{borrowing}"
    return f"asking {most}{len(evalset.items)} items in {slices} ({held_out}){resuming}"


def conclude(
    config: DiagnoseConfig,
    evalset: EvalSet,
    log: AnswerLog,
    record: DiagnosisRun,
    rows: dict[str, dict[str, int]],
    labels: Labels = NOBODY,
) -> tuple[Diagnosis, Attribution]:
    """Everything after the last question: attribution, verdicts, recommendation. No model here."""
    rng = np.random.default_rng(config.seed)
    found = attribute(evalset, log, config.probes, config.rule, rng, labels, config.reader.by == "model")
    graders = grader_controls(evalset.items, log)
    log = log.relabelled(labels.right)
    judged = verdicts(evalset, log, found, config.rule, graders)
    weights = "" if config.model.kind == "hf" else " model.path=DIR_OR_HUB_NAME"
    command = f"python train.py {override('diagnosis', str(config.out))}{weights}"
    advice = recommend(evalset, judged, found, log, config.rule, rows, rng, command)
    lasting = dict(record.identity)
    said = sorted((item, right, item in labels.at_random) for item, right in labels.right.items())
    lasting |= {"labels": str(said)} if said else {}
    decision = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:12]
    diagnosis = Diagnosis(
        decision_id=decision,
        run=origin(record),
        prompt_format_sha=record.prompt_format_sha,
        evalset={
            "sha256": evalset.sha256,
            "items": len(evalset.items),
            "slices": len(evalset.slices),
            "reserved": {
                name: [i.id for i in kept] for name, kept in evalset.exemplars.items() if name not in evalset.lenders
            },
            "examples_of": dict(sorted(evalset.lenders.items())),
        },
        slices=judged,
        controls={
            "graders": graders,
            "judges": _per_slice(judge_controls, evalset, log),
            "annotators": {n: shown for n, part in by_slice(evalset.items).items() if (shown := agreement(part))},
            "margins": _per_slice(margin_controls, evalset, log),
        },
        recommendations=advice,
        calibration=version_for(config.rule, record.fingerprint),
    )
    return diagnosis, found


def _askable(config: DiagnoseConfig, model: Model) -> list[str]:
    """The enabled probes that this model can answer; the others are reported as missing."""
    return [p for p in config.probes.enabled if p not in model.lacks]


def _per_slice(controls: Callable[..., dict[str, Any]], evalset: EvalSet, log: AnswerLog) -> dict[str, Any]:
    """slice → what was measured, where there was something."""
    found = {name: controls(part, log) for name, part in sorted(by_slice(evalset.items).items())}
    return {name: measured for name, measured in found.items() if measured}


def launch(diagnosis: Diagnosis, config: DiagnoseConfig) -> None:
    """Train what was recommended for the slices with the largest predicted lift; print the other commands."""
    wanted = [r for r in diagnosis.recommendations if r.train_method]
    if not wanted:
        print(
            "\nlaunch: nothing to train: "
            + "; ".join(f"{', '.join(r.slices)}: {r.why}" for r in diagnosis.recommendations)
        )
        return
    for other in wanted[1:]:
        print(f"\nlaunch: not started, run it yourself:\n  {other.command}")
    print(f"\nlaunch: {wanted[0].command}", flush=True)
    arguments = [*shlex.split(wanted[0].command)[2:], f"seed={config.seed}", f"wandb.mode={config.wandb.mode}"]
    code = run_child([sys.executable, str(ROOT / "train.py"), *arguments])
    if code:
        kind: type[Exception] = {2: BadInput, 3: Blocked}.get(code, RunFailed)
        raise kind(f"launch: training ended with exit code {code}; the diagnosis in {config.out} is complete")


def rows_at_hand(data: DataConfig) -> dict[str, dict[str, int]]:
    """method → slice → training rows; rows without a slice count for every slice under the name ''."""
    counts: dict[str, Counter[str]] = {}
    for kind in ("sft", "preferences", "prompts"):
        path = getattr(data, kind)
        rows = read_rows(path, data.columns, data.split, data.subset, "data") if path else ()
        counts[kind] = Counter(slice_name(row) for row, _ in rows)
    return {method: dict(counts[SOURCE[method]]) for method in TRAINING}


def _identity(evalset: EvalSet, model: Model, config: DiagnoseConfig, base: str | None) -> dict[str, str]:
    """What makes two sets of answers the same measurement; of files, their contents, not where they lie.

    Args:
        base: what base_sha says of the weights, if they can be seen.
    """

    def sha(value: Any) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]

    elsewhere = (*SAME_ANSWERS, *(("path", "adapter", "tokenizer") if base else ()))
    settings = {k: v for k, v in asdict(config.model).items() if k not in elsewhere}
    adapter = config.model.adapter
    by = [config.reader.path, config.reader.name] if config.reader.by == "model" else [RULES]
    return {
        "evalset": evalset.sha256[:16],
        "prompt_format": prompt_format_sha(model.prompt_format),
        "model": sha(settings),
        "weights": sha([base, adapter and adapter_sha(adapter)]),
        "probes": sha(asdict(config.probes)),
        "judge": sha([config.judge.path, config.judge.name]),
        "reader": sha(by),
        "seed": str(config.seed),
    }
