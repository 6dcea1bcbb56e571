"""The comparison as one self-contained HTML file, everything escaped. A leaf module, like diagnose.report."""

from __future__ import annotations

import shlex
from pathlib import Path

from diagnose.report.html import HERE as STYLE
from diagnose.report.html import environment
from eval.console import delta_text, p_text, retained_text
from eval.records import Comparison

HERE = Path(__file__).resolve().parent


def render_report(comparison: Comparison) -> str:
    """Render the page."""
    env = environment(HERE)
    env.filters |= {"delta": delta_text, "p_text": p_text, "retained": retained_text}
    command = "python " + " ".join(shlex.quote(part) for part in comparison.provenance["command"])
    css = (STYLE / "report.css").read_text(encoding="utf-8")
    return env.get_template("report.html.j2").render(c=comparison, css=css, command=command)
