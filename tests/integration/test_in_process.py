"""A load that completes builds its models, in its own process or in a child of it: real Prefect, real dbt."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import make_url

from lineage_orch import InProcessTrigger, Orchestrator, produces_source
from lineage_orch.dbt.in_process import DbtRunner
from lineage_orch.deployed.reconcile import reconcile
from lineage_orch.deployed.run_events import asset_key
from lineage_orch.triggers import in_process
from tests.shop_project import Shop

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@produces_source("crm.orders")
@flow
def load_orders() -> None: ...


@produces_source("crm.customers")
@flow
def load_customers() -> None: ...


@produces_source("crm.unread")
@flow
def load_unread() -> None: ...


class Builds:
    """The build_affected runs that Prefect shows since a test began."""

    def __init__(self) -> None:
        self._before = {run.id for run in self._all()}

    def __call__(self) -> list[FlowRun]:
        return [run for run in self._all() if run.id not in self._before]

    @staticmethod
    def _all() -> list[FlowRun]:
        with get_client(sync_client=True) as client:
            return client.read_flow_runs(flow_filter=FlowFilter(name={"any_": ["build-affected"]}), limit=200)


@pytest.fixture
def builds() -> Builds:
    return Builds()


@pytest.fixture
def dbt_builds(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What dbt was asked to build in this process."""
    selections: list[list[str]] = []
    build = DbtRunner.build

    def spy(self: DbtRunner, select: Any, *more: Any) -> Any:
        selections.append(list(select))
        return build(self, select, *more)

    monkeypatch.setattr(DbtRunner, "build", spy)
    return selections


def errors(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR)


# Only what is affected ---------------------------------------------------------------------------------------


def test_load_builds_its_models_and_no_others(built_shop: Shop, builds: Builds):
    before = {table: built_shop.built_at(table) for table in ("stg_orders", "stg_customers", "revenue")}
    built_shop.write_customers((1, "Ada"), (2, "Grace"), (3, "Edsger"))
    built_shop.write_orders((9, 3, "99"))  # raw data that no load has reported

    load_customers()

    # The call has returned, so the models are built.
    assert built_shop.query("select name from stg_customers order by name") == [("Ada",), ("Edsger",), ("Grace",)]
    assert built_shop.built_at("revenue") > before["revenue"]
    assert built_shop.query("select count(*) from customer_names") == [(3,)]
    # The other source's staging model is as it was, to the row and to the second.
    assert built_shop.query("select order_id from stg_orders order by 1") == [(1,), (2,), (3,)]
    assert built_shop.built_at("stg_orders") == before["stg_orders"]
    (build,) = builds()
    assert build.state.is_completed()


def test_prefect_shows_build_its_nodes_as_tasks_and_its_logs(built_shop: Shop, builds: Builds):
    state = load_customers(return_state=True)

    load_run = state.state_details.flow_run_id
    (build,) = builds()
    assert build.parameters["updates"][0]["flow_run_id"] == str(load_run)
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[build.id])))
    assert {run.name: run.state_name for run in tasks} == {
        "model stg_customers": "Completed",
        "model revenue": "Completed",
        "snapshot customer_names": "Completed",
        "test unique_stg_customers_customer_id": "Completed",
        "test relationships_stg_orders_customer_id__customer_id__ref_stg_customers_": "Completed",
    }
    assert "Running with dbt" in logs_of(build.id, until="Done. PASS=")
    # The load's own log tells how it ended, and no more.
    of_load = logs_of(load_run, until="Built 3 nodes")
    assert "dbt" not in of_load


def logs_of(flow_run_id: UUID, until: str) -> str:
    """Logs travel to the server in batches: wait for the line that ends them."""
    text = ""
    deadline = time.monotonic() + 15
    while until not in text and time.monotonic() < deadline:
        time.sleep(0.2)
        with get_client(sync_client=True) as client:
            # read_logs of the sync client alone does not exist in every release
            logs = client.request(
                "POST",
                "/logs/filter",
                json={
                    "logs": LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])).model_dump(mode="json"),
                    "sort": "TIMESTAMP_ASC",
                },
            ).json()
        text = "\n".join(each["message"] for each in logs)
    assert until in text
    return text


def test_load_leaves_nothing_behind_in_its_process(built_shop: Shop):
    load_customers()
    where, threads = Path.cwd(), threading.active_count()
    load_customers()
    assert Path.cwd() == where
    assert threading.active_count() <= threads
    # The warehouse may be opened by another process, for writing, which DuckDB allows to one process alone:
    # dbt-duckdb would keep it open until this one ends.
    code = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('create table t as select 1')"
    subprocess.run([sys.executable, "-c", code, str(built_shop.warehouse)], check=True)


def test_source_that_no_model_reads_runs_nothing_and_says_so(
    built_shop: Shop, dbt_builds: list[list[str]], builds: Builds, caplog: pytest.LogCaptureFixture
):
    load_unread()
    assert dbt_builds == []
    (build,) = builds()
    assert build.state.message == "Nothing was due."
    assert "Nothing was due." in caplog.text


def test_password_in_ledger_s_url_is_not_shown_in_prefect(
    built_shop: Shop, builds: Builds, postgres_database: str, caplog: pytest.LogCaptureFixture
):
    url = make_url(postgres_database).set(password="s3cret").render_as_string(hide_password=False)

    @produces_source("crm.orders", trigger=InProcessTrigger(ledger=url))
    @flow
    def load() -> None: ...

    load()
    (build,) = builds()
    assert build.state.is_completed()
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    assert any(each.flow_run_id == build.id for each in artifacts), "the build tells of itself"
    shown = [*map(repr, artifacts), build.model_dump_json(), caplog.text]
    assert not [each for each in shown if "s3cret" in each]


# A build that fails ------------------------------------------------------------------------------------------


def test_model_that_fails_fails_build_by_name_and_never_load(
    built_shop: Shop, builds: Builds, caplog: pytest.LogCaptureFixture
):
    before = built_shop.built_at("revenue")
    built_shop.write_orders((1, 1, "a lot"))

    assert load_orders(return_state=True).is_completed()

    (build,) = builds()
    assert build.state.is_failed()
    assert "model.shop.stg_orders" in build.state.message
    assert "a lot" in build.state.message
    assert "The load is complete, but the build that it set off failed" in errors(caplog)
    assert "model.shop.stg_orders" in errors(caplog)
    assert tracebacks(caplog) == []
    assert built_shop.built_at("revenue") == before
    # Once fixed, the next load of anything builds what is stale.
    built_shop.write_orders((1, 1, "5"))
    with Orchestrator() as orchestrator:
        orchestrator.retry()
    load_unread()
    assert built_shop.query("select name, revenue from revenue") == [("Ada", 5.0)]


def test_test_that_fails_blocks_what_is_below_and_is_named(
    built_shop: Shop, builds: Builds, caplog: pytest.LogCaptureFixture
):
    before = built_shop.built_at("revenue")
    built_shop.write_customers((1, "Ada"), (1, "Ada again"))

    assert load_customers(return_state=True).is_completed()

    (build,) = builds()
    assert build.state.is_failed()
    assert "test.shop.unique_stg_customers_customer_id" in errors(caplog)
    assert built_shop.built_at("revenue") == before
    with Orchestrator() as orchestrator:
        assert orchestrator.plan().held["model.shop.stg_customers"].reason == "failing"


# A hook that fails -------------------------------------------------------------------------------------------


def _no_project(shop: Shop, patch: pytest.MonkeyPatch) -> str:
    patch.setenv("LINEAGE_ORCH_PROJECT_DIR", str(shop.folder / "nowhere"))
    return "no dbt_project.yml; correct project_dir"


def _no_profile(shop: Shop, patch: pytest.MonkeyPatch) -> str:
    patch.setenv("HOME", str(shop.folder.parent))
    (shop.folder / "profiles.yml").unlink()
    return "write one, or set profiles_dir"


def _other_profile(shop: Shop, patch: pytest.MonkeyPatch) -> str:
    shop.edit("dbt_project.yml", "profile: shop", "profile: shoop")
    return "no profile 'shoop'"


def _no_such_target(shop: Shop, patch: pytest.MonkeyPatch) -> str:
    patch.setenv("LINEAGE_ORCH_TARGET", "prod")
    return "no target 'prod'; it has: dev"


def _no_ledger(shop: Shop, patch: pytest.MonkeyPatch) -> str:
    patch.setenv("LINEAGE_ORCH_LEDGER", f"sqlite:///{shop.folder}/dbt_project.yml/ledger.db")
    return "dbt_project.yml/ledger.db"


def _no_manifest(shop: Shop, patch: pytest.MonkeyPatch) -> str:
    patch.setenv("LINEAGE_ORCH_MANIFEST", str(shop.folder / "no_manifest.json"))
    return "no_manifest.json"


def _cut_off_manifest(shop: Shop, patch: pytest.MonkeyPatch) -> str:
    path = shop.folder / "cut_off.json"
    path.write_text(shop.manifest.read_text()[:1000])
    patch.setenv("LINEAGE_ORCH_MANIFEST", str(path))
    return "cut_off.json"


def _no_sources(shop: Shop, patch: pytest.MonkeyPatch) -> str:
    path = shop.folder / "no_sources.json"
    path.write_text('{"metadata": {"dbt_schema_version": "v12"}, "nodes": {}, "sources": {}}')
    patch.setenv("LINEAGE_ORCH_MANIFEST", str(path))
    return "crm.orders"


BROKEN: list[Callable[[Shop, pytest.MonkeyPatch], str]] = [
    _no_project,
    _no_profile,
    _other_profile,
    _no_such_target,
    _no_ledger,
    _no_manifest,
    _cut_off_manifest,
    _no_sources,
]


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda each: each.__name__.strip("_"))
def test_build_that_cannot_start_is_logged_by_load_with_hint(
    breaks: Callable[[Shop, pytest.MonkeyPatch], str],
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    dbt_builds: list[list[str]],
):
    said = breaks(shop, monkeypatch)
    assert load_orders(return_state=True).is_completed()
    (last,) = [each for each in errors(caplog).splitlines() if "The load is complete" in each][-1:]
    assert said in last
    assert "unexpected error" not in last
    assert dbt_builds == []


def test_unknown_source_is_told_with_nearest_real_one(shop: Shop, caplog: pytest.LogCaptureFixture):
    @produces_source("crm.ordres")
    @flow
    def load() -> None: ...

    assert load(return_state=True).is_completed()
    assert "crm.orders" in errors(caplog)
    assert "The load is complete" in errors(caplog)


def test_typo_of_other_producer_loses_no_update(built_shop: Shop, dbt_builds: list[list[str]]):
    @produces_source("crm.no_such_table")
    @flow
    def never_run() -> None: ...

    load_customers()
    assert len(dbt_builds) == 1


def test_prefect_that_does_not_answer_is_told_with_mend(
    built_shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        settings = in_process.serialize_context()
    # As if the API had gone down between the end of the load and the build.
    monkeypatch.setattr(in_process, "serialize_context", lambda: settings)
    assert load_customers(return_state=True).is_completed()
    assert "Prefect would not run build_affected" in errors(caplog)
    assert "lineage-orch build" in errors(caplog)


# The loop, other loads, and those that must not wait ------------------------------------------------------------


def test_async_load_leaves_its_loop_free(built_shop: Shop):
    @produces_source("crm.customers")
    @flow
    async def load() -> None: ...

    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.02)
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()

    async def main() -> float:
        ticking = asyncio.create_task(tick())
        start = time.perf_counter()
        await load()
        took = time.perf_counter() - start
        await asyncio.sleep(0.05)  # one more tick, which tells how long the loop stood still before it
        ticking.cancel()
        return took

    before = built_shop.built_at("revenue")
    took = asyncio.run(main())
    assert built_shop.built_at("revenue") > before
    assert took > 1  # a build went on meanwhile
    assert max(gaps) < took / 2, f"the loop stood still for {max(gaps):.2f} s of {took:.2f} s"


@pytest.mark.parametrize("how", ["async", "threads"])
def test_loads_that_end_together_share_builds(how: str, built_shop: Shop, builds: Builds, dbt_builds: list[list[str]]):
    before = {table: built_shop.built_at(table) for table in ("stg_orders", "stg_customers", "revenue")}
    if how == "threads":
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda load: load(), [load_orders, load_customers]))
    else:

        @produces_source("crm.orders")
        @flow
        async def orders() -> None: ...

        @produces_source("crm.customers")
        @flow
        async def customers() -> None: ...

        async def main() -> None:
            await asyncio.gather(orders(), customers())

        asyncio.run(main())
    for table, built_at in before.items():
        assert built_shop.built_at(table) > built_at
    assert len(dbt_builds) <= 2
    assert len(builds()) <= 2


STREAM = """
from pathlib import Path
from lineage_orch import Orchestrator
with Orchestrator(project_dir=Path.cwd()) as orchestrator:
    while not Path("enough").exists():
        orchestrator.record(["crm.orders"])
        orchestrator.build(who="the stream")
"""


def test_load_into_stream_of_others_returns_when_its_own_is_built(built_shop: Shop):
    stream = subprocess.Popen([sys.executable, "-c", STREAM], cwd=built_shop.folder, env=os.environ)
    try:
        with Orchestrator(project_dir=built_shop.folder) as orchestrator:
            before = orchestrator.ledger.snapshot().nodes["model.shop.stg_customers"].tick
            deadline = time.monotonic() + 60
            while orchestrator.ledger.holder() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            assert load_customers(return_state=True).is_completed()
            assert orchestrator.ledger.snapshot().nodes["model.shop.stg_customers"].tick > before
            assert stream.poll() is None  # which goes on
    finally:
        (built_shop.folder / "enough").touch()
        stream.wait(60)


def test_load_without_wait_builds_in_other_process(
    built_shop: Shop, monkeypatch: pytest.MonkeyPatch, builds: Builds, dbt_builds: list[list[str]]
):
    batches: list[Any] = []
    monkeypatch.setattr(in_process, "_beside", in_process._Builder("test", batches.append))
    monkeypatch.setenv("LINEAGE_ORCH_WAIT", "false")
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "of the load")
    assert load_customers(return_state=True).is_completed()
    in_process._beside.join()
    ((request,),) = batches
    assert [update.source for update in request.completion.updates] == ["crm.customers"]
    # It talks to the load's API, but not in the load's name.
    assert request.prefect["PREFECT_API_URL"] == PREFECT_API_URL.value()
    assert "PREFECT__FLOW_RUN_ID" not in request.prefect
    assert builds() == []
    assert dbt_builds == []


# Whole processes ---------------------------------------------------------------------------------------------

SCRIPT = """
    import sys, time
    from prefect import flow
    from lineage_orch import produces_source

    @produces_source("crm.orders")
    @flow({options})
    def load(): ...

    if __name__ == "__main__":
        start = time.monotonic()
        state = load(return_state=True)
        print(state.name, round(time.monotonic() - start, 2), flush=True)
"""


class Script:
    """A script that loads the orders, in a process of its own."""

    def __init__(self, shop: Shop, options: str = "", **environment: str) -> None:
        self.folder = shop.folder.parent
        script = self.folder / "load.py"
        script.write_text(textwrap.dedent(SCRIPT.format(options=options)))
        env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), **environment}
        # Into files: a pipe would stay open, and be waited for, until the last child of the script has ended.
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            self.process = subprocess.Popen([sys.executable, str(script)], env=env, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()


def test_load_under_timeout_returns_before_its_build(built_shop: Shop):
    # The build takes longer than the whole load may.
    built_shop.write_orders((7, 1, "70"))
    # Warnings alone: the level that prefect-dbt would hand on to dbt, which does not know it.
    script = Script(built_shop, "timeout_seconds=4", SHOP_SLOW="4", PREFECT_LOGGING_LEVEL="WARNING")
    assert script.process.wait(120) == 0
    assert built_shop.query("select orders from order_count") == [(1,)]
    state, took = script.out.split()
    assert state == "Completed"
    assert float(took) < 4
    # No traceback, no page of "nanobind: leaked" from DuckDB's binding.
    assert script.err == ""


def test_killed_script_loses_only_nodes_in_flight(built_shop: Shop):
    built_shop.write_orders((7, 1, "70"))
    script = Script(built_shop, SHOP_SLOW="300")
    with Orchestrator() as orchestrator:
        built_before = orchestrator.ledger.snapshot().nodes["model.shop.stg_orders"].tick
        deadline = time.monotonic() + 90
        while orchestrator.ledger.snapshot().nodes["model.shop.revenue"].tick == built_before:
            assert script.process.poll() is None, script.err
            assert time.monotonic() < deadline
            time.sleep(0.2)
        script.process.kill()
        script.process.wait()
        # What was built is known to be; the model in flight is all that is owed.
        assert orchestrator.plan().build == ("model.shop.order_count",)
        assert orchestrator.build().built == ["model.shop.order_count"]
    assert built_shop.query("select orders from order_count") == [(1,)]


# The manifest ------------------------------------------------------------------------------------------------


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """One entry for each `dbt parse`."""
    calls: list[float] = []
    parse = DbtRunner.parse

    def spy(self: DbtRunner) -> None:
        calls.append(time.monotonic())
        parse(self)

    monkeypatch.setattr(DbtRunner, "parse", spy)
    return calls


def test_manifest_is_made_once_and_when_project_changes(shop: Shop, parses: list[float]):
    shop.manifest.unlink()
    with Orchestrator() as orchestrator:
        assert "source.shop.crm.orders" in orchestrator.lineage.sources
        assert orchestrator.lineage is orchestrator.lineage
    with Orchestrator() as orchestrator:
        assert orchestrator.lineage.sources
    assert len(parses) == 1
    shop.edit("models/sources.yml", "- name: unread", "- name: returns")
    with Orchestrator() as orchestrator:
        assert "source.shop.crm.returns" in orchestrator.lineage.sources
        assert orchestrator.lineage.sources
    assert len(parses) == 2


def test_loads_that_find_no_manifest_at_same_time_parse_once(
    shop: Shop, parses: list[float], monkeypatch: pytest.MonkeyPatch
):
    manifest = shop.manifest.read_bytes()
    shop.manifest.unlink()

    def slow_parse(self: DbtRunner) -> None:
        parses.append(time.monotonic())
        time.sleep(0.2)
        shop.manifest.write_bytes(manifest)

    monkeypatch.setattr(DbtRunner, "parse", slow_parse)

    def read(_: int) -> int:
        with Orchestrator() as orchestrator:
            return len(orchestrator.lineage.sources)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [3] * 4
    assert len(parses) == 1


def test_project_that_does_not_parse_is_told_with_reason(
    built_shop: Shop, builds: Builds, caplog: pytest.LogCaptureFixture
):
    built_shop.edit("models/marts/revenue.sql", "ref('stg_customers')", "ref('no_such_model')")
    built_shop.write_orders((7, 1, "70"))
    with caplog.at_level(logging.INFO):
        assert load_orders(return_state=True).is_completed()
    [of_load] = [each for each in errors(caplog).splitlines() if "The load is complete" in each]
    assert str(built_shop.folder) in of_load
    assert "no_such_model" in of_load
    assert tracebacks(caplog) == []
    (build,) = builds()
    assert build.state.is_failed()
    # The load is in the ledger: when the project parses again, anyone's next build takes it up.
    built_shop.edit("models/marts/revenue.sql", "ref('no_such_model')", "ref('stg_customers')")
    with Orchestrator() as orchestrator:
        assert "model.shop.stg_orders" in orchestrator.plan().build
        assert orchestrator.build().ok
    assert built_shop.query("select order_id from stg_orders") == [(7,)]


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged with a traceback, other than for whoever asks for debug."""
    return [each.getMessage() for each in caplog.records if each.exc_info and each.levelno >= logging.INFO]


def test_load_is_recorded_before_its_build_is_asked_for(
    built_shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def no_build(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to reach API")

    monkeypatch.setattr("lineage_orch.flows.build_affected", no_build)
    state = load_orders(return_state=True)
    assert "The load is in the ledger" in errors(caplog)
    with Orchestrator() as orchestrator:
        assert orchestrator.ledger.known_updates([str(state.id)])


def test_load_far_from_project_says_what_is_missing(
    built_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("LINEAGE_ORCH_PROJECT_DIR")
    with caplog.at_level(logging.INFO):
        state = load_orders(return_state=True)
    [line] = [each for each in errors(caplog).splitlines() if "The load is complete" in each]
    assert "LINEAGE_ORCH_PROJECT_DIR" in line
    assert str(tmp_path / "elsewhere") in line
    assert "`lineage-orch reconcile`, run in the dbt project" in line
    assert tracebacks(caplog) == []
    # And so it is.
    with Orchestrator(project_dir=built_shop.folder) as orchestrator:
        assert orchestrator.plan().is_empty
        found = reconcile(orchestrator)
        assert str(state.state_details.flow_run_id) in [each.run_id for each in found.found]
        assert "model.shop.stg_orders" in orchestrator.plan().build


def test_load_and_what_prefect_dbt_makes_of_it_are_one_graph_of_assets(built_shop: Shop, builds: Builds):
    load_customers()

    build = builds()[0]
    body = {
        "filter": {
            "event": {"name": ["prefect.asset.materialization.succeeded"]},
            "related": {"id": [f"prefect.flow-run.{build.id}"]},
        },
        "limit": 50,
    }
    made: dict[str, set[str]] = {}
    for _ in range(60):  # events are on their way for a while
        with get_client(sync_client=True) as client:
            events = client.request("POST", "/events/filter", json=body).json()["events"]
        made = {
            event["resource"]["prefect.resource.id"]: {each["prefect.resource.id"] for each in event["related"]}
            for event in events
        }
        if len(made) >= 4:
            break
        time.sleep(0.5)
    with Orchestrator() as orchestrator:
        relation = orchestrator.lineage.sources["source.shop.crm.customers"].relation_name
    assert relation is not None
    source = asset_key("duckdb", relation)
    # lineage_orch tells of the source, and prefect-dbt of what it built, by the same keys.
    assert source in made
    assert any(source in read for key, read in made.items() if key.endswith("stg_customers"))
