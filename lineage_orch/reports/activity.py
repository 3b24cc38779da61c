"""What happened in some days, beside what one dbt command per load would have cost. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any

from lineage_orch.ledger import History
from lineage_orch.ledger.snapshot import Built, Load
from lineage_orch.lineage import Lineage
from lineage_orch.reports.as_json import as_json

METHOD = (
    "For comparison: one `dbt build -s source:x+` per load builds all that is downstream of it, in the project of now. "
    "Each node counts with the median of its last ten builds, tests included, and one never timed with the median of "
    "the others; the starts of dbt are left out."
)


@dataclass(frozen=True, slots=True)
class Activity:
    """What happened in a time.

    Attributes:
        since: from when (UTC).
        until: until when.
        loads: the loads; one of several sources counts once.
        unchanged: those of them that brought what was there already, by their fingerprints.
        coalesced: those that shared a build with an earlier one.
        runs: the build runs that built anything.
        built: the nodes that were built, each as often as it was.
        cut_off: those of them that came out as they were before.
        not_affected: the nodes of the project downstream of no load of this time.
        failed: the nodes that failed, whether they were built since or not.
        seconds: how long dbt was at the nodes and their tests, as far as it said, and else by the medians.
        untimed: the builds of which nothing at all is known how long they took.
        builds_by_load: how many nodes one dbt command per load would have built.
        seconds_by_load: how long that would have taken.
    """

    since: datetime
    until: datetime
    loads: int
    unchanged: int
    coalesced: int
    runs: int
    built: int
    cut_off: int
    not_affected: int
    failed: int
    seconds: float
    untimed: int
    builds_by_load: int
    seconds_by_load: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values, with the method of the comparison."""
        return {**as_json(self), "method": METHOD}


@dataclass(frozen=True, slots=True)
class Day:
    """What happened in one day, in UTC; the attributes are those of :class:`Activity`."""

    date: date
    loads: int = 0
    unchanged: int = 0
    coalesced: int = 0
    built: int = 0
    cut_off: int = 0
    failed: int = 0
    seconds: float = 0.0
    seconds_by_load: float = 0.0


@dataclass(frozen=True, slots=True)
class _Load:
    """One load, of one source or several: when, what became of it, and what one dbt command for it would have cost."""

    at: datetime
    is_unchanged: bool
    is_coalesced: bool
    below: frozenset[str]
    seconds: float


def activity(
    lineage: Lineage, history: History, medians: Mapping[str, float], since: datetime, until: datetime
) -> Activity:
    """Return what happened.

    Args:
        medians: unique_id -> how many seconds a build of the node takes.
    """
    loads = list(_loads(lineage, history, medians))
    affected = frozenset(node for load in loads for node in load.below)
    took = [_took(built, medians) for built in history.built]
    return Activity(
        since=since,
        until=until,
        loads=len(loads),
        unchanged=sum(load.is_unchanged for load in loads),
        coalesced=sum(load.is_coalesced for load in loads),
        runs=len({built.tick for built in history.built}),
        built=len(history.built),
        cut_off=sum(not built.is_changed for built in history.built),
        not_affected=len(lineage.nodes.keys() - affected),
        failed=len({failed.node for failed in history.failed}),
        seconds=sum(each for each in took if each is not None),
        untimed=sum(each is None for each in took),
        builds_by_load=sum(len(load.below) for load in loads),
        seconds_by_load=sum(load.seconds for load in loads),
    )


def daily(
    lineage: Lineage, history: History, medians: Mapping[str, float], since: datetime, until: datetime
) -> tuple[Day, ...]:
    """Return the same day by day, each from midnight UTC, those without anything included; see :func:`activity`.

    A load counts on the day on which it was loaded, a build on that on which it was done.
    """
    first, last = since.astimezone(UTC).date(), until.astimezone(UTC).date()
    days = [first + timedelta(days=each) for each in range((last - first).days + 1)]
    loads: dict[date, list[_Load]] = {day: [] for day in days}
    for load in _loads(lineage, history, medians):
        loads.get(_day(load.at), []).append(load)
    built: dict[date, list[Built]] = {day: [] for day in days}
    for each in history.built:
        built.get(_day(each.at), []).append(each)
    failed: dict[date, set[str]] = {day: set() for day in days}
    for failure in history.failed:
        failed.get(_day(failure.at), set()).add(failure.node)
    return tuple(
        Day(
            day,
            loads=len(loads[day]),
            unchanged=sum(load.is_unchanged for load in loads[day]),
            coalesced=sum(load.is_coalesced for load in loads[day]),
            built=len(built[day]),
            cut_off=sum(not each.is_changed for each in built[day]),
            failed=len(failed[day]),
            seconds=sum(_took(each, medians) or 0.0 for each in built[day]),
            seconds_by_load=sum(load.seconds for load in loads[day]),
        )
        for day in days
    )


def shared_builds(history: History) -> dict[str, int]:
    """Return the loads, by their ``update_id``, that shared a build with an earlier one, and the tick of that run."""
    runs = sorted({built.tick for built in history.built})
    ends: dict[str, int] = {}
    for load in history.loads:
        if not (load.baseline or load.unchanged):
            ends[load.update_id] = max(load.tick, ends.get(load.update_id, 0))
    shared: dict[str, int] = {}
    seen: set[int] = set()
    for update_id, tick in sorted(ends.items(), key=lambda each: each[1]):
        if (at := bisect_right(runs, tick)) < len(runs):
            if runs[at] in seen:
                shared[update_id] = runs[at]
            seen.add(runs[at])
    return shared


def _loads(lineage: Lineage, history: History, medians: Mapping[str, float]) -> Iterator[_Load]:
    usual = median(medians.values()) if medians else 0.0
    shared = shared_builds(history)
    loads: dict[str, list[Load]] = {}
    for load in history.loads:
        if not load.baseline:
            loads.setdefault(load.update_id, []).append(load)
    known: dict[frozenset[str], tuple[frozenset[str], float]] = {}
    for update_id, of_load in loads.items():
        sources = frozenset(load.source for load in of_load if load.source in lineage.sources)
        if sources not in known:
            below = frozenset(lineage.downstream(*sources) & lineage.nodes.keys()) if sources else frozenset()
            known[sources] = below, sum(medians.get(node, usual) for node in below)
        yield _Load(
            max(load.at for load in of_load),
            all(load.unchanged for load in of_load),
            update_id in shared,
            *known[sources],
        )


def _took(built: Built, medians: Mapping[str, float]) -> float | None:
    return medians.get(built.node) if built.seconds is None else built.seconds


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
