"""PlantedGap without a model: known mixtures are found, and the scores are as by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.planted.simulate import SETTINGS, Setting, ece, judged_world, macro_f1, mixture, scores

PURE = SETTINGS[0]


def test_known_gaps_are_found_and_none_is_not_one() -> None:
    slices = [s for seed in range(2) for s in judged_world((PURE, 64, seed))]
    found = scores(slices)
    assert found["right_when_claimed"]["share"] >= 0.95 and found["claimed"]["share"] >= 0.8
    assert found["right_kind_when_knowledge"]["share"] == 1.0
    assert found["mixture_error"] < 0.05


def test_without_contexts_absent_and_skill_are_not_told_apart() -> None:
    (setting,) = [s for s in SETTINGS if not s.context]
    slices = judged_world((setting, 128, 0))
    told = [s for s in slices if s["verdict"] == "knowledge" and s["said_kind"] in ("absent", "skill")]
    assert not told


def test_a_mixture_holds_the_gap_and_its_dominant_class() -> None:
    pi = mixture("format", Setting("x", gap=0.5, dominant=0.7), np.random.default_rng(0))
    assert pi.sum() == pytest.approx(1.0) and pi[0] == 0.5
    assert pi[1] == pytest.approx(0.35) and (pi > 0).sum() == 4


def test_scores_by_hand() -> None:
    pairs = [("none", "none"), ("none", "format"), ("format", "format"), ("format", None)]
    assert macro_f1(pairs, ["none", "format"]) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert ece([(0.95, True), (0.95, False), (0.15, False)]) == pytest.approx((2 * 0.45 + 0.15) / 3)


def test_the_same_seed_gives_the_same_world() -> None:
    assert judged_world((PURE, 16, 3)) == judged_world((PURE, 16, 3))
    assert judged_world((PURE, 16, 3)) != judged_world((PURE, 16, 4))
