"""What `status` says of each source and node."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from lineage_orch.ledger import Failure, Holder, LedgerSnapshot, Moment, NodeFact, Untested
from lineage_orch.lineage import Lineage
from lineage_orch.plan import plan_builds
from lineage_orch.reports.status import short_names, status
from lineage_orch.reports.tables import Table, plan_parts, plan_to_dict, status_parts
from lineage_orch.reports.wording import short_name
from tests.manifests import manifest, node, source

NOW = datetime(2026, 10, 16, 13, 0, tzinfo=UTC)
HOURLY = {"freshness": {"build_after": {"count": 1, "period": "hour"}}}
LINEAGE = Lineage.from_manifest(
    manifest(
        source("raw.orders"),
        source("raw.users"),
        node("stg_orders", "raw.orders"),
        node("eph", "stg_orders", materialized="ephemeral"),
        node("hourly", "eph", config=HOURLY),
        node("seen", kind="seed"),
        node("stg_users", "raw.users"),
    )
)
SNAPSHOT = LedgerSnapshot(
    tick=7,
    sources={"source.shop.raw.orders": 6},
    nodes={
        "model.shop.hourly": NodeFact(4, NOW),
        "seed.shop.seen": NodeFact(4, NOW),
    },
    producers=frozenset({"source.shop.raw.orders"}),
    source_history={"source.shop.raw.orders": [Moment(2, NOW - timedelta(1)), Moment(6, NOW)]},
)
PLAN = plan_builds(LINEAGE, SNAPSHOT, now=NOW)


def test_sources() -> None:
    rows = status(LINEAGE, SNAPSHOT, PLAN, None).sources
    assert [(each.name, each.tick, each.loaded_at, each.has_producer, each.models_below) for each in rows] == [
        ("raw.orders", 6, NOW, True, 3),
        ("raw.users", 0, None, False, 1),
    ]


def test_nodes() -> None:
    rows = {each.name: each for each in status(LINEAGE, SNAPSHOT, PLAN, None).nodes}
    assert {name: each.state for name, each in rows.items()} == {
        "stg_orders": "due",
        "hourly": "held",
        "seen": "up_to_date",
        "stg_users": "never_built",
    }
    assert rows["hourly"].held is not None
    assert rows["hourly"].held.until == NOW + timedelta(hours=1)
    assert (rows["seen"].tick, rows["seen"].built_at) == (4, NOW)
    assert (rows["stg_users"].tick, rows["stg_users"].built_at) == (0, None)


def test_view_that_is_passed_through() -> None:
    lineage = Lineage.from_manifest(manifest(source("a.b"), node("v", "a.b", materialized="view")))
    snapshot = LedgerSnapshot(2, {"source.shop.a.b": 2}, {"model.shop.v": NodeFact(1, NOW)})
    plan = plan_builds(lineage, snapshot, now=NOW, views="pass_through")
    assert [each.state for each in status(lineage, snapshot, plan, None).nodes] == ["passed_through"]


def test_nodes_that_failed() -> None:
    failed = Failure(2, NOW - timedelta(hours=1), NOW, 7, None, "no such column " * 100)
    untested = Untested(5, NOW, LINEAGE.identity("model.shop.stg_users"))
    snapshot = replace(
        SNAPSHOT,
        sources={"source.shop.raw.orders": 6, "source.shop.raw.users": 1},
        failures={
            "model.shop.stg_orders": failed,
            "model.shop.stg_users": replace(failed, last_at=NOW - timedelta(days=1)),
            "model.shop.gone": failed,
        },
        untested={"model.shop.stg_users": untested},
    )
    plan = plan_builds(LINEAGE, snapshot, now=NOW)
    found = status(LINEAGE, snapshot, plan, None)
    rows = {each.name: each for each in found.nodes}
    assert (rows["stg_orders"].state, rows["stg_users"].state) == ("failing", "tests_only")
    assert {each["name"]: each["failure"] and each["failure"]["count"] for each in found.to_dict()["nodes"]} == {
        "stg_orders": 2,
        "stg_users": 2,
        "hourly": None,
        "seen": None,
    }
    for parts in (status_parts(found, NOW), plan_parts(plan, short_names(LINEAGE), NOW, "build")):
        (table,) = (each for each in parts if isinstance(each, Table) and each.title == "Failed: 2 nodes")
        assert [row[:4] for row in table.rows] == [
            ["stg_orders", "2", "2026-10-16 12:00 UTC", "13:20 UTC (in 20 min)"],
            ["stg_users", "2", "2026-10-16 12:00 UTC", "by the next build"],
        ]
        assert max(len(row[4]) for row in table.rows) == 200
    assert set(plan_to_dict(plan)["failures"]) == {"model.shop.stg_orders", "model.shop.stg_users"}
    assert plan_to_dict(plan)["tests_only"] == ["model.shop.stg_users"]


def test_names_that_no_source_has_and_patterns() -> None:
    snapshot = replace(SNAPSHOT, unresolved={"raw.gone": 9}, producer_patterns=frozenset({"raw.{table}", "crm.*"}))
    found = status(LINEAGE, snapshot, plan_builds(LINEAGE, snapshot, now=NOW), None)
    assert {each.name: each.has_producer for each in found.sources} == {"raw.orders": True, "raw.users": True}
    assert (found.unresolved, found.unmatched) == ({"raw.gone": 9}, ("crm.*",))
    text = "\n".join(part for part in status_parts(found, NOW) if isinstance(part, str))
    assert "With a producer, and never loaded: raw.users." in text
    assert "Loaded, and no source of the manifest: raw.gone (tick 9)." in text
    assert "Declared by a producer, and no source of the manifest: crm.*." in text


def test_node_that_fails() -> None:
    failure = Failure(1, NOW, NOW, 7, None, "no")
    snapshot = replace(SNAPSHOT, failures={"model.shop.stg_orders": failure})
    rows = status(LINEAGE, snapshot, plan_builds(LINEAGE, snapshot, now=NOW), None).nodes
    assert {each.name: each.state for each in rows}["stg_orders"] == "failing"
    assert {each.name: each.state for each in rows}["hourly"] == "held"


def test_json() -> None:
    holder = Holder("process 1 on host", NOW)
    data = json.loads(json.dumps(status(LINEAGE, SNAPSHOT, PLAN, holder).to_dict()))
    assert data["tick"] == 7
    assert data["holder"] == {"who": "process 1 on host", "since": "2026-10-16T13:00:00+00:00"}
    assert data["next_due"] == "2026-10-16T14:00:00+00:00"
    assert data["sources"][0]["loaded_at"] == "2026-10-16T13:00:00+00:00"
    held = next(each["held"] for each in data["nodes"] if each["state"] == "held")
    assert held == {"reason": "build_after", "waiting_for": [], "until": "2026-10-16T14:00:00+00:00", "detail": None}


def test_load_whose_time_is_no_longer_kept() -> None:
    snapshot = LedgerSnapshot(9, {"source.shop.raw.orders": 3})
    row = status(LINEAGE, snapshot, plan_builds(LINEAGE, snapshot, now=NOW), None).sources[0]
    assert (row.tick, row.loaded_at) == (3, None)


def test_short_names_are_qualified_where_ambiguous() -> None:
    lineage = Lineage.from_manifest(
        manifest(
            source("raw.orders"),
            source("raw.users"),
            source("raw.users", package="other"),
            node("orders"),
            node("orders", package="other"),
            node("alone"),
            node("dim", version=1),
            node("dim", version=2),
        )
    )
    assert sorted(short_names(lineage).values()) == [
        "alone",
        "dim.v1",
        "dim.v2",
        "other.orders",
        "other.raw.users",
        "raw.orders",
        "shop.orders",
        "shop.raw.users",
    ]
    for unique_id, name in short_names(lineage).items():
        resolve = lineage.resolve_source if unique_id.startswith("source.") else lineage.resolve_node
        assert resolve(name) == unique_id


def test_short_names_of_what_is_no_node() -> None:
    assert short_name("test.shop.not_null_orders_id.0a1b2c", {}) == "not_null_orders_id"
    assert short_name("test.shop.singular", {}) == "singular"
    assert short_name("source.shop.raw.gone", {}) == "raw.gone"
