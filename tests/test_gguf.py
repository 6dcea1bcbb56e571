"""A GGUF file is a model like any other: same logits and tokens, through all three commands; broken ones are named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_verb
from gguf import GGMLQuantizationType
from gguf_writer import write_gguf

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.models.hf import HFModel
from diagnose.models.weights import load_tokenizer
from diagnose.records import Prompt

MODEL = ROOT / "tests" / "data" / "demo" / "model"
HOME = Prompt((("user", "What is the home of Bugibo?"),))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(MODEL, tmp_path_factory.mktemp("gguf") / "demo.gguf")


def load(path: Path, dtype: str = "float32") -> HFModel:
    return HFModel(ModelConfig(path=str(path), dtype=dtype, device="cpu", max_new_tokens=16))


@torch.no_grad()
def logits(model: HFModel) -> torch.Tensor:
    found: torch.Tensor = model.network(torch.tensor([model.encode(HOME)])).logits
    return found


def test_the_file_is_the_directory_it_was_written_from(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = load(file), load(MODEL)
    assert ours.encode(HOME) == theirs.encode(HOME)
    assert torch.equal(logits(ours), logits(theirs))
    assert ours.generate([HOME], ["0"]) == theirs.generate([HOME], ["0"])
    same = ("chat_template", "layout", "bos", "eos", "stop")
    assert {k: ours.prompt_format[k] for k in same} == {k: theirs.prompt_format[k] for k in same}
    assert not ours.network.is_quantized and not hasattr(ours.network.config, "quantization_config")
    load(file)
    assert capsys.readouterr().err.count("GGUF weights dequantised to float32") <= 1
    assert "Converting" not in capsys.readouterr().err


def test_it_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_gguf(MODEL, tmp_path / "fresh.gguf")
    load(path)
    load(path)
    assert capsys.readouterr().err == f"{path}: GGUF weights dequantised to float32\n"


@pytest.mark.parametrize(("kind", "off"), [(GGMLQuantizationType.Q8_0, 0.5), (GGMLQuantizationType.Q4_1, 5.0)])
def test_quantised_weights_are_close(tmp_path: Path, kind: GGMLQuantizationType, off: float) -> None:
    model = load(write_gguf(MODEL, tmp_path / "small.gguf", kind), "auto")
    assert model.network.dtype == torch.float32, "of blocks, auto makes float32"
    difference = (logits(model) - logits(load(MODEL))).abs().max().item()
    assert 0 < difference < off


def test_each_digit_is_split_off_as_the_model_was_trained(file: Path) -> None:
    """Of `\\n\\n1` GPT-2's rule alone makes two pieces of one line break each."""
    split = load_tokenizer(ModelConfig(path=str(file))).backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n12")
    assert [piece for piece, _ in split] == ["a", "ĊĊ", "1", "2"]


def test_files_beside_it_are_not_read(file: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "demo.gguf")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
        (tmp_path / name).write_text('{"eos_token_id": 5, "eos_token": "<|user|>", "model_type": "gpt2"}')
    assert load(tmp_path / "demo.gguf").prompt_format == load(file).prompt_format


def test_truncated_anywhere(file: Path, tmp_path: Path) -> None:
    whole, path = file.read_bytes(), tmp_path / "cut.gguf"
    for share in (0.0001, 0.001, 0.004, 0.01, 0.5, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadInput, match=r"^model.path=.*cut.gguf: .*; expected a complete GGUF file"):
            load(path)


def test_what_is_not_a_readable_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file; expected a directory .* a .gguf file"):
        load(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadInput, match="not a GGUF file; expected a complete GGUF file"):
        load(tmp_path / "text.gguf")
    other = write_gguf(MODEL, tmp_path / "other.gguf", architecture="zork")
    with pytest.raises(BadInput, match="zork .*not supported.*; expected .* of an architecture listed at https"):
        load(other)


def test_without_the_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInput, match=r"demo.gguf: needs the gguf package: pip install gguf"):
        load(file)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("outputs/models/zork-1b", "no such directory; `python -m scripts.get_model zork-1b` makes it"),
        ("outputs/other/zork-1b", "no such directory; expected a directory with config.json"),
    ],
)
def test_a_missing_directory_names_the_command_that_makes_it(path: str, says: str) -> None:
    with pytest.raises(BadInput) as found:
        load(Path(path))
    assert says in str(found.value)


METHODS = {
    "sft": ["method.args.max_steps=6", "data.slices=[stone_json]"],
    "rlhf": [
        "method.args.max_steps=1",
        "method.first.max_steps=4",
        "method.gate.accuracy=0",
        "data.slices=[craft_tone]",
    ],
}


def test_the_three_commands(file: Path, tmp_path: Path) -> None:
    base, runs = tmp_path / "diagnosis", tmp_path / "runs"
    cheap = ["evalset.limit=8", "probes.enabled=[plain]", "rule.sweeps=20", "rule.burn=10", "wandb.mode=disabled"]
    done = run_verb("diagnose", "model=demo", f"model.path={file}", *cheap, f"out={base}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("dequantised") == 1 and "Converting" not in done.stderr
    for method, short in METHODS.items():
        command = [f"diagnosis={base}", f"method={method}", *short, f"out={runs / method}", "wandb.mode=disabled"]
        done = run_verb("train", *command)
        # After one step nothing beats the base; nothing before that gate may fail.
        assert done.returncode == 0 or "no step beat the base" in done.stderr, done.stderr[-3000:]
        assert done.stderr.count("dequantised") == 1 and "Could not find" not in done.stderr
    about = json.loads((runs / "sft" / "adapter" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(file)
    done = run_verb("eval", f"diagnosis={base}", f"runs={runs}/sft", f"out={tmp_path / 'eval'}", "wandb.mode=disabled")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("dequantised") == 1
    compared = json.loads((tmp_path / "eval" / "comparison.json").read_text())
    assert (compared["base"]["model"], compared["runs"][0]["method"]) == (str(file), "sft")
