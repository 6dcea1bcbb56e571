"""Watch what people care about while a policy is trained: slice scores of greedy answers to held-out rows.

A loss says little about answers, and a reward can be gamed (arXiv 2210.10760). The adapter with the best scores is
kept, and training stops once they have fallen for good.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback

from diagnose.grading.grader import parse_grader
from diagnose.models.batches import Halving
from diagnose.models.decode import decode, uniforms
from diagnose.models.prefill import Reader
from diagnose.models.weights import end_ids
from diagnose.records import Grader
from diagnose.report.words import short
from diagnose.text import hash_order
from train.job import Job, StageDone, batches, checkpoint
from train.references import gradable, graded
from train.render import prompt_ids, texts
from train.rows import Row, asking, key

KEPT = "watch.safetensors"
LOOKS = 5
"""Evaluations of a run, unless `watch.every` says when (hand-set)."""
LEAST = 8
"""Held-out rows that can be graded, below which nothing is watched (hand-set)."""
FALL = 0.1
"""Overoptimisation: the score is this far below its best while the reward is higher than at that best (hand-set).

See arXiv 2210.10760.
"""
Scorer = Callable[[list[Any], list[str], list[bool]], list[float]]


def hold_out(rows: list[Row], job: Job) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows to watch: a share of the prompts of each slice, at most `watch.prompts` of them."""
    watch, asked = job.config.watch, defaultdict[str, dict[str, Row]](dict)
    for row in rows:
        if row["prompt"]:
            asked[row["slice"]].setdefault(key(row), row)
    total = sum(map(len, asked.values()))
    share = min(watch.held_out, watch.prompts / max(1, total))
    kept = {
        prompt
        for prompts in asked.values()
        for prompt in sorted(prompts, key=lambda p: hash_order(f"{job.config.seed} {p}"))[: round(share * len(prompts))]
    }
    return [row for row in rows if key(row) not in kept], [row for row in rows if key(row) in kept]


class Watch(TrainerCallback):
    """Every few steps, grade greedy answers to held-out prompts, slice by slice, and keep the best adapter.

    A row is graded by its slice's grader against its `target` or reference answer, and by the slice's preference rule.
    Where no row can be graded, only the reward, if there is one, is recorded, and the last adapter is kept.
    """

    def __init__(self, job: Job, held_out: list[Row], score: Scorer | None = None) -> None:
        self.job, self.score = job, score
        self.prompts = set(map(key, held_out))
        self.rows = list({key(row): row for row in held_out}.values())[: job.config.watch.prompts]
        graders = graders_of(job)
        self.items = [gradable(row, graders) for row in self.rows]
        self.every: int | None = job.config.watch.every
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}

    @property
    def useful(self) -> bool:
        """Is there enough to see? A process that holds a part of each weight cannot generate."""
        return (
            self.every != 0
            and not self.job.sharded
            and (self.score is not None or sum(item is not None for item in self.items) >= LEAST)
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Go on with what was seen up to the checkpoint of a resumed run, or look at the base: the adapter disabled."""
        self.every = self.every or max(1, state.max_steps // LOOKS)
        if (kept := checkpoint(args, state.global_step) / KEPT).exists():
            with safe_open(kept, "pt") as tensors:
                self.history = json.loads(tensors.metadata()["history"])
                self.best = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
            return
        with getattr(model, "module", model).disable_adapter():
            self._look(model, 0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A run that was killed after it had stopped early does not go on."""
        if self.history and (self._falling() or self._stale()):
            raise StageDone

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Look, and stop early when the scores have fallen for several looks, or while the reward rose."""
        if state.global_step % (self.every or 1) == 0 or state.global_step == state.max_steps:
            self._look(model, state.global_step)
            if self._falling() or self._stale():
                control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep what was seen so far beside the checkpoint."""
        if state.is_world_process_zero:
            best = {name: weight.cpu().contiguous() for name, weight in self.best.items()}
            save_file(best, checkpoint(args, state.global_step) / KEPT, {"history": json.dumps(self.history)})

    @property
    def fruitless(self) -> bool:
        """No step scored higher than the base."""
        scores = [look["score"] for look in self.history if look["score"] is not None]
        return bool(scores) and max(scores) <= scores[0]

    def restore_best(self, model: Any) -> None:
        """Restore the adapter with the best scores."""
        if self.best:
            model.load_state_dict(self.best, strict=False)

    def summary(self) -> dict[str, Any]:
        """For run.json."""
        kept = self._best_at() if self.best else self.history[-1]
        return {"curve": self.history, "kept_step": kept["step"], "stopped_early": self._falling() or self._stale()}

    def story(self) -> str:
        """Score and reward from the base to the step that is kept, in one phrase."""
        first, kept = self.history[0], self._best_at() if self.best else self.history[-1]
        parts = []
        if first["score"] is not None:
            graded = sum(item is not None for item in self.items)
            parts.append(f"score {short(first['score'])} → {short(kept['score'])} on {graded} held-out rows")
        if first["reward"] is not None:
            parts.append(f"reward {short(first['reward'])} → {short(kept['reward'])}")
        return f"{', '.join(parts)}, step {kept['step']} kept"

    def _look(self, model: Any, step: int) -> None:
        network = getattr(model, "module", model)
        was_training = network.training
        network.eval()
        found, ended = from_first(self._answers(network))
        rewards = None
        if self.score:
            rewards = from_first(self.score(self.job.dataset(list(map(asking, self.rows)))["prompt"][:], found, ended))
        by_slice = defaultdict[str, list[float]](list)
        for row, item, text in zip(self.rows, self.items, found, strict=True):
            if item is not None:
                by_slice[row["slice"]].append(graded(item, text))
        slices = {name: sum(part) / len(part) for name, part in sorted(by_slice.items())}
        look = {
            "step": step,
            "score": sum(slices.values()) / len(slices) if slices else None,
            "slices": slices,
            "reward": sum(rewards) / len(rewards) if rewards else None,
            "ended": sum(ended) / len(ended),
        }
        self.history.append(look)
        if slices and step and self._best_at()["step"] == step:
            self.best = {n: p.detach().clone() for n, p in network.named_parameters() if p.requires_grad}
        self._log(look)
        network.train(was_training)

    def _answers(self, network: Any) -> tuple[list[str], list[bool]]:
        """Greedy answers to the held-out rows, and whether each came to its end."""
        return answers(self.job, network, self.rows)

    def _log(self, look: dict[str, Any]) -> None:
        """To the W&B run of this process, if it has one."""
        if not self.job.tracked:
            return
        import wandb

        values = {f"held_out/{name}": value for name, value in look["slices"].items()}
        values |= {f"held_out/{name}": look[name] for name in ("score", "reward", "ended") if look[name] is not None}
        wandb.log(values | {"train/global_step": look["step"]})

    def _best_at(self) -> dict[str, Any]:
        """The best look behind the base, the last of several."""
        return max(self.history[1:] or self.history, key=lambda h: (h["score"] or 0.0, h["reward"] or 0.0, h["step"]))

    def _stale(self) -> bool:
        """The best look is long ago."""
        at = self.history.index(self._best_at())
        return bool(self.best) and len(self.history) - 1 - at >= self.job.config.watch.patience

    def _falling(self) -> bool:
        best, last = self._best_at(), self.history[-1]
        if best["score"] is None or last["reward"] is None:
            return False
        return bool(last["score"] < best["score"] - FALL and last["reward"] > best["reward"])


def from_first(value: Any) -> Any:
    """What the first process has, so that all of them decide alike."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def answers(
    job: Job, network: Any, rows: Sequence[Row], copies: int = 1, temperature: float = 0.0
) -> tuple[list[str], list[bool]]:
    """Answers of a network to the prompts of rows, `copies` of each in turn, and whether each came to its end."""
    tokenizer, settings = job.tokenizer, job.config.model
    asked = [text.asked for text in texts(list(map(asking, rows)), tokenizer, settings.system_prompt)]
    prompts = [prompt_ids(tokenizer, text) for text in asked]
    ends = end_ids(settings, tokenizer, network)
    reader, steps = Reader(network, tokenizer.pad_token_id), settings.max_new_tokens or 64
    halving = Halving(reader.device)

    def answered(part: Sequence[tuple[int, list[int]]]) -> list[list[int]]:
        noise = None
        if temperature:
            noise = uniforms([f"{job.config.seed}|{at}|{draw}" for at, _ in part for draw in range(copies)], steps)
        ids = [prompt for _, prompt in part]
        return decode(reader, ids, copies=copies, steps=steps, ends=ends, temperature=temperature, noise=noise)

    numbered = list(enumerate(prompts))
    found = [row for at in batches(len(prompts), settings) for row in halving.run(numbered[at], answered, each=copies)]
    ended = [bool(row) and row[-1] in ends for row in found]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in found], ended


def graders_of(job: Job) -> dict[str, Grader]:
    """Slice → its grader in the eval set."""
    rows = json.loads((job.out / "graders.json").read_text(encoding="utf-8"))
    return {name: parse_grader(row, f"graders.json: {name}") for name, row in rows.items()}
