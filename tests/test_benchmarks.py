"""The benchmarks are run now and then; what they take from the library is looked at in each test run."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize(
    "path",
    sorted([*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("peers/*.py")]),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_benchmarks_find_what_they_import(path: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("lineage_orch"):
                    importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("lineage_orch"):
            module = importlib.import_module(str(node.module))
            missing += [f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)]
    assert missing == []
