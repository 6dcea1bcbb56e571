"""Any OpenAI-compatible server, over real HTTP: the planted gaps are found, and what servers do wrong is no gap."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import WANTED_TONE, ScriptedModel, planted_rows, run_verb
from scripted_server import BASE, JUDGE, ScriptedServer
from test_planted import EXPECTED, PURE

from diagnose.config import (
    DiagnoseConfig,
    EvalSetConfig,
    ModelConfig,
    ProbesConfig,
    RuleConfig,
    WandbConfig,
    check_diagnose,
)
from diagnose.errors import BadInput, Blocked, RunFailed
from diagnose.models import load_model
from diagnose.models.served import ServedModel
from diagnose.probes.judge import LETTER, Judges
from diagnose.records import Diagnosis, Prompt
from diagnose.run import run

SCHEMA = {
    "type": "object",
    "properties": {"value": {"type": "string"}},
    "required": ["value"],
    "additionalProperties": False,
}
QUICK = ["plain", "constrained", "samples"]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """All six gaps, large enough to be claimed; the misshaped answers could be forced into a schema."""
    return [
        row | ({"grader": {"kind": "json", "schema": SCHEMA}} if row["slice"] == "misshaped" else {})
        for row in planted_rows({name: members[:28] for name, members in PURE.items()})
    ]


@pytest.fixture(scope="module")
def few(rows: Rows) -> Rows:
    """Two gaps, for what does not depend on the ladder."""
    return [row for row in rows if row["slice"] in ("misshaped", "half_known")]


@pytest.fixture
def served(few: Rows) -> Iterator[ScriptedServer]:
    with ScriptedServer(few) as server:
        yield server


@pytest.fixture
def diagnose(tmp_path: Path, believed: RuleConfig, few: Rows) -> Any:
    """Diagnose what a server serves; keywords are settings of the model."""

    def start(
        server: ScriptedServer,
        out: str = "out",
        rows: Rows | None = None,
        enabled: list[str] | None = None,
        seed: int = 0,
        judge: ModelConfig | None = None,
        **model: Any,
    ) -> Diagnosis:
        path = tmp_path / "set.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows or few))
        config = DiagnoseConfig(
            model=settings(server.url, **model),
            evalset=EvalSetConfig(path=str(path)),
            probes=ProbesConfig(enabled=enabled or QUICK),
            judge=judge or ModelConfig(),
            rule=replace(believed, sweeps=250, burn=50),
            wandb=WandbConfig(mode="disabled"),
            seed=seed,
            out=str(tmp_path / out),
        )
        return run(config)

    return start


def settings(url: str, **more: Any) -> ModelConfig:
    quick = {"concurrency": 4, "timeout_seconds": 30.0, "retries": 0, "max_new_tokens": 32}
    return ModelConfig(**({"kind": "openai", "base_url": url, "name": BASE} | quick | more))


def judge_of(server: ScriptedServer) -> ModelConfig:
    return settings(server.url, name=JUDGE)


def found(diagnosis: Diagnosis) -> dict[str, tuple[str, str | None]]:
    return {v.slice: (v.verdict, v.kind) for v in diagnosis.slices}


def lasting(out: Path) -> dict[str, Any]:
    """diagnosis.json without its times and its own place."""
    kept = json.loads((out / "diagnosis.json").read_text())
    kept.pop("run")
    for advice in kept["recommendations"]:
        advice.pop("command")
    return kept


def answers(out: Path, probe: str) -> Rows:
    rows = map(json.loads, (out / "answers.jsonl").read_text().splitlines())
    return [row for row in rows if row["probe"] == probe]


# ---------------------------------------------------------------- the whole ladder


def test_every_gap_is_found_behind_a_chat_server(rows: Rows, tmp_path: Path) -> None:
    """As a user runs it; nothing can be scored, so latent knowledge cannot be told from absent knowledge."""
    path, out = tmp_path / "set.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ScriptedServer(rows) as server:
        server.key = "s3cret-k3y"
        done = run_verb(
            "diagnose",
            f"model.base_url={server.url}",
            f"model.name={BASE}",
            f"evalset.path={path}",
            f"out={out}",
            "model.api_key_env=SCRIPTED_KEY",
            "model.concurrency=4",
            "model.max_new_tokens=32",
            "rule.calibration=null",  # twenty items that are all right do not suffice for `none` after it
            "wandb.mode=disabled",
            env={"SCRIPTED_KEY": server.key},
        )
    assert done.returncode == 0, done.stderr[-3000:]
    verdicts = {v["slice"]: v for v in json.loads((out / "diagnosis.json").read_text())["slices"]}
    unresolved = EXPECTED | {"half_known": ("knowledge", "unresolved")}
    assert {name: (v["verdict"], v["kind"]) for name, v in verdicts.items()} == unresolved
    assert all("ranked" in v["missing"] for v in verdicts.values())
    assert "not supported by this server, so missing: margins, ranked\n" in done.stderr
    assert not any("echo" in body for body in server.asked)
    assert all(a["strict"] for a in answers(out, "constrained")), "a schema repairs the form"
    for file in (p for p in out.rglob("*") if p.is_file()):
        assert server.key.encode() not in file.read_bytes(), file
    assert server.key not in done.stdout + done.stderr


def test_every_gap_is_found_behind_a_server_that_echoes(rows: Rows, diagnose: Any, tmp_path: Path) -> None:
    with ScriptedServer(rows) as server:
        server.seconds = 0.001
        diagnosis = diagnose(server, rows=rows, enabled=ProbesConfig().enabled, api="completions", concurrency=3)
    assert found(diagnosis) == EXPECTED
    assert not any("ranked" in v.missing for v in diagnosis.slices)
    assert diagnosis.controls["margins"]["disliked"]["rank_accuracy_n"] == 24
    assert 2 <= server.peak <= 3
    texts = [a["text"] for probe in ("plain", "samples", "oracle_context") for a in answers(tmp_path / "out", probe)]
    assert texts and not any("And so on" in text for text in texts), "the layout's stop string ends an answer"
    seeds = {(body["prompt"], body["seed"]) for body in server.drawn}
    assert len(seeds) == len(server.drawn) > 0, "no two samples share prompt and seed"


@pytest.mark.parametrize("echo", ["vllm", "sglang", "sentencepiece", "bytes"])
def test_an_echo_is_cut_at_the_continuation_however_the_server_counts(echo: str) -> None:
    rows = [planted_rows({"s": ["none"]})[0] | {"statement": "Le café s'élève à"}]
    asked = [Prompt((("user", rows[0]["statement"]),), raw=True), Prompt((("user", rows[0]["prompt"]),))]
    texts = [" value0", " value1", " pas value0"], ["value0", "value1", "not value0"]
    with ScriptedServer(rows) as server:
        model = load_model(settings(server.url, api="completions"))
        for prompt, continuations in zip(asked, texts, strict=True):
            server.echo = "openai"
            expected = model.logprob([prompt] * 3, continuations)
            assert [s.logprob for s in expected[:2]] == [-1.0, -6.0]
            assert [s.tokens for s in expected] == [1, 1, 2]
            server.echo = echo
            assert model.logprob([prompt] * 3, continuations) == expected


@pytest.mark.parametrize("echo", ["none", "silent"])
def test_a_server_that_echoes_no_logprobs_cannot_score(
    served: ScriptedServer, diagnose: Any, echo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise every option ties, and what is stored looks absent."""
    served.echo = echo
    diagnosis = diagnose(served, enabled=["plain", "samples", "ranked", "margins"], api="completions")
    assert all("ranked" in v.missing for v in diagnosis.slices)
    assert not {"ranked", "margins"} & set(diagnosis.run["config"]["probes"]["enabled"])
    assert "missing: margins, ranked" in capsys.readouterr().err


# ---------------------------------------------------------------- what servers do differently


def test_the_same_seed_gives_the_same_diagnosis(served: ScriptedServer, diagnose: Any, tmp_path: Path) -> None:
    for out, seed in (("one", 0), ("two", 0), ("three", 1)):
        diagnose(served, out=out, seed=seed)
    assert lasting(tmp_path / "one") == lasting(tmp_path / "two")
    assert answers(tmp_path / "one", "samples") == answers(tmp_path / "two", "samples")
    assert answers(tmp_path / "one", "samples") != answers(tmp_path / "three", "samples")


def test_a_500_or_429_now_and_then_changes_nothing(served: ScriptedServer, diagnose: Any, tmp_path: Path) -> None:
    diagnose(served, out="steady")
    served.unavailable = {500: 2, 429: 2}
    served._tried.clear()
    diagnose(served, out="shaky", retries=2)
    assert {500, 429} <= set(served.statuses)
    assert lasting(tmp_path / "steady") == lasting(tmp_path / "shaky")
    assert (tmp_path / "steady" / "answers.jsonl").read_bytes() == (tmp_path / "shaky" / "answers.jsonl").read_bytes()


@pytest.mark.parametrize("choices", ["one", "refused", "failing"])
def test_one_choice_per_call_still_gives_n_samples(
    served: ScriptedServer, diagnose: Any, tmp_path: Path, choices: str
) -> None:
    served.choices = choices
    diagnosis = diagnose(served, enabled=["plain", "samples"])
    assert found(diagnosis)["misshaped"] == ("format", None)
    drawn: dict[str, set[int]] = {}
    for a in answers(tmp_path / "out", "samples"):
        assert a["finish"] == "stop"
        drawn.setdefault(a["item"], set()).add(a["draw"])
    assert drawn and set(map(len, drawn.values())) <= {8, 32}
    single = [body for body in served.drawn if "n" not in body]
    assert len(single) == sum(map(len, drawn.values())), "one call each, and n is not tried again and again"
    assert len({body["seed"] for body in single}) == len(single)


@pytest.mark.parametrize("schemas", ["ignored", "refused"])
def test_a_schema_that_is_not_honoured_is_missing_not_wrong(
    served: ScriptedServer, diagnose: Any, tmp_path: Path, schemas: str, capsys: pytest.CaptureFixture[str]
) -> None:
    served.schemas = schemas
    diagnosis = diagnose(served)
    assert found(diagnosis)["misshaped"] == ("format", None)
    assert "constrained" not in diagnosis.run["config"]["probes"]["enabled"]
    assert not answers(tmp_path / "out", "constrained")
    assert "constrained" in capsys.readouterr().err.split("missing: ")[1]


def test_a_server_that_ignores_the_temperature_has_no_samples(
    served: ScriptedServer, diagnose: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight copies of the greedy answer would prove that nothing is latent."""
    served.samples = False
    diagnosis = diagnose(served, enabled=[*QUICK, "best_of_n"])
    assert all("samples" in v.missing for v in diagnosis.slices)
    assert not answers(tmp_path / "out", "samples")
    assert "missing: best_of_n, margins, ranked, samples" in capsys.readouterr().err


def test_a_server_that_renamed_max_tokens(served: ScriptedServer, diagnose: Any) -> None:
    served.names_limit = "max_completion_tokens"
    assert found(diagnose(served))["misshaped"] == ("format", None)


@pytest.mark.parametrize("refused", [{"seed": None}, {"temperature": 1.0}, {"seed": None, "temperature": 1.0}])
def test_settings_that_a_server_does_not_take_are_left_out_and_said_once(
    served: ScriptedServer, diagnose: Any, refused: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    served.refuses = refused
    diagnosis = diagnose(served, enabled=["plain", "samples"])
    assert {v.slice: sum(v.unread.values()) for v in diagnosis.slices} == {v.slice: 0 for v in diagnosis.slices}
    said = capsys.readouterr().err
    for name in refused:
        assert said.count(f"does not take '{name}': ") == 1
    lost = [status for status in served.statuses if status == 400]
    assert len(lost) <= 8 * len(refused) + 8, "found out once, or by the requests that were under way"


def test_stop_strings_that_a_server_does_not_take_are_applied_here(served: ScriptedServer) -> None:
    from diagnose.models.served import ServedModel

    served.refuses = {"stop": None}
    settings = ModelConfig(kind="openai", base_url=served.url, name="base", stop=["number"], max_new_tokens=64)
    model = ServedModel(settings)
    (found,) = model.generate([Prompt((("user", "Name it."),))], ["k"])[0]
    plain = ServedModel(replace(settings, stop=None)).generate([Prompt((("user", "Name it."),))], ["k"])[0][0]
    assert found.text == plain.text.partition("number")[0] != plain.text and found.finish == "stop"


def test_a_prompt_that_does_not_fit_is_unscored(
    served: ScriptedServer, diagnose: Any, few: Rows, tmp_path: Path
) -> None:
    """Also the first one, by which the server must not be judged."""
    whole = found(diagnose(served, out="whole"))
    long = [few[0] | {"prompt": few[0]["prompt"] + " please" * 100}, *few[1:]]
    served.window = 400
    diagnosis = diagnose(served, rows=long, out="long")
    by_slice = {v.slice: v for v in diagnosis.slices}
    assert found(diagnosis) == whole
    assert by_slice[few[0]["slice"]].unread == {"too_long": 1}
    assert "constrained" in diagnosis.run["config"]["probes"]["enabled"]
    assert {a["reason"] for a in answers(tmp_path / "long", "plain") if a["item"] == few[0]["id"]} == {"too_long"}


def test_an_option_that_does_not_fit_leaves_its_item_unranked(
    served: ScriptedServer, diagnose: Any, few: Rows, tmp_path: Path
) -> None:
    half = [row for row in few if row["slice"] == "half_known"]
    half[0] = half[0] | {"distractors": ["value " * 100, *half[0]["distractors"]]}
    served.window = 400
    diagnosis = diagnose(served, rows=half, enabled=["plain", "samples", "ranked"], api="completions")
    assert found(diagnosis) == {"half_known": ("knowledge", "latent")}
    scored = {
        a["item"]: a["logprob"] for a in answers(tmp_path / "out", "ranked_statement") if "value value" in a["text"]
    }
    assert scored == {half[0]["id"]: None}


# ---------------------------------------------------------------- what goes wrong

BROKEN = {
    "500": "InternalServerError",
    "429": "RateLimitError",
    "400": "BadRequestError",
    "html": "not a completion",
    "no choices": "not a completion",
    "bad choice": "not a completion",
    "close": "APIConnectionError",
    "hang": "APITimeoutError",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_server_that_gives_no_answer_is_bad_input(
    served: ScriptedServer, diagnose: Any, tmp_path: Path, how: str
) -> None:
    served.broken = how
    with pytest.raises(BadInput) as error:
        diagnose(served, timeout_seconds=0.3)
    assert f"model.base_url={served.url}: no usable answer from 'base'" in str(error.value)
    assert BROKEN[how] in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"name": "other"}, {"api_key_env": "NO_SUCH_VARIABLE"}])
def test_a_wrong_name_or_key_says_so(served: ScriptedServer, diagnose: Any, wrong: dict[str, str]) -> None:
    served.key = "s3cret"
    said = "does not exist" if "name" in wrong else r"the API key is read from \$NO_SUCH_VARIABLE"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", served.key)
        with pytest.raises(BadInput, match=said):
            diagnose(served, **wrong)


def test_nobody_there_is_one_message_and_exit_code_2(few: Rows, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in few))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        done = run_verb(
            "diagnose",
            f"model.base_url={url}",
            f"model.name={BASE}",
            f"evalset.path={path}",
            "model.retries=0",
            f"out={tmp_path / 'out'}",
        )
    assert done.returncode == 2, done.stderr[-2000:]
    assert f"model.base_url={url}" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert not (tmp_path / "out").exists()


def test_a_server_that_dies_costs_only_the_batch_that_it_died_in(
    served: ScriptedServer, diagnose: Any, tmp_path: Path
) -> None:
    diagnose(served, out="whole", batch_size=8)
    needed = len(served.asked)
    served.dies_after = len(served.statuses) + needed // 2
    with pytest.raises(RunFailed, match="to resume, repeat the command") as error:
        diagnose(served, batch_size=8)
    assert error.value.exit_code == 1
    assert f"model.base_url={served.url}" in str(error.value)
    whole, part = ((tmp_path / d / "answers.jsonl").read_bytes() for d in ("whole", "out"))
    assert part and whole.startswith(part), "what was answered is kept"
    assert not (tmp_path / "out" / "diagnosis.json").exists()
    served.dies_after, before = None, len(served.asked)
    diagnose(served, batch_size=8)
    assert lasting(tmp_path / "out") == lasting(tmp_path / "whole")
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == whole
    assert len(served.asked) - before < 0.7 * needed, "nothing is asked twice"


# ---------------------------------------------------------------- judges


@pytest.fixture(scope="module")
def toned() -> Rows:
    """Right but curt, judged by a model; and nothing to complain of."""
    rows = planted_rows({"disliked": PURE["disliked"], "liked": ["liked"] * 40})
    return [row | {"grader": {"kind": "contains", "judge": {"kind": "model"}}} for row in rows]


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("polite", "preference"),
        ("always A", "none"),
        ("garbage", "none"),
    ],
)
def test_a_judge_is_believed_in_both_orders_only(toned: Rows, diagnose: Any, kind: str, verdict: str) -> None:
    with ScriptedServer(toned) as server:
        server.judge = kind
        server.names_limit = "max_completion_tokens"
        diagnosis = diagnose(
            server, rows=toned, enabled=["plain", "preference_judged"], judge=judge_of(server), concurrency=8
        )
        assert server.asked_of(JUDGE)
    verdicts = {v.slice: v for v in diagnosis.slices}
    assert (verdicts["disliked"].verdict, verdicts["liked"].verdict) == (verdict, "none")
    assert all(("preference" in v.missing) == (kind == "garbage") for v in verdicts.values())
    measured = diagnosis.controls["judges"].get("disliked", {})
    if kind == "garbage":
        assert not measured and verdicts["disliked"].preferred is None
    else:
        assert measured["position_bias"] == {"polite": 0.0, "always A": 1.0}[kind]
        assert measured["accuracy"] == {"polite": 1.0, "always A": 0.0}[kind]
        assert verdicts["disliked"].preferred.k == {"polite": 0, "always A": 36}[kind]


def test_eval_asks_the_judge_about_base_and_run(toned: Rows, tmp_path: Path) -> None:
    from diagnose.items.evalset import read_evalset
    from diagnose.probes.answers import AnswerLog
    from eval.compare import pairs
    from eval.measure import measure

    class Tuned(ScriptedModel):
        """What training was for: it says everything in the wanted tone."""

        def _say(self, prompt: Prompt, rng: random.Random, temperature: float) -> str:
            return WANTED_TONE + super()._say(prompt, rng, 0.0).removeprefix(WANTED_TONE)

    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in toned))
    evalset = read_evalset(EvalSetConfig(path=str(path)))
    with ScriptedServer(toned) as server:
        judges = Judges(judge_of(server))
        base, tuned = (
            measure(kind(toned), evalset, ProbesConfig(), ["prompt"], AnswerLog(tmp_path / name, 0), judges)
            for name, kind in (("base", ScriptedModel), ("tuned", Tuned))
        )
        assert {row["messages"][0]["content"].count("Answer A:") for row in server.asked} == {1}
    disliked = [i for i in base.items.values() if i.slices == ("disliked",)]
    liked = [i for i in base.items.values() if i.slices == ("liked",)]
    assert pairs(base, tuned, disliked)[1].tolist() == [[0.0, 1.0]] * len(disliked)
    assert pairs(base, tuned, liked)[1].tolist() == [[1.0, 1.0]] * len(liked)
    assert base.success(disliked[0].id, "few_shot") is None, "nobody judged what exemplars made of it"


def graded_by_a_model() -> Rows:
    rows = planted_rows({"healthy": ["none"] * 36, "misshaped": ["format"] * 24, "unknown": ["absent"] * 24})
    for row in rows:
        row["grader"] = {"kind": "judge"}
        if row["slice"] == "misshaped":
            row["target"] = json.loads(row["target"])["value"]
            row["distractors"] = [json.loads(d)["value"] for d in row["distractors"]]
    return rows


def test_a_judge_that_grades_finds_the_gaps_too(diagnose: Any) -> None:
    rows = graded_by_a_model()
    with ScriptedServer(rows) as server:
        server.judge = "grader"
        diagnosis = diagnose(server, rows=rows, enabled=["plain", "samples", "oracle_context"], judge=judge_of(server))
    assert found(diagnosis) == {name: EXPECTED[name] for name in ("healthy", "misshaped", "unknown")}
    measured = diagnosis.controls["graders"]["judge"]
    assert measured["specificity"] == 1.0 and measured["sensitivity"] >= 0.8 and measured["rejects_gold"] == 0.0


def test_a_judge_that_accepts_everything_grades_nothing(diagnose: Any) -> None:
    """Its slices would be free of gaps, whatever the model says."""
    rows = graded_by_a_model()
    with ScriptedServer(rows) as server:
        server.judge = "always A"
        with pytest.raises(
            Blocked, match=r"judge=judge: .* right ones and takes (\d+) of \1 wrong ones .* 1\.00, needed"
        ):
            diagnose(server, rows=rows, enabled=["plain"], judge=judge_of(server))
        said = {body["messages"][-1]["content"] for body in server.asked_of(BASE)}
        assert said <= {"Hello."}, "only what the server can do was tried"


def test_a_grader_that_cannot_be_read_leaves_items_unscored(diagnose: Any) -> None:
    rows = graded_by_a_model()[:24]
    with ScriptedServer(rows) as server:
        server.judge = "garbage"
        diagnosis = diagnose(server, rows=rows, enabled=["plain", "samples", "oracle_context"], judge=judge_of(server))
    for v in diagnosis.slices:
        assert v.unread == {"judge_unreadable": 20}
        assert (v.verdict, v.n, v.strict.n) == ("insufficient", 0, 0)


def test_a_judge_that_is_not_there_is_named_as_the_judge(served: ScriptedServer, diagnose: Any, toned: Rows) -> None:
    from diagnose.items.evalset import _item

    item = _item(toned[0], "set.jsonl:1", 1, EvalSetConfig())
    with pytest.raises(BadInput, match=r"judge\.base_url=http://127\.0\.0\.1:9/v1: no usable answer from 'judge'"):
        Judges(settings("http://127.0.0.1:9/v1", name=JUDGE)).check([item])
    with pytest.raises(BadInput, match=r"judge\.name: missing"):
        Judges(settings(served.url, name=None)).check([item])
    Judges(judge_of(served)).check([item])


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("**B**", "B"),
        ("(c)", "c"),
        ("Grade: C", "C"),
        ("B because it is nicer", "B"),
        ("A\n\nIt is right.", "A"),
        ("A good answer would be B", None),
        ("A or B", None),
        ("A, B and C", None),
        ("C'est bien", None),
        ("Both", None),
        ("", None),
    ],
)
def test_a_letter_is_read_only_where_it_stands_for_itself(text: str, letter: str | None) -> None:
    read = LETTER.match(text)
    assert (read[1] if read else None) == letter


def test_half_a_surrogate_pair_is_replaced_because_no_file_can_hold_it() -> None:
    from types import SimpleNamespace

    from diagnose.models.served import ServedModel

    choice = SimpleNamespace(message=SimpleNamespace(content="opal \ud83d"), finish_reason="stop")
    model = ServedModel(ModelConfig(kind="openai", base_url="http://localhost:1", name="m"))
    assert model._read(choice, None).text == "opal ?"


# ---------------------------------------------------------------- several servers of one model


def test_several_servers_share_the_questions_and_the_diagnosis_is_the_same(
    few: Rows, served: ScriptedServer, diagnose: Any, tmp_path: Path
) -> None:
    one = found(diagnose(served, "one"))
    with ScriptedServer(few) as second:
        before = len(served.asked)
        both = found(diagnose(served, "both", base_url=[served.url, second.url]))
        shares = [len(served.asked) - before, len(second.asked)]
    assert both == one and abs(shares[0] - shares[1]) <= 1
    texts = [{(a["item"], a["draw"]): a["text"] for a in answers(tmp_path / out, "samples")} for out in ("one", "both")]
    assert texts[0] == texts[1]


def test_the_server_that_does_not_answer_is_named(served: ScriptedServer, diagnose: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(BadInput, match=f"model.base_url={gone}: no usable answer"):
        diagnose(served, base_url=[served.url, gone])


@pytest.mark.parametrize("given", [[""], ["http://h/v1", 7], {"a": 1}, 8000])
def test_what_is_no_url_is_refused(given: Any) -> None:
    for role in ("model", "judge"):
        roles = {"model": settings("http://h/v1")} | {role: settings("x", base_url=given)}
        with pytest.raises(BadInput, match=rf"{role}.base_url.*allowed: a URL, or a list of them"):
            check_diagnose(DiagnoseConfig(**roles, evalset=EvalSetConfig(path="e.jsonl")))


def test_one_server_less_is_the_same_run(few: Rows, served: ScriptedServer, diagnose: Any) -> None:
    with ScriptedServer(few) as second:
        diagnose(served, base_url=[served.url, second.url])
    drawn = len(served.drawn)
    assert drawn > 0
    diagnose(served, base_url=[served.url])
    assert len(served.drawn) == drawn, "all answers were kept"


def test_a_password_in_a_url_is_in_no_complaint(capsys: pytest.CaptureFixture[str]) -> None:
    given = settings("http://u:geheim@127.0.0.1:9/v1", timeout_seconds=2.0)
    with pytest.raises(BadInput) as error:
        ServedModel(given).reach()
    assert "geheim" not in str(error.value) + capsys.readouterr().err and "127.0.0.1:9" in str(error.value)
