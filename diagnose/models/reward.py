"""Reward models: sequence classifiers that read an answer and return one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diagnose.config import ModelConfig
from diagnose.models.base import Completion, Constraint, Score, lay_out
from diagnose.models.batches import Halving, padded
from diagnose.models.weights import best_device, load_tokenizer, load_weights, placed
from diagnose.probes.table import Probe
from diagnose.records import EvalItem, Prompt

REWARD = "expected a reward model: a sequence classifier with one label, its weights as .safetensors"


class RewardModel:
    """A sequence classifier with one label; what it scores is a reward, not a log-probability."""

    def __init__(self, path: str, device: str | None = None, batch_size: int | None = None) -> None:
        """Load.

        Raises:
            BadInput: no such model, or not one with a single label.
        """
        from transformers import AutoModelForSequenceClassification

        self.settings = ModelConfig(path=path)
        self.tokenizer = load_tokenizer(self.settings, "judge.path")
        network = load_weights(AutoModelForSequenceClassification, path, "judge.path", REWARD, num_labels=1)
        if network.config.pad_token_id is None:
            network.config.pad_token_id = self.tokenizer.pad_token_id or 0
        self.device = device or best_device()
        self.network = placed(network, self.device)
        self.halving = Halving(self.device)
        self.batch_size = batch_size or 32
        self.fingerprint: str | None = None
        self.max_new_tokens = 0
        self.lacks: frozenset[Probe] = frozenset()
        self.max_length = getattr(network.config, "max_position_embeddings", None) or 4096

    @property
    def prompt_format(self) -> dict[str, Any]:
        """Empty: the inputs of a reward model are not part of the prompt format."""
        return {}

    def check(self, items: Sequence[EvalItem]) -> None:
        """See Model."""

    def check_end_token(self, items: Sequence[EvalItem], seed: int) -> None:
        """See Model; it ends nothing."""

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        """See Model."""
        return len(self._encode(prompt, continuation or "")) <= self.max_length

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        constraints: Sequence[Constraint] | None = None,
    ) -> list[list[Completion]]:
        """Never called: a reward model generates no text."""
        raise NotImplementedError("a reward model generates no text")

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        """The reward of each continuation as an answer to its prompt."""
        rows = [self._encode(p, c) for p, c in zip(prompts, continuations, strict=True)]
        return self.halving.run(rows, self._scored)

    def _scored(self, rows: Sequence[list[int]]) -> list[Score]:
        import torch

        # The classifier finds its last token by its own pad token, which may be another than the tokenizer's.
        ids, mask = padded(rows, self.network.config.pad_token_id, self.device)
        with torch.inference_mode():
            values = self.network(input_ids=ids, attention_mask=mask).logits[:, 0].float()
        return [Score(value, 1) for value in values.tolist()]

    def _encode(self, prompt: Prompt, answer: str) -> list[int]:
        turns = [{"role": role, "content": text} for role, text in prompt.turns]
        return reward_ids(self.tokenizer, turns if self.tokenizer.chat_template else lay_out(prompt.turns), answer)


def reward_ids(tokenizer: Any, prompt: Any, answer: str, finished: bool = True) -> list[int]:
    """The tokens of an answer to a prompt as a reward model reads them, in training as in use.

    A finished answer is the whole chat template, with what follows the end token in it (the line break of ChatML), as
    TRL trains on it; plain text ends with the end token. An unfinished one ends where the answer does.

    Args:
        prompt: messages, or plain text.
    """
    if isinstance(prompt, str):
        ids: list[int] = tokenizer(prompt + answer + (tokenizer.eos_token if finished else ""))["input_ids"]
        return ids
    if finished:
        text = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], tokenize=False)
    else:
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True) + answer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
