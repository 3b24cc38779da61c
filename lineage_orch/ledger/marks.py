"""Marks: values under names, such as watermarks, of users and of the library itself."""

from __future__ import annotations

from sqlalchemy import select

from lineage_orch.ledger.schema import marks
from lineage_orch.ledger.scope import Scope


def mark(scope: Scope, name: str) -> str | None:
    """Return the value of a mark; None if it was never set."""
    return scope.execute(select(marks.c.value).where(scope.mine(marks, marks.c.name == name))).scalar()


def set_mark(scope: Scope, name: str, value: str) -> None:
    """Set a mark."""
    scope.upsert(marks, [scope.row(name=name, value=value)], "value")
