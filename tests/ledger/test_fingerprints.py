"""A load with the fingerprint of the one before is known, and makes nothing stale."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage_orch.ledger import Ledger, Moment
from lineage_orch.updates import LastLoad, SourceUpdate

NOW = datetime(2026, 5, 17, 12, 30, tzinfo=UTC)
ORDERS, ITEMS = "source.shop.raw.orders", "source.shop.raw.items"


def load(source: str, update_id: str, fingerprint: str | None = None, minutes: int = 0) -> SourceUpdate:
    return SourceUpdate(source, update_id, NOW + timedelta(minutes=minutes), fingerprint=fingerprint)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger("sqlite://", project="shop", target="prod") as made:
        yield made


def counted(ledger: Ledger, *updates: SourceUpdate) -> list[str]:
    """Record loads one after the other; return the ids of those that moved their source."""

    def tick(source: str) -> int:
        snapshot = ledger.snapshot()
        return (snapshot.sources | snapshot.unresolved).get(source, 0)

    out = []
    for update in updates:
        before = tick(update.source)
        ledger.record_updates([update])
        if tick(update.source) > before:
            out.append(update.update_id)
    return out


def test_same_fingerprint_as_last_moves_nothing(ledger: Ledger) -> None:
    given = [load(ORDERS, "1", "a"), load(ORDERS, "2", "a"), load(ORDERS, "3", "b"), load(ORDERS, "4", "a")]
    assert counted(ledger, *given) == ["1", "3", "4"]
    assert ledger.unchanged_by("1234") == (ORDERS,)
    assert ledger.unchanged_by("134") == ()
    assert [moment.tick for moment in ledger.snapshot().source_history[ORDERS]] == [1, 3, 4]
    assert [update for _, update in ledger.recent_updates()] == given[::-1], "all of them are known"


def test_one_call_is_as_several(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, "1", "a"), load(ITEMS, "1", "a"), load(ORDERS, "2", "a"), load(ITEMS, "2")])
    assert ledger.snapshot().sources == {ORDERS: 1, ITEMS: 4}


def test_unchanged_load_reported_twice_is_one(ledger: Ledger) -> None:
    counted(ledger, load(ORDERS, "1", "a"), load(ORDERS, "2", "a"))
    assert ledger.known_updates(["2"]) == {"2"}
    assert counted(ledger, load(ORDERS, "3", "b"), load(ORDERS, "2", "a"), load(ORDERS, "2")) == ["3"]


@pytest.mark.parametrize("lost", [None, ""])
def test_load_without_fingerprint_counts_and_so_does_next(ledger: Ledger, lost: str | None) -> None:
    given = [load(ORDERS, "1", "a"), load(ORDERS, "2", lost), load(ORDERS, "3", "a"), load(ORDERS, "4", "a")]
    assert counted(ledger, *given) == ["1", "2", "3"]


def test_first_load_after_baseline_counts(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, "adopt")], baseline=True)
    assert counted(ledger, load(ORDERS, "1", "a"), load(ORDERS, "2", "a")) == ["1"]
    assert ledger.snapshot().baselines == frozenset()


def test_first_load_after_forget_counts(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, "1", "a")])
    ledger.forget([ORDERS])
    assert counted(ledger, load(ORDERS, "2", "a")) == ["2"]


def test_prune_leaves_last_fingerprint(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, "1", "a"), load(ORDERS, "2", "a")], now=NOW)
    ledger.prune(now=NOW + timedelta(days=1000))
    assert ledger.known_updates("12") == {"1"}
    assert counted(ledger, load(ORDERS, "3", "a")) == []


def test_loads_reported_out_of_order_count(ledger: Ledger) -> None:
    # What stands in the table is b, and then a; the last report is of b.
    assert counted(ledger, load(ORDERS, "1", "a", 0), load(ORDERS, "3", "a", 10), load(ORDERS, "2", "b", 5)) == [
        "1",
        "2",
    ]
    assert counted(ledger, load(ORDERS, "4", "b", 20)) == ["4"]
    assert counted(ledger, load(ORDERS, "0", "b", -5)) == ["0"]


def test_parts_under_two_names_have_no_fingerprint(ledger: Ledger) -> None:
    for number in range(3):
        # Both names mean it, as the orchestrator finds before it records.
        ledger.record_updates([load(ORDERS, str(number), "a"), load(ORDERS, str(number), f"b{number}")])
    assert len(ledger.snapshot().source_history[ORDERS]) == 3


def test_latest_load_is_told_also_where_nothing_was_new(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, "1", "a"), load(ORDERS, "2", "a", 7)])
    snapshot = ledger.snapshot()
    assert snapshot.loaded_at == {ORDERS: NOW + timedelta(minutes=7)}
    assert snapshot.source_history == {ORDERS: [Moment(1, NOW)]}


def test_unresolved_names_are_compared_and_again_once_resolved(ledger: Ledger) -> None:
    assert counted(ledger, load("raw.orders", "1", "a"), load("raw.orders", "2", "a")) == ["1"]
    assert ledger.unchanged_by("12") == ("raw.orders",)
    ledger.record_updates([load(ORDERS, "0", "a", -1)])
    ledger.resolve_names({"raw.orders": [ORDERS]})
    snapshot = ledger.snapshot()
    assert (snapshot.sources, snapshot.unresolved) == ({ORDERS: 3}, {})
    assert ledger.unchanged_by("12") == (ORDERS,)
    assert counted(ledger, load(ORDERS, "1", "a"), load(ORDERS, "2", "a"), load(ORDERS, "3", "b")) == ["3"]


loads = st.lists(
    st.tuples(st.sampled_from("ab"), st.booleans(), st.integers(0, 5), st.booleans()), min_size=1, max_size=12
)


@settings(max_examples=2000)
@given(loads)
def test_new_content_is_never_passed_over(made: list[tuple[str, bool, int, bool]]) -> None:
    """Each load writes a content. Its report may lack the fingerprint, and may come up to 5 loads late.

    A build that something else set off may read the table meanwhile; what a report makes stale is built at once.
    """
    last = LastLoad()
    table = built = ""
    for number in range(len(made) + 6):
        if number < len(made):
            table, _, _, read_by_another = made[number]
            built = table if read_by_another else built
        for load_number, (content, known, late, _) in enumerate(made):
            if load_number + late == number:
                at, fingerprint = NOW + timedelta(minutes=load_number), content if known else None
                if not last.is_repeated_by(at, fingerprint):
                    built = table
                last = last.then(at, fingerprint)
    assert built == table


def during(update_id: str, fingerprint: str, began: int, ended: int) -> SourceUpdate:
    at = NOW + timedelta(minutes=ended)
    return SourceUpdate(ORDERS, update_id, at, fingerprint=fingerprint, began_at=NOW + timedelta(minutes=began))


@pytest.mark.parametrize(
    ("begun", "done", "counts"),
    [(5, 9, False), (5, 11, True), (12, 13, True), (12, 25, True), (21, 22, False)],
    ids=["before it", "as it began", "within it", "as it ended", "after it"],
)
def test_load_counts_if_something_was_built_while_it_was_at_work(
    ledger: Ledger, begun: int, done: int, counts: bool
) -> None:
    # It empties the table and fills it again: a build meanwhile may have read the half of it.
    ledger.record_updates([during("1", "a", 0, 1)])
    tick, _ = ledger.begin_build(now=NOW + timedelta(minutes=begun))
    ledger.record_built(tick, ["model.shop.orders"], built_at=NOW + timedelta(minutes=done))
    assert counted(ledger, during("2", "a", 10, 20)) == (["2"] if counts else [])


def test_load_that_began_before_the_end_of_the_last_counts_and_so_does_next(ledger: Ledger) -> None:
    # Which of the two wrote last is not known: the table may hold a, and the last report be of b.
    given = [during("1", "a", 0, 1), during("2", "a", 5, 9), during("3", "b", 5, 10), during("4", "b", 20, 21)]
    assert counted(ledger, *given) == ["1", "3", "4"]
    given = [during("5", "b", 30, 40), during("6", "a", 31, 39), during("7", "a", 50, 51), during("8", "a", 60, 61)]
    assert counted(ledger, *given) == ["6", "7"]
    given = [during("9", "a", 70, 80), during("10", "c", 75, 85), during("11", "c", 90, 91)]
    assert counted(ledger, *given) == ["10", "11"]


def test_load_counts_while_a_build_is_at_work(ledger: Ledger) -> None:
    ledger.record_updates([load(ORDERS, "1", "a")])
    with ledger.build_lock("another"):
        later = datetime.now(UTC) + timedelta(minutes=1)
        ledger.record_updates([SourceUpdate(ORDERS, "2", later, fingerprint="a")])
    assert ledger.unchanged_by("2") == ()


def test_begin_of_load_travels_and_is_kept(ledger: Ledger) -> None:
    update = during("1", "a", 0, 1)
    assert SourceUpdate.from_dict(update.to_dict()) == update
    ledger.record_updates([update])
    assert ledger.recent_updates() == [(1, update)]
    with pytest.raises(ValueError, match=r"began_at of the update of .* has no time zone"):
        SourceUpdate(ORDERS, "2", NOW, began_at=NOW.replace(tzinfo=None))


def test_load_counts_if_what_was_built_meanwhile_is_yet_to_be_tested(ledger: Ledger) -> None:
    ledger.record_updates([during("1", "a", 0, 1)])
    tick, _ = ledger.begin_build(now=NOW + timedelta(minutes=12))
    ledger.record_untested(tick, ["model.shop.orders"], built_at=NOW + timedelta(minutes=13))
    assert counted(ledger, during("2", "a", 10, 20)) == ["2"]
