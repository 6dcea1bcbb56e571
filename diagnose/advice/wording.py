"""The recommendation in words: why, why not the others, and what would change it."""

from __future__ import annotations

from diagnose.advice.observables import Measured
from diagnose.config import RuleConfig
from diagnose.items.evalset import RESERVE_FROM
from diagnose.records import SliceVerdict

ARMS = ("prompt", "constrained", "retrieval")
"""Arms that need no training."""
TRAINING = ("sft", "dpo", "sft_dpo", "rlhf")
GATE_REASONS = {
    "constrained": "no schema and no choices to constrain to",
    "retrieval": "no item has a context to retrieve",
    "dpo": "no pairs and no judge say what is preferred",
    "sft_dpo": "no pairs and no judge say what is preferred",
    "rlhf": "no pairs for a reward model, or nothing for a reward to find: no sample is ever right and liked",
}
MEANING = {
    ("none", None): "right and well formed: nothing to gain",
    ("format", None): "the content is there, the form is wrong",
    ("knowledge", "latent"): "stored but not said when asked",
    ("knowledge", "absent"): "not in the model; it reads it from a context",
    ("knowledge", "skill"): "wrong even with the facts in the context",
    ("knowledge", "unresolved"): "the content is missing; the data cannot say whether it is stored",
    ("preference", None): "right and well formed, but not what users like",
    ("mixed", None): "two gaps of comparable size",
    ("insufficient", None): "too few items to tell",
}


def why(
    v: SliceVerdict,
    best: str,
    train: str | None,
    seen: Measured,
    lifts: dict[str, dict[str, float]],
    needed: dict[str, int],
    rivals: dict[str, float],
) -> str:
    """The verdict in words, then what was measured that speaks for the advice."""
    taught = "worked solutions" if v.kind == "skill" else "rows that state these very facts in several wordings"
    gap, odd = v.verdict not in ("none", "insufficient"), misfit(v)
    parts = [
        (not unread(v), MEANING[v.verdict, v.kind]),
        (bool(unread(v)), f"cannot be told: {unread(v)}"),
        (v.verdict == "format" and any(seen.shaped), f"exemplars in the prompt repair {_of(seen.shaped)} tries"),
        (v.verdict == "format" and any(seen.forced), f"constrained decoding repairs {_of(seen.forced)}"),
        (v.verdict == "knowledge" and any(seen.given), f"the oracle context repairs {_of(seen.given)}"),
        (
            v.verdict == "none" and not {"preference", "judge", "agreement"} & set(v.missing),
            "and liked",
        ),
        (odd, "no kind of gap explains what all probes saw"),
        (gap and not train, "no training with the rows at hand is expected to help"),
        (
            v.verdict == "knowledge" and best == "collect_data" and not odd,
            f"about {needed['rows']} {taught} could change that",
        ),
    ]
    if v.verdict == "preference" and any(seen.near):
        near = f"in {_of(seen.near)} items the preferred answer is at least about as likely as the model's own samples"
        parts.append((True, near))
    if v.verdict == "preference" and seen.one is not None:
        found = f"one of several samples is liked in {_of(seen.best)} items, one at random in {seen.one:.2f}"
        parts.append((True, found))
    if train and train != best and best in lifts:
        without, trained = lifts[best]["mean"], lifts[train]["mean"]
        both = f"{best} needs no training and is expected to lift {without:.2f}, {train} {trained:.2f}"
        parts.append((True, both))
    if gap and best != "collect_data" and rivals:
        named = " or ".join(f"{m} (P {p:.2f})" for m, p in rivals.items())
        parts.append((True, f"{named} may be better, though not on average"))
    return "; ".join(text for applies, text in parts if applies)


def misfit(v: SliceVerdict) -> bool:
    """Did a probe of a slice that lacks content see what no kind of gap explains?"""
    return v.verdict in ("knowledge", "mixed") and "misfit" in v.missing


def unread(v: SliceVerdict) -> str:
    """Why a slice with items enough has no verdict; empty where it has one, or too few."""
    if v.verdict != "insufficient" or v.needs_items:
        return ""
    if v.doubted:
        return f"the gold of {len(v.doubted)} items is doubted"
    return f"{v.unscored.get('truncated', 0)} answers were cut off before their content could be read"


def _of(tally: tuple[float, float]) -> str:
    return f"{tally[0]:.0f} of {sum(tally):.0f}"


def why_not(
    best: str, train: str | None, gates: dict[str, str], lifts: dict[str, dict[str, float]], rule: RuleConfig
) -> dict[str, str]:
    """Every other method with its veto, or with what it is expected to give and cost."""
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


def would_flip(v: SliceVerdict, seen: Measured) -> str:
    """The cheapest evidence that could change the advice: the first line that applies."""
    kind = v.kind if v.verdict == "knowledge" else None
    lines = (
        (v.needs_items > 0, "more items, as many as a slice `needs`"),
        (bool(unread(v) and v.doubted), "the doubted gold answers, looked at and mended; then the same command again"),
        (bool(unread(v)), "a larger model.max_new_tokens"),
        (misfit(v), "the render, mended where it is wrong: look at what the probes said side by side"),
        (
            kind == "unresolved" and "ranked" in v.missing and seen.has_options,
            "the probe `ranked`: log-probabilities of the distractors, of a local model or by model.api=completions",
        ),
        (
            kind == "unresolved" and "ranked" in v.missing,
            "`distractors` per item: ranking them is the cheapest probe that tells stored from absent facts",
        ),
        (
            v.verdict in ("knowledge", "mixed") and "context" in v.missing and seen.has_context,
            "the probe `given`, of a model that can be asked: it tells an absent fact from a missing skill",
        ),
        (
            v.verdict in ("knowledge", "mixed") and "context" in v.missing,
            "an oracle `context` per item: it tells an absent fact from a missing skill",
        ),
        (
            v.verdict == "none" and "preference" in v.missing and seen.judged,
            "the probe `judged`, of a model that can be asked: without it a preference gap cannot be seen",
        ),
        (
            v.verdict == "none" and "preference" in v.missing,
            "`chosen` answers with a judge: without them a preference gap cannot be seen",
        ),
        (kind == "latent", "a short SFT on half of the entities, tested on the other half"),
        (kind == "absent", "training rows that state these very facts; rows about other entities cannot teach them"),
        (kind == "skill", "worked solutions as training rows"),
        (
            v.verdict == "preference" and "margins" in v.missing,
            "the probe `margins`, of a local model or by model.api=completions: it tells dpo from rlhf",
        ),
        (
            v.verdict == "preference" and seen.near[0] < seen.near[1] and not any(seen.best),
            "the probe `best`, of a model that can be asked: samples that the judge likes would favour rlhf",
        ),
        (
            v.verdict == "preference",
            "the reward model's held-out accuracy: train.py measures it before any RL, and stops where it is low",
        ),
        (
            v.verdict == "format" and not any(seen.shaped) and v.n >= RESERVE_FROM,
            "the probe `shaped`, of a model that can be asked: exemplars show whether a prompt suffices",
        ),
        (
            v.verdict == "format" and not any(seen.shaped),
            "12 items or more in this slice: four of them as exemplars show whether a prompt suffices",
        ),
        (
            v.verdict == "format",
            "exemplars that stop working on longer prompts, or a prompt budget that has no room for them",
        ),
    )
    return next((text for applies, text in lines if applies), "items on which users complain")
