"""To which sources the runs in progress were narrowed by ``mark_updated``; of this process alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple
from uuid import UUID

from lineage_orch.loads.fingerprints import fingerprint_of
from lineage_orch.updates import Window


class Mark(NamedTuple):
    """What a load was marked with: a fingerprint of what it brought, and the window that this lies in, if known."""

    fingerprint: str | None = None
    window: Window | None = None


# Of each run, what each of its sources was marked with, in order.
_marked: dict[UUID, dict[str, list[Mark]]] = {}
_marking = threading.Lock()


def mark(
    run_id: UUID, sources: Iterable[str], fingerprint: str | None = None, window: Window | None = None
) -> frozenset[str]:
    """Narrow a run to these sources, beside those that it was narrowed to before; returns all of them."""
    said = Mark(fingerprint, window)
    with _marking:
        marked = _marked.setdefault(run_id, {})
        for source in sources:
            given = marked.setdefault(source, [])
            if given[-1:] != [said]:  # a retry says the same again
                given.append(said)
        return frozenset(marked)


def marked_in(run_id: UUID) -> frozenset[str] | None:
    """Return the sources that a run was narrowed to, or None if it was not."""
    marked = _marked.get(run_id)
    return None if marked is None else frozenset(marked)


def take_marks(run_id: UUID, window: Window | None = None) -> Mapping[str, Mark] | None:
    """Return the sources of :func:`marked_in`, each with the mark of its load, and forget them: the run is over.

    A source that was marked several times was loaded in parts: their fingerprints together are that of the load, which
    has none if a part has none; and so are their windows.

    Args:
        window: that of a part that was marked without one.
    """
    marked = _marked.pop(run_id, None)
    return None if marked is None else {source: _of_parts(marked[source], window) for source in sorted(marked)}


def _of_parts(given: Sequence[Mark], of_run: Window | None) -> Mark:
    fingerprints = [each.fingerprint for each in given]
    windows = [each.window or of_run for each in given]
    known = [each for each in windows if each is not None]
    return Mark(_together(fingerprints), reduce(or_, known) if len(known) == len(windows) else None)


def _together(fingerprints: list[str | None]) -> str | None:
    if None in fingerprints:
        return None
    return fingerprints[0] if len(fingerprints) == 1 else fingerprint_of(tuple(fingerprints))
