"""What is read from a ledger, by either of two ways: SQLAlchemy, or, in a SQLite file, Python's own sqlite3.

A command that only asks (``plan``, ``status``, ``sources``) has no need of SQLAlchemy, whose import takes longer than
all the rest of it. Both ways send the same statements, which are here; this file imports nothing heavy.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lineage_orch.ledger.snapshot import LedgerSnapshot, Moment, NodeFact
from lineage_orch.updates import SourceUpdate

SCHEMA_VERSION = 1
"""The version of the tables that the statements here are written for; ``ledger_schema`` makes them."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Select = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]
"""Takes a statement with ``:named`` values and the values; returns the rows."""

T = TypeVar("T")

# How many ids go into one IN (...): far below the limits of both engines.
_CHUNK = 1000

CLOCK = "SELECT id, tick FROM lineage_orch_clocks WHERE project = :project AND target = :target"
PRODUCERS = "SELECT source FROM lineage_orch_producers WHERE clock_id = :clock"
MARK = "SELECT value FROM lineage_orch_marks WHERE clock_id = :clock AND name = :name"
_SOURCES = "SELECT source, tick FROM lineage_orch_sources WHERE clock_id = :clock"
_NODES = "SELECT node, tick, built_at, checksum FROM lineage_orch_nodes WHERE clock_id = :clock"
_UPDATES = "SELECT source, tick, loaded_at FROM lineage_orch_updates WHERE clock_id = :clock{some} ORDER BY tick"
_BUILDS = "SELECT node, tick, built_at FROM lineage_orch_builds WHERE clock_id = :clock{some} ORDER BY tick"
_RECENT = (
    "SELECT tick, source, update_id, loaded_at, flow_run_id, producer FROM lineage_orch_updates "
    "WHERE clock_id = :clock AND tick > :after ORDER BY tick DESC LIMIT :limit"
)
_KNOWN = "SELECT DISTINCT update_id FROM lineage_orch_updates WHERE clock_id = :clock{some}"
_PRODUCER_NAMES = (
    "SELECT source, producer, max(tick) AS newest FROM (SELECT source, producer, tick FROM lineage_orch_updates "
    "WHERE clock_id = :clock ORDER BY tick DESC LIMIT :limit) AS recent "
    "WHERE producer IS NOT NULL GROUP BY source, producer ORDER BY newest DESC"
)
_HOLDER = "SELECT who, since FROM lineage_orch_holders WHERE clock_id = :clock"


class Holder(NamedTuple):
    """Who took the build lock last, in words for people, and since when (UTC)."""

    who: str
    since: datetime


# -- the file ------------------------------------------------------------------------------------------------


def file_of(url: str) -> Path | None:
    """Return the file that a ledger's url names, if it is a SQLite file and nothing else has to be known of it."""
    scheme, slashes, name = url.partition(":///")
    if scheme != "sqlite" or not slashes or not name or "?" in name or name.startswith(("file:", ":memory:")):
        return None
    # Absolute, because dbt changes the working directory.
    return Path(os.path.abspath(name))


def read_file(path: Path, work: Callable[[Select], T]) -> tuple[T] | None:
    """Return (in a tuple) what ``work`` makes of a ledger's file, in one read transaction, without SQLAlchemy.

    Returns None if the file cannot be read like this: it is missing, damaged or locked, or its tables are of another
    release. Then SQLAlchemy's way waits or mends it, or says in plain words what is wrong.
    """
    try:
        # rw: no file is made here, and the files of the write-ahead log, beside it, can be, which reading may need.
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
        ) as connection:
            connection.execute("BEGIN")
            if connection.execute("SELECT max(version) FROM lineage_orch_meta").fetchone() != (SCHEMA_VERSION,):
                return None
            return (work(lambda statement, values: connection.execute(statement, values).fetchall()),)
    except sqlite3.Error:
        return None


# -- the facts -----------------------------------------------------------------------------------------------


def read_clock(select: Select, scope: Mapping[str, Any]) -> tuple[int, int]:
    """Return (clock id, tick) of a project and target; (0, 0) if nobody wrote to it."""
    rows = select(CLOCK, scope)
    return (rows[0][0], rows[0][1]) if rows else (0, 0)


def read_snapshot(select: Select, clock: int, tick: int, history_of: Collection[str] | None) -> LedgerSnapshot:
    """Return all facts of a clock; the history of these ids only, or of all for None."""
    scope = {"clock": clock}
    return LedgerSnapshot(
        tick=tick,
        sources={row[0]: row[1] for row in select(_SOURCES, scope)},
        nodes={row[0]: NodeFact(row[1], time_of(row[2]), row[3]) for row in select(_NODES, scope)},
        producers=frozenset(row[0] for row in select(PRODUCERS, scope)),
        source_history=_read_history(select, _UPDATES, "source", clock, history_of),
        node_history=_read_history(select, _BUILDS, "node", clock, history_of),
    )


def _read_history(
    select: Select, statement: str, column: str, clock: int, history_of: Collection[str] | None
) -> dict[str, list[Moment]]:
    history: dict[str, list[Moment]] = {}
    for some, values in _chunks(column, history_of):
        for name, tick, at in select(statement.format(some=some), {"clock": clock, **values}):
            history.setdefault(name, []).append(Moment(tick, time_of(at)))
    return history


def _chunks(column: str, ids: Collection[str] | None) -> Iterable[tuple[str, dict[str, str]]]:
    """Yield a condition on the column and its values, some ids at a time; no condition at all for None."""
    if ids is None:
        yield "", {}
        return
    each_once = sorted(set(ids))
    for start in range(0, len(each_once), _CHUNK):
        values = {f"id{number}": each for number, each in enumerate(each_once[start : start + _CHUNK])}
        yield f" AND {column} IN ({', '.join(f':{name}' for name in values)})", values


def read_updates(select: Select, clock: int, after: int, limit: int) -> list[tuple[int, SourceUpdate]]:
    """Return the newest updates above a tick, newest first, each with its tick."""
    return [
        (tick, SourceUpdate(source, update_id, time_of(loaded_at), flow_run_id, producer))
        for tick, source, update_id, loaded_at, flow_run_id, producer in select(
            _RECENT, {"clock": clock, "after": after, "limit": limit}
        )
    ]


def read_known_updates(select: Select, clock: int, update_ids: Collection[str]) -> frozenset[str]:
    """Return those of these ids under which an update is kept."""
    return frozenset(
        row[0]
        for some, values in _chunks("update_id", update_ids)
        for row in select(_KNOWN.format(some=some), {"clock": clock, **values})
    )


def read_producers(select: Select, clock: int, limit: int) -> dict[str, list[str]]:
    """Return the sources that have a producer, with the names of those in the newest updates, newest first."""
    found: dict[str, list[str]] = {each: [] for each in sorted(row[0] for row in select(PRODUCERS, {"clock": clock}))}
    for source, producer, _ in select(_PRODUCER_NAMES, {"clock": clock, "limit": limit}):
        found.setdefault(source, []).append(producer)
    return found


def read_mark(select: Select, clock: int, name: str) -> str | None:
    """Return the value of a mark; None if it was never set."""
    rows = select(MARK, {"clock": clock, "name": name})
    return str(rows[0][0]) if rows else None


def read_holder(select: Select, clock: int) -> Holder | None:
    """Return who took the build lock last and did not give it back."""
    rows = select(_HOLDER, {"clock": clock})
    return Holder(rows[0][0], time_of(rows[0][1])) if rows else None


def time_of(micros: int) -> datetime:
    """Return the time (UTC) of exact microseconds since 1970."""
    return EPOCH + timedelta(microseconds=micros)
