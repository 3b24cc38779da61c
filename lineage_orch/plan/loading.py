"""Which nodes wait for a load that is running. Pure."""

from __future__ import annotations

from collections.abc import Collection

from lineage_orch.plan.graph import PlanGraph


def nodes_below(graph: PlanGraph, sources: Collection[int]) -> frozenset[int]:
    """Return the nodes below these sources, however far."""
    return frozenset(graph.and_below(sources).difference(sources))


def timed_nodes(graph: PlanGraph, awaiting: Collection[int]) -> frozenset[int]:
    """Return the nodes of which may be asked since when data waits: those with a lag, or awaiting a load, and above."""
    return graph.above_a_lag | graph.and_above(awaiting)
