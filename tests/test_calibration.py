"""What is fitted on models of known gaps, what it changes, and what stays unsaid because the data do not bear it."""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, WANTED_TONE, ScriptedModel, planted_rows
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from diagnose.config import EvalSetConfig, ProbesConfig, RuleConfig
from diagnose.errors import BadInput
from diagnose.items.evalset import EvalSet, read_evalset
from diagnose.models.base import Completion, Score
from diagnose.models.weights import fingerprint_of
from diagnose.probes.answers import AnswerLog
from diagnose.probes.judge import judgements
from diagnose.probes.oracle_contexts import oracles
from diagnose.probes.prompts import plain
from diagnose.records import CLASSES, EvalItem, Grader, Judge
from diagnose.verdict.calibration import FITTED, calibrated, read_calibration, version_for
from diagnose.verdict.controls import agreement
from diagnose.verdict.decide import decide
from diagnose.verdict.mixture import attribute
from scripts.make_demo import made_up_names, write_jsonl
from scripts.planted import fit, scores
from scripts.planted.base import chat_or_statement, took
from scripts.planted.slices import Planted, World, judged, recording
from scripts.planted.table import FULL, Job, work
from scripts.planted.world import Corpus, eval_rows, make_world, truth

# ---------------------------------------------------------------- the file


def written(folder: Path, rule: RuleConfig, **changes: Any) -> str:
    values = {name: asdict(rule)[name] for name in FITTED}
    found = {"version": "mine-1", "models": ["5eed"], "fitted_on": {}} | values | changes
    (folder / "mine.json").write_text(json.dumps(found))
    return str(folder / "mine.json")


def test_a_calibration_replaces_what_was_fitted_and_nothing_else(tmp_path: Path, rule: RuleConfig) -> None:
    path = written(tmp_path, rule, strength=20.0, effective=0.5)
    found = calibrated(replace(rule, calibration=path))
    assert found == replace(rule, calibration=path, strength=20.0, effective=0.5)
    assert calibrated(replace(rule, calibration=None)) == replace(rule, calibration=None)


def test_it_is_claimed_for_the_model_that_was_fitted_and_no_other(tmp_path: Path, rule: RuleConfig) -> None:
    own = replace(rule, calibration=written(tmp_path, rule))
    assert version_for(own, "5eed") == "mine-1"
    assert version_for(own, "llama") == version_for(own, None) == "none"
    assert version_for(replace(own, calibration=None), "5eed") == "none"


def test_the_fit_names_the_model_of_a_run(demo_diagnosis: Path, tmp_path: Path, rule: RuleConfig) -> None:
    name = fit.fingerprint(demo_diagnosis)
    assert name and re.fullmatch("[0-9a-f]{16}", name)
    assert version_for(replace(rule, calibration=written(tmp_path, rule, models=[name])), name) == "mine-1"


def test_other_weights_an_adapter_or_a_template_make_another_model() -> None:
    """All of them are a `llama`; the same weights on another device or from other files are the same model."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape))
    asked = {"chat_template": None, "tokenizer": "x"}
    known = fingerprint_of(network, asked)
    assert fingerprint_of(copy.deepcopy(network), asked) == known
    assert fingerprint_of(network, asked | {"chat_template": "### {{ m }}"}) != known
    assert fingerprint_of(copy.deepcopy(network).bfloat16(), asked) != known
    tuned = copy.deepcopy(network)
    with torch.no_grad():
        tuned.model.embed_tokens.weight[3, 3] += 1e-3
    adapted = get_peft_model(copy.deepcopy(network), LoraConfig(r=1, target_modules=["q_proj"]))
    assert len({known, fingerprint_of(tuned, asked), fingerprint_of(adapted, asked)}) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no calibration"),
        ("[1]", "no calibration"),
        ('{"version": "x"}', "no calibration"),
        ('{"version": "x", "unknown": 1}', "no calibration"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str, says: str, rule: RuleConfig) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(BadInput, match=says):
        read_calibration(str(tmp_path / "c.json"), rule)
    with pytest.raises(BadInput, match="No such file"):
        read_calibration(str(tmp_path / "other.json"), rule)


@pytest.mark.parametrize("changes", [{"effective": 0.0}, {"strength": -1.0}, {"templates": {"plain": {"mood": 1}}}])
def test_values_out_of_range_are_refused(tmp_path: Path, rule: RuleConfig, changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="out of range"):
        read_calibration(written(tmp_path, rule, **changes), rule)


def test_every_shipped_calibration_is_readable_and_speaks_of_every_rung(rule: RuleConfig) -> None:
    for path in (ROOT / "conf" / "calibration").glob("planted-*.json"):
        found = read_calibration(str(path), rule)
        assert found.version == path.stem and all(re.fullmatch("[0-9a-f]{16}", name) for name in found.models)
        assert set(found.templates) == set(rule.templates)


# ---------------------------------------------------------------- what its values do


def draws_of(share: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """400 draws of a slice with a format gap of this share."""
    gap = rng.beta(share * n + 0.5, (1 - share) * n + 0.5, 400)
    draws = np.zeros((400, len(CLASSES)))
    draws[:, 0], draws[:, 1] = 1 - gap, gap
    return draws


def test_no_draws_are_certainty(rule: RuleConfig) -> None:
    p = decide(draws_of(0.9, 40, np.random.default_rng(0)), 40, (), rule)[3]
    assert 0.99 < p["format"] < 1.0
    assert sum(v for name, v in p.items() if name != "mixed") == pytest.approx(1.0)


def test_doubted_gold_is_neither_a_gap_nor_its_absence(rule: RuleConfig) -> None:
    healthy = draws_of(0.01, 60, np.random.default_rng(0))
    assert decide(healthy, 60, (), rule)[0] == "none"
    assert decide(healthy, 60, (), rule, unsure=0.2)[0] == "insufficient", "a fifth of the items could be a gap"
    ill = draws_of(0.6, 60, np.random.default_rng(0))
    assert decide(ill, 60, (), rule, unsure=0.2)[0] == "format", "the rest has a gap whatever they are"


# ---------------------------------------------------------------- what the data do not bear


def test_gold_that_contradicts_what_the_model_and_the_context_say_is_doubted(diagnose_scripted: Any) -> None:
    rows = planted_rows({"known": ["none"] * 40})
    wrong = [row for k, row in enumerate(rows) if k % 8 == 0]
    said = {row["prompt"]: row["target"] for row in rows}

    class Keeps(ScriptedModel):
        """Answers with what was true before the gold was changed."""

        def _say(self, prompt: Any, rng: Any, temperature: float) -> str:
            return said[prompt.turns[-1][1].split("\n\n")[-1]]

    for row in wrong:
        row["target"], row["distractors"][0] = row["distractors"][0], row["target"]
    found = diagnose_scripted(rows, model=Keeps).slices[0]
    kept = {row["id"] for row in wrong} & set(found.suspect)
    assert set(found.suspect) == kept and len(kept) >= len(wrong) - 2, "all but those that serve as exemplars"
    assert found.verdict in ("none", "insufficient")
    assert found.strict.n == found.n == 36, "doubted or not, this is what production would see"


def test_an_answer_that_must_be_derived_is_not_doubted_for_not_standing_in_its_context(diagnose_scripted: Any) -> None:
    rows = planted_rows({"counted": ["absent"] * 40})
    for row in rows:
        row["context"] = f"On {row['prompt'].split()[-1]} Fridays out of ten they came, and once more: value19."
        row |= {"target": "eleven", "distractors": ["nine", "ten", "twelve"]}

    class Says(ScriptedModel):
        def _say(self, prompt: Any, rng: Any, temperature: float) -> str:
            return "value19"

    found = diagnose_scripted(rows, model=Says).slices[0]
    assert not found.suspect and found.verdict == "knowledge"


def test_a_model_that_believes_wrong_things_is_not_excused(diagnose_scripted: Any) -> None:
    """Self-consistent wrong answers in a slice that it does not know are its own, not the gold's."""
    found = diagnose_scripted(planted_rows({"unknown": ["absent"] * 40})).slices[0]
    assert not found.suspect and found.verdict == "knowledge"


class CutOff(ScriptedModel):
    """Comes to its answer too late: every plain answer ends at the limit of its length."""

    def generate(self, *args: Any, **more: Any) -> list[list[Completion]]:
        return [[replace(c, text="Since you ask, and as far as", finish="length") for c in row]
                for row in super().generate(*args, **more)]  # fmt: skip


def test_answers_that_were_cut_off_are_no_missing_knowledge(diagnose_scripted: Any) -> None:
    found = diagnose_scripted(planted_rows({"known": ["none"] * 40}), model=CutOff).slices[0]
    assert found.verdict == "insufficient" and found.needs_items == 0, "more items would be cut off as well"
    assert found.unread == {"cut_off": 36} and (found.strict.n, found.lenient.n) == (0, 0)
    assert "max_new_tokens" in str(found.remedy)


def annotated(labels: list[str]) -> EvalItem:
    pairs = tuple((f"a{k}", label) for k, label in enumerate(labels))
    return EvalItem(id="i", slices=("s",), turns=(), targets=(), grader=Grader(), where="", annotations=pairs)


def test_alpha_is_as_published() -> None:
    """The example of Krippendorff (2011), Computing Krippendorff's alpha-reliability, section C: nominal alpha .743."""
    a = [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None]
    b = [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3]
    c = [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None]
    d = [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None]
    items = []
    for unit in zip(a, b, c, d, strict=True):
        pairs = tuple((f"a{k}", str(v)) for k, v in enumerate(unit) if v is not None)
        items.append(replace(annotated([]), annotations=pairs))
    assert agreement(items)["alpha"] == pytest.approx(0.743, abs=0.001)
    assert agreement([annotated([])]) == {} and agreement([annotated(["x", "y"])])["alpha"] is None


@pytest.mark.parametrize(("contested", "verdict"), [(True, "none"), (False, "preference")])
def test_a_taste_on_which_people_disagree_is_no_gap(diagnose_scripted: Any, contested: bool, verdict: str) -> None:
    rows = planted_rows({"disliked": ["preference"] * 40})
    for k, row in enumerate(rows):
        labels = [k % 2, k // 2 % 2, k // 4 % 2] if contested else [k % 2] * 3
        row["annotations"] = [{"annotator": f"a{j}", "label": f"l{label}"} for j, label in enumerate(labels)]
    found = diagnose_scripted(rows).slices[0]
    assert ("agreement" in found.missing) == contested and found.verdict == verdict


# ---------------------------------------------------------------- slices drawn from a recording


def test_worlds_hold_what_they_say(demo_diagnosis: Path) -> None:
    source = recording(demo_diagnosis)
    leads = tuple(c for c in CLASSES if c not in ("format_suppressed", "preference"))
    world = World(demo_diagnosis, source.organisms(False), (0.7, 0.3), 20, (1,), leads)
    slices = world.draw()
    asked = [i.turns for s in slices for i in s.items]
    assert len(asked) == len(set(asked)), "no question stands in two slices"
    assert slices == world.draw() and slices != replace(world, seed=(2,)).draw()
    assert {s.shares[0][0] for s in slices} == set(leads), "every class leads once"
    pools = {p.organism: {i.id for i in p.items} for p in source.pools}
    for s in slices:
        assert len(s.items) == 20 and s.mixture.sum() == pytest.approx(1.0) and s.mixture.max() == 0.7
        lead = s.organism.split("/")[1]
        assert 7 <= sum(i.id in pools[lead] for i in s.items) <= 20
    with pytest.raises(BadInput, match="items needed"):
        replace(world, size=200).draw()


def test_what_is_right_about_a_mixture() -> None:
    def planted(**shares: float) -> Planted:
        return Planted("s", "o", (), tuple(shares.items()))

    assert planted(none=1).right == {"none"} and planted(none=1).verdict == "none"
    assert planted(none=0.7, format=0.3).right == {"format"}
    assert planted(format=0.5, preference=0.5).right == {"format", "preference", "mixed"}
    assert planted(format=0.8, preference=0.2).right == {"format"}
    both = planted(knowledge_latent=0.5, knowledge_absent=0.5)
    assert both.right == {"knowledge"} and both.kind is None
    assert planted(knowledge_latent=0.5, none=0.5).kind == "latent"


def test_pure_slices_of_the_demo_are_judged_rightly_and_without_a_probe_less_is_said(
    demo_diagnosis: Path, rule: RuleConfig
) -> None:
    source = recording(demo_diagnosis)
    world = World(demo_diagnosis, source.organisms(False), (1.0,), 40, (0,))
    found = judged(world.draw(), source.log, rule, 0)
    assert {s["best"] == s["truth"] for s in found} == {True}
    blind = work(Job(world, replace(FULL, name="blind", without="oracle_context"), replace(rule, calibration=None)))
    kinds = {s["kind"]: s["said_kind"] for s in blind if s["truth"] == "knowledge"}
    assert kinds["absent"] == "unresolved" and all("context" in s["missing"] for s in blind)


def test_stopping_asks_less_and_comes_to_the_same(demo_diagnosis: Path, rule: RuleConfig) -> None:
    world = World(demo_diagnosis, recording(demo_diagnosis).organisms(False), (1.0,), 56, (3,))
    found = work(Job(world, FULL, replace(rule, calibration=None), stopped=True))
    assert all(s["best"] in s["right"] for s in found)
    assert sum(s["n"] for s in found) < 56 * len(found)


def test_templates_move_towards_what_was_seen(demo_diagnosis: Path, rule: RuleConfig) -> None:
    found = fit.templates([recording(demo_diagnosis)], rule)
    before, after = rule.templates["preference_judged"]["preference"], found["preference_judged"]["preference"]
    assert before < after <= 0.98, "the demo's tone is never the one that is liked"
    assert found["samples"]["none"] == rule.templates["samples"]["none"], "nothing lost, nothing sampled: as believed"
    assert all(fit.LEAST <= v <= fit.MOST for v in found["plain"]["format"])


def test_a_beta_binomial_is_found_again() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.2 * 2, 0.8 * 2, 4000)
    mean, size = fit.beta_binomial(np.stack([rng.binomial(8, p), np.full(4000, 8)], 1).astype(float))
    assert mean == pytest.approx(0.2, abs=0.02) and size == pytest.approx(2.0, rel=0.15)
    assert np.isnan(fit.beta_binomial(np.zeros((100, 2)))).all(), "nothing sampled, nothing known"


def test_the_null_of_perfect_calibration_is_kept_by_it() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.5, 1, 400)
    mean, limit = scores.ece_null(list(stated), rng, draws=200)
    calibrated_one = [(float(p), bool(rng.random() < p)) for p in stated]
    boastful = [(float(p), bool(rng.random() < p - 0.3)) for p in stated]
    assert scores.ece(calibrated_one) <= limit < scores.ece(boastful) and 0 < mean < limit


# ---------------------------------------------------------------- kinds that nothing shows


def kind_of(found: Any) -> tuple[str, str | None]:
    return found.verdict, found.kind


def test_contexts_about_something_else_do_not_show_missing_skill(diagnose_scripted: Any) -> None:
    rows = planted_rows({"unknown": ["absent"] * 40})
    contexts = [row["context"] for row in rows]
    for row, context in zip(rows, contexts[7:] + contexts[:7], strict=True):
        row["context"] = context
    found = diagnose_scripted(rows).slices[0]
    assert kind_of(found) == ("knowledge", "unresolved") and "context" in found.missing
    assert not [e for e in found.evidence if e["probe"] == "oracle_context"], "nobody was asked with them"


def test_a_context_from_which_the_answer_must_be_derived_is_one() -> None:
    items = []
    for k in range(20):
        whose = k if k < 10 else k + 50
        turns = (("user", f"How old is Ann{k} in years?"),)
        context = f"Ann{whose} is as old as two twins of four, and one more."
        grader = Grader("exact")
        items.append(
            EvalItem(id=str(k), slices=("s",), turns=turns, targets=("9",), grader=grader, where="", context=context)
        )
    assert set(oracles(items)) == {str(k) for k in range(10)}, "who is asked about stands in it, or somebody else"


class Locked(ScriptedModel):
    """Says the same to everything, and yet ranks the ends of statements rightly."""

    said = "It is what people here have always called it"

    def _say(self, prompt: Any, rng: Any, temperature: float) -> str:
        return self.said


class Refuses(Locked):
    said = "I am not able to say"


def test_refusals_are_no_missing_knowledge(diagnose_scripted: Any) -> None:
    found = diagnose_scripted(planted_rows({"locked": ["latent"] * 40}), model=Refuses).slices[0]
    assert found.verdict == "insufficient" and found.unread == {"refused": 36}
    assert "system_prompt" in str(found.remedy)


def test_what_no_kind_explains_gets_no_verdict(diagnose_scripted: Any) -> None:
    found = diagnose_scripted(planted_rows({"locked": ["latent"] * 40}), model=Locked).slices[0]
    assert kind_of(found) == ("insufficient", None) and "misfit" in found.missing
    assert not found.needs_items, "more of the same would not help"
    assert not found.p_classes and found.p_verdict == 0, "a probability that supposes one of the kinds says nothing"


def test_a_list_that_names_the_answer_tells_nothing_of_what_was_read() -> None:
    from diagnose.probes.answers import AnswerLog
    from diagnose.records import Answer
    from diagnose.verdict.evidence import with_context

    item = EvalItem(id="i", slices=("s",), turns=(("user", "q"),), targets=("Paris",), grader=Grader(), where="f:1")
    log = AnswerLog.__new__(AnswerLog)
    said = {
        "Paris": True,
        "Rome, Paris or Lima": False,
        "It is not Paris but Rome.": False,
        "Rome": False,
        "": None,
    }
    answers = [
        Answer(probe="oracle_context", item="i", draw=k, prompt="", text=text, strict=right, lenient=right)
        for k, (text, right) in enumerate(said.items())
    ]
    log.of_item = lambda probe, item, role=None: answers  # type: ignore[method-assign]
    assert with_context(item, log) == [True, None, None, False, None]


class Leans(ScriptedModel):
    """Derives nothing, but ranks two wanted ends of statements in three first, as a skill with a good guess does."""

    def _score(self, prompt: Any, continuation: str) -> Score:
        score = super()._score(prompt, continuation)
        row = self.by_statement.get(prompt.turns[-1][1]) if prompt.raw else None
        guessed = row is not None and continuation.strip() == row["target"] and int(row["id"].split("-")[1]) % 3
        return Score(-1.0, score.tokens) if guessed else score


def test_slices_that_no_kind_explains_are_fixed_first(diagnose_scripted: Any) -> None:
    advice = diagnose_scripted(planted_rows({"locked": ["latent"] * 40}), model=Locked).recommendations[0]
    assert "prompt format" in advice.would_flip
    assert advice.method != "collect_data" or (
        "fix what is named above" in advice.command and not advice.data_needed["rows"]
    )


@pytest.mark.parametrize("n", [20, 28])
def test_a_small_slice_may_be_odd_by_chance(n: int, diagnose_scripted: Any) -> None:
    rows = planted_rows({"skill": ["skill"] * n, "unknown": ["absent"] * 16})
    found = {v.slice: v for v in diagnose_scripted(rows, model=Leans).slices}["skill"]
    assert kind_of(found) == ("knowledge", "skill"), found.missing


def test_contexts_that_help_nowhere_show_no_missing_skill(diagnose_scripted: Any) -> None:
    """A model that ignores what it is given fails with every context, whatever it could do with them."""
    alone = diagnose_scripted(planted_rows({"skill": ["skill"] * 40})).slices[0]
    assert kind_of(alone) == ("knowledge", "unresolved") and "reading" in alone.missing
    shares = [alone.mixture[f"knowledge_{kind}"] for kind in ("absent", "skill")]
    assert shares == pytest.approx([0.5, 0.5], abs=0.1), "the data say nothing of which it is"
    both = diagnose_scripted(planted_rows({"skill": ["skill"] * 40, "unknown": ["absent"] * 16})).slices
    assert {v.slice: (v.kind, "reading" in v.missing) for v in both} == {
        "skill": ("skill", False),
        "unknown": ("absent", False),
    }


class LikesLength(ScriptedModel):
    """A reward model for which longer is better."""

    def logprob(self, prompts: Any, continuations: Any) -> list[Score]:
        return [Score(float(len(text)), 1) for text in continuations]


@pytest.mark.parametrize(("turned", "heard"), [(2, False), (100, True)])
def test_a_judge_of_length_is_not_heard_where_pairs_can_show_it(
    tmp_path: Path, rule: RuleConfig, turned: int, heard: bool
) -> None:
    """Chosen is now the longer, now the shorter; where it always is the longer nobody can tell, and it counts."""
    rows = planted_rows({"liked": ["none"] * 40})
    items = []
    for k, row in enumerate(rows):
        pair = [WANTED_TONE + row["target"], row["target"]][:: -1 if k % turned == 1 else 1]
        grader = Grader("contains", judge=Judge("reward_model", path="none"))
        items.append(
            EvalItem(id=row["id"], slices=("liked",), turns=(("user", row["prompt"]),), targets=(row["target"],),
                     grader=grader, where="", chosen=pair[0], rejected=pair[1])
        )  # fmt: skip
    log = AnswerLog(tmp_path / "answers.jsonl", 0)
    log.ask(ScriptedModel(rows), [plain(i) for i in items])
    log.ask(LikesLength(rows), [a for i in items for a in judgements(i, log)])
    found = attribute(EvalSet(items, {}, ""), log, ProbesConfig(), rule, np.random.default_rng(0))
    assert ("judge" not in found.missing["liked"]) == heard


# ---------------------------------------------------------------- the planted world


def test_every_planted_item_is_a_valid_row_and_its_slice_has_a_truth(tmp_path: Path) -> None:
    rng = random.Random(1)
    names = made_up_names(rng)
    world = make_world(names, rng)
    rows = eval_rows(world, names, rng)
    write_jsonl(tmp_path / "evalset.jsonl", rows)
    found = read_evalset(EvalSetConfig(path=str(tmp_path / "evalset.jsonl")))
    assert {row["slice"] for row in rows} == set(truth()) == set(found.slices)
    known = {name: (row["verdict"], row["kind"], row["held_out"]) for name, row in truth().items()}
    assert known["latent_locked-tone"] == ("knowledge", "latent", True)
    assert {held for _, _, held in known.values()} == {True, False}
    corpus = Corpus(world, names, rng, chat_or_statement)
    told = set(re.findall(r"\w+", " ".join(text for _ in range(3000) for text, _ in corpus.document())))
    absent = {f.name for recipe in ("absent_values", "absent_never") for f in world.groups[recipe]}
    assert not absent & told, "absent facts stand nowhere in the corpus"
    assert world.groups["latent_wording"][0].name in told


def test_a_planting_that_did_not_take_is_no_witness() -> None:
    row = {"verdict": "knowledge", "kind": "latent", "organism": "latent_rare"}
    stored = {"asked latent_rare": 0.12, "stated latent_rare": 0.95, "context latent_rare": 0.9}
    stored |= {"micro latent_rare": {"after": 0.2}}
    assert took(row, stored) and not took(row, stored | {"stated latent_rare": 0.33})
    assert not took(row, stored | {"asked latent_rare": 0.6}) and not took(row, stored | {"context latent_rare": 0.5})
    behind_a_key = row | {"organism": "latent_locked"}
    opened = {key.replace("latent_rare", "latent_locked"): value for key, value in stored.items()}
    assert not took(behind_a_key, opened) and took(behind_a_key, opened | {"micro latent_locked": {"after": 0.96}})
    healthy = {"verdict": "none", "kind": None, "organism": "x"}
    assert took(healthy, {"known x": 1.0, "micro x": {"after": 1.0}})
    assert not took(healthy, {"known x": 0.8, "micro x": {"after": 1.0}})
    shape = {"verdict": "format", "kind": None, "organism": "x"}
    assert not took(shape, {"known x": 1.0, "micro x": {"after": 0.3}}), "some training on form would have opened it"
    absent = {"verdict": "knowledge", "kind": "absent", "organism": "x"}
    unknown = {"asked x": 0.0, "context x": 0.9}
    assert took(absent, unknown | {"micro x": {"after": 0.1}})
    assert not took(absent, unknown | {"micro x": {"after": 0.9}}), "what 64 others open was there"


def test_a_mixed_verdict_is_scored_as_what_was_said() -> None:
    said = {"best": "format", "p_best": 0.6, "verdict": "mixed", "p": 0.97, "right": ["knowledge", "mixed"]}
    assert scores.stated(said) == (0.97, True)
    assert scores.stated(said | {"verdict": "insufficient"}) == (0.6, False)


def test_a_calibration_needs_two_slices_of_each_class(demo_diagnosis: Path) -> None:
    command = [sys.executable, "-m", "scripts.planted.fit", str(demo_diagnosis), "--version", "x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "two slices or more of each class" in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run([*command[:3], str(ROOT), "--version", "x"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "contains no diagnosis.json" in done.stderr


def test_more_items_are_not_asked_for_where_the_gold_is_the_trouble(diagnose_scripted: Any) -> None:
    rows = planted_rows({"known": ["none"] * 60})
    said = {row["prompt"]: row["target"] for row in rows}

    class Keeps(ScriptedModel):
        def _say(self, prompt: Any, rng: Any, temperature: float) -> str:
            return said[prompt.turns[-1][1].split("\n\n")[-1]]

    for row in rows[::6]:
        row["target"], row["distractors"][0] = row["distractors"][0], row["target"]
    found = diagnose_scripted(rows, model=Keeps)
    assert found.slices[0].verdict == "insufficient" and found.slices[0].needs_items == 0
    (advice,) = found.recommendations
    assert f"the reference answers of {len(found.slices[0].suspect)} items look wrong" in advice.why
    assert "review and fix" in advice.would_flip
