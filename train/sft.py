"""Supervised fine-tuning on the reference answers; loss on the completion only."""

from __future__ import annotations

from typing import Any

from train.job import Job


def fit(job: Job) -> dict[str, Any]:
    """Train a LoRA adapter and save it; returns metrics by stage."""
    trainer = sft_trainer(job, job.config.method.args)
    metrics = job.train(trainer)
    job.save(trainer.model)
    return {"sft": metrics}


def sft_trainer(job: Job, given: dict[str, Any], track: bool = True) -> Any:
    """An SFTTrainer on the job's completions."""
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=job.base(AutoModelForCausalLM),
        args=job.args(SFTConfig, "sft", given, track),
        train_dataset=job.rows("sft"),
        processing_class=job.tokenizer,
        peft_config=job.lora(),
    )
