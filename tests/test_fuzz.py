"""Whatever a file holds, it is read or refused in one sentence; whatever a model says, it gets a reading.

Each target first runs the inputs in data/fuzz.jsonl, each of which once broke it or stands for a kind that did, then
random ones, the same in every run. `FUZZ=20000 python -m pytest tests/test_fuzz.py` searches longer, each time anew;
what it finds belongs into the file.
"""

from __future__ import annotations

import json
import os
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from diagnose.config import DataConfig, EvalSetConfig, ModelConfig
from diagnose.errors import BadInput
from diagnose.grading.grade import grade
from diagnose.items.evalset import read_evalset
from diagnose.models.recorded import RecordedModel
from diagnose.records import EvalItem, Grader
from diagnose.text import override
from train.data import read_training

CORPUS = Path(__file__).parent / "data" / "fuzz.jsonl"
MORE = int(os.environ.get("FUZZ", 0))
fuzzed = settings(
    max_examples=MORE or 150,
    derandomize=not MORE,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def known(target: str) -> list[Any]:
    """The committed inputs of a target."""
    lines = (json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines())
    return [pytest.param(line["input"], id=line["why"]) for line in lines if line["target"] == target]


# ---------------------------------------------------------------- what is thrown at them

texts = st.text(st.characters(codec="utf-8"), max_size=30)
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 1, 1e308, -0.0, 2**63, 10**30])
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


def rows_of(names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, which hold anything."""
    fields = names.split()
    return st.dictionaries(st.sampled_from(fields) | texts, values | messages, max_size=6)


messages = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls"]), values, max_size=3)
    | st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": values}),
    max_size=4,
)
EVAL_ROW = "id slice prompt target grader context distractors statement chosen rejected judge annotations free_prompt"
EVAL_ROW += " messages paraphrases cluster value group system"
TRAIN_ROW = "prompt completion messages text chosen rejected conversations instruction input output label slice tools"
TRAIN_ROW += " preferred_output non_preferred_output reasoning images weight"
LOG_ROW = "id response output completion text answer finish_reason stop_reason doc doc_id resps arguments filter probe"
LOG_ROW += " item draw prompt reason target"


def jsonl(rows: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    """A file of such rows, or one that is damaged, or any bytes."""
    whole = st.lists(rows, min_size=1, max_size=3).map(lambda r: "\n".join(map(json.dumps, r)).encode())
    cut = st.tuples(whole, st.integers(0, 400), st.binary(max_size=4)).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :])
    return whole | cut | st.binary(max_size=60)


# ---------------------------------------------------------------- files


def read_or_refused(read: Callable[[], object], path: Path) -> None:
    """It ends, and if it refuses, it names the file."""
    try:
        read()
    except BadInput as refused:
        assert str(path) in str(refused), refused


def as_evalset(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    read_or_refused(lambda: read_evalset(EvalSetConfig(path=str(path))), path)


def as_training(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    for method, key in (("sft", "sft"), ("dpo", "preferences"), ("rlhf", "preferences")):
        read_or_refused(lambda m=method, k=key: read_training(DataConfig(**{k: str(path)}), m, None, []), path)


ITEM = EvalItem(
    id="a", slices=("s",), turns=(("user", "What is 2 + 2?"),), targets=("4",), grader=Grader("exact"), where="e:1"
)


def as_log(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    read_or_refused(lambda: RecordedModel(ModelConfig(kind="recorded", path=str(path))).check([ITEM]), path)


FORMS = ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv"]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("content", known("evalset"))
def test_known_eval_sets(content: str, name: str, tmp_path: Path) -> None:
    as_evalset(content.encode("latin-1"), tmp_path / name)


@fuzzed
@given(content=jsonl(rows_of(EVAL_ROW)), name=st.sampled_from(FORMS))
def test_eval_sets(content: bytes, name: str, tmp_path: Path) -> None:
    as_evalset(content, tmp_path / name)


@pytest.mark.parametrize("content", known("training"))
def test_known_training_rows(content: str, tmp_path: Path) -> None:
    as_training(content.encode("latin-1"), tmp_path / "rows.jsonl")


@fuzzed
@given(content=jsonl(rows_of(TRAIN_ROW)), name=st.sampled_from(FORMS))
def test_training_rows(content: bytes, name: str, tmp_path: Path) -> None:
    as_training(content, tmp_path / name)


@pytest.mark.parametrize("content", known("log"))
@pytest.mark.parametrize("name", ["log.jsonl", "log.json"])
def test_known_logs(content: str, name: str, tmp_path: Path) -> None:
    as_log(content.encode("latin-1"), tmp_path / name)


lm_eval_rows = st.fixed_dictionaries(
    {"doc": values | st.fixed_dictionaries({"id": values}), "resps": values | st.lists(st.lists(texts, max_size=2))},
    optional={"arguments": values | st.fixed_dictionaries({"gen_args_0": values}), "doc_id": values, "filter": values},
)
own_rows = st.fixed_dictionaries(
    {
        "probe": st.sampled_from(["plain", "samples", "free", "zork"]) | values,
        "item": st.just("a") | values,
        "draw": st.integers(0, 2) | values,
        "text": values,
        "prompt": values,
    },
    optional={"reason": values, "finish": values},
)
log_rows = rows_of(LOG_ROW) | lm_eval_rows | own_rows | st.fixed_dictionaries({"id": values, "text": values})


@fuzzed
@given(content=jsonl(log_rows))
def test_logs(content: bytes, tmp_path: Path) -> None:
    as_log(content, tmp_path / "log.jsonl")


samples = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "epoch": values | st.just(1),
        "input": values | messages | st.just("What is 2 + 2?"),
        "output": values
        | st.fixed_dictionaries(
            {},
            optional={
                "completion": values,
                "choices": values
                | st.lists(
                    st.fixed_dictionaries({"message": st.fixed_dictionaries({"content": values}) | values}), max_size=2
                ),
            },
        ),
    },
)


@fuzzed
@given(found=st.lists(samples | values, max_size=3), archived=st.booleans(), broken=st.binary(max_size=3))
def test_inspect_logs(found: list[Any], archived: bool, broken: bytes, tmp_path: Path) -> None:
    if not archived:
        as_log(json.dumps({"samples": found}).encode() + broken, tmp_path / "log.json")
        return
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, sample in enumerate(found):
            archive.writestr(f"samples/{number}_epoch_1.json", json.dumps(sample).encode() + broken)
    as_log(path.read_bytes(), path)
    whole = path.read_bytes()
    as_log(whole[: len(whole) // 2] + broken + whole[len(whole) // 2 :], path)


# ---------------------------------------------------------------- answers


def item(kind: Any, target: str, **grader: Any) -> EvalItem:
    return EvalItem(
        id="a",
        slices=("s",),
        turns=(("user", "What?"),),
        targets=(target,),
        grader=Grader(kind, **grader),
        where="e:1",
        distractors=("5", "Rome"),
    )


def check_reading(one: EvalItem, said: str) -> None:
    """There is a reading, and what is right in form is right in content."""
    found = grade(one, said)
    assert (found.strict is None) == (found.lenient is None) == (found.reason is not None), found
    assert not found.strict or found.lenient
    assert grade(one, said) == found


answers = texts | st.text("{}[]\"':,0123456789.-eE% \n", max_size=40) | values.map(json.dumps)


@pytest.mark.parametrize("said", known("answer"))
@pytest.mark.parametrize("kind", ["json", "number", "exact", "choice", "contains"])
def test_known_answers(said: str, kind: str) -> None:
    check_reading(item(kind, "4" if kind != "json" else '{"a": 4}'), said)


@fuzzed
@given(gold=values, said=answers)
def test_answers_that_should_be_json(gold: Any, said: str) -> None:
    """The gold answer as JSON is right in form wherever it is one."""
    target = json.dumps(gold)
    check_reading(item("json", target), said)
    if "NaN" not in target and "Infinity" not in target and gold not in (None, [], {}, ""):
        assert grade(item("json", target), target).strict, target


@fuzzed
@given(gold=st.integers(-(10**12), 10**12) | st.decimals(-1000, 1000, places=3), said=answers)
def test_answers_that_should_be_a_number(gold: Any, said: str) -> None:
    check_reading(item("number", str(gold)), said)
    assert grade(item("number", str(gold)), str(gold)).strict
    assert grade(item("number", str(gold)), f"The answer is {gold}.").lenient


@fuzzed
@given(gold=texts, said=answers, kind=st.sampled_from(["exact", "choice", "contains"]))
def test_answers_in_words(gold: str, said: str, kind: str) -> None:
    check_reading(item(kind, gold or "Paris"), said)


# ---------------------------------------------------------------- overrides


def round_trip(value: str | list[str]) -> None:
    """What is printed, pasted into a shell and parsed by Hydra is the value again."""
    (argument,) = shlex.split(override("key", value))
    parsed = OverridesParser.create().parse_override(argument).value()
    assert OmegaConf.to_container(OmegaConf.create({"key": parsed}), resolve=True) == {"key": value}


awkward = st.text(st.sampled_from("ab=,'\"({[~#\\$ }])!`:é\t.-/*&|;<>?%@"), max_size=12) | st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12
)


@pytest.mark.parametrize("value", known("override"))
def test_known_overrides(value: Any) -> None:
    round_trip(value)


@fuzzed
@given(value=awkward | st.lists(awkward, max_size=3))
def test_overrides(value: Any) -> None:
    round_trip(value)
