"""Which batches are due where loads give windows, and which models share a call of dbt."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage_orch.ledger.snapshot import OPEN, Extent
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.followers import Follower
from lineage_orch.plan import BuildPlan, plan_builds
from lineage_orch.plan.windows import all_extents, batch_begin, batches_in, extents_asked
from lineage_orch.updates import Window
from tests.manifests import manifest, node, source
from tests.plan.test_plan import NOON, ledger

TODAY = NOON.replace(hour=0)
LATE = Window(TODAY - timedelta(days=20), TODAY - timedelta(days=19))


def batches(
    name: str, *parents: str, size: str = "day", lookback: int = 1, begin: str = "2020-01-01"
) -> dict[str, Any]:
    config = {"incremental_strategy": "microbatch", "batch_size": size, "lookback": lookback, "begin": begin}
    return node(name, *parents, materialized="incremental", config=config)


def day(ago: int, *, of: int = 1) -> Window:
    return Window(TODAY - timedelta(days=ago), TODAY - timedelta(days=ago - of))


# raw.a -> stg_a -> daily -> report -> weekly      raw.b -> hourly
SHOP = (
    source("raw.a"),
    source("raw.b"),
    node("stg_a", "raw.a"),
    batches("daily", "stg_a"),
    node("report", "daily"),
    batches("below", "report", size="month"),
    batches("hourly", "raw.b", size="hour", lookback=2),
)
NODES = ("stg_a", "daily", "report", "below", "hourly")


def planned(
    a: Extent | None = None, b: Extent | None = None, *resources: dict[str, Any], facts: Any = None, **more: Any
) -> BuildPlan:
    """The plan where all was built at tick 5, and raw.a and raw.b were loaded since, in these event times."""
    lineage = Lineage.from_manifest(manifest(*(resources or SHOP)))
    ticks = {"raw.a": 9 if a else 1, "raw.b": 9 if b else 1}
    snapshot = ledger(ticks, dict.fromkeys(NODES, 5))
    extents = {f"source.shop.raw.{name}": {5: extent} for name, extent in (("a", a), ("b", b)) if extent}
    return plan_builds(lineage, replace(snapshot, extents=extents, **(facts or {})), now=NOON, **more)


def short(ids: Any) -> list[str]:
    return [each.rpartition(".")[2] for each in ids]


def test_window_of_load_reaches_all_models_below() -> None:
    plan = planned(Extent(LATE))
    assert short(plan.build) == ["stg_a", "daily", "report", "below"], "a day is in one month: they share a call"
    assert (plan.window, plan.later) == (LATE, frozenset())
    assert {short([each])[0]: extent for each, extent in plan.batches.items()} == dict.fromkeys(
        ("daily", "below"), Extent(LATE)
    )
    assert set(plan.extents.values()) == {Extent(LATE)}


def test_load_without_window_leaves_it_to_dbt() -> None:
    plan = planned(OPEN)
    assert short(plan.build) == ["stg_a", "daily", "report", "below"]
    assert (plan.window, plan.batches, plan.later) == (None, {}, frozenset())
    plan = planned(Extent(LATE, is_open=True))
    assert (plan.window, plan.later) == (None, frozenset())
    assert set(plan.batches.values()) == {Extent(LATE, is_open=True)}, "which is not forgotten for that"


def test_what_dbt_builds_by_itself_needs_no_window() -> None:
    for window in (day(0), day(1), day(1, of=2)):
        plan = planned(Extent(window))
        assert (plan.window, plan.later, set(plan.batches.values())) == (None, frozenset(), {Extent(window)})
    assert planned(Extent(day(2))).window == day(2)
    assert planned(Extent(day(2, of=3))).window == day(2, of=3), "and as lookback is built anyway"
    assert planned(Extent(day(-1))).window == day(-1), "also of tomorrow"


def test_models_with_other_batches_wait_for_call_of_their_own() -> None:
    plan = planned(Extent(LATE), Extent(day(10)))
    assert (short(plan.build), plan.window) == (["stg_a", "hourly"], day(10))
    assert short(plan.perhaps) == ["daily", "report", "below"]
    assert plan.later == frozenset(plan.perhaps)
    assert {short([each])[0]: extent.window for each, extent in plan.batches.items()} == {
        "hourly": day(10),
        "daily": LATE,
        "below": LATE,
    }
    plan = planned(Extent(LATE), OPEN)
    assert (short(plan.build), plan.window) == (["stg_a", "hourly"], None)
    plan = planned(OPEN, Extent(day(10)))
    assert (short(plan.build), plan.window) == (["stg_a", "hourly"], day(10))
    assert planned(Extent(LATE), Extent(LATE)).later == frozenset()
    hour = Window(NOON - timedelta(hours=1), NOON)
    assert planned(Extent(day(0)), Extent(hour)).later == frozenset(), "dbt builds both by itself"


def test_what_reads_waiting_model_waits_with_it() -> None:
    shop = (
        source("raw.a"),
        source("raw.b"),
        batches("daily", "raw.a"),
        batches("hourly", "raw.b", size="hour"),
        node("both", "daily", "hourly"),
        node("top", "both"),
        node("report", "daily"),
        node("fits", "daily", "hourly", kind="test"),
    )
    facts = {"nodes": ledger({}, dict.fromkeys(("daily", "hourly", "both", "top", "report"), 5)).nodes}
    plan = planned(Extent(LATE), Extent(day(10)), *shop, facts=facts)
    assert (short(plan.build), short(plan.perhaps)) == (["daily", "report"], ["hourly", "both", "top"])
    assert short(plan.left_out_tests) == ["fits"]


def test_model_before_its_begin_has_nothing_due() -> None:
    shop = (source("raw.a"), source("raw.b"), batches("daily", "raw.a", begin=f"{LATE.start - timedelta(days=1):%F}"))
    early = Window(LATE.start - timedelta(days=9), LATE.end)
    plan = planned(Extent(early), None, *shop)
    assert plan.window == Window(LATE.start - timedelta(days=1), LATE.end)
    plan = planned(Extent(Window(early.start, early.start + timedelta(days=1))), None, *shop)
    assert (short(plan.build), plan.window, plan.batches) == (["daily"], None, {})


@pytest.mark.parametrize(
    "more",
    [
        {"missing_relations": ["model.shop.daily"]},
        {"forced": ["model.shop.daily"]},
        {"facts": {"debts": {"model.shop.daily": 9}}},
        {"facts": {"nodes": ledger({}, {"stg_a": 5, "report": 5, "below": 5}).nodes}},
    ],
    ids=["gone", "forced", "asked", "never built"],
)
def test_model_that_is_due_for_more_is_left_to_dbt(more: dict[str, Any]) -> None:
    plan = planned(Extent(LATE), **more)
    assert (plan.window, plan.extents["model.shop.daily"].is_open) == (None, True)


def test_change_of_which_no_extent_is_known_may_lie_anywhere() -> None:
    lineage = Lineage.from_manifest(manifest(*SHOP))
    snapshot = ledger({"raw.a": 9, "raw.b": 9}, dict.fromkeys(NODES, 5))
    known = {"source.shop.raw.b": {5: Extent(LATE)}, "source.shop.raw.a": {4: Extent(LATE)}}
    found = plan_builds(lineage, replace(snapshot, extents=known), now=NOON).extents
    assert {short([node])[0]: extent for node, extent in found.items() if extent.is_open} == dict.fromkeys(
        ("stg_a", "daily", "report", "below"), OPEN
    )


def test_node_is_asked_for_in_window() -> None:
    asked = {"debts": {"model.shop.daily": 9}, "debt_extents": {"model.shop.daily": Extent(LATE)}}
    plan = planned(facts=asked)
    assert (short(plan.build), plan.window) == (["daily", "report", "below"], LATE)
    plan = planned(Extent(day(5)), facts=asked)
    assert plan.window == day(5) | LATE


def test_snapshot_of_dbt_changes_now_whatever_it_reads() -> None:
    shop = (
        source("raw.a"),
        source("raw.b"),
        node("snap", "raw.a", kind="snapshot"),
        batches("daily", "snapshot.shop.snap"),
    )
    nodes = {
        f"{kind}.shop.{name}": ledger({}, {"stg_a": 5}).nodes["model.shop.stg_a"]
        for kind, name in (("snapshot", "snap"), ("model", "daily"))
    }
    plan = planned(Extent(LATE), None, *shop, facts={"nodes": nodes})
    assert plan.extents == {each: Extent(LATE, is_open=True) for each in nodes}


def test_batches_that_are_given_otherwise_part_no_calls() -> None:
    plan = planned(Extent(LATE), Extent(day(10)), batches_given=True)
    assert (plan.window, plan.later) == (None, frozenset())
    assert plan.extents["model.shop.hourly"] == Extent(day(10), is_open=True)


def test_ledger_is_asked_only_of_what_microbatch_models_read() -> None:
    lineage = Lineage.from_manifest(manifest(*SHOP, source("raw.c"), node("other", "raw.c")))
    asked = {short([each])[0]: short(readers) for each, readers in extents_asked(lineage).items()}
    assert asked == {
        "a": ["stg_a"],
        "b": ["hourly"],
        "stg_a": ["daily"],
        "daily": ["report"],
        "report": ["below"],
    }
    assert extents_asked(Lineage.from_manifest(manifest(source("raw.c"), node("other", "raw.c")))) == {}


def test_extents_of_all_nodes_hold_those_of_any_plan() -> None:
    lineage = Lineage.from_manifest(manifest(*SHOP))
    snapshot = replace(ledger({"raw.a": 9}, dict.fromkeys(NODES, 5)), extents={"source.shop.raw.a": {5: Extent(LATE)}})
    found = {short([node])[0]: extent for node, extent in all_extents(lineage, snapshot).items() if extent.window}
    assert found == dict.fromkeys(("stg_a", "daily", "report", "below"), Extent(LATE))


# Followers --------------------------------------------------------------------------------------------------------

PLAIN = (
    source("raw.a"),
    source("raw.b"),
    node("stg_a", "raw.a"),
    node("report", "stg_a", "raw.b"),
    node("below", "raw.b"),
)


def followed(*extents: Extent | None, ran_at: int = 5, takes_window: bool = True, **more: Any) -> BuildPlan:
    """The plan as of ``planned``, with a follower of a model that is no microbatch model."""
    push = Follower("follower.push", "push", ("model.shop.report",), takes_window=takes_window)
    ran = {"nodes": {**ledger({}, dict.fromkeys(NODES, 5)).nodes, **ledger({}, {push.unique_id: ran_at}).nodes}}
    return planned(*extents, *([None] * (2 - len(extents))), *PLAIN, facts=ran, followers=(push,), **more)


def test_follower_is_told_hull_of_what_is_new_for_it() -> None:
    plan = followed(Extent(LATE))
    assert plan.follow == ("follower.push",)
    assert plan.window_of("follower.push") == LATE
    assert (plan.window, plan.batches, plan.later) == (None, {}, frozenset())
    assert short(plan.extents) == ["stg_a", "report", "push"], "which is kept of what is built above it, and of no more"
    assert followed(Extent(LATE), Extent(day(5))).window_of("follower.push") == LATE | day(5)


def test_follower_is_told_no_window_where_anything_may_be_new() -> None:
    for plan in (
        followed(Extent(LATE), OPEN),
        followed(Extent(LATE, is_open=True)),
        followed(Extent(LATE), ran_at=0),
        followed(Extent(LATE), missing_relations=["model.shop.stg_a"]),
        followed(Extent(LATE), batches_given=True),
        followed(Extent(LATE), takes_window=False),
    ):
        assert plan.follow == ("follower.push",)
        assert plan.window_of("follower.push") is None


def test_follower_waits_with_the_batches_that_it_follows() -> None:
    push = Follower("follower.push", "push", ("model.shop.report",), takes_window=True)
    plan = planned(Extent(LATE), Extent(day(10)), followers=(push,))
    assert (plan.follow, "follower.push" in plan.later) == ((), True)


def test_ledger_is_asked_of_what_followers_read_only_for_a_window() -> None:
    lineage = Lineage.from_manifest(manifest(*PLAIN))
    push = Follower("follower.push", "push", ("model.shop.report",), takes_window=True)
    asked = {short([each])[0]: short(readers) for each, readers in extents_asked(lineage, (push,)).items()}
    assert asked == {"a": ["stg_a"], "b": ["report"], "stg_a": ["report"], "report": ["push"]}
    assert extents_asked(lineage, (replace(push, takes_window=False),)) == {}


# Batches ----------------------------------------------------------------------------------------------------------

TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
SIZES = st.sampled_from(["hour", "day", "month", "year"])


@settings(deadline=None)
@given(st.tuples(TIMES, TIMES).filter(lambda pair: pair[0] != pair[1]), SIZES)
def test_batches_are_the_least_that_hold_window(pair: tuple[datetime, datetime], size: str) -> None:
    window = Window.of(*sorted(pair))
    found = batches_in(window, size)
    assert found | window == found
    assert batches_in(found, size) == found
    assert batch_begin(found.end, size, back=1) < window.end
    assert batch_begin(found.start, size, back=-1) > window.start


@pytest.mark.parametrize(
    ("size", "begin", "before", "after"),
    [
        ("hour", "2026-03-01T00:00", "2026-02-28T23:00", "2026-03-01T01:00"),
        ("day", "2026-03-01", "2026-02-28", "2026-03-02"),
        ("month", "2026-03-01", "2026-02-01", "2026-04-01"),
        ("year", "2026-01-01", "2025-01-01", "2027-01-01"),
    ],
)
def test_batches_are_those_of_dbt(size: str, begin: str, before: str, after: str) -> None:
    at = datetime(2026, 3, 1, 0, 59, 59, tzinfo=UTC)
    found = [batch_begin(at, size, back=back) for back in (0, 1, -1)]
    assert found == [datetime.fromisoformat(each).replace(tzinfo=UTC) for each in (begin, before, after)]
