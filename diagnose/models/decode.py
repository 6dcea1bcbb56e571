"""Batched decoding whose samples depend only on the prompt and the draw, never on the rest of the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from diagnose.models.batches import padded
from diagnose.models.constrain import Grammars
from diagnose.models.kv_cache import make_room
from diagnose.models.prefill import Prefill, Reader, cache_of

Uniforms = np.ndarray
"""[rows, steps] numbers in [0, 1); one per sampled token."""
ROOMY = 64
"""From this many tokens on, a cache that grows in place is cheaper than one copied at every token (2 CPU cores)."""
AT_ONCE = 1 << 24
"""How many log-probabilities are held as float32 at once; a whole batch can take more memory than the model."""


def uniforms(keys: Sequence[str], steps: int) -> Uniforms:
    """One reproducible stream per key; the key names seed, item, probe and draw."""
    out = np.empty((len(keys), steps))
    for row, key in enumerate(keys):
        stream = np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big"))
        out[row] = np.random.Generator(stream).random(steps)
    return out


@torch.inference_mode()
def decode(
    reader: Reader,
    prompts: list[list[int]],
    *,
    copies: int,
    steps: int,
    ends: set[int],
    temperature: float = 0.0,
    noise: Uniforms | None = None,
    stopped: Callable[[list[int]], bool] | None = None,
    grammar: Grammars | None = None,
) -> list[list[int]]:
    """Continue every prompt `copies` times; each prompt is prefilled once.

    Args:
        prompts: token ids.
        steps: at most this many new tokens.
        ends: ids that end a row; the end token is kept as the last id of the row.
        temperature: 0 is greedy; else inverse-CDF sampling with `noise` [len(prompts) * copies, steps].
        stopped: does a row's text end here (stop strings)?
        grammar: which tokens each row may generate next.

    Returns:
        New token ids per row; rows of one prompt are adjacent.
    """
    start = reader.prefill(prompts, steps).rows([i for i in range(len(prompts)) for _ in range(copies)])
    cache, logits, width = start.cache, start.logits, start.mask.shape[1]
    if width >= ROOMY:
        make_room(cache, steps)
    position = start.mask.sum(-1)
    mask = reader.visible(torch.cat([start.mask, start.mask.new_ones(len(start.mask), steps)], 1))
    rows: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
    ended = [False] * len(rows)
    live = list(range(len(rows)))
    for step in range(steps):
        if grammar is not None:
            grammar.forbid(logits, live)
        chosen = _pick(logits, temperature, None if noise is None else noise[live, step])
        going = []
        for place, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
            if ended[row]:
                continue
            rows[row].append(token)
            complete = grammar is not None and grammar.take(row, token)
            ended[row] = complete or token in ends or (stopped is not None and stopped(rows[row]))
            if not ended[row]:
                going.append(place)
        if not going or step == steps - 1:
            break
        if len(going) <= len(live) // 2:
            # Finished rows stay until they make up half of the batch; then the cache is compacted.
            keep = torch.tensor(going, device=reader.device)
            cache.batch_select_indices(keep)
            mask, position, chosen = None if mask is None else mask[keep], position[keep], chosen[keep]
            live = [live[place] for place in going]
        seen = None if mask is None else mask[..., : width + step + 1]
        out = reader.forward(chosen[:, None], seen, position[:, None], cache)
        cache, logits, position = cache_of(out), out.logits[:, -1], position + 1
    return rows


def _pick(logits: torch.Tensor, temperature: float, u: np.ndarray | None) -> torch.Tensor:
    if temperature == 0.0 or u is None:
        return logits.argmax(-1)
    total = (logits.float() / temperature).softmax(-1).cumsum(-1)
    level = torch.as_tensor(u.astype(np.float32), device=total.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, level, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


@torch.inference_mode()
def score(reader: Reader, prompts: list[list[int]], tails: list[list[int]]) -> list[float]:
    """Sum of log-probabilities of each tail given its prompt, in nats; a prompt of several tails is prefilled once."""
    heads = list(dict.fromkeys(map(tuple, prompts)))
    start = reader.prefill([list(h) for h in heads])
    place = {head: k for k, head in enumerate(heads)}
    owner = [place[tuple(p)] for p in prompts]
    first = start.logits.float().log_softmax(-1)
    sums = _doubles(first[owner, [tail[0] for tail in tails]])
    longer = [row for row, tail in enumerate(tails) if len(tail) > 1]
    if longer:
        sums[longer] += _score_rest(reader, start.rows([owner[row] for row in longer]), [tails[row] for row in longer])
    return sums.tolist()


def _score_rest(reader: Reader, start: Prefill, tails: list[list[int]]) -> np.ndarray:
    """Everything after the first token of each tail; padded on the right."""
    ids, real = padded([t[:-1] for t in tails], reader.pad, reader.device)
    said, _ = padded([t[1:] for t in tails], reader.pad, reader.device)
    positions = start.mask.sum(-1, keepdim=True) + torch.arange(ids.shape[1], device=reader.device)
    logits = reader.forward(ids, torch.cat([start.mask, real], 1), positions, start.cache).logits
    sums = []
    for at in torch.arange(len(tails)).split(max(1, AT_ONCE // logits[0].numel())):
        logp = logits[at].float().log_softmax(-1).gather(2, said[at, :, None]).squeeze(2)
        sums.append(_doubles(logp.masked_fill(real[at] == 0, 0.0)).sum(1))
    return np.concatenate(sums)


def _doubles(values: torch.Tensor) -> np.ndarray:
    """As 64-bit floats in numpy, because Apple's GPU has none."""
    return values.cpu().numpy().astype(np.float64)
