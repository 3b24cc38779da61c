"""Which relation a source or node is, and models of other dbt projects among the sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineage_orch.lineage import Lineage
from lineage_orch.lineage.relations import relation_key
from lineage_orch.plan import plan_graph
from lineage_orch.reports.status import short_names

LOOM = Path(__file__).parent / "fixtures" / "dbt_loom_manifest.json"
"""What dbt 1.11 wrote of a project whose ``mart`` reads ``ref('core', 'fct_orders')`` through dbt-loom 0.9.6."""
ORDERS, TOP, MART = "model.core.fct_orders", "model.core.fct_top", "model.marketing.mart"


@pytest.mark.parametrize(
    ("adapter", "one", "other", "same"),
    [
        ("duckdb", '"W"."main"."Orders"', "w.main.orders", True),
        ("postgres", '"w"."public"."orders"', "w.PUBLIC.Orders", True),
        ("postgres", '"w"."public"."Orders"', '"w"."public"."orders"', False),
        ("snowflake", "ANALYTICS.public.orders", '"ANALYTICS"."PUBLIC"."ORDERS"', True),
        ("snowflake", "analytics.public.orders", '"ANALYTICS"."PUBLIC"."orders"', False),
        ("bigquery", "`p-1`.`d`.`Orders`", "p-1.d.Orders", True),
        ("bigquery", "`p-1`.`d`.`Orders`", "`p-1`.`d`.`orders`", False),
        ("sqlserver", "[W].[dbo].[a.b]", '"w"."dbo"."a.b"', True),
        ("spark", "gold.orders", "`gold`.`Orders`", True),
        (None, '"w"."say ""hi"""."t"', '"W"."say ""hi"""."T"', True),
        ("postgres", '"w"."a"."t"', '"w"."b"."t"', False),
    ],
)
def test_one_table_in_two_spellings(adapter: str | None, one: str, other: str, same: bool) -> None:
    assert (relation_key(one, adapter) == relation_key(other, adapter)) is same


def test_keys_of_two_adapters_that_read_one_table() -> None:
    assert relation_key("DB.S.ORDERS", "snowflake") == relation_key('"db"."s"."orders"', "trino") == "db.s.orders"


def test_model_of_another_project_is_a_source_here() -> None:
    lineage = Lineage.from_manifest(LOOM)
    assert set(lineage.sources) == {ORDERS, TOP}
    assert set(lineage.nodes) == {MART}
    keys = [lineage.relation_key(each) for each in (ORDERS, TOP, MART)]
    assert keys == ["w.main.fct_orders", "w.main.fct_top", "w.main.mart"]
    assert lineage.resolve_source("core.fct_orders") == ORDERS
    assert short_names(lineage)[ORDERS] == "core.fct_orders"
    graph = plan_graph(lineage)
    assert [graph.ids[each] for each in graph.parents[graph.index[MART]]] == [ORDERS]
    assert lineage.identity_parts(MART)["parents"]
    # As dbt itself selects it: tried with dbt 1.11.
    assert lineage.selection(ORDERS) == "fqn:core.[f]ct_orders+"


def test_model_without_file_that_no_project_builds() -> None:
    """What dumps of other tools leave out says nothing."""
    bare = {"model.shop.m": {"name": "m", "config": {"materialized": "table"}}}
    lineage = Lineage.from_manifest({"metadata": {}, "nodes": bare})
    assert set(lineage.nodes) == {"model.shop.m"}
    assert lineage.relation_key("model.shop.m") is None
