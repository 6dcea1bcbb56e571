"""Reinforcement learning of a policy, with RLOO or GRPO, from whatever function rewards its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil, sqrt
from statistics import fmean, stdev
from typing import Any

from diagnose.errors import Blocked
from diagnose.models.weights import quantized
from diagnose.report.words import short
from diagnose.text import hash_order
from train.job import Job
from train.references import graded
from train.rows import Row, asking, key
from train.watch import Watch, answers, from_first

Reward = Callable[..., list[float | None]]
"""TRL's reward function: prompts, completions and completion_ids as keywords → a reward for each completion."""
SAMPLED = 24
"""Held-out prompts that are sampled from before the first step (hand-set)."""


def fit_policy(
    job: Job, rewards: Sequence[Reward], rows: list[Row], watch: Watch, values: Callable[..., list[float]]
) -> dict[str, Any]:
    """Train the policy on the prompts of rows and save the adapter that scored best; returns its metrics.

    Args:
        rewards: what is optimised: their sum, weighted by TRL's `reward_weights`.
        watch: its rows are held out.
        values: prompts, texts, ended → the reward of each, to sample from the base before the first step.

    Raises:
        Blocked: no prompt has two answers of different reward, or no step beats the base on the held-out rows.
    """
    import trl
    from transformers import AutoModelForCausalLM

    name = job.config.method.algorithm
    trainer_class, config_class = {
        "rloo": (trl.RLOOTrainer, trl.RLOOConfig),
        "grpo": (trl.GRPOTrainer, trl.GRPOConfig),
    }[name]
    given = {"max_completion_length": job.config.model.max_new_tokens, "shuffle_dataset": False}
    args = job.args(config_class, name, given | job.config.method.args)
    unique = {key(row): asking(row) for row in rows if key(row) not in watch.prompts}
    passes = passes_of(args, len(unique), job.config.num_processes)
    args.num_train_epochs /= passes
    trainer = trainer_class(
        model=job.base(AutoModelForCausalLM),
        reward_funcs=list(rewards),
        args=args,
        train_dataset=job.dataset([unique[k] for n in range(passes) for k in shuffled(unique, job.config.seed, n)]),
        processing_class=job.tokenizer,
        quantization_config=quantized(job.config.model),
        peft_config=job.lora(),
        callbacks=[watch] if watch.useful else [],
    )
    sampled = sample(job, trainer, watch, values)
    metrics = job.train(trainer) | {"sampled": sampled}
    if watch.useful:
        watch.restore_best(trainer.model)
        job.gates["held-out rows"] = watch.story()
        metrics |= watch.summary()
        if watch.fruitless:
            raise Blocked(f"no step beat the base on the held-out rows: {watch.story()}")
    job.save(trainer)
    return metrics


def passes_of(args: Any, prompts: int, processes: int) -> int:
    """How often training goes through the prompts.

    TRL's sampler draws the order of each pass from one generator, which a resumed run starts anew: in its second pass
    it would see the prompts as in the first. So all passes are laid out as one.
    """
    if args.max_steps <= 0:
        return ceil(args.num_train_epochs)
    answers_a_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes
    return max(1, ceil(args.max_steps * answers_a_step / args.num_generations / prompts))


def shuffled(prompts: Iterable[str], seed: int, turn: int) -> list[str]:
    """The prompts in the order of one pass."""
    return sorted(prompts, key=lambda prompt: hash_order(f"{seed} {turn} {prompt}"))


def text_of(completion: Any) -> str:
    """The text of a completion as TRL passes it: of a conversation, that of its last turn."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def sample(job: Job, trainer: Any, watch: Watch, values: Callable[..., list[float]]) -> dict[str, Any]:
    """What there is to gain: answers of the base to held-out prompts, their rewards, and the score of the best one.

    Raises:
        Blocked: no prompt has two answers of different reward, so that nothing can be learned from comparing them.
    """
    rows, n = watch.rows[:SAMPLED], trainer.args.num_generations
    if not rows:
        return {}
    network = getattr(trainer.model, "module", trainer.model)
    was_training = network.training
    network.eval()
    texts, ended = from_first(answers(job, network, rows, copies=n, temperature=trainer.args.temperature))
    network.train(was_training)
    asked = job.dataset(list(map(asking, rows)))["prompt"][:]
    found = from_first(values([prompt for prompt in asked for _ in range(n)], texts, ended))
    groups = [range(start, start + n) for start in range(0, len(found), n)]
    differ = sum(len({found[i] for i in group}) > 1 for group in groups)
    out: dict[str, Any] = {"prompts": len(rows), "samples": n, "rewards_differ": differ}
    job.gates["rewards differ"] = f"within {differ} of {len(rows)} prompts, {n} samples each"
    if not differ:
        raise Blocked(f"reward: the same for all {n} samples of each of {len(rows)} prompts; there is nothing to learn")
    gains = [
        graded(item, texts[max(group, key=lambda i: found[i])]) - fmean(graded(item, texts[i]) for i in group)
        for group, item in zip(groups, watch.items, strict=False)
        if item is not None
    ]
    if len(gains) > 1:
        gain, half = fmean(gains), 1.96 * stdev(gains) / sqrt(len(gains))
        out["best_of_n"] = {"gain": gain, "low": gain - half, "high": gain + half, "n": len(gains)}
        job.gates["best of n"] = (
            f"the answer of highest reward scores {short(gain)} [{short(gain - half)}, {short(gain + half)}] more than "
            f"the average of {n}, on {len(gains)} prompts"
        )
    return out
