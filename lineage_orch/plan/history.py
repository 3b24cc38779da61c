"""Which of the ledger's history a plan reads."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from lineage_orch.lineage import Lineage
from lineage_orch.lineage.followers import Follower
from lineage_orch.plan.graph import plan_graph
from lineage_orch.plan.loading import nodes_below, timed_nodes


def history_of(
    lineage: Lineage, loading: Iterable[str] = (), followers: tuple[Follower, ...] = ()
) -> dict[str, tuple[str, ...]]:
    """Return whose history a plan asks for: each parent, with those of its children for which it is asked.

    The nodes of which it is asked since when data waits are those with a ``lag_tolerance``, those below a source that
    is being loaded, and all above them. The table of updates may have millions of rows.

    Args:
        lineage: the project.
        loading: unique_ids of the sources that are being loaded now.
        followers: what is planned below the nodes.
    """
    graph = plan_graph(lineage, followers)
    timed = timed_nodes(graph, nodes_below(graph, {graph.index[source] for source in loading}))
    lagging = {number for number in timed if number >= graph.source_count}
    return {
        graph.ids[number]: tuple(graph.ids[child] for child in graph.children[number] if child in lagging)
        for number in {parent for node in lagging for parent in graph.parents[node]}
    }


def longest_lag(lineage: Lineage, followers: tuple[Follower, ...] = ()) -> timedelta:
    """Return how much history is needed: what waits since a time that is cut off would wait for ever."""
    policies = plan_graph(lineage, followers).policies.values()
    longest = max((each.lag_tolerance for each in policies if each.lag_tolerance is not None), default=timedelta(0))
    return longest + min(timedelta(days=1), timedelta.max - longest)
