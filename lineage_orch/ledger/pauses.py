"""The pauses of sources and nodes."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from lineage_orch.ledger.schema import pauses
from lineage_orch.ledger.scope import Scope
from lineage_orch.ledger.snapshot import Pause


def read(scope: Scope) -> dict[str, Pause]:
    """Return the pauses by name, those too that have ended by themselves."""
    rows = scope.execute(select(pauses).where(scope.mine(pauses)))
    return {row.name: Pause(row.since, row.until, row.reason) for row in rows}


def pause(scope: Scope, names: Iterable[str], paused: Pause) -> None:
    """Pause each of these, anew if it is paused."""
    rows = [scope.row(name=name, **paused._asdict()) for name in dict.fromkeys(names)]
    scope.upsert(pauses, rows, *Pause._fields)


def resume(scope: Scope, names: Iterable[str]) -> frozenset[str]:
    """End pauses; return the names that were paused."""
    return frozenset(scope.delete(pauses.c.name, names))
