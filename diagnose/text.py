"""Text from any source, made safe to print, to paste into a shell and to sort by."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence

LONGEST = 2000
"""Most characters per line of a message."""
TYPED = ("true", "false", "null", "nan", "inf")
"""Words that Hydra does not parse as strings."""


def override(key: str, value: str | Sequence[str]) -> str:
    """A Hydra override, ready to paste into a shell: what Hydra would parse or a shell expand is quoted.

    Args:
        value: a text, or the texts of a list; any text.
    """
    text = f"{key}={hydra_text(value) if isinstance(value, str) else hydra_list(value)}"
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else shlex.quote(text)


def hydra_text(text: str) -> str:
    """A text as the value of a Hydra override, in quotes unless Hydra would read it as this text without them."""
    if re.fullmatch(r"(?:\.{0,2}/)?[A-Za-z_][A-Za-z0-9_./-]*", text) and text.lower() not in TYPED:
        return text
    # A backslash is an escape before a quote only (Hydra), and before `${` (OmegaConf, which looks inside quotes too).
    text = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", text)
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def hydra_list(texts: Sequence[str]) -> str:
    """Texts as the value of a Hydra override that is a list."""
    return f"[{','.join(map(hydra_text, texts))}]"


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
