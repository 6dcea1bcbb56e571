"""A model is one small protocol; no room knows which implementation it was given."""

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
    """What diagnose and eval ask of a model."""

    batch_size: int
    max_new_tokens: int
    device: str
    lacks: frozenset[Probe]
    """Probes that cannot be asked of it."""

    @property
    def family(self) -> str | None:
        """Type of its architecture (`llama`, `qwen3`), or a served model's name; None: not known."""

    @property
    def prompt_format(self) -> dict[str, Any]:
        """Everything that decides how a prompt becomes tokens."""

    def check(self, items: Sequence[EvalItem], seed: int) -> None:
        """Refuse, before anything is asked, what would make every answer look wrong (BadInput, Blocked)."""

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        """Does the prompt fit the window with the continuation, or with an answer of max_new_tokens?"""

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
            constraints: what each answer is forced into, where the model can be forced.
        """

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        """Score of each continuation after its prompt."""


def prompt_format_sha(render: dict[str, Any]) -> str:
    """The render contract, hashed; a difference is named by comparing the dictionaries."""
    return hashlib.sha256(json.dumps(render, sort_keys=True).encode()).hexdigest()[:16]


def prompt_format_differs(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """Keys in which a local model's render differs from a measured one; what a served model hides is not compared."""
    hidden = {k for k in now if "served" in then and then.get(k) is None}
    return sorted(k for k in now if k not in hidden and now[k] != then.get(k))


def lay_out(turns: Sequence[tuple[str, str]]) -> str:
    """A conversation as text for a model without a chat template; ends where the answer starts."""
    closing = {"assistant": "\n\n", "system": "\n\n"}
    return "".join(text + closing.get(role, "\n") for role, text in turns)


def with_system(turns: Sequence[tuple[str, str]], system: str | None) -> tuple[tuple[str, str], ...]:
    """The turns behind the system prompt, unless they bring one of their own."""
    if not system or turns[0][0] == "system":
        return tuple(turns)
    return (("system", system), *turns)


def check_windows(model: Model, items: Sequence[EvalItem]) -> None:
    """Refuse a slice of which no prompt fits the window; single long prompts are unscored instead.

    Raises:
        BadInput: naming the slices and the setting that takes the room.
    """
    fitting = {name for i in items if model.fits(Prompt(i.turns)) for name in i.slices}
    without = sorted({name for i in items for name in i.slices} - fitting)
    if without:
        raise BadInput(
            f"no prompt of {', '.join(without)} fits the model's window together with "
            f"model.max_new_tokens={model.max_new_tokens}; set it lower, or model.max_length higher"
        )
