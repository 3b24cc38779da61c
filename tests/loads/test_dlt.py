"""What a load of dlt has filled, asked of dlt itself over a DuckDB file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.errors import ProducerError
from lineage_orch.loads.dlt import sources_of

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Load these into a warehouse with a pipeline of dlt; gives its load_info."""
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.chdir(tmp_path)
    import dlt

    pipeline = dlt.pipeline(
        "shop",
        destination=dlt.destinations.duckdb(str(tmp_path / "shop.duckdb")),
        dataset_name="raw",
        pipelines_dir=str(tmp_path / "pipelines"),
    )
    return lambda *resources: pipeline.run(list(resources))


def resource(name: str, *rows: dict[str, Any], how: Any = "append") -> Any:
    import dlt

    return dlt.resource(list(rows), name=name, write_disposition=how, primary_key="id")


ORDER = {"id": 1, "lines": [{"sku": "a"}]}


def test_only_tables_of_the_load_package(run: Callable[..., Any]) -> None:
    first = run(resource("Orders", ORDER), resource("customers", {"id": 1}), resource("nothing"))
    assert sources_of(first) == ("raw.customers", "raw.orders", "raw.orders__lines")
    assert sources_of(first, source_name="crm", tables=["orders", "customers"]) == ("crm.customers", "crm.orders")
    assert sources_of(run(resource("customers", {"id": 2}))) == ("raw.customers",)
    # No lines came this time.
    assert sources_of(run(resource("Orders", {"id": 2}))) == ("raw.orders",)
    assert sources_of(run(resource("nothing"))) == ()


@pytest.mark.parametrize(("how", "rows"), [("replace", ()), ("merge", ({"id": 1},))])
def test_nested_table_loses_its_rows_with_its_parent(run: Callable[..., Any], how: str, rows: Any) -> None:
    run(resource("orders", ORDER, how=how))
    assert sources_of(run(resource("orders", *rows, how=how))) == ("raw.orders", "raw.orders__lines")


def test_each_schema_has_its_source_name(run: Callable[..., Any]) -> None:
    import dlt

    crm = dlt.source(lambda: resource("accounts", {"id": 1}), name="crm")
    erp = dlt.source(lambda: resource("bookings", {"id": 1}), name="erp")
    info = run(crm(), erp())
    names = {"crm": "salesforce", "erp": "sap", "shop": "raw"}
    assert sources_of(info, source_name=names) == ("salesforce.accounts", "sap.bookings")
    with pytest.raises(ProducerError, match="no source name for the schema 'erp' of dlt"):
        sources_of(info, source_name={"crm": "salesforce"})


def test_what_is_no_load_info_is_named() -> None:
    with pytest.raises(ProducerError, match=r"takes what pipeline\.run\(\) of dlt returns, got NoneType"):
        sources_of(None)
