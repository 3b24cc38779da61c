"""The pauses of a scope: their rows, read and written in the transaction of whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from lineage_orch.ledger.schema import pauses
from lineage_orch.ledger.snapshot import Pause


def read_pauses(connection: Connection, scope_id: int) -> dict[str, Pause]:
    """Return the pauses of a scope by name, those too that have ended by themselves."""
    rows = connection.execute(select(pauses).where(pauses.c.scope_id == scope_id))
    return {row.name: Pause(row.since, row.until, row.reason) for row in rows}


def rows_of(scope_id: int, paused: Mapping[str, Pause]) -> list[dict[str, Any]]:
    """Return pauses as rows of the table."""
    return [{"scope_id": scope_id, "name": name, **pause._asdict()} for name, pause in paused.items()]
