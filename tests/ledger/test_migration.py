"""A ledger of 0.1.0 becomes one of this release, with all its facts, at its first use."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from lineage_orch.errors import LedgerError, LedgerUnavailableError
from lineage_orch.ledger import Holder, Ledger, LedgerSnapshot, Moment, NodeFact, schema
from lineage_orch.updates import SourceUpdate
from tests.ledger.schema_1 import AT, make_ledger_1

THEN = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=AT)
ORDERS, SHOPS, MART, SEED = "source.shop.raw.orders", "source.shop.raw.shops", "model.shop.mart", "seed.shop.s"


def micros(count: int) -> timedelta:
    return timedelta(microseconds=count)


def as_of_0_1_0() -> LedgerSnapshot:
    """What the ledger of 0.1.0 says, in the words of this release."""
    return LedgerSnapshot(
        tick=6,
        sources={ORDERS: 5, SHOPS: 3},
        nodes={MART: NodeFact(4, THEN + micros(3), "abc"), SEED: NodeFact(4, THEN + micros(3))},
        producers=frozenset({ORDERS}),
        source_history={ORDERS: [Moment(1, THEN), Moment(5, THEN + micros(7))], SHOPS: [Moment(3, THEN)]},
        node_history={MART: [Moment(2, THEN), Moment(4, THEN + micros(3))], SEED: [Moment(4, THEN + micros(3))]},
        baselines=frozenset({SHOPS}),
        loaded_at={ORDERS: THEN + micros(7), SHOPS: THEN},
    )


def check_taken_over(url: str) -> None:
    """Use a ledger of 0.1.0 in every way (SQLite here, PostgreSQL in the tests with real servers)."""
    make_ledger_1(url)
    with Ledger(url, project="shop", target="prod", place="db.gold") as ledger:
        assert ledger.snapshot() == as_of_0_1_0()
        assert ledger.holder() == Holder("a build that was killed", THEN)
        assert ledger.mark("watermark") == "x"
        assert ledger.known_updates(["first", "adopt:0123", "elsewhere"]) == {"first", "adopt:0123"}
        assert ledger.recent_updates(1) == [(5, SourceUpdate(ORDERS, "second", THEN + micros(7), producer="export"))]
        assert ledger.record_updates([SourceUpdate(ORDERS, "first", THEN)]) == 1, "known of before"
        with pytest.raises(LedgerError, match="takes nothing at tick 4"):
            ledger.record_built(4, [MART], built_at=THEN)
        ledger.take_identities({MART: {"file": "abc"}, "model.shop.never_built": {"file": "x"}})
        assert ledger.identity_parts(MART) == {"file": "abc"}
        assert ledger.snapshot().nodes[MART].tick == 4, "nothing was built for it"
        tick, _ = ledger.begin_build(now=THEN)
        assert tick == 7
        ledger.record_built(tick, [MART], built_at=THEN, unchanged=[MART])
        assert ledger.snapshot().nodes[MART].changed == 4
    with Ledger(url, project="other", target="dev") as other:
        assert other.snapshot().sources == {ORDERS: 1}
    engine = create_engine(url)
    with engine.connect() as connection:
        assert sorted(inspect(connection).get_table_names()) == sorted(schema.METADATA.tables)
        assert connection.execute(text("SELECT version FROM lineage_orch_meta")).scalars().all() == [2]
    engine.dispose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_ledger_of_0_1_0_is_taken_over_with_all_its_facts(path: Path) -> None:
    check_taken_over(f"sqlite:///{path}")


def test_many_processes_take_ledger_of_0_1_0_over_once(path: Path) -> None:
    make_ledger_1(f"sqlite:///{path}")
    start = threading.Barrier(6)

    def use(number: int) -> int:
        with Ledger(f"sqlite:///{path}", project="shop", target="prod") as ledger:
            start.wait()
            return ledger.record_updates([SourceUpdate(ORDERS, f"new {number}", THEN)])

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(use, range(6))) == [7, 8, 9, 10, 11, 12]


def test_migration_that_fails_leaves_ledger_of_0_1_0_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ledger_1(f"sqlite:///{path}")
    before = list(sqlite3.connect(path).iterdump())

    def broken(connection: Connection) -> None:
        connection.execute(text("INSERT INTO lineage_orch_missing VALUES (1)"))

    with monkeypatch.context() as patch, Ledger(f"sqlite:///{path}", project="shop", target="prod") as ledger:
        patch.setattr(schema, "_take_over_version_1", broken)
        with pytest.raises(LedgerUnavailableError, match="lineage_orch_missing"):
            ledger.snapshot()
        assert list(sqlite3.connect(path).iterdump()) == before
        patch.undo()
        assert ledger.snapshot() == as_of_0_1_0()


def test_open_process_of_0_1_0_writes_nothing_more(path: Path) -> None:
    make_ledger_1(f"sqlite:///{path}")
    with sqlite3.connect(path) as old:
        Ledger(f"sqlite:///{path}", project="shop", target="prod").snapshot()
        with pytest.raises(sqlite3.OperationalError, match="no such table: lineage_orch_clocks"):
            # What every write of 0.1.0 begins with.
            old.execute("UPDATE lineage_orch_clocks SET tick = tick + 1 WHERE project = 'shop' AND target = 'prod'")


def test_tables_of_version_2_are_what_was_released() -> None:
    """A ledger in the field has these tables.

    If this fails, a table was changed: raise SCHEMA_VERSION, add the migration from this version, test it as the one
    from version 1 is tested, and only then write the new digest here.
    """
    ddl = []
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        for table in schema.METADATA.sorted_tables:
            ddl.append(str(CreateTable(table).compile(dialect=dialect)))
            ddl += [str(CreateIndex(index).compile(dialect=dialect)) for index in sorted(table.indexes, key=str)]
    digest = hashlib.sha256("\n".join(" ".join(each.split()) for each in ddl).encode()).hexdigest()[:16]
    assert (schema.SCHEMA_VERSION, digest) == (2, "939bd0099a0ecc4a")


def test_importing_tables_is_all_that_question_pays() -> None:
    heavy = "{'prefect', 'dbt', 'networkx', 'psycopg'}"
    code = f"import sys, lineage_orch.ledger.store; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stderr
