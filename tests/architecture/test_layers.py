"""Imports point only towards core, and only `models` knows foreign model libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage

HOME = Path(tutelage.__file__).parent
ROOT = HOME.parents[1]
ORDER = ("core", "models", "data", "voices", "signals", "surgery", "training", "evaluation", "recipes", "running", "cli")


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports, at any depth."""
    here = ("tutelage", *path.relative_to(HOME).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(x for x in (base, node.module or "") if x)
            found |= {f"{module}.{a.name}" for a in node.names} | {module}
    return found


FILES = sorted(p for p in HOME.rglob("*.py") if p.relative_to(HOME).parts[0] in ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOME)))
def test_a_folder_imports_only_those_before_it(path):
    place = ORDER.index(path.relative_to(HOME).parts[0])
    later = {n for n in imports(path) if n.startswith("tutelage.") and n.split(".")[1] in ORDER[place + 1 :]}
    assert not later


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOME)))
def test_only_models_know_transformers(path):
    if path.relative_to(HOME).parts[0] == "models":
        return
    assert not {n for n in imports(path) if n.split(".")[0] in ("transformers", "peft", "gguf", "tokenizers")}


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(HOME).parts[0] == "core"], ids=lambda p: p.name)
def test_core_uses_the_standard_library_and_torch(path):
    known = sys.stdlib_module_names | {"torch", "tutelage"}
    assert not {n for n in imports(path) if n.split(".")[0] not in known}


def test_the_import_contracts_hold():
    """The linter follows indirect imports as well."""
    tool = Path(sys.executable).with_name("lint-imports")
    if not tool.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([str(tool), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, tutelage; print(sorted({'torch', 'transformers', 'plotly', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
