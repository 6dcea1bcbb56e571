"""Verdicts → what to do: maximise expected lift less forgetting less cost over methods that need training and methods
that do not (DESIGN §7). Training must beat the best arm that needs none."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diagnose.answers import AnswerLog
from diagnose.config import RuleConfig, hydra_list
from diagnose.evalset import EvalSet
from diagnose.records import CLASSES, KNOWLEDGE, Attribution, EvalItem, Recommendation, SliceVerdict

TRAINING = ("sft", "dpo", "sft_dpo", "rlhf")
SOURCE = {"sft": "sft", "dpo": "preferences", "sft_dpo": "preferences", "rlhf": "preferences"}
"""Which kind of training rows a method needs."""
ARMS = ("prompt", "constrained", "retrieval")
"""Arms that need no training."""
METHODS = ("none", *ARMS, *TRAINING)
Array = np.ndarray


@dataclass(frozen=True)
class Measured:
    """What the probes of one slice say about methods."""

    shaped: tuple[float, float]
    """Successes and failures of the exemplars on the format gap, placebo-corrected."""
    shaped_lost: tuple[float, float]
    """The same where the content was missing."""
    given: tuple[float, float]
    constrainable: bool
    has_context: bool
    pairs: bool
    reach: float | None
    """Median z-score of `chosen` among the model's own samples."""
    base_success: float
    """Share of items with any lenient success, so that a reward has something to find."""
    rows: int
    """SFT rows at hand for the slice."""


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
    """One recommendation per group of slices with the same verdict, kind and best methods; largest lift first.

    Args:
        rows: method → slice → training rows at hand.
        command: how train is started for this diagnosis, up to the method.
    """
    healthy = [v.slice for v in verdicts if v.verdict == "none"]
    out: dict[tuple[str, str | None, str, str | None], Recommendation] = {}
    for verdict in verdicts:
        items = [i for i in evalset.items if verdict.slice in i.slices]
        one = _for_slice(verdict, items, found, log, rule, rows, rng)
        key = (verdict.verdict, verdict.kind, one.method, one.train_method)
        out[key] = _merge(out[key], one) if key in out else one
    advice = [_with_command(r, command, healthy, rows) for r in out.values()]
    return sorted(advice, key=lambda r: -r.predicted_lift["mean"])


def _for_slice(
    verdict: SliceVerdict,
    items: list[EvalItem],
    found: Attribution,
    log: AnswerLog,
    rule: RuleConfig,
    rows: dict[str, dict[str, int]],
    rng: np.random.Generator,
) -> Recommendation:
    at_hand = rows.get("sft", {})
    seen = measure(items, found, log, at_hand.get(verdict.slice, 0) + at_hand.get("", 0))
    gates = _gates(seen)
    lift = {m: predicted(m, found.draws[verdict.slice], seen, rule, rng) for m in METHODS}
    worth = {m: lift[m] - rule.forget[m] - rule.cost[m] for m in METHODS if gates.get(m) != "veto"}
    wins = np.array(list(worth.values())).argmax(0)
    p_best = {m: float((wins == k).mean()) for k, m in enumerate(worth)}
    best = max(worth, key=lambda m: float(worth[m].mean()))
    trained = [m for m in TRAINING if m in worth and lift[m].mean() >= rule.min_lift]
    train_method = max(trained, key=lambda m: float(worth[m].mean()), default=None)
    if verdict.verdict in ("none", "insufficient"):
        best, train_method = ("none", None) if verdict.verdict == "none" else ("collect_data", None)
    elif best == "none" or (best in TRAINING and lift[best].mean() < rule.min_lift):
        best = "collect_data"
    at_method = rows.get(train_method or "", {})
    have = at_method.get(verdict.slice, 0) + at_method.get("", 0)
    need = rule.rows.get(train_method or "", 0)
    shown = {m: _summary(lift[m]) for m in METHODS}
    return Recommendation(
        method=best,
        train_method=train_method,
        slices=[verdict.slice],
        p_verdict=verdict.p_verdict,
        p_best=p_best[best]
        if best in p_best
        else float((np.array(list(worth.values())).max(0) < rule.min_lift).mean()),
        predicted_lift=shown.get(train_method or best, shown["none"]),
        lifts={verdict.slice: shown},
        why=_why(verdict, best, train_method, seen, shown),
        why_not=_why_not(best, train_method, gates, shown, rule),
        gates={"reward_model" if m == "rlhf" else m: state for m, state in gates.items()},
        would_flip=_would_flip(verdict, best, seen),
        data_needed={"rows": need, "have": have},
        cost={
            "relative": rule.cost.get(train_method or best, 0.0),
            "training_runs": 2 if train_method == "rlhf" else int(bool(train_method)),
        },
        train_slices=[],
        command="",
    )


def measure(items: list[EvalItem], found: Attribution, log: AnswerLog, rows: int) -> Measured:
    """Collect the observables that recommend conditions on."""
    shaped = log.of("shaped")
    form = [i for i in items if (a := log.get("plain", i.id)).lenient and a.strict is False]
    lost = [i for i in items if log.get("plain", i.id).lenient is False]
    given = [a for i in lost for a in log.of_item("given", i.id) if a.lenient is not None]
    any_success = [
        any(a.lenient for p in ("plain", "sampled") for a in log.of_item(p, i.id)) for i in items if i.id in found.items
    ]
    return Measured(
        shaped=_tally([a.strict for i in form for a in shaped.get(i.id, [])]),
        shaped_lost=_tally([a.lenient for i in lost for a in shaped.get(i.id, [])]),
        given=_tally([a.lenient for a in given]),
        constrainable=any(i.grader["kind"] == "choice" or i.grader.get("schema") for i in items),
        has_context=any(i.context for i in items),
        pairs=any(i.judge or (i.chosen and i.rejected) for i in items),
        reach=reach(items, log),
        base_success=float(np.mean(any_success)) if any_success else 0.0,
        rows=rows,
    )


def reach(items: list[EvalItem], log: AnswerLog) -> float | None:
    """Median over items of (a(chosen) - mean a(own)) / sd, a = log p per token, sd pooled (EVIDENCE §1, Dcov)."""
    gaps, spreads = [], []
    for item in items:
        scores = [a.logprob / max(a.tokens, 1) for a in log.of_item("margins", item.id) if a.logprob is not None]
        if len(scores) < 4:
            continue
        gaps.append(scores[0] - float(np.mean(scores[2:])))
        spreads.append(float(np.var(scores[2:], ddof=1)))
    return float(np.median(gaps) / max(np.sqrt(np.mean(spreads)), 1e-6)) if gaps else None


def predicted(method: str, draws: Array, seen: Measured, rule: RuleConfig, rng: np.random.Generator) -> Array:
    """Draws of the expected rise of the slice's success rate: sum over classes of pi_c rho(method, c)."""
    lift = np.zeros(len(draws))
    for k, name in enumerate(CLASSES):
        mean = _prior(method, name, seen, rule)
        hits, misses = _observed(method, name, seen)
        a, b = rule.rho_weight * mean + hits, rule.rho_weight * (1 - mean) + misses
        if a > 0:
            lift += np.nan_to_num(draws[:, k]) * rng.beta(max(a, 1e-6), max(b, 1e-6), len(draws))
    return lift


def _prior(method: str, name: str, seen: Measured, rule: RuleConfig) -> float:
    """Prior mean of rho(method, class), conditional on what was observed."""
    if method == "dpo" and name == "preference" and seen.reach is not None and seen.reach >= rule.reach:
        return rule.rho_dpo_in_reach
    row = rule.rho["sft_taught" if method == "sft" and seen.rows >= rule.taught_rows else method]
    if name == "knowledge_absent" and not seen.has_context:
        # Without a context this class stands for absent or skill; neither is likelier.
        return float(row["knowledge_absent"] + row["knowledge_skill"]) / 2
    return float(row.get(name, 0.0))


def _observed(method: str, name: str, seen: Measured) -> tuple[float, float]:
    if method == "prompt" and name == "format":
        return seen.shaped
    if method == "prompt" and name in KNOWLEDGE:
        return seen.shaped_lost
    if method == "retrieval" and name in KNOWLEDGE:
        return seen.given
    return 0.0, 0.0


def _tally(values: Sequence[bool | None]) -> tuple[float, float]:
    read = [v for v in values if v is not None]
    return float(read.count(True)), float(read.count(False))


def _gates(seen: Measured) -> dict[str, str]:
    """`veto` rules a method out with what is known now; `pending` waits for what train will measure."""
    gates = {}
    if not seen.constrainable:
        gates["constrained"] = "veto"
    if not seen.has_context:
        gates["retrieval"] = "veto"
    if not seen.pairs:
        gates |= {"dpo": "veto", "sft_dpo": "veto", "rlhf": "veto"}
    elif seen.base_success == 0.0:
        gates["rlhf"] = "veto"
    else:
        gates["rlhf"] = "pending"
    return gates


GATE_REASONS = {
    "constrained": "no schema and no choices to constrain to",
    "retrieval": "no item has a context to retrieve",
    "dpo": "no pairs and no judge say what is preferred",
    "sft_dpo": "no pairs and no judge say what is preferred",
    "rlhf": "no pairs for a reward model, or the base never succeeds",
}
MEANING = {
    ("none", None): "right, well formed and as liked as its own samples: nothing to gain",
    ("format", None): "the content is there, the form is wrong",
    ("knowledge", "latent"): "stored but not said when asked",
    ("knowledge", "absent"): "not in the model; it reads it from a context",
    ("knowledge", "skill"): "wrong even with the facts in the context",
    ("knowledge", "unresolved"): "the content is missing; the data cannot say whether it is stored",
    ("preference", None): "right and well formed, but not what users like",
    ("mixed", None): "two gaps of comparable size",
    ("insufficient", None): "too few items to tell",
}


def _why(v: SliceVerdict, best: str, train: str | None, seen: Measured, lifts: dict[str, dict[str, float]]) -> str:
    parts = [MEANING.get((v.verdict, v.kind), "")]
    if v.verdict == "format" and any(seen.shaped):
        hits, misses = seen.shaped
        parts.append(f"exemplars in the prompt repair {hits:.0f} of {hits + misses:.0f} tries")
    if v.verdict == "knowledge" and any(seen.given):
        hits, misses = seen.given
        parts.append(f"the oracle context repairs {hits:.0f} of {hits + misses:.0f}")
    if v.verdict == "preference" and seen.reach is not None:
        parts.append(f"the preferred answer lies {seen.reach:+.1f} sd from the model's own samples")
    if best == "collect_data" and v.verdict == "insufficient":
        parts.append(f"about {v.needs_items} more items are needed")
    if train and train != best and best in lifts:
        parts.append(
            f"{best} needs no training and is expected to lift {lifts[best]['mean']:.2f}, "
            f"{train} {lifts[train]['mean']:.2f}"
        )
    if not train and v.verdict in ("knowledge", "mixed", "format", "preference"):
        parts.append("no training with the rows at hand is expected to help")
    return "; ".join(p for p in parts if p)


def _why_not(
    best: str, train: str | None, gates: dict[str, str], lifts: dict[str, dict[str, float]], rule: RuleConfig
) -> dict[str, str]:
    out = {}
    for m in (*ARMS, *TRAINING):
        if m in (best, train):
            continue
        if gates.get(m) == "veto":
            out[m] = GATE_REASONS[m]
        else:
            cost = rule.cost[m] + rule.forget[m]
            x = lifts[m]
            expected = f"expected lift {x['mean']:.2f} ({x['low']:.2f} to {x['high']:.2f})"
            out[m] = f"{expected}, less {cost:.2f} for cost and forgetting"
    return out


def _would_flip(v: SliceVerdict, best: str, seen: Measured) -> str:
    """The cheapest evidence that could change the advice."""
    if v.verdict == "insufficient":
        return f"about {v.needs_items} more items in this slice"
    if "context" in v.missing and v.verdict in ("knowledge", "mixed"):
        return "an oracle `context` per item: it tells an absent fact from a missing skill"
    if "preference" in v.missing and v.verdict == "none":
        return "`chosen` answers with a judge: without them a preference gap cannot be seen"
    if v.verdict == "knowledge" and v.kind == "latent":
        return "a short SFT on half of the entities, tested on the other half"
    if v.verdict == "knowledge" and v.kind == "absent":
        return "training rows that state these very facts; rows about other entities cannot teach them"
    if v.verdict == "knowledge" and v.kind == "skill":
        return "worked solutions as training rows"
    if v.verdict == "preference":
        return "best-of-16 under a reward model: winning .65 or more would favour rlhf"
    if v.verdict == "format":
        return "exemplars that stop working on longer prompts, or a prompt budget that has no room for them"
    return "items on which users complain"


def _with_command(r: Recommendation, start: str, healthy: list[str], rows: dict[str, dict[str, int]]) -> Recommendation:
    """The exact next command. Rows of slices without a gap go along where there are some: they keep what works."""
    if not r.train_method:
        return replace(r, command=_no_training(r.method))
    slices = [*r.slices, *(s for s in healthy if rows.get(r.train_method, {}).get(s))]
    file = "" if any(rows.get(r.train_method, {}).values()) else f" data.{SOURCE[r.train_method]}=ROWS.jsonl"
    chosen = shlex.quote(f"data.slices={hydra_list(slices)}")
    return replace(r, train_slices=slices, command=f"{start} method={r.train_method}{file} {chosen}")


def _no_training(best: str) -> str:
    return {
        "prompt": "# put the reserved exemplars into the production prompt",
        "constrained": "# decode under the slice's schema",
        "retrieval": "# put the fact into the prompt",
        "collect_data": "# add items or training rows, then run diagnose.py again",
    }.get(best, "# nothing to do")


def _summary(draws: Array) -> dict[str, float]:
    low, high = np.quantile(draws, [0.05, 0.95])
    return {"mean": float(draws.mean()), "low": float(low), "high": float(high)}


def _merge(a: Recommendation, b: Recommendation) -> Recommendation:
    """Two slices with the same advice stand in one recommendation; its certainty is that of the less certain one."""
    slices, lifts = [*a.slices, *b.slices], a.lifts | b.lifts
    needed: dict[str, Any] = {key: a.data_needed[key] + b.data_needed[key] for key in a.data_needed}
    return replace(
        a,
        slices=slices,
        lifts=lifts,
        p_verdict=min(a.p_verdict, b.p_verdict),
        p_best=min(a.p_best, b.p_best),
        predicted_lift=min((a.predicted_lift, b.predicted_lift), key=lambda x: x["mean"]),
        data_needed=needed,
    )
