"""Supervised fine-tuning on the reference answers; loss on the completion only."""

from __future__ import annotations

from typing import Any

from diagnose.models.weights import quantized
from train.job import Job
from train.rows import Row
from train.watch import Watch, hold_out


def fit(job: Job) -> dict[str, Any]:
    """Train a LoRA adapter and save the one that scored best; returns metrics by stage."""
    training, watch = watched(job, job.data["sft"].rows)
    trainer = sft_trainer(job, training, job.config.method.args, callbacks=[watch] if watch else [])
    metrics = job.train(trainer)
    return {"sft": metrics | finish(job, trainer, watch)}


def watched(job: Job, rows: list[Row]) -> tuple[list[Row], Watch | None]:
    """Rows to train on, and the watch over the others; without one, if they could not show anything, all of them."""
    training, held_out = hold_out(rows, job)
    watch = Watch(job, held_out)
    return (training, watch) if watch.useful else (rows, None)


def finish(job: Job, trainer: Any, watch: Watch | None) -> dict[str, Any]:
    """Save the best adapter of a stage; returns what was watched."""
    if watch is not None:
        watch.restore_best(trainer.model)
        job.gates["held-out rows"] = watch.story() + (": no better than the base" if watch.fruitless else "")
    job.save(trainer)
    return watch.summary() if watch else {}


def sft_trainer(job: Job, rows: list[Row], given: dict[str, Any], callbacks: list[Any], track: bool = True) -> Any:
    """An SFTTrainer on the rows' completions, or on whole texts."""
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=job.base(AutoModelForCausalLM),
        args=job.args(SFTConfig, "sft", given, track),
        train_dataset=job.dataset(rows),
        processing_class=job.tokenizer,
        quantization_config=quantized(job.config.model),
        peft_config=job.lora(),
        callbacks=callbacks,
    )
