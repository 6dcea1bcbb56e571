"""What LoRA adapters add to the weights of a base, and how several are combined.

Each module's delta is B A times its scaling. Sums are exact, as wider factors; other combinations are made of the full
delta and brought back to the same rank by a truncated SVD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import acos, sin, sqrt
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from diagnose.errors import BadInput
from diagnose.models.adapter import WEIGHTS

How = Literal["linear", "soup", "ties", "dare", "slerp"]
PREFIX = "base_model.model."
UNSUPPORTED = {
    "use_dora": "DoRA scales whole columns of the merged weight",
    "lora_bias": "its biases are no part of a delta",
    "use_qalora": "its groups are no part of a delta",
}
"""Setting of an adapter that is refused → why."""


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to one module: up [out, r] @ down [r, in], its scaling included."""

    up: torch.Tensor
    down: torch.Tensor

    @property
    def full(self) -> torch.Tensor:
        """[out, in]"""
        return self.up @ self.down


@dataclass(frozen=True)
class Adapter:
    """An adapter as deltas by module, and the modules that it replaces whole."""

    path: str
    deltas: dict[str, Delta]
    whole: dict[str, torch.Tensor]
    """Name of a weight of the base → its replacement (PEFT's modules_to_save)."""


def read_adapter(path: str) -> Adapter:
    """Read what PEFT saved.

    Raises:
        BadInput: it adds what is no delta of a linear layer.
    """
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(path)
    for name, why in UNSUPPORTED.items():
        if getattr(config, name, False):
            raise BadInput(f"merge.runs: {path}: trained with lora.{name}: {why}; train without it, or route by slice")
    if config.bias != "none":
        raise BadInput(f"merge.runs: {path}: trained with lora.bias={config.bias}: biases are no part of a delta")
    weights = {name.removeprefix(PREFIX): w.float() for name, w in load_file(str(Path(path) / WEIGHTS)).items()}
    if odd := next((name for name in weights if "lora_embedding" in name or "lora_magnitude" in name), None):
        raise BadInput(f"merge.runs: {path}: {odd}: only deltas of linear layers can be merged")
    deltas = {}
    for name in [n for n in weights if n.endswith(".lora_A.weight")]:
        module = name.removesuffix(".lora_A.weight")
        up, down = weights.pop(f"{module}.lora_B.weight"), weights.pop(name)
        deltas[module] = Delta(up * _scaling(config, module, len(down)), down)
    return Adapter(path, deltas, weights)


def _scaling(config: Any, module: str, rank: int) -> float:
    """As PEFT has it: patterns are matched at the end of a module's name (PEFT, tuners/lora/model.py)."""
    from peft.utils.other import get_pattern_key

    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    return float(alpha / (sqrt(rank) if config.use_rslora else rank))


def combine(
    adapters: Sequence[Adapter], how: How, weights: Sequence[float], density: float, seed: int
) -> tuple[Adapter, float]:
    """One adapter of several, and the share of its energy that the rank could not hold.

    Args:
        weights: one for each adapter.
        density: of `ties` and `dare`: the share of each delta's entries that is kept.
        seed: of the entries that `dare` keeps.

    Sources: linear: task arithmetic (arXiv 2212.04089); soup: their mean (2203.05482); ties: 2306.01708; dare:
    2311.03099; slerp: Shoemake 1985, between two deltas as vectors.
    """
    modules = sorted({name for adapter in adapters for name in adapter.deltas})
    rank = max(sum(len(a.deltas[name].down) for a in adapters if name in a.deltas) for name in modules)
    generator = torch.Generator().manual_seed(seed)
    deltas, lost, total = {}, 0.0, 0.0
    for name in modules:
        parts = [(w, a.deltas[name]) for w, a in zip(weights, adapters, strict=True) if name in a.deltas]
        if how == "slerp" and len(parts) == 1:  # the other adds nothing there
            nothing = replace(parts[0][1], up=torch.zeros_like(parts[0][1].up))
            parts = [(w, a.deltas.get(name, nothing)) for w, a in zip(weights, adapters, strict=True)]
        if how in ("linear", "soup"):
            up = torch.cat([w * part.up for w, part in parts], 1)
            deltas[name] = _padded(up, torch.cat([part.down for _, part in parts]), rank)
            continue
        whole = _mixed(how, [w for w, _ in parts], [part.full for _, part in parts], density, generator)
        u, s, v = torch.linalg.svd(whole.double(), full_matrices=False)
        lost, total = lost + float((s[rank:] ** 2).sum()), total + float((s**2).sum())
        half = s[:rank].sqrt()
        deltas[name] = _padded((u[:, :rank] * half).float(), (half[:, None] * v[:rank]).float(), rank)
    whole_modules = {name: w for adapter in adapters for name, w in adapter.whole.items()}
    return Adapter("", deltas, whole_modules), lost / total if total else 0.0


def _mixed(
    how: How, weights: list[float], full: list[torch.Tensor], density: float, generator: torch.Generator
) -> torch.Tensor:
    if how == "slerp":
        return _slerp(full[0], full[1], weights[1] / sum(weights))
    if how == "dare":
        kept = [torch.rand(d.shape, generator=generator) < density for d in full]
        return sum(
            (w * d * k / density for w, d, k in zip(weights, full, kept, strict=True)), torch.zeros_like(full[0])
        )
    trimmed = torch.stack([w * _trimmed(d, density) for w, d in zip(weights, full, strict=True)])
    elected = trimmed.sum(0).sign()
    agree = (trimmed.sign() == elected) & (trimmed != 0)
    return (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1)


def _trimmed(delta: torch.Tensor, density: float) -> torch.Tensor:
    """The entries of largest magnitude."""
    count = max(1, round(density * delta.numel()))
    least = delta.abs().flatten().kthvalue(delta.numel() - count + 1).values
    return torch.where(delta.abs() >= least, delta, 0)


def _slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Along the great circle between two vectors; along the line where they are (nearly) parallel or zero."""
    norm = float(a.norm() * b.norm())
    cosine = float((a * b).sum()) / norm if norm else 1.0
    if abs(cosine) > 1 - 1e-6:
        return (1 - t) * a + t * b
    angle = acos(cosine)
    return (sin((1 - t) * angle) * a + sin(t * angle) * b) / sin(angle)


def _padded(up: torch.Tensor, down: torch.Tensor, rank: int) -> Delta:
    """Of exactly this rank: zeros add nothing."""
    more = rank - len(down)
    return Delta(torch.nn.functional.pad(up, (0, more)), torch.nn.functional.pad(down, (0, 0, 0, more)))


def save_adapter(adapter: Adapter, base: str, out: Path) -> None:
    """Write an adapter as PEFT reads it, with a scaling of 1."""
    from peft import LoraConfig

    rank = len(next(iter(adapter.deltas.values())).down)
    saved = sorted({name.rsplit(".", 1)[0] for name in adapter.whole})
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(adapter.deltas),
        modules_to_save=saved or None,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    weights = {f"{PREFIX}{name}": w.contiguous() for name, w in adapter.whole.items()}
    for name, delta in adapter.deltas.items():
        weights[f"{PREFIX}{name}.lora_A.weight"] = delta.down.contiguous()
        weights[f"{PREFIX}{name}.lora_B.weight"] = delta.up.contiguous()
    out.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(out))
    save_file(weights, str(out / WEIGHTS), {"format": "pt"})


@dataclass(frozen=True)
class Overlap:
    """How two adapters relate in weight space; it predicts little of how well they merge (arXiv 2603.09463)."""

    cosine: float
    sign_conflict: float
    """Share of entries of opposite sign."""
    norms: tuple[float, float]


def overlap(a: Adapter, b: Adapter) -> Overlap:
    """Over the modules that both change."""
    dot = conflict = entries = 0.0
    norms = [0.0, 0.0]
    for name in a.deltas.keys() & b.deltas.keys():
        one, two = a.deltas[name].full, b.deltas[name].full
        dot += float((one * two).sum())
        conflict += float((one * two < 0).sum())
        entries += one.numel()
    for k, adapter in enumerate((a, b)):
        norms[k] = sqrt(sum(float(delta.full.pow(2).sum()) for delta in adapter.deltas.values()))
    size = norms[0] * norms[1]
    return Overlap(dot / size if size else 0.0, conflict / entries if entries else 0.0, (norms[0], norms[1]))
