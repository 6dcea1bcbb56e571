"""RLHF: a reward model trained on the pairs, a gate on held-out pairs, then RL against it with a KL penalty.

The reward alone cannot reveal overoptimisation. Greedy answers to held-out prompts are therefore also graded by what
the reward model never sees (the grader and rule of the eval set's slice); training stops if that falls while the reward
rises.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch

from diagnose.errors import Blocked
from diagnose.models.batches import Halving, padded
from diagnose.models.decode import score as logprobs
from diagnose.models.prefill import Reader
from diagnose.models.reward import reward_ids
from diagnose.models.weights import best_device, load_base
from diagnose.report.words import short
from diagnose.stats import rate
from train.job import Job, batches
from train.render import common, prompt_ids, texts, whole_ids
from train.rl import fit_policy, text_of
from train.rows import Row, key, said
from train.watch import Watch


def fit(job: Job) -> dict[str, Any]:
    """Train reward model and policy, save the policy's adapter; returns metrics by stage.

    Raises:
        Blocked: the reward model fails its gate, or no step beats the base on the held-out rows.
    """
    gate = job.config.method.gate
    training, held_out = split_by_prompt(job.data["preferences"].rows, gate["held_out"], job.config.seed)
    reward_model, metrics = fit_reward_model(job, training)
    judged = held_out_accuracy(job, reward_model, held_out)
    job.gates["reward_model"] = (
        f"accuracy {short(judged['rate'])} [{short(judged['low'])}, {short(judged['high'])}] on {judged['n']} held-out "
        f"pairs; by length alone {short(judged['by_length'])}, as the base ranks them {short(judged['by_base'])}"
    )
    if judged["rate"] < gate["accuracy"]:
        raise Blocked(
            f"reward model: accuracy {short(judged['rate'])} on {judged['n']} held-out pairs, but "
            f"method.gate.accuracy={gate['accuracy']}; RL needs more or cleaner pairs"
        )
    score, end = score_with(job, reward_model), job.tokenizer.eos_token_id

    def reward(*, prompts: Any, completions: Any, completion_ids: Any, **_: Any) -> list[float | None]:
        return [*score(prompts, list(map(text_of, completions)), [end in ids for ids in completion_ids])]

    prompts = job.data["prompts"].rows if "prompts" in job.data else training
    policy = fit_policy(job, [reward], prompts, Watch(job, held_out, score), score)
    return {"reward": metrics | {"held_out": judged}, job.config.method.algorithm: policy}


def split_by_prompt(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Pairs for training and pairs for the gate; no prompt is in both."""
    prompts = sorted({key(r) for r in rows})
    count = max(1, round(share * len(prompts)))
    kept = set(random.Random(seed).sample(prompts, count))
    return [r for r in rows if key(r) not in kept], [r for r in rows if key(r) in kept]


def fit_reward_model(job: Job, rows: list[Row]) -> tuple[Any, dict[str, Any]]:
    """A sequence classifier with a LoRA of task type SEQ_CLS, so that its head is also trained and saved."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    columns = job.dataset(rows)[:]
    answers = {kind: list(map(text_of, columns[kind])) for kind in ("chosen", "rejected")}
    ids = {
        f"{kind}_ids": [reward_ids(job.tokenizer, *pair) for pair in zip(columns["prompt"], texts, strict=True)]
        for kind, texts in answers.items()
    }
    args = job.args(RewardConfig, "reward", job.config.method.first, track=False)
    args.pad_token = unused_token(job.tokenizer, chain(*ids["chosen_ids"], *ids["rejected_ids"]))
    trainer = RewardTrainer(
        model=job.base(AutoModelForSequenceClassification, fresh=("score.weight",), num_labels=1),
        args=args,
        train_dataset=Dataset.from_dict(ids),
        processing_class=deepcopy(job.tokenizer),  # the trainer changes its pad token
        peft_config=job.lora("SEQ_CLS"),
    )
    metrics = job.train(trainer)
    model = trainer.model.merge_and_unload().eval()
    return model, metrics


def unused_token(tokenizer: Any, seen: Iterable[int]) -> str:
    """A token to pad with that no text holds, special ones first.

    The classifier is read at the last token that is not padding. If that were the end token, as in most tokenizers, it
    would be read before the end, and would not know a finished answer from one that was cut off.
    """
    taken = {tokenizer.eos_token_id, *seen}
    special = [token for token in tokenizer.all_special_ids if token not in taken]
    free = special or [token for token in range(len(tokenizer)) if token not in taken]
    token: str = tokenizer.convert_ids_to_tokens(free[0]) if free else tokenizer.pad_token
    return token


def score_with(job: Job, reward_model: Any) -> Callable[[list[Any], list[str], list[bool]], list[float]]:
    """Score texts at their last token, as in training; an unfinished answer has no end token."""
    tokenizer, device = job.tokenizer, next(reward_model.parameters()).device
    halving = Halving(device)

    @torch.inference_mode()
    def read(rows: Sequence[list[int]]) -> list[float]:
        ids, mask = padded(rows, tokenizer.pad_token_id, device)
        hidden = reward_model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        last = hidden[torch.arange(len(rows)), mask.sum(1) - 1]
        values: list[float] = reward_model.score(last).squeeze(1).float().tolist()
        return values

    def score(prompts: list[Any], texts: list[str], ended: list[bool]) -> list[float]:
        rows = [reward_ids(tokenizer, *row) for row in zip(prompts, texts, ended, strict=True)]
        return [value for at in batches(len(rows), job.config.model) for value in halving.run(rows[at], read)]

    return score


def held_out_accuracy(job: Job, reward_model: Any, rows: list[Row]) -> dict[str, Any]:
    """Share of held-out pairs whose chosen answer scores higher, with its 95 % interval, and what is easier to reach:
    the better of "longer" and "shorter", and the ranking of the base by its own log-probabilities."""
    score, columns = score_with(job, reward_model), job.dataset(rows)[:]
    ended = [True] * len(rows)
    better, worse = (score(columns["prompt"], list(map(text_of, columns[k])), ended) for k in ("chosen", "rejected"))
    right = sum(b > w for b, w in zip(better, worse, strict=True))
    lengths = [(len(said(row["chosen"])), len(said(row["rejected"]))) for row in rows]
    longer, alike = sum(a > b for a, b in lengths), sum(a == b for a, b in lengths)
    found = rate(right, len(rows))
    return {
        **{"rate": right / len(rows), "n": found.n, "low": found.low, "high": found.high},
        "by_length": (max(longer, len(rows) - longer - alike) + alike / 2) / len(rows),
        "by_base": ranking_accuracy(job, rows),
    }


def ranking_accuracy(job: Job, rows: list[Row]) -> float:
    """Share of pairs whose chosen answer the base finds more probable than the rejected one (arXiv 2405.19534)."""
    tokenizer, settings = job.tokenizer, job.config.model
    reader = Reader(load_base(settings, best_device()), tokenizer.pad_token_id)
    heads, tails = [], []
    found = list(texts(rows, tokenizer, settings.system_prompt))
    for text, whole in zip(found, whole_ids(tokenizer, found), strict=True):
        split = common(prompt_ids(tokenizer, text.asked), whole)
        heads.append(whole[:split])
        tails.append(whole[split:])
    sums = [s for at in batches(len(heads), settings) for s in logprobs(reader, heads[at], tails[at])]
    return sum(a > b for a, b in zip(sums[::2], sums[1::2], strict=True)) / len(rows)
