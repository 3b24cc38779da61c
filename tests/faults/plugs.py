"""Where a plug can be pulled: at each statement of a ledger, and before and after each commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from lineage_orch.ledger.engines import Sqlite
from tests.warehouse import Killed


class Plug:
    """What is pulled, and when. Nothing, until it is told.

    Attributes:
        passed: the boundaries that were passed so far, each in words: a statement's first, or a commit.
        is_pulled: it was, since the last :meth:`put_back`.
    """

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.put_back()

    def put_back(self) -> None:
        """Let everything work again: the database is back, or another process begins."""
        self._left: int | None = None
        self._pull: Callable[[str], None] = lambda where: None
        self._times = 0
        self._is_of_database = False
        self._died_at: str | None = None
        self.is_pulled = False

    def kill_after(self, boundaries: int) -> None:
        """Kill the process after so many boundaries: it does nothing more, not even in a ``finally``."""

        def pull(where: str) -> None:
            self._died_at = where
            raise Killed(where)

        self._left, self._pull, self._times = boundaries, pull, 1

    def do_after(self, boundaries: int, pull: Callable[[str], None]) -> None:
        """Do something at one boundary: end this process for good, say."""
        self._left, self._pull, self._times = boundaries, pull, 1

    def fail_after(self, boundaries: int, times: int = 1) -> None:
        """Let the database be gone after so many boundaries, for so many calls."""

        def pull(where: str) -> None:
            raise sqlite3.OperationalError(f"disk I/O error, said the plug, at {where}")

        self._left, self._pull, self._times = boundaries, pull, times
        self._is_of_database = True

    def boundary(self, where: str) -> None:
        """Pass a boundary, unless the plug is pulled here."""
        if self._died_at is not None:
            raise Killed(self._died_at)
        self.passed.append(where)
        if self._left is None:
            return
        if self._left > 0:
            self._left -= 1
        elif self._times > 0:
            self._times -= 1
            self.is_pulled = True
            self._pull(where)

    def moment(self, where: str) -> None:
        """Pass a moment at which no database is asked: the process may be killed at it."""
        if not self._is_of_database:
            self.boundary(where)

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """What the test itself asks is no part of the process, and passes no boundary."""
        saved, self.boundary = self.boundary, lambda where: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.boundary = saved  # type: ignore[method-assign]


@contextmanager
def plugged() -> Iterator[Plug]:
    """Put a plug between all ledgers of this process and their databases."""
    plug = Plug()

    def statement(cursor: Any, text: str, *_: Any) -> None:
        plug.boundary(" ".join(text.split())[:60])

    def commit(connection: Any) -> None:
        plug.boundary("COMMIT")

    do_commit, connect = DefaultDialect.do_commit, Sqlite.connect
    engines: dict[Any, tuple[Engine, Engine]] = {}

    def committed(self: DefaultDialect, connection: Any) -> None:
        do_commit(self, connection)
        plug.boundary("committed")

    def connected(self: Sqlite) -> tuple[Engine, Engine]:
        """The engines of a file are kept: to compile each statement for each process anew takes most of the time."""
        if self.url not in engines:
            engines[self.url] = connect(self)
        return engines[self.url]

    listened = [("do_execute", statement), ("do_executemany", statement), ("do_execute_no_params", statement)]
    for name, heard in [*listened, ("commit", commit)]:
        event.listen(Engine, name, heard)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DefaultDialect, "do_commit", committed)
            patch.setattr(Sqlite, "connect", connected)
            yield plug
    finally:
        for name, heard in [*listened, ("commit", commit)]:
            event.remove(Engine, name, heard)
