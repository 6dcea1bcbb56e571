"""Paired statistics against published or hand-computed values, and the verdicts on runs."""

from __future__ import annotations

import numpy as np
import pytest

from eval.compare import _verdict, best_and_regret, minimum_detectable, paired_interval, paired_p
from eval.config import GateConfig, check_eval, plain_overrides
from eval.console import show_comparison
from eval.records import Comparison, RunResult, SliceDelta


def table(both: int, gained: int, lost: int, neither: int) -> np.ndarray:
    """[items, 2] successes before and after."""
    rows = [(1, 1)] * both + [(0, 1)] * gained + [(1, 0)] * lost + [(0, 0)] * neither
    return np.array(rows, float)


def test_swapping_before_and_after_mirrors_the_interval() -> None:
    low, high = paired_interval(table(36, 12, 2, 3), 0.95)
    mirrored = paired_interval(table(36, 12, 2, 3)[:, ::-1], 0.95)
    assert mirrored == (pytest.approx(-high), pytest.approx(-low))
    assert low < 10 / 53 < high


def test_the_interval_covers_the_truth() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        kind = rng.choice(4, 50, p=[0.4, 0.25, 0.1, 0.25])
        success = np.array([[(1, 1), (0, 1), (1, 0), (0, 0)][k] for k in kind], float)
        low, high = paired_interval(success, 0.95)
        hits += low <= 0.15 <= high
    assert 0.92 <= hits / 400 <= 0.99


def test_exact_mcnemar() -> None:
    assert paired_p(table(10, 8, 1, 5)) == pytest.approx(2 * (1 + 9) / 2**9)
    assert paired_p(table(10, 0, 0, 5)) == 1.0


def test_clusters_widen_the_interval_and_weaken_the_test() -> None:
    success, clusters = table(20, 20, 0, 20), [f"c{i // 10}" for i in range(60)]
    plain, clustered = paired_interval(success, 0.95), paired_interval(success, 0.95, clusters)
    assert clustered[1] - clustered[0] > plain[1] - plain[0]
    assert paired_p(success, clusters) > paired_p(success)


def test_three_clusters_without_a_change_are_not_equivalent() -> None:
    low, high = paired_interval(table(9, 0, 0, 0), 0.90, ["a"] * 3 + ["b"] * 3 + ["c"] * 3)
    assert low < -0.05 and high > 0.05


def test_no_change_is_not_certainty() -> None:
    low, high = paired_interval(table(56, 0, 0, 0), 0.90)
    assert -0.06 < low < 0 < high < 0.06
    assert minimum_detectable(table(56, 0, 0, 0), 56) > 0


def delta(name: str, role: str, low: float, high: float, verdict: str = "tie") -> SliceDelta:
    empty = {"before": None, "after": None}
    return SliceDelta(
        slice=name, n=50, measure="strict", before=0.5, after=0.5, delta=(low + high) / 2, low=low, high=high, p=0.5,
        p_holm=0.5, mde=0.1, fixed=[], broken=[], strict=empty, lenient=empty, accepted=empty, arms={}, reversion=None,
        confidence_when_wrong=empty, predicted=None, role=role, verdict=verdict,
    )  # fmt: skip


@pytest.mark.parametrize(("span", "said"), [((-0.24, -0.01), True), ((-0.1, 0.1), False)])
def test_a_tie_beside_an_interval_without_zero_is_explained(
    span: tuple[float, float], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunResult(
        run="r", method="sft", seed=0, slices=[delta("a", "other", *span)], guard={}, predicted_lift={},
        verdict="INCONCLUSIVE", reason="",
    )  # fmt: skip
    show_comparison(
        Comparison(
            decision_id="", diagnosis="", base={}, arms=[], runs=[run], skipped={}, best=None, regret=None,
            by_target=[], retention=[], provenance={},
        ),
        "report.html",
    )  # fmt: skip
    assert ("after Holm" in capsys.readouterr().out) == said


STEADY = {"equivalent": True, "n": 50, "delta": 0.0, "low": -0.02, "high": 0.02}
MOVED = STEADY | {"equivalent": False, "delta": -0.2}
UP, FLAT, DOWN = (0.1, 0.3), (-0.1, 0.1), (-0.3, -0.1)


@pytest.mark.parametrize(
    ("deltas", "guard", "expected"),
    [
        ([delta("t", "target", *UP, "better")], STEADY, "PASS"),
        ([delta("t", "target", *UP, "better")], MOVED, "INCONCLUSIVE"),
        ([delta("t", "target", *FLAT)], STEADY, "INCONCLUSIVE"),
        ([delta("t", "target", *UP, "better"), delta("o", "other", *DOWN, "worse")], STEADY, "WARN"),
        ([delta("t", "target", *UP, "better"), delta("c", "critical", *DOWN, "worse")], STEADY, "BLOCK"),
        ([delta("t", "target", *UP, "better"), delta("c", "critical", *FLAT)], STEADY, "PASS"),
    ],
)
def test_verdicts(deltas: list[SliceDelta], guard: dict[str, object], expected: str) -> None:
    assert _verdict(deltas, guard, GateConfig(critical=["c"]))[0] == expected


def test_one_slice_of_many_that_moved_by_chance_is_a_tie() -> None:
    """Five lost of 56 has an interval below 0 and p = .06; among six slices that is nothing."""
    from dataclasses import replace

    from eval.compare import _holm

    moved = replace(delta("o", "other", *DOWN, "worse"), p=0.0625)
    clear = replace(delta("t", "target", *UP, "better"), p=1e-6)
    found = {d.slice: d for d in _holm([moved, clear, *(delta(f"s{i}", "other", *FLAT) for i in range(4))])}
    assert (found["o"].verdict, found["t"].verdict) == ("tie", "better")
    assert found["o"].p_holm == pytest.approx(0.0625 * 5)


def result(method: str, seed: int) -> RunResult:
    return RunResult(
        run=f"{method}{seed}",
        method=method,
        seed=seed,
        slices=[],
        guard={},
        predicted_lift={},
        verdict="PASS",
        reason="",
    )


def test_regret_is_a_tie_between_equals_and_real_between_unequals() -> None:
    rng = np.random.default_rng(0)
    items = [f"i{k}" for k in range(200)]
    same = {run: {i: float(rng.random() < 0.8) for i in items} for run in ("sft0", "dpo0")}
    best, regret = best_and_regret([result("sft", 0), result("dpo", 0)], same, "sft")
    assert regret is not None and regret["tie"]
    apart = {"sft0": dict.fromkeys(items, 0.0), "dpo0": dict.fromkeys(items, 1.0)}
    best, regret = best_and_regret([result("sft", 0), result("dpo", 0)], apart, "sft")
    assert best == "dpo"
    assert regret is not None and not regret["tie"] and regret["regret"] == 1.0


def test_gate_true_is_short_for_enabled() -> None:
    assert plain_overrides(["gate=true", "gate.margin=.1"]) == ["gate.enabled=true", "gate.margin=.1"]
    assert plain_overrides(["runs=a/[0-9],*"]) == ["runs='a/[0-9],*'"]


def test_impossible_settings_are_named() -> None:
    from diagnose.errors import BadInput
    from eval.config import EvalConfig

    for config, says in (
        (EvalConfig(), "runs: missing"),
        (EvalConfig(runs="x", arms=["magic"]), "arms: unknown"),
        (EvalConfig(runs="x", gate=GateConfig(margin=2)), "gate.margin=2"),
    ):
        with pytest.raises(BadInput, match=says):
            check_eval(config)
