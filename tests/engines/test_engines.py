"""The same project over each way to run dbt: the same tables, the same ledger.

dbt Cloud is a stand-in on this machine, which runs dbt 1 as its jobs' steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import Mock

import duckdb
import pytest

from lineage_orch import Orchestrator
from lineage_orch.dbt.cloud import CloudDbt
from lineage_orch.dbt.cloud_api import CloudApi
from lineage_orch.dbt.process import ProcessDbt
from lineage_orch.errors import DbtError, LineageOrchError
from lineage_orch.reports.build_report import BuildReport
from tests.dbt.cloud_server import ACCOUNT, TOKEN, Cloud, RealDbt
from tests.dbts import DBT_1, DBT_2, IN_PROCESS, PROCESSES, new_warehouse, setting_of, with_macros_parsed
from tests.integration.real_prefect import RealPrefect, end

pytestmark = pytest.mark.integration

CLOUD = "dbt-cloud"

FILES = {
    "dbt_project.yml": "name: shop\nprofile: shop\nflags: {send_anonymous_usage_stats: false}\n"
    "models: {shop: {+materialized: table}}\n",
    # dbt 2 knows no flags.PROFILES_DIR: an absolute path from the environment.
    "profiles.yml": "shop: {target: dev, outputs: {dev: {type: duckdb, threads: 2, "
    "path: \"{{ env_var('SHOP_WAREHOUSE') }}\"}}}\n",
    "models/schema.yml": """
sources:
  - name: raw
    tables:
      - name: orders
        columns: [{name: order_id, data_tests: [not_null]}]
      - name: events
        config: {event_time: happened}
      - name: customers
models:
  - name: stg_orders
    columns:
      - {name: order_id, data_tests: [unique, {not_null: {config: {severity: warn}}}]}
unit_tests:
  - name: adds_up
    model: revenue
    given: [{input: ref('stg_orders'), rows: [{order_id: 1, amount: 5}, {order_id: 2, amount: 7}]}]
    expect: {rows: [{total: 12}]}
exposures:
  - {name: board, type: dashboard, owner: {email: a@b.c}, depends_on: ["ref('revenue')"]}
""",
    "models/stg_orders.sql": "select o.*, c.name as colour "
    "from {{ source('raw', 'orders') }} o, {{ ref('colours') }} c",
    "models/stg_customers.sql": "select name from {{ source('raw', 'customers') }}",
    "models/glass.sql": "{{ config(materialized='ephemeral') }} select * from {{ ref('stg_orders') }}",
    "models/revenue.sql": "select sum(amount) as total from {{ ref('stg_orders') }}",
    "models/v_orders.sql": "{{ config(materialized='view') }} select * from {{ ref('glass') }}",
    "models/events.sql": "{{ config(materialized='incremental', incremental_strategy='microbatch', "
    "event_time='happened', batch_size='day', begin='2026-01-01', full_refresh=false) }}\n"
    "select happened, case when bad then error('bad day') else 1 end as x from {{ source('raw', 'events') }}",
    "snapshots/snap.yml": "snapshots: [{name: snap, relation: ref('stg_orders'), "
    "config: {unique_key: order_id, strategy: check, check_cols: [amount]}}]\n",
    "seeds/colours.csv": "id,name\n1,red\n",
    "tests/positive.sql": "select * from {{ ref('revenue') }} where total < 0",
}
SLOW = "select sum(a.range * b.range % 7) as total from {{ ref('stg_orders') }}, range(10000000) a, range(20000) b"


@dataclass
class Shop:
    folder: Path
    dbt: str | None
    settings: dict[str, Any] = field(default_factory=dict)

    def orchestrator(self, **settings: Any) -> Orchestrator:
        return Orchestrator(project_dir=self.folder, **{"dbt": self.dbt, **self.settings, **settings})

    def build(self, *sources: str, **settings: Any) -> BuildReport:
        with self.orchestrator(**settings) as orchestrator:
            orchestrator.record(sources)
            return orchestrator.build()

    def built(self) -> set[str]:
        """The nodes that the ledger knows as built."""
        with self.orchestrator() as orchestrator:
            nodes = orchestrator.ledger.snapshot().nodes
        return {node.rpartition(".")[2] for node in nodes}

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.folder / "shop.duckdb"), read_only=True) as connection:
            return sorted(connection.execute(f"select * from {table}").fetchall())

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")


@pytest.fixture(params=[IN_PROCESS, *PROCESSES, CLOUD])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path, setting_of(request.param))
    for name, text in FILES.items():
        shop.write(name, text)
    warehouse = tmp_path / "shop.duckdb"
    monkeypatch.setenv("SHOP_WAREHOUSE", str(warehouse))
    if request.param == IN_PROCESS:
        monkeypatch.setenv("SHOP_WAREHOUSE", warehouse.name)  # from the working directory: the same in each test
        with_macros_parsed(tmp_path, FILES)
    new_warehouse(warehouse)
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("create schema raw")
        connection.execute("create table raw.orders as select 1 as order_id, 5 as amount union all select 2, 7")
        connection.execute("create table raw.customers as select 'Ann' as name")
        connection.execute(
            "create table raw.events as select now()::timestamp - i * interval 1 day as happened, i = 1 as bad "
            "from range(3) t(i)"
        )
    begin = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 2 * 86400))
    shop.write("models/events.sql", FILES["models/events.sql"].replace("2026-01-01", begin))
    if request.param != CLOUD:
        yield shop
        return
    # Its own checkout of the files; only there is a profile.
    monkeypatch.setattr(CloudDbt.__init__, "__kwdefaults__", {**(CloudDbt.__init__.__kwdefaults__ or {}), "poll": 0.1})
    with Cloud(RealDbt(DBT_1, tmp_path, tmp_path / "cloud"), stored_after=0.3) as cloud:
        shop.settings = cloud.settings()
        yield shop


needs_process = pytest.mark.parametrize("shop", PROCESSES, indirect=True)
# Of dbt Cloud it would cost a run of its own, before each build.
knows_relations = pytest.mark.parametrize("shop", [IN_PROCESS, *PROCESSES], indirect=True)


def names(ids: Any) -> set[str]:
    return {each.rpartition(".")[2] for each in ids}


def test_same_tables_and_same_ledger(shop: Shop) -> None:
    report = shop.build("raw.orders", "raw.customers", "raw.events")
    # A microbatch model of which one batch failed is not built.
    assert names(report.failed) == {"events"}
    assert shop.built() == {"colours", "stg_orders", "stg_customers", "revenue", "v_orders", "snap"}
    assert shop.rows("revenue") == [(12,)]
    assert shop.rows("stg_customers") == [("Ann",)]
    assert [row[:2] for row in shop.rows("v_orders")] == [(1, 5), (2, 7)]
    assert len(shop.rows("snap")) == 2
    # Each took some time, and all of them, tests too, no longer than the whole.
    with shop.orchestrator() as orchestrator:
        seconds = orchestrator.ledger.median_seconds(orchestrator.lineage.nodes)
    assert names(seconds) == shop.built()
    assert all(each > 0.001 for each in seconds.values())
    assert sum(seconds.values()) < 60
    # The next load builds what is below it, and nothing else.
    with duckdb.connect(str(shop.folder / "shop.duckdb")) as connection:
        connection.execute("insert into raw.orders values (3, 30)")
    again = shop.build("raw.orders")
    # (What failed is tried again; dbt 2 then runs fewer batches, and may succeed.)
    assert names(again.built) - {"events"} == {"stg_orders", "revenue", "v_orders", "snap"}
    assert shop.rows("revenue") == [(42,)]
    assert len(shop.rows("snap")) == 3


def test_unit_test_that_fails_leaves_its_model_stale(shop: Shop) -> None:
    shop.write("models/schema.yml", FILES["models/schema.yml"].replace("total: 12", "total: 13"))
    report = shop.build("raw.orders")
    assert "unit_test.shop.revenue.adds_up" in report.failed
    assert shop.built() == {"colours", "stg_orders", "v_orders", "snap"}


def test_data_test_that_fails_leaves_its_model_stale(shop: Shop) -> None:
    shop.write("tests/positive.sql", "select * from {{ ref('revenue') }}")
    report = shop.build("raw.orders")
    assert "test.shop.positive" in report.failed
    assert shop.built() == {"colours", "stg_orders", "v_orders", "snap"}


def test_fail_fast_records_nothing_that_did_not_run(shop: Shop) -> None:
    shop.write("models/stg_customers.sql", "select error('no') as name from {{ source('raw', 'customers') }}")
    report = shop.build("raw.orders", "raw.customers", dbt_flags=("--fail-fast",))
    assert names(report.failed) >= {"stg_customers"}
    built = shop.built()
    assert "stg_customers" not in built
    with duckdb.connect(str(shop.folder / "shop.duckdb"), read_only=True) as connection:
        there = {name for (name,) in connection.execute("select table_name from information_schema.tables").fetchall()}
    assert built <= there
    # And nothing is called failed for having been stopped.
    assert names(report.failed) == {"stg_customers"}


def test_project_that_does_not_parse_says_so(shop: Shop) -> None:
    shop.write("models/broken.sql", "select * from {{ ref('nowhere') }}")
    with pytest.raises(DbtError, match="nowhere"):
        shop.build("raw.orders")


OURS = [sys.executable, "-m", "lineage_orch.cli"]


def environment_of(shop: Shop) -> dict[str, str]:
    """The environment of a process of ours that builds over the shop's dbt."""
    chosen = {"LINEAGE_ORCH_DBT": shop.dbt} if shop.dbt else {}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **chosen}


def dbts(folder: Path) -> list[int]:
    """The processes that run dbt on the project."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().decode().split("\0")
            state = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if str(folder) in command and "--project-dir" in command and state != "Z":
            found.append(int(entry.name))
    return found


def wait_until(true: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@needs_process
def test_kill_of_dbt_keeps_what_finished(shop: Shop) -> None:
    shop.write("models/slow.sql", SLOW)

    def kill() -> None:
        with contextlib.suppress(AssertionError):  # the build is ended in any case
            wait_until(lambda: "stg_orders" in shop.built())
        for each in dbts(shop.folder):
            os.kill(each, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    with shop.orchestrator() as orchestrator:
        orchestrator.record(["raw.orders"])
        _ = orchestrator.lineage
        killer.start()
        with pytest.raises(DbtError, match="SIGKILL"):
            orchestrator.build()
    killer.join()
    assert "stg_orders" in shop.built()
    assert "slow" not in shop.built()


@needs_process
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_us_ends_dbt_and_keeps_what_finished(shop: Shop, how: signal.Signals) -> None:
    shop.write("models/slow.sql", SLOW)
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lineage_orch import Orchestrator\n"
        f"with Orchestrator(project_dir={str(shop.folder)!r}, dbt={shop.dbt!r}) as orchestrator:\n"
        "    orchestrator.record(['raw.orders']); orchestrator.build()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    us = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: (shop.folder / "target" / "manifest.json").exists() and "stg_orders" in shop.built())
    us.send_signal(how)
    us.wait(60)
    wait_until(lambda: not dbts(shop.folder))
    assert "stg_orders" in shop.built()
    assert "slow" not in shop.built()


@needs_process
def test_cancel_from_prefect_ends_dbt_and_keeps_what_finished(shop: Shop) -> None:
    shop.write("models/slow.sql", SLOW)
    with shop.orchestrator() as orchestrator:
        orchestrator.record(["raw.orders"])
    real = RealPrefect.on_a_free_port(shop.folder / "prefect")
    try:
        real.start()
        server = real.serve(
            "build-affected/shop",
            TEST_SHOP=str(shop.folder),
            LINEAGE_ORCH_DBT=str(shop.dbt),
            SHOP_WAREHOUSE=os.environ["SHOP_WAREHOUSE"],
        )
        run = real.launch("build-affected/shop", {"updates": []})
        wait_until(lambda: "stg_orders" in shop.built(), seconds=180)
        assert dbts(shop.folder)
        real.post(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        assert real.ended(run)["state_type"] == "CANCELLED"
        wait_until(lambda: not dbts(shop.folder))
        end(server)
    finally:
        real.stop()
    assert "stg_orders" in shop.built()
    with shop.orchestrator() as orchestrator:
        assert "model.shop.slow" not in orchestrator.ledger.snapshot().failures


CHAIN = 10
# Of each model of the chain; a third of a second or so.
WORK = "(select sum(a.range * b.range % 7) from range(10000) a, range(5000) b)"


@pytest.mark.engine
@needs_process
@pytest.mark.parametrize("seed", range(4))
def test_end_at_any_moment_keeps_what_finished_and_leaves_no_dbt(shop: Shop, seed: int) -> None:
    """dbt or we are ended at a random moment of a build, in a random way; then one build puts all right."""
    random = Random(f"{seed} {shop.dbt}")
    for number in range(CHAIN):
        above = f"ref('link_{number - 1}')" if number else "source('raw', 'orders')"
        shop.write(f"models/link_{number}.sql", f"select n, {WORK} as work from {{{{ {above} }}}} limit 1")
    chain = [f"link_{number}" for number in range(CHAIN)]

    def load(n: int) -> None:
        with duckdb.connect(str(shop.folder / "shop.duckdb")) as connection:
            connection.execute(f"create or replace table raw.orders as select 1 as order_id, 5 as amount, {n} as n")

    load(1)
    began = time.monotonic()
    assert names(shop.build("raw.orders").built) >= {*chain}
    seconds = time.monotonic() - began
    load(2)
    with shop.orchestrator() as orchestrator:
        orchestrator.record(["raw.orders"])
        before = orchestrator.ledger.snapshot().nodes
    us = subprocess.Popen(
        [*OURS, "build", "--project-dir", str(shop.folder)],
        env=environment_of(shop),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(random.uniform(0, seconds))
    how = random.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    for each in dbts(shop.folder) if random.random() < 0.5 else [us.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, how)
    us.wait(90)
    wait_until(lambda: not dbts(shop.folder))
    with shop.orchestrator() as orchestrator:
        after = orchestrator.ledger.snapshot().nodes
    recorded = [name for name in chain if after[f"model.shop.{name}"].tick > before[f"model.shop.{name}"].tick]
    there = [name for name in chain if shop.rows(name)[0][0] == 2]
    assert recorded == chain[: len(recorded)], "each after what it reads"
    assert {*recorded} <= {*there}
    assert len(there) - len(recorded) <= 2, "all but what was in flight"
    assert not {*recorded} & names(shop.build().built), "what is recorded is not built again"
    assert [shop.rows(name)[0][0] for name in chain] == [2] * CHAIN


@knows_relations
def test_span_of_event_times_builds_its_batches_alone(shop: Shop) -> None:
    days = [datetime.now(UTC).date() - timedelta(days=back) for back in (2, 1, 0)]
    shop.write(
        "models/events.sql",
        f"{FILES['models/events.sql'].partition('select')[0].replace('2026-01-01', str(days[0]))}"
        "select happened, n from {{ source('raw', 'events') }}",
    )

    def load(n: int) -> None:
        with duckdb.connect(str(shop.folder / "shop.duckdb")) as connection:
            rows = " union all ".join(f"select timestamp '{day}' as happened, {n} as n" for day in days)
            connection.execute(f"create or replace table raw.events as {rows}")

    load(1)
    assert names(shop.build("raw.events").built) == {"events"}
    load(2)
    with shop.orchestrator() as orchestrator:
        orchestrator.record(["raw.events"])
    span = ["--event-time-start", str(days[0]), "--event-time-end", str(days[1])]
    ran = subprocess.run(
        [*OURS, "build", "--project-dir", str(shop.folder), "--select", "events", *span],
        env=environment_of(shop),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert [n for _, n in shop.rows("events")] == [2, 1, 1]
    with shop.orchestrator() as orchestrator:
        assert names(orchestrator.plan().build) == {"events"}, "the other batches are due still"
    assert names(shop.build().built) == {"events"}
    assert [n for _, n in shop.rows("events")] == [2, 2, 2]


@knows_relations
def test_table_that_was_dropped_is_built_again(shop: Shop) -> None:
    shop.build("raw.orders", "raw.customers")
    with duckdb.connect(str(shop.folder / "shop.duckdb")) as connection:
        connection.execute("drop table revenue; drop view v_orders; drop table snap; drop table colours")
    built = names(shop.build("raw.customers").built) - {"events"}
    assert built == {"stg_customers", "stg_orders", "revenue", "v_orders", "snap", "colours"}
    assert shop.rows("revenue") == [(12,)]
    if shop.dbt is not None:  # the question leaves nothing behind
        assert not list((shop.folder / "target").rglob("*inline*"))


@knows_relations
def test_what_came_out_same_stops_there(shop: Shop) -> None:
    meta = "{{ config(meta={'lineage_orch': {'cutoff': {'ignore': ['loaded_at']}}}) }}\n"
    shop.write("models/stg_orders.sql", meta + FILES["models/stg_orders.sql"].replace("o.*", "o.*, now() as loaded_at"))
    first = shop.build("raw.orders")
    assert (names(first.unchanged), first.runs) == (set(), 1)
    with duckdb.connect(str(shop.folder / "shop.duckdb")) as connection:
        # The same rows in another order.
        connection.execute("create or replace table raw.orders as from raw.orders order by order_id desc")
    same = shop.build("raw.orders")
    assert names(same.built) == names(same.unchanged) == {"stg_orders"}
    assert names(same.unchanged_upstream) == {"revenue", "v_orders", "snap"}
    assert same.runs == 1
    with duckdb.connect(str(shop.folder / "shop.duckdb")) as connection:
        # Two rows swap a value: their number is the same, and so is the sum of each column.
        connection.execute("update raw.orders set amount = 12 - amount")
    other = shop.build("raw.orders")
    assert names(other.built) == {"stg_orders", "revenue", "v_orders", "snap"}
    assert (names(other.unchanged), other.runs) == (set(), 2)
    if shop.dbt is not None:
        assert not list((shop.folder / "target").rglob("*inline*"))


@knows_relations
def test_content_that_cannot_be_asked_for_counts_as_changed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop.build("raw.customers")
    with shop.orchestrator() as orchestrator:
        lineage = orchestrator.lineage
        monkeypatch.setenv("SHOP_WAREHOUSE", str(shop.folder / "nowhere" / "shop.duckdb"))
        assert orchestrator._dbt.contents(lineage, {"model.shop.stg_customers": ()}) == {}
    assert "What is in model.shop.stg_customers could not be compared" in caplog.text


@knows_relations
def test_missing_relations_are_unknown_where_warehouse_is_not_reached(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with shop.orchestrator() as orchestrator:
        lineage = orchestrator.lineage
        monkeypatch.setenv("SHOP_WAREHOUSE", str(shop.folder / "models"))
        assert orchestrator._dbt.missing_relations(lineage) is None
    assert "Which relations are in the warehouse is not known" in caplog.text


def test_adopt_by_selector_of_dbts_own_grammar(shop: Shop) -> None:
    shop.build("raw.orders", "raw.customers")
    with shop.orchestrator() as orchestrator:
        assert names(orchestrator.adoption(["config.materialized:view"]).nodes) == {"v_orders"}
        assert names(orchestrator.adoption(["stg_orders,config.materialized:table"]).nodes) == {"stg_orders"}
        with pytest.raises(LineageOrchError, match="made"):
            orchestrator.adoption(["made:up"])


FRESHNESS = """
      - name: orders
        config:
          loaded_at_field: "timestamp '2026-01-02 03:04:05.678'"
          freshness: {warn_after: {count: 1, period: day}}
      - name: customers
        config: {loaded_at_field: nothing, freshness: {error_after: {count: 1, period: day}}}
      - name: events
"""


@knows_relations
def test_load_that_nothing_reports_is_observed(shop: Shop) -> None:
    sources, _, models = FILES["models/schema.yml"].partition("      - name: orders")
    shop.write("models/schema.yml", sources.rstrip() + FRESHNESS + models[models.index("models:") :])
    with shop.orchestrator() as orchestrator:
        seen = orchestrator.observe()
        # One that cannot be asked, of which dbt 2 then says nothing at all, does not keep the others from it.
        assert seen.recorded == {"source.shop.raw.orders": datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)}
        assert names(seen.errors) == {"customers"}
        assert "nothing" in seen.errors["source.shop.raw.customers"]
        assert names(seen.unseen) == {"events"}
        assert orchestrator.observe(["raw.orders", "raw.events"]).recorded == {}
        assert "stg_orders" in names(orchestrator.build().built)
        assert not orchestrator.observe(["raw.events"]).errors
    # A look leaves nothing behind.
    assert not (shop.folder / "target" / "sources.json").exists()


@needs_process
def test_warehouse_that_is_away_is_not_the_fault_of_each_source(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = ", ".join(f"{{name: t{number}}}" for number in range(20))
    config = "{loaded_at_field: x, freshness: {warn_after: {count: 1, period: day}}}"
    shop.write("models/more.yml", f"sources: [{{name: more, config: {config}, tables: [{tables}]}}]")
    with shop.orchestrator() as orchestrator:
        _ = orchestrator.lineage
        monkeypatch.setenv("SHOP_WAREHOUSE", str(shop.folder / "models"))
        asked = Mock(side_effect=ProcessDbt._ask)
        monkeypatch.setattr(ProcessDbt, "_ask", lambda dbt, *more: asked(dbt, *more))
        with pytest.raises(DbtError, match="`dbt source freshness` could not run"):
            orchestrator.observe(["more.*"])
    assert asked.call_count < 15, "not one process for each of 20 sources"


@needs_process
def test_another_dbt_finds_nothing_to_build(shop: Shop) -> None:
    shop.build("raw.orders", "raw.customers")
    shop.dbt = None
    with shop.orchestrator() as orchestrator:
        orchestrator.parse()
        assert names(orchestrator.plan().build) <= {"events"}  # of which a batch failed


@needs_process
def test_dbt_ls_selects_what_we_say(shop: Shop) -> None:
    with shop.orchestrator() as orchestrator:
        lineage = orchestrator.lineage
        places = ["--project-dir", str(shop.folder), "--profiles-dir", str(shop.folder)]
        command = [str(shop.dbt), "ls", *places, "--quiet", "--output", "json", "--resource-type", "all"]

        def ls(*select: str) -> set[str]:
            if shop.dbt == DBT_2:  # has no "all"
                kinds = ["model", "source", "seed", "snapshot", "test", "unit_test", "exposure"]
                command[-2:] = [word for kind in kinds[:-1] for word in ("--resource-type", kind)]
            ran = subprocess.run(
                [*command, "--output-keys", "unique_id", "--select", *select],
                capture_output=True, text=True, cwd=shop.folder,
            )  # fmt: skip
            lines = [line for line in ran.stdout.splitlines() if line.startswith("{") and "unique_id" in line]
            return {json.loads(line)["unique_id"] for line in lines}

        for source in lineage.sources:
            ours = {each for each in lineage.downstream(source) if not each.startswith("exposure.")}
            theirs = {each for each in ls(f"{lineage.selectors.source(source)}+") if not each.startswith("exposure.")}
            assert theirs - {source} == ours - {source}
        nodes = [each for each in lineage.nodes if each.startswith("model.")]
        chosen = {each for each in ls(*(lineage.selectors.node(each) for each in nodes)) if each in lineage.nodes}
        assert chosen == set(nodes)


@needs_process
def test_process_engine_needs_no_dbt_here(shop: Shop) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['dbt', 'dbt_common', 'dbt.adapters', 'prefect_dbt']))\n"
        "from lineage_orch import Orchestrator\n"
        f"with Orchestrator(project_dir={str(shop.folder)!r}, dbt={shop.dbt!r}) as orchestrator:\n"
        "    orchestrator.record(['raw.customers']); print(orchestrator.build().built)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "stg_customers" in ran.stdout, ran.stderr


@pytest.mark.parametrize("shop", [CLOUD], indirect=True)
def test_run_that_is_cancelled_in_dbt_cloud_is_no_failure_of_its_nodes(shop: Shop) -> None:
    shop.write("models/slow.sql", SLOW)
    api = CloudApi(shop.settings["dbt_cloud_host"], ACCOUNT, TOKEN, backoff=0.1)

    def cancel() -> None:
        def is_at_work() -> bool:
            with contextlib.suppress(DbtError):  # there is no run 2 yet
                # It reads stg_orders, so it starts when that is built and tested.
                return "START sql table model main.slow" in str(api.run(2)["run_steps"])
            return False

        wait_until(is_at_work)
        api.cancel(2)

    with shop.orchestrator() as orchestrator:
        orchestrator.record(["raw.orders"])
        _ = orchestrator.lineage  # by run 1, which parses
        someone = threading.Thread(target=cancel)
        someone.start()
        with pytest.raises(DbtError, match="run 2 of dbt Cloud: it was cancelled in dbt Cloud"):
            orchestrator.build()
        someone.join()
        snapshot = orchestrator.ledger.snapshot()
    assert not snapshot.failures
    assert "stg_orders" in shop.built()
    assert "slow" not in shop.built()


@pytest.mark.parametrize("shop", [CLOUD], indirect=True)
def test_build_after_kill_ends_run_that_went_on_in_dbt_cloud(shop: Shop) -> None:
    shop.write("models/slow.sql", SLOW)
    with shop.orchestrator() as orchestrator:
        orchestrator.record(["raw.orders"])
        _ = orchestrator.lineage  # by run 1, which parses
    settings = {f"LINEAGE_ORCH_{name.upper()}": str(value) for name, value in shop.settings.items()}
    us = subprocess.Popen(
        [*OURS, "build", "--project-dir", str(shop.folder)],
        env={**environment_of(shop), **settings},
        stderr=subprocess.DEVNULL,
    )
    api = CloudApi(shop.settings["dbt_cloud_host"], ACCOUNT, TOKEN, backoff=0.1)

    def is_at_work() -> bool:
        with contextlib.suppress(DbtError):  # there is no run 2 yet
            return "START sql table model main.slow" in str(api.run(2)["run_steps"])
        return False

    wait_until(is_at_work)
    us.kill()
    us.wait()
    shop.write("models/slow.sql", "select 1 as x from {{ ref('stg_orders') }}")
    assert names(shop.build().built) >= {"stg_orders", "slow", "revenue"}
    assert api.run(2)["status_humanized"] == "Cancelled"
    assert shop.rows("slow") == [(1,), (1,)]


# Failures ------------------------------------------------------------------------------------------------------


def test_transient_failure_is_tried_again_with_what_was_skipped(shop: Shop) -> None:
    flag = shop.folder / "flag.txt"
    flag.write_text("down")
    shop.write(
        "models/flaky.sql",
        f"select case when content = 'down' then error('connection reset by peer') else 1 end as x "
        f"from read_text('{flag}'), {{{{ ref('stg_orders') }}}}",
    )
    shop.write("models/below_flaky.sql", "select * from {{ ref('flaky') }}")
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        if "tried again" in line:
            flag.write_text("up")

    with shop.orchestrator(node_retry_delay=0) as orchestrator:
        orchestrator.record(["raw.orders", "raw.customers"])
        report = orchestrator.build(progress=progress)
        snapshot = orchestrator.ledger.snapshot()
    assert report.ok, report.failed
    assert names(report.retried) == {"flaky"}, lines
    assert report.runs == 2
    ticks = {node.rpartition(".")[2]: fact.tick for node, fact in snapshot.nodes.items()}
    assert ticks["below_flaky"] == ticks["flaky"] > ticks["stg_orders"] == ticks["revenue"], "nothing else again"
    assert not snapshot.failures


def test_node_whose_test_failed_is_only_tested_again(shop: Shop) -> None:
    shop.write("models/totals.sql", "select count(*) as n, random() as r from {{ ref('stg_orders') }}")
    shop.write("models/below_totals.sql", "select * from {{ ref('totals') }}")
    shop.write("tests/enough.sql", "select * from {{ ref('totals') }} where n < 100")
    report = shop.build("raw.orders", "raw.customers")
    assert names(report.failed) == {"enough"}
    before = shop.rows("totals")
    shop.write("tests/enough.sql", "select * from {{ ref('totals') }} where n < 2")
    with shop.orchestrator() as orchestrator:
        orchestrator.retry()  # dbt 2 keeps no checksum of a test of one's own
        report = orchestrator.build()
    assert (names(report.tested), names(report.built), report.runs) == ({"totals"}, {"below_totals"}, 1)
    assert shop.rows("totals") == shop.rows("below_totals") == before, "it was not built again"
    with shop.orchestrator() as orchestrator:
        facts = orchestrator.ledger.snapshot().nodes
    assert facts["model.shop.totals"].tick == facts["model.shop.revenue"].tick, "at the tick of the run that built it"
