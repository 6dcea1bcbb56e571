"""Models: all kinds generate text and score log-probabilities through one protocol (`base.Model`).

`hf` is built from `weights`, `prefill`, `decode`, `kv_cache` and `constrain`; `served` calls a server over HTTP,
`recorded` reads a log, `reward` scores answers.
"""

from __future__ import annotations

from diagnose.config import ModelConfig
from diagnose.models.base import Model


def load_model(settings: ModelConfig) -> Model:
    """The model that the settings name.

    Raises:
        BadInput: it does not exist or cannot be used.
    """
    match settings.kind:
        case "openai":
            from diagnose.models.served import ServedModel

            return ServedModel(settings)
        case "recorded":
            from diagnose.models.recorded import RecordedModel

            return RecordedModel(settings)
        case _:
            from diagnose.models.hf import HFModel

            return HFModel(settings)
