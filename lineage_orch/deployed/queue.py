"""The queue of one ``build_affected`` deployment: its waiting runs, and the wake-ups that it schedules for itself.

With a concurrency limit of 1 the runs of a burst wait on the server, as Scheduled, Late or AwaitingConcurrencySlot,
with no process. The one that runs takes over what the others were to do: it reads their parameters, does their work
with its own, and sets them Cancelled, named Coalesced. Cancelled alone sticks: a late worker can revive a Completed
run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import OrchestrationResult
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Scheduled

from lineage_orch.deployed.run_history import pages
from lineage_orch.loads.tags import DEADLINE, TRIGGERED, WAKE_UP
from lineage_orch.plan import Held
from lineage_orch.updates import SourceUpdate

COALESCED = "Coalesced"
# Also of the type SCHEDULED, and none of our business: AwaitingRetry, Resuming, and what Prefect may add.
_WAITING = ("Scheduled", "Late", "AwaitingConcurrencySlot")
_STILL_WAITING = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]), name=FlowRunFilterStateName(any_=list(_WAITING))
)
# The server's own bound on one bulk change.
_BULK = 50

Warn = Callable[[str], Any]


@dataclass(frozen=True)
class WaitingRun:
    """A run that waits.

    Attributes:
        id: of the run.
        name: of the run.
        due: when it was meant to start (UTC).
        tags: of the run.
        updates: what it was to record.
        producers: the sources, templates and wildcards of which it says that a producer loads them.
        observe: whether it was to look when sources were loaded.
    """

    id: UUID
    name: str
    due: datetime
    tags: frozenset[str]
    updates: tuple[SourceUpdate, ...]
    producers: tuple[str, ...]
    observe: bool = False

    @property
    def is_wake_up(self) -> bool:
        """Whether it was scheduled for the time when something held is due."""
        return WAKE_UP in self.tags


@dataclass(eq=False, repr=False)
class WaitingRuns:
    """The runs that wait in the deployment of the run that is at work.

    Args:
        settings: the settings among its parameters; runs with others are not touched.
        warn: takes a line for people on each run that cannot be read.
    """

    _client: SyncPrefectClient
    _deployment_id: UUID
    _run_id: UUID
    _settings: Mapping[str, Any] | None
    _warn: Warn
    _unreadable: set[UUID] = field(default_factory=set)

    def read(self) -> list[WaitingRun]:
        """Return all runs that wait and ask for the same build as this one, the earliest due first.

        A run whose parameters cannot be read is left to itself, with a warning: it will fail and say why.
        """
        mine = FlowRunFilterDeploymentId(any_=[self._deployment_id])
        chosen = FlowRunFilter(deployment_id=mine, state=_STILL_WAITING)
        read = partial(self._client.read_flow_runs, flow_run_filter=chosen, sort=FlowRunSort.ID_DESC)
        # Runs that leave meanwhile move the later ones forward.
        found = [self._understood(run) for run in pages(read, step=100) if run.id != self._run_id]
        return sorted((run for run in found if run is not None), key=lambda run: run.due)

    def _understood(self, run: FlowRun) -> WaitingRun | None:
        parameters = dict(run.parameters or {})
        updates, producers = parameters.pop("updates", None), parameters.pop("producers", None)
        settings, observe = parameters.pop("settings", None), parameters.pop("observe", False)
        try:
            if parameters:
                raise ValueError(f"it has parameters of its own: {', '.join(parameters)}")
            if (settings or {}) != (self._settings or {}):
                return None  # another build; its own run does it
            return WaitingRun(
                run.id,
                run.name,
                run.expected_start_time or datetime.max.replace(tzinfo=UTC),
                frozenset(run.tags),
                tuple(SourceUpdate.from_dict(each) for each in updates or ()),
                tuple(str(each) for each in producers or ()),
                bool(observe),
            )
        except (ValueError, TypeError, AttributeError) as error:
            if run.id not in self._unreadable:
                self._unreadable.add(run.id)
                self._warn(f"The waiting run {run.name!r} is left to itself: {error}")
            return None

    def dismiss(self, runs: Iterable[WaitingRun], message: str) -> int:
        """Set runs Cancelled, named Coalesced, as far as they still wait; returns how many.

        The server itself looks whether each is still SCHEDULED: one that has started meanwhile goes on.
        """
        ids = [run.id for run in runs]
        return sum(self._cancel(ids[start : start + _BULK], message) for start in range(0, len(ids), _BULK))

    def _cancel(self, ids: list[UUID], message: str) -> int:
        body = {
            "flow_runs": {
                "id": {"any_": [str(each) for each in ids]},
                "state": _STILL_WAITING.model_dump(mode="json", exclude_unset=True),
            },
            "state": {"type": StateType.CANCELLED.value, "name": COALESCED, "message": message},
        }
        try:
            answer = self._client.request("POST", "/flow_runs/bulk_set_state", json=body)  # type: ignore[arg-type]
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (404, 405):
                raise
            return sum(self._cancel_one(each, message) for each in ids)  # a server without the bulk call
        return sum(result.get("status") == "ACCEPT" for result in answer.json().get("results", ()))

    def _cancel_one(self, run_id: UUID, message: str) -> bool:
        run = self._client.read_flow_run(run_id)
        if run.state_type != StateType.SCHEDULED or run.state_name not in _WAITING:
            return False
        state: State[Any] = Cancelled(name=COALESCED, message=message)
        result: OrchestrationResult[Any] = self._client.set_flow_run_state(run_id, state)
        return result.status.value == "ACCEPT"


def to_take_over(runs: Iterable[WaitingRun], now: datetime, *, started: bool = False) -> list[WaitingRun]:
    """Return the runs whose work the run at work does now.

    All that are due; and, before it has begun to build (``started``), also the runs that loads set off and that
    still wait for more loads. What a person or a schedule put into the future stays there, and so does a wake-up.
    """
    return [run for run in runs if run.due <= now or (TRIGGERED in run.tags and not started)]


def out_of_date(runs: Iterable[WaitingRun], now: datetime, next_due: datetime | None) -> list[WaitingRun]:
    """Return the wake-ups that are not needed any more: nothing is due at their time, or until later.

    Later ones than ``next_due`` stay: they are right until a plan says otherwise. And so do those for a deadline: one
    look more, and not a run that is made and dismissed for each load.
    """
    held = (run for run in runs if run.is_wake_up and DEADLINE not in run.tags)
    return [run for run in held if run.due > now and (next_due is None or run.due < next_due)]


# Wake-ups: a run of the deployment for the time when something held is due ------------------------------------------


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
    tags: Iterable[str] = (),
) -> FlowRun:
    """See to it that a run of the deployment is scheduled for ``due``: one per time, however many plans say so.

    Args:
        due: when the run shall start (aware).
        settings: the settings among the parameters of the run at work.

    Returns:
        The run: made now, or earlier by another plan.
    """
    key = f"lineage_orch:wake-up:{deployment_id}:{due.astimezone(UTC).isoformat()}"

    def create(idempotency_key: str) -> FlowRun:
        return client.create_flow_run_from_deployment(
            deployment_id,
            parameters={"settings": dict(settings)} if settings else {},
            state=Scheduled(scheduled_time=due, message=why),
            tags=[WAKE_UP, *tags],
            idempotency_key=idempotency_key,
        )

    run = create(key)
    if run.state_type is not None and run.state_type.value != "SCHEDULED":
        # The key brings back a run that is over, or has begun: cancelled by a person, or woken up too early by a
        # clock that goes fast.
        run = create(f"{key}:{run_id}")
    return run
