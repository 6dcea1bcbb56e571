"""Constrained decoding: llguidance decides which tokens may come next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diagnose.errors import BadInput
from diagnose.models.base import Constraint

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

COMPACT: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line: free white space would let a base model run into its stop string or its limit."""


def grammar(constraint: Constraint) -> str:
    """A constraint as llguidance reads it."""
    from llguidance import LLMatcher

    if "schema" in constraint:
        return LLMatcher.grammar_from_json_schema(json.dumps(constraint["schema"]), overrides=COMPACT)
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(c) for c in constraint["choices"]))


class Grammars:
    """One matcher per row of a batch."""

    def __init__(self, tokenizer: Any, constraints: list[Constraint]) -> None:
        """`tokenizer` is an llguidance tokenizer.

        Raises:
            BadInput: llguidance does not support a constraint; with its reason.
        """
        from llguidance import LLMatcher

        self._matchers = [LLMatcher(tokenizer, grammar(constraint)) for constraint in constraints]
        wrong = next((m.get_error() for m in self._matchers if m.is_error()), None)
        if wrong:
            raise BadInput(f"grader.schema: answers cannot be constrained to it: {wrong.splitlines()[0]}")

    def forbid(self, logits: torch.Tensor, rows: list[int]) -> None:
        """Set to -inf, in place, every token that a row must not generate next."""
        for place, row in enumerate(rows):
            matcher = self._matchers[row]
            if matcher.is_stopped():
                continue  # finished, but kept until the batch is compacted
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            allowed = torch.zeros(logits.shape[-1], dtype=torch.bool)
            allowed[: len(bits)] = torch.from_numpy(bits[: logits.shape[-1]].astype(bool))
            logits[place].masked_fill_(~allowed.to(logits.device), float("-inf"))

    def take(self, row: int, token: int) -> bool:
        """Advance a row by the token it generated. Is it complete, so that nothing may follow?"""
        self._matchers[row].consume_token(token)
        return self._matchers[row].is_stopped()
