"""Launch a run of the ``build_affected`` deployment from a load's process, and leave.

It needs Prefect and nothing else: the image of a load has no dbt, no manifest and no ledger.
"""

from __future__ import annotations

import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from lineage_orch.errors import TriggerError, did_you_mean
from lineage_orch.loads.tags import TRIGGERED

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from lineage_orch.triggers import Completion, Logger

# Seconds before the second attempt; each later one waits twice as long. Enough for a server to restart, and short,
# for a timeout of the load may still be running.
BACKOFF = 3.0


def launch(deployment: str, completion: Completion, logger: Logger, *, debounce: float, attempts: int) -> FlowRun:
    """Create a run of ``deployment`` with the updates of a completed load as parameters; does not wait for it.

    Inside a run of a flow, it is linked to it as a subflow. The HTTP calls are those of one plain
    ``run_deployment(timeout=0)``.

    Args:
        deployment: ``flow/name``.
        completion: what was loaded.
        logger: the load's own.
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
    keys = _Keys()
    for attempt in range(1, attempts + 1):
        try:
            run: Any = run_deployment(
                deployment,
                parameters=parameters,
                scheduled_time=due,
                timeout=0,
                as_subflow=True,
                tags=[TRIGGERED],
                idempotency_key=key,
                # In a hook of an async flow it would else return a coroutine that nobody awaits.
                _sync=True,  # type: ignore[call-arg]
            )
        except ObjectNotFound:
            raise _no_such_deployment(deployment) from None
        except httpx.HTTPError as error:
            if attempt >= attempts or not _may_pass(error):
                raise _gave_up(deployment, completion, error, attempt) from error
            pause = BACKOFF * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
            logger.warning("Prefect's API did not take the build (%s); asking again in %.0f s.", _short(error), pause)
            time.sleep(pause)
            keys.put_back()
        else:
            logger.info("%s will build what hangs on %s: run %r.", deployment, _sources(completion), run.name)
            return cast("FlowRun", run)
    raise AssertionError("unreachable")


class _Keys:
    """The counters by which Prefect numbers the tasks of the run around us, the subflow's link among them.

    Put back before a second attempt, it takes the number of the first again, and the API gives back the task that
    the first made, if it did: no second one stays behind in the run's graph, pending for ever.
    """

    def __init__(self) -> None:
        context = FlowRunContext.get()
        self._counters = context.task_run_dynamic_keys if context is not None else {}
        self._before = dict(self._counters)

    def put_back(self) -> None:
        for task in [task for task in self._counters if "run_deployment" in task]:
            if task in self._before:
                self._counters[task] = self._before[task]
            else:
                del self._counters[task]


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
        "lineage_orch.deployments.dbt_deployment), or mend the setting deployment (LINEAGE_ORCH_DEPLOYMENT). Once "
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
        body = " ".join(error.response.text.split())
        return f"HTTP {error.response.status_code} {error.response.reason_phrase}" + (f": {body[:300]}" if body else "")
    return " ".join(str(error).split()) or type(error).__name__


def _sources(completion: Completion) -> str:
    if not completion.updates:
        return "what is owed"
    names = [update.source for update in completion.updates]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
