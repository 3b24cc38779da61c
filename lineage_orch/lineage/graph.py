"""The graph of a dbt project: names -> unique_ids, source -> everything downstream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lineage_orch.errors import LineageError, UnknownNodeError, did_you_mean
from lineage_orch.lineage import names, unit_tests
from lineage_orch.lineage.details import read_details, read_tags
from lineage_orch.lineage.identity import (
    FactsReader,
    Identity,
    Microbatch,
    Relation,
    digest,
    read_identities,
    read_test_macros,
)
from lineage_orch.lineage.manifest import Manifest, block_of, collector_off, read_manifest
from lineage_orch.lineage.records import (
    PASTED_TYPES,
    TEST_TYPES,
    BuiltGraph,
    Node,
    SourceTable,
    fqn_of,
    nodes_of,
    package_of,
    read_resources,
    sources_of,
)
from lineage_orch.lineage.relations import relation_key
from lineage_orch.lineage.selectors import SelectorWriter

if TYPE_CHECKING:
    import networkx


class Lineage:
    """Which models are downstream of which source, read from dbt's manifest.

    Make one with :meth:`from_manifest`. Resources are kept as numbers in one list, sources first, so that a
    project of fifty thousand models is walked in milliseconds; the public methods speak unique_ids.
    """

    def __init__(
        self,
        manifest: Manifest,
        source: str | os.PathLike[str] | Mapping[str, Any],
        variables: Mapping[str, Any],
    ) -> None:
        self._manifest = manifest
        self._source = source
        self._variables = variables
        self.where: str = manifest.where
        metadata = manifest.metadata
        self.project_name: str | None = metadata.project_name if metadata else None
        self.adapter_type: str | None = metadata.adapter_type if metadata else None
        self._dbt_version = (metadata.dbt_version if metadata else None) or ""
        resources = read_resources(manifest)
        self._ids = resources.ids
        self._types = resources.types
        self._index = resources.numbers
        self._source_count = resources.source_count
        self._children = resources.children

    @classmethod
    def from_manifest(
        cls, source: str | os.PathLike[str] | Mapping[str, Any], *, vars: Mapping[str, Any] | None = None
    ) -> Lineage:
        """Read the lineage from a ``manifest.json``, or from the dict that ``json.load`` made of one.

        Args:
            source: the file, or the dict; neither should change while the lineage is in use.
            vars: the values of dbt's vars, for the identity of the nodes that read them: ``vars`` of dbt_project.yml
                (those of one package as a mapping under its name) with the given ones over them, see
                :func:`~lineage_orch.lineage.identity.overlay_vars`. The manifest does not hold them.

        Warns:
            ManifestWarning: once, with their number, if edges lead to unknown nodes (dbt itself writes them
                for disabled parents); they are dropped.

        Raises:
            ManifestError: the file is missing, empty, cut off, not JSON, or not a dbt manifest.
        """
        with collector_off():
            lineage = cls(read_manifest(source), source, dict(vars or {}))
            # Its edges are known now: a tenth of the memory, and many lists for the collector to look through.
            lineage._manifest.child_map = None
        return lineage

    # What there is ----------------------------------------------------------------------------------------

    @cached_property
    def sources(self) -> Mapping[str, SourceTable]:
        """The enabled source tables, and the models of other dbt projects that are read, by unique_id."""
        return sources_of(self._ids[: self._source_count], self._manifest.sources or {}, self._manifest.nodes)

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """Everything that dbt builds (models that are not ephemeral, snapshots, seeds), by unique_id."""
        return nodes_of(self._manifest.nodes)

    def freshness_configs(self) -> Iterable[tuple[str, Any, Any]]:
        """Yield ``(unique_id, config.freshness, config.state)``, as dbt wrote them, of the nodes that have either."""
        records = self._manifest.nodes
        for unique_id in self.nodes:
            config = records[unique_id].config
            if config is not None and (config.freshness is not None or config.state is not None):
                yield unique_id, config.freshness, config.state

    def source_freshness_configs(self) -> Iterable[tuple[str, Any]]:
        """Yield ``(unique_id, freshness)``, as dbt wrote it, of the sources that have one."""
        records = self._manifest.sources or {}
        for unique_id in self.sources:
            record = records[unique_id]
            freshness = record.freshness if record.config is None else record.config.freshness or record.freshness
            if freshness:
                yield unique_id, freshness

    def meta_blocks(self) -> Iterable[tuple[str, Any]]:
        """Yield ``(unique_id, meta.lineage_orch)``, as dbt wrote it, of the nodes that have it."""
        records = self._manifest.nodes
        for unique_id in self.nodes:
            block = block_of(records[unique_id])
            if block is not None:
                yield unique_id, block

    def relation_key(self, unique_id: str) -> str | None:
        """Return which relation a source or node is, in the one form that is compared; None: the manifest has none.

        Raises:
            KeyError: no source or node with this unique_id.
        """
        found = self.sources.get(unique_id) or self.nodes[unique_id]
        return relation_key(found.relation_name, self.adapter_type) if found.relation_name else None

    @cached_property
    def graph(self) -> networkx.DiGraph[str]:
        """All enabled resources and their edges, parent to child, as a graph of your own to walk.

        Each node carries ``resource_type``. The graph is made at the first use; changing it changes nothing
        else.
        """
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph()
        ids = self._ids
        graph.add_nodes_from(
            (unique_id, {"resource_type": resource_type})
            for unique_id, resource_type in zip(ids, self._types, strict=True)
        )
        graph.add_edges_from((ids[parent], ids[child]) for parent, each in enumerate(self._children) for child in each)
        return graph

    # Names ------------------------------------------------------------------------------------------------

    @cached_property
    def _source_names(self) -> names.Names:
        return names.source_names(self.sources.values(), self.where)

    @cached_property
    def _node_names(self) -> names.Names:
        return names.node_names(self.nodes.values(), self.where)

    def resolve_source(self, name: str) -> str:
        """Return the unique_id of one source.

        Takes ``source_name.table``, ``package.source_name.table`` or the unique_id itself.

        Raises:
            UnknownSourceError: no such source (the nearest real names are suggested), or more than one.
        """
        return self._source_names.one(name)

    def resolve_sources(self, *source_names: str) -> tuple[str, ...]:
        """Return the unique_ids of sources, without doubles; ``source_name.*`` means all its tables.

        Raises:
            UnknownSourceError: as :meth:`resolve_source`.
        """
        found = (each for name in source_names for each in self._source_names.some(name))
        return tuple(dict.fromkeys(found))

    def resolve_node(self, name: str) -> str:
        """Return the unique_id of a model, snapshot or seed, from its name, ``package.name`` or unique_id.

        Raises:
            UnknownNodeError: no such node (the nearest real names are suggested), or more than one.
        """
        return self._node_names.one(name)

    def named(self, name: str) -> frozenset[str]:
        """Return the unique_ids of the sources and nodes that a person means by a name or pattern.

        Any name that :meth:`resolve_source` or :meth:`resolve_node` takes, or a pattern of the shell for such names
        (``stg_*``, ``crm.*``); with a ``+`` behind it all that is downstream too, with one in front all upstream.

        Raises:
            UnknownNodeError: nothing goes by that name; the nearest real names are suggested.
        """
        plain = name.removeprefix("+").removesuffix("+")
        starts = {*self._source_names.like(plain), *self._node_names.like(plain)}
        if not starts:
            known = [*self._source_names.shown, *self._node_names.shown]
            raise UnknownNodeError(f"no source or node {name!r} in {self.where}{did_you_mean(plain, known)}")
        found = set(starts)
        numbers = [self._index[each] for each in starts]
        if name.endswith("+"):
            found.update(self._ids[each] for each in _reached(numbers, self._children))
        if name.startswith("+"):
            found.update(self._ids[each] for each in _reached(numbers, self._parents))
        return frozenset(each for each in found if each in self.sources or each in self.nodes)

    # Downstream -------------------------------------------------------------------------------------------

    def downstream(self, *sources: str) -> frozenset[str]:
        """Return all dbt resources below these sources, without the sources themselves.

        The transitive closure of dbt's own ``child_map``: models of every materialization, tests, unit
        tests, snapshots, exposures, metrics, semantic models and saved queries.

        Raises:
            UnknownSourceError: as :meth:`resolve_source`.
        """
        below = _reached(map(self._index.__getitem__, self.resolve_sources(*sources)), self._children)
        return frozenset(map(self._ids.__getitem__, below))

    def source_map(self) -> dict[str, tuple[str, ...]]:
        """Return ``{source unique_id: its downstream models' unique_ids, parents before children}``."""
        name, position = self._ids.__getitem__, self._positions.__getitem__
        models = {each for each, resource_type in enumerate(self._types) if resource_type == "model"}
        return {
            name(source): tuple(map(name, sorted(_reached((source,), self._children) & models, key=position)))
            for source in range(self._source_count)
        }

    def selection(self, *sources: str) -> str:
        """Return dbt's selector for everything below these sources: ``"source:a.b.c+ source:a.b.d+"``.

        Raises:
            UnknownSourceError: as :meth:`resolve_source`.
            LineageError: the name of a source cannot be told from another's in dbt's selector grammar.
        """
        return " ".join(self.selectors.source(name) + "+" for name in self.resolve_sources(*sources))

    @cached_property
    def selectors(self) -> SelectorWriter:
        """Writes selectors that match exactly one source or node of this project."""
        return SelectorWriter(
            self.where, self.sources, self.nodes, self._manifest.nodes, self._manifest.unit_tests or {}
        )

    @property
    def dbt_major(self) -> int:
        """The major version of the dbt that wrote the manifest; 0 where it does not say."""
        major = self._dbt_version.partition(".")[0]
        return int(major) if major.isdecimal() else 0

    def tests_on(self, unique_id: str) -> tuple[str, ...]:
        """Return the unique_ids of the tests and unit tests on a node or source."""
        ids, types = self._ids, self._types
        return tuple(ids[child] for child in self._children[self._index[unique_id]] if types[child] in TEST_TYPES)

    def ephemeral_above(self, unique_id: str) -> list[str]:
        """Return the ephemeral models that a node is made of."""
        return [each for each in self._seen_through(unique_id) if each.startswith("model.")]

    def _seen_through(self, unique_id: str) -> list[str]:
        """Return what stands between a node and the built ones that it reads: ephemeral models, functions."""
        found: dict[int, None] = {}
        stack = [self._index[unique_id]]
        while stack:
            for parent in self._parents[stack.pop()]:
                if parent not in found and self._types[parent] in PASTED_TYPES and not self._is_built(parent):
                    found[parent] = None
                    stack.append(parent)
        return [self._ids[each] for each in found]

    def exposure_blocks(self) -> Iterable[tuple[str, str, Any]]:
        """Yield ``(unique_id, name, meta.lineage_orch)``, as dbt wrote it, of the enabled exposures that have it."""
        for unique_id, record in (self._manifest.exposures or {}).items():
            block = block_of(record)
            if block is not None and unique_id in self._index:
                yield unique_id, record.name or unique_id.split(".", 2)[-1], block

    def tested_by(self, test_id: str) -> tuple[str, ...]:
        """Return the unique_ids of what a test reads (nodes and sources), ephemeral models seen through."""
        return self.read_by(test_id)

    def read_by(self, unique_id: str) -> tuple[str, ...]:
        """Return the unique_ids of what a resource of any kind reads: built nodes and sources, the rest seen through.

        None of what the manifest does not know.
        """
        start = self._index.get(unique_id)
        if start is None:
            return ()
        parents = self._parents
        found: list[int] = []
        seen: set[int] = set()
        stack = list(parents[start])
        while stack:
            each = stack.pop()
            if each in seen:
                continue
            seen.add(each)
            if self._is_built(each):
                found.append(each)
            else:
                stack.extend(parents[each])
        return tuple(self._ids[each] for each in sorted(found))

    def test_definition(self, test_id: str) -> str:
        """Return a text that differs when the definition of a test or unit test does.

        The arguments of a generic test are in its unique_id, as a hash. The macros that a data test is made of count,
        without dbt's own. Raises ManifestError as :meth:`identity` does.
        """
        record = self._manifest.nodes.get(test_id)
        if record is None:
            unit_test = (self._manifest.unit_tests or {}).get(test_id)
            return str(unit_test.checksum if unit_test else None)
        config = record.config
        how = (config.severity, config.error_if, config.where) if config else ()
        if macros := self._test_macros.get(test_id):
            how = (*how, macros)
        return " ".join(map(str, (record.checksum.checksum if record.checksum else None, *how)))

    def unit_test_inputs(self, test_id: str) -> tuple[str, ...]:
        """Return the unique_ids of the nodes and sources that are given to a unit test as inputs."""
        record = (self._manifest.unit_tests or {}).get(test_id)
        if record is None or not record.given or record.depends_on is None or not record.depends_on.nodes:
            return ()
        given = (each.input for each in record.given)
        return tuple(unit_tests.inputs_of(given, record.depends_on.nodes[0], self.nodes, self.sources))

    # Order ------------------------------------------------------------------------------------------------

    @cached_property
    def _parents(self) -> list[list[int]]:
        parents: list[list[int]] = [[] for _ in self._ids]
        for parent, children in enumerate(self._children):
            for child in children:
                parents[child].append(parent)
        return parents

    @cached_property
    def _order(self) -> list[int]:
        """All resources, parents before children (Kahn's algorithm)."""
        children = self._children
        waiting = [len(each) for each in self._parents]
        order = [each for each, count in enumerate(waiting) if not count]
        for each in order:  # grows while it is walked
            for child in children[each]:
                waiting[child] -= 1
                if not waiting[child]:
                    order.append(child)
        if len(order) < len(waiting):
            import networkx

            cycle = " -> ".join(parent for parent, _ in networkx.find_cycle(self.graph))
            raise LineageError(f"{self.where} has a cycle: {cycle}; dbt cannot build it either, break it there")
        return order

    @cached_property
    def _positions(self) -> list[int]:
        positions = [0] * len(self._ids)
        for position, each in enumerate(self._order):
            positions[each] = position
        return positions

    def _is_built(self, each: int) -> bool:
        """Whether this is a source or something that dbt builds."""
        return each < self._source_count or self._ids[each] in self.nodes

    # Identity ---------------------------------------------------------------------------------------------

    @property
    def _identities(self) -> Mapping[str, Identity]:
        return self._read_again[0]

    @property
    def _test_macros(self) -> Mapping[str, str]:
        return self._read_again[1]

    @cached_property
    def _read_again(self) -> tuple[Mapping[str, Identity], Mapping[str, str]]:
        checksums = {node.unique_id: node.checksum for node in self.nodes.values()}
        facts, macros, called = read_details(self._source, self.where, checksums, FactsReader())
        identities = read_identities(
            facts,
            macros,
            self.built_graph,
            self.sources,
            self._seen_through,
            self._variables,
            self.adapter_type,
            self.project_name,
        )
        return identities, read_test_macros(called, macros, self.adapter_type, self.project_name)

    def identity(self, node_id: str) -> str:
        """Return one fingerprint of all that a node is made of; see :mod:`lineage_orch.lineage.identity`.

        It is the same for each parse of the same project, in any folder and on any machine, and differs when a part
        of the node does. At the first call the manifest is read again, for what most questions do not ask for; so
        ask before dbt runs, which rewrites it.

        Raises:
            KeyError: no node with this unique_id.
            ManifestError: the file cannot be read any more, or is of other code by now.
        """
        return self.digests[node_id]

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The identity of each node, by unique_id; raises ManifestError as :meth:`identity`."""
        return {node: digest(each.parts) for node, each in self._identities.items()}

    def identity_parts(self, node_id: str) -> dict[str, str]:
        """Return the parts of a node's identity by name, each a fingerprint or a plain value.

        Raises:
            KeyError, ManifestError: as :meth:`identity`.
        """
        return dict(self._identities[node_id].parts)

    def relation(self, node_id: str) -> Relation:
        """Return where a node is in the warehouse; what the manifest does not say is None.

        Raises:
            KeyError, ManifestError: as :meth:`identity`.
        """
        return self._identities[node_id].relation

    def microbatch(self, node_id: str) -> Microbatch | None:
        """Return in which batches a node is built, if dbt builds it in batches.

        Raises:
            KeyError, ManifestError: as :meth:`identity`.
        """
        return self._identities[node_id].microbatch

    def folder(self, unique_id: str) -> tuple[str, ...]:
        """Return the package and folders of a model (ephemeral or not), snapshot or seed, as dbt's ``fqn`` has them.

        Raises:
            KeyError: no such resource.
        """
        record = self._manifest.nodes[unique_id]
        return fqn_of(unique_id, record)[: -1 if record.version is None else -2] or (package_of(unique_id),)

    def tags(self) -> Mapping[str, tuple[str, ...]]:
        """Return the tags of models, snapshots and seeds, by unique_id; reads the manifest again.

        Raises:
            ManifestError: as :meth:`identity`.
        """
        checksums = {node.unique_id: node.checksum for node in self.nodes.values()}
        return read_details(self._source, self.where, checksums, read_tags)[0]

    # What dbt builds --------------------------------------------------------------------------------------

    @cached_property
    def built_graph(self) -> BuiltGraph:
        """The sources and nodes alone, as numbers; what dbt does not build is seen through.

        Raises:
            LineageError: the manifest has a cycle.
        """
        source_count, nodes = self._source_count, self.nodes
        ids = self._ids[:source_count]
        new: list[int] = [*range(source_count)] + [-1] * (len(self._ids) - source_count)
        parents: list[tuple[int, ...]] = [()] * source_count
        # What is seen through a resource that is not built: the numbers of the built parents behind it.
        behind: dict[int, tuple[int, ...]] = {}
        for each in self._order:
            if each < source_count:
                continue
            of_each = self._parents[each]
            seen = [new[parent] for parent in of_each]
            if -1 in seen:
                mixed = (
                    (number,) if number >= 0 else behind[parent] for number, parent in zip(seen, of_each, strict=True)
                )
                seen = list(dict.fromkeys(number for group in mixed for number in group))
            if self._ids[each] in nodes:
                new[each] = len(ids)
                ids.append(self._ids[each])
                parents.append(tuple(seen))
            else:
                behind[each] = tuple(seen)
        index = {unique_id: number for number, unique_id in enumerate(ids)}
        return BuiltGraph(tuple(ids), index, source_count, tuple(parents))


def _reached(starts: Iterable[int], edges: Sequence[Sequence[int]]) -> set[int]:
    """Return what is reached along these edges, the starts left out."""
    seen: set[int] = set()
    add = seen.add
    walk = [each for start in starts for each in edges[start]]
    for each in walk:  # grows while it is walked
        if each not in seen:
            add(each)
            # Most resources are tests, with nothing below them.
            if beyond := edges[each]:
                walk += beyond
    return seen
