"""Failures: how many in a row a node has, until a run builds it well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import select

from lineage_orch.ledger.identities import Identities, keep_identities
from lineage_orch.ledger.schema import failed, failures
from lineage_orch.ledger.scope import Scope

# What is kept of a failure's message, in characters: it is shown in one line.
_MESSAGE = 2000


def record_failed(
    scope: Scope, tick: int, messages: Mapping[str, str], failed_at: datetime, identities: Identities
) -> None:
    """Count one more failure in a row of each of these nodes, which said this; one run counts once."""
    digests = keep_identities(scope, identities)
    before = {row.node: row for row in scope.chunks(select(failures), failures.c.node, messages)}
    rows = []
    for node, message in sorted(messages.items()):
        row = scope.row(node=node, times=1, since=failed_at, last_at=failed_at, tick=tick, cleared_tick=None)
        row |= {"identity": digests.get(node), "message": message[:_MESSAGE]}
        known = before.get(node)
        if known is not None and known.cleared_tick in (None, tick):
            if known.tick > tick:
                continue  # a later run knows better
            row |= {"times": known.times + (known.tick != tick), "since": known.since}
        rows.append(row)
    scope.upsert(failures, rows, "times", "since", "last_at", "tick", "identity", "message", "cleared_tick")
    times = {row["node"]: row["times"] for row in rows}
    history = [
        scope.row(node=node, tick=tick, failed_at=failed_at, times=times.get(node, 1), message=message[:_MESSAGE])
        for node, message in sorted(messages.items())
    ]
    scope.upsert(failed, history, "failed_at", "times", "message")


def clear_failures(scope: Scope, tick: int, names: Iterable[str]) -> None:
    """Let the failures of nodes up to a run be over, since it did them well."""
    scope.update(failures.c.node, names, failures.c.tick <= tick, failures.c.cleared_tick.is_(None), cleared_tick=tick)


def forget_failures(scope: Scope, names: Iterable[str]) -> None:
    """Forget that these nodes failed."""
    scope.delete(failures.c.node, names)
