"""Every answer of `explain`, on graphs small enough to check by eye."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lineage_orch.errors import UnknownNodeError
from lineage_orch.ledger import Failure, LedgerSnapshot, Moment, NodeFact, Untested
from lineage_orch.lineage import Lineage
from lineage_orch.plan import plan_builds
from lineage_orch.reports.explain import explain
from lineage_orch.reports.explanation import Explanation, PartChange
from lineage_orch.reports.wording import explanation_lines, part_change, until
from lineage_orch.text import listed, span
from tests.manifests import manifest, node, source

NOW = datetime(2026, 10, 16, 13, 53, tzinfo=UTC)
HOURLY = {"freshness": {"build_after": {"count": 1, "period": "hour"}}}
ALL = {"freshness": {"build_after": {"updates_on": "all"}}}
LAGGING = {"state": {"lag_tolerance": "4h"}}

SHOP = (
    source("raw.orders"),
    source("raw.users"),
    node("stg_orders", "raw.orders"),
    node("stg_users", "raw.users"),
)


def at(tick: int) -> datetime:
    """Tick 60 is NOW, and each tick before it one minute earlier."""
    return NOW - timedelta(minutes=60 - tick)


def ask(
    name: str,
    *resources: dict[str, Any],
    loaded: Mapping[str, int] | None = None,
    built: Mapping[str, int | tuple[int, str]] | None = None,
    producers: tuple[str, ...] = (),
    clock: int = 60,
    ledger: Mapping[str, Any] | None = None,
    stored: Mapping[str, Mapping[str, str]] | None = None,
    **options: Any,
) -> Explanation:
    """Explain one node; ``loaded`` and ``built`` are ticks by short name, built with a checksum if not the present."""
    lineage = Lineage.from_manifest(manifest(*resources))
    sources = {lineage.resolve_source(each): tick for each, tick in (loaded or {}).items()}
    nodes: dict[str, NodeFact] = {}
    for each, fact in (built or {}).items():
        unique_id = lineage.resolve_node(each)
        tick, checksum = fact if isinstance(fact, tuple) else (fact, lineage.nodes[unique_id].checksum)
        nodes[unique_id] = NodeFact(tick, at(tick), checksum)
    snapshot = LedgerSnapshot(
        clock,
        sources,
        nodes,
        frozenset(lineage.resolve_source(each) for each in producers),
        {each: [Moment(tick, at(tick))] for each, tick in sources.items()},
        {each: [Moment(fact.tick, fact.built_at)] for each, fact in nodes.items()},
    )
    snapshot = replace(snapshot, **(ledger or {}))
    options["failed"] = [lineage.resolve_node(each) for each in options.get("failed", ())]
    plan = plan_builds(lineage, snapshot, now=NOW, **options)
    parts = {lineage.resolve_node(each): old for each, old in (stored or {}).items()}
    found = explain(lineage, snapshot, plan, lineage.resolve_node(name), stored_parts=parts.get)
    assert json.loads(json.dumps(found.to_dict()))["verdict"] == found.verdict
    return found


def words(found: Explanation) -> str:
    return "\n".join(explanation_lines(found, NOW))


def test_new_data_builds_and_names_load_and_path() -> None:
    found = ask(
        "mart_x",
        *SHOP,
        node("eph", "stg_orders", materialized="ephemeral"),
        node("mart_x", "eph", "stg_users"),
        loaded={"raw.orders": 12, "raw.users": 3},
        built={"stg_orders": 9, "stg_users": 9, "mart_x": 9},
    )
    assert found.verdict == "build"
    assert explanation_lines(found, NOW) == [
        "mart_x will build: raw.orders was loaded at tick 12 (2026-10-16 13:05 UTC), after this node's last good "
        "build at tick 9 (2026-10-16 13:02 UTC).",
        "Path: raw.orders -> stg_orders -> eph -> mart_x",
        "Parents: stg_orders (in the plan, tick 9), stg_users (not newer, tick 9)",
    ]
    assert [(each.unique_id, each.state) for each in found.parents] == [
        ("model.shop.stg_orders", "in_plan"),
        ("model.shop.stg_users", "not_newer"),
    ]
    assert [(each.unique_id, each.state) for each in found.sources] == [
        ("source.shop.raw.orders", "triggering"),
        ("source.shop.raw.users", "not_newer"),
    ]
    assert found.builds_when.kind == "next_build"


def test_node_that_was_never_built() -> None:
    found = ask("stg_orders", *SHOP, loaded={"raw.orders": 12})
    assert found.verdict == "build"
    assert "stg_orders will build: it was never built, and raw.orders was loaded at tick 12" in words(found)
    assert "raw.orders (newer than this node, tick 12)" in words(found)


def test_parent_that_was_built_since_is_fresh() -> None:
    found = ask(
        "mart", *SHOP, node("mart", "stg_orders"), loaded={"raw.orders": 12}, built={"stg_orders": 13, "mart": 9}
    )
    assert found.parents[0].state == "fresh"
    assert "raw.orders was loaded at tick 12" in words(found)


def test_parent_that_was_built_since_for_no_load() -> None:
    found = ask(
        "mart", *SHOP, node("mart", "stg_orders"), loaded={"raw.orders": 5}, built={"stg_orders": 13, "mart": 9}
    )
    assert "mart will build: stg_orders was built at tick 13" in words(found)


def test_load_that_parent_takes_in_only_now() -> None:
    found = ask(
        "mart",
        *SHOP,
        node("mart", "stg_orders", "stg_users"),
        loaded={"raw.orders": 8, "raw.users": 2},
        built={"stg_orders": 5, "stg_users": 9, "mart": 9},
    )
    assert "raw.orders was loaded at tick 8 (2026-10-16 13:01 UTC), and stg_orders (tick 5) builds only now" in words(
        found
    )


def test_path_is_one_along_which_change_flows() -> None:
    # The shortest way, straight from raw.orders, was taken by the last build; the news comes the long way.
    found = ask(
        "mart",
        *SHOP,
        node("int_orders", "stg_orders"),
        node("short", "raw.orders"),
        node("mart", "short", "int_orders"),
        loaded={"raw.orders": 8},
        built={"short": 9, "stg_orders": 5, "int_orders": 5, "mart": 9},
    )
    assert "Path: raw.orders -> stg_orders -> int_orders -> mart" in words(found)


def test_changed_code() -> None:
    found = ask("stg_orders", *SHOP, loaded={"raw.orders": 5}, built={"stg_orders": (9, "old code")})
    assert found.code_changed
    assert [each.kind for each in found.reasons] == ["identity"]
    assert words(found).startswith("stg_orders will build: its code changed since its last good build at tick 9")
    assert "Path" not in words(found)


def test_changed_code_and_new_data() -> None:
    found = ask("stg_orders", *SHOP, loaded={"raw.orders": 12}, built={"stg_orders": (9, "old code")})
    assert "; and its code changed too." in words(found)


def test_changed_code_above() -> None:
    found = ask(
        "mart",
        *SHOP,
        node("mid", "stg_orders"),
        node("mart", "mid"),
        loaded={"raw.orders": 5},
        built={"stg_orders": (9, "old code"), "mid": 9, "mart": 9},
    )
    assert found.changed_above == ("model.shop.stg_orders",)
    assert words(found).startswith("mart will build: stg_orders above it builds: its code changed.")


def test_changed_code_that_is_not_rebuilt() -> None:
    found = ask(
        "stg_orders", *SHOP, loaded={"raw.orders": 5}, built={"stg_orders": (9, "old code")}, rebuild_changed_code=False
    )
    assert found.verdict == "up_to_date"
    assert found.code_changed
    assert "which alone does not build it" in words(found)


def test_view_that_is_passed_through() -> None:
    resources = [source("raw.orders"), node("stg", "raw.orders", materialized="view"), node("mart", "stg")]
    facts: dict[str, Any] = {"loaded": {"raw.orders": 12}, "built": {"stg": 9, "mart": 9}, "views": "pass_through"}
    found = ask("stg", *resources, **facts)
    assert found.verdict == "passed_through"
    assert words(found).startswith(
        "stg is passed through, a view that new data flows through without a build: raw.orders"
    )
    assert ask("mart", *resources, **facts).parents[0].state == "in_plan"


def test_held_by_build_after() -> None:
    found = ask("mart", *SHOP, node("mart", "stg_orders", config=HOURLY), loaded={"raw.orders": 50}, built={"mart": 12})
    assert found.verdict == "held"
    assert explanation_lines(found, NOW)[:2] == [
        "mart is held until 14:05 UTC (in 12 min): freshness.build_after 1 hour since its last good build at 13:05 "
        "UTC.",
        "Waiting for it: raw.orders was loaded at tick 50 (2026-10-16 13:43 UTC).",
    ]
    assert "Path: raw.orders -> stg_orders -> mart" in words(found)
    assert "Policy: updates_on any, build_after 1 hour" in words(found)
    assert (found.builds_when.kind, found.builds_when.not_before) == ("time", at(72))


def test_held_by_lag_tolerance() -> None:
    found = ask(
        "mart", *SHOP, node("mart", "stg_orders", config=LAGGING), loaded={"raw.orders": 48}, built={"mart": 12}
    )
    assert words(found).startswith(
        "mart is held until 17:41 UTC (in 3 h 48 min): state.lag_tolerance 4 hours since data for it began to wait at "
        "13:41 UTC."
    )


def test_held_until_all_parents_are_new() -> None:
    found = ask(
        "mart",
        *SHOP,
        node("fixed", kind="seed"),
        node("mart", "stg_orders", "stg_users", "seed.shop.fixed", config=ALL),
        loaded={"raw.orders": 12, "raw.users": 3},
        built={"stg_orders": 9, "stg_users": 4, "mart": 9},
    )
    text = words(found)
    assert text.startswith(
        "mart is held: it needs new data from all its parents (updates_on: all) and still waits for stg_users (last "
        "new at tick 4)."
    )
    assert "It will build when stg_users has new data. For that, load raw.users." in text
    assert "Path: raw.orders -> stg_orders -> mart" in text
    assert "Path: raw.users -> stg_users -> mart" in text
    assert "fixed (not moving, never built)" in text
    assert (found.builds_when.kind, found.builds_when.waiting_for) == ("all_new", ("model.shop.stg_users",))
    assert [each.state for each in found.sources] == ["pending", "awaited"]


def test_held_until_first_load() -> None:
    found = ask(
        "mart",
        *SHOP,
        source("raw.carts"),
        node("mart", "stg_orders", "raw.carts"),
        loaded={"raw.orders": 12},
        producers=("raw.carts",),
    )
    assert words(found).startswith(
        "mart is held: raw.carts has a producer and was never loaded.\n"
        "Waiting for it: raw.orders was loaded at tick 12 (2026-10-16 13:05 UTC).\n"
        "It will build when raw.carts is loaded."
    )
    assert "Path: raw.carts -> mart" in words(found)


def test_failed_and_blocked_by_what_failed() -> None:
    facts: dict[str, Any] = {"loaded": {"raw.orders": 12}, "failed": ["stg_orders"]}
    resources = (*SHOP, node("mart", "stg_orders"))
    found = ask("stg_orders", *resources, **facts)
    assert "stg_orders is held: it failed in this build, and nothing new came for it since." in words(found)
    found = ask("mart", *resources, **facts)
    assert words(found).startswith("mart is held: it waits for stg_orders, which failed.")
    assert "It will build when stg_orders builds well." in words(found)
    assert found.parents[0].state == "held"


def test_up_to_date() -> None:
    resources = (*SHOP, node("mart", "stg_orders", "stg_users"))
    built = {"stg_orders": 9, "stg_users": 9, "mart": 9}
    found = ask("mart", *resources, loaded={"raw.orders": 5, "raw.users": 3}, built=built)
    assert found.verdict == "up_to_date"
    assert explanation_lines(found, NOW)[0] == (
        "mart is up to date: nothing above it was loaded since its last good build at tick 9 (2026-10-16 13:02 UTC); "
        "it will build when raw.orders or raw.users is loaded next."
    )
    assert "Path: raw.orders -> stg_orders -> mart" in words(found)
    assert found.builds_when.kind == "any_load"


def test_up_to_date_with_policy_says_what_it_will_wait_for() -> None:
    config = {"freshness": {"build_after": {"count": 1, "period": "hour", "updates_on": "all"}}}
    found = ask(
        "mart",
        *SHOP,
        node("mart", "stg_orders", "stg_users", config=config),
        loaded={"raw.orders": 5, "raw.users": 3},
        built={"stg_orders": 9, "stg_users": 9, "mart": 12},
    )
    assert "it will build when all of stg_orders and stg_users have new data (updates_on: all)." in words(found)
    assert "Not before 14:05 UTC (in 12 min): freshness.build_after." in words(found)


def test_up_to_date_because_news_waits_further_up() -> None:
    found = ask(
        "mart",
        *SHOP,
        node("slow", "stg_orders", config=HOURLY),
        node("mart", "slow"),
        loaded={"raw.orders": 50},
        built={"stg_orders": 51, "slow": 12, "mart": 12},
    )
    assert found.verdict == "up_to_date"
    assert words(found).startswith(
        "mart is up to date, but raw.orders was loaded at tick 50 (2026-10-16 13:43 UTC), which has not reached it: it "
        "waits at slow, which is held until 14:05 UTC (in 12 min).\nIt will build when slow builds."
    )
    assert found.builds_when.kind == "upstream_released"


def test_explain_never_built_and_never_loaded() -> None:
    found = ask("stg_orders", *SHOP)
    assert found.verdict == "up_to_date"
    assert explanation_lines(found, NOW)[0] == (
        "stg_orders was never built, and no source above it was ever loaded; it will build when raw.orders is loaded "
        "next."
    )


@pytest.mark.parametrize(
    ("built", "text"),
    [
        ({"fixed": 9}, "fixed is up to date: nothing above it is loaded; it builds when its own code changes."),
        ({}, "fixed was never built, and nothing above it is loaded, so that no load builds it: build it with dbt"),
    ],
)
def test_seed(built: dict[str, int], text: str) -> None:
    found = ask("fixed", *SHOP, node("fixed", kind="seed"), built=built)
    assert words(found).startswith(text)
    assert found.sources == ()


def test_packages_with_one_name_are_told_apart() -> None:
    found = ask(
        "shop.orders",
        source("raw.orders"),
        node("orders", "raw.orders"),
        node("orders", "raw.orders", package="other", depends_on={"nodes": ["source.shop.raw.orders"]}),
        loaded={"raw.orders": 3},
    )
    assert found.names["model.shop.orders"] == "shop.orders"
    assert words(found).startswith("shop.orders will build")


def test_unknown_node() -> None:
    lineage = Lineage.from_manifest(manifest(*SHOP))
    plan = plan_builds(lineage, LedgerSnapshot(), now=NOW)
    with pytest.raises(UnknownNodeError, match=r"no node 'model.shop.stg_order'.*did you mean 'model.shop.stg_orders'"):
        explain(lineage, LedgerSnapshot(), plan, "model.shop.stg_order")


def test_which_part_of_definition_changed() -> None:
    lineage = Lineage.from_manifest(manifest(*SHOP))
    now = lineage.identity_parts("model.shop.stg_orders")
    old = {**now, "macro macro.shop.cents_to_dollars": "0123", "file": "4567"}
    facts: dict[str, Any] = {"loaded": {"raw.orders": 5}, "built": {"stg_orders": (9, "old code")}}
    found = ask("stg_orders", *SHOP, **facts, stored={"stg_orders": old})
    assert words(found).startswith(
        "stg_orders will build: its file changed and macro `cents_to_dollars` is no longer a part of it since its last "
        "good build at tick 9"
    )
    assert [each["part"] for each in found.to_dict()["changes"]["model.shop.stg_orders"]] == [
        "file",
        "macro macro.shop.cents_to_dollars",
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("macro macro.shop.cents_to_dollars", "a", "b"), "macro `cents_to_dollars` changed"),
        (("relation", "db.silver.orders", "db.gold.orders"), "it moved to schema gold"),
        (("relation", "db.silver.orders", "db.gold.sales"), "it moved to db.gold.sales"),
        (("relation", "silver.orders", "gold.orders"), "it moved to gold.orders"),
        (("config materialized", "view", "table"), "it is materialized as table (was view)"),
        (("config unique_key", None, "id"), "config `unique_key` is new to it"),
        (("ephemeral model.shop.eph", "a", "b"), "ephemeral model `eph` changed"),
        (("parents", "a", "b"), "what it reads changed"),
        (("var start_date", "a", "b"), "var `start_date` changed"),
        (("env_var REGION", "a", "b"), "environment variable `REGION` changed"),
    ],
)
def test_parts_in_words(change: tuple[str, str | None, str | None], text: str) -> None:
    assert part_change(PartChange(*change)) == text


def test_explain_debt() -> None:
    facts: dict[str, Any] = {"loaded": {"raw.orders": 5}, "built": {"stg_orders": 9}}
    found = ask("stg_orders", *SHOP, **facts, ledger={"debts": {"model.shop.stg_orders": 11}})
    assert words(found).startswith(
        "stg_orders will build: it was asked for, or a build of it came to no good end, at tick 11."
    )


def test_missing_relation() -> None:
    facts: dict[str, Any] = {"loaded": {"raw.orders": 5}, "built": {"stg_orders": 9}}
    found = ask("stg_orders", *SHOP, **facts, missing_relations=["model.shop.stg_orders"])
    assert words(found).startswith("stg_orders will build: its relation is not in the warehouse.")


def test_prerequisite() -> None:
    resources = (*SHOP, node("mart", "stg_orders", "stg_users"))
    found = ask("stg_users", *resources, loaded={"raw.orders": 5})
    assert words(found).startswith("stg_users will build: it was never built, and mart reads it.")


def test_node_that_fails() -> None:
    failure = Failure(3, at(40), at(55), 55, None, "no such column")
    facts: dict[str, Any] = {"loaded": {"raw.orders": 50}, "ledger": {"failures": {"model.shop.stg_orders": failure}}}
    resources = (*SHOP, node("mart", "stg_orders"))
    found = ask("stg_orders", *resources, **facts)
    assert words(found).startswith(
        "stg_orders is held until 14:28 UTC (in 35 min): it failed 3 times in a row since 13:33 UTC (no such column)."
    )
    assert "New data alone does not build it earlier" in words(found)
    assert (found.builds_when.kind, found.failures) == ("time", 3)
    below = ask("mart", *resources, **facts)
    assert words(below).startswith("mart is held: it waits for stg_orders, which failed.")
    assert below.builds_when.kind == "upstream_fixed"


def test_node_that_is_only_tested() -> None:
    failure = Failure(1, at(10), at(10), 10, None, "unique_id: got 1 result")
    lineage = Lineage.from_manifest(manifest(*SHOP))
    untested = Untested(10, at(10), lineage.identity("model.shop.stg_orders"))
    facts = {
        "failures": {"model.shop.stg_orders": failure},
        "untested": {"model.shop.stg_orders": untested},
    }
    found = ask("stg_orders", *SHOP, loaded={"raw.orders": 9}, ledger=facts)
    assert words(found).startswith(
        "stg_orders will be tested, and not built: what it reads and what it is made of are as in its build at tick 10 "
        "(2026-10-16 13:03 UTC), whose tests did not pass.\n"
        "It failed the last time, at 13:03 UTC: unique_id: got 1 result\n"
    )
    assert (found.verdict, found.builds_when.kind) == ("tests_only", "next_build")
    assert found.to_dict()["failure"] == {
        "count": 1,
        "since": "2026-10-16T13:03:00+00:00",
        "last_at": "2026-10-16T13:03:00+00:00",
        "message": "unique_id: got 1 result",
    }


def test_policy_that_cannot_be_read() -> None:
    bad = node("bad", "stg_orders", config={"state": {"lag_tolerance": "soon"}})
    found = ask("bad", *SHOP, bad, loaded={"raw.orders": 12}, built={"stg_orders": 13, "bad": 9})
    assert "bad is held: config.state.lag_tolerance of model.shop.bad is 'soon'" in words(found)
    assert found.builds_when.kind == "config_fixed"
    below = ask(
        "mart", *SHOP, bad, node("mart", "bad"), loaded={"raw.orders": 12}, ledger={"debts": {"model.shop.mart": 1}}
    )
    assert "it needs bad first, whose config cannot be read" in words(below)


def test_explain_not_built() -> None:
    found = ask(
        "stg_orders", *SHOP, loaded={"raw.orders": 12}, built={"stg_orders": 9}, not_built=["model.shop.stg_orders"]
    )
    assert found.verdict == "not_built"
    assert words(found).startswith("stg_orders is stale, and dbt does not build it as it is called here")


def test_words() -> None:
    assert [span(timedelta(minutes=each)) for each in (1, 60, 90, 2880)] == [
        "1 minute",
        "1 hour",
        "90 minutes",
        "2 days",
    ]
    assert span(timedelta(seconds=90)) == "90 seconds"
    assert listed("abcde") == "a, b, c and 2 more"
    assert listed("ab", "or") == "a or b"
    assert listed([]) == ""
    assert until(NOW + timedelta(days=3), NOW) == "2026-10-19 13:53 UTC (in 3 days)"
    assert until(NOW - timedelta(days=3), NOW).endswith("(now)")
