"""What the data and the enabled probes cannot show of a slice."""

from __future__ import annotations

from diagnose.config import ProbesConfig
from diagnose.grading.grade import constraint_of, separates_content
from diagnose.items.evalset import EvalSet
from diagnose.probes.oracle_contexts import oracles
from diagnose.probes.prompts import free
from diagnose.probes.table import TABLE, Probe
from diagnose.records import EvalItem


def missing_probes(items: list[EvalItem], evalset: EvalSet, settings: ProbesConfig, name: str) -> tuple[str, ...]:
    """What cannot be distinguished in a slice with these data and probes: the `missing` of diagnosis.json."""
    out = [] if any(i.graded for i in items) else ["content"]
    out += [] if any(separates_content(i) for i in items) else ["format"]
    for entry in TABLE:
        asked, possible = entry.probe in settings.enabled, _possible(entry.probe, items, evalset, name)
        absent = possible and not asked if entry.if_applicable else not (possible and asked)
        out += [entry.missing] if entry.missing and absent else []
    return tuple(out)


def _possible(probe: Probe, items: list[EvalItem], evalset: EvalSet, name: str) -> bool:
    """Have the items of the slice what the probe needs?"""
    match probe:
        case Probe.FREE:
            return any(free(i, evalset.format_demand) for i in items)
        case Probe.FEW_SHOT:
            return name in evalset.exemplars
        case Probe.CONSTRAINED:
            return any(constraint_of(i) for i in items)
        case Probe.RANKED:
            return any(i.options for i in items)
        case Probe.ORACLE_CONTEXT:
            return bool(oracles(items))
        case Probe.PREFERENCE_JUDGED:
            return any(i.judge for i in items)
        case Probe.MARGINS:
            return any(i.chosen and i.rejected for i in items)
    return True
