"""Direct preference optimisation; the reference model is the base with the adapter disabled."""

from __future__ import annotations

from typing import Any

from train.job import Job
from train.sft import sft_trainer


def fit(job: Job) -> dict[str, Any]:
    """Train a LoRA adapter and save it; returns metrics by stage."""
    from transformers import AutoModelForCausalLM

    trainer = _trainer(job, job.base(AutoModelForCausalLM), job.lora())
    metrics = job.train(trainer)
    job.save(trainer.model)
    return {"dpo": metrics}


def fit_after_sft(job: Job) -> dict[str, Any]:
    """SFT on the chosen answers, then DPO on the same adapter; the reference is the adapter as SFT left it."""
    first = sft_trainer(job, job.config.method.first, track=False)
    metrics = job.train(first)
    trainer = _trainer(job, first.model, None)
    metrics_dpo = job.train(trainer)
    job.save(trainer.model)
    return {"sft": metrics, "dpo": metrics_dpo}


def _trainer(job: Job, model: Any, peft_config: Any) -> Any:
    from trl import DPOConfig, DPOTrainer

    args = job.args(DPOConfig, "dpo", job.config.method.args)
    if peft_config is None:
        args.model_init_kwargs = None
    return DPOTrainer(
        model=model,
        args=args,
        train_dataset=job.rows("preferences"),
        processing_class=job.tokenizer,
        peft_config=peft_config,
    )
