"""Which dbt a project is run by, and which release of it that is, told without running it."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import metadata, util
from pathlib import Path

from lineage_orch.dbt.inputs import digest
from lineage_orch.settings import DBT_CLOUD, LineageOrchSettings


def chosen_executable(settings: LineageOrchSettings) -> str | None:
    """Return the dbt executable that the setting ``dbt`` means; None where dbt runs in this process, or as a job.

    With no such setting: dbt-core 1.x in this process where it and prefect-dbt are installed, else the ``dbt`` beside
    this Python, else the one on PATH, if there is one.
    """
    if settings.dbt == DBT_CLOUD or (settings.dbt is None and _is_importable()):
        return None
    return named_executable(settings)


def named_executable(settings: LineageOrchSettings) -> str:
    """Return the executable of the setting ``dbt``, else the one beside this Python, else the name of one on PATH."""
    return settings.dbt or _beside_python() or "dbt"


def found_executable(executable: str) -> str | None:
    """Return the path of an executable that is named by a path or by its name on PATH; None if there is none."""
    return shutil.which(os.path.expanduser(executable))


def release_of(executable: str | None) -> str:
    """Return a text that differs between releases of dbt; "" where there is none.

    Args:
        executable: as :func:`chosen_executable` returns it.

    It is the version of dbt-core in the environment of the executable, or here. Any other, as dbt 2, is one file: what
    tells it from another one is its place, its size and when it was written.
    """
    if executable is None:
        return _installed() or ""
    path = found_executable(executable)
    if path is None:
        return ""
    resolved = Path(path).resolve()
    for packages in ("lib/python*/site-packages", "Lib/site-packages"):
        for found in resolved.parent.parent.glob(f"{packages}/dbt_core-*.dist-info"):
            return found.name.removesuffix(".dist-info").removeprefix("dbt_core-")
    known = resolved.stat()
    return digest([str(resolved), known.st_size, known.st_mtime_ns])


def _installed() -> str | None:
    try:
        return metadata.version("dbt-core")
    except metadata.PackageNotFoundError:
        return None


def _is_importable() -> bool:
    """Whether dbt-core 1.x can run in this process; dbt 2 also has a package ``dbt``, without callbacks."""
    return (_installed() or "").startswith("1.") and util.find_spec("prefect_dbt") is not None


def _beside_python() -> str | None:
    """Return the dbt of this virtual environment, which need not be on PATH (a service, a cron line)."""
    name = "dbt.exe" if os.name == "nt" else "dbt"
    path = Path(sys.executable).parent / name
    return str(path) if os.access(path, os.X_OK) else None
