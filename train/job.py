"""What all methods share: the base model, its LoRA, the TRL arguments and the output paths."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from diagnose.config import ModelConfig
from diagnose.models.gguf import is_gguf
from diagnose.models.weights import ALLOWED, load_tokenizer, load_weights
from train.config import TrainConfig, lora_settings, split_batch, stage_settings
from train.data import Rows, for_trl
from train.rows import Row

SHOWN = ("loss", "learning_rate", "reward", "kl", "rewards/accuracies", "accuracy", "rewards/margins")
"""Metrics printed to the console; W&B gets all of them."""


class StepLines(TrainerCallback):
    """One short line per logged step instead of the trainer's dictionaries."""

    def __init__(self, stage: str) -> None:
        self.stage, self.started = stage, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Print the step, its metrics and the remaining time."""
        shown = [f"{k} {float(v):.3g}" for k in SHOWN if (v := (logs or {}).get(k)) is not None]
        if shown and state.global_step and state.is_world_process_zero:
            left = (time.monotonic() - self.started) * (state.max_steps / state.global_step - 1)
            line = f"  {self.stage:<7} {state.global_step:>5}/{state.max_steps}  {'  '.join(shown)}  {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)


class StageDone(Exception):
    """A resumed stage has no step left."""


class NoStepMore(TrainerCallback):
    """A trainer that resumes from its last step would take one more before it looks at `max_steps`."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called before the first step too, when weights and state of the checkpoint are loaded."""
        if state.global_step >= state.max_steps:
            raise StageDone


class WholeCheckpoints(TrainerCallback):
    """Marks a checkpoint when all its files are written, so that one which a kill or a full disk cut off is known."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called behind the last file, in every process."""
        (checkpoint(args, state.global_step) / f"whole-{args.process_index}").touch()


def checkpoint(args: Any, step: int) -> Path:
    """Where a trainer keeps its checkpoint of a step."""
    return Path(args.output_dir) / f"checkpoint-{step}"


def last_whole(args: Any) -> str | None:
    """The newest checkpoint that was written to its end by all processes."""
    steps = [int(path.name.partition("-")[2]) for path in Path(args.output_dir).glob("checkpoint-*")]
    for step in sorted(steps, reverse=True):
        if all((checkpoint(args, step) / f"whole-{k}").exists() for k in range(args.world_size)):
            return str(checkpoint(args, step))
    return None


@dataclass
class Job:
    """One training run in the worker process."""

    config: TrainConfig
    out: Path
    data: dict[str, Rows]
    tokenizer: Any
    tracked: bool = False
    """Whether a W&B run is open in this process."""
    resolved: dict[str, Any] = field(default_factory=dict)
    """TRL and LoRA settings as used, by stage; for run.json."""
    gates: dict[str, str] = field(default_factory=dict)
    """What the method's gates measured; for run.json."""

    def dataset(self, rows: Sequence[Row]) -> Any:
        """Rows as a datasets.Dataset with TRL's columns."""
        from datasets import Dataset

        columns = for_trl(rows, self.tokenizer, self.config.model.system_prompt)
        return Dataset.from_list(columns, on_mixed_types="use_json")  # else calls of tools get each other's arguments

    def args(self, config_class: Any, stage: str, given: dict[str, Any], track: bool = True) -> Any:
        """The TRL config of a stage: our defaults, overridden by conf/model for the stage, then by `given`."""
        cuda = torch.cuda.is_available()
        settings: dict[str, Any] = {
            "output_dir": str(self.out / "trainer" / stage),
            "seed": self.config.seed,
            "use_cpu": not cuda and not torch.backends.mps.is_available(),
            "bf16": cuda and torch.cuda.is_bf16_supported() and self.config.model.dtype != "float32",
            "gradient_checkpointing": cuda and self.config.model.dtype != "float32",
            "report_to": "wandb" if self.tracked and track else "none",
            "disable_tqdm": True,
            "save_total_limit": 2,  # the one before, while the next is written
            "model_init_kwargs": None if is_gguf(str(self.config.model.path)) else {"dtype": _dtype(self.config.model)},
        }
        settings |= stage_settings(self.config, stage, given) | split_batch(self.config, stage)
        size = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
        self.resolved[stage] = settings | {"global_batch": size * self.config.num_processes}
        return config_class(**settings)

    def base(self, kind: Any, fresh: tuple[str, ...] = (), **settings: Any) -> Any:
        """The base as TRL's trainers take it: its path, or the network if it is a GGUF file, which TRL cannot load.

        Args:
            kind, fresh, settings: see load_weights; for a path TRL has its own.
        """
        path = str(self.config.model.path)
        if not is_gguf(path):
            return path
        return load_weights(kind, path, "model.path", ALLOWED, fresh, dtype=_dtype(self.config.model), **settings)

    def lora(self, task_type: str = "CAUSAL_LM") -> Any:
        """A fresh LoraConfig, because trainers modify theirs."""
        from peft import LoraConfig

        settings = lora_settings(self.config)
        if task_type == "SEQ_CLS":
            # A reward model has its own head; modules_to_save (embeddings, lm_head) applies to the policy only.
            settings["modules_to_save"] = None
        self.resolved["lora"] = settings
        return LoraConfig(**settings | {"task_type": task_type})

    def train(self, trainer: Any) -> dict[str, Any]:
        """Train, resuming from the last whole checkpoint if there is one; returns first and last logged metrics."""
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StepLines(Path(trainer.args.output_dir).name))
        trainer.add_callback(WholeCheckpoints())
        trainer.add_callback(NoStepMore())
        with suppress(StageDone):
            trainer.train(resume_from_checkpoint=last_whole(trainer.args))
        history = [e for e in trainer.state.log_history if "loss" in e or "reward" in e]
        return {
            "steps": trainer.state.global_step,
            "first": history[0] if history else {},
            "last": history[-1] if history else {},
        }

    @property
    def sharded(self) -> bool:
        """Does every process hold a part of each weight only?"""
        return self.config.num_processes > 1 and self.config.distributed in ("fsdp2", "zero3")

    def save(self, trainer: Any) -> None:
        """Save only the trained adapter, without the reference adapter that DPO adds; every process takes part."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if self.sharded else None
        if os.environ.get("RANK", "0") != "0":
            return
        model.peft_config["default"].base_model_name_or_path = str(self.config.model.path)
        # No training resizes the embeddings; left to itself, PEFT asks the hub about a base that is not a directory.
        folder = str(self.out / "adapter")
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False, state_dict=state)
        self.tokenizer.save_pretrained(str(self.out / "adapter"))


def batches(count: int, model: ModelConfig) -> Iterator[slice]:
    """Batches for inference, of the same size as in the diagnosis."""
    size = model.batch_size or 32
    return (slice(start, start + size) for start in range(0, count, size))


def load_job(out: Path) -> Job:
    """Load the job that the outer process wrote for this worker."""
    from pydantic import TypeAdapter

    spec = json.loads((out / "job.json").read_text(encoding="utf-8"))
    config = TypeAdapter(TrainConfig).validate_python(spec["config"])
    data = {kind: Rows(kind, "", "", rows) for kind, rows in spec["data"].items()}
    return Job(config, out, data, load_tokenizer(config.model))


def _dtype(model: ModelConfig) -> str:
    return "auto" if model.dtype in (None, "auto") else str(model.dtype)
