"""A model that reads the content of answers: what it is asked, what stays with the rules, and how it is measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, ScriptedModel, planted_rows
from scripted_server import BASE, JUDGE, ScriptedServer

from diagnose.adaptive import spend
from diagnose.cli import own_groups
from diagnose.config import (
    DiagnoseConfig,
    EvalSetConfig,
    ModelConfig,
    ProbesConfig,
    ReaderConfig,
    RuleConfig,
    WandbConfig,
    check_diagnose,
)
from diagnose.errors import BadInput, Blocked
from diagnose.grading.grade import grade
from diagnose.grading.grader import parse_grader
from diagnose.items.evalset import read_evalset
from diagnose.probes.answers import AnswerLog, Response
from diagnose.probes.judge import Judges
from diagnose.probes.model_reader import NO, YES, ModelReader, question, reads
from diagnose.records import EvalItem, Reading
from diagnose.run import _identity, run
from diagnose.verdict.controls import grader_controls
from scripts import bench_reader

DEMO = ROOT / "tests" / "data" / "demo" / "model"


def item(gold: str = "value7", name: str = "x", kind: str = "exact", **more: Any) -> EvalItem:
    grader = parse_grader({"kind": kind} | more.pop("grader", {}), "f:1")
    return EvalItem(
        id=name, slices=("s",), turns=(("user", "What is the value?"),), targets=(gold,), grader=grader, where="f:1",
        **more,
    )  # fmt: skip


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(planted_rows({"misshaped": ["format"] * 4})) as server:
        yield server


def reader_of(server: ScriptedServer, **more: Any) -> ReaderConfig:
    quick = {"concurrency": 4, "timeout_seconds": 30.0, "retries": 0}
    return ReaderConfig(**({"by": "model", "base_url": server.url, "name": JUDGE} | quick | more))


def by_rules(responses: list[Response]) -> list[Reading]:
    return [grade(*response) for response in responses]


STATES: list[tuple[Response, Reading, Reading, str]] = [
    ((item(), "value7", False), Reading(True, True), Reading(True, True), "a strict pass is not asked about"),
    ((item(), "", False), Reading(None, None, "empty"), Reading(None, None, "empty"), "nor what says nothing"),
    ((item(), "No. 8, so", True), Reading(None, None, "cut_off"), Reading(None, None, "cut_off"), "nor what broke off"),
    ((item(), "No. 7!", False), Reading(False, False), Reading(False, True), "content that the rules do not find"),
    ((item(), "value7, said ten times", False), Reading(False, True), Reading(False, True), "both find it"),
    ((item("value8"), "No. 7!", False), Reading(False, False), Reading(False, False), "neither finds it"),
]


def test_the_model_is_heard_only_where_the_rules_do_not_say_strict(server: ScriptedServer) -> None:
    responses = [response for response, *_ in STATES]
    assert by_rules(responses) == [before for _, before, _, _ in STATES]
    reader = ModelReader(reader_of(server))
    for (_, _, after, why), found in zip(STATES, reader.read(responses, by_rules(responses)), strict=True):
        assert found == after, why
    assert len(server.asked_of(JUDGE)) == 3
    reader.read([*responses, *responses], by_rules([*responses, *responses]))
    assert len(server.asked_of(JUDGE)) == 3, "the same question is not asked twice"


def test_the_model_may_take_content_away(server: ScriptedServer) -> None:
    found = ModelReader(reader_of(server)).read([(item(), "It is seven.", False)], [Reading(False, True)])
    assert found == [Reading(False, False)]


def test_a_reply_that_is_neither_yes_nor_no_leaves_the_answer_unread(server: ScriptedServer) -> None:
    server.judge = "garbage"
    responses = [(item(), "It is value7.", False), (item(), "value7", False)]
    found = ModelReader(reader_of(server)).read(responses, by_rules(responses))
    assert found == [Reading(None, None, "judge_unreadable"), Reading(True, True)]


@pytest.mark.parametrize("echo", ["vllm", "openai", "sglang"])
def test_log_probabilities_decide_where_the_server_tells_them(server: ScriptedServer, echo: str) -> None:
    server.echo = echo
    responses = [STATES[3][0], STATES[5][0]]
    found = ModelReader(reader_of(server, api="completions")).read(responses, by_rules(responses))
    assert [r.lenient for r in found] == [True, False]
    assert len(server.asked) == 4 and all(body["echo"] for body in server.asked)
    assert {body["prompt"].rsplit("\n", 1)[1] for body in server.asked} == {YES, NO}


def test_what_it_says_decides_where_no_log_probabilities_come(server: ScriptedServer) -> None:
    server.echo = "silent"
    responses = [STATES[3][0], STATES[5][0]]
    found = ModelReader(reader_of(server, api="completions")).read(responses, by_rules(responses))
    assert [r.lenient for r in found] == [True, False]
    assert [bool(body.get("echo")) for body in server.asked].count(False) == 2


@pytest.mark.parametrize(
    ("one", "asked", "why"),
    [
        (item(), True, "exact"),
        (item("7", kind="number"), True, "number"),
        (item("A", kind="choice", choices=("one", "two")), True, "choice"),
        (item('{"v": 1}', kind="json"), True, "json"),
        (item(kind="contains"), False, "strict and lenient are one reading"),
        (item(kind="judge"), False, "a model grades it already"),
        (item(kind="regex", grader={"pattern": "v.", "lenient": "v"}), False, "the row says what right content is"),
        (replace(item(kind="regex", grader={"pattern": "v."}), targets=()), False, "there is no gold answer"),
    ],
)
def test_which_items_a_model_reads(one: EvalItem, asked: bool, why: str) -> None:
    assert reads(one) is asked, why


def test_the_question_shows_options_and_alternatives_but_no_thoughts(server: ScriptedServer) -> None:
    text = question(item("B", kind="choice", choices=("Rome", "Oslo")), "the second").turns[0][1]
    assert "Reference answer:\nB: Oslo\n" in text
    assert "(any of these):\nvalue7\nseven\n" in question(replace(item(), targets=("value7", "seven")), "7").turns[0][1]
    response = (item(), "<think>No. 8?</think>No. 7!", False)
    assert ModelReader(reader_of(server)).read([response], by_rules([response])) == [Reading(False, True)]
    assert "think" not in server.asked[0]["messages"][0]["content"]


# ---------------------------------------------------------------- in a diagnosis


class Numbered(ScriptedModel):
    """Says `No. 7!` where it should say value7, which no rule reads."""

    def _say(self, *args: Any) -> str:
        return super()._say(*args).replace("I believe that it is value", "No. ")


def ask(server: ScriptedServer, path: Path, rule: RuleConfig, reader: ReaderConfig) -> tuple[AnswerLog, list[EvalItem]]:
    rows = planted_rows({"misshaped": ["format"] * 12, "healthy": ["none"] * 12})
    source = path / "set.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evalset = read_evalset(EvalSetConfig(path=str(source)))
    judges = Judges(ModelConfig(), reader)
    judges.check(evalset.items)
    log = AnswerLog(path / "answers.jsonl", 0, read=judges.read)
    spend(Numbered(rows), evalset, ProbesConfig(enabled=["plain", "samples"]), rule, log, judges)
    return log, evalset.items


def lenient(log: AnswerLog, items: list[EvalItem], name: str) -> set[bool | None]:
    return {log.get("plain", i.id).lenient for i in items if i.slices == (name,)}


def test_its_readings_are_kept_with_the_answers(server: ScriptedServer, tmp_path: Path, rule: RuleConfig) -> None:
    log, items = ask(server, tmp_path, rule, reader_of(server))
    assert (lenient(log, items, "misshaped"), lenient(log, items, "healthy")) == ({True}, {True})
    before = len(server.asked_of(JUDGE))
    log, items = ask(server, tmp_path, rule, reader_of(server))
    assert lenient(log, items, "misshaped") == {True}
    assert len(server.asked_of(JUDGE)) == before + 1, "a resumed run only sees that the server answers"


def test_the_rules_alone_do_not_find_it(server: ScriptedServer, tmp_path: Path, rule: RuleConfig) -> None:
    log, items = ask(server, tmp_path, rule, ReaderConfig())
    assert lenient(log, items, "misshaped") == {False} and not server.asked
    assert "read_by" not in grader_controls(items, log)["json"]


def test_its_error_rates_are_measured_on_texts_of_known_content(
    server: ScriptedServer, tmp_path: Path, rule: RuleConfig
) -> None:
    log, items = ask(server, tmp_path, rule, reader_of(server))
    for found in grader_controls(items, log).values():
        assert found["read_by"] == "model" and found["sensitivity"] == 1.0 and found["rejects_gold"] == 0.0
        # The scripted reader takes a repeated prompt for an answer where it holds the number, one text in five or six.
        assert 0.75 < found["specificity"] < 1.0


@pytest.mark.parametrize(("kind", "says"), [
    ("always A", r"\(exact\) it finds 60 of 60 right ones and takes 60 of 60 wrong ones for right; .* 1\.00, needed"),
    ("garbage", r"takes 0 of 0 wrong ones for right; .* 0\.00, needed reader\.trust=1\.6"),
])  # fmt: skip
def test_a_model_that_cannot_tell_is_refused_before_the_first_question(
    server: ScriptedServer, tmp_path: Path, rule: RuleConfig, kind: str, says: str
) -> None:
    """One that says Yes to everything would make a format gap of every missing fact."""
    server.judge = kind
    with pytest.raises(Blocked, match=says):
        ask(server, tmp_path, rule, reader_of(server))
    kept = [json.loads(line)["probe"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert set(kept) == {"control_right", "control_wrong", "control_reference"}
    log, items = ask(server, tmp_path, rule, reader_of(server, trust=0.0))
    assert log.get("plain", items[0].id), "unless somebody wants it all the same"


@pytest.mark.parametrize(("by", "verdict"), [("model", "format"), ("rules", "knowledge")])
def test_the_verdict_follows_the_reader_and_the_report_names_it(
    server: ScriptedServer, tmp_path: Path, believed: RuleConfig, by: str, verdict: str
) -> None:
    """No rule reads `No. 7!` as value7, so by the rules its content is missing."""
    rows = planted_rows({"misshaped": ["format"] * 28})
    server.model = Numbered(rows)
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DiagnoseConfig(
        model=ModelConfig(kind="openai", base_url=server.url, name=BASE, concurrency=4, max_new_tokens=32),
        evalset=EvalSetConfig(path=str(path)),
        probes=ProbesConfig(enabled=["plain", "samples", "oracle_context"], samples=2, more_samples=0),
        rule=replace(believed, sweeps=250, burn=50),
        reader=replace(reader_of(server), by=by),
        wandb=WandbConfig(mode="disabled"),
        out=str(tmp_path / "out"),
    )
    diagnosis = run(config)
    assert [v.verdict for v in diagnosis.slices] == [verdict]
    report = (tmp_path / "out" / "report.html").read_text()
    assert ("json, read by a model" in report) == (by == "model")
    assert diagnosis.run["config"]["reader"]["by"] == by, "from where eval takes its reader"


def test_another_reader_makes_another_run(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(planted_rows({"s": ["none"]})[0]) + "\n")
    evalset, model = read_evalset(EvalSetConfig(path=str(path))), ScriptedModel([])
    readers = (ReaderConfig(), ReaderConfig(by="model", path="a"), ReaderConfig(by="model", path="b"))
    found = [_identity(evalset, model, DiagnoseConfig(reader=reader), None) for reader in readers]  # type: ignore[arg-type]
    assert len({one["reader"] for one in found}) == 3


# ---------------------------------------------------------------- settings


def checked(**reader: Any) -> None:
    rows = EvalSetConfig(path="f.jsonl")
    check_diagnose(DiagnoseConfig(model=ModelConfig(path="m"), evalset=rows, reader=ReaderConfig(**reader)))


def test_a_reader_without_a_model_is_refused() -> None:
    checked()
    checked(by="model", path="m")
    checked(by="model", base_url="http://x/v1", name="n")
    for wrong, says in (
        ({"by": "model"}, "reader.path: missing; reader=model needs reader.path=DIR"),
        ({"by": "model", "base_url": "http://x/v1"}, "reader.base_url and reader.name: a served reader needs both"),
        ({"by": "people"}, "reader.by=people: allowed: rules, model"),
        ({"by": "model", "path": "m", "batch_size": 0}, "reader.batch_size=0: allowed: 1 or more"),
    ):
        with pytest.raises(BadInput, match=says):
            checked(**wrong)


def test_a_path_selects_the_model_and_eval_gets_the_same_reader() -> None:
    for override in ("reader.path=m", "reader.base_url=http://x/v1"):
        assert "reader=model" in own_groups([override])
    assert "reader=model" not in own_groups(["reader=rules", "reader.path=m"])
    stored = ReaderConfig(by="model", base_url="http://x/v1", name="n")
    assert ReaderConfig(**json.loads(json.dumps(asdict(stored)))) == stored and stored.kind == "openai"


def test_a_server_that_is_not_there_is_named_as_the_reader() -> None:
    reader = ReaderConfig(by="model", base_url="http://127.0.0.1:9/v1", name=BASE, retries=0, timeout_seconds=5.0)
    with pytest.raises(BadInput, match=r"reader\.base_url=http://127\.0\.0\.1:9/v1: no usable answer"):
        Judges(ModelConfig(), reader).check([item()])
    Judges(ModelConfig(), reader).check([item(kind="contains")])  # nobody asks it


# ---------------------------------------------------------------- a real network, and the benchmark


def test_a_network_reads_by_its_log_probabilities() -> None:
    reader = ModelReader(ReaderConfig(by="model", path=str(DEMO), batch_size=2, device="cpu"))
    responses = [(item(name=str(k)), f"No. {k}!", False) for k in range(5)]
    found = reader.read(responses, by_rules(responses))
    for (one, text, _), reading in zip(responses, found, strict=True):
        prompt = question(one, text)
        yes, no = reader.model.logprob([prompt, prompt], [YES, NO])
        assert reading == Reading(False, (yes.logprob or 0.0) > (no.logprob or 0.0))


def test_what_does_not_fit_its_window_is_unread() -> None:
    reader = ModelReader(ReaderConfig(by="model", path=str(DEMO), device="cpu"))
    response = (item(), "No. 7! " * 5000, False)
    assert reader.read([response], [Reading(False, False)]) == [Reading(None, None, "judge_unreadable")]


def test_the_benchmark_measures_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_reader, "RESULTS", tmp_path)
    limits = ["--only", "seen", "--limit", "12", "--reader-model", str(DEMO)]
    assert bench_reader.main(["--data", str(tmp_path), *limits]) == 0
    found = json.loads((tmp_path / "bench_reader_model.json").read_text())
    assert {s["reader"] for s in found["scores"]} == {"rules", "model", "contained", "stemmed"}
    assert "model: sensitivity" in capsys.readouterr().out
    assert not (tmp_path / "bench_reader.json").exists(), "a part is not the whole"
