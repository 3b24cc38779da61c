"""From when on microbatch models are built: dbt's own span of time, unless a batch would be left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lineage_orch.dbt.microbatch import built_in_part, event_times
from lineage_orch.ledger.snapshot import OPEN, Extent, NodeFact
from lineage_orch.lineage import Lineage
from lineage_orch.updates import Window

NOW = datetime(2026, 3, 10, 12, 30, 15, tzinfo=UTC)
DAILY, HOURLY = "model.shop.daily", "model.shop.hourly"
END = ("--event-time-end", "2026-03-10T12:30:16")


def model(name: str, **config: Any) -> dict[str, Any]:
    strategy = {"materialized": "incremental", "incremental_strategy": "microbatch", "begin": "2026-01-01T00:00:00"}
    return {"resource_type": "model", "name": name, "package_name": "shop", "config": {**strategy, **config}}


def lineage(dbt: str = "1.11.2", **config: Any) -> Lineage:
    nodes = {
        DAILY: model("daily", **{"batch_size": "day", **config}),
        HOURLY: model("hourly", batch_size="hour", lookback=3),
        "model.shop.plain": {"name": "plain", "config": {"materialized": "table"}},
    }
    metadata = {"dbt_version": dbt}
    return Lineage.from_manifest(
        {"metadata": metadata, "nodes": nodes, "sources": {}, "child_map": {}, "parent_map": {}}
    )


def times(*nodes: str, built: dict[str, str], missing: tuple[str, ...] = (), flags: Any = (), **more: Any) -> Any:
    facts = {node: NodeFact(1, datetime.fromisoformat(f"{at}+00:00")) for node, at in built.items()}
    config, environ = more.pop("config", {}), more.pop("environ", {})
    return event_times(lineage(**config), nodes, facts, missing, NOW, flags, environ=environ, **more)


def test_dbt_gets_no_event_times_without_need() -> None:
    assert times("model.shop.plain", built={}) == ()
    assert times(DAILY, built={DAILY: "2026-03-09T00:10"}) == ()
    assert times(HOURLY, built={HOURLY: "2026-03-10T11:59"}) == ()
    assert times(DAILY, built={}, missing=(DAILY,)) == ()  # from `begin` on
    assert times(DAILY, built={DAILY: "2026-03-01T00:00"}, config={"full_refresh": True}) == ()


@pytest.mark.parametrize(
    ("built", "config", "start"),
    [
        ("2026-03-08T23:00", {}, "2026-03-08"),
        ("2026-03-06T01:00", {"lookback": 3}, "2026-03-04"),
        ("2026-03-09T09:00", {"lookback": 0}, "2026-03-09"),
        ("2026-01-31T09:00", {"batch_size": "month"}, "2026-01-01"),
        ("2026-01-03T09:00", {"batch_size": "month", "lookback": 4}, "2025-10-01"),
        ("2024-02-29T09:00", {"batch_size": "year"}, "2024-01-01"),
        (None, {}, "2026-01-01"),  # it is there, and no build of it was good
    ],
)
def test_batches_since_last_good_build_are_built(built: str | None, config: dict[str, Any], start: str) -> None:
    found = times(DAILY, built={DAILY: built} if built else {}, config=config)
    assert found == ("--event-time-start", f"{start}T00:00:00", *END)


@pytest.mark.parametrize(("lookback", "start"), [(0, "2026-03-10"), (1, "2026-03-09"), (2, "2026-03-08")])
def test_dbt_2_is_told_of_batch_that_it_looks_back_too_little_for(lookback: int, start: str) -> None:
    found = times(DAILY, built={DAILY: "2026-03-10T00:10"}, config={"lookback": lookback, "dbt": "2.0.0-preview.196"})
    assert found == ("--event-time-start", f"{start}T00:00:00", *END)


def test_model_that_needs_most_decides_for_run() -> None:
    late = {DAILY: "2026-03-09T00:00", HOURLY: "2026-03-10T02:00"}
    assert times(HOURLY, built=late) == ("--event-time-start", "2026-03-10T00:00:00", *END)
    assert times(DAILY, HOURLY, built=late) == ("--event-time-start", "2026-03-09T00:00:00", *END)
    assert times(DAILY, HOURLY, built=late, missing=(DAILY,)) == ("--event-time-start", "2026-01-01T00:00:00", *END)


@pytest.mark.parametrize("flags", [("--event-time-start=2026-03-01", "--event-time-end=2026-03-02"), ("-f",)])
def test_users_own_span_of_time_stands(flags: tuple[str, ...]) -> None:
    assert times(DAILY, built={DAILY: "2026-03-01T00:00"}, flags=flags) == ()
    assert times(DAILY, built={DAILY: "2026-03-01T00:00"}, environ={"DBT_FULL_REFRESH": "1"}) == ()


# With windows of loads ------------------------------------------------------------------------------------------

OLD = Window(datetime(2026, 2, 3, 5, tzinfo=UTC), datetime(2026, 2, 4, tzinfo=UTC))


def test_window_beside_what_came_without_one_is_built_too() -> None:
    fresh = {DAILY: "2026-03-10T00:10"}
    assert times(DAILY, built=fresh, extents={DAILY: Extent(OLD, is_open=True)}) == (
        "--event-time-start",
        "2026-02-03T00:00:00",
        *END,
    )
    tomorrow = Window(NOW, datetime(2026, 3, 12, tzinfo=UTC))
    assert times(DAILY, built=fresh, extents={DAILY: Extent(tomorrow, is_open=True)})[3] == "2026-03-12T00:00:00"


def test_model_all_of_whose_news_lies_in_windows_needs_no_batches_since_its_last_build() -> None:
    # Its windows are those that dbt builds by itself: for others the plan makes a call of their own.
    built = {DAILY: "2026-03-01T00:00"}
    assert times(DAILY, built=built, extents={DAILY: Extent(Window(NOW, NOW + timedelta(hours=1)))}) == ()
    assert times(DAILY, built=built)


@pytest.mark.parametrize(
    ("extent", "start", "end", "in_part"),
    [
        (OPEN, None, None, False),
        (Extent(OLD), None, None, True),
        (Extent(OLD), "2026-02-03", None, False),
        (Extent(OLD), "2026-02-04", None, True),
        (Extent(OLD), "2026-02-01", "2026-03-11", False),
        (Extent(Window(OLD.start, NOW + timedelta(days=4))), "2026-02-01", "2026-03-11", True),
    ],
)
def test_build_by_hand_that_leaves_out_window_is_one_in_part(
    extent: Extent, start: str | None, end: str | None, in_part: bool
) -> None:
    facts = {DAILY: NodeFact(1, NOW - timedelta(hours=1))}
    span = [None if each is None else datetime.fromisoformat(f"{each}T00:00+00:00") for each in (start, end)]
    found = built_in_part(lineage(), [DAILY], facts, (), NOW, *span, extents={DAILY: extent})
    assert found == ({DAILY} if in_part else set())
