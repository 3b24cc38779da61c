"""The ledger under real processes, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, make_url, text

from lineage_orch.cli.app import main
from lineage_orch.errors import LedgerError, LedgerSchemaError, LedgerUnavailableError
from lineage_orch.ledger import Ledger, LedgerSnapshot, Moment, NodeFact, engines, schema
from lineage_orch.lineage import Lineage
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import SourceUpdate
from tests.ledger.schema_1 import make_ledger_1
from tests.ledger.test_migration import check_taken_over
from tests.ledger.test_relations import check_two_projects
from tests.manifests import manifest, node, source

pytestmark = pytest.mark.integration

NOW = datetime(2026, 5, 17, 12, 30, 0, 123457, tzinfo=UTC)
ORDERS, ITEMS, MART, STAGE = "source.shop.raw.orders", "source.shop.raw.items", "model.shop.mart", "model.shop.stage"
PROCESSES = 4
UPDATES = int(os.environ.get("LEDGER_TEST_UPDATES", "200"))

# All processes open an empty database at once, so this also races the creation of the schema.
WRITE = """
import sys
from datetime import UTC, datetime
from lineage_orch.ledger import Ledger
from lineage_orch.updates import SourceUpdate
url, me, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with Ledger(url, project="shop", target="prod") as ledger:
    source = "source.shop.raw.t" + me
    for n in range(count):
        print(ledger.record_updates([SourceUpdate(source, str(n), datetime.now(UTC))]))
"""
HOLD = """
import sys, time
from lineage_orch.ledger import Ledger
with Ledger(sys.argv[1], project="shop", target="prod").build_lock("the other process") as held:
    print("held" if held else "taken", flush=True)
    time.sleep(60)
"""


# What dbt is here does not end when it is asked to.
HOLD_WITH_DBT = """
import sys, time
from pathlib import Path
from lineage_orch.dbt.child import Child
from lineage_orch.ledger import Ledger
DBT = "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(os.getpid(), flush=True); "
with Ledger(sys.argv[1], project="shop", target="prod").build_lock("the other process") as held:
    with Child([sys.executable, "-c", DBT + "time.sleep(60)"], cwd=Path.cwd(), grace=1) as dbt:
        print(next(dbt.lines(silence=60)), end="", flush=True)
        time.sleep(60)
"""


@contextmanager
def python(code: str, *args: str, stdout: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Another process, which is surely gone when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if stdout is None else stdout,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def admin(url: str) -> Iterator[Engine]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        yield engine
    finally:
        engine.dispose()


def sql(url: str, statement: str) -> None:
    with admin(url) as engine, engine.connect() as connection:
        connection.execute(text(statement))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def ledger(postgres_database: str) -> Iterator[Ledger]:
    with Ledger(postgres_database, project="shop", target="prod") as made:
        yield made


def load(source: str = ORDERS, update_id: str = "1") -> SourceUpdate:
    return SourceUpdate(source, update_id, NOW, flow_run_id="run", producer="export")


def test_ticks_appear_in_order_and_no_update_is_lost(url: str) -> None:
    ledger = Ledger(url, project="shop", target="prod")
    started = time.monotonic()
    seen: set[int] = set()
    top = builds = 0
    with (
        python(WRITE, url, "0", str(UPDATES)) as a,
        python(WRITE, url, "1", str(UPDATES)) as b,
        python(WRITE, url, "2", str(UPDATES)) as c,
        python(WRITE, url, "3", str(UPDATES)) as d,
    ):
        writers = [a, b, c, d]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdin is not None
            assert writer.stdout.readline() == "ready\n"
        began = time.monotonic()
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        deadline = time.monotonic() + 120
        while len(seen) < PROCESSES * UPDATES and time.monotonic() < deadline:
            snapshot = ledger.snapshot()
            ticks = {moment.tick for history in snapshot.source_history.values() for moment in history}
            late = {tick for tick in ticks - seen if tick <= top}
            assert not late, f"{late} appeared after {top} had been seen"
            assert ticks == set(range(1, snapshot.tick + 1)), "all ticks up to the clock, and none above it"
            assert max(snapshot.sources.values(), default=0) == snapshot.tick
            seen, top, builds = ticks, snapshot.tick, builds + 1
            time.sleep(0.02)
        took = time.monotonic() - began
        returned = []
        for writer in writers:
            out, _ = writer.communicate(timeout=60)
            mine = [int(line) for line in out.split()]
            assert mine == sorted(mine)
            returned += mine
    assert sorted(returned) == list(range(1, PROCESSES * UPDATES + 1))
    assert seen == set(returned)
    print(f"{len(returned)} updates in {took:.1f} s ({took / len(returned) * 1e6:.0f} us each), {builds} snapshots, ")
    print(f"{time.monotonic() - started:.1f} s with the starts of the processes")
    ledger.close()


def test_builds_take_ticks_among_loads_and_miss_none_below(url: str) -> None:
    ledger = Ledger(url, project="shop", target="prod")
    ledger.snapshot()
    with python(WRITE, url, "0", "150") as a, python(WRITE, url, "1", "150") as b:
        for writer in (a, b):
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        own: set[int] = set()
        updates = 0
        deadline = time.monotonic() + 60
        while updates < 300 and time.monotonic() < deadline:
            tick, snapshot = ledger.begin_build()
            own.add(tick)
            ticks = {moment.tick for history in snapshot.source_history.values() for moment in history}
            assert ticks | own == set(range(1, tick + 1)), "every tick below R, and none above"
            ledger.record_built(tick, [MART], built_at=NOW)
            assert ledger.snapshot(history_of=()).nodes[MART].tick == tick
            updates = len(ticks)
            time.sleep(0.005)
    assert updates == 300
    ledger.close()


def test_killed_writer_leaves_what_it_saw_recorded(url: str) -> None:
    with python(WRITE, url, "0", "100000") as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
        ledger = Ledger(url, project="shop", target="prod")
        while ledger.snapshot(history_of=()).tick < 30:
            time.sleep(0.01)
        os.kill(writer.pid, signal.SIGKILL)
        told = [int(line) for line in writer.stdout.read().split("\n")[1:-1]]
        writer.wait(timeout=10)
    snapshot = ledger.snapshot()
    (history,) = snapshot.source_history.values()
    assert [moment.tick for moment in history] == list(range(1, snapshot.tick + 1))
    assert set(told) <= {moment.tick for moment in history}
    assert ledger.record_updates([load()]) == snapshot.tick + 1
    ledger.close()


def test_killed_holder_leaves_lock_free(url: str) -> None:
    ledger = Ledger(url, project="shop", target="prod")
    with python(HOLD, url) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with ledger.build_lock("me") as held:
            assert not held
        holder = ledger.holder()
        assert holder is not None
        assert holder.who == "the other process"
        os.kill(other.pid, signal.SIGKILL)
        other.wait(timeout=10)
        deadline = time.monotonic() + 10
        got = False
        while not got and time.monotonic() < deadline:
            with ledger.build_lock("me") as held:
                got = bool(held)
        assert got
    ledger.close()


def test_next_build_waits_for_dbt_of_killed_holder(url: str) -> None:
    ledger = Ledger(url, project="shop", target="prod")
    with python(HOLD_WITH_DBT, url) as other:
        assert other.stdout is not None
        dbt = Path("/proc", other.stdout.readline().strip(), "cmdline")
        assert dbt.read_bytes()
        os.kill(other.pid, signal.SIGKILL)
        other.wait(timeout=10)
        assert dbt.read_bytes(), "it has a second to end"
        got = False
        deadline = time.monotonic() + 30
        while not got and time.monotonic() < deadline:
            with ledger.build_lock("me") as held:
                got = bool(held)
                assert not got or not dbt.exists() or not dbt.read_bytes()
        assert got
    ledger.close()


# -- PostgreSQL: the same ledger ------------------------------------------------------------------------------


def test_postgres_keeps_ledger_as_sqlite_does(ledger: Ledger) -> None:
    assert ledger.snapshot() == LedgerSnapshot()
    ledger.register_producers([ORDERS, ORDERS])
    ledger.register_producers([ORDERS])
    assert ledger.record_updates([load(ORDERS), load(ITEMS), load(ORDERS)]) == 1
    assert ledger.record_updates([load(ORDERS, "2"), load(ORDERS)]) == 1
    early, _ = ledger.begin_build(now=NOW)
    late, snapshot = ledger.begin_build(now=NOW)
    assert (early, late, snapshot.tick) == (4, 5, 5)
    ledger.record_built(late, [MART], built_at=NOW, checksums={MART: "new"})
    ledger.record_built(early, [MART, STAGE], built_at=NOW, checksums={MART: "old"})
    snapshot = ledger.snapshot(history_of=[ORDERS, MART])
    assert snapshot == LedgerSnapshot(
        tick=5,
        sources={ORDERS: 3, ITEMS: 2},
        nodes={MART: NodeFact(5, NOW, "new"), STAGE: NodeFact(4, NOW)},
        producers=frozenset({ORDERS}),
        source_history={ORDERS: [Moment(1, NOW), Moment(3, NOW)]},
        node_history={MART: [Moment(4, NOW), Moment(5, NOW)]},
        loaded_at={ORDERS: NOW, ITEMS: NOW},
    )
    assert ledger.recent_updates(1) == [(3, load(ORDERS, "2"))]
    ledger.set_mark("seen", "1")
    ledger.set_mark("seen", "2")
    assert ledger.mark("seen") == "2"
    assert ledger.prune(now=datetime.now(UTC) + timedelta(days=91)) == 2
    with pytest.raises(LedgerError, match="takes nothing at tick 6"):
        ledger.record_built(6, [MART], built_at=NOW)
    with pytest.raises(LedgerError, match="cannot store a value"):
        ledger.record_updates([load(ITEMS, "2"), load(ORDERS, "with \0")])
    assert ledger.snapshot().tick == 5
    again = [replace(load(ORDERS, each), fingerprint="etag") for each in ("3", "4")]
    assert ledger.record_updates(again) == 7
    assert ledger.snapshot().sources[ORDERS] == 6
    assert ledger.unchanged_by(["3", "4"]) == (ORDERS,)
    for seconds in range(12):
        tick, _ = ledger.begin_build(now=NOW)
        ledger.record_built(tick, [STAGE], built_at=NOW, seconds={STAGE: float(seconds)})
    assert ledger.median_seconds([STAGE, MART]) == {STAGE: 6.5}


def test_postgres_lock(ledger: Ledger, postgres_database: str) -> None:
    other = Ledger(postgres_database, project="shop", target="prod")
    elsewhere = Ledger(postgres_database, project="shop", target="dev")
    for _ in range(5):  # let go means free at once
        with ledger.build_lock("one") as held:
            assert held
            held.check()
            with other.build_lock("two") as second, ledger.build_lock("three") as third:
                assert not second
                assert not third
            with elsewhere.build_lock("dev") as free:
                assert free
            holder = other.holder()
            assert holder is not None
            assert holder.who == "one"
        with other.build_lock("two") as held:
            assert held
    assert ledger.holder() is None
    other.close()
    elsewhere.close()


KILL_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def test_long_build_notices_that_postgres_dropped_its_lock(ledger: Ledger, postgres_database: str) -> None:
    with ledger.build_lock("one") as held:
        sql(postgres_database, KILL_OTHERS)
        with pytest.raises(LedgerUnavailableError, match=r"was lost: .*stop this build"):
            held.check()
        with Ledger(postgres_database, project="shop", target="prod").build_lock("two") as second:
            assert second
    with ledger.build_lock("one") as held:
        assert held


def test_lost_session_stops_what_is_recorded(
    ledger: Ledger, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    with ledger.build_lock("one") as held:
        tick, _ = ledger.begin_build()

        def record(node: str) -> None:
            held.check_now_and_then()
            ledger.record_built(tick, [node], built_at=NOW)

        handle = held._handle
        assert handle is not None
        real = handle.check

        def counted() -> None:
            nonlocal asked
            asked += 1
            real()

        monkeypatch.setattr(handle, "check", counted)
        for number in range(50):
            record(f"model.shop.m{number}")
        assert asked <= 3, "at most once a second"
        sql(postgres_database, KILL_OTHERS)
        with Ledger(postgres_database, project="shop", target="prod").build_lock("two") as second:
            assert second, "another build may run now"
            time.sleep(1)
            with pytest.raises(LedgerUnavailableError, match=r"was lost: .*stop this build"):
                record(MART)
            with pytest.raises(LedgerUnavailableError, match="was lost"):
                record(STAGE)
    assert not {MART, STAGE} & set(ledger.snapshot().nodes)


def test_postgres_takes_ledger_of_0_1_0_over(postgres_database: str) -> None:
    check_taken_over(postgres_database)


def test_projects_of_one_postgres_ledger_see_each_other(postgres_database: str) -> None:
    check_two_projects(postgres_database)


def test_postgres_has_tables_that_are_described(postgres_database: str) -> None:
    """A ledger that was brought forward is as one that is new: in each column, key and index."""
    make_ledger_1(postgres_database)
    Ledger(postgres_database, project="shop", target="prod").snapshot()
    with admin(postgres_database) as engine:
        inspector = inspect(engine)
        for name, table in schema.METADATA.tables.items():
            assert [each["name"] for each in inspector.get_columns(name)] == table.columns.keys()
            assert set(inspector.get_pk_constraint(name)["constrained_columns"]) == set(
                table.primary_key.columns.keys()
            )


def test_postgres_keeps_what_else_ledger_knows(ledger: Ledger, postgres_database: str) -> None:
    gold = Ledger(postgres_database, project="shop", target="prod", place="db.gold")
    ledger.record_updates([load("raw.*"), load("raw.*")], baseline=True)
    assert gold.record_updates([load(ITEMS)]) == 2, "took over what knew no place"
    assert gold.snapshot().unresolved == {"raw.*": 1}
    gold.resolve_names({"raw.*": [ORDERS, ITEMS]})
    first, _ = gold.begin_build(now=NOW)
    gold.record_built(first, [MART], built_at=NOW, identities={MART: {"file": "a"}}, seconds={MART: 1.5})
    gold.record_failed(first, {STAGE: "no"}, failed_at=NOW)
    second, _ = gold.begin_build(now=NOW)
    gold.record_built(second, [MART, STAGE], built_at=NOW, identities={MART: {"file": "b"}}, unchanged=[MART])
    gold.record_failed(second, {STAGE: "no"}, failed_at=NOW)
    gold.take_back(second, [STAGE])
    snapshot = gold.snapshot()
    assert (snapshot.sources, snapshot.unresolved, snapshot.baselines) == ({ORDERS: 3, ITEMS: 2}, {}, {ORDERS})
    assert snapshot.nodes == {MART: NodeFact(second, NOW, None, first, snapshot.nodes[MART].identity)}
    assert snapshot.debts == {STAGE: second}
    assert snapshot.failures[STAGE].count == 2
    assert gold.identity_parts(MART) == {"file": "b"}
    assert gold.ask_for([MART], reason="by hand") == 6
    gold.take_identities({MART: {"file": "c"}})
    gold.clear_failures([STAGE])
    assert gold.forget([MART, ORDERS]) == {MART, ORDERS}
    assert gold.prune(now=NOW + timedelta(days=4000)) == 2
    gold.close()


def test_postgres_that_drops_idle_connections_is_not_noticed(ledger: Ledger, postgres_database: str) -> None:
    ledger.record_updates([load()])
    sql(postgres_database, KILL_OTHERS)
    assert ledger.record_updates([load(ITEMS)]) == 2


def test_postgres_that_goes_away_and_comes_back(ledger: Ledger, postgres_url: str, postgres_database: str) -> None:
    ledger.record_updates([load()])
    name = make_url(postgres_database).database

    def lose_the_server_midway() -> None:
        with ledger._write() as scope:
            scope.next_tick()
            sql(postgres_database, KILL_OTHERS)
            scope.execute(text("SELECT 1"))

    with pytest.raises(LedgerUnavailableError, match=r"terminating connection|closed the connection"):
        lose_the_server_midway()
    assert ledger.snapshot().tick == 1, "what was under way is undone"
    sql(postgres_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    sql(postgres_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    with pytest.raises(LedgerUnavailableError, match=r"cannot be used: .*not currently accepting"):
        ledger.record_updates([load(ITEMS)])
    sql(postgres_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert ledger.record_updates([load(ITEMS)]) == 2


def test_postgres_tables_that_were_dropped_are_made_anew(ledger: Ledger, postgres_database: str) -> None:
    ledger.record_updates([load()])
    sql(postgres_database, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with pytest.raises(LedgerUnavailableError, match="its tables were dropped"):
        ledger.record_updates([load()])
    assert ledger.record_updates([load()]) == 1


def test_postgres_names_what_is_wrong_with_url(postgres_url: str) -> None:
    url = make_url(postgres_url)
    for wrong, mend in (
        (url.set(database="nowhere"), "create the database"),
        (url.set(username="nobody_here"), "check the user and the password"),
        (url.update_query_dict({"host": "/tmp/no_such_socket_here"}), "check that the server runs"),
    ):
        text_url = wrong.set(password="secret").render_as_string(hide_password=False)
        with pytest.raises(LedgerUnavailableError, match=mend) as caught:
            Ledger(text_url, project="shop", target="prod").snapshot()
        assert "secret" not in str(caught.value)


def test_user_without_rights_is_told_what_to_grant(postgres_database: str) -> None:
    sql(postgres_database, "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    url = make_url(postgres_database).set(username="reader").render_as_string(hide_password=False)
    with pytest.raises(LedgerUnavailableError, match="grant this user USAGE and CREATE"):
        Ledger(url, project="shop", target="prod").snapshot()


def test_postgres_that_is_locked_for_too_long(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.2)
    ledger = Ledger(postgres_database, project="shop", target="prod")
    ledger.record_updates([load()])
    with (
        admin(postgres_database) as engine,
        engine.connect().execution_options(isolation_level="READ COMMITTED") as other,
        other.begin(),
    ):
        other.execute(text("SELECT * FROM lineage_orch_scopes FOR UPDATE"))
        with pytest.raises(LedgerUnavailableError, match="another process has held it"):
            ledger.record_updates([load(ITEMS)])
        assert ledger.snapshot().tick == 1, "reading does not wait for a writer"
    assert ledger.record_updates([load(ITEMS)]) == 2
    ledger.close()


def test_postgres_schema_of_newer_release(ledger: Ledger, postgres_database: str) -> None:
    ledger.snapshot()
    sql(postgres_database, "UPDATE lineage_orch_meta SET version = 7")
    with pytest.raises(LedgerSchemaError, match=r"version 7.*up to 2"):
        Ledger(postgres_database, project="shop", target="prod").snapshot()


ASKED = (
    *("plan", "status", "explain mart", "history", "freshness", "sources", "report", "build", "record raw.orders"),
    *("adopt --yes", "mark-stale mart", "retry", "pause mart", "resume mart", "forget", "check", "page"),
)


@pytest.mark.parametrize("is_up", [True, False])
def test_password_of_ledger_is_in_no_output_or_log_of_any_command(
    postgres_database: str,
    is_up: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
    given = manifest(source("raw.orders"), node("mart", "raw.orders"))
    (tmp_path / "m.json").write_text(json.dumps(given))
    monkeypatch.setattr("lineage_orch.orchestrator.choose_dbt", lambda *_: FakeDbt(Lineage.from_manifest(given)))
    url = make_url(postgres_database) if is_up else make_url("postgresql+psycopg://postgres@127.0.0.1:1/db")
    monkeypatch.setenv("LINEAGE_ORCH_LEDGER", url.set(password="s3cret").render_as_string(hide_password=False))
    caplog.set_level("DEBUG")
    codes = set()
    for words in ASKED:
        for how in ([], ["--json"]):
            codes.add(main([*words.split(), *how, "--manifest", "m.json"]))
    said = [*capsys.readouterr(), caplog.text, *(each.read_text() for each in tmp_path.glob("lineage.html"))]
    assert "mart" in said[0] if is_up else "cannot be used" in said[1]
    assert codes >= ({0} if is_up else {2})
    assert not [each for each in said if "s3cret" in each]
