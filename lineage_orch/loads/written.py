"""The flows that are written in a folder, read from their source: nothing is imported, so nothing can run.

For who looks at a project for the first time. What counts for a build is what :mod:`lineage_orch.loads.discovery` reads
of the imported modules.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lineage_orch.loads.discovery import python_files

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class WrittenFlow:
    """A function below ``@flow``, as it stands in a file.

    Attributes:
        function: its name.
        name: Prefect's name of it, where one is written out; else that of the function, with dashes as Prefect has it.
        file: where it stands.
        line: of the first decorator above it: a new one goes above this line.
        sources: what the ``@produces_source`` above it names, as far as it is written out; None if there is none.
        texts: the texts in its body and in its decorators, such as the name of a table.
        is_imported: whether the file has the name ``produces_source`` already.
    """

    function: str
    name: str
    file: Path
    line: int
    sources: tuple[str, ...] | None
    texts: frozenset[str]
    is_imported: bool


@dataclass(frozen=True, slots=True)
class WrittenFlows:
    """The flows of a folder, by file and line, and the files that are no Python: ``(file, why)``."""

    flows: tuple[WrittenFlow, ...]
    unread: tuple[tuple[Path, str], ...]


def written_flows(folder: Path) -> WrittenFlows:
    """Return the flows in a folder and those below it that may load something: none that follows a model.

    Left out is what :func:`find_producers` leaves out.
    """
    flows: list[WrittenFlow] = []
    unread: list[tuple[Path, str]] = []
    for file in python_files(folder, "flow"):
        try:
            tree = ast.parse(file.read_bytes(), filename=str(file))
        except (SyntaxError, ValueError, OSError) as error:  # ValueError: null bytes
            unread.append((file, str(error)))
            continue
        flows += _flows_of(tree, file)
    return WrittenFlows(tuple(flows), tuple(unread))


def _flows_of(tree: ast.Module, file: Path) -> Iterator[WrittenFlow]:
    names = _imported(tree)
    is_flow = {name for name, full in names.items() if re.fullmatch(r"prefect(\.flows)?\.flow", full)}
    for function in ast.walk(tree):
        if not isinstance(function, _Function):
            continue
        sources: tuple[str, ...] | None = None
        found: ast.expr | None = None
        follows = False
        for decorator in function.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            name = ast.unparse(called)
            if name in is_flow or _full(name, names) in ("prefect.flow", "prefect.flows.flow"):
                found = decorator
            elif name.rpartition(".")[2] == "produces_source" or _full(name, names).endswith(".produces_source"):
                sources = (*(sources or ()), *_texts(*(decorator.args if isinstance(decorator, ast.Call) else ())))
            follows |= name.rpartition(".")[2] == "follows" or _full(name, names).endswith(".follows")
        if found is not None and not (follows and sources is None):
            yield WrittenFlow(
                function.name,
                _name_in(found) or function.name.replace("_", "-"),
                file,
                min(each.lineno for each in function.decorator_list),
                sources,
                frozenset(_texts(*(each for each in ast.walk(function) if isinstance(each, ast.Constant)))),
                "produces_source" in names,
            )


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return the names that a module imports, and what each stands for: ``{"flow": "prefect.flow"}``."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            names |= {each.asname or each.name: each.name for each in node.names}
    return names


def _full(name: str, names: dict[str, str]) -> str:
    """Return a dotted name with its first part as it is imported: ``p.flow`` after ``import prefect as p``."""
    first, dot, rest = name.partition(".")
    return f"{names.get(first, first)}{dot}{rest}"


def _name_in(decorator: ast.expr) -> str | None:
    for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
        if keyword.arg == "name" and (text := _texts(keyword.value)):
            return text[0]
    return None


def _texts(*nodes: ast.expr) -> tuple[str, ...]:
    return tuple(each.value for each in nodes if isinstance(each, ast.Constant) and isinstance(each.value, str))
