"""What a manifest is made from, so that it is made anew when any of that differs, and only then."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lineage_orch.text import few

_PROJECT_FILES = ("dbt_project.yml", "packages.yml", "dependencies.yml", "package-lock.yml", "selectors.yml")
_ENV_VAR = re.compile(rb"""env_var\(\s*['"]([^'"]+)['"]""")
_SECRET = "DBT_ENV_SECRET"  # dbt lets those into profiles.yml and packages.yml alone
_FORMAT = 1  # of the record
OTHER_COMMAND = "its manifest was made by another dbt command"
"""Why a manifest is stale that may be up to date, and was not made by us."""


class Inputs(NamedTuple):
    """All that a manifest is made from.

    Attributes:
        files: each file of the project, as its path within it -> size (bytes) and time (ns since the epoch) of its
            last change. A time that differs either way counts: a file put back by ``cp -p`` has an older one.
        call: what dbt is called with, by name, as digests: a password may be among it.
    """

    files: Mapping[str, tuple[int, int]]
    call: Mapping[str, str]


def digest(value: Any) -> str:
    """Return a fingerprint of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def files_of(directory: Path, folders: Sequence[Path], packages: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file that dbt would look at.

    Args:
        folders: where its resources lie.
        packages: where its packages are installed: of one that is installed, its dbt_project.yml stands for all of it;
            one that is linked (``local:``) is looked at like the project.
    """
    found: dict[str, tuple[int, int]] = {}
    for path in _paths(directory, folders, packages):
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            continue
        found[os.path.relpath(path, directory)] = (stat.st_size, stat.st_mtime_ns)
    return found


def _paths(directory: Path, folders: Sequence[Path], packages: Path) -> Iterator[str]:
    for name in _PROJECT_FILES:
        yield str(directory / name)
    for folder in folders:
        yield from _below(folder)
    if packages.is_dir():
        with os.scandir(packages) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield from _below(Path(entry.path), skip=("target", "logs", "dbt_packages", "dbt_modules"))
                elif entry.is_dir():
                    yield os.path.join(entry.path, "dbt_project.yml")


def _below(folder: Path, skip: Sequence[str] = ()) -> Iterator[str]:
    stack = [str(folder)] if folder.is_dir() else []
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.endswith("~") or entry.name in skip:
                    continue  # of an editor, or of git
                if entry.is_dir():
                    if entry.name != "__pycache__":
                        stack.append(entry.path)
                else:
                    yield entry.path


class Record:
    """A note, beside a manifest, of what it was made from. ``dbt clean`` takes both away."""

    def __init__(self, manifest: Path) -> None:
        self.path = manifest.with_name("lineage_orch_inputs.json")
        self._manifest = manifest

    def differs(self, inputs: Inputs) -> str | None:
        """Return why the manifest is not the one that dbt would make of these inputs; None if it is."""
        try:
            stat = self._manifest.stat()
        except FileNotFoundError:
            return "it has no manifest yet"
        try:
            kept = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return OTHER_COMMAND
        except ValueError:
            return f"{self.path} cannot be read"
        if not isinstance(kept, dict) or kept.get("format") != _FORMAT:
            return f"{self.path} was written by another release"
        if kept["manifest"] != [stat.st_size, stat.st_mtime_ns]:
            return OTHER_COMMAND
        for name, value in inputs.call.items():
            if value and kept["call"].get(name) != value:
                return f"{name} changed"
        for name, value in kept["env"].items():
            if _env(name) != value:
                return f"{name} in the environment changed"
        files = {name: tuple(each) for name, each in kept["files"].items()}
        if files != inputs.files:
            changed = sorted(
                name for name in files.keys() | inputs.files.keys() if files.get(name) != inputs.files.get(name)
            )
            return f"{few(changed, most=1)} changed"
        return None

    def write(self, inputs: Inputs, directory: Path, made_by: str | None = None) -> None:
        """Note that the manifest as it stands was made from these inputs.

        Args:
            inputs: taken before it was made, so that what changed meanwhile counts as a change.
            directory: of the project, whose files are looked through for the environment variables that they name.
            made_by: the id of the dbt invocation that made it, if known. When another one wrote the manifest since,
                nothing is noted, and the next look makes it anew.
        """
        try:
            stat = self._manifest.stat()
            if made_by is not None and made_by.encode() not in _head(self._manifest):
                return
        except FileNotFoundError:
            return
        names = {name for file in inputs.files for name in _env_vars(directory / file)}
        kept = {
            "format": _FORMAT,
            "manifest": [stat.st_size, stat.st_mtime_ns],
            "call": inputs.call,
            "env": {name: _env(name) for name in sorted(names)},
            "files": inputs.files,
        }
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(kept), encoding="utf-8")
            new.replace(self.path)
        except OSError as error:
            # A project that this process may only read. The next look finds no note, and judges anew.
            logging.getLogger("lineage_orch.dbt").debug("%s cannot be written: %s", self.path, error)

    def is_newer_than_all(self, inputs: Inputs, directory: Path, also: Iterable[Path]) -> bool:
        """Whether nothing of the project changed since the manifest was written, as far as the file system tells.

        The time of the last change of a file's *state* counts too: a file that is put back with an older time has a
        new one of those. Folders count, for files that went.

        Args:
            also: other files that count: profiles.yml.
        """
        try:
            made = self._manifest.stat().st_mtime_ns
            paths = {directory / file for file in inputs.files} | set(also)
            folders = {path.parent for path in paths} - {directory, *(each.parent for each in also)}
            stats = [os.stat(path) for path in paths | folders]
        except OSError:
            return False
        return all(max(stat.st_mtime_ns, stat.st_ctime_ns) <= made for stat in stats)


def _head(path: Path) -> bytes:
    """Return the start of a manifest: dbt writes its metadata first."""
    with path.open("rb") as file:
        return file.read(4096)


def _env_vars(path: Path) -> set[str]:
    try:
        found = _ENV_VAR.findall(path.read_bytes())
    except OSError:
        return set()
    return {name for name in (each.decode(errors="replace") for each in found) if not name.startswith(_SECRET)}


def _env(name: str) -> str | None:
    value = os.environ.get(name)
    return None if value is None else digest(value)
