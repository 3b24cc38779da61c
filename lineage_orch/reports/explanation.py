"""Why one node will build, is held or is up to date, as data: found in ``explain``, said in words in ``wording``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from lineage_orch.ledger import Extent, Failure, Pause, Untested
from lineage_orch.ledger.others import BuiltElsewhere, Origin
from lineage_orch.lineage.policy import Policy
from lineage_orch.plan import Held, Reason
from lineage_orch.reports.as_json import extent_to_dict, failure_to_dict, iso, picked

Verdict = Literal["build", "perhaps", "tests_only", "passed_through", "held", "not_built", "up_to_date"]
ParentState = Literal["fresh", "in_plan", "held", "unchanged", "not_newer", "not_moving", "paused"]
SourceState = Literal["triggering", "pending", "awaited", "paused", "unchanged", "not_newer", "never_loaded"]
WhenKind = Literal[
    "next_build",
    "upstream_changed",
    "time",
    "all_new",
    "first_load",
    "upstream_fixed",
    "upstream_released",
    "config_fixed",
    "resumed",
    "built_elsewhere",
    "any_load",
    "code_change",
    "never",
]


class PartChange(NamedTuple):
    """A part of a node's identity that differs: its value at the last good build, and now; None: there was none."""

    part: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class ParentView:
    """A parent, ephemeral models seen through.

    Attributes:
        unique_id: of a source or node.
        tick: of its newest update or changed content; 0: there was none.
        at: when it was last loaded or built (UTC).
        state: ``fresh`` (newer than the node), ``in_plan`` (built in the same plan), ``held``, ``unchanged`` (built
            since the node, and its content came out the same), ``not_newer``, ``paused`` (a source that was loaded
            since, and is paused), or ``not_moving`` (nothing above it has a producer or an update of its own, so
            ``updates_on: all`` does not wait for it).
    """

    unique_id: str
    tick: int
    at: datetime | None
    state: ParentState


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source above the node.

    Attributes:
        unique_id: of the source.
        tick: of its newest update; 0: it was never loaded.
        loaded_at: when that was loaded (UTC).
        state: ``triggering`` (its update is why the node is in the plan), ``pending`` (its update waits at a held
            node, or for this one), ``awaited`` (a held node waits for its next load), ``paused`` (it was loaded since,
            and nothing is built for it while it is paused), ``unchanged`` (what read its update came out the same),
            ``not_newer``, or ``never_loaded``.
        path: unique_ids from the source to the node, ephemeral models included: the shortest way.
    """

    unique_id: str
    tick: int
    loaded_at: datetime | None
    state: SourceState
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuildsWhen:
    """What would make the node build.

    Attributes:
        kind: ``next_build``; ``upstream_changed`` (the nodes ``waiting_for`` build in it, and come out changed);
            ``time`` (at ``not_before``); ``all_new`` (new data in all of ``waiting_for``);
            ``first_load`` (of the sources ``waiting_for``); ``upstream_fixed`` (the nodes ``waiting_for`` build
            well); ``upstream_released`` (the held nodes ``waiting_for`` build); ``config_fixed`` (of the nodes
            ``waiting_for``); ``resumed`` (the nodes ``waiting_for``, ``*`` for all, are paused); ``built_elsewhere``
            (dbt, as it is called here, does not build it); ``any_load`` (of the sources ``waiting_for``);
            ``code_change`` (of its own); ``never`` (no source is above it, and nothing that builds reads it).
        waiting_for: unique_ids.
        not_before: the time (UTC) before which it is held in any case.
    """

    kind: WhenKind
    waiting_for: tuple[str, ...] = ()
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class BuiltBy:
    """The node of another project that builds a source, and the loads of that project that its last build took in."""

    built: BuiltElsewhere
    origins: tuple[Origin, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values; ticks are of the other project's clock."""
        return {
            "project": self.built.scope.project,
            "target": self.built.scope.target,
            "node": self.built.node,
            "tick": self.built.tick,
            "built_at": iso(self.built.built_at),
            "because": [
                {"source": each.source, "tick": each.tick, "loaded_at": iso(each.at), "producer": each.producer}
                for each in self.origins
            ],
        }


@dataclass(frozen=True)
class Explanation:
    """Why a node will build, is held or is up to date.

    Attributes:
        node: the unique_id of the node.
        verdict: what the plan makes of it.
        tick: of its last good build; 0: it was never built.
        built_at: when that was (UTC).
        clock: the ledger's reading.
        reasons: each way in which it is stale.
        code_changed: whether its definition is not that of its last good build, whatever that does here.
        changes: of the node and of ``changed_above``, the parts of their definitions that changed, where they are
            known.
        held: why it is held.
        failures: how many runs in a row failed on it; 0: none.
        failure: since when, when last and why it failed; None: it did not.
        untested: the last build of it, where that succeeded itself and its tests did not pass.
        asked_at: the tick at which someone asked for it, if that is still to be done; 0: no one did.
        policy: when it may build.
        parents: what it reads.
        sources: every source above it, those that matter first.
        changed_above: the nodes of the plan whose changed definition reaches it.
        held_above: the held nodes at which updates for it wait.
        unchanged_above: the nodes above that were built since, and whose content came out the same.
        batches: of a microbatch model that builds: in which event times something is new; None: no window is known.
        builds_when: what would make it build.
        pauses: those of the node, of all nodes (``*``), and of sources above.
        ticks: the tick of each node and source that is named here.
        names: what people call what is named here.
        built_by: the sources above it that another project of the ledger builds, and what is known there.
    """

    node: str
    verdict: Verdict
    tick: int
    built_at: datetime | None
    clock: int
    reasons: tuple[Reason, ...]
    code_changed: bool
    changes: Mapping[str, tuple[PartChange, ...]]
    held: Held | None
    failures: int
    failure: Failure | None
    untested: Untested | None
    asked_at: int
    policy: Policy
    parents: tuple[ParentView, ...]
    sources: tuple[SourceView, ...]
    changed_above: tuple[str, ...]
    held_above: Mapping[str, Held]
    unchanged_above: tuple[str, ...]
    batches: Extent | None
    builds_when: BuildsWhen
    pauses: Mapping[str, Pause]
    ticks: Mapping[str, int]
    names: Mapping[str, str]
    built_by: Mapping[str, BuiltBy] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-ready values: times ISO 8601 (UTC), spans in seconds."""
        return {
            **picked(self, *_AS_THEY_ARE),
            "name": self.names[self.node],
            "failure": failure_to_dict(self.failure),
            "built_by": {source: each.to_dict() for source, each in self.built_by.items()},
            "batches": extent_to_dict(self.batches),
        }


_AS_THEY_ARE = (
    *("node", "verdict", "tick", "built_at", "clock", "reasons", "code_changed", "changes", "held", "failures"),
    *("policy", "parents", "sources", "changed_above", "held_above", "unchanged_above", "builds_when", "pauses"),
)
