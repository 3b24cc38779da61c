"""The resources of a manifest as numbers, sources first, and the edges between them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from lineage_orch.lineage.manifest import DependsOn, Manifest


class ManifestWarning(UserWarning):
    """Something in a manifest was left out, and lineage goes on without it."""


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
    source_count = len(ids)
    for unique_id, node in manifest.nodes.items():
        if node.config is None or node.config.enabled is not False:
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
