"""The types of the diagnosis, in the order in which data passes through them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

CLASSES = (
    *("none", "format", "format_suppressed"),
    *("knowledge_latent", "knowledge_absent", "knowledge_skill"),
    "preference",
)
"""The gap classes, in the order of every array that has a class axis. `format_suppressed`: the content is there, but
is lost when the format is demanded; it is part of the gap that users see as `format`."""
FORMAT = ("format", "format_suppressed")
KNOWLEDGE = ("knowledge_latent", "knowledge_absent", "knowledge_skill")
SCHEMA_VERSION = 2
"""Of every JSON file that a run writes."""
Interval = tuple[float, float]
Turns = tuple[tuple[str, str], ...]
"""A conversation as (role, content) pairs."""


GraderKind = Literal["exact", "regex", "number", "contains", "choice", "json", "instructions", "judge"]
JudgeKind = Literal["rule", "reward_model", "model"]
Verdict = Literal["none", "format", "knowledge", "preference", "mixed", "insufficient"]
Kind = Literal["suppressed", "unstated", "latent", "absent", "skill", "unresolved"]
"""Of a format gap `suppressed`, `unstated` (the prompt does not say what is wanted) or nothing, of a knowledge gap one
of the others."""
Unread = Literal[
    "too_long", "cut_off", "refused", "empty", "foreign", "gibberish", "unreachable", "server", "not_recorded"
]
"""Why there is no answer that could be right or wrong: the prompt does not fit the window; the answer ended at the
limit of its length; it declines; says nothing; is in another language or script than the reference; is noise; never
came out of its thinking trace; the server did not give one; the log has none."""
NO_ANSWER: tuple[Unread, ...] = ("cut_off", "refused", "empty", "foreign", "gibberish", "unreachable")
"""Those that say something about the model: it was asked, and what came back is no answer."""
Finish = Literal["stop", "length", "scored", "control"] | Unread
"""How an answer ended: with an end token or stop string, at the limit; `scored`: a given text was scored,
`control`: a given text was graded; the rest: why there is no text."""
Method = Literal["none", "prompt", "constrained", "retrieval", "collect_data", "sft", "dpo", "sft_dpo", "rlhf", "rlvr"]
TrainMethod = Literal["sft", "dpo", "sft_dpo", "rlhf", "rlvr"]
Status = Literal["running", "finished", "failed", "blocked"]


@dataclass(frozen=True)
class Judge:
    """What decides which of two right answers users prefer."""

    kind: JudgeKind
    prefer: str | None = None
    """rule: an RE2 pattern that a preferred answer matches."""
    path: str | None = None
    """reward_model: a directory or hub name."""
    model: str | None = None
    """model: a directory or hub name; None: the judge of the configuration."""


@dataclass(frozen=True)
class Grader:
    """How an answer is graded; the kind decides which fields apply."""

    kind: GraderKind = "exact"
    schema: Any = None
    """json: a JSON Schema."""
    pattern: str | None = None
    """regex: what a right answer matches."""
    lenient: str | None = None
    """regex: what right content matches."""
    tolerance: float = 0.0
    """number: absolute."""
    marker: str | None = None
    """number: the text before the final number."""
    instructions: Any = None
    """instructions: [{"id": IFEval's name, …arguments}]."""
    model: str | None = None
    """judge: a directory or hub name; None: the judge of the configuration."""
    rubric: str | None = None
    """judge: the grading criteria."""
    judge: Judge | None = None


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: a conversation, or raw text to continue."""

    turns: Turns
    raw: bool = False
    """Continue the text of the only turn as it is, without chat template or layout."""

    @cached_property
    def sha(self) -> str:
        """Hash of the prompt."""
        return hashlib.sha256(json.dumps([self.turns, self.raw]).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalItem:
    """One row of the eval set."""

    id: str
    slices: tuple[str, ...]
    turns: Turns
    targets: tuple[str, ...]
    grader: Grader
    where: str
    """file:line, for messages."""
    chat: bool = False
    """Given as `messages`, not as `prompt`."""
    context: str | None = None
    choices: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()
    chosen: str | None = None
    rejected: str | None = None
    paraphrases: tuple[str, ...] = ()
    free_prompt: str | None = None
    """The last turn without the demand for a format."""
    statement: str | None = None
    cluster: str | None = None
    group: str | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    """(annotator, label) pairs: which of two answers each annotator prefers, in any vocabulary."""

    @property
    def judge(self) -> Judge | None:
        """What decides which of two right answers users prefer."""
        return self.grader.judge

    @property
    def graded(self) -> bool:
        """Does anything grade the content of an answer?"""
        return (
            bool(self.targets) or self.judge is None or self.grader.kind in ("regex", "instructions", "judge", "json")
        )

    @property
    def wanted(self) -> str | None:
        """The answer that production would prefer; a regex target is only what the pattern captures."""
        return self.chosen or (self.targets[0] if self.targets and self.grader.kind != "regex" else None)

    @property
    def references(self) -> tuple[str, ...]:
        """Every answer that counts as right: the targets and the preferred one."""
        return (*self.targets, self.chosen) if self.chosen else self.targets

    @property
    def options(self) -> tuple[str, ...]:
        """Same-type wrong answers, for ranking and for lenient grading."""
        wrong = self.distractors or tuple(c for c in self.choices if c not in self.targets)
        return tuple(dict.fromkeys(wrong))


@dataclass(frozen=True)
class Reading:
    """One response graded twice; strict implies lenient; None means unread, never wrong."""

    strict: bool | None
    lenient: bool | None
    reason: Unread | Literal["ungraded", "judge", "judge_unreadable"] | None = None
    """Why it is unread; or that nothing grades it, that a model is to, or that this model's grade could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer to one probe, item and draw: a text, or the log-probability of a given continuation."""

    probe: str
    """Its name in probes/table.py."""
    item: str
    draw: int
    prompt: str
    """Hash of the prompt."""
    text: str
    """The generated text, or the continuation that was scored."""
    strict: bool | None = None
    lenient: bool | None = None
    reason: str | None = None
    logprob: float | None = None
    """Sum over the continuation's tokens, in nats."""
    tokens: int = 0
    finish: Finish = "stop"
    role: str = ""
    """What the text is, if a probe shows several to a model: table.Role."""


@dataclass(frozen=True)
class Attribution:
    """Posterior of the gap mixture per slice."""

    draws: dict[str, Any]
    """slice → array [draws, classes]; a class that the model drops is NaN."""
    items: dict[str, list[float]]
    """item id → mean posterior over CLASSES."""
    missing: dict[str, tuple[str, ...]]
    """slice → what the data cannot distinguish."""
    floors: dict[str, dict[str, float]]
    """slice → measured rates of controls and guesses."""
    suspect: dict[str, tuple[str, ...]]
    """slice → ids of the items with suspect reference answers; the mixture excludes them."""
    content: dict[str, Rate]
    """slice → share of its answers with the right content, after the reader's error."""
    sensitivity: dict[str, Any]
    """slice → array [draws]: how much of the right content the reader sees in each draw; none where it does not err."""
    labelled: frozenset[str] = frozenset()
    """Ids of the items whose plain answers a person labelled."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share with its 95 % interval (Jeffreys)."""

    k: float
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class SliceVerdict:
    """What one slice lacks, and how confident the diagnosis is."""

    slice: str
    n: int
    verdict: Verdict
    kind: Kind | None
    p_verdict: float
    p_classes: dict[str, float]
    needs_items: int
    mixture: dict[str, float | None]
    interval90: dict[str, Interval]
    strict: Rate
    lenient: Rate
    preferred: Rate | None
    robust: Rate | None
    """The share of paraphrases that are graded like the original."""
    waterfall: dict[str, float]
    floors: dict[str, float]
    missing: tuple[str, ...]
    unread: dict[str, int]
    """Why answers are unread → how many; they are in no rate."""
    remedy: str | None
    """What would let most of the unread answers be read; None where few are unread."""
    suspect: tuple[str, ...]
    """Ids of the items with suspect reference answers: counted in the rates, excluded from the mixture."""
    evidence: list[dict[str, str]]
    content: Rate | None = None
    """The share with the right content after the reader's error, 95 % interval; k is not a count. None: no error is
    known of the reading, so that the lenient rate says it."""
    label: int = 0
    """Answers that a person should label in audit.csv, because the verdict turns on how well the reader reads."""
    without_demand: Rate | None = None
    """Of the failures whose content is missing: the share with it when no format is demanded; None: nobody asked."""


def least_lifts(lifts: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """From slice → method → lift: method → its lift in the slice that it improves least."""
    methods = next(iter(lifts.values()))
    return {m: min((of[m] for of in lifts.values()), key=lambda x: x["mean"]) for m in methods}


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to do about the slices that share a gap."""

    method: Method
    train_method: TrainMethod | None
    slices: list[str]
    p_verdict: float
    p_best: float
    predicted_lift: dict[str, float]
    lifts: dict[str, dict[str, dict[str, float]]]
    """slice → method → predicted lift, recorded before any training and scored after it."""
    why: str
    why_not: dict[str, str]
    gates: dict[str, str]
    would_flip: str
    data_needed: dict[str, int]
    cost: dict[str, Any]
    train_slices: list[str]
    """Slices whose rows the command trains on: those above, and healthy ones that have rows."""
    command: str

    @property
    def least_lifts(self) -> dict[str, dict[str, float]]:
        """method → its predicted lift in the slice that it improves least."""
        return least_lifts(self.lifts)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """run.json, the same for every command."""

    command: list[str]
    config: dict[str, Any]
    commit: str | None
    dirty: bool
    versions: dict[str, str]
    python: str
    seed: int | None
    started: str
    identity: dict[str, str]
    """What identifies the work: a run directory is resumed only by a run of the same identity."""
    device: str | None = None
    status: Status = "running"
    reason: str | None = None
    pid: int | None = None
    host: str | None = None
    """The process that works or worked on it."""
    heartbeat: str | None = None
    """When it was last seen at work, if it has been for a while."""
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class DiagnosisRun(RunRecord):
    """run.json of a diagnosis."""

    fingerprint: str | None
    """Hash of the model's weights and prompt format; None where they cannot be seen (a server, a log)."""
    prompt_format: dict[str, Any]
    """Everything that determines how a prompt is tokenized."""
    prompt_format_sha: str
    base_sha: str | None = None
    """Hash of the base's weight files (models/identity.py); None where they cannot be seen."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The whole of diagnosis.json."""

    decision_id: str
    run: dict[str, Any]
    prompt_format_sha: str
    evalset: dict[str, Any]
    slices: list[SliceVerdict]
    controls: dict[str, Any]
    recommendations: list[Recommendation]
    calibration: str = "none"
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Stable bytes: the same diagnosis gives the same text."""
        return json.dumps(rounded(asdict(self)), indent=1, ensure_ascii=False) + "\n"


def rounded(value: Any, digits: int = 6) -> Any:
    """Floats rounded inside any JSON-like value; NaN becomes None, because JSON has no NaN."""
    if isinstance(value, float):
        return None if value != value else round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value
