"""Texts from anywhere, made safe to print, to paste and to sort by."""

from __future__ import annotations

import hashlib
import re
import shlex

LONGEST = 2000
"""Characters of one line of a message."""
TYPED = ("true", "false", "null", "nan", "inf")
"""Words that Hydra reads as another type than text."""


def pasted(key: str, value: str) -> str:
    """An override with a quoted value, as a shell takes it."""
    text = f"{key}='{_escaped(value)}'"
    return f'"{text}"' if not set(text) & set('"$`\\!') else shlex.quote(text)


def _escaped(text: str) -> str:
    """Inside quotes Hydra reads a backslash as an escape only before a quote."""
    return re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)


def hydra_list(names: list[str]) -> str:
    """A list of any texts as a Hydra override value: what Hydra would read as its own syntax or type is quoted."""

    def quoted(name: str) -> str:
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in TYPED
        return name if plain else f"'{_escaped(name)}'"

    return f"[{','.join(map(quoted, names))}]"


def printable(text: str) -> str:
    """What stands in files may not act on a terminal: no escape sequence, no direction mark, no endless line."""
    lines = ("".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line) for line in text.split("\n"))
    return "\n".join(line if len(line) <= LONGEST else f"{line[:LONGEST]}…" for line in lines)


def first_line(error: BaseException) -> str:
    """What an error says, in one line; with the second line where the first ends with a colon."""
    said = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        return repr(error)
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".,:")


def hash_order(text: str) -> str:
    """A sort key that looks random but depends neither on the order of a file nor on a seed: files are often sorted."""
    return hashlib.sha256(text.encode()).hexdigest()
