"""What a merge keeps of the runs that went into it, and whether sending each slice to its own run would do better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from eval.compare import clusters_of, paired_interval
from eval.measure import Measurement
from train.records import TrainingRun

MARGIN = 0.05
"""Loss against the run's own adapter that is no loss (hand-set)."""


def retention(
    runs: list[tuple[Path, TrainingRun]], base: Measurement, measured: dict[str, Measurement]
) -> list[dict[str, Any]]:
    """For every merge, the slices that a compared run of it was trained on and improved.

    Each row: what that run gained over the base, and how much of it the merge has, with a 95 % interval: that of the
    paired difference between merge and run (eval.compare), in units of the run's gain, which is taken as it is. `own`
    is also what routing gives: each slice answered by its own run.
    """
    known = {path.resolve(): (str(path), record) for path, record in runs}
    rows = []
    for path, record in runs:
        for parent in (record.merge or {}).get("runs", ()):
            found = known.get(Path(parent).resolve())
            if found is None:
                continue
            name, of = found
            for slice_ in sorted({s for part in of.data.values() for s in part["rows"] if s}):
                trained = [*record.excluded_items, *of.excluded_items]
                three = (m.without(trained) for m in (base, measured[name], measured[str(path)]))
                if row := _row(slice_, *three):
                    rows.append({"merge": str(path), "parent": name, "slice": slice_} | row)
    return rows


def _row(name: str, base: Measurement, parent: Measurement, merged: Measurement) -> dict[str, Any] | None:
    members = [i for i in base.items.values() if name in i.slices]
    found = [[m.success(i.id) for m in (base, parent, merged)] for i in members]
    success = np.array([row for row in found if None not in row], float)
    clusters = clusters_of([i for i, row in zip(members, found, strict=True) if None not in row])
    if not len(success) or paired_interval(success[:, :2], 0.95, clusters)[0] <= 0:
        return None
    before, own, after = success.mean(0)
    gain, (low, high) = own - before, paired_interval(success[:, 1:], 0.95, clusters)
    one_sided = paired_interval(success[:, 1:], 0.9, clusters)
    return {
        "n": len(success),
        "before": float(before),
        "own": float(own),
        "merged": float(after),
        "retention": {
            "ratio": float((after - before) / gain),
            "low": float(1 + low / gain),
            "high": float(1 + high / gain),
        },
        "verdict": "kept" if one_sided[0] > -MARGIN else "lost" if one_sided[1] < -MARGIN else "unsure",
    }
