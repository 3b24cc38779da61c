"""The ledger: one durable logical clock per (project, target), and what happened at each of its ticks."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, event, text
from sqlalchemy.pool import Pool

from lineage_orch.errors import LedgerError, LedgerSchemaError, LedgerUnavailableError
from lineage_orch.ledger import Launch, Ledger, LedgerSnapshot, Moment, NodeFact, engines
from lineage_orch.updates import SourceUpdate, Window

NOW = datetime(2026, 5, 17, 12, 30, 0, 123457, tzinfo=UTC)
ORDERS, ITEMS, SHOPS = "source.shop.raw.orders", "source.shop.raw.items", "source.shop.raw.shops"
MART, STAGE = "model.shop.mart", "model.shop.stage"


def load(source: str = ORDERS, update_id: str = "1", at: datetime = NOW) -> SourceUpdate:
    return SourceUpdate(source, update_id, at, flow_run_id="run-" + update_id, producer="export")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, path: Path) -> Iterator[Ledger]:
    url = f"sqlite:///{path}" if request.param == "file" else "sqlite://"
    with Ledger(url, project="shop", target="prod") as made:
        yield made


def open_file(path: Path, project: str = "shop", target: str = "prod") -> Ledger:
    return Ledger(f"sqlite:///{path}", project=project, target=target)


def execute(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(sql).fetchall()
    finally:
        connection.close()


# -- loads ----------------------------------------------------------------------------------------------------


def test_ledger_that_nobody_used_is_empty(ledger: Ledger) -> None:
    assert ledger.snapshot() == LedgerSnapshot()
    assert ledger.record_updates([]) == 0


def test_updates_take_ticks_in_order_given(ledger: Ledger) -> None:
    assert ledger.record_updates([load(ORDERS), load(ITEMS), load(ORDERS, "2")]) == 3
    assert ledger.record_updates([load(SHOPS)]) == 4
    snapshot = ledger.snapshot()
    assert snapshot.tick == 4
    assert snapshot.sources == {ORDERS: 3, ITEMS: 2, SHOPS: 4}
    assert [moment.tick for moment in snapshot.source_history[ORDERS]] == [1, 3]


def test_same_update_twice_is_one_update_with_its_first_tick(ledger: Ledger) -> None:
    assert ledger.record_updates([load(), load(ITEMS), load()]) == 1, "the last given is the first one again"
    assert ledger.record_updates([load(at=NOW + timedelta(hours=1))]) == 1
    assert ledger.record_updates([load(), load(ORDERS, "2")]) == 3, "duplicates leave no gap"
    snapshot = ledger.snapshot()
    assert (snapshot.tick, snapshot.sources) == (3, {ORDERS: 3, ITEMS: 2})
    assert snapshot.source_history[ORDERS] == [Moment(1, NOW), Moment(3, NOW)]


def test_same_id_of_two_sources_is_two_updates(ledger: Ledger) -> None:
    assert ledger.record_updates([load(ORDERS, "x"), load(ITEMS, "x")]) == 2


def test_updates_of_one_call_are_recorded_or_none(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="cannot store a value"):
        ledger.record_updates([load(ITEMS), load(ORDERS, "half \ud800")])
    assert ledger.snapshot() == LedgerSnapshot()
    assert ledger.record_updates([load()]) == 1


def test_times_come_back_in_utc_exact_to_microsecond(ledger: Ledger) -> None:
    there = timezone(timedelta(hours=5, minutes=45))
    ledger.record_updates([load(at=NOW.astimezone(there)), load(ITEMS, at=datetime.max.replace(tzinfo=UTC))])
    history = ledger.snapshot().source_history
    assert history[ORDERS][0].at == NOW
    assert history[ORDERS][0].at.tzinfo is UTC
    assert history[ITEMS][0].at == datetime.max.replace(tzinfo=UTC)


def test_naive_times_are_refused(ledger: Ledger) -> None:
    naive = NOW.replace(tzinfo=None)
    for call in (
        lambda: ledger.record_updates([load()], now=naive),
        lambda: ledger.begin_build(now=naive),
        lambda: ledger.record_built(1, [MART], built_at=naive),
        lambda: ledger.prune(now=naive),
    ):
        with pytest.raises(ValueError, match="no time zone"):
            call()
    assert ledger.snapshot().tick == 0


def test_recent_updates_come_back_whole_newest_first(ledger: Ledger) -> None:
    updates = [load(ORDERS, str(n)) for n in range(1, 6)]
    ledger.record_updates(updates)
    assert ledger.recent_updates(2) == [(5, updates[4]), (4, updates[3])]
    assert ledger.updates_since(3) == [(5, updates[4]), (4, updates[3])]
    assert ledger.updates_since(5) == []
    assert ledger.known_updates(["2", "7", *(f"n{number}" for number in range(2500))]) == {"2"}


def test_producers_are_registered_once(path: Path) -> None:
    ledger = open_file(path)
    ledger.register_producers([ORDERS, ITEMS, ORDERS])
    # Another writer has the file: a call that wrote would have to wait for it.
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.register_producers([ITEMS])
    ledger.register_producers([])
    other.close()
    assert ledger.snapshot().producers == {ORDERS, ITEMS}


# -- builds ---------------------------------------------------------------------------------------------------


def test_build_takes_tick_and_sees_exactly_what_came_before(ledger: Ledger) -> None:
    ledger.record_updates([load()])
    ledger.register_producers([ITEMS])
    tick, snapshot = ledger.begin_build()
    assert tick == snapshot.tick == 2
    assert ledger.record_updates([load(ORDERS, "while building")]) == 3
    assert snapshot == LedgerSnapshot(
        tick=2,
        sources={ORDERS: 1},
        producers=frozenset({ITEMS}),
        source_history={ORDERS: [Moment(1, NOW)]},
        run_id=snapshot.run_id,
        loaded_at={ORDERS: NOW},
    )
    assert snapshot.run_id
    assert ledger.snapshot().run_id is None, "a question is no run"


def test_nodes_are_recorded_with_their_tick_time_and_checksum(ledger: Ledger) -> None:
    first, _ = ledger.begin_build()
    ledger.record_built(first, [MART, STAGE], built_at=NOW, checksums={MART: "abc"})
    ledger.record_built(first, [], built_at=NOW)
    assert ledger.snapshot().nodes == {MART: NodeFact(first, NOW, "abc"), STAGE: NodeFact(first, NOW, None)}


def test_late_writer_never_lowers_node(ledger: Ledger) -> None:
    early, _ = ledger.begin_build()
    late, _ = ledger.begin_build()
    ledger.record_built(late, [MART], built_at=NOW, checksums={MART: "new"})
    ledger.record_built(early, [MART, STAGE], built_at=NOW + timedelta(hours=1), checksums={MART: "old"})
    snapshot = ledger.snapshot()
    assert snapshot.nodes[MART] == NodeFact(late, NOW, "new")
    assert snapshot.nodes[STAGE].tick == early
    assert [moment.tick for moment in snapshot.node_history[MART]] == [early, late]


@pytest.mark.parametrize("tick", [-1, 0, 2])
def test_tick_that_was_never_given_out_is_refused(ledger: Ledger, tick: int) -> None:
    ledger.begin_build()
    with pytest.raises(LedgerError, match=f"takes nothing at tick {tick} .*begin_build"):
        ledger.record_built(tick, [MART], built_at=NOW)
    assert ledger.snapshot().nodes == {}


def test_string_is_no_list_of_nodes(ledger: Ledger) -> None:
    tick, _ = ledger.begin_build()
    with pytest.raises(TypeError, match=MART):
        ledger.record_built(tick, MART, built_at=NOW)


def test_histories_are_limited_to_those_asked_for(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS), load(ITEMS)])
    tick, _ = ledger.begin_build()
    ledger.record_built(tick, [MART, STAGE], built_at=NOW)
    many = [ORDERS, MART, *(f"model.shop.m{n}" for n in range(2500))]
    for snapshot in (ledger.snapshot(history_of=many), ledger.begin_build(history_of=many)[1]):
        assert snapshot.source_history == {ORDERS: [Moment(1, NOW)]}
        assert snapshot.node_history == {MART: [Moment(3, NOW)]}
        assert set(snapshot.sources) == {ORDERS, ITEMS}
    ledger.record_built(tick, many[2:], built_at=NOW)
    assert set(ledger.snapshot(history_of=many).node_history) == {MART, *many[2:]}
    assert ledger.snapshot(history_of=[]).source_history == {}
    assert set(ledger.snapshot().node_history) == {MART, STAGE, *many[2:]}


def test_dbt_threads_may_record_while_others_read(ledger: Ledger) -> None:
    tick, _ = ledger.begin_build()
    nodes = [f"model.shop.m{n}" for n in range(60)]

    def build(node: str) -> None:
        ledger.record_built(tick, [node], built_at=NOW)
        assert node in ledger.snapshot().nodes

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(build, nodes))
    assert set(ledger.snapshot().nodes) == set(nodes)


# -- scopes, marks, pruning -----------------------------------------------------------------------------------


def test_projects_and_targets_share_file_and_nothing_else(path: Path) -> None:
    one = open_file(path)
    one.record_updates([load(), load(ITEMS)])
    one.register_producers([ORDERS])
    one.set_mark("watermark", "x")
    one.record_built(one.begin_build(now=NOW)[0], [MART], built_at=NOW)
    for other in (open_file(path, target="dev"), open_file(path, project="other")):
        assert other.snapshot() == LedgerSnapshot()
        assert other.recent_updates() == []
        assert other.mark("watermark") is None
        assert other.record_updates([load()]) == 1, "the same update_id is new to another scope"
        assert other.prune(now=NOW + timedelta(days=1000)) == 0
    assert one.snapshot().tick == 3
    assert len(one.snapshot().node_history[MART]) == 1


def test_marks(ledger: Ledger) -> None:
    assert ledger.mark("seen") is None
    ledger.set_mark("seen", "1")
    ledger.set_mark("seen", "2")
    assert (ledger.mark("seen"), ledger.mark("other")) == ("2", None)


def test_launch_is_kept_until_it_ends(ledger: Ledger) -> None:
    tick, snapshot = ledger.begin_build(now=NOW)
    launch = Launch("follower.push", tick, snapshot.run_id or "", NOW, "push/prod", ("shop.orders",))
    launch = replace(launch, window=Window(NOW - timedelta(days=1), NOW))
    ledger.add_launch(launch)
    assert ledger.launches() == ledger.snapshot().launches == {"follower.push": launch}
    asked = replace(launch, flow_run_id="7f0c")
    ledger.add_launch(asked)
    assert ledger.launches() == {"follower.push": asked}
    ledger.end_launch("follower.push")
    assert ledger.launches() == {}
    ledger.add_launch(launch)
    assert ledger.forget(["follower.push"]) == {"follower.push"}
    assert ledger.snapshot().launches == {}


def test_prune_keeps_what_is_young_and_newest_of_each(ledger: Ledger) -> None:
    old = NOW - timedelta(days=91)
    ledger.record_updates([load(ORDERS, "1"), load(ORDERS, "2"), load(ITEMS, "1")], now=old)
    tick, _ = ledger.begin_build(now=old)
    ledger.record_built(tick, [MART, STAGE], built_at=old)
    tick, _ = ledger.begin_build(now=old)
    ledger.record_built(tick, [MART], built_at=old)
    ledger.record_updates([load(SHOPS, "1"), load(SHOPS, "2")], now=NOW - timedelta(days=89))
    before = ledger.snapshot()
    assert ledger.prune(now=NOW) == 2
    assert ledger.prune(now=NOW) == 0
    after = ledger.snapshot()
    assert (after.tick, after.sources, after.nodes) == (before.tick, before.sources, before.nodes)
    ticks = {name: [moment.tick for moment in history] for name, history in after.source_history.items()}
    assert ticks == {ORDERS: [2], ITEMS: [3], SHOPS: [6, 7]}
    assert {name: len(history) for name, history in after.node_history.items()} == {MART: 1, STAGE: 1}
    assert ledger.record_updates([load(ORDERS, "2")]) == 2, "the newest is still known"


def test_build_prunes_at_most_once_day(ledger: Ledger) -> None:
    old = NOW - timedelta(days=100)
    ledger.begin_build(now=NOW)
    ledger.record_updates([load(ORDERS, "1"), load(ORDERS, "2")], now=old)
    assert len(ledger.begin_build(now=NOW + timedelta(hours=23))[1].source_history[ORDERS]) == 2
    assert len(ledger.begin_build(now=NOW + timedelta(hours=24))[1].source_history[ORDERS]) == 1


# -- against a model ------------------------------------------------------------------------------------------


class LedgerMachine(RuleBasedStateMachine):
    """Any order of calls leaves the ledger as a few dictionaries would."""

    sources = st.sampled_from([ORDERS, ITEMS, SHOPS])
    all_nodes = st.sampled_from([MART, STAGE, "seed.shop.s"])
    node_sets = st.sets(all_nodes, max_size=3)
    times = st.datetimes(datetime(2000, 1, 1), datetime(2000, 2, 1), timezones=st.just(UTC))

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger("sqlite://", project="shop", target="prod")
        self.tick = 0
        self.runs: list[int] = []
        self.updates: dict[tuple[str, str], Moment] = {}
        self.moved: set[str] = set()
        self.builds: dict[str, dict[int, NodeFact]] = {}
        self.producers: set[str] = set()
        self.debts: dict[str, int] = {}
        # Count, since, run, and the run that built it well since.
        self.failed: dict[str, tuple[int, datetime, int, int | None]] = {}

    @rule(given=st.lists(st.tuples(sources, st.sampled_from("abcdef"), times), max_size=5), baseline=st.booleans())
    def record(self, given: list[tuple[str, str, datetime]], baseline: bool) -> None:
        last = self.tick
        for source, update_id, at in given:
            if (source, update_id) not in self.updates:
                self.tick += 1
                self.updates[source, update_id] = Moment(self.tick, at)
                if not baseline:
                    self.moved.add(source)
            last = self.updates[source, update_id].tick
        assert self.ledger.record_updates([SourceUpdate(*each) for each in given], baseline=baseline) == last

    @rule()
    def begin(self) -> None:
        self.tick += 1
        # At a time when nothing is old enough to be pruned, and nothing is of the future.
        tick, snapshot = self.ledger.begin_build(now=datetime(2000, 2, 1, tzinfo=UTC))
        assert tick == snapshot.tick == self.tick
        assert replace(snapshot, run_id=None) == self.ledger.snapshot()
        self.runs.append(tick)

    @rule(
        back=st.integers(0, 2),
        nodes=node_sets,
        unchanged=node_sets,
        at=times,
        checksum=st.none() | st.text("ab", max_size=2),
    )
    def built(self, back: int, nodes: set[str], unchanged: set[str], at: datetime, checksum: str | None) -> None:
        if back >= len(self.runs):
            return
        tick = self.runs[-1 - back]
        checksums = None if checksum is None else dict.fromkeys(nodes, checksum)
        self.ledger.record_built(tick, nodes, built_at=at, checksums=checksums, unchanged=unchanged)
        for node in nodes:
            of_node = self.builds.setdefault(node, {})
            before = [fact.changed_tick for other, fact in of_node.items() if other < tick]
            changed = max(before, default=tick) if node in unchanged else tick
            of_node[tick] = NodeFact(tick, at, checksum, None if changed == tick else changed)
            if self.debts.get(node, tick + 1) <= tick:
                del self.debts[node]
            if node in self.failed and self.failed[node][2] <= tick and self.failed[node][3] is None:
                self.failed[node] = (*self.failed[node][:3], tick)

    @rule(nodes=node_sets)
    def ask(self, nodes: set[str]) -> None:
        self.tick += bool(nodes)
        assert self.ledger.ask_for(nodes, reason="a test") == self.tick
        self.debts |= dict.fromkeys(nodes, self.tick)

    @rule(nodes=node_sets, at=times)
    def fail(self, nodes: set[str], at: datetime) -> None:
        if not self.runs:
            return
        tick = self.runs[-1]
        self.ledger.record_failed(tick, {node: f"{node} at {tick}" for node in nodes}, failed_at=at)
        for node in nodes:
            count, since, run, cleared = self.failed.get(node, (0, at, 0, None))
            if cleared not in (None, tick):
                count, since = 0, at
            self.failed[node] = (count + (run != tick), since, tick, None)

    @rule(which=st.sets(sources))
    def register(self, which: set[str]) -> None:
        self.ledger.register_producers(which)
        self.producers |= which

    @invariant()
    def as_the_model(self) -> None:
        histories: dict[str, list[Moment]] = {}
        for (source, _), moment in self.updates.items():
            histories.setdefault(source, []).append(moment)
        facts = {}
        for node, of_node in self.builds.items():
            newest = of_node[max(of_node)]
            changed = max(fact.changed_tick for fact in of_node.values())
            facts[node] = newest._replace(changed=None if changed == newest.tick else changed)
        snapshot = self.ledger.snapshot()
        assert {node: (failure.count, failure.since, failure.tick) for node, failure in snapshot.failures.items()} == {
            node: (count, since, run) for node, (count, since, run, cleared) in self.failed.items() if cleared is None
        }
        assert replace(snapshot, failures={}) == LedgerSnapshot(
            tick=self.tick,
            sources={source: history[-1].tick for source, history in histories.items()},
            nodes=facts,
            producers=frozenset(self.producers),
            source_history=histories,
            node_history={
                node: history
                for node, builds in self.builds.items()
                if (history := [Moment(n, builds[n].built_at) for n in sorted(builds) if builds[n].changed is None])
            },
            baselines=frozenset(histories.keys() - self.moved),
            debts=self.debts,
            loaded_at={source: max(each.at for each in history) for source, history in histories.items()},
        )

    def teardown(self) -> None:
        self.ledger.close()


def test_any_order_of_calls_is_as_model() -> None:
    quick = settings(max_examples=30, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(LedgerMachine, settings=quick)


# -- the file and its schema ----------------------------------------------------------------------------------


def test_construction_touches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / ".lineage_orch"
    ledger = open_file(folder / "ledger.db")
    assert list(tmp_path.iterdir()) == []
    ledger.record_updates([load()])
    assert (folder / ".gitignore").read_text() == "*\n"


def test_folder_that_was_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".lineage_orch").mkdir()
    open_file(tmp_path / ".lineage_orch" / "ledger.db").snapshot()
    open_file(tmp_path / "data" / "ledger.db").snapshot()
    assert not list(tmp_path.rglob(".gitignore"))


def test_relative_file_outlives_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = Ledger("sqlite:///ledger.db", project="shop", target="prod")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ledger.record_updates([load()])
    assert (tmp_path / "ledger.db").exists()


def test_records_are_there_for_next_process(path: Path) -> None:
    ledger = open_file(path)
    ledger.record_updates([load()])
    with ledger._database.write() as connection:
        pragmas = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2], "2 is FULL: a commit waits for the disk"
    assert open_file(path).snapshot() == ledger.snapshot()


def test_deleted_file_starts_new_ledger(path: Path) -> None:
    ledger = open_file(path)
    ledger.record_updates([load(), load(ITEMS)])
    for each in path.parent.glob("ledger.db*"):
        each.unlink()
    assert ledger.record_updates([load(SHOPS)]) == 1
    assert open_file(path).snapshot().sources == {SHOPS: 1}


def test_file_that_was_restored_under_open_ledger_is_ledger(path: Path) -> None:
    ledger = open_file(path)
    ledger.record_updates([load(), load(ITEMS)])
    backup = path.parent / "elsewhere" / "ledger.db"
    with open_file(backup) as other:
        other.record_updates([load(SHOPS)])
    for each in path.parent.glob("ledger.db-*"):
        each.unlink()
    backup.rename(path)
    assert ledger.snapshot().sources == {SHOPS: 1}


def test_many_first_uses_at_once_make_one_schema(path: Path) -> None:
    start = threading.Barrier(8)

    def first_use(number: int) -> int:
        ledger = open_file(path)
        start.wait()
        return ledger.record_updates([load(ORDERS, str(number))])

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(first_use, range(8))) == list(range(1, 9))
    assert execute(path, "SELECT version FROM lineage_orch_meta") == [(2,)]


def test_newer_ledger_is_refused_with_both_versions(path: Path) -> None:
    open_file(path).snapshot()
    execute(path, "UPDATE lineage_orch_meta SET version = 7")
    ledger = open_file(path)
    for _ in range(2):
        with pytest.raises(
            LedgerSchemaError, match=r"version 7.*up to 2; .*pip install --upgrade lineage_orch"
        ) as told:
            ledger.record_updates([load()])
    assert "no way back: to stay on this release, restore a backup" in str(told.value)
    execute(path, "UPDATE lineage_orch_meta SET version = 2")
    assert ledger.record_updates([load()]) == 1


def test_file_and_its_folder_are_for_their_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "ledger.db"
    before = os.umask(0o022)
    try:
        ledger = open_file(path)
        with ledger.build_lock("me"):
            ledger.record_updates([load()])
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(modes) == 5, "the file, its -wal and -shm, and two locks"
    assert set(modes.values()) == {0o600}, modes


def test_lock_of_shared_file_is_shared_as_well(path: Path) -> None:
    open_file(path).snapshot()
    path.chmod(0o660)
    with open_file(path).build_lock("me"):
        assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.glob("*.lock")} == {0o660}


@pytest.mark.parametrize("name", ["a b.db", "per%20cent.db", "#hash.db", "ü.db"])
def test_files_of_any_name(tmp_path: Path, name: str) -> None:
    open_file(tmp_path / name).record_updates([load()])
    assert (tmp_path / name).exists()
    assert open_file(tmp_path / name).snapshot().sources == {ORDERS: 1}


def test_empty_file_is_empty_ledger(path: Path) -> None:
    path.touch()
    assert open_file(path).snapshot() == LedgerSnapshot()
    assert execute(path, "SELECT version FROM lineage_orch_meta") == [(2,)]


def test_snapshot_needs_no_database() -> None:
    code = (
        "import sys; import lineage_orch; import lineage_orch.ledger.snapshot; "
        "from lineage_orch.ledger import NodeFact; print('sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_newest_facts_are_read_without_history(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, str(number)) for number in range(10)])
    ledger.record_built(ledger.begin_build()[0], [MART], built_at=NOW)
    asked: list[str] = []

    def note(*args: Any) -> None:
        asked.append(args[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert ledger.snapshot(history_of=()).sources == {ORDERS: 10}
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert asked
    assert not [each for each in asked if "lineage_orch_updates" in each or "lineage_orch_builds" in each]


def test_producers_are_named_newest_first(ledger: Ledger) -> None:
    def by(producer: str | None, update_id: str) -> SourceUpdate:
        return SourceUpdate(ORDERS, update_id, NOW, producer=producer)

    ledger.register_producers([SHOPS])
    ledger.record_updates([by("old", "1"), by("new", "2"), by("old", "3"), by(None, "4"), by("newest", "5")])
    assert ledger.producers() == {SHOPS: [], ORDERS: ["newest", "old", "new"]}


# -- failures, and life after them ------------------------------------------------------------------------


def assert_unavailable(ledger: Ledger, hint: str) -> None:
    with pytest.raises(LedgerUnavailableError, match=hint) as caught:
        ledger.record_updates([load(SHOPS, "again")])
    assert ledger.url in str(caught.value)
    assert "[SQL" not in str(caught.value)


def test_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"this is not a ledger " * 500)
    ledger = open_file(path)
    assert_unavailable(ledger, "file is damaged: restore it")
    path.unlink()
    assert ledger.record_updates([load()]) == 1


def test_file_that_is_damaged_while_in_use(path: Path) -> None:
    ledger = open_file(path)
    ledger.record_updates([load()])
    ledger.close()
    good = path.read_bytes()
    path.write_bytes(good[:100] + b"\xff" * (len(good) - 100))
    assert_unavailable(ledger, "file is damaged: restore it")
    path.write_bytes(good)
    assert ledger.snapshot().sources == {ORDERS: 1}


def test_folder_in_place_of_file(path: Path) -> None:
    path.mkdir()
    ledger = open_file(path)
    assert_unavailable(ledger, "is a folder: name a file in it")
    path.rmdir()
    assert ledger.record_updates([load()]) == 1


def test_file_in_place_of_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    ledger = open_file(tmp_path / "data" / "sub" / "ledger.db")
    assert_unavailable(ledger, "check the folder")
    (tmp_path / "data").unlink()
    assert ledger.record_updates([load()]) == 1


def test_file_that_can_only_be_read(path: Path) -> None:
    open_file(path).record_updates([load()])
    ledger = Ledger(f"sqlite:///file:{path}?mode=ro&uri=true", project="shop", target="prod")
    assert ledger.snapshot().sources == {ORDERS: 1}
    assert_unavailable(ledger, "can be read only.*right to write")


def test_folder_without_permission(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "import lineage_orch.ledger.engines\n"  # another user may not be allowed to import it
        "from lineage_orch.ledger.store import Ledger\n"
        "from lineage_orch.errors import LedgerUnavailableError\n"
        "ledger = Ledger('sqlite:///' + sys.argv[1], project='p', target='t')\n"
        "os.geteuid() or os.setuid(65534)\n"  # root may do everything, so be nobody
        "try: ledger.snapshot()\n"
        "except LedgerUnavailableError as error: print(error)\n"
    )
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    command = [sys.executable, "-c", code, str(closed / "ledger.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "cannot be used" in done.stdout, done.stderr
    assert "may write there" in done.stdout or "rights on it" in done.stdout


def test_full_disk(path: Path) -> None:
    def shrink(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 40")

    event.listen(Pool, "connect", shrink)
    try:
        ledger = open_file(path)
        ledger.record_updates([load()])
        too_much = [load(ORDERS, f"{n} " + "x" * 5000) for n in range(100)]
        with pytest.raises(LedgerUnavailableError, match="disk is full: free some space"):
            ledger.record_updates(too_much)
    finally:
        event.remove(Pool, "connect", shrink)
    assert ledger.record_updates([load(ITEMS)]) == 2


def test_file_that_is_locked_for_too_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.2)
    ledger = open_file(path)
    ledger.record_updates([load()])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert_unavailable(ledger, "another process has held it")
    assert ledger.snapshot().sources == {ORDERS: 1}, "reading does not wait for a writer"
    other.close()
    assert ledger.record_updates([load(ITEMS)]) == 2


def test_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    ledger = Ledger("postgresql+psycopg://me:secret@127.0.0.1:1/db", project="shop", target="prod")
    assert_unavailable(ledger, r"pip install 'lineage_orch\[postgres\]'")


def test_server_that_is_down_and_no_password_in_any_message() -> None:
    pytest.importorskip("psycopg")
    ledger = Ledger("postgres://me:secret@127.0.0.1:1/db?password=hidden", project="shop", target="prod")
    assert_unavailable(Ledger("postgresql://me:secret@127.0.0.1:1/db", project="a", target="b"), "server runs")
    with pytest.raises(LedgerUnavailableError, match="check that the server runs") as caught:
        ledger.snapshot()
    for words in (str(caught.value), repr(ledger), ledger.url):
        assert "secret" not in words
        assert "hidden" not in words


@pytest.mark.parametrize(
    "url",
    [
        *("mysql://me:secret@host/db", "postgresql+asyncpg://me:secret@host/db", "secret", "", "sqlite+aiosqlite:///x"),
        "postgresql://me:half@secret@host/db",  # an @ that should have been written as %40
    ],
)
def test_url_that_is_not_supported_is_refused_at_once(url: str) -> None:
    with pytest.raises(LedgerUnavailableError, match=r"sqlite:///.*postgresql\+psycopg://") as caught:
        Ledger(url, project="shop", target="prod")
    assert "secret" not in str(caught.value)


def test_empty_names_and_no_days_are_refused() -> None:
    with pytest.raises(ValueError, match="project and a target"):
        Ledger("sqlite://", project="", target="prod")
    with pytest.raises(ValueError, match="keep_days"):
        Ledger("sqlite://", project="shop", target="prod", keep_days=0)


def test_history_above_last_good_builds_is_what_is_asked_for(ledger: Ledger) -> None:
    def at(minute: int) -> datetime:
        return NOW + timedelta(minutes=minute)

    def loaded(number: int) -> int:
        return ledger.record_updates([load(ORDERS, str(number), at(number))], now=at(number))

    loaded(0)
    early, _ = ledger.begin_build(now=at(1))
    ledger.record_built(early, ["model.shop.old"], built_at=at(1))
    second = loaded(2)
    loaded(3)
    late, _ = ledger.begin_build(now=at(4))
    ledger.record_built(late, ["model.shop.new"], built_at=at(4))
    fifth = loaded(5)
    loaded(6)
    history = ledger.snapshot(
        history_of={ORDERS: ["model.shop.old", "model.shop.new"], "model.shop.new": ["model.shop.old"]}
    )
    assert history.source_history == {ORDERS: [(second, at(2)), (fifth, at(5))]}
    assert history.node_history == {"model.shop.new": [(late, at(4))]}
    # What was never built wants the first there is; what has nothing new wants nothing.
    assert ledger.snapshot(history_of={ORDERS: ["model.shop.never"]}).source_history[ORDERS][0].at == at(0)
    assert not ledger.snapshot(history_of={"model.shop.old": ["model.shop.new"]}).node_history
