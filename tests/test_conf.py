"""Every checked-in YAML composes to a typed config, and wrong overrides end with one message and exit code 2."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_verb
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diagnose.cli import own_groups, register_diagnose
from diagnose.config import DiagnoseConfig
from diagnose.errors import BadInput
from diagnose.text import override
from eval.config import EvalConfig, plain_overrides, register_eval
from train.config import TrainConfig, check_lora, check_settings, check_train, names_of, register_train, trl_config

CONF = ROOT / "conf"


@pytest.fixture(autouse=True)
def schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPWISE_DATA", "somewhere")
    register_diagnose()
    register_train()
    register_eval()


def composed(verb: str, *overrides: str) -> object:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose(verb, list(overrides)))


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def test_a_fix_can_be_pasted_into_a_shell() -> None:
    for token in ("<s>", "a\\", "\\'", "it's", "<|$x|>", 'a "b"'):
        (argument,) = shlex.split(override("model.eos_token", token))
        found = composed("diagnose", argument)
        assert isinstance(found, DiagnoseConfig) and found.model.eos_token == token


DIAGNOSE = [f"{g}={o}" for g in ("model", "evalset", "probes", "rule", "reader", "data") for o in options(g)]
TRAIN = [f"{g}={o}" for g in ("method", "lora", "data", "preflight") for o in options(g)]
TRAIN += [f"+experiment={o}" for o in options("experiment")]


@pytest.mark.parametrize("override", DIAGNOSE)
def test_diagnose_composes(override: str) -> None:
    assert isinstance(composed("diagnose", override), DiagnoseConfig)


@pytest.mark.parametrize("override", TRAIN)
def test_train_composes_and_its_fields_exist(override: str) -> None:
    needs = {"+experiment": ["data.slices=[billing,other]"], "method=merge": ["merge.runs=[one,two]"]}
    more = next((needs[start] for start in needs if override.startswith(start)), [])
    config = composed("train", override, *more)
    assert isinstance(config, TrainConfig)
    check_train(config)
    check_settings(config)


def test_eval_composes() -> None:
    assert isinstance(composed("eval"), EvalConfig)


@pytest.mark.parametrize("name", options("model"))
def test_training_settings_of_every_model_are_fields_of_trl(name: str) -> None:
    config = composed("diagnose", f"model={name}")
    assert isinstance(config, DiagnoseConfig)
    assert set(config.model.train) == ({"sft", "dpo", "reward", "rloo", "grpo"} if config.model.kind == "hf" else set())
    for stage, settings in config.model.train.items():
        assert set(settings) <= names_of(trl_config(stage))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.args.learning_rat=1", "method.args.learning_rat: unknown field; did you mean learning_rate"),
        ("lora.rank=4", "lora.rank: unknown field; see the TRL or PEFT documentation"),
        ("method.args.learning_rate=abc", "method.args.learning_rate=abc: Input should be a valid number"),
        ("method.args.learning_rate=-1", "method.args.learning_rate=-1: allowed: more than 0"),
        ("method.args.lr_scheduler_type=zork", "method.args: zork is not a valid SchedulerType"),
        ("model.train.sft.max_length=0", "model.train.sft.max_length=0: allowed: more than 0"),
        ("method.args.hub_token=hf_0123456789abcdef", "method.args.hub_token: a secret does not belong in a config"),
        ("+method.args.model_init_kwargs={token: hf_0123456789abcdef}", "method.args.model_init_kwargs: a secret"),
        ("method.args.accelerator_config=nope.json", "method.args: "),
        ("lora.r=0", "lora.r=0: allowed: more than 0"),
        ("lora.r=abc", "lora.r=abc: Input should be a valid integer"),
        ("lora.r=1000000000", "lora.r=1000000000: more than the width of any layer of this base"),
        ("lora.target_modules=[zork]", "lora: does not fit"),
        ("lora.task_type=ZORK", "lora: "),
        ("seed=-1", "seed=-1: allowed: 0 to 4294967295"),
        ("wandb.mode=zork", "wandb.mode=zork: allowed: offline, online, disabled"),
    ],
)
def test_a_setting_that_would_fail_later_is_refused_before_anything_is_written(
    override: str, says: str, demo_diagnosis: Path, tmp_path: Path
) -> None:
    done = run_verb("train", f"diagnosis={demo_diagnosis}", "method=sft", override, f"out={tmp_path / 'out'}")
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("dpo", ["method.args.loss_type=sigmoid", "lora.task_type=CAUSAL_LM", "lora.lora_alpha=16.5"]),
        ("rlhf", ["model.train_batch_size=64", "method.args.num_generations=16"]),
        ("sft", ["lora.init_lora_weights=pissa_niter_4", "method.args.lr_scheduler_type=cosine", "lora.use_dora=true"]),
        ("sft_dpo", ["method.args.learning_rate=1e-5", "method.first.max_steps=-1", "lora.target_modules=all-linear"]),
    ],
)
def test_what_trl_and_peft_take_is_taken(method: str, overrides: list[str]) -> None:
    config = composed("train", f"method={method}", *overrides)
    assert isinstance(config, TrainConfig)
    config.model.path = str(ROOT / "tests" / "data" / "demo" / "model")
    check_settings(config)
    check_lora(config)


def test_every_yaml_says_how_it_is_used() -> None:
    for path in CONF.rglob("*.yaml"):
        assert path.read_text().startswith("#"), path


@pytest.mark.parametrize(
    ("verb", "overrides", "says"),
    [
        ("diagnose", ["model.pth=x"], "model.pth"),
        ("diagnose", ["seed=many"], "seed"),
        ("diagnose", ["model=gpt9"], "gpt9"),
        ("diagnose", ["probes.enabled=[magic]"], "probes.enabled"),
        ("diagnose", ["model.kind=magic"], "model.kind=magic"),
        ("diagnose", ["evalset.path=nowhere.jsonl"], "nowhere.jsonl"),
        ("diagnose", ["-m", "out=x", "seed=0,1"], "out:"),
        ("train", ["method=sft"], "diagnosis: missing"),
        ("train", ["diagnosis=nowhere", "method=sft"], "diagnosis=nowhere"),
        ("train", ["diagnosis=nowhere", "method=ppo"], "ppo"),
        ("train", ["method=recommended"], "needs diagnosis=DIR"),
        ("train", ["-m", "method=sft,dpo", "diagnosis=nowhere"], "data.slices: missing in a sweep over methods"),
        ("train", ["-m", "method=glob(*)", "diagnosis=nowhere"], "data.slices: missing in a sweep over methods"),
        ("eval", ["diagnosis=nowhere"], "runs: missing"),
        ("eval", ["diagnosis=nowhere", "runs=x"], "diagnosis=nowhere"),
    ],
)
def test_wrong_overrides_end_with_one_message(verb: str, overrides: list[str], says: str) -> None:
    done = run_verb(verb, *overrides)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_without_slices_is_refused_before_any_job_starts(name: str) -> None:
    """Otherwise each job would take the slices its own method is recommended for: other rows in every arm."""
    done = run_verb("train", "-m", f"+experiment={name}", "diagnosis=nowhere")
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("data.slices: empty; expected the slices that every job")
    assert "preflight" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["diagnose", "train", "eval"])
def test_help_and_config_errors_do_not_import_torch(verb: str) -> None:
    wrong = "model.kind=x" if verb == "diagnose" else "diagnosis=nowhere"
    code = (
        f"import sys, runpy; sys.argv = ['{verb}.py', '{wrong}']\n"
        f"try: runpy.run_path('{verb}.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    helped = run_verb(verb, "--help")
    assert helped.returncode == 0
    assert "python diagnose.py" in helped.stdout


AWKWARD = [
    "Q&A", "billing (EU)", "user's", 'a "b"', "x,y", "1e3", ".5", "true", "plain_name", "a=b", "back\\slash", "end\\",
    "~/x", "# x", "a [b] {c}", "${oc.env:HOME}", "\\${seed}", "$HOME", "`ls`", "!!", "größe 大"," spaces ", "*?", "-x"
]  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_survives_the_printed_command(name: str) -> None:
    printed = f"{override('data.slices', [name, 'other'])} {override('out', name)} {override('diagnosis', f'a/{name}')}"
    pasted = subprocess.run(["bash", "-c", f"printf '%s\\0' {printed}"], capture_output=True, text=True, check=True)
    config = composed("train", *pasted.stdout.split("\0")[:-1])
    assert isinstance(config, TrainConfig)
    assert (config.data.slices, config.out, config.diagnosis) == ([name, "other"], name, f"a/{name}")


def test_what_is_printed_can_be_pasted_whatever_the_directory_is_called(tmp_path: Path) -> None:
    """From diagnose.py to train.py with the method that it recommends, to eval.py with a glob."""
    out = tmp_path / "it's [a]=b, {c} ~ #1 ${oc.env:HOME}"
    quick = ["evalset.limit=20", "probes.enabled=[plain]", "wandb.mode=disabled"]
    (argument,) = shlex.split(override("out", str(out)))
    done = run_verb("diagnose", argument, *quick)
    assert done.returncode == 0, done.stderr[-2000:]
    command = next(line for line in done.stdout.splitlines() if "python train.py" in line).partition("python ")[2]
    python = shlex.quote(sys.executable)
    for pasted in (command, f"train.py {override('diagnosis', str(out))} method=recommended"):
        line = f"{python} {pasted} preflight=only wandb.mode=disabled"
        ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
        assert ran.returncode == 0, (pasted, ran.stderr[-2000:])
    assert plain_overrides(["runs=outputs/it's/*"]) == ["runs='outputs/it\\'s/*'"]
    looked = run_verb("eval", *shlex.split(override("diagnosis", str(out))), f"runs={out}/it's/*")
    assert looked.returncode == 2 and "no run directory" in looked.stderr and "Traceback" not in looked.stderr


def test_own_paths_do_not_inherit_the_demo() -> None:
    assert own_groups(["model.path=x"]) == ["model=own", "model.path=x"]
    assert own_groups(["model.base_url=x"]) == ["model=served", "model.base_url=x"]
    assert own_groups(["model=qwen3_8b", "model.path=x"]) == ["model=qwen3_8b", "model.path=x"]
    assert own_groups(["evalset.path=x"])[:2] == ["evalset=own", "data=own"]
    assert own_groups(["--cfg", "job", "evalset.path=x", "-m"])[2:] == [
        "evalset=own",
        "data=own",
        "evalset.path=x",
        "-m",
    ]
    assert own_groups(["seed=1"]) == ["seed=1"]


def test_a_method_s_own_misspelt_stage_is_refused() -> None:
    config = TrainConfig()
    config.method.first = {"learning_rate": 1.0}
    with pytest.raises(BadInput, match="only one stage"):
        check_train(config)


def test_paths_of_checked_in_configs_exist() -> None:
    config = composed("diagnose")
    assert isinstance(config, DiagnoseConfig)
    for path in (config.model.path, config.evalset.path, config.data.sft, config.data.preferences, config.data.prompts):
        assert path is not None and (ROOT / Path(path)).exists(), path
