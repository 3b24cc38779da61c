"""To which sources the runs in progress were narrowed by ``mark_updated``; of this process alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from uuid import UUID

_marked: dict[UUID, set[str]] = {}
_marking = threading.Lock()


def mark(run_id: UUID, sources: Iterable[str]) -> frozenset[str]:
    """Narrow a run to these sources, beside those that it was narrowed to before; returns all of them."""
    with _marking:
        marked = _marked.setdefault(run_id, set())
        marked.update(sources)
        return frozenset(marked)


def marked_in(run_id: UUID) -> frozenset[str] | None:
    """Return the sources that a run was narrowed to, or None if it was not."""
    marked = _marked.get(run_id)
    return None if marked is None else frozenset(marked)


def take_marks(run_id: UUID) -> frozenset[str] | None:
    """Return what :func:`marked_in` does, and forget it: the run is over."""
    marked = _marked.pop(run_id, None)
    return None if marked is None else frozenset(marked)
