"""Training on the base's own right answers: what is taught is never measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import run_verb

from diagnose.errors import BadInput
from diagnose.records import EvalItem, Grader, Judge
from train.bootstrap import own_rows, taught


def item(name: str, cluster: str | None = None, **fields: Any) -> EvalItem:
    given: dict[str, Any] = {"targets": ("a",), "grader": Grader("contains"), "cluster": cluster, "where": ""} | fields
    return EvalItem(id=name, slices=("s",), turns=(("user", f"ask {name}"),), **given)


def test_half_of_the_sources_are_taught_and_whole_clusters_are_on_one_side() -> None:
    items = [item(f"{k}", cluster=f"doc {k % 10}") for k in range(60)] + [item(f"lone {k}") for k in range(10)]
    chosen = taught(items, 0)
    sides = {i.cluster: i.id in chosen for i in items if i.cluster}
    assert all(sides[i.cluster] == (i.id in chosen) for i in items if i.cluster)
    assert len({i.cluster or i.id for i in items if i.id in chosen}) == 10
    assert chosen == taught(list(reversed(items)), 0) != taught(items, 1)


def test_rows_are_right_few_shot_answers_and_pairs_of_right_and_wrong_samples(tmp_path: Path) -> None:
    rule = Grader("contains", judge=Judge("rule", prefer="^Gladly"))
    items = [item("p", grader=rule), item("q", grader=rule), item("r", grader=rule)]
    said = [
        ("p", "few_shot", "Gladly, a", True),
        ("p", "few_shot", "Gladly, again a", True),
        ("q", "few_shot", "a", True),
        ("r", "few_shot", "b", False),
        ("p", "samples", "b", False),
        ("p", "samples", "Gladly, a", True),
        ("q", "plain", "a", True),
        ("q", "best_of_n", "Gladly, a", True),
        ("r", "samples", "Gladly, a", True),
        ("r", "samples", "?", None),
        ("other", "few_shot", "Gladly, a", True),
    ]
    lines = [json.dumps({"item": i, "probe": p, "text": t, "strict": s}) for i, p, t, s in said]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))
    rows = own_rows(str(tmp_path), items)
    assert [(row["prompt"][0]["content"], row["completion"]) for row, _ in rows["sft"]] == [("ask p", "Gladly, a")]
    pairs = {row["id"]: (row["chosen"], row["rejected"]) for row, _ in rows["preferences"]}
    assert pairs == {"p": ("Gladly, a", "b"), "q": ("Gladly, a", "a")}
    with pytest.raises(BadInput, match=r"contains no answers.jsonl"):
        own_rows(str(tmp_path / "none"), items)


def test_what_was_taught_is_in_no_row_of_the_comparison(demo_diagnosis: Path) -> None:
    out = demo_diagnosis.parent / "bootstrapped"
    short = ["method=sft", "data.bootstrap=true", "data.slices=[stone_json]", "method.args.max_steps=30"]
    done = run_verb("train", f"diagnosis={demo_diagnosis}", *short, f"out={out}", "wandb.mode=disabled")
    assert done.returncode == 0, done.stderr[-2000:]
    run = json.loads((out / "run.json").read_text())
    asked = {s["slice"]: s["n"] for s in json.loads((demo_diagnosis / "diagnosis.json").read_text())["slices"]}
    assert 0 < run["data"]["sft"]["rows"]["stone_json"] <= asked["stone_json"] // 2 + 10
    assert len(run["excluded_items"]) == sum(asked.values()) // 2
    done = run_verb(
        "eval", f"diagnosis={demo_diagnosis}", f"runs={out}", f"out={out}_eval", "arms=[]", "wandb.mode=disabled"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = json.loads((Path(f"{out}_eval") / "comparison.json").read_text())["runs"]
    taught_ids = set(run["excluded_items"])
    compared = {s["slice"]: s for s in found["slices"]}
    left = {name: n - sum(i.startswith(f"{name}-") for i in taught_ids) for name, n in asked.items()}
    assert {name: s["n"] for name, s in compared.items()} == left
    assert not taught_ids & set(compared["stone_json"]["fixed"])
    assert compared["stone_json"]["after"] > compared["stone_json"]["before"]


def test_own_rows_and_those_of_a_file_are_not_mixed(demo_diagnosis: Path) -> None:
    both = ["data.bootstrap=true", "data.sft=tests/data/demo/sft.jsonl"]
    done = run_verb("train", f"diagnosis={demo_diagnosis}", "method=sft", *both)
    assert done.returncode == 2 and "data.bootstrap: makes rows of the diagnosis's own answers" in done.stderr
