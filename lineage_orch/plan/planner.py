"""The plan: what to build now, what is held, and why.

Pure: a lineage, a snapshot of the ledger and the time go in, a :class:`BuildPlan` comes out. No I/O, no
clock, no Prefect. The rule (``docs/how-it-decides.md``):

- A node is out of date when a parent has a higher tick, or is in the plan itself, or when its own code
  changed since its last good build.
- What is out of date is in the plan, unless its policy or a missing first load holds it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from operator import attrgetter
from typing import Literal

from lineage_orch.errors import PolicyError
from lineage_orch.ledger import LedgerSnapshot, Moment
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.policy import Policy
from lineage_orch.plan import selection
from lineage_orch.plan.because import IN_PLAN, Because
from lineage_orch.plan.graph import ones, plan_graph

HeldReason = Literal["updates_on_all", "build_after", "lag_tolerance", "first_load", "failed"]
Views = Literal["build", "pass_through"]

_tick_of = attrgetter("tick")
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Held:
    """Why an out-of-date node does not build now.

    ``reason``:
        ``updates_on_all``: it waits for fresh data of the parents in ``waiting_for``;
        ``build_after``, ``lag_tolerance``: its policy holds it until ``until`` (UTC);
        ``first_load``: the sources in ``waiting_for`` have a producer and were never loaded;
        ``failed``: it, or the node in ``waiting_for``, failed in this drain and nothing new came since.
    """

    reason: HeldReason
    waiting_for: tuple[str, ...] = ()
    until: datetime | None = None


@dataclass(frozen=True)
class BuildPlan:
    """What to build now, what is held, and why.

    ``build``: unique_ids, parents before children. ``held``: the out-of-date nodes that do not build now.
    ``because``: for each node of ``build``, the sources whose updates reach it (empty for one that builds
    only for its changed code). ``next_due``: the earliest time (UTC) until which a node is held, or None.
    ``changed_code``: the nodes of ``build`` whose own code changed. ``passed``: the views through which the
    change flows without a build (``views="pass_through"``). ``select``: what to hand to dbt.
    """

    build: tuple[str, ...]
    held: Mapping[str, Held]
    because: Mapping[str, frozenset[str]]
    next_due: datetime | None
    changed_code: frozenset[str]
    passed: tuple[str, ...]
    _lineage: Lineage = field(repr=False, compare=False)
    _built_before: Collection[str] = field(repr=False, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do now (there may still be held nodes)."""
        return not self.build and not self.passed

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The sources whose updates reach something in the plan, sorted."""
        # Many nodes share a set.
        return tuple(sorted(frozenset().union(*set(self.because.values()))))

    @cached_property
    def select(self) -> tuple[str, ...]:
        """The selectors that make ``dbt build`` build exactly ``build``, and test what it tests.

        Raises:
            LineageError: dbt's selectors cannot tell one of the nodes from another.
        """
        return selection.select(self._lineage, self.build, self.passed, self.sources)

    @cached_property
    def left_out_tests(self) -> tuple[str, ...]:
        """The tests that ``select`` would bring and that cannot pass yet: they also read what is not there.

        That is a node that was never built, or is held and so still made of old data. They run when it builds.
        """
        build = frozenset(self.build)

        def is_absent(unique_id: str) -> bool:
            if unique_id in build or unique_id not in self._lineage.nodes:
                return False
            return unique_id in self.held or unique_id not in self._built_before

        selected = selection.bearers(self._lineage, self.build, self.passed, self.sources)
        return selection.left_out_tests(self._lineage, selected, is_absent)

    @cached_property
    def exclude(self) -> tuple[str, ...]:
        """The selectors of ``left_out_tests``."""
        return tuple(self._lineage.selectors.test(each) for each in self.left_out_tests)


def plan_builds(
    lineage: Lineage,
    snapshot: LedgerSnapshot,
    *,
    now: datetime,
    views: Views = "build",
    hold_until_first_load: bool = False,
    rebuild_changed_code: bool = True,
    failed: Collection[str] = (),
) -> BuildPlan:
    """Return what to build now.

    Args:
        lineage: the graph of the project.
        snapshot: the ledger as of one tick.
        now: an aware datetime; only ``build_after`` and ``lag_tolerance`` look at it.
        views: ``"build"`` builds views like all else; ``"pass_through"`` lets new data flow through a view
            that was built once, to what hangs on it.
        hold_until_first_load: hold a node while a source above it that has a producer was never loaded.
        rebuild_changed_code: a node whose checksum differs from that of its last good build is out of date.
        failed: nodes not to try again now; what hangs on them waits with them.

    Raises:
        PolicyError: the freshness or state config of a node cannot be read.
        ValueError: ``now`` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"now has no time zone: {now!r}; use datetime.now(UTC)")
    return _Planner(
        lineage, snapshot, now.astimezone(UTC), views, hold_until_first_load, rebuild_changed_code, failed
    ).plan()


class _Planner:
    """One pass over the graph, parents before children.

    ``_ticks`` is what the ledger knows; ``_reach`` is the same with infinity for what is in the plan, so that
    "a parent has a higher tick or is in the plan" is one comparison.
    """

    def __init__(
        self,
        lineage: Lineage,
        snapshot: LedgerSnapshot,
        now: datetime,
        views: Views,
        hold_until_first_load: bool,
        rebuild_changed_code: bool,
        failed: Collection[str],
    ) -> None:
        self._lineage = lineage
        self._graph = graph = plan_graph(lineage)
        for reason in graph.bad_configs.values():
            raise PolicyError(reason)
        self._snapshot = snapshot
        self._now = now
        find = graph.index.get
        self._ticks = ticks = [0] * len(graph.ids)
        for unique_id, tick in snapshot.sources.items():
            if (number := find(unique_id)) is not None:
                ticks[number] = tick
        changed: set[int] = set()
        checksums = graph.checksums
        for unique_id, fact in snapshot.nodes.items():
            if (number := find(unique_id)) is not None:
                ticks[number] = fact.tick
                checksum = fact.checksum
                if checksum != checksums[number] and checksum and checksums[number]:
                    changed.add(number)
        self._changed = changed if rebuild_changed_code else set()
        self._reach = list(ticks)
        self._failed = {number for each in failed if (number := find(each)) is not None}
        self._blocked: set[int] = set()
        self._pass_views = graph.views if views == "pass_through" else frozenset()
        self._pending: dict[int, datetime | None] = {}
        self._held: dict[int, Held] = {}
        self._producers = {number for each in snapshot.producers if (number := find(each)) is not None}
        self._unloaded: list[int] = []
        self._unloaded_above: list[int] = []
        if hold_until_first_load:
            self._unloaded = sorted(each for each in self._producers if not ticks[each])
            if self._unloaded:
                self._unloaded_above = graph.above(self._unloaded)

    def plan(self) -> BuildPlan:
        graph, reach, ticks = self._graph, self._reach, self._ticks
        policies, parents, passing, timed = graph.policies, graph.parents, self._pass_views, graph.above_a_lag
        failed, blocked = self._failed, self._blocked
        asked = self._changed | failed
        careful = bool(policies or self._unloaded or failed or passing)
        in_plan = IN_PLAN
        build: list[int] = []
        passed: list[int] = []
        # Parents come first, so each asks parents that know their answer: no deep recursion.
        for number in range(graph.source_count, len(graph.ids)):
            tick = ticks[number]
            for parent in parents[number]:
                # One fresh parent settles it; which others are fresh too is asked later, if at all.
                if reach[parent] > tick:
                    break
            else:
                if number not in asked:
                    if blocked and not blocked.isdisjoint(parents[number]):
                        self._block(number)
                    continue
            goes_to = build
            if careful:
                is_passed = tick > 0 and number in passing and number not in self._changed
                if self._is_held(number, is_passed):
                    continue
                if number in timed:
                    self._pending_since(number)
                if is_passed:
                    goes_to = passed
            reach[number] = in_plan
            goes_to.append(number)
        ids = graph.ids
        held = {ids[number]: each for number, each in self._held.items()}
        times = [each.until for each in held.values() if each.until is not None]
        return BuildPlan(
            build=tuple(map(ids.__getitem__, build)),
            held=held,
            because=Because(graph, ticks, reach, sorted(build + passed) if passed else build),
            next_due=min(times, default=None),
            changed_code=frozenset(ids[number] for number in self._changed if reach[number] == IN_PLAN),
            passed=tuple(ids[number] for number in passed),
            _lineage=self._lineage,
            _built_before=self._snapshot.nodes.keys(),
        )

    # Why a node is held -----------------------------------------------------------------------------------

    def _is_held(self, number: int, is_passed: bool) -> bool:
        if number in self._failed or not self._blocked.isdisjoint(self._graph.parents[number]):
            self._block(number)
            return True
        held: Held | None = None
        if self._unloaded and (missing := self._unloaded_above[number]):
            held = Held("first_load", self._names([self._unloaded[bit] for bit in ones(missing)]))
        elif number in self._graph.policies and number not in self._changed and not is_passed:
            held = self._held_by_policy(number, self._graph.policies[number])
        if held is not None:
            self._held[number] = held
        return held is not None

    def _block(self, number: int) -> None:
        self._blocked.add(number)
        waiting_for = [parent for parent in self._graph.parents[number] if parent in self._blocked]
        self._held[number] = Held("failed", self._names(waiting_for))

    def _held_by_policy(self, number: int, policy: Policy) -> Held | None:
        tick = self._ticks[number]
        if policy.updates_on == "all":
            stale = [
                parent
                for parent in self._graph.parents[number]
                if self._reach[parent] <= tick and parent in self._moving
            ]
            if stale:
                return Held("updates_on_all", self._names(stale))
        held: Held | None = None
        fact = self._snapshot.nodes.get(self._graph.ids[number])
        if policy.build_after is not None and fact is not None:
            held = Held("build_after", until=_after(fact.built_at, policy.build_after))
        if policy.lag_tolerance is not None:
            since = self._pending_since(number)
            if since is not None:
                until = _after(since, policy.lag_tolerance)
                if held is None or held.until is None or until > held.until:
                    held = Held("lag_tolerance", until=until)
        if held is None or held.until is None or held.until <= self._now:
            return None
        return held

    @cached_property
    def _moving(self) -> set[int]:
        """The sources that were ever updated or have a producer, and the nodes below them."""
        graph = self._graph
        moving = {number for number in range(graph.source_count) if self._ticks[number]} | self._producers
        for number in range(graph.source_count, len(graph.ids)):
            if not moving.isdisjoint(graph.parents[number]):
                moving.add(number)
        return moving

    def _pending_since(self, number: int) -> datetime | None:
        """When data for a node began to wait; None if the ledger no longer keeps a time that old."""
        if number in self._pending:
            return self._pending[number]
        graph, tick = self._graph, self._ticks[number]
        times: list[datetime] = []
        for parent in graph.parents[number]:
            if self._reach[parent] <= tick:
                continue
            history = self._snapshot.source_history if parent < graph.source_count else self._snapshot.node_history
            first = _first_above(history.get(graph.ids[parent], ()), tick)
            if first is not None:
                times.append(first)
            if self._reach[parent] == IN_PLAN:
                since = self._pending_since(parent)
                if since is None and parent in self._changed:
                    # Built for its new code alone, a parent has no time of its own: it is new as of now.
                    since = self._now
                if since is not None:
                    times.append(since)
        self._pending[number] = found = min(times, default=None)
        return found

    def _names(self, numbers: Collection[int]) -> tuple[str, ...]:
        return tuple(self._graph.ids[number] for number in sorted(numbers))


def _first_above(history: Sequence[Moment], tick: int) -> datetime | None:
    first = bisect_right(history, tick, key=_tick_of)
    return history[first].at if first < len(history) else None


def _after(start: datetime, delay: timedelta) -> datetime:
    try:
        return start + delay
    except OverflowError:
        return _NEVER
