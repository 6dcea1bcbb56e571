"""Batches: rows of token ids as one tensor, and a batch that runs out of memory retried in halves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.nn.utils.rnn import pad_sequence

from diagnose.errors import RunFailed

Row = TypeVar("Row")
Result = TypeVar("Result")


def padded(rows: Sequence[list[int]], fill: int, device: Any, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of any lengths as [rows, width] ids and mask; 0 is padding."""
    side = "left" if left else "right"
    parts = [torch.tensor(row, dtype=torch.long) for row in rows]
    ids = pad_sequence(parts, batch_first=True, padding_value=fill, padding_side=side)
    mask = pad_sequence([torch.ones_like(part) for part in parts], batch_first=True, padding_side=side)
    return ids.to(device), mask.to(device)


class Halving:
    """Runs batches on one device; the first one that is halved is reported on stderr."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self._told = False

    def run(
        self,
        rows: Sequence[Row],
        work: Callable[[Sequence[Row]], list[Result]],
        alone: Callable[[Row], list[Result]] | None = None,
        each: int = 1,
    ) -> list[Result]:
        """`work` on all rows, or on each half if they run out of memory together.

        Args:
            alone: what to do with a single row that does not fit.
            each: sequences per row, for the message.

        Raises:
            RunFailed: a single row does not fit, and there is no `alone`.
        """
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        try:
            return work(rows)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        # Outside of the except block: while the error lives, so do the tensors of the frames that raised it.
        clear_device_cache(garbage_collection=True)
        if len(rows) == 1:
            if alone is None:
                raise RunFailed(f"out of memory on a single text on {self.device}")
            return alone(rows[0])
        half = len(rows) // 2
        self.tell(len(rows) * each, half * each)
        return self.run(rows[:half], work, alone, each) + self.run(rows[half:], work, alone, each)

    def tell(self, size: int, smaller: int) -> None:
        """Report once that a batch was too large."""
        if not self._told:
            self._told = True
            message = f"batch of {size} ran out of memory on {self.device}; retrying with {smaller}"
            print(message, file=sys.stderr)
