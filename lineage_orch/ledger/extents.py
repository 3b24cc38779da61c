"""In which event times sources and nodes changed: how it is written, and read back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Column, Row, bindparam, case, func, select

from lineage_orch.ledger.schema import builds, updates
from lineage_orch.ledger.scope import Scope
from lineage_orch.ledger.snapshot import OPEN, Extent
from lineage_orch.updates import Window

Extents = Mapping[str, Extent] | None
"""Node to the event times in which what it took in had changed; None: of none are they known."""

EXTENT_COLUMNS = ("window_start", "window_end", "is_open")


def extent_values(extent: Extent) -> dict[str, Any]:
    """Return the values of ``EXTENT_COLUMNS``."""
    start, end = extent.window or (None, None)
    return dict(zip(EXTENT_COLUMNS, (start, end, extent.is_open), strict=True))


def window_in(row: Row[Any]) -> Window | None:
    """Return the window of a row, if it has one."""
    return None if row.window_start is None else Window(row.window_start, row.window_end)


def extent_in(row: Row[Any]) -> Extent:
    """Return what the ``EXTENT_COLUMNS`` of a row say."""
    return Extent(window_in(row), bool(row.is_open))


def extents_above(
    scope: Scope,
    above: Mapping[str, Collection[int]],
    newest: Mapping[str, int],
    kept_from: int,
) -> dict[str, dict[int, Extent]]:
    """Return in which event times these sources and nodes changed above each of these ticks: one look for each.

    Args:
        scope: of whose ledger.
        above: source or node -> ticks.
        newest: source or node -> the tick at which it changed last; what did not change above a tick is left out.
        kept_from: below this tick not all changes are kept, so that they may lie anywhere.
    """

    def question(name: Column[Any], is_open: Any, *conditions: Any) -> Any:
        table = name.table
        return select(
            func.min(table.c.window_start).label("window_start"),
            func.max(table.c.window_end).label("window_end"),
            func.max(case((is_open, 1), else_=0)).label("is_open"),
        ).where(scope.mine(table), name == bindparam("its"), table.c.tick > bindparam("above"), *conditions)

    of_source = question(updates.c.source, updates.c.window_start.is_(None), ~updates.c.unchanged)
    of_node = question(builds.c.node, builds.c.is_open, builds.c.changed_tick == builds.c.tick)
    found: dict[str, dict[int, Extent]] = {}
    for name in above.keys() & newest.keys():
        query = of_source if name.startswith("source.") else of_node
        for tick in above[name]:
            if newest[name] > tick:
                row = scope.execute(query, {"its": name, "above": tick}).one()
                extent = extent_in(row)
                found.setdefault(name, {})[tick] = extent if tick >= kept_from else extent | OPEN
    return found
