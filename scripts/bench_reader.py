"""How well the reader of answers reads: graders (lenient reading) against people, beside two simple rivals.

    python -m scripts.bench_reader                        # data in $GAPWISE_DATA, else in ../shared/data
    python -m scripts.bench_reader --data DIR --only EVOUNA
    python -m scripts.bench_reader --reader-model outputs/models/smollm2-135m --only Natural --limit 300

Public data sets that are not there are named with their address and skipped; our own rows are always scored. Without
--only and --limit it writes scripts/results/bench_reader.json, bench_reader.md and the table in README.md; with
--reader-model, scripts/results/bench_reader_model.json.

What is left unread is never counted as wrong. So that it cannot hide misses either, the share of unread answers among
the right ones stands beside the sensitivity, and `found` is the sensitivity over all right answers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diagnose.errors import BadInput, GapwiseError
from diagnose.provenance import ROOT, file_sha, provenance, write_whole
from scripts.reader import scores
from scripts.reader.cases import SOURCES, Case, Source, own_rows, some
from scripts.reader.scores import RIVALS, Readings
from scripts.reader.tables import console, in_readme, markdown

RESULTS = ROOT / "scripts" / "results"
DATA = Path(os.environ.get("GAPWISE_DATA", ROOT.parent / "shared" / "data"))


READS_WITH = ("regex", "rapidfuzz", "snowballstemmer", "text2num", "langdetect")
"""Packages that decide a reading."""


@dataclass(frozen=True)
class Settings:
    """What a record of the run asks for; nothing here is random."""

    seed: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    start = time.perf_counter()
    try:
        there = present(SOURCES, args.data)
        cases = [case for source in there for case in source.load(args.data / source.path, source)]
        blocks = wanted([*cases, *own_rows()], args.only, args.limit)
        readings = read(blocks, args.reader_model)
    except GapwiseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    found = {
        **origin(),
        "data": {s.block: {"truth": s.truth, "url": s.url, "sha256": file_sha(args.data / s.path)} for s in there},
        "seconds": round(time.perf_counter() - start),
        "scores": [s.to_json() for s in scores.scores(blocks, readings)],
    }
    print(console(found))
    if args.reader_model:
        write_whole(RESULTS / "bench_reader_model.json", lines(found))
    elif args.only is None and args.limit is None:
        keep(found)
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="default: $GAPWISE_DATA, ../shared/data")
    parser.add_argument("--only", metavar="TEXT", help="blocks whose name contains this")
    parser.add_argument("--limit", type=int, metavar="N", help="answers per block, picked by hash")
    parser.add_argument("--reader-model", metavar="PATH", help="reads too, as with reader.path=PATH")
    return parser.parse_args(arguments)


def present(sources: Sequence[Source], data: Path) -> list[Source]:
    """The data sets that are there; the others are named."""
    for source in sources:
        if not (data / source.path).is_file():
            print(f"skipped: {source.block}: no {data / source.path}; it is at {source.url}", file=sys.stderr)
    return [source for source in sources if (data / source.path).is_file()]


def wanted(cases: list[Case], only: str | None, limit: int | None) -> list[Case]:
    """The cases of some blocks, at most so many of each.

    Raises:
        BadInput: there is no such block.
    """
    there = list(dict.fromkeys(c.block for c in cases))
    if not (blocks := [block for block in there if only is None or only in block]):
        raise BadInput(f"--only={only}: no such block; there are {', '.join(there)}")
    return [case for block in blocks for case in some([c for c in cases if c.block == block], limit)]


def read(cases: list[Case], model: str | None = None) -> dict[str, Readings]:
    """reader → its readings."""
    mine = {"rules": scores.rules(cases)} | ({"model": scores.by_model(cases, model)} if model else {})
    return mine | {name: rival(cases) for name, rival in RIVALS.items()}


def origin() -> dict[str, Any]:
    """Command, commit, versions and machine."""
    known = provenance(Settings())
    return {
        "command": f"python -m scripts.{' '.join(known['command']).replace('.py', '', 1)}",
        "commit": known["commit"],
        "dirty": known["dirty"],
        "machine": {"cpu": platform.machine(), "python": known["python"]},
        "versions": known["versions"] | {name: version(name) for name in READS_WITH},
    }


def keep(found: dict[str, Any]) -> None:
    """Write the results, and the table of the README."""
    write_whole(RESULTS / "bench_reader.json", lines(found))
    write_whole(RESULTS / "bench_reader.md", markdown(found))
    readme = ROOT / "README.md"
    write_whole(readme, in_readme(readme.read_text(encoding="utf-8"), found))


def lines(found: dict[str, Any]) -> str:
    """JSON with one score per line."""
    head = json.dumps(found | {"scores": []}, indent=1, ensure_ascii=False)
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in found["scores"])
    return head.replace('"scores": []', f'"scores": [\n  {rows}\n ]') + "\n"


if __name__ == "__main__":
    sys.exit(main())
