"""Every probe in one place: its name, whom it is asked of, its control and floor, and what is unknown without it.

A leaf: it imports nothing of ours, so that everything may read it. To add a probe: a name and an entry here, its
prompt in `prompts.py`, its stage in `run.py` and, if the mixture model is to read it, a template and a weight in
conf/rule/default.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Probe(StrEnum):
    """A question to a model, or a text shown to a grader; the names in answers.jsonl, diagnosis.json and conf/."""

    PLAIN = "plain"
    FREE = "free"
    FEW_SHOT = "few_shot"
    CONSTRAINED = "constrained"
    RANKED = "ranked"
    SAMPLES = "samples"
    ORACLE_CONTEXT = "oracle_context"
    PREFERENCE_JUDGED = "preference_judged"
    BEST_OF_N = "best_of_n"
    PARAPHRASED = "paraphrased"
    MARGINS = "margins"

    # Parts and controls of the above; they are asked with it and cannot be enabled alone.
    OWN_ANSWERS = "own_answers"
    FEW_SHOT_CONTROL = "few_shot_control"
    RANKED_QUESTION = "ranked_question"
    RANKED_STATEMENT = "ranked_statement"
    PRIOR_QUESTION = "prior_question"
    PRIOR_STATEMENT = "prior_statement"
    OTHER_CONTEXT = "other_context"
    SWAPPED_CONTEXT = "swapped_context"
    SELF_PAIRS = "self_pairs"

    # Put to the model that judges, or to the reward model.
    JUDGE_CONTROL = "judge_control"
    JUDGED_SELF_PAIRS = "judged_self_pairs"
    JUDGED_BEST_OF_N = "judged_best_of_n"
    REWARD = "reward"
    REWARD_SELF_PAIRS = "reward_self_pairs"
    REWARD_BEST_OF_N = "reward_best_of_n"

    # Shown to a grader that is a model: texts whose reading is known.
    CONTROL_RIGHT = "control_right"
    CONTROL_WRONG = "control_wrong"
    CONTROL_REFERENCE = "control_reference"

    # Asked by eval only.
    CONFIDENCE = "confidence"

    @property
    def stream(self) -> str:
        """Seeds its samples; kept when a probe is renamed, so that the same seed draws the same samples."""
        return STREAMS.get(self, self)


STREAMS = {Probe.SAMPLES: "sampled", Probe.SELF_PAIRS: "self", Probe.BEST_OF_N: "best"}


class Role(StrEnum):
    """What a text stands for, where a probe puts several to a model."""

    NONE = ""
    REFERENCE = "reference"
    DISTRACTOR = "distractor"
    CHOSEN = "chosen"
    REJECTED = "rejected"
    OWN = "own"
    AS_PAIRED = "as_paired"
    """A judge sees the pair in its own order …"""
    SWAPPED = "swapped"
    """… and with the places exchanged."""


class AskedOf(StrEnum):
    """The items a probe can say something about."""

    EVERY = "every item"
    FAILURES = "strict failures"
    MISSING_CONTENT = "failures whose content is missing"
    PREFERRED = "right answers that something judges"


class Outcome(StrEnum):
    """How the mixture model reads the answers of an item."""

    LEVELS = "levels"
    """Fail, right content only, right: averaged over draws."""
    COUNT = "count"
    """How many of the samples have the right content."""
    WIN = "win"
    """One success or failure."""


class Floor(StrEnum):
    """The rate at which a probe succeeds without its active ingredient."""

    GUESS = "guess"
    """A guess hits one given option of the item's type."""
    FORCED = "forced"
    """A random valid string of the forced format is right."""
    CHANCE = "chance"
    """One option of those that are ranked: 1 / (m + 1)."""
    CONTROL = "control"
    """Measured with the probe's control."""
    SELF_PAIRS = "self_pairs"
    """One of two own samples loses to the other."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One probe."""

    probe: Probe
    asked_of: AskedOf
    label: str = ""
    """Head of its column in the report's table of telling items; empty: it has none."""
    parts: tuple[Probe, ...] = ()
    """Under which names its answers are kept and read by the mixture model; empty: its own."""
    controls: tuple[Probe, ...] = ()
    """The same attempt without the active ingredient; with Floor.CONTROL the first one's rate is the floor."""
    outcome: Outcome | None = None
    """None: the mixture model does not read it."""
    floor: Floor = Floor.GUESS
    recovers: str | None = None
    """Which reading counts as a failure recovered: strict, lenient; None: it is not there to recover any."""
    step: tuple[str, str] | None = None
    """Its step of the waterfall: label, and the name of the measured floor that its recoveries are reduced by."""
    missing: str | None = None
    """How `missing` names its absence; None: nobody would miss it."""
    unknown_without: str = ""
    """What cannot be shown without it …"""
    would_show: str = ""
    """… and what it would take."""
    matters_for: tuple[str, ...] = ()
    """Verdicts beside which its absence matters; empty: all, where content is graded."""
    if_applicable: bool = False
    """Missing only where the items have something to ask it about."""

    @property
    def read_as(self) -> tuple[Probe, ...]:
        """The names under which the mixture model reads it."""
        return (self.parts or (self.probe,)) if self.outcome else ()


TABLE = (
    Entry(
        probe=Probe.PLAIN,
        asked_of=AskedOf.EVERY,
        label="greedy, as in production",
        outcome=Outcome.LEVELS,
    ),
    Entry(
        probe=Probe.FREE,
        asked_of=AskedOf.MISSING_CONTENT,
        label="without the format demand",
        outcome=Outcome.WIN,
        recovers="lenient",
        step=("right without the format demand", "guess"),
        missing="free",
        unknown_without="not asked without the format demand, so content that it costs looks like missing knowledge",
        would_show="the probe `free`, of a model that can be queried: it tells lost content from missing knowledge",
        matters_for=("knowledge", "mixed"),
        if_applicable=True,
    ),
    Entry(
        probe=Probe.FEW_SHOT,
        asked_of=AskedOf.FAILURES,
        label="with few-shot examples",
        controls=(Probe.FEW_SHOT_CONTROL,),
        outcome=Outcome.LEVELS,
        recovers="strict",
        step=("right with few-shot examples", "few_shot_content"),
        missing="few_shot",
        unknown_without="no few-shot examples were shown, so what a prompt can fix is not known",
        would_show="the probe `few_shot`, and rows of the slice in `data.sft` or 24 items or more as its examples",
    ),
    Entry(
        probe=Probe.CONSTRAINED,
        asked_of=AskedOf.FAILURES,
        label="with the format forced",
        outcome=Outcome.LEVELS,
        floor=Floor.FORCED,
        recovers="strict",
        missing="constrained",
        unknown_without="nothing was decoded under the schema, so what constrained decoding fixes is not known",
        would_show="the probe `constrained`, of a model that can be queried: it shows whether a schema is enough",
        matters_for=("format", "mixed"),
        if_applicable=True,
    ),
    Entry(
        probe=Probe.RANKED,
        asked_of=AskedOf.FAILURES,
        parts=(Probe.RANKED_QUESTION, Probe.RANKED_STATEMENT),
        outcome=Outcome.WIN,
        floor=Floor.CHANCE,
        missing="ranked",
        unknown_without="no options were ranked, so facts that are stored but not produced are hard to detect",
        would_show="`distractors` and a `statement` per item: ranking them finds facts stored but not produced",
    ),
    Entry(
        probe=Probe.SAMPLES,
        asked_of=AskedOf.MISSING_CONTENT,
        label="its first sample",
        outcome=Outcome.COUNT,
        recovers="lenient",
        step=("right in some sample", "guess"),
        missing="samples",
        unknown_without="not sampled, so content that comes out only sometimes is not detected",
        would_show="the probe `samples`: it finds content that greedy decoding hides",
    ),
    Entry(
        probe=Probe.ORACLE_CONTEXT,
        asked_of=AskedOf.MISSING_CONTENT,
        label="with the oracle context",
        controls=(Probe.OTHER_CONTEXT, Probe.SWAPPED_CONTEXT),
        outcome=Outcome.WIN,
        floor=Floor.CONTROL,
        recovers="lenient",
        step=("right with the oracle context", "oracle_context"),
        missing="context",
        unknown_without="no oracle context was read, so absent facts and a missing skill cannot be distinguished",
        would_show="a `context` per item, and the probe `oracle_context`: it tells an absent fact from a missing skill",
        matters_for=("knowledge", "mixed"),
    ),
    Entry(
        probe=Probe.PREFERENCE_JUDGED,
        asked_of=AskedOf.PREFERRED,
        controls=(Probe.SELF_PAIRS,),
        outcome=Outcome.WIN,
        floor=Floor.SELF_PAIRS,
        missing="preference",
        unknown_without="no judge was run, so a preference gap cannot be detected",
        would_show="`chosen` answers with a judge, and the probe `preference_judged`: they expose a preference gap",
    ),
    Entry(
        probe=Probe.BEST_OF_N,
        asked_of=AskedOf.PREFERRED,
    ),
    Entry(
        probe=Probe.PARAPHRASED,
        asked_of=AskedOf.EVERY,
    ),
    Entry(
        probe=Probe.MARGINS,
        asked_of=AskedOf.EVERY,
        missing="margins",
        unknown_without="no pairs were scored, so how close the preferred answer is to the model's own is not known",
        would_show="the probe `margins`, of a local model or with model.api=completions: it tells dpo from rlhf",
        matters_for=("preference", "mixed"),
        if_applicable=True,
    ),
)
"""In the order in which they are asked."""

BY_NAME = {entry.probe: entry for entry in TABLE}
PROBES = tuple(BY_NAME)
"""What probes.enabled may name."""


def read_as(outcome: Outcome) -> tuple[Probe, ...]:
    """The probes that the mixture model reads in this way."""
    return tuple(part for entry in TABLE if entry.outcome is outcome for part in entry.read_as)


LEVELS, COUNT, WINS = read_as(Outcome.LEVELS), read_as(Outcome.COUNT), read_as(Outcome.WIN)
MODELLED = (*LEVELS, *COUNT, *WINS)
"""Each needs a template and a weight in conf/rule."""
FLOORS = {part: entry.floor for entry in TABLE for part in entry.read_as}
