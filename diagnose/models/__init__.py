"""Models: asked for texts and for log-probabilities, whichever kind they are (`base.Model`).

`hf` is made of `weights`, `prefill`, `decode`, `kv_cache` and `constrain`; `served` asks over HTTP, `recorded` reads a
log, `reward` scores answers.
"""

from __future__ import annotations

from diagnose.config import ModelConfig
from diagnose.models.base import Model


def load_model(settings: ModelConfig) -> Model:
    """The model that the settings name.

    Raises:
        BadInput: there is none, or it cannot be used.
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
