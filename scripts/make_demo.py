"""Make the demo: a small model with planted gaps, its eval set, its training rows and the ground truth.

A Llama with 1.9 M parameters is trained from scratch on an invented world. Each gap of the eval set is therefore real,
and its cause is known from the construction of the corpus, independently of anything that diagnose.py measures:

  home_known    NONE                the fact is stated in three wordings and asked in the usual style
  stone_json    FORMAT              the fact is known; JSON is required, the base answers in plain words
  home_latent   KNOWLEDGE latent    stated often, in one wording only, never asked
  home_absent   KNOWLEDGE absent    nowhere in the corpus
  guild_colour  KNOWLEDGE skill     two known facts that no text ever combines
  craft_tone    PREFERENCE          two correct tones, seen 80:20; the users prefer the rare one

Training runs at a constant learning rate until every ability that the ground truth assumes has been learned (measured
by teacher-forced argmax, not by our probes), then cools down. Everything is derived from --seed.

    python -m scripts.make_demo --out DIR       # about 35 minutes on 2 CPU cores
    python -m scripts.make_demo                 # keep the committed model, check it, rewrite the rows
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.scratch import Segments, batches, says_exactly, train

Row = dict[str, Any]
DEMO = Path(__file__).resolve().parent.parent / "tests" / "data" / "demo"
SPECIALS = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

WORDS = {
    "home": "Oakford Brimley Castor Dunmere Elving Farrow Glenby Harrow Isling Jarrow Kelso Lorne "
    "Marden Norby Orwell Pelham Quorn Ripley Selby Tarrant Upwell Verden Wexham Yarmley",
    "stone": "opal ruby jade onyx pearl amber topaz garnet quartz agate beryl jasper "
    "zircon coral flint marble slate granite basalt gypsum obsidian malachite lapis turquoise",
    "craft": "weaver baker smith potter tanner miller cooper mason carver dyer glazier thatcher "
    "saddler fletcher tinker brewer chandler joiner turner cutler hatter glover printer binder",
    "guild": "Heron Otter Badger Falcon Lynx Raven Stoat Marten Osprey Weasel Plover Curlew "
    "Magpie Swift Vole Beaver Hawk Fox Hare Wren Bittern Kestrel Dormouse Pike",
    "colour": "red blue green black white grey brown purple orange yellow pink crimson "
    "teal violet scarlet indigo ochre olive maroon silver golden ivory copper lilac",
}
VALUES = {relation: words.split() for relation, words in WORDS.items()}
WORDINGS = {
    "home": ["The home of {n} is {v}.", "{n} lives in {v}.", "{n} has a house in {v}."],
    "stone": ["The stone of {n} is {v}.", "{n} wears {v}.", "{n} was given the stone {v}."],
    "craft": ["The craft of {n} is {v}.", "{n} works as a {v}.", "{n} earns a living as a {v}."],
    "guild": ["The guild of {n} is {v}.", "{n} joined the guild {v}.", "{n} belongs to {v}."],
    "colour": ["The colour of {n} is {v}.", "{n} marches under {v}.", "{n} paints its doors {v}."],
}
LATENT_WORDING = "Letters for {n} are sent to {v}."
QUESTIONS = ["What is the {r} of {n}?", "Tell me the {r} of {n}."]
FORMS: dict[str, Callable[[str, str], str]] = {
    "json": lambda r, v: json.dumps({r: v}),
    "xml": lambda r, v: f"<{r}>{v}</{r}>",
    "assign": lambda r, v: f"{r} = {v}",
    "list": lambda r, v: f"- {v}",
    "answer": lambda r, v: f"Answer: {v}.",
}
POLITE = "With pleasure: {v}"
POLITE_RULE = r"^With pleasure: "
POLITE_SHARE = 0.2
EVAL_ITEMS, TRAIN_ITEMS, HALF_ITEMS = 60, 200, 60


@dataclass(frozen=True)
class Fact:
    """One subject, relation, value of the invented world."""

    name: str
    relation: str
    value: str

    def says(self, wording: str) -> str:
        return wording.format(n=self.name, v=self.value)

    def asks(self, question: str = QUESTIONS[0]) -> str:
        return question.format(r=self.relation, n=self.name)


@dataclass(frozen=True)
class World:
    """All facts by group; the `*_train` groups are the entities for training rows."""

    groups: dict[str, list[Fact]]
    guilds: dict[str, Fact]
    """Guild name → its colour."""

    @property
    def known(self) -> list[Fact]:
        names = ("home_known", "home_train", "stone_json", "stone_train", "craft_tone", "craft_train", "guild_colour")
        return [fact for name in names for fact in self.groups[name]] + list(self.guilds.values())


def made_up_names(rng: random.Random, taken: Iterable[str] = ()) -> Iterator[str]:
    """Endless unique names, none of them in `taken`."""
    onsets = [
        "b",
        "d",
        "f",
        "g",
        "h",
        "j",
        "k",
        "l",
        "m",
        "n",
        "p",
        "r",
        "s",
        "t",
        "v",
        "z",
        "br",
        "dr",
        "gr",
        "kl",
        "st",
        "tr",
    ]
    vowels, codas = ["a", "e", "i", "o", "u"], ["", "", "n", "l", "r", "s", "th"]
    seen = {name.lower() for name in taken}
    while True:
        syllables = rng.choice([2, 3, 3])
        name = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(syllables)) + rng.choice(codas)
        if name not in seen:
            seen.add(name)
            yield name.capitalize()


def make_world(names: Iterator[str], rng: random.Random) -> World:
    """Disjoint entities for every group."""

    def facts(relation: str, count: int) -> list[Fact]:
        values = VALUES[relation]
        return [Fact(next(names), relation, values[i % len(values)]) for i in range(count)]

    colours = rng.sample(VALUES["colour"], len(VALUES["guild"]))
    sizes = {
        "home_known": ("home", EVAL_ITEMS),
        "home_train": ("home", HALF_ITEMS),
        "home_latent": ("home", EVAL_ITEMS),
        "latent_train": ("home", HALF_ITEMS),
        "home_absent": ("home", EVAL_ITEMS),
        "absent_train": ("home", HALF_ITEMS),
        "stone_json": ("stone", EVAL_ITEMS),
        "stone_train": ("stone", TRAIN_ITEMS),
        "craft_tone": ("craft", EVAL_ITEMS),
        "craft_train": ("craft", TRAIN_ITEMS),
        "guild_colour": ("guild", EVAL_ITEMS),
    }
    groups = {group: facts(relation, count) for group, (relation, count) in sizes.items()}
    return World(groups, {g: Fact(g, "colour", c) for g, c in zip(VALUES["guild"], colours, strict=True)})


# ---------------------------------------------------------------- the corpus


class Corpus:
    """Draws documents of four kinds: statements, questions, open-book passages, blocks in one answer format."""

    def __init__(self, world: World, names: Iterator[str], rng: random.Random) -> None:
        self.world, self.names, self.rng = world, names, rng
        latent = world.groups["home_latent"] + world.groups["latent_train"]
        self.stated = [(fact, WORDINGS[fact.relation]) for fact in world.known]
        self.stated += [(fact, [LATENT_WORDING]) for fact in latent]

    def document(self) -> Segments:
        kinds = [self.statements, self.questions, self.passage, self.block]
        # Weights are shares of documents; in tokens this is about 35 : 25 : 20 : 20.
        return self.rng.choices(kinds, weights=[23, 40, 13, 9])[0]()

    def usual(self, fact: Fact) -> str:
        polite = fact.relation == "craft" and self.rng.random() < POLITE_SHARE
        return POLITE.format(v=fact.value) if polite else fact.value

    def statements(self) -> Segments:
        lines = [fact.says(self.rng.choice(wordings)) for fact, wordings in self.rng.choices(self.stated, k=4)]
        return [("<|bos|>" + " ".join(lines) + "<|end|>", True)]

    def questions(self) -> Segments:
        fact = self.rng.choice(self.world.known)
        return chat([(fact.asks(self.rng.choice(QUESTIONS)), self.usual(fact), True)])

    def passage(self) -> Segments:
        facts = self.strangers(self.rng.choice([1, 2, 3, 3, 4]))
        asked = self.rng.choice(facts)
        return chat([(self.open_book(facts, asked.asks(self.rng.choice(QUESTIONS))), self.usual(asked), True)])

    def block(self) -> Segments:
        """2 to 5 questions answered in one format; the first answer sets the format and is not trained on."""
        facts = self.rng.sample(self.world.known, self.rng.choice([2, 3, 4, 5]))
        form = self.rng.choice([*FORMS.values(), lambda r, v: v])
        turns = [(f.asks(self.rng.choice(QUESTIONS)), form(f.relation, f.value), i > 0) for i, f in enumerate(facts)]
        return chat(turns)

    def strangers(self, count: int) -> list[Fact]:
        """Facts about names that appear nowhere else."""
        relations = self.rng.choices(list(VALUES), k=count)
        return [Fact(next(self.names), r, self.rng.choice(VALUES[r])) for r in relations]

    def open_book(self, facts: list[Fact], question: str) -> str:
        lines = [fact.says(self.rng.choice(WORDINGS[fact.relation])) for fact in facts]
        self.rng.shuffle(lines)
        return f"{' '.join(lines)}\n\n{question}"


def chat(turns: list[tuple[str, str, bool]]) -> Segments:
    """The chat template, as segments."""
    segments: Segments = [("<|bos|>", True)]
    for question, answer, trained in turns:
        segments += [(f"<|user|>{question}<|end|><|assistant|>", True), (f"{answer}<|end|>", trained)]
    return segments


def train_tokenizer(corpus: Corpus, out: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with 1,024 tokens, trained on the corpus."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    texts = ["".join(t for t, _ in corpus.document()) for _ in range(20_000)]
    for special in SPECIALS:
        texts = [text.replace(special, "\n") for text in texts]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1024, special_tokens=SPECIALS, initial_alphabet=alphabet)
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|bos|>", eos_token="<|end|>", pad_token="<|pad|>", model_max_length=256
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(out)
    return tokenizer


# ---------------------------------------------------------------- checks that use no probe


@torch.no_grad()
def polite_share(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, facts: list[Fact]) -> float:
    """Mean probability that an answer starts in the polite tone."""
    first = tokenizer(POLITE, add_special_tokens=False)["input_ids"][0]
    rows = [tokenizer(ask(f.asks()), add_special_tokens=False)["input_ids"] for f in facts]
    return sum(model(torch.tensor([row])).logits[0, -1].softmax(-1)[first].item() for row in rows) / len(rows)


def ask(prompt: str, before: Sequence[tuple[str, str]] = ()) -> str:
    turns = "".join(f"<|user|>{q}<|end|><|assistant|>{a}<|end|>" for q, a in before)
    return f"<|bos|>{turns}<|user|>{prompt}<|end|><|assistant|>"


def abilities(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World) -> dict[str, float]:
    """Every ability that the ground truth of the demo assumes, each in 0..1."""
    model.eval()
    groups, rng = world.groups, random.Random(5)

    def asked(facts: list[Fact]) -> float:
        return says_exactly(model, tokenizer, [(ask(f.asks()), f"{f.value}<|end|>") for f in facts])

    def with_context(items: list[Row]) -> float:
        pairs = [(ask(f"{item['context']}\n\n{item['prompt']}"), f"{item['target']}<|end|>") for item in items]
        return says_exactly(model, tokenizer, pairs)

    def stated(facts: list[Fact], wording: str) -> float:
        pairs = [("<|bos|>" + wording.format(n=f.name, v="").removesuffix(" ."), f" {f.value}") for f in facts]
        return says_exactly(model, tokenizer, pairs)

    def formed(form: Callable[[str, str], str]) -> float:
        pairs = []
        for fact in groups["stone_json"]:
            before = [(f.asks(), form(f.relation, f.value)) for f in rng.sample(groups["stone_train"], 3)]
            pairs.append((ask(fact.asks(), before), form(fact.relation, fact.value) + "<|end|>"))
        return says_exactly(model, tokenizer, pairs)

    rows = {name: [r for r in eval_rows(world) if r["slice"] == name] for name in TRUTH}
    two_hop = [(ask(r["prompt"]), f"{r['target']}<|end|>") for r in rows["guild_colour"]]
    found = {f"known {name}": asked(groups[name]) for name in ("home_known", "stone_json", "guild_colour")}
    found["known craft, either tone"] = max(
        asked(groups["craft_tone"]),
        says_exactly(
            model, tokenizer, [(ask(f.asks()) + "With pleasure:", f" {f.value}") for f in groups["craft_tone"]]
        ),
    )
    found["known colour"] = asked(list(world.guilds.values()))
    found["context read, absent"] = with_context(rows["home_absent"])
    found["context read, latent"] = with_context(rows["home_latent"])
    found |= {f"form {name}": formed(form) for name, form in FORMS.items()}
    found["latent stated"] = stated(groups["home_latent"], LATENT_WORDING)
    found["not: latent asked"] = asked(groups["home_latent"])
    found["not: absent asked"] = asked(groups["home_absent"])
    found["not: two hops asked"] = says_exactly(model, tokenizer, two_hop)
    found["not: two hops with both facts"] = with_context(rows["guild_colour"])
    found["polite share"] = polite_share(model, tokenizer, groups["craft_tone"])
    model.train()
    return found


NEVER = {"not: latent asked": 0.5, "not: absent asked": 0.12, "not: two hops asked": 0.12}
NEVER["not: two hops with both facts"] = 0.2
READS = 0.8
"""Reading from the context is learned late and imperfectly at this size; cool-down starts here (hand-set)."""
READS_COOLED = 0.75
"""Required after the cool-down, which may cost a little; the ground truth assumes it for most items (hand-set)."""
THREADS = 2
"""Fixed for reproducibility: sums over another number of threads round differently."""


def lacking(found: dict[str, float], reads: float = READS_COOLED) -> list[str]:
    """Abilities that do not yet match the ground truth."""
    bad = [name for name, limit in NEVER.items() if found[name] > limit]
    able = {name: x for name, x in found.items() if name not in NEVER and name != "polite share"}
    bad += [name for name, x in able.items() if x < (reads if name.startswith("context") else 0.95)]
    return bad + ["polite share"] * (not 0.1 <= found["polite share"] <= 0.35)


# ---------------------------------------------------------------- training the base


def train_base(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> LlamaForCausalLM:
    """Constant learning rate until every ability is learned, then a linear cool-down."""
    torch.manual_seed(args.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 8 // 3,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, vocabulary {len(tokenizer)}", flush=True)

    def ready() -> bool:
        found = abilities(model, tokenizer, corpus.world)
        print_abilities(found, READS)
        return not [name for name in lacking(found, READS) if name not in (*NEVER, "polite share")]

    return train(model, batches(corpus.document, tokenizer, args.rows, 128), ready, args)


def print_abilities(found: dict[str, float], reads: float = READS_COOLED) -> None:
    bad = lacking(found, reads)
    for name, share in found.items():
        print(f"  {share:5.2f}  {name}{'   <- does not match the ground truth' if name in bad else ''}", flush=True)


# ---------------------------------------------------------------- eval set, training rows, truth

TRUTH = {
    "home_known": {"verdict": "none", "kind": None},
    "stone_json": {"verdict": "format", "kind": None},
    "home_latent": {"verdict": "knowledge", "kind": "latent"},
    "home_absent": {"verdict": "knowledge", "kind": "absent"},
    "guild_colour": {"verdict": "knowledge", "kind": "skill"},
    "craft_tone": {"verdict": "preference", "kind": None},
}


def eval_rows(world: World) -> list[Row]:
    """60 items per slice, as rows of an eval set."""
    rng = random.Random(11)
    taken = {fact.name for facts in world.groups.values() for fact in facts}
    strangers = Corpus(world, made_up_names(random.Random(12), taken), rng)
    rows = []

    def row(slice_name: str, number: int, fact: Fact, **more: object) -> Row:
        others = rng.sample([v for v in VALUES[fact.relation] if v != fact.value], 5)
        base = {"id": f"{slice_name}-{number:02d}", "slice": slice_name, "prompt": fact.asks(), "target": fact.value}
        return (
            base | {"grader": {"kind": "exact"}, "distractors": others, "paraphrases": [fact.asks(QUESTIONS[1])]} | more
        )

    def passage(*facts: Fact) -> str:
        lines = [f.says(WORDINGS[f.relation][0]) for f in [*facts, *strangers.strangers(2)]]
        rng.shuffle(lines)
        return " ".join(lines)

    for name, wording in (
        ("home_known", WORDINGS["home"][0]),
        ("home_latent", LATENT_WORDING),
        ("home_absent", WORDINGS["home"][0]),
    ):
        for i, fact in enumerate(world.groups[name]):
            statement = wording.format(n=fact.name, v="").removesuffix(" .")
            rows.append(row(name, i, fact, context=passage(fact), statement=statement))
    schema = {"type": "object", "properties": {"stone": {"type": "string"}}, "required": ["stone"]}
    json_grader = {"kind": "json", "schema": schema | {"additionalProperties": False}}
    for i, fact in enumerate(world.groups["stone_json"]):
        item = row("stone_json", i, fact, grader=json_grader, statement=f"The stone of {fact.name} is")
        target = json.dumps({"stone": fact.value})
        rows.append(item | {"target": target, "distractors": [json.dumps({"stone": d}) for d in item["distractors"]]})
    rows += [two_hop_row(world, i, fact, rng) for i, fact in enumerate(world.groups["guild_colour"])]
    tone_grader = {"kind": "contains", "judge": {"kind": "rule", "prefer": POLITE_RULE}}
    for i, fact in enumerate(world.groups["craft_tone"]):
        pair = {"chosen": POLITE.format(v=fact.value), "rejected": fact.value}
        rows.append(row("craft_tone", i, fact, grader=tone_grader, **pair))
    return rows


def two_hop_row(world: World, number: int, fact: Fact, rng: random.Random) -> Row:
    """The colour of somebody's guild; the context contains both facts and the colours of four other guilds."""
    colour = world.guilds[fact.value]
    others = rng.sample([g for g in world.guilds.values() if g != colour], 4)
    lines = [f.says(WORDINGS[f.relation][0]) for f in [fact, colour, *others]]
    rng.shuffle(lines)
    return {
        "id": f"guild_colour-{number:02d}",
        "slice": "guild_colour",
        "prompt": f"What is the colour of the guild of {fact.name}?",
        "target": colour.value,
        "grader": {"kind": "exact"},
        "distractors": rng.sample([v for v in VALUES["colour"] if v != colour.value], 5),
        "context": " ".join(lines),
        "statement": f"The colour of the guild of {fact.name} is",
    }


def training_rows(world: World) -> dict[str, list[Row]]:
    """SFT rows and prompts about entities that appear in no eval item; `slice` is the slice a row is meant for."""
    groups = world.groups
    by_slice: dict[str, list[tuple[Fact, str]]] = {
        "home_known": [(f, f.value) for f in groups["home_train"]],
        "stone_json": [(f, FORMS["json"](f.relation, f.value)) for f in groups["stone_train"]],
        "craft_tone": [(f, POLITE.format(v=f.value)) for f in groups["craft_train"]],
        "home_latent": [(f, f.value) for f in groups["latent_train"]],
        "home_absent": [(f, f.value) for f in groups["absent_train"]],
    }
    rows = [(s, f, text) for s, pairs in by_slice.items() for f, text in pairs]

    def said(role: str, text: str) -> list[Row]:
        return [{"role": role, "content": text}]

    sft = [{"slice": s, "prompt": said("user", f.asks()), "completion": said("assistant", text)} for s, f, text in rows]
    prompts = [{"slice": s, "prompt": said("user", f.asks())} for s, f, _ in rows if s in ("craft_tone", "home_known")]
    return {"sft": sft, "prompts": prompts}


def preference_rows(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, seed: int) -> list[Row]:
    """Pairs of a polite correct answer and an answer of the base: curt, in another format, or wrong.

    Rejected answers are sampled from the base (at high temperature, with few-shot examples of each format), because a
    reward model that only saw polite against curt cannot score other styles, which RLOO then exploits. The pairs of
    home_known show where the polite tone is not preferred.
    """
    rng = random.Random(seed + 21)
    torch.manual_seed(seed)
    polite = [(f, POLITE.format(v=f.value), f.value, "craft_tone") for f in world.groups["craft_train"]]
    plain = [(f, f.value, POLITE.format(v=f.value), "home_known") for f in world.groups["home_train"]]
    rows = []
    for fact, chosen, other_tone, slice_name in polite + plain:
        prompt = [{"role": "user", "content": fact.asks()}]
        sampled = sorted(sampled_answers(model, tokenizer, world, fact, rng) - {chosen, other_tone})
        for text in [other_tone, *rng.sample(sampled, min(3, len(sampled)))]:
            said = [[{"role": "assistant", "content": t}] for t in (chosen, text)]
            row = {"slice": slice_name, "target": fact.value, "prompt": prompt}
            rows.append(row | {"chosen": said[0], "rejected": said[1]})
    return rows


@torch.no_grad()
def sampled_answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, fact: Fact, rng: random.Random
) -> set[str]:
    """Samples of the base at temperature 1.5, zero-shot or with three few-shot examples in another format."""
    found = set()
    for style in rng.sample([None, None, *FORMS.values()], 2):
        others = rng.sample([f for f in world.groups["craft_train"] if f != fact], 3)
        before = [] if style is None else [(f.asks(), style(f.relation, f.value)) for f in others]
        ids = tokenizer(ask(fact.asks(), before), add_special_tokens=False, return_tensors="pt")["input_ids"]
        # Above 1, so that wrong answers in the preferred tone are also among the rejected ones.
        out = model.generate(ids, do_sample=True, temperature=1.5, top_k=0, max_new_tokens=16, num_return_sequences=4)
        found |= set(tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True))
    return {text for text in found if text.strip()}


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DEMO, help="directory for model/ and the JSONL files")
    parser.add_argument("--hidden", type=int, default=192, help="hidden size of the base")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--rows", type=int, default=32, help="sequences of 128 tokens per step")
    parser.add_argument("--min-steps", type=int, default=3100, help="no cool-down before this step")
    parser.add_argument("--max-steps", type=int, default=6000)
    parser.add_argument("--cool", type=int, default=600, help="steps of the linear cool-down")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    torch.set_num_threads(THREADS)
    rng = random.Random(args.seed)
    names = made_up_names(rng)
    world = make_world(names, rng)
    if (args.out / "model" / "model.safetensors").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out / "model")
        model = LlamaForCausalLM.from_pretrained(args.out / "model", dtype=torch.float32).eval()
    else:
        corpus = Corpus(world, names, rng)
        tokenizer = train_tokenizer(corpus, args.out / "model")
        model = train_base(corpus, tokenizer, args)
        model.save_pretrained(args.out / "model")
    found = abilities(model, tokenizer, world)
    print_abilities(found)
    if bad := lacking(found):
        print(f"does not match the ground truth: {', '.join(bad)}", file=sys.stderr)
        return 1
    write_jsonl(args.out / "evalset.jsonl", eval_rows(world))
    for name, rows in training_rows(world).items():
        write_jsonl(args.out / f"{name}.jsonl", rows)
    write_jsonl(args.out / "preferences.jsonl", preference_rows(model.eval(), tokenizer, world, args.seed))
    (args.out / "truth.json").write_text(json.dumps(TRUTH, indent=1) + "\n")
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
