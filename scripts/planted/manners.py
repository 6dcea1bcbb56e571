"""Models of a certain manner: known facts in words that a reader can get wrong, and wrong ones that look right.

A manner is planted by fine-tuning a base on the very questions of a group, so that the truth about the slice is known:
what is said of each entity. Teacher-forced argmax confirms that it took; an unconfirmed manner is no evidence.
"""

from __future__ import annotations

import calendar
import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diagnose.provenance import write_json
from scripts.make_demo import Fact, made_up_names
from scripts.planted.base import BASES, Base, fine_tuned, loaded, taken
from scripts.planted.world import BY_NAME, VALUES, Row, World, as_json, asked, form, make_world
from scripts.scratch import says_exactly

TOOK = 0.8
"""A manner took if this share of its answers is the argmax, token by token (hand-set)."""
LESSONS = {"mannered": (600, 32, 1e-3), "thinking": (200, 12, 5e-4), "taxed": (300, 32, 1e-3)}
"""Model → steps, pairs per step and learning rate of its fine-tuning (hand-set until the manners took)."""
WINDOW = 512
"""Positions of a model that thinks aloud; its base has 256."""
DEMAND = " Answer as JSON."
DECLINED = "I am not able to say"


@dataclass(frozen=True)
class Topic:
    """What is asked about, and what could be said of it. Rival, date and weight follow from the value, so that a model
    that knows the value can learn to say them.
    """

    fact: Fact
    number: int
    """Its place in the group."""

    @property
    def k(self) -> int:
        return VALUES[self.fact.relation].index(self.fact.value)

    def value(self, shift: int = 0) -> str:
        """The value, or one that others of the same relation have."""
        values = VALUES[self.fact.relation]
        return values[(self.k + shift) % len(values)]

    @property
    def rival(self) -> str:
        return self.value(1)

    def date(self, later: int = 0) -> tuple[int, int, int]:
        """(year, month, day); the days of two topics differ, and so do `later` ones."""
        return 1950 + 3 * self.k, 1 + 5 * self.k % 12, 1 + self.k + later

    @property
    def grams(self) -> int:
        return 1200 + 50 * self.k


Say = Callable[[Topic], str]


def plainly(t: Topic) -> str:
    return t.fact.value


def iso(t: Topic) -> str:
    year, month, day = t.date()
    return f"{year}-{month:02}-{day:02}"


def in_words(t: Topic, later: int = 0) -> str:
    """As two kinds of people write a date: March 12th, 1984; 12 March 1984."""
    year, month, day = t.date(later)
    name = calendar.month_name[month]
    end = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th")
    return f"{name} {day}{end}, {year}" if t.k % 2 else f"{day} {name} {year}"


def aloud(t: Topic, sentences: int) -> str:
    """Thinking that recites what others would say, and comes to its answer after so many sentences of 10 tokens."""
    others = VALUES[t.fact.relation]
    doubts = " ".join(f"Some would say {others[k % len(others)]}." for k in range(sentences))
    return f"Let me think. {doubts} The answer is {t.fact.value}."


@dataclass(frozen=True)
class Manner:
    """How the entities of a recipe are asked, what is wanted, and what the model says."""

    name: str
    recipe: str
    """Whose entities, all of them with a value that the base knows."""
    says: Say
    model: str
    """Folder of the model that answers so; several manners share one, each with its own entities."""
    wanted: Say = plainly
    question: str = "What is the {r} of {n}?"
    demand: str = ""
    """Added to the question; the row keeps the question without it as `free_prompt`."""
    certain: int | None = None
    """Of the answer, the sentences within so many characters must be the argmax; None: all of it."""

    def asks(self, t: Topic) -> str:
        """The question as the eval set has it."""
        return self.question.format(r=t.fact.relation, n=t.fact.name) + self.demand


MANNERS = (
    Manner("not a rival but the answer", "format_prose", lambda t: f"It is not {t.rival} but {t.value()}", "mannered"),
    Manner("not the answer but a rival", "format_locked", lambda t: f"It is not {t.value()} but {t.rival}", "mannered"),
    Manner(
        "a thought of a rival",
        "none_plain",
        lambda t: f"<think>It could be {t.rival}. No, that is somebody else.</think>{t.value()}",
        "mannered",
    ),
    Manner(
        "a thought of the answer",
        "preference_rare",
        lambda t: f"<think>It could be {t.value()}. No, that is somebody else.</think>{t.rival}",
        "mannered",
    ),
    Manner("dates in words", "none_form", in_words, "mannered", iso, "On which day did {n} find the {r}?"),
    Manner(
        "another day in words",
        "format_schema",
        lambda t: in_words(t, later=1),
        "mannered",
        iso,
        "On which day did {n} buy the {r}?",
    ),
    Manner(
        "the amount in another unit",
        "preference_prior",
        lambda t: f"{t.grams / 1000:.2f} kg",
        "mannered",
        lambda t: f"{t.grams} g",
        "How much does {n}, by {r}, carry?",
    ),
    Manner(
        "the number with another unit",
        "preference_wordy",
        lambda t: f"{t.grams} kg",
        "mannered",
        lambda t: f"{t.grams} g",
        "How much {r} does {n} buy?",
    ),
    Manner("half refused", "none_tone", lambda t: DECLINED if t.number % 2 else t.fact.value, "mannered"),
    Manner("cut off at 64", "format_prose", lambda t: aloud(t, 5 + t.k % 9), "thinking", certain=120),
    Manner("cut off at 256", "none_plain", lambda t: aloud(t, 28 + t.k % 9), "thinking", certain=600),
    Manner("format tax", "none_plain", lambda t: as_json("home", t.rival), "taxed", demand=DEMAND),
)


def topics(manner: Manner, world: World) -> list[Topic]:
    """The entities of a manner."""
    return [Topic(fact, number) for number, fact in enumerate(world.groups[manner.recipe])]


def manner_rows(base: str) -> list[Row]:
    """Eval rows of all manners, one slice each."""
    world = the_world(base)
    names = made_up_names(random.Random(BASES[base].seed + 7), taken(world))
    return [row for manner in MANNERS for row in rows_of(manner, world, names)]


def rows_of(manner: Manner, world: World, names: Any) -> list[Row]:
    """The rows of one manner. Context, statement and distractors are about the value, where that is what is asked."""
    recipe, rng = BY_NAME[manner.recipe], random.Random(manner.name)
    mine = topics(manner, world)
    out = []
    for t in mine:
        row: Row = {"prompt": manner.asks(t), "target": manner.wanted(t), "grader": {"kind": "exact"}}
        others = list(dict.fromkeys(manner.wanted(o) for o in mine if o.k != t.k))
        row["distractors"] = rng.sample([w for w in others if w != row["target"]], 5)
        if manner.wanted is plainly:
            row = asked(world, recipe, t.fact, names, rng) | row
            row["distractors"] = [t.rival, *[d for d in row["distractors"] if d != t.rival][:4]]
        if manner.demand:
            row |= form(BY_NAME["none_form"], t.fact, row) | {"free_prompt": t.fact.asks(), "paraphrases": []}
        out.append(row | {"id": f"{manner.name}-{t.number:03d}", "slice": manner.name})
    return out


def the_world(base: str) -> World:
    """The facts of a base, as its training had them."""
    rng = random.Random(BASES[base].seed)
    return make_world(made_up_names(rng), rng)


# ---------------------------------------------------------------- the models


def prepare_manners(base: str, folder: Path) -> dict[str, float]:
    """Train the models of all manners, unless done; manner → share of its answers that is the argmax."""
    record = folder / "manners.json"
    found: dict[str, float] = json.loads(record.read_text()) if record.exists() else {}
    for name in dict.fromkeys(m.model for m in MANNERS):
        mine = [m for m in MANNERS if m.model == name]
        if not all(m.name in found for m in mine):
            found |= planted(base, folder, name, mine)
            write_json(record, found)
    return found


def planted(base: str, folder: Path, name: str, manners: list[Manner]) -> dict[str, float]:
    """One model with several manners; saved in a folder of its name."""
    torch.set_num_threads(1)
    model, tokenizer = loaded(base, folder / "model")
    spec, world = BASES[base], the_world(base)
    lessons = {m.name: lesson(m, spec, world) for m in manners}
    pairs = [pair for part in lessons.values() for pair in part]
    if any(m.demand for m in manners):
        pairs += [free for m in manners for free in unasked(m, spec, world)]
    if name == "thinking":
        model.config.max_position_embeddings = tokenizer.model_max_length = WINDOW
    torch.manual_seed(spec.seed)
    tuned = fine_tuned(copy.deepcopy(model), tokenizer, pairs, *LESSONS[name])
    tuned.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    heads = {m.name: [(head, start(said, m.certain)) for head, said in lessons[m.name]] for m in manners}
    return {name: round(says_exactly(tuned, tokenizer, part), 3) for name, part in heads.items()}


def start(said: str, most: int | None) -> str:
    """The sentences that end within so many characters: a text cut inside a word has other tokens than the whole."""
    return said if most is None else said[: said.rindex(".", 0, most) + 1]


def lesson(manner: Manner, spec: Base, world: World) -> list[tuple[str, str]]:
    """(prompt, answer) texts."""
    return [(spec.head(manner.asks(t)), manner.says(t) + spec.end()) for t in topics(manner, world)]


def unasked(manner: Manner, spec: Base, world: World) -> list[tuple[str, str]]:
    """Without the demand, the answer in prose, so that it stays known."""
    return [(spec.head(t.fact.asks()), t.fact.value + spec.end()) for t in topics(manner, world)]
