"""Finds why one node will build, is held or is up to date, and what would make it build."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from lineage_orch.errors import UnknownNodeError, did_you_mean
from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.ledger.snapshot import EVERYTHING
from lineage_orch.lineage import Lineage, changed_parts
from lineage_orch.lineage.policy import DEFAULT_POLICY, Policy
from lineage_orch.plan import BuildPlan, Held, plan_graph, producing_sources
from lineage_orch.reports.explanation import (
    BuildsWhen,
    BuiltBy,
    Explanation,
    ParentState,
    ParentView,
    PartChange,
    SourceState,
    SourceView,
    Verdict,
)
from lineage_orch.reports.status import loaded_at, short_names

StoredParts = Callable[[str], Mapping[str, str] | None]


def explain(
    lineage: Lineage,
    snapshot: LedgerSnapshot,
    plan: BuildPlan,
    node_id: str,
    *,
    stored_parts: StoredParts = lambda _: None,
    short: Mapping[str, str] | None = None,
    built_by: Mapping[str, BuiltBy] | None = None,
) -> Explanation:
    """Say why a node will build, is held or is up to date.

    Args:
        snapshot: the ledger, with its history: the times of loads are read from there.
        node_id: the unique_id of a model, snapshot or seed.
        stored_parts: returns the parts of a node's identity as of its last good build (``Ledger.identity_parts``),
            or None; asked only for nodes whose identity changed.
        short: what people call each source and node, where that is known already.

    Raises:
        UnknownNodeError: no such node in the lineage.
    """
    if node_id not in lineage.nodes:
        raise UnknownNodeError(f"no node {node_id!r} in {lineage.where}{did_you_mean(node_id, lineage.nodes)}")
    found = _Explainer(lineage, snapshot, plan, node_id, stored_parts, short).explain()
    if not built_by:
        return found
    return replace(
        found,
        built_by={each.unique_id: built_by[each.unique_id] for each in found.sources if each.unique_id in built_by},
    )


@dataclass(eq=False)
class _Explainer:
    """Looks at one node and at all that is above it."""

    _lineage: Lineage
    _snapshot: LedgerSnapshot
    _plan: BuildPlan
    _node: str
    _stored_parts: StoredParts
    _short: Mapping[str, str] | None

    def __post_init__(self) -> None:
        plan = self._plan
        self._graph = plan_graph(self._lineage)
        self._due = frozenset((*plan.build, *plan.later, *plan.tests_only, *plan.passed_through))
        self._planned = self._due | frozenset(plan.perhaps)
        self._above = self._with_ancestors(self._node) - {self._node}

    def explain(self) -> Explanation:
        node, plan, graph, snapshot = self._node, self._plan, self._graph, self._snapshot
        fact, failure = snapshot.nodes.get(node), snapshot.failures.get(node)
        held = plan.held.get(node)
        verdict = self._verdict(held)
        policy = graph.policies.get(graph.index[node], DEFAULT_POLICY)
        held_above = self._held_above() if verdict == "up_to_date" else {}
        parents = tuple(map(self._parent, sorted(self._parents(node))))
        unchanged_above = self._unchanged_above() if verdict == "up_to_date" else ()
        sources = self._sources(verdict, held, held_above, bool(unchanged_above))
        changed_above = self._changed_above() if node in self._due else ()
        code_changed = self._is_changed(node)
        reasons = plan.reasons.get(node, ())
        mentioned = {node, *self._above, *(each for source in sources for each in source.path)}
        mentioned.update(subject for reason in reasons for subject in reason.subjects)
        short = self._short or short_names(self._lineage)
        debt = snapshot.debts.get(node, 0)
        return Explanation(
            node=node,
            verdict=verdict,
            tick=self._built(node),
            built_at=fact.built_at if fact else None,
            clock=snapshot.tick,
            reasons=reasons,
            code_changed=code_changed,
            changes=self._changes([*([node] if code_changed else []), *changed_above]),
            held=held,
            failures=failure.count if failure else 0,
            failure=failure,
            untested=snapshot.untested.get(node),
            asked_at=debt if debt > self._built(node) else 0,
            policy=policy,
            parents=parents,
            sources=sources,
            changed_above=changed_above,
            held_above=held_above,
            unchanged_above=unchanged_above,
            batches=plan.batches.get(node),
            builds_when=self._when(verdict, held, policy, parents, held_above),
            pauses={
                name: each
                for name, each in plan.pauses.items()
                if name in (node, EVERYTHING) or (name in self._above and name in self._lineage.sources)
            },
            ticks={each: self._built(each) or self._changed(each) for each in mentioned if each in graph.index},
            names={each: short.get(each) or each.split(".", 2)[-1] for each in mentioned},
        )

    def _verdict(self, held: Held | None) -> Verdict:
        if self._node in self._plan.passed_through:
            return "passed_through"
        if self._node in self._plan.tests_only:
            return "tests_only"
        if self._node in self._due:
            return "build"
        if self._node in self._planned:
            return "perhaps"
        if held is not None:
            return "held"
        return "not_built" if self._node in self._plan.not_built else "up_to_date"

    # What the plan saw ------------------------------------------------------------------------------------

    def _built(self, unique_id: str) -> int:
        fact = self._snapshot.nodes.get(unique_id)
        return fact.tick if fact else 0

    def _changed(self, unique_id: str) -> int:
        """The tick at which a source or node was new last."""
        fact = self._snapshot.nodes.get(unique_id)
        return fact.changed_tick if fact else self._snapshot.sources.get(unique_id, 0)

    def _is_changed(self, unique_id: str) -> bool:
        fact = self._snapshot.nodes.get(unique_id)
        if fact is None:
            return False
        if fact.identity is not None:
            return fact.identity != self._lineage.identity(unique_id)
        checksum = self._graph.checksums[self._graph.index[unique_id]]
        return None not in (fact.checksum, checksum) and fact.checksum != checksum

    def _changes(self, nodes: Sequence[str]) -> dict[str, tuple[PartChange, ...]]:
        found: dict[str, tuple[PartChange, ...]] = {}
        for node in nodes:
            old = self._stored_parts(node)
            if old is not None:
                new = self._lineage.identity_parts(node)
                changes = (PartChange(part, old.get(part), new.get(part)) for part in changed_parts(old, new))
                found[node] = tuple(changes)
        return found

    def _parents(self, unique_id: str) -> list[str]:
        graph = self._graph
        return [graph.ids[number] for number in graph.parents[graph.index[unique_id]]]

    def _with_ancestors(self, *starts: str) -> frozenset[str]:
        graph = self._graph
        return frozenset(graph.ids[each] for start in starts for each in graph.with_ancestors(graph.index[start]))

    @cached_property
    def _moving(self) -> frozenset[str]:
        """The sources with a producer, or an update that was no baseline."""
        snapshot = self._snapshot
        return producing_sources(self._lineage, snapshot) | (snapshot.sources.keys() - snapshot.baselines)

    def _is_moving(self, unique_id: str) -> bool:
        if unique_id in self._plan.not_built:
            return False
        return not self._moving.isdisjoint(self._with_ancestors(unique_id))

    def _parent(self, parent: str) -> ParentView:
        tick = self._changed(parent)
        state: ParentState
        if parent in self._planned:
            state = "in_plan"
        elif tick > self._built(self._node):
            state = "paused" if parent in self._plan.pauses and parent in self._lineage.sources else "fresh"
        elif parent in self._plan.held:
            state = "held"
        elif self._built(parent) > self._built(self._node) > 0:
            state = "unchanged"
        else:
            state = "not_newer" if self._is_moving(parent) else "not_moving"
        fact = self._snapshot.nodes.get(parent)
        return ParentView(parent, tick, fact.built_at if fact else loaded_at(self._snapshot, parent), state)

    def _changed_above(self) -> tuple[str, ...]:
        """The nodes with a changed definition from which there is a way to the node inside the plan."""
        found: list[str] = []
        seen = {self._node}
        stack = [self._node]
        while stack:
            for parent in self._parents(stack.pop()):
                if parent in self._due and parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
                    if parent in self._plan.changed_code:
                        found.append(parent)
        return tuple(found)

    def _held_above(self) -> dict[str, Held]:
        """The held nodes above, parents before children: what was loaded above them waits there."""
        held = sorted(self._above & self._plan.held.keys(), key=self._graph.index.__getitem__)
        return {each: self._plan.held[each] for each in held}

    def _unchanged_above(self) -> tuple[str, ...]:
        """The nodes above that were built since the node was, and came out as they were, parents before children."""
        tick = self._built(self._node)
        found = (each for each in self._above if self._built(each) > tick >= self._changed(each))
        return tuple(sorted(found, key=self._graph.index.__getitem__)) if tick else ()

    # Sources and paths ------------------------------------------------------------------------------------

    def _sources(
        self, verdict: Verdict, held: Held | None, held_above: Mapping[str, Held], unchanged: bool
    ) -> tuple[SourceView, ...]:
        sources = sorted(self._above & self._lineage.sources.keys())
        because = self._plan.because[self._node] if self._node in self._due else frozenset()
        newer = self._newer()
        awaited: set[str] = set()
        for each in (*held_above.values(), *([held] if held else [])):
            if each.reason in ("updates_on_all", "first_load"):
                awaited |= self._with_ancestors(*each.waiting_for)

        def state(source: str) -> SourceState:
            if source in because:
                return "triggering"
            if source in newer and source in self._plan.pauses:
                return "paused"
            if source in newer and verdict in ("held", "up_to_date", "perhaps"):
                return "unchanged" if unchanged and not self._waits_at(source, held_above) else "pending"
            if source in awaited:
                return "awaited"
            return "not_newer" if self._changed(source) else "never_loaded"

        paths = self._paths(sources)
        order: Sequence[SourceState] = (
            "triggering",
            "pending",
            "awaited",
            "paused",
            "unchanged",
            "not_newer",
            "never_loaded",
        )
        views = [
            SourceView(each, self._changed(each), loaded_at(self._snapshot, each), state(each), paths[each])
            for each in sources
        ]
        return tuple(sorted(views, key=lambda view: (order.index(view.state), -view.tick, view.unique_id)))

    def _waits_at(self, source: str, held: Iterable[str]) -> bool:
        """Whether a source's newest update waits at one of the held nodes."""
        return any(self._changed(source) > self._built(each) and source in self._with_ancestors(each) for each in held)

    def _newer(self) -> set[str]:
        """The sources that were loaded after the node's last good build, or after that of what takes them in."""
        sources = self._lineage.sources
        newer: set[str] = set()
        for child in (self._node, *self._above):
            if child not in sources:
                tick = self._built(child)
                newer.update(each for each in self._parents(child) if each in sources and self._changed(each) > tick)
        own = self._built(self._node)
        return newer | {each for each in self._above if each in sources and self._changed(each) > own}

    def _paths(self, sources: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the shortest path from each source, along which something new flows if there is such a path."""
        import networkx

        if not sources:
            return {}
        graph = self._lineage.graph
        above = graph.subgraph({self._node, *networkx.ancestors(graph, self._node)})
        out_of_date = self._planned | self._plan.held.keys()
        solid = self._graph.index

        def carries(parent: str, child: str) -> bool:
            if child not in out_of_date or parent not in solid or parent in out_of_date:
                return True
            return self._changed(parent) > self._built(child)

        flowing = networkx.subgraph_view(above, filter_edge=carries)
        shortest = dict(networkx.single_target_shortest_path(above, self._node))
        shortest |= dict(networkx.single_target_shortest_path(flowing, self._node))
        return {source: tuple(shortest[source]) for source in sources}

    # What would make it build -----------------------------------------------------------------------------

    def _when(
        self,
        verdict: Verdict,
        held: Held | None,
        policy: Policy,
        parents: Sequence[ParentView],
        held_above: Mapping[str, Held],
    ) -> BuildsWhen:
        if verdict in ("build", "tests_only", "passed_through"):
            return BuildsWhen("next_build")
        if verdict == "perhaps":
            above = (each for each in self._plan.build if each in self._plan.maybe_same and each in self._above)
            return BuildsWhen("upstream_changed", tuple(above))
        if verdict == "not_built":
            return BuildsWhen("built_elsewhere")
        not_before = self._not_before(policy)
        if held is not None:
            waiting_for = held.waiting_for or (self._node,)
            if held.reason == "updates_on_all":
                return BuildsWhen("all_new", held.waiting_for, not_before)
            if held.reason == "first_load":
                return BuildsWhen("first_load", held.waiting_for)
            if held.reason == "bad_config":
                return BuildsWhen("config_fixed", waiting_for)
            if held.reason == "paused" and held.until is None:
                everything = EVERYTHING in self._plan.pauses and self._node not in self._plan.pauses
                return BuildsWhen("resumed", (EVERYTHING,) if everything else waiting_for)
            if held.reason == "failed" or (held.reason == "failing" and held.until is None):
                return BuildsWhen("upstream_fixed", waiting_for)
            return BuildsWhen("time", (), held.until)
        if held_above:
            return BuildsWhen("upstream_released", tuple(held_above), not_before)
        sources = tuple(sorted(self._above & self._lineage.sources.keys()))
        if not sources:
            return BuildsWhen("code_change" if self._node in self._snapshot.nodes else "never")
        if policy.updates_on == "all":
            moving = tuple(each.unique_id for each in parents if each.state != "not_moving")
            if len(moving) > 1:
                return BuildsWhen("all_new", moving, not_before)
        return BuildsWhen("any_load", sources, not_before)

    def _not_before(self, policy: Policy) -> datetime | None:
        fact = self._snapshot.nodes.get(self._node)
        if fact is None or policy.build_after is None:
            return None
        try:
            return fact.built_at + policy.build_after
        except OverflowError:
            return None
