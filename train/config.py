"""The configuration of train.py; method.args and lora are checked against the fields of TRL and PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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

STAGES = {
    "sft": "SFTConfig",
    "dpo": "DPOConfig",
    "reward": "RewardConfig",
    "rloo": "RLOOConfig",
    "grpo": "GRPOConfig",
}
"""Stage of a method → its TRL config."""
MERGES = ("linear", "soup", "ties", "dare", "slerp")
METHODS = {
    "merge": (),
    "sft": ("sft",),
    "dpo": ("dpo",),
    "sft_dpo": ("sft", "dpo"),
    "rlhf": ("reward", "rl"),
    "rlvr": ("rl",),
}
"""Method → its stages; `method.args` belongs to the last, `method.first` to the one before. `rl`: the algorithm."""
ALGORITHMS = ("rloo", "grpo")
"""Of reinforcement learning; as stages they take prompts only."""
DISTRIBUTED = {"ddp": "multi_gpu", "fsdp2": "fsdp2", "zero2": "zero2", "zero3": "zero3"}
"""Setting → TRL's preset for accelerate."""
PII = ("count", "refuse", "mask", "off")
"""Name it, stop, replace it by its kind, or do not look for it."""
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
    algorithm: str = "rloo"
    """Of a method that ends with reinforcement learning: rloo or grpo."""
    args: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, float] = field(default_factory=dict)
    """Thresholds of this method's gates; see conf/method/."""


@dataclass
class MergeConfig:
    """`method=merge`: which finished runs become one adapter, and how."""

    runs: list[str] = field(default_factory=list)
    how: str = "linear"
    weights: Any = "equal"
    """`equal`, or a number for each run."""
    density: float = 0.5
    """ties, dare: the share of entries that is kept."""


@dataclass
class WatchConfig:
    """How a run is watched on held-out rows, graded as the eval set grades."""

    every: int | None = None
    """Steps; null: a fifth of the run; 0: never, and the last adapter is kept."""
    prompts: int = 48
    held_out: float = 0.1
    patience: int = 3


@dataclass
class PreflightConfig:
    """Whether the checks before training are run, are all that is run, or are off; and which of them may not stop."""

    mode: str = "run"
    force: list[str] = field(default_factory=list)


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
    distributed: str = "ddp"
    """How several processes share the model: see DISTRIBUTED."""
    merge: MergeConfig = field(default_factory=MergeConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    pii: str = "count"
    """What is done about personal data in the rows: see PII."""


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
    _check_watch(config.watch)
    name = config.method.name
    allowed: tuple[tuple[str, str, Sequence[str]], ...] = (
        ("method.name", name, tuple(METHODS)),
        ("method.algorithm", config.method.algorithm, ALGORITHMS),
        ("preflight.mode", config.preflight.mode, ("run", "only", "off")),
        ("pii", config.pii, PII),
        ("distributed", config.distributed, tuple(DISTRIBUTED)),
    )
    for key, value, choices in allowed:
        if value not in choices:
            raise BadInput(f"{key}={value}: allowed: {', '.join(choices)}")
    if config.method.first and len(METHODS[name]) == 1:
        raise BadInput(f"method.first: {name} has only one stage; its fields belong in method.args")
    if config.data.slices == []:
        raise BadInput(f"data.slices: empty; {SLICES}")
    if config.model.adapter:
        raise BadInput("model.adapter: training on top of an adapter is not supported; merge it into the base first")
    if name == "merge":
        _check_merge(config.merge)
    if "rl" in METHODS[name] and config.num_processes > 1 and config.distributed not in ("ddp", "zero2"):
        raise BadInput(
            f"distributed={config.distributed}: {name} generates while it trains, which a process that holds a part of "
            "each weight cannot; allowed: ddp, zero2"
        )
    if config.num_processes < 1:
        raise BadInput(f"num_processes={config.num_processes}: at least 1")


def _check_merge(merge: MergeConfig) -> None:
    if merge.how not in MERGES:
        raise BadInput(f"merge.how={merge.how}: allowed: {', '.join(MERGES)}")
    if len(merge.runs) < 2 or (merge.how == "slerp" and len(merge.runs) != 2):
        wanted = "two" if merge.how == "slerp" else "two or more"
        raise BadInput(f"merge.runs: {len(merge.runs)} runs; {merge.how} merges {wanted}: 'merge.runs=[RUN,RUN]'")
    if merge.weights != "equal":
        numbers = isinstance(merge.weights, list) and all(isinstance(w, int | float) for w in merge.weights)
        if not numbers or len(merge.weights) != len(merge.runs):
            raise BadInput(
                f"merge.weights={merge.weights}: allowed: equal, or {len(merge.runs)} numbers: one for a run"
            )
        if merge.how in ("soup", "slerp") and sum(merge.weights) <= 0:
            raise BadInput(
                f"merge.weights={merge.weights}: {merge.how} divides by their sum, which must be more than 0"
            )
    if not 0 < merge.density <= 1:
        raise BadInput(f"merge.density={merge.density}: allowed: more than 0, at most 1")


def _check_watch(watch: WatchConfig) -> None:
    for name, least in {"every": 0, "prompts": 1, "patience": 1}.items():
        if (value := getattr(watch, name)) is not None and value < least:
            raise BadInput(f"watch.{name}={value}: allowed: {least} or more")
    if not 0 < watch.held_out < 1:
        raise BadInput(f"watch.held_out={watch.held_out}: allowed: more than 0, less than 1")


def check_settings(config: TrainConfig) -> None:
    """Reject what the TRL config of a stage or peft.LoraConfig does not take; imports both libraries.

    Raises:
        BadInput: naming the key, and similar existing ones if it is unknown.
    """
    from peft import LoraConfig

    for stage, (key, given) in stages_of(config.method).items():
        _check_fields(f"model.train.{stage}", config.model.train.get(stage, {}), trl_config(stage))
        _check_fields(key, given, trl_config(stage))
        _check_together(key, trl_config(stage), stage_settings(config, stage, given) | UNBOUND)
        split_batch(config, stage)
    _check_fields("lora", config.lora, LoraConfig)
    _check_together("lora", LoraConfig, config.lora)


def stages_of(method: MethodConfig) -> dict[str, tuple[str, dict[str, Any]]]:
    """Stage, in order → the key of its settings in the config, and what is set there."""
    names = [method.algorithm if name == "rl" else name for name in METHODS[method.name]]
    keys = [("method.first", method.first), ("method.args", method.args)]
    return dict(zip(names, keys[len(keys) - len(names) :], strict=True))


def max_length(config: TrainConfig, stage: str) -> int | None:
    """Tokens to which the rows of a stage are cut; None: to none."""
    default = next((f.default for f in fields(trl_config(stage)) if f.name == "max_length"), None)
    found = stage_settings(config, stage, stages_of(config.method)[stage][1]).get("max_length", default)
    return None if found is None else int(found)


def stage_settings(config: TrainConfig, stage: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stage's TRL config: those of conf/model for the stage, overridden by `given`."""
    settings = {"per_device_train_batch_size": size} if (size := config.model.train_batch_size) else {}
    return settings | config.model.train.get(stage, {}) | given


def split_batch(config: TrainConfig, stage: str) -> dict[str, int]:
    """Batch size and accumulation of one process, with which all together keep the batch of a step.

    Raises:
        BadInput: the processes cannot share it evenly.
    """
    settings, kind = stage_settings(config, stage, stages_of(config.method)[stage][1]), trl_config(stage)
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    size, steps = (int(settings.get(name, getattr(kind, name))) for name in names)
    count = config.num_processes
    if size % count == 0:
        return dict(zip(names, (size // count, steps), strict=True))
    if steps % count == 0:
        return dict(zip(names, (size, steps // count), strict=True))
    raise BadInput(
        f"num_processes={count}: {stage} takes {size} rows times {steps} accumulation steps in a step; expected one of "
        "them to be a multiple of the processes, which then keep that batch together"
    )


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
