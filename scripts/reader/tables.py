"""The scores of readers as Markdown: all of them, ten lines for the README, and what a terminal shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from scripts.reader.scores import ALL, RIVALS

START, END = "<!-- bench_reader: written by python -m scripts.bench_reader -->", "<!-- /bench_reader -->"
INTRO = """# How well the reader reads

Each answer has a known reading: people judged it (EVOUNA), its authors flagged it (GSM8K), or it is a row of ours. The
lenient reading of `diagnose` is compared with that, beside two simple rivals: `contained`, a gold answer is in the
answer, both normalised as SQuAD does; and `stemmed`, the stems of all content words of a gold answer are in the answer.

- sensitivity: of the right answers that were READ, the share found. Unread is never wrong.
- found: of ALL right answers, those left unread included, the share found. The rivals leave nothing unread: compare
  their sensitivity with this.
- specificity: of the wrong answers that were read, the share not taken for right.
- unread right, unread wrong: of all right (wrong) answers, the share left unread. A person calls an empty answer wrong,
  the reader unread.
- declined: of the answers that give nothing to read (refused, empty, cut off, …), the share left unread.

Intervals are 95 %, Jeffreys at the effective sample size: answers to one question are one cluster. GSM8K's solutions
all end on a line of their own with the number, so only wrong numbers on the way to it can mislead. Our own rows are
cases that we thought of, not a sample of anything: the first set was in view while the reader was written, the second
was not. An answer of ours that was cut off should be left unread, by rule.
"""
NAMES = {
    "own rows, seen": "own rows, in view",
    "GSM8K example solutions": "GSM8K solutions",
    "EVOUNA Natural Questions": "EVOUNA NQ",
    "EVOUNA TriviaQA (never tuned on)": "EVOUNA TriviaQA, never tuned on",
}
SHARES = ("sensitivity", "found", "specificity", "unread_right", "unread_wrong", "declined")
Found = dict[str, Any]


def markdown(found: Found) -> str:
    """Every group, by block."""
    lines = [INTRO, f"`{found['command']}` at {found['commit'][:7]}{', dirty' if found['dirty'] else ''}, "
                    f"{found['seconds']} s on {found['machine']['cpu']}."]  # fmt: skip
    for block in dict.fromkeys(s["block"] for s in found["scores"]):
        about = found["data"].get(block)
        lines += ["", f"## {block}", ""]
        if about:
            lines += [f"Truth: {about['truth']}. [Source]({about['url']}), sha256 {about['sha256'][:16]}.", ""]
        lines += table([s for s in found["scores"] if s["block"] == block])
    return "\n".join(lines) + "\n"


def table(rows: list[Found]) -> Iterator[str]:
    """One line per group, half and grader; the reader first, then its rivals."""
    shares = {
        (reader, share): f"{reader}: {share.replace('_', ' ')}"
        for reader in sorted({s["reader"]: None for s in rows}, key=list(RIVALS).__contains__)
        for share in (("sensitivity", "specificity") if reader in RIVALS else SHARES)
    }
    named = [k for k, name in enumerate(("group", "half", "grader")) if len({s[name] for s in rows}) > 1]
    head = [*(("group", "half", "grader")[k] for k in named), "right / wrong / unread", *shares.values()]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for name, by_reader in grouped(rows).items():
        counts = next(iter(by_reader.values()))
        cells = [*(name[k] for k in named), f"{counts['right']} / {counts['wrong']} / {counts['unread']}"]
        cells += [shown(by_reader.get(reader), share) for reader, share in shares]
        yield f"| {' | '.join(cells)} |"


def grouped(rows: list[Found]) -> dict[tuple[str, str, str], dict[str, Found]]:
    """(group, half, grader) → reader → its score, without totals that repeat the line before them."""
    out: dict[tuple[str, str, str], dict[str, Found]] = {}
    graders = {s["grader"] for s in rows} - {ALL}
    for s in rows:
        if s["grader"] != ALL or len(graders) > 1:
            out.setdefault((s["group"], s["half"], s["grader"]), {})[s["reader"]] = s
    return out


def readme_table(found: Found) -> str:
    """Per system of the blocks that people judged, and in all of the others: `found`, specificity and unread."""
    lines = [
        "| answers | right / wrong | found | unread of the right | specificity | `contained` | `stemmed` |",
        "|---|---|---|---|---|---|---|",
    ]
    for block in dict.fromkeys(s["block"] for s in found["scores"]):
        rows = [s for s in found["scores"] if s["block"] == block and s["half"] == ALL]
        systems = [s["group"] for s in rows if s["group"] != ALL] if block == "EVOUNA Natural Questions" else []
        for group in dict.fromkeys(systems or [ALL]):
            mine = {s["reader"]: s for s in rows if s["group"] == group and (systems or s["grader"] == ALL)}
            lines.append(_readme_line(NAMES.get(block, block) + (f", {group}" if systems else ""), mine))
    return "\n".join(lines)


def _readme_line(name: str, mine: dict[str, Found]) -> str:
    rules = mine["rules"]
    rivals = [", ".join(value(mine[r][s]) for s in ("sensitivity", "specificity")) for r in RIVALS]
    cells = [name, f"{rules['right']} / {rules['wrong']}", shown(rules, "found"), shown(rules, "unread_right")]
    return f"| {' | '.join([*cells, shown(rules, 'specificity'), *rivals])} |"


def in_readme(text: str, found: Found) -> str:
    """The README with its table replaced."""
    block = f"{START}\n{readme_table(found)}\n{END}"
    out, count = re.subn(f"{re.escape(START)}.*?{re.escape(END)}", lambda _: block, text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"README.md: {count} tables between {START} and {END}; expected one")
    return out


def console(found: Found) -> str:
    """The same table as in the results, for a terminal."""
    lines = []
    for block in dict.fromkeys(s["block"] for s in found["scores"]):
        lines += ["", block, *table([s for s in found["scores"] if s["block"] == block])]
    return "\n".join(lines)


def shown(score: Found | None, share: str) -> str:
    """A share with its interval; – where there is nothing to measure."""
    at = score[share] if score else None
    return f"{value(at)} [{short(at['low'])}, {short(at['high'])}]" if at else "–"


def value(share: Found | None) -> str:
    """k of n; – of nothing."""
    return short(share["k"] / share["n"]) if share else "–"


def short(number: float) -> str:
    """Three digits: most of these rates are near 1."""
    return f"{number:.3f}".removeprefix("0")
