"""The ledger at one instant: the snapshot that plans are made of, and the history of what happened since a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Select, Table, bindparam, select

from lineage_orch.ledger import launches, loads, marks, pauses, upkeep
from lineage_orch.ledger.extents import extent_in, extents_above
from lineage_orch.ledger.loads import is_source
from lineage_orch.ledger.schema import builds, debts, failed, failures, nodes, runs, sources, untested, updates
from lineage_orch.ledger.scope import Scope
from lineage_orch.ledger.snapshot import (
    Built,
    Extent,
    Failed,
    Failure,
    History,
    LedgerSnapshot,
    Moment,
    NodeFact,
    Untested,
)

# What history a snapshot is to hold: of all, of these ids, or of these above the last good builds of these nodes.
HistoryOf = Collection[str] | Mapping[str, Collection[str]] | None

_FACT_COLUMNS = [
    nodes.c[name] for name in ("node", "tick", "built_at", "checksum", "changed_tick", "identity", "content", "seconds")
]


def snapshot(
    scope: Scope, history_of: HistoryOf, extents_of: Mapping[str, Collection[str]] | None, run_id: str | None
) -> LedgerSnapshot:
    """Return all facts of a scope; the history of these ids only, or of all for None."""
    ask = scope.execute
    newest = ask(
        select(sources.c.source, sources.c.tick, sources.c.loaded_at, sources.c.baseline).where(scope.mine(sources))
    ).all()
    facts = ask(select(*_FACT_COLUMNS).where(scope.mine(nodes))).all()
    built = {fact.node: fact.tick for fact in facts}
    changed_nodes = {fact.node: fact.changed_tick for fact in facts}
    changed_sources = {source: tick for source, tick, *_ in newest}
    of_sources = select(updates.c.source, updates.c.tick, updates.c.loaded_at).where(~updates.c.unchanged)
    of_nodes = select(builds.c.node, builds.c.tick, builds.c.built_at).where(builds.c.changed_tick == builds.c.tick)
    if isinstance(history_of, Mapping):
        above = {each: {built.get(node, 0) for node in below} for each, below in history_of.items()}
        source_history = _first_above(scope, of_sources, updates, "source", above, changed_sources)
        node_history = _first_above(scope, of_nodes, builds, "node", above, changed_nodes)
    else:
        source_history = _history(scope, of_sources, updates, "source", history_of)
        node_history = _history(scope, of_nodes, builds, "node", history_of)
    extents: dict[str, dict[int, Extent]] = {}
    if extents_of:
        ticks = {each: {built[node] for node in below if node in built} for each, below in extents_of.items()}
        kept_from = int(marks.mark(scope, upkeep.PRUNED_WINDOW) or 0)
        extents = extents_above(scope, ticks, changed_nodes | changed_sources, kept_from)
    asked = ask(select(debts).where(scope.mine(debts))).all()
    declared = loads.registered(scope)
    return LedgerSnapshot(
        tick=scope.tick,
        sources={source: tick for source, tick, _, _ in newest if is_source(source)},
        nodes={
            node: NodeFact(tick, built_at, checksum, None if changed == tick else changed, *rest)
            for node, tick, built_at, checksum, changed, *rest in facts
        },
        producers=frozenset(each for each in declared if is_source(each)),
        source_history=source_history,
        node_history=node_history,
        run_id=run_id,
        baselines=frozenset(source for source, _, _, baseline in newest if baseline and is_source(source)),
        debts={row.node: row.tick for row in asked},
        failures={
            row.node: Failure(row.times, row.since, row.last_at, row.tick, row.identity, row.message)
            for row in ask(select(failures).where(scope.mine(failures, failures.c.cleared_tick.is_(None))))
        },
        untested={
            row.node: Untested(row.tick, row.built_at, row.identity)
            for row in ask(select(untested).where(scope.mine(untested, untested.c.cleared_tick.is_(None))))
        },
        producer_patterns=frozenset(each for each in declared if not is_source(each)),
        unresolved={source: tick for source, tick, _, _ in newest if not is_source(source)},
        loaded_at={source: at for source, _, at, _ in newest if is_source(source)},
        launches=launches.read(scope),
        pauses=pauses.read(scope),
        extents=extents,
        debt_extents={row.node: extent_in(row) for row in asked if row.window_start is not None},
    )


def _history(
    scope: Scope, query: Select[Any], table: Table, column: str, history_of: Collection[str] | None
) -> dict[str, list[Moment]]:
    history: dict[str, list[Moment]] = {}
    for name, tick, at in scope.chunks(query.order_by(table.c.tick), table.c[column], history_of):
        if table is builds or is_source(name):
            history.setdefault(name, []).append(Moment(tick, at))
    return history


def _first_above(
    scope: Scope,
    query: Select[Any],
    table: Table,
    column: str,
    above: Mapping[str, Collection[int]],
    newest: Mapping[str, int],
) -> dict[str, list[Moment]]:
    """Return the first moment above each of these ticks, of each id: one look into an index for each that has any."""
    its_later = scope.mine(table, table.c[column] == bindparam("its"), table.c.tick > bindparam("above"))
    first = query.where(its_later).order_by(table.c.tick).limit(1)
    history: dict[str, list[Moment]] = {}
    for name in above.keys() & newest.keys():
        found: set[Moment] = set()
        for tick in above[name]:
            if newest[name] > tick:
                rows = scope.execute(first, {"its": name, "above": tick})
                found.update(Moment(at_tick, at) for _, at_tick, at in rows)
        if found:
            history[name] = sorted(found)
    return history


def history(scope: Scope, since: datetime, limit: int) -> History:
    """Return what was loaded, built and failed since a time: the newest of each, in order of tick."""
    ask = scope.execute
    loaded = loads.newest_loads(scope, limit, updates.c.loaded_at >= since)
    built = ask(
        select(builds)
        .where(scope.mine(builds, builds.c.built_at >= since))
        .order_by(builds.c.tick.desc(), builds.c.built_at.desc(), builds.c.node)
        .limit(limit)
    ).all()
    begun = ask(select(runs.c.tick, runs.c.begun_at, runs.c.who).where(scope.mine(runs))).all()
    bad = ask(
        select(failed.c.tick, failed.c.node, failed.c.failed_at, failed.c.times, failed.c.message)
        .where(scope.mine(failed, failed.c.failed_at >= since))
        .order_by(failed.c.tick.desc(), failed.c.node.desc())
        .limit(limit)
    ).all()
    return History(
        loaded[::-1],
        {row.tick: row.begun_at for row in begun},
        [
            Built(row.tick, row.node, row.built_at, row.seconds, row.changed_tick == row.tick, extent_in(row))
            for row in reversed(built)
        ],
        [Failed(*row) for row in reversed(bad)],
        {row.tick: row.who for row in begun if row.who is not None},
    )
