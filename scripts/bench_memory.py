"""Peak memory with 100,000 items and a scripted model, from reading the eval set to the report.

python -m scripts.bench_memory               # prints and writes scripts/results/bench_memory.json
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from diagnose.adaptive import spend
from diagnose.config import DiagnoseConfig, EvalSetConfig, RuleConfig
from diagnose.items.evalset import read_evalset
from diagnose.models.base import Completion, Constraint, Score
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import Judges
from diagnose.probes.table import Probe
from diagnose.provenance import provenance
from diagnose.records import DiagnosisRun, EvalItem, Prompt
from diagnose.report.html import render_report
from diagnose.run import conclude

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).resolve().parent / "results" / "bench_memory.json"
LIMIT_GB = 1.5


class Scripted:
    """Answers three items in four correctly, and every probe of the others with `nothing`."""

    batch_size = 1024
    max_new_tokens = 16
    device = "scripted"
    fingerprint = None
    lacks: frozenset[Probe] = frozenset()
    prompt_format: dict[str, Any] = {"scripted": True}

    def check(self, items: Sequence[EvalItem]) -> None:
        pass

    def check_end_token(self, items: Sequence[EvalItem], seed: int) -> None:
        pass

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        return True

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        constraints: Sequence[Constraint] | None = None,
    ) -> list[list[Completion]]:
        return [[Completion(self._say(p), 3, "stop")] * n for p in prompts]

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        return [Score(-float(len(c)), 1) for c in continuations]

    def _say(self, prompt: Prompt) -> str:
        number = int(prompt.turns[-1][1].rsplit(" ", 1)[1].rstrip("?"))
        return f"value {number % 97}" if number % 4 else "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--slices", type=int, default=50)
    args = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "evalset.jsonl"
        with path.open("w") as handle:
            for k in range(args.items):
                handle.write(json.dumps(row(k, args.slices)) + "\n")
        rule = RuleConfig(**yaml.safe_load((ROOT / "conf" / "rule" / "default.yaml").read_text()))
        config = DiagnoseConfig(evalset=EvalSetConfig(path=str(path)), rule=rule, out=folder)
        evalset, judges = read_evalset(config.evalset), Judges(config.judge)
        log = AnswerLog(Path(folder) / "answers.jsonl", 0, read=judges.read)
        evalset = spend(Scripted(), evalset, config.probes, config.rule, log, judges)
        shown = {"model": {"path": "scripted"}, "evalset": {"path": "rows"}}
        record = DiagnosisRun(
            **provenance(config) | {"config": shown},
            identity={},
            fingerprint=None,
            prompt_format={},
            prompt_format_sha="",
        )
        page = render_report(conclude(config, evalset, log, record, {})[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - start
    found = {
        "items": args.items,
        "peak_gb": round(peak, 2),
        "limit_gb": LIMIT_GB,
        "seconds": round(seconds),
        "report_kb": len(page) >> 10,
    }
    print(" · ".join(f"{key} {value}" for key, value in found.items()))
    where = {"cpu": platform.machine(), "python": platform.python_version()}
    RESULT.write_text(json.dumps({"command": vars(args), "machine": where, "found": found}, indent=1) + "\n")


def row(k: int, slices: int) -> dict[str, Any]:
    others = [f"value {(k + j) % 97}" for j in range(1, 4)]
    return {
        "id": str(k),
        "slice": f"slice {k % slices}",
        "prompt": f"What is the value of {k}?",
        "target": f"value {k % 97}",
        "distractors": others,
        "context": f"The value of {k} is value {k % 97}.",
        "statement": f"The value of {k}? is",
    }


if __name__ == "__main__":
    main()
