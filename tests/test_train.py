"""Training on the demo: adapters move, the base does not, and what would go wrong silently is caught."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, run_verb

from diagnose.config import DataConfig, ModelConfig
from diagnose.errors import BadInput
from diagnose.records import Grader, Judge
from train.config import TrainConfig, measured_config, read_diagnosis
from train.data import Rows, for_trl, read_training
from train.job import last_whole
from train.preflight import preflight
from train.rlhf import split_by_prompt

DEMO = ROOT / "tests" / "data" / "demo"
SHORT = {
    "sft": ["method.args.max_steps=30"],
    "dpo": ["method.args.max_steps=8"],
    "sft_dpo": ["method.args.max_steps=4", "method.first.max_steps=8"],
    "rlhf": ["method.args.max_steps=20", "method.first.max_steps=60", "method.gate.every=10"],
}
SLICES = {"sft": "stone_json"}


@pytest.fixture(scope="module", params=sorted(SHORT))
def trained(request: Any, demo_diagnosis: Path) -> tuple[str, Path]:
    """A short run of each method."""
    method, out = request.param, demo_diagnosis.parent / f"run_{request.param}"
    rows = f"data.slices=[{SLICES.get(method, 'craft_tone')},home_known]"
    done = run_verb("train", f"diagnosis={demo_diagnosis}", f"method={method}", f"out={out}", rows, *SHORT[method])
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"runs={out}" in done.stdout
    return method, out


def load(adapter: Path | None) -> Any:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(DEMO / "model", dtype=torch.float32)
    if adapter is None:
        return base.eval()
    from peft import PeftModel

    return PeftModel.from_pretrained(base, adapter).eval()


def test_the_adapter_moved_and_the_base_is_bit_equal(trained: tuple[str, Path]) -> None:
    _, out = trained
    base, tuned = load(None), load(out / "adapter")
    lora_b = [p for n, p in tuned.named_parameters() if "lora_B" in n]
    assert lora_b and all(p.abs().max() > 0 for p in lora_b), "LoRA B starts at zero; an untouched one never trained"
    original = dict(base.named_parameters())
    wrapped = {n.replace("base_model.model.", "").replace(".base_layer", ""): p for n, p in tuned.named_parameters()}
    for name, parameter in original.items():
        assert torch.equal(parameter, wrapped[name]), name
    ids = torch.tensor([[1, 10, 20, 30, 40]])
    with torch.no_grad(), tuned.disable_adapter():
        assert torch.equal(base(ids).logits, tuned(ids).logits)
    with torch.no_grad():
        assert not torch.equal(base(ids).logits, tuned(ids).logits)


def test_the_run_describes_itself(trained: tuple[str, Path]) -> None:
    method, out = trained
    run = json.loads((out / "run.json").read_text())
    assert (run["status"], run["method"], run["adapter"], run["reason"]) == ("finished", method, "adapter", None)
    assert run["decision_id"] and run["prompt_format_sha"] and run["versions"]["trl"]
    checks = ("prompt format", "end token", "length", "rows", "leakage", "reference")
    assert {run["gates"][name] for name in checks} == {"passed"}
    assert run["device"] in ("cpu", "cuda", "mps")
    assert run["lora"]["target_modules"] == "all-linear"
    last_stage = {"sft": "sft", "dpo": "dpo", "sft_dpo": "dpo", "rlhf": "rloo"}[method]
    assert run["args"][last_stage]["learning_rate"] in (3e-3, 3e-4, 1e-3)
    assert str(run["args"][last_stage]["max_steps"]) in SHORT[method][0]
    kind = "sft" if method == "sft" else "preferences"
    assert set(run["data"][kind]["rows"]) == {SLICES.get(method, "craft_tone"), "home_known"}
    assert set(run["predicted_lift"]) == set(run["data"][kind]["rows"])
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 32)
    assert (out / "adapter" / "adapter_model.safetensors").exists()
    assert not (out / "adapter" / "ref").exists()
    if method == "rlhf":
        assert run["metrics"]["reward"]["held_out"]["n"] > 50
        assert "held-out pairs" in run["gates"]["reward_model"] and "gold" in run["gates"]["gold"]
        assert [h["step"] for h in run["metrics"]["rloo"]["gold_watch"]] == [0, 10, 20]


def kill_once_there_is(out: Path, pattern: str, command: list[str]) -> None:
    """kill -9 on a run and its worker as soon as its directory holds a file that matches."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command, f"out={out}"], cwd=ROOT, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(out.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_run_goes_on_to_the_same_adapter(demo_diagnosis: Path) -> None:
    """kill -9 on the run and its worker once a checkpoint is there; the same command ends as if nothing had been.

    Byte equality also says that one seed trains one adapter.
    """
    args = ["method=sft", "data.slices=[stone_json]", "method.args.max_steps=40", "method.args.save_steps=10"]
    whole, cut = (demo_diagnosis.parent / name for name in ("uninterrupted", "killed"))
    command = [f"diagnosis={demo_diagnosis}", *args, "wandb.mode=disabled"]
    assert run_verb("train", *command, f"out={whole}").returncode == 0
    kill_once_there_is(cut, "trainer/sft/checkpoint-*/trainer_state.json", command)
    assert json.loads((cut / "run.json").read_text())["status"] == "running"
    assert not (cut / "adapter").exists()
    done = run_verb("train", *command, f"out={cut}")
    assert done.returncode == 0, done.stderr[-2000:]
    name = "adapter/adapter_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert run_verb("train", *command, f"out={cut}").returncode == 2, "a finished run is not overwritten"


def test_a_run_killed_in_its_second_stage_repeats_nothing_of_the_first(demo_diagnosis: Path) -> None:
    """A finished stage is loaded, not trained by one step more: the adapters would differ."""
    args = ["method=sft_dpo", "data.slices=[craft_tone]", "method.first.max_steps=3", "method.args.max_steps=4"]
    command = [f"diagnosis={demo_diagnosis}", *args, "method.args.save_steps=1", "wandb.mode=disabled"]
    whole, cut = (demo_diagnosis.parent / name for name in ("two_stages", "two_stages_cut"))
    assert run_verb("train", *command, f"out={whole}").returncode == 0
    kill_once_there_is(cut, "trainer/dpo/checkpoint-*/whole-0", command)
    done = run_verb("train", *command, f"out={cut}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((cut / "run.json").read_text())["metrics"]["sft"]["steps"] == 3
    name = "adapter/adapter_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_full_disk_in_the_middle_of_a_checkpoint(demo_diagnosis: Path) -> None:
    """One sentence, and the half checkpoint is passed over when there is room."""
    out = demo_diagnosis.parent / "full"
    args = ["method=sft", "data.slices=[stone_json]", "method.args.max_steps=6", "method.args.save_steps=2"]
    command = [f"diagnosis={demo_diagnosis}", *args, "wandb.mode=disabled", f"out={out}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (800_000, 800_000)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Fatal" not in done.stderr
    assert "no room on the disk: " in done.stderr and f"repeat the command with out={out}" in done.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "failed" and record["reason"].startswith("no room on the disk")
    assert list(out.glob("trainer/sft/checkpoint-*")) and not list(out.glob("trainer/sft/checkpoint-*/whole-*"))
    done = run_verb("train", *command)
    assert done.returncode == 0 and "Fatal" not in done.stderr, done.stderr[-2000:]
    assert (out / "adapter" / "adapter_model.safetensors").exists()


def test_a_half_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    args: Any = SimpleNamespace(output_dir=str(tmp_path), world_size=2)
    assert last_whole(args) is None
    for step, marks in ((5, 2), (10, 2), (100, 1), (105, 0)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for rank in range(marks):
            (folder / f"whole-{rank}").touch()
    assert last_whole(args) == str(tmp_path / "checkpoint-10")


def test_a_reward_model_that_is_not_good_enough_blocks(demo_diagnosis: Path) -> None:
    out = demo_diagnosis.parent / "gated"
    gate = ["method.gate.accuracy=1.01", "method.first.max_steps=2", "data.slices=[craft_tone]", "wandb.mode=disabled"]
    done = run_verb("train", f"diagnosis={demo_diagnosis}", "method=rlhf", f"out={out}", *gate)
    assert done.returncode == 3, done.stderr[-2000:]
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "blocked" and "held-out pairs" in run["reason"]
    assert not (out / "adapter").exists()


def test_preflight_only_trains_nothing(demo_diagnosis: Path) -> None:
    out = demo_diagnosis.parent / "preflight"
    done = run_verb("train", f"diagnosis={demo_diagnosis}", "method=sft", "preflight=only", f"out={out}")
    assert done.returncode == 0
    assert "end token" in done.stderr
    assert not out.exists()


def test_a_render_that_differs_from_the_diagnosis_blocks_and_names_the_key(demo_diagnosis: Path) -> None:
    done = run_verb("train", f"diagnosis={demo_diagnosis}", "method=sft", "model.system_prompt=Hello")
    assert done.returncode == 3
    assert "system_prompt" in done.stderr


def test_an_adapter_as_base_is_refused_not_ignored(demo_diagnosis: Path) -> None:
    done = run_verb("train", f"diagnosis={demo_diagnosis}", "method=sft", "model.adapter=somewhere")
    assert done.returncode == 2
    assert "merge it into the base" in done.stderr


def test_one_changed_setting_of_a_stage_keeps_the_others(demo_diagnosis: Path) -> None:
    from train.run import merge_model

    measured = measured_config(read_diagnosis(str(demo_diagnosis))).model
    merged = merge_model(measured, ModelConfig(train={"sft": {"learning_rate": 1e-4}}))
    assert merged.train["sft"]["learning_rate"] == 1e-4
    assert merged.train["sft"]["max_steps"] == measured.train["sft"]["max_steps"]


def test_an_init_that_rewrites_the_base_blocks_dpo(demo_diagnosis: Path) -> None:
    done = run_verb("train", f"diagnosis={demo_diagnosis}", "method=dpo", "lora.init_lora_weights=pissa")
    assert done.returncode == 3
    assert "modifies the base weights" in done.stderr


# ---------------------------------------------------------------- data


def rows_file(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_rows_that_the_eval_set_asks_and_empty_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    pairs = [
        {"prompt": "asked", "chosen": "a", "rejected": "b", "slice": "s"},
        {"prompt": "new", "chosen": "a", "rejected": "a", "slice": "s"},
        {"prompt": "new", "chosen": "a", "rejected": "b", "slice": "other"},
        {"prompt": "new", "chosen": "a", "rejected": "b", "slice": "s"},
    ]
    data = DataConfig(preferences=rows_file(tmp_path, pairs))
    found = read_training(data, "dpo", ["s"], {"asked"})["preferences"]
    assert len(found.rows) == 1
    assert dict(found.dropped) == {"prompt is in the eval set": 1, "chosen equals rejected": 1, "other slice": 1}


def test_sft_on_pairs_learns_each_chosen_once(tmp_path: Path) -> None:
    pairs = [{"prompt": "p", "chosen": "a", "rejected": r} for r in "bcd"]
    found = read_training(DataConfig(preferences=rows_file(tmp_path, pairs)), "sft", None, set())
    assert [row["completion"] for row in found["sft"].rows] == ["a"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "p"}, "no completion"),
        ({"completion": "c"}, "no prompt"),
        ({"prompt": "p", "completion": " "}, "completion is empty"),
        ({"prompt": [{"role": "user"}], "completion": "c"}, "content of user is a NoneType"),
        ({"prompt": {"role": "user"}, "completion": "c"}, "prompt must be text or"),
    ],
)
def test_bad_training_rows_are_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=":1") as caught:
        read_training(DataConfig(sft=rows_file(tmp_path, [row])), "sft", None, set())
    assert says in str(caught.value)


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


ASKED, TOLD = said("user", "x"), said("assistant", "y")
CALL = said("assistant", None, tool_calls=[{"function": {"name": "f"}}])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [ASKED]}, "messages must end with the assistant's turn"),
        ({"messages": [TOLD]}, "messages must end with the assistant's turn to train on, after others"),
        ({"messages": [ASKED, ASKED]}, "messages must end with the assistant's turn"),
        ({"messages": []}, "messages must be text or"),
        ({"messages": [ASKED, said("assistant", "")]}, "completion is empty"),
        ({"messages": [ASKED, said("assistant", " ")]}, "completion is empty"),
        ({"messages": [said("user", None), TOLD]}, "content of user is a NoneType"),
        ({"messages": [ASKED, CALL]}, "tool calls are not supported"),
        ({"messages": [said("user", [{"type": "image", "url": "u"}]), TOLD]}, "a list with parts other than text"),
        (
            {"messages": [said("human", "x"), said("gpt", "y")]},
            "role 'human'; allowed: system, user, assistant; of Share",
        ),
        ({"messages": [{"from": "human", "value": "x"}, TOLD]}, "of ShareGPT, rename from/value"),
        ({"messages": [said("tool", "x"), TOLD]}, "role 'tool'; allowed: system, user, assistant"),
        ({"prompt": "", "completion": "y"}, "prompt is empty"),
        ({"prompt": [ASKED, TOLD], "completion": "y"}, "prompt ends with a turn of the assistant"),
        ({"prompt": "x", "completion": [ASKED, TOLD]}, "completion must be one turn of the assistant; found 2 turns"),
        ({"prompt": "x", "completion": [ASKED]}, "must be one turn of the assistant; found a turn of user"),
        ({"messages": [ASKED, TOLD], "tools": [{"name": "f"}]}, "tools: not supported"),
    ],
)
def test_conversations_that_would_train_something_else(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    """Each of these once trained the user's words, an empty answer, the word None or a printed list."""
    with pytest.raises(BadInput) as error:
        read_training(DataConfig(sft=rows_file(tmp_path, [row])), "sft", None, set())
    assert ".jsonl:1: " in str(error.value) and says in str(error.value)


def test_conversations_in_all_their_shapes_are_the_same_row(tmp_path: Path) -> None:
    parts = said("user", [{"type": "text", "text": "x"}])
    shapes: list[dict[str, Any]] = [
        {"prompt": "x", "completion": "y"},
        {"messages": [ASKED, TOLD]},
        {"messages": [parts, TOLD]},
        {"prompt": [ASKED], "completion": [TOLD]},
    ]
    found = read_training(DataConfig(sft=rows_file(tmp_path, shapes)), "sft", None, set())["sft"].rows
    assert [(row["prompt"], row["completion"]) for row in found] == [([("user", "x")], "y")] * 4
    other = said("assistant", "z")
    pairs: list[dict[str, Any]] = [
        {"prompt": "x", "chosen": "y", "rejected": "z"},
        {"prompt": [ASKED], "chosen": [TOLD], "rejected": [other]},
        {"chosen": [ASKED, TOLD], "rejected": [ASKED, other]},
    ]
    read = read_training(DataConfig(preferences=rows_file(tmp_path, pairs)), "dpo", None, set())["preferences"].rows
    assert (
        all((r["prompt"], r["chosen"], r["rejected"]) == ([("user", "x")], "y", "z") for r in read) and len(read) == 3
    )
    for wrong, says in (
        ({"chosen": [ASKED, TOLD], "rejected": [said("user", "else"), other]}, "differ before their last turns"),
        (
            {"prompt": "x", "chosen": [ASKED, TOLD], "rejected": [ASKED, other]},
            "chosen must be one turn of the assistant; found 2 turns",
        ),
        ({"chosen": [TOLD], "rejected": [other]}, "no prompt"),
    ):
        with pytest.raises(BadInput, match=says):
            read_training(DataConfig(preferences=rows_file(tmp_path, [wrong])), "dpo", None, set())


def test_slices_of_rows_are_read_like_those_of_items(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "slice": s} for s in (None, ["mine", "x"], "mine", "other")]
    found = read_training(DataConfig(sft=rows_file(tmp_path, rows)), "sft", ["mine"], set())["sft"]
    assert found.by_slice == {"": 1, "mine": 2}


def test_a_beginning_token_that_the_tokenizer_does_not_add_is_in_the_training_text() -> None:
    from diagnose.models.hf import HFModel
    from diagnose.records import Prompt

    model = HFModel(ModelConfig(path=str(DEMO / "model"), dtype="float32", device="cpu"))
    model.tokenizer.chat_template = None
    made = for_trl([{"prompt": [("user", "Who?")], "completion": "Me"}], model.tokenizer, None)[0]
    assert model.tokenizer(made["prompt"])["input_ids"] == model.encode(Prompt((("user", "Who?"),)))


def test_gold_reads_what_the_row_and_the_rule_can_tell() -> None:
    from train.gold import _gold, _item

    rule = {"s": Grader("contains", judge=Judge("rule", prefer="^Gladly")), "t": Grader("exact")}
    free = _item({"slice": "s", "prompt": [("user", "q")], "chosen": "Gladly, a long text."}, rule)
    assert (_gold(free, "Gladly, another text."), _gold(free, "no")) == (1.0, 0.0)
    named = _item({"slice": "s", "prompt": [("user", "q")], "chosen": "Gladly: x", "target": "x"}, rule)
    assert (_gold(named, "Gladly: x"), _gold(named, "Gladly: y")) == (1.0, 0.0)
    assert _item({"slice": "t", "prompt": [("user", "q")], "chosen": "free form"}, rule) is None


def test_rows_of_a_folder_with_splits_are_those_of_the_split(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"prompt": "p", "completion": split}) + "\n")
    with pytest.raises(BadInput, match="has the splits train, test; choose one: data.split=NAME"):
        read_training(DataConfig(sft=str(folder)), "sft", None, set())
    by_split = {
        split: read_training(DataConfig(sft=str(folder), split=split), "sft", None, set())["sft"]
        for split in ("train", "test")
    }
    assert {split: [row["completion"] for row in found.rows] for split, found in by_split.items()} == {
        "train": ["train"],
        "test": ["test"],
    }
    assert by_split["train"].sha256 != by_split["test"].sha256


def test_how_rows_are_read_is_never_ignored(tmp_path: Path) -> None:
    from diagnose.config import check_data
    from train.run import merge_data

    then = DataConfig(sft="then.jsonl")
    for key, value in {"split": "train", "subset": "x", "columns": {"prompt": "q"}}.items():
        with pytest.raises(BadInput, match=rf"data\.{key}: goes with rows named here too"):
            merge_data(then, DataConfig(**{key: value}))
        assert getattr(merge_data(then, DataConfig(sft="now.jsonl", **{key: value})), key) == value
    assert merge_data(then, DataConfig()).sft == "then.jsonl"
    with pytest.raises(BadInput, match=r"data\.columns\.promt: not a field of a training row; allowed: prompt, "):
        check_data(DataConfig(columns={"promt": "question"}))


def test_no_rows_left_is_bad_input(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [{"prompt": "p", "completion": "c", "slice": "other"}])
    with pytest.raises(BadInput, match="no training rows left for slices mine"):
        read_training(DataConfig(sft=path), "sft", ["mine"], set())


def test_training_text_is_the_text_that_diagnose_asks() -> None:
    from diagnose.models.hf import HFModel
    from diagnose.records import Prompt

    model = HFModel(ModelConfig(path=str(DEMO / "model"), dtype="float32", device="cpu", system_prompt="Be brief."))
    row = {"prompt": [("user", "What is the home of Po?")], "completion": "Oakford"}
    made = for_trl([row], model.tokenizer, "Be brief.")[0]
    text = model.tokenizer.apply_chat_template(made["prompt"], tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == model.encode(Prompt((("user", "What is the home of Po?"),)))


def test_no_prompt_is_on_both_sides_of_the_reward_gate() -> None:
    rows = [{"prompt": f"p{i % 20}", "chosen": "a", "rejected": str(i)} for i in range(60)]
    training, held_out = split_by_prompt(rows, 0.15, 0)
    assert {r["prompt"] for r in training} & {r["prompt"] for r in held_out} == set()
    assert len({r["prompt"] for r in held_out}) == 3
    assert len(training) + len(held_out) == 60


def test_preflight_names_an_end_token_that_training_would_never_show(tmp_path: Path, demo_diagnosis: Path) -> None:
    import shutil

    shutil.copytree(DEMO / "model", tmp_path / "model")
    template = (tmp_path / "model" / "chat_template.jinja").read_text()
    (tmp_path / "model" / "chat_template.jinja").write_text(
        template.replace("{{ m.content }}<|end|>", "{{ m.content }}")
    )
    config = TrainConfig(model=ModelConfig(path=str(tmp_path / "model")))
    data = {"sft": Rows("sft", "", "", [{"prompt": [("user", "q")], "completion": "a", "slice": ""}])}
    checks = {c.name: c for c in preflight(config, read_diagnosis(str(demo_diagnosis)), data)}
    assert not checks["end token"].ok
    assert not checks["prompt format"].ok and "chat_template" in checks["prompt format"].message
