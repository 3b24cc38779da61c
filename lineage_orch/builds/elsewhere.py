"""What other projects of the ledger build, and this one reads: their builds are its updates.

No message decides: whoever plans asks the ledger, so one that is lost delays a build and loses none. A run takes
the news in before it takes its tick; a question shows what a run would see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from lineage_orch.errors import LineageError
from lineage_orch.ledger import Ledger, LedgerSnapshot, Moment
from lineage_orch.ledger.others import BuiltElsewhere, Published
from lineage_orch.lineage import Lineage


def tables_of(lineage: Lineage) -> dict[str, Published]:
    """Return what a project reads and builds, as the others are to see it."""
    graph = lineage.built_graph
    tables: dict[str, Published] = {}
    for number, unique_id in enumerate(graph.ids):
        if (relation := lineage.relation_key(unique_id)) is not None:
            is_source = number < graph.source_count
            parents = None if is_source else tuple(graph.ids[parent] for parent in graph.parents[number])
            tables[unique_id] = Published(relation, parents)
    return tables


def built_elsewhere(ledger: Ledger, lineage: Lineage) -> dict[str, BuiltElsewhere]:
    """Return the sources that another project builds, with its node."""
    return ledger.built_elsewhere(
        {source: key for source in lineage.sources if (key := lineage.relation_key(source)) is not None}
    )


def publish(ledger: Ledger, lineage: Lineage, tables: Mapping[str, Published]) -> None:
    """Show the others what is read and built here.

    Raises:
        LineageError: the project would read, through others, what it builds itself from that. Nothing was published, so
            the others are not disturbed.
        LedgerError: the ledger cannot be read or written.
    """
    check_cycle(ledger, lineage, tables)
    ledger.publish(tables)


def take_in(ledger: Ledger, lineage: Lineage, now: datetime) -> None:
    """Record as updates what other projects built; raises LedgerError if the ledger cannot be read or written."""
    if news := _news(built_elsewhere(ledger, lineage)):
        ledger.record_updates([each.update_of(source) for source, each in news.items()], now=now)


def check_cycle(ledger: Ledger, lineage: Lineage, tables: Mapping[str, Published] | None = None) -> None:
    """Find what goes round through several projects.

    Raises:
        LineageError: there is a cycle; it is named.
    """
    cycle = ledger.cycle_through_others(tables_of(lineage) if tables is None else tables)
    if cycle is not None:
        shown = " -> ".join(f"{scope}: {unique_id}" for scope, unique_id in cycle)
        raise LineageError(
            f"the projects of the ledger {ledger.url} go round in a circle: {shown}; each build would set off the next "
            "for ever. Break it: let one of these read something else"
        )


def with_builds_elsewhere(snapshot: LedgerSnapshot, found: Mapping[str, BuiltElsewhere]) -> LedgerSnapshot:
    """Return a snapshot in which sources that another project builds have a producer.

    And, of a question, what a run would take in first as the newest updates.
    """
    if not found:
        return snapshot
    snapshot = replace(snapshot, producers=snapshot.producers | found.keys())
    news = _news(found) if snapshot.run_id is None else {}
    if not news:
        return snapshot
    sources, loaded_at, history = dict(snapshot.sources), dict(snapshot.loaded_at), dict(snapshot.source_history)
    for tick, (source, each) in enumerate(news.items(), snapshot.tick + 1):
        assert each.built_at is not None
        sources[source] = tick
        loaded_at[source] = max(each.built_at, loaded_at.get(source, each.built_at))
        history[source] = [*history.get(source, ()), Moment(tick, each.built_at)]
    return replace(
        snapshot,
        tick=snapshot.tick + len(news),
        sources=sources,
        loaded_at=loaded_at,
        source_history=history,
        baselines=snapshot.baselines - news.keys(),
    )


def _news(found: Mapping[str, BuiltElsewhere]) -> dict[str, BuiltElsewhere]:
    """What was built, and is no update here yet; the order is the same for whoever asks."""
    return {source: found[source] for source in sorted(found) if found[source].tick and not found[source].is_known}
