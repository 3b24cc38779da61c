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

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import Literal

from lineage_orch.ledger import Extent, LedgerSnapshot
from lineage_orch.ledger.snapshot import EVERYTHING, OPEN
from lineage_orch.lineage import Lineage, Microbatch
from lineage_orch.lineage.followers import Follower
from lineage_orch.plan.build_plan import BuildPlan
from lineage_orch.plan.cutoff import CutoffMode, first_stage, ignored_columns
from lineage_orch.plan.graph import plan_graph
from lineage_orch.plan.holds import Holds
from lineage_orch.plan.known import Known
from lineage_orch.plan.reasons import IN_PLAN, Because, PlannedGraph, Reasons
from lineage_orch.plan.windows import due_window, first_call, microbatch_models, planned_extents, take_windows
from lineage_orch.updates import Window

Views = Literal["build", "pass_through"]

_ON_CALL = IN_PLAN - 1


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
    graph, now = plan_graph(lineage, tuple(followers)), now.astimezone(UTC)
    known = Known(
        lineage, graph, snapshot, now, rebuild_changed_code, missing_relations, not_built, failed, forced, running
    )
    world = PlannedGraph(known, list(known.changed))
    pass_views = graph.views if views == "pass_through" else frozenset()
    holds = Holds(world, pass_views, loading, patience)
    return _Planner(world, holds, pass_views, only, cutoff, batches_given).plan()


class _Planner:
    """The pass over the graph that puts nodes into the plan, and what comes out.

    What is only tested has the tick of the run that built it as its reach.
    """

    def __init__(
        self,
        world: PlannedGraph,
        holds: Holds,
        pass_views: Collection[int],
        only: Collection[str] | None,
        cutoff: CutoffMode,
        batches_given: bool,
    ) -> None:
        self._world, self._known, self._graph = world, world.known, world.known.graph
        self._holds = holds
        self._pass_views = pass_views
        self._only = None if only is None else self._known.numbers(only)
        self._cutoff: CutoffMode = cutoff
        self._batches_given = batches_given
        self._waiting: set[int] = set()
        self._left_out: set[int] = set()
        self._unselected: set[int] = set()
        self._planned: list[int] = []

    def plan(self) -> BuildPlan:
        graph, known, holds, reach = self._graph, self._known, self._holds, self._world.reach
        built, parents, free, absent = known.built, graph.parents, known.free, known.absent
        obstacles = graph.bad_configs, known.obstructed, known.blocked, known.not_built, known.paused
        careful = self._only is not None or any((graph.policies, holds.awaiting, *obstacles))
        timed, planned, in_plan, is_plain = holds.timed, self._planned, IN_PLAN, not absent and not known.untested
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
                        holds.pending_since(number)
                    continue
            if careful and number in timed:
                holds.pending_since(number)
            if careful and not self._may_build(number):
                continue
            if is_plain:
                reach[number] = in_plan
                planned.append(number)
            else:
                self._put_in(number)
        if self._world.pulled:
            self._grow()
            planned.sort()
        return self._found()

    def _put_in(self, number: int) -> list[int]:
        """Put a node into the plan, and what it needs and is not there; returns what is in it now and was not."""
        reach, absent = self._world.reach, self._known.absent
        added: list[int] = []
        stack = [number]
        while stack:
            each = stack.pop()
            if self._world.is_planned(each):
                continue
            reach[each] = IN_PLAN
            added.append(each)
            stack.extend(parent for parent in self._graph.parents[each] if parent in absent)
        self._planned += added
        self._world.pulled.update(added[1:])
        for each in sorted(added) if self._known.untested else ():
            if self._is_good_but_for_tests(each):
                self._world.tested.add(each)
                reach[each] = self._known.untested[each]
        return added

    def _is_good_but_for_tests(self, number: int) -> bool:
        """Whether nothing is new for a node since the build whose tests did not pass.

        When they pass it is recorded at the tick of that build, and so it is new for what was built before it alone.
        """
        tick = self._known.untested.get(number)
        return tick is not None and all(self._world.reach[parent] <= tick for parent in self._graph.parents[number])

    def _grow(self) -> None:
        """Put in what is stale because of what was pulled in: that is not always below what the pass saw last."""
        todo = list(self._made_stale(self._world.pulled))
        heapify(todo)
        while todo:
            number = heappop(todo)
            added: list[int] = []
            if number in self._world.tested:
                if not self._is_good_but_for_tests(number):
                    self._world.tested.remove(number)
                    self._world.reach[number] = IN_PLAN
                    added = [number]
            elif self._world.reach[number] != IN_PLAN and self._may_build(number):
                added = self._put_in(number)
            for child in self._made_stale(added):
                heappush(todo, child)
            if not todo:
                # What is in the plan now may have waited longer than what was: what waits may be due.
                self._holds.ask_again()
                ready = (each for each in sorted(self._waiting) if not self._world.is_planned(each))
                todo = [each for each in ready if self._may_build(each)]

    def _made_stale(self, added: Collection[int]) -> set[int]:
        """The nodes that were built before what some in the plan bring them."""
        reach, built = self._world.reach, self._known.built
        return {child for number in added for child in self._graph.children[number] if reach[number] > built[child]}

    def _may_build(self, number: int) -> bool:
        """Whether nothing holds a stale node; what is held is remembered."""
        known = self._known
        if self._only is not None and number not in self._only:
            self._unselected.add(number)
            if number in known.absent and number not in known.blocked:
                # It comes if a selected one needs it, which is then newer for that.
                self._world.reach[number] = known.untested[number] if self._is_good_but_for_tests(number) else _ON_CALL
            return False
        if number in known.not_built:
            self._left_out.add(number)
            return False
        if number in known.forced:
            return True
        if number in known.blocked:
            return False
        if (
            number in known.paused
            or number in known.obstructed
            or number in self._graph.bad_configs
            or self._holds.by_policy(number) is not None
        ):
            self._waiting.add(number)
            return False
        return True

    # What came out ---------------------------------------------------------------------------------------

    def _found(self) -> BuildPlan:
        graph, known, world, planned = self._graph, self._known, self._world, self._planned
        ids, reach = graph.ids, world.reach
        waiting = {each for each in self._waiting | known.blocked.keys() if not world.is_planned(each)}
        held_numbers = sorted(waiting if self._only is None else waiting & self._only)
        end = graph.node_end
        held = {ids[number]: self._holds.held(number) for number in held_numbers if number < end}
        follow_held = {ids[number]: self._holds.held(number) for number in held_numbers if number >= end}
        times = [each.until for each in (*held.values(), *follow_held.values()) if each.until is not None]
        times += self._holds.ends_of_pauses()
        changed = known.changed
        if world.tested:
            changed = [reach[number] if number in world.tested else tick for number, tick in enumerate(changed)]
        now: list[int] = planned
        perhaps: list[int] = []
        maybe_same: frozenset[int] = frozenset()
        if self._compares:
            now, perhaps, maybe_same = first_stage(
                world, planned, changed=changed, due_by_itself=known.free | world.pulled, may_be_same=self._may_be_same
            )
        follow = [number for number in now if number >= end]
        if follow:
            now = [number for number in now if number < end]
        tested = [number for number in now if number in world.tested] if world.tested else []
        passed = self._passed_through(now, changed) if self._pass_views else []
        build = sorted(set(now) - set(passed) - set(tested)) if passed or tested else now
        models, extents = self._extents()
        later: frozenset[int] = frozenset()
        window: Window | None = None
        if self._batches_given:
            extents = {number: extent | OPEN for number, extent in extents.items()}
        elif extents:
            to_build = {number: models[number] for number in models.keys() & set(build)}
            later, window = first_call(graph, [*now, *follow], to_build, extents, known.now)
            now, build, passed, tested, follow = (
                [number for number in numbers if number not in later]
                for numbers in (now, build, passed, tested, follow)
            )
            perhaps = sorted({*perhaps, *later})
            maybe_same -= later
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
                for number, each in sorted(known.by_number(known.snapshot.failures).items())
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
            _lineage=known.lineage,
            pauses={name: each for name, each in known.pauses.items() if name == EVERYTHING or name in graph.index},
            _absent=frozenset(map(ids.__getitem__, known.absent | known.unloaded)),
            _left=frozenset() if self._only is None else frozenset(map(ids.__getitem__, self._left())),
        )

    def _extents(self) -> tuple[Mapping[int, Microbatch], Mapping[int, Extent]]:
        """The microbatch models, and in which event times there is something new for what is planned; or nothing."""
        snapshot = self._known.snapshot
        if not snapshot.extents and not snapshot.debt_extents:
            return {}, {}
        models = microbatch_models(self._known.lineage)
        return models, planned_extents(
            self._graph,
            snapshot,
            self._planned,
            models.keys() | take_windows(self._graph),
            built=self._known.built,
            changed=self._known.changed,
            reach=self._world.reach,
            due_by_itself=self._known.differs | self._known.missing | self._known.forced | self._world.pulled,
            asked=self._known.asked - self._known.forced,
        )

    def _left(self) -> set[int]:
        """The nodes that are not selected, and are made of older data than what is built now."""
        old = self._graph.and_below({*self._planned, *self._unselected})
        return {number for number in old if not self._world.is_planned(number)}

    def _seconds(self, number: int) -> float:
        fact = self._known.snapshot.nodes.get(self._graph.ids[number])
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
        fact = self._known.snapshot.nodes.get(unique_id)
        if fact is None or fact.content is None or number in self._known.free:
            return False
        return fact.identity == self._known.lineage.identity(unique_id)

    def _passed_through(self, planned: Sequence[int], changed: Sequence[int]) -> list[int]:
        """The views in the plan that need no build: they exist, and above them is only new data.

        A warehouse may keep the columns that a view had when it was made. So a view is built when a definition above
        it changed, also by a way of which nothing is known: a parent that was built since, and the view was not.
        """
        built = self._known.built
        reshaped: set[int] = set()
        passed: list[int] = []
        for number in planned:
            if number in self._world.tested:
                continue
            if (
                number in self._known.free
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
