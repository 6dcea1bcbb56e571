"""The types of the comparison."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from diagnose.records import SCHEMA_VERSION, TrainMethod, rounded

Role = Literal["target", "guard", "critical", "other"]
Change = Literal["better", "worse", "equivalent", "tie"]
Outcome = Literal["PASS", "WARN", "BLOCK", "INCONCLUSIVE"]


@dataclass(frozen=True, kw_only=True)
class SliceDelta:
    """One slice of one run, compared with the base on the same items."""

    slice: str
    n: int
    measure: Literal["strict", "preferred"]
    """`strict`, or `preferred`: strict and accepted by the slice's rule."""
    before: float | None
    after: float | None
    delta: float | None
    low: float | None
    high: float | None
    """95 % interval of delta."""
    p: float | None
    p_holm: float | None
    mde: float | None
    """Minimum detectable change at this n, with power .8."""
    fixed: list[str]
    broken: list[str]
    strict: dict[str, float | None]
    lenient: dict[str, float | None]
    accepted: dict[str, float | None]
    """With a preference rule: the share of correct samples (temperature 1) that it accepts."""
    arms: dict[str, dict[str, float | None]]
    """arm → before (base) and after (run), both with the arm."""
    reversion: float | None
    """On the fixed items, the share of paraphrases still answered with the base's wrong answer."""
    confidence_when_wrong: dict[str, float | None]
    predicted: dict[str, float] | None
    role: Role
    verdict: Change


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run over all slices."""

    run: str
    method: TrainMethod | Literal["merge"]
    seed: int
    slices: list[SliceDelta]
    guard: dict[str, Any]
    """Guard slices pooled: n, delta, 90 % interval, equivalent."""
    predicted_lift: dict[str, Any]
    verdict: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The content of comparison.json."""

    decision_id: str
    diagnosis: str
    base: dict[str, Any]
    arms: list[str]
    runs: list[RunResult]
    skipped: dict[str, str]
    best: str | None
    """The best method on the target slices shared by most methods."""
    regret: dict[str, Any] | None
    """Regret of the recommended method on these slices."""
    by_target: list[dict[str, Any]]
    """The same for every set of target slices."""
    retention: list[dict[str, Any]]
    """Of every merge: what it keeps of each of its runs that is compared here."""
    provenance: dict[str, Any]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Deterministic JSON."""
        return json.dumps(rounded(asdict(self)), indent=1, ensure_ascii=False) + "\n"
