"""How numbers, names and verdicts read, in the terminal and in the reports alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.markup import escape

from diagnose.records import Interval, Rate, Recommendation, SliceVerdict

MISSING = {
    "content": (
        "nothing grades content, so only preference can be seen",
        "a `target` with a grader: it makes format and knowledge gaps visible",
    ),
    "format": (
        "the grader cannot see right content in a wrong form, so a format gap cannot be seen",
        "a grader with two readings, such as `exact` or `json`: it makes a format gap visible",
    ),
    "preference": (
        "no judge was heard, so a preference gap cannot be seen",
        "`chosen` answers with a judge, and the probe `judged`: they make a preference gap visible",
    ),
    "judge": (
        "the judge does not prefer what people chose, so a preference gap cannot be claimed",
        "a judge that tells chosen from rejected better than a coin: `judge.path` or the row's grader",
    ),
    "agreement": (
        "annotators do not agree on what is better, so a preference gap cannot be claimed",
        "a guideline that annotators follow alike (Krippendorff's alpha of .4 or more)",
    ),
    "misfit": (
        "no kind of gap explains what all probes saw, so the kind is not said",
        "the render: chat template, stop strings, refusals; look at the answers, mend it and ask again",
    ),
    "context": (
        "no oracle context was read, so absent facts and missing skill cannot be told apart",
        "a `context` per item, and the probe `given`: it tells an absent fact from a missing skill",
    ),
    "ranked": (
        "no options were ranked, so stored facts are hard to see",
        "`distractors` and a `statement` per item: ranking them finds facts that are stored but not said",
    ),
    "sampled": (
        "not sampled, so content that comes out only sometimes is not seen",
        "the probe `sampled`: it finds content that greedy decoding hides",
    ),
    "shaped": (
        "no exemplars were shown, so what a prompt repairs is not known",
        "the probe `shaped` and 12 items or more: four of them are its exemplars",
    ),
    "constrained": (
        "nothing was decoded under the schema, so what forcing the form repairs is not known",
        "the probe `constrained`, of a model that can be asked: it shows whether a schema suffices",
    ),
    "margins": (
        "no pairs were scored, so how near the preferred answer is to the model's own is not known",
        "the probe `margins`, of a local model or by model.api=completions: it tells dpo from rlhf",
    ),
}
"""What `missing` names → what cannot be told without it, and what would make it known."""


def safe(text: str) -> str:
    """No escape sequences, no direction marks, no markup: what is left prints as it reads."""
    return escape(_printable(text))


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() or c == " " else "\ufffd" if unicodedata.category(c) != "Cf" else "" for c in text
    )


def by_gap(slices: Sequence[SliceVerdict]) -> list[SliceVerdict]:
    """The largest gap first; slices of which nothing was scored last."""
    return sorted(slices, key=lambda v: (-gap(v) if gap(v) is not None else 1.0, v.slice))  # type: ignore[operator]


def gap(v: SliceVerdict) -> float | None:
    """Posterior mean of the share of items with any gap."""
    none = v.mixture.get("none")
    return None if none is None else 1 - none


def gap_interval(v: SliceVerdict) -> Interval | None:
    """Its 90 % interval."""
    bounds = v.interval90.get("none")
    return None if bounds is None else (1 - bounds[1], 1 - bounds[0])


def interval(rate: Rate) -> str:
    """`.82 [.71, .90]`, or what is known of an empty share."""
    if rate.low is None or rate.high is None:
        return "no items"
    return f"{short(rate.k / rate.n)} [{short(rate.low)}, {short(rate.high)}]"


def short(value: float) -> str:
    """Two decimals without the leading zero, as rates are printed."""
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def chance(p: float) -> str:
    """A probability from some hundred draws is never certain."""
    return "<.01" if p < 0.005 else ">.99" if p > 0.995 else short(p)


def verdict_text(v: SliceVerdict) -> str:
    """`knowledge · latent`."""
    return f"{v.verdict} · {v.kind}" if v.kind else v.verdict


def sure(v: SliceVerdict) -> str:
    """P(verdict); a slice with too few items has none."""
    return chance(v.p_verdict) if v.p_classes else "–"


def cut(text: str, room: int) -> str:
    """A name in so many columns, without its middle: slices often share how they begin."""
    text = _printable(text)
    if cell_len(text) <= room:
        return text
    head, tail = text[: (room - 1) // 2], text[-(room // 2) :]
    while cell_len(head) + cell_len(tail) >= room:
        head, tail = head[:-1], tail[1:]
    return f"{head}…{tail}"


def some(names: Sequence[str], most: int = 4) -> str:
    """`a, b and 12 more`."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def matters(what: str, v: SliceVerdict) -> bool:
    """Would it change what is said of this slice? Where nothing grades content, the probes of content would not."""
    if what in ("context", "misfit"):
        return v.verdict in ("knowledge", "mixed")
    if what in ("constrained", "margins"):
        return v.verdict in ({"constrained": "format", "margins": "preference"}[what], "mixed")
    return what in ("content", "preference", "judge", "agreement") or "content" not in v.missing


def expected_lifts(r: Recommendation) -> Iterator[str]:
    """`.88 [.60, .99] by sft`, of what is advised and of training, each in the slice that it lifts least."""
    methods = [m for m in dict.fromkeys((r.method, r.train_method)) if m and m not in ("none", "collect_data")]
    for method in methods:
        x = r.least_lifts[method]
        yield f"{short(x['mean'])} [{short(x['low'])}, {short(x['high'])}] by {method}"


def wanted_data(r: Recommendation) -> str:
    """Training rows or items that the advice needs; empty where it needs none."""
    if r.data_needed["rows"]:
        return f"{r.data_needed['have']} training rows at hand, {r.data_needed['rows']} wanted"
    items = r.data_needed.get("items")
    return f"about {items} more items{' in all' if len(r.slices) > 1 else ''}" if items else ""
