"""What models of known gaps have taught: what each class shows, what an item counts for, how sure a verdict may be.

One small file, made by `python -m scripts.planted.fit` from planted models or from a user's own runs of known truth.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diagnose.config import RuleConfig
from diagnose.errors import BadInput
from diagnose.probes.table import MODELLED, Probe
from diagnose.provenance import ROOT
from diagnose.records import CLASSES

FITTED = ("strength", "effective", "temperature", "weights", "templates")
"""The settings of conf/rule that a calibration replaces."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Values fitted on slices whose truth is known."""

    version: str
    families: list[str]
    """Model types on which P(verdict) was compared with the truth."""
    fitted_on: dict[str, Any]
    strength: float
    effective: float
    temperature: float
    weights: dict[str, float]
    templates: dict[str, Any]


def read_calibration(path: str) -> Calibration:
    """The calibration in a file; a relative path may also be one of this repository.

    Raises:
        BadInput: there is none, or it is not what `scripts.planted.fit` writes.
    """
    file = Path(path) if Path(path).exists() else ROOT / path
    try:
        found = Calibration(**json.loads(file.read_text(encoding="utf-8")))
        complete = set(found.templates) == set(found.weights) == set(MODELLED)
        complete &= all(
            set(rates) == set(CLASSES) for name, rates in found.templates.items() if name != Probe.PREFERENCE_JUDGED
        )
        numbers = [found.strength, found.effective, found.temperature, *found.weights.values()]
        complete &= all(math.isfinite(x) and x > 0 for x in numbers) and max(found.effective, *numbers[3:]) <= 1
    except OSError as error:
        raise BadInput(f"rule.calibration={path}: {error.strerror}; `null` does without one") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"rule.calibration={path}: no calibration ({error}); expected a file of `fit`") from None
    if not complete:
        raise BadInput(f"rule.calibration={path}: lacks a probe or a class, or a number is out of range")
    return found


def calibrated(rule: RuleConfig) -> RuleConfig:
    """The rule with the values of its calibration, if it names one."""
    if rule.calibration is None:
        return rule
    found = asdict(read_calibration(rule.calibration))
    return replace(rule, **{name: found[name] for name in FITTED})


def version_for(rule: RuleConfig, family: str | None) -> str:
    """Version of the calibration if it was made on models of this type, else `none`: P(verdict) is untried there."""
    if rule.calibration is None:
        return "none"
    found = read_calibration(rule.calibration)
    return found.version if family in found.families else "none"
