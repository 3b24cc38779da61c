"""In which event times sources and nodes changed: what loads and builds say of it, and what is read back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lineage_orch.ledger import Ledger, LedgerSnapshot
from lineage_orch.ledger.snapshot import OPEN, UNCHANGED, Extent
from lineage_orch.updates import SourceUpdate, Window

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
ORDERS, DAILY, BELOW = "source.shop.raw.orders", "model.shop.daily", "model.shop.below"


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger("sqlite://", project="shop", target="prod") as ledger:
        yield ledger


def days(first: int, last: int | None = None) -> Window:
    return Window(datetime(2026, 3, first, tzinfo=UTC), datetime(2026, 3, (last or first) + 1, tzinfo=UTC))


def load(ledger: Ledger, window: Window | None, *, update_id: str | None = None, **more: Any) -> int:
    start, end = window or (None, None)
    update_id = update_id or str(ledger.snapshot().tick)
    source = more.pop("source", ORDERS)
    return ledger.record_updates(
        [SourceUpdate(source, update_id, NOW, window_start=start, window_end=end, **more)], now=NOW
    )


def build(ledger: Ledger, *nodes: str, **more: Any) -> LedgerSnapshot:
    tick, snapshot = ledger.begin_build(now=NOW, extents_of={ORDERS: [DAILY], DAILY: [BELOW]})
    ledger.record_built(tick, nodes, built_at=NOW, **more)
    return snapshot


def extent(ledger: Ledger, name: str, reader: str) -> Extent:
    """Where a source or node changed since a node that reads it was built."""
    snapshot = ledger.snapshot(history_of=(), extents_of={name: [reader]})
    return snapshot.extents.get(name, {}).get(snapshot.nodes[reader].tick, UNCHANGED)


def test_extent_is_hull_of_loads_since_last_good_build(ledger: Ledger) -> None:
    load(ledger, days(1))
    build(ledger, DAILY)
    assert extent(ledger, ORDERS, DAILY) == UNCHANGED
    load(ledger, days(9))
    assert extent(ledger, ORDERS, DAILY) == Extent(days(9))
    load(ledger, days(5))
    assert extent(ledger, ORDERS, DAILY) == Extent(days(5, 9))
    load(ledger, None)
    assert extent(ledger, ORDERS, DAILY) == Extent(days(5, 9), is_open=True)
    assert build(ledger, DAILY).extents[ORDERS] == {2: Extent(days(5, 9), is_open=True)}
    assert extent(ledger, ORDERS, DAILY) == UNCHANGED


def test_load_that_brought_nothing_new_is_in_no_extent(ledger: Ledger) -> None:
    build(ledger, DAILY)
    load(ledger, days(2), fingerprint="a")
    load(ledger, days(7), fingerprint="a")
    assert extent(ledger, ORDERS, DAILY) == Extent(days(2))


def test_update_under_two_names_is_one_of_both_windows(ledger: Ledger) -> None:
    build(ledger, DAILY)
    parts = [
        SourceUpdate(ORDERS, "1", NOW, window_start=each.start, window_end=each.end) for each in (days(2), days(4))
    ]
    ledger.record_updates(parts, now=NOW)
    assert extent(ledger, ORDERS, DAILY) == Extent(days(2, 4))
    for name, window in (("raw.orders", days(6)), ("shop.raw.orders", None)):
        load(ledger, window, update_id="2", source=name)
    assert extent(ledger, ORDERS, DAILY) == Extent(days(2, 4))
    ledger.resolve_names({"raw.orders": [ORDERS], "shop.raw.orders": [ORDERS]})
    assert extent(ledger, ORDERS, DAILY) == Extent(days(2, 4), is_open=True)


def test_node_changed_where_its_builds_say(ledger: Ledger) -> None:
    build(ledger, DAILY, BELOW)
    for window in (days(3), days(6)):
        build(ledger, DAILY, extents={DAILY: Extent(window)})
    assert extent(ledger, DAILY, BELOW) == Extent(days(3, 6))
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_built(tick, [DAILY], built_at=NOW, extents={DAILY: Extent(days(9))}, unchanged=[DAILY])
    assert extent(ledger, DAILY, BELOW) == Extent(days(3, 6))
    build(ledger, DAILY)
    assert extent(ledger, DAILY, BELOW) == Extent(days(3, 6), is_open=True)
    ledger.take_back(build(ledger, DAILY, extents={DAILY: Extent(days(20))}).tick, [DAILY])
    assert extent(ledger, DAILY, BELOW) == Extent(days(3, 6), is_open=True)


def test_node_whose_tests_pass_later_changed_where_it_was_built(ledger: Ledger) -> None:
    build(ledger, DAILY, BELOW)
    tick, _ = ledger.begin_build(now=NOW)
    ledger.record_untested(tick, [DAILY], built_at=NOW, extents={DAILY: Extent(days(3))})
    later, _ = ledger.begin_build(now=NOW)
    ledger.record_tested(later, [DAILY])
    assert extent(ledger, DAILY, BELOW) == Extent(days(3))


def test_node_is_asked_for_in_hull_of_what_was_asked(ledger: Ledger) -> None:
    ledger.ask_for([DAILY], reason="backfill", window=days(3))
    assert ledger.snapshot().debt_extents == {DAILY: Extent(days(3))}
    asked = ledger.ask_for([DAILY], reason="backfill", window=days(1))
    assert ledger.snapshot().debt_extents == {DAILY: Extent(days(1, 3))}
    ledger.ask_for([DAILY, BELOW], reason="by hand")
    snapshot = ledger.snapshot()
    assert snapshot.debt_extents == {DAILY: Extent(days(1, 3), is_open=True)}
    assert snapshot.debts[DAILY] == snapshot.debts[BELOW] > asked
    build(ledger, DAILY, BELOW)
    assert not ledger.snapshot().debts
    assert not ledger.snapshot().debt_extents


def test_what_was_pruned_may_lie_anywhere(ledger: Ledger) -> None:
    build(ledger, DAILY)
    load(ledger, days(1))
    load(ledger, days(9))
    ledger.prune(now=NOW + timedelta(days=91))
    assert extent(ledger, ORDERS, DAILY) == Extent(days(9), is_open=True)
    build(ledger, DAILY)
    load(ledger, days(20))
    assert extent(ledger, ORDERS, DAILY) == Extent(days(20))


def test_history_says_windows(ledger: Ledger) -> None:
    load(ledger, days(3))
    load(ledger, None)
    build(ledger, DAILY, extents={DAILY: Extent(days(3))})
    history = ledger.history(NOW - timedelta(days=1))
    assert [each.window for each in history.loads] == [days(3), None]
    assert [each.extent for each in history.built] == [Extent(days(3))]
    assert [each.window for _, each in ledger.recent_updates()] == [None, days(3)]


@pytest.mark.parametrize(
    ("start", "end", "why"),
    [
        (NOW, None, "has one end"),
        (None, NOW, "has one end"),
        (NOW, NOW, "begins before it ends"),
        (NOW, NOW.replace(tzinfo=None, hour=13), "no time zone"),
    ],
)
def test_window_that_is_none_is_refused(start: datetime | None, end: datetime | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SourceUpdate(ORDERS, "1", NOW, window_start=start, window_end=end)


def test_window_travels_as_parameter_of_flow_run() -> None:
    update = SourceUpdate(ORDERS, "1", NOW, window_start=days(3).start, window_end=days(3).end)
    assert SourceUpdate.from_dict(update.to_dict()) == update
    assert update.to_dict()["window_start"] == "2026-03-03T00:00:00+00:00"
    assert SourceUpdate(ORDERS, "1", NOW).window is None


def test_extents_are_joined_as_sets_of_times() -> None:
    extents = [UNCHANGED, OPEN, Extent(days(1)), Extent(days(5, 6)), Extent(days(3), is_open=True)]
    for one in extents:
        assert one | UNCHANGED == UNCHANGED | one == one | one == one
        for other in extents:
            both = one | other
            assert both == other | one
            assert both.is_open == (one.is_open or other.is_open)
            for part in (one, other):
                assert part.window is None or (both.window and part.window | both.window == both.window)
