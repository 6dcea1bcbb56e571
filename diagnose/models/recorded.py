"""Existing answers from a log: lm-eval's `--log_samples`, Inspect's logs, our answers.jsonl, or id → text.

The first text of an item is its plain answer, further ones are samples; no other probe can be run.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.items.rows import read_rows
from diagnose.models.base import Completion, Constraint, Score
from diagnose.probes.table import PROBES, Probe
from diagnose.provenance import file_sha
from diagnose.records import EvalItem, Finish, Prompt
from diagnose.text import first_line

TEXT_KEYS = ("text", "response", "output", "completion", "answer")
FINISH_KEYS = ("finish_reason", "stop_reason", "finish")
ENDED: tuple[tuple[tuple[str, ...], Finish], ...] = (
    (("length", "max_tokens", "model_length", "limit"), "length"),
    (("content_filter", "refusal", "refused", "safety"), "refused"),
    (("error", "server", "timeout"), "server"),
    (("cut_off",), "cut_off"),
    (("too_long",), "too_long"),
)
"""What servers, Inspect and our own answers call an end that is none → how it is read."""
UNSHAPED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading a record of another shape than it should have runs into."""
ONE_EACH = "give the items the ids that the log has, so that each gets an answer of its own"
IN_A_DIRECTORY = ("answers.jsonl", "samples_*.jsonl", "*.jsonl", "*.eval", "*.json")
"""Which files of a directory are logs: those matching the first pattern that matches any."""
SAMPLE = re.compile(r"samples/.*_epoch_\d+(\.json|/sample\.json)", re.DOTALL)
"""Where a .eval archive keeps a sample; other entries under samples/ are parts of long ones."""
ZSTANDARD = 93
"""Compression that Inspect uses since 2026 and that `zipfile` cannot read before Python 3.14."""
ALLOWED = (
    "allowed: samples_*.jsonl from lm-eval --log_samples, an Inspect log (.eval or .json), Gapwise's answers.jsonl, "
    'or JSONL of {"id": …, "text": …}'
)
Key = tuple[int, str]
"""A file and an id in it: logs of two tasks may use the same ids."""


@dataclass(frozen=True)
class Logged:
    """One answer of a log."""

    id: str
    text: str
    draw: int | None = None
    """Its position among the item's answers; None: the next one in the file."""
    prompts: tuple[str, ...] = ()
    """Texts that may be the item's prompt, or its hash."""
    finish: Finish = "stop"
    hashed: bool = False
    """The hash of the prompt is known, so a matching id alone is not enough."""


class RecordedModel:
    """Answers from a log."""

    batch_size = 1024
    max_new_tokens = 0
    device = "recorded"
    fingerprint = None

    def __init__(self, settings: ModelConfig) -> None:
        """Read the file or all logs of a directory.

        Raises:
            BadInput: nothing there, or an unknown format.
        """
        self.path = Path(str(settings.path))
        self._files = _logs(self.path)
        self._texts: dict[Key, dict[int, Completion]] = defaultdict(dict)
        self._ids: dict[str, set[Key]] = defaultdict(set)
        self._prompts: dict[str, set[Key]] = defaultdict(set)
        for number, file in enumerate(self._files):
            for logged in _read(file):
                key = number, logged.id
                texts = self._texts[key]
                said = Completion(logged.text, 0, logged.finish)
                texts[len(texts) if logged.draw is None else logged.draw] = said
                for prompt in logged.prompts:
                    self._prompts[prompt].add(key)
                if not logged.hashed:
                    self._ids[logged.id].add(key)
        self._by_item: dict[str, list[Completion]] = {}
        self.lacks: frozenset[Probe] = frozenset({*PROBES, Probe.SELF_PAIRS}) - {Probe.PLAIN}
        self._sha = [file_sha(file)[:16] for file in self._files]

    @property
    def prompt_format(self) -> dict[str, Any]:
        """The prompt format is unknown; the log files are hashed instead."""
        return {"recorded": self._sha}

    def check(self, items: Sequence[EvalItem]) -> None:
        """Match the log to the items by prompt (the id only breaks ties), else by id.

        Raises:
            BadInput: the log answers no item of the eval set, several records or files answer the same item, or one
                record would answer two.
        """
        served: dict[Key, EvalItem] = {}
        for item in items:
            if (key := self._find(item)) is None:
                continue
            if (other := served.setdefault(key, item)) is not item:
                both = f"both {other.where} ({other.id}) and {item.where} ({item.id})"
                raise BadInput(f"model.path={self.path}: its record {key[1]!r} fits {both}; {ONE_EACH}")
            texts = self._texts[key]
            self._by_item[item.id] = [texts[draw] for draw in sorted(texts)]
        if not self._by_item:
            theirs, ours = [name for _, name in list(self._texts)[:3]], [i.id for i in items[:3]]
            raise BadInput(
                f"model.path={self.path}: no answer to any item; the log has ids {theirs}, the eval set has {ours}"
            )
        if any(len(texts) > 1 for texts in self._by_item.values()):
            self.lacks -= {Probe.SAMPLES, Probe.SELF_PAIRS}
        if {item.judge.kind for item in items if item.judge} == {"rule"}:
            # A rule decides from one text alone whether it is preferred; a judge's noise shows on samples only.
            self.lacks -= {Probe.PREFERENCE_JUDGED}

    def check_end_token(self, items: Sequence[EvalItem], seed: int) -> None:
        """See Model; a log has ended its answers."""

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        """Always: whatever was answered did fit."""
        return True

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        constraints: Sequence[Constraint] | None = None,
    ) -> list[list[Completion]]:
        """See Model; what was not recorded is `not_recorded`."""
        out = []
        for key in keys:
            _, probe, item = key.split("|", 2)
            texts = self._by_item.get(item, [])
            said = texts[:1] if probe == Probe.PLAIN else texts[1 + first : 1 + first + n]
            out.append(said + [Completion("", 0, "not_recorded")] * (n - len(said)))
        return out

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        """Never called: `lacks` names the probes that score."""
        raise NotImplementedError("recorded answers have no log-probabilities")

    def _find(self, item: EvalItem) -> Key | None:
        """The record of an item: by prompt and id, by the whole conversation, by its last turn, by the id alone."""
        whole, last = (self._prompts.get(asked, set()) for asked in (Prompt(item.turns).sha, item.turns[-1][1]))
        same = {key for key in whole | last if key[1] == item.id}
        found = same or whole or last or self._ids.get(item.id, set())
        if len(files := sorted({number for number, _ in found})) > 1:
            names = ", ".join(self._files[number].name for number in files)
            raise BadInput(f"model.path={self.path}: {item.id} is answered in {names}; choose one with model.path=FILE")
        if len(found) > 1:
            ids = ", ".join(repr(name) for _, name in sorted(found)[:3])
            raise BadInput(
                f"model.path={self.path}: {len(found)} of its records fit {item.where} ({item.id}), among them {ids}; "
                f"{ONE_EACH}"
            )
        return next(iter(found), None)


def _logs(path: Path) -> list[Path]:
    if not path.exists():
        raise BadInput(f"model.path={path}: does not exist; {ALLOWED}")
    if not path.is_dir():
        return [path]
    files = next((found for pattern in IN_A_DIRECTORY if (found := sorted(path.glob(pattern)))), [])
    if not files:
        raise BadInput(f"model.path={path}: contains no log; {ALLOWED}")
    return files


def _read(path: Path) -> Iterator[Logged]:
    if path.suffix in (".eval", ".json"):
        for sample in _archived(path) if path.suffix == ".eval" else _listed(path):
            yield from _inspect(sample, path)
        return
    first_filter = None
    for row, where in read_rows(path, {}):
        # lm-eval writes the same responses once per filter.
        first_filter = first_filter or row.get("filter")
        if "resps" in row and row.get("filter") != first_filter:
            continue
        try:
            found = _row(row)
        except UNSHAPED:
            found = None
        if found is None or not all(isinstance(logged.text, str) for logged in found):
            raise BadInput(f"{where}: no id with an answer (found: {', '.join(row)}); {ALLOWED}")
        yield from found


def _archived(path: Path) -> Iterator[Any]:
    """The samples of a .eval log."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if SAMPLE.fullmatch(entry.filename):
                    yield json.loads(_unpacked(archive, entry, path))
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"model.path={path}: not an Inspect log: {error}; {ALLOWED}") from None


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> bytes:
    if entry.compress_type != ZSTANDARD:
        return archive.read(entry)
    import pyarrow

    with path.open("rb") as handle:
        handle.seek(entry.header_offset)
        local = handle.read(30)
        # The name and an extra field follow the fixed part of the local header, which ends with their lengths.
        handle.seek(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"), 1)
        packed = pyarrow.BufferReader(handle.read(entry.compress_size))
    with pyarrow.CompressedInputStream(packed, "zstd") as stream:
        return stream.read()


def _listed(path: Path) -> list[Any]:
    """The samples of a .json log."""
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}; {ALLOWED}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); {ALLOWED}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON that can be read: {first_line(error)}; {ALLOWED}") from None
    if not isinstance(log, dict) or not isinstance(log.get("samples"), list):
        raise BadInput(f"{path}: contains no `samples`; {ALLOWED}")
    return log["samples"]


def _inspect(sample: Any, path: Path) -> list[Logged]:
    """The answer of one sample; none if the sample ended with an error before the model answered."""
    try:
        if (logged := _answered(sample)) and not isinstance(logged.text, str):
            raise TypeError("its answer is no text")
    except UNSHAPED as error:
        raise BadInput(f"{path}: not an Inspect sample: {type(error).__name__}: {error}; {ALLOWED}") from None
    return [logged] if logged else []


def _answered(sample: Any) -> Logged | None:
    """The answer of one sample, if the model gave one."""
    output = sample["output"]
    choice = output["choices"][0] if output["choices"] else {}
    said = choice["message"]["content"] if choice else None
    asked = sample["input"]
    asked = asked if isinstance(asked, str) else _text(asked[-1]["content"])
    key, draw = str(sample["id"]), int(sample["epoch"]) - 1
    if said is None:
        return None
    return Logged(key, output.get("completion") or _text(said), draw, (asked,), _finish(choice))


def _finish(row: dict[str, Any]) -> Finish:
    reasons = {row.get(key) for key in FINISH_KEYS if isinstance(row.get(key), str)}
    return next((found for names, found in ENDED if reasons & set(names)), "stop")


def _text(content: Any) -> str:
    """The text of a message, whose content may come in parts."""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _row(row: dict[str, Any]) -> list[Logged] | None:
    """The answers in one line; None if its format is unknown."""
    if "resps" in row and "doc" in row:
        return _lm_eval(row)
    if {"probe", "item", "draw", "text", "prompt"} <= row.keys():
        if row["probe"] not in set(Probe):
            return None
        place = {Probe.PLAIN: 0, Probe.SAMPLES: 1}.get(row["probe"])
        unsaid = place is None or (row.get("reason") and not row["text"])
        return [] if unsaid else [_own(row, place)]
    key = next((k for k in TEXT_KEYS if isinstance(row.get(k), str)), None)
    return None if key is None or row.get("id") is None else [Logged(str(row["id"]), row[key], finish=_finish(row))]


def _own(row: dict[str, Any], place: Any) -> Logged:
    return Logged(str(row["item"]), row["text"], place + int(row["draw"]), (row["prompt"],), _finish(row), hashed=True)


def _lm_eval(row: dict[str, Any]) -> list[Logged] | None:
    doc = row["doc"] if isinstance(row["doc"], dict) else {}
    several = row["resps"][0] if row["resps"] and isinstance(row["resps"][0], list) else row["resps"]
    if not several or not all(isinstance(text, str) for text in several):
        return None
    arguments = row.get("arguments")
    sent = arguments.get("gen_args_0", {}).get("arg_0") if isinstance(arguments, dict) else None
    prompts = tuple({text for text in (sent, *doc.values()) if isinstance(text, str)})
    key = str(doc.get("id", row.get("doc_id")))
    return [Logged(key, text, prompts=prompts) for text in several]
