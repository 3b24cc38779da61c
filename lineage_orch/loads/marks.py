"""To which sources the runs in progress were narrowed by ``mark_updated``; of this process alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from uuid import UUID

from lineage_orch.loads.fingerprints import fingerprint_of

# Of each run, the fingerprints that each of its sources was marked with, in order.
_marked: dict[UUID, dict[str, list[str | None]]] = {}
_marking = threading.Lock()


def mark(run_id: UUID, sources: Iterable[str], fingerprint: str | None = None) -> frozenset[str]:
    """Narrow a run to these sources, beside those that it was narrowed to before; returns all of them."""
    with _marking:
        marked = _marked.setdefault(run_id, {})
        for source in sources:
            given = marked.setdefault(source, [])
            if given[-1:] != [fingerprint]:  # a retry says the same again
                given.append(fingerprint)
        return frozenset(marked)


def marked_in(run_id: UUID) -> frozenset[str] | None:
    """Return the sources that a run was narrowed to, or None if it was not."""
    marked = _marked.get(run_id)
    return None if marked is None else frozenset(marked)


def take_marks(run_id: UUID) -> Mapping[str, str | None] | None:
    """Return the sources of :func:`marked_in`, each with the fingerprint of its load, and forget them: the run is over.

    A source that was marked several times was loaded in parts: their fingerprints together are that of the load; it has
    none if a part has none.
    """
    marked = _marked.pop(run_id, None)
    return None if marked is None else {source: _of_parts(marked[source]) for source in sorted(marked)}


def _of_parts(given: list[str | None]) -> str | None:
    if None in given:
        return None
    return given[0] if len(given) == 1 else fingerprint_of(tuple(given))
