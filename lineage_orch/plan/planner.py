"""The plan: what to build now, what is held, and why.

Pure: a lineage, a snapshot of the ledger and the time go in, a :class:`BuildPlan` comes out. No I/O, no
clock, no Prefect. The rule (``docs/how-it-decides.md``):

- A node is stale when what it reads is newer than its last good build, or is in the plan itself; when its own
  definition changed since; when its relation is gone; when someone asked for it; and when a node in the plan
  reads it and it is not there.
- What is stale is in the plan, unless something holds it: its policy, a failure, a source that was never loaded.
- Of the plan, what is stale only through nodes that may come out as they were waits, perhaps for nothing: it is
  planned again when these are built.

The plan is the least set that this describes, whatever the order in which it is found: to put a node into the plan
never takes another out of it. What could (a failure, a first load) is known before the first node is put in.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import Literal, TypeVar

from lineage_orch.ledger import Extent, Failure, LedgerSnapshot, Moment
from lineage_orch.ledger.snapshot import EVERYTHING, OPEN, has_ended
from lineage_orch.lineage import Lineage, Microbatch
from lineage_orch.lineage.followers import Follower
from lineage_orch.plan.build_plan import BuildPlan, Held
from lineage_orch.plan.cutoff import CutoffMode, first_stage, ignored_columns
from lineage_orch.plan.failures import failure_digest, wait_after
from lineage_orch.plan.followers import next_look
from lineage_orch.plan.graph import plan_graph
from lineage_orch.plan.loading import nodes_below, timed_nodes
from lineage_orch.plan.producing import producing_sources
from lineage_orch.plan.reasons import IN_PLAN, Because, PlannedGraph, Reasons
from lineage_orch.plan.windows import due_window, first_call, microbatch_models, planned_extents, take_windows
from lineage_orch.updates import Window

Views = Literal["build", "pass_through"]

_Value = TypeVar("_Value")

_tick_of = attrgetter("tick")
_ON_CALL = IN_PLAN - 1
_NEVER = datetime.max.replace(tzinfo=UTC)


def plan_builds(
    lineage: Lineage,
    snapshot: LedgerSnapshot,
    *,
    now: datetime,
    views: Views = "build",
    rebuild_changed_code: bool = True,
    missing_relations: Collection[str] = (),
    not_built: Collection[str] = (),
    failed: Collection[str] = (),
    only: Collection[str] | None = None,
    forced: Collection[str] = (),
    loading: Collection[str] = (),
    patience: timedelta = timedelta(0),
    cutoff: CutoffMode = "marked",
    followers: Sequence[Follower] = (),
    running: Collection[str] = (),
    batches_given: bool = False,
) -> BuildPlan:
    """Return what to build now, and which followers to run.

    Args:
        lineage: the graph of the project.
        snapshot: the ledger as of one tick.
        now: an aware datetime; only ``build_after``, ``lag_tolerance`` and the waits after failures look at it.
        views: ``"build"`` builds views like all else; ``"pass_through"`` lets new data flow through a view
            that was built before, to what is below it. A view above which a definition changed is built.
        rebuild_changed_code: a node whose identity differs from that of its last good build is stale.
        missing_relations: nodes whose relation is known not to be in the warehouse.
        not_built: nodes that dbt will not build, as it is called here. They are named if they are stale, nothing
            below them is built for them, and they are taken to be there for those that read them.
        failed: nodes not to try again now; what is below them waits with them.
        only: the nodes that someone selected; None for all. Of the others those alone are built that a selected one
            needs and that are not there, and none of them is named as held.
        forced: nodes to build whether they are stale or not, and whatever holds them.
        loading: unique_ids of the sources that are being loaded now, or are about to be.
        patience: how long what is below them waits for that, since its data began to wait.
        cutoff: which nodes end a stage where they may come out as they were: ``marked`` in their meta; ``auto``, also
            where what is below them takes longer; or none, ``off``.
        followers: what runs below the nodes and is not dbt's to build.
        running: those of them that run in this process, or are left to another, beside the launches in the ledger.
        batches_given: dbt is told otherwise which batches to build, so that windows part no calls, and what is built
            may change at any time.

    Raises:
        LineageError: the manifest has a cycle.
        ValueError: ``now`` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"now has no time zone: {now!r}; use datetime.now(UTC)")
    planner = _Planner(
        lineage,
        snapshot,
        now.astimezone(UTC),
        views,
        rebuild_changed_code,
        missing_relations,
        not_built,
        failed,
        only,
        forced,
        cutoff,
        tuple(followers),
        running,
        batches_given,
    )
    planner.wait_for(loading, patience)
    return planner.plan()


class _Planner:
    """What the ledger knows, by number, and the pass over the graph that puts nodes into the plan."""

    def __init__(
        self,
        lineage: Lineage,
        snapshot: LedgerSnapshot,
        now: datetime,
        views: Views,
        rebuild_changed_code: bool,
        missing_relations: Collection[str],
        not_built: Collection[str],
        failed: Collection[str],
        only: Collection[str] | None,
        forced: Collection[str],
        cutoff: CutoffMode,
        followers: tuple[Follower, ...],
        running: Collection[str],
        batches_given: bool,
    ) -> None:
        self._lineage = lineage
        self._graph = graph = plan_graph(lineage, followers)
        self._snapshot = snapshot
        self._now = now
        self._cutoff: CutoffMode = cutoff
        self._batches_given = batches_given
        self._built = [0] * len(graph.ids)
        self._changed = [0] * len(graph.ids)
        self._differs: set[int] = set()
        # Whether a node was built since it changed last.
        self._some_unchanged = False
        self._read_sources()
        self._pauses = {name: each for name, each in snapshot.pauses.items() if not has_ended(each, now)}
        self._loaded = {number for number in range(graph.source_count) if self._changed[number]}
        # What a paused source brings is there, and makes nothing stale.
        self._set_aside = {
            number: self._changed[number] for number in self._numbers(self._pauses) if number < graph.source_count
        }
        for number in self._set_aside:
            self._changed[number] = 0
        self._read_facts(rebuild_changed_code)
        self._reach = list(self._changed)
        self._asked = {
            number
            for number, tick in self._by_number(snapshot.debts).items()
            if number >= graph.source_count and tick > self._built[number]
        }
        self._forced = {number for number in self._numbers(forced) if number >= graph.source_count}
        self._asked |= self._forced
        self._only = None if only is None else self._numbers(only)
        gone = self._numbers(missing_relations)
        self._missing = {number for number in gone if self._built[number]}
        self._untested = self._find_untested(gone | self._forced)
        self._not_built = self._numbers(not_built)
        # These build whatever their policy says.
        self._free = self._differs | self._missing | self._asked
        self._pass_views = graph.views if views == "pass_through" else frozenset()
        self._unloaded = {
            number
            for number in self._numbers(producing_sources(lineage, snapshot))
            if number < graph.source_count and number not in self._loaded
        }
        self._absent = self._find_absent()
        self._retry_at = self._find_failing()
        self._blocked = self._find_blocked(self._numbers(failed))
        self._paused = self._find_paused()
        self._obstructed = self._find_obstructed()
        self._waiting: set[int] = set()
        self._left_out: set[int] = set()
        self._unselected: set[int] = set()
        self._pulled: set[int] = set()
        self._planned: list[int] = []
        # Those in the plan that are only tested: their reach is the tick of the run that built them.
        self._tested: set[int] = set()
        self._pending: dict[int, datetime | None] = {}
        self._loading: set[int] = set()
        self._awaiting: frozenset[int] = frozenset()
        self._patience = timedelta(0)
        self._timed = graph.above_a_lag
        self._running: dict[int, datetime | None] = dict.fromkeys(self._numbers(running))
        for number, launch in self._by_number(snapshot.launches).items():
            self._running[number] = next_look(launch.launched_at, self._now)

    def wait_for(self, loading: Collection[str], patience: timedelta) -> None:
        """Let what is below these sources wait for their loads."""
        if patience > timedelta(0):
            self._loading = {each for each in self._numbers(loading) if each < self._graph.source_count}
            self._patience = patience
            self._awaiting = nodes_below(self._graph, self._loading)
            self._timed = timed_nodes(self._graph, self._awaiting)

    # What the ledger knows --------------------------------------------------------------------------------

    def _numbers(self, unique_ids: Collection[str]) -> set[int]:
        find = self._graph.index.get
        return {number for each in unique_ids if (number := find(each)) is not None}

    def _by_number(self, values: Mapping[str, _Value]) -> dict[int, _Value]:
        find = self._graph.index.get
        return {number: value for each, value in values.items() if (number := find(each)) is not None}

    def _read_sources(self) -> None:
        for number, tick in self._by_number(self._snapshot.sources).items():
            if number < self._graph.source_count:
                self._changed[number] = tick

    def _read_facts(self, rebuild_changed_code: bool) -> None:
        find, checksums, start = self._graph.index.get, self._graph.checksums, self._graph.source_count
        built, changed, differs = self._built, self._changed, self._differs
        facts = self._snapshot.nodes
        knows_identities = any(fact.identity for fact in facts.values())
        # Of all nodes at once: a ledger of now has one for each.
        identities = self._lineage.digests if rebuild_changed_code and knows_identities else {}
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
                self._some_unchanged = True
            if identity is not None:
                if rebuild_changed_code and identity != identities[unique_id]:
                    differs.add(number)
            # A row of before identities were kept. The checksum of a file is a part of its identity.
            elif (of_file := fact[2]) != checksums[number] and of_file and checksums[number] and rebuild_changed_code:
                differs.add(number)

    def _find_untested(self, gone: Collection[int]) -> dict[int, int]:
        """The nodes that were built, as they are defined now, and whose tests did not pass: the tick of that build."""
        found: dict[int, int] = {}
        for number, last in self._by_number(self._snapshot.untested).items():
            unique_id = self._graph.ids[number]
            if (
                number not in gone
                and last.tick > self._built[number]
                and self._snapshot.debts.get(unique_id, 0) <= last.tick
                and last.identity == self._lineage.identity(unique_id)
            ):
                found[number] = last.tick
        return found

    def _find_absent(self) -> frozenset[int]:
        """The nodes that are not there for what reads them. What dbt will not build is made elsewhere."""
        built, start = self._built, self._graph.source_count
        never = {number for number in range(start, len(built)) if not built[number]} if 0 in built[start:] else set()
        return frozenset((never | self._missing) - self._not_built)

    # What holds a node whatever else is in the plan --------------------------------------------------------

    def _find_failing(self) -> dict[int, datetime]:
        """The nodes that failed in their last builds and are not tried again yet: when they are."""
        found: dict[int, datetime] = {}
        for number, failure in self._by_number(self._snapshot.failures).items():
            until = min(failure.last_at, self._now) + wait_after(failure.count)
            if until > self._now and number not in self._not_built and not self._is_worth_a_try(number, failure):
                found[number] = until
        return found

    def _is_worth_a_try(self, number: int, failure: Failure) -> bool:
        """Whether anything but its data changed since it failed, or someone asked for it."""
        unique_id = self._graph.ids[number]
        if self._snapshot.debts.get(unique_id, 0) > failure.tick:
            return True
        return failure.identity is not None and failure.identity != failure_digest(self._lineage, unique_id)

    def _find_blocked(self, failed: set[int]) -> dict[int, Literal["failed", "failing"]]:
        """The nodes that failed and all below them; of two ways to be it, ``failed``."""
        blocked: dict[int, Literal["failed", "failing"]] = {}
        if not failed and not self._retry_at:
            return blocked
        for number in range(self._graph.source_count, len(self._graph.ids)):
            if number in self._not_built:
                continue
            above = {blocked.get(parent) for parent in self._graph.parents[number]}
            if number in failed or "failed" in above:
                blocked[number] = "failed"
            elif number in self._retry_at or "failing" in above:
                blocked[number] = "failing"
        return blocked

    def _find_paused(self) -> set[int]:
        """The nodes that are paused, and all below them."""
        start, everything = self._graph.source_count, EVERYTHING in self._pauses
        own = self._numbers(self._pauses)
        paused: set[int] = set()
        if everything or any(number >= start for number in own):
            for number in range(start, len(self._graph.ids)):
                if number not in self._not_built and (
                    everything or number in own or not paused.isdisjoint(self._graph.parents[number])
                ):
                    paused.add(number)
        return paused

    def _find_obstructed(self) -> set[int]:
        """The nodes that cannot be built yet for want of what they read.

        Above them, up to what exists, is a source to be loaded first or a node whose policy cannot be read.
        """
        absent, bad_configs, unloaded = self._absent, self._graph.bad_configs, self._unloaded
        found: set[int] = set()
        if not unloaded and absent.isdisjoint(bad_configs):
            return found
        for number in range(self._graph.source_count, len(self._graph.ids)):
            for parent in self._graph.parents[number]:
                if parent in unloaded or (parent in absent and (parent in found or parent in bad_configs)):
                    found.add(number)
                    break
        return found

    def _obstacles(self, number: int) -> tuple[set[int], set[int]]:
        """Return the sources and the nodes for which an obstructed node waits."""
        sources: set[int] = set()
        nodes: set[int] = set()
        seen = {number}
        stack = [number] if number in self._obstructed else []
        while stack:
            parents = self._graph.parents[stack.pop()]
            sources |= self._unloaded.intersection(parents)
            above = self._absent.intersection(parents)
            nodes |= above & self._graph.bad_configs.keys()
            stack += above & self._obstructed - seen
            seen |= above
        return sources, nodes

    # The pass ---------------------------------------------------------------------------------------------

    def plan(self) -> BuildPlan:
        graph, reach, built, parents = self._graph, self._reach, self._built, self._graph.parents
        free, absent = self._free, self._absent
        careful = bool(graph.policies or graph.bad_configs or self._obstructed or self._blocked or self._not_built)
        careful |= self._only is not None or bool(self._paused)
        careful |= bool(self._awaiting)
        timed, planned, in_plan, is_plain = self._timed, self._planned, IN_PLAN, not absent and not self._untested
        # Parents come first, so each asks parents that know their answer: no deep recursion.
        for number in range(graph.source_count, len(graph.ids)):
            tick = built[number]
            for parent in parents[number]:
                # One fresh parent settles it; which others are fresh too is asked later, if at all.
                if reach[parent] > tick:
                    break
            else:
                if number not in free:
                    if number in timed and number in absent:
                        self._pending_since(number)
                    continue
            if careful and number in timed:
                self._pending_since(number)
            if careful and not self._may_build(number):
                continue
            if is_plain:
                reach[number] = in_plan
                planned.append(number)
            else:
                self._put_in(number)
        if self._pulled:
            self._grow()
            planned.sort()
        return self._found()

    def _put_in(self, number: int) -> list[int]:
        """Put a node into the plan, and what it needs and is not there; returns what is in it now and was not."""
        reach, absent = self._reach, self._absent
        added: list[int] = []
        stack = [number]
        while stack:
            each = stack.pop()
            if self._is_planned(each):
                continue
            reach[each] = IN_PLAN
            added.append(each)
            stack.extend(parent for parent in self._graph.parents[each] if parent in absent)
        self._planned += added
        self._pulled.update(added[1:])
        for each in sorted(added) if self._untested else ():
            if self._is_good_but_for_tests(each):
                self._tested.add(each)
                reach[each] = self._untested[each]
        return added

    def _is_planned(self, number: int) -> bool:
        return self._reach[number] == IN_PLAN or number in self._tested

    def _is_good_but_for_tests(self, number: int) -> bool:
        """Whether nothing is new for a node since the build whose tests did not pass.

        When they pass it is recorded at the tick of that build, and so it is new for what was built before it alone.
        """
        tick = self._untested.get(number)
        return tick is not None and all(self._reach[parent] <= tick for parent in self._graph.parents[number])

    def _grow(self) -> None:
        """Put in what is stale because of what was pulled in: that is not always below what the pass saw last."""
        todo = list(self._made_stale(self._pulled))
        heapify(todo)
        while todo:
            number = heappop(todo)
            added: list[int] = []
            if number in self._tested:
                if not self._is_good_but_for_tests(number):
                    self._tested.remove(number)
                    self._reach[number] = IN_PLAN
                    added = [number]
            elif self._reach[number] != IN_PLAN and self._may_build(number):
                added = self._put_in(number)
            for child in self._made_stale(added):
                heappush(todo, child)
            if not todo:
                # What is in the plan now may have waited longer than what was: what waits may be due.
                self._ask_again()
                ready = (each for each in sorted(self._waiting) if not self._is_planned(each))
                todo = [each for each in ready if self._may_build(each)]

    def _made_stale(self, added: Collection[int]) -> set[int]:
        """The nodes that were built before what some in the plan bring them."""
        reach, built = self._reach, self._built
        return {child for number in added for child in self._graph.children[number] if reach[number] > built[child]}

    def _ask_again(self) -> None:
        """Find again since when data waits, of all that is in the plan now."""
        self._pending.clear()
        for number in sorted(self._timed):
            if number >= self._graph.source_count and (self._is_planned(number) or number in self._absent):
                self._pending_since(number)

    def _may_build(self, number: int) -> bool:
        """Whether nothing holds a stale node; what is held is remembered."""
        if self._only is not None and number not in self._only:
            self._unselected.add(number)
            if number in self._absent and number not in self._blocked:
                # It comes if a selected one needs it, which is then newer for that.
                self._reach[number] = self._untested[number] if self._is_good_but_for_tests(number) else _ON_CALL
            return False
        if number in self._not_built:
            self._left_out.add(number)
            return False
        if number in self._forced:
            return True
        if number in self._blocked:
            return False
        if (
            number in self._paused
            or number in self._obstructed
            or number in self._graph.bad_configs
            or self._held_by_policy(number) is not None
        ):
            self._waiting.add(number)
            return False
        return True

    # What came out ----------------------------------------------------------------------------------------

    def _found(self) -> BuildPlan:
        graph, planned = self._graph, self._planned
        ids, reach = graph.ids, self._reach
        waiting = {each for each in self._waiting | self._blocked.keys() if not self._is_planned(each)}
        held_numbers = sorted(waiting if self._only is None else waiting & self._only)
        end = graph.node_end
        held = {ids[number]: self._held(number) for number in held_numbers if number < end}
        follow_held = {ids[number]: self._held(number) for number in held_numbers if number >= end}
        times = [each.until for each in (*held.values(), *follow_held.values()) if each.until is not None]
        times += self._ends_of_pauses()
        changed = self._changed
        if self._tested:
            changed = [reach[number] if number in self._tested else tick for number, tick in enumerate(changed)]
        now: list[int] = planned
        perhaps: list[int] = []
        maybe_same: frozenset[int] = frozenset()
        if self._compares:
            now, perhaps, maybe_same = first_stage(
                graph,
                planned,
                tested=self._tested,
                built=self._built,
                changed=changed,
                due_by_itself=self._free | self._pulled,
                may_be_same=self._may_be_same,
            )
        follow = [number for number in now if number >= end]
        if follow:
            now = [number for number in now if number < end]
        tested = [number for number in now if number in self._tested] if self._tested else []
        passed = self._passed_through(now, changed) if self._pass_views else []
        build = sorted(set(now) - set(passed) - set(tested)) if passed or tested else now
        models, extents = self._extents()
        later: frozenset[int] = frozenset()
        window: Window | None = None
        if self._batches_given:
            extents = {number: extent | OPEN for number, extent in extents.items()}
        elif extents:
            to_build = {number: models[number] for number in models.keys() & set(build)}
            later, window = first_call(graph, [*now, *follow], to_build, extents, self._now)
            now, build, passed, tested, follow = (
                [number for number in numbers if number not in later]
                for numbers in (now, build, passed, tested, follow)
            )
            perhaps = sorted({*perhaps, *later})
            maybe_same -= later
        world = PlannedGraph(
            graph,
            self._built,
            self._changed,
            reach,
            self._absent,
            self._differs,
            self._missing,
            self._asked,
            self._pulled,
            self._tested,
        )
        return BuildPlan(
            build=tuple(map(ids.__getitem__, build)),
            perhaps=tuple(map(ids.__getitem__, perhaps)),
            held=held,
            because=Because(world, now),
            reasons=Reasons(world, sorted({*planned, *held_numbers}) if held_numbers else planned),
            next_due=min(times, default=None),
            passed_through=tuple(map(ids.__getitem__, passed)),
            not_built=tuple(ids[number] for number in sorted(self._left_out)),
            tests_only=tuple(map(ids.__getitem__, tested)),
            failures={
                ids[number]: each
                for number, each in sorted(self._by_number(self._snapshot.failures).items())
                if number < end
            },
            compared=self._compared(build) if self._compares else {},
            maybe_same=frozenset(map(ids.__getitem__, maybe_same)),
            notes=(
                *(graph.bad_cutoffs.values() if self._cutoff != "off" else ()),
                *(each.error for each in graph.followers if each.error is not None),
            ),
            follow=tuple(map(ids.__getitem__, follow)),
            follow_held=follow_held,
            followers={each.unique_id: each for each in graph.followers},
            later=frozenset(map(ids.__getitem__, later)),
            extents={ids[number]: extent for number, extent in extents.items()},
            window=window,
            batches={
                ids[number]: Extent(due, extent.is_open)
                for number, extent in extents.items()
                if number in models and (due := due_window(models[number], extent)) is not None
            },
            _lineage=self._lineage,
            pauses={name: each for name, each in self._pauses.items() if name == EVERYTHING or name in graph.index},
            _absent=frozenset(map(ids.__getitem__, self._absent | self._unloaded)),
            _left=frozenset() if self._only is None else frozenset(map(ids.__getitem__, self._left())),
        )

    def _extents(self) -> tuple[Mapping[int, Microbatch], Mapping[int, Extent]]:
        """The microbatch models, and in which event times there is something new for what is planned; or nothing."""
        snapshot = self._snapshot
        if not snapshot.extents and not snapshot.debt_extents:
            return {}, {}
        models = microbatch_models(self._lineage)
        return models, planned_extents(
            self._graph,
            snapshot,
            self._planned,
            models.keys() | take_windows(self._graph),
            built=self._built,
            changed=self._changed,
            reach=self._reach,
            due_by_itself=self._differs | self._missing | self._forced | self._pulled,
            asked=self._asked - self._forced,
        )

    def _left(self) -> set[int]:
        """The nodes that are not selected, and are made of older data than what is built now."""
        old = set(self._unselected)
        stack = [*self._planned, *old]
        while stack:
            for child in self._graph.children[stack.pop()]:
                if child not in old:
                    old.add(child)
                    stack.append(child)
        return {number for number in old if not self._is_planned(number)}

    def _seconds(self, number: int) -> float:
        fact = self._snapshot.nodes.get(self._graph.ids[number])
        return (fact.seconds if fact is not None else None) or 0.0

    @property
    def _compares(self) -> bool:
        """Whether the content of any node is compared."""
        return self._cutoff == "auto" or (self._cutoff == "marked" and bool(self._graph.marked))

    def _compared(self, build: Sequence[int]) -> dict[str, tuple[str, ...]]:
        ids, marked = self._graph.ids, self._graph.marked
        if self._cutoff == "marked":
            return {ids[number]: marked[number] for number in build if number in marked}
        found = ((number, ignored_columns(self._graph, number, self._cutoff, self._seconds)) for number in build)
        return {ids[number]: ignored for number, ignored in found if ignored is not None}

    def _may_be_same(self, number: int) -> bool:
        """Whether a planned node may come out as it was; any doubt, such as another identity, is a change."""
        if ignored_columns(self._graph, number, self._cutoff, self._seconds) is None:
            return False
        unique_id = self._graph.ids[number]
        fact = self._snapshot.nodes.get(unique_id)
        if fact is None or fact.content is None or number in self._free:
            return False
        return fact.identity == self._lineage.identity(unique_id)

    def _passed_through(self, planned: Sequence[int], changed: Sequence[int]) -> list[int]:
        """The views in the plan that need no build: they exist, and above them is only new data.

        A warehouse may keep the columns that a view had when it was made. So a view is built when a definition above
        it changed, also by a way of which nothing is known: a parent that was built since, and the view was not.
        """
        built = self._built
        reshaped: set[int] = set()
        passed: list[int] = []
        for number in planned:
            if number in self._tested:
                continue
            if (
                number in self._free
                or not built[number]
                or any(
                    parent in reshaped or (parent >= self._graph.source_count and changed[parent] > built[number])
                    for parent in self._graph.parents[number]
                )
            ):
                reshaped.add(number)
            elif number in self._pass_views:
                passed.append(number)
        return passed

    def _held(self, number: int) -> Held:
        parents = self._graph.parents[number]
        blocked = self._blocked.get(number)
        above = [parent for parent in parents if parent in self._blocked and self._blocked[parent] == blocked]
        if blocked == "failed" or above:
            assert blocked is not None
            return Held(blocked, self._names(above))
        if number in self._paused:
            return self._held_by_pause(number)
        sources, nodes = self._obstacles(number)
        if sources:
            return Held("first_load", self._names(sources))
        if (wrong := self._graph.bad_configs.get(number)) is not None:
            return Held("bad_config", detail=wrong)
        if nodes:
            return Held("bad_config", self._names(nodes), detail=self._graph.bad_configs[min(nodes)])
        found = self._held_by_policy(number)
        assert found is not None
        return found

    def _held_by_pause(self, number: int) -> Held:
        own = self._pauses.get(self._graph.ids[number]) or self._pauses.get(EVERYTHING)
        if own is not None:
            return Held("paused", until=own.until, detail=own.reason)
        above: set[int] = set()
        seen: set[int] = set()
        stack = [number]
        while stack:
            for parent in self._paused.intersection(self._graph.parents[stack.pop()]) - seen:
                seen.add(parent)
                if self._graph.ids[parent] in self._pauses:
                    above.add(parent)
                else:
                    stack.append(parent)
        ends = [self._pauses[self._graph.ids[each]].until or _NEVER for each in above]
        return Held("paused", self._names(above), None if (end := max(ends)) == _NEVER else end)

    def _ends_of_pauses(self) -> list[datetime]:
        """When the pauses end of sources that were loaded since something that reads them was built."""
        return [
            until
            for number, tick in self._set_aside.items()
            if (until := self._pauses[self._graph.ids[number]].until) is not None
            and any(self._built[child] < tick for child in self._graph.children[number])
        ]

    def _held_by_policy(self, number: int) -> Held | None:
        """Why its policy or a failure of its own holds a node: the latest of all times."""
        if number in self._running:
            return Held("running", until=self._running[number])
        tick = self._built[number]
        held: list[Held] = []
        policy = self._graph.policies.get(number)
        # A view that new data passes through is built only for what no policy holds.
        is_ruled = number not in self._free and not (tick and number in self._pass_views)
        if is_ruled and number in self._awaiting and (since := self._pending_since(number)) is not None:
            loads = self._names(self._graph.sources_above(number) & self._loading)
            held.append(Held("load_running", loads, until=_after(since, self._patience)))
        if policy is not None and is_ruled:
            if policy.updates_on == "all" and (old := self._old_parents(number)):
                return Held("updates_on_all", self._names(old))
            if policy.build_after is not None and tick:
                built_at = self._snapshot.nodes[self._graph.ids[number]].built_at
                held.append(Held("build_after", until=_after(min(built_at, self._now), policy.build_after)))
            if policy.lag_tolerance is not None and (since := self._pending_since(number)) is not None:
                held.append(Held("lag_tolerance", until=_after(since, policy.lag_tolerance)))
        if number in self._retry_at:
            message = self._snapshot.failures[self._graph.ids[number]].message
            held.append(Held("failing", until=self._retry_at[number], detail=message))
        latest = max(held, key=_until_of, default=None)
        return latest if latest is not None and _until_of(latest) > self._now else None

    def _old_parents(self, number: int) -> list[int]:
        """The parents that move and have nothing new; what is not there is new when it is built first.

        A parent that took in a load, and came out as it was, is as new as it can be.
        """
        tick = self._built[number]
        return [
            parent
            for parent in self._graph.parents[number]
            if self._reach[parent] <= tick
            and self._settled[parent] <= tick
            and parent in self._moving
            and parent not in self._absent
        ]

    @cached_property
    def _settled(self) -> Sequence[int]:
        """The tick up to which each node has taken in what came; of a source, its newest update.

        Later than its last build, where what it reads was built since and came out as it was.
        """
        if not self._some_unchanged:
            return self._changed
        settled = [max(pair) for pair in zip(self._built, self._changed, strict=True)]
        for number in range(self._graph.source_count, len(settled)):
            tick, parents = self._built[number], self._graph.parents[number]
            if tick and number not in self._free and all(self._changed[parent] <= tick for parent in parents):
                settled[number] = max((tick, *(settled[parent] for parent in parents)))
        return settled

    @cached_property
    def _moving(self) -> set[int]:
        """The sources with a producer, or an update that was no baseline, and the nodes that get news from them."""
        graph = self._graph
        baselines = self._numbers(self._snapshot.baselines)
        moving = {number for number in self._loaded if number not in baselines} | self._numbers(
            producing_sources(self._lineage, self._snapshot)
        )
        for number in range(graph.source_count, len(graph.ids)):
            if number not in self._not_built and not moving.isdisjoint(graph.parents[number]):
                moving.add(number)
        return moving

    def _pending_since(self, number: int) -> datetime | None:
        """When data for a node began to wait, at most now; None if the ledger no longer keeps a time that old."""
        if number in self._pending:
            return self._pending[number]
        graph, tick = self._graph, self._built[number]
        times: list[datetime] = []
        for parent in graph.parents[number]:
            comes_now = tick < self._reach[parent] != self._changed[parent] or parent in self._absent
            if not comes_now and self._changed[parent] <= tick:
                continue
            history = self._snapshot.source_history if parent < graph.source_count else self._snapshot.node_history
            first = _first_above(history.get(graph.ids[parent], ()), tick)
            if first is not None:
                times.append(first)
            if comes_now:
                # Built for another reason than new data, a parent has no time of its own: it is new as of now.
                times.append(self._pending_since(parent) or self._now)
            if parent in self._tested and self._reach[parent] > tick:
                times.append(self._snapshot.untested[graph.ids[parent]].built_at)
        found = min(times, default=None)
        self._pending[number] = found = None if found is None else min(found, self._now)
        return found

    def _names(self, numbers: Collection[int]) -> tuple[str, ...]:
        return tuple(self._graph.ids[number] for number in sorted(numbers))


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
