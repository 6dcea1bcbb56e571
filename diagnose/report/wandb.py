"""W&B: one run per job, explicit about everything, and nothing written outside the outputs directory."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diagnose.config import WandbConfig
from diagnose.records import Diagnosis, Rate, SliceVerdict
from diagnose.redact import redacted, redacted_text
from diagnose.report.words import gap, gap_interval

FILES = ("report.html", "report.md", "diagnosis.json")
SLICE_COLUMNS = [
    *("slice", "n", "verdict", "kind", "p_verdict", "needs_items"),
    *("strict", "strict_low", "strict_high", "lenient", "lenient_low", "lenient_high", "gap", "gap_low", "gap_high"),
]


def start_run(settings: WandbConfig, *, group: str, job_type: str, name: str, config: dict[str, Any], out: Path) -> Any:
    """wandb.init with every directory of its own named by us.

    Returns:
        The W&B run, or None when disabled or when W&B refuses (said on stderr): tracking never costs a result.
    """
    if settings.mode == "disabled":
        return None
    home = wandb_home(out)
    for variable in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        os.environ[variable] = str(home / "wandb" / "home")
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    (home / "wandb" / "home").mkdir(parents=True, exist_ok=True)
    try:
        return _init(settings, group, job_type, name, config, home)
    except wandb.Error as error:
        print(f"wandb: not tracked: {error}", file=sys.stderr)
        return None


def _init(settings: WandbConfig, group: str, job_type: str, name: str, config: dict[str, Any], home: Path) -> Any:
    import wandb

    with _argv_redacted():
        return wandb.init(
            project=settings.project,
            group=settings.group or group,
            job_type=job_type,
            name=name,
            mode=settings.mode,  # type: ignore[arg-type]
            dir=str(home),
            config=redacted(config),
            reinit="finish_previous",
        )


@contextmanager
def _argv_redacted() -> Iterator[None]:
    """W&B keeps the command line, which may hold a password, and has no setting that says what it should keep."""
    typed, sys.argv = sys.argv, [*map(redacted_text, sys.argv)]
    try:
        yield
    finally:
        sys.argv = typed


def wandb_home(out: Path) -> Path:
    """`outputs/`, shared by all runs in it so that one `wandb leet outputs/wandb` shows a sweep; else the run's own."""
    shared = Path("outputs").resolve()
    return shared if shared in out.resolve().parents else out.resolve()


def log_diagnosis(settings: WandbConfig, diagnosis: Diagnosis, out: Path) -> None:
    """One W&B run: slices, mixtures, gaps as bars, the report as a page and as files, and the advice in the summary."""
    config = {
        "model": diagnosis.run["config"]["model"],
        "evalset": diagnosis.evalset["sha256"],
        "seed": diagnosis.run["seed"],
    }
    run = start_run(settings, group=diagnosis.decision_id, job_type="diagnose", name=out.name, config=config, out=out)
    if run is None:
        return
    import wandb

    slices = wandb.Table(columns=SLICE_COLUMNS, data=[_slice_row(v) for v in diagnosis.slices])
    mixtures = wandb.Table(columns=["slice", "class", "mean", "low", "high"], data=_mixture_rows(diagnosis.slices))
    gaps = wandb.plot.bar(slices, "slice", "gap", title="Share of items with a gap (posterior mean)")
    page = {"report": wandb.Html(str(out / "report.html"), inject=False)} if (out / "report.html").exists() else {}
    run.log({"slices": slices, "mixtures": mixtures, "gaps": gaps} | page)
    for path in [out / name for name in FILES if (out / name).exists()]:
        # A copy, because W&B would link to `out`, and a link is lost when either of the two moves before `wandb sync`.
        copy = shutil.copy(path, run.dir)
        run.save(copy, base_path=run.dir, policy="now")
    run.summary.update(_summary(diagnosis))
    run.finish()


def _slice_row(v: SliceVerdict) -> list[Any]:
    low, high = gap_interval(v) or (None, None)
    head = [v.slice, v.n, v.verdict, v.kind, v.p_verdict, v.needs_items]
    return [*head, *_bounded(v.strict), *_bounded(v.lenient), gap(v), low, high]


def _bounded(rate: Rate) -> list[float | None]:
    return [rate.k / rate.n if rate.n else None, rate.low, rate.high]


def _mixture_rows(slices: list[SliceVerdict]) -> list[list[Any]]:
    """A row per slice and class that the data can tell apart."""
    return [[v.slice, c, v.mixture[c], *bounds] for v in slices for c, bounds in v.interval90.items()]


def _summary(diagnosis: Diagnosis) -> dict[str, Any]:
    """`SLICE/verdict`, `SLICE/method` and so on, so that runs can be sorted and filtered by them."""
    out: dict[str, Any] = {}
    for v in diagnosis.slices:
        out |= {f"{v.slice}/verdict": v.verdict, f"{v.slice}/kind": v.kind}
        out |= {f"{v.slice}/p_verdict": v.p_verdict, f"{v.slice}/gap": gap(v)}
    for r in diagnosis.recommendations:
        for name in r.slices:
            lift = r.lifts[name].get(r.train_method or r.method, {}).get("mean")
            out |= {f"{name}/method": r.method, f"{name}/train_method": r.train_method, f"{name}/lift": lift}
            out[f"{name}/why"] = r.why
    first = next((r for r in diagnosis.recommendations if r.train_method), None)
    return out | {"next": first.command if first else None}
