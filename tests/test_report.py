"""What a model wrote changes nothing in the page or the terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import planted_rows

from diagnose.console import safe
from diagnose.report import render_report

NASTY = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "\u202egnirts",
    "{{ 7*7 }}",
    "a" * 2000,
]


@pytest.fixture
def diagnosis(diagnose_scripted: Any) -> Any:
    found = diagnose_scripted(planted_rows({"healthy": ["none"] * 30, "unknown": ["absent"] * 30}))
    run = {"config": {"model": {"path": "m"}, "evalset": {"path": "e"}}, "command": ["diagnose.py"], "commit": None}
    run |= {"seed": 0, "dirty": False, "python": "3.11", "versions": {}, "device": "cpu"}
    return replace(found, run=run)


@pytest.mark.parametrize("text", NASTY)
def test_model_text_is_inert_in_the_page(diagnosis: Any, text: str) -> None:
    first = replace(diagnosis.slices[0], evidence=[{"item": text, "probe": "plain", "text": text}], slice=text)
    page = render_report(replace(diagnosis, slices=[first, *diagnosis.slices[1:]]))
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page and "\u202e" not in page
    if text == "{{ 7*7 }}":
        assert "{{ 7*7 }}" in page


@pytest.mark.parametrize("text", NASTY)
def test_model_text_is_inert_in_the_terminal(text: str) -> None:
    shown = safe(text + "[bold]x[/bold]")
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "\\[bold]" in shown


def test_the_page_shows_every_slice_its_verdict_and_the_advice(diagnosis: Any) -> None:
    page = render_report(diagnosis)
    for v in diagnosis.slices:
        assert v.slice in page and v.verdict in page
    for r in diagnosis.recommendations:
        assert r.method in page and r.would_flip.split(":")[0][:20] in page.replace("&#39;", "'")
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_a_number_that_is_missing_is_null_not_nan(diagnosis: Any) -> None:
    assert "NaN" not in diagnosis.to_json()


def test_secrets_do_not_reach_a_file(tmp_path: Path) -> None:
    from diagnose.provenance import hide

    assert hide("model.api_key=sk-123") == "model.api_key=***"
    assert hide("+wandb.token=abc") == "+wandb.token=***"
    assert hide("model.eos_token=<s>") == "model.eos_token=<s>"
    assert hide("model.max_new_tokens=3") == "model.max_new_tokens=3"
