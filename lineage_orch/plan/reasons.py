"""Why a node is stale: one reason for each way to be it, and the sources whose updates reach it.

Data, found for a node when someone asks for it; said in words elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from lineage_orch.plan.known import Known

ReasonKind = Literal["update", "parent", "identity", "missing_relation", "asked", "prerequisite", "never_built"]

# Above every tick. Not infinity: two ints are compared in a fifth of the time of an int and a float.
IN_PLAN = 1 << 62


@dataclass(frozen=True, slots=True)
class Reason:
    """One way in which a node is stale.

    Attributes:
        kind: ``update``: sources that it reads were loaded since its last good build; ``parent``: nodes that it
            reads are in the plan, or changed since; ``identity``: its own definition changed since;
            ``missing_relation``: what it built is not in the warehouse; ``asked``: someone asked for it since;
            ``prerequisite``: nodes in the plan read it, and it is not there; ``never_built``: it was never built.
        subjects: the unique_ids of these sources, parents or readers; empty for the other kinds.
    """

    kind: ReasonKind
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedGraph:
    """The graph as one plan sees it: what the ledger knows of each number, and what is in the plan.

    Attributes:
        known: what the ledger knows.
        reach: the tick at which each was new last, with ``IN_PLAN`` for what is in the plan, or the tick of its build
            for what is only tested.
        pulled: the nodes that are in the plan because others there read them and they are absent.
        tested: the nodes that are in the plan and only tested.
    """

    known: Known
    reach: list[int]
    pulled: set[int] = field(default_factory=set)
    tested: set[int] = field(default_factory=set)

    def is_planned(self, number: int) -> bool:
        """Whether a node is in the plan: built, only tested, or passed through."""
        return self.reach[number] == IN_PLAN or number in self.tested

    def bringing(self, number: int) -> list[int]:
        """Return the parents of a node that are in the plan, and will be newer than it."""
        known, reach = self.known, self.reach
        tick, changed = known.built[number], known.changed
        return [parent for parent in known.graph.parents[number] if tick < reach[parent] != changed[parent]]


class Because(Mapping[str, frozenset[str]]):
    """For each node in the plan, the sources whose updates reach it.

    Args:
        world: the graph as the plan saw it.
        numbers: what is in the plan, parents before children.
    """

    def __init__(self, world: PlannedGraph, numbers: Sequence[int]) -> None:
        self._world = world
        self._numbers = numbers
        self._found: dict[int, frozenset[int]] = {}

    def sources(self) -> tuple[str, ...]:
        """Return the sources whose updates reach anything in the plan, sorted."""
        found = frozenset().union(*map(self._at, self._numbers))
        return tuple(sorted(map(self._world.known.graph.ids.__getitem__, found)))

    def _at(self, number: int) -> frozenset[int]:
        """Return the sources whose updates come in at this node, and not through a parent in the plan.

        Those that it reads itself; and above a parent that was built since, what was loaded since: that came
        with it.
        """
        world = self._world
        tick, changed, start = world.known.built[number], world.known.changed, world.known.graph.source_count
        found: set[int] = set()
        for parent in world.known.graph.parents[number]:
            if changed[parent] > tick:
                above = (parent,) if parent < start else world.known.graph.sources_above(parent)
                found.update(source for source in above if changed[source] > tick)
        return frozenset(found)

    def _of(self, number: int) -> frozenset[int]:
        world, known = self._world, self._found
        if number in known:
            return known[number]
        # Parents in the plan first, without recursion: chains are thousands of nodes long.
        waiting = {number}
        stack = [number]
        while stack:
            for parent in world.bringing(stack.pop()):
                if parent not in known and parent not in waiting:
                    waiting.add(parent)
                    stack.append(parent)
        for each in sorted(waiting):
            groups = {self._at(each), *(known[parent] for parent in world.bringing(each))}
            # Most nodes share the set of one parent.
            groups.discard(frozenset())
            known[each] = groups.pop() if len(groups) == 1 else frozenset().union(*groups)
        return known[number]

    def __getitem__(self, unique_id: str) -> frozenset[str]:
        number = self._world.known.graph.index[unique_id]
        if not self._world.is_planned(number):
            raise KeyError(unique_id)
        return frozenset(map(self._world.known.graph.ids.__getitem__, self._of(number)))

    def __iter__(self) -> Iterator[str]:
        return map(self._world.known.graph.ids.__getitem__, self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return repr(dict(self))


def all_sources(because: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Return the sources whose updates reach anything in a plan, sorted."""
    if isinstance(because, Because):  # without a set of its own for each node
        return because.sources()
    return tuple(sorted(frozenset().union(*because.values())))


class Reasons(Mapping[str, tuple[Reason, ...]]):
    """For each node that is in the plan or held, each way in which it is stale.

    None at all for a node that is held only because what it reads waits: it is stale as soon as that builds.

    Args:
        world: the graph as the plan saw it.
        numbers: what is in the plan or held, parents before children.
    """

    def __init__(self, world: PlannedGraph, numbers: Sequence[int]) -> None:
        self._world = world
        self._numbers = numbers

    @cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(self._numbers)

    def __getitem__(self, unique_id: str) -> tuple[Reason, ...]:
        world = self._world
        graph = world.known.graph
        number = graph.index[unique_id]
        if number not in self._known:
            raise KeyError(unique_id)
        tick, start = world.known.built[number], graph.source_count
        fresh = [parent for parent in graph.parents[number] if world.reach[parent] > tick]
        subjects: dict[ReasonKind, list[int]] = {
            "update": [parent for parent in fresh if parent < start],
            "parent": [parent for parent in fresh if parent >= start],
            "prerequisite": self._needing(number),
        }
        found = [Reason(kind, self._names(numbers)) for kind, numbers in subjects.items() if numbers]
        marks: dict[ReasonKind, bool] = {
            "identity": number in world.known.differs,
            "missing_relation": number in world.known.missing,
            "asked": number in world.known.asked,
            "never_built": not tick,
        }
        return (*found, *(Reason(kind) for kind, holds in marks.items() if holds))

    def _needing(self, number: int) -> list[int]:
        """Return the nodes for whose sake alone a node is in the plan, or is not held by its own policy."""
        graph = self._world.known.graph
        if number not in self._world.pulled or (number in self._on_their_own and number not in graph.policies):
            return []
        return [each for each in graph.children[number] if self._world.is_planned(each)]

    @cached_property
    def _on_their_own(self) -> frozenset[int]:
        """The nodes in the plan that would be stale if nothing in the plan needed them."""
        world = self._world
        found: set[int] = set()
        for number in filter(world.is_planned, self._numbers):
            tick, parents = world.known.built[number], world.known.graph.parents[number]
            marked = number in world.known.differs or number in world.known.missing or number in world.known.asked
            if (
                marked
                or any(world.known.changed[parent] > tick for parent in parents)
                or not found.isdisjoint(world.bringing(number))
            ):
                found.add(number)
        return frozenset(found)

    def _names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._world.known.graph.ids[number] for number in sorted(numbers))

    def __iter__(self) -> Iterator[str]:
        return map(self._world.known.graph.ids.__getitem__, self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return repr(dict(self))
