"""``make demo``, as the README shows it: the transcript line by line, again, and with a dead API."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.dbts import PROCESSES, setting_of

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the example: what the demo writes does not end up in the repository."""
    folder = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("data", "target", "logs", "__pycache__", ".lineage_orch", "*.duckdb", "*.db")
    shutil.copytree(ROOT / "example_project", folder / "example_project", ignore=ignore)
    return folder


def run_demo(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the demo from the copy: there, ``python -m`` finds the copy first."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LINEAGE_ORCH_", "PREFECT_"))}
    clean.pop("DUMMYJSON_BASE_URL", None)
    clean.pop("PYTHONPATH", None)
    environment = clean | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "COLUMNS": "200", **variables}
    return subprocess.run(
        [sys.executable, "-m", "example_project.demo"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def transcript(text: str) -> list[str]:
    """The lines from the first load to the last, without the times."""
    lines = [line.rstrip() for line in text.splitlines() if not re.match(r"\s+took\s+[\d.]+ s$", line)]
    first = next(number for number, line in enumerate(lines) if line.startswith("1. "))
    last = max(number for number, line in enumerate(lines) if line.startswith(("   not affected", "   built")))
    return lines[first : last + 1]


def shown_in_readme() -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"## What happened\n.*?```text\n(.*?)```", readme, flags=re.S)
    assert found
    return transcript(found[1])


def test_readme_shows_what_demo_prints(checkout: Path) -> None:
    # What an earlier run left behind, interrupted or not, changes nothing.
    left = checkout / "example_project" / "data" / "demo"
    left.mkdir(parents=True, exist_ok=True)
    for name in ("warehouse.duckdb", "ledger.db"):
        (left / name).write_text("left behind")
    done = run_demo(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert transcript(done.stdout) == shown_in_readme()
    assert done.stderr == ""
    start, *rest = done.stdout.splitlines()
    assert start.startswith("Starting: ")
    # Nothing but the transcript, and the two tables at its end.
    ours = re.compile(
        r"$|\d\. |   (loaded|observed|built|followed by|held|unchanged|not affected|took) "
        r"|mart_product_sales, |When each table|  |Done in| ─"
    )
    assert [line for line in rest if not ours.match(line)] == []
    assert re.search(r"^Done in \d+ s\.", rest[-1])
    assert not (checkout / "example_project" / "data" / "raw").exists()


def tables_and_ledger(checkout: Path) -> dict[str, Any]:
    """The rows of each table of the demo, without times, and each node's ticks."""
    demo = checkout / "example_project" / "data" / "demo"
    with duckdb.connect(str(demo / "warehouse.duckdb"), read_only=True) as connection:
        names = connection.execute("select schema_name || '.' || table_name from duckdb_tables()").fetchall()
        found: dict[str, Any] = {}
        for (name,) in names:
            table = connection.table(name)
            kept = [column for column in table.columns if column != "built_at" and not column.startswith("dbt_")]
            found[name] = sorted(map(str, table.select(*kept).fetchall()))
    with contextlib.closing(sqlite3.connect(demo / "ledger.db")) as connection:
        found["ledger"] = sorted(
            connection.execute("select node, tick, changed_tick from lineage_orch_nodes").fetchall()
        )
    return found


@pytest.fixture(scope="module")
def in_process(checkout: Path) -> dict[str, Any]:
    assert run_demo(checkout).returncode == 0
    return tables_and_ledger(checkout)


@pytest.mark.engine
@pytest.mark.parametrize("engine", PROCESSES)
def test_demo_is_the_same_over_each_dbt(checkout: Path, in_process: dict[str, Any], engine: str) -> None:
    done = run_demo(checkout, LINEAGE_ORCH_DBT=str(setting_of(engine)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert transcript(done.stdout) == shown_in_readme()
    assert tables_and_ledger(checkout) == in_process


@pytest.mark.drill  # half a minute and more of processes
def test_dead_api_ends_it_with_one_line_and_no_table(checkout: Path) -> None:
    done = run_demo(checkout, DUMMYJSON_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr == ""
    start, *rest = [line for line in done.stdout.splitlines() if line]
    title, why = rest
    assert start.startswith("Starting: ")
    assert title.startswith("1. ")
    assert why.startswith("The load of external_sources.raw_products failed, so no model was built: ")
    assert "127.0.0.1:9" in why
    assert "Traceback" not in done.stdout
    warehouse = checkout / "example_project" / "data" / "demo" / "warehouse.duckdb"
    if warehouse.exists():
        with duckdb.connect(str(warehouse), read_only=True) as connection:
            assert connection.execute("select count(*) from information_schema.tables").fetchone() == (0,)
