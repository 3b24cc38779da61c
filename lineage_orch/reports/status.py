"""What the ledger knows of each source and node, and what is stale: data, rendered elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from lineage_orch.loads.declaration import can_mean
from lineage_orch.plan import plan_graph, producing_sources
from lineage_orch.reports.as_json import failure_to_dict, picked
from lineage_orch.reports.followers import FollowerStatus, follower_statuses

if TYPE_CHECKING:
    from lineage_orch.ledger import Failure, Holder, LedgerSnapshot, Pause
    from lineage_orch.lineage import Lineage
    from lineage_orch.plan import BuildPlan, Held

NodeState = Literal[
    "due", "perhaps", "tests_only", "passed_through", "held", "failing", "not_built", "up_to_date", "never_built"
]

STALE: frozenset[NodeState] = frozenset({"due", "tests_only", "passed_through", "held", "failing", "not_built"})
"""The states of what is stale."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source.

    Attributes:
        unique_id: its unique_id.
        name: what people call it.
        tick: of its newest update; 0: never loaded.
        loaded_at: when that was loaded (UTC).
        has_producer: whether a producer was ever registered for it, or declares a pattern that can mean it.
        models_below: how many models, ephemeral ones included, are downstream of it.
        paused: since when, until when and why nothing is built for it; None: it is not paused.
    """

    unique_id: str
    name: str
    tick: int
    loaded_at: datetime | None
    has_producer: bool
    models_below: int
    paused: Pause | None = None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node.

    Attributes:
        unique_id: its unique_id.
        name: what people call it.
        state: ``due`` (the next build builds it), ``perhaps`` (it does if what is due above it comes out changed),
            ``tests_only`` (it only runs its tests again), ``passed_through`` (a view through which new data flows
            without a build), ``held`` (stale, and ``held`` says why it waits), ``failing`` (held since it failed
            itself), ``not_built`` (stale, and dbt, as it is called here, does not build it), ``up_to_date``, or
            ``never_built`` (and nothing that builds needs it).
        tick: of its last good build; 0: never built.
        built_at: when that was (UTC).
        held: why it is held.
        failure: how often, since when and why it failed since its last good build; None: it did not.
        paused: since when, until when and why it is paused itself; None: it is not.
    """

    unique_id: str
    name: str
    state: NodeState
    tick: int
    built_at: datetime | None
    held: Held | None = None
    failure: Failure | None = None
    paused: Pause | None = None


@dataclass(frozen=True)
class Status:
    """The ledger of one project and target at one instant.

    Attributes:
        tick: the reading of the logical clock.
        sources: one row each.
        nodes: one row each, parents before children.
        next_due: the earliest time (UTC) until which a node is held.
        holder: who took the build lock and did not give it back; it builds now, unless it was killed.
        unresolved: each name that was loaded and that no source of the manifest has, with the tick of its newest
            update; it becomes an update of the source as soon as a manifest has one.
        unmatched: what producers declare that can mean no source of the manifest.
        followers: one row each, sorted by unique_id.
        pauses: the sources and nodes that are paused now; ``*``: all nodes.
    """

    tick: int
    sources: tuple[SourceStatus, ...]
    nodes: tuple[NodeStatus, ...]
    next_due: datetime | None
    holder: Holder | None
    unresolved: Mapping[str, int]
    unmatched: tuple[str, ...]
    followers: tuple[FollowerStatus, ...] = ()
    pauses: Mapping[str, Pause] = field(default_factory=dict)

    def only(self, ids: Collection[str] | None = None, states: Collection[NodeState] = ()) -> Status:
        """Return the status of some sources and nodes alone.

        Args:
            ids: their unique_ids; None for all. Of the followers, those of one of these.
            states: of the nodes; empty for all. With any, there are no sources in it: they have no such state.
        """
        return replace(
            self,
            followers=() if states else tuple(each for each in self.followers if ids is None or each.is_below(ids)),
            sources=() if states else tuple(each for each in self.sources if ids is None or each.unique_id in ids),
            nodes=tuple(
                each
                for each in self.nodes
                if (ids is None or each.unique_id in ids) and (not states or each.state in states)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the status as JSON-ready values; times are ISO 8601, UTC."""
        return {
            **picked(self, "tick", "next_due", "unresolved", "unmatched", "pauses", "holder"),
            "sources": [
                picked(each, "unique_id", "name", "tick", "loaded_at", "has_producer", "models_below")
                for each in self.sources
            ],
            "nodes": [
                {
                    **picked(each, "unique_id", "name", "state", "tick", "built_at", "held"),
                    "failure": failure_to_dict(each.failure),
                }
                for each in self.nodes
            ],
            "followers": [each.to_dict() for each in self.followers],
        }


def status(lineage: Lineage, snapshot: LedgerSnapshot, plan: BuildPlan, holder: Holder | None) -> Status:
    """Return what the ledger knows of each source and node of a project, and what the plan makes of it.

    Args:
        snapshot: the ledger, with its history: the times of loads are read from there.
        holder: who took the build lock last and did not give it back.
    """
    short = short_names(lineage)
    below = lineage.source_map()
    producing = producing_sources(lineage, snapshot)
    sources = tuple(
        SourceStatus(
            source,
            short[source],
            snapshot.sources.get(source, 0),
            loaded_at(snapshot, source),
            source in producing,
            len(below[source]),
            plan.pauses.get(source),
        )
        for source in sorted(lineage.sources, key=short.__getitem__)
    )
    due, perhaps, tested = map(frozenset, ((*plan.build, *plan.later), plan.perhaps, plan.tests_only))
    passed, not_built = map(frozenset, (plan.passed_through, plan.not_built))

    def row(node: str) -> NodeStatus:
        fact = snapshot.nodes.get(node)
        held = plan.held.get(node)
        state: NodeState
        if node in due:
            state = "due"
        elif node in tested:
            state = "tests_only"
        elif node in perhaps:
            state = "perhaps"
        elif node in passed:
            state = "passed_through"
        elif held is not None:
            state = "failing" if held.reason in ("failing", "failed") and not held.waiting_for else "held"
        elif node in not_built:
            state = "not_built"
        else:
            state = "up_to_date" if fact else "never_built"
        tick, built_at = (fact.tick, fact.built_at) if fact else (0, None)
        pause = plan.pauses.get(node)
        return NodeStatus(node, short[node], state, tick, built_at, held, snapshot.failures.get(node), pause)

    graph = plan_graph(lineage)
    nodes = tuple(row(node) for node in graph.ids[graph.source_count :])
    patterns = sorted(snapshot.producer_patterns)
    unmatched = tuple(each for each in patterns if not any(can_mean(each, source) for source in lineage.sources))
    followers = follower_statuses(snapshot, plan)
    return Status(
        snapshot.tick,
        sources,
        nodes,
        plan.next_due,
        holder,
        snapshot.unresolved,
        unmatched,
        followers,
        plan.pauses,
    )


def loaded_at(snapshot: LedgerSnapshot, source: str) -> datetime | None:
    """Return when a source's newest update was loaded (UTC), or None if it never was."""
    if source in snapshot.loaded_at:
        return snapshot.loaded_at[source]
    tick = snapshot.sources.get(source)
    history = snapshot.source_history.get(source, ())
    return next((moment.at for moment in reversed(history) if moment.tick == tick), None)


def short_names(lineage: Lineage) -> dict[str, str]:
    """Return what people call each source and node, by unique_id; everything that takes names takes these.

    ``source_name.table``, ``model``, ``model.v2`` of a versioned model; with the package in front where two
    share a name, and the unique_id itself where that does not tell them apart either.
    """
    sources = {each.unique_id: (f"{each.source_name}.{each.table}", each.package) for each in lineage.sources.values()}
    nodes = {
        each.unique_id: (each.name if each.version is None else f"{each.name}.v{each.version}", each.package)
        for each in lineage.nodes.values()
    }
    out: dict[str, str] = {}
    for kind in (sources, nodes):
        plain = Counter(name for name, _ in kind.values())
        qualified = Counter(f"{package}.{name}" for name, package in kind.values())
        for unique_id, (name, package) in kind.items():
            if plain[name] == 1:
                out[unique_id] = name
            else:
                with_package = f"{package}.{name}"
                out[unique_id] = with_package if qualified[with_package] == 1 else unique_id
    return out
