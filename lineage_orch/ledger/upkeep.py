"""What is removed from a ledger: history that is old, and what people say is no more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import and_, delete, exists, func, select

from lineage_orch.ledger.loads import UNRESOLVED
from lineage_orch.ledger.marks import mark, set_mark
from lineage_orch.ledger.schema import (
    builds,
    debts,
    failed,
    failures,
    identities,
    launches,
    nodes,
    pauses,
    producers,
    runs,
    sources,
    untested,
    updates,
)
from lineage_orch.ledger.scope import Scope

PRUNED_WINDOW = "lineage_orch.pruned_window"
"""The mark, beside those of users, of the tick of the newest change with a window that was pruned."""

_PRUNED = "lineage_orch.pruned"
_PRUNE_EVERY = timedelta(days=1)
_LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)


def prune_daily(scope: Scope, now: datetime, keep: timedelta) -> None:
    """As :func:`prune`, if that was not done within a day."""
    pruned = mark(scope, _PRUNED)
    if pruned is None or now - datetime.fromisoformat(pruned) >= _PRUNE_EVERY:
        prune(scope, now, keep)


def prune(scope: Scope, now: datetime, keep: timedelta) -> int:
    """Remove updates and builds that are older than this, but those that are newest facts; return how many."""
    # A time further back than there are years is one before all that is kept.
    before = now - min(keep, now - _LONG_AGO)
    later = builds.alias("later")
    is_newest = updates.c.tick.in_(select(sources.c.tick).where(scope.mine(sources)))
    of_later = (later.c.node == builds.c.node, later.c.tick > builds.c.tick, later.c.built_at < before)
    removed = 0
    for table, old in (
        (updates, and_(updates.c.recorded_at < before, ~is_newest)),
        (builds, and_(builds.c.built_at < before, exists().where(scope.mine(later, *of_later)))),
    ):
        gone = scope.mine(table, old)
        last = func.max(table.c.tick).filter(table.c.window_start.is_not(None))
        if (pruned := scope.execute(select(last).where(gone)).scalar()) is not None:
            known = int(mark(scope, PRUNED_WINDOW) or 0)
            set_mark(scope, PRUNED_WINDOW, str(max(known, pruned)))
        removed += scope.execute(delete(table).where(gone)).rowcount
    named = [
        select(table.c.identity).where(scope.mine(table, table.c.identity.is_not(None)))
        for table in (nodes, builds, failures, untested)
    ]
    for table, old in (
        (runs, runs.c.begun_at < before),
        (failed, failed.c.failed_at < before),
        (failures, and_(failures.c.cleared_tick.is_not(None), failures.c.last_at < before)),
        (untested, and_(untested.c.cleared_tick.is_not(None), untested.c.built_at < before)),
        (identities, and_(*(identities.c.digest.not_in(each) for each in named))),
    ):
        scope.execute(delete(table).where(scope.mine(table, old)))
    set_mark(scope, _PRUNED, now.isoformat())
    return removed


def forget(scope: Scope, names: Sequence[str]) -> frozenset[str]:
    """Forget what is known of sources, of names as they were given, and of nodes; return those that were known."""
    found: set[str] = set()
    for column in (
        sources.c.source,
        producers.c.source,
        nodes.c.node,
        builds.c.node,
        debts.c.node,
        untested.c.node,
        failures.c.node,
        failed.c.node,
        launches.c.follower,
        pauses.c.name,
    ):
        found |= scope.delete(column, names)
    scope.update(updates.c.source, names, updates.c.given == updates.c.source, UNRESOLVED, resolved_tick=scope.tick)
    return frozenset(found)
