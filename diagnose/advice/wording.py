"""The recommendation in words: why, why not the others, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator

from diagnose.advice.observables import Measured, Tally
from diagnose.config import LEAST_PAIRS, RuleConfig
from diagnose.records import Method, SliceVerdict, TrainMethod

ARMS: tuple[Method, ...] = ("prompt", "constrained", "retrieval")
"""Options without training."""
TRAINING: tuple[TrainMethod, ...] = ("sft", "dpo", "sft_dpo", "rlhf", "rlvr")
GATE_REASONS = {
    "constrained": "no schema and no choices to constrain to",
    "retrieval": "no item has a context to retrieve",
    "dpo": "no pairs and no judge say what is preferred",
    "sft_dpo": "no pairs and no judge say what is preferred",
    "rlhf": "no pairs for a reward model, or nothing for a reward to find: no sample is ever right and preferred",
    "rlvr": "nothing for the grader to reward: no answer and no sample is ever right",
}
MEANINGS = {
    "none": "correct and well formatted",
    "format": "the content is there, the format is wrong",
    "format_suppressed": "the content is there in plain words, and lost when the format is demanded",
    "format_unstated": "the prompt does not say what is wanted; with examples the model does it",
    "knowledge_latent": "stored, but not produced when asked",
    "knowledge_absent": "not in the model; it reads it from a context",
    "knowledge_skill": "wrong even with the facts in the context",
    "preference": "correct and well formatted, but not what users prefer",
    "knowledge_unresolved": "the content is missing; the data cannot tell whether it is stored",
    "mixed": "two gaps of comparable size",
    "insufficient": "too few items to tell",
}
"""Class or verdict → what it means."""
UNREAD = {
    "cut_off": "were cut off at model.max_new_tokens",
    "refused": "declined to answer",
    "empty": "were empty",
    "foreign": "were in another language or script than the reference",
    "gibberish": "were noise",
    "unreachable": "never came out of the thinking trace",
    "too_long": "did not fit the model's window",
    "server": "were not given by the server",
    "not_recorded": "are not in the log",
    "ungraded": "are graded by nobody",
    "judge_unreadable": "got a grade from the judge that could not be read",
}
"""Reason → what is said of so many answers."""


def why(
    v: SliceVerdict,
    best: str,
    train: str | None,
    seen: Measured,
    lifts: dict[str, dict[str, float]],
    needed: dict[str, int],
    rivals: dict[Method, float],
) -> str:
    """The verdict in words, then what was measured that speaks for the advice."""
    taught = "worked solutions" if v.kind == "skill" else "rows that state these facts in several wordings"
    gap = v.verdict not in ("none", "insufficient")
    parts = [
        (not undetermined(v), MEANINGS[f"{v.verdict}_{v.kind}" if v.kind else v.verdict]),
        (bool(undetermined(v)), f"undetermined: {undetermined(v)}"),
        *_of_the_format(v, seen),
        (
            v.verdict == "knowledge" and any(seen.oracle_context),
            f"the oracle context fixes {_of(seen.oracle_context)}",
        ),
        (
            v.verdict == "none" and not {"preference", "judge", "agreement"} & set(v.missing),
            "at least as preferred as the reference",
        ),
        (gap and not train, "no training with the available rows is expected to help"),
        (
            v.verdict == "knowledge" and best == "collect_data",
            f"about {needed['rows']} {taught} could change that",
        ),
    ]
    if v.verdict == "preference" and any(seen.near):
        near = f"in {_of(seen.near)} items the preferred answer is at least about as likely as the model's own samples"
        parts.append((True, near))
    if v.verdict == "preference" and seen.one is not None:
        best = f"the best of several samples is preferred in {_of(seen.best_of_n)} items"
        found = f"{best}, a random one in {seen.one:.2f}"
        parts.append((True, found))
    if train and train != best and best in lifts:
        without, trained = lifts[best]["mean"], lifts[train]["mean"]
        both = f"{best} needs no training; expected lift {without:.2f}, of {train} {trained:.2f}"
        parts.append((True, both))
    if gap and best != "collect_data" and rivals:
        named = " or ".join(f"{m} (P(best) {p:.2f})" for m, p in rivals.items())
        parts.append((True, f"{named} may do as well"))
    return "; ".join(text for applies, text in parts if applies)


def _of_the_format(v: SliceVerdict, seen: Measured) -> Iterator[tuple[bool, str]]:
    """What was measured without the format demand, with examples of the format and with the format forced."""
    wrong, lost = v.verdict == "format", v.kind == "suppressed"
    few, forced = seen.few_shot, seen.constrained
    if lost:
        few, forced = _both(few, seen.few_shot_suppressed), _both(forced, seen.constrained_suppressed)
    yield (
        v.verdict in ("format", "knowledge", "mixed") and any(seen.free),
        f"without the format demand {_of(seen.free)} answers whose content was missing are right",
    )
    yield wrong and any(few), f"few-shot examples fix {_of(few)} attempts"
    yield wrong and any(forced), f"constrained decoding fixes {_of(forced)}"
    yield lost, "without training, ask twice: first in plain words, then reformat"


def _both(a: Tally, b: Tally) -> Tally:
    return a[0] + b[0], a[1] + b[1]


def misfit(v: SliceVerdict) -> bool:
    """Did a probe of a slice with missing content see what no kind of gap explains?"""
    return v.verdict == "insufficient" and not v.needs_items and not v.label and "misfit" in v.missing


def undetermined(v: SliceVerdict) -> str:
    """Why a slice with items enough has no verdict; empty where it has one, or too few."""
    if v.verdict != "insufficient" or v.needs_items:
        return ""
    if v.label:
        return "the verdict turns on how much of the right content the reader sees"
    if misfit(v) and not v.remedy and not v.suspect:
        return "no kind of gap explains what all probes saw"
    if len(v.suspect) > sum(v.unread.values()):
        return f"the reference answers of {len(v.suspect)} items look wrong"
    return f"of {v.n + sum(v.unread.values())} answers {reasons(v.unread)}"


def reasons(unread: dict[str, int]) -> str:
    """`12 were cut off and 3 declined`, the most frequent first."""
    said = [f"{n} {UNREAD.get(why, why)}" for why, n in sorted(unread.items(), key=lambda pair: -pair[1])]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _of(tally: Tally) -> str:
    return f"{tally[0]:.0f} of {sum(tally):.0f}"


def why_not(
    best: str, train: str | None, gates: dict[str, str], lifts: dict[str, dict[str, float]], rule: RuleConfig
) -> dict[str, str]:
    """Every other method with its veto, or with what it is expected to give and cost."""
    out: dict[str, str] = {}
    for m in (*ARMS, *TRAINING):
        if m in (best, train):
            continue
        if gates.get(m) == "veto":
            out[m] = GATE_REASONS[m]
        elif gates.get(m) == "too few":
            out[m] = f"fewer than {LEAST_PAIRS} pairs of these slices cannot carry it"
        else:
            cost = rule.cost[m] + rule.forget[m]
            x = lifts[m]
            expected = f"expected lift {x['mean']:.2f} ({x['low']:.2f} to {x['high']:.2f})"
            out[m] = f"{expected}, less {cost:.2f} for cost and forgetting"
    return out


Lines = tuple[tuple[bool, str], ...]
"""Whether it applies, and what to say."""


def would_flip(v: SliceVerdict, seen: Measured) -> str:
    """The cheapest evidence that could change the advice: the first line that applies."""
    lines = (*_without_verdict(v), *_about_content(v, seen), *_about_preference(v, seen), *_about_format(v, seen))
    return next((text for applies, text in lines if applies), "items users complain about")


def _without_verdict(v: SliceVerdict) -> Lines:
    """What a verdict lacks."""
    return (
        (v.needs_items > 0, "more items, as many as the slice `needs`"),
        (
            bool(undetermined(v)) and len(v.suspect) > sum(v.unread.values()),
            "review and fix the suspect reference answers, then rerun the same command",
        ),
        (
            v.label > 0,
            f"label {v.label} answers of {v.slice}: fill in `label` in audit.csv, then repeat the command with "
            "out=DIR evalset.audit=DIR/audit.csv; where they are right, `target` may take a list of their wordings",
        ),
        (misfit(v) and not v.remedy, "a fixed prompt format: look at the answers to the probes side by side"),
        (bool(undetermined(v)), v.remedy or "answers that can be read: see report.html"),
    )


def _about_content(v: SliceVerdict, seen: Measured) -> Lines:
    """What tells the kinds of missing content apart, then what would teach each."""
    kind = v.kind if v.verdict == "knowledge" else None
    return (
        (
            kind == "unresolved" and "ranked" in v.missing and seen.has_options,
            "the probe `ranked`: log-probabilities of the distractors, of a local model or with model.api=completions",
        ),
        (
            kind == "unresolved" and "ranked" in v.missing,
            "`distractors` per item: ranking them is the cheapest probe that tells stored facts from absent ones",
        ),
        (
            v.verdict in ("knowledge", "mixed") and "reading" in v.missing,
            "a slice whose questions are answered in their contexts: it shows whether the model reads contexts at all",
        ),
        (
            v.verdict in ("knowledge", "mixed") and "context" in v.missing and seen.has_context,
            "the probe `oracle_context`, of a model that can be queried: it tells an absent fact from a missing skill",
        ),
        (
            v.verdict in ("knowledge", "mixed") and "context" in v.missing,
            "an oracle `context` per item: it tells an absent fact from a missing skill",
        ),
        (kind == "latent", "a short SFT on half of the entities, tested on the other half"),
        (kind == "absent", "training rows that state these facts; rows about other entities cannot teach them"),
        (kind == "skill", "worked solutions as training rows"),
    )


def _about_preference(v: SliceVerdict, seen: Measured) -> Lines:
    """What finds a preference gap, then what chooses between its remedies."""
    return (
        (
            v.verdict == "none" and "preference" in v.missing and seen.judged,
            "the probe `preference_judged`, of a model that can be queried: only it detects a preference gap",
        ),
        (
            v.verdict == "none" and "preference" in v.missing,
            "`chosen` answers with a judge: without them a preference gap cannot be detected",
        ),
        (
            v.verdict == "preference" and "margins" in v.missing,
            "the probe `margins`, of a local model or with model.api=completions: it tells dpo from rlhf",
        ),
        (
            v.verdict == "preference" and seen.near[0] < seen.near[1] and not any(seen.best_of_n),
            "the probe `best_of_n`, of a model that can be queried: samples that the judge prefers would favour rlhf",
        ),
        (
            v.verdict == "preference",
            "the reward model's held-out accuracy: train.py measures it before any RL, and stops where it is low",
        ),
    )


def _about_format(v: SliceVerdict, seen: Measured) -> Lines:
    """What shows whether a prompt is enough."""
    return (
        (v.kind == "unstated", "a prompt that says what is wanted; few-shot examples in it already do"),
        (
            v.kind == "suppressed" and any(seen.few_shot_suppressed),
            "answers asked twice, first in plain words, then reformatted: where they pass, no training is needed",
        ),
        (
            v.verdict == "format" and not any(seen.few_shot),
            "the probe `few_shot`, of a model that can be queried: few-shot examples show whether a prompt is enough; "
            "they are rows of the slice in `data.sft`, or items of a slice of 24 or more",
        ),
        (
            v.verdict == "format",
            "few-shot examples that stop working on longer prompts, or a prompt budget that has no room for them",
        ),
    )
