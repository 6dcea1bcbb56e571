"""Outputs that somebody already logged: lm-eval's `--log_samples`, Inspect's logs, our answers.jsonl, or id → text.

The first text of an item stands for its plain answer, further ones for samples; no other probe can be asked.
"""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diagnose.config import PROBES, ModelConfig
from diagnose.errors import BadInput
from diagnose.model import Completion, Form, Score
from diagnose.provenance import file_sha
from diagnose.records import EvalItem, Prompt

TEXT_KEYS = ("text", "response", "output", "completion", "answer")
ALLOWED = (
    "allowed: samples_*.jsonl of lm-eval --log_samples, a .eval or .json log of Inspect, our answers.jsonl, "
    'or JSONL of {"id": …, "text": …}'
)
Found = tuple[list[str], str, int]
"""Names that may be the item's id or its prompt, the text, and its place among the item's texts."""


class RecordedModel:
    """Answers from a file."""

    batch_size = 1024
    max_new_tokens = 0
    device = "recorded"

    def __init__(self, settings: ModelConfig) -> None:
        """Read the file or all logs of a directory.

        Raises:
            BadInput: nothing there, or no known format.
        """
        path = Path(str(settings.path))
        if not path.exists():
            raise BadInput(f"model.path={path}: does not exist; {ALLOWED}")
        files = (
            sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".eval", ".json")) if path.is_dir() else [path]
        )
        if not files:
            raise BadInput(f"model.path={path}: holds no log; {ALLOWED}")
        self.path = path
        self._texts: dict[str, dict[int, str]] = defaultdict(dict)
        for file in files:
            for names, text, draw in _read(file):
                for name in names:
                    # Without a number of its own a further text of the same item is its next draw.
                    self._texts[name][len(self._texts[name]) if draw < 0 else draw] = text
        self._by_item: dict[str, list[str]] = {}
        self.lacks = frozenset(PROBES) - {"plain"}
        self._sha = [file_sha(file)[:16] for file in files]

    @property
    def render(self) -> dict[str, Any]:
        """How the prompts were rendered is not known; the files are."""
        return {"recorded": self._sha}

    def check(self, items: Sequence[EvalItem], seed: int) -> None:
        """Match the log to the items, by id, else by prompt.

        Raises:
            BadInput: no item of the eval set was recorded.
        """
        for item in items:
            found = self._texts.get(item.id) or self._texts.get(item.turns[-1][1])
            if found:
                self._by_item[item.id] = [found[draw] for draw in sorted(found)]
        if not self._by_item:
            theirs, ours = list(self._texts)[:3], [i.id for i in items[:3]]
            raise BadInput(
                f"model.path={self.path}: no answer to any item; recorded ids {theirs}, the eval set has {ours}"
            )
        if any(len(texts) > 1 for texts in self._by_item.values()):
            self.lacks -= {"sampled"}

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        """Whatever was answered did fit."""
        return True

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        forms: Sequence[Form] | None = None,
    ) -> list[list[Completion]]:
        """See Model; fewer than n where fewer were recorded."""
        out = []
        for key in keys:
            _, probe, item = key.split("|", 2)
            texts = self._by_item.get(item, [])
            texts = texts[:1] if probe == "plain" else texts[1 + first : 1 + first + n]
            out.append([Completion(text, 0, "stop") for text in texts] or [Completion("", 0, "not_recorded")])
        return out

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        """Never asked: `lacks` names the probes that score."""
        raise NotImplementedError("recorded answers have no log-probabilities")


def _read(path: Path) -> Iterator[Found]:
    if path.suffix == ".eval":
        try:
            with zipfile.ZipFile(path) as archive:
                samples = [json.loads(archive.read(n)) for n in archive.namelist() if n.startswith("samples/")]
        except (zipfile.BadZipFile, ValueError) as error:
            raise BadInput(f"model.path={path}: not a log of Inspect: {error}") from None
        yield from (_inspect(sample) for sample in samples)
    elif path.suffix == ".json":
        try:
            log = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(f"model.path={path}: not JSON: {error}; {ALLOWED}") from None
        if not isinstance(log, dict) or not isinstance(log.get("samples"), list):
            raise BadInput(f"model.path={path}: holds no `samples`; {ALLOWED}")
        yield from (_inspect(sample) for sample in log["samples"])
    else:
        from diagnose.rows import read_rows

        for row, where in read_rows(path, {}):
            found = _row(row)
            if found is None:
                raise BadInput(f"{where}: no answer in it (found: {', '.join(row)}); {ALLOWED}")
            yield from found


def _inspect(sample: dict[str, Any]) -> Found:
    output = sample.get("output") or {}
    choices = output.get("choices") or [{}]
    content = output.get("completion", (choices[0].get("message") or {}).get("content", ""))
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    asked = sample.get("input")
    if isinstance(asked, list):
        asked = asked[-1].get("content") if asked else None
    names = [str(sample.get("id")), *([asked] if isinstance(asked, str) else [])]
    return names, str(content), int(sample.get("epoch", 1)) - 1


def _row(row: dict[str, Any]) -> list[Found] | None:
    """What one line holds; None where it is no line of a known format."""
    if "resps" in row and "doc" in row:
        doc = row["doc"] if isinstance(row["doc"], dict) else {}
        texts = row["resps"][0] if row["resps"] and isinstance(row["resps"][0], list) else row["resps"]
        names = [str(doc["id"] if "id" in doc else row.get("doc_id")), *(v for v in doc.values() if isinstance(v, str))]
        return [(names, text, -1) for text in texts] if all(isinstance(text, str) for text in texts) else None
    if {"probe", "item", "draw", "text"} <= row.keys():
        place = {"plain": 0, "sampled": 1}.get(row["probe"])
        return [] if place is None or row.get("reason") else [([row["item"]], row["text"], place + int(row["draw"]))]
    key = next((k for k in TEXT_KEYS if isinstance(row.get(k), str)), None)
    return None if key is None or "id" not in row else [([str(row["id"])], row[key], -1)]
