"""What Prefect's run history tells of loads: which completed, and which are RUNNING by name only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
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

from lineage_orch.errors import ProducerError
from lineage_orch.followers.deployments import DEAD_AFTER, last_heartbeat
from lineage_orch.loads.declaration import Declaration, can_mean, is_template
from lineage_orch.loads.tags import BUILDS, FOLLOWER, NOTHING_NEW, sources_in, trigger_tag
from lineage_orch.updates import SourceUpdate

if TYPE_CHECKING:
    from uuid import UUID

# Completed states in which no data came, or in which it was taken back.
_NO_LOADS = ("Cached", "RolledBack")
_PAGE = 200

Run = TypeVar("Run", FlowRun, TaskRun)


@dataclass(frozen=True)
class LoadsOf:
    """Whose loads are looked for: those that set off a deployment, or build a dbt project in their own process.

    ``deployment``: ``flow/name``. ``project``: a dbt project's name; None: those that name none.
    """

    deployment: str | None
    project: str | None = None

    def tag(self, *, of_task: bool = False) -> str:
        """Return the tag that their runs have."""
        return trigger_tag(self.deployment, self.project, of_task=of_task)

    def are_others(self, tags: Iterable[str]) -> bool:
        """Whether a run names a dbt project, where those that name none are looked for."""
        if self.deployment is not None or self.project is not None:
            return False
        return any(tag.startswith((f"{self.tag()}:", f"{self.tag(of_task=True)}:")) for tag in tags)


@dataclass(frozen=True)
class CompletedLoad:
    """A run of a producer that ended Completed, with the sources that its tags name.

    Attributes:
        run_id: of the flow run or task run.
        run_name: of it.
        state_id: of its Completed state; the ``update_id`` that its hook reports.
        completed_at: when (UTC).
        sources: names as declared, templates filled.
        flow_run_id: the flow run, also around a task.
        producer: the name of the flow or task, or the id of the flow.
    """

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
    def hint(self) -> str:
        """The command that ends it."""
        return f"prefect flow-run cancel {self.run_id}"


def completed_loads(
    client: SyncPrefectClient, trigger: LoadsOf, since: datetime, until: datetime
) -> list[CompletedLoad]:
    """Return the loads, flows and tasks, that completed in this time and got new data.

    Args:
        since: and
        until: when they completed.

    Raises:
        httpx.HTTPError: Prefect's API cannot be reached, or failed.
    """
    flow_filter = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[trigger.tag()]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED])),
        end_time=FlowRunFilterEndTime(after_=since, before_=until),
    )
    task_filter = TaskRunFilter(
        tags=TaskRunFilterTags(all_=[trigger.tag(of_task=True)]),
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.COMPLETED])),
        end_time=TaskRunFilterEndTime(after_=since, before_=until),
    )
    flows = pages(partial(client.read_flow_runs, flow_run_filter=flow_filter, sort=FlowRunSort.END_TIME_DESC))
    tasks = pages(partial(client.read_task_runs, task_run_filter=task_filter, sort=TaskRunSort.END_TIME_DESC))
    found = [
        _load(run, _sources(sources_in(run.tags), run.parameters), run.id, run.flow_id)
        for run in flows
        if _counts(run, trigger)
    ]
    found += [
        _load(run, _sources(sources_in(run.tags, of_task=True), {}), run.flow_run_id, _task_name(run))
        for run in tasks
        if _counts(run, trigger)
    ]
    return [load for load in found if load.sources]


def _counts(run: FlowRun | TaskRun, trigger: LoadsOf) -> bool:
    is_load = run.state is not None and run.state.name not in _NO_LOADS and NOTHING_NEW not in run.tags
    return is_load and not trigger.are_others(run.tags)


def _sources(names: list[str], parameters: Mapping[str, Any]) -> list[str]:
    """Return which sources a run loaded: the templates that its deployment's tags name are filled, or left out."""
    sources = [name for name in names if not is_template(name)]
    for template in filter(is_template, names):
        if not any(can_mean(template, name) for name in sources):
            with suppress(ProducerError):  # the value is that of a default, which the history does not have
                sources += Declaration((template,)).filled(parameters)
    return sources


def _load(run: FlowRun | TaskRun, sources: list[str], flow_run_id: UUID | None, producer: str | UUID) -> CompletedLoad:
    assert run.state is not None
    return CompletedLoad(
        run_id=str(run.id),
        run_name=run.name,
        state_id=str(run.state.id),
        completed_at=run.state.timestamp,
        sources=tuple(sources),
        flow_run_id=None if flow_run_id is None else str(flow_run_id),
        producer=producer,
    )


def _task_name(run: TaskRun) -> str:
    # The history has no names of tasks. A run is named after its task, with the first letters of its key, unless
    # task_run_name says otherwise; then there is the name of its function.
    name = run.name.removesuffix(f"-{run.dynamic_key[:3]}")
    return name if name != run.name or run.flow_run_id is None else run.task_key.rpartition("-")[0] or name


def running_loads(
    client: SyncPrefectClient, trigger: LoadsOf, until: datetime, now: datetime, *, dead: Collection[str] = ()
) -> list[str]:
    """Return the sources, as they are named, whose loads are running or are scheduled until a time.

    Of flows alone: a run of a task has its tags on the server when it ends.

    Args:
        until: until when a load that is to come counts; as long before now, so does one that is late.
        dead: the ids of runs that are RUNNING by name only.

    Raises:
        httpx.HTTPError: Prefect's API cannot be reached, or failed.
    """
    tags = FlowRunFilterTags(all_=[trigger.tag()])
    running = FlowRunFilter(
        tags=tags, state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    )
    scheduled = FlowRunFilter(
        tags=tags,
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(after_=now - (until - now), before_=until),
    )
    found: dict[str, None] = {}
    for chosen in (running, scheduled):
        for run in pages(partial(client.read_flow_runs, flow_run_filter=chosen, sort=FlowRunSort.START_TIME_ASC)):
            if str(run.id) not in dead:
                found.update(dict.fromkeys(_sources(sources_in(run.tags), run.parameters)))
    return list(found)


def dead_runs(client: SyncPrefectClient, triggers: Sequence[LoadsOf], now: datetime) -> Iterator[DeadRun]:
    """Yield the flow runs that are RUNNING by name only: such loads, flows around such tasks, builds, and followers.

    Raises:
        httpx.HTTPError: Prefect's API cannot be reached, or failed.
    """
    running = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
        start_time=FlowRunFilterStartTime(before_=now - DEAD_AFTER),
    )
    tags = [*(trigger.tag() for trigger in triggers), BUILDS, FOLLOWER]
    tagged = running.model_copy(update={"tags": FlowRunFilterTags(any_=tags)})
    # The tags of a task run are there when it ends: a flow in which none ended has loaded nothing yet.
    loading = TaskRunFilter(tags=TaskRunFilterTags(any_=[trigger.tag(of_task=True) for trigger in triggers]))
    read = partial(client.read_flow_runs, sort=FlowRunSort.START_TIME_ASC)
    loads_and_builds = pages(partial(read, flow_run_filter=tagged))
    around_tasks = pages(partial(read, flow_run_filter=running, task_run_filter=loading))
    runs = {run.id: run for run in (*loads_and_builds, *around_tasks)}
    for run in runs.values():
        last = last_heartbeat(client, run, now)
        # Without any, heartbeats are switched off, and nothing can be said.
        if last is not None and now - last > DEAD_AFTER:
            yield DeadRun(str(run.id), run.name, last)


def pages(read: Callable[..., list[Run]], *, step: int = _PAGE) -> Iterator[Run]:
    """Yield the runs of all pages, each once: runs that end or begin meanwhile shift the pages.

    Args:
        read: reads a page, by its ``limit`` and ``offset``.
        step: how far one page begins after the other: less than a page has, where none may be passed over.
    """
    seen = set()
    offset = 0
    while True:
        page = read(limit=_PAGE, offset=offset)
        for run in page:
            if run.id not in seen:
                seen.add(run.id)
                yield run
        if len(page) < _PAGE:
            return
        offset += step
