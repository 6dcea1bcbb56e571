"""The log: whole batches only, nothing asked twice, the same answers after a kill at any byte."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import ScriptedModel, planted_rows

from diagnose.config import EvalSetConfig, ModelConfig, ProbesConfig
from diagnose.items.evalset import EvalSet, read_evalset
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import Judges
from diagnose.probes.prompts import plain
from diagnose.probes.run import run_probes
from diagnose.report.html import render_report

JUDGES = Judges(ModelConfig())
ROWS = planted_rows({"a": ["absent"] * 20, "b": ["format"] * 20, "c": ["latent"] * 20})


def evalset(tmp_path: Path) -> EvalSet:
    import json

    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return read_evalset(EvalSetConfig(path=str(path)))


def test_a_log_cut_at_any_byte_is_completed_to_the_same_bytes(tmp_path: Path) -> None:
    items, path = evalset(tmp_path), tmp_path / "answers.jsonl"
    run_probes(ScriptedModel(ROWS), items, ProbesConfig(), AnswerLog(path, 0), JUDGES)
    whole = path.read_bytes()
    for cut in random.Random(0).sample(range(len(whole)), 8):
        path.write_bytes(whole[:cut])
        run_probes(ScriptedModel(ROWS), items, ProbesConfig(), AnswerLog(path, 0), JUDGES)
        assert path.read_bytes() == whole, f"cut at byte {cut} of {len(whole)}"


def test_a_finished_log_asks_nothing(tmp_path: Path) -> None:
    items, path, model = evalset(tmp_path), tmp_path / "answers.jsonl", ScriptedModel(ROWS)
    run_probes(model, items, ProbesConfig(), AnswerLog(path, 0), JUDGES)
    asked = model.asked
    run_probes(model, items, ProbesConfig(), AnswerLog(path, 0), JUDGES)
    assert asked > 0
    assert model.asked == asked


def test_a_small_slice_is_shown_borrowed_examples_and_the_report_says_whose(diagnose_scripted: Any) -> None:
    rows = planted_rows({"large": ["format"] * 40, "small": ["format"] * 10})
    found = diagnose_scripted(rows)
    by = {v.slice: v for v in found.slices}
    assert by["small"].n == 10 and "few_shot" not in by["small"].missing
    repaired = [row["read"] for row in by["small"].evidence if row["probe"] == "few_shot"]
    assert repaired == ["strict", "strict"]
    assert found.evalset["examples_of"] == {"small": "large"} and set(found.evalset["reserved"]) == {"large"}
    config = {"model": {"path": "m"}, "evalset": {"path": "f"}}
    text = render_report(replace(found, run=found.run | {"config": config, "device": "cpu"}))
    assert '<b class="name">small</b> was shown examples from <b class="name">large</b>' in text
    alone = diagnose_scripted(planted_rows({"small": ["format"] * 10}), seed=1)
    assert "few_shot" in alone.slices[0].missing


def test_progress_starts_with_what_is_on_disk(tmp_path: Path) -> None:
    """Answers read from disk take no time, so the time left must not be estimated from them."""
    items, path, model = evalset(tmp_path).items, tmp_path / "answers.jsonl", ScriptedModel(ROWS)
    model.batch_size = 8
    AnswerLog(path, 0).ask(model, [plain(i) for i in items])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:24]))
    calls: list[tuple[str, int, int]] = []
    AnswerLog(path, 0, lambda *call: calls.append(call)).ask(model, [plain(i) for i in items])
    assert [done for _, done, _ in calls] == [*range(24, len(items), 8), len(items)]
    assert {(probe, planned) for probe, _, planned in calls} == {("plain", len(items))}


def test_another_batch_size_gives_the_same_answers(tmp_path: Path) -> None:
    items, found = evalset(tmp_path), []
    for size in (7, 64):
        model = ScriptedModel(ROWS)
        model.batch_size = size
        log = AnswerLog(tmp_path / f"answers_{size}.jsonl", 0)
        run_probes(model, items, ProbesConfig(), log, JUDGES)
        found.append(
            {probe: log.of(probe) for probe in ("plain", "few_shot", "samples", "ranked_statement", "oracle_context")}
        )
    assert found[0] == found[1]


def test_an_item_that_does_not_fit_is_unscored_not_wrong(tmp_path: Path) -> None:
    class Narrow(ScriptedModel):
        def fits(self, prompt: object, continuation: str | None = None) -> bool:
            return "a 3?" not in str(prompt)

    log = AnswerLog(tmp_path / "answers.jsonl", 0)
    run_probes(Narrow(ROWS), evalset(tmp_path), ProbesConfig(), log, JUDGES)
    answer = log.get("plain", "a-3")
    assert (answer.strict, answer.lenient, answer.reason) == (None, None, "too_long")


def test_exemplars_bring_no_second_system_turn(tmp_path: Path) -> None:
    import json

    from diagnose.probes.prompts import few_shot

    path = tmp_path / "chat.jsonl"
    rows = [
        {"id": str(k), "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{k}?"}]}
        for k in range(20)
    ]
    path.write_text("".join(json.dumps(row | {"target": "yes"}) + "\n" for row in rows))
    found = read_evalset(EvalSetConfig(path=str(path)))
    for ask in few_shot(found.items, found, ProbesConfig(), 0):
        roles = [role for role, _ in ask.prompt.turns]
        assert roles == ["system", *["user", "assistant"] * 3, "user"]
