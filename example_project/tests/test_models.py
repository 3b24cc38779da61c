"""The models: which are downstream of which source, when they are held, and what dbt really builds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
from ints.dummyjson_products.flows.api import export as export_products
from ints.finance_targets.write_targets import write_targets

from lineage_orch import Ledger, Lineage, LineageOrchSettings, Orchestrator, SourceUpdate, plan_builds
from lineage_orch.testing import check_project
from lineage_orch.testing.project_copy import ProjectCopy

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_sources_have_one_producer_each(lineage_orch_settings: LineageOrchSettings, lineage: Lineage) -> None:
    loads = Path(__file__).parents[1] / "ints"

    # The targets are written by a script that reports nothing: `lineage-orch observe` sees that.
    ignore = ["source-without-producer:finance.*"]
    assert check_project(lineage_orch_settings, producers=[loads], lineage=lineage, strict=True, ignore=ignore) == []


def test_department_spend_needs_no_products(lineage: Lineage) -> None:
    assert "model.ints.mart_department_spend" not in lineage.downstream("external_sources.raw_products")


def test_mart_of_two_sources_waits_for_first_load_of_both(lineage: Lineage, ledger: Ledger) -> None:
    products, carts = lineage.resolve_sources("external_sources.raw_products", "external_sources.raw_carts")
    ledger.register_producers([products, carts])
    ledger.record_updates([SourceUpdate(products, "first load", NOON)])

    plan = plan_builds(lineage, ledger.snapshot(), now=NOON)

    assert "model.ints.stage_dummyjson__products" in plan.build
    assert plan.held["model.ints.mart_product_sales"].waiting_for == (carts,)


def test_products_are_built_by_dbt(
    orchestrator: Orchestrator, lineage_orch_copy: ProjectCopy, prefect_server: None
) -> None:
    export_products()  # loads, and dbt builds into a warehouse of this test alone

    assert orchestrator.plan().is_empty
    with duckdb.connect(str(lineage_orch_copy.warehouse), read_only=True) as warehouse:
        assert warehouse.execute("select count(*) from stage_dummyjson__products").fetchone() == (120,)
        tables = warehouse.execute("select table_name from information_schema.tables").fetchall()
    assert ("mart_price_history",) in tables
    assert ("stage_dummyjson__carts",) not in tables


def test_targets_are_observed_and_built(
    orchestrator: Orchestrator, lineage_orch_copy: ProjectCopy, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    write_targets(age=timedelta(minutes=5))

    assert set(orchestrator.observe().recorded) == {"source.ints.finance.targets"}
    assert orchestrator.build().built == ["model.ints.mart_department_targets"]
    assert orchestrator.observe().recorded == {}  # nothing was written since
    with duckdb.connect(str(lineage_orch_copy.warehouse), read_only=True) as warehouse:
        assert warehouse.execute("select count(*) from mart_department_targets").fetchone() == (5,)
