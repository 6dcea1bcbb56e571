"""Content that only the demand for a format costs is a gap of format, and nothing is called so that was not tried."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import VALUES, ScriptedModel, planted_rows

from diagnose.config import EvalSetConfig, ProbesConfig, RuleConfig
from diagnose.errors import BadInput
from diagnose.items.demand import removed
from diagnose.items.evalset import hints, read_evalset
from diagnose.models.base import Score
from diagnose.probes.answers import AnswerLog
from diagnose.probes.prompts import IN_PLAIN_WORDS, free
from diagnose.probes.table import Probe
from diagnose.records import CLASSES, EvalItem, Grader, Prompt
from diagnose.report.html import render_markdown, render_report
from diagnose.verdict.calibration import calibrated, read_calibration
from scripts.planted.slices import shipped_rule
from train.config import read_diagnosis

DEMAND = 'Answer in JSON: {"value": "..."}'
WITHOUT_FREE = [p for p in ProbesConfig().enabled if p != Probe.FREE]
MEANING = "the content is there in plain words, and lost when the format is demanded"


class Taxed(ScriptedModel):
    """As the bracket says: `taxed` knows in plain words and errs in JSON, `taught` errs there without examples only,
    `lost` even with the context and between options;
    `evasive` answers in plain words until examples or a schema enforce JSON, and then errs.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(rows)
        self.facts = {without(row["prompt"]): row for row in rows}

    def _say(self, prompt: Prompt, rng: random.Random, temperature: float) -> str:
        *before, question = prompt.turns[-1][1].split("\n\n")
        row = self.facts[without(question)]
        truth, gold = question[1 : question.index("]")], json.loads(row["target"])["value"]
        shown = any(role == "assistant" for role, _ in prompt.turns)
        plain = DEMAND not in question or IN_PLAIN_WORDS in before or (truth == "evasive" and not shown)
        known = truth == "none" or (truth != "absent" and (plain or (truth == "taught" and shown)))
        known = known or (any(gold in text for text in before) and (plain or truth != "lost"))
        said = gold if known else rng.choice([v for v in VALUES if v != gold])
        return f"I think that it is {said}." if plain else json.dumps({"value": said})

    def _score(self, prompt: Prompt, continuation: str) -> Score:
        found = super()._score(prompt, continuation)
        asked = prompt.turns[-1][1]
        lost = "[lost]" in self.by_statement.get(asked, {"prompt": asked})["prompt"]
        return Score(-random.Random(f"{asked}|{continuation}").random(), 1) if lost else found


def without(prompt: str) -> str:
    return prompt.replace(DEMAND, "").strip()


def rows_of(*truths: str, **fields: Any) -> list[dict[str, Any]]:
    """A slice of items that demand JSON, each with its planted truth."""
    rows = planted_rows({"slice": ["format"] * len(truths)})
    for row, truth in zip(rows, truths, strict=True):
        row["prompt"] = row["prompt"].replace("[format]", f"[{truth}]") + f" {DEMAND}"
        row |= fields
    return rows


def with_free_prompts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"free_prompt": without(row["prompt"])} for row in rows]


# ---------------------------------------------------------------- the verdict


@pytest.mark.parametrize("twin", ["plain words", "format_demand", "free_prompt"])
@pytest.mark.parametrize(("truth", "n"), [("taxed", 20), ("taxed", 60), ("lost", 20), ("lost", 60)])
def test_what_is_known_in_plain_words_and_lost_in_json_is_format(
    twin: str, truth: str, n: int, diagnose_scripted: Any
) -> None:
    """However much of it is lost: with some models the demand costs what a context says, and the right option, too."""
    rows = rows_of(*[truth] * n)
    rows = with_free_prompts(rows) if twin == "free_prompt" else rows
    demand = r"Answer in JSON.*" if twin == "format_demand" else None
    found = diagnose_scripted(rows, model=Taxed, demand=demand).slices[0]
    assert (found.verdict, found.kind) == ("format", "suppressed") and found.p_verdict >= 0.9
    assert found.p_classes["knowledge"] < 0.05
    assert "misfit" not in found.missing
    assert found.waterfall["free"] > 0.9 and found.without_demand.k == found.without_demand.n == found.n


@pytest.mark.parametrize("twin", ["plain words", "format_demand", "free_prompt"])
def test_what_is_known_in_neither_is_knowledge(twin: str, diagnose_scripted: Any) -> None:
    rows = rows_of(*["absent"] * 40)
    rows = with_free_prompts(rows) if twin == "free_prompt" else rows
    found = diagnose_scripted(rows, model=Taxed, demand=DEMAND if twin == "format_demand" else None).slices[0]
    assert (found.verdict, found.kind) == ("knowledge", "absent") and found.p_verdict >= 0.9
    assert found.mixture["format_suppressed"] < 0.05 and found.without_demand.k == 0


def test_without_the_probe_the_class_has_no_mass_and_the_report_says_what_is_missing(diagnose_scripted: Any) -> None:
    found = diagnose_scripted(rows_of(*["taxed"] * 40), model=Taxed, enabled=WITHOUT_FREE).slices[0]
    assert found.mixture["format_suppressed"] is None and found.without_demand is None
    assert "free" in found.missing and found.kind != "suppressed"


def test_an_item_that_was_not_asked_without_the_demand_is_not_called_suppressed(
    diagnose_scripted: Any, tmp_path: Path
) -> None:
    """Neither one that is right, nor one whose grader demands no format, though another of its slice is asked."""
    kinds = ["none", "absent"] * 20
    found = diagnose_scripted(planted_rows({"s": kinds})).slices[0]
    assert found.mixture["format_suppressed"] is None and "free" not in found.missing
    found = diagnose_scripted(rows_of(*["none", "taxed"] * 20), seed=1, model=Taxed).slices[0]
    asked = AnswerLog(tmp_path / "answers_1.jsonl", 1).of(Probe.FREE)
    right = [a for name, (a,) in AnswerLog(tmp_path / "answers_1.jsonl", 1).of(Probe.PLAIN).items() if a.lenient]
    assert len(asked) == found.strict.n - found.strict.k > 0 and not asked.keys() & {a.item for a in right}
    assert found.mixture["format_suppressed"] == pytest.approx(len(asked) / found.n, abs=0.1)


def test_a_model_that_loses_most_of_what_it_knows_is_called_by_that(diagnose_scripted: Any) -> None:
    """80 % known in plain words, 15 % in JSON: what a reader of the answers would call it."""
    found = diagnose_scripted(rows_of(*["none"] * 9, *["taxed"] * 39, *["absent"] * 12), model=Taxed).slices[0]
    assert (found.verdict, found.kind) == ("format", "suppressed")
    low, high = found.interval90["format_suppressed"]
    assert low < 39 / 60 < high


def test_a_demand_that_costs_the_content_only_where_it_is_enforced_is_no_missing_knowledge(
    diagnose_scripted: Any,
) -> None:
    found = diagnose_scripted(rows_of(*["evasive"] * 15, *["taxed"] * 25), model=Taxed).slices[0]
    assert found.verdict == "format" and found.p_classes["knowledge"] < 0.05
    assert found.lenient.k > 0 and found.without_demand.n == found.n - found.lenient.k


def test_half_lost_to_the_demand_and_half_unknown_is_mixed(diagnose_scripted: Any) -> None:
    found = diagnose_scripted(rows_of(*["taxed", "absent"] * 40), model=Taxed).slices[0]
    assert found.verdict == "mixed"
    for name in ("format_suppressed", "knowledge_absent"):
        assert found.interval90[name][0] < 0.5 < found.interval90[name][1]


def test_a_wrong_format_is_not_called_suppressed(diagnose_scripted: Any) -> None:
    found = diagnose_scripted(planted_rows({"s": ["format"] * 40})).slices[0]
    assert (found.verdict, found.kind) == ("format", None)


# ---------------------------------------------------------------- the advice


def test_the_advice_is_to_ask_twice_or_to_show_examples_where_they_help(diagnose_scripted: Any) -> None:
    schema = {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]}
    forced = {"grader": {"kind": "json", "schema": schema}}
    deaf, taught = (
        diagnose_scripted(rows_of(*[truth] * 40, **forced), seed=k, model=Taxed).recommendations[0]
        for k, truth in enumerate(("taxed", "taught"))
    )
    assert (deaf.method, taught.method) == ("sft", "prompt")
    for advice in (deaf, taught):
        assert advice.why.startswith(MEANING) and "ask twice: first in plain words, then reformat" in advice.why
        assert advice.train_method == "sft" and "twice" in advice.would_flip
    assert "without the format demand 36 of 36 answers whose content was missing are right" in deaf.why
    assert "few-shot examples fix 0 of 72 attempts" in deaf.why
    assert "few-shot examples fix 72 of 72 attempts" in taught.why
    assert "constrained decoding fixes 0 of 36" in deaf.why
    assert deaf.lifts["slice"]["constrained"]["high"] < 0.3, "the schema was forced, and the content stayed wrong"


def test_the_reports_name_it_in_a_sentence(diagnose_scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from diagnose.report.console import show_diagnosis

    found = diagnose_scripted(rows_of(*["taxed"] * 40), model=Taxed)
    run = found.run | {"config": {"model": {"path": "m"}, "evalset": {"path": "e"}}, "device": "cpu"}
    found = replace(found, run=run | {"command": ["diagnose.py"], "versions": {}})
    show_diagnosis(found, "report.html")
    printed = " ".join(capsys.readouterr().out.split())
    for text in (printed, render_report(found), render_markdown(found)):
        assert "format · suppressed" in text and MEANING in text
    assert "right without the format demand" in render_report(found)


# ---------------------------------------------------------------- the twin prompt


def item(kind: Any = "json", prompt: str = "Capital of Peru? Answer in JSON.", **fields: Any) -> EvalItem:
    target = '{"value": "Lima"}' if kind == "json" else "Lima"
    given: dict[str, Any] = {"id": "a", "slices": ("s",), "turns": (("user", prompt),), "where": "set.jsonl:1"}
    return EvalItem(**given | {"targets": (target,), "grader": Grader(kind)} | fields)


TWINS: list[tuple[str, EvalItem, str | None, list[str] | None]] = [
    ("the row's own", item(free_prompt="Capital of Peru?"), "in JSON", ["Capital of Peru?"]),
    ("a sentence", item(), "Answer in JSON.", ["Capital of Peru?"]),
    ("a pattern", item(), r"Answer .*", ["Capital of Peru?"]),
    ("a sentence that is no pattern", item(prompt="(JSON?* Peru?"), "(JSON?*", ["Peru?"]),
    ("nothing found: plain words", item(), "as XML", [f"{IN_PLAIN_WORDS}\n\nCapital of Peru? Answer in JSON."]),
    ("nothing said: plain words", item(), None, [f"{IN_PLAIN_WORDS}\n\nCapital of Peru? Answer in JSON."]),
    ("nothing but the demand", item("exact", prompt="Answer in JSON."), "Answer in JSON.", None),
    ("no format wanted", item("exact"), None, None),
    ("no format wanted, but demanded", item("exact"), "Answer in JSON.", ["Capital of Peru?"]),
    ("no target, so nothing to find in plain words", item(targets=()), "Answer in JSON.", None),
    (
        "in the system turn",
        item(turns=(("system", "Be brief. Answer in JSON."), ("user", "Capital of Peru?"))),
        r"Answer in JSON\.",
        ["Be brief.", "Capital of Peru?"],
    ),
    (
        "all of the system turn",
        item(turns=(("system", "Answer in JSON."), ("user", "Capital of Peru?"))),
        "Answer in JSON.",
        ["Capital of Peru?"],
    ),
    (
        "of both turns, and not of an earlier user's",
        item(turns=(("system", "In JSON!"), ("user", "In JSON!"), ("assistant", "Why?"), ("user", "Peru? In JSON!"))),
        "In JSON!",
        ["In JSON!", "Why?", "Peru?"],
    ),
]


@pytest.mark.parametrize(("one", "demand", "texts"), [t[1:] for t in TWINS], ids=[t[0] for t in TWINS])
def test_the_twin_of_a_prompt(one: EvalItem, demand: str | None, texts: list[str] | None) -> None:
    asked = free(one, demand)
    assert [text for a in asked for _, text in a.prompt.turns] == (texts or [])
    assert all(a.graded == one and a.temperature == 0.0 for a in asked)


@pytest.mark.parametrize(
    ("demand", "text", "left"),
    [
        ("In JSON.", "Peru? In JSON. Thanks.", "Peru? Thanks."),
        ("In JSON.", "In JSON. Peru?", "Peru?"),
        ("In JSON.", "Peru?\nIn JSON.\nThanks.", "Peru?\n\nThanks."),
        ("In JSON.", "In JSON. Peru? In JSON.", "Peru?"),
        ("x*", "Peru?  two  blanks", "Peru?  two  blanks"),
        (r"[Ii]n (JSON|XML)\.", "Peru? in XML.", "Peru?"),
        (None, "Peru?", "Peru?"),
    ],
)
def test_what_is_left_of_a_text(demand: str | None, text: str, left: str) -> None:
    assert removed(demand, text) == left


# ---------------------------------------------------------------- the eval set


def read(tmp_path: Path, demand: str | None, *rows: dict[str, Any]) -> Any:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps({"prompt": "Peru? In JSON.", "target": "Lima"} | row) + "\n" for row in rows))
    return read_evalset(EvalSetConfig(path=str(path), format_demand=demand))


@pytest.mark.parametrize(
    ("demand", "rows", "says"),
    [
        ("(JSON", [{}, {}], "set.jsonl:1: evalset.format_demand '(JSON': not an RE2 pattern: missing )"),
        ("In JSON.(", [{"prompt": "In JSON.( Peru?"}, {}], "set.jsonl:2: evalset.format_demand"),
        ("as XML", [{}], "evalset.format_demand 'as XML': in no prompt"),
        ("Peru. In JSON.", [{}], "in no prompt, or nothing else is"),
        ("  ", [{}], "evalset.format_demand: is empty"),
        (None, [{"free_prompt": " "}], "set.jsonl:1: free_prompt is empty"),
        (None, [{"free_prompt": 3}], "set.jsonl:1: free_prompt is a int; expected text"),
    ],
)
def test_a_demand_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, demand: str | None, rows: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises(BadInput) as caught:
        read(tmp_path, demand, *rows)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_demand_changes_the_identity_of_a_set_and_free_prompt_is_a_known_field(tmp_path: Path) -> None:
    plain, marked = read(tmp_path, None, {}), read(tmp_path, "In JSON.", {})
    assert plain.sha256 != marked.sha256 and marked.format_demand == "In JSON."
    found = read(tmp_path, None, {"free_prompt": "Peru?"})
    assert found.items[0].free_prompt == "Peru?" and hints(found) == []
    (hint,) = hints(read(tmp_path, None, {"free_promt": "Peru?"}))
    assert "did you mean free_prompt?" in hint


# ---------------------------------------------------------------- older files


def test_an_older_calibration_is_completed_by_the_rule(tmp_path: Path) -> None:
    rule = shipped_rule()
    older = json.loads(Path(str(rule.calibration)).read_text())
    del older["templates"]["free"], older["templates"]["plain"]["format_suppressed"]
    (tmp_path / "c.json").write_text(json.dumps(older))
    found = calibrated(replace(rule, calibration=str(tmp_path / "c.json")))
    assert found.templates["plain"]["none"] == older["templates"]["plain"]["none"]
    assert found.templates["plain"]["format_suppressed"] == rule.templates["plain"]["format_suppressed"]
    assert found.templates["free"] == rule.templates["free"]
    assert all(set(rates) == set(CLASSES) for p, rates in found.templates.items() if p != Probe.PREFERENCE_JUDGED)
    older["templates"]["plain"]["mood"] = [0.5, 0.5]
    (tmp_path / "c.json").write_text(json.dumps(older))
    with pytest.raises(BadInput, match="unknown probe or class"):
        read_calibration(str(tmp_path / "c.json"), rule)


def test_a_diagnosis_of_an_older_version_is_read(diagnose_scripted: Any, tmp_path: Path, rule: RuleConfig) -> None:
    found = json.loads(diagnose_scripted(planted_rows({"s": ["format"] * 30})).to_json())
    for v in found["slices"]:
        del v["mixture"]["format_suppressed"], v["without_demand"]
    (tmp_path / "diagnosis.json").write_text(json.dumps(found))
    assert read_diagnosis(str(tmp_path)).slices[0].without_demand is None
