"""Why one node will build, is held or is up to date, and what would make it build: data first, then words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from lineage_orch.errors import UnknownNodeError, did_you_mean
from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.policy import DEFAULT_POLICY, Policy
from lineage_orch.plan import BuildPlan, Held, plan_graph
from lineage_orch.reports.build_report import held_to_dict
from lineage_orch.reports.status import iso, loaded_at, short_names
from lineage_orch.reports.wording import explanation_lines

Verdict = Literal["build", "passed", "held", "up_to_date"]
ParentState = Literal["fresh", "in_plan", "held", "not_newer", "not_moving"]
SourceState = Literal["reaches", "waits", "awaited", "not_newer", "never_loaded"]
WhenKind = Literal[
    "next_build", "time", "all_new", "first_load", "mended", "released", "any_load", "code_change", "never"
]


@dataclass(frozen=True, slots=True)
class ParentView:
    """A parent (ephemeral models seen through), its tick, and when it was last loaded or built (UTC).

    ``state``: ``fresh`` (newer than the node), ``in_plan`` (built in the same plan), ``held``, ``not_newer``, or
    ``not_moving`` (no source above it was ever loaded or has a producer, so ``updates_on: all`` does not wait for it).
    """

    unique_id: str
    tick: int
    at: datetime | None
    state: ParentState


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source above the node, its tick, when it was last loaded (UTC), and the shortest path to the node.

    ``state``: ``reaches`` (its update is why the node is in the plan), ``waits`` (its update waits at a held node,
    or for this one), ``awaited`` (a held node waits for its next load), ``not_newer``, or ``never_loaded``.
    ``path``: unique_ids from the source to the node, ephemeral models included.
    """

    unique_id: str
    tick: int
    loaded_at: datetime | None
    state: SourceState
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuildsWhen:
    """What would make the node build.

    ``kind``: ``next_build``; ``time`` (at ``not_before``); ``all_new`` (new data in all of ``waiting_for``);
    ``first_load`` (of the sources ``waiting_for``); ``mended`` (the nodes ``waiting_for`` build well);
    ``released`` (the held nodes ``waiting_for`` build); ``any_load`` (of the sources ``waiting_for``);
    ``code_change`` (of its own); ``never`` (no source is above it, and it was never built here).
    ``not_before``: the time (UTC) before which its policy holds it in any case.
    """

    kind: WhenKind
    waiting_for: tuple[str, ...] = ()
    not_before: datetime | None = None


@dataclass(frozen=True)
class Explanation:
    """Why a node will build, is held or is up to date.

    ``tick`` and ``built_at`` are of its last good build (0 and None: never built), ``clock`` the ledger's reading.
    ``code_changed``: whether its code is not that of its last good build. ``held`` and ``policy`` are as the plan
    saw them. ``sources``: every source above it, those that matter first. ``changed_above``: the nodes of the plan
    whose changed code reaches it. ``held_above``: the held nodes at which updates for it wait. ``ticks``: the
    tick of each node that is named here. ``names``: what people call what is named here. ``builds_for_code``:
    whether its changed code is a reason to build it.
    """

    node: str
    verdict: Verdict
    tick: int
    built_at: datetime | None
    clock: int
    code_changed: bool
    builds_for_code: bool
    held: Held | None
    policy: Policy
    parents: tuple[ParentView, ...]
    sources: tuple[SourceView, ...]
    changed_above: tuple[str, ...]
    held_above: Mapping[str, Held]
    builds_when: BuildsWhen
    ticks: Mapping[str, int]
    names: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-ready values: times ISO 8601 (UTC), spans in seconds."""
        policy, when = self.policy, self.builds_when
        return {
            "node": self.node,
            "name": self.names[self.node],
            "verdict": self.verdict,
            "tick": self.tick,
            "built_at": iso(self.built_at),
            "clock": self.clock,
            "code_changed": self.code_changed,
            "builds_for_code": self.builds_for_code,
            "held": held_to_dict(self.held) if self.held else None,
            "policy": {
                "updates_on": policy.updates_on,
                "build_after": _seconds(policy.build_after),
                "lag_tolerance": _seconds(policy.lag_tolerance),
            },
            "parents": [
                {"unique_id": each.unique_id, "tick": each.tick, "at": iso(each.at), "state": each.state}
                for each in self.parents
            ],
            "sources": [
                {
                    "unique_id": each.unique_id,
                    "tick": each.tick,
                    "loaded_at": iso(each.loaded_at),
                    "state": each.state,
                    "path": list(each.path),
                }
                for each in self.sources
            ],
            "changed_above": list(self.changed_above),
            "held_above": {node: held_to_dict(each) for node, each in self.held_above.items()},
            "builds_when": {
                "kind": when.kind,
                "waiting_for": list(when.waiting_for),
                "not_before": iso(when.not_before),
            },
        }

    def lines(self, *, now: datetime | None = None) -> list[str]:
        """Return the explanation in plain words, the verdict first; times are UTC.

        Args:
            now: what "in 12 min" counts from; by default the clock on the wall.
        """
        return explanation_lines(self, (now or datetime.now(UTC)).astimezone(UTC))


def explain(lineage: Lineage, snapshot: LedgerSnapshot, plan: BuildPlan, node_id: str) -> Explanation:
    """Say why a node will build, is held or is up to date.

    Args:
        lineage: the project.
        snapshot: the ledger, with its history: the times of loads are read from there.
        plan: the plan of this lineage and snapshot.
        node_id: the unique_id of a model, snapshot or seed.

    Raises:
        UnknownNodeError: no such node in the lineage.
    """
    if node_id not in lineage.nodes:
        raise UnknownNodeError(f"no node {node_id!r} in {lineage.where}{did_you_mean(node_id, lineage.nodes)}")
    return _Explainer(lineage, snapshot, plan, node_id).explain()


class _Explainer:
    """Looks at one node and at all that is above it."""

    def __init__(self, lineage: Lineage, snapshot: LedgerSnapshot, plan: BuildPlan, node: str) -> None:
        self._lineage = lineage
        self._snapshot = snapshot
        self._plan = plan
        self._node = node
        self._graph = plan_graph(lineage)
        self._due = frozenset(plan.build) | frozenset(plan.passed)
        self._above = self._ancestors([node])

    def explain(self) -> Explanation:
        node, plan, graph = self._node, self._plan, self._graph
        fact = self._snapshot.nodes.get(node)
        checksum = graph.checksums[graph.index[node]]
        held = plan.held.get(node)
        verdict: Verdict = (
            "build" if node in plan.build else "passed" if node in self._due else "held" if held else "up_to_date"
        )
        policy = graph.policies.get(graph.index[node], DEFAULT_POLICY)
        held_above = self._held_above() if verdict == "up_to_date" else {}
        parents = tuple(map(self._parent, sorted(self._parents(node))))
        sources = self._sources(verdict, held, held_above)
        mentioned = {node, *self._above, *(each for source in sources for each in source.path)}
        short = short_names(self._lineage)
        return Explanation(
            node=node,
            verdict=verdict,
            tick=self._tick(node),
            built_at=fact.built_at if fact else None,
            clock=self._snapshot.tick,
            code_changed=fact is not None and None not in (fact.checksum, checksum) and fact.checksum != checksum,
            builds_for_code=node in plan.changed_code,
            held=held,
            policy=policy,
            parents=parents,
            sources=sources,
            changed_above=self._changed_above() if node in self._due else (),
            held_above=held_above,
            builds_when=self._when(verdict, held, policy, parents, held_above),
            ticks={each: self._tick(each) for each in mentioned if each in graph.index},
            names={each: short.get(each) or each.split(".", 2)[-1] for each in mentioned},
        )

    # What the plan saw ------------------------------------------------------------------------------------

    def _tick(self, unique_id: str) -> int:
        fact = self._snapshot.nodes.get(unique_id)
        return fact.tick if fact else self._snapshot.sources.get(unique_id, 0)

    def _parents(self, unique_id: str) -> list[str]:
        graph = self._graph
        return [graph.ids[number] for number in graph.parents[graph.index[unique_id]]]

    def _ancestors(self, starts: Iterable[str]) -> frozenset[str]:
        seen: set[str] = set()
        stack = list(starts)
        while stack:
            for parent in self._parents(stack.pop()):
                if parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
        return frozenset(seen)

    def _is_moving(self, unique_id: str) -> bool:
        snapshot = self._snapshot
        sources = {unique_id, *self._ancestors([unique_id])} & self._lineage.sources.keys()
        return any(snapshot.sources.get(each) or each in snapshot.producers for each in sources)

    def _parent(self, parent: str) -> ParentView:
        tick = self._tick(parent)
        state: ParentState
        if parent in self._due:
            state = "in_plan"
        elif tick > self._tick(self._node):
            state = "fresh"
        elif parent in self._plan.held:
            state = "held"
        else:
            state = "not_newer" if self._is_moving(parent) else "not_moving"
        fact = self._snapshot.nodes.get(parent)
        return ParentView(parent, tick, fact.built_at if fact else loaded_at(self._snapshot, parent), state)

    def _changed_above(self) -> tuple[str, ...]:
        """The nodes with changed code from which there is a way to the node inside the plan."""
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

    # Sources and paths ------------------------------------------------------------------------------------

    def _sources(self, verdict: Verdict, held: Held | None, held_above: Mapping[str, Held]) -> tuple[SourceView, ...]:
        sources = sorted(self._above & self._lineage.sources.keys())
        because = self._plan.because[self._node] if self._node in self._due else frozenset()
        owed = self._owed()
        awaited: set[str] = set()
        for each in (*held_above.values(), *([held] if held else [])):
            if each.reason in ("updates_on_all", "first_load"):
                awaited |= {*each.waiting_for, *self._ancestors(each.waiting_for)}

        def state(source: str) -> SourceState:
            if source in because:
                return "reaches"
            if source in owed and verdict in ("held", "up_to_date"):
                return "waits"
            if source in awaited:
                return "awaited"
            return "not_newer" if self._tick(source) else "never_loaded"

        paths = self._paths(sources)
        order: Sequence[SourceState] = ("reaches", "waits", "awaited", "not_newer", "never_loaded")
        views = [
            SourceView(each, self._tick(each), loaded_at(self._snapshot, each), state(each), paths[each])
            for each in sources
        ]
        return tuple(sorted(views, key=lambda view: (order.index(view.state), -view.tick, view.unique_id)))

    def _owed(self) -> set[str]:
        """The sources that were loaded after the node's last good build, or after that of what takes them in."""
        sources = self._lineage.sources
        owed: set[str] = set()
        for child in (self._node, *self._above):
            tick = self._tick(child)
            if child not in sources:
                owed.update(each for each in self._parents(child) if each in sources and self._tick(each) > tick)
        own = self._tick(self._node)
        return owed | {each for each in self._above if each in sources and self._tick(each) > own}

    def _paths(self, sources: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the shortest path from each source, along which something new flows if there is such a path."""
        import networkx

        if not sources:
            return {}
        graph = self._lineage.graph
        above = graph.subgraph({self._node, *networkx.ancestors(graph, self._node)})
        out_of_date = self._due | self._plan.held.keys()
        solid = self._graph.index

        def carries(parent: str, child: str) -> bool:
            if child not in out_of_date or parent not in solid or parent in out_of_date:
                return True
            return self._tick(parent) > self._tick(child)

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
        if verdict in ("build", "passed"):
            return BuildsWhen("next_build")
        not_before = self._not_before(policy)
        if held is not None:
            if held.reason == "updates_on_all":
                return BuildsWhen("all_new", held.waiting_for, not_before)
            if held.reason == "first_load":
                return BuildsWhen("first_load", held.waiting_for)
            if held.reason == "failed":
                return BuildsWhen("mended", held.waiting_for or (self._node,))
            return BuildsWhen("time", (), held.until)
        if held_above:
            return BuildsWhen("released", tuple(held_above), not_before)
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


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
