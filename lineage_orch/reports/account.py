"""What one run of builds did, and for which loads: data, rendered elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from lineage_orch.ledger import Built, History, Load
from lineage_orch.plan import plan_graph
from lineage_orch.reports.activity import Activity, activity

if TYPE_CHECKING:
    from lineage_orch.ledger import LedgerSnapshot
    from lineage_orch.lineage import Lineage
    from lineage_orch.reports.build_report import BuildReport


@dataclass(frozen=True, slots=True)
class BuiltNode:
    """A node that the run built well.

    Attributes:
        unique_id: its unique_id.
        seconds: how long it took; None: not known.
        is_unchanged: whether it came out as it was.
        after: of a node that no other node of the run reads, the time from the oldest load that it took in to its own
            end: how long people waited for it. None of the others, and of one that took in no load.
    """

    unique_id: str
    seconds: float | None
    is_unchanged: bool
    after: timedelta | None


@dataclass(frozen=True)
class Account:
    """What one run of builds did.

    Attributes:
        report: what it built, what failed, what is held.
        loads: those that led to what it built and to what failed, the newest first.
        built: what it built well, in the order in which it was done.
        not_affected: the nodes of the project downstream of none of these loads.
        compared: the run beside one dbt command for each of these loads; None where it took in none.
    """

    report: BuildReport
    loads: tuple[Load, ...]
    built: tuple[BuiltNode, ...]
    not_affected: tuple[str, ...]
    compared: Activity | None


def loads_wanted(
    lineage: Lineage, before: LedgerSnapshot, after: LedgerSnapshot, built: Iterable[str]
) -> dict[str, int]:
    """Return the sources whose loads led to what a run built and to what failed -> the tick above which these are.

    Of a node that was never built before, it is the newest load of each source.

    Args:
        built: unique_ids of what it built.
    """
    graph = plan_graph(lineage)
    wanted: dict[str, int] = {}
    for node in (*built, *_failed(before, after)):
        fact = before.nodes.get(node)
        for number in graph.sources_above(graph.index[node]) if node in graph.index else ():
            source = graph.ids[number]
            newest = after.sources.get(source, 0)
            above = newest - 1 if fact is None else fact.tick
            if newest > above:
                wanted[source] = min(above, wanted.get(source, above))
    return wanted


def account(
    lineage: Lineage,
    before: LedgerSnapshot,
    after: LedgerSnapshot,
    report: BuildReport,
    loads: Mapping[str, Sequence[Load]],
    medians: Mapping[str, float],
    *,
    since: datetime,
    until: datetime,
) -> Account:
    """Return what a run did.

    Args:
        loads: source -> the loads that :func:`loads_wanted` asks for, the newest first.
        medians: unique_id -> how many seconds a build of the node takes.
        since: when the run began.
    """
    graph = plan_graph(lineage)
    built = [node for node in report.built if node in after.nodes and node in graph.index]
    numbers = {graph.index[node] for node in built}
    ticks = [*(after.nodes[node].tick for node in built), *_failed(before, after).values()]
    last_tick = max(ticks, default=0)
    taken = sorted(
        (load for each in loads.values() for load in each if load.tick < last_tick),
        key=lambda load: load.tick,
        reverse=True,
    )

    def waited(node: str) -> timedelta | None:
        number, fact = graph.index[node], after.nodes[node]
        if not numbers.isdisjoint(graph.children[number]):
            return None
        above = before.nodes[node].tick if node in before.nodes else 0
        of_source = (loads.get(graph.ids[each], ()) for each in graph.sources_above(number))
        news = ([load for load in each if above < load.tick < fact.tick and not load.unchanged] for each in of_source)
        # Never built before, it waited for the last load of each.
        times = [load.at for each in news for load in (each if above else each[:1])]
        return max(fact.built_at - min(times), timedelta(0)) if times else None

    rows = tuple(
        BuiltNode(node, fact.seconds, fact.changed_tick != fact.tick, waited(node))
        for node in built
        for fact in (after.nodes[node],)
    )
    affected = lineage.downstream(*{load.source for load in taken} & lineage.sources.keys()) if taken else frozenset()
    history = History(
        loads=taken[::-1],
        built=[Built(after.nodes[row.unique_id].tick, row.unique_id, until, row.seconds, True) for row in rows],
    )
    return Account(
        report,
        tuple(taken),
        rows,
        tuple(node for node in graph.ids[graph.source_count :] if node not in affected),
        activity(lineage, history, medians, since, until) if taken else None,
    )


def _failed(before: LedgerSnapshot, after: LedgerSnapshot) -> dict[str, int]:
    """Return the nodes that failed since -> the tick of the run in which they did."""
    return {node: failure.tick for node, failure in after.failures.items() if failure.tick > before.tick}
