"""The rule of the plan, by worked examples. Random ones are in ``test_plan_properties.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from lineage_orch.ledger import Failure, LedgerSnapshot, Moment, NodeFact, Untested
from lineage_orch.lineage import Lineage
from lineage_orch.plan import BuildPlan, Held, Reason, failure_digest, plan_builds, plan_graph
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
    *,
    baselines: tuple[str, ...] = (),
    debts: Mapping[str, int] | None = None,
    failures: Mapping[str, Failure] | None = None,
    identities: Mapping[str, str] | None = None,
    unchanged_since: Mapping[str, int] | None = None,
) -> LedgerSnapshot:
    """A snapshot from short names: ``{"raw.a": 3}``, or with times ``{"raw.a": [(3, NOON)]}``."""

    def full(name: str) -> str:
        return name if "." in name else f"model.shop.{name}"

    def moments(each: int | list[tuple[int, datetime]]) -> list[Moment]:
        return [Moment(each, NOON)] if isinstance(each, int) else [Moment(*pair) for pair in each]

    source_history = {f"source.shop.{name}": moments(each) for name, each in (loads or {}).items()}
    node_history = {full(name): moments(each) for name, each in (builds or {}).items()}
    last = {name: name.rpartition(".")[2] for name in node_history}
    return LedgerSnapshot(
        tick=99,
        sources={name: history[-1].tick for name, history in source_history.items()},
        nodes={
            name: NodeFact(
                *history[-1],
                (checksums or {}).get(last[name]),
                (unchanged_since or {}).get(last[name]),
                (identities or {}).get(last[name]),
            )
            for name, history in node_history.items()
        },
        producers=frozenset(f"source.shop.{name}" for name in producers),
        source_history=source_history,
        node_history=node_history,
        baselines=frozenset(f"source.shop.{name}" for name in baselines),
        debts={full(name): tick for name, tick in (debts or {}).items()},
        failures={full(name): each for name, each in (failures or {}).items()},
    )


def failure(count: int = 1, at: datetime = NOON, tick: int = 6, identity: str | None = None) -> Failure:
    return Failure(count, at, at, tick, identity, "Database Error: no such column")


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


def test_plan_is_empty_before_first_load(shop: Lineage) -> None:
    found = plan(shop, LedgerSnapshot())
    assert (found.build, dict(found.held), dict(found.because), found.next_due) == ((), {}, {}, None)
    assert found.is_empty
    assert found.select == ()


def test_load_builds_its_downstream_parents_first(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.b": 6}, EVERYTHING))
    assert found.build == ("model.shop.stg_b", "model.shop.mart")
    assert not found.is_empty


def test_node_built_after_load_is_up_to_date(shop: Lineage) -> None:
    assert built(shop, ledger({"raw.a": 4, "raw.b": 3}, EVERYTHING)) == []


def test_load_that_landed_while_build_ran_stays_owed(shop: Lineage) -> None:
    """The run took tick 5, the load tick 6: the node built at 5 owes it."""
    assert set(built(shop, ledger({"raw.a": 6}, EVERYTHING))) == {"stg_a", "mart", "mart_a"}


def test_build_that_was_cut_off_owes_only_rest(shop: Lineage) -> None:
    assert built(shop, ledger({"raw.a": 4}, {"stg_a": 5, "mart_a": 5, "stg_b": 2, "mart": 2})) == ["mart"]


def test_node_without_parents_is_never_out_of_date(shop: Lineage) -> None:
    assert "colours" not in built(shop, ledger({"raw.a": 1}))
    assert built(shop, ledger(builds={"seed.shop.colours": 3})) == ["of_seed"]


def test_facts_outside_manifest_are_ignored(shop: Lineage) -> None:
    snapshot = ledger(
        {"raw.gone": 50, "raw.b": 6},
        {**EVERYTHING, "gone": 3, "exposure.shop.board": 9},
        ("raw.gone",),
        debts={"gone": 60},
        failures={"gone": failure()},
    )
    gone = ["model.shop.gone"]
    assert built(shop, snapshot, failed=gone, missing_relations=gone, not_built=gone) == ["stg_b", "mart"]


def test_time_without_zone_is_refused(shop: Lineage) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        plan_builds(shop, LedgerSnapshot(), now=datetime(2026, 1, 1))


def test_clock_jumps_change_nothing_without_policy(shop: Lineage) -> None:
    builds = {"stg_a": [(5, NOON + hours(1))], "mart_a": [(7, NOON)], "stg_b": 5, "mart": 5}
    early = ledger({"raw.a": [(6, NOON - hours(1))]}, builds)
    for now in (NOON - hours(9), NOON, NOON + hours(9)):
        assert set(built(shop, early, now=now)) == {"stg_a", "mart_a", "mart"}


# Because --------------------------------------------------------------------------------------------------


def test_because_names_sources_that_reach_each_node(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.a": 7, "raw.b": 8}, EVERYTHING))
    assert found.because == {
        "model.shop.stg_a": {"source.shop.raw.a"},
        "model.shop.mart_a": {"source.shop.raw.a"},
        "model.shop.stg_b": {"source.shop.raw.b"},
        "model.shop.mart": {"source.shop.raw.a", "source.shop.raw.b"},
    }
    assert found.sources == ("source.shop.raw.a", "source.shop.raw.b")


def test_because_goes_through_what_was_built_before_cut_off(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.a": 4, "raw.b": 1}, {"stg_a": 5, "mart_a": 5, "stg_b": 2, "mart": 2}))
    assert found.because == {"model.shop.mart": {"source.shop.raw.a"}}


def test_because_leaves_out_sources_taken_in_already() -> None:
    lineage = lineage_of(source("raw.a"), source("raw.b"), node("both", "raw.a", "raw.b"), node("mart", "both"))
    found = plan(lineage, ledger({"raw.a": 1, "raw.b": 4}, {"both": 5, "mart": 3}))
    assert found.because == {"model.shop.mart": {"source.shop.raw.b"}}


def test_because_does_not_go_through_held_node() -> None:
    lineage = lineage_of(
        source("raw.a"),
        source("raw.b"),
        node("daily", "raw.a", config=build_after(1, "day")),
        node("mart", "daily", "raw.b"),
    )
    found = plan(lineage, ledger({"raw.a": 6, "raw.b": 7}, {"daily": 5, "mart": 5}))
    assert found.because == {"model.shop.mart": {"source.shop.raw.b"}}
    assert list(found.held) == ["model.shop.daily"]


def test_because_reads_as_mapping(shop: Lineage) -> None:
    because = plan(shop, ledger({"raw.b": 6}, EVERYTHING)).because
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


JOINED = {"stg_b": 5, "stg_static": 5, "seed.shop.colours": 5, "mart": 5}


def test_updates_on_all_waits_for_every_moving_parent(joined: Lineage) -> None:
    snapshot = ledger({"raw.a": 7, "raw.b": 3}, JOINED)
    assert held(joined, snapshot) == {"mart": Held("updates_on_all", ("model.shop.stg_b",))}
    assert plan(joined, snapshot).next_due is None


def test_updates_on_all_builds_when_moving_parents_are_fresh(joined: Lineage) -> None:
    assert built(joined, ledger({"raw.a": 7, "raw.b": 8}, JOINED)) == ["stg_b", "mart"]
    # stg_b was built since: no need for it to be in this plan.
    assert built(joined, ledger({"raw.a": 7, "raw.b": 8}, {**JOINED, "stg_b": 9})) == ["mart"]


def test_updates_on_all_ignores_parents_that_never_move(joined: Lineage) -> None:
    """A static table and a seed, which no producer loads, must not block for ever."""
    assert "mart" in built(joined, ledger({"raw.a": 7, "raw.b": 8}, JOINED))


def test_updates_on_all_waits_for_producer_never_loaded(joined: Lineage) -> None:
    snapshot = ledger({"raw.a": 7, "raw.b": 8}, JOINED, producers=("raw.static",))
    assert held(joined, snapshot) == {"mart": Held("updates_on_all", ("model.shop.stg_static",))}
    snapshot = ledger({"raw.a": 7, "raw.b": 8, "raw.static": 3}, JOINED)
    assert "mart" in held(joined, snapshot)


def test_updates_on_all_counts_prerequisites_as_new(joined: Lineage) -> None:
    """Row 13: the staging model of a source that no flow loads, and a seed, were never built."""
    snapshot = ledger({"raw.a": 7, "raw.b": 8, "raw.static": 3}, {"stg_b": 5, "mart": 5})
    assert set(built(joined, snapshot)) == {"stg_b", "stg_static", "colours", "mart"}


def test_updates_on_all_ignores_baselines(joined: Lineage) -> None:
    """Row 5: after ``adopt`` every source has an update; what only has that one does not move."""
    adopted = {"raw.a": 1, "raw.b": 2, "raw.static": 3}
    snapshot = ledger({**adopted, "raw.a": 7, "raw.b": 8}, JOINED, baselines=("raw.static",))
    assert set(built(joined, snapshot)) == {"stg_b", "mart"}
    # With a producer, or an update of its own, it moves again.
    snapshot = ledger({**adopted, "raw.a": 7, "raw.b": 8}, JOINED, ("raw.static",), baselines=("raw.static",))
    assert held(joined, snapshot)["mart"].waiting_for == ("model.shop.stg_static",)


def test_updates_on_all_ignores_what_dbt_will_not_build() -> None:
    lineage = lineage_of(
        source("raw.a"),
        source("raw.b"),
        node("snap", "raw.b", kind="snapshot"),
        node("below", "snapshot.shop.snap"),
        node("mart", "raw.a", "below", config=all_of()),
    )
    snapshot = ledger({"raw.a": 6, "raw.b": 7}, {"snapshot.shop.snap": 5, "below": 5, "mart": 5})
    assert held(lineage, snapshot) == {}
    assert built(lineage, snapshot, not_built=["snapshot.shop.snap"]) == ["mart"]


def test_updates_on_all_is_not_met_by_held_parent() -> None:
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


def test_child_of_held_node_builds_for_other_parents() -> None:
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


def test_build_after_counts_from_last_good_build() -> None:
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


def test_lag_tolerance_counts_from_first_load_it_does_not_have() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=lag("4h")))
    loads = [(4, NOON - hours(9)), (6, NOON - hours(3)), (7, NOON - hours(1))]
    snapshot = ledger({"raw.a": loads}, {"mart": 5})
    assert held(lineage, snapshot) == {"mart": Held("lag_tolerance", until=NOON + hours(1))}
    assert built(lineage, snapshot, now=NOON + hours(1)) == ["mart"]


def test_lag_tolerance_holds_node_that_was_never_built() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=lag("4h")))
    assert held(lineage, ledger({"raw.a": 6}))["mart"].until == NOON + hours(4)


def test_lag_tolerance_counts_from_first_missed_build() -> None:
    lineage = lineage_of(source("raw.a"), node("stage", "raw.a"), node("mart", "stage", config=lag("4h")))
    builds = [(4, NOON - hours(9)), (6, NOON - hours(2)), (8, NOON - hours(1))]
    snapshot = ledger({"raw.a": 7}, {"stage": builds, "mart": 5})
    assert held(lineage, snapshot)["mart"].until == NOON + hours(2)


def test_lag_tolerance_counts_from_load_of_planned_parent() -> None:
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


def test_later_of_both_limits_counts() -> None:
    config = {**build_after(4, "hour"), **lag("2h")}
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=config))
    later_build = ledger({"raw.a": [(6, NOON - hours(1))]}, {"mart": [(5, NOON - hours(1))]})
    assert held(lineage, later_build) == {"mart": Held("build_after", until=NOON + hours(3))}
    later_load = ledger({"raw.a": [(6, NOON - hours(1))]}, {"mart": [(5, NOON - hours(5))]})
    assert held(lineage, later_load) == {"mart": Held("lag_tolerance", until=NOON + hours(1))}


def test_next_due_is_earliest_of_all_that_are_held_until_time() -> None:
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


def test_limit_past_end_of_time_is_no_crash() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=build_after(10**8, "day")))
    assert held(lineage, ledger({"raw.a": 6}, {"mart": 5}))["mart"].until is not None


# Changed code ---------------------------------------------------------------------------------------------


def changed(**checksums: str) -> LedgerSnapshot:
    return ledger({"raw.a": 4, "raw.b": 4}, EVERYTHING, checksums=checksums)


def test_changed_code_rebuilds_node_and_what_hangs_on_it(shop: Lineage) -> None:
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
def test_lag_below_changed_code_counts_from_its_data(loads: Any, since: datetime) -> None:
    lineage = lineage_of(source("raw.a"), node("stage", "raw.a"), node("mart", "stage", config=lag("4h")))
    snapshot = ledger(loads, {"stage": 5, "mart": 5}, checksums={"stage": "old"})
    found = plan(lineage, snapshot)
    assert short(found.build) == ["stage"]
    assert found.held["model.shop.mart"].until == since + hours(4)


# First loads and prerequisites ----------------------------------------------------------------------------


def test_first_load_is_waited_for_where_flow_loads_source(shop: Lineage) -> None:
    snapshot = ledger({"raw.a": 1}, producers=("raw.a", "raw.b"))
    found = plan(shop, snapshot)
    assert set(found.build) == {"model.shop.stg_a", "model.shop.mart_a"}
    assert found.held == {"model.shop.mart": Held("first_load", ("source.shop.raw.b",))}
    loaded = ledger({"raw.a": 1, "raw.b": 3}, {"stg_a": 2, "mart_a": 2}, ("raw.a", "raw.b"))
    assert built(shop, loaded) == ["stg_b", "mart"]


def test_static_source_is_taken_to_be_there(shop: Lineage) -> None:
    """Row 13: the first load builds the mart's other staging model too, whose source is static."""
    found = plan(shop, ledger({"raw.a": 1}, producers=("raw.a",)))
    assert set(short(found.build)) == {"stg_a", "stg_b", "mart_a", "mart"}
    assert found.reasons["model.shop.stg_b"] == (Reason("prerequisite", ("model.shop.mart",)), Reason("never_built"))
    assert "model.shop.mart" in found.because
    assert found.because["model.shop.stg_b"] == frozenset()


def test_seed_that_was_never_built_is_built_for_what_needs_it() -> None:
    """Row 13."""
    lineage = lineage_of(
        source("raw.a"),
        node("colours", kind="seed"),
        node("of_colours", "seed.shop.colours"),
        node("mart", "raw.a", "of_colours"),
    )
    found = plan(lineage, ledger({"raw.a": 1}))
    assert short(found.build) == ["colours", "of_colours", "mart"]
    assert found.reasons["seed.shop.colours"][0] == Reason("prerequisite", ("model.shop.of_colours",))
    assert found.reasons["model.shop.of_colours"] == (
        Reason("parent", ("seed.shop.colours",)),
        Reason("prerequisite", ("model.shop.mart",)),
        Reason("never_built"),
    )
    assert found.select == ("fqn:shop.colours", "fqn:shop.of_colours", "fqn:shop.mart")


def test_reader_of_prerequisite_is_built_with_it() -> None:
    """One plan is enough: what its own builds make stale is in it, though the graph lists it first."""
    lineage = lineage_of(
        source("raw.a"),
        node("colours", kind="seed"),
        node("aaa", "seed.shop.colours"),
        node("below_aaa", "aaa"),
        node("zzz", "seed.shop.colours", "raw.a"),
    )
    assert set(built(lineage, ledger({"raw.a": 1}))) == {"colours", "aaa", "below_aaa", "zzz"}


def test_node_that_nothing_stale_needs_stays_unbuilt(shop: Lineage) -> None:
    assert "of_seed" not in built(shop, ledger({"raw.a": 1, "raw.b": 1}))


def test_held_node_needs_nothing_yet() -> None:
    lineage = lineage_of(
        source("raw.a"),
        source("raw.b"),
        node("colours", kind="seed"),
        node("mart", "raw.a", "raw.b", "seed.shop.colours"),
    )
    snapshot = ledger({"raw.a": 1}, producers=("raw.b",))
    assert built(lineage, snapshot) == []
    assert held(lineage, snapshot) == {"mart": Held("first_load", ("source.shop.raw.b",))}


def test_first_load_holds_what_needs_it_however_far_below() -> None:
    lineage = lineage_of(
        source("raw.a"),
        source("raw.b"),
        node("stg_b", "raw.b"),
        node("mid", "stg_b"),
        node("mart", "raw.a", "mid"),
    )
    snapshot = ledger({"raw.a": 6}, producers=("raw.b",))
    assert held(lineage, snapshot) == {"mart": Held("first_load", ("source.shop.raw.b",))}
    # Up to what exists: a staging model that was built once is there, whoever loaded its source then.
    assert built(lineage, ledger({"raw.a": 6}, {"stg_b": 5}, ("raw.b",))) == ["mid", "mart"]


def test_six_first_loads_of_one_flow_that_loads_them_all() -> None:
    """Row 17: ``@produces_source("ecom.{table}")``, and a run for each table."""
    tables = ("customers", "orders", "items", "products")
    lineage = lineage_of(
        *(source(f"ecom.{table}") for table in tables),
        *(node(f"stg_{table}", f"ecom.{table}") for table in tables),
        node("order_items", "stg_orders", "stg_items", "stg_products"),
        node("orders", "stg_orders", "order_items"),
        node("customers", "stg_customers", "orders"),
    )
    producers = tuple(f"ecom.{table}" for table in tables)
    loads: dict[str, int | list[tuple[int, datetime]]] = {}
    builds: dict[str, int | list[tuple[int, datetime]]] = {}
    seen = []
    for tick, table in enumerate(tables):
        loads[f"ecom.{table}"] = 10 * tick + 1
        found = built(lineage, ledger(loads, builds, producers))
        builds.update(dict.fromkeys(found, 10 * tick + 2))
        seen.append(found)
    assert seen[:3] == [["stg_customers"], ["stg_orders"], ["stg_items"]]
    assert seen[3] == ["stg_products", "order_items", "orders", "customers"]


def test_prerequisite_does_not_wait_for_its_own_policy() -> None:
    lineage = lineage_of(
        source("raw.a"), source("raw.b"), node("lagging", "raw.a", config=lag("4h")), node("mart", "lagging", "raw.b")
    )
    assert "lagging" in held(lineage, ledger({"raw.a": 6}))
    found = plan(lineage, ledger({"raw.a": 6, "raw.b": 7}))
    assert short(found.build) == ["lagging", "mart"]
    assert Reason("prerequisite", ("model.shop.mart",)) in found.reasons["model.shop.lagging"]


# Relations that are gone, and what was asked for ----------------------------------------------------------


def test_missing_relation_is_built_with_its_readers(shop: Lineage) -> None:
    """Row 14: a table that was dropped by hand."""
    snapshot = ledger({"raw.a": 4, "raw.b": 4}, EVERYTHING)
    found = plan(shop, snapshot, missing_relations=["model.shop.stg_b"])
    assert short(found.build) == ["stg_b", "mart"]
    assert found.reasons == {
        "model.shop.stg_b": (Reason("missing_relation"),),
        "model.shop.mart": (Reason("parent", ("model.shop.stg_b",)),),
    }


def test_missing_relation_never_built_is_no_news(shop: Lineage) -> None:
    assert built(shop, LedgerSnapshot(), missing_relations=list(shop.nodes)) == []


def test_missing_relation_waits_for_no_policy() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config={**build_after(4, "hour"), **all_of()}))
    assert built(lineage, ledger({"raw.a": 4}, {"mart": 5}), missing_relations=["model.shop.mart"]) == ["mart"]


def test_debt_builds_whatever_its_policy(shop: Lineage) -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config={**build_after(4, "hour"), **lag("4h")}))
    found = plan(lineage, ledger({"raw.a": 4}, {"mart": 5}, debts={"mart": 7}))
    assert short(found.build) == ["mart"]
    assert found.reasons == {"model.shop.mart": (Reason("asked"),)}
    assert built(lineage, ledger({"raw.a": 4}, {"mart": 8}, debts={"mart": 7})) == []


def test_unchanged_node_makes_nothing_below_stale(shop: Lineage) -> None:
    """``stg_a`` was built at 8 and did not differ from what it was at 4."""
    builds = {**EVERYTHING, "stg_a": 8}
    assert built(shop, ledger({"raw.a": 7, "raw.b": 4}, builds)) != []
    assert built(shop, ledger({"raw.a": 7, "raw.b": 4}, builds, unchanged_since={"stg_a": 4})) == []


# What dbt will not build ----------------------------------------------------------------------------------


def test_not_built_node_is_named_and_builds_nothing_below() -> None:
    """Row 6: ``dbt run`` below a snapshot built its children at every call."""
    lineage = lineage_of(
        source("raw.a"),
        node("snap", "raw.a", kind="snapshot"),
        node("below", "snapshot.shop.snap"),
        node("beside", "raw.a"),
    )
    snapshot = ledger({"raw.a": 6}, {"snapshot.shop.snap": 5, "below": 5, "beside": 5})
    found = plan(lineage, snapshot, not_built=["snapshot.shop.snap"])
    assert short(found.build) == ["beside"]
    assert found.not_built == ("snapshot.shop.snap",)
    assert not found.held
    # And what is new by itself is taken in: the snapshot is somebody else's, and there.
    fresh = ledger({"raw.a": 6}, {"below": 5, "beside": 7}, checksums={"below": "old"})
    assert built(lineage, fresh, not_built=["snapshot.shop.snap"]) == ["below"]


# Failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "minutes"), [(1, 10), (2, 20), (3, 40), (6, 320), (7, 360), (8, 360), (100_000, 360)]
)
def test_node_that_fails_waits_longer_each_time(count: int, minutes: int) -> None:
    """Row 8: a node that always failed was tried at every load."""
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a"), node("below", "mart"), node("beside", "raw.a"))
    snapshot = ledger({"raw.a": 6}, {"mart": 5, "below": 5, "beside": 5}, failures={"mart": failure(count)})
    until = NOON + timedelta(minutes=minutes)
    found = plan(lineage, snapshot)
    assert short(found.build) == ["beside"]
    assert found.held == {
        "model.shop.mart": Held("failing", until=until, detail="Database Error: no such column"),
        "model.shop.below": Held("failing", ("model.shop.mart",)),
    }
    assert found.next_due == until
    assert set(built(lineage, snapshot, now=until)) == {"mart", "below", "beside"}


def test_new_data_alone_is_no_reason_to_try_again() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a"))
    snapshot = ledger({"raw.a": 60}, {"mart": 5}, failures={"mart": failure(3)})
    assert list(held(lineage, snapshot)) == ["mart"]


def test_change_of_node_or_of_test_on_it_is() -> None:
    nodes = [source("raw.a"), node("mart", "raw.a")]
    lineage = lineage_of(*nodes)
    same = failure_digest(lineage, "model.shop.mart")
    assert "mart" in held(lineage, ledger({"raw.a": 6}, failures={"mart": failure(identity=same)}))
    assert built(lineage, ledger({"raw.a": 6}, failures={"mart": failure(identity="other")})) == ["mart"]
    tested = lineage_of(*nodes, node("no_gaps", "mart", kind="test"))
    assert built(tested, ledger({"raw.a": 6}, failures={"mart": failure(identity=same)})) == ["mart"]
    same = failure_digest(tested, "model.shop.mart")
    other = lineage_of(*nodes, node("no_gaps", "mart", kind="test", checksum="fewer rows"))
    assert "mart" in held(tested, ledger({"raw.a": 6}, failures={"mart": failure(identity=same)}))
    assert built(other, ledger({"raw.a": 6}, failures={"mart": failure(identity=same)})) == ["mart"]
    warns = lineage_of(*nodes, node("no_gaps", "mart", kind="test", config={"severity": "warn"}))
    assert built(warns, ledger({"raw.a": 6}, failures={"mart": failure(identity=same)})) == ["mart"]


def test_so_is_that_someone_asked_for_it() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a"))
    assert built(lineage, ledger({"raw.a": 4}, failures={"mart": failure(tick=6)}, debts={"mart": 7})) == ["mart"]
    # The debt of the run that failed is none that came since.
    assert "mart" in held(lineage, ledger({"raw.a": 4}, failures={"mart": failure(tick=6)}, debts={"mart": 6}))


def test_later_of_failure_and_policy_counts() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=build_after(1, "hour")))
    snapshot = ledger({"raw.a": 6}, {"mart": 5}, failures={"mart": failure(1)})
    assert held(lineage, snapshot) == {"mart": Held("build_after", until=NOON + hours(1))}
    snapshot = ledger({"raw.a": 6}, {"mart": 5}, failures={"mart": failure(4)})
    assert held(lineage, snapshot)["mart"].reason == "failing"


def test_prerequisite_that_fails_holds_what_needs_it() -> None:
    lineage = lineage_of(source("raw.a"), node("stg", "raw.static"), source("raw.static"), node("mart", "raw.a", "stg"))
    assert held(lineage, ledger({"raw.a": 1}, failures={"stg": failure()})) == {
        "stg": Held("failing", until=NOON + timedelta(minutes=10), detail="Database Error: no such column"),
        "mart": Held("failing", ("model.shop.stg",)),
    }


# Tests alone ----------------------------------------------------------------------------------------------


def untested(lineage: Lineage, snapshot: LedgerSnapshot, at: datetime = NOON, **ticks: int) -> LedgerSnapshot:
    """The same, with nodes that were built at these ticks, and whose tests did not pass."""
    nodes = {f"model.shop.{name}": tick for name, tick in ticks.items()}
    return replace(
        snapshot, untested={node: Untested(tick, at, lineage.identity(node)) for node, tick in nodes.items()}
    )


def test_what_was_built_since_tested_node_was_is_not_built_for_its_tests() -> None:
    """When they pass, it is recorded at the tick of its build: for what was skipped then it is new, and for no other.

    A node was built later when the tested one was held, or its tests were skipped: by `--fail-fast`, say.
    """
    lineage = lineage_of(
        source("raw.a"), node("stg", "raw.a"), *(node(each, "stg") for each in ("skipped", "same_run", "later"))
    )
    facts = ledger({"raw.a": 7}, {"stg": 5, "skipped": 5, "same_run": 8, "later": 9})
    found = plan(lineage, untested(lineage, facts, stg=8))
    assert (short(found.tests_only), short(found.build)) == (["stg"], ["skipped"])
    assert found.reasons["model.shop.skipped"] == (Reason("parent", ("model.shop.stg",)),)
    assert found.because["model.shop.skipped"] == {"source.shop.raw.a"}

    loaded = plan(lineage, untested(lineage, replace(facts, sources={"source.shop.raw.a": 10}), stg=8))
    assert (found.held, short(loaded.build)) == ({}, ["stg", "skipped", "same_run", "later"])
    assert not loaded.tests_only


def test_tested_node_that_was_never_built_well_before_is_no_news_either() -> None:
    lineage = lineage_of(source("raw.a"), source("raw.b"), node("stg", "raw.a"), node("mart", "stg", "raw.b"))
    facts = untested(lineage, ledger({"raw.a": 7, "raw.b": 7}, {"mart": 9}), stg=8)
    assert short(plan(lineage, facts).tests_only) == ["stg"]
    assert plan(lineage, facts).build == ()
    only = plan(lineage, facts, only=["model.shop.mart"])
    assert (only.build, only.tests_only) == ((), ())
    # What is built for more reads it all the same.
    loaded = replace(facts, sources={**facts.sources, "source.shop.raw.b": 10})
    only = plan(lineage, loaded, only=["model.shop.mart"])
    assert (short(only.tests_only), short(only.build)) == (["stg"], ["mart"])


def test_tested_node_is_built_for_what_is_pulled_in_above_it() -> None:
    lineage = lineage_of(
        source("raw.a"),
        source("raw.b"),
        node("codes", kind="seed"),
        node("stg", "raw.a", "seed.shop.codes"),
        node("mart", "stg"),
        node("top", "mart"),
        node("other", "raw.b", "seed.shop.codes"),
    )
    facts = ledger({"raw.a": 5, "raw.b": 5}, {"stg": 6, "mart": 6, "top": 9, "other": 6}, debts={"mart": 7})
    tested = untested(lineage, facts, mart=8)
    assert (short(plan(lineage, tested).tests_only), short(plan(lineage, tested).build)) == (["mart"], [])
    found = plan(lineage, replace(tested, sources={**facts.sources, "source.shop.raw.b": 9}))
    assert (found.tests_only, set(short(found.build))) == ((), {"codes", "stg", "mart", "top", "other"})


def test_lag_tolerance_counts_from_build_of_tested_node() -> None:
    lineage = lineage_of(source("raw.a"), node("stg", "raw.a"), node("mart", "stg", config=lag("4h")))
    facts = ledger({"raw.a": 5}, {"stg": 6, "mart": 6}, debts={"stg": 7})
    snapshot = untested(lineage, facts, at=NOON - hours(3), stg=8)
    assert held(lineage, snapshot) == {"mart": Held("lag_tolerance", until=NOON + hours(1))}


# Configs that cannot be read ------------------------------------------------------------------------------


def test_policy_that_cannot_be_read_holds_that_node_alone(shop: Lineage) -> None:
    lineage = lineage_of(
        source("raw.a"),
        node("bad", "raw.a", config=lag("soon")),
        node("below", "bad"),
        node("mart", "bad", "raw.a"),
        node("other", "raw.a"),
    )
    found = plan(lineage, ledger({"raw.a": 6}, {"bad": 5, "below": 5, "mart": 5, "other": 5}))
    assert set(short(found.build)) == {"mart", "other"}
    assert list(found.held) == ["model.shop.bad"]
    why = found.held["model.shop.bad"]
    assert (why.reason, why.until, found.next_due) == ("bad_config", None, None)
    assert why.detail is not None
    assert "'soon'" in why.detail
    # What reads it and cannot be built without it waits too.
    assert held(lineage, ledger({"raw.a": 6}))["mart"] == Held("bad_config", ("model.shop.bad",), detail=why.detail)


# Clocks that are wrong ------------------------------------------------------------------------------------


def test_time_three_years_ahead_holds_nothing_for_three_years() -> None:
    """Row 10: it counts as now."""
    config = {**build_after(1, "hour"), **lag("2h")}
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=config))
    ahead = NOON + timedelta(days=1100)
    wrong_build = ledger({"raw.a": [(6, NOON - hours(3))]}, {"mart": [(5, ahead)]})
    assert held(lineage, wrong_build) == {"mart": Held("build_after", until=NOON + hours(1))}
    wrong_load = ledger({"raw.a": [(6, ahead)]}, {"mart": [(5, NOON - hours(9))]})
    assert held(lineage, wrong_load) == {"mart": Held("lag_tolerance", until=NOON + hours(2))}
    wrong_failure = ledger({"raw.a": [(6, NOON - hours(3))]}, failures={"mart": failure(1, ahead)})
    assert held(lineage, wrong_failure)["mart"].until == NOON + timedelta(minutes=10)


# Failures in one call -------------------------------------------------------------------------------------


def test_failed_node_and_what_hangs_on_it_wait(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.a": 6, "raw.b": 6}, EVERYTHING), failed=["model.shop.stg_b"])
    assert set(found.build) == {"model.shop.stg_a", "model.shop.mart_a"}
    assert found.held == {
        "model.shop.stg_b": Held("failed"),
        "model.shop.mart": Held("failed", ("model.shop.stg_b",)),
    }


def test_failure_is_passed_on_down_chain() -> None:
    chain = [node("n0", "raw.a"), *(node(f"n{each}", f"n{each - 1}") for each in range(1, 4))]
    lineage = lineage_of(source("raw.a"), *chain)
    found = plan(lineage, ledger({"raw.a": 1}), failed=["model.shop.n1"])
    assert short(found.build) == ["n0"]
    assert {short([each])[0]: short(why.waiting_for) for each, why in found.held.items()} == {
        "n1": [],
        "n2": ["n1"],
        "n3": ["n2"],
    }


# Views ----------------------------------------------------------------------------------------------------


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
    assert found.passed_through == ()
    assert found.select == ("source:shop.raw.a+",)


def test_change_passes_through_views_that_exist(viewed: Lineage) -> None:
    snapshot = ledger({"raw.a": 6}, {"view": 5, "view2": 5, "mart": 5})
    found = plan(viewed, snapshot, views="pass_through")
    assert short(found.build) == ["mart"]
    assert short(found.passed_through) == ["view", "view2"]
    assert found.because["model.shop.mart"] == {"source.shop.raw.a"}
    assert found.select == ("fqn:shop.mart", "fqn:shop.view,resource_type:test")


def test_view_that_was_never_built_or_has_new_code_is_built(viewed: Lineage) -> None:
    snapshot = ledger({"raw.a": 6}, {"view2": 5, "mart": 5}, checksums={"view2": "old"})
    found = plan(viewed, snapshot, views="pass_through")
    assert short(found.build) == ["view", "view2", "mart"]
    assert found.passed_through == ()


def test_view_above_which_definition_changed_is_built() -> None:
    """Row 4: ``select *`` on a warehouse that keeps the columns that a view had when it was made."""
    lineage = lineage_of(
        source("raw.a"),
        node("stage", "raw.a"),
        node("wide", "stage"),
        node("view", "wide", materialized="view"),
    )
    builds = {"stage": 5, "wide": 5, "view": 5}
    new_data = plan(lineage, ledger({"raw.a": 6}, builds), views="pass_through")
    assert (short(new_data.build), short(new_data.passed_through)) == (["stage", "wide"], ["view"])
    new_code = ledger({"raw.a": 6}, builds, identities={"stage": "old"})
    assert short(plan(lineage, new_code, views="pass_through").build) == ["stage", "wide", "view"]
    # It may have been for new code that this was built: nothing says.
    cut_off = ledger({"raw.a": 6}, {**builds, "stage": 7, "wide": 7})
    assert short(plan(lineage, cut_off, views="pass_through").build) == ["view"]


def test_plan_of_passed_through_views_alone_is_not_empty() -> None:
    lineage = lineage_of(
        source("raw.a"), node("view", "raw.a", materialized="view"), node("on_view", "view", kind="test")
    )
    found = plan(lineage, ledger({"raw.a": 6}, {"view": 5}), views="pass_through")
    assert found.build == ()
    assert short(found.passed_through) == ["view"]
    assert not found.is_empty
    assert found.select == ("fqn:shop.view,resource_type:test",)


# Select ---------------------------------------------------------------------------------------------------


def test_select_is_short_when_all_below_sources_is_built(shop: Lineage) -> None:
    assert plan(shop, ledger({"raw.b": 6}, EVERYTHING)).select == ("source:shop.raw.b+",)
    both = plan(shop, ledger({"raw.a": 1, "raw.b": 2}))
    assert both.select == ("source:shop.raw.a+", "source:shop.raw.b+")


def test_select_is_exact_when_something_below_is_not_built(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.a": 4}, {"stg_a": 5, "mart_a": 5, "stg_b": 1}))
    assert found.select == ("fqn:shop.mart",)
    failed = plan(shop, ledger({"raw.b": 6}, EVERYTHING), failed=["model.shop.mart"])
    assert failed.select == ("fqn:shop.stg_b",)


def test_select_is_exact_when_something_else_is_built_too(shop: Lineage) -> None:
    snapshot = ledger({"raw.b": 6}, EVERYTHING, checksums={"mart_a": "old"})
    found = plan(shop, snapshot)
    assert set(found.select) == {"fqn:shop.stg_b", "fqn:shop.mart", "fqn:shop.mart_a"}


def test_select_of_exact_nodes_brings_tests_of_their_sources() -> None:
    lineage = lineage_of(
        source("raw.a"), node("on_raw", "raw.a", kind="test"), node("stage", "raw.a"), node("mart", "stage")
    )
    found = plan(lineage, ledger({"raw.a": 6}, {"stage": 5, "mart": 5}), failed=["model.shop.mart"])
    assert found.select == ("source:shop.raw.a", "fqn:shop.stage")


# Tests that are left out ----------------------------------------------------------------------------------


def unit_test(name: str, model: str, *inputs: str) -> dict[str, Any]:
    given = [{"input": each, "rows": []} for each in inputs]
    return {
        **leaf("unit_test", f"{model}.{name}", model),
        "fqn": ["shop", model, name],
        "given": given,
        "checksum": "1",
    }


def test_unit_test_without_own_relation_is_left_out() -> None:
    """Row 17: dbt looks up the columns of the inputs; a unit test that fails blocks its model."""
    lineage = lineage_of(
        source("raw.a"),
        node("inc", "raw.a", materialized="incremental"),
        unit_test("grows", "inc", "source('raw', 'a')", "this"),
        unit_test("starts", "inc", "source('raw', 'a')"),
    )
    first = plan(lineage, ledger({"raw.a": 1}))
    assert first.left_out_tests == ("unit_test.shop.inc.grows",)
    assert first.exclude == ("fqn:shop.inc.[g]rows,resource_type:unit_test",)
    assert first.tests_on("model.shop.inc") == {"unit_test.shop.inc.starts"}
    assert plan(lineage, ledger({"raw.a": 6}, {"inc": 5})).left_out_tests == ()
    gone = plan(lineage, ledger({"raw.a": 4}, {"inc": 5}), missing_relations=["model.shop.inc"])
    assert gone.left_out_tests == ("unit_test.shop.inc.grows",)


def test_unit_test_inputs_are_there_before_it_runs() -> None:
    lineage = lineage_of(
        source("raw.a"),
        node("stg", "raw.a"),
        node("mart", "stg"),
        node("apart", "raw.a"),
        unit_test("adds_up", "mart", "ref('stg')"),
        unit_test("reads_another", "mart", 'ref("shop", "apart")'),
    )
    assert plan(lineage, ledger({"raw.a": 1})).left_out_tests == ("unit_test.shop.mart.reads_another",)


def test_data_test_waits_for_first_load_of_its_source() -> None:
    lineage = lineage_of(
        source("raw.a"), source("raw.b"), node("stg", "raw.a"), node("related", "stg", "raw.b", kind="test")
    )
    assert plan(lineage, ledger({"raw.a": 1}, producers=("raw.b",))).left_out_tests == ("test.shop.related",)
    assert plan(lineage, ledger({"raw.a": 1})).left_out_tests == ()


def test_unit_test_of_view_that_is_passed_through_does_not_run(viewed: Lineage) -> None:
    lineage = lineage_of(
        source("raw.a"),
        node("view", "raw.a", materialized="view"),
        node("on_view", "view", kind="test"),
        unit_test("of_view", "view", "source('raw', 'a')"),
    )
    found = plan(lineage, ledger({"raw.a": 6}, {"view": 5}), views="pass_through")
    assert found.tests_on("model.shop.view") == {"test.shop.on_view"}


# Size -----------------------------------------------------------------------------------------------------


def test_chain_of_5000_nodes_is_planned_without_recursion() -> None:
    chain = [node("n0", "raw.a", config=lag("1h"))]
    for number in range(1, 5000):
        chain.append(node(f"n{number}", f"n{number - 1}", config=lag("1h") if number % 7 == 0 else None))
    lineage = lineage_of(source("raw.a"), *chain)
    snapshot = ledger({"raw.a": [(6, NOON - hours(2))]}, producers=("raw.a",))
    found = plan(lineage, snapshot)
    assert len(found.build) == 5000
    assert found.because["model.shop.n4999"] == {"source.shop.raw.a"}
    assert len(plan(lineage, snapshot, failed=["model.shop.n0"]).held) == 5000


def test_big_project_cut_off_half_way_is_planned_in_one_pass() -> None:
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
