"""Supervised fine-tuning: the wanted answers, loss on the completion only."""

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
    """An SFTTrainer on the job's completions (for pairs: on the chosen side)."""
    from trl import SFTConfig, SFTTrainer

    kind = "sft" if "sft" in job.data else "preferences"
    rows = job.data[kind].rows
    if kind == "preferences":
        rows = list({str(r["prompt"]) + r["chosen"]: r for r in rows}.values())
    completions = [{"prompt": r["prompt"], "completion": r.get("completion", r.get("chosen"))} for r in rows]
    return SFTTrainer(
        model=str(job.config.model.path),
        args=job.args(SFTConfig, "sft", given, track),
        train_dataset=job.dataset(completions),
        processing_class=job.tokenizer,
        peft_config=job.lora(),
    )
