"""The graph: what is downstream of a source, under which names, and in what order."""

from __future__ import annotations

from typing import Any

import networkx
import pytest

from lineage_orch.errors import LineageError, UnknownNodeError, UnknownSourceError
from lineage_orch.lineage import Lineage
from lineage_orch.plan import plan_graph
from tests.manifests import leaf, manifest, node, source


def lineage_of(*resources: dict[str, Any]) -> Lineage:
    return Lineage.from_manifest(manifest(*resources))


@pytest.fixture
def shop() -> Lineage:
    return lineage_of(
        source("raw.orders"),
        source("raw.users"),
        source("crm.people"),
        source("raw.unused"),
        node("colours", kind="seed"),
        node("stg_orders", "raw.orders"),
        node("stg_users", "raw.users"),
        node("inner", "stg_orders", "seed.shop.colours", materialized="ephemeral"),
        node("mart", "inner", "stg_users"),
        node("history", "stg_orders", kind="snapshot"),
        node("unique_mart", "mart", kind="test"),
        leaf("unit_test", "adds_up", "mart"),
        leaf("semantic_model", "marts", "mart"),
        leaf("metric", "how_many", "semantic_model.shop.marts"),
        leaf("saved_query", "nightly", "metric.shop.how_many"),
        leaf("exposure", "board", "mart", "crm.people"),
    )


# Downstream -----------------------------------------------------------------------------------------------

BELOW_USERS = {
    "model.shop.stg_users",
    "model.shop.mart",
    "test.shop.unique_mart",
    "unit_test.shop.adds_up",
    "semantic_model.shop.marts",
    "metric.shop.how_many",
    "saved_query.shop.nightly",
    "exposure.shop.board",
}


def test_downstream_is_everything_below_source_of_every_type(shop: Lineage) -> None:
    assert shop.downstream("raw.users") == BELOW_USERS
    assert shop.downstream("raw.orders") == BELOW_USERS - {"model.shop.stg_users"} | {
        "model.shop.stg_orders",
        "model.shop.inner",
        "snapshot.shop.history",
    }


def test_downstream_of_several_is_union(shop: Lineage) -> None:
    everything = shop.downstream("raw.users") | shop.downstream("raw.orders")
    assert shop.downstream("raw.users", "raw.orders", "raw.users") == everything
    assert shop.downstream("raw.*") == everything
    assert shop.downstream() == frozenset()


def test_source_with_nothing_below_it(shop: Lineage) -> None:
    assert shop.downstream("raw.unused") == frozenset()
    assert shop.downstream("crm.people") == {"exposure.shop.board"}
    assert shop.selection("raw.unused") == "source:shop.raw.unused+"


def test_source_map_lists_models_parents_first(shop: Lineage) -> None:
    assert shop.source_map() == {
        "source.shop.raw.orders": ("model.shop.stg_orders", "model.shop.inner", "model.shop.mart"),
        "source.shop.raw.users": ("model.shop.stg_users", "model.shop.mart"),
        "source.shop.crm.people": (),
        "source.shop.raw.unused": (),
    }


def test_selection_takes_every_form_of_name_once(shop: Lineage) -> None:
    assert (
        shop.selection("raw.orders", "source.shop.raw.orders", "shop.crm.people")
        == "source:shop.raw.orders+ source:shop.crm.people+"
    )


def test_graph_is_digraph_to_walk(shop: Lineage) -> None:
    assert networkx.descendants(shop.graph, "source.shop.raw.users") == BELOW_USERS
    assert shop.graph.nodes["model.shop.inner"]["resource_type"] == "model"
    shop.graph.remove_node("model.shop.mart")
    assert "model.shop.mart" in shop.downstream("raw.users")


def test_nodes_are_what_dbt_builds(shop: Lineage) -> None:
    assert set(shop.nodes) == {
        "seed.shop.colours",
        "model.shop.stg_orders",
        "model.shop.stg_users",
        "model.shop.mart",
        "snapshot.shop.history",
    }


def test_hub_with_many_children_lists_each_once() -> None:
    names = [f"n{number}" for number in range(200)]
    data = manifest(source("raw.hub"), *(node(each, "raw.hub") for each in names))
    data["child_map"]["source.shop.raw.hub"] = data["child_map"]["source.shop.raw.hub"][:100]
    lineage = Lineage.from_manifest(data)
    assert lineage.graph.out_degree("source.shop.raw.hub") == 200
    assert len(lineage.source_map()["source.shop.raw.hub"]) == 200
    assert all(parents == (0,) for parents in plan_graph(lineage).parents[1:])


def test_chain_of_5000_nodes_is_walked_without_recursion() -> None:
    chain = [node("n0", "raw.orders")]
    for number in range(1, 5000):
        materialized = "ephemeral" if number % 2 else None
        chain.append(node(f"n{number}", f"n{number - 1}", materialized=materialized))
    lineage = lineage_of(*reversed(chain), source("raw.orders"))
    assert len(lineage.downstream("raw.orders")) == 5000
    assert lineage.source_map()["source.shop.raw.orders"][-1] == "model.shop.n4999"
    assert plan_graph(lineage).parents[-1] == (len(plan_graph(lineage).ids) - 2,)


def test_cycle_is_error_that_names_it() -> None:
    lineage = lineage_of(source("raw.orders"), node("a", "raw.orders", "b"), node("b", "a"), node("c", "b"))
    assert lineage.downstream("raw.orders") == {"model.shop.a", "model.shop.b", "model.shop.c"}
    with pytest.raises(LineageError, match=r"cycle: (model\.shop\.[ab]( -> )?){2}"):
        lineage.source_map()


# Names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["raw.orders", "shop.raw.orders", "source.shop.raw.orders"])
def test_source_names_of_every_form(shop: Lineage, name: str) -> None:
    assert shop.resolve_source(name) == "source.shop.raw.orders"


@pytest.mark.parametrize("name", ["raw.*", "shop.raw.*", "source.shop.raw.*"])
def test_wildcard_means_all_tables_of_source(shop: Lineage, name: str) -> None:
    orders, users, unused = (f"source.shop.raw.{each}" for each in ("orders", "users", "unused"))
    assert shop.resolve_sources(name) == (orders, users, unused)
    assert shop.resolve_sources("raw.users", name) == (users, orders, unused)
    with pytest.raises(UnknownSourceError, match="name a table"):
        shop.resolve_source(name)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("raw.order", "'raw.orders'"),
        ("orders", "'raw.orders'"),
        ("shop.raw.odrers", "raw.orders"),
        ("source.shop.raw.odrers", "'source.shop.raw.orders'"),
        ("rav.*", r"'raw\.\*'"),
        ("Raw.Orders", "'raw.orders'"),
        ("zzz", "it has crm.people, raw.orders, raw.unused, raw.users"),
        ("", "raw.orders"),
        ("model.shop.mart", "raw.orders|crm.people"),
    ],
)
def test_wrong_name_is_answered_with_nearest(shop: Lineage, name: str, suggestion: str) -> None:
    with pytest.raises(UnknownSourceError, match=suggestion) as caught:
        shop.downstream(name)
    assert repr(name) in str(caught.value)


def test_project_without_sources_says_so() -> None:
    lineage = lineage_of(node("alone"))
    assert lineage.source_map() == {}
    with pytest.raises(UnknownSourceError, match="no sources at all"):
        lineage.downstream("raw.orders")


NASTY = ["my crm/the table", "r.a.w/t.a.b", "x*/[y]?", "naïve/表", "a,b/c+d", "a:b/c@d"]


@pytest.mark.parametrize("written", NASTY)
def test_nasty_names_resolve_as_they_are_written(written: str) -> None:
    source_name, table = written.split("/")
    lineage = lineage_of(*map(source, NASTY))
    expected = f"source.shop.{source_name}.{table}"
    assert lineage.resolve_source(f"{source_name}.{table}") == expected
    assert lineage.resolve_source(f"shop.{source_name}.{table}") == expected
    assert lineage.resolve_source(expected) == expected
    assert lineage.resolve_sources(f"{source_name}.*") == (expected,)


def test_table_named_star_is_that_table_not_all() -> None:
    lineage = lineage_of(source("raw.*"), source("raw.orders"))
    assert lineage.resolve_sources("raw.*") == ("source.shop.raw.*",)


def test_unique_id_wins_over_other_names() -> None:
    lineage = lineage_of(source("raw.orders"), source("shop/raw.orders", package="source"))
    assert lineage.resolve_source("source.shop.raw.orders") == "source.shop.raw.orders"


def test_source_name_of_two_packages_must_be_qualified() -> None:
    lineage = lineage_of(source("raw.orders"), source("raw.orders", package="other"), source("raw.users"))
    for name in ("raw.orders", "raw.*"):
        with pytest.raises(UnknownSourceError, match="more than one") as caught:
            lineage.downstream(name)
        assert "other.raw" in str(caught.value)
        assert "shop.raw" in str(caught.value)
    assert lineage.resolve_source("other.raw.orders") == "source.other.raw.orders"
    assert lineage.resolve_sources("other.raw.*") == ("source.other.raw.orders",)
    assert len(lineage.resolve_sources("shop.raw.*")) == 2


def test_model_name_of_two_packages_stays_apart() -> None:
    lineage = lineage_of(
        source("raw.orders"),
        node("mart", "raw.orders"),
        node("mart", "source.shop.raw.orders", package="other"),
        node("below", "model.other.mart"),
    )
    assert lineage.downstream("raw.orders") == {"model.shop.mart", "model.other.mart", "model.shop.below"}
    assert lineage.resolve_node("other.mart") == "model.other.mart"
    with pytest.raises(UnknownNodeError, match=r"model\.shop\.mart and model\.other\.mart"):
        lineage.resolve_node("mart")


def test_versions_of_model_stay_apart() -> None:
    lineage = lineage_of(
        source("raw.orders"),
        node("mart", "raw.orders", version=1),
        node("mart", "model.shop.mart.v1", version=2),
        node("single", version=3),
    )
    assert lineage.downstream("raw.orders") == {"model.shop.mart.v1", "model.shop.mart.v2"}
    for name in ("mart.v2", "shop.mart.v2", "model.shop.mart.v2"):
        assert lineage.resolve_node(name) == "model.shop.mart.v2"
    assert lineage.resolve_node("single") == "model.shop.single.v3"
    with pytest.raises(UnknownNodeError, match="more than one"):
        lineage.resolve_node("mart")


def test_wrong_node_name_is_answered_with_nearest(shop: Lineage) -> None:
    assert shop.resolve_node("history") == "snapshot.shop.history"
    with pytest.raises(UnknownNodeError, match="did you mean 'stg_users'"):
        shop.resolve_node("stg_user")


# What the planner walks -----------------------------------------------------------------------------------


def parents(lineage: Lineage, name: str) -> set[str]:
    graph = plan_graph(lineage)
    return {graph.ids[each] for each in graph.parents[graph.index[name]]}


def test_plan_graph_sees_through_ephemeral_models(shop: Lineage) -> None:
    assert parents(shop, "model.shop.mart") == {
        "model.shop.stg_orders",
        "seed.shop.colours",
        "model.shop.stg_users",
    }
    assert "model.shop.inner" not in plan_graph(shop).index


def test_plan_graph_sees_through_chains_of_ephemerals() -> None:
    lineage = lineage_of(
        node("mart", "g2", "g3", "stage"),
        node("g3", "g1", "stage", materialized="ephemeral"),
        node("g2", "g1", materialized="ephemeral"),
        node("g1", "raw.a", "raw.b", materialized="ephemeral"),
        node("stage", "raw.a"),
        source("raw.a"),
        source("raw.b"),
    )
    expected = {"source.shop.raw.a", "source.shop.raw.b", "model.shop.stage"}
    assert parents(lineage, "model.shop.mart") == expected
    assert len(plan_graph(lineage).parents[-1]) == 3


def test_plan_graph_numbers_parents_before_children(shop: Lineage) -> None:
    graph = plan_graph(shop)
    assert graph.ids[: graph.source_count] == tuple(shop.sources)
    assert set(graph.ids[graph.source_count :]) == set(shop.nodes)
    for number, above in enumerate(graph.parents):
        assert all(parent < number for parent in above)


def test_unreadable_policy_is_kept_beside_its_node() -> None:
    lineage = lineage_of(
        node("mart", config={"state": {"lag_tolerance": "soon"}}),
        node("other", config={"state": {"lag_tolerance": "4h"}}),
    )
    graph = plan_graph(lineage)
    assert list(graph.bad_configs) == [graph.index["model.shop.mart"]]
    assert "lag_tolerance of model.shop.mart is 'soon'" in graph.bad_configs[graph.index["model.shop.mart"]]
    assert list(graph.policies) == [graph.index["model.shop.other"]]


def test_plan_graph_of_lineage_is_made_once(shop: Lineage) -> None:
    assert plan_graph(shop) is plan_graph(shop)


def test_tests_on_node_and_what_they_read(shop: Lineage) -> None:
    assert set(shop.tests_on("model.shop.mart")) == {"test.shop.unique_mart", "unit_test.shop.adds_up"}
    assert shop.tested_by("test.shop.unique_mart") == ("model.shop.mart",)
    assert shop.tested_by("test.shop.none_such") == ()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("stg_*", "stg_orders stg_users"),
        ("raw.*", "raw.orders raw.unused raw.users"),
        ("raw.users+", "raw.users stg_users mart"),
        ("shop.stg_orders", "stg_orders"),
        ("+mart", "raw.orders raw.users stg_orders stg_users mart"),
        ("+stg_*", "raw.orders raw.users stg_orders stg_users"),
        ("model.shop.mart", "mart"),
    ],
)
def test_what_people_mean_by_name_or_pattern(name: str, found: str) -> None:
    lineage = lineage_of(
        source("raw.orders"),
        source("raw.users"),
        source("raw.unused"),
        node("stg_orders", "raw.orders"),
        node("stg_users", "raw.users"),
        node("inner", "stg_orders", materialized="ephemeral"),
        node("mart", "inner", "stg_users"),
        node("test_mart", "mart", kind="test"),
    )
    assert {each.split(".", 2)[-1] for each in lineage.named(name)} == set(found.split())


def test_name_that_nothing_goes_by(shop: Lineage) -> None:
    with pytest.raises(UnknownNodeError, match=r"no source or node 'stg_odrers' in .*; did you mean 'stg_orders'"):
        shop.named("stg_odrers")


def test_folders_and_tags() -> None:
    lineage = lineage_of(
        source("raw.orders"),
        node("top", "raw.orders", config={"tags": "alone"}),
        node("deep", "top", folder=["marts", "sales"], version=2, config={"tags": ["a", "b"]}),
        node("inner", "top", materialized="ephemeral", folder=["marts"], config={"tags": None}),
        node("odd", "top", kind="seed", config={"tags": {"a": 1}}),
        node("none", "top", kind="snapshot", config={"tags": 7}),
    )
    assert lineage.folder("model.shop.top") == ("shop",)
    assert lineage.folder("model.shop.deep.v2") == ("shop", "marts", "sales")
    assert lineage.folder("model.shop.inner") == ("shop", "marts")
    assert lineage.tags() == {
        "model.shop.top": ("alone",),
        "model.shop.deep.v2": ("a", "b"),
        "model.shop.inner": (),
        "seed.shop.odd": ("a",),
        "snapshot.shop.none": (),
    }
