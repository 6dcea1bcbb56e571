"""The model protocol; no caller knows which implementation it was given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diagnose.errors import BadInput
from diagnose.probes.table import Probe
from diagnose.records import EvalItem, Finish, Prompt

LAYOUT = "user\\nassistant\\n\\n"
"""How turns are laid out for a model without a chat template."""
PLAIN_STOP = "\n\n"
Constraint = dict[str, Any]
"""{"schema": JSON Schema} or {"choices": [texts]}."""


@dataclass(frozen=True)
class Completion:
    """One generated text."""

    text: str
    tokens: int
    finish: Finish


@dataclass(frozen=True)
class Score:
    """Log-probability of a continuation, summed over its tokens."""

    logprob: float | None
    """None: the model does not score this text."""
    tokens: int


class Model(Protocol):
    """What diagnose and eval need from a model."""

    batch_size: int
    max_new_tokens: int
    device: str
    lacks: frozenset[Probe]
    """Probes that it does not support."""

    @property
    def fingerprint(self) -> str | None:
        """Hash of every weight and of the prompt format: whose answers these are; None where they cannot be seen."""

    @property
    def prompt_format(self) -> dict[str, Any]:
        """Everything that determines how a prompt is tokenized."""

    def check(self, items: Sequence[EvalItem]) -> None:
        """Before any probe runs, refuse what would make every answer look wrong (BadInput)."""

    def check_end_token(self, items: Sequence[EvalItem], seed: int) -> None:
        """Refuse a model that does not end its answers as configured (Blocked); may take some seconds."""

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        """Does the prompt fit the context window with the continuation, or with an answer of max_new_tokens?"""

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        constraints: Sequence[Constraint] | None = None,
    ) -> list[list[Completion]]:
        """n completions per prompt; the sample `draw` of key k (`seed|probe|item`) depends on (k, draw) only.

        Args:
            constraints: what each answer is constrained to, if the model supports it.
        """

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        """Score of each continuation after its prompt."""


def prompt_format_sha(prompt_format: dict[str, Any]) -> str:
    """Hash of a prompt format; to name a difference, compare the dictionaries."""
    return hashlib.sha256(json.dumps(prompt_format, sort_keys=True).encode()).hexdigest()[:16]


def prompt_format_differs(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """Keys in which a local model's prompt format differs from a measured one; what a server hides is not compared."""
    hidden = {k for k in now if "served" in then and then.get(k) is None}
    return sorted(k for k in now if k not in hidden and now[k] != then.get(k))


def lay_out(turns: Sequence[tuple[str, str]]) -> str:
    """A conversation as text for a model without a chat template; ends where the answer starts."""
    closing = {"assistant": "\n\n", "system": "\n\n"}
    return "".join(text + closing.get(role, "\n") for role, text in turns)


def with_system(turns: Sequence[tuple[str, str]], system: str | None) -> tuple[tuple[str, str], ...]:
    """The system prompt, then the turns; unchanged if they already start with a system turn."""
    if not system or turns[0][0] == "system":
        return tuple(turns)
    return (("system", system), *turns)


def check_windows(model: Model, items: Sequence[EvalItem]) -> None:
    """Refuse a slice if no prompt of it fits the context window; single long prompts are left unscored instead.

    Raises:
        BadInput: naming the slices and the settings to change.
    """
    fitting = {name for i in items if model.fits(Prompt(i.turns)) for name in i.slices}
    without = sorted({name for i in items for name in i.slices} - fitting)
    if without:
        raise BadInput(
            f"no prompt of {', '.join(without)} fits the model's context window together with "
            f"model.max_new_tokens={model.max_new_tokens}; lower it, or raise model.max_length"
        )
