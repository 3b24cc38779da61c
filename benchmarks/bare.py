"""The fields that lineage needs, as anyone would type them with msgspec: nothing more is done for speed."""

from __future__ import annotations

from typing import Any

import msgspec


class DependsOn(msgspec.Struct):
    nodes: list[str] = []


class Config(msgspec.Struct):
    enabled: bool = True
    materialized: str | None = None
    freshness: Any = None
    state: Any = None


class Checksum(msgspec.Struct):
    checksum: str | None = None


class Node(msgspec.Struct):
    name: str | None = None
    fqn: list[str] | None = None
    version: Any = None
    original_file_path: str | None = None
    checksum: Checksum | None = None
    config: Config | None = None
    depends_on: DependsOn | None = None


class Source(msgspec.Struct):
    name: str
    source_name: str
    package_name: str
    relation_name: str | None = None
    config: Config | None = None


class Leaf(msgspec.Struct):
    config: Config | None = None
    depends_on: DependsOn | None = None


class Metadata(msgspec.Struct):
    dbt_schema_version: str | None = None
    project_name: str | None = None
    adapter_type: str | None = None


class Manifest(msgspec.Struct):
    metadata: Metadata
    nodes: dict[str, Node]
    sources: dict[str, Source]
    exposures: dict[str, Leaf]
    metrics: dict[str, Leaf]
    semantic_models: dict[str, Leaf]
    saved_queries: dict[str, Leaf]
    unit_tests: dict[str, Leaf]
    functions: dict[str, Leaf]
    child_map: dict[str, list[str]]


decoder = msgspec.json.Decoder(Manifest)
