"""What waits for a load that is running, and for how long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lineage_orch.plan import BuildPlan, Held
from tests.manifests import node, source
from tests.plan.test_plan import NOON, ledger, lineage_of, plan

# raw.a -> stg_a -> mart -> top      raw.b -> stg_b -> mart      stg_a -> own
SHOP = lineage_of(
    source("raw.a"),
    source("raw.b"),
    node("stg_a", "raw.a"),
    node("stg_b", "raw.b"),
    node("mart", "stg_a", "stg_b"),
    node("top", "mart"),
    node("own", "stg_a"),
)
A, B = "source.shop.raw.a", "source.shop.raw.b"
NODES = ("stg_a", "stg_b", "mart", "top", "own")
MINUTE = timedelta(minutes=1)


def planned(minutes_ago: float = 2, *, patience: float = 5, loading: Any = (B,), **more: Any) -> BuildPlan:
    """What a plan is at noon, when raw.a was loaded some minutes ago and everything was built before."""
    loads = {"raw.a": [(1, NOON - 60 * MINUTE), (9, NOON - minutes_ago * MINUTE)], "raw.b": [(2, NOON - 60 * MINUTE)]}
    builds: dict[str, Any] = {each: [(5, NOON - 50 * MINUTE)] for each in NODES}
    snapshot = ledger(loads, builds | more.pop("builds", {}), **more.pop("facts", {}))
    return plan(SHOP, snapshot, loading=loading, patience=patience * MINUTE, **more)


def short(ids: Any) -> set[str]:
    return {each.rpartition(".")[2] for each in ids}


def test_node_below_source_that_is_loading_is_held_and_others_build() -> None:
    found = planned()
    assert short(found.build) == {"stg_a", "own"}
    assert found.held == {"model.shop.mart": Held("load_running", (B,), NOON + 3 * MINUTE)}
    assert found.next_due == NOON + 3 * MINUTE


@pytest.mark.parametrize("more", [{"loading": ()}, {"patience": 0}, {"minutes_ago": 5}, {"loading": ("source.x.y.z",)}])
def test_nothing_is_held_without_load_or_patience(more: dict[str, Any]) -> None:
    found = planned(**more)
    assert (short(found.build), found.held) == ({"stg_a", "own", "mart", "top"}, {})


def test_source_that_is_loaded_again_is_waited_for_once() -> None:
    found = planned(loading=(A,))
    assert not found.build
    assert found.held.keys() == {"model.shop.stg_a"}
    assert not planned(6, loading=(A, B)).held


def test_wait_counts_from_oldest_data_also_after_parent_was_built() -> None:
    found = planned(builds={"stg_a": [(5, NOON - 50 * MINUTE), (10, NOON - MINUTE)]})
    assert short(found.build) == {"own"}
    assert found.held == {"model.shop.mart": Held("load_running", (B,), NOON + 4 * MINUTE)}


def test_changed_code_and_what_was_asked_for_do_not_wait() -> None:
    found = planned(facts={"debts": {"mart": 20}})
    assert short(found.build) == {"stg_a", "own", "mart"}
    assert short(found.held) == {"top"}


def test_view_that_passes_new_data_through_does_not_wait() -> None:
    shop = lineage_of(source("raw.a"), node("view", "raw.a", materialized="view"), node("mart", "view"))
    snapshot = ledger(
        {"raw.a": [(1, NOON - 60 * MINUTE), (9, NOON)]}, {each: [(5, NOON - 50 * MINUTE)] for each in ("view", "mart")}
    )
    found = plan(shop, snapshot, views="pass_through", loading=(A,), patience=5 * MINUTE)
    assert short(found.passed_through) == {"view"}
    assert found.held == {"model.shop.mart": Held("load_running", (A,), NOON + 5 * MINUTE)}
