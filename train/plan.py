"""What is about to be trained, as the checks before training look at it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from diagnose.models.gguf import alone, is_gguf
from diagnose.models.weights import end_ids, load_tokenizer
from diagnose.records import Diagnosis
from train.config import TrainConfig, max_length, stages_of
from train.data import Rows
from train.render import Text, Tokens, texts, tokens
from train.rows import Row

CHARACTERS = 32
"""More than a token has on average in any text but white space (hand-set)."""
ROWS_OF = {"sft": "sft", "dpo": "preferences", "reward": "preferences"}


@dataclass(frozen=True)
class Plan:
    """Rows and settings of a run; what is derived from them is computed when it is looked at."""

    config: TrainConfig
    diagnosis: Diagnosis
    data: dict[str, Rows]
    slices: list[str] | None = None
    """What it is trained for; None: whatever the rows are about."""
    evalset_sha256: str | None = None
    """Of the eval set as it is now; None: not looked at."""

    @cached_property
    def tokenizer(self) -> Any:
        """Of the base."""
        return load_tokenizer(self.config.model)

    @cached_property
    def ends(self) -> set[int]:
        """Tokens that end an answer in generation, known without the weights."""
        from transformers import GenerationConfig

        path = str(self.config.model.path)
        generation: Any = SimpleNamespace(eos_token_id=None)
        if is_gguf(path):
            generation = GenerationConfig.from_model_config(self.base)
        else:
            with suppress(OSError):
                generation = GenerationConfig.from_pretrained(path)
        return end_ids(self.config.model, self.tokenizer, SimpleNamespace(generation_config=generation))

    @cached_property
    def base(self) -> Any:
        """The configuration of the base's network."""
        from transformers import AutoConfig

        path = str(self.config.model.path)
        if not is_gguf(path):
            return AutoConfig.from_pretrained(path, trust_remote_code=False)
        with alone(path, "model.path") as where:
            return AutoConfig.from_pretrained(**where)

    @cached_property
    def window(self) -> int:
        """Tokens that the base can read."""
        return int(getattr(self.base.get_text_config(), "max_position_embeddings", None) or 4096)

    @cached_property
    def rows(self) -> list[Row]:
        """All rows, of whatever kind."""
        return [row for rows in self.data.values() for row in rows.rows]

    @cached_property
    def tokens(self) -> dict[str, list[Tokens]]:
        """Kind of rows → their sequences."""
        limits = [max_length(self.config, stage) or self.window for stage in stages_of(self.config.method)]
        longest, system = CHARACTERS * max(limits), self.config.model.system_prompt
        return {
            kind: list(tokens(rows.rows, self.tokenizer, system, self.ends, longest))
            for kind, rows in self.data.items()
        }

    def of_stage(self, stage: str) -> list[Tokens]:
        """The sequences of a stage; one that generates takes the prompts of what rows there are."""
        kind = ROWS_OF.get(stage) or ("prompts" if "prompts" in self.data else next(iter(self.data)))
        return self.tokens[kind]

    def text_of(self, wanted: Tokens) -> Text:
        """A sequence as text."""
        row = next(row for row in self.rows if row["where"] == wanted.where and wanted.column in row)
        found = texts([row], self.tokenizer, self.config.model.system_prompt)
        return next(text for text in found if text.column == wanted.column)
