"""Verdicts → what to do: maximise expected lift minus forgetting minus cost over all methods.

Training is advised only if it beats the best option without training.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np

from diagnose.advice.observables import Measured, measure
from diagnose.advice.wording import ARMS, TRAINING, why, why_not, would_flip
from diagnose.config import LEAST_PAIRS, RuleConfig
from diagnose.items.evalset import EvalSet
from diagnose.probes.answers import AnswerLog
from diagnose.records import (
    CLASSES,
    KNOWLEDGE,
    Attribution,
    EvalItem,
    Method,
    Recommendation,
    SliceVerdict,
    TrainMethod,
    least_lifts,
)
from diagnose.text import override

SOURCE = {"sft": "sft", "dpo": "preferences", "sft_dpo": "preferences", "rlhf": "preferences", "rlvr": "sft"}
"""Which kind of training rows a method needs."""
METHODS: tuple[Method, ...] = ("none", *ARMS, *TRAINING)
RULED_OUT = ("veto", "too few")
NEVER = 8
"""If none of the samples of this many judged items is preferred, a reward has nothing to find (hand-set)."""
RIVAL = 0.2
"""A method that is best with at least this probability is named beside the advised one (hand-set)."""
Array = np.ndarray


@dataclass(frozen=True)
class _Case:
    """One slice: what is best for it, and why."""

    verdict: SliceVerdict
    items: list[EvalItem]
    seen: Measured
    gates: dict[str, str]
    lifts: dict[str, dict[str, float]]
    """method → predicted lift: mean, low and high of 90 %."""
    p_best: dict[Method, float]
    """method → probability that it is the best one; collect_data: that none is worth its cost."""
    method: Method
    train_method: TrainMethod | None
    rows: int
    """Training rows that are needed."""


def recommend(
    evalset: EvalSet,
    verdicts: list[SliceVerdict],
    found: Attribution,
    log: AnswerLog,
    rule: RuleConfig,
    rows: dict[str, dict[str, int]],
    rng: np.random.Generator,
    command: str,
) -> list[Recommendation]:
    """One recommendation per group of slices of one verdict, methods, vetoes and next evidence; largest lift first.

    Args:
        rows: method → slice → training rows available.
        command: how train is started for this diagnosis, up to the method.
    """
    healthy = [v.slice for v in verdicts if v.verdict == "none" or _seems_right(v, rule)]
    groups: dict[tuple[str | None, ...], list[_Case]] = defaultdict(list)
    for v in verdicts:
        items = [i for i in evalset.items if v.slice in i.slices]
        case = _for_slice(v, items, found, log, rule, rows, rng)
        vetoed = ",".join(m for m, state in case.gates.items() if state in RULED_OUT)
        key = (v.verdict, v.kind, case.method, case.train_method, vetoed, would_flip(v, case.seen))
        groups[key].append(case)
    advice = [
        _with_command(_advice(cases, found, log, rule, rows), command, healthy, rows) for cases in groups.values()
    ]
    return sorted(advice, key=lambda r: -r.predicted_lift["mean"])


def _for_slice(
    verdict: SliceVerdict,
    items: list[EvalItem],
    found: Attribution,
    log: AnswerLog,
    rule: RuleConfig,
    rows: dict[str, dict[str, int]],
    rng: np.random.Generator,
) -> _Case:
    seen = measure(items, found, log, _of_slices([verdict.slice], rows.get("sft", {})), rule.reach)
    gates = _gates(seen, _of_slices([verdict.slice], rows.get("dpo", {})))
    draws = found.draws[verdict.slice]
    preference = preference_priors(seen.near, seen.best_of_n, rule, len(draws), rng)
    lift = {m: predicted(m, draws, preference[m], seen, rule, rng) for m in METHODS}
    worth = {m: lift[m] - rule.forget[m] - rule.cost[m] for m in METHODS if gates.get(m) not in RULED_OUT}
    every = np.array(list(worth.values()))
    p_best = {m: float((every.argmax(0) == k).mean()) for k, m in enumerate(worth)}
    best: Method = max(worth, key=lambda m: float(worth[m].mean()))
    trained = [m for m in TRAINING if m in worth and lift[m].mean() >= rule.min_lift]
    train_method = max(trained, key=lambda m: float(worth[m].mean()), default=None)
    if verdict.verdict in ("none", "insufficient"):
        best, train_method = ("none", None) if verdict.verdict == "none" else ("collect_data", None)
    elif verdict.kind == "unstated":
        best = "prompt"
    elif best == "none" or (best in TRAINING and lift[best].mean() < rule.min_lift):
        best = "collect_data"
    return _Case(
        verdict=verdict,
        items=items,
        seen=seen,
        gates=gates,
        lifts={m: _summary(lift[m]) for m in METHODS},
        p_best=p_best | {"collect_data": float((every.max(0) < rule.min_lift).mean())},
        method=best,
        train_method=train_method,
        rows=_rows_needed(verdict, best, train_method, len(items), rule),
    )


def _advice(
    cases: list[_Case], found: Attribution, log: AnswerLog, rule: RuleConfig, rows: dict[str, dict[str, int]]
) -> Recommendation:
    """What the slices of a group share: counts are of all of them, a lift and a chance of the slice that has least."""
    first, slices = cases[0], [c.verdict.slice for c in cases]
    method, train_method, gates = first.method, first.train_method, first.gates
    items = {i.id: i for c in cases for i in c.items}
    seen = first.seen if len(cases) == 1 else measure(list(items.values()), found, log, first.seen.rows, rule.reach)
    lifts = {c.verdict.slice: c.lifts for c in cases}
    least = least_lifts(lifts)
    have = _of_slices(slices, rows.get(train_method or "sft", {}))
    needed = {"rows": sum(c.rows for c in cases), "have": have}
    if first.verdict.verdict == "insufficient":
        needed["items"] = sum(c.verdict.needs_items for c in cases)
    p_best = {m: max(c.p_best.get(m, 0.0) for c in cases) for m in METHODS}
    verdict = _together([c.verdict for c in cases])
    return Recommendation(
        method=method,
        train_method=train_method,
        slices=slices,
        p_verdict=min(c.verdict.p_verdict for c in cases),
        p_best=min(c.p_best[method] for c in cases),
        predicted_lift=least.get(train_method or method, least["none"]),
        lifts=lifts,
        why=why(verdict, method, train_method, seen, least, needed, _rivals(p_best, (method, train_method))),
        why_not=why_not(method, train_method, gates, least, rule),
        gates={"reward_model" if m == "rlhf" else m: state for m, state in gates.items()},
        would_flip=would_flip(first.verdict, first.seen),
        data_needed=needed,
        cost={
            "relative": rule.cost.get(train_method or method, 0.0),
            "training_runs": 2 if train_method == "rlhf" else int(bool(train_method)),
        },
        train_slices=[],
        command="",
    )


def _together(verdicts: list[SliceVerdict]) -> SliceVerdict:
    """The verdict that several slices share, with what is missing or cannot be read in any of them."""
    return replace(
        verdicts[0],
        missing=tuple(sorted({name for v in verdicts for name in v.missing})),
        suspect=tuple(dict.fromkeys(name for v in verdicts for name in v.suspect)),
        unread=dict(sum((Counter(v.unread) for v in verdicts), Counter())),
    )


def _of_slices(slices: list[str], rows: dict[str, int]) -> int:
    """Rows for these slices; those without a slice are for every one."""
    return sum(rows.get(name, 0) for name in (*slices, ""))


def _seems_right(v: SliceVerdict, rule: RuleConfig) -> bool:
    """Too few items for a verdict, but those that there are show no gap: what training could break."""
    none = v.mixture.get("none")
    return (
        v.verdict == "insufficient"
        and v.needs_items > 0
        and not v.suspect
        and none is not None
        and none >= 1 - rule.tau
    )


def _rows_needed(v: SliceVerdict, best: str, train: str | None, items: int, rule: RuleConfig) -> int:
    """Training rows of the method that is advised; where data is the advice, what would make another one possible."""
    if train:
        return rule.rows[train]
    if best != "collect_data" or v.verdict == "insufficient":
        return 0
    if v.verdict == "knowledge" and v.kind != "skill":
        return items * rule.views_per_fact
    return rule.taught_rows


def predicted(
    method: str, draws: Array, preference: Array, seen: Measured, rule: RuleConfig, rng: np.random.Generator
) -> Array:
    """Draws of the expected rise of the slice's success rate: sum over classes of pi_c rho(method, c).

    Args:
        draws: (n, classes) of the slice's mixture.
        preference: (n,) of rho(method, preference)'s prior mean.
    """
    lift = np.zeros(len(draws))
    for k, name in enumerate(CLASSES):
        mean = preference if name == "preference" else np.full(len(draws), _prior(method, name, seen, rule))
        hits, misses = _observed(method, name, seen)
        a, b = rule.rho_weight * mean + hits, rule.rho_weight * (1 - mean) + misses
        if a.any():
            lift += np.nan_to_num(draws[:, k]) * rng.beta(np.maximum(a, 1e-6), np.maximum(b, 1e-6))
    return lift


def preference_priors(
    near: tuple[float, float], best: tuple[float, float], rule: RuleConfig, n: int, rng: np.random.Generator
) -> dict[Method, Array]:
    """Method → (n,) draws of the share of a preference gap that it should close.

    Where at least half of the items are in reach, pairs alone close what two stages do. Elsewhere it depends
    on how often one of the samples is preferred: from `best_low` to `best_high` the two rows of
    `rho_out_of_reach` blend (direction: arXiv 2404.14367, 2406.01462, 2508.10530; half and blend: hand-set). Both
    shares are drawn from the Jeffreys posteriors of their counts, and once for all methods: they are the slice's.

    Args:
        near, best: the tallies of Measured.
    """
    usual = {m: np.full(n, rule.rho[m]["preference"]) for m in METHODS}
    if not any(near):
        return usual
    within_reach = _share(near, n, rng) >= 0.5
    far = dict(usual)
    if any(best):
        found = np.clip((_share(best, n, rng) - rule.best_low) / (rule.best_high - rule.best_low), 0, 1)
        hidden, findable = rule.rho_out_of_reach["hidden"], rule.rho_out_of_reach["findable"]
        far |= {m: (1 - found) * hidden[m] + found * findable[m] for m in hidden}
    within = usual | {"dpo": np.full(n, rule.rho_dpo_in_reach)}
    return {m: np.where(within_reach, within[m], far[m]) for m in METHODS}


def _share(tally: tuple[float, float], n: int, rng: np.random.Generator) -> Array:
    return rng.beta(tally[0] + 0.5, tally[1] + 0.5, n)


def _prior(method: str, name: str, seen: Measured, rule: RuleConfig) -> float:
    """Prior mean of rho(method, class), conditional on what was observed."""
    row = rule.rho["sft_taught" if method == "sft" and seen.rows >= rule.taught_rows else method]
    if name == "knowledge_absent" and not any(seen.oracle_context):
        # Where no context was read this class means absent or skill; neither is likelier.
        return float(row["knowledge_absent"] + row["knowledge_skill"]) / 2
    return float(row.get(name, 0.0))


def _observed(method: str, name: str, seen: Measured) -> tuple[float, float]:
    if method == "prompt" and name == "format":
        return seen.few_shot
    if method == "prompt" and name == "format_suppressed":
        return seen.few_shot_suppressed
    if method == "prompt" and name in KNOWLEDGE:
        return seen.few_shot_missing
    if method == "constrained" and name == "format":
        return seen.constrained
    if method == "constrained" and name == "format_suppressed":
        return seen.constrained_suppressed
    if method == "constrained" and name in KNOWLEDGE:
        return seen.constrained_missing
    if method == "retrieval" and name in KNOWLEDGE:
        return seen.oracle_context
    return 0.0, 0.0


def _rivals(p_best: dict[Method, float], advised: tuple[str | None, ...]) -> dict[Method, float]:
    """Methods besides those advised that may well be the best, and with which probability."""
    others = {m: p for m, p in p_best.items() if m not in (*advised, "none") and p >= RIVAL}
    return dict(sorted(others.items(), key=lambda pair: -pair[1]))


def _gates(seen: Measured, pairs: int) -> dict[str, str]:
    """`veto` and `too few` rule a method out with what is known now; `pending` waits for what train will measure.

    Args:
        pairs: those at hand for the slice.
    """
    gates = {}
    if not seen.constrainable:
        gates["constrained"] = "veto"
    if not seen.has_context:
        gates["retrieval"] = "veto"
    if seen.base_success == 0.0:
        gates["rlvr"] = "veto"
    if not seen.pairs:
        gates |= {"dpo": "veto", "sft_dpo": "veto", "rlhf": "veto"}
    elif 0 < pairs < LEAST_PAIRS:
        gates |= {"dpo": "too few", "sft_dpo": "too few", "rlhf": "too few"}
    elif seen.base_success == 0.0 or (seen.best_of_n[0] == 0 and seen.best_of_n[1] >= NEVER):
        gates["rlhf"] = "veto"
    else:
        gates["rlhf"] = "pending"
    return gates


def _with_command(r: Recommendation, start: str, healthy: list[str], rows: dict[str, dict[str, int]]) -> Recommendation:
    """The exact next command. Rows of slices without a gap go along where there are some: they keep what works."""
    if not r.train_method:
        return replace(r, command=_no_training(r))
    slices = [*r.slices, *(s for s in healthy if rows.get(r.train_method, {}).get(s))]
    file = "" if any(rows.get(r.train_method, {}).values()) else f" data.{SOURCE[r.train_method]}=ROWS.jsonl"
    chosen = override("data.slices", slices)
    return replace(r, train_slices=slices, command=f"{start} method={r.train_method}{file} {chosen}")


def _no_training(r: Recommendation) -> str:
    if r.method == "collect_data" and not any(r.data_needed.get(what) for what in ("rows", "items")):
        return "# fix what is named above, then rerun diagnose.py"
    return {
        "prompt": "# add few-shot examples to the production prompt",
        "constrained": "# decode under the slice's schema or choices",
        "retrieval": "# add the retrieved context to the prompt",
        "collect_data": "# add items or training rows, then rerun diagnose.py",
    }.get(r.method, "# nothing to do")


def _summary(draws: Array) -> dict[str, float]:
    low, high = np.quantile(draws, [0.05, 0.95])
    return {"mean": float(draws.mean()), "low": float(low), "high": float(high)}
