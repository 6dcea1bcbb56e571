"""Monitor the gold metric (the eval set's own grader and preference rule) while RLOO optimises the reward."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback

from diagnose.grading.grade import grade, prefers
from diagnose.grading.grader import parse_grader
from diagnose.models.base import lay_out
from diagnose.models.batches import Halving
from diagnose.models.decode import decode
from diagnose.models.prefill import Reader
from diagnose.models.weights import end_ids
from diagnose.records import EvalItem, Grader
from train.job import Job, batches, checkpoint

KEPT = "gold.safetensors"
MAX_PROMPTS = 48
"""Held-out prompts answered at each evaluation (hand-set)."""
FALL = 0.1
"""Overoptimisation: gold is this far below its best while the reward is higher than at that best (hand-set).

See arXiv 2210.10760.
"""
Scorer = Callable[[list[Any], list[str], list[bool]], list[float]]


class GoldWatch(TrainerCallback):
    """Every few steps, score greedy answers to held-out prompts with the reward model and the gold metric.

    The gold metric is the slice's rule and, for rows with a `target`, its grader. The adapter with the best gold
    score is kept. Without rules and targets there is no gold metric: only the reward is recorded, and the last
    adapter is kept.
    """

    def __init__(self, job: Job, held_out: list[dict[str, Any]], score: Scorer, every: int) -> None:
        self.job, self.score, self.every = job, score, every
        unique = {str(r["prompt"]): r for r in held_out}
        self.prompts = set(unique)
        self.rows = list(unique.values())[:MAX_PROMPTS]
        rows = json.loads((job.out / "graders.json").read_text(encoding="utf-8"))
        graders = {name: parse_grader(row, f"graders.json: {name}") for name, row in rows.items()}
        self.items = [_item(row, graders) for row in self.rows]
        self.history: list[dict[str, float | None]] = []
        self.best: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Go on with what was seen up to the checkpoint of a resumed run, or score the base: the adapter disabled."""
        if (kept := checkpoint(args, state.global_step) / KEPT).exists():
            with safe_open(kept, "pt") as tensors:
                self.history = json.loads(tensors.metadata()["history"])
                self.best = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
            return
        with getattr(model, "module", model).disable_adapter():
            self._look(model, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Evaluate, and stop early when gold falls while the reward does not."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._look(model, state.global_step)
            if self._falling():
                control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep what was seen so far beside the checkpoint."""
        if state.is_world_process_zero:
            best = {name: weight.cpu().contiguous() for name, weight in self.best.items()}
            save_file(best, checkpoint(args, state.global_step) / KEPT, {"history": json.dumps(self.history)})

    @property
    def fruitless(self) -> bool:
        """No checkpoint scored higher on the gold metric than the base."""
        gold = [h["gold"] for h in self.history if h["gold"] is not None]
        return bool(gold) and max(gold) <= gold[0]

    def restore_best(self, model: Any) -> None:
        """Restore the adapter with the best gold score."""
        if self.best:
            model.load_state_dict(self.best, strict=False)

    def summary(self) -> dict[str, Any]:
        """For run.json."""
        kept = self._best_at() if self.best else self.history[-1]
        return {
            "gold_watch": self.history,
            "kept_step": kept["step"],
            "stopped_early": self._falling(),
        }

    def story(self) -> str:
        """Reward and gold from the first to the last evaluation, in one phrase."""
        first, last = self.history[0], self.history[-1]
        if first["gold"] is None or last["gold"] is None:
            return f"held-out reward {first['reward']:.2f} → {last['reward']:.2f}, no gold metric"
        gold = f"gold {first['gold']:.2f} → {last['gold']:.2f}"
        return f"held-out reward {first['reward']:.2f} → {last['reward']:.2f}, {gold}"

    def _look(self, model: Any, step: int) -> None:
        network = getattr(model, "module", model)
        was_training = network.training
        network.eval()
        texts, ended = self._answers(network)
        columns = self.job.dataset([{"prompt": r["prompt"]} for r in self.rows])
        rewards = self.score(columns["prompt"][:], texts, ended)
        read = [_gold(item, text) for item, text in zip(self.items, texts, strict=True)]
        known = [r for r in read if r is not None]
        gold = sum(known) / len(known) if known else None
        self.history.append({"step": step, "reward": sum(rewards) / len(rewards), "gold": gold})
        if gold is not None and self._best_at()["step"] == step:
            self.best = {n: p.detach().clone() for n, p in network.named_parameters() if p.requires_grad}
        network.train(was_training)

    def _answers(self, network: Any) -> tuple[list[str], list[bool]]:
        tokenizer, settings = self.job.tokenizer, self.job.config.model
        prompts = []
        for row in self.job.dataset([{"prompt": r["prompt"]} for r in self.rows])["prompt"]:
            if isinstance(row, str):
                prompts.append(tokenizer(row)["input_ids"])
            else:
                text = tokenizer.apply_chat_template(row, tokenize=False, add_generation_prompt=True)
                prompts.append(tokenizer(text, add_special_tokens=False)["input_ids"])
        ends = end_ids(settings, tokenizer)
        reader, steps = Reader(network, tokenizer.pad_token_id), settings.max_new_tokens or 64
        halving = Halving(reader.device)

        def answered(part: Sequence[list[int]]) -> list[list[int]]:
            return decode(reader, list(part), copies=1, steps=steps, ends=ends)

        rows = [row for at in batches(len(prompts), settings) for row in halving.run(prompts[at], answered)]
        ended = [bool(r) and r[-1] in ends for r in rows]
        return [tokenizer.decode(r, skip_special_tokens=True) for r in rows], ended

    def _best_at(self) -> dict[str, Any]:
        return max(self.history, key=lambda h: (h["gold"] or 0.0, h["reward"] or 0.0))

    def _falling(self) -> bool:
        best, last = self._best_at(), self.history[-1]
        if best["gold"] is None or last["gold"] is None:
            return False
        return last["gold"] < best["gold"] - FALL and (last["reward"] or 0.0) > (best["reward"] or 0.0)


def _item(row: dict[str, Any], graders: dict[str, Grader]) -> EvalItem | None:
    """The row as an eval item with its grader; None if the gold metric does not apply to it."""
    grader, target = graders.get(row["slice"]), row.get("target")
    if grader is None or not (target or grader.judge):
        return None
    turns = tuple((role, text) for role, text in row["prompt"])
    targets = (str(target),) if target else ()
    return EvalItem(id=lay_out(turns), slices=(row["slice"],), turns=turns, targets=targets, grader=grader, where="")


def _gold(item: EvalItem | None, text: str) -> float | None:
    if item is None:
        return None
    right = bool(grade(item, text).strict) if item.targets else True
    return float(right and prefers(item, text) is not False)
