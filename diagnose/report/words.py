"""How numbers, names and verdicts read, in the terminal and in the reports alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.markup import escape

from diagnose.advice.wording import reasons
from diagnose.probes.table import TABLE
from diagnose.records import Interval, Rate, Recommendation, SliceVerdict

MISSING = {
    "content": (
        "nothing grades content, so only preference can be measured",
        "a `target` with a grader: it makes format and knowledge gaps visible",
    ),
    "format": (
        "the grader cannot recognise correct content in another format, so a format gap cannot be detected",
        "a grader with two readings, such as `exact` or `json`: it makes a format gap visible",
    ),
    **{entry.missing: (entry.unknown_without, entry.would_show) for entry in TABLE if entry.missing},
    "judge": (
        "the judge does not prefer what people chose, so a preference gap cannot be claimed",
        "a judge that picks chosen over rejected more often than chance: `judge.path` or the row's grader",
    ),
    "agreement": (
        "annotators do not agree on what is better, so a preference gap cannot be claimed",
        "a guideline that annotators apply consistently (Krippendorff's alpha of at least rule.agreement)",
    ),
    "reading": (
        "no context made any answer right, so nothing shows that the model reads contexts, and absent facts and a "
        "missing skill cannot be distinguished",
        "a slice whose questions are answered in their contexts: it shows whether the model reads contexts",
    ),
    "task": (
        "the prompt does not say what is wanted, so nothing is known of a model that is told",
        "a prompt that states the task",
    ),
    "misfit": (
        "no kind of gap explains what all probes saw, so none is named",
        "the prompt format (chat template, stop strings) or refusals: look at the answers, fix what is wrong and rerun",
    ),
}
"""What `missing` names → what cannot be shown without it, and what it would take."""
MATTERS_FOR = {e.missing: e.matters_for for e in TABLE if e.missing and e.matters_for} | {
    "misfit": ("insufficient",),
    "reading": ("knowledge", "mixed"),
    "task": ("format",),
}
"""Verdicts beside which it matters that this is missing; others: all."""


def safe(text: str) -> str:
    """No escape sequences, no direction marks, no markup."""
    return escape(one_line(text))


def one_line(text: str) -> str:
    """No escape sequences, no direction marks, no line breaks."""
    return "".join(
        c if c.isprintable() or c == " " else "\ufffd" if unicodedata.category(c) != "Cf" else "" for c in text
    )


def by_gap(slices: Sequence[SliceVerdict]) -> list[SliceVerdict]:
    """The largest gap first; slices in which nothing was read last."""
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
    """P(verdict); a slice with too few items, or whose answers no kind of gap explains, has none."""
    return chance(v.p_verdict) if v.p_classes else "–"


def cut(text: str, room: int) -> str:
    """A name in so many columns, without its middle: slices often share how they begin."""
    text = one_line(text)
    if cell_len(text) <= room:
        return text
    head, tail = text[: (room - 1) // 2], text[-(room // 2) :]
    while cell_len(head) + cell_len(tail) >= room:
        head, tail = head[:-1], tail[1:]
    return f"{head}…{tail}"


def mostly_unread(v: SliceVerdict) -> str:
    """`14 of 16 answers are unread: 14 were cut off …; model.max_new_tokens=64`; empty where few are."""
    if v.remedy is None:
        return ""
    lost = sum(v.unread.values())
    return f"{lost} of {v.n + lost} answers are unread: {reasons(v.unread)}; look at: {v.remedy}"


def some(names: Sequence[str], most: int = 4) -> str:
    """`a, b and 12 more`."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def matters(what: str, v: SliceVerdict) -> bool:
    """Would it change what is reported of this slice? Where nothing grades content, its probes would not."""
    if what in MATTERS_FOR:
        return v.verdict in MATTERS_FOR[what]
    return what in ("content", "preference", "judge", "agreement") or "content" not in v.missing


def expected_lifts(r: Recommendation) -> Iterator[str]:
    """`sft .88 [.60, .99]`, of what is advised and of training, each in the slice that it lifts least."""
    methods = [m for m in dict.fromkeys((r.method, r.train_method)) if m and m not in ("none", "collect_data")]
    for method in methods:
        x = r.least_lifts[method]
        yield f"{method} {short(x['mean'])} [{short(x['low'])}, {short(x['high'])}]"


def wanted_data(r: Recommendation) -> str:
    """Training rows or items that the advice needs; empty where it needs none."""
    if r.data_needed["rows"]:
        return f"{r.data_needed['have']} training rows available, {r.data_needed['rows']} needed"
    items = r.data_needed.get("items")
    return f"about {items} more items{' in all' if len(r.slices) > 1 else ''}" if items else ""
