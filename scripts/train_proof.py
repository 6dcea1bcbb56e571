"""Does training teach real models a real task? The intent of a spoken command as one word: 700 commands, seven intents.

    python -m scripts.get_model smollm2-135m
    GAPWISE_DATA=DIR python -m scripts.train_proof --stories DIR     # about 30 minutes on 2 CPU cores; resumes
    GAPWISE_DATA=DIR python -m scripts.train_proof --only smollm2-135m

DIR of the data holds snips/ (conf/evalset/snips_words.yaml names its source), DIR of the stories is
karpathy/stories260K. Rows whose command is in the eval set are dropped before training.

Writes scripts/results/train_proof.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

from scripts.prove_demo import RESULTS, ROOT, call, read

TASK = ("evalset=snips_words", "data=snips_words", "evalset.limit=null", "probes.enabled=[plain]")
MODELS: dict[str, tuple[str, ...]] = {
    # Its checkpoint names an end token that it never writes; its stories end with a full stop.
    "stories260k": ("model=stories260k", "model.eos_token='<s>'", "model.stop=['.']"),
    "smollm2-135m": ("model=smollm2_135m", "model.max_new_tokens=16"),
}
QUIET = "wandb.mode=disabled"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS), help="some of the models")
    parser.add_argument("--stories", type=Path, help="directory of stories260K")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "train_proof", help="directory for the runs")
    args = parser.parse_args()
    if "stories260k" in args.only and args.stories is None:
        parser.error("--stories: missing; expected the directory of karpathy/stories260K")
    path = RESULTS / "train_proof.json"
    results = read(path) if path.exists() else {}
    for name in args.only:
        model = (*MODELS[name], *([f"model.path={args.stories}"] if name == "stories260k" else []))
        results[name] = proven(model, args.out / name)
        print(f"{name:<13} {line(results[name])}", flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def proven(model: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Diagnose, train and compare, each unless it is done."""
    diagnosis, run, comparison = out / "diagnosis", out / "sft", out / "comparison"
    if not (diagnosis / "diagnosis.json").exists():
        call("diagnose.py", *model, *TASK, f"out={diagnosis}", QUIET)
    if not (run / "run.json").exists() or read(run / "run.json")["status"] != "finished":
        started = time.monotonic()
        call("train.py", f"diagnosis={diagnosis}", "method=sft", f"out={run}", QUIET)
        (out / "seconds").write_text(f"{time.monotonic() - started:.0f}")
    if not (comparison / "comparison.json").exists():
        call("eval.py", f"diagnosis={diagnosis}", f"runs={run}", f"out={comparison}", QUIET)
    record, delta = read(run / "run.json"), read(comparison / "comparison.json")["runs"][0]["slices"][0]
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "commit": record["commit"],
        "rows": record["data"]["sft"]["rows"],
        "steps": record["metrics"]["sft"]["steps"],
        "training_s": int((out / "seconds").read_text()),
        **{key: delta[key] for key in ("n", "before", "after", "delta", "low", "high")},
    }


def line(found: dict[str, Any]) -> str:
    """What was right before and after, with the interval of the difference."""
    interval = f"[{found['low']:+.3f}, {found['high']:+.3f}]"
    steps = f"{found['steps']} steps in {found['training_s']} s"
    return f"{found['before']:.3f} -> {found['after']:.3f} of {found['n']} {interval}, {steps}"


if __name__ == "__main__":
    sys.exit(main())
