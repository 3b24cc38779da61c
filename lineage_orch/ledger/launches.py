"""The launches of followers in deployments: rows of one table, read and written within a transaction of the ledger."""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, select

from lineage_orch.ledger.schema import launches
from lineage_orch.ledger.snapshot import Launch
from lineage_orch.updates import Window


def row_of(launch: Launch) -> dict[str, object]:
    """Return a launch as a row, without its scope."""
    start, end = launch.window or (None, None)
    return {
        "follower": launch.follower,
        "tick": launch.tick,
        "run_id": launch.run_id,
        "launched_at": launch.launched_at,
        "deployment": launch.deployment,
        "sources": json.dumps(launch.sources),
        "window_start": start,
        "window_end": end,
        "flow_run_id": launch.flow_run_id,
    }


def read(connection: Connection, scope_id: int) -> dict[str, Launch]:
    """Return the launches of a scope, by follower."""
    rows = connection.execute(select(launches).where(launches.c.scope_id == scope_id))
    return {
        row.follower: Launch(
            row.follower,
            row.tick,
            row.run_id,
            row.launched_at,
            row.deployment,
            tuple(json.loads(row.sources)),
            None if row.window_start is None else Window(row.window_start, row.window_end),
            row.flow_run_id,
        )
        for row in rows
    }


def end(connection: Connection, scope_id: int, follower: str) -> None:
    """Remove the launch of a follower, if there is one."""
    connection.execute(delete(launches).where(launches.c.scope_id == scope_id, launches.c.follower == follower))
