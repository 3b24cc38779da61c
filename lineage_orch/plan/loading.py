"""Which nodes wait for a load that is running. Pure."""

from __future__ import annotations

from collections.abc import Collection

from lineage_orch.plan.graph import PlanGraph


def nodes_below(graph: PlanGraph, sources: Collection[int]) -> frozenset[int]:
    """Return the nodes below these sources, however far."""
    found = set(sources)
    if sources:
        for number in range(graph.source_count, len(graph.ids)):
            if not found.isdisjoint(graph.parents[number]):
                found.add(number)
    return frozenset(found.difference(sources))


def timed_nodes(graph: PlanGraph, awaiting: Collection[int]) -> frozenset[int]:
    """Return the nodes of which may be asked since when data waits: those with a lag, or awaiting a load, and above."""
    found = set(awaiting)
    if found:
        for number in range(len(graph.ids) - 1, graph.source_count - 1, -1):
            if number in found:
                found.update(graph.parents[number])
    return graph.above_a_lag | found
