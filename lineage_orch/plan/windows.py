"""Which batches of microbatch models are due, where the loads above them say in which event times they lie. Pure.

A load that names a window says that all that is new lies in it. What reads it changes in that window alone, and so on
down to a microbatch model, of which then just these batches are built, as old as they may be: dbt by itself builds the
batch of now and ``lookback`` before it. Where anything above changed without a window, that is due as well. A follower
that takes a window is told the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.ledger.snapshot import OPEN, UNCHANGED, Extent
from lineage_orch.lineage import Lineage, Microbatch
from lineage_orch.lineage.followers import Follower
from lineage_orch.plan.graph import PlanGraph, plan_graph
from lineage_orch.plan.reasons import IN_PLAN
from lineage_orch.updates import Window

# Batches --------------------------------------------------------------------------------------------------------


def batch_begin(at: datetime, size: str, *, back: int = 0) -> datetime:
    """Return the begin (UTC) of the batch of a time (aware), or of one so many batches before it, as dbt has them.

    Args:
        at: the time.
        size: hour, day, month or year.
        back: how many batches before; less than 0: after.
    """
    at = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if size == "hour":
        return at - timedelta(hours=back)
    at = at.replace(hour=0)
    if size == "day":
        return at - timedelta(days=back)
    if size == "month":
        months = at.year * 12 + at.month - 1 - back
        return at.replace(year=months // 12, month=months % 12 + 1, day=1)
    return at.replace(year=at.year - back, month=1, day=1)


def batches_in(window: Window, size: str) -> Window:
    """Return the batches that dbt builds for a window: from the begin of the first to the end of the last."""
    end = batch_begin(window.end, size)
    return Window(batch_begin(window.start, size), end if end == window.end else batch_begin(end, size, back=-1))


def due_window(batches: Microbatch, extent: Extent) -> Window | None:
    """Return the window of a model in which its parents changed; None where that is none, or before its ``begin``."""
    window = extent.window
    if window is None or batches.begin is None or window.start >= batches.begin:
        return window
    return Window(batches.begin, window.end) if window.end > batches.begin else None


def _is_by_dbt(batches: Microbatch, window: Window, now: datetime) -> bool:
    """Whether dbt builds the batches of a window by itself: that of now, and ``lookback`` before it."""
    size = batches.batch_size
    of_now = batches_in(Window(batch_begin(now, size, back=batches.lookback), now), size)
    return of_now | batches_in(window, size) == of_now


# What changed in which of them ------------------------------------------------------------------------------------


def microbatch_models(lineage: Lineage) -> dict[int, Microbatch]:
    """Return the models that dbt builds in batches, by their number in :func:`plan_graph`.

    Raises:
        ManifestError: as :meth:`Lineage.identity`.
    """
    index = plan_graph(lineage).index
    return {
        index[unique_id]: batches
        for unique_id, node in lineage.nodes.items()
        if node.materialized == "incremental" and (batches := lineage.microbatch(unique_id)) is not None
    }


def take_windows(graph: PlanGraph) -> frozenset[int]:
    """Return the followers that are told in which event times there is something new for them."""
    return frozenset(number for number, each in enumerate(graph.followers, graph.node_end) if each.takes_window)


def extents_asked(lineage: Lineage, followers: tuple[Follower, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Return of what a plan asks in which event times it changed, as ``extents_of`` of the ledger takes it.

    That is what a microbatch model reads, or a follower that takes a window, directly or not, each with the nodes and
    followers of which the same is asked.
    """
    graph = plan_graph(lineage, followers)
    asked = graph.and_above(microbatch_models(lineage).keys() | take_windows(graph))
    readers: dict[int, list[str]] = {}
    for number in sorted(asked):
        for parent in graph.parents[number]:
            readers.setdefault(parent, []).append(graph.ids[number])
    return {graph.ids[number]: tuple(nodes) for number, nodes in readers.items()}


def planned_extents(
    graph: PlanGraph,
    snapshot: LedgerSnapshot,
    planned: Sequence[int],
    ends: Collection[int],
    *,
    built: Sequence[int],
    changed: Sequence[int],
    reach: Sequence[int],
    due_by_itself: Collection[int],
    asked: Collection[int],
) -> dict[int, Extent]:
    """Return in which event times there is something new for the nodes of a plan; empty where no window is known.

    Args:
        graph: what is planned.
        snapshot: the ledger, with its ``extents``.
        planned: the nodes in the plan, parents before children.
        ends: the microbatch models, and the followers that take a window; of what none of them reads, nothing is said.
        built: the tick of each node's last good build; 0 where there was none.
        changed: the tick at which each node or source changed last.
        reach: the same, with ``IN_PLAN`` for what is in the plan, or the tick of its build for what is only tested.
        due_by_itself: the nodes that are in the plan whatever they read.
        asked: those of them for which alone that someone asked for them, as the ledger knows.
    """
    known = (each for of_one in snapshot.extents.values() for each in of_one.values())
    if not snapshot.debt_extents and all(each.window is None for each in known):
        return {}
    of_interest = graph.and_above(ends)
    found: dict[int, Extent] = {}
    for number in planned:
        if number not in of_interest:
            continue
        tick, unique_id = built[number], graph.ids[number]
        extent = UNCHANGED
        if number in asked:
            extent = snapshot.debt_extents.get(unique_id, OPEN)
        # A row of a snapshot that changed has the time of now, whatever the time of what changed it.
        if not tick or number in due_by_itself or unique_id.startswith("snapshot."):
            extent |= OPEN
        for parent in graph.parents[number]:
            # Also of a source that is paused: what it brought makes nothing stale, and is taken in with the rest.
            if (of_parent := snapshot.extents.get(graph.ids[parent], {}).get(tick)) is not None:
                extent |= of_parent
            elif changed[parent] > tick:
                extent |= OPEN
            if tick < reach[parent] != changed[parent]:
                extent |= found.get(parent, OPEN)
        found[number] = extent
    return found


def all_extents(lineage: Lineage, snapshot: LedgerSnapshot) -> dict[str, Extent]:
    """Return in which event times there is something new for nodes, whichever of them are built; as planned_extents."""
    graph = plan_graph(lineage)
    facts, start = snapshot.nodes, graph.source_count
    nodes = range(start, len(graph.ids))
    built = [facts[each].tick if each in facts else 0 for each in graph.ids]
    changed = [snapshot.sources.get(each, 0) for each in graph.ids[:start]]
    changed += [facts[graph.ids[number]].changed_tick if built[number] else 0 for number in nodes]
    found = planned_extents(
        graph,
        snapshot,
        nodes,
        microbatch_models(lineage),
        built=built,
        changed=changed,
        reach=[*changed[:start], *(IN_PLAN for _ in nodes)],
        due_by_itself=(),
        asked={graph.index[node] for node, tick in snapshot.debts.items() if tick > built[graph.index[node]]},
    )
    return {graph.ids[number]: extent for number, extent in found.items()}


# Calls of dbt -----------------------------------------------------------------------------------------------------


def first_call(
    graph: PlanGraph,
    build: Sequence[int],
    models: Mapping[int, Microbatch],
    extents: Mapping[int, Extent],
    now: datetime,
) -> tuple[frozenset[int], Window | None]:
    """Split a build by windows: dbt has one span of time for all microbatch models of a call.

    Models share a call where none of them builds another batch for it than those that are due; of which dbt builds
    those by itself, with any that it begins by itself.

    Args:
        graph: what is planned.
        build: the nodes to build, parents before children.
        models: the microbatch models among them.
        extents: in which event times there is something new for a node; a node without: not known.
        now: an aware datetime.

    Returns:
        the nodes that wait for a call of their own, with those that read them; and the window that the others are to
        be given, None where dbt is to begin where it would without windows.
    """
    later: set[int] = set()
    span: Window | None = None
    sharing: list[tuple[Window, str]] = []
    # Whether there is a model that dbt must begin by itself, or one that it must not.
    by_dbt, by_window = False, False
    for number in build:
        if not later.isdisjoint(graph.parents[number]):
            later.add(number)
            continue
        if (batches := models.get(number)) is None:
            continue
        extent = extents.get(number, OPEN)
        window = None if extent.is_open or batches.is_refreshed else due_window(batches, extent)
        either = window is not None and _is_by_dbt(batches, window, now)
        if window is not None and not by_dbt:
            joined = window | span if span else window
            with_it = [*sharing, (window, batches.batch_size)]
            if all(batches_in(joined, size) == batches_in(each, size) for each, size in with_it):
                span, sharing = joined, with_it
                by_window |= not either
                continue
        if by_window or not (window is None or either):
            later.add(number)
        else:
            by_dbt = True
    return frozenset(later), span if by_window else None
