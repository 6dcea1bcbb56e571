"""Merge the adapters of finished runs into one, and prove that what was written is what was computed."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from diagnose.config import ModelConfig
from diagnose.errors import BadInput, Blocked
from diagnose.models.adapter import check_adapter
from diagnose.models.hf import HFModel
from diagnose.models.identity import base_sha, differs
from diagnose.models.weights import load_tokenizer
from diagnose.provenance import open_run, provenance, read_record, write_json
from diagnose.records import Diagnosis, EvalItem, Prompt
from diagnose.report.words import safe, short
from diagnose.text import override
from train.config import TrainConfig
from train.deltas import Adapter, combine, overlap, read_adapter, save_adapter
from train.records import TrainingRun

ASKED = 64
"""Items whose answers are compared after reloading (hand-set)."""
TOLERANCE = 1e-5
"""Largest difference of logits and of weights that rounding explains in 32 bits (hand-set)."""
LEARNED = ("knowledge_absent", "knowledge_skill")
"""Gaps whose content is not in the base; what is there already merges well (arXiv 2601.06672)."""


@dataclass(frozen=True)
class Parity:
    """What was written, against what was computed."""

    identity: float
    """One run merged alone, against the run itself: largest difference of logits."""
    weights: float
    """The saved adapter, against the combination of deltas: largest difference of weights."""
    answers: int
    differ: int
    """Greedy answers of the reloaded adapter that differ from those of the base with the deltas added."""


def merge(config: TrainConfig, diagnosis: Diagnosis, settings: ModelConfig, evalset: Any) -> None:
    """Combine, write and check an adapter in an ordinary run directory.

    Args:
        settings: of the base, whose weights are taken unpacked.

    Raises:
        BadInput: a run is not finished, of another base or prompt format, or adds what cannot be merged.
        Blocked: two runs replace the same module, or what was written is not what was computed.
    """
    settings = replace(settings, quantization=None)
    runs = _runs(config.merge.runs, diagnosis, str(settings.path))
    adapters = [read_adapter(str(Path(path) / "adapter")) for path in config.merge.runs]
    _check_whole(adapters, config.merge.runs)
    found = {"pairs": list(_pairs(adapters, config.merge.runs)), "predicted": predicted_retention(diagnosis, runs)}
    _show_pairs(found)
    if config.preflight.mode == "only":
        return
    out = Path(config.out or "")
    record = _record(config, diagnosis, settings, runs)
    with open_run(out, record, redo=False):
        merged, lost = combine(adapters, config.merge.how, _weights(config), config.merge.density, config.seed)  # type: ignore[arg-type]
        save_adapter(merged, str(settings.path), out / "adapter")
        load_tokenizer(settings).save_pretrained(str(out / "adapter"))
        parity = prove(settings, config.merge.runs, adapters, merged, out / "adapter", evalset.items[:ASKED])
        about = asdict(config.merge) | found | {"lost_energy": lost, "parity": asdict(parity)}
        _check_parity(parity, settings)
        write_json(out / "run.json", replace(record, status="finished", merge=about))
    _farewell(config, out, lost, parity)


def _runs(paths: Sequence[str], diagnosis: Diagnosis, base: str) -> list[TrainingRun]:
    """Finished runs of the base in the prompt format of the diagnosis."""
    runs, sha = [], base_sha(base)
    for path in paths:
        file = Path(path) / "run.json"
        if not file.exists():
            raise BadInput(f"merge.runs: {path}: contains no run.json; expected the directory of a finished run")
        run = read_record(file, TrainingRun)
        if run.status != "finished":
            raise BadInput(f"merge.runs: {path}: {run.status}; only finished runs can be merged")
        if differs(run.base_sha, run.base, sha, base):
            raise BadInput(f"merge.runs: {path}: was trained on another base ({run.base}) than {base}")
        if run.prompt_format_sha != diagnosis.prompt_format_sha:
            raise BadInput(f"merge.runs: {path}: has another prompt format than the diagnosis")
        check_adapter(str(Path(path) / "adapter"), base)
        runs.append(run)
    return runs


def _check_whole(adapters: Sequence[Adapter], paths: Sequence[str]) -> None:
    """A module that two runs replace whole has no delta that could be added."""
    seen: dict[str, str] = {}
    for adapter, path in zip(adapters, paths, strict=True):
        for name in adapter.whole:
            if name in seen:
                raise Blocked(f"merge: {name} is saved whole (modules_to_save) by {seen[name]} and by {path}")
            seen[name] = path


def _weights(config: TrainConfig) -> list[float]:
    count = len(config.merge.runs)
    given = [1.0] * count if config.merge.weights == "equal" else [float(w) for w in config.merge.weights]
    return [w / sum(given) for w in given] if config.merge.how == "soup" else given


def _pairs(adapters: Sequence[Adapter], paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    named = zip(paths, adapters, strict=True)
    for (one, a), (two, b) in combinations(named, 2):
        yield {"runs": [one, two]} | asdict(overlap(a, b))


def predicted_retention(diagnosis: Diagnosis, runs: Sequence[TrainingRun]) -> dict[str, float]:
    """Slice that a run was trained on → the share of it whose content the base already has.

    That share is what the diagnosis knows of mergeability: the base's knowledge of the items is the dominant factor
    (arXiv 2601.06672); what has to be stored anew is lost first.
    """
    trained = {name for run in runs for rows in run.data.values() for name in rows["rows"] if name}
    return {
        v.slice: 1 - sum(v.mixture.get(name) or 0.0 for name in LEARNED) for v in diagnosis.slices if v.slice in trained
    }


def prove(
    settings: ModelConfig,
    paths: Sequence[str],
    adapters: Sequence[Adapter],
    merged: Adapter,
    saved: Path,
    items: Sequence[EvalItem],
) -> Parity:
    """Compare the written adapter, reloaded by PEFT, with the base to whose weights the deltas are added."""
    prompts = [Prompt(item.turns) for item in items]
    with tempfile.TemporaryDirectory(dir=saved.parent) as folder:
        identity = 0.0
        for k, (path, adapter) in enumerate(zip(paths, adapters, strict=True)):
            alone, _ = combine([adapter], "linear", [1.0], 1.0, 0)
            save_adapter(alone, str(settings.path), Path(folder) / str(k))
            pair = (str(Path(path) / "adapter"), str(Path(folder) / str(k)))
            one, two = (_logits(HFModel(replace(settings, adapter=each)), prompts[:8]) for each in pair)
            identity = max(identity, *(float((a - b).abs().max()) for a, b in zip(one, two, strict=True)))
    reread = read_adapter(str(saved))
    weights = max(float((reread.deltas[n].full - d.full).abs().max()) for n, d in merged.deltas.items())
    added = HFModel(settings)
    _add(added.network, merged)
    answers = [
        [c.text for row in model.generate(prompts, [i.id for i in items]) for c in row]
        for model in (added, HFModel(replace(settings, adapter=str(saved))))
    ]
    differ = sum(a != b for a, b in zip(*answers, strict=True))
    return Parity(identity, weights, len(items), differ)


@torch.inference_mode()
def _logits(model: HFModel, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
    """At the last token of each prompt."""
    ids = [torch.tensor([model.encode(prompt)], device=model.device) for prompt in prompts]
    return [model.network(input_ids=row).logits[0, -1].float().cpu() for row in ids]


def _add(network: Any, adapter: Adapter) -> None:
    """Add the deltas to the weights of a base, in place."""
    with torch.no_grad():
        for name, delta in adapter.deltas.items():
            weight = network.get_submodule(name).weight
            full = delta.full.to(weight.device, weight.dtype)
            weight += full if full.shape == weight.shape else full.T  # GPT-2's Conv1D has [in, out]
        for name, whole in adapter.whole.items():
            network.get_parameter(name).copy_(whole)


def _check_parity(parity: Parity, settings: ModelConfig) -> None:
    """Refuse to call finished what is not what was computed."""
    exact = settings.dtype in (None, "auto", "float32")
    allowed = 0 if exact else parity.answers // 100
    if (exact and max(parity.identity, parity.weights) > TOLERANCE) or parity.differ > allowed:
        raise Blocked(
            f"merge: what was written is not what was computed: identity {parity.identity:.1e}, weights "
            f"{parity.weights:.1e}, {parity.differ} of {parity.answers} answers differ after reloading"
        )


def _record(
    config: TrainConfig, diagnosis: Diagnosis, settings: ModelConfig, runs: Sequence[TrainingRun]
) -> TrainingRun:
    rows: dict[str, Counter[str]] = {}
    for run in runs:
        for kind, part in run.data.items():
            rows.setdefault(kind, Counter()).update(part["rows"])
    return TrainingRun(
        **provenance(config),
        identity={"merge": str(asdict(config.merge)), "seed": str(config.seed)},
        diagnosis=str(config.diagnosis),
        decision_id=diagnosis.decision_id,
        base=settings.path,
        base_sha=base_sha(str(settings.path)),
        prompt_format_sha=diagnosis.prompt_format_sha,
        evalset_sha256=diagnosis.evalset["sha256"],
        method="merge",
        recommended=False,
        lora={},
        args={},
        data={kind: {"path": "of the merged runs", "rows": dict(found)} for kind, found in rows.items()},
        predicted_lift={},
        gates={},
        metrics={},
        excluded_items=sorted({item for run in runs for item in run.excluded_items}),
    )


def _show_pairs(found: dict[str, Any]) -> None:
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    table = Table(box=None, pad_edge=False)
    for name in ("pair", "cosine", "sign conflict", "norms"):
        table.add_column(name)
    for pair in found["pairs"]:
        names = " + ".join(safe(Path(run).name) for run in pair["runs"])
        low, high = pair["norms"]
        table.add_row(names, short(pair["cosine"]), short(pair["sign_conflict"]), f"{low:.2f} and {high:.2f}")
    console.print(table)
    console.print("these numbers predict little of how well a merge works (arXiv 2603.09463); eval.py measures it")
    for name, share in found["predicted"].items():
        console.print(
            f"  {safe(name)}: the base has the content of {short(share)}; what it has merges well", highlight=False
        )


def _farewell(config: TrainConfig, out: Path, lost: float, parity: Parity) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    energy = f", {lost:.1%} of the energy beyond the rank" if lost else ""
    console.print(
        f"merged      {len(config.merge.runs)} runs, {config.merge.how}{energy}; parity: identity "
        f"{parity.identity:.0e}, {parity.differ} of {parity.answers} answers differ after reloading",
        highlight=False,
    )
    console.print(f"adapter     {out / 'adapter'}", highlight=False)
    console.print("next        ", end="")
    command = f"python eval.py {override('diagnosis', str(config.diagnosis))} {override('runs', str(out))}"
    console.print(command, soft_wrap=True, highlight=False, markup=False)
