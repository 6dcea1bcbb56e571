"""Train a planted base from scratch, and verify its gaps with instruments other than the probes.

Two bases that differ in architecture, tokenizer, names and prompt format contain the same recipes: `a` (a Llama with a
chat template) and `b` (a Qwen3 without one, prompted in plain lines). The instruments are teacher-forced argmax and a
small fine-tuning on 64 items of a group, tested on its other items; neither is a probe of diagnose.

The trained weights are kept in scripts/planted/bases in half precision, because training is not bit-equal on another
machine and the slices' truth depends on the very weights; the checks run on what is written to DIR either way.

    python -m scripts.planted.base a --out DIR            # the kept weights, checked: two minutes on one CPU core
    python -m scripts.planted.base a --out DIR --train    # from scratch: about an hour on one CPU core
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from diagnose.provenance import write_json
from scripts.make_demo import CHAT_TEMPLATE, SPECIALS, Fact, chat, made_up_names, write_jsonl
from scripts.planted.world import FORMS, POOL, RECIPES, Corpus, Recipe, World, eval_rows, make_world, plain, truth
from scripts.scratch import Segments, batches, says_exactly, train

KEPT = Path(__file__).parent / "bases"
MICRO = 64
"""Items of a group used to train in the manipulation check (60 activate stored facts: arXiv 2409.15825)."""


def chat_or_statement(turns: list[tuple[str, str, bool]], text: str | None = None) -> Segments:
    return [(f"<|bos|>{text}<|end|>", True)] if text is not None else chat(turns)


def lines(turns: list[tuple[str, str, bool]], text: str | None = None) -> Segments:
    """The layout that diagnose uses for a model without a chat template."""
    if text is not None:
        return [(f"<|bos|>{text}\n\n<|end|>", True)]
    said = [piece for q, a, trained in turns for piece in ((f"{q}\n", True), (f"{a}\n\n", trained))]
    return [("<|bos|>", True), *said, ("<|end|>", True)]


@dataclass(frozen=True)
class Base:
    """What differs between the two bases."""

    seed: int
    vocabulary: int
    template: str | None
    lay_out: Callable[..., Segments]
    network: Callable[[dict[str, Any]], Any]

    def head(self, question: str, before: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt text before an answer."""
        turns = [(q, a, True) for q, a in before] + [(question, "", True)]
        text = "".join(piece for piece, _ in self.lay_out(turns))
        return text.removesuffix("<|end|>").removesuffix("\n\n")

    def end(self) -> str:
        return "<|end|>" if self.template else "\n\n"


BASES = {
    "a": Base(100, 1024, CHAT_TEMPLATE, chat_or_statement, lambda ends: LlamaForCausalLM(
        LlamaConfig(hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
                    num_key_value_heads=6, max_position_embeddings=256, tie_word_embeddings=True, **ends))),
    "b": Base(200, 768, None, lines, lambda ends: Qwen3ForCausalLM(
        Qwen3Config(hidden_size=160, intermediate_size=448, num_hidden_layers=6, num_attention_heads=5, head_dim=32,
                    num_key_value_heads=5, max_position_embeddings=256, tie_word_embeddings=True, **ends))),
}  # fmt: skip


def main() -> int:
    args = parsed()
    torch.set_num_threads(1)  # fixed for reproducibility; two bases then fill two cores
    base = BASES[args.base]
    rng = random.Random(base.seed)
    names = made_up_names(rng)
    world = make_world(names, rng)
    folder = args.out / "model"
    if args.train:
        train_in_two_stages(args, Corpus(world, names, rng, base.lay_out), folder)
    elif not (folder / "model.safetensors").exists():
        model, tokenizer = loaded(args.base, KEPT / args.base)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    model, tokenizer = loaded(args.base, folder)
    rows = eval_rows(world, made_up_names(random.Random(base.seed + 1), taken(world)), random.Random(base.seed + 2))
    write_jsonl(args.out / "evalset.jsonl", rows)
    found = abilities(model, tokenizer, base, world, rows) | manipulation(model, tokenizer, base, rows)
    write_json(args.out / "truth.json", {name: row | {"took": took(row, found)} for name, row in truth().items()})
    write_json(args.out / "checks.json", found)
    show(found)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", choices=BASES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", action="store_true", help="train from scratch instead of using the kept weights")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--rows", type=int, default=32, help="sequences of 128 tokens per step")
    parser.add_argument("--min-steps", type=int, default=2200)
    parser.add_argument("--max-steps", type=int, default=3300)
    parser.add_argument("--cool", type=int, default=600, help="steps of the linear cool-down")
    parser.add_argument("--lesson", type=int, default=600, help="steps of the second stage, with passages about homes")
    return parser.parse_args()


def train_in_two_stages(args: argparse.Namespace, corpus: Corpus, folder: Path) -> None:
    """The corpus, then a lesson with passages about homes; a stage that was finished is not repeated."""
    base, world = BASES[args.base], corpus.world
    first = args.out / "first"
    fresh = not (first / "model.safetensors").exists()
    if fresh:
        tokenizer = train_tokenizer(corpus, base, first)
        trained(base, corpus, tokenizer, args).save_pretrained(first)
    if fresh or not (folder / "model.safetensors").exists():
        model, tokenizer = loaded(args.base, first)
        tokenizer.save_pretrained(folder)
        again = random.Random(base.seed + 5)
        lesson_corpus = Corpus(world, made_up_names(again, taken(world)), again, base.lay_out, homes=True)
        stream = batches(lesson_corpus.document, tokenizer, args.rows, 128)
        lesson = argparse.Namespace(lr=args.lr / 2, min_steps=100, max_steps=args.lesson, cool=args.lesson - 100)
        train(model, stream, lambda: True, lesson, bfloat16=True).save_pretrained(folder)


def loaded(base: str, folder: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    kind = LlamaForCausalLM if base == "a" else Qwen3ForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def taken(world: World) -> set[str]:
    return {fact.name for facts in world.groups.values() for fact in facts}


def train_tokenizer(corpus: Corpus, base: Base, out: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; a newline is always a separate token, so that pieces can end there."""
    raw = Tokenizer(models.BPE())
    isolated = pre_tokenizers.Split("\n", behavior="isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence([isolated, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    raw.decoder = decoders.ByteLevel()
    texts = ["".join(t for t, _ in corpus.document()) for _ in range(20_000)]
    for special in SPECIALS:
        texts = [text.replace(special, "\n") for text in texts]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=base.vocabulary, special_tokens=SPECIALS, initial_alphabet=alphabet)
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|bos|>", eos_token="<|end|>", pad_token="<|pad|>", model_max_length=256
    )
    if base.template:
        tokenizer.chat_template = base.template
    tokenizer.save_pretrained(out)
    return tokenizer


def trained(base: Base, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> Any:
    """Train until facts are known, few-shot formats are followed and contexts are used."""
    torch.manual_seed(base.seed)
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model = base.network(ends | {"vocab_size": len(tokenizer)})
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, vocabulary {len(tokenizer)}", flush=True)
    world = corpus.world
    names = made_up_names(random.Random(base.seed + 3), taken(world))
    rows = eval_rows(world, names, random.Random(base.seed + 4))

    def ready() -> bool:
        model.eval()
        found = abilities(model, tokenizer, base, world, rows)
        model.train()
        show(found)
        wanted = {name: limit for name in found for prefix, limit in WANTED.items() if name.startswith(prefix)}
        return all(found[name] >= limit for name, limit in wanted.items())

    return train(model, batches(corpus.document, tokenizer, args.rows, 128), ready, args, bfloat16=True)


# ---------------------------------------------------------------- checks by other instruments

LATENT_STATED, LOST_ASKED = 0.8, 0.25
"""Latent facts: minimum share that is the argmax after its statement, maximum share after its question (hand-set)."""
WANTED = {"known": 0.95, "form": 0.95, "read": 0.8, "stated latent_wording": 0.9}
"""Abilities that the ground truth assumes, as minimum shares of items (hand-set)."""
LOCKED = {recipe.name for recipe in RECIPES if recipe.opened}
OPENED, SHUT = 0.8, 0.4
"""Accuracy on a group's other items after the small fine-tuning: at least OPENED if only format, preference or the key
is missing, at most SHUT if knowledge is missing (hand-set; counts up to four are guessed in a quarter of the cases).

Facts that are stored but never asked for are exempt: fine-tuning does not make them extractable (Allen-Zhu and Li
2023, arXiv 2309.14316). The argmax after their statement shows that they are stored."""


def took(row: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether the checks confirm the planted gap; decided before any probe is run. Unconfirmed slices are excluded."""
    name = row["organism"]
    tuned = found[f"micro {name}"]["after"]
    if row["verdict"] != "knowledge":
        return bool(found[f"known {name}"] >= WANTED["known"] and tuned >= OPENED)
    stored = found.get(f"stated {name}", 1.0) >= LATENT_STATED
    readable = found.get(f"context {name}", 1.0) >= WANTED["read"]
    never_asked = row["kind"] == "latent" and name not in LOCKED
    confirmed = never_asked or (tuned >= OPENED if name in LOCKED else tuned <= SHUT)
    return bool(found[f"asked {name}"] <= LOST_ASKED and stored and readable and confirmed)


def abilities(
    model: Any, tokenizer: PreTrainedTokenizerFast, base: Base, world: World, rows: list[dict[str, Any]]
) -> dict[str, float]:
    """By teacher-forced argmax: facts known, formats followed after few-shot examples, contexts used."""
    by_slice = {r.name: rows_of(rows, r) for r in RECIPES}

    def exact(pairs: list[tuple[str, str]]) -> float:
        return says_exactly(model, tokenizer, pairs)

    def answered(prompts: list[str], facts: list[Fact], recipe: Recipe) -> float:
        """Share answered in any style of the corpus; only one style can be the argmax, so the shares add up."""
        styles = [style for _, style in recipe.asked] or [plain]
        both = list(zip(prompts, facts, strict=True))
        pairs = [[(base.head(q), style(f.relation, f.value) + base.end()) for q, f in both] for style in styles]
        return sum(map(exact, pairs))

    found = {}
    for recipe in RECIPES:
        facts = world.groups[recipe.name]
        if recipe.truth in ("none", "format", "preference"):
            found[f"known {recipe.name}"] = answered([f.asks() for f in facts], facts, recipe)
        if recipe.truth != "knowledge_skill":
            books = [f"{row['context']}\n\n{row['prompt']}" for row in by_slice[recipe.name]]
            found[f"context {recipe.name}"] = answered(books, facts, recipe)
        if recipe.truth == "knowledge_latent":
            heads = [
                ("<|bos|>" + row["statement"], f" {f.value}")
                for row, f in zip(by_slice[recipe.name], facts, strict=True)
            ]
            found[f"stated {recipe.name}"] = exact(heads)
        if recipe.truth.startswith("knowledge"):
            found[f"asked {recipe.name}"] = exact(
                [(base.head(r["prompt"]), r["target"]) for r in by_slice[recipe.name]]
            )
    for k, form in enumerate(FORMS):
        facts = world.groups["none_plain"]
        before = [(f.asks(), form(f.relation, f.value)) for f in facts[:3]]
        found[f"form {k}"] = exact(
            [(base.head(f.asks(), before), form(f.relation, f.value) + base.end()) for f in facts[3:]]
        )
    home = [found[f"context {name}"] for name in ("none_plain", "absent_values", "absent_names")]
    return found | {"read home": sum(home) / len(home)}


def rows_of(rows: list[dict[str, Any]], recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of a recipe, each entity once."""
    return [row for row in rows if row["slice"] == f"{recipe.name}-{recipe.families[-1]}"]


def manipulation(
    model: Any, tokenizer: PreTrainedTokenizerFast, base: Base, rows: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Fine-tune on MICRO items of each group; accuracy on its other items before and after."""
    out = {}
    for recipe in RECIPES:
        mine = rows_of(rows, recipe)
        pairs = [(base.head(row["prompt"]), row.get("chosen", row["target"]) + base.end()) for row in mine]
        tuned = fine_tuned(copy.deepcopy(model), tokenizer, pairs[:MICRO])
        rest = pairs[MICRO:]
        out[f"micro {recipe.name}"] = {
            "before": says_exactly(model, tokenizer, rest),
            "after": says_exactly(tuned, tokenizer, rest),
            "n": POOL - MICRO,
        }
    return out


def fine_tuned(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[tuple[str, str]],
    steps: int = 60,
    size: int = 16,
    rate: float = 3e-4,
) -> Any:
    """Fine-tune all weights, `size` pairs per step, loss on the answers only."""
    rng = random.Random(7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        part = rng.sample(pairs, size)
        heads = tokenizer([h for h, _ in part], add_special_tokens=False)["input_ids"]
        tails = tokenizer([t for _, t in part], add_special_tokens=False)["input_ids"]
        width = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        both = list(zip(heads, tails, strict=True))
        ids = torch.tensor([h + t + [0] * (width - len(h) - len(t)) for h, t in both])
        labels = torch.tensor([[-100] * len(h) + t + [-100] * (width - len(h) - len(t)) for h, t in both])
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def show(found: dict[str, Any]) -> None:
    for name, value in found.items():
        text = f"{value:5.2f}" if isinstance(value, float) else f"{value['before']:5.2f} -> {value['after']:.2f}"
        print(f"  {text}  {name}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
