"""The house: which room may import from which, and that nothing goes round in circles.

Read from the source, wherever an import stands: at the top, in a function, under TYPE_CHECKING, or as a string that is
imported later. So an arrow that runs up is found although nothing fails when it is only followed late.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import networkx
import pytest

import lineage_orch

PACKAGE = "lineage_orch"
ROOT = Path(lineage_orch.__file__).resolve().parent

# Each imports only from what stands before it. A new room gets its place here, and CONTRIBUTING shows it.
ROOMS = (
    "errors",
    "text",
    "settings",
    "updates",
    "lineage",
    "ledger",
    "loads",
    "plan",
    "dbt",
    "followers",
    "reports",
    "builds",
    "orchestrator",
    "deployed",
    "flows",
    "deployments",
    "triggers",
    "producers",
    "tagging",
    "check",
    "testing",
    "pytest_plugin",
    "cli",
)


@cache
def modules() -> Mapping[str, Path]:
    """Each module of the package, by its dotted name."""
    return {
        ".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in sorted(ROOT.rglob("*.py"))
    }


def imported(name: str, tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports, as dotted names that may end in a name of that module."""
    package = name if modules()[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (each.name for each in node.names)
            case ast.ImportFrom():
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield from (f"{base}.{each.name}" for each in node.names)
            case ast.Call(func=ast.Name("import_module") | ast.Attribute(attr="import_module"), args=[first, *_]):
                if isinstance(first, ast.Constant):
                    yield str(first.value)
            # As cyclopts, and entrypoints, name a function.
            case ast.Constant(value=str(text)) if re.fullmatch(rf"{PACKAGE}(\.\w+)+:\w+", text):
                yield text.partition(":")[0]


@cache
def edges() -> frozenset[tuple[str, str]]:
    """Each pair of modules of which the first imports the second."""
    found = set()
    for name, path in modules().items():
        for target in imported(name, ast.parse(path.read_text(encoding="utf-8"))):
            if target.rpartition(".")[0] == PACKAGE and target not in modules():
                # A public name, loaded on demand from its home; the version has none.
                target = f"{PACKAGE}.{lineage_orch._HOME.get(target.rpartition('.')[2], '')}"
            while target and target not in modules():
                target = target.rpartition(".")[0]
            if target not in ("", PACKAGE, name) and name != PACKAGE:
                found.add((name, target))
    return frozenset(found)


def room(module: str) -> str:
    return module.split(".")[1]


def test_modules_are_in_rooms() -> None:
    assert {room(each) for each in modules() if each != PACKAGE} == set(ROOMS)


def test_imports_run_down() -> None:
    up = {(a, b) for a, b in edges() if ROOMS.index(room(b)) > ROOMS.index(room(a))}
    assert sorted(up) == []


def test_imports_have_no_circle() -> None:
    # A door hands on what its room has; the rooms' own modules do not go through it.
    doors = {each for each, path in modules().items() if path.name == "__init__.py"}
    graph = networkx.DiGraph((a, b) for a, b in edges() if not (b in doors and room(a) == room(b)))
    circles = [sorted(each) for each in networkx.strongly_connected_components(graph) if len(each) > 1]
    assert circles == []


def test_modules_avoid_door_of_their_own_room() -> None:
    doors = {each for each, path in modules().items() if path.name == "__init__.py"}
    assert sorted((a, b) for a, b in edges() if b in doors and room(a) == room(b) and not b.startswith(f"{a}.")) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import lineage_orch.plan.graph", ["lineage_orch.plan.graph"]),
        ("def f():\n    from lineage_orch.plan import graph", ["lineage_orch.plan.graph"]),
        ("if TYPE_CHECKING:\n    from ..plan.graph import PlanGraph", ["lineage_orch.plan.graph.PlanGraph"]),
        ("app.command('lineage_orch.cli.check:check')", ["lineage_orch.cli.check"]),
        ("import_module('lineage_orch.plan')", ["lineage_orch.plan"]),
        ("'see lineage_orch.plan'", []),
    ],
)
def test_import_is_seen_wherever_it_stands(line: str, found: list[str]) -> None:
    assert list(imported("lineage_orch.ledger.store", ast.parse(line))) == found
