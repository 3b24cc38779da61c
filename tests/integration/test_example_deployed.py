"""The example, deployed as its README says: to a work pool with a worker, and as `make demo-server`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from example_project.api_server import generate, serve
from tests.integration.real_prefect import ROOT, RealPrefect, end, wait_for

pytestmark = pytest.mark.integration

DBT = "build-affected/ints"
LOADS = ("dummyjson-products/products", "dummyjson-carts/carts", "dummyjson-users/users")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example: what it writes does not end up in the repository."""
    folder = tmp_path_factory.mktemp("deployed")
    ignore = shutil.ignore_patterns("data", "target", "logs", "__pycache__", ".lineage_orch", "*.duckdb", "*.db")
    shutil.copytree(ROOT / "example_project", folder / "example_project", ignore=ignore)
    return folder / "example_project"


@pytest.fixture
def server(real_prefect: RealPrefect, tmp_path: Path) -> Iterator[RealPrefect]:
    with serve(generate()) as api:
        yield real_prefect.telling(tmp_path, DUMMYJSON_BASE_URL=api)


@pytest.mark.drill  # half a minute and more of processes
def test_work_pool_runs_loads_and_build_they_set_off(server: RealPrefect, checkout: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=checkout,
            env=server.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "prefect", "work-pool", "create", "ints", "--type", "process")
    run("-m", "prefect", "--no-prompt", "deploy", "--all")
    by_yaml = deployed(server)
    said = run("deploy.py", "--pool", "ints")
    assert "prefect worker start --pool ints" in said
    # Two ways to say the same.
    assert deployed(server) == by_yaml
    assert by_yaml[DBT]["limit"] == (1, "ENQUEUE")
    assert by_yaml[DBT]["crons"] == ["17 * * * *"]
    assert all(by_yaml[load]["crons"] for load in LOADS)

    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ints"]
    worker = server.spawn(command, "worker.log", PREFECT_WORKER_QUERY_SECONDS="1", LINEAGE_ORCH_DEBOUNCE="1")
    try:
        load = server.ended(server.launch(LOADS[0]))
        assert load["state_type"] == "COMPLETED"
        build = server.ended(wait_for("the build", lambda: server.child_of(load["id"]))["id"])
    finally:
        end(worker)
    assert build["state_type"] == "COMPLETED", build["state"]["message"]
    assert build["deployment_id"] == server.deployment(DBT)["id"]  # type: ignore[index]
    import duckdb

    with duckdb.connect(str(checkout / "data" / "warehouse.duckdb"), read_only=True) as connection:
        tables = {name for (name,) in connection.execute("select table_name from information_schema.tables").fetchall()}
    assert {"stage_dummyjson__products", "mart_price_history"} <= tables


def deployed(server: RealPrefect) -> dict[str, dict[str, Any]]:
    """What matters of each deployment."""
    out = {}
    for name in (DBT, *LOADS):
        found = server.deployment(name)
        assert found is not None, name
        options, limit = found["concurrency_options"] or {}, found["global_concurrency_limit"] or {}
        out[name] = {
            "tags": sorted(found["tags"]),
            "pool": found["work_pool_name"],
            "crons": [each["schedule"]["cron"] for each in found["schedules"]],
            "limit": (limit.get("limit"), options.get("collision_strategy")),
        }
    return out


@pytest.mark.drill  # a minute and more of processes
def test_server_demo_leaves_nothing_after_interrupt(tmp_path: Path, checkout: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LINEAGE_ORCH_", "PREFECT_"))}
    said = tmp_path / "said.txt"
    (tmp_path / "temporary").mkdir()
    with said.open("w") as out:
        demo = subprocess.Popen(
            [sys.executable, "-u", "-m", "example_project.demo_server"],
            cwd=checkout.parent,
            env={**clean, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for("a build", lambda: re.search(r"build +\S+ runs", said.read_text()), seconds=150)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130
    finally:
        end(demo)
    assert "Traceback" not in said.read_text()
    assert list((tmp_path / "temporary").glob("lineage_orch_demo_*")) == []
    # Its children were told where temporary files go, and nobody else was.
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if str(tmp_path / "temporary") in read(path)]
    assert left == []


def read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
