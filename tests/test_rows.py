"""The same rows from every kind of file give the same items."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from diagnose.config import EvalSetConfig
from diagnose.errors import BadInput
from diagnose.items.evalset import read_evalset
from diagnose.items.exemplars import RESERVED
from diagnose.records import EvalItem

ROWS: list[dict[str, Any]] = [
    {
        "id": f"q{k}",
        "slice": ["all", "odd" if k % 2 else "even"],
        "prompt": f'What is "{k}", then?\nSay it.',
        "target": f"00{k}",
        "distractors": ["1", "x, y"],
        "context": f"It is 00{k}.",
    }
    for k in range(30)
]


def read(path: Path, **settings: Any) -> list[EvalItem]:
    from dataclasses import replace

    found = read_evalset(EvalSetConfig(path=str(path), **settings))
    return [replace(item, where="") for item in found.items]


@pytest.fixture
def expected(tmp_path: Path) -> list[EvalItem]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return read(path)


def as_cells(row: dict[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_csv_cells_are_texts(tmp_path: Path, expected: list[EvalItem], suffix: str, delimiter: str) -> None:
    path = tmp_path / f"rows{suffix}"
    with path.open("w", newline="", encoding="utf-8-sig") as handle:
        writer = csv.DictWriter(handle, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(as_cells(row) for row in ROWS)
    assert read(path) == expected
    assert expected[0].targets[0].startswith("00"), "leading zeros are part of an answer"


def test_an_empty_cell_is_an_absent_field(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,target,context\nWhat?,yes,\nWho?,me,It is me.\n")
    assert [item.context for item in read(path)] == [None, "It is me."]


def test_a_list_in_a_json_file(tmp_path: Path, expected: list[EvalItem]) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=2))
    assert read(path) == expected


def test_parquet(tmp_path: Path, expected: list[EvalItem]) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert read(path) == expected


def test_a_saved_dataset_and_its_splits(tmp_path: Path, expected: list[EvalItem]) -> None:
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(str(tmp_path / "one"))
    assert read(tmp_path / "one") == expected
    datasets.DatasetDict({"test": rows, "train": rows.select(range(3))}).save_to_disk(str(tmp_path / "two"))
    assert read(tmp_path / "two", split="test") == expected
    with pytest.raises(BadInput, match=r"splits test, train; choose one: evalset\.split"):
        read(tmp_path / "two")
    with pytest.raises(BadInput, match=r"evalset\.split=dev: not in .*allowed: test, train"):
        read(tmp_path / "two", split="dev")


def test_a_folder_of_data_files(tmp_path: Path, expected: list[EvalItem]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert read(tmp_path / "folder") == expected


def test_a_template_sees_columns_whose_names_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("The Question,Best Answer,Others\nWho?,me,you; them\n")
    columns = {
        "prompt": "The Question",
        "target": "Best Answer",
        "distractors": "{{ row['Others'].split('; ') | tojson }}",
    }
    (item,) = read(path, columns=columns)
    assert (item.turns[-1][1], item.targets, item.distractors) == ("Who?", ("me",), ("you", "them"))


def test_exemplars_and_scored_items_share_no_cluster(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row | {"cluster": f"doc{k // 2}", "slice": "s"} for k, row in enumerate(ROWS)]
    path.write_text(
        "".join(
            json.dumps(row) + "\n"
            for row in [*rows, *({"prompt": "x", "target": "y", "slice": "s", "id": f"u{k}"} for k in range(30))]
        )
    )
    found = read_evalset(EvalSetConfig(path=str(path)))
    assert len(found.exemplars["s"]) == RESERVED
    held = {e.cluster for e in found.exemplars["s"]} - {None}
    assert not held & {item.cluster for item in found.items}


def test_exemplars_come_from_clusters_where_all_items_have_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        row | {"id": f"{row['id']}-{copy}", "cluster": f"doc{row['id']}", "slice": "s"}
        for row in ROWS
        for copy in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_evalset(EvalSetConfig(path=str(path)))
    assert len({e.cluster for e in found.exemplars["s"]}) == RESERVED
    assert len(found.items) == len(rows) - 2 * RESERVED
    huge = [row | {"cluster": f"doc{k % 2}"} for k, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in huge))
    kept = read_evalset(EvalSetConfig(path=str(path)))
    assert (kept.exemplars, len(kept.items)) == ({}, len(rows)), "half of the slice is too high a price for exemplars"


@pytest.mark.parametrize(
    ("grader", "target", "text", "strict", "lenient"),
    [
        ({"pattern": r"#### (\d+)"}, "42", "So it is\n#### 42", True, True),
        ({"pattern": r"#### (\d+)"}, "42", "It is 42.", False, True),
        ({"pattern": r"#### (\d+)"}, "42", "#### 41\n#### 42", False, True),
        ({"pattern": r"#### (\d+)"}, "42", "#### 41", False, False),
        ({"pattern": r"^\d{4}-\d\d-\d\d$"}, None, "2024-01-31", True, True),
        ({"pattern": r"^\d{4}-\d\d-\d\d$"}, None, "31 January 2024", False, False),
        ({"pattern": r"^\d{4}-\d\d-\d\d$", "lenient": r"\d{4}"}, None, "31 January 2024", False, True),
        ({"pattern": r"(a+)+$"}, None, "a" * 50_000 + "b", None, None),  # one letter over and over is noise
    ],
)
def test_regex(
    grader: dict[str, Any], target: str | None, text: str, strict: bool | None, lenient: bool | None
) -> None:
    from diagnose.grading.grade import grade
    from diagnose.grading.grader import parse_grader

    full = {"kind": "regex"} | grader
    parse_grader(full, "here")
    item = EvalItem(
        id="q",
        slices=("s",),
        turns=(("user", "When?"),),
        targets=(target,) if target else (),
        grader=parse_grader(full, "here"),
        where="here",
    )
    found = grade(item, text)
    assert (found.strict, found.lenient) == (strict, lenient)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "p", "target": NaN}', "NaN is no JSON number"),
        ('{"prompt": "p", "target": "t", "more": {"value": -Infinity}}', "-Infinity is no JSON number"),
        ('{"prompt": "p", "target": ["t", Infinity]}', "Infinity is no JSON number"),
        ('{"prompt": "p", "target": "a", "target": "b"}', "the key 'target' stands twice in one object"),
        ('{"prompt": "p", "target": "t", "grader": {"kind": "json", "kind": "exact"}}', "the key 'kind' stands twice"),
        ('[{"prompt": "p", "target": "a", "prompt": "q"}]', "the key 'prompt' stands twice"),
    ],
)
def test_json_that_python_reads_in_its_own_way_is_refused(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(line if line.startswith("[") else '{"prompt": "fine", "target": "t"}\n' + line)
    with pytest.raises(BadInput) as error:
        read(path)
    assert f"{path}:{1 if line.startswith('[') else 2}: " in str(error.value) and says in str(error.value)


def test_whole_numbers_of_a_column_with_gaps_are_whole(tmp_path: Path) -> None:
    """Parquet has no integers that are absent; pandas writes floats."""
    import pyarrow
    from pyarrow.parquet import write_table

    path = tmp_path / "rows.parquet"
    table = {"id": [1.0, 2.0, 3.5], "prompt": ["a", "b", "c"], "target": [7.0, 0.0, 2.5], "context": [None, "x", None]}
    write_table(pyarrow.table(table), path)
    assert [(i.id, i.targets) for i in read(path)] == [("1", ("7",)), ("2", ("0",)), ("3.5", ("2.5",))]
