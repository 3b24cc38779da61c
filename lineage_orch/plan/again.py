"""What a call does not try again, and what it does."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.lineage import Lineage
from lineage_orch.plan.graph import plan_graph


def not_again(lineage: Lineage, snapshot: LedgerSnapshot, tried: Mapping[str, int]) -> frozenset[str]:
    """Return what was tried in a call and is not built well, unless a source above it was loaded since.

    Args:
        lineage: the project.
        snapshot: the ledger.
        tried: the nodes, each with the tick of the run that tried it.
    """
    if not tried:
        return frozenset()
    graph = plan_graph(lineage)
    again = set()
    for node, tick in tried.items():
        seen = {graph.index[node]} if node in graph.index else set()
        stack = list(seen)
        while stack:
            for parent in graph.parents[stack.pop()]:
                if parent < graph.source_count:
                    if snapshot.sources.get(graph.ids[parent], 0) > tick:
                        again.add(node)
                elif parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
    return frozenset(tried.keys() - again)


def below(lineage: Lineage, nodes: Collection[str]) -> tuple[str, ...]:
    """Return all nodes that read some of these, directly or not, parents first; of these only what reads others."""
    graph = plan_graph(lineage)
    found = graph.and_below(graph.index[node] for node in nodes if node in graph.index)
    return tuple(graph.ids[number] for number in sorted(found) if not found.isdisjoint(graph.parents[number]))
