"""The benchmark of readers: what would make its figures wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from statsmodels.stats.proportion import proportion_confint

from diagnose.grading.grader import parse_grader
from diagnose.records import EvalItem
from scripts import bench_reader
from scripts.reader.cases import SOURCES, Case, evouna, gsm8k, own_rows
from scripts.reader.row import Truth
from scripts.reader.scores import ALL, contained, rules, score, scores, share, stemmed
from scripts.reader.tables import in_readme, markdown, readme_table, table

NAME = ("block", "group", ALL, "exact")


def case(gold: str, text: str, truth: Truth = "right", question: str = "q?", kind: str = "exact", **more: Any) -> Case:
    item = EvalItem(
        id=f"{gold}|{text}", slices=("all",), turns=(("user", question),), targets=(gold,),
        grader=parse_grader({"kind": kind}, "x:1"), where="x:1", **more,
    )  # fmt: skip
    return Case(item, text, truth, "block", "group", question)


# ---------------------------------------------------------------- intervals


def test_answers_to_one_question_widen_the_interval() -> None:
    """Four questions of ten equal answers tell as much as three answers, not as forty."""
    values = [True] * 20 + [False] * 20
    alone = share(values, [str(k) for k in range(40)])
    together = share(values, [str(k // 10) for k in range(40)])
    assert alone.value == together.value == 0.5 and together.clusters == 4
    assert (alone.low, alone.high) == pytest.approx(proportion_confint(20, 40, 0.05, "jeffreys"))
    assert (together.low, together.high) == pytest.approx(proportion_confint(20 / 13, 40 / 13, 0.05, "jeffreys"))


def test_agreeing_questions_count_once_and_clusters_never_narrow_an_interval() -> None:
    assert share([True] * 40, ["one"] * 20 + ["two"] * 20).low == share([True, True], ["one", "two"]).low
    mixed, clusters = [True, False] * 20, [str(k // 2) for k in range(40)]  # each question has one of both
    assert share(mixed, clusters).low == pytest.approx(share(mixed, [str(k) for k in range(40)]).low)
    nothing = share([], [])
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)


# ---------------------------------------------------------------- unread


def test_unread_is_never_wrong_but_cannot_hide() -> None:
    cases = [replace(case("Oslo", "…", t), cluster=str(k)) for k, t in enumerate(["right"] * 4 + ["wrong"] * 4)]  # type: ignore[arg-type]
    found = score(cases, [True, True, None, None, False, None, None, True], "rules", NAME)
    assert (found.sensitivity.k, found.sensitivity.n) == (2, 2), "of those that were read"
    assert (found.found.k, found.found.n) == (2, 4), "of all right answers"
    assert (found.specificity.k, found.specificity.n) == (1, 2)
    assert (found.unread_right.value, found.unread_wrong.value, found.declined.n) == (0.5, 0.5, 0)


def test_an_answer_that_gives_nothing_to_read_is_in_no_rate_but_its_own() -> None:
    cases = [case("Oslo", "", "unread"), case("Oslo", "Oslo")]
    read = score(cases, rules(cases), "rules", NAME)
    assert (read.declined.value, read.sensitivity.value, read.specificity.n) == (1.0, 1.0, 0)
    assert score(cases, contained(cases), "contained", NAME).declined.value == 0.0, "a rival reads everything"


def test_what_was_cut_off_should_be_unread_by_rule() -> None:
    assert {c.truth for c in own_rows() if c.cut_off} == {"unread"}


# ---------------------------------------------------------------- rivals


RIVAL_CASES = [
    (case("the Eiffel Tower", "It's the EIFFEL TOWER!"), True, True, "case, punctuation and articles do not matter"),
    (case("Roman Catholic", "They are Catholics of the Roman rite."), False, True, "stems in any order"),
    (case("1,000", "About 1000."), True, True, "a separator of thousands is punctuation"),
    (case("art", "The party started.", "wrong"), False, False, "whole words only"),
    (case("Paris", "It is not Paris.", "wrong"), True, True, "no rival knows a negation"),
    (case("July 20, 1969", "20.7.1969"), False, False, "nor a notation"),
    (case('{"city": "Oslo"}', "Oslo, I think.", kind="json"), True, True, "the value of a JSON answer"),
    (case("B", "Oslo", kind="choice", choices=("Rome", "Oslo")), True, True, "the text of an option"),
]


@pytest.mark.parametrize("one, has, has_stems, why", RIVAL_CASES)
def test_a_rival_reads(one: Case, has: bool, has_stems: bool, why: str) -> None:
    assert (contained([one]), stemmed([one])) == ([has], [has_stems]), why


def test_the_rivals_known_figures() -> None:
    cases = [replace(c, cluster=str(k)) for k, (c, *_) in enumerate(RIVAL_CASES)]
    found = {s.reader: s for s in scores(cases, {"contained": contained(cases), "stemmed": stemmed(cases)})
             if (s.group, s.grader) == (ALL, ALL)}  # fmt: skip
    assert (found["contained"].right, found["contained"].wrong) == (6, 2)
    assert [(s.sensitivity.k, s.specificity.k) for s in found.values()] == [(4, 1), (5, 1)]


def test_a_rival_is_not_scored_where_there_is_no_gold_answer() -> None:
    told = {"kind": "instructions", "instructions": [{"id": "punctuation:no_comma"}]}
    item = replace(case("x", "").item, targets=(), grader=parse_grader(told, "x:1"))
    cases = [replace(case("x", "a, b"), item=item)]
    assert {s.reader for s in scores(cases, {"rules": [True], "contained": contained(cases)})} == {"rules"}


# ---------------------------------------------------------------- data


def evouna_row(**changed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"question": "capital of norway", "golden_answer": "Oslo/Kristiania", "improper": False}
    for system in ("fid", "gpt35", "chatgpt", "gpt4", "newbing"):
        row |= {f"answer_{system}": "It was Kristiania then.", f"judge_{system}": True}
    return row | changed


def test_evouna_is_read_as_its_authors_meant(tmp_path: Path) -> None:
    rows = [
        evouna_row(),
        evouna_row(improper=True, golden_answer=None),
        evouna_row(judge_newbing=None, answer_fid="Bergen", judge_fid=False),
    ]
    path = tmp_path / "NQ.json"
    path.write_text(json.dumps(rows))
    cases = evouna(path, SOURCES[0])
    assert len(cases) == 5 + 4, "improper questions and answers that nobody judged are left out"
    assert cases[0].item.targets == ("Oslo", "Kristiania"), "alternatives are separated by /"
    assert [c.half for c in cases] == ["even"] * 9, "by the place in the file, improper rows included"
    assert rules(cases) == [True] * 5 + [False] + [True] * 3
    assert [c.truth for c in cases if c.text == "Bergen"] == ["wrong"]


def test_gsm8k_s_solutions_are_read_by_their_final_number(tmp_path: Path) -> None:
    said = {"is_correct": True, "solution": "16 - 4 = <<16-4=12>>12\n12 * 2 = $<<12*2=24>>24\nA: 24"}
    off = {"is_correct": False, "solution": "16 + 8 = <<16+8=24>>24\n24 / 2 = 12\nA: 12"}
    names = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    row: dict[str, Any] = {"question": "How much?", "ground_truth": "12 * 2 = 24\nA: 24"}
    row |= zip(names, [said, off] * 2, strict=True)
    path = tmp_path / "solutions.jsonl"
    path.write_text(json.dumps(row) + "\n")
    cases = gsm8k(path, SOURCES[2])
    assert rules(cases) == [True, False] * 2
    assert contained(cases) == [True] * 4, "the gold number is on the way to a wrong one, too"


def test_absent_data_are_named_with_their_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evouna" / "TQ.json"
    path.parent.mkdir()
    path.write_text(json.dumps([evouna_row(), evouna_row()]))
    assert bench_reader.main(["--data", str(tmp_path), "--only", "EVOUNA"]) == 0
    told = capsys.readouterr()
    for source in (SOURCES[0], SOURCES[2]):
        assert f"skipped: {source.block}: no {tmp_path / source.path}; it is at {source.url}" in told.err
    assert "EVOUNA TriviaQA (never tuned on)" in told.out and "Natural" not in told.out
    assert bench_reader.main(["--data", str(tmp_path), "--only", "nothing"]) == 2
    assert "--only=nothing: no such block; there are EVOUNA TriviaQA" in capsys.readouterr().err


# ---------------------------------------------------------------- tables


def written(cases: Sequence[Case]) -> dict[str, Any]:
    read = {"rules": rules(cases), "contained": contained(cases), "stemmed": stemmed(cases)}
    return {
        "command": "python -m scripts.bench_reader", "commit": "0123456789", "dirty": False, "seconds": 1,
        "machine": {"cpu": "x"}, "data": {}, "scores": [s.to_json() for s in scores(cases, read)],
    }  # fmt: skip


def test_the_tables_show_who_was_not_read() -> None:
    cases = [case("Oslo", "I do not know."), case("Oslo", "It is Oslo.", question="r?")]
    found = written(cases)
    assert "| block | 2 / 0 | .500 [" in readme_table(found) and "| – | .500, – | .500, – |" in readme_table(found)
    head, _, line = list(table(found["scores"]))[:3]
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["rules: sensitivity"].startswith("1.000 [") and cells["rules: unread right"].startswith(".500 [")
    assert "at 0123456, 1 s" in markdown(found)


def test_a_readme_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="0 tables"):
        in_readme("# Gapwise\n", written([case("Oslo", "Oslo")]))


def test_the_committed_results_name_no_place_on_a_machine() -> None:
    for name in ("bench_reader.json", "bench_reader.md"):
        text = (ROOT / "scripts" / "results" / name).read_text()
        assert "/tmp" not in text and "/work" not in text and "/home" not in text
