"""Outputs that were already logged: each format as its tool writes it, and nothing counted that was not said."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ScriptedModel, planted_rows, run_verb
from scripted_server import BASE, ScriptedServer

from diagnose.config import DiagnoseConfig, EvalSetConfig, ModelConfig, RuleConfig, WandbConfig
from diagnose.errors import BadInput
from diagnose.items.evalset import read_evalset
from diagnose.models.recorded import RecordedModel
from diagnose.records import Diagnosis, Prompt
from diagnose.run import run

TRUTH = {"healthy": "none", "misshaped": "format", "half_known": "latent"}
Rows = list[dict[str, Any]]
Texts = dict[str, list[str]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return planted_rows({name: [truth] * 28 for name, truth in TRUTH.items()})


@pytest.fixture(scope="module")
def said(rows: Rows) -> Texts:
    """id → the greedy answer and eight samples of the scripted model."""
    model = ScriptedModel(rows)
    return {
        row["id"]: [
            model._say(Prompt((("user", row["prompt"]),)), random.Random(f"{row['id']}|{draw}"), min(draw, 1))
            for draw in range(9)
        ]
        for row in rows
    }


@pytest.fixture
def diagnose(tmp_path: Path, believed: RuleConfig, rows: Rows) -> Callable[..., Diagnosis]:
    """Diagnose what a log holds."""

    def start(log: Path, own: Rows | None = None, model: ModelConfig | None = None, out: str = "out") -> Diagnosis:
        path = tmp_path / "set.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in own or rows))
        config = DiagnoseConfig(
            model=model or ModelConfig(kind="recorded", path=str(log)),
            evalset=EvalSetConfig(path=str(path)),
            rule=replace(believed, sweeps=250, burn=50),
            wandb=WandbConfig(mode="disabled"),
            out=str(tmp_path / out),
        )
        return run(config)

    return start


def texts(tmp_path: Path, probe: str, out: str = "out") -> Texts:
    """item → what the run was told to have been said, by draw."""
    found: dict[str, dict[int, str]] = {}
    for line in (tmp_path / out / "answers.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["probe"] == probe and row["reason"] is None:
            found.setdefault(row["item"], {})[row["draw"]] = row["text"]
    return {item: [draws[d] for d in sorted(draws)] for item, draws in found.items()}


def scored(diagnosis: Diagnosis) -> set[str]:
    """Items that take part, which are those that no slice keeps back as exemplars."""
    reserved = {item for kept in diagnosis.evalset["reserved"].values() for item in kept}
    return {f"{name}-{i}" for name in TRUTH for i in range(28)} - reserved


def check(diagnosis: Diagnosis, tmp_path: Path, said: Texts, samples: int) -> None:
    """The verdicts, what they rest on, and what is named as missing."""
    verdicts = {v.slice: v for v in diagnosis.slices}
    assert {name: v.verdict for name, v in verdicts.items()} == {
        "healthy": "none",
        "misshaped": "format",
        "half_known": "knowledge",
    }
    assert verdicts["half_known"].kind in ("unresolved", *(("latent",) if samples else ())), "only samples can tell"
    for v in verdicts.values():
        assert v.n == 24 and not v.unread
        assert {"context", "ranked", "few_shot"} <= set(v.missing)
        assert ("samples" in v.missing) == (samples == 0)
    assert texts(tmp_path, "plain") == {item: said[item][:1] for item in scored(diagnosis)}
    for item, drawn in texts(tmp_path, "samples").items():
        assert item.startswith("half_known") and drawn == said[item][1 : 1 + samples]
    assert bool(texts(tmp_path, "samples")) == (samples > 0)


# ---------------------------------------------------------------- lm-eval --log_samples


def lm_eval(rows: Rows, said: Texts, repeats: int, ids: bool = True) -> str:
    """samples_TASK_DATE.jsonl of lm-eval 0.4.13: all documents once per filter, the responses unfiltered."""
    lines = []
    for name in ("strict-match", "flexible-extract"):
        for number, row in enumerate(rows):
            doc = ({"id": row["id"]} if ids else {}) | {"question": row["prompt"], "answer": row["target"]}
            resps = [said[row["id"]][:repeats]]
            lines.append(
                {
                    "doc_id": number,
                    "doc": doc | {"same_again": row["prompt"]},
                    "target": row["target"],
                    "arguments": {"gen_args_0": {"arg_0": f"Q: {row['prompt']}\nA:", "arg_1": {"until": ["\n"]}}},
                    "resps": resps,
                    "filtered_resps": [resps[0][0] if name == "strict-match" else "[invalid]"],
                    "filter": name,
                    "metrics": ["exact_match"],
                    "doc_hash": "d",
                    "prompt_hash": "p",
                    "target_hash": "t",
                    "exact_match": 0.0,
                }
            )
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize(("repeats", "ids"), [(1, True), (1, False), (5, False)])
def test_lm_eval_samples(diagnose: Any, tmp_path: Path, rows: Rows, said: Texts, repeats: int, ids: bool) -> None:
    """A document stands there once per filter; only repeats are samples. Without an id its question finds the item."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "samples_mine_2026-11-23T06-47-34.001574.jsonl").write_text(lm_eval(rows, said, repeats, ids))
    (folder / "results_2026-11-23T06-47-34.001574.json").write_text('{"results": {}}')
    check(diagnose(folder), tmp_path, said, repeats - 1)


def test_another_document_s_number_or_answer_is_no_id(diagnose: Any, tmp_path: Path, rows: Rows, said: Texts) -> None:
    """Ids that are other documents' answers, or numbers in another order than doc_id."""
    ids = [f"value{(k + 1) % 20}" if k < 20 else str(len(rows) - 1 - k) for k in range(len(rows))]
    renamed = [row | {"id": name} for row, name in zip(rows, ids, strict=True)]
    (tmp_path / "samples_mine.jsonl").write_text(lm_eval(rows, said, 1, ids=False))
    diagnose(tmp_path / "samples_mine.jsonl", renamed)
    by_prompt = {name: said[row["id"]][:1] for row, name in zip(rows, ids, strict=True)}
    found = texts(tmp_path, "plain")
    assert len(found) == 72 and found == {item: by_prompt[item] for item in found}


def test_tasks_that_count_alike_are_told_apart(diagnose: Any, tmp_path: Path, rows: Rows, said: Texts) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for name in TRUTH:
        part = [row for row in rows if row["slice"] == name]
        (folder / f"samples_{name}.jsonl").write_text(lm_eval(part, said, 1, ids=False))
    check(diagnose(folder), tmp_path, said, 0)


def test_an_item_in_two_logs_is_refused(diagnose: Any, tmp_path: Path, rows: Rows, said: Texts) -> None:
    """They may be of two models; their answers are no samples of one."""
    for name in ("one", "two"):
        (tmp_path / f"samples_{name}.jsonl").write_text(lm_eval(rows, said, 1))
    (tmp_path / "logs").mkdir()
    for file in tmp_path.glob("samples_*.jsonl"):
        file.rename(tmp_path / "logs" / file.name)
    with pytest.raises(BadInput, match=r"is answered in samples_one\.jsonl, samples_two\.jsonl; choose one"):
        diagnose(tmp_path / "logs")


def recorded(tmp_path: Path, logged: Rows, asked: Rows) -> list[str]:
    """What each item is given as its answer."""
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    items = read_evalset(EvalSetConfig(path=str(tmp_path / "set.jsonl"))).items
    model = RecordedModel(ModelConfig(kind="recorded", path=str(tmp_path / "log.jsonl")))
    model.check(items)
    return [model.generate([Prompt(i.turns)], [f"0|plain|{i.id}"])[0][0].text for i in items]


def logged_at(key: str, text: str, prompt: str = "Answer now.") -> dict[str, Any]:
    return {"probe": "plain", "item": key, "draw": 0, "text": text, "prompt": prompt}


def told(key: str, context: str) -> dict[str, Any]:
    """Every conversation ends with the same turn."""
    turns = [{"role": "user", "content": context}, {"role": "assistant", "content": "Yes?"}]
    return {"id": key, "messages": [*turns, {"role": "user", "content": "Answer now."}], "target": "t"}


def test_a_record_serves_one_item(tmp_path: Path) -> None:
    """By its id where the same turn ends every conversation; else nobody knows whose it is."""
    asked = [told("a", "one"), told("b", "two")]
    assert recorded(tmp_path, [logged_at("b", "second"), logged_at("a", "first")], asked) == ["first", "second"]
    with pytest.raises(
        BadInput, match=r"2 of its records fit .*set\.jsonl:1 \(a\), among them 'x', 'y'; give the items"
    ):
        recorded(tmp_path, [logged_at("x", "first"), logged_at("y", "second")], asked)
    with pytest.raises(BadInput, match=r"its record 'x' fits both .*set\.jsonl:1 \(a\) and .*set\.jsonl:2 \(b\)"):
        recorded(tmp_path, [logged_at("x", "only")], asked)
    # The whole conversation says more than its last turn.
    whole = Prompt(tuple((m["role"], m["content"]) for m in asked[1]["messages"])).sha
    assert recorded(tmp_path, [logged_at("x", "second", whole)], [asked[1]]) == ["second"]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "stop"),
        ("max_tokens", "length"),
        ("limit", "length"),
        ("content_filter", "refused"),
        ("error", "server"),
    ],
)
def test_how_an_answer_ended_is_read(tmp_path: Path, reason: str, finish: str) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"id": "a", "text": "t", "stop_reason": reason}))
    model = RecordedModel(ModelConfig(kind="recorded", path=str(tmp_path / "log.jsonl")))
    (texts,) = model._texts.values()
    assert texts[0].finish == finish


# ---------------------------------------------------------------- Inspect


def inspect(rows: Rows, said: Texts, epochs: int) -> Rows:
    """Samples as Inspect 0.3.285 logs them: texts or parts, and one that failed before the model said anything."""
    samples = []
    for epoch in range(1, epochs + 1):
        for number, row in enumerate(rows):
            text = said[row["id"]][epoch - 1]
            parts: Any = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": text}]
            asked: Any = [
                {"id": "m0", "role": "system", "content": "Be brief."},
                {"id": "m1", "role": "user", "content": [{"type": "text", "text": row["prompt"]}]},
            ]
            message = {"id": "m2", "role": "assistant", "content": parts if number % 2 else text}
            output = {"model": "m", "choices": [{"message": message, "stop_reason": "stop"}], "completion": text}
            if number % 3:
                output.pop("completion")
            samples.append(
                {
                    "id": row["id"],
                    "epoch": epoch,
                    "input": asked if number % 2 else row["prompt"],
                    "target": row["target"],
                    "messages": [],
                    "output": output,
                }
            )
    return samples


def archive(path: Path, entries: dict[str, Any], zstd: bool) -> None:
    """A .eval log; Inspect compresses its entries with Zstandard, which `zipfile` cannot write here."""
    import pyarrow

    with zipfile.ZipFile(path, "w") as file:
        for name, entry in entries.items():
            raw = json.dumps(entry).encode()
            file.writestr(name, pyarrow.compress(raw, codec="zstd", asbytes=True) if zstd else raw)
    if not zstd:
        return
    whole, at = bytearray(path.read_bytes()), file.start_dir
    for info in file.infolist():
        whole[info.header_offset + 8 : info.header_offset + 10] = (93).to_bytes(2, "little")
        whole[at + 10 : at + 12] = (93).to_bytes(2, "little")
        at += 46 + len(info.filename)
    path.write_bytes(whole)


@pytest.mark.parametrize(("kind", "epochs"), [("json", 1), ("json", 5), ("eval", 5), ("zstd", 5)])
def test_inspect_logs(diagnose: Any, tmp_path: Path, rows: Rows, said: Texts, kind: str, epochs: int) -> None:
    samples = inspect(rows, said, epochs)
    if kind == "json":
        path = tmp_path / "2026-11-23T06-48-16-00-00_task_7kBhvbgmf8tPTcF4a9WZyo.json"
        path.write_text(json.dumps({"version": 2, "status": "success", "eval": {}, "samples": samples}))
    else:
        path = tmp_path / "2026-11-23T06-48-15-00-00_task_NR7NYo4LMLjY3zBiasyLLH.eval"
        entries: dict[str, Any] = {"_journal/start.json": {}, "_journal/summaries/1.json": [], "header.json": {}}
        entries |= {f"samples/{s['id']}_epoch_{s['epoch']}.json": s for s in samples[1:]}
        # A long sample is stored in parts; its own entry holds the output.
        first = f"samples/{samples[0]['id']}_epoch_1"
        entries |= {f"{first}/sample.json": samples[0], f"{first}/messages/0.json": [], f"{first}/events/0.json": []}
        archive(path, entries, kind == "zstd")
    check(diagnose(path), tmp_path, said, epochs - 1)


def test_a_sample_that_failed_is_not_recorded(diagnose: Any, tmp_path: Path, rows: Rows, said: Texts) -> None:
    """Inspect logs it with an output without choices; that is no empty answer."""
    samples = inspect(rows, said, 1)
    for sample in samples:
        if sample["id"].startswith("healthy"):
            sample |= {"output": {"model": "m", "choices": [], "completion": ""}, "error": {"message": "timed out"}}
    (tmp_path / "log.json").write_text(json.dumps({"samples": samples}))
    verdicts = {v.slice: v for v in diagnose(tmp_path / "log.json").slices}
    assert verdicts["healthy"].unread == {"not_recorded": 24} and verdicts["healthy"].n == 0
    assert verdicts["misshaped"].verdict == "format"


# ---------------------------------------------------------------- our own, and plain JSONL


def test_our_own_run_again(diagnose: Any, tmp_path: Path, rows: Rows) -> None:
    """What a run asked of a server tells the same when it is read; where a prompt has changed since, nothing."""
    with ScriptedServer(rows) as server:
        settings = ModelConfig(kind="openai", base_url=server.url, name=BASE, concurrency=4, max_new_tokens=32)
        diagnose(tmp_path, model=settings, out="first")
    again = diagnose(tmp_path / "first", out="again")
    assert texts(tmp_path, "plain", "again") == texts(tmp_path, "plain", "first")
    assert texts(tmp_path, "samples", "again") == texts(tmp_path, "samples", "first")
    assert {"context", "few_shot", "preference"} <= set(again.slices[0].missing)
    changed = [row | {"prompt": row["prompt"] + " Please."} if row["slice"] == "healthy" else row for row in rows]
    later = diagnose(tmp_path / "first" / "answers.jsonl", changed, out="later")
    assert {v.slice: v.unread for v in later.slices}["healthy"] == {"not_recorded": 24}


@pytest.mark.parametrize("key", ["text", "response", "completion"])
def test_plain_rows(diagnose: Any, tmp_path: Path, said: Texts, key: str) -> None:
    lines = [
        {"id": item, key: text, "answer": "gold"}
        for draw in range(3)
        for item, t in said.items()
        for text in t[draw : draw + 1]
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    check(diagnose(tmp_path / "log.jsonl"), tmp_path, said, 2)


def test_a_rule_judges_what_is_recorded(diagnose: Any, tmp_path: Path) -> None:
    """Nobody needs to be asked whether a text is liked when a rule says so."""
    rows = planted_rows({"curt": ["none"] * 28, "polite": ["none"] * 28})
    greeted = {row["id"]: "Gladly: " * (row["slice"] == "polite") + str(row["target"]) for row in rows}
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"id": item, "text": text}) + "\n" for item, text in greeted.items()))
    rule = {"kind": "contains", "judge": {"kind": "rule", "prefer": "^Gladly"}}
    ruled = diagnose(log, [row | {"grader": rule} for row in rows], out="ruled").slices
    assert {v.slice: v.verdict for v in ruled} == {"curt": "preference", "polite": "none"}
    assert not any("preference" in v.missing or v.unread for v in ruled)


@pytest.mark.parametrize("recorded", [1, 2])
def test_a_rule_that_dislikes_some_recorded_answers_is_heard(diagnose: Any, tmp_path: Path, recorded: int) -> None:
    """Nobody sampled, so there is no noise to hide it in; what was not recorded is no text that a rule dislikes."""
    rows = planted_rows({"some": ["none"] * 40})
    log = tmp_path / "log.jsonl"
    said = [(row["id"], "Gladly: " * (k % 10 >= 3) + str(row["target"])) for k, row in enumerate(rows)]
    # Several answers to one item are several epochs of an Inspect log, or several lines of ours.
    lines = [
        {"probe": probe, "item": item, "draw": 0, "text": text, "prompt": Prompt((("user", row["prompt"]),)).sha}
        for (item, text), row in zip(said, rows, strict=True)
        for probe in ("plain", "samples")[:recorded]
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rule = {"kind": "contains", "judge": {"kind": "rule", "prefer": "^Gladly"}}
    found = diagnose(log, [row | {"grader": rule} for row in rows], out="ruled").slices[0]
    assert found.verdict == "preference", (found.p_classes, found.floors)


def test_what_was_not_recorded_is_unscored(tmp_path: Path, rows: Rows, said: Texts) -> None:
    """As a user runs it."""
    lines = [{"id": i, "text": t[0]} for i, t in said.items() if i not in {f"misshaped-{k}" for k in range(14)}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_verb(
        "diagnose",
        "model.kind=recorded",
        f"model.path={tmp_path / 'log.jsonl'}",
        f"evalset.path={tmp_path / 'set.jsonl'}",
        f"out={tmp_path / 'out'}",
        "wandb.mode=disabled",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    verdicts = {v["slice"]: v for v in json.loads((tmp_path / "out" / "diagnosis.json").read_text())["slices"]}
    lost = verdicts["misshaped"]["unread"].pop("not_recorded")
    assert 10 <= lost <= 14 and verdicts["misshaped"]["n"] == 24 - lost
    assert verdicts["misshaped"]["strict"]["n"] == 24 - lost and not verdicts["healthy"]["unread"]
    assert "samples" in verdicts["misshaped"]["missing"]


# ---------------------------------------------------------------- what cannot be read


def test_no_match_names_the_ids_of_both_sides(diagnose: Any, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"id": "theirs-1", "text": "x"}\n')
    with pytest.raises(BadInput, match=r"the log has ids \['theirs-1'\], the eval set has \['healthy-\d+', "):
        diagnose(tmp_path / "log.jsonl")
    assert not (tmp_path / "out").exists()


LIKELIHOODS = {"doc_id": 0, "doc": {"id": "q"}, "resps": [[["-0.1", "False"]], [["-0.5", "False"]]], "filter": "none"}
UNREADABLE = {
    "cut.jsonl": ('{"id": "healthy-1", "text": "x"}\n{"id": "hea', r"cut\.jsonl:2: "),
    "no_text.jsonl": ('{"id": "healthy-1", "text": null}\n', r"no_text\.jsonl:1: no id with an answer"),
    "no_id.jsonl": ('\n{"text": "x"}\n', r"no_id\.jsonl:2: no id with an answer"),
    "likelihoods.jsonl": (json.dumps(LIKELIHOODS), r"likelihoods\.jsonl:1: no id with an answer"),
    "garbage.json": ("{\n<html>", r"garbage\.json:2: not JSON"),
    "binary.json": (b"{\xff\xfe", r"binary\.json: not UTF-8"),
    "results.json": ('{"results": {}}', r"results\.json: contains no `samples`"),
    "odd.json": ('{"samples": [1]}', r"odd\.json: not an Inspect sample"),
    "log.eval": ("no archive", r"log\.eval: not an Inspect log"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_garbage_is_bad_input_with_its_place(diagnose: Any, tmp_path: Path, name: str) -> None:
    content, message = UNREADABLE[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=message) as error:
        diagnose(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("folder", "message"), [(True, "contains no log"), (False, "does not exist")])
def test_nothing_there(diagnose: Any, tmp_path: Path, folder: bool, message: str) -> None:
    path = tmp_path / "logs"
    if folder:
        path.mkdir()
    with pytest.raises(BadInput, match=f"{message}; allowed: samples_"):
        diagnose(path)
