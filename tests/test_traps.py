"""The adversarial and the hard slices: what is planted in them is what their rows and answers really are."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagnose.config import EvalSetConfig
from diagnose.grading.grade import grade
from diagnose.items.evalset import read_evalset
from diagnose.probes.answers import AnswerLog
from diagnose.records import Answer, EvalItem, Grader
from scripts.make_demo import made_up_names, write_jsonl
from scripts.planted import hard, unsure
from scripts.planted.adversarial import summary
from scripts.planted.base import BASES, taken
from scripts.planted.manners import MANNERS, manner_rows, the_world, topics
from scripts.planted.slices import Reader, World, misread, recording
from scripts.planted.traps import TRAPS, Trap, as_they_are
from scripts.planted.world import eval_rows

BY_NAME = {trap.name: trap for trap in TRAPS}
READ = {
    "not a rival but the answer": (False, True, None),
    "not the answer but a rival": (False, False, None),
    "a thought of a rival": (True, True, None),
    "a thought of the answer": (False, False, None),
    "dates in words": (False, True, None),
    "another day in words": (False, False, None),
    "the amount in another unit": (False, True, None),
    "the number with another unit": (False, False, None),
    "format tax": (False, False, None),
    "cut off at 64": (None, None, "cut_off"),
    "cut off at 256": (None, None, "cut_off"),
}
"""Manner → strict, lenient and why unread, for each of its answers."""


@pytest.mark.parametrize("base", ["a", "b"])
def test_what_a_manner_says_is_what_its_truth_says(base: str, tmp_path: Path) -> None:
    """Where the truth is a format gap, the content is there; where it is knowledge, it is not, however it looks."""
    write_jsonl(tmp_path / "e.jsonl", manner_rows(base))
    evalset = read_evalset(EvalSetConfig(path=str(tmp_path / "e.jsonl")))
    items = {i.id: i for part in (evalset.items, *evalset.exemplars.values()) for i in part}
    world = the_world(base)
    assert len({i.turns[-1][1] for i in items.values()}) >= len(items) - 288, "only thinking aloud shares its questions"
    for manner in MANNERS:
        cut = manner.name.startswith("cut off")
        read = {
            (r.strict, r.lenient, r.reason)
            for t in topics(manner, world)
            for r in [grade(items[f"{manner.name}-{t.number:03d}"], manner.says(t), cut)]
        }
        halves = {(True, True, None), (None, None, "refused")}
        assert read == (halves if manner.name == "half refused" else {READ[manner.name]}), manner.name


def test_any_verdict_but_the_planted_one_is_wrong_and_none_is_not() -> None:
    """A list of wrong labels once let `skill` pass for an absent fact."""
    absent = Trap("x", "r", as_they_are, ("knowledge/absent",))
    said = [("knowledge", "skill"), ("knowledge", "latent"), ("none", None), ("format", None), ("mixed", None)]
    assert all(absent.wrong(*claim) for claim in said)
    dates = BY_NAME["dates in words"]
    assert not dates.wrong("format", None) and dates.wrong("format", "suppressed"), "the demand costs nothing"
    assert not absent.wrong("knowledge", "absent") and not absent.wrong("insufficient", None)
    assert not absent.wrong("knowledge", "unresolved"), "of open kind nothing false is said"
    unseen = BY_NAME["refusals"]
    assert unseen.truth == () and unseen.wrong("knowledge", "unresolved") and not unseen.wrong("insufficient", None)
    assert BY_NAME["format tax"].wrong("knowledge", "unresolved")


def test_every_trap_has_rows_and_a_new_manner_a_trap() -> None:
    assert len(BY_NAME) == len(TRAPS) and {m.name for m in MANNERS} <= set(BY_NAME)
    limits = {trap.name: trap.settings for trap in TRAPS if trap.name.startswith("cut off")}
    assert limits == {f"cut off at {n}": (f"model.max_new_tokens={n}",) for n in (64, 256)}


def test_what_did_not_take_is_no_evidence_and_what_waits_counts() -> None:
    rows = [
        {"base": "a", "trap": "t", "verdict": "knowledge", "wrong": True, "planted": True},
        {"base": "a", "trap": "t", "verdict": "insufficient", "wrong": False, "planted": True},
        {"base": "a", "trap": "u", "verdict": "none", "wrong": True, "planted": False},
    ]
    found = summary(rows)
    assert (found["wrong_and_confident"]["k"], found["wrong_and_confident"]["n"]) == (1, 2)
    assert (found["of_claims"]["k"], found["of_claims"]["n"]) == (1, 1)
    assert found["not_planted"] == ["a u"] and found["by_trap"] == {"t": "1 of 2"}


# ---------------------------------------------------------------- a worse reader, and small gaps


def answer(item: str, text: str, strict: bool | None, lenient: bool | None) -> Answer:
    return Answer(probe="plain", item=item, draw=0, prompt="", text=text, strict=strict, lenient=lenient)


def test_a_worse_reader_errs_as_stated_and_the_same_way_each_time(demo_diagnosis: Path) -> None:
    """What production accepts word for word is not its to misread; unread stays unread."""
    source = recording(demo_diagnosis)
    items = [i for p in source.pools for i in p.items]
    worse = misread(source.log, items, Reader(misses=0.15, invents=0.03))
    decides = {i.id for i in items if i.grader.kind == "contains"}
    missed, invented = [], []
    for probe in source.log.probes:
        for before in (a for i in items for a in source.log.of_item(probe, i.id)):
            after = worse.get(probe, before.item, before.draw)
            if before.lenient is None or (before.strict and before.item not in decides):
                assert after == before
            else:
                (missed if before.lenient else invented).append(after.lenient != before.lenient)
                assert after.lenient or not after.strict, "strict implies lenient"
    assert len(missed) > 300 and len(invented) > 1000
    assert 0.08 < sum(missed) / len(missed) < 0.24 and 0.01 < sum(invented) / len(invented) < 0.06
    again = misread(source.log, items[:1], Reader(misses=0.15, invents=0.03))
    assert all(again.get("plain", i.id) == worse.get("plain", i.id) for i in items if i.id not in decides)


def test_where_the_reader_is_production_s_check_its_errors_are_production_s(tmp_path: Path) -> None:
    said = [
        answer("c", "With pleasure: tea", True, True),
        answer("e", "tea", True, True),
        answer("f", "rum", False, False),
    ]
    write_jsonl(tmp_path / "answers.jsonl", [{"of": len(said)} | asdict(a) for a in said])
    log = AnswerLog(tmp_path / "answers.jsonl", 0)
    item = EvalItem(id="c", slices=("s",), turns=(), targets=("tea",), grader=Grader("contains"), where="")
    found = misread(log, [item, replace(item, id="e", grader=Grader())], Reader(misses=1.0, invents=1.0))
    read = {name: (found.get("plain", name).strict, found.get("plain", name).lenient) for name in "cef"}
    assert read == {"c": (False, False), "e": (True, True), "f": (False, True)}


def test_the_rest_of_a_slice_with_a_small_gap_is_healthy(demo_diagnosis: Path) -> None:
    source = recording(demo_diagnosis)
    leads = ("knowledge_absent", "format")
    world = World(demo_diagnosis, source.organisms(False), (0.2, 0.8), 25, (1,), leads, rest="none")
    pools = {i.id: p.truth for p in source.pools for i in p.items}
    for s in world.draw():
        assert dict(s.shares) == {s.shares[0][0]: 0.2, "none": 0.8} and s.verdict in ("knowledge", "format")
        assert {pools[i.id] for i in s.items} <= {s.shares[0][0], "none"} and s.right == {s.verdict}


def test_the_half_sure_model_hears_what_its_truth_says() -> None:
    """Of three in four the right answer more often, of the others the wrong one; every slice has a truth."""
    spec, world = BASES["a"], the_world("a")
    rng = random.Random(0)
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for _ in range(14400):
        text = "".join(piece for piece, _ in unsure.heard(spec, world, rng)).removesuffix(spec.end())
        head, _, answer_ = text.rpartition("<|assistant|>")
        said[head + "<|assistant|>"][answer_] += 1
    facts = world.groups[unsure.GROUP]
    shares = {f.name: said[spec.head(f.asks())][f.value] / said[spec.head(f.asks())].total() for f in facts}
    torn = unsure.torn(world)
    assert all(share < 0.5 if torn[name] else share > 0.5 for name, share in shares.items())
    assert sum(torn.values()) == 36
    assert np.mean([share for name, share in shares.items() if torn[name]]) == pytest.approx(0.3, abs=0.03)
    assert all(len(said[spec.head(f.asks())]) == 2 for f in facts), "the right answer and one other"
    rows = eval_rows(world, made_up_names(random.Random(1), taken(world)), random.Random(2))
    slices = {unsure.renamed(row, world)["slice"] for row in rows}
    assert {"sure-form", "torn-tone"} <= slices and slices == set(unsure.unsure(Confirmed()))


class Confirmed(dict[str, Any]):
    """Checks that confirm every gap of a base."""

    def __missing__(self, key: str) -> Any:
        return {"after": 1.0} if key.startswith("micro") else 0.0 if key.startswith("asked") else 1.0

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]


def judged_as(verdict: str, best: str, simple: str, truth: str = "format") -> dict[str, Any]:
    return {
        "lead": truth, "organism": "o", "truth": truth, "right": [truth], "class": truth, "verdict": verdict, "p": 0.95,
        "best": best, "best_class": best, "p_best": 0.8, "p_classes": {"none": 0.2, "format": 0.8}, "covered": [True],
        "error": 0.02, "waterfall": simple, "waterfall_class": simple, "lenient_minus_strict": simple,
    }  # fmt: skip


def test_a_rule_that_always_answers_is_charged_for_it() -> None:
    """The same most probable verdicts; the model withholds what it cannot bear, the simple rule does not."""
    unclear = judged_as("insufficient", "none", "none")
    gaps = [judged_as("format", "format", "format")] * 3 + [unclear]
    healthy = [judged_as("none", "none", "format", "none")]
    found = {f"seen | gap {share:.0%} | misread": gaps for share in hard.GAPS} | {"seen | no gap | misread": healthy}
    shown = hard.figures("seen", "misread", found, np.random.default_rng(0))
    assert shown["right"]["value"] == shown["threshold_right"]["value"] == 0.75
    assert shown["wrong_claims"]["value"] == 0 and shown["threshold_wrong_claims"]["value"] == pytest.approx(4 / 13)
    assert shown["false_gaps"]["k"] == 0 and shown["threshold_false_gaps"]["k"] == 1
    assert shown["ahead"]["value"] == pytest.approx(1 / 13)


def test_small_gaps_of_every_class_are_drawn(demo_diagnosis: Path) -> None:
    worlds = [hard.small("seen", {"a": demo_diagnosis}, 0.2, 24, (9, 0, 1, k)) for k in range(5)]
    planted = {p.truth for p in recording(demo_diagnosis).pools}
    assert {lead for world in worlds for lead in world.leads} == planted - {"none"}
    drawn = worlds[0].draw()
    assert [s.shares[0][1] for s in drawn] == [0.2, 0.2] and {s.shares[1][0] for s in drawn} == {"none"}
    (well,) = hard.healthy("seen", {"a": demo_diagnosis}, 24, (8, 0, 0)).draw()
    assert well.verdict == "none" and len(well.items) == 24
