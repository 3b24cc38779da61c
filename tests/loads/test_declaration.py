"""What a declared name means: plain names, wildcards and templates."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone

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
from lineage_orch.updates import Window

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
    assert declaration.needs_parameters
    assert declaration.filled({"table": "orders"}) == ("crm.orders", "erp.*")
    with pytest.raises(ProducerError, match="not known here"):
        declaration.filled({})
    assert not Declaration.of("crm.*").needs_parameters


@pytest.mark.parametrize("name", ["crm.{table:d}", "crm.{table!z}", "crm.{table:{table}}"])
def test_format_that_value_does_not_have_is_told_with_source(name: str) -> None:
    declaration = Declaration.of(name)
    declaration.check_parameters("load", ["table"])
    with pytest.raises(ProducerError, match=rf"the source '{re.escape(name)}' cannot be read: .*table = 'orders'"):
        declaration.filled({"table": "orders"})
    with pytest.raises(ProducerError, match=r"holds \{width\}, and 'load' has no parameter"):
        Declaration.of("crm.{table:{width}}").check_parameters("load", ["table"])


def test_declarations_of_one_producer_are_one() -> None:
    both = Declaration.of("a.b", shared=True) | Declaration.of("c.d", "a.b")
    assert both == Declaration(("a.b", "c.d"), shared=True)


def test_declarations_of_searched_modules_are_forgotten() -> None:
    before = declared_sources()
    with registered_meanwhile_forgotten():
        register(Declaration.of("looked.at"), "load")
        assert "looked.at" in declared_sources()
    assert declared_sources() == before


# The window of a run ---------------------------------------------------------------------------------------------


def test_window_is_what_parameters_of_run_say() -> None:
    declaration = Declaration.of("crm.orders", window=("since", "until"))
    assert declaration.needs_parameters
    assert str(declaration.window_in({"since": date(2026, 3, 1), "until": "2026-03-02"})) == "2026-03-01 to 2026-03-02"
    east = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert declaration.window_in({"since": east, "until": "2026-03-01T12:00:00Z"}) == Window(
        datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 1, 12, tzinfo=UTC)
    )
    assert declaration.window_in({"since": None, "until": "2026-03-02"}) is None
    assert Declaration.of("crm.orders").window_in({}) is None


@pytest.mark.parametrize(
    "values", [("2026-03-02", "2026-03-01"), ("2026-03-01", "2026-03-01"), ("yesterday", "2026-03-01")]
)
def test_parameters_that_are_no_window_are_named(values: tuple[str, str]) -> None:
    declaration = Declaration.of("crm.orders", window=("since", "until"))
    with pytest.raises(ProducerError, match=f"since = '{values[0]}'"):
        declaration.window_in(dict(zip(("since", "until"), values, strict=True)))


def test_window_names_parameters_of_its_producer() -> None:
    with pytest.raises(ProducerError, match=r"names the parameter 'until', and 'load' has none.*it has: since"):
        Declaration.of("crm.orders", window=("since", "until")).check_parameters("load", ["since"])
    for wrong in ("since", ("since",), ("since", 1)):
        with pytest.raises(ProducerError, match="names of two parameters"):
            Declaration.of("crm.orders", window=wrong)  # type: ignore[arg-type]
    with pytest.raises(ProducerError, match="stands twice"):
        _ = Declaration.of("a.b", window=("since", "until")) | Declaration.of("c.d")
