"""Debts: nodes that are to be built, whatever else is known of them, until a later run built them well."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from lineage_orch.ledger.extents import EXTENT_COLUMNS, extent_in, extent_values
from lineage_orch.ledger.schema import debts
from lineage_orch.ledger.scope import Scope
from lineage_orch.ledger.snapshot import OPEN, Extent


def add(scope: Scope, names: Iterable[str], tick: int, reason: str, extent: Extent = OPEN) -> None:
    """Note that these nodes were asked for at a tick, beside what they were asked for before."""
    known = {row.node: row for row in scope.chunks(select(debts), debts.c.node, names)}
    rows = []
    for node in names:
        row = scope.row(node=node, tick=tick, reason=reason)
        if (before := known.get(node)) is not None:
            if before.tick > tick:
                row |= {"tick": before.tick, "reason": before.reason}
            row |= extent_values(extent | extent_in(before))
        else:
            row |= extent_values(extent)
        rows.append(row)
    scope.upsert(debts, rows, "tick", "reason", *EXTENT_COLUMNS)


def pay(scope: Scope, names: Iterable[str], tick: int) -> None:
    """Remove what these nodes were asked for up to a run, which built them well."""
    scope.delete(debts.c.node, names, debts.c.tick <= tick)
