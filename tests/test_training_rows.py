"""Training rows: every format people have them in, nothing trained that they do not say, nothing the eval set asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from diagnose.config import DataConfig, ModelConfig
from diagnose.errors import BadInput
from diagnose.records import EvalItem, Grader, Judge
from train.data import Rows, for_trl, read_training
from train.pairs import agreement, contradictions, giveaways
from train.pii import counted, found, masked, masked_row
from train.references import gradable, graded, refuse_tools
from train.rlhf import split_by_prompt
from train.rows import Row, key, said

DEMO = ROOT / "tests" / "data" / "demo"


def rows_file(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def read_sft(tmp_path: Path, *rows: dict[str, Any]) -> Rows:
    return read_training(DataConfig(sft=rows_file(tmp_path, list(rows))), "sft", None, ())["sft"]


def read_pairs(tmp_path: Path, *rows: dict[str, Any]) -> Rows:
    return read_training(DataConfig(preferences=rows_file(tmp_path, list(rows))), "dpo", None, ())["preferences"]


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


ASKED, TOLD, OTHER = turn("user", "x"), turn("assistant", "y"), turn("assistant", "z")


def called(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


CALL = turn("assistant", None, tool_calls=[called("weather", '{"place": 3}')])
READ_CALL = turn("assistant", "", tool_calls=[called("weather", {"place": 3})])


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "x", "completion": "y"},
        {"messages": [ASKED, TOLD]},
        {"messages": [turn("user", [{"type": "text", "text": "x"}]), TOLD]},
        {"messages": json.dumps([ASKED, TOLD])},
        {"prompt": [ASKED], "completion": [TOLD]},
        {"prompt": [ASKED], "completion": TOLD},
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]},
        {"instruction": "x", "input": "", "output": "y"},
        {"instruction": "x", "output": "y"},
        {"prompt": "x", "completion": "y", "label": True},
        {"prompt": "x", "completion": "y", "label": 7},
    ],
)
def test_sft_rows_of_any_format_are_the_same_row(tmp_path: Path, row: dict[str, Any]) -> None:
    (read,) = read_sft(tmp_path, row).rows
    assert (read["prompt"], read["completion"]) == ([ASKED], TOLD)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "x", "chosen": "y", "rejected": "z"},
        {"prompt": [ASKED], "chosen": [TOLD], "rejected": [OTHER]},
        {"chosen": [ASKED, TOLD], "rejected": [ASKED, OTHER]},
        {"input": {"messages": [ASKED]}, "preferred_output": [TOLD], "non_preferred_output": [OTHER]},
        {
            "conversations": [{"from": "human", "value": "x"}],
            "chosen": {"from": "gpt", "value": "y"},
            "rejected": {"from": "gpt", "value": "z"},
        },
        {"instruction": "x", "chosen": "y", "rejected": "z"},
    ],
)
def test_pairs_of_any_format_are_the_same_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    (read,) = read_pairs(tmp_path, row).rows
    assert (read["prompt"], read["chosen"], read["rejected"]) == ([ASKED], TOLD, OTHER)


def test_an_input_that_looks_like_json_is_text(tmp_path: Path) -> None:
    row = {"instruction": "Sort the keys.", "input": '{"b": true, "a": null}', "output": "a, b"}
    (read,) = read_sft(tmp_path, row).rows
    assert said(read["prompt"][0]) == 'Sort the keys.\n\n{"b": true, "a": null}'
    with pytest.raises(BadInput, match="calls tools, which reinforcement learning does not support"):
        refuse_tools({"sft": read_sft(tmp_path, {"messages": [ASKED, CALL]})})
    refuse_tools({"sft": read_sft(tmp_path, row)})


def test_how_columns_were_read_is_told(tmp_path: Path) -> None:
    row = {"instruction": "x", "output": "y", "weight": 2, "margin": 1, "source": "me"}
    found = read_sft(tmp_path, row, row)
    assert dict(found.ignored) == {"weight": 2, "margin": 2}
    assert list(found.mappings) == ["instruction and input → prompt, output → completion (Alpaca)"]
    assert not read_sft(tmp_path, {"prompt": "x", "completion": "y"}).mappings


def test_columns_that_others_are_made_of_are_read(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [{"question": "x", "intent": "y", "slots": []}])
    columns = {"prompt": "question", "completion": "{{ intent }}"}
    read = read_training(DataConfig(sft=path, columns=columns), "sft", None, ())["sft"]
    assert dict(read.ignored) == {"slots": 1}


def test_marked_completions_become_pairs_of_the_same_prompt_and_sft_takes_the_right_ones(tmp_path: Path) -> None:
    marked = [("p", "a", True), ("p", "b", False), ("p", "c", False), ("q", "d", True), ("r", "e", "false")]
    rows = [{"prompt": p, "completion": c, "label": mark} for p, c, mark in marked]
    pairs = read_pairs(tmp_path, *rows)
    assert [(said(r["chosen"]), said(r["rejected"])) for r in pairs.rows] == [("a", "b")]
    assert dict(pairs.dropped) == {"marked, without a counterpart of the same prompt": 3}
    right = read_sft(tmp_path, *rows)
    assert [said(row["completion"]) for row in right.rows] == ["a", "d"]
    assert dict(right.dropped) == {"marked as wrong": 3}


def test_a_text_without_a_prompt_is_trained_on_as_a_whole_and_stands_alone(tmp_path: Path) -> None:
    (read,) = read_sft(tmp_path, {"text": "Once upon a time."}).rows
    assert (read["prompt"], read["text"]) == ([], "Once upon a time.")
    with pytest.raises(BadInput, match=r":2: a prompt with an answer, while .*:1 begins a file of texts"):
        read_sft(tmp_path, {"text": "Once."}, {"prompt": "x", "completion": "y"})


def test_calls_of_tools_are_kept_with_their_arguments_as_objects(tmp_path: Path) -> None:
    """The template prints them: JSON text inside would come out as a quoted string."""
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    result = turn("tool", "12 degrees", tool_call_id="c1")
    messages = [ASKED, CALL, result, TOLD]
    last, middle = read_sft(tmp_path, {"messages": [ASKED, CALL], "tools": tools}, {"messages": messages}).rows
    assert (last["completion"], last["tools"]) == (READ_CALL, tools)
    assert (middle["prompt"], middle["completion"]) == ([ASKED, READ_CALL, result], TOLD)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "p"}, "no completion"),
        ({"completion": "c"}, "no prompt"),
        ({"prompt": "p", "completion": " "}, "completion is empty"),
        ({"prompt": [{"role": "user"}], "completion": "c"}, "content of user is a NoneType"),
        ({"prompt": {"role": "user"}, "completion": "c"}, "prompt must be text or"),
        ({"messages": [ASKED]}, "messages must end with the assistant's turn"),
        ({"messages": [TOLD]}, "messages must end with the assistant's turn to train on, after others"),
        ({"messages": [ASKED, ASKED]}, "messages must end with the assistant's turn"),
        ({"messages": []}, "messages must be text or"),
        ({"messages": "[1"}, "messages is not JSON"),
        ({"messages": [ASKED, turn("assistant", "")]}, "completion is empty"),
        ({"messages": [ASKED, turn("assistant", " ")]}, "completion is empty"),
        ({"messages": [ASKED, turn("assistant", None)]}, "content of assistant is a NoneType"),
        ({"messages": [turn("user", None), TOLD]}, "content of user is a NoneType"),
        ({"messages": [turn("user", [{"type": "image", "url": "u"}]), TOLD]}, "a list with parts other than text"),
        ({"messages": [turn("human", "x"), TOLD]}, "role 'human'; allowed: system, user, assistant, tool; human is"),
        ({"messages": [turn("critic", "x"), TOLD]}, "role 'critic'; allowed: system, user, assistant, tool"),
        ({"conversations": [{"from": "critic", "value": "x"}, {"from": "gpt", "value": "y"}]}, "role 'critic'"),
        ({"messages": [turn("user", "x", tool_calls=[1]), TOLD]}, "tool_calls of user; only the assistant"),
        ({"messages": [ASKED, turn("assistant", "", tool_calls=["f"])]}, "a tool call must be"),
        ({"messages": [ASKED, turn("assistant", "", tool_calls=[called("f", "{")])]}, "arguments of f are no JSON"),
        ({"messages": [ASKED, TOLD], "tools": "weather"}, "tools must be a list of function descriptions"),
        ({"messages": [ASKED, TOLD], "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs: not supported"),
        ({"prompt": "", "completion": "y"}, "prompt is empty"),
        ({"prompt": [ASKED, TOLD], "completion": "y"}, "prompt ends with a turn of the assistant"),
        ({"prompt": "x", "completion": [ASKED, TOLD]}, "completion must be one turn of the assistant; found 2 turns"),
        ({"prompt": "x", "completion": [ASKED]}, "must be one turn of the assistant; found a turn of user"),
        ({"preferred_output": [TOLD]}, r'input must be {"messages": […]} beside preferred_output'),
        ({"text": " "}, "text is empty"),
        (
            {"messages": [ASKED, TOLD | {"reasoning_content": "hm"}]},
            "reasoning_content: not supported; put the thought",
        ),
    ],
)
def test_rows_that_would_train_something_else_are_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    """Several of these once trained the user's words, an empty answer, the word None or a printed list."""
    with pytest.raises(BadInput) as error:
        read_sft(tmp_path, row)
    assert ".jsonl:1: " in str(error.value) and says in str(error.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"chosen": [ASKED, TOLD], "rejected": [turn("user", "else"), OTHER]}, "differ before their last turns"),
        ({"prompt": "x", "chosen": [ASKED, TOLD], "rejected": [ASKED, OTHER]}, "chosen must be one turn of the assist"),
        ({"prompt": "x", "chosen": [TOLD, ASKED], "rejected": [OTHER]}, "found 2 turns; earlier ones belong in prompt"),
        ({"chosen": [TOLD], "rejected": [OTHER]}, "no prompt"),
        ({"prompt": "x", "completion": "y"}, "no chosen, rejected"),
    ],
)
def test_pairs_that_would_train_something_else_are_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as error:
        read_pairs(tmp_path, row)
    assert ".jsonl:1: " in str(error.value) and says in str(error.value)


# ---------------------------------------------------------------- selection


def asks(text: str, cluster: str | None = None) -> EvalItem:
    turns = (("user", text),)
    return EvalItem(id=text, slices=("s",), turns=turns, targets=("a",), grader=Grader(), where="", cluster=cluster)


def test_rows_that_the_eval_set_asks_and_empty_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    pairs = [
        {"prompt": "asked", "chosen": "a", "rejected": "b", "slice": "s"},
        {"prompt": "new", "chosen": "a", "rejected": "a", "slice": "s"},
        {"prompt": "new", "chosen": "a", "rejected": "b", "slice": "other"},
        {"prompt": "new", "chosen": "a", "rejected": "b", "slice": "s"},
    ]
    data = DataConfig(preferences=rows_file(tmp_path, pairs))
    found = read_training(data, "dpo", ["s"], [asks("asked")])["preferences"]
    assert len(found.rows) == 1
    assert dict(found.dropped) == {"prompt is in the eval set": 1, "chosen equals rejected": 1, "other slice": 1}


LONG = "The river that the old map calls Isen rises behind the third hill; how long is it in miles?"
TASK = "Answer with one word and no more than that, as briefly as you possibly can:"
MEASURED = [
    asks("What is the home of Podraron the elder?"),
    asks("What is 2 + 3?"),
    asks("Book it"),
    asks(LONG),
    asks(f"{TASK} is the sky above Bree green?"),
    asks(f"{TASK} is the grass in Dale blue?"),
    asks("What does the paper say?", cluster="paper 7"),
]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "what is the home of podraron the elder"}, "but for case and punctuation"),
        ({"prompt": "Q: What is the home of Podraron the elder?\nA:"}, "holds a prompt of the eval set"),
        ({"prompt": f"Consider this. {LONG.split(';')[0]} and flows north."}, "13 words of one in a row"),
        ({"prompt": "Something else", "cluster": "paper 7"}, "from a source (cluster) of the eval set"),
        (
            {"prompt": [turn("user", "Book it!"), turn("assistant", "What?"), turn("user", "A table.")]},
            "an earlier turn is in the eval set",
        ),
        ({"prompt": "What is 2 - 3?"}, None),
        ({"prompt": "Please book it for tomorrow"}, None),
        ({"prompt": f"{TASK} is the water of Isen red?"}, None),
        ({"prompt": "What is the home of Trizoster the elder?"}, None),
        ({"prompt": "Something else", "cluster": "paper 8"}, None),
    ],
)
def test_a_row_that_holds_what_the_eval_set_asks_is_dropped_whatever_its_form(
    tmp_path: Path, row: dict[str, Any], why: str | None
) -> None:
    """The wording that several items share is the task, and is no leak."""
    rows = [row | {"completion": "c"}, {"prompt": "kept", "completion": "c"}]
    found = read_training(DataConfig(sft=rows_file(tmp_path, rows)), "sft", None, MEASURED)["sft"]
    (reason,) = found.dropped or [None]
    assert (why in reason) if why and reason else reason is why


def test_a_text_that_quotes_the_eval_set_is_dropped(tmp_path: Path) -> None:
    rows = [{"text": f"An exam. {LONG} Forty."}, {"text": "A story."}]
    found = read_training(DataConfig(sft=rows_file(tmp_path, rows)), "sft", None, MEASURED)["sft"]
    assert [row["text"] for row in found.rows] == ["A story."]


def test_sft_on_pairs_learns_each_chosen_once(tmp_path: Path) -> None:
    pairs = [{"prompt": "p", "chosen": "a", "rejected": r} for r in "bcd"]
    found = read_training(DataConfig(preferences=rows_file(tmp_path, pairs)), "sft", None, ())
    assert [said(row["completion"]) for row in found["sft"].rows] == ["a"]


def test_slices_of_rows_are_read_like_those_of_items(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "slice": s} for s in (None, ["mine", "x"], "mine", "other")]
    found = read_training(DataConfig(sft=rows_file(tmp_path, rows)), "sft", ["mine"], ())["sft"]
    assert found.by_slice == {"": 1, "mine": 2}


def test_a_beginning_token_that_the_tokenizer_does_not_add_is_in_the_training_text() -> None:
    from diagnose.models.hf import HFModel
    from diagnose.records import Prompt

    model = HFModel(ModelConfig(path=str(DEMO / "model"), dtype="float32", device="cpu"))
    model.tokenizer.chat_template = None
    made = for_trl([{"prompt": [turn("user", "Who?")], "completion": turn("assistant", "Me")}], model.tokenizer, None)[
        0
    ]
    assert model.tokenizer(made["prompt"])["input_ids"] == model.encode(Prompt((("user", "Who?"),)))


def test_what_can_be_said_of_an_answer_to_a_row() -> None:
    rule = {"s": Grader("contains", judge=Judge("rule", prefer="^Gladly")), "t": Grader("exact")}
    asked = [turn("user", "q")]

    def scores(slice_: str, *texts: str, **row: Any) -> list[float] | None:
        item = gradable({"slice": slice_, "prompt": asked} | row, rule)  # type: ignore[arg-type]
        return None if item is None else [graded(item, text) for text in texts]

    assert scores("s", "Gladly, another text.", "no", chosen=turn("assistant", "Gladly, a long text.")) == [1.0, 0.0]
    assert scores("s", "Gladly: x", "Gladly: y", chosen=turn("assistant", "Gladly: x"), target="x") == [1.0, 0.0]
    assert scores("t", "free form", "other", chosen=turn("assistant", "free form")) == [1.0, 0.0]
    assert scores("t", "0", "1", target=0) == [1.0, 0.0], "nought is an answer"
    assert scores("t", "Paris", "City of Paris", "Rome", target=["Paris", "City of Paris"]) == [1.0, 1.0, 0.0]
    assert scores("t", "right", "wrong", completion=turn("assistant", "right")) == [1.0, 0.0]
    assert scores("unknown", completion=turn("assistant", "right")) is None
    json_only = {"t": Grader("json")}
    assert gradable({"slice": "t", "prompt": asked, "completion": turn("assistant", "no JSON")}, json_only) is None


def test_rows_of_a_folder_with_splits_are_those_of_the_split(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"prompt": "p", "completion": split}) + "\n")
    with pytest.raises(BadInput, match="has the splits train, test; choose one: data.split=NAME"):
        read_training(DataConfig(sft=str(folder)), "sft", None, ())
    by_split = {
        split: read_training(DataConfig(sft=str(folder), split=split), "sft", None, ())["sft"]
        for split in ("train", "test")
    }
    assert {split: [said(row["completion"]) for row in found.rows] for split, found in by_split.items()} == {
        "train": ["train"],
        "test": ["test"],
    }
    assert by_split["train"].sha256 != by_split["test"].sha256


def test_how_rows_are_read_is_never_ignored(tmp_path: Path) -> None:
    from diagnose.config import check_data
    from train.run import merge_data

    then = DataConfig(sft="then.jsonl")
    settings: dict[str, Any] = {"split": "train", "subset": "x", "columns": {"prompt": "q"}}
    for name, value in settings.items():
        with pytest.raises(BadInput, match=rf"data\.{name}: goes with rows named here too"):
            merge_data(then, DataConfig(**{name: value}))
        assert getattr(merge_data(then, DataConfig(sft="now.jsonl", **{name: value})), name) == value
    assert merge_data(then, DataConfig()).sft == "then.jsonl"
    with pytest.raises(BadInput, match=r"data\.columns\.promt: not a field of a training row; allowed: prompt, "):
        check_data(DataConfig(columns={"promt": "question"}))


def test_no_rows_left_is_bad_input(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [{"prompt": "p", "completion": "c", "slice": "other"}])
    with pytest.raises(BadInput, match="no training rows left for slices mine"):
        read_training(DataConfig(sft=path), "sft", ["mine"], ())


def test_training_text_is_the_text_that_diagnose_asks() -> None:
    from diagnose.models.hf import HFModel
    from diagnose.records import Prompt

    model = HFModel(ModelConfig(path=str(DEMO / "model"), dtype="float32", device="cpu", system_prompt="Be brief."))
    row: Row = {"prompt": [turn("user", "What is the home of Po?")], "completion": turn("assistant", "Oakford")}
    made = for_trl([row], model.tokenizer, "Be brief.")[0]
    text = model.tokenizer.apply_chat_template(made["prompt"], tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == model.encode(Prompt((("user", "What is the home of Po?"),)))


def test_no_prompt_is_on_both_sides_of_the_reward_gate() -> None:
    rows: list[Row] = [
        {"prompt": [turn("user", f"p{i % 20}")], "rejected": turn("assistant", str(i))} for i in range(60)
    ]
    training, held_out = split_by_prompt(rows, 0.15, 0)
    assert {key(r) for r in training} & {key(r) for r in held_out} == set()
    assert len({key(r) for r in held_out}) == 3
    assert len(training) + len(held_out) == 60


# ---------------------------------------------------------------- pairs, personal data


def pair(chosen: str, rejected: str, prompt: str = "x", annotator: str | None = None) -> Row:
    answers: Row = {"chosen": turn("assistant", chosen), "rejected": turn("assistant", rejected)}
    return {"where": "f:1", "prompt": [turn("user", prompt)], "annotator": annotator} | answers


def test_pairs_that_contradict_each_other_are_found_and_agreement_is_counted_once_per_annotator() -> None:
    both = [pair("a", "b"), pair("a", "b"), pair("b", "a"), pair("a", "c"), pair("b", "a", "y")]
    assert len(contradictions(both)) == 3
    assert agreement(both) == (1, 3)
    one = [pair("a", "b", annotator="k"), pair("a", "b", annotator="k"), pair("a", "b", annotator="l")]
    assert agreement(one) == (1, 1)
    assert agreement([pair("a", "b"), pair("a", "c")]) == (0, 0)


@pytest.mark.parametrize(
    ("pairs", "shape"),
    [
        ([("a long answer", "short")] * 40, "longer"),
        ([("short", "a long answer")] * 40, "shorter"),
        ([("- item", "an item")] * 20 + [("- item", "item")] * 20, "with more markup"),
        ([('{"a": 1}', "It is one.")] * 20 + [('{"a": 1}', "1")] * 20, "JSON"),
        ([("ab", "cd")] * 40, None),
        ([("a long answer", "short")] * 20 + [("short", "a long answer")] * 20, None),
        ([("a long answer", "short")] * 3, None),
    ],
)
def test_what_tells_the_chosen_answer_without_reading_it(pairs: list[tuple[str, str]], shape: str | None) -> None:
    found = [name for name, share, _ in giveaways([pair(*both, prompt=str(k)) for k, both in enumerate(pairs)])]
    assert shape in found if shape else not found


CARD, ACCOUNT = "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (f"My card is {CARD}.", ["card number"]),
        ("My card is 4111 1111 1111 1112.", []),
        ("Ticket 1234567890123456, 0000000000000000", []),
        (f"Pay to {ACCOUNT} or GB82WEST12345698765432", ["IBAN", "IBAN"]),
        ("Pay to DE89 3704 0044 0532 0130 01", []),
        ("Write to jane.doe+x@mail.example.org, not to @jane or a@b", ["e-mail address"]),
        ("key sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2", ["key"]),
        ("3.14159265358979 and 2026-11-28 12:00:00", []),
    ],
)
def test_personal_data_is_told_by_its_checksum_or_form(text: str, kinds: list[str]) -> None:
    assert list(found(text)) == kinds
    assert not list(found(masked(text)))


MAIL = called("mail", {"to": ["a.b@corp.com"]})


def test_masking_reaches_every_text_of_a_row_and_leaves_the_rest() -> None:
    row = pair(f"Card {CARD}.", "No card.", "mail a@example.org")
    assert counted([row, pair("a", "b")]) == ({"card number": 1, "e-mail address": 1}, "f:1")
    clean = masked_row(row)
    assert (said(clean["chosen"]), said(clean["rejected"])) == ("Card [card number].", "No card.")
    called_out = {"where": "f:2", "prompt": [turn("user", "x")], "completion": turn("assistant", "", tool_calls=[MAIL])}
    assert counted([called_out])[0] == {"e-mail address": 1}  # type: ignore[list-item]
    assert "@" not in json.dumps(masked_row(called_out))  # type: ignore[arg-type]
    assert clean["prompt"] == [turn("user", "mail [e-mail address]")] and clean["where"] == "f:1"
