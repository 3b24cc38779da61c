"""The names that the package promises, wherever they are written down, are the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lineage_orch


def test_three_lists_of_public_names_agree() -> None:
    tree = ast.parse(Path(lineage_orch.__file__).read_text(encoding="utf-8"))
    (checked,) = (
        each for each in tree.body if isinstance(each, ast.If) and getattr(each.test, "id", "") == "TYPE_CHECKING"
    )
    typed = {
        alias.name: each.module.removeprefix("lineage_orch.")
        for each in checked.body
        if isinstance(each, ast.ImportFrom) and each.module
        for alias in each.names
    }
    assert typed == lineage_orch._HOME
    assert sorted(typed) == sorted(lineage_orch.__all__)


@pytest.mark.parametrize("name", lineage_orch.__all__)
def test_public_names_can_be_loaded(name: str) -> None:
    assert getattr(lineage_orch, name) is not None


def test_package_itself_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import lineage_orch; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    heavy = {"dbt", "networkx", "sqlalchemy", "pydantic", "prefect", "msgspec", "dataclasses"}
    assert {each.partition(".")[0] for each in done.stdout.split()}.isdisjoint(heavy)
