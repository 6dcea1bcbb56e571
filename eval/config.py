"""The configuration of eval.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from diagnose.cli import register
from diagnose.config import WandbConfig, check_run
from diagnose.errors import BadInput
from diagnose.text import hydra_text

ARMS = ("prompt", "retrieval")


@dataclass
class GateConfig:
    """Whether the exit code follows the verdict, and what a PASS requires."""

    enabled: bool = False
    """Exit 3 on BLOCK and 4 on INCONCLUSIVE; short form: `gate=true`."""
    margin: float = 0.05
    guard: list[str] | None = None
    """Slices that must not change; null: slices diagnosed with `none`."""
    critical: list[str] = field(default_factory=list)
    """Slices that must not get worse: BLOCK if they do."""


@dataclass
class EvalConfig:
    """`python eval.py`."""

    diagnosis: str | None = None
    runs: str | None = None
    arms: list[str] = field(default_factory=lambda: list(ARMS))
    """Arms without training, measured on all items for the base and every run."""
    gate: GateConfig = field(default_factory=GateConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    batch_size: int | None = None
    device: str | None = None
    seed: int = 0
    out: str | None = None


def register_eval() -> None:
    """The schema of conf/eval.yaml."""
    register("eval_schema", EvalConfig)


def check_eval(config: EvalConfig) -> None:
    """Reject invalid values before torch is imported.

    Raises:
        BadInput: naming the key.
    """
    check_run(config)
    if not config.runs:
        raise BadInput("runs: missing; expected a run directory or a glob: 'runs=outputs/train/*'")
    unknown = set(config.arms) - set(ARMS)
    if unknown:
        raise BadInput(f"arms: unknown {sorted(unknown)}; allowed: {', '.join(ARMS)}")
    if not 0 < config.gate.margin < 1:
        raise BadInput(f"gate.margin={config.gate.margin}: allowed: greater than 0, less than 1")


def plain_overrides(arguments: list[str]) -> list[str]:
    """Expand `gate=true`; quote a glob, whose brackets and commas Hydra would parse."""
    out = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "gate":
            argument = f"gate.enabled={value}"
        elif key == "runs" and value[:1] not in ("'", '"'):
            argument = f"runs={hydra_text(value)}"
        out.append(argument)
    return out
