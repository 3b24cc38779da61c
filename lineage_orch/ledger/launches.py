"""The launches of followers in deployments, whose runs go on as far as is known."""

from __future__ import annotations

import json

from sqlalchemy import delete, select

from lineage_orch.ledger.extents import window_in
from lineage_orch.ledger.schema import launches
from lineage_orch.ledger.scope import Scope
from lineage_orch.ledger.snapshot import Launch

# The columns that are as in a Launch.
_PLAIN = ("tick", "run_id", "launched_at", "deployment", "flow_run_id")


def add(scope: Scope, launch: Launch) -> None:
    """Note a launch, in place of one of the same follower."""
    start, end = launch.window or (None, None)
    row = {name: getattr(launch, name) for name in _PLAIN}
    row |= {"sources": json.dumps(launch.sources), "window_start": start, "window_end": end}
    scope.upsert(launches, [scope.row(follower=launch.follower, **row)], *row)


def read(scope: Scope) -> dict[str, Launch]:
    """Return the launches, by follower."""
    found = {}
    for row in scope.execute(select(launches).where(scope.mine(launches))):
        plain = {name: row._mapping[name] for name in _PLAIN}
        sources = tuple(json.loads(row.sources))
        found[row.follower] = Launch(follower=row.follower, sources=sources, window=window_in(row), **plain)
    return found


def end(scope: Scope, follower: str) -> None:
    """Remove the launch of a follower, if there is one."""
    scope.execute(delete(launches).where(scope.mine(launches, launches.c.follower == follower)))
