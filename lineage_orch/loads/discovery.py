"""Finding producers and followers: import modules, files or folders, and read what the decorators left; no run.

Nothing of it outlasts the look: no entry of ``sys.path``, and no module that is not an installed package, so that a
test or a flow that imports the same file later gets one of its own.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal
from unittest.mock import patch

from lineage_orch.errors import ProducerError
from lineage_orch.loads.declaration import declaration_of, registered_meanwhile_forgotten
from lineage_orch.loads.following import Following, followers_declared_meanwhile_forgotten, following_of
from lineage_orch.text import one_line

if TYPE_CHECKING:
    from prefect.flows import Flow

# A folder is read for files that hold one of these; all its other files are not run.
_MARKS = ("produces_source", "follows(")
# Folders that hold no flows, or those of others.
_NOT_OURS = frozenset({"__pycache__", "node_modules", "site-packages", "dbt_packages", "target", "build", "dist"})


@dataclass(frozen=True, slots=True)
class Producer:
    """A flow or task with ``@produces_source``.

    Attributes:
        name: Prefect's name of it.
        kind: what it is.
        sources: as they were written, ``{parameters}`` included.
        file: where it stands.
        line: of the first decorator above it.
        shared: whether it says that others load its sources too.
    """

    name: str
    kind: Literal["flow", "task"]
    sources: tuple[str, ...]
    file: str
    line: int
    shared: bool = False

    @property
    def where(self) -> str:
        """``file:line``, the file as short as it can be said from here."""
        return f"{short_path(self.file)}:{self.line}"

    def __str__(self) -> str:
        return f"the {self.kind} {self.name!r}"


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """A place that could not be read: what was given or found, ``file:line`` if known, and why."""

    place: str
    where: str | None
    why: str


@dataclass(frozen=True, slots=True)
class DiscoveryResult:
    """What was found: producers and followers, by file and line, and the places that could not be read."""

    producers: tuple[Producer, ...]
    failures: tuple[ImportFailure, ...] = ()
    followers: tuple[Following, ...] = ()


class _RanAtImportError(RuntimeError):
    """A module runs or serves a flow when it is imported."""


def find_producers(places: Iterable[str | os.PathLike[str]], *, roots: Sequence[Path] | None = None) -> DiscoveryResult:
    """Return the producers and followers of modules (``pkg.loads``), files and folders; runs none of them.

    Of a folder, the files with the word ``produces_source`` or ``follows(`` are imported, in all its subfolders; left
    out are hidden folders, virtual environments, dbt projects, and tests (``test_*.py``, ``*_test.py``,
    ``conftest.py``). Flows are found at the top of a module, and in its lists, dicts and classes.

    Args:
        places: what to read. A relative path, and the first part of a module's name, count from ``roots``.
        roots: by default the working directory, and the folders above it up to that of the repository (or of the
            nearest ``pyproject.toml`` or ``pytest.ini``).

    A place that cannot be imported, for whatever reason, is an :class:`ImportFailure` in the answer.
    """
    known_roots = _default_roots() if roots is None else tuple(roots)
    found: dict[tuple[object, ...], Producer] = {}
    followers: dict[Following, None] = {}
    failures: list[ImportFailure] = []
    with _harmless():
        for place in places:
            for target in _targets(os.fspath(place), known_roots, failures):
                with _import_path(target, known_roots):
                    module = _import(target, failures)
                    for value in _values(vars(module).values(), depth=2) if module is not None else ():
                        # A flow that others import, or copy with other options, is still one producer.
                        if (producer := _read(value)) is not None:
                            found.setdefault((producer.file, producer.line, producer.sources), producer)
                        if (following := following_of(value)) is not None:
                            followers.setdefault(following)
    return DiscoveryResult(
        tuple(sorted(found.values(), key=lambda each: (each.file, each.line, each.name))),
        tuple(failures),
        tuple(sorted(followers, key=lambda each: (each.where, each.name))),
    )


def load_follower(following: Following) -> Flow[Any, Any]:
    """Import the file of a follower that was found, to stay imported, and return its flow.

    Raises:
        ProducerError: the file cannot be imported, or has no such flow any more.
    """
    path = Path(following.where.rpartition(":")[0])
    package_root, _ = _module_name(path)
    folders = [str(package_root or path.parent), *map(str, _default_roots())]
    sys.path[:0] = [each for each in dict.fromkeys(folders) if each not in sys.path]
    importlib.invalidate_caches()
    try:
        module = _import_file(path)
    # SystemExit too: a script may read its arguments at the top.
    except (Exception, SystemExit) as error:
        raise ProducerError(
            f"the follower {following.name!r} cannot be imported from {following.where}: {one_line(error)}"
        ) from error
    for value in _values(vars(module).values(), depth=2):
        if following_of(value) == following:
            return value  # type: ignore[return-value]
    raise ProducerError(f"the follower {following.name!r} is not in {path} any more")


# What stands in the folder from which a repository's own paths count.
_ROOT_FILES = ("pyproject.toml", "pytest.ini", "tox.ini", "setup.cfg", ".git")


def _default_roots() -> tuple[Path, ...]:
    here = Path.cwd()
    folders = [here, *here.parents]
    for number, folder in enumerate(folders, start=1):
        if any((folder / name).exists() for name in _ROOT_FILES):
            return tuple(folders[:number])
    return (here,)


# From places to modules ------------------------------------------------------------------------------------


def _targets(place: str, roots: Sequence[Path], failures: list[ImportFailure]) -> list[str | Path]:
    """Return what to import for one place: the name of a module as it is, a path as files."""
    candidates = [root / Path(place).expanduser() for root in roots]
    path = next((each for each in candidates if each.exists()), None)
    if path is None:
        if all(part.isidentifier() for part in place.split(".")):
            return [place]
        looked = " or ".join(dict.fromkeys(map(str, candidates)))
        why = f"there is no such file or folder ({looked}), and it is no module's name; correct `producers`"
        failures.append(ImportFailure(place, None, why))
        return []
    if path.is_file():
        return [path.resolve()]
    files = list(python_files(path.resolve(), *_MARKS))
    if not files:
        why = f"no Python file in {path} holds `{_MARKS[0]}`; correct `producers`, or decorate the flows there"
        failures.append(ImportFailure(place, None, why))
    return [*files]


def python_files(folder: Path, *words: str) -> Iterator[Path]:
    """Yield the files of a folder, and of those in it, that hold one of these and may hold flows."""
    for here, folders, files in _our_folders(folder):
        if "dbt_project.yml" in files and here != folder:
            folders.clear()  # its .py files are models, and run in the warehouse
            continue
        for name in sorted(files):
            if name.endswith(".py") and not _is_test(name):
                text = _text(here / name, words[0])
                if any(word in text for word in words):
                    yield here / name


def folders_with(folder: Path, name: str) -> Iterator[Path]:
    """Yield the folders, of one and all in it, that hold a file of this name; none that lies in another of them."""
    for here, folders, files in _our_folders(folder):
        if name in files:
            folders.clear()
            yield here


def _our_folders(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a folder as `os.walk` does, past hidden folders, virtual environments and what others wrote."""
    for current, folders, files in os.walk(folder):
        here = Path(current)
        folders[:] = sorted(
            each
            for each in folders
            if not each.startswith(".") and each not in _NOT_OURS and not (here / each / "pyvenv.cfg").exists()
        )
        yield here, folders, files


def _is_test(name: str) -> bool:
    return name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"


def _text(path: Path, word: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return word  # let the import say what is wrong with it


# Importing -------------------------------------------------------------------------------------------------


def _import(target: str | Path, failures: list[ImportFailure]) -> ModuleType | None:
    """Import a module by name or file; what it raises becomes a failure."""
    try:
        return importlib.import_module(target) if isinstance(target, str) else _import_file(target)
    # SystemExit too: a script may read its arguments at the top. Any of it says that no producer can be read here.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        failures.append(_failure(target, error))
        return None


def _import_file(path: Path) -> ModuleType:
    loaded = _already_imported(path)
    if loaded is not None:
        return loaded
    package_root, name = _module_name(path)
    if package_root is not None:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their own module up
    spec.loader.exec_module(module)
    return module


def _already_imported(path: Path) -> ModuleType | None:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        # A name is cheaper to compare than a path to resolve.
        if isinstance(file, str) and file.endswith(path.name) and Path(file).resolve() == path:
            return module
    return None


def _module_name(path: Path) -> tuple[Path | None, str]:
    """Return the folder above a file's package, and its full name; for a file in no package, a name of its own."""
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.append(folder.name)
        folder = folder.parent
    if folder != path.parent and all(part.isidentifier() for part in parts):
        return folder, ".".join(reversed(parts))
    # Loads are often all called api.py, each in a folder of its own.
    return None, f"_lineage_orch_{hashlib.sha1(str(path).encode(), usedforsecurity=False).hexdigest()[:12]}"


@contextmanager
def _import_path(target: str | Path, roots: Sequence[Path]) -> Iterator[None]:
    """Let a target be imported as Python would from its folder and the roots; forget it all afterwards."""
    before_path, before_modules = list(sys.path), set(sys.modules)
    folders = list(map(str, roots))
    if isinstance(target, Path):
        package_root, _ = _module_name(target)
        folders.insert(0, str(package_root or target.parent))
    sys.path[:0] = [each for each in dict.fromkeys(folders) if each not in sys.path]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before_path
        # First all are looked at: the path of a namespace package is worked out from its parent's.
        for name in [each for each in sys.modules.keys() - before_modules if not _is_installed(each)]:
            del sys.modules[name]


_INSTALLED = tuple(
    os.path.realpath(path) + os.sep
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
)
_OURS = __name__.partition(".")[0]


def _is_installed(name: str) -> bool:
    """Whether a module is of the standard library, an installed package, or ours: these stay."""
    if name.partition(".")[0] == _OURS:
        return True
    module = sys.modules[name]
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return os.path.realpath(file).startswith(_INSTALLED)
    folders = list(getattr(module, "__path__", ()))  # a namespace package has no file
    return not folders or any(os.path.realpath(each).startswith(_INSTALLED) for each in folders)


_RUNNING = ("__call__", "serve", "deploy", "submit", "map", "delay")


@contextmanager
def _harmless() -> Iterator[None]:
    """Let no flow or task run while modules are imported, and let no declaration of them outlast the look."""
    from prefect.flows import Flow
    from prefect.tasks import Task

    def refuse(self: Any, *_: object, **__: object) -> None:
        kind = "flow" if isinstance(self, Flow) else "task"
        raise _RanAtImportError(
            f"it runs the {kind} {self.name!r} as soon as it is imported; put that under `if __name__ == '__main__':`"
        )

    with ExitStack() as stack:
        stack.enter_context(registered_meanwhile_forgotten())
        stack.enter_context(followers_declared_meanwhile_forgotten())
        for kind in (Flow, Task):
            for method in _RUNNING:
                if hasattr(kind, method):
                    stack.enter_context(patch.object(kind, method, refuse))
        yield


def _failure(target: str | Path, error: BaseException) -> ImportFailure:
    if isinstance(error, SyntaxError) and error.filename:
        at = f"{short_path(error.filename)}:{error.lineno or 1}"
        return ImportFailure(str(target), at, f"it cannot be imported: {type(error).__name__}: {error.msg}")
    where = _raised_at(target, error)
    if isinstance(error, ModuleNotFoundError) and error.name and f"{target}.".startswith(f"{error.name}."):
        why = f"there is no module {target!r}, and no file or folder of that name; correct `producers`"
        return ImportFailure(str(target), None, why)
    if isinstance(error, _RanAtImportError):
        return ImportFailure(str(target), where, str(error))
    text = one_line(f"{type(error).__name__}: {error}")
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = f"; install what holds {error.name!r}, or run this from the folder that its imports count from"
    return ImportFailure(str(target), where, f"it cannot be imported: {text}{hint}")


def _raised_at(target: str | Path, error: BaseException) -> str | None:
    """Return ``file:line`` of the innermost frame that is the user's."""
    where: str | None = f"{short_path(str(target))}:1" if isinstance(target, Path) else None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        of_us = frame.f_globals.get("__name__", "").partition(".")[0] == _OURS
        if not file.startswith("<") and not of_us and not os.path.realpath(file).startswith(_INSTALLED):
            where = f"{short_path(file)}:{line}"
    return where


# Reading ---------------------------------------------------------------------------------------------------


def _values(values: Iterable[object], depth: int) -> Iterator[object]:
    """Yield values, and what is in those that are lists, tuples, sets, dicts or classes."""
    for value in list(values):
        yield value
        if depth == 0:
            continue
        if isinstance(value, list | tuple | set | frozenset):
            yield from _values(value, depth - 1)
        elif isinstance(value, dict):
            yield from _values(value.values(), depth - 1)
        elif isinstance(value, type) and value.__module__.partition(".")[0] not in (_OURS, "prefect", "builtins"):
            yield from _values(vars(value).values(), depth - 1)


def _read(value: object) -> Producer | None:
    from prefect.flows import Flow
    from prefect.tasks import Task

    value = getattr(value, "__func__", value)  # a static or class method
    if not isinstance(value, Flow | Task):
        return None
    declaration = declaration_of(value)
    if declaration is None:
        return None
    code = getattr(inspect.unwrap(value.fn), "__code__", None)
    return Producer(
        value.name,
        "flow" if isinstance(value, Flow) else "task",
        declaration.sources,
        code.co_filename if code else "?",
        code.co_firstlineno if code else 0,
        declaration.shared,
    )


def short_path(file: str) -> str:
    """Return a path relative to the working directory if it lies below it."""
    try:
        return str(Path(file).resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return file
