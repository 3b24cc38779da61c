"""Runs of builds, and what they built well: each node at the tick of its run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, and_, bindparam, func, insert, select, update

from lineage_orch.errors import LedgerError
from lineage_orch.ledger import debts
from lineage_orch.ledger.extents import EXTENT_COLUMNS, Extents, extent_in, extent_values
from lineage_orch.ledger.failures import clear_failures
from lineage_orch.ledger.identities import Identities, keep_identities
from lineage_orch.ledger.schema import builds, failures, holders, nodes, runs, sources, untested, updates
from lineage_orch.ledger.scope import Scope
from lineage_orch.ledger.snapshot import OPEN, Extent

# How many of the last builds of a node tell how long it takes.
_TIMED = 10
_BUILD_COLUMNS = ("changed_tick", "built_at", "checksum", "identity", "seconds", "row_count")
_NODE_COLUMNS = ("tick", *_BUILD_COLUMNS, "content")
_UNTESTED_COLUMNS = ("tick", "built_at", "identity", "cleared_tick")


# -- runs -------------------------------------------------------------------------------------------------------


def begin_run(scope: Scope, run_id: str, now: datetime, who: str | None) -> int:
    """Take the next tick for a run; its name is by default that of the holder of the build lock."""
    _bring_back(scope, now)
    tick = scope.next_tick()
    if who is None:
        who = scope.execute(select(holders.c.who).where(scope.mine(holders))).scalar()
    scope.execute(insert(runs), [scope.row(tick=tick, run_id=run_id, begun_at=now, who=who)])
    return tick


def _bring_back(scope: Scope, now: datetime) -> None:
    """Let what was loaded, built or failed after ``now`` count as of now, for good."""

    def bring_back(column: Column[Any], *only: ColumnElement[bool]) -> None:
        table = column.table
        scope.execute(update(table).where(scope.mine(table, column > now, *only)).values({column.name: now}))

    # Two long tables: only what is news since the run before, and the builds of the nodes that it is about.
    before = select(func.coalesce(func.max(runs.c.tick), 0)).where(scope.mine(runs)).scalar_subquery()
    bring_back(updates.c.loaded_at, updates.c.tick > before)
    bring_back(sources.c.loaded_at)
    ahead = select(nodes.c.node).where(scope.mine(nodes, nodes.c.built_at > now))
    bring_back(builds.c.built_at, builds.c.node.in_(ahead))
    bring_back(nodes.c.built_at)
    bring_back(untested.c.built_at)
    bring_back(failures.c.since)
    bring_back(failures.c.last_at)


def check_run(scope: Scope, tick: int, shown: str | None) -> None:
    """Make sure that the run that took this tick, and has this random id, took it in this history of the ledger.

    Raises:
        LedgerError: it did not, or its id is not known here.
    """
    written = scope.execute(select(runs.c.run_id).where(scope.mine(runs, runs.c.tick == tick))).scalar()
    if written is not None and written == shown:
        return
    if written is None:
        why = "it knows no run that began there"
    elif shown is None:
        why = "its run is of another ledger object, and its run_id was not given"
    else:
        why = "another run began there"
    raise LedgerError(
        f"the ledger {scope.shown} takes nothing at tick {tick} of {scope.name}: {why} (its clock "
        f"is at {scope.tick}); if it was restored, deleted or replaced while the build ran, build again; in "
        "code of your own, use the tick of begin_build"
    )


# -- good builds ------------------------------------------------------------------------------------------------


def record_built(
    scope: Scope,
    tick: int,
    names: Sequence[str],
    built_at: datetime,
    identities: Identities,
    checksums: Mapping[str, str],
    unchanged: Collection[str],
    seconds: Mapping[str, float],
    rows: Mapping[str, int],
    extents: Extents,
) -> None:
    """Record nodes that were built well in a run."""
    digests = keep_identities(scope, identities)
    earlier = _changed_before(scope, tick, set(names) & set(unchanged))
    done = [
        _build(scope, node, tick, built_at, digests.get(node))
        | {"changed_tick": earlier.get(node, tick), "checksum": checksums.get(node)}
        | {"seconds": seconds.get(node), "row_count": rows.get(node)}
        for node in names
    ]
    _add_builds(scope, done, extents or {})
    newer = scope.chunks(select(nodes).where(nodes.c.tick > tick), nodes.c.node, names)
    later = {row.node: row for row in newer}
    newest = [row for row in done if row["node"] not in later]
    for row in done:
        if (fact := later.get(row["node"])) is not None and row["changed_tick"] > fact.changed_tick:
            # The later run found it unchanged since before this one.
            newest.append({**fact._mapping, "changed_tick": row["changed_tick"]})
    scope.upsert(nodes, [{"content": None, **row} for row in newest], *_NODE_COLUMNS)
    debts.pay(scope, names, tick)
    scope.delete(untested.c.node, names, untested.c.tick <= tick)
    clear_failures(scope, tick, names)


def record_untested(
    scope: Scope, tick: int, names: Sequence[str], built_at: datetime, identities: Identities, extents: Extents
) -> None:
    """Note nodes that succeeded themselves in a run, and whose tests did not pass."""
    digests = keep_identities(scope, identities)
    rows = [
        scope.row(node=node, tick=tick, built_at=built_at, identity=digests.get(node), cleared_tick=None)
        | extent_values((extents or {}).get(node, OPEN))
        for node in names
    ]
    later = _ticks_of(scope, untested, names, untested.c.tick > tick)
    rows = [row for row in rows if row["node"] not in later]
    scope.upsert(untested, rows, *_UNTESTED_COLUMNS, *EXTENT_COLUMNS)


def record_tested(scope: Scope, tick: int, names: Sequence[str]) -> None:
    """Record nodes whose tests passed in a run at the tick of the earlier run that built them."""
    waiting = and_(untested.c.tick <= tick, untested.c.cleared_tick.is_(None))
    found = list(scope.chunks(select(untested).where(waiting), untested.c.node, names))
    done = [_build(scope, row.node, row.tick, row.built_at, row.identity) for row in found]
    _add_builds(scope, done, {row.node: extent_in(row) for row in found})
    last = _ticks_of(scope, nodes, names)
    newest = [row for row in done if row["tick"] > last.get(row["node"], 0)]
    scope.upsert(nodes, newest, "tick", *_BUILD_COLUMNS)
    for row in found:
        debts.pay(scope, [row.node], row.tick)
    tested = [row.node for row in found]
    scope.update(untested.c.node, tested, waiting, cleared_tick=tick)
    clear_failures(scope, tick, tested)


def take_back(scope: Scope, tick: int, names: Sequence[str]) -> None:
    """Take back what was recorded in a run and proved bad later in it."""
    found = dict.fromkeys(scope.delete(builds.c.node, names, builds.c.tick == tick), tick)
    # Those that an earlier run built, and of which this one said that their tests passed.
    tested = _ticks_of(scope, untested, names, untested.c.cleared_tick == tick)
    for node, built_tick in tested.items():
        scope.delete(builds.c.node, [node], builds.c.tick == built_tick)
    found |= tested
    wrong = sorted(found)
    for node in wrong:
        scope.delete(nodes.c.node, [node], nodes.c.tick == found[node])
    latest = (
        select(builds.c.node, func.max(builds.c.tick).label("tick"))
        .where(scope.mine(builds))
        .group_by(builds.c.node)
        .subquery()
    )
    of_latest = and_(builds.c.node == latest.c.node, builds.c.tick == latest.c.tick)
    # What the build that is taken back left in the warehouse is none of theirs.
    rows = [
        scope.row(node=row.node, content=None, **{name: row._mapping[name] for name in ("tick", *_BUILD_COLUMNS)})
        for row in scope.chunks(select(builds).join(latest, of_latest), builds.c.node, wrong)
    ]
    scope.upsert(nodes, rows, *_NODE_COLUMNS)
    for node in wrong:
        debts.add(scope, [node], found[node], "what was built did not hold")
    for cleared in (failures, untested):
        scope.update(cleared.c.node, wrong, cleared.c.cleared_tick == tick, cleared_tick=None)


def _build(scope: Scope, node: str, tick: int, built_at: datetime, identity: str | None) -> dict[str, Any]:
    """Return a good build as a row, of which no more is known."""
    known = scope.row(node=node, tick=tick, changed_tick=tick, built_at=built_at, identity=identity)
    return dict.fromkeys(_BUILD_COLUMNS) | known


def _add_builds(scope: Scope, done: Sequence[Mapping[str, Any]], extents: Mapping[str, Extent]) -> None:
    rows = [{**row, **extent_values(extents.get(row["node"], OPEN))} for row in done]
    scope.upsert(builds, rows, *_BUILD_COLUMNS, *EXTENT_COLUMNS)


def _changed_before(scope: Scope, tick: int, names: Collection[str]) -> dict[str, int]:
    """Return the tick of the last change of these nodes before a run, where a good build of before is kept."""
    last_change = func.max(builds.c.changed_tick).label("changed_tick")
    query = select(builds.c.node, last_change).where(builds.c.tick < tick).group_by(builds.c.node)
    return {row.node: row.changed_tick for row in scope.chunks(query, builds.c.node, names)}


def _ticks_of(scope: Scope, table: Table, names: Iterable[str], *also: ColumnElement[bool]) -> dict[str, int]:
    """Return the ticks of the rows that nodes have in a table with one row for each."""
    query = select(table.c.node, table.c.tick).where(*also)
    return {row.node: row.tick for row in scope.chunks(query, table.c.node, names)}


# -- what they left in the warehouse ----------------------------------------------------------------------------


def record_contents(scope: Scope, tick: int, contents: Mapping[str, str], unchanged: Collection[str]) -> None:
    """Record what the builds of a run left in the warehouse, and which of them left it as it was before."""
    of_run = scope.chunks(select(nodes.c.node).where(nodes.c.tick == tick), nodes.c.node, contents)
    last = sorted({node for (node,) in of_run})
    if last:
        its_node = scope.mine(nodes, nodes.c.tick == tick, nodes.c.node == bindparam("its"))
        known = update(nodes).where(its_node).values(content=bindparam("content"))
        scope.execute(known, [{"its": node, "content": contents[node]} for node in last])
    before = _changed_before(scope, tick, set(last) & set(unchanged))
    rows = [{"its": node, "changed": changed} for node, changed in sorted(before.items())]
    for table in (nodes, builds) if rows else ():
        its_build = scope.mine(table, table.c.node == bindparam("its"), table.c.tick == tick)
        scope.execute(update(table).where(its_build).values(changed_tick=bindparam("changed")), rows)


def forget_contents(scope: Scope, names: Iterable[str]) -> None:
    """Forget what the last good builds of these nodes left in the warehouse."""
    scope.update(nodes.c.node, names, content=None)


# -- read -------------------------------------------------------------------------------------------------------


def median_seconds(scope: Scope, node_ids: Iterable[str]) -> dict[str, float]:
    """Return the median time of the last builds of each node that was ever timed."""
    of_node = builds.alias()
    tenth = (
        select(of_node.c.tick)
        .where(of_node.c.scope_id == nodes.c.scope_id, of_node.c.node == nodes.c.node)
        .order_by(of_node.c.tick.desc())
        .limit(1)
        .offset(_TIMED - 1)
        .scalar_subquery()
    )
    # An outer join, so that SQLite begins with the nodes, and reads ten rows of each and not all.
    of_last_ten = and_(
        builds.c.scope_id == nodes.c.scope_id,
        builds.c.node == nodes.c.node,
        builds.c.tick >= func.coalesce(tenth, 0),
    )
    query = select(nodes.c.node, builds.c.seconds).join_from(nodes, builds, of_last_ten, isouter=True)
    found: dict[str, list[float]] = {}
    for row in scope.chunks(query, nodes.c.node, node_ids):
        if row.seconds is not None:
            found.setdefault(row.node, []).append(row.seconds)
    return {node: median(each) for node, each in found.items()}


def last_as_at(scope: Scope, node: str, tick: int) -> int | None:
    """Return the tick of the last good build that left the content of a node as it was at a tick."""
    mine = scope.mine(builds, builds.c.node == node)
    then = select(builds.c.changed_tick).where(mine, builds.c.tick <= tick).order_by(builds.c.tick.desc())
    same = builds.c.changed_tick == then.limit(1).scalar_subquery()
    return scope.execute(select(func.max(builds.c.tick)).where(mine, same)).scalar()
