"""Which language a text is in, by langdetect, the same from call to call."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

SURE = 0.99
"""Probability from which langdetect is believed: it is often wrong on short texts (hand-set)."""


@lru_cache(maxsize=1 << 12)
def language(text: str) -> str | None:
    """The language that langdetect finds likeliest; None for a text without letters."""
    found = _probabilities(text)
    return str(found[0].lang) if found else None


@lru_cache(maxsize=1 << 12)
def sure_language(text: str) -> str | None:
    """The language, where langdetect is sure of it."""
    found = _probabilities(text)
    return str(found[0].lang) if found and found[0].prob >= SURE else None


def _probabilities(text: str) -> list[Any]:
    from langdetect import LangDetectException

    try:
        detector = _detectors().create()
        detector.append(text)
        return list(detector.get_probabilities())
    except LangDetectException:  # nothing to detect, for instance only digits
        return []


@lru_cache(maxsize=1)
def _detectors() -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    detectors = DetectorFactory()
    detectors.load_profile(PROFILES_DIRECTORY)
    detectors.set_seed(0)  # of this factory only; without a seed, langdetect varies from call to call
    return detectors
