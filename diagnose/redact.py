"""Secrets do not leave the process: what is written or printed of a config, a command or an error goes through here.

They are told by shape (credentials in a URL, the prefixes under which services hand out keys) and, under keys that are
named after secrets, by value: whatever such a key holds, unless it reads as a name or as a special token.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from math import log2
from typing import Any

import regex

HIDDEN = "***"
USERINFO = regex.compile(r"(?<=://)[^/?#\s]+(?=@)")
RUN = r"(?=[A-Za-z]*\d)[A-Za-z0-9]{16,}"
"""Unlike the words of a path, the random part of a key has digits between its letters."""
ISSUED = regex.compile(
    rf"\b(?:sk-(?:\w{{1,12}}-){{0,3}}{RUN}[\w-]*|(?:hf|gh[opsur]|gsk|r8|npm)_{RUN}|github_pat_{RUN}\w*"
    rf"|glpat-[\w-]{{20,}}|xox[abeprs]-\d[\w-]{{9,}}|A(?:KIA|SIA)[A-Z0-9]{{16}}|AIza[\w-]{{30,}}|ya29\.{RUN}[\w-]*"
    rf"|pypi-{RUN}[\w-]*|eyJ[\w-]{{8,}}\.[\w-]{{8,}}\.[\w-]{{8,}})"
)
"""Keys by their prefixes: OpenAI, Anthropic, Hugging Face, GitHub, GitLab, Slack, AWS, Google, Groq, Replicate, npm,
PyPI, and JSON web tokens."""
QUERIED = regex.compile(r"(?<=[?&])(?P<key>[\w.-]{1,64})=(?P<value>[^&\s#\"']+)")
BEARER = regex.compile(r"(?<=\bbearer\s{1,3})\S{12,}", regex.IGNORECASE)
ASSIGNED = regex.compile(r"""(?P<key>[\w.+-]{1,200}+)(?P<is>["']?\s{0,3}[=:]\s{0,3}["']?)(?P<value>[^\s,"'{}\[\]]++)""")
"""`key=value`, `key: value` and `"key": "value"`, in a command, an override or a message."""
ALWAYS = regex.compile(
    r"passw(?:or)?d|secret|credential|passphrase|^(?:api[_-]?key|(?:access|private|auth)_?(?:key|token)|(?:hub_|hf_)?token)$",
    regex.IGNORECASE,
)
OFTEN = regex.compile(r"token|key|auth|cookie|bearer", regex.IGNORECASE)
SPECIAL = regex.compile(r"[<>|\[\]{}\s]|^\$\{")
"""A special token, a template or a text is none."""
NAMED = regex.compile(r"(?:[A-Za-z]+\d{0,4}[A-Za-z]?|\d{1,4})(?:[-_./](?:[A-Za-z]+\d{0,4}[A-Za-z]?|\d{1,4}))*+|[\d.]+")
"""Words and small numbers: a column, an environment variable, a path."""
LONG, BITS = 12, 3.0
"""A value is random if it has so many characters, and so many bits of entropy each (both hand-set)."""


def redacted(value: Any, key: str = "") -> Any:
    """A config, or any JSON-like value, without the secrets in it; texts in it are left as they are but for those.

    Args:
        key: the name under which the value stands, dotted.
    """
    if isinstance(value, Mapping):
        return {name: redacted(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, key) for item in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if is_secret(key, value) else _by_shape(value)


def redacted_text(text: str) -> str:
    """A command or a message without the secrets in it, be they values of settings that it names."""
    for name, value in os.environ.items():  # a server may quote the key that it was sent
        if len(value) >= LONG and "/" not in value and value in text and is_secret(name, value):
            text = text.replace(value, HIDDEN)
    return ASSIGNED.sub(_assigned, BEARER.sub(HIDDEN, _by_shape(text)))


def _by_shape(text: str) -> str:
    """Without credentials in URLs and issued keys."""
    text = ISSUED.sub(HIDDEN, USERINFO.sub(HIDDEN, text))
    return QUERIED.sub(lambda m: f"{m['key']}={HIDDEN}" if is_secret(m["key"], m["value"]) else m[0], text)


def _assigned(found: regex.Match[str]) -> str:
    key, sign, value = found["key"], found["is"], found["value"]
    word = value.rstrip(".;:)")
    prose = sign == ": " and word.isalpha() and word.islower()  # `hub_token: missing` says no secret
    return f"{key}{sign}{HIDDEN}" if is_secret(key, value) and not prose else found[0]


def is_secret(key: str, value: str) -> bool:
    """Whether what stands under a key is a secret by the name of the key, and does not read as anything else."""
    last = key.rsplit(".", 1)[-1]
    if ".columns." in key:
        return False  # the name of a column
    if not value or value == HIDDEN or value.lower() in ("none", "null", "true", "false") or SPECIAL.search(value):
        return False
    return bool(ALWAYS.search(last)) or (bool(OFTEN.search(last)) and _random(value))


def _random(value: str) -> bool:
    """Neither the name of something nor a number."""
    named = NAMED.fullmatch(value)
    entropy = -sum(n / len(value) * log2(n / len(value)) for n in Counter(value).values())
    return not named and len(value) >= LONG and entropy >= BITS
