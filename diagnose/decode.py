"""Batched decoding whose samples depend on the prompt and the draw only, never on the batch they happened to be in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diagnose.cache import make_room
from diagnose.constrain import Grammars

Uniforms = np.ndarray
"""[rows, steps] numbers in [0, 1); one per sampled token."""
WORTH_SHARING = 8
"""Ids that all prompts of a batch must start with to be computed once."""


def uniforms(keys: Sequence[str], steps: int) -> Uniforms:
    """One reproducible stream per key; the key names seed, item, probe and draw."""
    out = np.empty((len(keys), steps))
    for row, key in enumerate(keys):
        stream = np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big"))
        out[row] = np.random.Generator(stream).random(steps)
    return out


@dataclass(frozen=True)
class Prefill:
    """Prompts that went through the model once."""

    cache: Any
    logits: torch.Tensor
    """[prompts, vocabulary]: what follows each prompt."""
    mask: torch.Tensor
    """[prompts, width]"""

    def rows(self, index: list[int]) -> Prefill:
        """The same prompts in another order or number; the cache is moved, not copied: this Prefill is used up."""
        if index == list(range(len(self.mask))):
            return self
        at = torch.tensor(index, device=self.mask.device)
        self.cache.batch_select_indices(at)
        return Prefill(self.cache, self.logits[at], self.mask[at])


def prefill(model: Any, prompts: list[list[int]], pad: int) -> Prefill:
    """One forward pass over the prompts, padded on the left; what all of them start with is computed once."""
    shared = _shared(prompts) if _sees_everything(model) else 0
    tails = [p[shared:] for p in prompts]
    width = max(map(len, tails))
    ids = torch.tensor([[pad] * (width - len(t)) + t for t in tails], device=model.device)
    mask = torch.tensor([[1] * shared + [0] * (width - len(t)) + [1] * len(t) for t in tails], device=model.device)
    cache = None
    if shared:
        head = torch.tensor([prompts[0][:shared]], device=model.device)
        cache = model(input_ids=head, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(prompts))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Prefill(out.past_key_values, out.logits[:, -1], mask)


def _shared(prompts: list[list[int]]) -> int:
    """How many ids all prompts start with, if it is worth a pass of its own; one id at least is left to each."""
    if len(prompts) == 1:
        return 0
    first, last = min(prompts), max(prompts)
    bound = min(map(len, prompts)) - 1
    shared = next((k for k in range(bound) if first[k] != last[k]), bound)
    return shared if shared >= WORTH_SHARING else 0


def _sees_everything(model: Any) -> bool:
    """Padding between a shared prefix and the rest is invisible to full attention only, not to a sliding window."""
    layers = getattr(model.config.get_text_config(), "layer_types", None)
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    return set(layers) == {"full_attention"} if layers else window is None


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
    grammar: Grammars | None = None,
) -> list[list[int]]:
    """Continue every prompt `copies` times; each prompt is prefilled once.

    Args:
        prompts: token ids.
        steps: at most so many new tokens.
        ends: ids that end a row; the end token is kept as the last id of the row.
        temperature: 0 is greedy; else inverse-CDF sampling with `noise` [len(prompts) * copies, steps].
        stopped: does a row's text end here (stop strings)?
        grammar: what each row may say next.

    Returns:
        New token ids per row; rows of one prompt stand together.
    """
    start = prefill(model, prompts, pad).rows([i for i in range(len(prompts)) for _ in range(copies)])
    cache, logits, mask = start.cache, start.logits, start.mask
    make_room(cache, steps)
    position = mask.sum(-1)
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
            # Finished rows are carried along until they are half of the batch; then the cache is compacted.
            keep = torch.tensor(going, device=mask.device)
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


def _pick(logits: torch.Tensor, temperature: float, u: np.ndarray | None) -> torch.Tensor:
    if temperature == 0.0 or u is None:
        return logits.argmax(-1)
    total = (logits.float() / temperature).softmax(-1).cumsum(-1)
    level = torch.as_tensor(u, dtype=total.dtype, device=total.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, level, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


@torch.inference_mode()
def score(model: Any, prompts: list[list[int]], tails: list[list[int]], pad: int) -> list[float]:
    """Sum of log-probabilities of each tail given its prompt, in nats; a prompt of several tails is read once."""
    heads = list(dict.fromkeys(map(tuple, prompts)))
    start = prefill(model, [list(h) for h in heads], pad)
    place = {head: k for k, head in enumerate(heads)}
    owner = [place[tuple(p)] for p in prompts]
    first = start.logits.float().log_softmax(-1)
    sums = [first[k, tail[0]].item() for k, tail in zip(owner, tails, strict=True)]
    longer = [row for row, tail in enumerate(tails) if len(tail) > 1]
    if longer:
        rest = _score_rest(model, start.rows([owner[row] for row in longer]), [tails[row] for row in longer], pad)
        for row, value in zip(longer, rest, strict=True):
            sums[row] += value
    return sums


def _score_rest(model: Any, start: Prefill, tails: list[list[int]], pad: int) -> list[float]:
    """Everything behind the first token of each tail; padded on the right."""
    width = max(map(len, tails)) - 1
    ids = torch.tensor([t[:-1] + [pad] * (width + 1 - len(t)) for t in tails], device=model.device)
    real = torch.tensor([[1] * (len(t) - 1) + [0] * (width + 1 - len(t)) for t in tails], device=model.device)
    positions = start.mask.sum(-1, keepdim=True) + torch.arange(width, device=model.device)
    out = model(
        input_ids=ids,
        attention_mask=torch.cat([start.mask, real], 1),
        position_ids=positions,
        past_key_values=start.cache,
        use_cache=True,
    )
    sums = []
    for row, tail in enumerate(tails):
        logp = out.logits[row, : len(tail) - 1].float().log_softmax(-1)
        sums.append(logp.gather(1, torch.tensor(tail[1:], device=logp.device)[:, None]).sum().item())
    return sums
