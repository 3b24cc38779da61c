"""Which source a flow seems to load, by names."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineage_orch.check.suggest import suggest
from lineage_orch.lineage.records import SourceTable
from lineage_orch.loads.written import WrittenFlow

HERE = Path("/repo")


def flow(function: str, file: str = "loads.py", *texts: str, name: str = "") -> WrittenFlow:
    return WrittenFlow(function, name or function.replace("_", "-"), HERE / file, 1, None, frozenset(texts), False)


def table(name: str) -> SourceTable:
    source_name, _, table = name.partition(".")
    return SourceTable(f"source.shop.{name}", "shop", source_name, table)


CASES = {
    "the name of the table is a text in it": (
        [flow("export", "ints/products/api.py", "raw_products"), flow("export", "ints/carts/api.py", "raw_carts")],
        ["ext.raw_products", "ext.raw_carts"],
        {0: ("ext.raw_products",), 1: ("ext.raw_carts",)},
    ),
    "its words are in the flow's name, in whatever number": (
        [flow("load_order"), flow("sync", name="Customers to warehouse")],
        ["raw.orders", "raw.stg_customer"],
        {0: ("raw.orders",), 1: ("raw.stg_customer",)},
    ),
    "or in its path": ([flow("main", "crm/accounts.py")], ["crm.accounts"], {0: ("crm.accounts",)}),
    "of two flows the one whose name says less else": (
        [flow("load_orders"), flow("load_order_items")],
        ["raw.orders", "raw.order_items"],
        {0: ("raw.orders",), 1: ("raw.order_items",)},
    ),
    "of two sources with a table of one name the one that is named": (
        [flow("load_orders", "shopify/api.py")],
        ["netsuite.orders", "shopify.orders"],
        {0: ("shopify.orders",)},
    ),
    "two flows that fit alike: none": ([flow("orders_a"), flow("orders_b")], ["raw.orders"], {}),
    "nothing fits": ([flow("load_weather")], ["raw.orders"], {}),
    "common words alone say nothing": ([flow("load_raw_data")], ["erp.raw_data"], {}),
    "all tables of a source": (
        [flow("sync_crm")],
        ["crm.accounts", "crm.contacts"],
        {0: ("crm.*",)},
    ),
    "many tables of a source, each by its name": (
        [flow("sync", "loads.py", "a", "b", "c", "d")],
        ["crm.a", "crm.b", "crm.c", "crm.d"],
        {0: ("crm.*",)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_suggestions(case: str) -> None:
    flows, tables, expected = CASES[case]
    assert suggest(flows, map(table, tables), HERE) == {flows[number]: names for number, names in expected.items()}
