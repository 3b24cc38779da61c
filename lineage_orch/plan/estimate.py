"""How long a plan will take: list scheduling over dbt's threads, by how long each node took before. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from lineage_orch.lineage import Lineage
from lineage_orch.plan.graph import plan_graph


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long dbt will take for some nodes, their tests included, its own start left out.

    Attributes:
        nodes: how many.
        timed: how many of them were ever timed; the others count as the median of these.
        seconds: until the last is done.
        threads: how many nodes dbt builds at a time.
    """

    nodes: int
    timed: int
    seconds: float
    threads: int


def estimate(lineage: Lineage, nodes: Iterable[str], seconds: Mapping[str, float], threads: int) -> Estimate | None:
    """Return how long these nodes will take; None where none of them was ever timed.

    Each node starts as soon as its parents among them are done and a thread is free, in the order of the plan, as
    ``dbt build`` does it.

    Args:
        lineage: the project.
        nodes: unique_ids, parents before children, as a plan has them.
        seconds: unique_id -> how long a build of it takes.
        threads: of dbt, 1 or more.
    """
    order = list(nodes)
    ends = finish_times(lineage, order, seconds, threads)
    if not ends:
        return None
    return Estimate(len(order), sum(node in seconds for node in order), max(ends.values()), threads)


def finish_times(
    lineage: Lineage, nodes: Iterable[str], seconds: Mapping[str, float], threads: int
) -> dict[str, float]:
    """Return after how many seconds each of these nodes is done, as :func:`estimate` reckons; empty where it is None.

    Args:
        lineage: the project.
        nodes: unique_ids, parents before children, as a plan has them.
        seconds: unique_id -> how long a build of it takes.
        threads: of dbt, 1 or more.
    """
    graph = plan_graph(lineage)
    order = [graph.index[node] for node in nodes]
    timed = [seconds[graph.ids[number]] for number in order if graph.ids[number] in seconds]
    if not timed:
        return {}
    untimed = median(timed)
    place = {number: at for at, number in enumerate(order)}
    waits_for = [{place[parent] for parent in graph.parents[number] if parent in place} for number in order]
    children: list[list[int]] = [[] for _ in order]
    for at, parents in enumerate(waits_for):
        for parent in parents:
            children[parent].append(at)
    ready = [at for at, parents in enumerate(waits_for) if not parents]
    running: list[tuple[float, int]] = []
    ends: dict[str, float] = {}
    now = 0.0
    while ready or running:
        while ready and len(running) < threads:
            at = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds.get(graph.ids[order[at]], untimed), at))
        now, done = heapq.heappop(running)
        ends[graph.ids[order[done]]] = now
        for child in children[done]:
            waits_for[child].discard(done)
            if not waits_for[child]:
                heapq.heappush(ready, child)
    return ends
