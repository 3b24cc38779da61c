"""The dbt that builds nothing ends its nodes and tests as a real one does (asked of dbt 1.11 on DuckDB)."""

from __future__ import annotations

from lineage_orch.dbt.engine import Result
from lineage_orch.lineage import Lineage
from lineage_orch.testing import FakeDbt
from tests.manifests import leaf, manifest, node, source

LINEAGE = Lineage.from_manifest(
    manifest(
        source("raw.orders"),
        node("a", "raw.orders"),
        node("b", "a"),
        node("c", "b"),
        node("d", "a"),
        node("unique_b", "b", kind="test"),
        node("values_d", "d", kind="test"),
        node("relationships_d_b", "d", "b", kind="test"),
        leaf("unit_test", "u_b", "b", fqn=["shop", "b", "u_b"]),
    )
)


def statuses(*failing: str) -> dict[str, str]:
    heard: list[Result] = []
    outcome = FakeDbt(LINEAGE, failing=failing).build(["source:shop.raw.orders+"], [], heard.append)
    assert list(outcome.results) == heard
    return {each.unique_id.split(".", 2)[2]: each.status for each in heard}


def test_failed_unit_test_skips_its_model_and_all_below() -> None:
    ended = statuses("unit_test.shop.u_b", "test.shop.values_d")
    assert ended == {
        "a": "success",
        "u_b": "fail",
        "b": "skipped",
        "unique_b": "skipped",
        "c": "skipped",
        "d": "success",
        "values_d": "fail",
        "relationships_d_b": "skipped",
    }
    assert list(ended).index("u_b") < list(ended).index("b")


def test_where_nothing_fails() -> None:
    ended = statuses()
    assert set(ended.values()) == {"success", "pass"}
    assert list(ended).index("u_b") < list(ended).index("b") < list(ended).index("unique_b")


def test_below_failed_test_all_is_skipped() -> None:
    ended = statuses("test.shop.unique_b")
    assert (ended["b"], ended["unique_b"], ended["c"]) == ("success", "fail", "skipped")


def test_relation_is_missing_until_its_node_is_built() -> None:
    dbt = FakeDbt(LINEAGE, missing=["model.shop.a", "model.other.gone"])
    assert dbt.missing_relations(LINEAGE) == {"model.shop.a"}
    dbt.build(["source:shop.raw.orders+"], [], lambda _: None)
    assert dbt.missing_relations(LINEAGE) == frozenset()
