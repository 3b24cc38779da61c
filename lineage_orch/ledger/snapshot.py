"""What the planner may know of the ledger: plain values, read in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from lineage_orch.updates import Window


class Extent(NamedTuple):
    """In which event times something changed.

    Attributes:
        window: In this window; ``None``: in none that is known.
        is_open: Also, or only, at times that are not known.
    """

    window: Window | None = None
    is_open: bool = False

    def __or__(self, other: Extent) -> Extent:
        """Return where one or the other changed."""
        both = [each for each in (self.window, other.window) if each is not None]
        return Extent(both[0] | both[-1] if both else None, self.is_open or other.is_open)

    def __str__(self) -> str:
        """Return ``2026-03-01 to 2026-03-02``, with ``, and elsewhere`` if it is open."""
        return f"{self.window or 'no window'}{', and elsewhere' if self.is_open else ''}"


UNCHANGED = Extent()
OPEN = Extent(is_open=True)


class NodeFact(NamedTuple):
    """The last good build of a node.

    Attributes:
        tick: The tick of the run that built it last.
        built_at: When that build ended (UTC).
        checksum: The checksum of its file; only in rows that 0.1.0 wrote, until their identity is known.
        changed: The tick of its last build whose content differed; ``None``: that of ``tick``.
        identity: The digest of what it was built from; ``None``: not known.
        content: The fingerprint of what it left in the warehouse; ``None``: not known, or a build set about it since.
        seconds: How long it took; ``None``: not known.
    """

    tick: int
    built_at: datetime
    checksum: str | None = None
    changed: int | None = None
    identity: str | None = None
    content: str | None = None
    seconds: float | None = None

    @property
    def changed_tick(self) -> int:
        """The tick of the last build whose content differed."""
        return self.tick if self.changed is None else self.changed


@dataclass(frozen=True, slots=True)
class Failure:
    """The failures of a node since its last good build.

    Attributes:
        count: How many runs failed on it in a row; 1 or more.
        since: When the first of them failed (UTC).
        last_at: When the last of them failed (UTC).
        tick: The tick of the last of these runs.
        identity: The digest of what it was built from when it failed last; ``None``: not known.
        message: What went wrong the last time, as dbt said it.
    """

    count: int
    since: datetime
    last_at: datetime
    tick: int
    identity: str | None
    message: str


class Untested(NamedTuple):
    """The last build of a node that succeeded itself, and whose tests did not pass since.

    Attributes:
        tick: The tick of the run that built it.
        built_at: When that was (UTC).
        identity: The digest of what it was built from; ``None``: not known.
    """

    tick: int
    built_at: datetime
    identity: str | None


@dataclass(frozen=True, slots=True)
class Launch:
    """A follower whose run in a deployment goes on, as far as is known.

    Attributes:
        follower: Its unique_id.
        tick: That of the run of builds for whose results it was launched: what it is recorded at when it is done.
        run_id: The random id of that run.
        launched_at: When (UTC).
        deployment: ``flow/name``.
        sources: The names of the sources whose loads caused it.
        window: The event times in which all that is new for it lies, if it takes a window; ``None``: not known.
        flow_run_id: Of its run; ``None``: Prefect has not said yet that there is one.
    """

    follower: str
    tick: int
    run_id: str
    launched_at: datetime
    deployment: str
    sources: tuple[str, ...] = ()
    window: Window | None = None
    flow_run_id: str | None = None


class Pause(NamedTuple):
    """A source or node that someone paused.

    Attributes:
        since: When that was (UTC).
        until: When it ends by itself (UTC); ``None``: when someone resumes it.
        reason: Why, in words for people; ``None``: not said.
    """

    since: datetime
    until: datetime | None = None
    reason: str | None = None


def has_ended(pause: Pause, now: datetime) -> bool:
    """Whether a pause has ended by itself by now."""
    return pause.until is not None and pause.until <= now


EVERYTHING = "*"
"""The name under which all nodes are paused, those that are yet to come too."""


class Moment(NamedTuple):
    """One update of a source, or one build that changed a node: its tick and its time (UTC)."""

    tick: int
    at: datetime


class Holder(NamedTuple):
    """Who took the build lock last, in words for people, and since when (UTC)."""

    who: str
    since: datetime


class Load(NamedTuple):
    """One update of a source, as the history keeps it.

    Attributes:
        tick: Its tick.
        source: The unique_id of the source, or the name as it was given.
        at: When it was loaded (UTC).
        producer: Who loaded it; ``None``: not known.
        baseline: Whether it only declared what stood in the warehouse.
        unchanged: Whether it brought nothing new, by its fingerprint.
        update_id: Of the load, which may be of several sources.
        flow_run_id: The flow run that loaded it; ``None``: not known.
        window: In which event times all that was new lay; ``None``: not known.
    """

    tick: int
    source: str
    at: datetime
    producer: str | None
    baseline: bool
    unchanged: bool = False
    update_id: str = ""
    flow_run_id: str | None = None
    window: Window | None = None


class Built(NamedTuple):
    """One good build of a node.

    Attributes:
        tick: That of its run.
        node: Its unique_id.
        at: When it was done (UTC).
        seconds: How long it took; ``None``: not known.
        is_changed: Whether its content differed, or may have.
        extent: In which event times what it took in had changed.
    """

    tick: int
    node: str
    at: datetime
    seconds: float | None
    is_changed: bool
    extent: Extent = OPEN


class Failed(NamedTuple):
    """One failure of a node: the tick of the run, when (UTC), how many in a row by then, and what dbt said."""

    tick: int
    node: str
    at: datetime
    times: int
    message: str


@dataclass(frozen=True)
class History:
    """What happened since a time, each in order of tick.

    Attributes:
        loads: The updates of sources.
        begun: When each run of builds began (UTC), by its tick.
        built: The good builds of nodes.
        failed: The failures of nodes, also of those that were built well since.
        who: Who each run of builds was, in words for people, by its tick, where that is known.
    """

    loads: Sequence[Load] = ()
    begun: Mapping[int, datetime] = field(default_factory=dict)
    built: Sequence[Built] = ()
    failed: Sequence[Failed] = ()
    who: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LedgerSnapshot:
    """The ledger of one scope at one instant of its logical clock.

    What the ledger never saw is absent, and has tick 0.

    Attributes:
        tick: The clock's reading.
        sources: Source to the tick of its newest update that brought anything new.
        nodes: Node to its last good build.
        producers: The sources with a registered producer.
        source_history: Source to its updates that are still kept and brought anything new, in order of tick.
        node_history: Node to those of its good builds that are still kept and changed it, in order of tick.
        run_id: The random id of the run that began with this snapshot; ``None``: a question, no run.
        baselines: The sources whose every update is a baseline: nothing shows that they move.
        debts: Node to the tick at which it was asked for; due while that is above its built tick.
        failures: Node to its failures since its last good build.
        untested: Node to its last build, where that succeeded itself and its tests did not pass.
        producer_patterns: What producers declare that is no unique_id (wildcards, templates, names not yet
            resolved), as given.
        unresolved: Name, as given, to the tick of its newest update that no source has got yet.
        loaded_at: Source to the latest time of its loads (UTC), as they gave it; one that brought nothing new too.
        launches: Follower to its run in a deployment that goes on.
        pauses: Source, node or ``EVERYTHING`` to its pause, those too that have ended by themselves.
        extents: Source or node -> a tick -> in which event times it changed above that tick; of those alone that were
            asked for, and that changed above it.
        debt_extents: Node to the event times for which it was asked for, where a window was among them.
    """

    tick: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    nodes: Mapping[str, NodeFact] = field(default_factory=dict)
    producers: frozenset[str] = frozenset()
    source_history: Mapping[str, Sequence[Moment]] = field(default_factory=dict)
    node_history: Mapping[str, Sequence[Moment]] = field(default_factory=dict)
    run_id: str | None = None
    baselines: frozenset[str] = frozenset()
    debts: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    untested: Mapping[str, Untested] = field(default_factory=dict)
    producer_patterns: frozenset[str] = frozenset()
    unresolved: Mapping[str, int] = field(default_factory=dict)
    loaded_at: Mapping[str, datetime] = field(default_factory=dict)
    launches: Mapping[str, Launch] = field(default_factory=dict)
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    extents: Mapping[str, Mapping[int, Extent]] = field(default_factory=dict)
    debt_extents: Mapping[str, Extent] = field(default_factory=dict)
