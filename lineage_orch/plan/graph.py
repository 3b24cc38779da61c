"""The sources and nodes of a project alone, and what follows them, as numbers: what the planner walks."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

from lineage_orch.errors import PolicyError
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.followers import Follower
from lineage_orch.lineage.policy import KEEPS_CONTENT, Cutoff, Policy, read_cutoff, read_policy


@dataclass(frozen=True)
class PlanGraph:
    """Sources and nodes as numbers: sources ``0 .. source_count - 1``, then nodes, parents before children.

    Followers, where they are planned too, come last.

    Attributes:
        ids: the unique_ids, each at its number.
        index: the numbers, by unique_id.
        source_count: how many of them are sources.
        parents: the numbers of what each reads, ephemeral models seen through.
        checksums: of the files; None for sources, and where dbt keeps none.
        policies: of the nodes that have one of their own.
        bad_configs: of the nodes whose policy cannot be read: what is wrong with it.
        views: the nodes that are views.
        keeps_content: the nodes whose relation keeps its content from one build to the next.
        cutoffs: of the nodes whose meta says whether their content is compared.
        bad_cutoffs: of the nodes of which that cannot be read: what is wrong with it.
        followers: what is not dbt's to build, in the order of their numbers.
    """

    ids: tuple[str, ...]
    index: Mapping[str, int]
    source_count: int
    parents: tuple[tuple[int, ...], ...]
    checksums: tuple[str | None, ...]
    policies: Mapping[int, Policy]
    bad_configs: Mapping[int, str]
    views: frozenset[int]
    keeps_content: frozenset[int]
    cutoffs: Mapping[int, Cutoff]
    bad_cutoffs: Mapping[int, str]
    followers: tuple[Follower, ...] = ()

    @property
    def node_end(self) -> int:
        """The number after that of the last node that dbt builds: of the first follower, if there is one."""
        return len(self.ids) - len(self.followers)

    def with_followers(self, followers: tuple[Follower, ...]) -> PlanGraph:
        """Return a graph with these followers below what they follow, in place of those that it has."""
        end, index = self.node_end, self.index
        numbers = {each.unique_id: number for number, each in enumerate(followers, end)}
        return replace(
            self,
            ids=(*self.ids[:end], *numbers),
            index={**index, **numbers},
            parents=(
                *self.parents[:end],
                *(tuple(sorted({index[parent] for parent in each.parents if parent in index})) for each in followers),
            ),
            checksums=(*self.checksums[:end], *(None for _ in followers)),
            policies={**self.policies, **{numbers[each.unique_id]: each.policy for each in followers}},
            bad_configs={
                **self.bad_configs,
                **{numbers[each.unique_id]: each.error for each in followers if each.error},
            },
            followers=followers,
        )

    @cached_property
    def marked(self) -> Mapping[int, tuple[str, ...]]:
        """The nodes whose content is compared since their meta says so -> the columns that do not count.

        A view keeps no content of its own, so it passes on what its parents are; and of what no node reads, nothing
        is to be known.
        """
        return {
            number: cutoff.ignore
            for number, cutoff in self.cutoffs.items()
            if cutoff.takes_part and number in self.keeps_content and self.children[number]
        }

    @cached_property
    def above_a_lag(self) -> frozenset[int]:
        """The nodes with a ``lag_tolerance``, and those above them: whose ``pending_since`` may be asked."""
        return frozenset(
            self.and_above(number for number, policy in self.policies.items() if policy.lag_tolerance is not None)
        )

    def and_above(self, numbers: Iterable[int]) -> set[int]:
        """Return these and all above them."""
        found = set(numbers)
        for number in range(max(found, default=0), self.source_count - 1, -1):
            if number in found:
                found.update(self.parents[number])
        return found

    def and_below(self, numbers: Iterable[int], without: Container[int] = ()) -> set[int]:
        """Return these and all below them, but for what is only below those ``without``, or among them."""
        found = set(numbers)
        for number in range(self.source_count, len(self.ids)) if found else ():
            if number not in without and not found.isdisjoint(self.parents[number]):
                found.add(number)
        return found

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of what reads each."""
        children: list[list[int]] = [[] for _ in self.ids]
        for number in range(self.source_count, len(self.ids)):
            for parent in self.parents[number]:
                children[parent].append(number)
        return tuple(map(tuple, children))

    def sources_above(self, number: int) -> frozenset[int]:
        """Return the sources above a node; of a source, itself. Remembered for all that is above the node."""
        known = self._sources_above
        for each in self.with_ancestors(number, known):
            if each < self.source_count:
                known[each] = frozenset((each,))
            else:
                known[each] = frozenset().union(*(known[parent] for parent in self.parents[each]))
        return known[number]

    @cached_property
    def _sources_above(self) -> dict[int, frozenset[int]]:
        return {}

    def with_ancestors(self, number: int, known: Container[int] = ()) -> list[int]:
        """Return a node and all above it, parents before children, without what is known and all above that."""
        found = {number} if number not in known else set()
        stack = list(found)
        while stack:
            for parent in self.parents[stack.pop()]:
                if parent not in found and parent not in known:
                    found.add(parent)
                    stack.append(parent)
        return sorted(found)

    @classmethod
    def of(cls, lineage: Lineage) -> PlanGraph:
        """Take the sources and nodes of a lineage, and read their policies.

        Raises:
            LineageError: the manifest has a cycle.
        """
        built = lineage.built_graph
        nodes = lineage.nodes
        policies: dict[int, Policy] = {}
        bad_configs: dict[int, str] = {}
        for unique_id, freshness, state in lineage.freshness_configs():
            try:
                policies[built.index[unique_id]] = read_policy(unique_id, freshness, state)
            except PolicyError as error:
                bad_configs[built.index[unique_id]] = str(error)
        cutoffs: dict[int, Cutoff] = {}
        bad_cutoffs: dict[int, str] = {}
        for unique_id, block in lineage.meta_blocks():
            try:
                if (cutoff := read_cutoff(unique_id, block)) is not None:
                    cutoffs[built.index[unique_id]] = cutoff
            except PolicyError as error:
                bad_cutoffs[built.index[unique_id]] = str(error)
        in_order = [nodes[unique_id] for unique_id in built.ids[built.source_count :]]
        return cls(
            built.ids,
            built.index,
            built.source_count,
            built.parents,
            (*(None,) * built.source_count, *(node.checksum for node in in_order)),
            policies,
            bad_configs,
            frozenset(
                number for number, node in enumerate(in_order, built.source_count) if node.materialized == "view"
            ),
            frozenset(
                number for number, node in enumerate(in_order, built.source_count) if node.materialized in KEEPS_CONTENT
            ),
            cutoffs,
            bad_cutoffs,
        )


# Repeated plans of one process walk one graph, and one of the last followers.
_of_lineage: WeakKeyDictionary[Lineage, PlanGraph] = WeakKeyDictionary()
_with_followers: WeakKeyDictionary[Lineage, PlanGraph] = WeakKeyDictionary()


def plan_graph(lineage: Lineage, followers: tuple[Follower, ...] = ()) -> PlanGraph:
    """Return the graph that the planner walks, made once for each lineage.

    Raises:
        LineageError: the manifest has a cycle.
    """
    found = _of_lineage.get(lineage)
    if found is None:
        found = _of_lineage[lineage] = PlanGraph.of(lineage)
    if not followers:
        return found
    known = _with_followers.get(lineage)
    if known is None or known.followers != followers:
        known = _with_followers[lineage] = found.with_followers(followers)
    return known
