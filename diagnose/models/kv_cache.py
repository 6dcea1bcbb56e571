"""A key-value cache that grows in place; transformers' own cache copies everything at every new token."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

Pair = tuple[torch.Tensor, torch.Tensor]


class RoomyLayer(DynamicLayer):
    """A cache layer with spare room for new tokens; keys and values are views into it."""

    keys: torch.Tensor
    values: torch.Tensor
    room = 0
    """How many further tokens to allocate for, each time the room is used up."""
    _stores: Pair | None = None

    @classmethod
    def behind(cls, head: Pair, rows: int, room: int) -> RoomyLayer:
        """Rows that share the prefix `head` [1, heads, length, size]; it is copied when the first new tokens arrive."""
        layer = cls()
        layer.lazy_initialization(*head)
        layer.keys, layer.values = (part.expand(rows, -1, -1, -1) for part in head)
        layer.room = room
        return layer

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Pair:
        """See DynamicLayer."""
        start, new = self.get_seq_length(), key_states.shape[-2]
        if start == 0:
            return super().update(key_states, value_states, *args, **kwargs)
        stores = self._stores
        # Selecting rows replaces the views with copies, which no longer point into the store.
        behind = stores is not None and stores[0].data_ptr() == self.keys.data_ptr()
        if stores is None or not behind or stores[0].shape[-2] < start + new:
            stores = self._stores = self._roomier(self.keys, new), self._roomier(self.values, new)
        keys, values = stores
        keys[:, :, start : start + new] = key_states
        values[:, :, start : start + new] = value_states
        self.keys, self.values = keys[:, :, : start + new], values[:, :, : start + new]
        return self.keys, self.values

    def _roomier(self, old: torch.Tensor, new: int) -> torch.Tensor:
        batch, heads, length, size = old.shape
        store = old.new_empty(batch, heads, length + new + self.room, size)
        store[:, :, :length] = old
        return store


def make_room(cache: Any, tokens: int) -> None:
    """Let plain layers of a cache grow in place; layers of another kind (sliding, recurrent) are unchanged."""
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = RoomyLayer
            layer.room = tokens
