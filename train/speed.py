"""How long a training takes, measured on batches of its own rows before it starts."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from diagnose.config import ModelConfig
from diagnose.models.weights import best_device, load_base

TIMED = 3
"""Batches, of which the first warms up and is not counted (hand-set)."""


def seconds_per_batch(model: ModelConfig, lora: Any, lengths: Sequence[int], reference: bool) -> float:
    """Forward and backward through the base with a fresh adapter, on the device that trains.

    Args:
        lengths: tokens of each sequence of one batch.
        reference: a second pass with the adapter disabled belongs to each batch.

    Raises:
        BadInput: the weights cannot be loaded.
    """
    import torch
    from peft import get_peft_model

    network = load_base(model, best_device())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned: Any = get_peft_model(network, lora).train()
    half = tuned.device.type == "cuda" and model.dtype != "float32"  # as the trainers are set up
    if half:
        tuned.enable_input_require_grads()
        tuned.gradient_checkpointing_enable()
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long().to(tuned.device)
    ids = torch.ones_like(mask)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            loss = tuned(input_ids=ids, attention_mask=mask, labels=ids).loss
            if reference:
                with torch.no_grad(), tuned.disable_adapter():
                    tuned(input_ids=ids, attention_mask=mask)
        loss.backward()
        float(loss.detach())  # waits for a device that works on its own

    return min([_seconds(step) for _ in range(TIMED)][1:])


def typical(lengths: Sequence[int], count: int) -> list[int]:
    """The lengths of a typical batch: evenly spaced quantiles, so that its longest is as long as is to be expected."""
    ordered = sorted(lengths)
    return [ordered[int((k + 0.5) / count * len(ordered))] for k in range(count)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def told(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
