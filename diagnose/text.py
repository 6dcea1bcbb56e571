"""Text from any source, made safe to print, to paste into a shell and to sort by."""

from __future__ import annotations

import hashlib
import re
import shlex

LONGEST = 2000
"""Most characters per line of a message."""
TYPED = ("true", "false", "null", "nan", "inf")
"""Words that Hydra does not parse as strings."""


def pasted(key: str, value: str) -> str:
    """A Hydra override with a quoted value, ready to paste into a shell."""
    text = f"{key}='{_escaped(value)}'"
    return f'"{text}"' if not set(text) & set('"$`\\!') else shlex.quote(text)


def _escaped(text: str) -> str:
    """Inside quotes Hydra reads a backslash as an escape only before a quote."""
    return re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)


def hydra_list(names: list[str]) -> str:
    """A list of arbitrary strings as a Hydra override value; what Hydra would parse as syntax or a type is quoted."""

    def quoted(name: str) -> str:
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in TYPED
        return name if plain else f"'{_escaped(name)}'"

    return f"[{','.join(map(quoted, names))}]"


def printable(text: str) -> str:
    """Text from files must not control a terminal: no escape sequence, no direction mark, no endless line."""
    lines = ("".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line) for line in text.split("\n"))
    return "\n".join(line if len(line) <= LONGEST else f"{line[:LONGEST]}…" for line in lines)


def first_line(error: BaseException) -> str:
    """An error's message in one line; includes the second line if the first ends with a colon."""
    said = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        return repr(error)
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".,:")


def hash_order(text: str) -> str:
    """A sort key that looks random but depends neither on the order of a file nor on a seed: files are often sorted."""
    return hashlib.sha256(text.encode()).hexdigest()
