"""The rule of the plan, by worked examples. Random ones are in ``test_plan_properties.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from lineage_orch.errors import PolicyError
from lineage_orch.ledger import LedgerSnapshot, Moment, NodeFact
from lineage_orch.lineage import Lineage
from lineage_orch.plan import BuildPlan, Held, plan_builds, plan_graph
from tests.manifests import leaf, manifest, node, source

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def lineage_of(*resources: dict[str, Any]) -> Lineage:
    return Lineage.from_manifest(manifest(*resources))


def ledger(
    loads: Mapping[str, int | list[tuple[int, datetime]]] | None = None,
    builds: Mapping[str, int | list[tuple[int, datetime]]] | None = None,
    producers: tuple[str, ...] = (),
    checksums: Mapping[str, str] | None = None,
) -> LedgerSnapshot:
    """A snapshot from short names: ``{"raw.a": 3}``, or with times ``{"raw.a": [(3, NOON)]}``."""

    def moments(each: int | list[tuple[int, datetime]]) -> list[Moment]:
        return [Moment(each, NOON)] if isinstance(each, int) else [Moment(*pair) for pair in each]

    source_history = {f"source.shop.{name}": moments(each) for name, each in (loads or {}).items()}
    node_history = {
        name if "." in name else f"model.shop.{name}": moments(each) for name, each in (builds or {}).items()
    }
    return LedgerSnapshot(
        tick=99,
        sources={name: history[-1].tick for name, history in source_history.items()},
        nodes={
            name: NodeFact(*history[-1], (checksums or {}).get(name.rpartition(".")[2]))
            for name, history in node_history.items()
        },
        producers=frozenset(f"source.shop.{name}" for name in producers),
        source_history=source_history,
        node_history=node_history,
    )


def plan(lineage: Lineage, snapshot: LedgerSnapshot, **options: Any) -> BuildPlan:
    options.setdefault("now", NOON)
    return plan_builds(lineage, snapshot, **options)


def short(ids: Any) -> list[str]:
    return [each.rpartition(".")[2] for each in ids]


def built(lineage: Lineage, snapshot: LedgerSnapshot, **options: Any) -> list[str]:
    return short(plan(lineage, snapshot, **options).build)


def held(lineage: Lineage, snapshot: LedgerSnapshot, **options: Any) -> dict[str, Held]:
    return {short([each])[0]: why for each, why in plan(lineage, snapshot, **options).held.items()}


def all_of(*keys: str, **state: Any) -> dict[str, Any]:
    return {"state": {"require_fresh_data_from": "all", **state}}


def lag(text: str) -> dict[str, Any]:
    return {"state": {"lag_tolerance": text}}


def build_after(count: int, period: str) -> dict[str, Any]:
    return {"freshness": {"build_after": {"count": count, "period": period}}}


@pytest.fixture
def shop() -> Lineage:
    """Two sources, a staging model each, a mart of both and one of the first, and a mart of a seed."""
    return lineage_of(
        node("of_seed", "seed.shop.colours"),
        node("mart", "stg_a", "glass"),
        node("mart_a", "stg_a"),
        node("glass", "stg_b", materialized="ephemeral"),
        node("stg_a", "raw.a"),
        node("stg_b", "raw.b"),
        node("colours", kind="seed"),
        source("raw.a"),
        source("raw.b"),
        leaf("exposure", "board", "mart"),
        node("on_mart", "mart", kind="test"),
    )


EVERYTHING = {"stg_a": 5, "stg_b": 5, "mart": 5, "mart_a": 5}


# Out of date ----------------------------------------------------------------------------------------------


def test_nothing_was_loaded_so_nothing_is_due(shop: Lineage) -> None:
    found = plan(shop, LedgerSnapshot())
    assert (found.build, dict(found.held), dict(found.because), found.next_due) == ((), {}, {}, None)
    assert found.is_empty
    assert found.select == ()


def test_a_load_builds_what_hangs_on_it_parents_first_and_nothing_else(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.b": 1}))
    assert found.build == ("model.shop.stg_b", "model.shop.mart")
    assert not found.is_empty
    assert built(shop, ledger({"raw.b": 6}, EVERYTHING)) == ["stg_b", "mart"]


def test_what_was_built_after_the_load_is_up_to_date(shop: Lineage) -> None:
    assert built(shop, ledger({"raw.a": 4, "raw.b": 3}, EVERYTHING)) == []


def test_a_load_that_landed_while_the_build_ran_stays_owed(shop: Lineage) -> None:
    """The run took tick 5, the load tick 6: the node built at 5 owes it."""
    assert set(built(shop, ledger({"raw.a": 6}, EVERYTHING))) == {"stg_a", "mart", "mart_a"}


def test_a_build_that_was_cut_off_owes_only_the_rest(shop: Lineage) -> None:
    assert built(shop, ledger({"raw.a": 4}, {"stg_a": 5, "mart_a": 5, "mart": 2})) == ["mart"]


def test_a_node_without_parents_is_never_out_of_date(shop: Lineage) -> None:
    assert "colours" not in built(shop, ledger({"raw.a": 1}))
    assert built(shop, ledger(builds={"seed.shop.colours": 3})) == ["of_seed"]


def test_what_is_not_in_the_manifest_is_no_concern(shop: Lineage) -> None:
    snapshot = ledger({"raw.gone": 50, "raw.b": 2}, {"gone": 3, "exposure.shop.board": 9}, ("raw.gone",))
    assert built(shop, snapshot, hold_until_first_load=True, failed=["model.shop.gone"]) == ["stg_b", "mart"]


def test_a_time_without_a_zone_is_refused(shop: Lineage) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        plan_builds(shop, LedgerSnapshot(), now=datetime(2026, 1, 1))


def test_a_policy_that_cannot_be_read_stops_the_plan() -> None:
    lineage = lineage_of(node("mart", config=lag("soon")))
    with pytest.raises(PolicyError, match="mart"):
        plan(lineage, LedgerSnapshot())


def test_clock_jumps_change_nothing_where_no_policy_looks_at_the_clock(shop: Lineage) -> None:
    early = ledger({"raw.a": [(6, NOON - hours(1))]}, {"stg_a": [(5, NOON + hours(1))], "mart_a": [(7, NOON)]})
    for now in (NOON - hours(9), NOON, NOON + hours(9)):
        assert set(built(shop, early, now=now)) == {"stg_a", "mart_a", "mart"}


# Because --------------------------------------------------------------------------------------------------


def test_because_names_the_sources_that_reach_each_node(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.a": 7, "raw.b": 8}, EVERYTHING))
    assert found.because == {
        "model.shop.stg_a": {"source.shop.raw.a"},
        "model.shop.mart_a": {"source.shop.raw.a"},
        "model.shop.stg_b": {"source.shop.raw.b"},
        "model.shop.mart": {"source.shop.raw.a", "source.shop.raw.b"},
    }
    assert found.sources == ("source.shop.raw.a", "source.shop.raw.b")


def test_because_goes_through_what_was_built_before_the_cut_off(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.a": 4, "raw.b": 1}, {"stg_a": 5, "mart_a": 5, "stg_b": 2, "mart": 2}))
    assert found.because == {"model.shop.mart": {"source.shop.raw.a"}}


def test_because_leaves_out_a_source_whose_update_the_node_already_has() -> None:
    lineage = lineage_of(source("raw.a"), source("raw.b"), node("both", "raw.a", "raw.b"), node("mart", "both"))
    found = plan(lineage, ledger({"raw.a": 1, "raw.b": 4}, {"both": 5, "mart": 3}))
    assert found.because == {"model.shop.mart": {"source.shop.raw.b"}}


def test_because_does_not_go_through_a_held_node() -> None:
    lineage = lineage_of(
        source("raw.a"),
        source("raw.b"),
        node("daily", "raw.a", config=build_after(1, "day")),
        node("mart", "daily", "raw.b"),
    )
    found = plan(lineage, ledger({"raw.a": 6, "raw.b": 7}, {"daily": 5, "mart": 5}))
    assert found.because == {"model.shop.mart": {"source.shop.raw.b"}}
    assert list(found.held) == ["model.shop.daily"]


def test_because_reads_as_a_mapping(shop: Lineage) -> None:
    because = plan(shop, ledger({"raw.b": 1})).because
    assert len(because) == 2
    assert "model.shop.mart_a" not in because
    assert "source.shop.raw.b" not in because
    assert because.get("model.shop.none") is None
    assert json.loads(json.dumps({node_id: sorted(each) for node_id, each in because.items()}))
    assert repr(because) == repr(dict(because))


# updates_on: all ------------------------------------------------------------------------------------------


@pytest.fixture
def joined() -> Lineage:
    return lineage_of(
        source("raw.a"),
        source("raw.b"),
        source("raw.static"),
        node("stg_b", "raw.b"),
        node("stg_static", "raw.static"),
        node("colours", kind="seed"),
        node("mart", "raw.a", "stg_b", "stg_static", "seed.shop.colours", config=all_of()),
    )


def test_all_waits_for_every_parent_that_moves(joined: Lineage) -> None:
    snapshot = ledger({"raw.a": 7, "raw.b": 3}, {"stg_b": 5, "mart": 5})
    assert held(joined, snapshot) == {"mart": Held("updates_on_all", ("model.shop.stg_b",))}
    assert plan(joined, snapshot).next_due is None


def test_all_builds_when_every_parent_that_moves_is_fresh(joined: Lineage) -> None:
    assert built(joined, ledger({"raw.a": 7, "raw.b": 8}, {"stg_b": 5, "mart": 5})) == ["stg_b", "mart"]
    # stg_b was built since: no need for it to be in this plan.
    assert built(joined, ledger({"raw.a": 7, "raw.b": 8}, {"stg_b": 9, "mart": 5})) == ["mart"]


def test_all_does_not_wait_for_what_never_moves(joined: Lineage) -> None:
    """A static table and a seed, which no producer loads, must not block for ever."""
    assert "mart" in built(joined, ledger({"raw.a": 1, "raw.b": 2}))


def test_all_waits_for_a_source_that_has_a_producer_though_it_never_loaded(joined: Lineage) -> None:
    snapshot = ledger({"raw.a": 1, "raw.b": 2}, producers=("raw.static",))
    assert held(joined, snapshot) == {"mart": Held("updates_on_all", ("model.shop.stg_static",))}
    once_loaded = ledger({"raw.a": 1, "raw.b": 2, "raw.static": 3}, {"stg_static": 4, "mart": 5})
    snapshot = ledger({"raw.a": 6, "raw.b": 7, "raw.static": 3}, {"stg_b": 5, "stg_static": 4, "mart": 5})
    assert "mart" in held(joined, snapshot)
    assert "stg_static" not in built(joined, once_loaded)


def test_all_is_not_satisfied_by_a_parent_that_is_held() -> None:
    lineage = lineage_of(
        source("raw.a"),
        source("raw.b"),
        node("daily", "raw.b", config=build_after(1, "day")),
        node("mart", "raw.a", "daily", config=all_of()),
    )
    found = plan(lineage, ledger({"raw.a": 6, "raw.b": 7}, {"daily": 5, "mart": 5}))
    assert found.build == ()
    assert found.held["model.shop.mart"] == Held("updates_on_all", ("model.shop.daily",))
    assert found.next_due == NOON + hours(24)


def test_what_hangs_on_a_held_node_still_builds_for_its_other_parents() -> None:
    lineage = lineage_of(
        source("raw.a"),
        source("raw.b"),
        node("both", "raw.a", "raw.b", config=all_of()),
        node("below", "both"),
        node("beside", "both", "raw.a"),
    )
    snapshot = ledger({"raw.a": 6, "raw.b": 1}, {"both": 5, "below": 5, "beside": 5})
    assert built(lineage, snapshot) == ["beside"]
    assert list(held(lineage, snapshot)) == ["both"]


# build_after and lag_tolerance ----------------------------------------------------------------------------


def test_build_after_counts_from_the_last_good_build() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=build_after(4, "hour")))
    snapshot = ledger({"raw.a": 6}, {"mart": [(2, NOON - hours(9)), (5, NOON - hours(3))]})
    assert held(lineage, snapshot) == {"mart": Held("build_after", until=NOON + hours(1))}
    assert plan(lineage, snapshot).next_due == NOON + hours(1)
    assert built(lineage, snapshot, now=NOON + hours(1)) == ["mart"]


def test_build_after_never_built_is_at_once() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=build_after(4, "hour")))
    assert built(lineage, ledger({"raw.a": 6})) == ["mart"]


def test_build_after_alone_makes_nothing_out_of_date() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=build_after(4, "hour")))
    found = plan(lineage, ledger({"raw.a": 4}, {"mart": 5}), now=NOON + hours(99))
    assert found.is_empty
    assert not found.held


def test_lag_tolerance_counts_from_the_first_load_it_does_not_have() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=lag("4h")))
    loads = [(4, NOON - hours(9)), (6, NOON - hours(3)), (7, NOON - hours(1))]
    snapshot = ledger({"raw.a": loads}, {"mart": 5})
    assert held(lineage, snapshot) == {"mart": Held("lag_tolerance", until=NOON + hours(1))}
    assert built(lineage, snapshot, now=NOON + hours(1)) == ["mart"]


def test_lag_tolerance_holds_a_node_that_was_never_built() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=lag("4h")))
    assert held(lineage, ledger({"raw.a": 6}))["mart"].until == NOON + hours(4)


def test_lag_tolerance_counts_from_the_first_build_of_a_parent_it_does_not_have() -> None:
    lineage = lineage_of(source("raw.a"), node("stage", "raw.a"), node("mart", "stage", config=lag("4h")))
    builds = [(4, NOON - hours(9)), (6, NOON - hours(2)), (8, NOON - hours(1))]
    snapshot = ledger({"raw.a": 7}, {"stage": builds, "mart": 5})
    assert held(lineage, snapshot)["mart"].until == NOON + hours(2)


def test_lag_tolerance_counts_from_the_load_that_a_parent_in_the_plan_waits_for() -> None:
    lineage = lineage_of(
        source("raw.a"),
        node("stage", "raw.a"),
        node("deeper", "stage"),
        node("mart", "deeper", config=lag("4h")),
    )
    snapshot = ledger({"raw.a": [(6, NOON - hours(3))]}, {"stage": 5, "deeper": 5, "mart": 5})
    found = plan(lineage, snapshot)
    assert short(found.build) == ["stage", "deeper"]
    assert found.held["model.shop.mart"].until == NOON + hours(1)
    # A parent in the plan has its builds since then as well: the earliest of all counts.
    builds = {"stage": 5, "deeper": [(6, NOON - hours(3.5))], "mart": 5}
    snapshot = ledger({"raw.a": [(7, NOON - hours(3))]}, builds)
    assert held(lineage, snapshot)["mart"].until == NOON + hours(0.5)


def test_of_both_limits_the_later_counts() -> None:
    config = {**build_after(4, "hour"), **lag("2h")}
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=config))
    later_build = ledger({"raw.a": [(6, NOON - hours(1))]}, {"mart": [(5, NOON - hours(1))]})
    assert held(lineage, later_build) == {"mart": Held("build_after", until=NOON + hours(3))}
    later_load = ledger({"raw.a": [(6, NOON - hours(1))]}, {"mart": [(5, NOON - hours(5))]})
    assert held(lineage, later_load) == {"mart": Held("lag_tolerance", until=NOON + hours(1))}


def test_next_due_is_the_earliest_of_all_that_are_held_until_a_time() -> None:
    lineage = lineage_of(
        source("raw.a"),
        node("daily", "raw.a", config=build_after(1, "day")),
        node("hourly", "raw.a", config=build_after(2, "hour")),
    )
    assert plan(lineage, ledger({"raw.a": 6}, {"daily": 5, "hourly": 5})).next_due == NOON + hours(2)


def test_times_are_told_in_utc_whatever_zone_now_has() -> None:
    lineage = lineage_of(
        source("raw.a"),
        node("often", "raw.a", config=build_after(4, "hour")),
        node("stage"),
        node("below", "stage", config=lag("4h")),
    )
    snapshot = ledger({"raw.a": 6}, {"often": 5, "stage": 5, "below": 5}, checksums={"stage": "old"})
    found = held(lineage, snapshot, now=NOON.astimezone(timezone(hours(9))))
    assert set(found) == {"often", "below"}
    for each in found.values():
        assert each.until == NOON + hours(4)
        assert each.until is not None
        assert each.until.tzinfo is UTC


def test_a_limit_past_the_end_of_time_is_no_crash() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=build_after(10**8, "day")))
    assert held(lineage, ledger({"raw.a": 6}, {"mart": 5}))["mart"].until is not None


# Changed code ---------------------------------------------------------------------------------------------


def changed(**checksums: str) -> LedgerSnapshot:
    return ledger({"raw.a": 4, "raw.b": 4}, EVERYTHING, checksums=checksums)


def test_changed_code_rebuilds_the_node_and_what_hangs_on_it(shop: Lineage) -> None:
    found = plan(shop, changed(stg_a="old", stg_b="code of stg_b"))
    assert short(found.build) == ["stg_a", "mart", "mart_a"] or short(found.build) == ["stg_a", "mart_a", "mart"]
    assert found.changed_code == {"model.shop.stg_a"}
    assert found.because == dict.fromkeys(found.build, frozenset())
    assert found.sources == ()
    assert "model.shop.stg_a" not in shop.downstream("raw.b")


def test_changed_code_can_be_left_alone(shop: Lineage) -> None:
    assert built(shop, changed(stg_a="old"), rebuild_changed_code=False) == []


def test_code_of_which_no_build_is_known_has_not_changed(shop: Lineage) -> None:
    assert built(shop, changed()) == []


def test_changed_code_does_not_wait_for_new_data() -> None:
    config = {**build_after(4, "hour"), **all_of(lag_tolerance="4h")}
    lineage = lineage_of(source("raw.a"), source("raw.b"), node("mart", "raw.a", "raw.b", config=config))
    snapshot = ledger({"raw.a": 6, "raw.b": 1}, {"mart": 5}, checksums={"mart": "old"})
    assert built(lineage, snapshot) == ["mart"]


@pytest.mark.parametrize(("loads", "since"), [({}, NOON), ({"raw.a": [(6, NOON - hours(3))]}, NOON - hours(3))])
def test_lag_below_changed_code_counts_from_its_data_if_there_is_any(loads: Any, since: datetime) -> None:
    lineage = lineage_of(source("raw.a"), node("stage", "raw.a"), node("mart", "stage", config=lag("4h")))
    snapshot = ledger(loads, {"stage": 5, "mart": 5}, checksums={"stage": "old"})
    found = plan(lineage, snapshot)
    assert short(found.build) == ["stage"]
    assert found.held["model.shop.mart"].until == since + hours(4)


# First loads, failures, views -----------------------------------------------------------------------------


def test_hold_until_first_load_waits_for_every_source_above_that_a_flow_loads(shop: Lineage) -> None:
    snapshot = ledger({"raw.a": 1}, producers=("raw.a", "raw.b"))
    found = plan(shop, snapshot, hold_until_first_load=True)
    assert set(found.build) == {"model.shop.stg_a", "model.shop.mart_a"}
    assert found.held == {"model.shop.mart": Held("first_load", ("source.shop.raw.b",))}
    assert "model.shop.mart" in plan(shop, snapshot).build
    loaded = ledger({"raw.a": 1, "raw.b": 3}, {"stg_a": 2, "mart_a": 2}, ("raw.a", "raw.b"))
    assert built(shop, loaded, hold_until_first_load=True) == ["stg_b", "mart"]


def test_hold_until_first_load_does_not_wait_for_what_no_flow_loads(shop: Lineage) -> None:
    snapshot = ledger({"raw.a": 1}, producers=("raw.a",))
    assert "mart" in built(shop, snapshot, hold_until_first_load=True)


def test_a_failed_node_and_what_hangs_on_it_wait(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.a": 6, "raw.b": 6}, EVERYTHING), failed=["model.shop.stg_b"])
    assert set(found.build) == {"model.shop.stg_a", "model.shop.mart_a"}
    assert found.held == {
        "model.shop.stg_b": Held("failed"),
        "model.shop.mart": Held("failed", ("model.shop.stg_b",)),
    }


def test_a_failure_is_passed_on_down_the_chain() -> None:
    chain = [node("n0", "raw.a"), *(node(f"n{each}", f"n{each - 1}") for each in range(1, 4))]
    lineage = lineage_of(source("raw.a"), *chain)
    found = plan(lineage, ledger({"raw.a": 1}), failed=["model.shop.n1"])
    assert short(found.build) == ["n0"]
    assert {short([each])[0]: short(why.waiting_for) for each, why in found.held.items()} == {
        "n1": [],
        "n2": ["n1"],
        "n3": ["n2"],
    }


@pytest.fixture
def viewed() -> Lineage:
    return lineage_of(
        source("raw.a"),
        node("view", "raw.a", materialized="view"),
        node("view2", "view", materialized="view"),
        node("mart", "view2"),
        node("on_view", "view", kind="test"),
    )


def test_views_are_built_like_all_else_by_default(viewed: Lineage) -> None:
    found = plan(viewed, ledger({"raw.a": 6}, {"view": 5, "view2": 5, "mart": 5}))
    assert short(found.build) == ["view", "view2", "mart"]
    assert found.passed == ()
    assert found.select == ("source:shop.raw.a+",)


def test_a_change_passes_through_views_that_exist(viewed: Lineage) -> None:
    snapshot = ledger({"raw.a": 6}, {"view": 5, "view2": 5, "mart": 5})
    found = plan(viewed, snapshot, views="pass_through")
    assert short(found.build) == ["mart"]
    assert short(found.passed) == ["view", "view2"]
    assert found.because["model.shop.mart"] == {"source.shop.raw.a"}
    assert found.select == ("fqn:shop.mart", "fqn:shop.view,resource_type:test")


def test_a_view_that_was_never_built_or_has_new_code_is_built(viewed: Lineage) -> None:
    snapshot = ledger({"raw.a": 6}, {"view2": 5, "mart": 5}, checksums={"view2": "old"})
    found = plan(viewed, snapshot, views="pass_through")
    assert short(found.build) == ["view", "view2", "mart"]
    assert found.passed == ()


def test_only_views_to_pass_through_is_still_something_to_do() -> None:
    lineage = lineage_of(
        source("raw.a"), node("view", "raw.a", materialized="view"), node("on_view", "view", kind="test")
    )
    found = plan(lineage, ledger({"raw.a": 6}, {"view": 5}), views="pass_through")
    assert found.build == ()
    assert short(found.passed) == ["view"]
    assert not found.is_empty
    assert found.select == ("fqn:shop.view,resource_type:test",)


# Select ---------------------------------------------------------------------------------------------------


def test_select_is_short_when_all_below_the_sources_is_built(shop: Lineage) -> None:
    assert plan(shop, ledger({"raw.b": 1})).select == ("source:shop.raw.b+",)
    both = plan(shop, ledger({"raw.a": 1, "raw.b": 2}))
    assert both.select == ("source:shop.raw.a+", "source:shop.raw.b+")


def test_select_is_exact_when_something_below_is_not_built(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.a": 4}, {"stg_a": 5, "mart_a": 5}))
    assert found.select == ("fqn:shop.mart",)
    failed = plan(shop, ledger({"raw.b": 4}), failed=["model.shop.mart"])
    assert failed.select == ("fqn:shop.stg_b",)


def test_select_is_exact_when_something_else_is_built_too(shop: Lineage) -> None:
    snapshot = ledger({"raw.b": 6}, EVERYTHING, checksums={"mart_a": "old"})
    found = plan(shop, snapshot)
    assert set(found.select) == {"fqn:shop.stg_b", "fqn:shop.mart", "fqn:shop.mart_a"}


def test_select_of_exact_nodes_brings_the_tests_of_their_sources() -> None:
    lineage = lineage_of(
        source("raw.a"), node("on_raw", "raw.a", kind="test"), node("stage", "raw.a"), node("mart", "stage")
    )
    found = plan(lineage, ledger({"raw.a": 6}, {"stage": 5, "mart": 5}), failed=["model.shop.mart"])
    assert found.select == ("source:shop.raw.a", "fqn:shop.stage")


# Size -----------------------------------------------------------------------------------------------------


def test_a_chain_of_5000_nodes_is_planned_without_recursion() -> None:
    chain = [node("n0", "raw.a", config=lag("1h"))]
    for number in range(1, 5000):
        chain.append(node(f"n{number}", f"n{number - 1}", config=lag("1h") if number % 7 == 0 else None))
    lineage = lineage_of(source("raw.a"), *chain)
    snapshot = ledger({"raw.a": [(6, NOON - hours(2))]}, producers=("raw.a",))
    found = plan(lineage, snapshot, hold_until_first_load=True)
    assert len(found.build) == 5000
    assert found.because["model.shop.n4999"] == {"source.shop.raw.a"}
    assert len(plan(lineage, snapshot, failed=["model.shop.n0"]).held) == 5000


def test_a_big_project_cut_off_half_way_is_planned_in_one_pass() -> None:
    """Each node below the cut asks for the sources above it: that must not be a walk of its own for each."""
    rows, columns = 100, 30
    nodes = [node(f"n0x{column}", f"raw.s{column}") for column in range(columns)]
    for row in range(1, rows):
        for column in range(columns):
            above = (f"n{row - 1}x{column}", f"n{row - 1}x{(column + 1) % columns}")
            nodes.append(node(f"n{row}x{column}", *above))
    lineage = lineage_of(*(source(f"raw.s{column}") for column in range(columns)), *nodes)
    # The newest build is at the top: every node is behind each of its parents.
    builds = {short([each["unique_id"]])[0]: 5000 - number for number, each in enumerate(nodes)}
    loads = {f"raw.s{column}": 6000 + column for column in range(columns)}
    snapshot = ledger(loads, builds)
    plan_graph(lineage)  # (made once per project)
    started = datetime.now(UTC)
    found = plan(lineage, snapshot)
    assert datetime.now(UTC) - started < timedelta(seconds=2)
    assert len(found.build) == rows * columns
    assert len(found.because[f"model.shop.n{rows - 1}x0"]) == columns
