"""report.html: one file, no network, everything a model wrote escaped. A leaf: imported by `run` and nothing else."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from diagnose.console import interval, short, verdict_text
from diagnose.records import CLASSES, Diagnosis

HERE = Path(__file__).resolve().parent
LABELS = dict(
    zip(
        CLASSES,
        ("no gap", "format", "knowledge · latent", "knowledge · absent", "knowledge · skill", "preference"),
        strict=True,
    )
)
STEPS = {
    "strict": "right as asked",
    "lenient": "right content, wrong form",
    "shaped": "right after exemplars",
    "sampled": "right in some sample",
    "given": "right with the context",
    "rest": "never right",
}


def environment(folder: Path) -> Environment:
    """Jinja with escaping always on and our number formats."""
    env = Environment(
        loader=FileSystemLoader(folder), autoescape=select_autoescape(default=True), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {"short": short, "visible": visible}
    return env


def visible(text: str) -> str:
    """Control and direction characters shown as symbols, so that a model's text cannot reorder or hide the page's."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def render_report(diagnosis: Diagnosis) -> str:
    """The whole page."""
    slices: list[dict[str, Any]] = [
        {
            "v": v,
            "verdict": verdict_text(v),
            "strict": interval(v.strict),
            "mixture": [(c, LABELS[c], v.mixture[c] or 0.0, v.interval90.get(c)) for c in CLASSES],
            "waterfall": [(name, STEPS[name], share) for name, share in v.waterfall.items()],
            "items": _by_item(v.evidence),
        }
        for v in diagnosis.slices
    ]
    command = "python " + " ".join(shlex.quote(part) for part in diagnosis.run["command"])
    template = environment(HERE).get_template("report.html.j2")
    return template.render(d=diagnosis, slices=slices, labels=LABELS, command=command)


def _by_item(evidence: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    out: dict[str, list[dict[str, str]]] = {}
    for row in evidence:
        out.setdefault(row["item"], []).append(row)
    return out
