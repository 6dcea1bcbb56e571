"""Planted gaps are recovered: the truth is in the script of the model, not in any probe."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import planted_rows

from diagnose.config import RuleConfig

PURE = {
    "healthy": ["none"] * 40,
    "misshaped": ["format"] * 40,
    "half_known": ["latent"] * 40,
    "unknown": ["absent"] * 40,
    "unable": ["skill"] * 40,
    "disliked": ["preference"] * 40,
}
EXPECTED = {
    "healthy": ("none", None),
    "misshaped": ("format", None),
    "half_known": ("knowledge", "latent"),
    "unknown": ("knowledge", "absent"),
    "unable": ("knowledge", "skill"),
    "disliked": ("preference", None),
}


@pytest.mark.parametrize("seed", range(3))
def test_every_pure_gap_is_found(diagnose_scripted: Any, seed: int) -> None:
    found = {v.slice: (v.verdict, v.kind) for v in diagnose_scripted(planted_rows(PURE), seed).slices}
    assert found == EXPECTED


def test_a_slice_alone_is_judged_as_in_company(diagnose_scripted: Any) -> None:
    """Templates are pooled over slices; a lone slice must not depend on the others being there."""
    # Alone, contexts that never help do not show a missing skill: the model may not read contexts at all.
    alone = EXPECTED | {"unable": ("knowledge", "unresolved")}
    for name in PURE:
        only = diagnose_scripted(planted_rows({name: PURE[name]})).slices[0]
        assert (only.verdict, only.kind) == alone[name], name


def test_a_mixture_is_called_mixed_and_its_shares_are_found(diagnose_scripted: Any) -> None:
    rows = planted_rows({"both": ["format", "absent"] * 40})
    verdict = diagnose_scripted(rows).slices[0]
    assert verdict.verdict == "mixed"
    for name in ("format", "knowledge_absent"):
        low, high = verdict.interval90[name]
        assert low <= 0.5 <= high


def test_a_small_gap_under_tau_is_no_gap(diagnose_scripted: Any) -> None:
    rows = planted_rows({"nearly": ["absent"] * 3 + ["none"] * 97})
    assert diagnose_scripted(rows).slices[0].verdict == "none"


def test_a_tiny_slice_never_looks_certain(diagnose_scripted: Any) -> None:
    verdict = diagnose_scripted(planted_rows({"tiny": ["none", "absent"]})).slices[0]
    assert verdict.verdict == "insufficient"
    assert verdict.needs_items > 0
    assert verdict.p_verdict < 0.9


def test_a_small_slice_gets_the_verdict_that_its_answers_carry(diagnose_scripted: Any, rule: RuleConfig) -> None:
    """No sooner than at rule.min_items, and only where the posterior is sure."""
    n = rule.min_items
    pure = {name: [truth] * n for name, truth in (("a", "format"), ("b", "absent"), ("c", "skill"))}
    rows = planted_rows(pure | {"d": ["none"] * n, "e": ["format", "absent"] * (n // 2), "f": ["format"] * (n - 1)})
    by = {v.slice: v for v in diagnose_scripted(rows).slices}
    assert [(by[name].verdict, by[name].kind) for name in "abc"] == [
        ("format", None),
        ("knowledge", "absent"),
        ("knowledge", "skill"),
    ]
    assert by["d"].verdict == "insufficient", "so few right answers do not show that less than a tenth fails"
    assert 8 <= by["d"].needs_items <= 24, "28 items suffice"
    assert by["e"].verdict in ("mixed", "insufficient")
    assert (by["f"].verdict, by["f"].needs_items) == ("insufficient", 1)


def test_a_liked_slice_is_no_preference_gap(diagnose_scripted: Any) -> None:
    assert diagnose_scripted(planted_rows({"liked": ["liked"] * 40})).slices[0].verdict == "none"


def test_without_a_context_the_kind_is_unresolved_and_the_report_says_why(diagnose_scripted: Any) -> None:
    rows = [row | {"context": None} for row in planted_rows({"unknown": ["absent"] * 40})]
    verdict = diagnose_scripted(rows).slices[0]
    assert (verdict.verdict, verdict.kind) == ("knowledge", "unresolved")
    assert "context" in verdict.missing
    assert verdict.mixture["knowledge_skill"] is None


def test_without_a_judge_preference_leaves_the_model(diagnose_scripted: Any) -> None:
    verdict = diagnose_scripted(planted_rows({"healthy": ["none"] * 40})).slices[0]
    assert verdict.mixture["preference"] is None
    assert "preference" in verdict.missing


def test_the_verdict_hardly_depends_on_the_mixture_prior(diagnose_scripted: Any, rule: Any) -> None:
    rows, found = planted_rows(PURE), []
    kept = rule.kappa
    for kappa in (0.1, 1.0):
        rule.kappa = kappa
        found.append([(v.verdict, v.kind) for v in diagnose_scripted(rows).slices])
    rule.kappa = kept
    assert found[0] == found[1]


def test_overlapping_slices_are_sums_over_disjoint_cells(diagnose_scripted: Any) -> None:
    rows = planted_rows({"a": ["none"] * 40, "b": ["absent"] * 40})
    rows = [row | {"slice": [row["slice"], "all"]} for row in rows]
    found = {v.slice: v for v in diagnose_scripted(rows).slices}
    gap = {name: 1 - v.mixture["none"] for name, v in found.items()}
    sizes = {name: v.n for name, v in found.items()}
    assert sizes["all"] == sizes["a"] + sizes["b"]
    assert gap["all"] == pytest.approx((gap["a"] * sizes["a"] + gap["b"] * sizes["b"]) / sizes["all"], abs=0.01)


def test_fine_tags_do_not_drown_a_slice_in_prior(diagnose_scripted: Any) -> None:
    rows = planted_rows({"a": ["none"] * 60})
    rows = [row | {"slice": ["all", f"tag{i // 3}"]} for i, row in enumerate(rows)]
    found = {v.slice: v for v in diagnose_scripted(rows).slices}
    assert found["all"].verdict == "none"
    assert found["all"].mixture["none"] > 0.95


def test_clusters_weaken_the_sampling_not_the_reading_of_an_item(diagnose_scripted: Any) -> None:
    for name in ("misshaped", "disliked", "unknown"):
        rows = [row | {"cluster": f"c{i // 5}"} for i, row in enumerate(planted_rows({name: PURE[name]}))]
        only = diagnose_scripted(rows).slices[0]
        assert (only.verdict, only.kind) == EXPECTED[name]


def test_duplicated_entities_count_by_their_effective_number(diagnose_scripted: Any) -> None:
    rows = planted_rows({"doc": ["none", "absent"] * 20})
    spread = diagnose_scripted(rows).slices[0].interval90["none"]
    rows = [row | {"cluster": f"c{i // 20}"} for i, row in enumerate(rows)]
    clustered = diagnose_scripted(rows, seed=1).slices[0].interval90["none"]
    assert clustered[1] - clustered[0] > 1.5 * (spread[1] - spread[0])


def test_the_waterfall_sums_to_one_and_charges_the_right_rung(diagnose_scripted: Any) -> None:
    for v in diagnose_scripted(planted_rows(PURE)).slices:
        assert sum(v.waterfall.values()) == pytest.approx(1.0)
        largest = max(v.waterfall, key=lambda name: v.waterfall[name])
        assert (
            largest
            == {
                "healthy": "strict",
                "disliked": "strict",
                "misshaped": "lenient",
                "half_known": "samples",
                "unknown": "oracle_context",
                "unable": "rest",
            }[v.slice]
        )


def test_pairs_are_ranked_by_the_base_itself(diagnose_scripted: Any) -> None:
    margins = diagnose_scripted(planted_rows(PURE)).controls["margins"]
    assert set(margins) == {"disliked"}
    assert margins["disliked"]["rank_accuracy_n"] == 36
    assert sum(m["rank_accuracy_n"] for m in margins["disliked"]["by_length"].values()) == 36


def test_advice_follows_the_verdict(diagnose_scripted: Any) -> None:
    by_slice = {s: r for r in diagnose_scripted(planted_rows(PURE)).recommendations for s in r.slices}
    assert (by_slice["healthy"].method, by_slice["healthy"].train_method) == ("none", None)
    assert (by_slice["misshaped"].method, by_slice["misshaped"].train_method) == ("prompt", "sft")
    assert (by_slice["unknown"].method, by_slice["unknown"].train_method) == ("retrieval", None)
    assert by_slice["unable"].train_method is None
    assert by_slice["half_known"].train_method in ("sft", "rlvr")
    assert by_slice["disliked"].train_method in ("dpo", "sft_dpo", "rlhf")
    assert "method=sft" in by_slice["misshaped"].command
