"""Several dbt workers, workers without a ledger, a server that dies: what production does to a deployment."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lineage_orch import Ledger, Orchestrator, SourceUpdate
from tests.integration.real_prefect import RealPrefect, end, wait_for
from tests.shop_project import Shop

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EAST, WEST = "build-affected/east", "build-affected/west"
PHOENIX = "build-affected/phoenix"
LOCAL = "in-process/in-process"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("production")


@pytest.fixture(scope="module")
def server(real_prefect: RealPrefect, folder: Path) -> RealPrefect:
    return real_prefect.telling(folder, TEST_KILL=str(folder / "kill"), SHOP_WAIT=str(folder / "wait"))


Serve = Callable[..., Any]


@pytest.fixture
def serve(server: RealPrefect) -> Iterator[Serve]:
    """Serve deployments until the test ends."""
    serving = []

    def start(*names: str, **environment: str) -> None:
        serving.append(server.serve(*names, **environment))

    yield start
    for process in serving:
        end(process)


@pytest.fixture
def project(folder: Path, parsed_shop: Path) -> Callable[[str], Shop]:
    """A copy of the dbt project by a name of its own, with a warehouse of its own."""

    def copied(name: str) -> Shop:
        return Shop(Path(shutil.copytree(parsed_shop, folder / name)))

    return copied


def update(source: str) -> dict[str, Any]:
    return SourceUpdate(source, os.urandom(8).hex(), datetime.now(UTC)).to_dict()


def dbt_times(server: RealPrefect, run_id: str) -> list[tuple[str, str]]:
    """When each dbt process of a run that has ended began and ended, as its log says."""

    def look() -> tuple[list[str], list[str]] | None:
        found = server.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200})
        lines = sorted((line["timestamp"], line["message"]) for line in found)
        begun = [at for at, message in lines if "Running with dbt" in message]
        done = [at for at, message in lines if re.search(r"Done\. PASS=", message)]
        return (begun, done) if len(begun) == len(done) else None  # the last lines come after the run's end

    begun, done = wait_for("the end of its log", look, seconds=20)
    return list(zip(begun, done, strict=True))


@pytest.mark.drill  # a minute and more of processes
def test_dbt_workers_of_one_ledger_never_build_at_once(
    server: RealPrefect, serve: Serve, folder: Path, first_built_shop: Path, postgres_database: str
) -> None:
    # A machine each: what they share is Prefect and the ledger. Their warehouses only stand for one, and have all
    # tables from the beginning.
    east, west = (Shop(Path(shutil.copytree(first_built_shop, folder / name))) for name in ("east", "west"))
    before = west.built_at("stg_customers")
    serve(EAST, LINEAGE_ORCH_LEDGER=postgres_database, TEST_EAST=str(east.folder))
    serve(WEST, LINEAGE_ORCH_LEDGER=postgres_database, TEST_WEST=str(west.folder))
    given = []

    def launch(deployment: str, *sources: str) -> str:
        given.extend(loads := [update(source) for source in sources])
        return server.launch(deployment, {"updates": loads})

    wait = server.folder / "wait"
    wait.touch()
    with Ledger(postgres_database, project="shop", target="dev") as ledger:
        first = launch(EAST, "crm.orders", "crm.customers")
        wait_for("east builds", lambda: "START python table model" in server.logs(first), every=0.1)
        holder = ledger.holder()
        assert holder is not None
        handed_over = server.ended(launch(WEST, "crm.customers"))
        assert handed_over["state_name"] == "HandedOver"
        assert holder.who in handed_over["state"]["message"]
        wait.unlink()
        assert re.match(rf"flow run {server.run(first)['name']!r}, process \d+ on ", holder.who)
        assert server.ended(first)["state_name"] == "Completed"
        # The one that held the lock built what the other had been told.
        assert len(dbt_times(server, first)) >= 2
        assert west.built_at("stg_customers") == before

        runs = [
            launch(EAST if number % 2 else WEST, f"crm.{name}")
            for number, name in enumerate(["orders", "customers", "orders", "customers", "orders", "customers"])
        ]
        for deployment in (EAST, WEST):
            server.settle(deployment)
        ends = [server.run(each)["state_name"] for each in runs]
        assert set(ends) <= {"Completed", "Coalesced", "HandedOver"}, ends
        assert {each["update_id"] for each in given} == {each.update_id for _, each in ledger.recent_updates(50)}
    times = sorted(each for run in [first, *runs] for each in dbt_times(server, run))
    assert len(times) >= 3
    assert all(done <= begun for (_, done), (begun, _) in pairwise(times)), times
    with Orchestrator(project_dir=east.folder, ledger=postgres_database) as orchestrator:
        assert orchestrator.plan().is_empty


@pytest.mark.drill  # half a minute and more of processes
def test_dbt_worker_without_its_ledger_builds_nothing(
    server: RealPrefect, serve: Serve, project: Callable[[str], Shop]
) -> None:
    lonely = project("lonely")
    nowhere = "postgresql+psycopg://dbt:secret-word@127.0.0.1:9/ledger"
    serve("build-affected/lonely", LINEAGE_ORCH_LEDGER=nowhere, TEST_LONELY=str(lonely.folder))
    run = server.ended(server.launch("build-affected/lonely", {"updates": [update("crm.orders")]}))
    assert run["state_type"] == "FAILED"
    message = run["state"]["message"]
    assert "postgresql+psycopg://dbt:***@127.0.0.1:9/ledger" in message
    assert "secret-word" not in message + server.logs(run["id"])
    assert "Running with dbt" not in server.logs(run["id"])
    assert not lonely.tables()


@pytest.mark.drill  # half a minute and more of processes
def test_served_load_stays_completed_while_it_builds(
    server: RealPrefect, serve: Serve, project: Callable[[str], Shop]
) -> None:
    local = project("local")
    with Orchestrator(project_dir=local.folder) as orchestrator:
        orchestrator.record(["crm.orders"])
    # The build takes longer than the load's timeout, and than its place in the deployment's limit of one.
    serve(LOCAL, LINEAGE_ORCH_PROJECT_DIR=str(local.folder), SHOP_SLOW="8")
    loads = [server.ended(server.launch(LOCAL)) for _ in range(2)]
    assert [load["state_type"] for load in loads] == ["COMPLETED"] * 2
    assert all(load["total_run_time"] < 6 for load in loads)
    with Orchestrator(project_dir=local.folder) as orchestrator:
        wait_for("both updates", lambda: len(orchestrator.ledger.recent_updates(10)) == 3)
        wait_for("the builds end", lambda: not builds_at_work(server) and orchestrator.plan().is_empty)
    assert {"stg_orders", "stg_customers", "revenue", "order_count"} <= local.tables()
    assert [server.run(load["id"])["state_type"] for load in loads] == ["COMPLETED"] * 2


def builds_at_work(server: RealPrefect) -> list[dict[str, Any]]:
    at_work = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}, "deployment_id": {"is_null_": True}}
    return server.post("/flow_runs/filter", {"flows": {"name": {"any_": ["build-affected"]}}, "flow_runs": at_work})


@pytest.mark.drill  # half a minute and more of processes
def test_server_is_killed_during_build_and_comes_back(
    real_prefect: RealPrefect, server: RealPrefect, serve: Serve, project: Callable[[str], Shop]
) -> None:
    shop = project("phoenix")
    serve("orders/orders", PHOENIX, TEST_PHOENIX=str(shop.folder), TEST_TRIGGERS=PHOENIX)
    wait = server.folder / "wait"
    wait.touch()
    build = server.launch(PHOENIX, {"updates": [update("crm.orders"), update("crm.customers")]})
    wait_for("dbt builds", lambda: "START python table model" in server.logs(build), every=0.1)
    waits = server.launch(PHOENIX, {"updates": [update("crm.customers")]})
    assert real_prefect.process is not None
    os.killpg(real_prefect.process.pid, signal.SIGKILL)
    real_prefect.process.wait()
    wait.unlink()  # it ends while nobody answers
    real_prefect.start()

    assert server.ended(build)["state_name"] == "Completed"
    assert server.ended(waits)["state_name"] in ("Completed", "Coalesced")
    before = shop.built_at("stg_orders")
    load = server.ended(server.launch("orders/orders"))
    after = wait_for("its build", lambda: server.child_of(load["id"]))
    assert server.ended(after["id"])["state_name"] in ("Completed", "Coalesced")
    server.settle(PHOENIX)
    assert shop.built_at("stg_orders") > before
    with Orchestrator(project_dir=shop.folder) as orchestrator:
        assert orchestrator.plan().is_empty
