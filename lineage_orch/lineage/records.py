"""What is in a project: its sources and nodes as records, and all resources as numbers with the edges between them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from lineage_orch.lineage import manifest as raw
from lineage_orch.lineage.manifest import DependsOn, Manifest

# What dbt builds into the warehouse. Everything else that can stand between a source and one of these (an ephemeral
# model, a function, a metric of an old release) is seen through: its parents count as those of what reads it.
BUILT_TYPES = frozenset({"model", "snapshot", "seed"})
# What a node is made of though dbt builds nothing of it, or nothing that is read: its code is part of the node's own.
PASTED_TYPES = frozenset({"model", "function"})
TEST_TYPES = frozenset({"test", "unit_test"})


class ManifestWarning(UserWarning):
    """Something in a manifest was left out, and lineage goes on without it."""


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A dbt source table; or a model of another dbt project, whose ``source_name`` is that project."""

    unique_id: str
    package: str
    source_name: str
    table: str
    relation_name: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """Something that dbt builds: a model that is not ephemeral, a snapshot or a seed.

    Attributes:
        unique_id: dbt's.
        resource_type: ``model``, ``snapshot`` or ``seed``.
        package: the dbt package that it is of.
        name: its name, without the version.
        fqn: dbt's fully qualified name (package, folders, name).
        version: that of a versioned model.
        materialized: as configured, in dbt's words or those of a materialization of one's own.
        original_file_path: its file, below the root of its package.
        checksum: of its file, or None where dbt keeps none.
        relation_name: where it is in the warehouse, as the adapter renders it.
    """

    unique_id: str
    resource_type: str
    package: str
    name: str
    fqn: tuple[str, ...]
    version: str | None = None
    materialized: str = ""
    original_file_path: str = ""
    checksum: str | None = None
    relation_name: str | None = None


class Named(NamedTuple):
    """What dbt's ``fqn:`` selectors may match: a model (ephemeral or not), a snapshot or a seed."""

    unique_id: str
    fqn: tuple[str, ...]
    is_versioned: bool


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """The sources and nodes alone, by number: sources ``0 .. source_count - 1``, then nodes, parents before children.

    Attributes:
        ids: the unique_ids, each at its number.
        index: the numbers, by unique_id.
        source_count: how many of them are sources.
        parents: the numbers of what each reads; what dbt does not build (ephemeral models) is seen through.
    """

    ids: tuple[str, ...]
    index: Mapping[str, int]
    source_count: int
    parents: tuple[tuple[int, ...], ...]


class Resources(NamedTuple):
    """All enabled resources, by number: sources are ``0 .. source_count - 1``.

    ``numbers`` leads from a unique_id to its number; ``children[i]`` are numbers, too.
    """

    ids: list[str]
    types: list[str]
    numbers: dict[str, int]
    source_count: int
    children: list[list[int]]


class _Numbered(NamedTuple):
    """The resources; ``depends`` is what each depends on, from the first that is no source on."""

    ids: list[str]
    types: list[str]
    numbers: dict[str, int]
    source_count: int
    depends: list[DependsOn | None]


def package_of(unique_id: str) -> str:
    """Return the package in a unique_id, which dbt makes of type, package and name."""
    return unique_id.partition(".")[2].partition(".")[0]


def is_of_other_project(unique_id: str, node: raw.Node) -> bool:
    """Whether an entry of ``nodes`` is a model that another dbt project builds, and this one only reads.

    Such a model has no file: dbt's own test (``ModelNode.is_external_node``). So dbt-core writes what a plugin
    (dbt-loom) tells it of a cross-project ``ref``.
    """
    return node.original_file_path == "" and unique_id.startswith("model.") and bool(node.relation_name)


def is_enabled(node: raw.Node) -> bool:
    """Whether an entry of ``nodes`` is part of the project; some manifests list the others too."""
    return node.config is None or node.config.enabled is not False


def fqn_of(unique_id: str, node: raw.Node) -> tuple[str, ...]:
    """Return dbt's fully qualified name, made of package and name where the manifest has none."""
    return node.fqn or (package_of(unique_id), node.name or "")


def selectable(nodes: Mapping[str, raw.Node]) -> Iterator[Named]:
    """Yield what dbt may build of the manifest's ``nodes``, ephemeral or not."""
    for unique_id, node in nodes.items():
        if unique_id.partition(".")[0] in BUILT_TYPES and is_enabled(node):
            yield Named(unique_id, fqn_of(unique_id, node), node.version is not None)


def sources_of(
    source_ids: Iterable[str], sources: Mapping[str, raw.Source], nodes: Mapping[str, raw.Node]
) -> dict[str, SourceTable]:
    """Return the source tables, and models of other projects, with these unique_ids."""
    out: dict[str, SourceTable] = {}
    for unique_id in source_ids:
        if (source := sources.get(unique_id)) is not None:
            names = (source.package_name, source.source_name, source.name, source.relation_name)
        else:
            package = package_of(unique_id)
            names = (package, package, unique_id.split(".", 2)[-1], nodes[unique_id].relation_name)
        out[unique_id] = SourceTable(unique_id, *names)
    return out


def nodes_of(nodes: Mapping[str, raw.Node]) -> dict[str, Node]:
    """Return what dbt builds: models that are not ephemeral, snapshots, seeds; without what is disabled."""
    out: dict[str, Node] = {}
    for unique_id, record in nodes.items():
        resource_type = unique_id.partition(".")[0]
        if resource_type not in BUILT_TYPES or not is_enabled(record) or is_of_other_project(unique_id, record):
            continue
        materialized = str(record.config.materialized or "") if record.config else ""
        if materialized == "ephemeral":
            continue
        name = record.name or unique_id.split(".", 2)[-1]
        package = package_of(unique_id)
        out[unique_id] = Node(
            unique_id,
            resource_type,
            package,
            name,
            record.fqn or (package, name),
            None if record.version is None else str(record.version),
            materialized,
            record.original_file_path or "",
            record.checksum.checksum if record.checksum else None,
            record.relation_name,
        )
    return out


def read_resources(manifest: Manifest) -> Resources:
    """Number the resources of a manifest, and find their edges.

    Warns:
        ManifestWarning: once, with their number, if edges lead to unknown nodes; they are dropped.
    """
    numbered = _number(manifest)
    return Resources(*numbered[:4], _edges(manifest, numbered))


def _number(manifest: Manifest) -> _Numbered:
    ids: list[str] = []
    types: list[str] = []
    depends: list[DependsOn | None] = []
    for unique_id, source in (manifest.sources or {}).items():
        if source.config is None or source.config.enabled is not False:
            ids.append(unique_id)
            types.append("source")
    external: set[str] = set()
    for unique_id, node in manifest.nodes.items():
        if is_of_other_project(unique_id, node) and is_enabled(node):
            external.add(unique_id)
            ids.append(unique_id)
            types.append("source")
    source_count = len(ids)
    for unique_id, node in manifest.nodes.items():
        if is_enabled(node) and unique_id not in external:
            ids.append(unique_id)
            types.append(unique_id.partition(".")[0])
            depends.append(node.depends_on)
    for resource_type, section in manifest.leaf_sections():
        for unique_id, leaf in section.items():
            if leaf.config is None or leaf.config.enabled is not False:
                ids.append(unique_id)
                types.append(resource_type)
                depends.append(leaf.depends_on)
    return _Numbered(ids, types, dict(zip(ids, range(len(ids)), strict=True)), source_count, depends)


def _edges(manifest: Manifest, numbered: _Numbered) -> list[list[int]]:
    """Return the children of each resource: the union of ``child_map`` and of every ``depends_on``.

    dbt writes both, and they agree; but some dumps have no ``child_map``, and some have one that lists
    only the nodes with children, so neither is trusted to be whole.
    """
    ids, find = numbered.ids, numbered.numbers.get
    # One empty list for all that have no children, which are most.
    nothing: list[int] = []
    children = [nothing] * len(ids)
    unknown: set[tuple[str, str]] = set()
    # The children of the few parents that have so many that a list is slow to search.
    hubs: dict[int, set[int]] = {}
    known_but_disabled = _disabled(manifest, numbered.numbers)
    for parent_id, child_ids in (manifest.child_map or {}).items():
        if not child_ids:
            continue
        parent = find(parent_id)
        if parent is None:
            if parent_id not in known_but_disabled:
                unknown.update((parent_id, child_id) for child_id in child_ids)
            continue
        found = [*map(find, child_ids)]
        if None not in found:
            children[parent] = cast(list[int], found)
        else:
            unknown.update(
                (parent_id, child_id)
                for child, child_id in zip(found, child_ids, strict=True)
                if child is None and child_id not in known_but_disabled
            )
            children[parent] = [child for child in found if child is not None] or nothing
    for child, of_child in enumerate(numbered.depends, numbered.source_count):
        if of_child is None or not of_child.nodes:
            continue
        for parent_id in of_child.nodes:
            parent = find(parent_id)
            if parent is None:
                if parent_id not in known_but_disabled:
                    unknown.add((parent_id, ids[child]))
                continue
            siblings = children[parent]
            if siblings is nothing:
                children[parent] = [child]
            elif len(siblings) > 50:
                known = hubs.get(parent)
                if known is None:
                    known = hubs[parent] = set(siblings)
                if child not in known:
                    known.add(child)
                    siblings.append(child)
            elif child not in siblings:
                siblings.append(child)
    if unknown:
        warnings.warn(
            f"{manifest.where} lists {len(unknown)} edge{'s' * (len(unknown) != 1)} to unknown nodes (as dbt writes "
            "them for disabled parents); left out of the lineage",
            ManifestWarning,
            stacklevel=5,
        )
    return children


def _disabled(manifest: Manifest, index: Mapping[str, int]) -> frozenset[str]:
    """Return what the manifest lists as a member but disabled: known, and not part of the lineage."""
    members: list[Mapping[str, Any]] = [manifest.nodes, manifest.sources or {}]
    members += [section for _, section in manifest.leaf_sections()]
    if sum(map(len, members)) == len(index):
        return frozenset()
    return frozenset(each for section in members for each in section if each not in index)
