"""What is late, by what the project promises, and what of it is new: data, rendered elsewhere.

A source is late when its last load is older than its ``freshness`` allows: its data does not come. A node is late when
the oldest load that it has not taken in is older than it promises: what came is not built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from lineage_orch.lineage.policy import Promise
from lineage_orch.plan import Promises, finish_times, not_taken_in
from lineage_orch.plan.promises import LastAsAt
from lineage_orch.reports.as_json import as_json, iso
from lineage_orch.reports.status import short_names

if TYPE_CHECKING:
    from lineage_orch.ledger import LedgerSnapshot
    from lineage_orch.lineage import Lineage
    from lineage_orch.plan import BuildPlan

FreshnessState = Literal["fresh", "warn", "error", "unknown"]

LATE: frozenset[FreshnessState] = frozenset({"warn", "error"})
"""The states of what is late."""


@dataclass(frozen=True, slots=True)
class Promised:
    """A source or node that promises something, and how it keeps it.

    Attributes:
        unique_id: its unique_id.
        name: what people call it.
        kind: ``source``: its last load is to be young; ``build``: what was loaded above it is to be taken in soon.
        state: ``fresh``, ``warn`` or ``error`` (late), or ``unknown``: no load of it, or above it, is known.
        since: of a source, when it was loaded last; of a node, when the oldest load that it has not taken in was (UTC).
            None: it has taken in all that was loaded, or that is not known.
        age: how long that is ago; zero if nothing waits for a node.
        promise: what it promises.
        late_by: by how much it is late, by the limit that it is over.
        waits_for: of a node, the sources whose loads it has not taken in, sorted.
        expected_at: of such a node, when it will have taken them in (UTC), by how long builds took; None: not known.
        will_be_late_by: of one that is not late yet, by how much it will be then, by its next limit.
    """

    unique_id: str
    name: str
    kind: Literal["source", "build"]
    state: FreshnessState
    since: datetime | None
    age: timedelta | None
    promise: Promise
    late_by: timedelta | None = None
    waits_for: tuple[str, ...] = ()
    expected_at: datetime | None = None
    will_be_late_by: timedelta | None = None

    @property
    def is_late(self) -> bool:
        """Whether it is late."""
        return self.state in LATE

    def deadlines(self) -> list[datetime]:
        """Return when it becomes late, or worse, if nothing is loaded or built until then; passed ones too."""
        limits = (self.promise.warn_after, self.promise.error_after)
        return [] if self.since is None else [_after(self.since, each) for each in limits if each is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values: times are ISO 8601, UTC; spans are seconds."""
        data: dict[str, Any] = as_json(self)
        promise = data.pop("promise")
        return {**data, **promise}


@dataclass(frozen=True)
class FreshnessReport:
    """All that a project promises, and how that is kept.

    Attributes:
        at: the time that it is as of (UTC).
        rows: the sources, then the nodes, parents before children.
        unreadable: what is wrong with promises that cannot be read, by unique_id.
    """

    at: datetime
    rows: tuple[Promised, ...] = ()
    unreadable: Mapping[str, str] | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is over its ``error_after`` or ``late_after``."""
        return all(each.state != "error" for each in self.rows)

    @property
    def next_deadline(self) -> datetime | None:
        """The earliest time to come at which something becomes late, or worse, if nothing is loaded or built (UTC)."""
        return min((each for row in self.rows for each in row.deadlines() if each >= self.at), default=None)

    def only(self, ids: Collection[str] | None = None, *, late: bool = False) -> FreshnessReport:
        """Return the report of some sources and nodes alone; None for all, ``late`` for what is late."""
        kept = (each for each in self.rows if ids is None or each.unique_id in ids)
        return replace(self, rows=tuple(each for each in kept if each.is_late or not late))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return {
            "at": iso(self.at),
            "ok": self.ok,
            "next_deadline": iso(self.next_deadline),
            "promises": [each.to_dict() for each in self.rows],
            "unreadable": dict(self.unreadable or {}),
        }


def read_freshness(
    lineage: Lineage,
    snapshot: LedgerSnapshot,
    promises: Promises,
    plan: BuildPlan,
    *,
    now: datetime,
    threads: int,
    last_as_at: LastAsAt,
    oldest_loads: Callable[[Iterable[tuple[str, int]]], Mapping[tuple[str, int], datetime]],
    seconds: Callable[[Iterable[str]], Mapping[str, float]],
) -> FreshnessReport:
    """Return how promises are kept. The ledger knows all of it: nothing is asked of the warehouse.

    Args:
        now: the time (UTC).
        threads: of dbt, 1 or more.
        last_as_at: see :meth:`Ledger.last_as_at <lineage_orch.ledger.Ledger.last_as_at>`.
        oldest_loads: see its ``oldest_loads``.
        seconds: see its ``median_seconds``.
    """
    names = short_names(lineage)
    rows = [
        _row(source, names[source], "source", _loaded_at(snapshot, source), now, promise)
        for source, promise in promises.of_sources.items()
    ]
    waiting = not_taken_in(lineage, snapshot, promises.of_nodes, last_as_at)
    since = oldest_loads({pair for each in waiting.values() for pair in each.items()}) if any(waiting.values()) else {}
    expected = _expected(lineage, plan, waiting, now, threads, seconds)
    for node in (each for each in lineage.built_graph.ids if each in promises.of_nodes):
        oldest = min((since[pair] for pair in waiting[node].items() if pair in since), default=None)
        row = _row(node, names[node], "build", oldest, now, promises.of_nodes[node])
        if not waiting[node]:
            row = replace(row, state="fresh", age=timedelta(0))
        rows.append(_with_forecast(replace(row, waits_for=tuple(sorted(waiting[node]))), expected.get(node)))
    return FreshnessReport(now, tuple(rows), promises.unreadable)


# What is new ----------------------------------------------------------------------------------------------------------

LATE_MARK = "lineage_orch.late"
"""The mark in the ledger that says what was told to be late, so that each breach and each recovery is told once."""


@dataclass(frozen=True)
class Lateness:
    """What became late, or worse, since it was told last, and what is late no more."""

    late: tuple[Promised, ...] = ()
    recovered: tuple[Promised, ...] = ()


def lateness(told: str | None, report: FreshnessReport) -> tuple[Lateness, str]:
    """Return what of a report is to be told, and what the mark says then.

    Told is what is late and was not, and what is over its ``error_after`` and was only over its ``warn_after``. What is
    late no more has recovered; what is not known is as it was.

    Args:
        told: the mark; None: there is none yet.
        report: the report of now. One of before the mark, by who was overtaken, has nothing to tell.
    """
    mark = json.loads(told) if told else {"late": {}}
    at = report.at.isoformat()
    if mark.get("at", "") > at:
        return Lateness(), told or ""
    before: Mapping[str, FreshnessState] = mark["late"]
    rows = {row.unique_id: row for row in report.rows}
    late = tuple(row for row in report.rows if row.is_late and before.get(row.unique_id) not in ("error", row.state))
    recovered = tuple(row for each in before if (row := rows.get(each)) is not None and row.state == "fresh")
    # Once over `error_after`, a node that is still late is that: it is told again when it has recovered.
    now = {each: state for each, state in before.items() if each in rows and rows[each].state != "fresh"}
    now |= {row.unique_id: row.state for row in late}
    return Lateness(late, recovered), json.dumps({"at": at, "late": now}, sort_keys=True)


# How it is found ------------------------------------------------------------------------------------------------------


def _loaded_at(snapshot: LedgerSnapshot, source: str) -> datetime | None:
    # A baseline says when it was declared, and not when it was loaded.
    return None if source in snapshot.baselines else snapshot.loaded_at.get(source)


def _row(
    unique_id: str,
    name: str,
    kind: Literal["source", "build"],
    since: datetime | None,
    now: datetime,
    promise: Promise,
) -> Promised:
    if since is None:
        return Promised(unique_id, name, kind, "unknown", None, None, promise)
    since = min(since, now)  # a clock that is wrong
    age = now - since
    limits: tuple[tuple[FreshnessState, timedelta | None], ...] = (
        ("error", promise.error_after),
        ("warn", promise.warn_after),
    )
    for state, limit in limits:
        if limit is not None and age > limit:
            return Promised(unique_id, name, kind, state, since, age, promise, late_by=age - limit)
    return Promised(unique_id, name, kind, "fresh", since, age, promise)


def _with_forecast(row: Promised, expected_at: datetime | None) -> Promised:
    if expected_at is None or row.state != "fresh":
        return replace(row, expected_at=expected_at)
    late = expected_at - min(row.deadlines())
    return replace(row, expected_at=expected_at, will_be_late_by=late if late > timedelta(0) else None)


def _expected(
    lineage: Lineage,
    plan: BuildPlan,
    waiting: Mapping[str, Mapping[str, int]],
    now: datetime,
    threads: int,
    seconds: Callable[[Iterable[str]], Mapping[str, float]],
) -> dict[str, datetime]:
    """Return when nodes that wait will be built, where the plan and earlier builds say so; a held one not before."""
    behind = {node for node, sources in waiting.items() if sources}
    if not behind:
        return {}
    planned = [*plan.build, *plan.perhaps]
    held = {node: held.until for node in behind if (held := plan.held.get(node)) is not None}
    took = seconds([*planned, *held])
    ends = finish_times(lineage, planned, took, threads)
    found = {node: now + timedelta(seconds=ends[node]) for node in behind & ends.keys()}
    for node, until in held.items():
        if until is not None:
            found[node] = _after(max(until, now), timedelta(seconds=took.get(node, 0.0)))
    return found


def _after(start: datetime, span: timedelta) -> datetime:
    try:
        return start + span
    except OverflowError:
        return datetime.max.replace(tzinfo=start.tzinfo)
