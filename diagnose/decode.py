"""Batched decoding whose samples depend on the prompt and the draw only, never on the batch they happened to be in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Uniforms = np.ndarray
"""[rows, steps] numbers in [0, 1); one per sampled token."""


def uniforms(keys: Sequence[str], steps: int) -> Uniforms:
    """One reproducible stream per key; the key names seed, item, probe and draw."""
    out = np.empty((len(keys), steps))
    for row, key in enumerate(keys):
        stream = np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big"))
        out[row] = np.random.Generator(stream).random(steps)
    return out


@torch.inference_mode()
def decode(
    model: Any,
    prompts: list[list[int]],
    *,
    copies: int,
    steps: int,
    ends: set[int],
    pad: int,
    temperature: float = 0.0,
    noise: Uniforms | None = None,
    stopped: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Continue every prompt `copies` times; each prompt is prefilled once.

    Args:
        prompts: token ids; padded on the left here.
        steps: at most so many new tokens.
        ends: ids that end a row; the end token is kept as the last id of the row.
        temperature: 0 is greedy; else inverse-CDF sampling with `noise` [len(prompts) * copies, steps].
        stopped: does a row's text end here (stop strings)?

    Returns:
        New token ids per row; rows of one prompt stand together.
    """
    device = model.device
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache, logits = out.past_key_values, out.logits[:, -1].repeat_interleave(copies, 0)
    if copies > 1:
        cache.batch_repeat_interleave(copies)
        mask = mask.repeat_interleave(copies, 0)
    position = mask.sum(-1)
    rows: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
    live = list(range(len(rows)))
    for step in range(steps):
        chosen = _pick(logits, temperature, None if noise is None else noise[live, step])
        going = []
        for place, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
            if not _done(rows[row], ends, stopped):
                rows[row].append(token)
                if not _done(rows[row], ends, stopped):
                    going.append(place)
        if not going or step == steps - 1:
            break
        if len(going) <= len(live) // 2:
            # Finished rows are carried along until they are half of the batch; then the cache is compacted.
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            mask, position, chosen = mask[keep], position[keep], chosen[keep]
            live = [live[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], 1)
        out = model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        cache, logits, position = out.past_key_values, out.logits[:, -1], position + 1
    return rows


def _done(row: list[int], ends: set[int], stopped: Callable[[list[int]], bool] | None) -> bool:
    return bool(row) and (row[-1] in ends or (stopped is not None and stopped(row)))


def _pick(logits: torch.Tensor, temperature: float, u: np.ndarray | None) -> torch.Tensor:
    if temperature == 0.0 or u is None:
        return logits.argmax(-1)
    total = (logits.float() / temperature).softmax(-1).cumsum(-1)
    level = torch.as_tensor(u, dtype=total.dtype, device=total.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, level, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


@torch.inference_mode()
def score(model: Any, prompts: list[list[int]], tails: list[list[int]], pad: int) -> list[float]:
    """Sum of log-probabilities of each tail given its prompt, in nats; padded on the right."""
    width = max(len(p) + len(t) for p, t in zip(prompts, tails, strict=True))
    rows = [p + t for p, t in zip(prompts, tails, strict=True)]
    ids = torch.tensor([r + [pad] * (width - len(r)) for r in rows], device=model.device)
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=model.device)
    keep = max(map(len, tails)) + width - min(map(len, rows)) + 1
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep).logits
    first = width - logits.shape[1]
    sums = []
    for row, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
        at = slice(len(prompt) - 1 - first, len(prompt) + len(tail) - 1 - first)
        logp = logits[row, at].float().log_softmax(-1)
        sums.append(logp.gather(1, torch.tensor(tail, device=logp.device)[:, None]).sum().item())
    return sums
