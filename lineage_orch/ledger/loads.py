"""Loads: each is recorded at a tick of its own, under its source, or a name that is not resolved yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Row, Select, bindparam, exists, func, insert, or_, select

from lineage_orch.errors import LedgerError
from lineage_orch.ledger.extents import window_in
from lineage_orch.ledger.schema import holders, nodes, producers, runs, sources, untested, updates, utc
from lineage_orch.ledger.scope import Scope
from lineage_orch.ledger.snapshot import OPEN, UNCHANGED, Extent, Load
from lineage_orch.updates import LastLoad, SourceUpdate, Window

# How many of the newest updates are looked at for the names of producers.
_PRODUCERS_OF = 10_000
# How many loads that a node has not taken in are looked at for the oldest.
_FIRST_LOADS = 1000
# What stands for one load; a name that was resolved since stands for none.
UNRESOLVED = updates.c.resolved_tick.is_(None)


def is_source(name: str) -> bool:
    """Whether a name is a unique_id, and no template or wildcard of one.

    As ``source.package.source_name.table``; or ``model.package.name``, of a model of another project.
    """
    dots = 3 if name.startswith("source.") else 2 if name.startswith("model.") else None
    return dots is not None and name.count(".") >= dots and "{" not in name and "*" not in name


# -- recorded ---------------------------------------------------------------------------------------------------


def rows_of(given: Iterable[SourceUpdate], recorded_at: datetime, *, baseline: bool) -> list[dict[str, Any]]:
    """Return loads as rows, without scope and tick; raises ValueError for a time without time zone."""
    given = list(given)
    told: dict[tuple[str, str], set[str | None]] = {}
    for each in given:
        told.setdefault((each.source, each.update_id), set()).add(each.fingerprint)
    return [
        {
            "source": each.source,
            "update_id": each.update_id,
            "loaded_at": utc(each.loaded_at, f"loaded_at of the update of {each.source!r}"),
            "recorded_at": recorded_at,
            "flow_run_id": each.flow_run_id,
            "producer": each.producer,
            # A run that loaded it in two parts, under two of its names: neither is the fingerprint of the table.
            "fingerprint": each.fingerprint if len(told[each.source, each.update_id]) == 1 else None,
            "began_at": None if each.began_at is None else utc(each.began_at, f"began_at of {each.source!r}"),
            "given": None if is_source(each.source) else each.source,
            "baseline": baseline,
            "window_start": each.window and each.window.start,
            "window_end": each.window and each.window.end,
        }
        for each in given
    ]


def add(scope: Scope, rows: Sequence[dict[str, Any]]) -> int:
    """Add updates at the next ticks, but those that are known; return the tick of the last."""
    query = select(updates.c.update_id, updates.c.source, updates.c.tick)
    ids = {row["update_id"] for row in rows}
    known = {(row.update_id, row.source): row.tick for row in scope.chunks(query, updates.c.update_id, ids)}
    last = scope.tick
    added: list[dict[str, Any]] = []
    whole: dict[tuple[str, str], Extent] = {}
    for row in rows:
        # A run that loaded it in two parts, under two of its names, is one update of both windows.
        start, end = row["window_start"], row["window_end"]
        part = OPEN if start is None else Extent(Window(start, end))
        key = (row["update_id"], row["source"])
        whole[key] = whole.get(key, UNCHANGED) | part
    of_sources = scope.chunks(select(sources), sources.c.source, {row["source"] for row in rows})
    newest = {row.source: row._asdict() for row in of_sources}
    for row in rows:
        source, load = row["source"], (row["loaded_at"], row["fingerprint"], row["began_at"])
        if (key := (row["update_id"], source)) not in known:
            known[key] = scope.next_tick()
            of_source = newest.get(source) or {"source": source, "baseline": True, **LastLoad()._asdict()}
            before = LastLoad(of_source["loaded_at"], of_source["fingerprint"])
            unchanged = before.is_repeated_by(*load) and not _is_built_within(scope, load[2], load[0])
            window = None if whole[key].is_open else whole[key].window
            start, end = window or (None, None)
            row |= {"window_start": start, "window_end": end, "unchanged": unchanged}
            added.append(scope.row(tick=known[key], **row))
            newest[source] = scope.row(**(of_source | before.then(*load)._asdict()))
            if not unchanged:
                # A baseline does not make a source rest that moved before.
                newest[source] |= {"tick": known[key], "baseline": of_source["baseline"] and row["baseline"]}
        last = known[key]
    if added:
        scope.execute(insert(updates), added)
        changed = [newest[source] for source in {row["source"]: None for row in added}]
        scope.upsert(sources, changed, "tick", "loaded_at", "baseline", "fingerprint")
    return last


def _is_built_within(scope: Scope, began_at: datetime | None, ended_at: datetime) -> bool:
    """Whether some last build of a node may have read what a load had half written; or one may that runs now.

    Its run began before the load ended, and it was done after the load began.
    """
    conditions = [exists().where(scope.mine(holders, holders.c.since < ended_at))]
    for table in (nodes, untested):
        read_within = (
            scope.mine(table, table.c.built_at > min(began_at or ended_at, ended_at)),
            scope.mine(runs, runs.c.tick == table.c.tick, runs.c.begun_at < ended_at),
        )
        conditions.append(exists().where(*read_within))
    return bool(scope.execute(select(or_(*conditions))).scalar())


def check_meanings(meanings: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return what names mean that are no unique_ids; raises LedgerError if a meaning is none."""
    wanted = {name: list(dict.fromkeys(meaning)) for name, meaning in meanings.items() if meaning}
    for name, meaning in wanted.items():
        for source in meaning:
            if not is_source(source):
                raise LedgerError(
                    f"{name!r} cannot mean {source!r}, which is no unique_id of a source "
                    "(source.package.source_name.table)"
                )
    return {name: meaning for name, meaning in wanted.items() if not is_source(name)}


def resolve(scope: Scope, wanted: Mapping[str, Sequence[str]], recorded_at: datetime) -> None:
    """Let the updates under these names become updates of the sources that they mean."""
    own = ("scope_id", "tick", "recorded_at", "resolved_tick", "unchanged")
    columns = [each.name for each in updates.c if each.name not in own]
    query = select(updates.c.tick, *(updates.c[name] for name in columns)).where(UNRESOLVED)
    rows = sorted(scope.chunks(query, updates.c.source, wanted), key=lambda row: row.tick)
    add(
        scope,
        [
            {name: getattr(row, name) for name in columns} | {"source": source, "recorded_at": recorded_at}
            for row in rows
            for source in wanted[row.source]
        ],
    )
    scope.update(updates.c.source, wanted, UNRESOLVED, resolved_tick=scope.tick)
    scope.delete(sources.c.source, wanted)


# -- producers --------------------------------------------------------------------------------------------------


def registered(scope: Scope) -> set[str]:
    """Return what producers declare, as given."""
    return set(scope.execute(select(producers.c.source).where(scope.mine(producers))).scalars())


def register(scope: Scope, names: Iterable[str]) -> None:
    """Note that something loads these."""
    scope.insert_new(producers, [scope.row(source=each) for each in sorted(names)])


def producers_of_late(scope: Scope) -> dict[str, list[str]]:
    """Return what has a producer, with the names of those that loaded it of late, newest first."""
    found: dict[str, list[str]] = {each: [] for each in sorted(registered(scope))}
    recent = (
        _newest(scope, [updates.c.source, updates.c.producer, updates.c.tick])
        .where(UNRESOLVED)
        .limit(_PRODUCERS_OF)
        .subquery()
    )
    for source, producer in scope.execute(
        select(recent.c.source, recent.c.producer)
        .where(recent.c.producer.is_not(None))
        .group_by(recent.c.source, recent.c.producer)
        .order_by(func.max(recent.c.tick).desc())
    ):
        found.setdefault(source, []).append(producer)
    return found


# -- read -------------------------------------------------------------------------------------------------------


def updates_since(scope: Scope, tick: int, limit: int) -> list[tuple[int, SourceUpdate]]:
    """Return the last updates above a tick, newest first, each with its tick."""
    query = _newest(scope, [updates.c.tick, *(updates.c[each.name] for each in fields(SourceUpdate))])
    rows = scope.execute(query.where(updates.c.tick > tick, UNRESOLVED).limit(limit))
    return [(at, SourceUpdate(*rest)) for at, *rest in rows]


def newest_loads(scope: Scope, limit: int, *conditions: ColumnElement[bool]) -> list[Load]:
    """Return the last loads of which these conditions are true, newest first."""
    return [
        _load(row) for row in scope.execute(_newest(scope, _LOAD_COLUMNS).where(UNRESOLVED, *conditions).limit(limit))
    ]


def recent_loads(scope: Scope, above: Mapping[str, int], limit: int) -> dict[str, list[Load]]:
    """Return the last loads of each source above a tick, newest first; a source that has none is left out."""
    of_source = _of_source(_newest(scope, _LOAD_COLUMNS)).limit(limit)
    found = {
        source: [_load(row) for row in scope.execute(of_source, {"its": source, "above": tick})]
        for source, tick in above.items()
    }
    return {source: loads for source, loads in found.items() if loads}


def oldest_loads(scope: Scope, above: Iterable[tuple[str, int]]) -> dict[tuple[str, int], datetime]:
    """Return when the oldest of the first loads of a source above a tick was loaded (UTC), where there are any."""
    first = _of_source(select(updates.c.loaded_at).where(scope.mine(updates, ~updates.c.unchanged)))
    first_loads = first.order_by(updates.c.tick).limit(_FIRST_LOADS).subquery()
    query = select(func.min(first_loads.c.loaded_at))
    found: dict[tuple[str, int], datetime] = {}
    for source, tick in sorted(set(above)):
        if (at := scope.execute(query, {"its": source, "above": tick}).scalar()) is not None:
            found[source, tick] = at
    return found


def known_updates(scope: Scope, update_ids: Iterable[str]) -> frozenset[str]:
    """Return those of these ids under which an update is kept."""
    query = select(updates.c.update_id).distinct()
    return frozenset(row.update_id for row in scope.chunks(query, updates.c.update_id, update_ids))


def unchanged_by(scope: Scope, update_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the sources to which updates with these ids brought nothing new; sorted."""
    query = select(updates.c.update_id, updates.c.source).where(updates.c.unchanged, UNRESOLVED)
    return tuple(sorted({row.source for row in scope.chunks(query, updates.c.update_id, update_ids)}))


_OWN = ("tick", "source", "loaded_at", "producer", "baseline", "unchanged", "update_id", "flow_run_id")
_LOAD_COLUMNS = [updates.c[name] for name in (*_OWN, "window_start", "window_end")]


def _load(row: Row[Any]) -> Load:
    return Load(*row[: len(_OWN)])._replace(window=window_in(row))


def _newest(scope: Scope, columns: Sequence[Column[Any]]) -> Select[Any]:
    return select(*columns).where(scope.mine(updates)).order_by(updates.c.tick.desc())


def _of_source(query: Select[Any]) -> Select[Any]:
    return query.where(updates.c.source == bindparam("its"), updates.c.tick > bindparam("above"))
