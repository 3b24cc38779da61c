"""What Prefect's run history tells of loads: which completed, and which are RUNNING by name only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterEndTime,
    TaskRunFilterState,
    TaskRunFilterStateType,
    TaskRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

from lineage_orch.tagging import BUILDS, NOTHING_NEW, sources_in
from lineage_orch.updates import SourceUpdate

if TYPE_CHECKING:
    from uuid import UUID

# Several times the 3 minutes between the heartbeats of a run.
DEAD_AFTER = timedelta(minutes=15)

# Clocks differ.
_LEEWAY = timedelta(minutes=10)
_PAGE = 200

Run = TypeVar("Run", FlowRun, TaskRun)


@dataclass(frozen=True)
class CompletedLoad:
    """A run of a producer that ended Completed, with the sources that its tags name."""

    run_id: str
    run_name: str
    state_id: str
    completed_at: datetime
    sources: tuple[str, ...]
    flow_run_id: str | None
    producer: str | UUID

    def updates(self, client: SyncPrefectClient) -> list[SourceUpdate]:
        """Return the updates that the hook of this run would have reported, had it run."""
        producer = self.producer if isinstance(self.producer, str) else client.read_flow(self.producer).name
        return [
            SourceUpdate(source, self.state_id, self.completed_at, flow_run_id=self.flow_run_id, producer=producer)
            for source in self.sources
        ]


@dataclass(frozen=True)
class DeadRun:
    """A run that is RUNNING by name only: its last heartbeat is long ago."""

    run_id: str
    run_name: str
    last_heartbeat: datetime

    @property
    def mend(self) -> str:
        """The command that ends it."""
        return f"prefect flow-run cancel {self.run_id}"


def completed_loads(client: SyncPrefectClient, marker: str, since: datetime, until: datetime) -> list[CompletedLoad]:
    """Return the loads with this tag that completed in this time, flows and tasks, and got new data.

    Raises:
        httpx.HTTPError: Prefect's API cannot be reached, or failed.
    """
    flow_filter = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[marker]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED])),
        end_time=FlowRunFilterEndTime(after_=since, before_=until),
    )
    task_filter = TaskRunFilter(
        tags=TaskRunFilterTags(all_=[marker]),
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.COMPLETED])),
        end_time=TaskRunFilterEndTime(after_=since, before_=until),
    )

    def flow_runs(offset: int) -> list[FlowRun]:
        return client.read_flow_runs(
            flow_run_filter=flow_filter, sort=FlowRunSort.END_TIME_DESC, limit=_PAGE, offset=offset
        )

    def task_runs(offset: int) -> list[TaskRun]:
        return client.read_task_runs(
            task_run_filter=task_filter, sort=TaskRunSort.END_TIME_DESC, limit=_PAGE, offset=offset
        )

    return [
        *(_load(run, run.id, run.flow_id) for run in _pages(flow_runs) if _counts(run)),
        *(_load(run, run.flow_run_id, _task_name(run)) for run in _pages(task_runs) if _counts(run)),
    ]


def _counts(run: FlowRun | TaskRun) -> bool:
    return run.state is not None and run.state.name != "Cached" and NOTHING_NEW not in run.tags


def _load(run: FlowRun | TaskRun, flow_run_id: UUID | None, producer: str | UUID) -> CompletedLoad:
    assert run.state is not None
    return CompletedLoad(
        run_id=str(run.id),
        run_name=run.name,
        state_id=str(run.state.id),
        completed_at=run.state.timestamp,
        sources=tuple(sources_in(run.tags)),
        flow_run_id=None if flow_run_id is None else str(flow_run_id),
        producer=producer,
    )


def _task_name(run: TaskRun) -> str:
    # The history has no names of tasks. A run is named after its task, with the first letters of its key.
    return run.name.removesuffix(f"-{run.dynamic_key[:3]}")


def dead_runs(client: SyncPrefectClient, marker: str, now: datetime) -> Iterator[DeadRun]:
    """Yield the flow runs that are RUNNING by name only: loads with this tag, flows around such tasks, and builds.

    Raises:
        httpx.HTTPError: Prefect's API cannot be reached, or failed.
    """
    long_ago = FlowRunFilterStartTime(before_=now - DEAD_AFTER)
    by_name = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    tagged = FlowRunFilter(tags=FlowRunFilterTags(any_=[marker, BUILDS]), state=by_name, start_time=long_ago)
    any_flow = FlowRunFilter(state=by_name, start_time=long_ago)
    loading = TaskRunFilter(tags=TaskRunFilterTags(all_=[marker]))

    def flow_runs(offset: int) -> list[FlowRun]:
        return client.read_flow_runs(
            flow_run_filter=tagged, sort=FlowRunSort.START_TIME_ASC, limit=_PAGE, offset=offset
        )

    def task_runs(offset: int) -> list[TaskRun]:
        return client.read_task_runs(
            flow_run_filter=any_flow,
            task_run_filter=loading,
            sort=TaskRunSort.END_TIME_DESC,
            limit=_PAGE,
            offset=offset,
        )

    runs = {run.id: run for run in _pages(flow_runs)}
    for flow_run_id in dict.fromkeys(run.flow_run_id for run in _pages(task_runs)):
        if flow_run_id is not None and flow_run_id not in runs:
            runs[flow_run_id] = client.read_flow_run(flow_run_id)
    for run in runs.values():
        last = _last_heartbeat(client, run, now)
        # Without any, heartbeats are switched off, and nothing can be said.
        if last is not None and now - last > DEAD_AFTER:
            yield DeadRun(str(run.id), run.name, last)


def _last_heartbeat(client: SyncPrefectClient, run: FlowRun, now: datetime) -> datetime | None:
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


def _pages(read: Callable[[int], list[Run]]) -> Iterator[Run]:
    """Yield the runs of all pages, each once: runs that end meanwhile shift the pages."""
    seen = set()
    offset = 0
    while True:
        page = read(offset)
        for run in page:
            if run.id not in seen:
                seen.add(run.id)
                yield run
        if len(page) < _PAGE:
            return
        offset += _PAGE
