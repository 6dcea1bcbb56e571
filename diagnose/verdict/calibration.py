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
from diagnose.probes.table import MODELLED
from diagnose.provenance import ROOT
from diagnose.records import CLASSES

FITTED = ("strength", "effective", "templates")
"""The settings of conf/rule that a calibration replaces."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Values fitted on slices whose truth is known."""

    version: str
    models: list[str]
    """Fingerprints of the models whose answers were fitted: only on them was P(verdict) compared with the truth."""
    fitted_on: dict[str, Any]
    strength: float
    effective: float
    templates: dict[str, Any]


def read_calibration(path: str, rule: RuleConfig) -> Calibration:
    """The calibration in a file; a relative path may also be one of this repository.

    A probe or a class that an older file does not know has the template of `rule` (conf/rule).

    Raises:
        BadInput: there is none, or it is not what `scripts.planted.fit` writes.
    """
    file = Path(path) if Path(path).exists() else ROOT / path
    try:
        found = Calibration(**json.loads(file.read_text(encoding="utf-8")))
        known = {*found.templates} <= set(MODELLED)
        known &= all(rates.keys() <= set(CLASSES) for rates in found.templates.values())
        known &= all(math.isfinite(x) and x > 0 for x in (found.strength, found.effective)) and found.effective <= 1
    except OSError as error:
        raise BadInput(f"rule.calibration={path}: {error.strerror}; `null` does without one") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"rule.calibration={path}: no calibration ({error}); expected a file of `fit`") from None
    if not known:
        raise BadInput(f"rule.calibration={path}: unknown probe or class, or a number out of range")
    templates = {probe: shown | found.templates.get(probe, {}) for probe, shown in rule.templates.items()}
    return replace(found, templates=templates)


def calibrated(rule: RuleConfig) -> RuleConfig:
    """The rule with the values of its calibration, if it names one."""
    if rule.calibration is None:
        return rule
    found = asdict(read_calibration(rule.calibration, rule))
    return replace(rule, **{name: found[name] for name in FITTED})


def version_for(rule: RuleConfig, fingerprint: str | None) -> str:
    """Version of the calibration if this model's own answers were fitted, else `none`: P(verdict) is untried on it.

    An architecture proves nothing: a model of 2 M parameters and one of 70 B can both be a `llama`. Nor do the same
    weights behind an adapter or another prompt format. The fitted values are used all the same.
    """
    if rule.calibration is None:
        return "none"
    found = read_calibration(rule.calibration, rule)
    return found.version if fingerprint in found.models else "none"
