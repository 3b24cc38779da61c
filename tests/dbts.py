"""The dbts that tests run over: this environment's, those that other environments hold, and dbt Cloud's stand-in.

dbt 2 is run where ``LINEAGE_ORCH_TEST_DBT2`` names one (``make test-dbt2``), and a dbt 1 of another virtual environment
where ``LINEAGE_ORCH_TEST_DBT1`` does (``make test-dbt112``).
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import duckdb
import pytest

IN_PROCESS = "dbt1-in-process"
DBT_1 = str(Path(sys.executable).parent / "dbt")
DBT_2 = os.environ.get("LINEAGE_ORCH_TEST_DBT2")
# Each engine -> the setting `dbt`; what is not set up has none.
PROCESSES = {
    "dbt1-process": DBT_1,
    "another-dbt1": os.environ.get("LINEAGE_ORCH_TEST_DBT1"),
    "dbt2": DBT_2,
}
_TO_SET_UP = {
    "another-dbt1": "LINEAGE_ORCH_TEST_DBT1 names no dbt 1; `make test-dbt112` sets one up",
    "dbt2": "LINEAGE_ORCH_TEST_DBT2 names no dbt 2; `make test-dbt2` sets one up",
}


def setting_of(engine: str) -> str | None:
    """The setting ``dbt`` of an engine; skips the test where it is not set up."""
    dbt = PROCESSES.get(engine)
    if engine in _TO_SET_UP and dbt is None:
        pytest.skip(_TO_SET_UP[engine])
    return dbt


def in_process_and(engines: Iterable[str] = PROCESSES) -> list[object]:
    """Parameters: dbt in this process, which `make test` runs, and others, which it leaves to targets of their own."""
    return [IN_PROCESS, *(pytest.param(each, marks=pytest.mark.engine) for each in engines)]


def new_warehouse(path: Path) -> None:
    """Make an empty file that the older DuckDB of dbt 2 can read too."""
    with duckdb.connect() as connection:
        connection.execute(f"attach '{path}' as warehouse (storage_version 'v1.2.0')")


def with_macros_parsed(folder: Path, files: Mapping[str, str]) -> None:
    """Put into a new project what dbt keeps of a parse of these files; its first parse takes a quarter of the time.

    dbt's own macros take most of it, and are parsed once for all tests of a process. dbt takes what it finds only if
    the project, the profile and each ``env_var`` in it are the same.
    """
    (folder / "target").mkdir()
    shutil.copy2(_parsed(tuple(files.items())), folder / "target")


@cache
def _parsed(files: tuple[tuple[str, str], ...]) -> Path:
    from dbt.cli.main import dbtRunner

    folder = Path(tempfile.mkdtemp(prefix="lineage_orch_parsed_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, text in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    args = ["--quiet", "parse", "--project-dir", str(folder), "--profiles-dir", str(folder)]
    assert dbtRunner().invoke(args).success
    return folder / "target" / "partial_parse.msgpack"
