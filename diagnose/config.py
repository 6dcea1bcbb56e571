"""The configuration of diagnose. Hydra composes it, and cli.load turns it into these dataclasses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from diagnose.errors import NO_ROOM, BadInput
from diagnose.probes.table import PROBES, Probe
from diagnose.redact import USERINFO

QUANTIZATIONS = ("nf4",)
DTYPES = ("auto", "float32", "bfloat16", "float16")
CHOICES = {
    "model.kind": ("hf", "openai", "recorded"),
    "model.api": ("chat", "completions"),
    "model.dtype": DTYPES,
    "model.quantization": QUANTIZATIONS,
    "judge.kind": ("hf", "openai"),
    "judge.dtype": DTYPES,
    "reader.by": ("rules", "model"),
    "reader.kind": ("hf", "openai"),
    "reader.dtype": DTYPES,
    "probes.budget": ("full", "adaptive"),
}
LEAST_PAIRS = 50
"""With fewer pairs of a slice at hand no method is advised that learns from them, and no reward model is trained
(hand-set)."""
WANDB_MODES = ("offline", "online", "disabled")
LEAST = {
    "model.concurrency": 1,
    "model.retries": 0,
    "model.batch_size": 1,
    "model.max_length": 1,
    "model.max_new_tokens": 1,
    "judge.batch_size": 1,
    "judge.max_new_tokens": 1,
    "reader.batch_size": 1,
    "reader.max_new_tokens": 1,
    "reader.trust": 0,
    "probes.first_items": 1,
    "probes.more_items": 1,
    "probes.few_shot_draws": 0,
    "probes.samples": 1,
    "probes.more_samples": 0,
    "probes.best_of_n_items": 0,
    "probes.paraphrased_items": 0,
    "evalset.limit": 1,
    "rule.min_items": 1,
    "rule.burn": 0,
}
POSITIVE = ("model.timeout_seconds", "probes.temperature", "rule.kappa", "rule.strength", "rule.rho_weight")
TRAINING_FIELDS = ("prompt", "messages", "completion", "chosen", "rejected", "slice", "target")
SHARES = ("rule.tau", "rule.claim", "rule.stop", "rule.mixed_share", "rule.icc")


@dataclass
class ModelConfig:
    """Where the model is and how it is queried. Values are in conf/model/; null: taken from the model."""

    kind: str = "hf"
    path: str | None = None
    name: str | None = None
    adapter: str | None = None
    tokenizer: str | None = None
    """Directory or hub name of another tokenizer and chat template than those of `path`."""
    base_url: Any = None
    """openai: the URL of a server, or of several that serve the same model and are asked in turn."""
    api_key_env: str = "OPENAI_API_KEY"
    dtype: str | None = None
    quantization: str | None = None
    """nf4: the base in 4 bits, to probe and to train LoRA on (QLoRA, arXiv 2305.14314); reward models are not."""
    device: str | None = None
    batch_size: int | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    system_prompt: str | None = None
    eos_token: str | None = None
    stop: list[str] | None = None
    api: str = "chat"
    """openai: `chat` or `completions`; the latter can score texts, where the server echoes log-probabilities."""
    concurrency: int = 16
    timeout_seconds: float = 120.0
    retries: int = 5
    lora_targets: Any = None
    """What LoRA adapts by default: "all-linear" or a list of module names."""
    train_batch_size: int | None = None
    train: dict[str, Any] = field(default_factory=dict)
    """TRL stage (sft, dpo, reward, rloo) → fields of its config that suit a model of this size."""


def urls(settings: ModelConfig) -> list[Any]:
    """The servers to ask."""
    given = settings.base_url
    return list(given) if isinstance(given, list | tuple) else [given] if given else []


@dataclass
class ReaderConfig(ModelConfig):
    """What decides whether the content of an answer is right: the rules, or a model where they do not say strict."""

    by: str = "rules"
    trust: float = 1.6
    """Least sensitivity + specificity on texts of known content; a model that reads or grades below it is refused."""

    def __post_init__(self) -> None:
        """A server needs no `kind`."""
        if self.base_url:
            self.kind = "openai"


@dataclass
class EvalSetConfig:
    """Which rows are measured, and how they are graded by default."""

    path: str | None = None
    """A file (JSONL, JSON, CSV, TSV, Parquet), a `datasets` directory, or a dataset's name on the hub."""
    split: str | None = None
    subset: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    """Our field → a column of the file, or a Jinja template over its columns."""
    grader: dict[str, Any] = field(default_factory=lambda: {"kind": "exact"})
    format_demand: str | None = None
    """A sentence of the prompts, or an RE2 pattern, that demands a format; the probe `free` asks without it."""
    limit: int | None = None
    """At most this many rows per slice, picked by hash."""
    audit: str | None = None
    """The audit.csv of a run of the same answers, with labels of a person filled in."""


@dataclass
class ProbesConfig:
    """Which probes are run, and how much of each."""

    enabled: list[str] = field(default_factory=lambda: list(PROBES))
    budget: str = "full"
    """`adaptive` asks item by item until a slice's verdict is certain enough."""
    first_items: int = 16
    more_items: int = 8
    shots: int = 3
    few_shot_draws: int = 2
    samples: int = 8
    more_samples: int = 24
    best_of_n_items: int = 50
    paraphrased_items: int = 32
    temperature: float = 1.0


@dataclass
class RuleConfig:
    """The tunable thresholds and priors of the verdict and the recommendation; values and sources are in conf/rule/."""

    tau: float = 0.1
    min_items: int = 16
    claim: float = 0.9
    stop: float = 0.95
    reader_error: str | None = None
    """A file of scripts.reader.fit: what the lenient reading gets wrong; null: it is trusted."""
    agreement: float = 0.4
    agreement_pairs: float = 0.75
    misfit: float = 0.4
    mixed_share: float = 0.3
    kappa: float = 1.0
    sweeps: int = 500
    burn: int = 100
    icc: float = 0.5
    calibration: str | None = None
    """A file written by scripts.planted.fit, whose values replace the three below; null: those of conf/rule."""
    templates: dict[str, Any] = field(default_factory=dict)
    effective: float = 1.0
    strength: float = 12.0
    rho: dict[str, Any] = field(default_factory=dict)
    rho_weight: float = 4.0
    taught_rows: int = 1000
    forget: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    views_per_fact: int = 10
    min_lift: float = 0.15
    reach: float = -1.0
    rho_dpo_in_reach: float = 0.75
    best_high: float = 0.65
    best_low: float = 0.55
    rho_out_of_reach: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig:
    """Training rows by kind; paths, split, subset and columns as in EvalSetConfig."""

    sft: str | None = None
    preferences: str | None = None
    prompts: str | None = None
    split: str | None = None
    subset: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    bootstrap: bool = False
    """Train on the base's own right answers of the diagnosis, instead of rows from files."""
    slices: list[str] | None = None
    """Train on the rows of these slices only; null: those the diagnosis recommends the method for."""


@dataclass
class WandbConfig:
    """One W&B run per job; offline needs no account."""

    mode: str = "offline"
    project: str = "gapwise"
    group: str | None = None
    """null: the decision_id of the diagnosis, so that all runs about one decision are grouped."""


@dataclass
class DiagnoseConfig:
    """`python diagnose.py`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    evalset: EvalSetConfig = field(default_factory=EvalSetConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    rule: RuleConfig = field(default_factory=RuleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    judge: ModelConfig = field(default_factory=ModelConfig)
    """The judge of rows that do not name one."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0
    out: str | None = None
    launch: bool = False


def check_data(data: DataConfig) -> None:
    """Refuse columns that no training row has.

    Raises:
        BadInput: naming the column and the allowed ones.
    """
    if unknown := sorted(set(data.columns) - set(TRAINING_FIELDS)):
        allowed = ", ".join(TRAINING_FIELDS)
        raise BadInput(f"data.columns.{unknown[0]}: not a field of a training row; allowed: {allowed}")


def check_run(config: Any) -> None:
    """Refuse what is wrong in `out`, `seed` and `wandb`, which all three commands have.

    Raises:
        BadInput: naming the key, what was found and what is allowed.
    """
    _check_out(config.out)
    if not 0 <= config.seed < 2**32:
        raise BadInput(f"seed={config.seed}: allowed: 0 to {2**32 - 1}")
    if config.wandb.mode not in WANDB_MODES:
        raise BadInput(f"wandb.mode={config.wandb.mode}: allowed: {', '.join(WANDB_MODES)}")


def _check_out(out: str | None) -> None:
    """A run directory that cannot be made or written is refused before anything is computed for it."""
    if out is None:
        return
    path = Path(out).absolute()
    parts = (path, *path.parents)
    try:
        path.exists()
    except OSError as error:
        raise BadInput(f"out={out}: {error.strerror}; choose another directory") from None
    if broken := next((part for part in parts if part.is_symlink() and not part.exists()), None):
        raise BadInput(f"out={out}: {broken} is a symbolic link that leads nowhere; choose a directory")
    above = next(part for part in parts if part.exists())
    if not above.is_dir():
        raise BadInput(f"out={out}: is a file or inside one; choose a directory")
    if _closed(above):
        raise BadInput(f"out={out}: not writable; choose another directory")


def check_diagnose(config: DiagnoseConfig) -> None:
    """Refuse what no later step can fix, before anything slow is imported.

    Raises:
        BadInput: naming the key, what was found and what is allowed.
    """
    check_run(config)
    check_data(config.data)
    for complaint in (
        *_choices(config),
        *_model_complaints(config),
        *_judge_complaints(config),
        *_number_complaints(config),
        *_other_complaints(config),
    ):
        raise BadInput(complaint)


def _choices(config: DiagnoseConfig) -> Iterator[str]:
    """Settings that take one of a few values."""
    for key, allowed in CHOICES.items():
        if (value := attrgetter(key)(config)) is not None and value not in allowed:
            yield f"{key}={value}: allowed: {', '.join(allowed)}"
    if unknown := sorted(set(config.probes.enabled) - set(PROBES)):
        yield f"probes.enabled: unknown {unknown}; allowed: {', '.join(PROBES)}"
    if Probe.PLAIN not in config.probes.enabled:
        yield "probes.enabled: must include `plain`; the other probes run on its failures"


def _model_complaints(config: DiagnoseConfig) -> Iterator[str]:
    model = config.model
    if model.kind == "openai":
        for key in ("base_url", "name"):
            if not getattr(model, key):
                yield f"model.{key}: missing; model.kind=openai needs it"
        if model.adapter:
            yield "model.adapter: goes with model.kind=hf; a server loads its adapters itself"
    elif not model.path:
        yield "model.path: missing; expected a directory, a .gguf file or a hub name (model.kind=recorded: a log)"
    if "" in (model.stop or ()):
        yield "model.stop: contains an empty string, which would end every answer at once"
    if any("\\n" in stop for stop in model.stop or ()):
        # Hydra takes escapes in an override literally; such a stop string never occurs, so no answer would end.
        yield r"""model.stop: contains a backslash and an n, not a line break; in bash: $'model.stop=["\n"]'"""


def _judge_complaints(config: DiagnoseConfig) -> Iterator[str]:
    judge, reader = config.judge, config.reader
    if judge.kind == "openai" and not (judge.base_url and judge.name):
        yield "judge.base_url and judge.name: judge.kind=openai needs both"
    if reader.by == "model" and reader.kind == "openai" and not (reader.base_url and reader.name):
        yield "reader.base_url and reader.name: a served reader needs both"
    elif reader.by == "model" and not (reader.path or reader.base_url):
        yield "reader.path: missing; reader=model needs reader.path=DIR, or reader.base_url=URL and reader.name=NAME"
    for group, settings in (("model", config.model), ("judge", judge), ("reader", reader)):
        if not all(isinstance(url, str) and url for url in urls(settings)):
            yield f"{group}.base_url={settings.base_url}: allowed: a URL, or a list of them"
        elif group != "model" and any(USERINFO.search(url) for url in urls(settings)):
            # No password is kept with a run, and eval.py asks judge and reader again.
            yield f"{group}.base_url: contains a password; name a variable that holds the key in {group}.api_key_env"


def _number_complaints(config: DiagnoseConfig) -> Iterator[str]:
    """Each test is negated, because a comparison with NaN is never true."""
    for key, least in LEAST.items():
        value = attrgetter(key)(config)
        if value is not None and not value >= least:
            yield f"{key}={value}: allowed: {least} or more"
    for key in POSITIVE:
        if not 0 < (value := attrgetter(key)(config)) < math.inf:
            yield f"{key}={value}: allowed: more than 0"
    for key in SHARES:
        if not 0 <= (value := attrgetter(key)(config)) <= 1:
            yield f"{key}={value}: allowed: 0 to 1"
    rule = config.rule
    if not 1 <= config.probes.shots <= 4:
        yield f"probes.shots={config.probes.shots}: allowed: 1 to 4"
    if rule.sweeps <= rule.burn:
        yield f"rule.sweeps={rule.sweeps}: must be more than rule.burn={rule.burn}"
    if rule.best_low >= rule.best_high:
        yield f"rule.best_low={rule.best_low}: must be less than rule.best_high={rule.best_high}"


def _other_complaints(config: DiagnoseConfig) -> Iterator[str]:
    if not config.evalset.path:
        yield "evalset.path: missing; expected a file, a `datasets` directory, or a hub name"
    if config.launch and not (config.data.sft or config.data.preferences):
        yield "launch=true: needs rows to train on: data.sft=F.jsonl or data.preferences=F.jsonl"
    if config.launch and config.model.kind != "hf":
        yield f"launch=true: train must load the weights itself; not possible with model.kind={config.model.kind}"


def _closed(folder: Path) -> bool:
    """Is it unwritable? Tried out, because permission bits are not conclusive; a full disk has its own message."""
    import tempfile

    try:
        with tempfile.TemporaryDirectory(dir=folder):
            return False
    except OSError as error:
        return error.errno not in NO_ROOM
