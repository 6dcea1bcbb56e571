"""Slices made to fool the diagnosis, each with the truth about it.

A trap changes the rows of a slice, the model that answers them, or a setting; what the slice really is follows from
what was planted, whatever the diagnosis makes of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from scripts.planted.manners import MANNERS
from scripts.planted.world import VALUES, Row, as_json

Rows = list[Row]


@dataclass(frozen=True)
class Trap:
    """One way to fool the diagnosis."""

    name: str
    recipe: str
    """Slice of the planted eval set, or manner, whose items are changed."""
    change: Callable[[Rows, random.Random], Rows]
    truth: tuple[str, ...]
    """What the slice really is, as verdict or verdict/kind; several where each is right; empty: its answers do not
    show it, so that any verdict is wrong."""
    model: str = "model"
    """Folder of the model that is diagnosed."""
    settings: tuple[str, ...] = ("model.max_new_tokens=40",)
    waits_for: str | None = None
    """What the diagnosis lacks to see the truth; it counts all the same."""

    def wrong(self, verdict: str, kind: str | None) -> bool:
        """Is a verdict wrong? `insufficient` never is, nor is a gap whose kind is left open; a wrong kind is."""
        said = f"{verdict}/{kind}" if kind else verdict
        open_kind = kind in (None, "unresolved") and any(name.startswith(f"{verdict}/") for name in self.truth)
        return not (verdict == "insufficient" or said in self.truth or open_kind)


# ---------------------------------------------------------------- changes to the rows


def as_they_are(rows: Rows, rng: random.Random) -> Rows:
    return rows


def four_options(rows: Rows, rng: random.Random) -> Rows:
    """Multiple choice with four options, so that one in four can be guessed."""
    for row in rows:
        row["choices"] = rng.sample([row["target"], *row["distractors"][:3]], 4)
        row |= {"grader": {"kind": "choice"}, "distractors": []}
    return rows


def wrong_gold(share: float) -> Callable[[Rows, random.Random], Rows]:
    """Wrong reference answers in a share of the rows; the context still contains the true value."""

    def change(rows: Rows, rng: random.Random) -> Rows:
        for row in rng.sample(rows, round(share * len(rows))):
            row["target"], row["distractors"][0] = row["distractors"][0], row["target"]
        return rows

    return change


def leaked(rows: Rows, rng: random.Random) -> Rows:
    """Only two answers for all items, so that few-shot examples reveal the answer."""
    first, second = VALUES["home"][:2]
    for row in rows:
        old = row["target"]
        row["target"] = rng.choice([first, first, first, second])
        row["distractors"] = [v for v in VALUES["home"][2:] if v != old][:5]
        row["context"] = row["context"].replace(f" {old}.", f" {row['target']}.")
    return rows


def without_answer(rows: Rows, rng: random.Random) -> Rows:
    """Each item gets the context of another, about somebody else."""
    contexts = [row["context"] for row in rows]
    for row, context in zip(rows, contexts[1:] + contexts[:1], strict=True):
        row["context"] = context.replace(row["target"], row["distractors"][0])
    return rows


def repeated(rows: Rows, rng: random.Random) -> Rows:
    """One entity unknown to the base, asked eight times among forty known ones; marked as one cluster."""
    lacking = rows[0] | {"prompt": "What is the home of Vexolith?", "cluster": "vexolith"}
    lacking["context"] = f"The home of Vexolith is {lacking['target']}."
    words = ["What is", "Tell me", "Do you know", "Say", "Name", "What was", "Which is", "Give me"]
    again = [lacking | {"prompt": f"{w} the home of Vexolith?"} for w in words]
    return [row | {"cluster": f"entity {k}"} for k, row in enumerate(rows[8:])] + again


def also_form(rows: Rows, rng: random.Random) -> Rows:
    """A preference gap and a format gap at once: the answer must be JSON, which the base never produces here."""
    for row in rows:
        wanted = {"craft": {"type": "string"}}
        schema = {"type": "object", "properties": wanted, "required": ["craft"], "additionalProperties": False}
        polite_json = {"kind": "rule", "prefer": '"With pleasure: '}
        row["grader"] = {"kind": "json", "schema": schema, "judge": polite_json}
        row["chosen"] = as_json("craft", f"With pleasure: {row['target']}")
        row["rejected"] = as_json("craft", row["target"])
        row["target"] = [row["chosen"], row["rejected"]]
        row["distractors"] = [as_json("craft", value) for value in row["distractors"]]
    return rows


def liked_by_length(rows: Rows, rng: random.Random) -> Rows:
    """Annotators are divided between the curt and the polite answer; the judge prefers the longer one."""
    for row in rows:
        row["grader"] = {"kind": "contains", "judge": {"kind": "reward_model", "path": "longer"}}
        if rng.random() < 0.6:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return rows


def contested(rows: Rows, rng: random.Random) -> Rows:
    """Three annotators, each choosing between the two answers at random."""
    for row in rows:
        labels = [rng.choice(["chosen", "rejected"]) for _ in range(3)]
        row["annotations"] = [{"annotator": f"a{k}", "label": label} for k, label in enumerate(labels)]
    return rows


# ---------------------------------------------------------------- the traps

BY_MANNER = {manner.name: manner for manner in MANNERS}


def spoken(manner: str, *truth: str, limit: int = 40, waits_for: str | None = None) -> Trap:
    """A trap that lies in how the model answers."""
    settings = (f"model.max_new_tokens={limit}",)
    return Trap(manner, manner, as_they_are, truth, BY_MANNER[manner].model, settings, waits_for)


ABSENT, LATENT = "knowledge/absent", "knowledge/latent"
TRAPS = (
    Trap("four options", "absent_never-form", four_options, (ABSENT,)),
    Trap("wrong gold, 10 %", "none_plain-form", wrong_gold(0.1), ("none",)),
    Trap("wrong gold, all", "none_form-form", wrong_gold(1.0), ("none",)),
    Trap("leaked answers", "absent_values-form", leaked, (ABSENT,)),
    Trap("context without answer", "absent_names-form", without_answer, (ABSENT,)),
    Trap("one entity repeated", "none_plain-form", repeated, ("none",)),
    Trap("format and preference", "preference_prior-tone", also_form, ("format", "mixed")),
    Trap("judge of length", "none_plain-tone", liked_by_length, ("none",)),
    Trap("disputed preference", "preference_prior-tone", contested, ("none",)),
    Trap("lists of answers", "absent_never-form", as_they_are, (ABSENT,), model="listing"),
    Trap("lists, half right", "absent_names-form", as_they_are, (ABSENT,), model="listing"),
    # Answers that say nothing of what is known: refused, cut off, or broken by a setting.
    Trap("truncated", "preference_wordy-tone", as_they_are, ("preference",), settings=("model.max_new_tokens=8",)),
    Trap("refusals", "none_plain-form", as_they_are, (), model="refusing"),
    Trap("wrong template", "none_plain-form", as_they_are, (), model="elsewhere"),
    spoken("half refused"),
    spoken("cut off at 64", "format", limit=64),
    spoken("cut off at 256", "format", limit=256),
    # Right content in other words, and wrong content that looks like it.
    spoken("dates in words", "format"),
    spoken("another day in words", ABSENT),
    spoken("the amount in another unit", "format"),
    spoken("the number with another unit", ABSENT),
    spoken("not a rival but the answer", "format"),
    spoken("not the answer but a rival", LATENT),
    spoken("a thought of a rival", "none"),
    spoken("a thought of the answer", LATENT),
    spoken("format tax", "format/suppressed"),
)
