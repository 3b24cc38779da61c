"""Which nodes of a plan may come out as they were, and what waits until that is known."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Literal

from lineage_orch.plan.graph import PlanGraph
from lineage_orch.plan.reasons import PlannedGraph

CutoffMode = Literal["marked", "auto", "off"]

# What a stage of its own costs about, in seconds: a start of dbt, and one for the query. In `auto`, what is below a
# node must take longer than this and the node itself, of which the query reads what it wrote.
_STAGE = 5.0

# How many nodes below one are looked at for that: what is not known of so many is not worth more time.
_LOOK_AT = 1000


def ignored_columns(
    graph: PlanGraph, number: int, mode: CutoffMode, seconds: Callable[[int], float]
) -> tuple[str, ...] | None:
    """Return the columns that do not count where the content of a node is compared with that of its build before.

    None where it is not: it keeps no content between two builds, no node reads it, or neither its meta nor, in
    ``auto``, the time that could be saved below it says so.

    Args:
        graph: what is planned.
        number: of a node.
        mode: the setting ``cutoff``.
        seconds: how long the last good build of a node took; 0.0 where that is not known.
    """
    if mode == "off":
        return None
    if number in graph.marked:
        return graph.marked[number]
    if mode == "marked" or number in graph.cutoffs or number not in graph.keeps_content:
        return None
    own = seconds(number)
    return () if own and _takes_longer_below(graph, number, own + _STAGE, seconds) else None


def _takes_longer_below(graph: PlanGraph, number: int, limit: float, seconds: Callable[[int], float]) -> bool:
    """Whether all below a node takes longer than that; seldom more than a few nodes are looked at to know."""
    seen = {number}
    stack = [number]
    while stack and len(seen) < _LOOK_AT:
        for child in graph.children[stack.pop()]:
            if child not in seen:
                seen.add(child)
                stack.append(child)
                limit -= seconds(child)
                if limit < 0:
                    return True
    return False


def first_stage(
    world: PlannedGraph,
    planned: Sequence[int],
    *,
    changed: Sequence[int],
    due_by_itself: Container[int],
    may_be_same: Callable[[int], bool],
) -> tuple[list[int], list[int], frozenset[int]]:
    """Split a plan into what is built now, and what waits for it.

    What is stale only through nodes that may come out the same waits until that is known, and so does all that reads
    it: built now, it would perhaps be built twice. The first node of a plan reads nothing that is planned, so there is
    always something to build now.

    Args:
        world: the graph as the plan sees it.
        planned: the nodes in the plan, parents before children.
        changed: the tick at which each node or source changed last; of those that are only tested, at which they will
            have.
        due_by_itself: the nodes that are in the plan whatever they read.
        may_be_same: whether the content of a node may come out as it was.

    Returns:
        the nodes that are built now, those that wait, and those built now that may come out as they were.
    """
    now: list[int] = []
    waiting: list[int] = []
    same: set[int] = set()
    changes: set[int] = set()
    parents_of, built = world.known.graph.parents, world.known.built
    waits = [False] * len(parents_of)
    for number in planned:
        for parent in parents_of[number]:
            # Most of a plan is below what waits, so this is asked first.
            if waits[parent]:
                break
        else:
            tick = built[number]
            if not tick or number in due_by_itself or _is_due(parents_of[number], tick, changes, changed):
                now.append(number)
                if number not in world.tested:
                    (same if may_be_same(number) else changes).add(number)
                continue
        waits[number] = True
        waiting.append(number)
    return now, waiting, frozenset(same)


def _is_due(parents: Sequence[int], tick: int, changes: Container[int], changed: Sequence[int]) -> bool:
    """Whether a parent is newer than the build at a tick, or will be: it is built now, and changes."""
    return any(parent in changes or changed[parent] > tick for parent in parents)
