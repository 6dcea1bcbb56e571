"""The diagnosis for people: report.html (one file, no network, no scripts), and report.md to paste into a pull request.

Everything a model or a user wrote is escaped by default in both. A leaf: results go in, texts come out.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from diagnose.advice.wording import MEANINGS, misfit, reasons
from diagnose.probes.table import TABLE, Probe
from diagnose.records import CLASSES, Diagnosis, Interval, Rate, Recommendation, SliceVerdict
from diagnose.report.words import (
    MISSING,
    by_gap,
    chance,
    cut,
    expected_lifts,
    gap,
    gap_interval,
    interval,
    matters,
    mostly_unread,
    short,
    sure,
    verdict_text,
    wanted_data,
)

HERE = Path(__file__).resolve().parent
LABELS = dict(
    zip(
        CLASSES,
        (
            *("no gap", "format", "format · suppressed"),
            *("knowledge · latent", "knowledge · absent", "knowledge · skill"),
            "preference",
        ),
        strict=True,
    )
)
UNNAMED = "unnamed"
"""What a bar shows of a gap that is of no kind."""
LETTERS = dict(zip(CLASSES, "NFULASP", strict=True)) | {UNNAMED: "?"}
"""Distinguishable without colour."""
STEPS: dict[str, str] = {
    "strict": "right as asked",
    "lenient": "right content, wrong format",
    **{entry.probe: entry.step[0] for entry in TABLE if entry.step},
    "rest": "never right",
}
COLUMNS: dict[str, str] = {
    "prompt": "what it is asked",
    "wanted": "what it should answer",
    **{entry.probe: entry.label for entry in TABLE if entry.label},
    Probe.SELF_PAIRS: "its first sample",
}
READ = {"strict": "✓ right", "lenient": "◐ right content", "wrong": "✗ wrong"}
FLOORS: dict[str, str] = {
    "guess": "a guess hits any one given option in {} of cases",
    Probe.FEW_SHOT: "few-shot examples in the model's own format bring the wanted format in {}",
    "few_shot_content": "few-shot examples in the model's own format recover missing content in {}",
    Probe.ORACLE_CONTEXT: "another item's context of similar length recovers missing content in {}",
    "follows_swap": "a context with its answer swapped is followed in {}: so often it is read, not recalled",
    Probe.SELF_PAIRS: "of two own samples, one loses to the other in {}",
}
METHODS = {
    "none": "nothing to do",
    "prompt": "few-shot examples in the prompt",
    "constrained": "constrained decoding",
    "retrieval": "retrieval",
    "collect_data": "collect data",
    "sft": "SFT",
    "dpo": "DPO",
    "sft_dpo": "SFT, then DPO",
    "rlhf": "reward-model RLHF",
    "rlvr": "RL on graded answers",
}
OPEN = 8
"""With more slices than this their details start closed."""
TEXTS = 400_000
"""Characters of model text in one page; the slices with the largest gaps come first, the rest is in diagnosis.json."""
LONG = 160
"""Longer texts show their beginning until they are opened."""
MARKDOWN_ROWS = 100


def environment(folder: Path) -> Environment:
    """Jinja with escaping always on and our number formats."""
    env = Environment(
        loader=FileSystemLoader(folder), autoescape=select_autoescape(default=True), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {"short": short, "visible": visible}
    return env


def visible(text: str) -> str:
    """Control and direction characters shown as symbols, so that a model's text cannot reorder or hide the page's."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def render_report(diagnosis: Diagnosis) -> str:
    """The whole page."""
    env = environment(HERE)
    env.filters |= {"chance": chance, "pct": _pct, "prose": _prose, "interval": interval}
    return env.get_template("report.html.j2").render(_view(diagnosis))


def render_markdown(diagnosis: Diagnosis) -> str:
    """The same in short: verdicts, advice, commands, and what is missing."""
    env = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, finalize=_inert, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    numbers = {"short": short, "chance": chance, "interval": interval}
    env.filters |= {name: _marked(show) for name, show in numbers.items()}
    env.filters |= {"own": Markup, "code": _code, "codes": _codes, "block": _block, "prose": _markdown_prose}
    return env.get_template("report.md.j2").render(_view(diagnosis) | {"rows": MARKDOWN_ROWS})


def _view(d: Diagnosis) -> dict[str, Any]:
    """What both templates show."""
    ordered = by_gap(d.slices)
    affordable, by_name = _affordable(ordered), {v.slice: v for v in ordered}
    model, evalset = d.run["config"]["model"], d.run["config"]["evalset"]
    return {
        "d": d,
        "model": model.get("path") or model.get("name") or model.get("kind"),
        "evalset": evalset["path"],
        "command": "python " + " ".join(shlex.quote(part) for part in d.run["command"]),
        "counts": Counter(v.verdict for v in ordered).most_common(),
        "tau": d.run["config"].get("rule", {}).get("tau"),
        "slices": [_slice_view(v, k, k < affordable) for k, v in enumerate(ordered)],
        "advice": [_advice_view(r, by_name[r.slices[0]]) for r in d.recommendations],
        "reserved": sum(len(kept) for kept in d.evalset.get("reserved", {}).values()),
        "missing": _missing(ordered),
        "unread": [(v.slice, said) for v in ordered if (said := mostly_unread(v))],
        "open": len(ordered) <= OPEN,
        "labels": LABELS,
        "letters": LETTERS,
        "meanings": MEANINGS,
        "steps": STEPS,
        "probes": COLUMNS,
        "reads": READ,
        "methods": METHODS,
    }


# ---------------------------------------------------------------- one slice


def _affordable(slices: list[SliceVerdict]) -> int:
    """The telling items of so many slices have room in the page."""
    sizes = accumulate(sum(len(row["text"]) for row in v.evidence) for v in slices)
    return sum(size <= TEXTS for size in sizes)


def _slice_view(v: SliceVerdict, k: int, with_items: bool) -> dict[str, Any]:
    bounds = gap_interval(v)
    return {
        "v": v,
        "id": f"s{k}",
        "verdict": verdict_text(v),
        "chip": _chip(v),
        "p": sure(v),
        "gap": gap(v),
        "bounds": bounds,
        "gap_text": _span(gap(v), bounds),
        "largest": _largest(v),
        "stack": _stack(v),
        "aria": _spoken(v),
        "parts": [] if misfit(v) else [(c, _label(c, v), v.mixture.get(c), v.interval90.get(c)) for c in CLASSES],
        "fall": _fall(v),
        "facts": _facts(v),
        "floors": [FLOORS.get(name, f"{name}: {{}}").format(short(rate)) for name, rate in v.floors.items()],
        # That no kind is reported is said where it holds: beside a gap of knowledge.
        "missing": [MISSING[what] for what in v.missing if what != "misfit" or matters(what, v)],
        "items": _by_item(v.evidence) if with_items else {},
        "columns": _columns(v.evidence),
        "left_out": bool(v.evidence) and not with_items,
    }


def _chip(v: SliceVerdict) -> str:
    """The class whose colour and letter are shown beside the verdict; where there is no single class, a letter."""
    name = f"{v.verdict}_{v.kind}" if v.kind else v.verdict
    if name in CLASSES or v.verdict in CLASSES:
        return name if name in CLASSES else v.verdict
    return {"mixed": "M", "knowledge": "K"}.get(v.verdict, "?")


def _label(c: str, v: SliceVerdict) -> str:
    both = c == "knowledge_absent" and v.mixture.get(c) is not None and v.mixture.get("knowledge_skill") is None
    return "knowledge · absent or skill" if both else LABELS[c]


def _stack(v: SliceVerdict) -> list[tuple[str, float, float]]:
    """(class, start, width): gaps from the left, so that the interval of all of them is where they end."""
    shares = {c: v.mixture.get(c) or 0.0 for c in (*CLASSES[1:], "none")}
    if misfit(v):
        shares = {UNNAMED: gap(v) or 0.0, "none": shares["none"]}
    out, at = [], 0.0
    for c, share in shares.items():
        if share >= 0.0005:
            out.append((c, at, share))
        at += share
    return out


def _spoken(v: SliceVerdict) -> str:
    """The stacked bar in words."""
    names = LABELS | {UNNAMED: "a gap of no known kind"}
    parts = [f"{names[c]} {short(share)}" for c, _, share in sorted(_stack(v), key=lambda s: -s[2]) if share >= 0.005]
    return f"{', '.join(parts)}; all gaps {_span(gap(v), gap_interval(v))}"


def _span(mean: float | None, bounds: Interval | None) -> str:
    return "–" if mean is None or bounds is None else f"{short(mean)} [{short(bounds[0])}, {short(bounds[1])}]"


def _largest(v: SliceVerdict) -> str:
    """The two largest gaps with their intervals."""
    if misfit(v):
        return "–"
    parts = sorted(((v.mixture.get(c) or 0.0, c) for c in CLASSES[1:] if c in v.interval90), reverse=True)[:2]
    shown = [f"{_label(c, v)} {_span(share, v.interval90[c])}" for share, c in parts if share >= 0.05]
    return "; ".join(shown) or "–"


def _fall(v: SliceVerdict) -> list[tuple[str, str, float, float]]:
    """(step, label, start, share): each bar begins where the last one ended; steps that nobody asked are left out."""
    unasked = {entry.probe for entry in TABLE if entry.missing in v.missing}
    out, at = [], 0.0
    for name, share in v.waterfall.items():
        if name in unasked and not share:
            continue
        out.append((name, STEPS[name], at, share))
        at += share
    return out


def _facts(v: SliceVerdict) -> list[tuple[str, str]]:
    """What else was measured, in words."""
    facts = [("right as asked (strict)", _counted(v.strict)), ("right content (lenient)", _counted(v.lenient))]
    if v.content:
        facts.append(("right content, whatever the reader misses", interval(v.content)))
    if v.without_demand:
        facts.append(("failures with the content, asked without the format demand", _counted(v.without_demand)))
    if v.preferred:
        facts.append(("at least as preferred as the reference", _counted(v.preferred)))
    if v.robust:
        facts.append(("paraphrases graded like the original", _counted(v.robust)))
    if v.p_classes:
        ranked = sorted(v.p_classes.items(), key=lambda pair: -pair[1])
        facts.append(("P of each verdict", ", ".join(f"{name} {chance(p)}" for name, p in ranked if p >= 0.005)))
    if v.suspect:
        facts.append(
            (
                "suspect reference answers",
                f"{len(v.suspect)} items, left out of the mixture: {', '.join(v.suspect[:8])}",
            )
        )
    if v.unread:
        facts.append(("unread answers, in no rate", f"{sum(v.unread.values())}: {reasons(v.unread)}"))
    return facts


def _counted(rate: Rate) -> str:
    return f"{interval(rate)}, {rate.k:.0f} of {rate.n}" if rate.n else "no items"


def _by_item(evidence: list[dict[str, str]]) -> dict[str, dict[str, dict[str, str]]]:
    """item → probe → what came back, cut where it is long."""
    out: dict[str, dict[str, dict[str, str]]] = {}
    for row in evidence:
        out.setdefault(row["item"], {}).setdefault(row["probe"], _clamped(row))
    return out


def _columns(evidence: list[dict[str, str]]) -> list[str]:
    """The probes that were asked of any of them, in the order of the table."""
    asked = {row["probe"] for row in evidence}
    return [p for p in COLUMNS if p in asked] + sorted(asked - set(COLUMNS))


def _clamped(row: dict[str, str]) -> dict[str, str]:
    text = visible(row["text"])
    at = LONG if len(text) <= LONG else max(text.rfind(" ", LONG // 2, LONG), LONG // 2)
    return {"head": text[:at], "rest": text[at:], "read": row.get("read", "")}


def _missing(slices: list[SliceVerdict]) -> list[tuple[list[str], str, str]]:
    """(slices, what cannot be shown, what it would take)."""
    out = []
    for what, (cannot, buys) in MISSING.items():
        names = [v.slice for v in slices if what in v.missing and matters(what, v)]
        if names:
            out.append((names, cannot, buys))
    return out


# ---------------------------------------------------------------- one recommendation


def _advice_view(r: Recommendation, v: SliceVerdict) -> dict[str, Any]:
    """`v`: one of its slices; they share the verdict."""
    shown = r.train_method or r.method
    plotted = r.train_method is not None or r.method not in ("none", "collect_data")
    return {
        "r": r,
        "verdict": verdict_text(v),
        "chip": _chip(v),
        "plotted": plotted,
        "expected": ", ".join(expected_lifts(r)),
        "data": wanted_data(r),
        "lifts": _lifts(r, shown) if plotted else [],
        # What is asked for then is no data: the answers could not be read, or contradict each other.
        "do": "fix first" if r.command.startswith("# fix") else METHODS[r.method],
        "pending": [m for m, state in r.gates.items() if state == "pending"],
    }


def _lifts(r: Recommendation, shown: str) -> list[tuple[str, str, dict[str, float]]]:
    """(method, role, lift) of every method that is not ruled out, each in the slice that it lifts least."""
    lifts = r.least_lifts
    if shown not in lifts:
        return []
    vetoed = {"rlhf" if m == "reward_model" else m for m, state in r.gates.items() if state != "pending"}
    roles: dict[str, str] = {r.train_method: "if you train"} if r.train_method else {}
    roles[r.method] = "advised"
    rest = [m for m in lifts if m not in vetoed and m not in roles and m != "none"]
    ordered = [m for m in roles if m in lifts][::-1] + sorted(rest, key=lambda m: -lifts[m]["mean"])
    return [(m, roles.get(m, ""), lifts[m]) for m in ordered]


# ---------------------------------------------------------------- texts, by format


def _pct(share: float) -> str:
    """A length in a plot."""
    return f"{100 * min(max(share, 0.0), 1.0):.1f}".removesuffix(".0") + "%"


def _prose(text: str) -> Markup:
    """Our own sentences: escaped as well, with `names` as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))


def _inert(value: Any) -> Any:
    """Every character of a text that Markdown or HTML would act on, escaped; what a filter has marked stays."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = re.sub(r"\s+", " ", visible(value))
    # A space of no width, because neither a backslash nor an entity keeps GitHub from notifying somebody.
    return re.sub(r"([\\`*_{}\[\]<>|#~$&!])", r"\\\1", text).replace("@", "@&#8203;")


def _marked(show: Any) -> Any:
    return lambda value: Markup(show(value))


def _code(text: str) -> Markup:
    """A name as code on one line; a name that would end the code or the table cell, as entities."""
    text = cut(" ".join(visible(text).split()), 80) or "–"
    if not re.search(r"[`|\\]", text):
        return Markup(f"`{text}`")
    return Markup("<code>" + re.sub(r"[^\w\s-]|_", lambda m: f"&#{ord(m[0])};", text) + "</code>")


def _codes(names: Iterable[str], most: int = 6) -> Markup:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return Markup(", ".join(_code(name) for name in names[:most]) + more)


def _block(command: str) -> Markup:
    """A fenced block that nothing inside can end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", command)), default=0))
    return Markup(f"{fence}bash\n{visible(command)}\n{fence}")


def _markdown_prose(text: str) -> Markup:
    """Our own sentences: escaped as well, with `names` as code."""
    parts = re.split(r"`([^`]+)`", text)
    return Markup("".join(_code(part) if k % 2 else _inert(f"{part}") for k, part in enumerate(parts)))
