"""Training rows from the diagnosis's own answers: what the base can be brought to do, taught as its first answer.

Right few-shot answers become SFT rows without the examples; the base's right and wrong samples become pairs. Half of
the sources of the eval set are taught; all of their items are then left out of every evaluation of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diagnose.errors import BadInput
from diagnose.grading.grade import prefers
from diagnose.probes.table import Probe
from diagnose.records import EvalItem
from diagnose.text import hash_order

ANSWERS = "answers.jsonl"
SAMPLED = (Probe.PLAIN, Probe.SAMPLES, Probe.BEST_OF_N)
RawRow = tuple[dict[str, Any], str]
"""A row as a file would have it, and where it comes from."""


def taught(items: Sequence[EvalItem], seed: int) -> set[str]:
    """Ids of the items of half of the sources, by hash; items of one cluster are of one source."""
    sources = {item.id: f"cluster {item.cluster}" if item.cluster is not None else item.id for item in items}
    ordered = sorted(set(sources.values()), key=lambda source: hash_order(f"{seed} {source}"))
    half = set(ordered[: len(ordered) // 2])
    return {item_id for item_id, source in sources.items() if source in half}


def own_rows(diagnosis: str, items: Sequence[EvalItem]) -> dict[str, list[RawRow]]:
    """Kind of rows → rows, from the answers to these items.

    Raises:
        BadInput: the diagnosis has no answers.
    """
    path = Path(diagnosis) / ANSWERS
    if not path.exists():
        raise BadInput(f"data.bootstrap: {diagnosis} contains no {ANSWERS}")
    by_id = {item.id: item for item in items}
    right: dict[str, dict[str, str]] = {}
    samples: dict[str, dict[bool, list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        item = by_id.get(answer["item"])
        if item is None or answer["strict"] is None:
            continue
        good = bool(answer["strict"]) and prefers(item, answer["text"]) is not False
        if answer["probe"] == Probe.FEW_SHOT and good:
            right.setdefault(item.id, {"completion": answer["text"]})
        if answer["probe"] in SAMPLED:
            samples.setdefault(item.id, {True: [], False: []})[good].append(answer["text"])
    return {"sft": list(_rows(right, by_id, path)), "preferences": list(_rows(_pairs(samples), by_id, path))}


def _pairs(samples: dict[str, dict[bool, list[str]]]) -> dict[str, dict[str, str]]:
    """The first good and the first bad sample of each item that has both."""
    return {
        item: {"chosen": found[True][0], "rejected": found[False][0]}
        for item, found in samples.items()
        if found[True] and found[False]
    }


def _rows(found: dict[str, dict[str, str]], items: dict[str, EvalItem], path: Path) -> Iterator[RawRow]:
    for item_id, answers in found.items():
        item = items[item_id]
        prompt = [{"role": role, "content": text} for role, text in item.turns]
        row = {"id": item_id, "slice": list(item.slices), "prompt": prompt, "target": next(iter(item.targets), None)}
        yield row | answers, f"{path}: {item_id}"
