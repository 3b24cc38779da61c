"""What Prefect knows of the flows that load, for the lineage page: when they run, and how their last run ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from lineage_orch.errors import LineageOrchError
from lineage_orch.reports.page import ProducerNews
from lineage_orch.reports.wording import when
from lineage_orch.text import few, one_line, span

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import DeploymentSchedule, FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

# How long one question to the API may take, in seconds: a page is to be written whether it answers or not.
_PATIENCE = 4.0
_MOST = 200


def producer_news(names: Collection[str]) -> Mapping[str, ProducerNews]:
    """Return what Prefect's API knows of these producers, by name; those that are no flow there are left out.

    Asks once for all of them, three times in all, and no longer than some seconds each.

    Args:
        names: of flows, as the ledger has them.

    Raises:
        LineageOrchError: the API cannot be reached, or failed.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    if not names:
        return {}
    hurried = temporary_settings({PREFECT_API_REQUEST_TIMEOUT: _PATIENCE, PREFECT_CLIENT_MAX_RETRIES: 0})
    try:
        with hurried, get_client(sync_client=True) as client:
            return dict(_news(client, names))
    except (httpx.HTTPError, PrefectException, ValueError) as error:
        raise LineageOrchError(f"Prefect's API did not say when the loads run: {one_line(error)}") from error


def _news(client: SyncPrefectClient, names: Collection[str]) -> Iterator[tuple[str, ProducerNews]]:
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    chosen = FlowFilter(name=FlowFilterName(any_=sorted(names)))
    began = [StateType.RUNNING, StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
    flows = {each.id: each.name for each in client.read_flows(flow_filter=chosen)}
    if not flows:
        return
    deployments = client.read_deployments(flow_filter=chosen)
    runs = client.read_flow_runs(
        flow_filter=chosen,
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=began))),
        sort=FlowRunSort.START_TIME_DESC,
        limit=_MOST,
    )
    for flow_id, name in flows.items():
        mine = [each for each in deployments if each.flow_id == flow_id]
        last = next((each for each in runs if each.flow_id == flow_id), None)
        yield (
            name,
            ProducerNews(
                few(_schedules(mine)),
                (*map(_schedule_line, mine), *_run_lines(last)),
                has_failed=last is not None and last.state_type in (StateType.FAILED, StateType.CRASHED),
            ),
        )


def _schedules(deployments: Iterable[DeploymentResponse]) -> Iterator[str]:
    for each in deployments:
        if not each.paused:
            yield from (_words(schedule) for schedule in each.schedules if schedule.active)


def _schedule_line(deployment: DeploymentResponse) -> str:
    found = few(_words(each) + ("" if each.active else " (off)") for each in deployment.schedules)
    return f"Deployment {deployment.name}: {found or 'no schedule'}{' (paused)' if deployment.paused else ''}."


def _words(schedule: DeploymentSchedule) -> str:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

    found = schedule.schedule
    if isinstance(found, CronSchedule):
        return found.cron + (f" ({found.timezone})" if found.timezone not in (None, "UTC") else "")
    if isinstance(found, IntervalSchedule):
        return f"every {span(found.interval).removeprefix('1 ')}"
    if isinstance(found, RRuleSchedule):
        # Prefect writes a line with its start in front.
        return one_line(found.rrule.rpartition("\n")[2].removeprefix("RRULE:"), most=60)
    return "a schedule"


def _run_lines(run: FlowRun | None) -> Iterator[str]:
    if run is not None and run.state is not None:
        message = f": {one_line(run.state.message, most=160)}" if run.state.message and run.state.is_failed() else ""
        yield f"Last run {run.name}: {run.state.name} at {when(run.end_time or run.start_time)}{message}"
