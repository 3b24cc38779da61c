"""What the ledger knows of a project, by number, and what holds its nodes whatever else is planned. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Literal, TypeVar

from lineage_orch.ledger import Failure, LedgerSnapshot
from lineage_orch.ledger.snapshot import EVERYTHING, has_ended
from lineage_orch.lineage import Lineage
from lineage_orch.plan.failures import failure_digest, wait_after
from lineage_orch.plan.followers import next_look
from lineage_orch.plan.graph import PlanGraph
from lineage_orch.plan.producing import producing_sources

_Value = TypeVar("_Value")


class Known:
    """The ledger as of one tick and time, by the numbers of a graph. The arguments are those of ``plan_builds``.

    Attributes:
        built: the tick of each node's last good build; 0 for sources, and where there was none.
        changed: the tick at which each was new last: a source's newest update, a node's last changed content.
        some_unchanged: whether a node was built since it changed last.
        differs: the nodes whose identity is not that of their last good build.
        missing: the nodes that were built and whose relation is not in the warehouse.
        asked: the nodes that someone asked for since their last good build, and those of ``forced``.
        free: all three, which build whatever their policy says.
        untested: the nodes that were built, as they are defined now, and whose tests did not pass: the tick of that.
        absent: the nodes that are not there for those that read them: never built, or gone from the warehouse.
        unloaded: the sources that have a producer and were never loaded.
        pauses: what is paused now, by unique_id, or ``EVERYTHING``.
        set_aside: the paused sources, with their newest updates: what these bring is there, and makes nothing stale.
        paused: the nodes that are paused, and all below them.
        retry_at: the nodes that failed in their last builds and are not tried again yet: when they are.
        blocked: the nodes that failed and all below them; of two ways to be it, ``failed``.
        obstructed: the nodes that cannot be built yet for want of what they read: above them, up to what exists, is a
            source to be loaded first or a node whose policy cannot be read.
        running: the followers of which a run goes on: when to look at it, where that is known.
    """

    def __init__(
        self,
        lineage: Lineage,
        graph: PlanGraph,
        snapshot: LedgerSnapshot,
        now: datetime,
        rebuild_changed_code: bool,
        missing_relations: Collection[str],
        not_built: Collection[str],
        failed: Collection[str],
        forced: Collection[str],
        running: Collection[str],
    ) -> None:
        self.lineage, self.graph, self.snapshot, self.now = lineage, graph, snapshot, now
        self.built = [0] * len(graph.ids)
        self.changed = [0] * len(graph.ids)
        self.differs: set[int] = set()
        self.some_unchanged = False
        for number, tick in self.by_number(snapshot.sources).items():
            if number < graph.source_count:
                self.changed[number] = tick
        self.pauses = {name: each for name, each in snapshot.pauses.items() if not has_ended(each, now)}
        self._loaded = {number for number in range(graph.source_count) if self.changed[number]}
        self.set_aside = {
            number: self.changed[number] for number in self.numbers(self.pauses) if number < graph.source_count
        }
        for number in self.set_aside:
            self.changed[number] = 0
        self._read_facts(rebuild_changed_code)
        self.forced = {number for number in self.numbers(forced) if number >= graph.source_count}
        self.asked = self.forced | {
            number
            for number, tick in self.by_number(snapshot.debts).items()
            if number >= graph.source_count and tick > self.built[number]
        }
        gone = self.numbers(missing_relations)
        self.missing = {number for number in gone if self.built[number]}
        self.untested = self._find_untested(gone | self.forced)
        self.not_built = self.numbers(not_built)
        self.free = self.differs | self.missing | self.asked
        self.unloaded = {
            number
            for number in self.numbers(producing_sources(lineage, snapshot))
            if number < graph.source_count and number not in self._loaded
        }
        self.absent = self._find_absent()
        self.retry_at = self._find_failing()
        self.blocked = self._find_blocked(self.numbers(failed))
        self.paused = self._find_paused()
        self.obstructed = self._find_obstructed()
        self.running: dict[int, datetime | None] = dict.fromkeys(self.numbers(running))
        for number, launch in self.by_number(snapshot.launches).items():
            self.running[number] = next_look(launch.launched_at, now)

    def numbers(self, unique_ids: Collection[str]) -> set[int]:
        """Return the numbers of those that the graph knows."""
        find = self.graph.index.get
        return {number for each in unique_ids if (number := find(each)) is not None}

    def by_number(self, values: Mapping[str, _Value]) -> dict[int, _Value]:
        """Return the values of those that the graph knows, by number."""
        find = self.graph.index.get
        return {number: value for each, value in values.items() if (number := find(each)) is not None}

    def names(self, numbers: Collection[int]) -> tuple[str, ...]:
        """Return the unique_ids of numbers, in the order of the graph."""
        return tuple(self.graph.ids[number] for number in sorted(numbers))

    def _read_facts(self, rebuild_changed_code: bool) -> None:
        find, checksums, start = self.graph.index.get, self.graph.checksums, self.graph.source_count
        built, changed, differs = self.built, self.changed, self.differs
        facts = self.snapshot.nodes
        knows_identities = any(fact.identity for fact in facts.values())
        # Of all nodes at once: a ledger of now has one for each.
        identities = self.lineage.digests if rebuild_changed_code and knows_identities else {}
        for unique_id, fact in facts.items():
            number = find(unique_id)
            if number is None or number < start:
                continue
            # By position: three of seven fields, in three quarters of the time of unpacking all or asking by name.
            tick, changed_at, identity = fact[0], fact[3], fact[4]
            built[number] = tick
            if changed_at is None:
                changed[number] = tick
            else:
                changed[number] = changed_at
                self.some_unchanged = True
            if identity is not None:
                if rebuild_changed_code and identity != identities[unique_id]:
                    differs.add(number)
            # A row of before identities were kept. The checksum of a file is a part of its identity.
            elif (of_file := fact[2]) != checksums[number] and of_file and checksums[number] and rebuild_changed_code:
                differs.add(number)

    def _find_untested(self, gone: Collection[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for number, last in self.by_number(self.snapshot.untested).items():
            unique_id = self.graph.ids[number]
            if (
                number not in gone
                and last.tick > self.built[number]
                and self.snapshot.debts.get(unique_id, 0) <= last.tick
                and last.identity == self.lineage.identity(unique_id)
            ):
                found[number] = last.tick
        return found

    def _find_absent(self) -> frozenset[int]:
        """The nodes that are not there for what reads them. What dbt will not build is made elsewhere."""
        built, start = self.built, self.graph.source_count
        never = {number for number in range(start, len(built)) if not built[number]} if 0 in built[start:] else set()
        return frozenset((never | self.missing) - self.not_built)

    # What holds a node whatever else is in the plan ------------------------------------------------------

    def _find_failing(self) -> dict[int, datetime]:
        found: dict[int, datetime] = {}
        for number, failure in self.by_number(self.snapshot.failures).items():
            until = min(failure.last_at, self.now) + wait_after(failure.count)
            if until > self.now and number not in self.not_built and not self._is_worth_a_try(number, failure):
                found[number] = until
        return found

    def _is_worth_a_try(self, number: int, failure: Failure) -> bool:
        """Whether anything but its data changed since it failed, or someone asked for it."""
        unique_id = self.graph.ids[number]
        if self.snapshot.debts.get(unique_id, 0) > failure.tick:
            return True
        return failure.identity is not None and failure.identity != failure_digest(self.lineage, unique_id)

    def _find_blocked(self, failed: set[int]) -> dict[int, Literal["failed", "failing"]]:
        blocked: dict[int, Literal["failed", "failing"]] = {}
        if not failed and not self.retry_at:
            return blocked
        for number in range(self.graph.source_count, len(self.graph.ids)):
            if number in self.not_built:
                continue
            above = {blocked.get(parent) for parent in self.graph.parents[number]}
            if number in failed or "failed" in above:
                blocked[number] = "failed"
            elif number in self.retry_at or "failing" in above:
                blocked[number] = "failing"
        return blocked

    def _find_paused(self) -> set[int]:
        start, everything = self.graph.source_count, EVERYTHING in self.pauses
        own = range(start, len(self.graph.ids)) if everything else self.numbers(self.pauses)
        paused = {number for number in own if number >= start and number not in self.not_built}
        return self.graph.and_below(paused, without=self.not_built)

    def _find_obstructed(self) -> set[int]:
        absent, bad_configs, unloaded = self.absent, self.graph.bad_configs, self.unloaded
        found: set[int] = set()
        if not unloaded and absent.isdisjoint(bad_configs):
            return found
        for number in range(self.graph.source_count, len(self.graph.ids)):
            for parent in self.graph.parents[number]:
                if parent in unloaded or (parent in absent and (parent in found or parent in bad_configs)):
                    found.add(number)
                    break
        return found

    def obstacles(self, number: int) -> tuple[set[int], set[int]]:
        """Return the sources and the nodes for which an obstructed node waits."""
        sources: set[int] = set()
        nodes: set[int] = set()
        seen = {number}
        stack = [number] if number in self.obstructed else []
        while stack:
            parents = self.graph.parents[stack.pop()]
            sources |= self.unloaded.intersection(parents)
            above = self.absent.intersection(parents)
            nodes |= above & self.graph.bad_configs.keys()
            stack += above & self.obstructed - seen
            seen |= above
        return sources, nodes

    # What moves ------------------------------------------------------------------------------------------

    @cached_property
    def moving(self) -> set[int]:
        """The sources with a producer, or an update that was no baseline, and the nodes that get news from them."""
        baselines = self.numbers(self.snapshot.baselines)
        moving = {number for number in self._loaded if number not in baselines} | self.numbers(
            producing_sources(self.lineage, self.snapshot)
        )
        return self.graph.and_below(moving, without=self.not_built)

    @cached_property
    def settled(self) -> Sequence[int]:
        """The tick up to which each node has taken in what came; of a source, its newest update.

        Later than its last build, where what it reads was built since and came out as it was.
        """
        if not self.some_unchanged:
            return self.changed
        settled = [max(pair) for pair in zip(self.built, self.changed, strict=True)]
        for number in range(self.graph.source_count, len(settled)):
            tick, parents = self.built[number], self.graph.parents[number]
            if tick and number not in self.free and all(self.changed[parent] <= tick for parent in parents):
                settled[number] = max((tick, *(settled[parent] for parent in parents)))
        return settled
