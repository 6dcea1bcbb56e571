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

from diagnose.config import ModelConfig
from train.config import measured_config, read_diagnosis
from train.job import last_whole
from train.preflight import CHECKS

DEMO = ROOT / "tests" / "data" / "demo"
SHORT = {
    "sft": ["method.args.max_steps=30"],
    "dpo": ["method.args.max_steps=8"],
    "sft_dpo": ["method.args.max_steps=4", "method.first.max_steps=8"],
    "rlhf": ["method.args.max_steps=20", "method.first.max_steps=60", "watch.every=10"],
    "rlvr": ["method.args.max_steps=24", "watch.every=8"],
}
SLICES = {"sft": "stone_json", "rlvr": "home_latent"}


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
    unclean = {name for name in CHECKS if run["gates"][name] != "passed"}
    assert unclean == ({"rows"} if method == "rlhf" else set()), "783 pairs are few for a reward model"
    assert run["device"] in ("cpu", "cuda", "mps")
    assert run["lora"]["target_modules"] == "all-linear"
    last_stage = {"sft": "sft", "dpo": "dpo", "sft_dpo": "dpo", "rlhf": "rloo", "rlvr": "grpo"}[method]
    assert run["args"][last_stage]["learning_rate"] in (3e-3, 3e-4, 1e-3)
    assert str(run["args"][last_stage]["max_steps"]) in SHORT[method][0]
    kind = "sft" if method in ("sft", "rlvr") else "preferences"
    assert set(run["data"][kind]["rows"]) == {SLICES.get(method, "craft_tone"), "home_known"}
    assert set(run["predicted_lift"]) == set(run["data"][kind]["rows"])
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 32)
    assert (out / "adapter" / "adapter_model.safetensors").exists()
    assert not (out / "adapter" / "ref").exists()
    curve = run["metrics"][last_stage]["curve"]
    assert all(0 <= look["ended"] <= 1 for look in curve) and curve[-1]["ended"] > 0.9
    assert curve[0]["step"] == 0 and set(curve[-1]["slices"]) == set(run["data"][kind]["rows"])
    assert "held-out rows" in run["gates"]["held-out rows"]
    if method == "rlvr":
        assert run["metrics"]["grpo"]["sampled"]["rewards_differ"] > 0
    if method == "rlhf":
        assert run["metrics"]["reward"]["held_out"]["n"] > 50
        assert {"rate", "low", "high", "by_length", "by_base"} <= set(run["metrics"]["reward"]["held_out"])
        assert "held-out pairs; by length alone" in run["gates"]["reward_model"]
        assert [look["step"] for look in curve] == [0, 10, 20]


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


@pytest.mark.parametrize(
    ("settings", "prompts", "passes"),
    [
        ({"max_steps": 20}, 1000, 1),
        ({"max_steps": 20}, 100, 2),
        ({"max_steps": 60, "gradient_accumulation_steps": 2}, 100, 10),
        ({"max_steps": -1, "num_train_epochs": 2.5}, 100, 3),
    ],
)
def test_passes_over_the_prompts_are_laid_out_as_one(settings: dict[str, Any], prompts: int, passes: int) -> None:
    """A resumed run then sees the prompts that an uninterrupted one would: TRL's own order of a second pass is lost."""
    from train.rl import passes_of, shuffled

    usual = {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 1, "num_generations": 8}
    assert passes_of(SimpleNamespace(**usual | settings), prompts, 1) == passes
    names = [str(k) for k in range(50)]
    first, second = (shuffled(names, 0, turn) for turn in (0, 1))
    assert sorted(first) == sorted(second) == sorted(names) and first != second and first == shuffled(names[::-1], 0, 0)


# ---------------------------------------------------------------- watch, processes


def test_the_best_adapter_is_kept_and_training_stops_when_scores_have_fallen_for_good(tmp_path: Path) -> None:
    """Scores by look: .2 before training, then .5, .9, .6, .6; patience 2."""
    watch = watching(tmp_path, [0.2, 0.5, 0.9, 0.6, 0.6, 1.0], patience=2)
    network, control = Adapted(), SimpleNamespace(should_training_stop=False)
    watch.on_train_begin(ARGS, SimpleNamespace(global_step=0, max_steps=50), control, model=network)
    for step in range(10, 60, 10):
        network.weight.data.fill_(step)
        watch.on_step_end(ARGS, SimpleNamespace(global_step=step, max_steps=50), control, model=network)
        if control.should_training_stop:
            break
    assert step == 40 and watch.summary()["kept_step"] == 20 and watch.summary()["stopped_early"]
    watch.restore_best(network)
    assert float(network.weight) == 20
    assert watch.story() == "score .20 → .90 on 10 held-out rows, step 20 kept"


@pytest.mark.parametrize(("ended", "said"), [(0.75, ".25 of the answers do not come to their end; "), (1.0, "")])
def test_answers_that_do_not_end_are_said_behind_the_training(ended: float, said: str) -> None:
    from train.run import _line

    looks = [{"step": s, "score": v, "reward": None, "ended": e} for s, v, e in ((0, 0.1, 1.0), (20, 0.5, ended))]
    assert _line({"curve": looks, "kept_step": 20}) == f"held-out score .10 → .50; {said}kept step 20"


def test_a_run_that_was_killed_after_its_early_stop_does_not_go_on(tmp_path: Path) -> None:
    from train.job import StageDone

    watch = watching(tmp_path, [0.2, 0.9, 0.6, 0.6], patience=2)
    network, control = Adapted(), SimpleNamespace(should_training_stop=False)
    watch.on_train_begin(ARGS, SimpleNamespace(global_step=0, max_steps=50), control, model=network)
    for step in (10, 20, 30):
        watch.on_step_begin(ARGS, SimpleNamespace(global_step=step - 10, max_steps=50), control)
        watch.on_step_end(ARGS, SimpleNamespace(global_step=step, max_steps=50), control, model=network)
    assert control.should_training_stop
    with pytest.raises(StageDone):
        watch.on_step_begin(ARGS, SimpleNamespace(global_step=30, max_steps=50), control)


def test_scores_that_tell_nothing_keep_the_last_adapter(tmp_path: Path) -> None:
    watch = watching(tmp_path, [0.0, 0.0, 0.0], patience=1)
    network, control = Adapted(), SimpleNamespace(should_training_stop=False)
    watch.on_train_begin(ARGS, SimpleNamespace(global_step=0, max_steps=20), control, model=network)
    for step in (10, 20):
        watch.on_step_end(ARGS, SimpleNamespace(global_step=step, max_steps=20), control, model=network)
    assert watch.summary()["kept_step"] == 20 and watch.fruitless and not control.should_training_stop


ARGS = SimpleNamespace(output_dir="nowhere")


class Adapted(torch.nn.Module):
    """One weight, and an adapter that can be disabled."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def disable_adapter(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def watching(tmp_path: Path, scores: list[float], patience: int) -> Any:
    """A watch over ten rows whose answers are scripted: so many right at each look."""
    from train import watch as module
    from train.config import TrainConfig, WatchConfig
    from train.rows import Row

    (tmp_path / "graders.json").write_text(json.dumps({"s": {"kind": "exact"}}))
    rows: list[Row] = [
        {
            "where": "f",
            "slice": "s",
            "prompt": [{"role": "user", "content": str(k)}],
            "completion": {"role": "assistant", "content": "right"},
        }
        for k in range(10)
    ]
    config = TrainConfig(watch=WatchConfig(every=10, patience=patience))
    job: Any = SimpleNamespace(config=config, out=tmp_path, tracked=False, sharded=False)
    looks = iter(scores)

    class Scripted(module.Watch):
        def _answers(self, network: Any) -> tuple[list[str], list[bool]]:
            right = round(next(looks) * 10)
            return ["right"] * right + ["wrong"] * (10 - right), [True] * 10

    return Scripted(job, rows)


def test_rows_to_watch_are_of_every_slice_and_no_prompt_is_on_both_sides() -> None:
    from train.config import TrainConfig, WatchConfig
    from train.rows import Row, key
    from train.watch import hold_out

    rows: list[Row] = [
        {"slice": name, "prompt": [{"role": "user", "content": f"{name} {k % 40}"}], "target": k}
        for name in ("a", "b")
        for k in range(80)
    ]
    job: Any = SimpleNamespace(config=TrainConfig(watch=WatchConfig(held_out=0.1, prompts=6), seed=3))
    training, held_out = hold_out(rows, job)
    assert {key(r) for r in training} & {key(r) for r in held_out} == set() and len(training) + len(held_out) == 160
    assert [len({key(r) for r in held_out if r["slice"] == name}) for name in ("a", "b")] == [3, 3]
    assert hold_out(list(reversed(rows)), job)[1] == list(reversed(held_out)), "the order of the file does not matter"
    job.config.seed = 4
    assert hold_out(rows, job)[1] != held_out


def test_two_processes_take_the_steps_of_one(demo_diagnosis: Path) -> None:
    """The batch of a step is kept; losses within 1e-4."""
    short = ["method=sft", "data.slices=[stone_json]", "method.args.max_steps=6", "method.args.logging_steps=1"]
    losses = []
    for count in (1, 2):
        out = demo_diagnosis.parent / f"processes_{count}"
        command = [f"diagnosis={demo_diagnosis}", *short, "watch.every=0", f"num_processes={count}", f"out={out}"]
        done = run_verb("train", *command, "wandb.mode=disabled")
        assert done.returncode == 0, done.stderr[-2000:]
        run = json.loads((out / "run.json").read_text())
        assert run["args"]["sft"]["global_batch"] == 16
        assert run["args"]["sft"]["per_device_train_batch_size"] == 16 // count
        losses.append([run["metrics"]["sft"][at]["loss"] for at in ("first", "last")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["num_processes=2", "distributed=fsdp2"], "distributed=fsdp2: needs GPUs; on CPUs it would silently be ddp"),
        (["num_processes=2", "distributed=zero3"], "distributed=zero3: needs GPUs"),
        (["num_processes=3"], "num_processes=3: sft takes 16 rows times 1 accumulation steps in a step"),
        (["method=rlhf", "num_processes=2", "distributed=fsdp2"], "rlhf generates while it trains, which a process"),
        (["distributed=fsdp3"], "distributed=fsdp3: allowed: ddp, fsdp2, zero2, zero3"),
    ],
)
def test_processes_that_cannot_train_as_asked(demo_diagnosis: Path, settings: list[str], says: str) -> None:
    out = demo_diagnosis.parent / "no_processes"
    done = run_verb(
        "train",
        f"diagnosis={demo_diagnosis}",
        *(["method=sft"] if "method" not in settings[0] else []),
        *settings,
        f"out={out}",
    )
    assert done.returncode == 2 and says in done.stderr, done.stderr[-1000:]
    assert not out.exists()
