"""What a declared name means: plain names, wildcards and templates."""

from __future__ import annotations

import pytest

from lineage_orch import ProducerError
from lineage_orch.loads.declaration import (
    Declaration,
    can_mean,
    covers,
    declared_sources,
    register,
    registered_meanwhile_forgotten,
)

ORDERS = "source.shop.crm.orders"


@pytest.mark.parametrize(
    "name",
    [
        "crm.orders",
        "shop.crm.orders",
        ORDERS,
        "crm.*",
        "shop.crm.*",
        "source.shop.crm.*",
        "crm.{table}",
        "crm.ord{rest}",
        "{schema}.orders",
        "{schema}.{table}",
        "shop.{schema}.{table}",
        "{schema}.*",
        "{source}",
    ],
)
def test_name_can_mean_source(name: str) -> None:
    assert can_mean(name, ORDERS)


@pytest.mark.parametrize(
    "name",
    [
        "crm.order",
        "erp.orders",
        "other.crm.orders",
        "shop.*",  # a package is no source
        "shop.{table}",
        "erp.{table}",
        "crm.{table}_v2",
        "cr.*",
        "crm.{",  # no name that a decorator lets through
    ],
)
def test_name_cannot_mean_source(name: str) -> None:
    assert not can_mean(name, ORDERS)


def test_marked_name_is_covered_however_much_of_it_is_spelled() -> None:
    for declared in ("crm.orders", "shop.crm.orders", ORDERS, "crm.*", "shop.crm.*"):
        for marked in ("crm.orders", "shop.crm.orders", ORDERS):
            assert covers(declared, marked)
        for marked in ("orders", "erp.orders"):
            assert not covers(declared, marked)


def test_template_is_filled_and_wildcard_stays() -> None:
    declaration = Declaration.of("crm.{table}", "erp.*", "crm.orders")
    assert declaration.has_templates
    assert declaration.filled({"table": "orders"}) == ("crm.orders", "erp.*")
    with pytest.raises(ProducerError, match="not known here"):
        declaration.filled({})
    assert not Declaration.of("crm.*").has_templates


def test_declarations_of_one_producer_are_one() -> None:
    both = Declaration.of("a.b", shared=True) | Declaration.of("c.d", "a.b")
    assert both == Declaration(("a.b", "c.d"), shared=True)


def test_declarations_of_searched_modules_are_forgotten() -> None:
    before = declared_sources()
    with registered_meanwhile_forgotten():
        register(Declaration.of("looked.at"), "load")
        assert "looked.at" in declared_sources()
    assert declared_sources() == before
