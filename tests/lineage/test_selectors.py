"""Selectors as text. That dbt selects with them what it should is shown by ``tests/integration/test_dbt_oracle.py``."""

from __future__ import annotations

from typing import Any

import pytest

from lineage_orch.errors import LineageError
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.records import selectable
from lineage_orch.lineage.selectors import fqn_matches
from tests.manifests import manifest, node, source


def lineage_of(*resources: dict[str, Any]) -> Lineage:
    return Lineage.from_manifest(manifest(*resources))


def node_selector(unique_id: str, *resources: dict[str, Any]) -> str:
    return lineage_of(*resources).selectors.node(unique_id)


# Sources --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "selector"),
    [
        ("raw.orders", "source:shop.raw.orders"),
        ("naïve/表", "source:shop.naïve.表"),
        ("my crm.eu/the table", "source:shop.my?crm?eu.the?table"),
        ("raw/a,b", "source:shop.raw.a?b"),
        ("raw/a+b:c@d", "source:shop.raw.a[+]b[:]c[@]d"),
        ("raw/*[x]?", "source:shop.raw.[*][[]x][?]"),
    ],
)
def test_source_is_written_so_that_dbt_reads_it_as_one_word(name: str, selector: str) -> None:
    lineage = lineage_of(source(name), source("raw.other"))
    (unique_id, _) = lineage.sources
    assert lineage.selectors.source(unique_id) == selector


def test_names_that_one_wildcard_would_confuse_are_kept_apart() -> None:
    lineage = lineage_of(*(source(f"raw/a{mark}b") for mark in " .,+:@x-/*?"))
    selectors = [lineage.selectors.source(each) for each in lineage.sources]
    assert len(set(selectors)) == len(selectors)
    for selector in selectors:
        assert " " not in selector
        assert "," not in selector
        assert selector.count(".") == 2


def test_sources_no_selector_tells_apart_are_error() -> None:
    lineage = lineage_of(source("raw/a\nb"), source("raw/a\tb"))
    with pytest.raises(LineageError, match="rename the table"):
        lineage.selection("source.shop.raw.a\nb")


# Nodes ----------------------------------------------------------------------------------------------------


def test_plain_node_is_its_full_name() -> None:
    assert node_selector("model.shop.a", node("a", folder=["marts"]), node("b")) == "fqn:shop.marts.a"


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([node("b", folder=["a"])], "a folder of that name"),
        ([node("b", folder=["a", "deeper"])], "a folder of that name, further up"),
        ([node("t", kind="test", folder=["a"])], "a folder with tests alone"),
        ([node("a.b")], "a dot in another name splits it like a folder"),
        ([node("a", package="other", folder=["shop"])], "a package with a folder named like ours"),
        ([node("shop.a", package="other")], "a name with a dot that reads like ours"),
        ([node("a", package="other", materialized="ephemeral", folder=["shop"])], "an ephemeral one"),
    ],
)
def test_ambiguous_node_name_is_narrowed(others: list[Any], why: str) -> None:
    lineage = lineage_of(node("a"), *others)
    selector = lineage.selectors.node("model.shop.a")
    assert selector.startswith("fqn:shop.[a]"), why
    fqn = selector.removeprefix("fqn:").split(",")[0]
    built = [each for each in selectable(lineage._manifest.nodes) if each[0] in lineage.nodes]
    matched = {unique_id for unique_id, parts, versioned in built if fqn_matches(fqn, parts, versioned)}
    assert matched == {"model.shop.a"} or ",package:shop" in selector


def test_versions_are_selected_one_by_one() -> None:
    versions = [node("mart", version=1), node("mart", version=10), node("mart_v1"), node("v1", folder=["mart"])]
    lineage = lineage_of(*versions)
    selectors = {lineage.selectors.node(each) for each in lineage.nodes}
    assert len(selectors) == 4
    assert lineage.selectors.node("model.shop.mart.v10") == "fqn:shop.mart.[v]10"


@pytest.mark.parametrize("folder", [["deep", "mart"], ["deep", "mart_of"]])
def test_node_that_dbt_would_take_for_version_is_narrowed(folder: list[str]) -> None:
    """dbt compares the last two parts of any selector with ``name_v1`` of every versioned model."""
    name = {"mart": "v1", "mart_of": "all_v1"}[folder[-1]]
    versioned = node("mart" if name == "v1" else "mart_of_all", version=1)
    lineage = lineage_of(node(name, folder=folder), versioned)
    plain = ".".join(["shop", *folder, name])
    assert fqn_matches(plain, tuple(versioned["fqn"]), True)
    selector = lineage.selectors.node(f"model.shop.{name}").removeprefix("fqn:")
    assert [each[0] for each in selectable(lineage._manifest.nodes) if fqn_matches(selector, each[1], each[2])] == [
        f"model.shop.{name}"
    ]


def test_model_and_snapshot_of_one_name_are_told_apart_by_type() -> None:
    both = node("a", folder=["x"]), node("a", folder=["x"], kind="snapshot")
    assert node_selector("snapshot.shop.a", *both).endswith(",resource_type:snapshot")


def test_nodes_that_no_selector_tells_apart_are_error_with_fix() -> None:
    a_b, c = node("a b"), node("a b")
    c["unique_id"] = "model.shop.c"
    with pytest.raises(LineageError, match="rename one of them"):
        node_selector("model.shop.a b", a_b, c)


@pytest.mark.parametrize("name", ["a.", "!a", "]a", ".a", "a-b", "1", "ü", "a b", "a,b", "a@b", "+a", "a+1", "*"])
def test_selectors_match_their_name_alone(name: str) -> None:
    lineage = lineage_of(node(name), node("axb"), node("xa"), node("other"), node("b", folder=[name]))
    selector = lineage.selectors.node(f"model.shop.{name}")
    fqn, *narrowing = selector.removeprefix("fqn:").split(",")
    matched = {each[0] for each in selectable(lineage._manifest.nodes) if fqn_matches(fqn, each[1], each[2])}
    assert f"model.shop.{name}" in matched
    assert matched == {f"model.shop.{name}"} or narrowing
    assert " " not in selector
