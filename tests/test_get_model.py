"""The model's directory is there as a whole or not at all; the package comes from an index in a local directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from conftest import ROOT
from gguf_writer import write_gguf

from diagnose.config import ModelConfig
from diagnose.errors import BadInput, RunFailed
from diagnose.models.hf import HFModel
from diagnose.provenance import file_sha
from scripts import get_model

MODEL = ROOT / "tests" / "data" / "demo" / "model"
METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: needs-what-nobody-has\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
NAME = "tiny"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the model shall be; a package of the demo model is in the index."""
    gguf = write_gguf(MODEL, tmp_path / "tiny.gguf")
    index = tmp_path / "index"
    index.mkdir()
    with ZipFile(index / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(gguf, "tiny_model/tiny.gguf")
        for file, text in (("LICENSE", "Do as you like."), ("METADATA", METADATA), ("WHEEL", WHEEL), ("RECORD", "")):
            wheel.writestr(f"tiny_model-1.0.dist-info/{file}", text)
    source = get_model.Source(
        package="tiny-model==1.0",
        gguf="tiny_model/tiny.gguf",
        sha256=file_sha(gguf),
        licence="Apache-2.0",
        licence_file="tiny_model-1.0.dist-info/LICENSE",
        conf="smollm2_135m",
    )
    monkeypatch.setitem(get_model.MODELS, NAME, source)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(index), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return tmp_path / "models" / NAME


def left(folder: Path) -> list[str]:
    """Everything in the directory of the models, hidden files too."""
    return sorted(path.name for path in folder.parent.iterdir()) if folder.parent.exists() else []


def test_the_directory_is_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get_model.get(NAME, folder)
    said = capsys.readouterr().out
    assert left(folder) == [NAME]
    assert "from tiny-model==1.0" in said and "licence Apache-2.0" in said
    assert f"sha256 {file_sha(folder / 'model.safetensors')}" in said
    assert said.endswith("next: python diagnose.py model=smollm2_135m evalset.path=F.jsonl\n")
    assert (folder / "LICENSE").read_text() == "Do as you like."
    made, original = (HFModel(ModelConfig(path=str(p), dtype="float32", device="cpu")) for p in (folder, MODEL))
    assert made.tokenizer.chat_template == original.tokenizer.chat_template
    assert made.ends == original.ends and made.tokenizer.eos_token == "<|end|>"
    split = made.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n12")
    assert [piece for piece, _ in split] == ["a", "ĊĊ", "1", "2"]
    ids = torch.tensor([[1, 10, 20, 30]])
    with torch.no_grad():
        assert torch.equal(made.network(ids).logits, original.network(ids).logits)


def test_a_second_call_does_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(get_model, "download", never)
    get_model.get(NAME, folder)
    assert "already there, nothing to do" in capsys.readouterr().out
    assert left(folder) == [NAME] and left(folder / "x") == ["config.json"]


def test_a_failed_download_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder.parent / "nowhere"))
    with pytest.raises(RunFailed, match="tiny-model==1.0: cannot be downloaded: .*No matching distribution.*; check"):
        get_model.get(NAME, folder)
    assert left(folder) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sha256": "0" * 64}, "has sha256 .*, expected 000"),
        ({"gguf": "tiny_model/other.gguf"}, "not the expected package: .*other.gguf"),
    ],
)
def test_another_package_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], says: str
) -> None:
    monkeypatch.setitem(get_model.MODELS, NAME, replace(get_model.MODELS[NAME], **change))
    with pytest.raises(RunFailed, match=says):
        get_model.get(NAME, folder)
    assert left(folder) == []


def test_without_gguf_nothing_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInput, match="pip install gguf"):
        get_model.get(NAME, folder)
    assert left(folder) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from scripts import get_model

def killed(source, gguf, folder):
    (folder / "config.json").write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)

get_model.MODELS["tiny"] = get_model.Source(*sys.argv[2:])
get_model.convert = killed
get_model.get("tiny", Path(sys.argv[1]))
"""


def test_a_killed_conversion_is_not_taken_for_whole(folder: Path) -> None:
    source = get_model.MODELS[NAME]
    fields = [source.package, source.gguf, source.sha256, source.licence, source.licence_file, source.conf]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), *fields], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not folder.exists() and left(folder) == [f".{NAME}.part"]
    get_model.get(NAME, folder)
    assert left(folder) == [NAME] and (folder / "model.safetensors").is_file()
