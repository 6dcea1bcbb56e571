"""A real pretrained model and real data through all three verbs; skipped where they are absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import ROOT, run_verb

DATA = Path(os.environ.get("GAPWISE_DATA", ROOT.parent / "shared" / "data"))
MODEL = Path(os.environ.get("GAPWISE_MODELS", ROOT.parent / "shared" / "models")) / "stories260K"
ENV = {"GAPWISE_DATA": str(DATA)}
COMMON = ["model=stories260k", f"model.path={MODEL}", "wandb.mode=disabled"]

pytestmark = pytest.mark.skipif(
    not (MODEL.is_dir() and (DATA / "snips").is_dir()),
    reason="needs karpathy/stories260K in GAPWISE_MODELS and snips in GAPWISE_DATA",
)


def test_the_wrong_end_token_is_named_before_probing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_verb("diagnose", *COMMON, "evalset=snips_words", f"out={out}", env=ENV)
    assert done.returncode == 3
    assert "'</s>'" in done.stderr and "model.eos_token='<s>'" in done.stderr
    assert not out.exists()


def test_a_limit_that_cuts_the_wanted_answer_is_named(tmp_path: Path) -> None:
    short = ["model.eos_token='<s>'", "model.max_new_tokens=8", "evalset=snips_json", f"out={tmp_path / 'out'}"]
    done = run_verb("diagnose", *COMMON, *short, env=ENV)
    assert done.returncode == 2
    assert "model.max_new_tokens=8: too short" in done.stderr


def test_stories_that_are_cut_off_say_nothing_about_what_is_known(tmp_path: Path) -> None:
    sets = ["evalset=snips_words", "data=snips_words", "model.eos_token='<s>'", f"out={tmp_path / 'out'}"]
    done = run_verb("diagnose", *COMMON, *sets, env=ENV)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())["slices"][0]
    assert (found["verdict"], found["unread"]) == ("insufficient", {"cut_off": 96})
    assert "content" not in found["missing"], "the answers are graded; they could not be read"
    assert "next        the same command with model.max_new_tokens=128" in done.stdout


@pytest.mark.parametrize(
    ("kind", "lora", "reached"),
    [
        ("words", ["method.args.max_steps=200"], 0.8),
        ("json", ["lora.modules_to_save=[embed_tokens,lm_head]", "method.args.max_steps=300"], 0.8),
    ],
)
def test_the_whole_loop(tmp_path: Path, kind: str, lora: list[str], reached: float) -> None:
    diagnosis, run, out = tmp_path / "diagnosis", tmp_path / "run", tmp_path / "comparison"
    sets = [f"evalset=snips_{kind}", f"data=snips_{kind}", "model.eos_token='<s>'", "probes.more_samples=0"]
    readable = ["model.stop=['.']", "model.max_new_tokens=96"]
    done = run_verb("diagnose", *COMMON, *sets, *readable, f"out={diagnosis}", env=ENV)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((diagnosis / "diagnosis.json").read_text())["slices"][0]
    assert (found["verdict"], found["kind"]) == ("knowledge", "unresolved")
    done = run_verb(
        "train", f"diagnosis={diagnosis}", "method=sft", f"out={run}", "wandb.mode=disabled", *lora, env=ENV
    )
    assert done.returncode == 0, done.stderr[-2000:]
    done = run_verb("eval", f"diagnosis={diagnosis}", f"runs={run}", f"out={out}", "wandb.mode=disabled", env=ENV)
    assert done.returncode == 0, done.stderr[-2000:]
    delta = json.loads((out / "comparison.json").read_text())["runs"][0]["slices"][0]
    assert delta["before"] < 0.05
    assert delta["after"] > reached
