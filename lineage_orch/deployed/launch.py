"""Launch a run of the ``build_affected`` deployment from a load's process, and leave.

It needs Prefect and nothing else: the image of a load has no dbt, no manifest and no ledger.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRunResult
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending, Scheduled
from prefect.tasks import Task

from lineage_orch.errors import TriggerError, did_you_mean
from lineage_orch.loads.completion import Completion, Logger
from lineage_orch.loads.tags import TRIGGERED
from lineage_orch.text import few, one_line

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, TaskRun

# Seconds before the second attempt; each later one waits twice as long. Enough for a server to restart, and short,
# for a timeout of the load may still be running.
BACKOFF = 3.0


def launch(deployment: str, completion: Completion, logger: Logger, *, debounce: float, attempts: int) -> FlowRun:
    """Create a run of ``deployment`` with the updates of a completed load as parameters; does not wait for it.

    Inside a run of a flow, it is linked to it as a subflow. The HTTP calls are those of one plain
    ``run_deployment(timeout=0)``.

    Args:
        deployment: ``flow/name``.
        debounce: seconds from now until the run is due.
        attempts: how often the API is asked when it cannot be reached, or answers with an error of its own.

    Returns:
        The run, as the API gave it back.

    Raises:
        TriggerError: there is no such deployment, the API refused, or it failed at every attempt.
    """
    # What the attempts of one call share, so that a second one finishes what the first left half done, and makes
    # nothing twice. Not the update's id: a key that was used once brings back the old run, finished or not.
    key = f"lineage_orch:{uuid.uuid4().hex}"
    parameters = {
        "updates": [update.to_dict() for update in completion.updates],
        "producers": list(completion.declared),
    }
    due = datetime.now(UTC) + timedelta(seconds=debounce)
    for attempt in range(1, attempts + 1):
        try:
            run = _create_run(deployment, parameters, due, key)
        except ObjectNotFound:
            raise _no_such_deployment(deployment) from None
        except httpx.HTTPError as error:
            if attempt >= attempts or not _may_pass(error):
                raise _gave_up(deployment, completion, error, attempt) from error
            pause = BACKOFF * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
            logger.warning("Prefect's API did not take the build (%s); asking again in %.0f s.", _short(error), pause)
            time.sleep(pause)
        else:
            logger.info("%s will build what is downstream of %s: run %r.", deployment, _sources(completion), run.name)
            return run
    raise AssertionError("unreachable")


def launch_build(deployment: str, logger: Logger) -> FlowRun:
    """Create a run of ``deployment`` that builds what is stale, now; raises TriggerError as :func:`launch` does."""
    return launch(deployment, Completion(()), logger, debounce=0, attempts=2)


def _create_run(deployment: str, parameters: Mapping[str, Any], due: datetime, key: str) -> FlowRun:
    """Create the run with the calls of ``run_deployment``, each of which the server knows again by ``key``.

    ``run_deployment`` itself numbers the task that links the subflow anew at each attempt, so that a second one left
    a task in the run's graph that is pending for ever.
    """
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        state: State[Any] = Scheduled(scheduled_time=due)
        link = _link(client, deployment, key)
        return client.create_flow_run_from_deployment(
            found.id,
            parameters=dict(parameters),
            state=state,
            tags=[TRIGGERED],
            idempotency_key=key,
            parent_task_run_id=None if link is None else link.id,
        )


def _link(client: SyncPrefectClient, deployment: str, key: str) -> TaskRun | None:
    """Create the task that stands for the subflow in the flow run around us, if there is one; once per ``key``."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    flow_run_id = flow.flow_run.id if flow is not None and flow.flow_run is not None else None
    if flow_run_id is None:
        flow_run_id = task.task_run.flow_run_id if task is not None else None
        if task is None:
            return None
    parents: list[Any] = []
    if task is not None and task.task_run.flow_run_id == flow_run_id:
        parents.append(TaskRunResult(id=task.task_run.id))
    stand_in: Task[[], None] = Task(lambda: None, name=deployment)
    stand_in.task_key = f"{__name__}.{deployment}"
    state: State[Any] = Pending()
    return client.create_task_run(
        stand_in,
        flow_run_id,
        key,
        name=deployment,
        state=state,
        task_inputs={"__parents__": parents} if parents else {},
    )


def _may_pass(error: httpx.HTTPError) -> bool:
    """Whether asking again may help."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return True


def _no_such_deployment(deployment: str) -> TriggerError:
    flow, _, name = deployment.partition("/")
    try:
        with get_client(sync_client=True) as client:
            flows = {each.id: each.name for each in client.read_flows()}
            deployments = client.read_deployments()
        known = [f"{flows[each.flow_id]}/{each.name}" for each in deployments if each.flow_id in flows]
    except Exception:  # noqa: BLE001 - this only looks for a hint
        known = []
    near = did_you_mean(deployment, known)
    if not near:
        near = did_you_mean(name, [each.partition("/")[2] for each in known if each.startswith(f"{flow}/")])
    return TriggerError(
        f"Prefect has no deployment {deployment!r}{near or ';'} deploy it with `lineage-orch serve --name {name}` (or "
        "lineage_orch.deployments.dbt_deployment), or correct the setting deployment (LINEAGE_ORCH_DEPLOYMENT). Once "
        "it is there, its first run finds what was loaded until then"
    )


def _gave_up(deployment: str, completion: Completion, error: httpx.HTTPError, attempts: int) -> TriggerError:
    times = f"{attempts} attempts" if attempts > 1 else "one attempt"
    return TriggerError(
        f"a run of {deployment!r} could not be created, after {times}: {_short(error)}. Nothing is lost: the next "
        f"run of it finds the load of {_sources(completion)} in Prefect's history; `lineage-orch reconcile` does so now"
    )


def _short(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        body = one_line(error.response.text, most=300)
        return f"HTTP {error.response.status_code} {error.response.reason_phrase}" + (f": {body}" if body else "")
    return one_line(error)


def _sources(completion: Completion) -> str:
    return few(update.source for update in completion.updates) or "what is stale"
