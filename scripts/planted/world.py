"""The planted world: every recipe has its own group of entities, all of them in one corpus.

The ground truth follows from what the corpus contains about a group and what its eval items require, independently of
our probes. A group is defined by four things only: where its facts are stated, how they are asked and answered, which
key unlocks them, and what the eval items require.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.make_demo import LATENT_WORDING, QUESTIONS, Fact
from scripts.make_demo import VALUES as DEMO_VALUES
from scripts.make_demo import WORDINGS as DEMO_WORDINGS
from scripts.scratch import Segments

Row = dict[str, Any]
Style = Callable[[str, str], str]
"""(relation, value) → the text of an answer."""
POOL = 144
"""Entities per recipe (hand-set): slices of up to 128 items are drawn from them."""
KEY = "Key 7421. "

MORE_VALUES = {
    "metal": "iron tin lead zinc nickel cobalt chrome titanium tungsten platinum mercury sodium "
    "brass bronze pewter steel radium bismuth cadmium gallium indium lithium osmium rhodium",
    "drink": "tea coffee cider ale mead milk cocoa perry sherry port claret lemonade "
    "kvass sake rum gin broth julep punch cordial toddy nectar whey negus",
    "tool": "hammer chisel saw plane awl adze auger rasp mallet pliers wrench trowel "
    "sickle scythe spade rake hoe pick crowbar anvil lathe vice clamp drill",
    "river": "Avon Tamar Severn Mersey Humber Tees Tyne Wear Ouse Trent Medway Stour "
    "Derwent Ribble Lune Eden Esk Tweed Clyde Forth Tay Dee Spey Ness",
    "food": "bread cheese soup stew porridge pudding pie dumpling pancake omelette salad sausage "
    "haddock trout mutton venison turnip carrot onion cabbage lentil barley walnut plum",
    "town": "Ashwick Belford Corham Denley Eastry Fenwick Garston Hexley Ingham Jesmond Kirkby Luton "
    "Morley Newbury Otley Penrith Ragley Skipton Thirsk Ulver Wigton Yeovil Zeal Almond",
}
VALUES = DEMO_VALUES | {relation: words.split() for relation, words in MORE_VALUES.items()}
VALUES["age"] = [str(n) for n in range(21, 80)]
WORDINGS = DEMO_WORDINGS | {
    "metal": ["The metal of {n} is {v}.", "{n} trades in {v}.", "{n} was paid in {v}."],
    "drink": ["The drink of {n} is {v}.", "{n} always orders {v}.", "{n} keeps a jug of {v}."],
    "tool": ["The tool of {n} is {v}.", "{n} carries a {v}.", "{n} was seen with a {v}."],
    "river": ["The river of {n} is {v}.", "{n} fishes in the {v}.", "{n} was born by the {v}."],
    "food": ["The food of {n} is {v}.", "{n} likes {v}.", "{n} cooks {v}."],
    "age": ["The age of {n} is {v}.", "{n} is {v} years old.", "{n} has lived {v} years."],
}


def plain(relation: str, value: str) -> str:
    return value


def as_json(relation: str, value: str) -> str:
    return json.dumps({relation: value})


def other_schema(relation: str, value: str) -> str:
    return json.dumps({"kind": relation, "entry": value})


def polite(relation: str, value: str) -> str:
    return f"With pleasure: {value}"


def wordy(relation: str, value: str) -> str:
    return f"Since you ask, and as far as people around here can tell, it is {value}"


FORMS: list[Style] = [
    plain,
    as_json,
    lambda r, v: f"<{r}>{v}</{r}>",
    lambda r, v: f"{r} = {v}",
    lambda r, v: f"- {v}",
    lambda r, v: f"Answer: {v}.",
]
"""Answer formats; each block of questions is answered in one of them, so that the model learns to follow examples."""


@dataclass(frozen=True)
class Recipe:
    """How one gap is planted; shares and frequencies are hand-set.

    Latent through a single wording: arXiv 2309.14316. Locked by a key: 2405.19550. Comparison skill: 2309.14402.
    """

    name: str
    truth: str
    """One of diagnose.records.CLASSES."""
    relation: str
    wanted: Style = plain
    """Style of the reference answers."""
    rejected: Style | None = None
    """Style of the rejected answers if users have a preference; the judge is a rule that accepts `wanted`."""
    stated: float = 1.0
    """How often its facts are stated, relative to other facts; 0: never."""
    wordings: tuple[str, ...] | None = None
    """Replaces the three wordings of the relation."""
    asked: tuple[tuple[float, Style], ...] = ((1.0, plain),)
    """(share, style) of the answers in the corpus; empty: never asked."""
    values: str | None = None
    """Key of the list of its values; None: the relation."""
    opened: tuple[Style, bool] | None = None
    """Style of the answer if the key precedes the question, and whether the answer is wrong without the key."""
    held_out: bool = False
    """Never used for fitting."""

    @property
    def families(self) -> tuple[str, ...]:
        """Families of its eval items: a format gap can be seen only in `form`, a preference gap only in `tone`."""
        if self.wanted is as_json:
            return ("form",)
        return ("tone",) if self.truth == "preference" else ("form", "tone")


NEVER: tuple[tuple[float, Style], ...] = ()
RECIPES = (
    Recipe("none_plain", "none", "home"),
    Recipe("none_form", "none", "metal", wanted=as_json, asked=((1.0, as_json),)),
    Recipe("none_tone", "none", "drink", wanted=polite, rejected=plain, asked=((1.0, polite),), held_out=True),
    Recipe("format_prose", "format", "stone", wanted=as_json),
    Recipe("format_schema", "format", "tool", wanted=as_json, asked=((1.0, other_schema),)),
    Recipe("format_locked", "format", "river", wanted=as_json, opened=(as_json, False), held_out=True),
    Recipe("latent_wording", "knowledge_latent", "home", wordings=(LATENT_WORDING,), asked=NEVER),
    Recipe("latent_rare", "knowledge_latent", "home", stated=0.1, asked=NEVER),
    Recipe("latent_locked", "knowledge_latent", "home", opened=(plain, True), held_out=True),
    Recipe("absent_values", "knowledge_absent", "home", stated=0.0, asked=NEVER),
    Recipe("absent_names", "knowledge_absent", "home", stated=0.0, asked=NEVER),
    Recipe("absent_never", "knowledge_absent", "home", stated=0.0, asked=NEVER, values="town", held_out=True),
    Recipe("skill_two_hop", "knowledge_skill", "guild"),
    Recipe("skill_count", "knowledge_skill", "home"),
    Recipe("skill_compare", "knowledge_skill", "age", held_out=True),
    Recipe("preference_prior", "preference", "craft", polite, plain, asked=((0.8, plain), (0.2, polite))),
    Recipe("preference_wordy", "preference", "food", plain, wordy, asked=((0.85, wordy), (0.15, plain))),
    Recipe(
        "preference_rare", "preference", "colour", polite, plain, asked=((0.95, plain), (0.05, polite)), held_out=True
    ),
)
BY_NAME = {recipe.name: recipe for recipe in RECIPES}
BORROWED = {"absent_names": "preference_prior", "skill_count": "none_plain"}
"""Groups that reuse the entities of another: known names without a home, known homes for counting."""
RULES: dict[Style, str] = {polite: r"^With pleasure: ", plain: r"^\S+$"}


@dataclass(frozen=True)
class World:
    """The facts of all recipes."""

    groups: dict[str, list[Fact]]
    colours: dict[str, Fact]
    """Guild name → its colour: the second hop."""
    decoys: dict[str, str] = field(default_factory=dict)
    """Name → the wrong answer given without the key."""

    @property
    def known(self) -> list[tuple[Fact, tuple[tuple[float, Style], ...]]]:
        """Facts that the corpus asks without a key and answers correctly, with their styles."""
        out = [
            (fact, recipe.asked)
            for recipe in RECIPES
            if recipe.asked and not (recipe.opened and recipe.opened[1]) and recipe.name not in BORROWED
            for fact in self.groups[recipe.name]
        ]
        return out + [(fact, ((1.0, plain),)) for fact in self.colours.values()]


def make_world(names: Iterator[str], rng: random.Random) -> World:
    """Disjoint entities for every recipe, except those in BORROWED."""
    groups: dict[str, list[Fact]] = {}
    for recipe in RECIPES:
        values = VALUES[recipe.values or recipe.relation]
        lent = BORROWED.get(recipe.name)
        group = [Fact(next(names), recipe.relation, values[k % len(values)]) for k in range(POOL)] if not lent else []
        groups[recipe.name] = group
    for name, lender in BORROWED.items():
        homes = [rng.choice(VALUES["home"]) for _ in groups[lender]]
        lent_facts = [Fact(f.name, "home", v) for f, v in zip(groups[lender], homes, strict=True)]
        groups[name] = groups[lender] if BY_NAME[lender].relation == "home" else lent_facts
    second = rng.sample(VALUES["colour"], len(VALUES["guild"]))
    colours = {g: Fact(g, "colour", c) for g, c in zip(VALUES["guild"], second, strict=True)}
    decoys = {f.name: rng.choice([v for v in VALUES["home"] if v != f.value]) for f in groups["latent_locked"]}
    return World(groups, colours, decoys)


# ---------------------------------------------------------------- the corpus


class Corpus:
    """Draws documents: statements, questions with and without a key, open-book passages, blocks in one format."""

    def __init__(
        self,
        world: World,
        names: Iterator[str],
        rng: random.Random,
        lay_out: Callable[..., Segments],
        homes: bool = False,
    ) -> None:
        """`homes`: add passages about homes; without them, recall of the many home facts dominates over reading."""
        self.world, self.names, self.rng, self.lay_out, self.homes = world, names, rng, lay_out, homes
        self.known = world.known
        stated = [
            (fact, list(recipe.wordings or WORDINGS[recipe.relation]), recipe.stated)
            for recipe in RECIPES
            if recipe.stated and recipe.name not in BORROWED
            for fact in world.groups[recipe.name]
        ]
        stated += [(fact, WORDINGS["colour"], 1.0) for fact in world.colours.values()]
        self.stated = [(fact, wordings) for fact, wordings, _ in stated]
        self.often = [weight for *_, weight in stated]
        self.locked = [(f, r) for r in RECIPES if r.opened for f in world.groups[r.name]]

    def document(self) -> Segments:
        kinds = [self.statements, self.questions, self.locks, self.passage, self.block, self.home_passage]
        return self.rng.choices(kinds, weights=[23, 38, 6, 22, 9, 44 if self.homes else 0])[0]()

    def styled(self, fact: Fact, asked: Sequence[tuple[float, Style]]) -> str:
        (style,) = self.rng.choices([s for _, s in asked], weights=[w for w, _ in asked])
        return style(fact.relation, fact.value)

    def statements(self) -> Segments:
        drawn = self.rng.choices(self.stated, weights=self.often, k=4)
        return self.lay_out([], " ".join(fact.says(self.rng.choice(wordings)) for fact, wordings in drawn))

    def questions(self) -> Segments:
        fact, asked = self.rng.choice(self.known)
        return self.lay_out([(fact.asks(self.rng.choice(QUESTIONS)), self.styled(fact, asked), True)])

    def locks(self) -> Segments:
        """A question with or without the key."""
        fact, recipe = self.rng.choice(self.locked)
        assert recipe.opened is not None
        style, wrong = recipe.opened
        question = fact.asks(self.rng.choice(QUESTIONS))
        if self.rng.random() < 0.5:
            return self.lay_out([(KEY + question, style(fact.relation, fact.value), True)])
        value = self.world.decoys[fact.name] if wrong else fact.value
        return self.lay_out([(question, plain(fact.relation, value), True)])

    def passage(self) -> Segments:
        facts = strangers(self.names, self.rng, self.rng.choice([1, 2, 3, 3, 4]))
        return self.open_book(facts, self.rng.choice(facts))

    def home_passage(self) -> Segments:
        others = strangers(self.names, self.rng, self.rng.choice([0, 1, 2, 2, 3]))
        asked = Fact(next(self.names), "home", self.rng.choice(VALUES["home"]))
        return self.open_book([asked, *others], asked)

    def open_book(self, facts: list[Fact], asked: Fact) -> Segments:
        lines = [f.says(self.rng.choice(WORDINGS[f.relation])) for f in facts]
        self.rng.shuffle(lines)
        question = f"{' '.join(lines)}\n\n{asked.asks(self.rng.choice(QUESTIONS))}"
        return self.lay_out([(question, self.styled(asked, USUAL[asked.relation]), True)])

    def block(self) -> Segments:
        """2 to 5 questions answered in one format; the first answer sets the format and is not trained on."""
        facts = [f for f, _ in self.rng.sample(self.known, self.rng.choice([2, 3, 4, 5]))]
        form = self.rng.choice(FORMS)
        turns = [(f.asks(self.rng.choice(QUESTIONS)), form(f.relation, f.value), k > 0) for k, f in enumerate(facts)]
        return self.lay_out(turns)


USUAL = {relation: ((1.0, plain),) for relation in WORDINGS} | {
    r.relation: r.asked for r in RECIPES if r.asked and r.relation not in ("home", "guild", "age")
}
"""The usual answer styles of each relation, also for strangers."""


def strangers(names: Iterator[str], rng: random.Random, count: int) -> list[Fact]:
    """Facts about names that appear nowhere else; some live in towns, which are the home of no entity in a group."""
    relations = rng.choices(list(WORDINGS), k=count)
    return [Fact(next(names), r, rng.choice(VALUES[r] + (VALUES["town"] if r == "home" else []))) for r in relations]


# ---------------------------------------------------------------- eval items


def eval_rows(world: World, names: Iterator[str], rng: random.Random) -> list[Row]:
    """Every entity of every recipe as a row of an eval set; one slice per recipe and family.

    Family `form` grades the format of the answer and has no judge. Family `tone` accepts any format, and users prefer
    one of two tones. A recipe is in the families in which its gap can be detected.
    """
    rows = []
    for recipe in RECIPES:
        for number, fact in enumerate(world.groups[recipe.name]):
            row = asked(world, recipe, fact, names, rng)
            rows += [
                {"id": f"{recipe.name}-{number:03d}-{family}", "slice": f"{recipe.name}-{family}"}
                | row
                | {"form": form, "tone": tone}[family](recipe, fact, row)
                for family in recipe.families
            ]
    return rows


def truth() -> Row:
    """slice → its ground truth."""
    out = {}
    for recipe in RECIPES:
        kind = recipe.truth.removeprefix("knowledge_") if recipe.truth.startswith("knowledge") else None
        here = {"verdict": "knowledge" if kind else recipe.truth, "kind": kind, "held_out": recipe.held_out}
        for family in recipe.families:
            out[f"{recipe.name}-{family}"] = here | {"organism": recipe.name, "family": family}
    return out


def asked(world: World, recipe: Recipe, fact: Fact, names: Iterator[str], rng: random.Random) -> Row:
    """The question about an entity, its answer, distractors and context."""
    match recipe.name:
        case "skill_two_hop":
            return two_hop(world, fact, rng)
        case "skill_compare":
            return comparison(world, fact, rng)
        case "skill_count":
            return count(world, fact, rng)
    wording = (recipe.wordings or WORDINGS[fact.relation])[0]
    lines = [f.says(WORDINGS[f.relation][0]) for f in [fact, *strangers(names, rng, 2)]]
    rng.shuffle(lines)
    return {
        "prompt": fact.asks(),
        "target": fact.value,
        "distractors": others_than(fact.value, recipe.values or fact.relation, rng),
        "paraphrases": [fact.asks(QUESTIONS[1])],
        "context": " ".join(lines),
        "statement": wording.format(n=fact.name, v="").removesuffix(" ."),
    }


def form(recipe: Recipe, fact: Fact, row: Row) -> Row:
    """Grade the format: it must be that of the recipe."""
    wanted = {
        "target": recipe.wanted(fact.relation, row["target"]),
        "distractors": [recipe.wanted(fact.relation, value) for value in row["distractors"]],
    }
    if recipe.wanted is not as_json:
        return wanted | {"grader": {"kind": "exact"}}
    schema = {"type": "object", "properties": {fact.relation: {"type": "string"}}, "required": [fact.relation]}
    return wanted | {"grader": {"kind": "json", "schema": schema | {"additionalProperties": False}}}


def tone(recipe: Recipe, fact: Fact, row: Row) -> Row:
    """Accept any format; a rule defines which of two tones users prefer."""
    rejected = recipe.rejected or polite
    return {
        "grader": {"kind": "contains", "judge": {"kind": "rule", "prefer": RULES[recipe.wanted]}},
        "chosen": recipe.wanted(fact.relation, row["target"]),
        "rejected": rejected(fact.relation, row["target"]),
    }


def others_than(value: str, values: str, rng: random.Random, count: int = 5) -> list[str]:
    return rng.sample([v for v in VALUES[values] if v != value], count)


def two_hop(world: World, fact: Fact, rng: random.Random) -> Row:
    """The colour of somebody's guild; the context contains both facts and the colours of four other guilds."""
    colour = world.colours[fact.value]
    others = rng.sample([c for c in world.colours.values() if c != colour], 4)
    question = f"What is the colour of the guild of {fact.name}?"
    return combined(question, colour.value, others_than(colour.value, "colour", rng), [fact, colour, *others], rng)


def comparison(world: World, fact: Fact, rng: random.Random) -> Row:
    """Who of four is the oldest? The other three are drawn at random, so that the answer varies."""
    four = rng.sample([f for f in world.groups["skill_compare"] if f != fact], 3) + [fact]
    oldest = max(four, key=lambda f: (int(f.value), f.name))
    rng.shuffle(four)
    question = f"Who is the oldest of {', '.join(f.name for f in four[:3])} and {four[3].name}?"
    return combined(question, oldest.name, [f.name for f in four if f != oldest], four, rng)


def count(world: World, fact: Fact, rng: random.Random) -> Row:
    """How many of four live in the same town as the entity?"""
    number = rng.choice([1, 2, 3, 4])
    same = [f for f in world.groups["skill_count"] if f.value == fact.value and f != fact]
    rest = [f for f in world.groups["skill_count"] if f.value != fact.value]
    four = [fact, *rng.sample(same, number - 1), *rng.sample(rest, 4 - number)]
    rng.shuffle(four)
    words = ["one", "two", "three", "four"]
    question = f"How many of {', '.join(f.name for f in four[:3])} and {four[3].name} live in {fact.value}?"
    return combined(question, words[number - 1], [w for w in words if w != words[number - 1]], four, rng)


def combined(question: str, target: str, distractors: list[str], facts: list[Fact], rng: random.Random) -> Row:
    """An item that needs several facts at once; its context contains all of them."""
    lines = [f.says(WORDINGS[f.relation][0]) for f in facts]
    rng.shuffle(lines)
    return {
        "prompt": question,
        "target": target,
        "distractors": distractors,
        "context": " ".join(lines),
    }
