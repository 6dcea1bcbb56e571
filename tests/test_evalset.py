"""Bad input: one sentence with file:line, what was found and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diagnose.config import EvalSetConfig
from diagnose.errors import BadInput
from diagnose.items.evalset import RESERVED, read_evalset

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


def test_json_targets_under_the_exact_grader_are_hinted_at(tmp_path: Path) -> None:
    from diagnose.items.evalset import hints

    row = GOOD | {"target": '{"a": 1}'}
    assert "grader.kind=json" in hints(many(tmp_path, [row]))[0]
    assert hints(many(tmp_path, [row | {"grader": {"kind": "json"}}])) == []
    assert hints(many(tmp_path, [GOOD])) == []


def test_a_limit_draws_from_the_whole_file(tmp_path: Path) -> None:
    items = many(tmp_path, [GOOD | {"id": f"q{i:03}"} for i in range(200)], limit=40).items
    assert len(items) == 40 - RESERVED
    assert max(int(i.id[1:]) for i in items) > 100


def test_the_identity_of_a_set_covers_rows_mapping_and_grader(tmp_path: Path) -> None:
    base = many(tmp_path, [GOOD]).sha256
    assert base == many(tmp_path, [GOOD]).sha256
    assert base != many(tmp_path, [GOOD | {"target": "Lyon"}]).sha256
    assert base != many(tmp_path, [GOOD], grader={"kind": "contains"}).sha256
