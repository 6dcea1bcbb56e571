"""The steps of eval.py: reject incomparable runs, ask the base and every run, compare, write, print."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagnose.config import ModelConfig, ProbesConfig
from diagnose.errors import BadInput, Blocked, Inconclusive
from diagnose.items.evalset import EvalSet, lend_rows, read_evalset
from diagnose.models import load_model
from diagnose.models.adapter import check_adapter
from diagnose.models.base import prompt_format_differs, prompt_format_sha
from diagnose.models.identity import base_sha, differs
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import Judges
from diagnose.provenance import file_sha, open_run, origin, provenance, read_record, write_json, write_whole
from diagnose.records import Diagnosis, RunRecord
from diagnose.report.progress import Bars
from eval.compare import best_and_regret, compare_run
from eval.config import EvalConfig
from eval.console import show_comparison
from eval.measure import Measurement, measure
from eval.records import Comparison, RunResult
from eval.report import render_report
from eval.retention import retention
from eval.tracking import log_comparison
from train.config import measured_config, read_diagnosis
from train.records import TrainingRun

Found = list[tuple[Path, TrainingRun]]
Ruler = dict[str, Any]
"""What all runs must match: evalset_sha256, prompt_format_sha, base_sha; and the base's path and prompt format."""


def run(config: EvalConfig) -> Comparison:
    """Compare runs with the base.

    Raises:
        BadInput: nothing to compare, or a run with another eval set, prompt format or base.
        Blocked, Inconclusive: with gate=true, depending on the verdict.
    """
    diagnosis = read_diagnosis(config.diagnosis)
    then = measured_config(diagnosis)
    evalset = read_evalset(then.evalset)
    if evalset.sha256 != diagnosis.evalset["sha256"]:
        raise BadInput(
            f"{then.evalset.path}: changed since the diagnosis (sha {evalset.sha256[:8]} ≠ "
            f"{diagnosis.evalset['sha256'][:8]}); rerun diagnose.py on it"
        )
    evalset = lend_rows(evalset, then.data)
    runs, skipped, ruler = find_runs(str(config.runs), diagnosis, then.model)
    guard = _guard(config, diagnosis)
    out = Path(config.out or "")
    same = {"diagnosis": str(config.diagnosis), "arms": ",".join(config.arms), "seed": str(config.seed)}
    record = RunRecord(**provenance(config), identity=same)
    # Base and runs must use the same backend: after a diagnosis over HTTP the base is loaded locally, too.
    settings = then.model if then.model.kind == "hf" else ModelConfig(**runs[0][1].config["model"])
    if settings.tokenizer == settings.path:
        settings = replace(settings, tokenizer=ruler["base"])
    settings = replace(settings, path=ruler["base"])
    settings = replace(
        settings, batch_size=config.batch_size or settings.batch_size, device=config.device or settings.device
    )
    judges = Judges(then.judge, then.reader)
    judges.check(evalset.items)
    with open_run(out, record):
        base = ask(settings, evalset, then.probes, config, judges, ruler, out / "base")
        measured = {}
        for path, _ in runs:
            tuned = replace(settings, adapter=str(path / "adapter"))
            measured[str(path)] = ask(
                tuned, evalset, then.probes, config, judges, ruler, out / f"{path.name}_{_weights(path)}"
            )
        results = [compare_run(r, str(p), base, measured[str(p)], config.gate, guard, config.arms) for p, r in runs]
        kept = {str(p): measured[str(p)].without(r.excluded_items) for p, r in runs}
        by_target = _by_target(results, kept, diagnosis)
        comparison = Comparison(
            decision_id=diagnosis.decision_id,
            diagnosis=str(config.diagnosis),
            base={"model": settings.path, "prompt_format_sha": ruler["prompt_format_sha"], "evalset": evalset.sha256},
            arms=config.arms,
            runs=results,
            skipped=skipped,
            best=by_target[0]["best"],
            regret=by_target[0]["regret"],
            by_target=by_target,
            retention=retention(runs, base, measured),
            provenance=origin(record),
        )
        write_whole(out / "comparison.json", comparison.to_json())
        write_whole(out / "report.html", render_report(comparison))
        write_json(out / "run.json", replace(record, status="finished"))
    log_comparison(config.wandb, comparison, out)
    show_comparison(comparison, str(out / "report.html"))
    _exit_by_verdict(config, results)
    return comparison


def ask(
    settings: ModelConfig,
    evalset: EvalSet,
    probes: ProbesConfig,
    config: EvalConfig,
    judges: Judges,
    ruler: Ruler,
    out: Path,
) -> Measurement:
    """Load one model, measure it and free its memory."""
    model = load_model(settings)
    if prompt_format_sha(model.prompt_format) != ruler["prompt_format_sha"]:
        differs = prompt_format_differs(model.prompt_format, ruler["prompt_format"])
        raise BadInput(
            f"{settings.adapter or settings.path}: the prompt format differs from the diagnosis in: "
            f"{', '.join(differs)}"
        )
    out.mkdir(parents=True, exist_ok=True)
    with Bars(out.name) as bars:
        log = AnswerLog(out / "answers.jsonl", config.seed, bars, judges.read)
        found = measure(model, evalset, probes, config.arms, log, judges)
    del model
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
    return found


def find_runs(pattern: str, diagnosis: Diagnosis, model: ModelConfig) -> tuple[Found, dict[str, str], Ruler]:
    """Finished runs comparable with the diagnosis; unfinished ones with the reason; and what all must match.

    If the diagnosis used a server, its prompt format is only partly visible: the first run's then applies to all.

    Raises:
        BadInput: no directory matches, no run is finished, or a run's eval set, prompt format or base differs.
    """
    matches = [pattern] if Path(pattern).exists() else glob.glob(pattern)  # a directory's name may hold brackets
    paths = sorted(Path(p) for p in matches if (Path(p) / "run.json").exists())
    if not paths:
        raise BadInput(f"runs={pattern}: no run directory (with a run.json) matches")
    finished, skipped = _finished(paths)
    ruler: Ruler = {
        "evalset_sha256": diagnosis.evalset["sha256"],
        "prompt_format_sha": diagnosis.prompt_format_sha,
        "base": model.path,
        "base_sha": diagnosis.run.get("base_sha"),
        "prompt_format": diagnosis.run.get("prompt_format") or {},
    }
    if model.kind != "hf" and finished:
        ruler |= {key: getattr(finished[0][1], key) for key in ("prompt_format_sha", "base", "base_sha")}
    for path, record in finished:
        _check_comparable(path, record, ruler)
    if finished:
        ruler["base"] = _base(ruler, finished)
    found: Found = []
    for path, record in finished:
        try:
            check_adapter(str(path / "adapter"), ruler["base"])
            found.append((path, record))
        except BadInput as error:
            skipped[str(path)] = str(error)
    if not found:
        raise BadInput(f"runs={pattern}: no run is finished: " + "; ".join(f"{p}: {why}" for p, why in skipped.items()))
    return found, skipped, ruler


def _finished(paths: Sequence[Path]) -> tuple[Found, dict[str, str]]:
    """The runs that have ended well; of the others, why not."""
    found, skipped = [], {}
    for path in paths:
        try:
            record = read_record(path / "run.json", TrainingRun)
        except BadInput as error:
            skipped[str(path)] = str(error)
            continue
        if record.status == "finished":
            found.append((path, record))
        elif record.status == "running":
            worker = f"process {record.pid} on {record.host}, " if record.pid else ""
            skipped[str(path)] = f"running: {worker}last seen {record.heartbeat or record.started}"
        else:
            skipped[str(path)] = f"{record.status}: {record.reason}"
    return found, skipped


def _check_comparable(path: Path, record: TrainingRun, ruler: Ruler) -> None:
    other = [
        f"{key}: {str(getattr(record, key))[:8]} ≠ {str(ruler[key])[:8]}"
        for key in ("evalset_sha256", "prompt_format_sha")
        if getattr(record, key) != ruler[key]
    ]
    if differs(record.base_sha, record.base, ruler["base_sha"], ruler["base"]):
        known = record.base_sha and ruler["base_sha"]
        told = f"holds other weights than {ruler['base']} did" if known else f"is not {ruler['base']}"
        other.append(f"base: {record.base} {told}")
    if other:
        raise BadInput(f"{path}: not comparable with the diagnosis ({'; '.join(other)})")


def _base(ruler: Ruler, runs: Found) -> str:
    """Where the base lies now: as the diagnosis had it, else where a run found the same weights.

    Raises:
        BadInput: nowhere.
    """
    path = str(ruler["base"])
    if ruler["base_sha"] is None:  # a diagnosis of an older version
        return path
    for place in dict.fromkeys([path, *(str(record.base) for _, record in runs)]):
        with suppress(BadInput):
            if base_sha(place) == ruler["base_sha"]:
                return place
    raise BadInput(f"model.path={path}: not the weights that were diagnosed; put them back, or rerun diagnose.py")


def _weights(path: Path) -> str:
    """Identify stored answers by the adapter's weights: a folder of the same name may hold another adapter."""
    return file_sha(path / "adapter" / "adapter_model.safetensors")[:8]


def _guard(config: EvalConfig, diagnosis: Diagnosis) -> list[str]:
    names = {v.slice: v.verdict for v in diagnosis.slices}
    unknown = [s for s in [*(config.gate.guard or []), *config.gate.critical] if s not in names]
    if unknown:
        raise BadInput(f"gate: no slice {', '.join(unknown)}; the diagnosis has {', '.join(names)}")
    return config.gate.guard if config.gate.guard is not None else [s for s, v in names.items() if v == "none"]


def _by_target(
    results: list[RunResult], measured: dict[str, Measurement], diagnosis: Diagnosis
) -> list[dict[str, Any]]:
    """Compare methods trained for the same slices; the set with the most methods comes first."""
    groups: dict[tuple[str, ...], list[RunResult]] = defaultdict(list)
    for r in results:
        groups[tuple(d.slice for d in r.slices if d.role in ("target", "critical"))].append(r)
    found = []
    for targets, members in groups.items():
        success = {r.run: _successes(measured[r.run], set(targets)) for r in members}
        advised = [r.train_method for r in diagnosis.recommendations if set(r.slices) & set(targets)]
        best, regret = best_and_regret(members, success, next((m for m in advised if m), None))
        methods = sorted({r.method for r in members})
        found.append({"slices": list(targets), "methods": methods, "best": best, "regret": regret})
    return sorted(found, key=lambda g: -len(g["methods"]))


def _successes(m: Measurement, targets: set[str]) -> dict[str, float]:
    items = [i.id for i in m.items.values() if set(i.slices) & targets]
    return {i: float(s) for i in items if (s := m.success(i)) is not None}


def _exit_by_verdict(config: EvalConfig, results: list[RunResult]) -> None:
    if not config.gate.enabled:
        return
    for verdict, error in (("BLOCK", Blocked), ("INCONCLUSIVE", Inconclusive)):
        if named := [r for r in results if r.verdict == verdict]:
            raise error(f"gate: {verdict}: " + "; ".join(f"{r.run}: {r.reason}" for r in named))
