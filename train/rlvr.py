"""Reinforcement learning with the eval set's own graders as the reward: no reward model, nothing to game but them.

What the base can do in some samples it learns to do in the first (GRPO: arXiv 2402.03300; RLVR: 2411.15124).
"""

from __future__ import annotations

import json
from typing import Any

from diagnose.grading.grade import grade, prefers
from diagnose.records import EvalItem
from train.job import Job
from train.references import gradable
from train.rl import Reward, fit_policy, text_of
from train.rows import Row, asking
from train.watch import Watch, graders_of, hold_out


def fit(job: Job) -> dict[str, Any]:
    """Train the policy, save its adapter; returns metrics by stage.

    Raises:
        Blocked: no prompt has two answers of different reward, or no step beats the base on the held-out rows.
    """
    (rows,) = (part.rows for part in job.data.values())
    training, held_out = hold_out(rows, job)
    rewards = rewards_of(job, rows)
    weights = job.config.method.args.get("reward_weights") or [1.0] * len(rewards)

    def values(prompts: list[Any], texts: list[str], ended: list[bool]) -> list[float]:
        ids = [[job.tokenizer.eos_token_id] if done else [] for done in ended]
        each = [reward(prompts=prompts, completions=texts, completion_ids=ids) for reward in rewards]
        return [sum(w * (r or 0.0) for w, r in zip(weights, found, strict=True)) for found in zip(*each, strict=True)]

    return {job.config.method.algorithm: fit_policy(job, rewards, training, Watch(job, held_out), values)}


def rewards_of(job: Job, rows: list[Row]) -> list[Reward]:
    """Strict and lenient reading and the preference rule; an answer without an end gets nothing."""
    graders = graders_of(job)
    prompts = job.dataset(list(map(asking, rows)))["prompt"][:]
    items = {json.dumps(prompt): gradable(row, graders) for prompt, row in zip(prompts, rows, strict=True)}
    end = job.tokenizer.eos_token_id

    def each(prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], score: Any) -> list[Any]:
        texts = list(map(text_of, completions))
        asked = [items[json.dumps(prompt)] for prompt in prompts]
        done = [end in ids for ids in completion_ids]
        return [score(*row) if row[-1] else 0.0 for row in zip(asked, texts, done, strict=True)]

    def strict(*, prompts: Any, completions: Any, completion_ids: Any, **_: Any) -> list[float | None]:
        return each(prompts, completions, completion_ids, lambda item, text, _: float(bool(grade(item, text).strict)))

    def lenient(*, prompts: Any, completions: Any, completion_ids: Any, **_: Any) -> list[float | None]:
        return each(prompts, completions, completion_ids, lambda item, text, _: float(bool(grade(item, text).lenient)))

    def preferred(*, prompts: Any, completions: Any, completion_ids: Any, **_: Any) -> list[float | None]:
        return each(prompts, completions, completion_ids, lambda item, text, _: _preferred(item, text))

    return [strict, lenient, preferred]


def _preferred(item: EvalItem, text: str) -> float:
    """Only of right answers: a rule about manners must not pay for wrong ones."""
    return float(bool(prefers(item, text)) and (not item.targets or bool(grade(item, text).lenient)))
