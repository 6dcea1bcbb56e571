"""The import rule, and a README whose tree and commands are true."""

from __future__ import annotations

import ast
import re

from conftest import ROOT

MAY_IMPORT = {"diagnose": set(), "train": {"diagnose"}, "eval": {"diagnose", "train"}}
ROOMS = set(MAY_IMPORT)


def test_imports_go_the_way_the_data_goes() -> None:
    for room, allowed in MAY_IMPORT.items():
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in names:
                    other = name.split(".")[0]
                    assert other not in ROOMS - allowed - {room}, f"{path}: {room} must not import {other}"


def test_hydra_only_in_the_root_scripts_and_the_config_modules() -> None:
    allowed = {f"{room}/config.py" for room in ROOMS} | {f"{room}.py" for room in ROOMS}
    for path in [*ROOT.glob("*.py"), *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))]:
        imports = re.findall(r"^\s*(?:from|import) (hydra|omegaconf)", path.read_text(), re.M)
        assert not imports or str(path.relative_to(ROOT)) in allowed, path


def test_no_network_in_the_report_templates() -> None:
    for path in ROOT.glob("*/report.html.j2"):
        assert not re.search(r"https?://|<script", path.read_text()), path


def test_the_readme_tree_names_real_files_and_all_rooms() -> None:
    readme = (ROOT / "README.md").read_text()
    tree = readme.split("```text")[-1].split("```")[0]
    names = [line.split()[0] for line in tree.splitlines() if line.strip() and not line.startswith("  " * 4)]
    folder, seen = "", set()
    for line in tree.splitlines():
        if not line.strip():
            continue
        name = line.split()[0]
        folder = folder if line.startswith(" ") else (name if name.endswith("/") else "")
        path = ROOT / (folder + name if line.startswith(" ") else name)
        assert path.exists(), f"README tree: {path} does not exist"
        seen.add(str(path.relative_to(ROOT)))
    assert names
    for room in ROOMS:
        for path in (ROOT / room).glob("*.py"):
            if path.name != "__init__.py":
                assert str(path.relative_to(ROOT)) in seen, f"README tree lacks {path.relative_to(ROOT)}"


def test_the_readme_s_figures_are_those_of_the_committed_results() -> None:
    import json

    readme = (ROOT / "README.md").read_text()
    for row in json.loads((ROOT / "scripts" / "results" / "prove_demo.json").read_text())["lifts"]:
        change = f"{row['delta']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        shares = f"{row['before']:.2f} | {row['after']:.2f}"
        line = f"| {row['slice']} | {row['method']} | {row['seed']} | {shares} | {change} |"
        assert line in readme, line
