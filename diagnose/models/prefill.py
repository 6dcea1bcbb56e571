"""Batched prefill: a shared prefix is computed once, and padding is masked as cheaply as possible."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from diagnose.models.batches import padded
from diagnose.models.kv_cache import Pair, RoomyLayer

WORTH_SHARING = 8
"""Shortest prefix, in ids, that is computed once if all prompts of a batch share it."""


CACHE = "cache" if "cache" in {f.name for f in fields(CausalLMOutputWithPast)} else "past_key_values"
"""What transformers calls the key-value cache: `past_key_values` before 5.24."""


def cache_of(output: Any) -> Any:
    """The key-value cache in a network's output."""
    return getattr(output, CACHE)


@dataclass(frozen=True)
class Prefill:
    """Prompts after one forward pass."""

    cache: Any
    logits: torch.Tensor
    """[prompts, vocabulary]: for the token after each prompt."""
    mask: torch.Tensor
    """[prompts, width]; 0 is padding."""

    def rows(self, index: list[int]) -> Prefill:
        """The same prompts reordered or repeated; the cache is moved, not copied, so do not use this Prefill again."""
        if index == list(range(len(self.mask))):
            return self
        at = torch.tensor(index, device=self.mask.device)
        self.cache.batch_select_indices(at)
        return Prefill(self.cache, self.logits[at], self.mask[at])


class Reader:
    """Runs batches of prompts through a network, and caches the prefix of the last batch.

    The batches of one probe start with the same few-shot examples. Weights must not change while a Reader is in use.
    """

    def __init__(self, network: Any, pad: int) -> None:
        self.network, self.pad, self.device = network, pad, network.device
        self._shares = _sees_everything(network)
        self._head: list[int] = []
        self._pairs: list[Pair] = []

    def prefill(self, prompts: list[list[int]], room: int = 0) -> Prefill:
        """One forward pass over the prompts, padded on the left; leaves room for `room` new tokens."""
        shared = _shared(prompts) if self._shares else 0
        tails = [p[shared:] for p in prompts]
        ids, own = padded(tails, self.pad, self.device, left=True)
        mask = torch.cat([own.new_ones(len(tails), shared), own], 1)
        cache = self._behind(prompts[0][:shared], len(prompts), room) if shared else None
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        out = self.forward(ids, None if bool(own.all()) else mask, positions, cache, logits_to_keep=1)
        return Prefill(cache_of(out), out.logits[:, -1], mask)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: Any, **settings: Any
    ) -> Any:
        """The network's output for ids that follow a cache."""
        return self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            **{CACHE: cache},
            use_cache=True,
            **settings,
        )

    def visible(self, mask: torch.Tensor) -> torch.Tensor | None:
        """The cheapest mask that lets one new token per row attend to `mask` [rows, width]; slice it on the last axis.

        None without padding: grouped-query attention then needs no copy of its keys. Otherwise in the kernel's
        layout, so that transformers does not rebuild it at every token.
        """
        if bool(mask.all()):
            return None
        if self._shares and self.network.config.get_text_config()._attn_implementation == "sdpa":
            return mask[:, None, None, :].bool()
        return mask

    def tensor(self, rows: list[list[int]]) -> torch.Tensor:
        """On the network's device."""
        return torch.tensor(rows, device=self.device)

    def _behind(self, head: list[int], rows: int, room: int) -> DynamicCache:
        """A cache in which every row starts with the prefix `head`."""
        if head != self._head:
            out = self.network(input_ids=self.tensor([head]), use_cache=True, logits_to_keep=1)
            self._head, self._pairs = head, [(layer.keys, layer.values) for layer in cache_of(out).layers]
        cache = DynamicCache()
        cache.layers = [RoomyLayer.behind(pair, rows, room) for pair in self._pairs]
        return cache


def _shared(prompts: list[list[int]]) -> int:
    """Length of the shared prefix if it is worth a pass of its own, else 0; each prompt keeps at least one id."""
    if len(prompts) == 1:
        return 0
    first, last = min(prompts), max(prompts)
    bound = min(map(len, prompts)) - 1
    shared = next((k for k in range(bound) if first[k] != last[k]), bound)
    return shared if shared >= WORTH_SHARING else 0


def _sees_everything(model: Any) -> bool:
    """Padding between a shared prefix and the rest is harmless only with full attention, not with a sliding window."""
    layers = getattr(model.config.get_text_config(), "layer_types", None)
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    return set(layers) == {"full_attention"} if layers else window is None
