"""Train a small model from scratch until it has the required abilities; for the demo and the planted models."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from diagnose.models.batches import padded

Segments = list[tuple[str, bool]]
"""One document as (text, whether it is trained on) pieces; pieces end where the tokenizer splits anyway."""


def batches(
    document: Callable[[], Segments], tokenizer: PreTrainedTokenizerFast, rows: int, length: int
) -> Iterator[torch.Tensor]:
    """Endless [2, rows, length] tensors: token ids, and labels with -100 where there is no loss."""
    ids: list[int] = []
    labels: list[int] = []
    need = rows * length
    while True:
        while len(ids) < need:
            pieces = [piece for _ in range(256) for piece in document()]
            encoded = tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
            for piece, (_, trained) in zip(encoded, pieces, strict=True):
                ids += piece
                labels += piece if trained else [-100] * len(piece)
        yield torch.tensor([ids[:need], labels[:need]]).view(2, rows, length)
        ids, labels = ids[need:], labels[need:]


def train(
    model: Any,
    stream: Iterator[torch.Tensor],
    ready: Callable[[], bool],
    args: argparse.Namespace,
    bfloat16: bool = False,
) -> Any:
    """Constant learning rate until the model is ready, then a linear cool-down.

    Args:
        ready: called every 100 steps, from args.min_steps on.
        args: lr, min_steps, max_steps (including the cool-down, even if never ready), cool (steps of the cool-down).
        bfloat16: autocast to bfloat16; the weights stay in float32.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.01)
    started = time.time()
    cool_from: int | None = None
    for step in range(args.max_steps):
        left = 1.0 if cool_from is None else 1 - (step - cool_from) / args.cool
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 100) * left
        ids, labels = next(stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {loss.item():.3f} {time.time() - started:.0f} s", flush=True)
        if cool_from is None and (step + 1) % 100 == 0 and step + 1 >= args.min_steps:
            cool_from = step + 1 if ready() or step + 1 + args.cool >= args.max_steps else None
        if cool_from is not None and step + 1 >= cool_from + args.cool:
            break
    return model.eval()


@torch.no_grad()
def says_exactly(model: Any, tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> float:
    """Share of (context, continuation) pairs in which every token is the argmax given the true text before it."""
    hits = 0
    for start in range(0, len(pairs), 64):
        part = pairs[start : start + 64]
        heads = tokenizer([a for a, _ in part], add_special_tokens=False)["input_ids"]
        tails = tokenizer([b for _, b in part], add_special_tokens=False)["input_ids"]
        ids, _ = padded([h + t for h, t in zip(heads, tails, strict=True)], 0, "cpu")
        best = model(ids).logits.argmax(-1)
        for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            hits += best[row, len(head) - 1 : len(head) + len(tail) - 1].tolist() == tail
    return hits / len(pairs)
