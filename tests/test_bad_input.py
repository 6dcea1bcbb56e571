"""Bad input ends with one sentence: where, what was found, what is allowed; and nothing is left that looks done.

Rows, configurations and models that cannot be used go through `run` in this process; some go through the real command.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_verb
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diagnose.cli import register_diagnose
from diagnose.config import (
    DiagnoseConfig,
    EvalSetConfig,
    ModelConfig,
    ProbesConfig,
    RuleConfig,
    WandbConfig,
    check_diagnose,
    check_run,
)
from diagnose.errors import BadInput, GapwiseError
from diagnose.grading.grader import KINDS as GRADER_KINDS
from diagnose.grading.ifeval import KINDS
from diagnose.items.rows import MAX_ROW_BYTES
from diagnose.records import Grader
from eval.config import EvalConfig
from train.config import TrainConfig

DEMO = ROOT / "tests" / "data" / "demo"
MODEL = DEMO / "model"
GOOD = {"id": "a", "slice": "s", "prompt": "What is the home of Podraron?", "target": "Oakford"}
PAIR = {"chosen": "Oakford", "rejected": "Quorn"}
DEEP = b"[" * 200_000 + b"]" * 200_000


def line(**changes: Any) -> bytes:
    """A good row with some fields changed; `...` removes one."""
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...}).encode()


def graded(kind: str, **changes: Any) -> bytes:
    """A good row under a grader; changes with an underscore in front are the grader's own keys."""
    own = {key[1:]: value for key, value in changes.items() if key.startswith("_")}
    rest = {key: value for key, value in changes.items() if not key.startswith("_")}
    return line(grader={"kind": kind} | own, **rest)


def rule(pattern: str) -> bytes:
    return graded("contains", _judge={"kind": "rule", "prefer": pattern}, **PAIR)


def said(role: str, content: Any) -> bytes:
    return line(prompt=..., messages=[{"role": role, "content": content}])


def doubling(keyword: str, times: int = 25) -> dict[str, Any]:
    parts: dict[str, Any] = {f"a{k}": {keyword: [{"$ref": f"#/$defs/a{k + 1}"}] * 2} for k in range(times)}
    return {"$defs": parts | {f"a{times}": {"type": "object"}}, "$ref": "#/$defs/a0"}


def schema(value: Any) -> bytes:
    return graded("json", _schema=value, target=...)


def ends(config: DiagnoseConfig) -> tuple[int, str]:
    """Exit code and message of a diagnosis; whatever is no GapwiseError would be a traceback, and fails the test."""
    from diagnose.run import run

    try:
        check_diagnose(config)
        run(config)
    except GapwiseError as error:
        return error.exit_code, str(error)
    return 0, ""


def settings(folder: Path, rule: RuleConfig, **changes: Any) -> DiagnoseConfig:
    """The demo's model, quick to ask; the eval set is `folder`/set.jsonl."""
    config = DiagnoseConfig(
        model=ModelConfig(path=str(MODEL), dtype="float32", max_new_tokens=16, batch_size=256),
        evalset=EvalSetConfig(path=str(folder / "set.jsonl")),
        probes=ProbesConfig(enabled=["plain"]),
        rule=replace(rule),
        wandb=WandbConfig(mode="disabled"),
        out=str(folder / "out"),
    )
    for key, value in changes.items():
        *parts, last = key.split("__")
        at: Any = config
        for part in parts:
            at = getattr(at, part)
        setattr(at, last, value)
    return config


def write(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# ---------------------------------------------------------------- rows: (id, file, bytes, place in it, says)

Rows = tuple[str, str, bytes, str, str]
JSONL = "set.jsonl"
SHAPE: list[Rows] = [
    ("malformed JSON", JSONL, line() + b'\n{"id": "b",}', ":2", "not JSON: Expecting property name"),
    ("half a line", JSONL, line()[:-9], ":1", "not JSON"),
    ("no object", JSONL, b"[1, 2]", ":1", "a list; expected a JSON object on each line"),
    ("nested too deeply", JSONL, b'{"prompt": ' + DEEP + b"}", ":1", "nested too deeply"),
    ("nested grader as text", JSONL, line(grader="[" * 99_999), ":1", "grader is not JSON"),
    ("nested target", JSONL, graded("json", target="[" * 99_999), ":1 (a)", "fail their own json grader"),
    ("nested schema", JSONL, schema({"not": {}}).replace(b"{}", b'{"not": ' * 800 + b"{}" + b"}" * 800), ":1", "deep"),
    ("huge integer", JSONL, b'{"id": ' + b"9" * 5000 + b"}", ":1", "too many digits"),
    ("huge number as target", JSONL, graded("number", target="9" * 400), ":1 (a)", "fail their own number grader"),
    ("row over the limit", JSONL, line(prompt="x" * 20 * 2**20), ":1", "row larger than 16 MB"),
    (
        "row over the limit, CSV",
        "set.csv",
        b"prompt,target\n" + b"x" * 20 * 2**20 + b",y",
        ":2",
        "row larger than 16 MB",
    ),
    ("row over the limit, list", "set.json", b'["' + b"x" * 20 * 2**20 + b'"]', ": element 1", "a str"),
    (
        "cell over the limit",
        "set.json",
        b"[" + line(target="x" * 17 * 2**20) + b"]",
        ": element 1",
        "row larger than 16 MB",
    ),
    ("empty file", JSONL, b"", "", "is empty; expected one row per line"),
    ("blank lines", JSONL, b"\n \n\n", "", "contains no rows"),
    ("byte order mark alone", "set.csv", b"\xef\xbb\xbf", "", "contains no rows"),
    ("NUL bytes", JSONL, line() + b'\n{"id": "b\x00"}', ":2", "NUL bytes at byte 9 (UTF-16?); expected UTF-8 text"),
    ("NUL bytes, CSV", "set.csv", b"prompt,target\na,b\nx\x00,b", ":3", "NUL bytes"),
    ("UTF-16 with a mark", JSONL, line().decode().encode("utf-16"), ":1", "UTF-16; save the file as UTF-8"),
    ("UTF-16 without", JSONL, line().decode().encode("utf-16-le"), ":1", "(UTF-16?); expected UTF-8 text"),
    ("latin-1", JSONL, line() + '\n{"prompt": "é"}'.encode("latin-1"), ":2", "not UTF-8"),
    ("latin-1, CSV", "set.csv", "prompt,target\na,b\né,b".encode("latin-1"), ":3", "not UTF-8"),
    ("half a surrogate pair", JSONL, line(prompt="\ud800"), ":1", "unpaired surrogate"),
    ("ragged CSV", "set.csv", b'prompt,target\n"a\nb",c\nd\n', ":4", "1 cells; the header has 2: prompt, target"),
    ("form feed in CSV", "set.csv", b"prompt,target\na\x0cb,c\nd,e,f\n", ":3", "3 cells; the header has 2"),
    ("doubled header", "set.csv", b"prompt,prompt\na,b\n", ":1", "duplicate column name"),
    ("open quote", "set.csv", b'prompt,target\na,b\n"c,d\ne,f\n', ":3", "not CSV: unexpected end of data"),
    ("no Parquet", "set.parquet", b"PAR1 no", "", "not Parquet"),
    ("broken Parquet", "set.parquet", b"PAR1" + b"\0" * 50 + b"PAR1", "", "not Parquet"),
    (
        "list with a number",
        "set.json",
        b"[" + line() + b", 3]",
        ": element 2",
        "a int; expected a list of JSON objects",
    ),
    ("list with an error", "set.json", b"[\n" + line() + b",\n{]", ":3", "not JSON"),
    ("unknown suffix", "set.xlsx", b"x", "", "a .xlsx file; expected .jsonl, .json, .csv"),
]
FIELDS: list[Rows] = [
    ("no prompt", JSONL, line(prompt=...), ":1", "no prompt and no messages; found: id, slice, target"),
    ("no target", JSONL, line(target=...), ":1", "neither target nor chosen; the exact grader needs one"),
    ("empty target", JSONL, line(target=""), ":1", "target is empty"),
    ("empty target in a list", JSONL, line(target=["a", " "]), ":1", "target contains an empty string"),
    ("target is an object", JSONL, line(target={"a": 1}), ":1", "target contains a dict; expected text"),
    ("target is true", JSONL, line(target=True), ":1", "target contains a bool"),
    ("white space chosen", JSONL, line(target=..., chosen=" "), ":1", "chosen is empty"),
    ("empty slice", JSONL, line(slice=""), ":1", "slice is empty"),
    ("id is a list", JSONL, line(id=[1]), ":1", "id is [1]; expected a string or a number"),
    (
        "target among the distractors",
        JSONL,
        line(distractors=["Quorn", "Oakford"]),
        ":1",
        "is both target and distractor",
    ),
    ("empty distractor", JSONL, line(distractors=["Quorn", ""]), ":1", "distractors contains an empty string"),
    ("duplicate id", JSONL, line(id=1) + b"\n" + line(id="1"), ":2", "duplicate id '1' (also at"),
    ("chat and plain", JSONL, line() + b"\n" + said("user", "x").replace(b'"a"', b'"b"'), ":2", "has messages, while"),
    ("messages is a text", JSONL, line(prompt=..., messages="x"), ":1", "messages must be"),
    ("message without role", JSONL, line(prompt=..., messages=[{"content": "x"}]), ":1", "messages must be"),
    ("content is a list", JSONL, said("user", ["x"]), ":1", "messages must be"),
    ("ends with the answer", JSONL, said("assistant", "x"), ":1", "ending before the answer"),
    ("empty message", JSONL, said("user", " "), ":1", "messages must be"),
]
GRADERS: list[Rows] = [
    ("unknown grader", JSONL, graded("bleu"), ":1", "grader kind 'bleu'; allowed: exact, regex, number"),
    ("misspelt grader key", JSONL, graded("number", _tolerence=1), ":1", "grader.tolerence: unknown key; allowed:"),
    ("negative tolerance", JSONL, graded("number", _tolerance=-1), ":1", "tolerance is -1; expected a number"),
    ("marker is a number", JSONL, graded("number", _marker=4), ":1", "grader.marker is 4; expected a string"),
    ("schema of no type", JSONL, schema({"type": "strin"}), ":1", "not a JSON Schema: 'strin'"),
    ("schema is a list", JSONL, schema([1]), ":1", "a list, not a JSON Schema"),
    (
        "schema with an open end",
        JSONL,
        schema({"properties": {"a": {"$ref": "#/x"}}}),
        ":1",
        "not a JSON Schema: unresolvable reference",
    ),
    ("schema that doubles", JSONL, schema(doubling("allOf")), ":1", "more than 10000 parts"),
    ("schema that doubles by choice", JSONL, schema(doubling("anyOf")), ":1", "more than 10000 parts"),
    ("dynamic reference to nothing", JSONL, schema({"$dynamicRef": "#zork"}), ":1", "unresolvable reference '#zork'"),
    (
        "dynamic reference elsewhere",
        JSONL,
        schema({"$dynamicRef": "http://x/y#z"}),
        ":1",
        "unresolvable reference 'http",
    ),
    ("schema of itself", JSONL, schema({"$ref": "#"}), ":1", "endlessly recursive"),
    (
        "pattern with a backreference",
        JSONL,
        graded("regex", _pattern=r"(a)\1"),
        ":1",
        "grader.pattern '(a)\\\\1': not an RE2",
    ),
    ("pattern with a lookahead", JSONL, graded("regex", _pattern="(?=a)"), ":1", "invalid perl operator: (?="),
    ("lenient with a lookbehind", JSONL, graded("regex", _pattern="a", _lenient="(?<!a)b"), ":1", "grader.lenient"),
    ("no pattern", JSONL, graded("regex"), ":1", "grader.pattern is None; expected an RE2 pattern"),
    ("rule with a backreference", JSONL, rule(r"(a)\1"), ":1", "judge.prefer '(a)\\\\1': not an RE2 pattern"),
    ("rule with a lookahead", JSONL, rule("(?=a)"), ":1", "not an RE2 pattern"),
    ("unknown judge", JSONL, graded("exact", _judge={"kind": ["rule"]}), ":1", 'allowed: {"kind": "rule"'),
    (
        "unknown instruction",
        JSONL,
        graded("instructions", _instructions=[{"id": "x:y"}]),
        ":1",
        f"'x:y'; allowed ids: {next(iter(KINDS))}",
    ),
    (
        "instruction without arguments",
        JSONL,
        graded("instructions", _instructions=[{"id": "keywords:existence"}]),
        ":1",
        "lacks 'keywords'",
    ),
    (
        "instruction with too many",
        JSONL,
        graded("instructions", _instructions=[{"id": "punctuation:no_comma", "n": 1}]),
        ":1",
        "takes no 'n'",
    ),
]
GOLD: list[Rows] = [
    ("gold, number", JSONL, graded("number"), ":1 (a)", "fail their own number grader"),
    ("gold, number without its marker", JSONL, graded("number", _marker="####", target="3"), ":1 (a)", "number grader"),
    ("gold, contains", JSONL, graded("contains", target="…"), ":1 (a)", "fail their own contains grader"),
    ("gold, choice", JSONL, graded("choice", choices=["Quorn", "Verden"]), ":1 (a)", "fail their own choice grader"),
    ("gold, choice without choices", JSONL, graded("choice"), ":1 (a)", "fail their own choice grader"),
    ("gold, json", JSONL, graded("json"), ":1 (a)", "fail their own json grader"),
    ("gold, schema", JSONL, graded("json", _schema={"required": ["b"]}, target="{}"), ":1 (a)", "own json grader"),
    ("gold, regex", JSONL, graded("regex", _pattern="^Quorn$", target=..., chosen="Oakford"), ":1 (a)", "own regex"),
    (
        "gold, instructions",
        JSONL,
        graded("instructions", _instructions=[{"id": "punctuation:no_comma"}], target="a, b"),
        ":1 (a)",
        "own instructions grader",
    ),
    ("gold, rule", JSONL, rule("^Gladly"), ":1 (a)", "chosen fails its own rule '^Gladly'"),
]
ROWS = [*SHAPE, *FIELDS, *GRADERS, *GOLD]


@pytest.mark.parametrize(("name", "raw", "place", "says"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS])
def test_rows(tmp_path: Path, rule: RuleConfig, name: str, raw: bytes, place: str, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    started = time.process_time()
    code, message = ends(settings(tmp_path, rule, evalset__path=str(path)))
    assert code == 2
    assert f"{path}{place}" in message and says in message
    assert len(message) < 2000 and "Traceback" not in message
    assert not (tmp_path / "out").exists()
    assert time.process_time() - started < 10


def test_exact_gold_is_right_by_construction(tmp_path: Path, rule: RuleConfig) -> None:
    """The one grader that no gold answer can fail: the table has a case for each of the others."""
    tried = {json.loads(raw.splitlines()[0])["grader"]["kind"] for _, _, raw, _, _ in GOLD}
    assert tried == set(GRADER_KINDS) - {"exact", "judge"}


MAPPED: list[tuple[str, dict[str, str], str]] = [
    ("no such column", {"prompt": "question"}, "no column 'question' (evalset.columns.prompt); found: id, slice"),
    ("template over no column", {"prompt": "{{ question }}"}, "columns.prompt: 'question' is undefined; found: id"),
    ("broken template", {"prompt": "{{ prompt "}, "evalset.columns.prompt: not a Jinja template"),
    ("template that fails", {"prompt": "{{ 1 / 0 }}"}, "columns.prompt: division by zero"),
    ("template that calls itself", {"prompt": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"}, "recursion depth"),
    ("template without end", {"prompt": "{% for _ in range(10**9) %}a{% endfor %}"}, "Range too big"),
    ("template that looks around", {"prompt": "{{ ''.__class__.__mro__ }}"}, "columns.prompt: access to attribute"),
    ("null as target", {"target": "{{ nothing }}"}, "target is empty"),
]


@pytest.mark.parametrize(("columns", "says"), [case[1:] for case in MAPPED], ids=[case[0] for case in MAPPED])
def test_columns(tmp_path: Path, rule: RuleConfig, columns: dict[str, str], says: str) -> None:
    write(tmp_path, GOOD | {"nothing": None})
    code, message = ends(settings(tmp_path, rule, evalset__columns=columns))
    assert code == 2 and says in message
    assert not (tmp_path / "out").exists()


def test_null_keys_of_a_grader_are_absent_ones(tmp_path: Path) -> None:
    """Parquet fills in every key that any row has."""
    import pyarrow
    from pyarrow import parquet

    from diagnose.items.evalset import read_evalset

    rows = [GOOD | {"grader": {"kind": "regex", "pattern": "^Oak"}}, GOOD | {"id": "b", "grader": {"kind": "exact"}}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "set.parquet")
    items = read_evalset(EvalSetConfig(path=str(tmp_path / "set.parquet"))).items
    assert [i.grader for i in items] == [Grader("regex", pattern="^Oak"), Grader("exact")]


def test_a_large_row_costs_no_more_than_the_limit(tmp_path: Path, rule: RuleConfig) -> None:
    """20 MB here; 200 MB take the same memory and time, because no more than the limit is read."""
    path = tmp_path / "set.jsonl"
    with path.open("wb") as handle:
        handle.write(b'{"prompt": "')
        handle.seek(20 * 2**20)
        handle.write(b'"}\n')
    tracemalloc.start()
    try:
        code, message = ends(settings(tmp_path, rule))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert code == 2 and f"{path}:1: row larger than 16 MB" in message
    assert peak < 3 * MAX_ROW_BYTES


# ---------------------------------------------------------------- directories and datasets


def dataset_of_two(folder: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([GOOD])
    DatasetDict(train=rows, test=rows).save_to_disk(folder)


def dataset_of_one(folder: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([GOOD]).save_to_disk(folder)


def files(**contents: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        for name, raw in contents.items():
            (folder / name.replace("__", ".")).write_bytes(raw)

    return make


FOLDERS: list[tuple[str, Callable[[Path], None], str | None, str]] = [
    ("directory without data", files(README__md=b"x"), None, "doesn't contain any data files; expected .jsonl"),
    ("directory with a broken file", files(a__jsonl=line() + b"\n{nope"), None, "JSON parse error"),
    ("directory with latin-1", files(a__jsonl='{"prompt": "é"}'.encode("latin-1")), None, "utf-8"),
    ("several splits", dataset_of_two, None, "has the splits train, test; choose one: evalset.split=NAME, or"),
    ("unknown split", dataset_of_two, "dev", "evalset.split=dev: not in"),
    ("a split of a saved split", dataset_of_one, "dev", "has no splits; leave it out"),
    ("a model", lambda path: clone(path), None, "is a model, not data; expected .jsonl"),
    ("a split of a file", lambda path: path.write_bytes(line()), "dev", "has no splits; leave it out"),
]


@pytest.mark.parametrize(("make", "split", "says"), [case[1:] for case in FOLDERS], ids=[case[0] for case in FOLDERS])
def test_datasets(tmp_path: Path, rule: RuleConfig, make: Callable[[Path], None], split: str | None, says: str) -> None:
    make(tmp_path / "data")
    code, message = ends(settings(tmp_path, rule, evalset__path=str(tmp_path / "data"), evalset__split=split))
    assert code == 2 and says in message and str(tmp_path / "data") in message
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- configurations

CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown probe", {"probes__enabled": ["plain", "magic"]}, "probes.enabled: unknown ['magic']; allowed: plain, "),
    ("plain not enabled", {"probes__enabled": ["few_shot"]}, "must include `plain`"),
    ("budget misspelt", {"probes__budget": "adaptiv"}, "probes.budget=adaptiv: allowed: full, adaptive"),
    ("endless budget", {"probes__budget": "adaptive", "probes__more_items": 0}, "probes.more_items=0: allowed: 1 or"),
    ("negative samples", {"probes__more_samples": -1}, "probes.more_samples=-1: allowed: 0 or more"),
    ("temperature is NaN", {"probes__temperature": float("nan")}, "probes.temperature=nan: allowed: more than 0"),
    ("kind misspelt", {"model__kind": "hg"}, "model.kind=hg: allowed: hf, openai, recorded"),
    ("wrong dtype", {"model__dtype": "fp32"}, "model.dtype=fp32: allowed: auto, float32, bfloat16, float16"),
    ("dtype that is none", {"model__dtype": "nn"}, "model.dtype=nn: allowed"),
    ("empty stop string", {"model__stop": [""]}, "model.stop: contains an empty string"),
    ("escape in a stop string", {"model__stop": [r"\n\n"]}, r"""in bash: $'model.stop=["\n"]'"""),
    ("no new tokens", {"model__max_new_tokens": 0}, "model.max_new_tokens=0: allowed: 1 or more"),
    (
        "password of a judge",
        {"judge__base_url": "http://u:pw@h/v1", "judge__name": "m", "judge__kind": "openai"},
        "judge.base_url: contains a password; name a variable",
    ),
    ("negative seed", {"seed": -1}, "seed=-1: allowed: 0 to 4294967295"),
    ("thresholds that cross", {"rule__best_low": 0.7}, "rule.best_low=0.7: must be less than rule.best_high=0.65"),
    ("no items needed", {"rule__min_items": 0}, "rule.min_items=0: allowed: 1 or more"),
    ("claim above 1", {"rule__claim": 2.0}, "rule.claim=2.0: allowed: 0 to 1"),
    ("no eval set", {"evalset__path": None}, "evalset.path: missing"),
    ("no rows at all", {"evalset__limit": 0}, "evalset.limit=0: allowed: 1 or more"),
    ("no such rows to train on", {"data__sft": "nowhere.jsonl"}, "nowhere.jsonl: does not exist; expected .jsonl"),
]


@pytest.mark.parametrize(("changes", "says"), [case[1:] for case in CONFIGS], ids=[case[0] for case in CONFIGS])
def test_configs(tmp_path: Path, rule: RuleConfig, changes: dict[str, Any], says: str) -> None:
    write(tmp_path, GOOD)
    code, message = ends(settings(tmp_path, rule, **changes))
    assert code == 2 and says in message
    assert not (tmp_path / "out").exists()


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, rule: RuleConfig) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, message = ends(settings(tmp_path, rule))
    assert code == 2 and "is not empty and holds no run; choose a new directory" in message
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_an_output_in_a_file(tmp_path: Path, rule: RuleConfig, out: str) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "file").write_text("mine")
    code, message = ends(settings(tmp_path, rule, out=str(tmp_path / out)))
    assert code == 2 and "is a file or inside one; choose a directory" in message
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a place where not even root can write")
def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_read(tmp_path: Path, rule: RuleConfig) -> None:
    write(tmp_path, GOOD)
    code, message = ends(settings(tmp_path, rule, out="/proc/gapwise", model__path="nowhere"))
    assert code == 2 and message == "out=/proc/gapwise: not writable; choose another directory"


COMMANDS: list[tuple[str, list[str], str]] = [
    ("unknown key", ["model.pth=x"], "model.pth: unknown setting; allowed: kind, path"),
    ("unknown key that is added", ["+evalset.pth=x"], "evalset.pth: unknown setting; allowed: path"),
    (
        "column misspelt",
        ["evalset.columns.promt=question"],
        "evalset.columns.promt: not a field of an eval item; allowed",
    ),
    ("wrong type", ["seed=many"], "seed=many: Value 'many' of type 'str' could not be converted to Integer"),
    ("unknown option of a group", ["model=gpt9"], "model=gpt9: no such file in conf/model; allowed: demo, "),
    (
        "hub name as a group",
        ["model=Qwen/Qwen3-0.6B"],
        "model=Qwen/Qwen3-0.6B: no such file in conf/model; allowed: demo,",
    ),
    ("no override", ["seed"], "seed: missing EQUAL at '<EOF>'; expected KEY=VALUE"),
    ("list without end", ["probes.enabled=[plain"], "probes.enabled=[plain: "),
    ("unquoted template", ["evalset.columns.prompt={{ x }}"], "evalset.columns.prompt={{ x }}: "),
    ("negative seed", ["seed=-1"], "seed=-1: allowed: 0 to 4294967295"),
    ("out in a sweep", ["-m", "out=OUT", "seed=0,1"], "out: one directory cannot hold the jobs of a sweep"),
    ("unknown probe", ["probes.enabled=[plain,magic]"], "unknown ['magic']; allowed: plain, free, few_shot"),
    ("plain not enabled", ["probes.enabled=[few_shot]"], "must include `plain`"),
    ("budget misspelt", ["probes.budget=ful"], "probes.budget=ful: allowed: full, adaptive"),
    ("kind misspelt", ["model.kind=openia"], "model.kind=openia: allowed: hf, openai, recorded"),
    (
        "broken template",
        ["evalset.path=SET", "evalset.columns.prompt='{{ nope'"],
        "evalset.columns.prompt: not a Jinja template",
    ),
    ("malformed row", ["evalset.path=SET", "evalset.columns={}"], "set.jsonl:2: not JSON"),
]


@pytest.mark.parametrize(("overrides", "says"), [case[1:] for case in COMMANDS], ids=[case[0] for case in COMMANDS])
def test_commands(tmp_path: Path, overrides: list[str], says: str) -> None:
    (tmp_path / "set.jsonl").write_bytes(line() + b"\n{nope")
    out = [] if any("OUT" in o for o in overrides) else ["out=OUT"]
    places = {"SET": str(tmp_path / "set.jsonl"), "OUT": str(tmp_path / "out")}
    arguments = [o.replace("SET", places["SET"]).replace("OUT", places["OUT"]) for o in (*overrides, *out)]
    done = run_verb("diagnose", *arguments)
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip().splitlines()
    assert says in said[-1] and (len(said) == 1 or "-m" in overrides), "a sweep names the job first"
    assert not (tmp_path / "out").exists()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`true` reads nothing: the pipe is closed before the first word."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} diagnose.py --help | true; echo ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "141\n" and done.stderr == ""


# ---------------------------------------------------------------- models


def clone(folder: Path, *without: str, **contents: Any) -> Path:
    """The demo's model with some files left out and others replaced; two underscores are a dot."""
    folder.mkdir()
    for file in MODEL.iterdir():
        if file.name not in without:
            (folder / file.name).symlink_to(file)
    for name, value in contents.items():
        path = folder / name.replace("__", ".")
        path.unlink(missing_ok=True)
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return folder


def configured(**changes: Any) -> dict[str, Any]:
    return json.loads((MODEL / "config.json").read_text()) | changes


def rewritten(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]], **config: Any) -> Path:
    """The demo's model with other weights."""
    from safetensors.torch import load_file, save_file

    clone(folder, "model.safetensors", config__json=configured(**config))
    save_file(change(load_file(MODEL / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def pickled(folder: Path) -> Path:
    import torch

    clone(folder, "model.safetensors")
    torch.save({"weight": torch.zeros(2)}, folder / "pytorch_model.bin")
    return folder


def pickled_adapter(folder: Path) -> dict[str, str]:
    import torch

    made = adapter(folder, None)
    torch.save(lora(192), folder / "adapter_model.bin")
    return made


def adapter(folder: Path, weights: dict[str, Any] | None, cut: bool = False, **changes: Any) -> dict[str, str]:
    from safetensors.torch import save_file

    folder.mkdir()
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(about | changes))
    if weights is not None:
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    if cut:
        whole = (folder / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    return {"adapter": str(folder)}


def lora(width: int) -> dict[str, Any]:
    import torch

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    return {f"{name}A.weight": torch.zeros(4, width), f"{name}B.weight": torch.zeros(width, 4)}


def odd(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: value for k, (name, value) in enumerate(sorted(weights.items())) if k % 2}


EMBED = "model.embed_tokens.weight"
TURNS = b"{{ raise_exception('roles must alternate') }}"
MODELS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("missing", lambda f: f, "no such directory; expected a directory with config.json"),
    ("a file", lambda f: MODEL / "config.json", "no such directory"),
    ("no weights", lambda f: clone(f, "model.safetensors"), "no file named model.safetensors"),
    ("no tokenizer", lambda f: clone(f, "tokenizer.json", "tokenizer_config.json"), "cannot load a tokenizer"),
    ("tokenizer is a list", lambda f: clone(f, tokenizer__json=[]), "cannot load a tokenizer"),
    ("no config", lambda f: clone(f, "config.json"), "model_type"),
    ("config is no JSON", lambda f: clone(f, config__json=b"{nope"), "not a valid JSON file"),
    ("config is a list", lambda f: clone(f, config__json=[]), "model.path="),
    (
        "value of another type",
        lambda f: clone(f, config__json=configured(num_attention_heads="six")),
        "num_attention_heads",
    ),
    ("unknown architecture", lambda f: clone(f, config__json=configured(model_type="zork")), "zork"),
    (
        "another architecture",
        lambda f: clone(f, config__json=configured(model_type="gpt2")),
        "not the weights of the GPT2",
    ),
    ("another width", lambda f: clone(f, config__json=configured(hidden_size=96)), "of another shape"),
    (
        "weights cut off",
        lambda f: clone(f, model__safetensors=(MODEL / "model.safetensors").read_bytes()[:9999]),
        "header",
    ),
    (
        "weights not fetched",
        lambda f: clone(f, model__safetensors=b"version https://git-lfs.github.com/spec/v1\n"),
        "header",
    ),
    ("half the weights", lambda f: rewritten(f, odd), "missing or of another shape"),
    ("weights are NaN", lambda f: rewritten(f, lambda w: {k: v * float("nan") for k, v in w.items()}), "outputs NaN"),
    (
        "another tokenizer",
        lambda f: rewritten(f, lambda w: w | {EMBED: w[EMBED][:90]}, vocab_size=90),
        "the tokenizer has 1024 tokens, the model 90",
    ),
    ("pickle only", pickled, "no file named model.safetensors"),
    (
        "chat template that refuses",
        lambda f: clone(f, **{"chat_template.jinja": TURNS}),
        "does not accept user: roles must alternate",
    ),
    ("broken chat template", lambda f: clone(f, **{"chat_template.jinja": b"{% for %}"}), "its chat template"),
    ("unknown device", lambda f: {"device": "foo"}, "model.device=foo: "),
    (
        "unknown end token",
        lambda f: {"eos_token": "<zork>"},
        "model.eos_token='<zork>': not in the vocabulary; special tokens",
    ),
    ("no adapter", lambda f: {"adapter": str(f)}, "contains no adapter_config.json"),
    ("adapter without weights", lambda f: adapter(f, None), "contains no adapter_model.safetensors"),
    (
        "adapter of another width",
        lambda f: adapter(f, lora(64)),
        "does not fit this base: 8 of 8 weights missing or of another shape",
    ),
    (
        "adapter of other modules",
        lambda f: adapter(f, lora(192), target_modules=["c_attn"]),
        "not found in the base model",
    ),
    ("adapter of one layer", lambda f: adapter(f, lora(192)), "does not fit this base: 6 of 8 weights missing"),
    ("adapter of endless rank", lambda f: adapter(f, lora(192), r=10**9), "of another shape"),
    ("adapter cut off", lambda f: adapter(f, lora(192), cut=True), "does not fit this base: Error while deserializing"),
    ("adapter in a pickle", pickled_adapter, "contains no adapter_model.safetensors"),
    (
        "adapter of no type",
        lambda f: adapter(f, lora(192), peft_type="ZORK"),
        "does not fit this base: KeyError('ZORK')",
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "says"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_models(tmp_path: Path, rule: RuleConfig, make: Callable[[Path], Any], says: str) -> None:
    write(tmp_path, GOOD)
    made = make(tmp_path / "model")
    changes = made if isinstance(made, dict) else {"path": str(made)}
    code, message = ends(settings(tmp_path, rule, **{f"model__{key}": value for key, value in changes.items()}))
    assert code == 2 and says in message
    assert all(f"model.{key}={value}" in message for key, value in changes.items() if key != "eos_token")
    assert len(message) < 1000 and not (tmp_path / "out").exists()


LLAMA = {"AutoConfig": "evil.LlamaConfig", "AutoModelForCausalLM": "evil.LlamaForCausalLM"}
CODE: list[tuple[str, dict[str, Any], int]] = [
    ("only its own code", {"config__json": {"model_type": "zork", "auto_map": LLAMA}}, 2),
    (
        "a tokenizer of its own",
        {"tokenizer_config__json": {"auto_map": {"AutoTokenizer": ["evil.LlamaTokenizer", None]}}},
        2,
    ),
    ("its own code beside a known architecture", {"config__json": {"auto_map": LLAMA}}, 0),
]


@pytest.mark.parametrize(("changes", "ended"), [case[1:] for case in CODE], ids=[case[0] for case in CODE])
def test_code_of_a_model_is_never_run(tmp_path: Path, rule: RuleConfig, changes: dict[str, Any], ended: int) -> None:
    """Refused where there is no other way to load the model; else loaded without it."""
    flag = tmp_path / "ran"
    names = "LlamaConfig, LlamaForCausalLM, LlamaTokenizer"
    code = f"open({str(flag)!r}, 'w')\nfrom transformers import {names}\n"
    own = {"config__json": configured(), "tokenizer_config__json": {"tokenizer_class": "Zork", "eos_token": "<|end|>"}}
    replaced = {name: own[name] | value for name, value in changes.items()}
    model = clone(tmp_path / "model", evil__py=code.encode(), **replaced)
    write(tmp_path, GOOD)
    found, message = ends(settings(tmp_path, rule, model__path=str(model)))
    assert (found, "custom code" in message) == (ended, ended == 2)
    assert not flag.exists()
    exec(code.splitlines()[0])
    assert flag.exists(), "the planted code does leave a trace when it runs"


def test_a_wrong_end_token_blocks_before_probing(tmp_path: Path, rule: RuleConfig) -> None:
    about = json.loads((MODEL / "tokenizer_config.json").read_text()) | {"eos_token": "<|pad|>"}
    ended = {"eos_token_id": 0, "pad_token_id": 0}
    files = {"tokenizer_config__json": about, "generation_config__json": ended, "config__json": configured(**ended)}
    model = clone(tmp_path / "model", **files)
    write(tmp_path, *map(json.loads, (DEMO / "evalset.jsonl").read_text().splitlines()[:8]))
    code, message = ends(settings(tmp_path, rule, model__path=str(model)))
    assert code == 3 and "end token: the model is configured to end with '<|pad|>'" in message
    assert "model.eos_token='<|end|>'" in message, "what fixes it"
    assert not (tmp_path / "out").exists()


def test_a_run_stopped_in_its_first_seconds_goes_on_and_checks_the_end_token_once(
    tmp_path: Path, rule: RuleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diagnose.models.hf import HFModel

    config = settings(tmp_path, rule)
    seen: list[dict[str, Any]] = []

    def check(stops: bool) -> Any:
        def checked(*_: Any) -> None:
            seen.append(json.loads((tmp_path / "out" / "run.json").read_text()))
            if stops:
                raise KeyboardInterrupt

        return checked

    write(tmp_path, GOOD)
    monkeypatch.setattr(HFModel, "check_end_token", check(stops=True))
    with pytest.raises(KeyboardInterrupt):
        ends(config)
    assert [found["status"] for found in seen] == ["running"]
    monkeypatch.setattr(HFModel, "check_end_token", check(stops=False))
    assert ends(config) == (0, "") and len(seen) == 2, "it had not passed, so it is repeated"
    (tmp_path / "out" / "diagnosis.json").unlink()
    assert ends(config) == (0, "") and len(seen) == 2, "it has passed"


def test_a_causal_model_is_no_reward_model(tmp_path: Path, rule: RuleConfig) -> None:
    """Its head would be random, and so would every preference."""
    from diagnose.models.reward import RewardModel

    with pytest.raises(BadInput, match="judge.path=.*ForSequenceClassification.*expected a reward model"):
        RewardModel(str(MODEL))


def test_rows_that_want_a_judge_and_none_is_configured(tmp_path: Path, rule: RuleConfig) -> None:
    write(tmp_path, GOOD | {"grader": {"kind": "judge"}})
    code, message = ends(settings(tmp_path, rule))
    assert code == 2 and "judge.path: missing; rows ask for a judge model" in message
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- what is odd but works


def test_a_model_without_a_chat_template_is_asked_in_the_plain_layout(tmp_path: Path, rule: RuleConfig) -> None:
    write(tmp_path, GOOD)
    model = clone(tmp_path / "model", "chat_template.jinja")
    assert ends(settings(tmp_path, rule, model__path=str(model)))[0] == 0
    render = json.loads((tmp_path / "out" / "run.json").read_text())["prompt_format"]
    assert render["chat_template"] is None and render["layout"] and render["stop"] == ["\n\n"]


def test_one_prompt_longer_than_the_window_is_unscored_and_the_run_goes_on(tmp_path: Path, rule: RuleConfig) -> None:
    write(tmp_path, GOOD, GOOD | {"id": "long", "prompt": "home " * 400})
    assert ends(settings(tmp_path, rule))[0] == 0
    (v,) = json.loads((tmp_path / "out" / "diagnosis.json").read_text())["slices"]
    assert (v["n"], v["strict"]["n"], v["unread"]) == (1, 1, {"too_long": 1})


def test_a_slice_of_which_every_prompt_is_longer_is_an_error(tmp_path: Path, rule: RuleConfig) -> None:
    write(tmp_path, GOOD, GOOD | {"id": "long", "prompt": "home " * 400, "slice": "letters"})
    code, message = ends(settings(tmp_path, rule))
    assert code == 2 and "no prompt of letters fits the model's context window" in message
    assert not (tmp_path / "out").exists()


def test_a_slice_of_one_item_gets_no_verdict_and_says_how_many_it_needs(tmp_path: Path, rule: RuleConfig) -> None:
    write(tmp_path, GOOD)
    assert ends(settings(tmp_path, rule))[0] == 0
    (v,) = json.loads((tmp_path / "out" / "diagnosis.json").read_text())["slices"]
    assert (v["verdict"], v["n"], v["needs_items"], v["p_verdict"]) == ("insufficient", 1, rule.min_items - 1, 0.0)
    assert v["strict"]["high"] - v["strict"]["low"] > 0.5
    assert all(high - low > 0.5 for low, high in [v["interval90"]["none"]])


def test_an_answer_cannot_make_a_schema_that_contains_itself_grow_without_end(tmp_path: Path, rule: RuleConfig) -> None:
    tree = {"oneOf": [{"type": "integer"}, {"items": {"$ref": "#"}, "type": "array"}, {"items": {"$ref": "#"}}]}
    row = {"id": "a", "slice": "s", "prompt": "Go on.", "target": "[[1]]", "grader": {"kind": "json", "schema": tree}}
    tree["oneOf"][2] = {"allOf": [{"type": "array"}, {"items": {"$ref": "#"}}, {"type": "object"}]}
    write(tmp_path, row)
    (tmp_path / "log.jsonl").write_text(json.dumps({"id": "a", "text": "[" * 60 + "]" * 60}) + "\n")
    changes = {"model__kind": "recorded", "model__path": str(tmp_path / "log.jsonl")}
    assert ends(settings(tmp_path, rule, **changes))[0] == 0


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("a" * 300, "File name too long; choose another directory"),
        ("loop/x", "loop is a symbolic link that leads nowhere; choose a directory"),
        ("nowhere", "is a symbolic link that leads nowhere"),
        ("file/x", "is a file or inside one"),
        ("/proc/x", "not writable"),
    ],
)
def test_a_run_directory_that_cannot_be_made(tmp_path: Path, out: str, says: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "away")
    (tmp_path / "file").touch()
    for config in (DiagnoseConfig, TrainConfig, EvalConfig):
        with pytest.raises(BadInput) as error:
            check_run(config(out=str(tmp_path / out)))
        assert says in str(error.value)


def test_definitions_count_where_they_are_used() -> None:
    from diagnose.grading.grader import parse_grader

    address = {"properties": {f"field {k}": {"type": "string"} for k in range(30)}}
    uses = {f"d{k}": {"properties": {"at": {"$ref": "#/$defs/address"}}} for k in range(400)}
    chain = {f"c{k}": {"$ref": f"#/$defs/c{k + 1}"} for k in range(150)} | {"c150": {}}
    for parts, first in ((uses | {"address": address}, "d3"), (chain, "c0")):
        parse_grader({"kind": "json", "schema": {"$defs": parts, "$ref": f"#/$defs/{first}"}}, "set.jsonl:1")


def test_a_slice_of_which_nothing_is_scored_has_no_number_at_all(tmp_path: Path, rule: RuleConfig) -> None:
    write(tmp_path, GOOD, GOOD | {"id": "b", "slice": "silent", "prompt": "And now?"})
    (tmp_path / "log.jsonl").write_text(json.dumps({"id": "a", "text": "Oakford"}) + "\n")
    changes = {"model__kind": "recorded", "model__path": str(tmp_path / "log.jsonl")}
    assert ends(settings(tmp_path, rule, **changes))[0] == 0
    spoken, silent = json.loads((tmp_path / "out" / "diagnosis.json").read_text())["slices"]
    assert (spoken["slice"], spoken["n"]) == ("s", 1)
    assert (silent["verdict"], silent["n"], silent["needs_items"]) == ("insufficient", 0, rule.min_items)
    assert silent["unread"] == {"not_recorded": 1}
    assert silent["strict"]["low"] is silent["strict"]["high"] is None
    assert set(silent["mixture"].values()) == {None} and silent["waterfall"] == {}


# ---------------------------------------------------------------- a full disk

ASKED = ["probes.enabled=[plain,ranked]", "evalset.limit=8", "wandb.mode=disabled"]


def limited(size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where no file may grow beyond so many bytes."""
    command = [sys.executable, str(ROOT / "diagnose.py"), *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run that found no room in the middle of its second stage."""
    out = tmp_path_factory.mktemp("full") / "out"
    return out, limited(40_000, f"out={out}", *ASKED)


def test_a_full_disk_ends_with_one_sentence_and_loses_nothing(
    full_disk: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log stays readable, and the same command goes on behind its last whole batch."""
    out, done = full_disk
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "File too large" in done.stderr
    assert "repeat the command with the same out=DIR; it resumes from here" in done.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "failed" and "answers.jsonl: cannot be written" in record["reason"]
    assert not (out / "diagnosis.json").exists()
    left = (out / "answers.jsonl").read_bytes()
    whole = left[: left.rindex(b'"probe": "plain"')]
    monkeypatch.chdir(ROOT)
    register_diagnose()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        again: Any = OmegaConf.to_object(compose("diagnose", [f"out={out}", *ASKED]))
    assert ends(again) == (0, "")
    log = (out / "answers.jsonl").read_bytes()
    assert log.startswith(whole) and len(log) > 40_000 and all(map(json.loads, log.splitlines()))
    asked = Counter((row["probe"], row["item"], row["draw"]) for row in map(json.loads, log.splitlines()))
    assert set(asked.values()) == {1}, "nothing was asked twice"


def test_a_full_disk_names_the_file(full_disk: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = full_disk
    assert str(out / "answers.jsonl") in done.stderr


def test_a_file_that_finds_no_room_leaves_no_part_behind(tmp_path: Path) -> None:
    from diagnose.errors import RunFailed
    from diagnose.provenance import write_whole

    (tmp_path / "report.html").write_text("before")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(RunFailed, match="report.html: cannot be written: File too large; earlier results are kept"):
            write_whole(tmp_path / "report.html", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"report.html": "before"}
