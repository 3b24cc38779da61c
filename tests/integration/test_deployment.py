"""Loads and a served dbt deployment on a real Prefect server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from lineage_orch import Ledger, Orchestrator, SourceUpdate
from lineage_orch.deployed import run_history
from lineage_orch.deployed.reconcile import reconcile, reconcile_and_build
from lineage_orch.loads.tags import TRIGGERED, WAKE_UP
from tests.integration.real_prefect import LOADS, RealPrefect, end, wait_for
from tests.shop_project import Shop

pytestmark = [pytest.mark.integration, pytest.mark.slowest]

SHOP = "build-affected/shop"
HELD = "build-affected/held"
NET = "build-affected/net"
SEEN = "build-affected/seen"
# Loads by tasks, with what their processes end with.
TASKS = {"task": 0, "tasks-without-hooks": 0, "killed-in-a-task": -signal.SIGKILL}
DEBOUNCE = 4  # seconds; the default, 15, makes a burst share more
LAG = 30  # seconds that the held project lets a mart wait


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory, parsed_shop: Path) -> Path:
    folder = tmp_path_factory.mktemp("deployment")
    for name in ("shop", "held", "net", "seen"):
        shutil.copytree(parsed_shop, folder / name)
    Shop(folder / "held").edit(
        "dbt_project.yml",
        "+materialized: table",
        f"+materialized: table\n    marts:\n      +state: {{lag_tolerance: {LAG}s}}",
    )
    return folder


@pytest.fixture(scope="module")
def server(real_prefect: RealPrefect, projects: Path) -> Iterator[RealPrefect]:
    server = real_prefect.telling(
        projects,
        TEST_SHOP=str(projects / "shop"),
        TEST_HELD=str(projects / "held"),
        TEST_NET=str(projects / "net"),
        TEST_SEEN=str(projects / "seen"),
        TEST_KILL=str(projects / "kill"),
        LINEAGE_ORCH_HOLD_UNTIL_FIRST_LOAD="true",
        SHOP_SLOW="2",
        TEST_DEBOUNCE=os.environ.get("TEST_DEBOUNCE", str(DEBOUNCE)),
    )
    serving = server.serve("orders/orders", "for-held/for-held", SHOP, HELD)
    yield server
    end(serving)


@pytest.fixture
def shop(server: RealPrefect, projects: Path) -> Shop:
    """The served project, with nothing at work; both sources were loaded before."""
    shop = Shop(projects / "shop")
    server.settle(SHOP)
    if "revenue" not in shop.tables():
        server.ended(server.launch(SHOP, {"updates": [update("crm.orders"), update("crm.customers")]}))
        server.settle(SHOP)
    return shop


@pytest.fixture
def ledger(shop: Shop) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{shop.folder}/.lineage_orch/ledger.db", project="shop", target="dev") as ledger:
        yield ledger


def update(source: str) -> dict[str, Any]:
    return SourceUpdate(source, os.urandom(8).hex(), datetime.now(UTC)).to_dict()


def test_load_sets_off_exactly_its_models(server: RealPrefect, shop: Shop) -> None:
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    deployment = server.deployment(SHOP)
    assert deployment is not None
    assert deployment["schedules"] == []

    def later(**body: Any) -> str:
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": in_an_hour}}
        return server.post(f"/deployments/{deployment['id']}/create_flow_run", {"state": state, **body})["id"]

    by_a_person = later()
    unreadable = later(parameters={"updates": [{"sauce": "x"}]}, tags=[TRIGGERED])
    of_another_build = later(parameters={"settings": {"target": "prod"}}, tags=[TRIGGERED])
    useless_wake_up = later(tags=[WAKE_UP])
    before = {table: shop.built_at(table) for table in ("stg_orders", "stg_customers", "revenue")}

    load = server.ended(server.launch("orders/orders"))
    build = server.ended(wait_for("the load's subflow", lambda: server.child_of(load["id"]))["id"])

    assert load["state_type"] == "COMPLETED"
    assert build["state_name"] == "Completed"
    assert build["state"]["message"] == "Built 3 nodes."
    assert shop.built_at("stg_orders") > before["stg_orders"]
    assert shop.built_at("revenue") > before["revenue"]
    assert shop.built_at("stg_customers") == before["stg_customers"]
    due = datetime.fromisoformat(build["expected_start_time"])
    after = (due - datetime.fromisoformat(load["end_time"])).total_seconds()
    assert DEBOUNCE - 0.5 < after < DEBOUNCE + 2
    assert "source:crm.orders" in load["tags"]

    states = [server.run(each)["state_name"] for each in (by_a_person, unreadable, of_another_build, useless_wake_up)]
    assert states == ["Scheduled", "Scheduled", "Scheduled", "Coalesced"]
    assert "is left to itself: the update {'sauce': 'x'} has no 'source'" in server.logs(build["id"])
    for each in (by_a_person, unreadable, of_another_build):
        server.post(f"/flow_runs/{each}/set_state", {"state": {"type": "CANCELLED"}})


def test_burst_of_loads_shares_its_builds(server: RealPrefect, shop: Shop, ledger: Ledger) -> None:
    before = {run["id"] for run in server.runs(SHOP)}
    end_of_burst = server.spawn([sys.executable, str(LOADS), "burst"], "burst.log")
    assert end_of_burst.wait(240) == 0, (server.folder / "burst.log").read_text()
    runs = [run for run in server.settle(SHOP) if run["id"] not in before and TRIGGERED in run["tags"]]

    assert len(runs) == 25
    asked = {each["update_id"] for run in runs for each in run["parameters"]["updates"]}
    assert len(asked) == 25
    assert asked <= {each.update_id for _, each in ledger.recent_updates(100)}
    names = [run["state_name"] for run in runs]
    # None is left waiting, AwaitingConcurrencySlot or else.
    assert set(names) == {"Completed", "Coalesced"}
    # Some start before the burst has ended; no load starts a build of its own.
    assert 1 <= names.count("Completed") <= 6, names
    builders = [run["name"] for run in runs if run["state_name"] == "Completed"]
    for run in runs:
        if run["state_name"] == "Coalesced":
            assert any(repr(name) in run["state"]["message"] for name in builders)
            assert "Running" not in server.states(run["id"])
    dbt_runs = sum(server.logs(run["id"]).count("Running with dbt") for run in runs if run["state_name"] == "Completed")
    assert 1 <= dbt_runs <= 12
    print(f"25 loads: {names.count('Completed')} runs of the deployment, {dbt_runs} of dbt")
    assert Orchestrator(project_dir=shop.folder).plan().is_empty


def test_load_killed_after_completed_is_reconciled_once(
    server: RealPrefect, shop: Shop, ledger: Ledger, projects: Path
) -> None:
    (projects / "kill").touch()
    try:
        load = server.ended(server.launch("orders/orders"))
    finally:
        (projects / "kill").unlink()
    assert load["state_type"] == "COMPLETED"
    assert server.child_of(load["id"]) is None
    quiet = server.spawn([sys.executable, str(LOADS), "nothing-new"], "quiet.log")
    assert quiet.wait(60) == 0

    with temporary_settings({PREFECT_API_URL: server.url}), Orchestrator(project_dir=shop.folder) as orchestrator:
        found = reconcile(orchestrator, deployment=SHOP)
        assert [each.run_id for each in found.found] == [load["id"]]
        assert "build" not in str(found.dead)
        again = reconcile(orchestrator, deployment=SHOP)
        assert load["id"] not in [each.run_id for each in again.found]
    [recorded] = [each for _, each in ledger.recent_updates(50) if each.flow_run_id == load["id"]]
    assert (recorded.update_id, recorded.producer) == (load["state_id"], "orders")
    assert recorded.loaded_at == datetime.fromisoformat(load["state"]["timestamp"])

    before, said = shop.built_at("stg_orders"), []
    with temporary_settings({PREFECT_API_URL: server.url}), Orchestrator(project_dir=shop.folder) as orchestrator:
        reconcile_and_build(orchestrator, deployment=SHOP, progress=said.append)
    assert said[0] == "No load was lost."
    build = server.settle(SHOP)[-1]
    assert repr(build["name"]) in said[1]
    assert build["state_name"] == "Completed"
    assert shop.built_at("stg_orders") > before
    idle = server.ended(server.launch(SHOP))
    assert idle["state"]["message"] == "Nothing was due."


@pytest.mark.drill  # half a minute and more of processes
def test_load_that_is_running_is_waited_for(server: RealPrefect, shop: Shop, projects: Path) -> None:
    (projects / "slow").touch()
    slow = server.spawn([sys.executable, str(LOADS), "slow"], "slow.log", TEST_SLOW=str(projects / "slow"))

    def running() -> Any:
        chosen = {"flow_runs": {"tags": {"all_": [f"triggers:{SHOP}"]}, "state": {"type": {"any_": ["RUNNING"]}}}}
        return server.post("/flow_runs/filter", chosen)

    [load] = wait_for("the slow load", running)
    before = {table: shop.built_at(table) for table in ("stg_orders", "revenue")}
    deployment = server.deployment(SHOP)
    assert deployment is not None
    patient = deployment["parameters"].get("settings", {}) | {"patience": 600}
    build = server.ended(server.launch(SHOP, {"updates": [update("crm.orders")], "settings": patient}))
    assert "held, the next until" in build["state"]["message"]
    assert shop.built_at("stg_orders") > before["stg_orders"], "nothing above it is being loaded"
    assert shop.built_at("revenue") == before["revenue"]
    [wake_up] = [run for run in server.runs(SHOP) if WAKE_UP in run["tags"] and run["state_type"] == "SCHEDULED"]
    due = datetime.fromisoformat(wake_up["expected_start_time"]) - datetime.fromisoformat(build["end_time"])
    assert timedelta(seconds=500) < due < timedelta(seconds=600)

    (projects / "slow").unlink()
    assert slow.wait(60) == 0
    own = server.ended(wait_for("the load's subflow", lambda: server.child_of(load["id"]))["id"])
    assert own["state_name"] == "Completed"
    assert shop.built_at("revenue") > before["revenue"]
    server.post(f"/flow_runs/{wake_up['id']}/set_state", {"state": {"type": "CANCELLED"}})


@pytest.mark.drill  # half a minute and more of processes
def test_tasks_whose_hooks_were_lost_are_reconciled_too(
    server: RealPrefect, shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_history, "DEAD_AFTER", timedelta(0))
    # Nobody deployed it, so that no run of it finds them first.
    missing = "build-affected/elsewhere"
    loads = {what: server.spawn([sys.executable, str(LOADS), what], "t.log", TEST_TRIGGERS=missing) for what in TASKS}
    assert {what: load.wait(180) for what, load in loads.items()} == TASKS

    with temporary_settings({PREFECT_API_URL: server.url}), Orchestrator(project_dir=shop.folder) as orchestrator:
        found = reconcile(orchestrator, deployment=missing).found
        assert reconcile(orchestrator, deployment=missing).found == ()
        # The server keeps heartbeats a few seconds before it can tell of them.
        dead = wait_for("the dead run", lambda: reconcile(orchestrator, deployment=missing).dead, seconds=30)
    lost = sorted((each.run_name.rpartition("-")[0], *each.sources) for each in found)
    assert lost == [
        ("customers-task", "crm.customers"),  # its process was killed, and its flow is RUNNING by name
        ("customers-task", "crm.customers"),  # its hook found no deployment
        ("some-table", "crm.customers", "crm.orders"),
        ("some-table", "crm.orders"),  # what it marked; and one found nothing new
    ]
    recorded = {each.update_id: each for _, each in ledger.recent_updates(50)}
    flow_runs = set()
    for each in found:
        task_run = server.get(f"/task_runs/{each.run_id}")
        update = recorded[task_run["state_id"]]
        assert update.producer == each.run_name.rpartition("-")[0]
        assert update.flow_run_id == task_run["flow_run_id"]
        assert update.loaded_at == datetime.fromisoformat(task_run["state"]["timestamp"])
        flow_runs.add(update.flow_run_id)
    assert len(flow_runs & {run.run_id for run in dead}) == 1
    server.ended(server.launch(SHOP))  # nothing is owed to the tests that follow


def test_build_that_was_killed_is_taken_up_by_next(server: RealPrefect, shop: Shop, ledger: Ledger) -> None:
    before = shop.built_at("stg_orders")
    killed = server.launch(SHOP, {"updates": [update("crm.orders")]})
    # A python model takes 2 seconds.
    wait_for("dbt builds", lambda: "START python table model" in server.logs(killed), every=0.1)
    holder = ledger.holder()
    assert holder is not None
    pid = re.search(r"process (\d+)", holder.who)
    assert pid is not None
    os.kill(int(pid[1]), signal.SIGKILL)
    assert server.ended(killed)["state_type"] == "CRASHED"

    taken_up = server.ended(server.launch(SHOP))
    assert taken_up["state_name"] == "Completed"
    assert shop.built_at("stg_orders") > before
    assert Orchestrator(project_dir=shop.folder).plan().is_empty


def test_held_nodes_are_woken_up_once(server: RealPrefect, projects: Path) -> None:
    shop = Shop(projects / "held")
    loads = [update("crm.orders"), update("crm.customers")]
    first = server.ended(server.launch(HELD, {"updates": loads}))
    assert "2 held, the next until" in first["state"]["message"]
    assert "stg_orders" in shop.tables()
    assert "revenue" not in shop.tables()
    # A second plan that says the same.
    assert "held" in server.ended(server.launch(HELD))["state"]["message"]

    runs = server.settle(HELD)
    [wake_up] = [run for run in runs if WAKE_UP in run["tags"]]
    assert wake_up["state_name"] == "Completed"
    assert "Built 2 nodes" in wake_up["state"]["message"]
    assert shop.built_at("revenue") > shop.built_at("stg_orders") + timedelta(seconds=LAG - 15)
    assert Orchestrator(project_dir=shop.folder).plan().is_empty


def test_run_that_finds_lock_taken_hands_over(server: RealPrefect, shop: Shop, ledger: Ledger) -> None:
    owed = update("crm.customers")
    before = shop.built_at("stg_customers")
    with ledger.build_lock("a worker on another machine") as held:
        assert held
        left = server.ended(server.launch(SHOP, {"updates": [owed]}))
    assert left["state_name"] == "HandedOver"
    assert "a worker on another machine" in left["state"]["message"]
    assert owed["update_id"] in {each.update_id for _, each in ledger.recent_updates(10)}
    assert shop.built_at("stg_customers") == before
    assert server.ended(server.launch(SHOP))["state_name"] == "Completed"
    assert shop.built_at("stg_customers") > before


@pytest.mark.drill  # half a minute and more of processes
def test_build_by_hand_while_loads_come_in(server: RealPrefect, shop: Shop, ledger: Ledger, projects: Path) -> None:
    customers, wait = "model.shop.stg_customers", projects / "wait"
    before = ledger.snapshot()
    wait.touch()
    # DuckDB has one writer: two builds at once would fail.
    hand = server.spawn(
        [sys.executable, "-m", "lineage_orch.cli", "build", "--select", "order_count", "--full-refresh", "--json"],
        "hand.log",
        LINEAGE_ORCH_PROJECT_DIR=str(shop.folder),
        SHOP_WAIT=str(wait),
    )
    wait_for("the build by hand", lambda: "model.shop.order_count" in ledger.snapshot().debts)
    loads = [server.launch("orders/orders") for _ in range(3)]
    runs = [
        server.ended(wait_for("the load's subflow", lambda load=load: server.child_of(server.ended(load)["id"]))["id"])
        for load in loads
    ]
    wait.unlink()
    assert {run["state_name"] for run in runs} <= {"HandedOver", "Coalesced"}
    log = server.folder / "hand.log"
    assert hand.wait(180) == 0, log.read_text()

    assert '"built": ["model.shop.order_count"]' in log.read_text()
    assert "dbt build --select fqn:shop.marts.order_count --full-refresh" in log.read_text()
    after = ledger.snapshot()
    assert after.sources["source.shop.crm.orders"] >= before.sources["source.shop.crm.orders"] + 3
    assert after.nodes["model.shop.revenue"].tick > after.sources["source.shop.crm.orders"], "nothing is lost"
    assert after.nodes[customers] == before.nodes[customers], "nothing is built for no reason"
    with Orchestrator(project_dir=shop.folder) as orchestrator:
        assert orchestrator.plan().is_empty


def test_load_needs_no_dbt_and_wrong_deployment_is_named(server: RealPrefect, projects: Path) -> None:
    script = projects / "bare.py"
    script.write_text(BARE_LOAD)
    bare = server.spawn([sys.executable, str(script)], "bare.log")
    log = server.folder / "bare.log"
    assert bare.wait(90) == 0, log.read_text()
    text = log.read_text()
    assert "Prefect has no deployment 'build-affected/shopp'; did you mean 'build-affected/shop'" in text
    assert "will build what is downstream of crm.orders" in text


BARE_LOAD = """
import sys

FORBIDDEN = {"dbt", "prefect_dbt", "networkx", "sqlite3", "psycopg", "duckdb", "filelock"}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


sys.meta_path.insert(0, Blocker())

from prefect import flow
from lineage_orch import DeploymentTrigger, produces_source


@produces_source("crm.orders", trigger=DeploymentTrigger("build-affected/shopp"))
@flow
def mistyped():
    pass


@produces_source("crm.orders", trigger=DeploymentTrigger("build-affected/shop", debounce=0))
@flow
def load():
    pass


mistyped()
load()
assert "sqlalchemy" not in sys.modules or "lineage_orch.ledger.store" not in sys.modules
assert "lineage_orch.orchestrator" not in sys.modules
"""


def test_run_may_not_move_project(server: RealPrefect, ledger: Ledger, projects: Path) -> None:
    stored = server.deployment(SHOP)
    assert stored is not None
    elsewhere = {"settings": stored["parameters"]["settings"] | {"project_dir": str(projects / "held")}}
    before = ledger.snapshot().tick
    run = server.ended(server.launch(SHOP, elsewhere | {"updates": [update("crm.orders")]}))
    assert run["state_type"] == "FAILED"
    assert "another project_dir than its deployment stores" in run["state"]["message"]
    assert ledger.snapshot().tick == before


@pytest.mark.drill  # half a minute and more of processes
def test_schedule_makes_good_what_dead_holder_left(server: RealPrefect, projects: Path) -> None:
    shop = Shop(projects / "net")
    with Orchestrator(project_dir=shop.folder) as orchestrator:
        orchestrator.record(["crm.orders", "crm.customers"])  # by a run that handed it over, to one that died
        serving = server.serve(NET, TEST_RESYNC="6")
        try:
            wait_for("a scheduled run builds it", lambda: orchestrator.plan().is_empty, every=1)
            # Those that become due while another works are taken over, as others are.
            with orchestrator.ledger.build_lock("a person"):
                run = server.launch(NET)
                wait_for("it hands over", lambda: server.run(run)["state_name"] in ("HandedOver", "Coalesced"))
            # One more may have begun just now.
            done = [each for each in server.runs(NET) if each["end_time"] is not None]
        finally:
            end(serving)
        assert "revenue" in shop.tables()
        assert {run["state_type"] for run in done} <= {"COMPLETED", "CANCELLED"}
        assert all("auto-scheduled" in each["tags"] for each in done if each["id"] != run)
    end(server.serve(NET))
    found = server.deployment(NET)
    assert found is not None
    assert found["schedules"] == []


@pytest.mark.drill  # two minutes of looks on a schedule; `make test` looks without one
def test_schedule_finds_load_that_nothing_reports(server: RealPrefect, projects: Path) -> None:
    shop = Shop(projects / "seen")
    when = "2026-01-02 03:04:05"
    shop.edit(
        "models/sources.yml",
        "    config:\n      meta:",
        "    config:\n      freshness: {warn_after: {count: 1, period: day}}\n"
        f"      loaded_at_field: \"timestamp '{when}'\"\n      meta:",
    )
    serving = server.serve(SEEN, TEST_OBSERVE="5s", TEST_RESYNC="3600")
    try:
        with Orchestrator(project_dir=shop.folder) as orchestrator:
            built = "model.shop.revenue"
            wait_for("a look finds it, and it is built", lambda: built in orchestrator.ledger.snapshot().nodes, every=1)
            wait_for("another look", lambda: sum(run["state_type"] == "COMPLETED" for run in server.runs(SEEN)) > 1)
            updates = orchestrator.ledger.recent_updates()
            assert sorted(update.source for _, update in updates) == [
                "source.shop.crm.customers",
                "source.shop.crm.orders",
            ]
            assert {update.update_id for _, update in updates} == {"observed:2026-01-02T03:04:05+00:00"}
    finally:
        end(serving)
    # Deployed again, on the same two schedules.
    again = server.serve(SEEN, TEST_OBSERVE="1h", TEST_RESYNC="3600")
    end(again)
    found = server.deployment(SEEN)
    assert found is not None
    given = sorted((each["parameters"] for each in found["schedules"]), key=len)
    assert given == [{}, {"observe": True}]
