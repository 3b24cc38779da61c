"""Wake-ups: a run of the deployment for the time when something held is due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from lineage_orch.loads.tags import WAKE_UP
from lineage_orch.plan import Held


def wake_up_time(held: Iterable[Held], first: datetime, within: timedelta) -> datetime:
    """Return when to wake up for what is held: the last due time of those at most ``within`` after the first.

    Each node is due by the time at which its own parents were built, so that the nodes of one build become due
    some seconds after each other. They wait for each other as loads do, and share one run.

    Args:
        held: what a plan holds back.
        first: the plan's ``next_due``.
        within: how long the first may wait for more.
    """
    return max([each.until for each in held if each.until is not None and each.until <= first + within], default=first)


def schedule_wake_up(
    client: SyncPrefectClient,
    deployment_id: UUID,
    due: datetime,
    *,
    settings: Mapping[str, Any] | None,
    run_id: UUID,
    why: str = "Held nodes are due.",
) -> FlowRun:
    """See to it that a run of the deployment is scheduled for ``due``: one per time, however many plans say so.

    Args:
        client: of the run at work.
        deployment_id: its deployment.
        due: when the run shall start (aware).
        settings: the settings among the parameters of the run at work.
        run_id: the run at work.
        why: the message of its state, for people.

    Returns:
        The run: made now, or earlier by another plan.
    """
    key = f"lineage_orch:wake-up:{deployment_id}:{due.astimezone(UTC).isoformat()}"

    def create(idempotency_key: str) -> FlowRun:
        return client.create_flow_run_from_deployment(
            deployment_id,
            parameters={"settings": dict(settings)} if settings else {},
            state=Scheduled(scheduled_time=due, message=why),
            tags=[WAKE_UP],
            idempotency_key=idempotency_key,
        )

    run = create(key)
    if run.state_type is not None and run.state_type.value != "SCHEDULED":
        # The key brings back a run that is over, or has begun: cancelled by a person, or woken up too early by a
        # clock that goes fast.
        run = create(f"{key}:{run_id}")
    return run
