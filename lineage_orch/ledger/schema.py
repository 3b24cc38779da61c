"""The tables of the ledger, and how a ledger of an older release gets them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    inspect,
    select,
    text,
    true,
)

SCHEMA_VERSION = 2
"""The version of the tables below. A change of a table that was released is a new version, and a migration to it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A time as microseconds since 1970 in UTC: exact, and the same on every engine."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Return the microseconds of an aware time."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the time (UTC) of so many microseconds."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


def utc(moment: datetime | None, what: str) -> datetime:
    """Return an aware time as a plain datetime in UTC; the clock on the wall for None.

    Raises:
        ValueError: it has no time zone; ``what`` names it.
    """
    if moment is None:
        return datetime.now(UTC)
    if moment.utcoffset() is None:
        raise ValueError(f"{what} has no time zone: {moment!r}; use datetime.now(UTC)")
    if type(moment) is not datetime:
        # Prefect's times are pendulum's, which subtract in a way of their own.
        moment = datetime.fromisoformat(moment.isoformat())
    return moment.astimezone(UTC)


METADATA = MetaData()


def _table(name: str, *parts: Column[Any] | UniqueConstraint | Index) -> Table:
    # Keyed by text, SQLite needs one B-tree instead of two: fewer pages to write in each commit.
    return Table(f"lineage_orch_{name}", METADATA, *parts, sqlite_with_rowid=False)


def _scope() -> Column[int]:
    return Column("scope_id", ForeignKey("lineage_orch_scopes.id"), primary_key=True)


def _key(name: str) -> Column[str]:
    return Column(name, Text, primary_key=True)


meta = Table("lineage_orch_meta", METADATA, Column("version", Integer, nullable=False))
"""One row: the version of the tables; its place in the database never changes."""

scopes = Table(
    "lineage_orch_scopes",
    METADATA,
    Column("id", Integer, Identity(), primary_key=True),
    Column("project", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("tick", BigInteger, nullable=False),
    UniqueConstraint("project", "target", "place", name="lineage_orch_scope"),
)
"""One clock for each project, target and place; the lock of its row orders all writers of the scope."""

updates = _table(
    "updates",
    _scope(),
    Column("tick", BigInteger, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("update_id", Text, nullable=False),
    Column("loaded_at", Instant, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("flow_run_id", Text),
    Column("producer", Text),
    # The name it was recorded under, if no manifest could say then what it means.
    Column("given", Text),
    # At which tick such a name was resolved: the update then stands under its sources, and here to be known again.
    Column("resolved_tick", BigInteger),
    Column("baseline", Boolean, nullable=False, server_default=false()),
    Column("fingerprint", Text),
    # It brought what was there already, by its fingerprint: its tick makes nothing stale.
    Column("unchanged", Boolean, nullable=False, server_default=false()),
    # When the load began, if that is known.
    Column("began_at", Instant),
    # In which event times all that is new lies; NULL: not known.
    Column("window_start", Instant),
    Column("window_end", Instant),
    # In this order, so that it also finds update_ids of whatever source.
    UniqueConstraint("scope_id", "update_id", "source", name="lineage_orch_update"),
    Index("lineage_orch_source_history", "scope_id", "source", "tick"),
)
"""The history of loads, which ``prune`` shortens."""

sources = _table(
    "sources",
    _scope(),
    _key("source"),
    Column("tick", BigInteger, nullable=False),
    # The latest time of any load, one that brought nothing new too.
    Column("loaded_at", Instant, nullable=False),
    # Whether every update of it was a baseline.
    Column("baseline", Boolean, nullable=False),
    Column("fingerprint", Text),
)
"""The newest update of each source that brought anything, and of each name that is not resolved yet."""


def _build_columns() -> list[Column[Any]]:
    """What is known of one good build."""
    return [
        Column("changed_tick", BigInteger, nullable=False),
        Column("built_at", Instant, nullable=False),
        # Of 0.1.0, until the identity is known.
        Column("checksum", Text),
        Column("identity", Text),
        Column("seconds", Float),
        Column("row_count", BigInteger),
    ]


def _extent_columns() -> list[Column[Any]]:
    """In which event times something changed: in a window, if that is not NULL; and if open, at times not known."""
    return [
        Column("window_start", Instant),
        Column("window_end", Instant),
        Column("is_open", Boolean, nullable=False, server_default=true()),
    ]


builds = _table(
    "builds",
    _scope(),
    _key("node"),
    Column("tick", BigInteger, primary_key=True, autoincrement=False),
    *_build_columns(),
    *_extent_columns(),
)
"""The history of good builds, which ``prune`` shortens."""

nodes = _table(
    "nodes",
    _scope(),
    _key("node"),
    Column("tick", BigInteger, nullable=False),
    *_build_columns(),
    # The fingerprint of what that build left in the warehouse, until another sets about it. Not kept of builds before:
    # what a failed one left behind is none of theirs.
    Column("content", Text),
)
"""The last good build of each node."""

identities = _table("identities", _scope(), _key("digest"), Column("parts", Text, nullable=False))
"""The parts (JSON) of each identity that a build, or a failure, names by its digest."""

runs = _table(
    "runs",
    _scope(),
    Column("tick", BigInteger, primary_key=True, autoincrement=False),
    Column("run_id", Text, nullable=False),
    Column("begun_at", Instant, nullable=False),
    Column("who", Text),
)
"""The random id of each run of builds, beside the tick that it took."""

failures = _table(
    "failures",
    _scope(),
    _key("node"),
    Column("times", Integer, nullable=False),
    Column("since", Instant, nullable=False),
    Column("last_at", Instant, nullable=False),
    Column("tick", BigInteger, nullable=False),
    Column("identity", Text),
    Column("message", Text, nullable=False),
    # The run that built it well since; taken back, the failures count again.
    Column("cleared_tick", BigInteger),
)
"""The failures in a row of each node."""

failed = _table(
    "failed",
    _scope(),
    _key("node"),
    Column("tick", BigInteger, primary_key=True, autoincrement=False),
    Column("failed_at", Instant, nullable=False),
    Column("times", Integer, nullable=False),
    Column("message", Text, nullable=False),
)
"""The history of failures, which ``prune`` shortens."""

untested = _table(
    "untested",
    _scope(),
    _key("node"),
    Column("tick", BigInteger, nullable=False),
    Column("built_at", Instant, nullable=False),
    Column("identity", Text),
    # The run in which its tests passed; taken back, they are to pass again.
    Column("cleared_tick", BigInteger),
    *_extent_columns(),
)
"""The last build of each node that succeeded itself, and whose tests did not pass."""

debts = _table(
    "debts",
    _scope(),
    _key("node"),
    Column("tick", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    *_extent_columns(),
)
"""The nodes that someone asked to build, and when; due until a later run built them."""

launches = _table(
    "launches",
    _scope(),
    _key("follower"),
    # The run of builds for whose results it was launched, and the random id of that run.
    Column("tick", BigInteger, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("launched_at", Instant, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("sources", Text, nullable=False),
    Column("window_start", Instant),
    Column("window_end", Instant),
    # None until Prefect has said it: the launch is written before Prefect is asked.
    Column("flow_run_id", Text),
)
"""The followers whose run in a deployment goes on, as far as is known."""

pauses = _table(
    "pauses",
    _scope(),
    _key("name"),
    Column("since", Instant, nullable=False),
    Column("until", Instant),
    Column("reason", Text),
)
"""The sources and nodes that someone paused; ``*`` is all nodes."""

producers = _table("producers", _scope(), _key("source"))
"""What producers declare: sources, and wildcards, templates and names as they were given."""

relations = _table(
    "relations",
    _scope(),
    # Of a source, or of a node.
    _key("unique_id"),
    # In the one form in which names of relations are compared.
    Column("relation", Text, nullable=False),
    # Of a node: the unique_ids of what it reads, as JSON; of a source, nothing.
    Column("parents", Text),
    Index("lineage_orch_relation", "relation"),
)
"""The tables that each project reads (its sources) and builds (its nodes), as of its last build, for the others."""

marks = _table("marks", _scope(), _key("name"), Column("value", Text, nullable=False))

holders = _table("holders", _scope(), Column("who", Text, nullable=False), Column("since", Instant, nullable=False))
"""Who took the build lock, in words for people."""


def version_of(connection: Connection) -> int:
    """Return the version of the tables in a database; 0 if there are none."""
    if not inspect(connection).has_table(meta.name):
        return 0
    return connection.execute(select(meta.c.version)).scalar() or 0


def bring_forward(connection: Connection) -> None:
    """Make the tables of this release, with what an older release wrote; the caller's transaction holds all of it."""
    found = version_of(connection)
    if found == 1:
        _set_aside_version_1(connection)
    METADATA.create_all(connection)
    if found == 1:
        _take_over_version_1(connection)
    connection.execute(meta.delete())
    connection.execute(meta.insert().values(version=SCHEMA_VERSION))


# -- version 1, of 0.1.0 ---------------------------------------------------------------------------------------

_TABLES_1 = ("updates", "sources", "builds", "nodes", "producers", "marks", "holders", "clocks")


def _set_aside_version_1(connection: Connection) -> None:
    for name in _TABLES_1:
        connection.execute(text(f"ALTER TABLE lineage_orch_{name} RENAME TO lineage_orch_1_{name}"))


def _take_over_version_1(connection: Connection) -> None:
    """Copy the facts of 0.1.0, whose updates by ``adopt`` were baselines, and drop its tables.

    Its clocks had another name: a process of 0.1.0 that has the ledger open fails at its next statement, reads the
    version then, and says that it must be upgraded, instead of writing half of the facts.
    """
    connection.execute(
        text(
            "INSERT INTO lineage_orch_scopes (project, target, place, tick) "
            "SELECT project, target, '', tick FROM lineage_orch_1_clocks"
        )
    )
    baseline = "old.update_id LIKE 'adopt:%'"
    for name, columns, values, joined in (
        (
            "updates",
            "tick, source, update_id, loaded_at, recorded_at, flow_run_id, producer, baseline",
            "old.tick, old.source, old.update_id, old.loaded_at, old.recorded_at, old.flow_run_id, old.producer, "
            + baseline,
            "",
        ),
        (
            "sources",
            "source, tick, loaded_at, baseline",
            "old.source, old.tick, newest.loaded_at, newest.update_id LIKE 'adopt:%'",
            "JOIN lineage_orch_1_updates newest ON newest.clock_id = old.clock_id AND newest.tick = old.tick",
        ),
        (
            "builds",
            "node, tick, changed_tick, built_at, checksum",
            "old.node, old.tick, old.tick, old.built_at, newest.checksum",
            "LEFT JOIN lineage_orch_1_nodes newest "
            "ON newest.clock_id = old.clock_id AND newest.node = old.node AND newest.tick = old.tick",
        ),
        (
            "nodes",
            "node, tick, changed_tick, built_at, checksum",
            "old.node, old.tick, old.tick, old.built_at, old.checksum",
            "",
        ),
        ("producers", "source", "old.source", ""),
        # Its mark of the last prune was written in another way.
        ("marks", "name, value", "old.name, old.value", "WHERE old.name <> 'lineage_orch.pruned_at'"),
        ("holders", "who, since", "old.who, old.since", ""),
    ):
        connection.execute(
            text(
                f"INSERT INTO lineage_orch_{name} (scope_id, {columns}) SELECT scope.id, {values} "
                f"FROM lineage_orch_1_{name} old JOIN lineage_orch_1_clocks clock ON clock.id = old.clock_id "
                "JOIN lineage_orch_scopes scope ON scope.project = clock.project AND scope.target = clock.target "
                f"{joined}"
            )
        )
    for name in _TABLES_1:
        connection.execute(text(f"DROP TABLE lineage_orch_1_{name}"))
