"""A base is told by what its weight files hold, and an adapter that asks in its own way is not asked in another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import run_verb
from gguf_writer import write_gguf
from safetensors.torch import load_file, save_file
from test_flow import save_adapter, training_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.models.adapter import adapter_sha, say_other_base
from diagnose.models.hf import HFModel
from diagnose.models.identity import base_sha
from diagnose.provenance import read_record, write_json
from diagnose.records import DiagnosisRun
from eval.run import find_runs
from train.config import read_diagnosis

DEMO = Path("tests/data/demo")
MODEL = DEMO / "model"
TEMPLATE = (MODEL / "chat_template.jinja").read_text()
WITHOUT_START = TEMPLATE.replace("{{ bos_token }}", "")
WITH_BREAK = TEMPLATE.replace("{% endgeneration %}", "\n{% endgeneration %}")
"""Asks in another way only behind the turns of examples."""
OTHER_TEMPLATE = "{% for m in messages %}### {{ m.role }}: {{ m.content }} {% endfor %}### answer:"


def copied(folder: Path, change: Callable[[dict[str, Any]], object] = lambda weights: None) -> Path:
    """The demo's model elsewhere, with some weights changed."""
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"written_by": "another tool"})
    return folder


def moved(weights: dict[str, Any]) -> None:
    """As little training as can be."""
    next(iter(weights.values()))[0, 0] += 1e-3


def halved(weights: dict[str, Any]) -> None:
    weights.update({name: tensor.bfloat16() for name, tensor in weights.items()})


def test_a_base_is_its_weights_not_its_path_or_its_shards(tmp_path: Path) -> None:
    known = base_sha(str(MODEL))
    assert base_sha(str(copied(tmp_path / "renamed"))) == known
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    model.save_pretrained(tmp_path / "shards", max_shard_size="2MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2 and base_sha(str(tmp_path / "shards")) == known
    assert len({known, *(base_sha(str(copied(tmp_path / c.__name__, c))) for c in (moved, halved))}) == 3


def test_a_gguf_file_is_its_tensors(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType

    first, again = (write_gguf(MODEL, tmp_path / f"{name}.gguf") for name in ("first", "again"))
    other = write_gguf(MODEL, tmp_path / "other.gguf", GGMLQuantizationType.Q8_0)
    changed = write_gguf(copied(tmp_path / "changed", moved), tmp_path / "changed.gguf")
    assert base_sha(str(first)) == base_sha(str(again))
    assert len({base_sha(str(file)) for file in (first, other, changed)}) == 3


WHOLE = (MODEL / "model.safetensors").read_bytes()
BROKEN = {
    "no file": None,
    "empty": b"",
    "no header": b"\xff" * 64,
    "a header of other things": b'\x08\0\0\0\0\0\0\0{"a": 1}',
    "a header that is a list": b"\x02\0\0\0\0\0\0\0[]",
    "the last bytes missing": WHOLE[:-10],
    "half": WHOLE[: len(WHOLE) // 2],
    "bytes behind its end": WHOLE + b"\0",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_weights_that_cannot_be_read_are_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    if content is not None:
        (tmp_path / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=r"its weights cannot be read"):
        base_sha(str(tmp_path / "model"))


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.99])
def test_a_gguf_file_that_is_cut_off_is_one_sentence(share: float, tmp_path: Path) -> None:
    file = write_gguf(MODEL, tmp_path / "cut.gguf")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadInput, match=r"its weights cannot be read"):
        base_sha(str(file))


def test_a_diagnosis_goes_on_with_a_copy_of_its_base_and_not_with_another(demo_diagnosis: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(demo_diagnosis, out)
    answers = (out / "answers.jsonl").read_bytes()
    same = run_verb("diagnose", f"model.path={copied(tmp_path / 'copy')}", "model=demo", f"out={out}")
    assert same.returncode == 0 and (out / "answers.jsonl").read_bytes() == answers
    other = run_verb("diagnose", f"model.path={copied(tmp_path / 'moved', moved)}", "model=demo", f"out={out}")
    assert other.returncode == 2 and "holds another run (differs in weights)" in other.stderr


def test_training_other_weights_than_were_diagnosed_is_blocked(demo_diagnosis: Path, tmp_path: Path) -> None:
    other = copied(tmp_path / "moved", moved)
    settings = ["method=sft", f"data.sft={DEMO / 'sft.jsonl'}", "preflight=only", f"out={tmp_path / 'run'}"]
    done = run_verb("train", f"diagnosis={demo_diagnosis}", f"model.path={other}", *settings)
    assert done.returncode == 3 and f"base: {other} holds other weights than were diagnosed" in done.stderr
    done = run_verb("train", f"diagnosis={demo_diagnosis}", f"model.path={copied(tmp_path / 'copy')}", *settings)
    assert done.returncode == 0 and "the weights that were diagnosed" in done.stderr


def run_of(folder: Path, diagnosis: Path, base: Path) -> Path:
    """A finished run that was trained on this base."""
    then = read_record(diagnosis / "run.json", DiagnosisRun)
    evalset = read_diagnosis(diagnosis).evalset["sha256"]
    sha = base_sha(str(base))
    save_adapter(folder / "adapter", str(base))
    known = {"evalset_sha256": evalset, "prompt_format_sha": then.prompt_format_sha}
    write_json(folder / "run.json", training_run(base=str(base), base_sha=sha, **known))
    return folder


def test_runs_of_a_copy_are_compared_and_those_of_another_base_are_not(demo_diagnosis: Path, tmp_path: Path) -> None:
    diagnosis, model = read_diagnosis(demo_diagnosis), ModelConfig(path=str(MODEL))
    same = run_of(tmp_path / "same", demo_diagnosis, copied(tmp_path / "copy"))
    assert [path for path, _ in find_runs(str(same), diagnosis, model)[0]] == [same]
    other = run_of(tmp_path / "other", demo_diagnosis, copied(tmp_path / "moved", moved))
    with pytest.raises(BadInput, match="holds other weights than tests/data/demo/model did"):
        find_runs(str(other), diagnosis, model)


def test_a_base_that_was_moved_is_found_again_and_one_that_changed_is_refused(tmp_path: Path) -> None:
    base = copied(tmp_path / "base")
    asked = ["model=demo", f"model.path={base}", "probes.enabled=[plain]", "evalset.limit=16", f"out={tmp_path / 'd'}"]
    assert run_verb("diagnose", *asked).returncode == 0
    base.rename(tmp_path / "elsewhere")
    run = run_of(tmp_path / "run", tmp_path / "d", tmp_path / "elsewhere")
    compare = [f"diagnosis={tmp_path / 'd'}", f"runs={run}", f"out={tmp_path / 'e'}"]
    done = run_verb("eval", *compare)
    assert done.returncode in (0, 4), done.stderr
    assert json.loads((tmp_path / "e" / "comparison.json").read_text())["runs"][0]["run"] == str(run)
    shutil.rmtree(tmp_path / "elsewhere")
    copied(base, moved)
    done = run_verb("eval", *compare)
    assert done.returncode == 2 and "not the weights that were diagnosed" in done.stderr


# ---------------------------------------------------------------- adapters


def adapter(folder: Path, template: str | None, whole: bool = True, base: str = str(MODEL)) -> ModelConfig:
    """An adapter of the demo that says how it was asked: with its tokenizer, or by its template only."""
    save_adapter(folder, str(MODEL))
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(about | {"base_model_name_or_path": base}))
    if whole:
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
    elif template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return ModelConfig(path=str(MODEL), adapter=str(folder), device="cpu")


@pytest.mark.parametrize("whole", [True, False], ids=["tokenizer", "template only"])
@pytest.mark.parametrize(
    "template", [OTHER_TEMPLATE, TEMPLATE + " ", WITH_BREAK, TEMPLATE.replace("{{ bos_token }}", ""), None]
)
def test_an_adapter_that_was_asked_in_another_way_is_refused(template: str, whole: bool, tmp_path: Path) -> None:
    settings = adapter(tmp_path / "adapter", template, whole)
    if template is None and not whole:
        HFModel(settings)
        return
    with pytest.raises(BadInput, match="lays out a prompt in another way") as refused:
        HFModel(settings)
    for choice in (str(tmp_path / "adapter"), str(MODEL)):
        assert f"model.tokenizer={choice}" in str(refused.value)
        model = HFModel(ModelConfig(path=str(MODEL), adapter=settings.adapter, tokenizer=choice, device="cpu"))
        assert model.tokenizer.chat_template == (template if choice.endswith("adapter") else TEMPLATE)


@pytest.mark.parametrize("name", ["lora_alpha", "r"])
def test_an_adapter_is_also_how_it_is_scaled(name: str, tmp_path: Path) -> None:
    one, moved_to = adapter(tmp_path / "one", None, False), adapter(tmp_path / "two", None, False, base="elsewhere")
    assert adapter_sha(str(one.adapter)) == adapter_sha(str(moved_to.adapter))
    about = json.loads((tmp_path / "two" / "adapter_config.json").read_text())
    (tmp_path / "two" / "adapter_config.json").write_text(json.dumps(about | {name: 64}))
    assert adapter_sha(str(one.adapter)) != adapter_sha(str(moved_to.adapter))


def test_an_adapter_whose_tokenizer_is_broken_names_the_way_out(tmp_path: Path) -> None:
    settings = adapter(tmp_path / "adapter", TEMPLATE)
    (tmp_path / "adapter" / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match=rf"its tokenizer cannot be loaded .*model.tokenizer={MODEL}"):
        HFModel(settings)
    HFModel(replace(settings, tokenizer=str(MODEL)))


def test_an_adapter_as_a_base_names_both_settings(tmp_path: Path) -> None:
    settings = adapter(tmp_path / "adapter", TEMPLATE)
    with pytest.raises(BadInput, match=r"is an adapter; expected its base, and model\.adapter="):
        HFModel(ModelConfig(path=settings.adapter))


@pytest.mark.parametrize("template", [TEMPLATE, "{# says the same #}" + TEMPLATE])
def test_an_adapter_whose_template_says_the_same_is_taken(template: str, tmp_path: Path) -> None:
    HFModel(adapter(tmp_path / "adapter", template))


def test_an_adapter_of_a_base_of_another_name_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "elsewhere").mkdir()
    bases = [
        ("somebody/another-base", True),
        ("somebody/model", False),
        (str(copied(tmp_path / "copy")), False),
        (str(copied(tmp_path / "elsewhere" / "model", moved)), True),
        (str(tmp_path / "pickled"), True),
    ]
    for number, (base, other) in enumerate(bases):
        say_other_base(str(adapter(tmp_path / str(number), None, False, base=base).adapter), str(MODEL))
        said = f"was trained on {base}, and is used on {MODEL}"
        assert (said in capsys.readouterr().err) is other, base
