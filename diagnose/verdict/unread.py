"""Answers that could not be read: how many, why, and what would let them be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from diagnose.probes.answers import AnswerLog
from diagnose.probes.table import Probe
from diagnose.records import Answer, EvalItem
from diagnose.verdict.evidence import readable

MANY = 0.2
"""A slice with a larger share of unread answers says so before anything else (hand-set)."""
REMEDIES = {
    "refused": "a model.system_prompt that asks for an answer in every case",
    "empty": "model.stop and model.eos_token: the model ends before it says anything",
    "foreign": "a model.system_prompt that names the language of the answer",
    "gibberish": "the prompt format (chat template, model.dtype): what the model prints is noise",
    "too_long": "a larger model.max_length, or shorter prompts",
    "server": "the server's log: it did not answer",
    "not_recorded": "a log that holds these items",
    "judge_unreadable": "another judge model: its grades could not be read",
}
"""Reason → what to look at."""


def unread(items: list[EvalItem], log: AnswerLog) -> dict[str, int]:
    """Why plain answers could not be read → how many."""
    plain = [log.get(Probe.PLAIN, i.id) for i in items if not readable(i, log)]
    return dict(Counter(a.reason or "judge_unreadable" for a in plain))


def remedy(why: dict[str, int], plain: Sequence[Answer]) -> str | None:
    """The setting that would let most of the unread answers be read; None where at most a fifth is unread."""
    if sum(why.values()) <= MANY * len(plain) or not why:
        return None
    most = max(why, key=lambda reason: why[reason])
    if most in ("cut_off", "unreachable"):
        return f"model.max_new_tokens={_longer(plain)}" if _limit(plain) else "a larger model.max_new_tokens"
    return REMEDIES.get(most)


def _limit(plain: Sequence[Answer]) -> int:
    """Tokens at which answers were cut off; 0 where they are not counted (servers, logs)."""
    return max((a.tokens for a in plain if a.finish == "length"), default=0)


def _longer(plain: Sequence[Answer]) -> int:
    """Twice the limit where most answers end before it, four times where most do not, as a power of two."""
    cut = np.mean([a.finish == "length" for a in plain])
    return int(2 ** np.ceil(np.log2(_limit(plain) * (4 if cut > 0.5 else 2))))
