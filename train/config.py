"""The configuration of train.py; method.args and lora are checked against the fields of TRL and PEFT."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from diagnose.cli import register, value_of
from diagnose.config import DataConfig, DiagnoseConfig, ModelConfig, WandbConfig, check_data, check_run
from diagnose.errors import BadInput
from diagnose.provenance import read_record
from diagnose.records import Diagnosis
from diagnose.redact import redacted
from diagnose.text import first_line, hydra_list

METHODS = ("sft", "dpo", "sft_dpo", "rlhf")
STAGES = {"sft": "SFTConfig", "dpo": "DPOConfig", "reward": "RewardConfig", "rloo": "RLOOConfig"}
"""Stage of a method → its TRL config."""
ARGS_OF = {"sft": "sft", "dpo": "dpo", "sft_dpo": "dpo", "rlhf": "rloo"}
"""Which TRL config `method.args` belongs to; `method.first` belongs to the stage before it."""
FIRST_OF = {"sft_dpo": "sft", "rlhf": "reward"}
POSITIVE = (
    *("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("max_length", "max_completion_length", "num_generations", "r"),
)
"""Settings of TRL and PEFT that neither library checks, but that fail or do nothing at 0."""
NUMBERS = {int, float, bool, type(None)}
UNBOUND = {"output_dir": "unused", "use_cpu": True, "bf16": False, "report_to": "none"}
"""A TRL config is only checked here: it must not take a GPU from the worker."""
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
    named = [value_of(a) for a in arguments if a.startswith("diagnosis=")]
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


def measured_config(diagnosis: Diagnosis) -> DiagnoseConfig:
    """The configuration that a diagnosis was made with.

    Raises:
        BadInput: it has settings that this version does not know, or of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    given = diagnosis.run.get("config", {})
    try:
        config = TypeAdapter(DiagnoseConfig).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"diagnosis.json: run.config.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for section, known in asdict(config).items():
        for key in given.get(section) or () if isinstance(known, dict) else ():
            if key not in known:
                raise BadInput(f"diagnosis.json: run.config.{section}.{key}: unknown here; run diagnose.py again")
    return config


def check_train(config: TrainConfig) -> None:
    """Reject invalid values before torch is imported.

    Raises:
        BadInput: naming the key.
    """
    check_run(config)
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


def check_settings(config: TrainConfig) -> None:
    """Reject what the TRL config of a stage or peft.LoraConfig does not take; imports both libraries.

    Raises:
        BadInput: naming the key, and similar existing ones if it is unknown.
    """
    from peft import LoraConfig

    last, first = ARGS_OF[config.method.name], FIRST_OF.get(config.method.name)
    for key, stage, given in (("method.args", last, config.method.args), ("method.first", first, config.method.first)):
        if stage:
            _check_fields(f"model.train.{stage}", config.model.train.get(stage, {}), trl_config(stage))
            _check_fields(key, given, trl_config(stage))
            _check_together(key, trl_config(stage), stage_settings(config, stage, given) | UNBOUND)
    _check_fields("lora", config.lora, LoraConfig)
    _check_together("lora", LoraConfig, config.lora)


def stage_settings(config: TrainConfig, stage: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stage's TRL config: those of conf/model for the stage, overridden by `given`."""
    settings = {"per_device_train_batch_size": size} if (size := config.model.train_batch_size) else {}
    return settings | config.model.train.get(stage, {}) | {k: v for k, v in given.items() if v is not None}


def trl_config(stage: str) -> Any:
    """The TRL config class of a stage."""
    import trl

    return getattr(trl, STAGES[stage])


def _check_fields(key: str, given: dict[str, Any], kind: Any) -> None:
    """Names, secrets, words where only numbers are read, and numbers that mean nothing."""
    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(kind)
    for name, value in given.items():
        if name not in names_of(kind):
            near = get_close_matches(name, names_of(kind), n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "see the TRL or PEFT documentation for its fields"
            raise BadInput(f"{key}.{name}: unknown field; {hint}")
        if redacted(value, name) != value:
            raise BadInput(f"{key}.{name}: a secret does not belong in a config; set it in the environment (HF_TOKEN)")
        if name in POSITIVE and isinstance(value, int | float) and not value > 0:
            raise BadInput(f"{key}.{name}={value}: allowed: more than 0")
        if isinstance(value, str) and set(get_args(hints[name]) or (hints[name],)) <= NUMBERS:
            try:
                TypeAdapter(hints[name]).validate_python(value)
            except ValidationError as error:
                raise BadInput(f"{key}.{name}={value}: {error.errors()[0]['msg']}") from None


def _check_together(key: str, kind: Any, settings: dict[str, Any]) -> None:
    """The dataclass itself checks what its fields mean together."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the worker builds again will warn there
            kind(**settings)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise BadInput(f"{key}: {first_line(error)}") from None


@cache
def names_of(kind: Any) -> frozenset[str]:
    """The fields of a TRL config or of peft.LoraConfig that may be set."""
    return frozenset(f.name for f in fields(kind) if f.init)


def check_lora(config: TrainConfig) -> None:
    """Reject LoRA settings that do not fit the base, whose layers are built without memory for their weights.

    Raises:
        BadInput: naming the first reason.
    """
    from peft import LoraConfig

    from diagnose.models.adapter import lora_shapes

    settings = lora_settings(config)
    try:
        shapes = lora_shapes(str(config.model.path), LoraConfig(**settings | {"task_type": "CAUSAL_LM"}))
    except Exception as error:  # from PEFT or transformers; each is about these settings and this base
        raise BadInput(f"lora: does not fit {config.model.path}: {first_line(error)}") from None
    widths = [shape[1] for name, shape in shapes.items() if ".lora_A." in name]
    if widths and settings.get("r", 0) > max(widths):
        raise BadInput(f"lora.r={settings['r']}: more than the width of any layer of this base ({max(widths)})")


def lora_settings(config: TrainConfig) -> dict[str, Any]:
    """The fields of peft.LoraConfig, with the modules that conf/model names for this base."""
    return deepcopy(config.lora) | {
        "target_modules": config.lora.get("target_modules") or config.model.lora_targets or "all-linear"
    }
