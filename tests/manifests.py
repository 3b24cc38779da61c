"""Builders of tiny manifests, as the dicts that ``json.load`` makes of real ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SCHEMA = "https://schemas.getdbt.com/dbt/manifest/v12.json"


def source(name: str, *, package: str = "shop", **fields: Any) -> dict[str, Any]:
    """Return the source table ``source_name.table`` (or ``source_name/table``, if there are dots in it)."""
    source_name, _, table = name.partition("/" if "/" in name else ".")
    return {
        "unique_id": f"source.{package}.{source_name}.{table}",
        "resource_type": "source",
        "package_name": package,
        "source_name": source_name,
        "name": table,
        "fqn": [package, "models", source_name, table],
        "relation_name": f'"db"."{source_name}"."{table}"',
        "config": {"enabled": True},
        **fields,
    }


def node(
    name: str,
    *parents: str,
    kind: str = "model",
    package: str = "shop",
    materialized: str | None = None,
    folder: Iterable[str] = (),
    version: object = None,
    checksum: str | None = None,
    config: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return a model, seed, snapshot, test ... that reads ``parents`` (short names or unique_ids)."""
    suffix = "" if version is None else f".v{version}"
    default = {"model": "table", "seed": "seed", "snapshot": "snapshot"}.get(kind, kind)
    last = [name] if version is None else [name, f"v{version}"]
    return {
        "unique_id": f"{kind}.{package}.{name}{suffix}",
        "resource_type": kind,
        "package_name": package,
        "name": name,
        "fqn": [package, *folder, *last],
        "version": version,
        "original_file_path": "/".join(["models", *folder, f"{name}.sql"]),
        "checksum": {"name": "sha256", "checksum": checksum or f"code of {name}"},
        "config": {"enabled": True, "materialized": materialized or default, **(config or {})},
        "depends_on": {"macros": [], "nodes": [_id(each, package) for each in parents]},
        **fields,
    }


def leaf(kind: str, name: str, *parents: str, package: str = "shop", **fields: Any) -> dict[str, Any]:
    """Return an exposure, metric, semantic_model, saved_query or unit_test."""
    return {
        "unique_id": f"{kind}.{package}.{name}",
        "resource_type": kind,
        "package_name": package,
        "name": name,
        "config": {"enabled": True},
        "depends_on": {"macros": [], "nodes": [_id(each, package) for each in parents]},
        **fields,
    }


def manifest(*resources: dict[str, Any], child_map: bool = True) -> dict[str, Any]:
    """Return a manifest of these resources, with the ``child_map`` that dbt would write."""
    sections: dict[str, dict[str, Any]] = {
        "nodes": {},
        "sources": {},
        "exposures": {},
        "metrics": {},
        "semantic_models": {},
        "saved_queries": {},
        "unit_tests": {},
    }
    for each in resources:
        kind = each["resource_type"]
        section = {"saved_query": "saved_queries"}.get(kind, kind + "s")
        sections[section if section in sections else "nodes"][each["unique_id"]] = each
    out: dict[str, Any] = {
        "metadata": {
            "dbt_schema_version": SCHEMA,
            "dbt_version": "1.11.0",
            "project_name": "shop",
            "adapter_type": "duckdb",
        },
        **sections,
    }
    if child_map:
        children: dict[str, list[str]] = {each["unique_id"]: [] for each in resources}
        for each in resources:
            for parent in each.get("depends_on", {}).get("nodes", ()):
                children.setdefault(parent, []).append(each["unique_id"])
        out["child_map"] = children
    return out


def _id(name: str, package: str) -> str:
    if name.count(".") >= 2:
        return name
    return f"source.{package}.{name}" if "." in name else f"model.{package}.{name}"
