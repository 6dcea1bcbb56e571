"""Every method is recommended for the diagnoses that call for it, and every gate closes where it must."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import VALUES, WANTED_TONE, ScriptedModel, planted_rows

from diagnose.advice.observables import _preferred
from diagnose.advice.recommend import _seems_right, preference_priors
from diagnose.config import ProbesConfig, RuleConfig
from diagnose.models.base import Completion, Constraint, Score
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import lost_to_reference
from diagnose.probes.table import Probe, Role
from diagnose.records import Answer, EvalItem, Grader, Judge, Prompt

SCHEMA = {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]}
SAYS_WANTED = {
    "near": 0.15,
    "near_often": 0.4,
    "far_found": 0.15,
    "far_found_often": 0.3,
    "far_hidden": 0.0,
    "far_rare": 0.02,
}


class Willed(ScriptedModel):
    """As planted, and: `stubborn` ignores exemplars, `far…` finds the wanted tone unlikely, `numb` ignores schemas."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        constraints: Sequence[Constraint] | None = None,
    ) -> list[list[Completion]]:
        if constraints is None:
            return super().generate(prompts, keys, n, first, temperature)
        return [[Completion(self._forced(p, form), 3, "stop")] for p, form in zip(prompts, constraints, strict=True)]

    def _forced(self, prompt: Prompt, form: Constraint) -> str:
        row = self.rows[prompt.turns[-1][1]]
        gold = json.loads(row["target"])["value"] if row["target"].startswith("{") else row["target"]
        wrong = next(v for v in VALUES if v != gold)
        said = wrong if "[numb" in row["prompt"] else gold
        return json.dumps({"value": said}) if "schema" in form else said

    def _say(self, prompt: Prompt, rng: random.Random, temperature: float) -> str:
        question = prompt.turns[-1][1].split("\n\n")[-1]
        truth, row = question[1 : question.index("]")], self.rows[question]
        if truth in ("stubborn", "numb"):
            gold = json.loads(row["target"])["value"] if row["target"].startswith("{") else row["target"]
            return f"I believe that it is {gold}."
        if truth in SAYS_WANTED:
            liked = temperature > 0 and rng.random() < SAYS_WANTED[truth]
            gold = row["chosen"].removeprefix(WANTED_TONE)
            return WANTED_TONE + gold if liked else f"{gold}{'!' * rng.randrange(4)}"
        return super()._say(prompt, rng, temperature)

    def _score(self, prompt: Prompt, continuation: str) -> Score:
        text = prompt.turns[-1][1]
        if text in self.rows and text[1 : text.index("]")] in SAYS_WANTED:
            unlikely = continuation.startswith(WANTED_TONE) and "[far" in text
            return Score((-9.0 if unlikely else -2.0) - random.Random(continuation).random(), 1)
        return super()._score(prompt, continuation)


def rows_of(truth: str, n: int = 40, **fields: Any) -> list[dict[str, Any]]:
    """A slice of `n` items of one planted kind, with fields changed or (None) left out."""
    kind = "preference" if truth in SAYS_WANTED else truth
    rows = planted_rows({"slice": [kind] * n})
    for row in rows:
        row["prompt"] = row["prompt"].replace(f"[{kind}]", f"[{truth}]")
        row |= fields
    return [{k: v for k, v in row.items() if v is not None} for row in rows]


def as_json(rows: list[dict[str, Any]], schema: dict[str, Any] | None) -> list[dict[str, Any]]:
    grader = {"kind": "json"} | ({"schema": schema} if schema else {})
    return [
        row
        | {"grader": grader, "target": json.dumps({"value": row["target"]})}
        | {"distractors": [json.dumps({"value": v}) for v in row["distractors"]]}
        for row in rows
    ]


def as_choice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"grader": {"kind": "choice"}, "choices": [row["target"], *row["distractors"]]} for row in rows]


CALLED_FOR: list[tuple[str, str, list[dict[str, Any]]]] = [
    ("none", "right", rows_of("none")),
    ("none", "right and liked", rows_of("liked")),
    ("prompt", "exemplars repair the form", rows_of("format")),
    ("prompt", "exemplars repair the form, no schema, many items", rows_of("format", 80)),
    ("constrained", "exemplars do not help, a schema does", as_json(rows_of("stubborn"), SCHEMA)),
    ("constrained", "exemplars do not help, choices do", as_choice(rows_of("stubborn"))),
    ("retrieval", "absent facts that a context supplies", rows_of("absent")),
    ("retrieval", "latent facts that a context supplies", rows_of("latent")),
    ("collect_data", "a missing skill", rows_of("skill")),
    ("collect_data", "too few items", rows_of("none", 8)),
    ("sft", "a form that neither exemplars nor a schema repair", as_json(rows_of("stubborn"), None)),
    ("sft", "a form where a schema forces wrong content", as_json(rows_of("numb"), SCHEMA)),
    ("dpo", "the wanted tone is within reach", rows_of("near")),
    ("dpo", "the wanted tone is often said", rows_of("near_often")),
    ("sft_dpo", "out of reach and never sampled", rows_of("far_hidden")),
    ("sft_dpo", "out of reach and hardly ever sampled", rows_of("far_rare")),
    ("rlhf", "out of reach, but the best of sixteen is liked", rows_of("far_found")),
    ("rlhf", "out of reach, and found often", rows_of("far_found_often")),
]


@pytest.mark.parametrize(("method", "because", "rows"), CALLED_FOR, ids=[f"{m}: {b}" for m, b, _ in CALLED_FOR])
def test_the_method_that_a_diagnosis_calls_for(
    method: str, because: str, rows: list[dict[str, Any]], diagnose_scripted: Any
) -> None:
    found = diagnose_scripted(rows, model=Willed).recommendations
    assert [r.method for r in found] == [method], found[0].why
    lift = found[0].predicted_lift
    assert lift["low"] <= lift["mean"] <= lift["high"]
    assert method not in found[0].why_not


def test_one_odd_sample_does_not_decide_between_methods(diagnose_scripted: Any) -> None:
    """A mean of variances would let it: the other items' distance vanishes against the one item's spread."""

    class Odd(Willed):
        def _score(self, prompt: Prompt, continuation: str) -> Score:
            score = super()._score(prompt, continuation)
            odd = "slice 5?" in prompt.turns[-1][1] and continuation.endswith("!!")
            return Score(score.logprob - 500, score.tokens) if odd else score

    told = [
        diagnose_scripted(rows_of("far_found"), seed=7 + k, model=kind).recommendations[0]
        for k, kind in enumerate((Willed, Odd))
    ]
    assert [r.method for r in told] == ["rlhf", "rlhf"]
    assert abs(told[0].p_best - told[1].p_best) < 0.1


@pytest.mark.parametrize(
    ("near", "best", "low", "high"),
    [
        ((40.0, 0.0), (40.0, 0.0), 0.74, 0.76),
        ((0.0, 40.0), (40.0, 0.0), 0.44, 0.46),
        ((0.0, 40.0), (0.0, 40.0), 0.29, 0.31),
        ((0.0, 40.0), (0.0, 0.0), 0.64, 0.66),
        ((0.0, 0.0), (40.0, 0.0), 0.64, 0.66),
        ((4.0, 4.0), (40.0, 0.0), 0.55, 0.65),
    ],
    ids=["in reach", "found by sampling", "never liked", "nobody judged", "no pairs", "as likely in reach as not"],
)
def test_what_dpo_is_expected_to_close(
    near: tuple[float, float], best: tuple[float, float], low: float, high: float, rule: RuleConfig
) -> None:
    closed = preference_priors(near, best, rule, 4000, np.random.default_rng(0))["dpo"]
    assert low < closed.mean() < high
    assert (closed.std() > 0.1) == (near[0] == near[1] > 0), "what is not known must not look known"


GATES: list[tuple[str, str, str | None, list[dict[str, Any]]]] = [
    ("constrained", "no schema and no choices", "veto", rows_of("format")),
    ("constrained", "a schema", None, as_json(rows_of("stubborn"), SCHEMA)),
    ("retrieval", "no context", "veto", rows_of("absent", context=None)),
    ("retrieval", "a context", None, rows_of("absent")),
    ("dpo", "no pairs and no judge", "veto", rows_of("none")),
    ("sft_dpo", "no pairs and no judge", "veto", rows_of("none")),
    ("dpo", "a judge", None, rows_of("near")),
    ("reward_model", "no pairs and no judge", "veto", rows_of("none")),
    (
        "reward_model",
        "pairs, but the base is never right",
        "veto",
        rows_of("skill", chosen="value1", rejected="value2", target="value1", distractors=["value5", "value6"]),
    ),
    ("reward_model", "no sample is ever liked", "veto", rows_of("far_hidden")),
    ("reward_model", "something to find: train measures the rest", "pending", rows_of("far_found")),
    (
        "reward_model",
        "nothing grades content, so that nothing says that it is never right",
        "pending",
        rows_of("far_found", target=None, distractors=None, context=None, statement=None),
    ),
]


@pytest.mark.parametrize(("gate", "because", "state", "rows"), GATES, ids=[f"{g}: {b}" for g, b, _, _ in GATES])
def test_every_gate(
    gate: str, because: str, state: str | None, rows: list[dict[str, Any]], diagnose_scripted: Any
) -> None:
    advice = diagnose_scripted(rows, model=Willed).recommendations[0]
    assert advice.gates.get(gate) == state
    if state == "veto":
        vetoed = "rlhf" if gate == "reward_model" else gate
        assert advice.method != vetoed
        assert advice.train_method != vetoed


def test_collecting_data_comes_with_numbers(diagnose_scripted: Any) -> None:
    small = diagnose_scripted(rows_of("none", 8)).recommendations[0]
    assert small.data_needed["items"] == 4
    company = [row | {"slice": "company", "id": f"c-{k}"} for k, row in enumerate(rows_of("absent", 16))]
    advice = diagnose_scripted([*rows_of("skill"), *company], seed=1).recommendations
    skill = next(r for r in advice if "slice" in r.slices)
    assert skill.data_needed["rows"] >= 1000
    assert str(skill.data_needed["rows"]) in skill.why


def test_a_text_that_a_reward_model_cannot_read_is_no_verdict(tmp_path: Path) -> None:
    """It did not fit: neither liked nor disliked, and no end of a diagnosis that is otherwise done."""
    rewards = {
        (Probe.REWARD, 0, Role.CHOSEN): 1.0,
        (Probe.REWARD, 1, Role.OWN): None,
        (Probe.REWARD_BEST_OF_N, 0, Role.OWN): None,
        (Probe.REWARD_BEST_OF_N, 1, Role.OWN): 1.0,
    }
    texts = [
        Answer(probe="best_of_n", item="a", draw=k, prompt="", text="x", strict=True, lenient=True) for k in range(2)
    ]
    scored = [
        Answer(probe=probe, item="a", draw=draw, prompt="", text="x", logprob=value, finish="scored", role=role)
        for (probe, draw, role), value in rewards.items()
    ]
    plain = Answer(probe="plain", item="a", draw=0, prompt="", text="x", strict=True, lenient=True)
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"of": 1} | asdict(a)) + "\n" for a in (plain, *texts, *scored)))
    item = EvalItem(
        id="a", slices=("s",), turns=(("user", "x"),), targets=("x",), where="", chosen="y",
        grader=Grader("exact", judge=Judge("reward_model", path="none")),
    )  # fmt: skip
    log = AnswerLog(path, 0)
    assert _preferred(item, log) == [True], "as well liked as the reference"
    assert lost_to_reference(item, log) is None


@pytest.mark.parametrize(
    ("truth", "left_out", "flips"),
    [
        ("far_found", "margins", "`margins`"),
        ("far_rare", "best_of_n", "`best_of_n`"),
        ("near", "best_of_n", "reward model"),
        ("far_found", None, "reward model"),
    ],
    ids=["no pairs scored", "out of reach, never searched", "in reach: a search changes nothing", "all known"],
)
def test_what_would_flip_a_preference_is_what_was_not_asked(
    truth: str, left_out: str | None, flips: str, diagnose_scripted: Any
) -> None:
    enabled = [p for p in ProbesConfig().enabled if p != left_out]
    assert flips in diagnose_scripted(rows_of(truth), model=Willed, enabled=enabled).recommendations[0].would_flip


def test_what_would_flip_it_is_the_cheapest_evidence(diagnose_scripted: Any) -> None:
    blind = diagnose_scripted(rows_of("absent", distractors=None, statement=None, context=None)).recommendations[0]
    assert "distractors" in blind.would_flip
    closed = diagnose_scripted(rows_of("absent", context=None), seed=1).recommendations[0]
    assert "context" in closed.would_flip
    healthy = diagnose_scripted(rows_of("none"), seed=2).recommendations[0]
    assert "chosen" in healthy.would_flip


def test_a_context_that_was_not_read_promises_no_retrieval(diagnose_scripted: Any) -> None:
    """As of a log of answers: the items have contexts, but nobody could ask with them."""
    unread = ["plain", "few_shot", "samples", "ranked"]
    read, blind = (
        diagnose_scripted(rows_of("skill"), seed=k, **more).recommendations[0].lifts["slice"]["retrieval"]
        for k, more in enumerate(({}, {"enabled": unread}))
    )
    assert read["mean"] < 0.1, "the context was read, and did not help"
    assert blind["low"] < 0.2 and blind["mean"] < 0.6, "half absent, half skill, for all that is known"
    advice = diagnose_scripted(rows_of("skill"), seed=3, enabled=unread).recommendations[0]
    assert "`oracle_context`" in advice.would_flip


def test_what_looks_right_is_trained_along(diagnose_scripted: Any, rule: RuleConfig) -> None:
    few = diagnose_scripted(planted_rows({"right": ["none"] * 20, "shape": ["format"] * 40})).slices
    right = next(v for v in few if v.slice == "right")
    assert right.verdict == "insufficient" and _seems_right(right, rule)
    assert not any(_seems_right(v, rule) for v in few if v.slice != "right")


def test_advice_for_several_slices_counts_all_of_their_items(diagnose_scripted: Any) -> None:
    (merged,) = diagnose_scripted(planted_rows({"a": ["none"] * 8, "b": ["none"] * 10})).recommendations
    assert merged.slices == ["a", "b"] and merged.data_needed["items"] == 4 + 2
    assert "4" not in merged.why + merged.would_flip, "what one slice needs is not what the other needs"


def test_advice_for_several_slices_speaks_of_the_tries_of_all_of_them(diagnose_scripted: Any) -> None:
    rows = planted_rows({"a": ["format"] * 40, "b": ["format"] * 60})
    alone = [
        diagnose_scripted([row for row in rows if row["slice"] == name]).recommendations[0].why for name in ("a", "b")
    ]
    tries = [int(re.search(r"of (\d+) attempts", text)[1]) for text in alone]  # type: ignore[index]
    (merged,) = diagnose_scripted(rows).recommendations
    assert merged.slices == ["a", "b"]
    assert f"of {sum(tries)} attempts" in merged.why


def test_lifts_for_several_slices_are_each_method_s_least(diagnose_scripted: Any) -> None:
    from diagnose.report.words import expected_lifts

    (merged,) = diagnose_scripted(planted_rows({"a": ["format"] * 40, "b": ["format"] * 60})).recommendations
    for method, lift in merged.least_lifts.items():
        assert lift["mean"] == min(of[method]["mean"] for of in merged.lifts.values())
    assert merged.predicted_lift == merged.least_lifts[merged.train_method]
    assert next(expected_lifts(merged)).startswith(f"{merged.method} .")


def test_slices_of_which_one_rules_a_method_out_stand_apart(diagnose_scripted: Any) -> None:
    rows = planted_rows({"a": ["format"] * 40, "b": ["format"] * 40})
    for row in rows:
        if row["slice"] == "a":
            row.pop("context", None)
        else:
            row["context"] = "The value is written here."
    found = diagnose_scripted(rows).recommendations
    assert {tuple(r.slices): r.gates.get("retrieval") for r in found} == {("a",): "veto", ("b",): None}


def renamed(value: Any, truth: str) -> Any:
    """No two slices may share a statement: the scripted model looks facts up by it."""
    return json.loads(json.dumps(value).replace("slice", truth))


def test_adaptive_asks_less_and_says_the_same(diagnose_scripted: Any, tmp_path: Path) -> None:
    rows = [
        {key: value if key == "target" else renamed(value, truth) for key, value in row.items()}
        for truth in ("none", "format", "absent", "skill", "latent", "near")
        for row in rows_of(truth, 64)
    ]
    asked: dict[str, int] = {}
    said = {}
    for seed, budget in enumerate(("full", "adaptive")):
        counted: list[Willed] = []
        diagnosis = diagnose_scripted(
            rows, seed=seed, model=lambda r, kept=counted: kept.append(Willed(r)) or kept[0], budget=budget
        )
        asked[budget] = counted[0].asked
        said[budget] = {v.slice: (v.verdict, v.kind) for v in diagnosis.slices}
    assert said["adaptive"] == said["full"]
    assert asked["adaptive"] < 0.6 * asked["full"], asked
