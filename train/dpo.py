"""Direct preference optimisation; the reference model is the base with the adapter disabled."""

from __future__ import annotations

from typing import Any

from diagnose.models.weights import quantized
from train.job import Job
from train.rows import Row, key
from train.sft import finish, sft_trainer, watched
from train.watch import Watch


def fit(job: Job) -> dict[str, Any]:
    """Train a LoRA adapter and save the one that scored best; returns metrics by stage."""
    from transformers import AutoModelForCausalLM

    training, watch = watched(job, job.data["preferences"].rows)
    trainer = _trainer(job, training, job.base(AutoModelForCausalLM), job.lora(), watch)
    metrics = job.train(trainer)
    return {"dpo": metrics | finish(job, trainer, watch)}


def fit_after_sft(job: Job) -> dict[str, Any]:
    """SFT on the chosen answers, then DPO on the same adapter; the reference is the adapter as SFT left it."""
    training, watch = watched(job, job.data["preferences"].rows)
    chosen = [row for row in job.data["sft"].rows if watch is None or key(row) not in watch.prompts]
    first = sft_trainer(job, chosen, job.config.method.first, callbacks=[], track=False)
    metrics = job.train(first)
    trainer = _trainer(job, training, first.model, None, watch)
    metrics_dpo = job.train(trainer)
    return {"sft": metrics, "dpo": metrics_dpo | finish(job, trainer, watch)}


def _trainer(job: Job, rows: list[Row], model: Any, peft_config: Any, watch: Watch | None) -> Any:
    from trl import DPOConfig, DPOTrainer

    args = job.args(DPOConfig, "dpo", job.config.method.args)
    if peft_config is None:
        args.model_init_kwargs = None
    return DPOTrainer(
        model=model,
        args=args,
        train_dataset=job.dataset(rows),
        processing_class=job.tokenizer,
        quantization_config=quantized(job.config.model) if peft_config else None,
        peft_config=peft_config,
        callbacks=[watch] if watch else [],
    )
