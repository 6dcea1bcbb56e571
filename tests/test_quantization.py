"""QLoRA: the base in 4 bits, in all three commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_verb

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.models.hf import HFModel
from diagnose.models.weights import load_base
from diagnose.records import Prompt

MODEL = ROOT / "tests" / "data" / "demo" / "model"
DATA = ROOT / "tests" / "data" / "demo"


def model(**settings: object) -> ModelConfig:
    return ModelConfig(path=str(MODEL), dtype="float32", device="cpu", **settings)  # type: ignore[arg-type]


def test_the_base_is_packed_and_answers_nearly_as_before() -> None:
    whole, packed = load_base(model(), "cpu"), load_base(model(quantization="nf4"), "cpu")
    assert packed.get_memory_footprint() < 0.5 * whole.get_memory_footprint()
    prompt = Prompt((("user", "What is the home of Trizoster?"),))
    ids = torch.tensor([HFModel(model()).encode(prompt)])
    with torch.no_grad():
        exact, near = (torch.softmax(network(ids).logits[0, -1].float(), -1) for network in (whole, packed))
    assert not torch.equal(exact, near) and float((exact - near).abs().sum()) < 0.5


def test_a_file_that_is_packed_already_and_an_unknown_way_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"model.quantization=nf4: .* is a GGUF file; leave it out"):
        load_base(ModelConfig(path=str(tmp_path / "m.gguf"), quantization="nf4"), "cpu")
    done = run_verb("diagnose", "model.quantization=int3")
    assert done.returncode == 2 and "model.quantization=int3: allowed: nf4" in done.stderr


@pytest.mark.parametrize(("method", "slices"), [("sft", "stone_json"), ("dpo", "craft_tone")])
def test_an_adapter_is_trained_on_the_packed_base(
    method: str, slices: str, demo_diagnosis: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = ["lora=qlora", f"data.slices=[{slices},home_known]", "method.args.max_steps=60", f"out={out}"]
    done = run_verb("train", f"diagnosis={demo_diagnosis}", f"method={method}", "wandb.mode=disabled", *settings)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["model"]["quantization"] == "nf4" and record["lora"]["r"] == 16
    curve = record["metrics"][method]["curve"]
    assert max(look["slices"][slices] for look in curve[1:]) > curve[0]["slices"][slices]
