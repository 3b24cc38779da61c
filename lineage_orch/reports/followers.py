"""What the ledger knows of each follower, and what the plan makes of it: data, rendered in ``follower_wording``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from lineage_orch.plan import Reason
from lineage_orch.reports.as_json import failure_to_dict, picked

if TYPE_CHECKING:
    from lineage_orch.ledger import Failure, LedgerSnapshot
    from lineage_orch.lineage.followers import Follower
    from lineage_orch.plan import BuildPlan, Held

FollowerState = Literal["due", "perhaps", "running", "failing", "held", "up_to_date", "never_run"]


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """A follower.

    Attributes:
        follower: what it follows, and where it runs.
        state: ``due`` (it runs in the next build, once what it follows is built), ``perhaps`` (it does if what is built
            first comes out changed), ``running`` (in a deployment), ``failing`` (its last run did not end Completed),
            ``held`` (stale, and ``held`` says why it waits), ``up_to_date``, or ``never_run`` (and nothing that it
            follows was built).
        tick: of the build after which it ran last; 0: it never ran.
        ran_at: when that run was done (UTC).
        reasons: each way in which it is stale.
        because: the unique_ids of the sources whose updates reach it.
        held: why it is held.
        failure: how often, since when and why it failed since it last ran well.
        flow_run_id: of the run in a deployment that goes on.
    """

    follower: Follower
    state: FollowerState
    tick: int
    ran_at: datetime | None
    reasons: tuple[Reason, ...] = ()
    because: frozenset[str] = frozenset()
    held: Held | None = None
    failure: Failure | None = None
    flow_run_id: str | None = None

    def is_below(self, ids: Collection[str]) -> bool:
        """Whether it, or something that it follows, is one of these."""
        return not {self.follower.unique_id, *self.follower.parents}.isdisjoint(ids)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values; times are ISO 8601, UTC."""
        return {
            "unique_id": self.follower.unique_id,
            "name": self.follower.name,
            "follows": list(self.follower.parents),
            "deployment": self.follower.deployment,
            **picked(self, "state", "tick", "ran_at", "reasons", "because", "held", "flow_run_id"),
            "failure": failure_to_dict(self.failure),
        }


def follower_statuses(snapshot: LedgerSnapshot, plan: BuildPlan) -> tuple[FollowerStatus, ...]:
    """Return what the ledger knows of each follower of a plan, and what the plan makes of it."""
    return tuple(_status(each, snapshot, plan) for each in plan.followers.values())


def _status(follower: Follower, snapshot: LedgerSnapshot, plan: BuildPlan) -> FollowerStatus:
    unique_id = follower.unique_id
    fact, held = snapshot.nodes.get(unique_id), plan.follow_held.get(unique_id)
    launch = snapshot.launches.get(unique_id)
    state: FollowerState
    if unique_id in plan.follow:
        state = "due"
    elif unique_id in plan.perhaps:
        state = "perhaps"
    elif held is not None:
        own = held.reason == "failing" and not held.waiting_for
        state = "running" if held.reason == "running" else "failing" if own else "held"
    else:
        state = "up_to_date" if fact else "never_run"
    return FollowerStatus(
        follower,
        state,
        fact.tick if fact else 0,
        fact.built_at if fact else None,
        plan.reasons.get(unique_id, ()),
        plan.because[unique_id] if unique_id in plan.follow else frozenset(),
        held,
        snapshot.failures.get(unique_id),
        launch.flow_run_id if launch else None,
    )
