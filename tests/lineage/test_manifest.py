"""Reading manifest.json: what is accepted in any shape, and what is refused with the file and the mend named."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.errors import ManifestError
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.manifest import _manifest_in_pieces, read_manifest
from lineage_orch.lineage.records import ManifestWarning
from tests.manifests import leaf, manifest, node, source

BELOW = {"model.shop.stage", "model.shop.mart", "test.shop.unique", "exposure.shop.board"}


@pytest.fixture
def shop() -> dict[str, Any]:
    return manifest(
        source("raw.orders"),
        node("stage", "raw.orders"),
        node("mart", "stage"),
        node("unique", "mart", kind="test"),
        leaf("exposure", "board", "mart"),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "target folder" / "manifest.json"


def write(path: Path, data: bytes | str | dict[str, Any] | list[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    if isinstance(data, dict | list):
        data = json.dumps(data)
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return path


def edges(lineage: Lineage) -> set[tuple[str, str]]:
    return set(lineage.graph.edges)


# Refused --------------------------------------------------------------------------------------------------

WHOLE = json.dumps(manifest(source("raw.orders"), node("stage", "raw.orders")))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is not JSON"),
        (WHOLE[: len(WHOLE) // 2], "cut off after"),
        (WHOLE[:-1], "cut off after"),
        ("not json at all", "is not JSON"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n", "git lfs pull"),
        (gzip.compress(WHOLE.encode()), "gzip"),
        (b"\xff\xfe{\x00}\x00", "is not JSON"),
        ("[]", "JSON list|Expected `object`"),
        ("null", "no dbt manifest"),
        ('"manifest"', "no dbt manifest"),
        ("{}", "no dbt manifest"),
        ('{"metadata": {}, "sources": {}}', "nodes"),
        ('{"nodes": {}}', "neither `metadata` nor `sources`"),
        ('{"nodes": [], "metadata": {}}', "nodes"),
        ('{"nodes": null, "sources": {}}', "nodes"),
        ('{"nodes": {"model.a.b": 3}, "sources": {}}', "no dbt manifest"),
    ],
)
def test_file_that_is_no_manifest_is_refused_with_path(path: Path, data: Any, says: str) -> None:
    write(path, data)
    with pytest.raises(ManifestError, match=says) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_missing_file_says_how_to_make_it(path: Path) -> None:
    with pytest.raises(ManifestError, match="dbt parse") as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is a folder"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("artifact", ["catalog", "run-results", "sources"])
def test_another_artifact_of_dbt_is_refused(path: Path, artifact: str) -> None:
    schema = f"https://schemas.getdbt.com/dbt/{artifact}/v1.json"
    data = {"metadata": {"dbt_schema_version": schema}, "nodes": {}, "sources": {}, "results": []}
    with pytest.raises(ManifestError, match=f"/{artifact}/"):
        read_manifest(write(path, data))


@pytest.mark.parametrize("data", [{}, {"nodes": {}}, {"nodes": 3, "metadata": {}}])
def test_dict_that_is_no_manifest_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="passed in"):
        read_manifest(data)


# Accepted -------------------------------------------------------------------------------------------------


def same(shop: dict[str, Any]) -> dict[str, Any]:
    return shop


def no_child_map(shop: dict[str, Any]) -> dict[str, Any]:
    del shop["child_map"]
    return shop


def null_child_map(shop: dict[str, Any]) -> dict[str, Any]:
    return {**shop, "child_map": None}


def only_parents_in_child_map(shop: dict[str, Any]) -> dict[str, Any]:
    return {**shop, "child_map": {parent: each for parent, each in shop["child_map"].items() if each}}


def null_lists_in_child_map(shop: dict[str, Any]) -> dict[str, Any]:
    return {**shop, "child_map": {parent: each or None for parent, each in shop["child_map"].items()}}


def half_a_child_map(shop: dict[str, Any]) -> dict[str, Any]:
    return {**shop, "child_map": {"source.shop.raw.orders": ["model.shop.stage"]}}


def only_a_child_map(shop: dict[str, Any]) -> dict[str, Any]:
    for each in (*shop["nodes"].values(), *shop["exposures"].values()):
        del each["depends_on"]
    return shop


def metadata_last(shop: dict[str, Any]) -> dict[str, Any]:
    return {key: shop[key] for key in sorted(shop, key=lambda key: (key == "metadata", key))}


def no_metadata(shop: dict[str, Any]) -> dict[str, Any]:
    del shop["metadata"]
    return shop


def null_sections(shop: dict[str, Any]) -> dict[str, Any]:
    return {**shop, "metrics": None, "semantic_models": None, "saved_queries": None, "unit_tests": None}


def old_and_small(shop: dict[str, Any]) -> dict[str, Any]:
    """Like v4: fewer sections, fewer fields, an operation among the nodes."""
    for key in ("semantic_models", "saved_queries", "unit_tests"):
        del shop[key]
    shop["metadata"]["dbt_schema_version"] = "https://schemas.getdbt.com/dbt/manifest/v4.json"
    for each in shop["nodes"].values():
        del each["version"], each["original_file_path"], each["checksum"]
        del each["resource_type"]
    shop["nodes"]["operation.shop.hook-0"] = {"depends_on": {"nodes": []}}
    del shop["exposures"]["exposure.shop.board"]["config"]
    return shop


def from_the_future(shop: dict[str, Any]) -> dict[str, Any]:
    shop["metadata"] |= {"dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v20.json", "new": [1]}
    shop["nodes"]["model.shop.mart"] |= {"new_field": {"a": [None]}, "version": 2}
    return {**shop, "new_section": {"a": 1}}


@pytest.mark.parametrize(
    "shape",
    [
        same,
        no_child_map,
        null_child_map,
        only_parents_in_child_map,
        null_lists_in_child_map,
        half_a_child_map,
        only_a_child_map,
        metadata_last,
        no_metadata,
        null_sections,
        old_and_small,
        from_the_future,
    ],
)
def test_closure_is_same_in_every_shape(shop: dict[str, Any], path: Path, shape: Any) -> None:
    data = shape(shop)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_dict = Lineage.from_manifest(data)
        from_path = Lineage.from_manifest(write(path, data))
        from_text = Lineage.from_manifest(str(path))
    for lineage in (from_dict, from_path, from_text):
        assert lineage.downstream("raw.orders") == BELOW
        assert list(lineage.nodes) == ["model.shop.stage", "model.shop.mart"]
        assert edges(lineage) == edges(from_dict)


@pytest.mark.parametrize(
    "text",
    ['{"a": NaN}', '{"a": [Infinity, -Infinity]}', '{"a": "\\ud800"}'],
)
def test_json_as_python_writes_it_is_read(shop: dict[str, Any], path: Path, text: str) -> None:
    whole = json.dumps(shop)
    write(path, whole[:-1] + ', "docs": ' + text + "}")
    assert Lineage.from_manifest(path).downstream("raw.orders") == BELOW


def test_byte_order_mark_is_read_over(shop: dict[str, Any], path: Path) -> None:
    write(path, b"\xef\xbb\xbf" + json.dumps(shop).encode())
    assert Lineage.from_manifest(path).downstream("raw.orders") == BELOW


def test_empty_project_is_no_error(path: Path) -> None:
    lineage = Lineage.from_manifest(write(path, manifest()))
    assert not lineage.sources
    assert not lineage.nodes
    assert lineage.source_map() == {}


# Disabled, and edges to nowhere ---------------------------------------------------------------------------


def test_disabled_nodes_never_appear_and_need_no_warning(shop: dict[str, Any]) -> None:
    shop["nodes"]["model.shop.stage"]["config"]["enabled"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lineage = Lineage.from_manifest(shop)
    assert "model.shop.stage" not in lineage.graph
    assert lineage.downstream("raw.orders") == set()
    assert list(lineage.nodes) == ["model.shop.mart"]


def test_disabled_sources_and_exposures_never_appear(shop: dict[str, Any]) -> None:
    off = source("raw.off", config={"enabled": False})
    shop["sources"][off["unique_id"]] = off
    shop["exposures"]["exposure.shop.board"]["config"]["enabled"] = False
    lineage = Lineage.from_manifest(shop)
    assert list(lineage.sources) == ["source.shop.raw.orders"]
    assert "exposure.shop.board" not in lineage.downstream("raw.orders")


def test_unknown_edges_are_dropped_with_one_warning(shop: dict[str, Any], path: Path) -> None:
    """As dbt writes them for a disabled parent: in ``depends_on`` of the child, and in ``child_map``."""
    shop["nodes"]["model.shop.mart"]["depends_on"]["nodes"] += ["model.shop.gone", "source.shop.raw.gone"]
    shop["child_map"]["model.shop.gone"] = ["model.shop.mart"]
    shop["child_map"]["source.shop.raw.gone"] = ["model.shop.mart"]
    shop["child_map"]["model.shop.mart"].append("model.shop.lost")
    with pytest.warns(ManifestWarning) as caught:
        lineage = Lineage.from_manifest(write(path, shop))
    (warning,) = caught
    assert "3 edges" in str(warning.message)
    assert str(path) in str(warning.message)
    assert warning.filename == __file__
    assert lineage.downstream("raw.orders") == BELOW


def test_unknown_edge_alone_is_counted_as_one(shop: dict[str, Any]) -> None:
    shop["nodes"]["model.shop.mart"]["depends_on"]["nodes"].append("model.shop.gone")
    with pytest.warns(ManifestWarning, match="1 edge to"):
        Lineage.from_manifest(shop)


def large(**more: Any) -> dict[str, Any]:
    """A manifest that is read in pieces, with texts that look like the places where it is cut."""
    text = 'select 1 -- }, "model.shop.fake": {"name": "x"}}, "nodes": {"' * 20
    models = [
        node(
            f"m{number}",
            "raw.a",
            raw_code=text + "x" * (number % 700),
            **more,
        )
        for number in range(3000)
    ]
    tests = [node(f"t{number}", f"m{number}", kind="test") for number in range(0, 3000, 7)]
    return manifest(source("raw.a"), *models, *tests)


# The second has keys inside of its nodes that look like the next node: a cut there is wrong.
@pytest.mark.parametrize("more", [{}, {"meta": {"inner": {"deep": {}}, "model.shop.inner": {}}}])
def test_large_manifest_is_read_in_pieces_and_is_same(tmp_path: Path, more: dict[str, Any]) -> None:
    data = large(**more)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(data))
    assert path.stat().st_size > 4 << 20
    assert more or _manifest_in_pieces(path) is not None
    read, passed_in = read_manifest(path), read_manifest(data)
    read.path = None
    assert read == passed_in
    assert list(read.nodes) == list(passed_in.nodes)
    path.write_text(json.dumps(data, indent=1))  # not as dbt writes it: read at once
    assert read_manifest(path).nodes == passed_in.nodes


def test_large_manifest_that_is_cut_off_anywhere_is_error(tmp_path: Path) -> None:
    whole = json.dumps(large()).encode()
    path = tmp_path / "manifest.json"
    for length in range(4_200_000, len(whole), (len(whole) - 4_200_000) // 12):
        path.write_bytes(whole[:length])
        with pytest.raises(ManifestError, match="is cut off after"):
            read_manifest(path)
