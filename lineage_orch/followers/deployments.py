"""Runs of followers in Prefect deployments: made once, and looked at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from lineage_orch.ledger import Launch
from lineage_orch.loads.tags import FOLLOWER
from lineage_orch.text import one_line

# Several times the 3 minutes between the heartbeats of a run.
DEAD_AFTER = timedelta(minutes=15)
# Clocks differ.
_LEEWAY = timedelta(minutes=10)


class NoDeploymentError(Exception):
    """Prefect has no such deployment."""


@dataclass(frozen=True)
class End:
    """How a run ended: ``why`` it did not end Completed (None: it did), when (UTC), and how long it took."""

    why: str | None
    at: datetime | None = None
    seconds: float | None = None


def create_run(launch: Launch) -> tuple[str, str]:
    """Have Prefect make the run of a launch: one, however often this is called; returns its id and name.

    If its flow has such parameters, it is given the names of the sources that caused it as ``sources``, and the event
    times in which all that is new for it lies as ``window``: two in ISO 8601, or None.

    Raises:
        NoDeploymentError: there is no such deployment.
        httpx.HTTPError, PrefectException: the API cannot be reached, or refused.
    """
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(launch.deployment)
        except ObjectNotFound:
            raise NoDeploymentError(
                f"Prefect has no deployment {launch.deployment!r}; deploy the flow, or correct the name in @follows or "
                "in the exposure's meta"
            ) from None
        takes = (deployment.parameter_openapi_schema or {}).get("properties") or {}
        window = launch.window and [each.isoformat() for each in launch.window]
        causes: dict[str, Any] = {"sources": list(launch.sources), "window": window}
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={name: value for name, value in causes.items() if name in takes},
            tags=[FOLLOWER, f"{FOLLOWER}:{launch.follower}"],
            # Of this launch alone, for a key brings back finished runs as well.
            idempotency_key=f"lineage_orch:{launch.run_id}:{launch.follower}",
        )
    return str(run.id), run.name


def end_of(flow_run_id: str, now: datetime) -> End | None:
    """Return how a run ended; None while it goes on, or waits for a worker.

    Raises:
        httpx.HTTPError, PrefectException: the API cannot be reached, or failed.
    """
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(UUID(flow_run_id))
        except ObjectNotFound:
            return End("its run is not in Prefect's history any more")
        state = run.state
        if state is None:
            return None
        if state.is_completed():
            return End(None, run.end_time, run.total_run_time.total_seconds())
        if state.is_final():
            return End(
                one_line(f"its run {run.name!r} ended {state.name}" + (f": {state.message}" if state.message else ""))
            )
        if state.is_running() and (last := last_heartbeat(client, run, now)) is not None and now - last > DEAD_AFTER:
            return End(f"its run {run.name!r} is Running by name only: no sign of life since {last:%H:%M:%S} UTC")
    return None


def last_heartbeat(client: SyncPrefectClient, run: FlowRun, now: datetime) -> datetime | None:
    """Return when a run that is RUNNING gave its last sign of life; None where heartbeats are switched off."""
    since = (run.start_time or now) - _LEEWAY
    body = {
        "filter": {
            "occurred": {"since": since.isoformat(), "until": (now + _LEEWAY).isoformat()},
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
            "order": "DESC",
        },
        "limit": 1,
    }
    events = client.request("POST", "/events/filter", json=body).json().get("events") or []
    return datetime.fromisoformat(events[0]["occurred"]) if events else None
