"""What the planner may know of the ledger: plain values, read in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple


class NodeFact(NamedTuple):
    """The last good build of a node: its tick, when it ended (UTC), and the checksum of the code it ran."""

    tick: int
    built_at: datetime
    checksum: str | None = None


class Moment(NamedTuple):
    """One update of a source, or one good build of a node: its tick and its time (UTC)."""

    tick: int
    at: datetime


@dataclass(frozen=True)
class LedgerSnapshot:
    """The ledger of one (project, target) at one instant of its logical clock.

    ``tick`` is the clock's reading. ``sources`` holds the tick of each source's newest update, ``nodes`` the
    last good build of each node; what the ledger never saw is absent, and has tick 0. ``producers`` are the
    sources with a registered producer. ``source_history`` and ``node_history`` hold, in order of tick, the
    updates and good builds that are still kept: ``lag_tolerance`` counts from them.
    """

    tick: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    nodes: Mapping[str, NodeFact] = field(default_factory=dict)
    producers: frozenset[str] = frozenset()
    source_history: Mapping[str, Sequence[Moment]] = field(default_factory=dict)
    node_history: Mapping[str, Sequence[Moment]] = field(default_factory=dict)
