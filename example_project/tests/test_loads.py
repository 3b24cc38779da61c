"""What each load sets off: the flows run for real, dbt does not."""

from __future__ import annotations

import pytest
from ints.dummyjson_carts.flows.api import export as export_carts
from ints.dummyjson_posts.flows.api import export as export_posts
from ints.dummyjson_products.flows.api import export as export_products
from ints.dummyjson_users.flows.api import export as export_users

from lineage_orch.testing import Triggered


def test_products_build_what_is_downstream_and_nothing_else(triggered: Triggered) -> None:
    assert export_products() == 120

    triggered.assert_builds(
        {
            "stage_dummyjson__products",
            "snapshot_product_prices",
            "mart_price_history",
            "stage_dummyjson__reviews",
            "mart_yearly_ratings",
            "mart_product_sales",
            "mart_customer_revenue",
        }
    )
    assert triggered.select == "source:ints.external_sources.raw_products+"


@pytest.mark.produces("external_sources.raw_carts")
def test_carts_are_loaded() -> None:
    assert export_carts() == 80


def test_loads_together_build_each_model_once(triggered: Triggered) -> None:
    export_carts()
    export_users()

    assert triggered.sources == {"external_sources.raw_carts", "external_sources.raw_users"}
    assert "mart_department_spend" in triggered.models  # it is downstream of both
    assert "stage_dummyjson__products" not in triggered.models


def test_posts_come_by_a_pipeline_of_dlt(triggered: Triggered) -> None:
    assert export_posts() == 40

    triggered.assert_builds({"stage_dummyjson__posts", "mart_customer_posts"})


def test_load_that_fails_builds_nothing(triggered: Triggered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUMMYJSON_BASE_URL", "http://127.0.0.1:9")  # no server listens there

    assert export_users(return_state=True).is_failed()

    triggered.assert_builds_nothing()
