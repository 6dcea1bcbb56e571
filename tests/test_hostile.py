"""What a model or a file says can be of any size and mean anything; it is graded, shown and printed as text."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import planted_rows, run_verb

from diagnose.errors import BadInput
from diagnose.grading.grade import grade
from diagnose.grading.grader import parse_grader
from diagnose.records import EvalItem
from diagnose.text import printable

# ---------------------------------------------------------------- what a model says, while it is read


def item(kind: str, target: str, **more: Any) -> EvalItem:
    asked = (("user", "What is it?"),)
    grader = parse_grader({"kind": kind} | more, "f:1")
    return EvalItem(id="a", slices=("s",), turns=asked, targets=(target,), grader=grader, where="f:1")


@pytest.mark.parametrize("text", [".", "-", "{", "[", "a.", "/:", "1,", "or "])
@pytest.mark.parametrize(("kind", "target"), [("exact", "Oakford"), ("number", "3"), ("json", '{"a": 1}')])
def test_a_megabyte_of_anything_is_graded_at_once(kind: str, target: str, text: str) -> None:
    """Base models that found no end repeat themselves; time may not grow with the square of that."""
    started = time.process_time()
    assert grade(item(kind, target), text * (2**20 // len(text))).strict in (False, None)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("depth", [200, 900, 5000])
def test_an_answer_nested_too_deeply_is_wrong_and_no_crash(depth: int) -> None:
    tree = {"anyOf": [{"type": "number"}, {"type": "array", "items": {"$ref": "#"}}]}
    parse_grader({"kind": "json", "schema": tree}, "f:1")
    nested = "[" * depth + "1" + "]" * depth
    assert grade(item("json", "[[1]]", schema=tree), "[[1]]").strict is True
    assert grade(item("json", "[[1]]", schema=tree), nested).strict is False


def test_a_schema_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: fetched.append(a))
    with pytest.raises(BadInput, match="http://somewhere/else"):
        parse_grader({"kind": "json", "schema": {"items": {"$ref": "http://somewhere/else"}}}, "f:1")
    assert not fetched


# ---------------------------------------------------------------- hostile texts in the terminal and in the page

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><iframe src=//x></iframe>"
    "</td></table></div><h1 onclick=x>big</h1><style>body{display:none}</style><!-- <a href='javascript:x'>\"'&amp;&lt;"
    f"\x1b[31mred\x1b[0m\x1b]8;;x\x07\x9b2J\r\x00{BIDI}{INVISIBLE}[bold red]b[/bold red][/]"
)
HARMLESS = "".join(c if c.isalnum() or c.isspace() else "x" for c in HOSTILE)
"""Of the same length, with its spaces in the same places: what is cut by length is cut alike."""
MARK = "SLICE"


def swapped(value: Any, old: str, new: str) -> Any:
    """Any record with a text replaced in every text of it, names of keys included."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: swapped(getattr(value, f.name), old, new) for f in fields(value)})
    if isinstance(value, dict):
        return {swapped(k, old, new): swapped(v, old, new) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(swapped(v, old, new) for v in value)
    return value.replace(old, new) if isinstance(value, str) else value


@pytest.fixture
def diagnosis_of(diagnose_scripted: Any) -> Callable[[str], Any]:
    """A diagnosis in which a text stands wherever a user's or a model's text can stand."""
    found = diagnose_scripted(planted_rows({MARK: ["absent"] * 20, f"{MARK} two": ["format"] * 20}))
    model = {"path": MARK, "kind": "hf", "name": MARK}
    run: dict[str, Any] = {"config": {"model": model, "evalset": {"path": MARK}, "rule": {"tau": 0.1}}}
    run |= {"command": ["diagnose.py", f"evalset.path={MARK}"], "commit": None, "seed": 0, "dirty": False}
    run |= {"python": "3.11", "versions": {}, "device": "cpu", "started": "2026-01-01", "prompt_format": {}}
    texts = {"plain": MARK + "a" * 2**20, "prompt": MARK, "wanted": MARK}
    evidence = [{"item": MARK, "probe": probe, "text": text} for probe, text in texts.items()]
    slices = [replace(v, unread={MARK: 3}, evidence=evidence + v.evidence) for v in found.slices]
    assert any(MARK in text for v in found.slices for row in v.evidence for text in row.values())
    return lambda text: swapped(replace(found, run=run, slices=slices), MARK, text)


class Elements(HTMLParser):
    """What a page consists of, and what it says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.handlers: list[str] = []
        self.said: list[str] = []
        self.title = page.partition("<title>")[2].partition("</title>")[0]
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.handlers += [n for n, value in attrs if n.startswith("on") or (value or "").startswith("javascript")]

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def dumped(browser: str, page: str, folder: Path) -> Elements:
    """The page's elements after a browser has read it."""
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    quiet = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"]
    flags = ["--headless", "--no-sandbox", "--disable-sync", *(f"--{flag}" for flag in quiet)]
    command = [browser, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "</html>" in done.stdout, done.stderr[-2000:]
    return Elements(done.stdout)


def test_hostile_texts_make_no_element_in_a_browser(diagnosis_of: Callable[[str], Any], tmp_path: Path) -> None:
    from diagnose.report.html import render_report

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    hostile, harmless = (dumped(browser, render_report(diagnosis_of(t)), tmp_path) for t in (HOSTILE, HARMLESS))
    assert hostile.tags == harmless.tags
    assert "script" not in hostile.tags and not hostile.handlers and hostile.title == harmless.title
    text = "".join(hostile.said)
    assert "<script>document.title='owned'</script>" in text and "</td></table></div><h1 onclick=x>big</h1>" in text
    assert not set("\x1b\x07\x9b\x00" + BIDI + "\u200b\u2060\ufeff") & set(text)
    assert text.count("a" * 500) == "".join(harmless.said).count("a" * 500)


def test_hostile_texts_do_nothing_in_the_terminal(
    diagnosis_of: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from diagnose.report.console import show_diagnosis

    shown = {}
    for name, text in (("hostile", HOSTILE), ("harmless", HARMLESS)):
        show_diagnosis(diagnosis_of(text), "report.html")
        out, err = capsys.readouterr()
        shown[name] = out + err
    assert not set("\x1b\x07\x9b\x00\r" + BIDI + INVISIBLE) & set(shown["hostile"])
    assert max(map(len, shown["hostile"].splitlines())) < 10_000, "no endless line"
    assert "[bold red]" in shown["hostile"] and "document.title" in shown["hostile"], "shown as it reads"


def test_messages_about_hostile_files_do_nothing_in_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_bytes(json.dumps({HOSTILE: 1, "a" * 2**20: 2}).encode())
    done = run_verb("diagnose", f"evalset.path={tmp_path / 'set.jsonl'}", f"out={tmp_path / 'out'}")
    assert done.returncode == 2 and "no prompt and no messages; found: <script>" in done.stderr
    assert not set("\x1b\x07\x9b\x00\r" + BIDI + INVISIBLE) & set(done.stderr)
    assert len(done.stderr) < 5000
    assert printable("a\tb\nc") == "a\tb\nc"
