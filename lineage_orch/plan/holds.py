"""What holds a stale node, and until when. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from lineage_orch.ledger import Moment
from lineage_orch.ledger.snapshot import EVERYTHING
from lineage_orch.plan.build_plan import Held
from lineage_orch.plan.loading import nodes_below, timed_nodes
from lineage_orch.plan.reasons import PlannedGraph

_tick_of = attrgetter("tick")
_NEVER = datetime.max.replace(tzinfo=UTC)


class Holds:
    """What holds the nodes of a plan that grows.

    Args:
        world: the plan so far.
        pass_views: the views through which new data flows without a build.
        loading, patience: as ``plan_builds`` takes them.

    Attributes:
        awaiting: the nodes that wait for loads that are running.
        timed: the nodes of which may be asked since when their data waits.
    """

    def __init__(
        self, world: PlannedGraph, pass_views: Collection[int], loading: Collection[str], patience: timedelta
    ) -> None:
        self._world, self._known, self._graph = world, world.known, world.known.graph
        self._pass_views = pass_views
        self._patience = patience
        waits = patience > timedelta(0)
        self._loading = {each for each in self._known.numbers(loading) if waits and each < self._graph.source_count}
        self.awaiting = nodes_below(self._graph, self._loading)
        self.timed = timed_nodes(self._graph, self.awaiting)
        self._pending: dict[int, datetime | None] = {}

    def held(self, number: int) -> Held:
        """Return why a node that waits does not build now."""
        blocked = self._known.blocked.get(number)
        above = [each for each in self._graph.parents[number] if self._known.blocked.get(each, "") == blocked]
        if blocked == "failed" or above:
            assert blocked is not None
            return Held(blocked, self._known.names(above))
        if number in self._known.paused:
            return self._held_by_pause(number)
        sources, nodes = self._known.obstacles(number)
        if sources:
            return Held("first_load", self._known.names(sources))
        if (wrong := self._graph.bad_configs.get(number)) is not None:
            return Held("bad_config", detail=wrong)
        if nodes:
            return Held("bad_config", self._known.names(nodes), detail=self._graph.bad_configs[min(nodes)])
        found = self.by_policy(number)
        assert found is not None
        return found

    def _held_by_pause(self, number: int) -> Held:
        own = self._known.pauses.get(self._graph.ids[number]) or self._known.pauses.get(EVERYTHING)
        if own is not None:
            return Held("paused", until=own.until, detail=own.reason)
        above: set[int] = set()
        seen: set[int] = set()
        stack = [number]
        while stack:
            for parent in self._known.paused.intersection(self._graph.parents[stack.pop()]) - seen:
                seen.add(parent)
                if self._graph.ids[parent] in self._known.pauses:
                    above.add(parent)
                else:
                    stack.append(parent)
        ends = [self._known.pauses[self._graph.ids[each]].until or _NEVER for each in above]
        return Held("paused", self._known.names(above), None if (end := max(ends)) == _NEVER else end)

    def ends_of_pauses(self) -> list[datetime]:
        """When the pauses end of sources that were loaded since something that reads them was built."""
        return [
            until
            for number, tick in self._known.set_aside.items()
            if (until := self._known.pauses[self._graph.ids[number]].until) is not None
            and any(self._known.built[child] < tick for child in self._graph.children[number])
        ]

    def by_policy(self, number: int) -> Held | None:
        """Why its policy or a failure of its own holds a node: the latest of all times."""
        if number in self._known.running:
            return Held("running", until=self._known.running[number])
        tick = self._known.built[number]
        held: list[Held] = []
        policy = self._graph.policies.get(number)
        # A view that new data passes through is built only for what no policy holds.
        is_ruled = number not in self._known.free and not (tick and number in self._pass_views)
        if is_ruled and number in self.awaiting and (since := self.pending_since(number)) is not None:
            loads = self._known.names(self._graph.sources_above(number) & self._loading)
            held.append(Held("load_running", loads, until=_after(since, self._patience)))
        if policy is not None and is_ruled:
            if policy.updates_on == "all" and (old := self._old_parents(number)):
                return Held("updates_on_all", self._known.names(old))
            if policy.build_after is not None and tick:
                built_at = self._known.snapshot.nodes[self._graph.ids[number]].built_at
                held.append(Held("build_after", until=_after(min(built_at, self._known.now), policy.build_after)))
            if policy.lag_tolerance is not None and (since := self.pending_since(number)) is not None:
                held.append(Held("lag_tolerance", until=_after(since, policy.lag_tolerance)))
        if number in self._known.retry_at:
            message = self._known.snapshot.failures[self._graph.ids[number]].message
            held.append(Held("failing", until=self._known.retry_at[number], detail=message))
        latest = max(held, key=_until_of, default=None)
        return latest if latest is not None and _until_of(latest) > self._known.now else None

    def _old_parents(self, number: int) -> list[int]:
        """The parents that move and have nothing new; what is not there is new when it is built first.

        A parent that took in a load, and came out as it was, is as new as it can be.
        """
        tick = self._known.built[number]
        return [
            parent
            for parent in self._graph.parents[number]
            if self._world.reach[parent] <= tick
            and self._known.settled[parent] <= tick
            and parent in self._known.moving
            and parent not in self._known.absent
        ]

    def pending_since(self, number: int) -> datetime | None:
        """When data for a node began to wait, at most now; None if the ledger no longer keeps a time that old."""
        if number in self._pending:
            return self._pending[number]
        graph, snapshot, tick = self._graph, self._known.snapshot, self._known.built[number]
        times: list[datetime] = []
        for parent in graph.parents[number]:
            comes_now = tick < self._world.reach[parent] != self._known.changed[parent] or parent in self._known.absent
            if not comes_now and self._known.changed[parent] <= tick:
                continue
            history = snapshot.source_history if parent < graph.source_count else snapshot.node_history
            first = _first_above(history.get(graph.ids[parent], ()), tick)
            if first is not None:
                times.append(first)
            if comes_now:
                # Built for another reason than new data, a parent has no time of its own: it is new as of now.
                times.append(self.pending_since(parent) or self._known.now)
            if parent in self._world.tested and self._world.reach[parent] > tick:
                times.append(snapshot.untested[graph.ids[parent]].built_at)
        found = min(times, default=None)
        self._pending[number] = found = None if found is None else min(found, self._known.now)
        return found

    def ask_again(self) -> None:
        """Find again since when data waits, of all that is in the plan now."""
        self._pending.clear()
        for number in sorted(self.timed):
            if number >= self._graph.source_count and (self._world.is_planned(number) or number in self._known.absent):
                self.pending_since(number)


def _first_above(history: Sequence[Moment], tick: int) -> datetime | None:
    first = bisect_right(history, tick, key=_tick_of)
    return history[first].at if first < len(history) else None


def _until_of(held: Held) -> datetime:
    return held.until or _NEVER


def _after(start: datetime, delay: timedelta) -> datetime:
    try:
        return start + delay
    except OverflowError:
        return _NEVER
