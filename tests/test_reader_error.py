"""What the reader gets wrong is part of the posterior: it widens shares, lowers P, and gives way to people's labels."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ScriptedModel

from diagnose.config import DiagnoseConfig, EvalSetConfig, ModelConfig, RuleConfig, WandbConfig
from diagnose.errors import BadInput
from diagnose.grading.grader import parse_grader
from diagnose.probes.table import COUNT, LEVELS, WINS, Probe
from diagnose.records import CLASSES, Diagnosis, EvalItem, Prompt
from diagnose.run import run
from diagnose.verdict.audit import AT_RANDOM, FIELDS
from diagnose.verdict.evidence import Evidence
from diagnose.verdict.gibbs import gibbs
from diagnose.verdict.likelihood import Reader
from diagnose.verdict.reader_error import Prior, Readings, asked_for, read_prior, reader_error
from scripts.reader.fit import moments

PRIOR = Prior((12.0, 2.0), (1.0, 20.0))
N = 120


def share(seen: Readings, prior: Prior = PRIOR) -> tuple[float, float]:
    error = reader_error([prior] * N, seen, 4000, np.random.default_rng(0))
    assert error is not None
    low, high = np.quantile(error.share, [0.05, 0.95])
    return float(low), float(high)


def test_answers_read_as_wrong_for_want_of_better_may_be_right() -> None:
    low, high = share(Readings(0, 60, 60))
    assert low < 0.55 and high > 0.6, "half is read; a seventh of what is right is not seen"
    low, high = share(Readings(0, 60, 0, 60))
    assert high < 0.6, "wrong answers that are recognised as another answer are wrong"


def test_nothing_right_stays_nothing_right() -> None:
    """The unseen is a share of what is there: without anything seen there is next to nothing unseen."""
    assert share(Readings(0, 0, N))[1] < 0.1


def test_labels_outweigh_the_prior() -> None:
    before = share(Readings(0, 60, 60))
    all_missed = share(Readings(0, 60, 60, labels=(10, 0, 10, 0)))
    none_missed = share(Readings(0, 60, 60, labels=(10, 0, 0, 10)))
    assert all_missed[0] > before[1] - 0.1 and all_missed[0] > 0.75
    assert none_missed[1] < before[1] and none_missed[1] - none_missed[0] < before[1] - before[0]


def plain_alone(strict: int, n: int) -> Evidence:
    """Plain answers that pass strictly or are read as wrong; no gap but format and absent facts can be meant."""
    levels = np.zeros((n, 2))
    levels[:strict] = 1
    possible = np.isin(CLASSES, ["none", "format", "knowledge_absent"])
    return Evidence(
        levels={p: levels if p is Probe.PLAIN else np.full((n, 2), np.nan) for p in LEVELS},
        wins={p: np.full(n, np.nan) for p in WINS},
        counts={p: np.zeros((n, 2)) for p in COUNT},
        floors={p: np.zeros(n) for p in (*LEVELS, *WINS, *COUNT)},
        format_floors={},
        allowed=np.tile(possible, (n, 1)),
        weights=np.ones(n),
        cells=np.zeros(n, int),
        cell_prior=np.ones(1),
        home=np.ones((1, 1)),
    )


def test_the_mixture_follows_each_draw_of_the_readers_error(rule: RuleConfig) -> None:
    """Of 80 failures that look wrong more are right than wrong with a probability that the reader's error alone gives;
    sampling that lags behind the reader claims FORMAT where that is open."""
    n, strict = 400, 320
    prior = read_prior(rule.reader_error or "").graders["exact"]["other"]
    sampled, exact = [], []
    for seed in range(2):
        error = reader_error([prior] * n, Readings(strict, 0, n - strict), 1000, np.random.default_rng(seed))
        assert error is not None
        no = np.zeros(n, bool)
        draws = (each[:, None] for each in (error.sensitivity, error.invented, error.apart))
        reader = Reader(np.zeros(n, int), *draws, apart=no, labelled=no, missed=no)
        gamma, _ = gibbs(plain_alone(strict, n), rule, np.random.default_rng(seed), reader)
        hidden, missing = (gamma[:, 0, CLASSES.index(name)] for name in ("format", "knowledge_absent"))
        sampled.append((hidden > missing).mean())
        exact.append((error.share * (1 - error.sensitivity) > 1 - error.share).mean())
    assert 0.7 < np.mean(exact) < 0.85, "the question is open"
    assert np.mean(sampled) == pytest.approx(np.mean(exact), abs=0.08)


def test_a_grader_of_one_reading_has_no_reader_error(rule: RuleConfig) -> None:
    prior = read_prior(rule.reader_error or "")

    def of(grader: dict[str, Any], **more: Any) -> Prior | None:
        item = EvalItem(id="x", slices=("s",), turns=(("user", "Who wrote it?"),), targets=("Ada",),
                        grader=parse_grader(grader, "f:1"), where="f:1", **more)  # fmt: skip
        return prior.of(item)

    assert of({"kind": "contains"}) is None
    assert of({"kind": "regex", "pattern": "A", "lenient": "a"}) is None, "the user said what content is"
    assert of({"kind": "exact"}) == of({"kind": "regex", "pattern": "Ada"}) == prior.graders["exact"]["who"]
    assert of({"kind": "json"}) == prior.unmeasured
    assert prior.of(replace_kind("exact"), by_model=True) == prior.unmeasured, "nobody measured that model"


def replace_kind(kind: str) -> EvalItem:
    return EvalItem(id="x", slices=("s",), turns=(("user", "Who?"),), targets=("A",),
                    grader=parse_grader({"kind": kind}, "f:1"), where="f:1")  # fmt: skip


@pytest.mark.parametrize(
    ("question", "what"),
    [("Who wrote it, and when?", "who"), ("In which year?", "other"), ("HOW MANY?", "how many"), ("2+2", "other")],
)
def test_the_first_question_word_says_what_is_asked_for(question: str, what: str) -> None:
    assert asked_for(question) == what


def test_moments_see_through_chance() -> None:
    """Groups that differ no more than chance give the heaviest prior allowed; groups that differ give a light one."""
    rng = np.random.default_rng(0)
    alike = [(int(rng.binomial(1000, 0.8)), 1000) for _ in range(20)]
    unlike = [(int(1000 * p), 1000) for p in (0.55, 0.65, 0.75, 0.85, 0.95)]
    assert sum(moments(alike)) > sum(moments(unlike))
    assert moments([(10, 10), (20, 20)])[1] > 0, "a rate of 1 is not certain"


# ---------------------------------------------------------------- from a log to a verdict

PLACES = [f"{a}{b}" for a in ("Alder", "Birch", "Cedar", "Dorn", "Elm", "Fern", "Gorse", "Heath", "Iris", "Juniper")
          for b in ("ford", "ham", "ton", "mouth", "bury", "dale", "wick", "stead", "field", "brook")]  # fmt: skip
Run = Callable[..., Diagnosis]


@pytest.fixture
def diagnose(tmp_path: Path, rule: RuleConfig) -> Run:
    """Diagnose a log in which `seen` of 100 answers are read as right content, and the others as wrong."""

    def start(
        seen: int, prior: str | None = rule.reader_error, audit: str | None = None, form: str = "It stands in {}."
    ) -> Diagnosis:
        rows = [
            {"id": f"q{k}", "slice": "homes", "prompt": f"Where is bridge {k}?", "target": place}
            for k, place in enumerate(PLACES)
        ]
        said = [
            {"id": row["id"], "text": form.format(row["target"]) if k < seen else "By the old mill, I believe."}
            for k, row in enumerate(rows)
        ]
        for name, lines in (("set.jsonl", rows), ("log.jsonl", said)):
            (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = DiagnoseConfig(
            model=ModelConfig(kind="recorded", path=str(tmp_path / "log.jsonl")),
            evalset=EvalSetConfig(path=str(tmp_path / "set.jsonl"), audit=audit),
            rule=replace(rule, reader_error=prior),
            wandb=WandbConfig(mode="disabled"),
            out=str(tmp_path / f"out{seen}"),
        )
        return run(config)

    return start


def fill(path: Path, label: Callable[[dict[str, str]], str]) -> None:
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    with path.open("w", newline="") as handle:
        out = csv.DictWriter(handle, FIELDS)
        out.writeheader()
        out.writerows(row | {"label": label(row)} for row in rows)


def test_a_verdict_that_turns_on_the_reader_is_not_claimed_until_people_have_looked(
    diagnose: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (believed,) = diagnose(80, prior=None, form="{}").slices
    assert believed.verdict == "knowledge" and believed.p_verdict > 0.9 and believed.content is None
    (doubted,) = diagnose(80, form="{}").slices
    assert doubted.verdict == "insufficient" and doubted.p_classes["knowledge"] < 0.9
    assert doubted.label > 10 and doubted.needs_items == 0, "labels help, more items would not"
    assert doubted.content and doubted.content.low is not None and doubted.content.high is not None
    assert doubted.content.low < 0.85 and doubted.content.high > 0.95
    assert f"label {doubted.label} answers" in " ".join(capsys.readouterr().out.split())
    audit = tmp_path / "out80" / "audit.csv"
    fill(audit, lambda row: "wrong")
    (labelled,) = diagnose(80, audit=str(audit), form="{}").slices
    assert labelled.verdict == "knowledge", "what looked wrong is wrong"
    kept = list(csv.DictReader(audit.open(newline="")))
    assert all(row["label"] for row in kept), "the labels are still there"
    fill(audit, lambda row: "right")
    (missed,) = diagnose(80, audit=str(audit), form="{}").slices
    assert missed.verdict == "format" and missed.content and missed.content.k / missed.content.n > 0.95


def test_an_unmistakable_gap_is_claimed_all_the_same(diagnose: Run) -> None:
    (nothing,) = diagnose(0).slices
    assert nothing.verdict == "knowledge" and nothing.p_verdict > 0.9 and nothing.label == 0
    assert nothing.kind == "unresolved", "neither ranked nor sampled"
    latent, absent = (nothing.mixture[f"knowledge_{kind}"] for kind in ("latent", "absent"))
    assert latent and absent and min(latent, absent) > 0.25, "nothing told them apart"
    (everything,) = diagnose(96).slices
    assert everything.verdict == "format" and everything.p_verdict > 0.9


def test_the_audit_file_has_a_random_part_and_runs_no_formula(diagnose: Run, tmp_path: Path) -> None:
    diagnose(58)
    rows = list(csv.DictReader((tmp_path / "out58" / "audit.csv").open(newline="")))
    drawn = [row for row in rows if row["picked"] == AT_RANDOM]
    assert len(drawn) == 20 and {row["read_as"] for row in drawn} == {"right content", "wrong"}
    assert len(rows) > len(drawn) and len({row["item"] for row in rows}) == len(rows)
    from diagnose.verdict.audit import _inert, _plain_text

    assert all(_inert(text).startswith("'") and _plain_text(_inert(text)) == text for text in ("=1+1", "@x", "-2"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": "yes"}, r"audit\.csv:\d+: label 'yes'; allowed: right, wrong, cannot tell"),
        ({"label": "right", "answer_sha": "0" * 16}, r"audit\.csv:\d+: item 'q\d+' has another answer"),
        ({"label": "right", "item": "nobody"}, r"item 'nobody' has another answer"),
    ],
)
def test_a_label_that_is_none_or_of_another_answer_is_refused(
    diagnose: Run, tmp_path: Path, change: dict[str, str], says: str
) -> None:
    diagnose(58)
    audit = tmp_path / "out58" / "audit.csv"
    rows = list(csv.DictReader(audit.open(newline="")))
    with audit.open("w", newline="") as handle:
        out = csv.DictWriter(handle, FIELDS)
        out.writeheader()
        out.writerows([rows[0] | change, *rows[1:]])
    with pytest.raises(BadInput, match=says):
        diagnose(58, audit=str(audit))


@pytest.mark.parametrize("text", ["{}", "[1]", '{"version": "x", "fitted_on": {}, "graders": {}, "unmeasured": 3}'])
def test_a_broken_prior_is_said_before_anything_is_asked(diagnose: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "prior.json").write_text(text)
    with pytest.raises(BadInput, match="rule.reader_error=.*not a file of"):
        diagnose(58, prior=str(tmp_path / "prior.json"))
    assert not (tmp_path / "out58").exists()


# ---------------------------------------------------------------- prompts that ask for nothing


class Mumbles(ScriptedModel):
    """Continues a bare text; with examples before it, does what they do."""

    def _say(self, prompt: Prompt, rng: random.Random, temperature: float) -> str:
        question = prompt.turns[-1][1].split("\n\n")[-1]
        shown = any(role == "assistant" for role, _ in prompt.turns)
        return str(self.rows[question]["target"]) if shown else "And then we went home."


class Misnames(Mumbles):
    """Understands what is wanted, and gets it wrong."""

    def _say(self, prompt: Prompt, rng: random.Random, temperature: float) -> str:
        said = super()._say(prompt, rng, temperature)
        return "play" if said.startswith("And") else said


@pytest.mark.parametrize(("model", "kind"), [(Mumbles, "unstated"), (Misnames, None)])
def test_a_prompt_that_does_not_say_what_is_wanted_is_named(
    diagnose_scripted: Any, model: type[ScriptedModel], kind: str | None
) -> None:
    rows = [
        {"id": f"c{k}", "slice": "commands", "prompt": f"[format] {verb} number {k}", "target": intent}
        for k in range(40)
        for verb, intent in [(("put on", "play"), ("weather at", "forecast"), ("seats at", "book"))[k % 3]]
    ]
    found = diagnose_scripted(rows, model=model, enabled=["few_shot"])
    (v,) = found.slices
    (advice,) = found.recommendations
    assert (v.kind == "unstated") == (kind == "unstated")
    if kind:
        assert v.verdict == "format" and v.p_verdict > 0.9 and "task" in v.missing
        assert advice.method == "prompt" and "no training with" not in advice.why
        assert "does not say what is wanted" in advice.why
