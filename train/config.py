"""The configuration of train.py; method.args and lora are checked against the fields of TRL and PEFT."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from diagnose.cli import register
from diagnose.config import DataConfig, ModelConfig, WandbConfig, check_data
from diagnose.errors import BadInput
from diagnose.provenance import read_record
from diagnose.records import Diagnosis
from diagnose.text import hydra_list

METHODS = ("sft", "dpo", "sft_dpo", "rlhf")
STAGES = {"sft": "SFTConfig", "dpo": "DPOConfig", "reward": "RewardConfig", "rloo": "RLOOConfig"}
"""Stage of a method → its TRL config."""
ARGS_OF = {"sft": "sft", "dpo": "dpo", "sft_dpo": "dpo", "rlhf": "rloo"}
"""Which TRL config `method.args` belongs to; `method.first` belongs to the stage before it."""
FIRST_OF = {"sft_dpo": "sft", "rlhf": "reward"}
SLICES = "expected the slices that every job trains on: 'data.slices=[SLICE,GUARD]'"


@dataclass
class MethodConfig:
    """One training method; `args` is passed to the TRL config of its last stage, `first` to that of its first."""

    name: str = "sft"
    args: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, float] = field(default_factory=dict)
    """Thresholds of this method's gates; see conf/method/."""


@dataclass
class TrainConfig:
    """`python train.py`."""

    diagnosis: str | None = None
    method: MethodConfig = field(default_factory=MethodConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    """Only what should differ from the diagnosis."""
    lora: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0
    out: str | None = None
    num_processes: int = 1
    preflight: str = "run"


def register_train() -> None:
    """The schema of conf/train.yaml."""
    free = ("method.args", "method.first", "method.gate", "lora", "data.columns", "model.train")
    register("train_schema", TrainConfig, free)


def resolve_recommended(arguments: list[str]) -> list[str]:
    """Replace `method=recommended` by the recommended method and its slices, before Hydra composes the config.

    Raises:
        BadInput: no diagnosis is given, it cannot be read, or it recommends no training.
    """
    if "method=recommended" not in arguments:
        return arguments
    named = [a.split("=", 1)[1] for a in arguments if a.startswith("diagnosis=")]
    if not named:
        raise BadInput("method=recommended: needs diagnosis=DIR")
    wanted = [r for r in read_diagnosis(named[0]).recommendations if r.train_method]
    if not wanted:
        raise BadInput(f"method=recommended: {named[0]} recommends no training; see its report for what to do")
    slices = hydra_list(wanted[0].train_slices)
    out = [f"method={wanted[0].train_method}" if a == "method=recommended" else a for a in arguments]
    return out if any(a.startswith("data.slices=") for a in out) else [*out, f"data.slices={slices}"]


def check_sweep(arguments: list[str]) -> None:
    """Refuse a sweep over methods in which each job would choose its own slices: their results could not be compared.

    Raises:
        BadInput: data.slices is not set.
    """
    methods = [a for a in arguments if a.startswith("method=") and not a.removeprefix("method=").isidentifier()]
    sweep = {"-m", "--multirun"} & set(arguments)
    if sweep and methods and not any(a.startswith("data.slices=") for a in arguments):
        raise BadInput(f"data.slices: missing in a sweep over methods; {SLICES}")


def read_diagnosis(folder: str | None) -> Diagnosis:
    """Read diagnosis.json of a finished diagnosis.

    Raises:
        BadInput: there is none.
    """
    if not folder:
        raise BadInput(
            "diagnosis: missing; expected the run directory of a finished diagnosis: diagnosis=outputs/diagnose/<time>"
        )
    path = Path(folder) / "diagnosis.json"
    if not path.exists():
        raise BadInput(f"diagnosis={folder}: contains no diagnosis.json; run diagnose.py first")
    return read_record(path, Diagnosis)


def check_train(config: TrainConfig) -> None:
    """Reject invalid values before torch is imported.

    Raises:
        BadInput: naming the key.
    """
    check_data(config.data)
    name = config.method.name
    if name not in METHODS:
        raise BadInput(f"method.name={name}: allowed: {', '.join(METHODS)}")
    if config.method.first and name not in FIRST_OF:
        raise BadInput(f"method.first: {name} has only one stage; its fields belong in method.args")
    if config.data.slices == []:
        raise BadInput(f"data.slices: empty; {SLICES}")
    if config.model.adapter:
        raise BadInput("model.adapter: training on top of an adapter is not supported; merge it into the base first")
    if config.preflight not in ("run", "only", "off"):
        raise BadInput(f"preflight={config.preflight}: allowed: run, only, off")
    if config.num_processes < 1:
        raise BadInput(f"num_processes={config.num_processes}: at least 1")


def check_fields(config: TrainConfig) -> None:
    """Reject fields unknown to the stage's TRL config or to peft.LoraConfig; imports both libraries.

    Raises:
        BadInput: naming the key and similar existing fields.
    """
    name = config.method.name
    _check_fields("method.args", config.method.args, trl_fields(ARGS_OF[name]))
    if name in FIRST_OF:
        _check_fields("method.first", config.method.first, trl_fields(FIRST_OF[name]))
    _check_fields("lora", config.lora, lora_fields())


def trl_fields(stage: str) -> frozenset[str]:
    """Every field of a stage's TRL config."""
    import trl

    return frozenset(f.name for f in fields(getattr(trl, STAGES[stage])) if f.init)


def lora_fields() -> frozenset[str]:
    """Every field of peft.LoraConfig."""
    from peft import LoraConfig

    return frozenset(f.name for f in fields(LoraConfig) if f.init)


def _check_fields(key: str, given: dict[str, Any], allowed: frozenset[str]) -> None:
    from difflib import get_close_matches

    for name in given:
        if name not in allowed:
            near = get_close_matches(name, allowed, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "see the TRL or PEFT documentation for its fields"
            raise BadInput(f"{key}.{name}: unknown field; {hint}")
