"""Reports as JSON-ready values, by one rule: what a class has, its JSON has, under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineage_orch.ledger import Extent, Failure


def as_json(value: object) -> Any:
    """Return a value as JSON-ready ones: times ISO 8601 (UTC), spans in seconds, what has no order sorted."""
    if value is None or isinstance(value, str | int | float):
        return value
    if is_dataclass(value):
        return picked(value, *(each.name for each in fields(value)))
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        names: tuple[str, ...] | None = getattr(value, "_fields", None)  # of a named tuple
        return [as_json(each) for each in value] if names is None else picked(value, *names)
    return sorted(value) if isinstance(value, set | frozenset) else value


def picked(value: object, *names: str) -> dict[str, Any]:
    """Return these fields alone."""
    return {name: as_json(getattr(value, name)) for name in names}


def iso(moment: datetime | None) -> str | None:
    """Return a time as ISO 8601 in UTC."""
    return None if moment is None else moment.astimezone(UTC).isoformat()


def extent_to_dict(extent: Extent | None) -> dict[str, Any] | None:
    """Return in which event times something changed; None where no window is known."""
    return {**as_json(extent.window), "is_open": extent.is_open} if extent and extent.window else None


def failure_to_dict(failure: Failure | None) -> dict[str, Any] | None:
    """Return the failures of a node."""
    return None if failure is None else picked(failure, "count", "since", "last_at", "message")
