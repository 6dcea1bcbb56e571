"""Which parts of the diagnosis keep it from being fooled: the adversarial slices judged again with a part left out.

The ablations of scripts.planted.table are about slices without tricks, where most parts show no effect. A part that
shows none here either is one to delete. No model is asked: the answers are those that the adversarial runs recorded.

    python -m scripts.planted.defences          # after scripts.planted.adversarial: about 10 minutes on 2 CPU cores

Writes scripts/results/defences.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from diagnose.config import EvalSetConfig, ProbesConfig
from diagnose.items.evalset import read_evalset
from diagnose.probes.answers import AnswerLog
from diagnose.probes.table import PROBES
from diagnose.provenance import write_json
from diagnose.verdict.calibration import calibrated
from diagnose.verdict.controls import grader_controls
from diagnose.verdict.decide import verdicts
from diagnose.verdict.mixture import attribute
from scripts.planted.adversarial import CLAIMED
from scripts.planted.slices import shipped_rule
from scripts.planted.table import ABLATIONS, FULL, RESULTS, Variant, names_of, ruled
from scripts.planted.traps import TRAPS

BY_NAME = {trap.name: trap for trap in TRAPS}
VARIANTS = (FULL, *(v for v in ABLATIONS if v.pooled))
Job = tuple[Path, Variant]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/planted"), help="directory of the bases")
    parser.add_argument("--result", default="defences", help="name of the file in scripts/results")
    args = parser.parse_args()
    runs = newest(args.out)
    jobs = [(run, variant) for variant in VARIANTS for run in runs]
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(rejudged, jobs))
    rows = {}
    for variant in VARIANTS:
        said = [s for (_, v), part in zip(jobs, found, strict=True) if v is variant for s in part]
        wrong = [s["trap"] for s in said if s["wrong"]]
        rows[variant.name] = {
            "slices": len(said),
            "wrong": len(wrong),
            "verdicts": sum(s["verdict"] != "insufficient" for s in said),
            "right": sum(s["verdict"] != "insufficient" and not s["wrong"] for s in said),
            "traps": {name: wrong.count(name) for name in sorted(set(wrong))},
        }
        print(f"{variant.name:<26} wrong {rows[variant.name]['wrong']:>3}  right {rows[variant.name]['right']:>3}")
    command = " ".join(["python -m scripts.planted.defences", *sys.argv[1:]])
    write_json(RESULTS / f"{args.result}.json", {"command": command, "variants": rows})
    return 0


def newest(out: Path) -> list[Path]:
    """The latest finished run of each model and limit, on every base."""
    finished = sorted(out.glob("*/adversarial/*/run/diagnosis.json"), key=lambda path: path.stat().st_mtime)
    latest = {(p.parents[3], p.parents[1].name.rpartition("-")[0]): p.parent for p in finished}
    return list(latest.values())


def rejudged(job: Job) -> list[dict[str, Any]]:
    """The verdicts on the slices of a run, without what the variant leaves out."""
    run, variant = job
    config = json.loads((run / "run.json").read_text())["config"]
    evalset = read_evalset(EvalSetConfig(**config["evalset"]))
    log, hidden = AnswerLog(run / "answers.jsonl", seed=0), names_of(variant)
    log = log.part({i.id for i in evalset.items}, {p for p in log.probes if p not in hidden})
    settings = ProbesConfig(enabled=[p for p in PROBES if p != variant.without])
    rule = ruled(calibrated(shipped_rule()), variant)
    found = attribute(evalset, log, settings, rule, np.random.default_rng(0))
    out = []
    for v in verdicts(evalset, log, found, rule, grader_controls(evalset.items, log)):
        trap = BY_NAME[v.slice.rpartition(" ")[0]]
        wrong = v.p_verdict >= CLAIMED and trap.wrong(v.verdict, v.kind)
        out.append({"trap": trap.name, "verdict": v.verdict, "wrong": wrong})
    return out


if __name__ == "__main__":
    sys.exit(main())
