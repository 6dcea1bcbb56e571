"""How much memory a training step takes, estimated before it is tried, and which setting would fit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINED = 16
"""Bytes per trained parameter: weight, gradient and the two moments of Adam in 32 bits."""
LAYER = 34
"""Bytes that a layer keeps per token and hidden unit for the backward pass, in 16 bits and without attention scores
(Korthikanti et al. 2022, arXiv 2205.05198, section 4.1)."""
KEPT = 2
"""The same with checkpointing: the layer's input alone."""
PACKED = 0.5625
"""Bytes per weight in 4 bits, with a scale of 32 bits for every 64 (NF4, arXiv 2305.14314)."""
SPARE = 0.9
"""Share of the device that a step may fill (hand-set)."""
LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Step:
    """What one step of a stage takes in, and the network that it goes through."""

    parameters: int
    trained: int
    layers: int
    hidden: int
    bytes_per_weight: float
    """Of the frozen weights, as they are kept …"""
    bytes_per_value: int
    """… and of what is computed."""
    sequences: int
    """In one forward pass: twice the batch size where pairs are compared."""
    length: int
    """Tokens of the longest sequence."""
    checkpointing: bool

    @property
    def bytes(self) -> int:
        """Weights, what is trained, and activations; the loss over the vocabulary is computed in chunks by TRL."""
        tokens = self.sequences * self.length
        wide = self.bytes_per_value / 2
        kept = KEPT * self.layers + LAYER if self.checkpointing else LAYER * self.layers
        activations = tokens * self.hidden * kept * wide
        return round(self.parameters * self.bytes_per_weight + self.trained * TRAINED + activations)


def network_of(adapted: Any) -> dict[str, int]:
    """Sizes of a network with an adapter."""
    text = adapted.config.get_text_config()
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return {
        "parameters": sum(p.numel() for p in adapted.parameters()) - trained,
        "trained": trained,
        "layers": int(text.num_hidden_layers),
        "hidden": int(text.hidden_size),
    }


def device_bytes() -> tuple[str, int]:
    """The device that trains, and its memory."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
    if torch.backends.mps.is_available():
        return "mps", torch.mps.recommended_max_memory()
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = LIMIT.read_text().strip() if LIMIT.exists() else "max"
    return "cpu", min(installed, int(limit)) if limit.isdigit() else installed
