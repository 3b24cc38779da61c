"""One scope of a ledger (a dbt project, its target and place) within one transaction, and how such a one begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, FromClause, Row, Select, Table, and_, delete, select, update

from lineage_orch.errors import LedgerError
from lineage_orch.ledger.database import Database
from lineage_orch.ledger.others import Place
from lineage_orch.ledger.schema import scopes
from lineage_orch.text import few

# How many ids go into one IN (...): far below the limits of the engines.
_CHUNK = 1000


class Scope:
    """A scope within one transaction.

    Attributes:
        execute: Runs a statement in the transaction.
        id: The key of the scope in each table; 0: nothing was written to it yet.
        tick: What its clock reads.
        name: Its project, target and place.
    """

    def __init__(self, database: Database, connection: Connection, scope_id: int, tick: int, name: Place) -> None:
        self._database = database
        self._connection = connection
        self.execute = connection.execute
        self.id = scope_id
        self.tick = tick
        self.name = name

    def next_tick(self) -> int:
        """Take the next tick; whoever opened the transaction to write keeps it."""
        self.tick += 1
        return self.tick

    @property
    def shown(self) -> str:
        """The url of the ledger, fit to be printed."""
        return self._database.shown

    def other(self, *which: ColumnElement[bool]) -> Scope | None:
        """Return another scope of the ledger within the same transaction; None if there is none."""
        row = self.execute(select(scopes).where(*which)).first()
        if row is None:
            return None
        return Scope(self._database, self._connection, row.id, row.tick, Place(row.project, row.target, row.place))

    def row(self, **values: Any) -> dict[str, Any]:
        """Return a row of this scope."""
        return {"scope_id": self.id, **values}

    def mine(self, table: FromClause, *also: ColumnElement[bool]) -> ColumnElement[bool]:
        """Return the condition that a row of a table is of this scope, and that more is true of it."""
        return and_(table.c.scope_id == self.id, *also)

    def chunks(self, query: Select[Any], column: Column[Any], ids: Iterable[str] | None) -> Iterator[Row[Any]]:
        """Yield the rows of this scope for these ids in a column, some ids at a time; those of all ids for None."""
        query = query.where(self.mine(column.table))
        if ids is None:
            yield from self.execute(query)
            return
        for some in in_chunks(ids):
            yield from self.execute(query.where(column.in_(some)))

    def insert_new(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, but those that are there by any unique key."""
        if rows:
            self.execute(self._database.backend.insert_new(table), rows)

    def upsert(self, table: Table, rows: Sequence[Mapping[str, Any]], *columns: str) -> None:
        """Insert rows, or set these columns of those that are there."""
        if rows:
            self.execute(self._database.backend.upsert(table, *columns), rows)

    def update(self, column: Column[Any], ids: Iterable[str], *also: ColumnElement[bool], **values: Any) -> None:
        """Set values in the rows with these ids in a column."""
        table = column.table
        for some in in_chunks(ids):
            self.execute(update(table).where(self.mine(table, column.in_(some), *also)).values(values))

    def delete(self, column: Column[Any], ids: Iterable[str], *also: ColumnElement[bool]) -> set[str]:
        """Delete the rows with these ids in a column; return the ids that had any."""
        found: set[str] = set()
        for some in in_chunks(ids):
            condition = self.mine(column.table, column.in_(some), *also)
            found.update(self.execute(select(column).where(condition)).scalars())
            self.execute(delete(column.table).where(condition))
        return found


class Clock:
    """The clock of one scope: opens the transactions in which the scope is read and written.

    Args:
        database: Of the ledger.
        project: The dbt project's name.
        target: The dbt target's name.
        place: Where the target builds; ``None``: the only place that is known, ``""`` where none is.
    """

    def __init__(self, database: Database, project: str, target: str, place: str | None) -> None:
        self._database = database
        self._project = project
        self._target = target
        self._place = place
        self._unplaced = and_(scopes.c.project == project, scopes.c.target == target, scopes.c.place == "")

    @contextmanager
    def read(self) -> Iterator[Scope]:
        """One read transaction."""
        with self._database.read() as connection:
            row = self._row(connection)
            if row is None and self._place:
                # The facts that the first write will take over.
                row = connection.execute(_CLOCKS.where(self._unplaced)).first()
            yield self._scope(connection, *(row or (0, 0, self._place or "")))

    @contextmanager
    def write(self) -> Iterator[Scope]:
        """One write transaction.

        Every writer locks the clock's row first, until it commits, so the writes of one scope run one after the
        other: ticks come in commit order, ``begin_build`` reads one state, and no two writers can deadlock.
        """
        with self._database.write() as connection:
            row = self._row(connection, lock=True)
            if row is None:
                if self._place:
                    connection.execute(update(scopes).where(self._unplaced).values(place=self._place))
                new = {"project": self._project, "target": self._target, "place": self._place or "", "tick": 0}
                connection.execute(self._database.backend.insert_new(scopes), [new])
                row = self._row(connection, lock=True)
                assert row is not None
            scope = self._scope(connection, *row)
            yield scope
            if scope.tick != row.tick:
                connection.execute(update(scopes).where(scopes.c.id == row.id).values(tick=scope.tick))

    def lock_name(self) -> str:
        """Return the name of the scope's build lock."""
        place = self._place
        if place is None:
            with self.read() as scope:
                place = scope.name.place
        # Lengths keep ("a", "b.c") and ("a.b", "c") apart.
        parts = (self._project, self._target, *([place] if place else []))
        return "lineage_orch " + " ".join(f"{len(each)} {each}" for each in parts)

    def _scope(self, connection: Connection, scope_id: int, tick: int, place: str) -> Scope:
        return Scope(self._database, connection, scope_id, tick, Place(self._project, self._target, place))

    def _row(self, connection: Connection, *, lock: bool = False) -> Row[Any] | None:
        """Return the row of this clock: that of its place, or, without a place, the only one there is."""
        query = _CLOCKS.where(scopes.c.project == self._project, scopes.c.target == self._target)
        if self._place is not None:
            query = query.where(scopes.c.place == self._place)
        rows = connection.execute(query.with_for_update() if lock else query).all()
        if len(rows) < 2:
            return rows[0] if rows else None
        plain = next((row for row in rows if not row.place), None)
        if plain is None:
            known = few(sorted(repr(row.place) for row in rows))
            raise LedgerError(
                f"the ledger {self._database.shown} knows {self._project}/{self._target} in several places ({known}); "
                "name one of them: Ledger(..., place=...)"
            )
        return plain


_CLOCKS = select(scopes.c.id, scopes.c.tick, scopes.c.place)


def in_chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    """Yield the ids, each once, some at a time."""
    each_once = sorted(set(ids))
    for start in range(0, len(each_once), _CHUNK):
        yield each_once[start : start + _CHUNK]
