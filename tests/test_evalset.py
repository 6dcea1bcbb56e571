"""Bad input: one sentence with file:line, what was found and what is allowed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from diagnose.config import DataConfig, EvalSetConfig
from diagnose.errors import BadInput
from diagnose.items.evalset import by_slice, hints, lend_rows, read_evalset
from diagnose.items.exemplars import RESERVED

GOOD = {"id": "a", "slice": "s", "prompt": "Capital of France?", "target": "Paris"}


def line(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...}).encode()


BAD = [
    (b"{not json", ":1: not JSON"),
    (b"[1, 2]", ":1: a list; expected a JSON object"),
    (b"", "is empty; expected one row per line"),
    (b"\xff\xfe{\x00}\x00", ":1: UTF-16; save the file as UTF-8"),
    (line() + b"\n" + line(), ":2: duplicate id 'a' (also at"),
    (line(prompt=...), ":1: no prompt and no messages"),
    (line(prompt="  "), ":1: no prompt and no messages"),
    (line(prompt=3), ":1: prompt is a int; expected text"),
    (line(target=...), ":1: neither target nor chosen"),
    (line(target=""), ":1: target is empty"),
    (line(target={"a": 1}), ":1: target contains a dict"),
    (line(grader={"kind": "magic"}), ":1: grader kind 'magic'; allowed:"),
    (line(messages=[]), ":1: messages must be"),
    (line(messages=[{"role": "assistant", "content": "x"}]), ":1: messages must be"),
    (line(slice=[]), ":1: slice is an empty list"),
    (line(context=["x"]), ":1: context is a list; expected text"),
    (line(grader={"kind": "json"}), "reference answers that fail their own json grader"),
    (line(grader={"kind": "number"}), "reference answers that fail their own number grader"),
    (
        line(chosen="Paris", grader={"kind": "contains", "judge": {"kind": "rule", "prefer": "^Gladdly"}}),
        "chosen fails its own rule",
    ),
    (line(chosen="Lyon", grader={"kind": "contains"}), "reference answers that fail their own contains grader"),
]


@pytest.mark.parametrize(("raw", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_rows_are_named(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(raw)
    with pytest.raises(BadInput) as caught:
        read_evalset(EvalSetConfig(path=str(path)))
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere.jsonl", "."])
def test_no_file(path: str) -> None:
    with pytest.raises(BadInput, match="expected .jsonl, .json"):
        read_evalset(EvalSetConfig(path=path))


def many(tmp_path: Path, rows: list[dict[str, Any]], **config: Any) -> Any:
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_evalset(EvalSetConfig(path=str(path), **config))


def test_exemplars_are_kept_back_and_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [GOOD | {"id": f"q{i}"} for i in range(30)]
    one, two = many(tmp_path, rows), many(tmp_path, rows[::-1])
    kept = {e.id for e in one.exemplars["s"]}
    assert len(kept) == RESERVED
    assert kept == {e.id for e in two.exemplars["s"]}
    assert not kept & {i.id for i in one.items}


def test_a_small_slice_keeps_all_its_items(tmp_path: Path) -> None:
    assert len(many(tmp_path, [GOOD | {"id": f"q{i}"} for i in range(8)]).items) == 8


def test_a_small_slice_borrows_from_the_largest_slice_of_its_format(tmp_path: Path) -> None:
    def rows(name: str, n: int, **more: Any) -> list[dict[str, Any]]:
        return [GOOD | {"id": f"{name}{i}", "slice": name} | more for i in range(n)]

    keys = {"target": '{"city": "Paris"}', "grader": {"kind": "json"}}
    other = {"target": '{"town": "Paris"}', "grader": {"kind": "json"}}
    found = many(
        tmp_path,
        [
            *rows("large", 40),
            *rows("larger", 48),
            *rows("small", 23),
            *rows("json_large", 24, **keys),
            *rows("json_small", 8, **keys),
            *rows("json_other", 8, **other),
        ],
    )
    assert found.lenders == {"small": "larger", "json_small": "json_large"}
    assert "json_other" not in found.exemplars, "the keys of another format would be learned"
    assert found.exemplars["small"] == found.exemplars["larger"]
    assert {e.slices for e in found.held_out} == {("large",), ("larger",), ("json_large",)}
    assert len(found.held_out) == 3 * RESERVED and len(found.items) == 151 - 3 * RESERVED
    assert len(by_slice(found.items)["small"]) == 23, "whoever borrows keeps all its items"


def test_where_no_slice_lends_training_rows_of_the_slice_are_shown(tmp_path: Path) -> None:
    evalset = many(tmp_path, [GOOD | {"id": f"q{i}", "prompt": f"Capital of land {i}?"} for i in range(8)])
    turn = {"role": "user", "content": "Capital of Peru?"}
    rows = [
        {"slice": "s", "prompt": "Capital of Italy?", "completion": "Rome"},
        {"slice": "s", "prompt": [turn], "completion": [{"role": "assistant", "content": "Lima"}]},
        {
            "slice": "s",
            "messages": [turn | {"content": "Capital of Chad?"}, {"role": "assistant", "content": "N'Djamena"}],
        },
        {"slice": "s", "prompt": "Capital of land 3?", "completion": "asked in the eval set"},
        {"slice": "s", "prompt": "no completion"},
        {"slice": "t", "prompt": "another slice", "completion": "x"},
        {"prompt": "no slice", "completion": "x"},
    ]
    path = tmp_path / "sft.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    lent = lend_rows(evalset, DataConfig(sft=str(path)))
    shown = {(e.turns[-1][1], e.wanted) for e in lent.exemplars["s"]}
    assert shown == {("Capital of Italy?", "Rome"), ("Capital of Peru?", "Lima"), ("Capital of Chad?", "N'Djamena")}
    assert (lent.lenders, lent.held_out, lent.items) == ({"s": str(path)}, [], evalset.items)
    assert lent.sha256 == evalset.sha256, "the same items are measured"
    assert lend_rows(evalset, DataConfig()) == evalset


def test_columns_are_mapped_by_name_and_by_template(tmp_path: Path) -> None:
    rows = [{"question": "2+2?", "answer": 4, "kind": "sum"}]
    columns = {"prompt": "question", "target": "{{ answer }}", "slice": "{{ kind }}s"}
    item = many(tmp_path, rows, columns=columns).items[0]
    assert (item.turns, item.targets, item.slices, item.id) == ((("user", "2+2?"),), ("4",), ("sums",), "line-1")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"prompt": "nope"}, "no column 'nope'"),
        ({"prompt": "{{ nope }}"}, "columns.prompt"),
        ({"prompt": "{{ nope"}, "not a Jinja template"),
        ({"prompt": "{{ ''.__class__.__mro__ }}"}, "columns.prompt"),
    ],
)
def test_wrong_mappings_are_named(tmp_path: Path, columns: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        many(tmp_path, [GOOD], columns=columns)
    assert says in str(caught.value)


NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ 'x' * 10**10 }}", "needs more than 1024 MB"),
        ("{{ prompt * 10**10 }}", "needs more than 1024 MB"),
        (DOUBLING, "needs more than 1024 MB"),
        ("{{ '%1000000000d' % 1 }}", "needs more than 1024 MB"),
        ("{{ 'x' * 20 * 10**6 }}", "makes more than 16777216 characters"),
        (NESTED, "takes longer than 4 s"),
        ("{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(900) }}", "recursion"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of one process")
def test_a_template_that_would_never_end_or_fill_the_memory(
    tmp_path: Path, template: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagnose.items.template.SECONDS", 4)
    with pytest.raises(BadInput) as caught:
        many(tmp_path, [GOOD], columns={"prompt": template})
    assert says in str(caught.value) and ":1: evalset.columns.prompt" in str(caught.value)


def test_json_targets_under_the_exact_grader_are_hinted_at(tmp_path: Path) -> None:
    row = GOOD | {"target": '{"a": 1}'}
    assert "grader.kind=json" in hints(many(tmp_path, [row]))[0]
    assert hints(many(tmp_path, [row | {"grader": {"kind": "json"}}])) == []
    assert hints(many(tmp_path, [GOOD])) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("refrence", "target"),
        ("contex", "context"),
        ("targets", "target"),
        ("distractor", "distractors"),
        ("paraphrase", "paraphrases"),
        ("Chosen", "chosen"),
    ],
)
def test_a_field_that_is_nearly_ours_is_hinted_at_once(tmp_path: Path, name: str, meant: str) -> None:
    row = GOOD | {"grader": {"kind": "regex", "pattern": "Paris"}}
    row.pop("target")
    rows = [row | {"id": "a"}, row | {"id": "b", name: "x"}, row | {"id": "c", name: "y"}]
    (hint,) = hints(many(tmp_path, rows))
    assert f"set.jsonl:2: {name} is not a field" in hint and f"did you mean {meant}?" in hint


def test_other_columns_stay_silent(tmp_path: Path) -> None:
    columns = (
        "source",
        "difficulty",
        "answer",
        "context_id",
        "idx",
        "text",
        "value",
        "free_prompt",
        "counterfactual_of",
    )
    assert hints(many(tmp_path, [GOOD | dict.fromkeys(columns, "x")])) == []
    assert hints(many(tmp_path, [GOOD | {"targets": "x"}])) == [], "it has a target"
    assert hints(many(tmp_path, [GOOD | {"contexts": "x"}], columns={"context": "{{ contexts }}"})) == [], "it is read"


def test_a_judge_beside_the_grader_belongs_to_it(tmp_path: Path) -> None:
    judge, other = {"kind": "rule", "prefer": "P"}, {"kind": "rule", "prefer": "Par"}
    inside = {"kind": "contains", "judge": judge}
    rows = [
        GOOD | {"id": "a", "judge": judge},
        GOOD | {"id": "b", "judge": json.dumps(judge), "grader": {"kind": "contains"}},
        GOOD | {"id": "c", "judge": judge, "grader": inside},
    ]
    found = many(tmp_path, rows, grader={"kind": "exact", "judge": other}).items
    assert [(i.grader.kind, i.judge.prefer) for i in found] == [("exact", "P"), ("contains", "P"), ("contains", "P")]
    with pytest.raises(BadInput, match="set.jsonl:1: judge .*'Par'.* and grader.judge .*'P'.* differ"):
        many(tmp_path, [GOOD | {"judge": other, "grader": inside}])
    with pytest.raises(BadInput, match="set.jsonl:1: judge 'gpt'; allowed"):
        many(tmp_path, [GOOD | {"judge": "gpt"}])


def test_a_limit_draws_from_the_whole_file(tmp_path: Path) -> None:
    items = many(tmp_path, [GOOD | {"id": f"q{i:03}"} for i in range(200)], limit=40).items
    assert len(items) == 40 - RESERVED
    assert max(int(i.id[1:]) for i in items) > 100


def test_the_identity_of_a_set_covers_rows_mapping_and_grader(tmp_path: Path) -> None:
    base = many(tmp_path, [GOOD]).sha256
    assert base == many(tmp_path, [GOOD]).sha256
    assert base != many(tmp_path, [GOOD | {"target": "Lyon"}]).sha256
    assert base != many(tmp_path, [GOOD], grader={"kind": "contains"}).sha256
