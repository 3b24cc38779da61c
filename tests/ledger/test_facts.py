"""What the ledger keeps beside loads and builds: names not resolved, runs, sameness, failures, debts, identities."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lineage_orch.errors import LedgerError
from lineage_orch.ledger import Failure, History, Ledger, LedgerSnapshot, Moment, NodeFact, Untested
from lineage_orch.lineage.identity import digest
from lineage_orch.updates import SourceUpdate

NOW = datetime(2026, 5, 17, 12, 30, 0, 123457, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
ORDERS, ITEMS, SHOPS = "source.shop.raw.orders", "source.shop.raw.items", "source.shop.raw.shops"
MART, STAGE = "model.shop.mart", "model.shop.stage"


def load(source: str, update_id: str = "1", at: datetime = NOW) -> SourceUpdate:
    return SourceUpdate(source, update_id, at, flow_run_id="run-" + update_id, producer="export")


def open_file(path: Path, place: str = "", target: str = "prod") -> Ledger:
    return Ledger(f"sqlite:///{path}", project="shop", target=target, place=place)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger("sqlite://", project="shop", target="prod") as made:
        yield made


def build(ledger: Ledger, *node_ids: str, unchanged: tuple[str, ...] = ()) -> int:
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_built(tick, node_ids, built_at=NOW, unchanged=unchanged)
    return tick


# -- names that are no unique_ids -------------------------------------------------------------------------------


def test_name_that_is_not_known_yet_is_kept_as_given(ledger: Ledger) -> None:
    assert ledger.record_updates([load("raw.orders"), load("source.orders"), load(ITEMS)]) == 3
    snapshot = ledger.snapshot()
    assert snapshot.unresolved == {"raw.orders": 1, "source.orders": 2}
    assert snapshot.sources == {ITEMS: 3}
    assert set(snapshot.source_history) == set(snapshot.loaded_at) == {ITEMS}
    assert ledger.recent_updates(3)[2] == (1, load("raw.orders"))
    assert ledger.known_updates(["1"]) == {"1"}, "recorded is recorded"


def test_name_that_is_resolved_becomes_updates_of_its_sources(ledger: Ledger) -> None:
    ledger.record_updates([load("raw.*", "1"), load("raw.*", "2", LATER), load("other.t")])
    ledger.resolve_names({"raw.*": [ORDERS, ITEMS], "other.t": [], "never.seen": [SHOPS]})
    snapshot = ledger.snapshot()
    assert snapshot.unresolved == {"other.t": 3}
    assert snapshot.sources == {ORDERS: 6, ITEMS: 7}
    assert snapshot.source_history[ORDERS] == [Moment(4, NOW), Moment(6, LATER)]
    assert snapshot.loaded_at == {ORDERS: LATER, ITEMS: LATER}
    assert [tick for tick, _ in ledger.recent_updates()] == [7, 6, 5, 4, 3], "each update stands there once"
    assert ledger.recent_updates(1)[0][1] == load(ITEMS, "2", LATER)


def test_resolved_update_is_same_under_both_names(ledger: Ledger) -> None:
    ledger.record_updates([load("raw.orders")])
    ledger.resolve_names({"raw.orders": [ORDERS]})
    assert ledger.record_updates([load("raw.orders")]) == 1
    assert ledger.record_updates([load(ORDERS)]) == 2
    assert (ledger.snapshot().tick, ledger.snapshot().unresolved) == (2, {})
    ledger.record_updates([load("raw.orders", "2")])
    ledger.resolve_names({"raw.orders": [ORDERS]})
    assert ledger.snapshot().sources == {ORDERS: 4}, "the first one was not resolved again"


def test_name_for_update_that_is_known_makes_nothing_stale(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS), load("raw.orders")])
    ledger.resolve_names({"raw.orders": [ORDERS]})
    snapshot = ledger.snapshot()
    assert (snapshot.sources, snapshot.unresolved, snapshot.tick) == ({ORDERS: 1}, {}, 2)


def test_name_cannot_mean_another_name(ledger: Ledger) -> None:
    ledger.record_updates([load("raw.orders")])
    with pytest.raises(LedgerError, match=r"'raw\.orders' cannot mean 'raw\.orders2'"):
        ledger.resolve_names({"raw.orders": [ORDERS, "raw.orders2"]})
    assert ledger.snapshot().unresolved == {"raw.orders": 1}


def test_patterns_of_producers_are_kept_apart_from_sources(ledger: Ledger) -> None:
    given = ["raw.*", "crm.{table}", "source.shop.raw.{table}", "raw.orders", ORDERS]
    ledger.register_producers(given)
    snapshot = ledger.snapshot()
    assert snapshot.producers == {ORDERS}
    assert snapshot.producer_patterns == set(given) - {ORDERS}


# -- seconds ----------------------------------------------------------------------------------------------------


def test_median_seconds_are_of_last_ten_builds(ledger: Ledger) -> None:
    for seconds in [900.0] * 5 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 100.0]:
        tick, _ = ledger.begin_build(now=NOW)
        ledger.record_built(tick, [MART], built_at=NOW, seconds={MART: seconds})
    build(ledger, STAGE)
    assert ledger.median_seconds([MART, STAGE, "model.shop.gone"]) == {MART: 5.5}
    build(ledger, MART)
    assert ledger.median_seconds([MART]) == {MART: 6.0}, "that of one of the ten is not known"
    assert ledger.median_seconds([]) == {}


# -- baselines --------------------------------------------------------------------------------------------------


def test_source_is_baseline_until_it_is_loaded(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, "adopt"), load(ITEMS, "adopt")], baseline=True)
    assert ledger.snapshot().baselines == {ORDERS, ITEMS}
    ledger.record_updates([load(ORDERS, "a load")])
    ledger.record_updates([load(ORDERS, "adopt again"), load("raw.shops")], baseline=True)
    ledger.resolve_names({"raw.shops": [SHOPS]})
    assert ledger.snapshot().baselines == {ITEMS, SHOPS}


# -- runs -------------------------------------------------------------------------------------------------------


def test_who_records_shows_id_of_run(tmp_path: Path) -> None:
    one, other = open_file(tmp_path / "ledger.db"), open_file(tmp_path / "ledger.db")
    tick, snapshot = one.begin_build()
    with pytest.raises(LedgerError, match="its run_id was not given"):
        other.record_built(tick, [MART], built_at=NOW)
    with pytest.raises(LedgerError, match=r"at tick 1 .*another run began there"):
        other.record_built(tick, [MART], built_at=NOW, run_id="another")
    other.record_built(tick, [MART], built_at=NOW, run_id=snapshot.run_id)
    one.record_built(tick, [STAGE], built_at=NOW)
    assert set(one.snapshot().nodes) == {MART, STAGE}


def test_tick_of_update_is_no_run(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS)])
    for call in (
        lambda: ledger.record_built(1, [MART], built_at=NOW),
        lambda: ledger.record_failed(1, {MART: "no"}, failed_at=NOW),
        lambda: ledger.take_back(1, [MART]),
    ):
        with pytest.raises(LedgerError, match=r"nothing at tick 1 .*knows no run that began there"):
            call()


@pytest.mark.parametrize("loads", [0, 1, 5])
@pytest.mark.parametrize("another_run", [False, True])
def test_restored_ledger_refuses_build_of_lost_history(tmp_path: Path, loads: int, another_run: bool) -> None:
    path, backup = tmp_path / "ledger.db", tmp_path / "backup.db"
    ledger = open_file(path)
    ledger.record_updates([load(ORDERS)])
    ledger.close()
    shutil.copy(path, backup)
    tick, _ = ledger.begin_build()
    assert tick == 2

    for each in tmp_path.glob("ledger.db-*"):
        each.unlink()
    path.unlink()
    shutil.copy(backup, path)
    after = open_file(path)
    if another_run:
        assert after.begin_build()[0] == tick
    after.record_updates([load(ITEMS, str(number)) for number in range(loads)])
    with pytest.raises(LedgerError, match=r"(knows no|another) run .*restored.*build again"):
        ledger.record_built(tick, [MART], built_at=NOW)
    with pytest.raises(LedgerError, match="takes nothing"):
        ledger.record_failed(tick, {MART: "no"}, failed_at=NOW)
    assert ledger.snapshot().nodes == {}
    again = build(ledger, MART)
    assert ledger.snapshot().nodes[MART].tick == again > ledger.snapshot().sources.get(ITEMS, 0)


# -- sameness ---------------------------------------------------------------------------------------------------


def test_node_that_came_out_same_is_built_and_not_changed(ledger: Ledger) -> None:
    first = build(ledger, MART, STAGE)
    second = build(ledger, MART, STAGE, unchanged=(MART,))
    third = build(ledger, MART, unchanged=(MART,))
    snapshot = ledger.snapshot()
    assert snapshot.nodes[MART] == NodeFact(third, NOW, changed=first)
    assert snapshot.nodes[MART].changed_tick == first
    assert snapshot.nodes[STAGE].changed_tick == second
    assert snapshot.node_history == {MART: [Moment(first, NOW)], STAGE: [Moment(first, NOW), Moment(second, NOW)]}
    assert ledger.snapshot(history_of=[MART]).node_history == {MART: [Moment(first, NOW)]}


def test_first_build_is_change(ledger: Ledger) -> None:
    tick = build(ledger, MART, unchanged=(MART,))
    assert ledger.snapshot().nodes[MART].changed_tick == tick


def test_sameness_may_be_found_after_node_was_recorded(ledger: Ledger) -> None:
    first = build(ledger, MART)
    second = build(ledger, MART)
    ledger.record_built(second, [MART], built_at=NOW, unchanged=[MART])
    assert ledger.snapshot().nodes[MART] == NodeFact(second, NOW, changed=first)


# -- taken back -------------------------------------------------------------------------------------------------


def test_taken_back_node_is_as_before_and_asked_for(ledger: Ledger) -> None:
    first = build(ledger, MART)
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_built(tick, [MART, STAGE], built_at=LATER, identities={MART: {"file": "new"}})
    ledger.take_back(tick, [MART, STAGE, "model.shop.other"])
    snapshot = ledger.snapshot()
    assert snapshot.nodes == {MART: NodeFact(first, NOW)}
    assert snapshot.node_history == {MART: [Moment(first, NOW)]}
    assert snapshot.debts == {MART: tick, STAGE: tick}
    ledger.take_back(tick, [MART])
    assert ledger.snapshot().nodes == {MART: NodeFact(first, NOW)}, "a second time changes nothing"
    again = build(ledger, MART)
    assert ledger.snapshot().debts == {STAGE: tick}
    assert ledger.snapshot().nodes[MART].tick == again


def test_times_that_wrong_clock_wrote_become_those_of_next_run(ledger: Ledger) -> None:
    ahead = NOW + timedelta(days=3 * 365)
    ledger.record_updates([SourceUpdate(ORDERS, "1", ahead)])
    tick, _ = ledger.begin_build(now=ahead)
    ledger.record_built(tick, [MART], built_at=ahead)
    ledger.record_failed(tick, {STAGE: "no"}, failed_at=ahead)
    ledger.record_updates([SourceUpdate(ORDERS, "2", ahead)])
    _, snapshot = ledger.begin_build(now=NOW)
    later = ledger.snapshot()
    for seen in (snapshot, later):
        assert seen.nodes[MART].built_at == seen.node_history[MART][-1].at == NOW
        assert (seen.failures[STAGE].since, seen.failures[STAGE].last_at) == (NOW, NOW)
        assert seen.loaded_at[ORDERS] == seen.source_history[ORDERS][-1].at == NOW
    assert ledger.begin_build(now=NOW + timedelta(hours=1))[1].nodes[MART].built_at == NOW, "and they stay so"


def test_earlier_build_is_kept_to_go_back_to(ledger: Ledger) -> None:
    old = NOW - timedelta(days=400)
    for _ in range(3):
        first, _ = ledger.begin_build(now=old)
        ledger.record_built(first, [MART], built_at=old)
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_built(tick, [MART], built_at=NOW)
    assert ledger.prune(now=NOW) == 0, "begin_build pruned"
    ledger.take_back(tick, [MART])
    assert ledger.snapshot().nodes[MART] == NodeFact(first, old)


def test_debt_made_after_run_began_stays(ledger: Ledger) -> None:
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_built(tick, [MART], built_at=NOW)
    asked = ledger.ask_for([MART], reason="by hand")
    ledger.take_back(tick, [MART])
    assert ledger.snapshot().debts == {MART: asked}


# -- failures ---------------------------------------------------------------------------------------------------


def test_failures_in_row_are_counted_until_good_build(ledger: Ledger) -> None:
    ticks = []
    for hour in range(3):
        tick, _ = ledger.begin_build(now=NOW)
        at = NOW + timedelta(hours=hour)
        ledger.record_failed(tick, {MART: f"no {hour}", STAGE: "x" * 9000}, failed_at=at, identities={MART: {"a": "1"}})
        ledger.record_failed(tick, {MART: f"no {hour}"}, failed_at=at, identities={MART: {"a": "1"}})
        ticks.append(tick)
    failures = ledger.snapshot().failures
    last = NOW + timedelta(hours=2)
    assert failures[MART] == Failure(3, NOW, last, ticks[-1], digest({"a": "1"}), "no 2")
    assert failures[STAGE].identity is None
    assert len(failures[STAGE].message) == 2000
    build(ledger, MART)
    assert set(ledger.snapshot().failures) == {STAGE}
    ledger.clear_failures([STAGE, MART])
    assert ledger.snapshot().failures == {}
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_failed(tick, {MART: "again"}, failed_at=NOW)
    assert ledger.snapshot().failures[MART].count == 1


def test_build_that_is_taken_back_ends_no_failures(ledger: Ledger) -> None:
    for count in (1, 2, 3):
        tick, _ = ledger.begin_build(now=NOW)
        ledger.record_built(tick, [MART], built_at=NOW)
        assert ledger.snapshot().failures == {}
        ledger.take_back(tick, [MART])
        assert [each.count for each in ledger.snapshot().failures.values()] == [count - 1][: count - 1]
        ledger.record_failed(tick, {MART: "its test failed at last"}, failed_at=NOW)
        assert ledger.snapshot().failures[MART].count == count


# -- asked for --------------------------------------------------------------------------------------------------


def test_debt_is_due_until_later_run_builds_it(ledger: Ledger) -> None:
    under_way, _ = ledger.begin_build(now=NOW)
    tick = ledger.ask_for([MART, STAGE], reason="its table was dropped")
    assert ledger.snapshot().debts == {MART: tick, STAGE: tick}
    ledger.record_built(under_way, [MART], built_at=NOW)
    assert ledger.snapshot().debts == {MART: tick, STAGE: tick}, "that run began before"
    build(ledger, MART)
    assert ledger.snapshot().debts == {STAGE: tick}
    assert ledger.ask_for([], reason="nothing") == ledger.snapshot().tick


def test_begun_nodes_are_due_until_built_well(ledger: Ledger) -> None:
    build(ledger, MART, STAGE)
    tick, _ = ledger.begin_build(now=NOW)
    ledger.begin_nodes(tick, [MART, STAGE])
    assert ledger.snapshot().debts == {MART: tick, STAGE: tick}
    ledger.record_built(tick, [MART], built_at=NOW)
    assert ledger.snapshot().debts == {STAGE: tick}
    with pytest.raises(LedgerError):
        ledger.begin_nodes(tick + 1, [MART])


# -- identities -------------------------------------------------------------------------------------------------


def test_parts_of_identity_are_kept_with_build(ledger: Ledger) -> None:
    parts = {"file": "abc", "macro macro.shop.cents": "1"}
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_built(tick, [MART, STAGE], built_at=NOW, identities={MART: parts})
    assert ledger.identity_parts(MART) == parts
    assert ledger.identity_parts(STAGE) is None
    assert ledger.identity_parts("model.shop.never") is None
    assert ledger.snapshot().nodes[MART].identity == digest(dict(reversed(parts.items())))
    later, _ = ledger.begin_build(now=NOW)
    ledger.record_built(later, [MART], built_at=NOW, identities={MART: parts | {"file": "def"}})
    assert ledger.identity_parts(MART) == parts | {"file": "def"}
    ledger.take_back(later, [MART])
    assert ledger.identity_parts(MART) == parts


def test_identity_is_given_only_to_build_that_has_none(ledger: Ledger) -> None:
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_built(tick, [MART], built_at=NOW, identities={MART: {"file": "abc"}})
    ledger.record_built(tick, [STAGE], built_at=NOW, checksums={STAGE: "1"})
    ledger.take_identities({MART: {"file": "x"}, STAGE: {"file": "s"}, "model.shop.never": {"file": "n"}})
    assert ledger.identity_parts(MART) == {"file": "abc"}
    assert ledger.snapshot().nodes[STAGE] == NodeFact(tick, NOW, "1", identity=digest({"file": "s"}))
    assert set(ledger.snapshot().nodes) == {MART, STAGE}


def test_parts_that_no_build_names_any_more_are_pruned(ledger: Ledger) -> None:
    old = NOW - timedelta(days=400)
    for file in "abc":
        tick, _ = ledger.begin_build(now=old)
        ledger.record_built(tick, [MART], built_at=old, identities={MART: {"file": file}})
    ledger.prune(now=NOW)
    with ledger._database.read() as connection:
        kept = connection.exec_driver_sql("SELECT parts FROM lineage_orch_identities").scalars().all()
    assert kept == ['{"file":"c"}']
    assert ledger.identity_parts(MART) == {"file": "c"}


# -- forgotten --------------------------------------------------------------------------------------------------


def test_forgotten_ids_are_as_if_never_known(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS), load("raw.gone"), load(ITEMS)])
    ledger.register_producers([ORDERS, "raw.gone", "crm.*"])
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_built(tick, [MART, STAGE], built_at=NOW)
    ledger.record_failed(tick, {"model.shop.bad": "no"}, failed_at=NOW)
    ledger.ask_for(["model.shop.bad"], reason="by hand")
    gone = [ORDERS, "raw.gone", "crm.*", MART, "model.shop.bad"]
    assert ledger.forget([*gone, "model.shop.never_seen"]) == set(gone)
    snapshot = ledger.snapshot()
    assert (snapshot.sources, snapshot.producers, snapshot.producer_patterns) == ({ITEMS: 3}, frozenset(), frozenset())
    assert (snapshot.unresolved, snapshot.debts, snapshot.failures) == ({}, {}, {})
    assert set(snapshot.nodes) == {STAGE} == set(snapshot.node_history)
    assert ledger.record_updates([load("raw.gone"), load(ORDERS)]) == 1, "a load that is reported again is not new"
    assert ledger.snapshot().sources == {ITEMS: 3}
    ledger.resolve_names({"raw.gone": [SHOPS]})
    assert ledger.snapshot().sources == {ITEMS: 3}


# -- places -----------------------------------------------------------------------------------------------------


def test_places_of_one_target_share_nothing(tmp_path: Path) -> None:
    anna, ben = (open_file(tmp_path / "ledger.db", place=f"db.{name}") for name in ("anna", "ben"))
    anna.record_updates([load(ORDERS)])
    build(anna, MART)
    assert ben.snapshot() == LedgerSnapshot()
    assert ben.record_updates([load(ORDERS)]) == 1
    with anna.build_lock("anna"), ben.build_lock("ben") as held:
        assert held
    assert "place='db.anna'" in repr(anna)


def test_first_place_takes_over_what_knew_no_place(tmp_path: Path) -> None:
    old = open_file(tmp_path / "ledger.db")
    old.record_updates([load(ORDERS)])
    open_file(tmp_path / "ledger.db", target="dev").record_updates([load(ITEMS)])
    gold, silver = (open_file(tmp_path / "ledger.db", place=place) for place in ("db.gold", "db.silver"))
    assert silver.snapshot().sources == gold.snapshot().sources == {ORDERS: 1}, "reading takes nothing over"
    assert gold.record_updates([load(ORDERS)]) == 1
    assert silver.snapshot() == LedgerSnapshot()
    assert silver.record_updates([load(ITEMS), load(SHOPS)]) == 2
    assert gold.snapshot().sources == {ORDERS: 1}
    assert open_file(tmp_path / "ledger.db", target="dev", place="db.gold").snapshot().sources == {ITEMS: 1}


def test_place_that_has_facts_of_its_own_takes_nothing_over(tmp_path: Path) -> None:
    gold = open_file(tmp_path / "ledger.db", place="db.gold")
    gold.record_updates([load(ORDERS)])
    open_file(tmp_path / "ledger.db").record_updates([load(ITEMS)])
    gold.record_updates([load(SHOPS)])
    assert set(gold.snapshot().sources) == {ORDERS, SHOPS}
    assert set(open_file(tmp_path / "ledger.db").snapshot().sources) == {ITEMS}


# -- what happened of late ----------------------------------------------------------------------------------------


def test_history_has_what_was_loaded_built_and_failed_since_a_time(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, "old", NOW - timedelta(days=9))], baseline=True)
    ledger.record_updates([load(ORDERS, "new"), load("raw.unknown", "given")])
    first, _ = ledger.begin_build(now=NOW)
    ledger.record_built(first, [STAGE], built_at=LATER, seconds={STAGE: 1.5})
    ledger.record_failed(first, {MART: "no column x"}, failed_at=LATER)
    second, _ = ledger.begin_build(now=LATER)
    ledger.record_built(second, [MART, STAGE], built_at=LATER, unchanged=[STAGE])
    found = ledger.history(NOW)
    assert [(each.tick, each.source, each.at, each.producer, each.baseline) for each in found.loads] == [
        (2, ORDERS, NOW, "export", False),
        (3, "raw.unknown", NOW, "export", False),
    ]
    assert [(each.tick, each.node, each.at, each.seconds, each.is_changed) for each in found.built] == [
        (first, STAGE, LATER, 1.5, True),
        (second, STAGE, LATER, None, False),
        (second, MART, LATER, None, True),
    ]
    assert found.begun == {first: NOW, second: LATER}
    assert [(each.node, each.times, each.message) for each in found.failed] == [(MART, 1, "no column x")]
    assert [each.unchanged for each in found.loads] == [False, False]
    assert [each.source for each in ledger.history(NOW - timedelta(days=30), limit=2).loads] == [ORDERS, "raw.unknown"]
    assert ledger.history(LATER + timedelta(hours=1)) == History(begun=found.begun, loads=[], built=[], failed=[])


# -- builds of which only the tests did not pass ----------------------------------------------------------------


def test_tested_node_is_recorded_at_run_that_built_it(ledger: Ledger) -> None:
    built, _ = ledger.begin_build(now=NOW)
    ledger.begin_nodes(built, [MART])
    ledger.record_untested(built, [MART], built_at=NOW, identities={MART: {"file": "1"}})
    ledger.record_failed(built, {MART: "unique: got 1 result"}, failed_at=NOW)
    assert ledger.snapshot().untested == {MART: Untested(built, NOW, digest({"file": "1"}))}
    ledger.record_updates([load(ORDERS)])
    tested, _ = ledger.begin_build(now=LATER)
    ledger.record_tested(tested, [MART, STAGE])
    snapshot = ledger.snapshot()
    assert snapshot.nodes == {MART: NodeFact(built, NOW, identity=digest({"file": "1"}))}
    assert snapshot.nodes[MART].tick < snapshot.sources[ORDERS]
    assert (snapshot.untested, snapshot.failures, snapshot.debts) == ({}, {}, {})


def test_tests_that_passed_can_be_taken_back(ledger: Ledger) -> None:
    first = build(ledger, MART)
    built, _ = ledger.begin_build(now=NOW)
    ledger.record_untested(built, [MART], built_at=NOW)
    ledger.record_failed(built, {MART: "no"}, failed_at=NOW)
    before = ledger.snapshot()
    tested, _ = ledger.begin_build(now=LATER)
    ledger.record_tested(tested, [MART])
    ledger.take_back(tested, [MART])
    after = ledger.snapshot()
    assert (after.nodes[MART].tick, after.untested, after.failures) == (first, before.untested, before.failures)
    assert after.debts == {MART: built}, "it is due, whatever becomes of its code"


def test_good_build_leaves_nothing_to_test(ledger: Ledger) -> None:
    built, _ = ledger.begin_build(now=NOW)
    ledger.record_untested(built, [MART], built_at=NOW)
    later = build(ledger, MART)
    ledger.record_tested(later, [MART])
    assert ledger.snapshot().nodes[MART].tick == later
    ledger.record_untested(built, [MART], built_at=NOW)  # by a run that is late
    ledger.record_tested(later, [MART])
    assert ledger.snapshot().nodes[MART].tick == later, "a node's tick never falls"


# -- what promises on freshness ask -----------------------------------------------------------------------------


def test_last_build_that_left_content_as_it_was_then(ledger: Ledger) -> None:
    ticks = [build(ledger, MART), build(ledger, MART, unchanged=(MART,)), build(ledger, MART), build(ledger, STAGE)]
    assert ticks == [1, 2, 3, 4]
    assert [ledger.last_as_at(MART, tick) for tick in range(6)] == [None, 2, 2, 3, 3, 3]


def test_oldest_load_above_a_tick_is_by_its_time(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, "1", LATER), load(ITEMS, "1"), load(ORDERS, "2", LATER)])
    # Reported late, and loaded before.
    ledger.record_updates([load(ORDERS, "3", NOW)], now=LATER)
    asked = [(ORDERS, 0), (ORDERS, 3), (ORDERS, 4), (ITEMS, 0), (SHOPS, 0)]
    assert ledger.oldest_loads(asked) == {(ORDERS, 0): NOW, (ORDERS, 3): NOW, (ITEMS, 0): NOW}


def test_load_that_brought_nothing_new_is_not_waited_for(ledger: Ledger) -> None:
    for update_id in ("1", "2"):
        ledger.record_updates([SourceUpdate(ORDERS, update_id, NOW, fingerprint="same")])
    assert ledger.oldest_loads([(ORDERS, 0), (ORDERS, 1)]) == {(ORDERS, 0): NOW}


def test_mark_is_changed_by_what_it_was(ledger: Ledger) -> None:
    seen: list[str | None] = []

    def longer(mark: str | None) -> str:
        seen.append(mark)
        return (mark or "") + "x"

    ledger.change_mark("told", longer)
    ledger.change_mark("told", longer)
    assert (seen, ledger.mark("told")) == ([None, "x"], "xx")
