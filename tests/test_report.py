"""What a model wrote changes nothing in the page, the Markdown or the terminal; and what was found is all there."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import planted_rows
from markdown_it import MarkdownIt
from rich.console import Console

import diagnose.report.console as console
from diagnose.config import ProbesConfig, WandbConfig
from diagnose.items.evalset import EvalSet
from diagnose.probes.missing import missing_probes
from diagnose.records import CLASSES, Answer, Diagnosis, EvalItem, Grader, Recommendation, SliceVerdict
from diagnose.report.console import show_diagnosis
from diagnose.report.html import LABELS, STEPS, TEXTS, render_markdown, render_report, visible
from diagnose.report.progress import Bars
from diagnose.report.wandb import log_diagnosis
from diagnose.report.words import MISSING, by_gap, gap, gap_interval, interval, safe
from diagnose.stats import rate

NASTY = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "\u202egnirts",
    "{{ 7*7 }}",
    "a" * 2000,
    "a | b",
    "a\\| b `c` ``` d",
    "line\n\n# heading\n| x | y |",
    "[text](javascript:x) ![i](y) <!-- @somebody -->",
]
LIFTS = {m: {"mean": 0.5, "low": 0.21, "high": 0.83} for m in ("none", "prompt", "constrained", "retrieval", "sft")}
RUN = {
    "config": {"model": {"path": "m"}, "evalset": {"path": "e"}, "rule": {"tau": 0.1}},
    "command": ["diagnose.py"], "commit": None, "seed": 0, "dirty": False, "python": "3.11", "versions": {},
    "device": "cpu", "started": "2026-01-01",
}  # fmt: skip


def slice_of(name: str, top: str = "format", share: float = 0.7, n: int = 40, **changes: Any) -> SliceVerdict:
    """A slice of which `share` is of class `top` and the rest without a gap."""
    low, high = max(0.0, share - 0.1), min(1.0, share + 0.1)
    zero = (0.0, 0.02)
    fields: dict[str, Any] = {
        "slice": name, "n": n, "verdict": top.split("_")[0], "kind": top.partition("_")[2] or None,
        "p_verdict": 0.97, "p_classes": {top.split("_")[0]: 0.97, "none": 0.03}, "needs_items": 0,
        "mixture": dict.fromkeys(CLASSES, 0.0) | {"none": 1 - share} | {top: share},
        "interval90": dict.fromkeys(CLASSES, zero) | {"none": (1 - high, 1 - low)} | {top: (low, high)},
        "strict": rate(round(n * (1 - share)), n), "lenient": rate(n, n), "content": rate(n - 1, n),
        "preferred": None, "robust": rate(7, 8),
        "waterfall": dict.fromkeys(STEPS, 0.0) | {"strict": 1 - share, "lenient": share},
        "floors": {"guess": 0.13}, "missing": (), "unread": {}, "remedy": None, "suspect": (),
        "evidence": [{"item": f"{name}-1", "probe": p, "text": f"{p} of {name}"} for p in ("prompt", "plain")],
    }  # fmt: skip
    return SliceVerdict(**fields | changes)


def advice_for(*names: str, command: str = "python train.py method=sft", **changes: Any) -> Recommendation:
    fields: dict[str, Any] = {
        "method": "prompt", "train_method": "sft", "slices": list(names), "p_verdict": 0.97, "p_best": 0.88,
        "predicted_lift": LIFTS["sft"], "lifts": dict.fromkeys(names, LIFTS), "why": "the form is wrong",
        "why_not": {"dpo": "no pairs"}, "gates": {"dpo": "veto", "reward_model": "pending"},
        "would_flip": "a `context` per item", "data_needed": {"rows": 200, "have": 60}, "cost": {}, "train_slices": [],
        "command": command,
    }  # fmt: skip
    return Recommendation(**fields | changes)


def diagnosis_of(*slices: SliceVerdict, advice: list[Recommendation] | None = None) -> Diagnosis:
    told = {"sensitivity": 0.91, "sensitivity_n": 50, "sensitivity_interval95": [0.81, 0.96]}
    told |= {"specificity": None, "specificity_n": 0, "specificity_interval95": [None, None]}
    told |= {"rejects_gold": None, "rejects_gold_n": 0, "rejects_gold_interval95": [None, None]}
    return Diagnosis(
        decision_id="d0", run=RUN, prompt_format_sha="r0",
        controls={"graders": {"json": told}, "judges": {}, "margins": {}},
        evalset={"sha256": "0" * 64, "items": sum(v.n for v in slices), "slices": len(slices), "reserved": {}},
        slices=list(slices), recommendations=[advice_for(v.slice) for v in slices] if advice is None else advice,
    )  # fmt: skip


def nasty_diagnosis(text: str) -> Diagnosis:
    """Everything that comes from a user or a model says this."""
    evidence = [{"item": text, "probe": "plain", "text": text}]
    one = slice_of(
        text, share=0.9, evidence=evidence, unread={text: 2}, suspect=(text,), missing=("context", "preference")
    )
    advice = advice_for(text, command=f"python train.py '{text}'", why=text, would_flip=text)
    found = diagnosis_of(one, slice_of("plain"), advice=[advice])
    return replace(found, run=RUN | {"command": ["diagnose.py", text], "device": text})


@pytest.mark.parametrize("text", NASTY)
def test_model_text_is_inert_in_the_page(text: str) -> None:
    page = render_report(nasty_diagnosis(text))
    assert "<script" not in page and "<img" not in page and "<!--" not in page
    assert "\x1b" not in page and "\u202e" not in page
    assert visible(text)[:80] in html.unescape(re.sub("<[^>]*>", "", page)), "shown as it reads"


@pytest.mark.parametrize("text", NASTY)
def test_model_text_is_inert_in_markdown(text: str) -> None:
    """As GitHub reads it: no row, cell, heading, link, image or tag that is not ours."""
    harmless, nasty = (render_markdown(nasty_diagnosis(t)) for t in ("harmless", text))
    assert "\x1b" not in nasty and "\u202e" not in nasty
    parser = MarkdownIt("commonmark").enable("table")
    ours, theirs = ([t.type for t in parser.parse(source)] for source in (harmless, nasty))
    assert theirs == ours
    shown = parser.render(nasty)
    assert "@somebody" not in re.sub("(?s)<code.*?</code>", "", shown), "nobody is notified"
    assert set(re.findall(r"<(\w+)", shown)) <= set(re.findall(r"<(\w+)", parser.render(harmless)))
    cell = re.search(r"<tbody>\s*<tr>\s*<td>(.*?)</td>", shown, re.S)
    name = " ".join(visible(text).split())
    assert cell and html.unescape(re.sub("<[^>]*>", "", cell[1])) == (
        name if len(name) <= 80 else console.cut(name, 80)
    )


@pytest.mark.parametrize("text", NASTY)
def test_model_text_is_inert_in_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = safe(text + "[bold]x[/bold]")
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "\\[bold]" in shown
    show_diagnosis(nasty_diagnosis(text + "[bold]x"), "report.html")
    printed = capsys.readouterr().out
    assert "\u202e" not in printed and "\x1b" not in printed and "why      " in printed
    assert printed.count("[bold]x") >= 4, "markup in a name or a reason is text"


def test_the_largest_gap_comes_first_everywhere() -> None:
    shares = {"b": 0.2, "c": 0.9, "a": 0.5}
    found = diagnosis_of(*(slice_of(f"slice_{name}", share=share) for name, share in shares.items()))
    for text in (render_report(found), render_markdown(found)):
        first = [text.index(f"slice_{name}") for name in ("c", "a", "b")]
        assert first == sorted(first)
    empty = slice_of("empty", mixture=dict.fromkeys(CLASSES), interval90={}, strict=rate(0, 0))
    assert [v.slice for v in by_gap([empty, *found.slices])][-1] == "empty"


def test_intervals_stand_beside_and_under_every_bar() -> None:
    v = slice_of("forms", share=0.7)
    page = render_report(diagnosis_of(v))
    text = html.unescape(page)
    assert interval(v.strict) in text and ".70 [.60, .80]" in text
    bar = re.search(r'<svg class="stack".*?</svg>', page, re.S)
    assert bar and 'aria-label="format .70, no gap .30; all gaps .70 [.60, .80]"' in bar[0]
    assert '<rect class="format" x="0%" width="70%"/>' in bar[0]
    assert '<rect class="w" x="60%" width="20%"/><circle cx="70%"/>' in bar[0], "the whisker of all gaps"
    assert re.search(r'<svg class="part".*?width="70%"/><rect class="w" x="60%" width="20%"/>', page)
    assert '<rect x="21%" width="62%"/><circle cx="50%"/>' in page, "the predicted lift"
    assert ".70 [.60, .80]" in render_markdown(diagnosis_of(v))


def test_classes_differ_without_colour() -> None:
    page = render_report(diagnosis_of(*(slice_of(f"s_{c}", top=c) for c in CLASSES[1:])))
    for letter, label in zip("FULASP", list(LABELS.values())[1:], strict=True):
        assert re.search(rf'<rect class="\w+" x="0%" width="70%"/><text x="35%" y="12">{letter}</text>', page)
        assert re.search(rf'aria-hidden="true">{letter}</i>{label}', page)


def test_every_advice_and_its_command_stand_in_both() -> None:
    slices = [slice_of(f"s{k}", share=0.9 - k / 10) for k in range(4)]
    commands = [f"python train.py method=sft 'data.slices=[s{k},home]'" for k in range(4)]
    found = diagnosis_of(*slices, advice=[advice_for(f"s{k}", command=c) for k, c in enumerate(commands)])
    page, text = html.unescape(render_report(found)), render_markdown(found)
    for command in commands:
        assert f"<pre>{command}</pre>" in page and f"```bash\n{command}\n```" in text
    for shown in (re.sub("</?code>", "`", page), text):
        assert "the form is wrong" in shown and "a `context` per item" in shown and "200 needed" in shown
        assert ".50" in shown and "[.21, .83]" in shown and ".88" in shown
        assert "reward" in shown and "pending until train measures it" in shown
    assert "no pairs" in page, "why not the others"


def test_all_that_can_be_missing_is_explained_in_both() -> None:
    paired = EvalItem(
        id="a", slices=("s",), turns=(("user", "x"),), targets=("a",), grader=Grader("choice"), where="",
        choices=("a", "b"), chosen="a", rejected="b", free_prompt="y",
    )  # fmt: skip
    none, pairs = (
        missing_probes(items, EvalSet(items=items, exemplars={}, sha256=""), ProbesConfig(enabled=[]), "s")
        for items in ([], [paired])
    )
    assert {*none, *pairs, "judge", "agreement", "misfit", "reading", "task"} == set(MISSING)
    wants = {"constrained": "format", "task": "format", "margins": "preference"}
    for what, (cannot, buys) in MISSING.items():
        v = slice_of("lacking", top=wants.get(what, "knowledge_absent"), missing=(what,))
        if what == "misfit":
            v = replace(v, verdict="insufficient", kind=None)
        page, text = (render(diagnosis_of(v, slice_of("x"))) for render in (render_report, render_markdown))
        page = re.sub("</?code>", "`", html.unescape(page))
        assert cannot in page and buys in page and cannot in text and buys in text
        assert any(cannot in note for note in console._notes([v]))


def test_what_else_was_measured_is_there() -> None:
    judged = {"accuracy": 0.87, "accuracy_n": 30, "accuracy_interval95": [0.71, 0.95]}
    judged |= {"position_bias": 0.11, "position_bias_n": 40, "position_bias_interval95": [0.04, 0.23]}
    ranks = {"rank_accuracy": 0.61, "rank_accuracy_n": 9, "rank_accuracy_interval95": [0.3, 0.86]}
    found = diagnosis_of(slice_of("s", unread={"too_long": 3}, preferred=rate(3, 40)))
    margins = {"s": ranks | {"by_length": dict.fromkeys(("shorter", "middle", "longer"), ranks)}}
    found = replace(found, controls=found.controls | {"judges": {"s": judged}, "margins": margins})
    page = html.unescape(render_report(found))
    for shown in (".91 [.81, .96], n 50", ".87 [.71, .95], n 30", ".11 [.04, .23], n 40", ".61 [.30, .86], n 9"):
        assert shown in page
    v = found.slices[0]
    assert v.robust and v.content
    unread = "3 did not fit the model's window"
    for shown in (interval(v.robust), interval(v.content), unread, "option in .13 of cases", "3 of 40"):
        assert shown in page


def test_a_slice_of_which_nothing_was_scored() -> None:
    empty = slice_of(
        "empty", n=0, verdict="insufficient", kind=None, p_verdict=0.0, p_classes={}, needs_items=16, waterfall={},
        mixture=dict.fromkeys(CLASSES), interval90={}, strict=rate(0, 0), lenient=rate(0, 0), evidence=[],
        content=None, unread={"too_long": 9},
    )  # fmt: skip
    found = diagnosis_of(empty, advice=[advice_for("empty", method="collect_data", train_method=None)])
    page, text = render_report(found), render_markdown(found)
    assert "nothing scored" in page and "needs about 16 more items" in page and "needs about 16 more items" in text
    assert "no items" in page and ">0.00" not in page and "nan" not in page.lower()
    assert "The mixture" not in page, "there is none"


def test_a_step_that_nobody_asked_does_not_stand_in_the_waterfall_as_a_failure() -> None:
    asked, unasked = (render_report(diagnosis_of(slice_of("s", missing=missing))) for missing in ((), ("context",)))
    assert "right with the oracle context" in asked and "right with the oracle context" not in unasked


def test_texts_stand_side_by_side_and_long_ones_are_whole() -> None:
    long = " ".join(f"word{k}" for k in range(60))
    rows = [
        {"item": "i", "probe": p, "text": t} for p, t in (("prompt", "why?"), ("plain", long), ("oracle_context", ""))
    ]
    rows[1]["read"] = "wrong"
    page = render_report(diagnosis_of(slice_of("s", evidence=rows)))
    row = page[page.index('<th scope="row" class="name">i</th>') :].split("</tr>")[0]
    assert [m for m in re.findall(r'data-h="(\w+)"', row)] == ["prompt", "plain", "oracle_context"]
    assert re.sub("<[^>]*>", "", row.split('data-h="plain">')[1].split("</td>")[0]) == f"{long}✗ wrong"
    assert "(empty)" in row


def test_the_page_of_10000_items_stays_small() -> None:
    """A page grows with the slices and not with their items; a pull request takes 65,536 characters."""
    texts = [
        {"item": f"i{k}", "probe": p, "text": "<&" * 250}
        for k in range(2)
        for p in ("prompt", "plain", "oracle_context")
    ]
    many = [
        slice_of(f"slice_{k:03}", CLASSES[1 + k % 5], n=33, evidence=texts, missing=("ranked",)) for k in range(300)
    ]
    advice = [advice_for(*(v.slice for v in many[k::5])) for k in range(5)]
    found = diagnosis_of(*many, advice=advice)
    page = render_report(found)
    assert len(page.encode()) < 2_000_000 + 5 * TEXTS
    assert len(render_report(replace(found, slices=[replace(v, n=10 * v.n) for v in many]))) < 1.01 * len(page)
    assert '<details class="slice">' in page and "diagnosis.json" in page
    assert len(render_markdown(found)) < 65_536
    few = [slice_of(f"slice_{k:02}", n=250) for k in range(40)]
    assert len(render_report(diagnosis_of(*few)).encode()) < 400_000


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "Console", lambda **_: Console(width=width))
    names = [
        "short",
        "customer_support/en/refunds_and_returns/escalated_a",
        "customer_support/en/refunds_and_returns/z",
    ]
    slices = [slice_of(name, "knowledge_unresolved", share=0.9 - k / 10) for k, name in enumerate(names)]
    unsure = slice_of("unsure", verdict="insufficient", needs_items=120, share=0.1)
    slices = [replace(v, mixture=slice_of("x").mixture, p_verdict=0.999) for v in slices]
    show_diagnosis(diagnosis_of(*slices, unsure, advice=[advice_for(*names)]), "out/report.html")
    lines = capsys.readouterr().out.splitlines()
    table = lines[1:6]
    assert table[0].split()[0] == "slice" and all(len(line) <= width for line in table)
    assert [line.split()[0][:5] for line in table[1:]] == ["custo", "custo", "short", "unsur"]
    assert table[1] != table[2] and "ated_a" in table[1], "the end of a name tells slices apart"
    assert all(len(line) <= width for line in lines if "python" not in line)
    assert "[.70, .90]" in table[1] and ">.99" in table[1] and "+120" in table[4]
    assert lines[-1].startswith("next") and "python train.py method=sft" in lines[-1]


def test_progress_counts_what_is_known_of_a_slice(capsys: pytest.CaptureFixture[str]) -> None:
    items = [
        EvalItem(id=f"q{k}", slices=("s", "all") if k else ("all",), turns=(("user", "?"),), targets=("x",),
                 grader=Grader("exact"), where="f:1")
        for k in range(3)
    ]  # fmt: skip
    bars = Bars(items=items)
    read = {"q0": (True, True), "q1": (False, True), "q2": (False, False)}
    bars.saw(
        Answer(probe="plain", item=i, draw=0, prompt="", text="", strict=s, lenient=c) for i, (s, c) in read.items()
    )
    bars.saw(
        Answer(probe=p, item="q2", draw=0, prompt="", text="", strict=False, lenient=True)
        for p in ("oracle_context", "few_shot")
    )
    one, both = bars.tallies["s"], bars.tallies["all"]
    assert (one.items, one.asked, one.right, one.content) == (2, 2, 0, 1)
    assert (both.items, both.asked, both.right, both.content) == (3, 3, 1, 2)
    assert both.recoveries() == "oracle_context 1", "few_shot repairs the form or nothing"
    bars.settled(slice_of("s[bold]"))
    assert "decided    s[bold]: format, P .97, 40 items asked" in capsys.readouterr().err


class Clock:
    """Tells the time that a test has set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_the_time_left_is_shown_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bars = Bars("run", clock=clock)

    def line(now: float, done: int) -> str:
        clock.now = now
        bars("samples", done, 1000)
        return " ".join(capsys.readouterr().err.split())

    assert line(5, 400) == line(25, 410) == ""
    # Of 1000, 400 were on disk: 20 in 30 s, then 61 in 61 s.
    assert line(35, 420) == "run samples 420/1000 answers, 0:00:30 elapsed, about 0:14:30 left for this probe"
    assert line(50, 430) == "", "no more often than every 30 s"
    assert line(66, 461) == "run samples 461/1000 answers, 0:01:01 elapsed, about 0:08:59 left for this probe"
    assert line(70, 1000) == "run samples 1000 answers"
    assert line(140, 0) == "run samples 0/1000 answers, 0:00:00 elapsed, time left not known yet for this probe"


def test_with_a_terminal_the_bars_show_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock = Clock()
    bars = Bars(clock=clock)
    for done in (0, 10, 20):
        clock.now = float(done)
        bars("plain", done, 80)
    shown = Console(width=100, force_terminal=False, no_color=True)
    with shown.capture() as text:
        shown.print(bars.progress.get_renderable())
    assert "0:00:20 0:01:00" in text.get(), "elapsed and left"


def test_wandb_holds_tables_report_and_advice_and_nothing_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = diagnosis_of(slice_of("forms", missing=("preference",)), slice_of("fine", "none", 1.0))
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text(render_report(found))
    (out / "report.md").write_text(render_markdown(found))
    log_diagnosis(WandbConfig(mode="offline"), found, out)
    import wandb

    wandb.teardown()  # as at the end of a process: until then the service may hold the record back
    (run,) = (out / "wandb").glob("offline-run-*")
    tables = {p.name.split("_")[0]: json.loads(p.read_text()) for p in (run / "files/media/table").glob("*.json")}
    (forms,) = [
        dict(zip(tables["slices"]["columns"], row, strict=True))
        for row in tables["slices"]["data"]
        if row[0] == "forms"
    ]
    assert (forms["verdict"], forms["n"], forms["p_verdict"]) == ("format", 40, 0.97)
    assert [round(forms[k], 2) for k in ("gap", "gap_low", "gap_high")] == [0.7, 0.6, 0.8]
    assert forms["strict_low"] < forms["strict"] < forms["strict_high"]
    assert ["forms", "format", 0.7, 0.6, 0.8] in [
        [*r[:2], *(round(x, 2) for x in r[2:])] for r in tables["mixtures"]["data"]
    ]
    for name in ("report.html", "report.md"):
        copy = run / "files" / name
        assert copy.read_bytes() == (out / name).read_bytes() and not copy.is_symlink()
    record = next(run.glob("*.wandb")).read_bytes()
    for key in ("forms/method", "forms/train_method", "forms/lift", "python train.py method=sft"):
        assert key.encode() in record
    assert not (tmp_path / "home").exists()


def test_a_real_diagnosis_renders(diagnose_scripted: Any) -> None:
    found = diagnose_scripted(planted_rows({"healthy": ["none"] * 30, "unknown": ["absent"] * 30}))
    assert "NaN" not in found.to_json()
    found = replace(found, run=RUN)
    page, text = render_report(found), render_markdown(found)
    for v in found.slices:
        assert v.slice in page and v.verdict in page and f"`{v.slice}`" in text
        bounds = gap_interval(v)
        assert bounds and 0 <= bounds[0] <= (gap(v) or 0) <= bounds[1] <= 1
    for r in found.recommendations:
        assert r.method in page and r.would_flip.split(":")[0][:20] in re.sub("</?code>", "`", html.unescape(page))
    assert "http" not in re.sub(r"http-equiv", "", page) and "default-src 'none'" in page and "<script" not in page
