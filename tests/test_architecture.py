"""The import rules, licences of what we depend on, and a README whose tree and figures are true."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from conftest import ROOT

from scripts.reader.tables import in_readme

MAY_IMPORT = {"diagnose": set(), "train": {"diagnose"}, "eval": {"diagnose", "train"}}
ROOMS = set(MAY_IMPORT)
LEAF = "diagnose.probes.table"
"""Imports nothing of ours, so that everything may read it."""
LAYERS = ("grading", "items", "models", "probes", "verdict", "advice", "report")
"""Sub-packages of diagnose, in the order in which the data passes them; each may import those before it."""


def imported(path: Path) -> Iterator[str]:
    """Names of modules that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours() -> Iterator[tuple[Path, str]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield from ((path, name) for name in imported(path) if name.split(".")[0] in ROOMS)


def test_imports_go_the_way_the_data_goes() -> None:
    for path, name in ours():
        room, other = path.relative_to(ROOT).parts[0], name.split(".")[0]
        assert other == room or other in MAY_IMPORT[room], f"{path}: {room} must not import {other}"


def test_sub_packages_import_only_what_comes_before_them() -> None:
    for path, name in ours():
        parts = path.relative_to(ROOT).parts
        if parts[0] != "diagnose" or name.startswith(LEAF) or not name.startswith("diagnose."):
            continue
        other = name.split(".")[1]
        if len(parts) == 2:
            free = parts[1] in ("run.py", "adaptive.py")
            assert free or other not in LAYERS, f"{path}: a file of the ground floor must not import {name}"
        elif other in LAYERS:
            assert LAYERS.index(other) <= LAYERS.index(parts[1]), f"{path}: must not import {name}"
        else:
            assert other not in ("run", "adaptive", "cli"), f"{path}: must not import {name}"
    assert not [name for name in imported(ROOT / "diagnose/probes/table.py") if name.split(".")[0] in ROOMS]


def test_train_and_eval_do_not_reason_about_gaps() -> None:
    """They read the diagnosis as a file; the posterior and the advice are diagnose's own."""
    for path, name in ours():
        if path.relative_to(ROOT).parts[0] != "diagnose":
            assert not name.startswith(("diagnose.verdict", "diagnose.advice")), f"{path} imports {name}"


def test_hydra_only_in_the_root_scripts_and_at_the_door() -> None:
    allowed = {"diagnose/cli.py", *(f"{room}.py" for room in ROOMS)}
    for path in [*ROOT.glob("*.py"), *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))]:
        found = [name for name in imported(path) if name.split(".")[0] in ("hydra", "omegaconf")]
        assert not found or str(path.relative_to(ROOT)) in allowed, path


def test_no_network_in_the_report_templates() -> None:
    templates = [*ROOT.glob("diagnose/report/*.j2"), *ROOT.glob("eval/*.j2")]
    assert len(templates) == 3
    for path in templates:
        assert not re.search(r"https?://|<script", path.read_text()), path


# ---------------------------------------------------------------- licences

LICENCE_EXCEPTIONS: dict[str, str] = {}
"""Package → why a copyleft licence of it is no obstacle."""


def runtime_dependencies() -> dict[str, str]:
    """Every installed package that the dependencies and the extra `real` need: name → its licence, as it states it."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    left = [Requirement(r) for r in [*project["dependencies"], *project["optional-dependencies"]["real"]]]
    found: dict[str, str] = {}
    while left:
        needed = left.pop()
        name = needed.name.lower().replace("_", "-")
        if name in found or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        try:
            package = distribution(needed.name)
        except PackageNotFoundError:
            continue  # optional on this platform
        meta = package.metadata
        classifiers = [c for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
        stated = meta.get("License-Expression") or (meta.get("License") or "")[:200]
        found[name] = " | ".join([stated, *classifiers])
        left += [Requirement(r) for r in package.requires or ()]
    return found


def test_no_runtime_dependency_is_copyleft() -> None:
    found = runtime_dependencies()
    assert {"torch", "transformers", "trl", "hydra-core", "omegaconf", "numpy", "pandas", "gguf"} <= set(found)
    copyleft = re.compile(r"\b[AL]?GPL|GNU (Affero|Lesser|General)", re.IGNORECASE)
    bad = {name: licence for name, licence in found.items() if copyleft.search(licence)}
    assert set(bad) == set(LICENCE_EXCEPTIONS), bad


# ---------------------------------------------------------------- README


def test_the_readme_tree_names_real_files_and_all_rooms() -> None:
    tree = (ROOT / "README.md").read_text().split("```text")[-1].split("```")[0]
    room = package = ROOT
    seen: set[Path] = set()
    for line in filter(str.strip, tree.splitlines()):
        depth = len(line) - len(line.lstrip())
        room, package = (ROOT, ROOT) if depth == 0 else (room, room if depth == 2 else package)
        for name in re.findall(r"(?<![\w/])[\w.]+(?:/|\.(?:py|j2|css))(?![\w/])", line):
            path = package / name
            assert path.exists(), f"README tree: {path} does not exist"
            seen.add(path)
            if name.endswith("/") and depth == 0 and line.startswith(name):
                room = package = path
            elif name.endswith("/") and depth == 2:
                package = path
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in (".py", ".j2", ".css") and path.name != "__init__.py":
                assert path in seen, f"README tree lacks {path.relative_to(ROOT)}"


def test_the_readme_s_figures_are_those_of_the_committed_results() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = json.loads((ROOT / "scripts" / "results" / "prove_demo.json").read_text())["lifts"]
    for target, method in {(row["slice"], row["method"]) for row in rows}:
        mine = [row for row in rows if (row["slice"], row["method"]) == (target, method)]
        after = ", ".join(f"{row['after']:.2f}" for row in mine)
        line = f"| {target} | {method} | {mine[0]['before']:.2f} | {after} | {mine[0]['predicted']['mean']:+.2f} |"
        assert line in readme, line


def test_the_readme_s_table_of_readers_is_the_committed_one() -> None:
    readme = (ROOT / "README.md").read_text()
    found = json.loads((ROOT / "scripts" / "results" / "bench_reader.json").read_text())
    assert in_readme(readme, found) == readme, "python -m scripts.bench_reader writes it"


def test_the_readme_s_figures_of_a_model_that_reads_are_measured() -> None:
    found = json.loads((ROOT / "scripts" / "results" / "bench_reader_model.json").read_text())
    (model,) = (s for s in found["scores"] if (s["reader"], s["group"], s["grader"]) == ("model", "all", "all")
                and s["half"] == "all")  # fmt: skip
    yes, no = model["found"], model["specificity"]
    line = f"says yes to {yes['k']} of {yes['n']} right answers, and to {no['n'] - no['k']} of {no['n']} wrong ones"
    assert line in (ROOT / "README.md").read_text()
    assert found["command"].endswith("--only Natural --limit 300 --reader-model outputs/models/smollm2-135m")


@pytest.mark.parametrize("word", ["few-shot", "oracle context", "best-of-n", "Alpaca", "out of memory", "exit code"])
def test_a_grep_finds_the_words_of_the_field(word: str) -> None:
    texts = [p for p in ROOT.rglob("*") if p.suffix in (".py", ".yaml", ".md", ".j2") and "tests" not in p.parts]
    mine = [p for p in texts if not {".venv", "outputs"} & set(p.parts)]
    assert any(word.lower() in path.read_text().lower() for path in mine), word
