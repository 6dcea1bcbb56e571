"""Passwords and keys stand in no file and no message; what merely looks like one is left alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT, planted_rows, run_verb
from scripted_server import BASE, ScriptedServer

from diagnose.config import DiagnoseConfig, EvalSetConfig, ModelConfig, ProbesConfig, RuleConfig, WandbConfig
from diagnose.errors import GapwiseError
from diagnose.redact import redacted, redacted_text
from diagnose.report.wandb import start_run
from diagnose.run import run


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("model.base_url=http://alice:hunter2pw@host:8000/v1", "model.base_url=http://***@host:8000/v1"),
        ("judge.base_url=https://:p@ss@w0rd@host/v1", "judge.base_url=https://***@host/v1"),
        ("data.sft=hf://token@datasets/x", "data.sft=hf://***@datasets/x"),
        ("model.api_key_env=sk-proj-0123456789abcdef", "model.api_key_env=***"),
        ("model.api_key_env=q9Xv2LmPz7RtYw3K", "model.api_key_env=***"),
        ("method.args.hub_token=hf_abcdefghijklmnop", "method.args.hub_token=***"),
        ("method.args={hub_token: s3cret, lr: 1}", "method.args={hub_token: ***, lr: 1}"),
        ("+wandb.token=abc", "+wandb.token=***"),
        ('{"api_key": "abc"}', '{"api_key": "***"}'),
        (
            "Error 401: Incorrect API key provided: sk-ab12cdefghijklmnop.",
            "Error 401: Incorrect API key provided: ***.",
        ),
        ("model.base_url=http://h/v1?api-key=q9Xv2LmPz7RtYw3K&v=1", "model.base_url=http://h/v1?api-key=***&v=1"),
        ("Authorization: Bearer q9Xv2LmPz7RtYw3K", "Authorization: Bearer ***"),
        ("AKIAIOSFODNN7EXAMPLE and ghp_0123456789abcdefABCD", "*** and ***"),
    ],
)
def test_secrets_are_told_by_value_and_shape(command: str, shown: str) -> None:
    assert redacted_text(command) == shown


@pytest.mark.parametrize(
    "command",
    [
        "model.eos_token=<s>",
        "model.eos_token='<|im_end|>'",
        "model.max_new_tokens=128",
        "model.api_key_env=OPENAI_API_KEY",
        "judge.api_key_env=MY_GATEWAY_KEY_2",
        "evalset.columns.token='{{ key | tojson }}'",
        "evalset.grader.key=total_amount",
        "model.base_url=http://localhost:8000/v1",
        "evalset.path=s3://bucket/a@b.jsonl",
        "model.api_key_env=null",
        "model.api_key_env=GPT4O_API_KEY",
        "judge.api_key_env=AZURE_KEY_V2_EU",
        "evalset.columns.token=token_text_2_en",
        "model.path=/data/hf_checkpoints_2024/model",
        "model.path=sk-embedding-large-v2",
        "out=outputs/diagnose/hf_experimentsandmore_2024",
        "method.args.per_device_train_batch_size=8",
    ],
)
def test_what_is_no_secret_stays(command: str) -> None:
    assert redacted_text(command) == command
    key, _, value = command.partition("=")
    assert redacted(value, key) == value


def test_a_key_that_a_server_quotes_is_known_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_GATEWAY_KEY", "q9Xv2LmPz7RtYw3K")
    assert redacted_text("Error 401: key q9Xv2LmPz7RtYw3K is not valid") == "Error 401: key *** is not valid"


def test_a_message_about_a_setting_stays() -> None:
    for message in ("hub_token: a secret does not belong here", "judge.api_key: missing; expected a name"):
        assert redacted_text(message) == message
    assert redacted_text("hub_token: Zx9 is wrong; password: 'letmein'") == "hub_token: *** is wrong; password: '***'"


def test_texts_in_a_config_are_not_rewritten() -> None:
    """A system prompt that was changed would be another prompt format when the run is read back."""
    config = {"system_prompt": "Ask for the password: never say it. key=value", "columns": {"target": "{{ key }}"}}
    assert redacted(config) == config
    assert redacted({"a": [{"hub_token": "x1", "lr": 0.1, "url": "http://u:p@h"}], "password": None}) == {
        "a": [{"hub_token": "***", "lr": 0.1, "url": "http://***@h"}],
        "password": None,
    }


@pytest.mark.parametrize(
    "text", ["=" * 100_000, "key=" * 30_000, "a" * 200_000 + "=", "://" + "a" * 200_000, "sk-" * 60_000]
)
def test_long_texts_are_read_in_linear_time(text: str) -> None:
    assert len(redacted_text(text)) > 0


@pytest.mark.parametrize("works", [True, False])
def test_a_password_in_a_url_stands_nowhere(
    works: bool, tmp_path: Path, rule: RuleConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = planted_rows({"healthy": ["none"] * 16})
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    with ScriptedServer(rows) as server:
        url = server.url.replace("://", "://alice:hunter2pw@")
        config = DiagnoseConfig(
            model=ModelConfig(kind="openai", base_url=url, name=BASE if works else "other", retries=0),
            evalset=EvalSetConfig(path=str(tmp_path / "set.jsonl")),
            probes=ProbesConfig(enabled=["plain"]),
            rule=rule,
            wandb=WandbConfig(mode="disabled"),
            out=str(out),
        )
        if works:
            run(config)
        else:
            with pytest.raises(GapwiseError) as ended:
                run(config)
            assert "hunter2pw" not in redacted_text(str(ended.value)) and "://***@" in redacted_text(str(ended.value))
    said = capsys.readouterr()
    written = {path.name: path.read_text() for path in out.rglob("*") if path.is_file()} if works else {}
    assert "run.json" in written or not works
    for name, text in (written | {"stdout": said.out, "stderr": said.err}).items():
        assert "hunter2pw" not in text and "alice" not in text, name


def test_a_sweep_takes_secrets_from_the_environment_only(tmp_path: Path) -> None:
    """Hydra keeps its overrides in multirun.yaml, and prints those of a job that fails."""
    quick = ["-m", "model.name=m", "model.retries=0", f"evalset.path={ROOT}/tests/data/demo/evalset.jsonl", "seed=0"]
    url = "http://alice:hunter2pw@127.0.0.1:9/v1"
    refused = run_verb("diagnose", *quick, f"model.base_url={url}")
    assert refused.returncode == 2 and "'model.base_url=${oc.env:NAME}'" in refused.stderr
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    tried = run_verb("diagnose", *quick, "model.base_url=${oc.env:MY_URL}", sweep, env={"MY_URL": url})
    assert "no usable answer" in tried.stderr
    for said in (refused.stderr, tried.stderr, tried.stdout, (tmp_path / "sweep" / "multirun.yaml").read_text()):
        assert "hunter2pw" not in said and "alice" not in said


def test_w_and_b_keeps_no_password_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stores the command line of its own accord."""
    typed = ["diagnose.py", "model.base_url=http://alice:hunter2pw@h/v1", "judge.api_key=sk-0123456789abcdef", "seed=7"]
    monkeypatch.setattr("sys.argv", typed)
    config = {"hub_token": "hf_0123456789abcdef", "url": "http://alice:hunter2pw@h"}
    started = start_run(WandbConfig(), group="g", job_type="t", name="n", config=config, out=tmp_path)
    started.finish()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"seed=7" in kept, "this is where it would stand"
    for secret in (b"hunter2pw", b"alice", b"0123456789abcdef"):
        assert secret not in kept
    assert sys.argv is typed
