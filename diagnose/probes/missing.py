"""What the data and the probes at hand cannot show of a slice."""

from __future__ import annotations

from diagnose.config import ProbesConfig
from diagnose.grading.grade import form_of, separates_content
from diagnose.items.evalset import EvalSet
from diagnose.probes.contexts import oracles
from diagnose.records import EvalItem


def missing_probes(items: list[EvalItem], evalset: EvalSet, settings: ProbesConfig, name: str) -> tuple[str, ...]:
    """What cannot be told apart in a slice with the data and probes at hand; named in CONTRACTS' `missing`."""
    on, out = set(settings.enabled), []
    if not any(i.graded for i in items):
        out.append("content")
    if not any(separates_content(i) for i in items):
        out.append("format")
    if "given" not in on or not oracles(items):
        out.append("context")
    if "judged" not in on or not any(i.judge for i in items):
        out.append("preference")
    if "ranked" not in on or not any(i.options for i in items):
        out.append("ranked")
    if "shaped" not in on or name not in evalset.exemplars:
        out.append("shaped")
    if "sampled" not in on:
        out.append("sampled")
    if "constrained" not in on and any(form_of(i) for i in items):
        out.append("constrained")
    if "margins" not in on and any(i.chosen and i.rejected for i in items):
        out.append("margins")
    return tuple(out)
