"""The whole loop on the demo, as shown in the README: verdicts over seeds, what training improved and what it broke.

    python -m scripts.prove_demo                  # about 25 minutes on 2 CPU cores; resumes if interrupted
    python -m scripts.prove_demo --seeds 1        # one training seed

Writes scripts/results/prove_demo.json, prove_demo.md and prove_demo.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "scripts" / "results"
TRUTH = ROOT / "tests" / "data" / "demo" / "truth.json"
DIAGNOSIS_SEEDS = 5
GUARD = "home_known"
ARMS = (("stone_json", "sft"), ("craft_tone", "sft"), ("craft_tone", "dpo"), ("craft_tone", "rlhf"))
KNOWLEDGE = (("home_latent", "sft"), ("home_absent", "sft"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds per arm")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "prove", help="directory for the runs")
    args = parser.parse_args()
    verdicts = [diagnose(args.out, seed) for seed in range(DIAGNOSIS_SEEDS)]
    for seed in range(args.seeds):
        for target, method in (*ARMS, *KNOWLEDGE):
            train(args.out, target, method, seed)
    comparison = compare(args.out)
    result: dict[str, Any] = {
        "command": f"python -m scripts.prove_demo --seeds {args.seeds}",
        "machine": {"cpu": platform.processor() or platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "verdicts": verdicts,
        "lifts": lifts(comparison),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "prove_demo.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "prove_demo.md").write_text(markdown(result))
    draw(read(args.out / "diagnose_0" / "diagnosis.json"), result["lifts"])
    print(markdown(result))
    return 0 if all(v["right"] == v["slices"] for v in verdicts) else 1


def diagnose(out: Path, seed: int) -> dict[str, Any]:
    """Run the diagnosis with one seed and compare it with the ground truth."""
    folder, started = out / f"diagnose_{seed}", time.monotonic()
    if not (folder / "diagnosis.json").exists():
        call("diagnose.py", f"out={folder}", f"seed={seed}", "wandb.mode=disabled")
        (folder / "seconds").write_text(f"{time.monotonic() - started:.1f}")
    truth, found = read(TRUTH), read(folder / "diagnosis.json")["slices"]
    right = [v["slice"] for v in found if {"verdict": v["verdict"], "kind": v["kind"]} == truth[v["slice"]]]
    return {"seed": seed, "right": len(right), "slices": len(found), "seconds": float((folder / "seconds").read_text())}


def train(out: Path, target: str, method: str, seed: int) -> None:
    """Train one run on the rows of a target slice and of the guard; every method gets the same rows."""
    folder = out / f"{target}_{method}_{seed}"
    if (folder / "run.json").exists() and read(folder / "run.json")["status"] == "finished":
        return
    rows = f"data.slices=[{target},{GUARD}]"
    call(
        "train.py",
        f"diagnosis={out / 'diagnose_0'}",
        f"method={method}",
        f"seed={seed}",
        rows,
        f"out={folder}",
        "wandb.mode=disabled",
    )


def compare(out: Path) -> dict[str, Any]:
    """Compare all runs on the items of the diagnosis."""
    folder = out / "comparison"
    runs = sorted(p.parent.name for p in out.glob("*/adapter"))
    if not (folder / "comparison.json").exists() or len(read(folder / "comparison.json")["runs"]) != len(runs):
        runs_of = f"runs={out}/*_*_[0-9]"
        call("eval.py", f"diagnosis={out / 'diagnose_0'}", runs_of, f"out={folder}", "wandb.mode=disabled")
    return read(folder / "comparison.json")


def lifts(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per run: its target slice and its guard."""
    rows = []
    for run in comparison["runs"]:
        by = {d["slice"]: d for d in run["slices"]}
        target = next(d for d in run["slices"] if d["role"] == "target")
        keys = (
            "slice",
            "n",
            "measure",
            "before",
            "after",
            "delta",
            "low",
            "high",
            "p_holm",
            "strict",
            "accepted",
            "predicted",
        )
        guard = {key: by[GUARD][key] for key in ("before", "after", "low", "high", "verdict")}
        rows.append(
            {
                "method": run["method"],
                "seed": run["seed"],
                "verdict": run["verdict"],
                "guard": guard,
                "guard_pooled": run["guard"],
            }
            | {key: target[key] for key in keys}
        )
    return rows


def markdown(result: dict[str, Any]) -> str:
    """The table of all runs as Markdown."""
    right, total = (sum(v[name] for v in result["verdicts"]) for name in ("right", "slices"))
    slowest = max(v["seconds"] for v in result["verdicts"])
    lines = [
        f"`{result['command']}`: verdict and kind correct for {right} of {total} slices over",
        f"{len(result['verdicts'])} seeds; the slowest diagnosis took {slowest:.0f} s. Before and after: share of the",
        "slice's items with an acceptable answer. Guard: the slice that must not change.",
        "",
        "| slice | method | seed | n | before | after | change, 95 % | predicted | guard | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["lifts"]:
        change = f"{r['delta']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]"
        guard = f"{r['guard']['before']:.2f} → {r['guard']['after']:.2f}"
        shares = f"{r['before']:.2f} | {r['after']:.2f} | {change} | {r['predicted']['mean']:+.2f} | {guard}"
        lines.append(f"| {r['slice']} | {r['method']} | {r['seed']} | {r['n']} | {shares} | {r['verdict']} |")
    return "\n".join(lines) + "\n"


def draw(diagnosis: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Left: the diagnosis. Right: the effect of training, every seed with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {
        "none": "#4c9a5b", "format": "#2f9fb3", "knowledge_latent": "#c9a0dc", "knowledge_absent": "#9a4fb5",
        "knowledge_skill": "#5e2a73", "preference": "#3b6fd4",
    }  # fmt: skip
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), width_ratios=(1, 1.1), layout="constrained")
    slices = diagnosis["slices"][::-1]
    start = [0.0] * len(slices)
    for name, colour in colours.items():
        shares = [v["mixture"][name] or 0.0 for v in slices]
        left.barh(
            range(len(slices)), shares, left=start, color=colour, label=name.replace("knowledge_", "knowledge · ")
        )
        start = [a + b for a, b in zip(start, shares, strict=True)]
    labels = [
        f"{v['slice']}\n{v['verdict']}{' · ' + v['kind'] if v['kind'] else ''}, P {v['p_verdict']:.2f}" for v in slices
    ]
    left.set_yticks(range(len(slices)), labels)
    left.set(title="Diagnosis: which gap each slice has", xlabel="share of items (posterior mean)", xlim=(0, 1))
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False, fontsize=8)

    arms = list(
        dict.fromkeys((r["slice"], r["method"]) for r in sorted(rows, key=lambda r: (r["slice"], r["method"])))
    )[::-1]
    for place, arm in enumerate(arms):
        mine = [r for r in rows if (r["slice"], r["method"]) == arm]
        for k, r in enumerate(mine):
            y = place + 0.16 * (k - (len(mine) - 1) / 2)
            low, high = r["before"] + r["low"], r["before"] + r["high"]
            right.plot([max(low, 0), min(high, 1)], [y, y], color="#9aa4ae", lw=1.5, zorder=1)
            right.scatter(r["before"], y, color="#c4442f", s=18, zorder=2, label="base" if place + k == 0 else None)
            right.scatter(
                r["after"],
                y,
                color="#4c9a5b",
                s=18,
                zorder=3,
                label="trained, with 95 % interval of the change" if place + k == 0 else None,
            )
    right.set_yticks(range(len(arms)), [f"{s} · {m}" for s, m in arms])
    right.set(
        title="Training, measured on the same items",
        xlabel="share of items with an acceptable answer",
        xlim=(-0.03, 1.03),
    )
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(RESULTS / "prove_demo.png", dpi=110)


def call(script: str, *overrides: str) -> None:
    print(f"python {script} {' '.join(overrides)}", flush=True)
    done = subprocess.run([sys.executable, str(ROOT / script), *overrides], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\nexit code {done.returncode}")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
