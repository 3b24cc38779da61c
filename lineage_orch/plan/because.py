"""Why a node is in the plan: the sources whose updates reach it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from lineage_orch.plan.graph import PlanGraph, ones

# Above every tick. Not infinity: two ints are compared in a fifth of the time of an int and a float.
IN_PLAN = 1 << 62


class Because(Mapping[str, frozenset[str]]):
    """For each node that the plan holds, the sources that reach it; found when somebody first asks.

    Args:
        graph: what was planned.
        ticks: what the ledger knows, by number.
        reach: the same, with ``IN_PLAN`` for what is in the plan.
        numbers: what is in the plan, parents before children.
    """

    def __init__(self, graph: PlanGraph, ticks: Sequence[int], reach: Sequence[int], numbers: Sequence[int]) -> None:
        self._graph = graph
        self._ticks = ticks
        self._reach = reach
        self._numbers = numbers
        self._spelt: dict[int, frozenset[str]] = {}

    @cached_property
    def _updated(self) -> list[int]:
        """The sources that were ever updated, each at the place of its bit.

        In the order of their newest updates, so that "updated above this tick" is a shift.
        """
        return sorted(filter(self._ticks.__getitem__, range(self._graph.source_count)), key=self._ticks.__getitem__)

    @cached_property
    def _bits(self) -> list[int]:
        parents, start = self._graph.parents, self._graph.source_count
        ticks, reach = self._ticks, self._reach
        bits = [0] * len(ticks)
        for bit, source in enumerate(self._updated):
            bits[source] = 1 << bit
        for number in self._numbers:
            tick = ticks[number]
            found = 0
            for parent in parents[number]:
                if reach[parent] > tick:
                    # Most nodes have one fresh parent: they share its bits, and no integer is made.
                    found = found | bits[parent] if found else bits[parent]
                    if ticks[parent] > tick and parent >= start:
                        found |= self._updated_above(parent, tick)
            bits[number] = found
        return bits

    def _updated_above(self, number: int, tick: int) -> int:
        """Return, as bits, the sources above a node that were updated after ``tick``.

        The node was built since then, and a node below it still owes that: what was loaded above it since is
        what it owes.
        """
        first = bisect_right(self._updated, tick, key=self._ticks.__getitem__)
        return self._all_above[number] >> first << first

    @cached_property
    def _all_above(self) -> list[int]:
        return self._graph.above(self._updated)

    def __getitem__(self, unique_id: str) -> frozenset[str]:
        number = self._graph.index[unique_id]
        if self._reach[number] != IN_PLAN:
            raise KeyError(unique_id)
        bits = self._bits[number]
        if bits not in self._spelt:
            ids, updated = self._graph.ids, self._updated
            self._spelt[bits] = frozenset(ids[updated[bit]] for bit in ones(bits))
        return self._spelt[bits]

    def __iter__(self) -> Iterator[str]:
        return map(self._graph.ids.__getitem__, self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return repr(dict(self))
