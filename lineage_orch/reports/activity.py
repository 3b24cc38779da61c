"""What happened in some days, beside what one dbt command per load would have cost. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import median
from typing import Any

from lineage_orch.ledger import History
from lineage_orch.lineage import Lineage
from lineage_orch.reports.build_report import iso

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
        return {**asdict(self), "since": iso(self.since), "until": iso(self.until), "method": METHOD}


def activity(
    lineage: Lineage, history: History, medians: Mapping[str, float], since: datetime, until: datetime
) -> Activity:
    """Return what happened.

    Args:
        lineage: the project.
        history: of the ledger, since then.
        medians: unique_id -> how many seconds a build of the node takes.
        since: from when the history is.
        until: the time now.
    """
    loads: dict[str, list[Any]] = {}
    for load in history.loads:
        if not load.baseline:
            loads.setdefault(load.update_id, []).append(load)
    runs = sorted({built.tick for built in history.built})
    taken: list[int] = []
    for of_load in loads.values():
        ticks = [load.tick for load in of_load if not load.unchanged]
        if ticks and (at := bisect_right(runs, max(ticks))) < len(runs):
            taken.append(runs[at])
    usual = median(medians.values()) if medians else 0.0
    affected: set[str] = set()
    builds_by_load, seconds_by_load = 0, 0.0
    known: dict[frozenset[str], tuple[frozenset[str], float]] = {}
    for of_load in loads.values():
        sources = frozenset(load.source for load in of_load if load.source in lineage.sources)
        if not sources:
            continue
        if sources not in known:
            below = frozenset(lineage.downstream(*sources) & lineage.nodes.keys())
            known[sources] = below, sum(medians.get(node, usual) for node in below)
        below, seconds = known[sources]
        affected |= below
        builds_by_load += len(below)
        seconds_by_load += seconds
    took = [medians.get(built.node) if built.seconds is None else built.seconds for built in history.built]
    return Activity(
        since=since,
        until=until,
        loads=len(loads),
        unchanged=sum(all(load.unchanged for load in of_load) for of_load in loads.values()),
        coalesced=len(taken) - len(set(taken)),
        runs=len(runs),
        built=len(history.built),
        cut_off=sum(not built.is_changed for built in history.built),
        not_affected=len(lineage.nodes.keys() - affected),
        failed=len({failed.node for failed in history.failed}),
        seconds=sum(each for each in took if each is not None),
        untimed=sum(each is None for each in took),
        builds_by_load=builds_by_load,
        seconds_by_load=seconds_by_load,
    )
