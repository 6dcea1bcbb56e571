"""Rows of JSONL, JSON, CSV, Parquet and `datasets`, each with its file and line; columns mapped to our fields."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diagnose.errors import BadInput
from diagnose.items.template import template_column
from diagnose.text import first_line

Row = dict[str, Any]
MAX_ROW_BYTES = 16 * 2**20
MAX_LIST_BYTES = 256 * 2**20
"""A .json list is read into memory as a whole."""
ONE_A_LINE = "expected a JSON object on each line"
A_LIST = "expected a list of JSON objects"
FORMATS = ".jsonl, .json, .csv, .tsv, .parquet, a `datasets` directory, or the name of a dataset on the hub"


def read_rows(
    path: str | Path,
    columns: dict[str, str],
    split: str | None = None,
    subset: str | None = None,
    group: str = "evalset",
) -> Iterator[tuple[Row, str]]:
    """Rows with file:line.

    Args:
        columns: our field → a column name, or a Jinja template over the row's columns (all of them together are `row`).
        split: which one, of a dataset that has several.
        subset: the configuration name of a dataset on the hub.
        group: the config group that messages name.

    Raises:
        BadInput: naming the location, what was found and what is allowed.
    """
    rename = {ours: _column(f"{group}.columns.{ours}", source) for ours, source in columns.items()}
    try:
        for row, where in _open(Path(path), split, subset, group):
            if any(isinstance(value, str) and len(value) > MAX_ROW_BYTES for value in row.values()):
                raise BadInput(f"{where}: {_too_large()}")
            yield row | {ours: source(row, where) for ours, source in rename.items()}, where
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or first_line(error)}") from None


def _open(path: Path, split: str | None, subset: str | None, group: str) -> Iterator[tuple[Row, str]]:
    if path.is_dir():
        return _dataset(path, split, subset, group)
    if not path.is_file():
        looks_local = path.suffix or str(path).startswith(("/", ".", "~")) or len(path.parts) != 2
        if looks_local:
            raise BadInput(f"{path}: does not exist; expected {FORMATS}")
        return _dataset(path, split, subset, group)
    _whole(path, split, subset, group)
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: is empty; expected one row per line")
    match path.suffix.lower():
        case ".csv":
            return _csv(path, ",")
        case ".tsv":
            return _csv(path, "\t")
        case ".parquet":
            return _parquet(path)
        case ".json" if _starts_with_list(path):
            return _json(path)
        case ".jsonl" | ".json" | ".ndjson" | "" | ".txt":
            return _jsonl(path)
    raise BadInput(f"{path}: a {path.suffix} file; expected {FORMATS}")


def _jsonl(path: Path) -> Iterator[tuple[Row, str]]:
    for line, number in _lines(path):
        text = line.strip()
        if text:
            where = f"{path}:{number}"
            yield _object(_loads(text, path, number, ONE_A_LINE), where, ONE_A_LINE), where


def _json(path: Path) -> Iterator[tuple[Row, str]]:
    if path.stat().st_size > MAX_LIST_BYTES:
        raise BadInput(f"{path}: a JSON list of more than {MAX_LIST_BYTES >> 20} MB; save it as .jsonl")
    for k, row in enumerate(_loads(_decoded(path.read_bytes(), f"{path}:1", 1), path, 1, A_LIST), 1):
        where = f"{path}: element {k}"
        yield _object(row, where, A_LIST), where


def _csv(path: Path, delimiter: str) -> Iterator[tuple[Row, str]]:
    """Every cell is text (007 stays 007); an empty cell is an absent field. Messages give a row's first line."""
    csv.field_size_limit(MAX_ROW_BYTES)
    # StringIO, because old files may end their lines with a bare carriage return.
    lines = (part for text, _ in _lines(path) for part in io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    where = f"{path}:1"
    try:
        for cells in reader:
            if cells and names is None:
                names = cells
                if len(set(names)) != len(names):
                    raise BadInput(f"{where}: duplicate column name: {', '.join(names)}")
            elif cells and names is not None:
                if len(cells) != len(names):
                    raise BadInput(f"{where}: {len(cells)} cells; the header has {len(names)}: {', '.join(names)}")
                yield {name: cell for name, cell in zip(names, cells, strict=True) if cell != ""}, where
            where = f"{path}:{reader.line_num + 1}"
    except csv.Error as error:
        raise BadInput(f"{where}: not CSV: {error}; is a quote left open, or not doubled inside a cell?") from None


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Lines with their numbers; at most one row of the maximum size is held in memory."""
    with path.open("rb") as handle:
        number = 0
        while raw := handle.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(raw) > MAX_ROW_BYTES:
                raise BadInput(f"{path}:{number}: {_too_large()}; is a line break missing?")
            yield _decoded(raw, f"{path}:{number}", number), number


def _too_large() -> str:
    return f"row larger than {MAX_ROW_BYTES >> 20} MB"


def _parquet(path: Path) -> Iterator[tuple[Row, str]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        number = 0
        for batch in ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield {name: _whole_number(value) for name, value in row.items()}, f"{path}: row {number}"
    except (pyarrow.ArrowException, OSError) as error:  # the file's content can raise either
        raise BadInput(f"{path}: not Parquet: {first_line(error)}") from None


def _whole_number(value: Any) -> Any:
    """A column of whole numbers with gaps is stored as floats: 7.0 was 7."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _dataset(path: Path, split: str | None, subset: str | None, group: str) -> Iterator[tuple[Row, str]]:
    """A saved dataset, a folder of data files, or a name on the hub; streamed, so that nothing is cached."""
    import datasets

    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        raise BadInput(f"{path}: is a model, not data; expected {FORMATS}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        saved = any((path / name).exists() for name in ("state.json", "dataset_dict.json"))
        found: Any = (
            datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path), subset, streaming=True)
        )
        if isinstance(found, dict):
            found = found[_split(list(found), split, path, group)]
        else:
            _whole(path, split, subset, group)
        for number, row in enumerate(found, 1):
            yield dict(row), f"{path}: row {number}"
    except BadInput:
        raise
    except Exception as error:  # from `datasets`, fsspec or the hub client; each is about this path
        if "Config name is missing" in str(error) or f"BuilderConfig {subset!r} not found" in str(error):
            raise BadInput(_no_subset(path, subset, group, datasets.get_dataset_config_names(str(path)))) from None
        uneven = (
            "; all files in a directory must have the same columns; or give the path of one file"
            if path.is_dir()
            else ""
        )
        raise BadInput(f"{path}: {first_line(error)}; expected {FORMATS}{uneven}") from None


def _split(names: list[str], split: str | None, path: Path, group: str) -> str:
    if split is None and len(names) > 1:
        raise BadInput(
            f"{path}: has the splits {', '.join(names)}; choose one: {group}.split=NAME, or give the path of its files"
        )
    if split is not None and split not in names:
        raise BadInput(f"{group}.split={split}: not in {path}; allowed: {', '.join(names)}")
    return split or names[0]


def _whole(path: Path, split: str | None, subset: str | None, group: str) -> None:
    """Refuse a split or subset where there are none."""
    for key, value in (("split", split), ("subset", subset)):
        if value is not None:
            raise BadInput(f"{group}.{key}={value}: {path} has no {key}s; leave it out")


def _no_subset(path: Path, subset: str | None, group: str, names: list[str]) -> str:
    if subset is None:
        return f"{path}: has the subsets {', '.join(names)}; choose one: {group}.subset=NAME"
    return f"{group}.subset={subset}: not in {path}; allowed: {', '.join(names)}"


def _decoded(raw: bytes, where: str, number: int) -> str:
    if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadInput(f"{where}: UTF-16; save the file as UTF-8")
    if b"\x00" in raw:
        raise BadInput(f"{where}: contains NUL bytes at byte {raw.index(0)} (UTF-16?); expected UTF-8 text")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8") from None


def _loads(text: str, path: Path, number: int, expected: str) -> Any:
    where = f"{path}:{number}"
    try:
        value = json.loads(text, parse_constant=_no_number(where), object_pairs_hook=_no_key_twice(where))
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        where = f"{path}:{number + error.lineno - 1}"
        raise BadInput(f"{where}: not JSON: {error.msg} at column {error.colno}; {expected}") from None
    except UnicodeEncodeError:
        raise BadInput(f"{where}: unpaired surrogate (\\ud800 to \\udfff); expected Unicode text") from None
    except RecursionError:
        raise BadInput(f"{where}: JSON is nested too deeply; {expected}") from None
    except ValueError:
        raise BadInput(f"{where}: a number with too many digits; write it as text") from None


def _no_number(where: str) -> Callable[[str], Any]:
    def refuse(name: str) -> Any:
        raise BadInput(f"{where}: {name} is no JSON number; leave the field out, or write it as text")

    return refuse


def _no_key_twice(where: str) -> Callable[[list[tuple[str, Any]]], Row]:
    """Python's reader would keep the last of several values, silently."""

    def whole(pairs: list[tuple[str, Any]]) -> Row:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput(f"{where}: the key {twice!r} stands twice in one object; expected it once")
        return found

    return whole


def _object(row: Any, where: str, expected: str) -> Row:
    if not isinstance(row, dict):
        raise BadInput(f"{where}: a {type(row).__name__}; {expected}")
    return row


def _starts_with_list(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _column(key: str, source: str) -> Callable[[Row, str], Any]:
    """A function that reads the field mapped at `key` of the configuration."""
    if "{{" not in source and "{%" not in source:

        def read(row: Row, where: str) -> Any:
            if source not in row:
                raise BadInput(f"{where}: no column {source!r} ({key}); found: {', '.join(row)}")
            return row[source]

        return read

    return template_column(source, key, MAX_ROW_BYTES)
