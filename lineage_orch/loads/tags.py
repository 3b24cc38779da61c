"""Tags of Prefect runs: what says of a load which sources it fills and whose build it sets off.

By them a load that completed is found again in Prefect's history when its completion hook never ran. Light: a
load's process imports it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from prefect.client.orchestration import get_client
from prefect.flows import Flow

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State, TaskRun
    from prefect.tasks import Task

    from lineage_orch.producers import ProducerHook

# On runs of build_affected: all of a deployment; set off by a load; for the time when something held is due.
BUILDS = "lineage_orch:builds"
TRIGGERED = "lineage_orch:triggered"
WAKE_UP = "lineage_orch:wake-up"
# On runs of a load whose sources were found unchanged: nothing to build, however the run is found.
NOTHING_NEW = "lineage_orch:nothing-new"

_TRIGGERS = "triggers:"
_SOURCE = "source:"
# Before both, on runs of a task: what stands in ``prefect.tags(...)`` around it, which may be those of a load's
# deployment, is on it too, and makes no load of it.
_OF_TASK = "task-"

# Prefect drops an event that names more than 100 things, tags among them, and with it the state of a task.
_MOST_TAGS = 25
# From so many sources on, several share a tag, as a JSON list of at most so many characters.
_MANY_SOURCES = 20
_LONGEST_TAG = 1000


def trigger_tag(deployment: str | None, *, of_task: bool = False) -> str:
    """Return the tag of loads that set off this deployment (``flow/name``), or a build in their own process."""
    return _prefix(_TRIGGERS, of_task) + (deployment or "in-process")


def _prefix(kind: str, of_task: bool) -> str:
    return _OF_TASK + kind if of_task else kind


def load_tags(sources: Iterable[str], deployment: str | None) -> list[str]:
    """Return the tags of a flow run that loads these sources.

    Raises:
        ProducerError: there are too many of them.
    """
    return [trigger_tag(deployment), *_source_tags(list(sources))]


def _source_tags(sources: list[str], *, of_task: bool = False) -> list[str]:
    prefix = _prefix(_SOURCE, of_task)
    if len(sources) <= _MANY_SOURCES:
        return [prefix + source for source in sources]
    packs: list[list[str]] = [[]]
    for source in sources:
        if packs[-1] and len(json.dumps([*packs[-1], source])) > _LONGEST_TAG:
            packs.append([])
        packs[-1].append(source)
    if len(packs) > _MOST_TAGS:
        from lineage_orch.errors import ProducerError

        raise ProducerError(
            f"{len(sources)} sources are too many for the tags of a run; name them together, as source_name.*"
        )
    return [prefix + json.dumps(pack) for pack in packs]


def producer_tags(flow: Flow[Any, Any], deployment: str | None = None) -> list[str]:
    """Return the tags for a deployment of a load: ``flow.to_deployment(..., tags=producer_tags(flow))``.

    Its runs have them from the start, so that they need not be tagged one by one; and the dbt deployment knows
    the load before its first run.

    Args:
        flow: a flow with ``@produces_source``; a name that holds parameters of the run is left out.
        deployment: what it sets off, as flow/name. Default: what its trigger or the settings say.

    Raises:
        ProducerError: it has no ``@produces_source``, or too many sources.
    """
    from lineage_orch.errors import ProducerError
    from lineage_orch.producers import producer_hook

    hook = producer_hook(flow)
    if hook is None:
        raise ProducerError(f"the flow {flow.name!r} has no @produces_source, so nothing can be said of its sources")
    sources = [source for source in hook.sources if "{" not in source]
    return load_tags(sources, deployment or getattr(hook._trigger(), "deployment", None))


def sources_in(tags: Iterable[str], *, of_task: bool = False) -> list[str]:
    """Return the sources that the tags of a load's run name."""
    prefix = _prefix(_SOURCE, of_task)
    sources: list[str] = []
    for tag in tags:
        if tag.startswith(prefix):
            text = tag.removeprefix(prefix)
            try:
                sources += json.loads(text) if text.startswith("[") else [text]
            except ValueError:
                sources.append(text)  # somebody else's tag
    return sources


class TaggingHook:
    """The on_running hook of a producer: tags the run with its sources.

    For a flow it is one HTTP call, and none if the run has the tags. For a task it is none: the state that ends a
    task run takes its tags along to the server.
    """

    __name__ = "lineage_orch_tags"

    def __init__(self, producer: ProducerHook) -> None:
        self.producer = producer

    def __call__(self, producer: Flow[Any, Any] | Task[Any, Any], run: FlowRun | TaskRun, state: State[Any]) -> Any:
        """Tag the run; awaited by Prefect when it is of an async flow, so that its loop stays free."""
        from lineage_orch.producers import _engine_parameters

        parameters = _engine_parameters(sys._getframe(1), producer, run)
        if isinstance(producer, Flow) and producer.isasync:
            return asyncio.to_thread(self._tag, producer, run, parameters)
        self._tag(producer, run, parameters)
        return None

    def _tag(
        self, producer: Flow[Any, Any] | Task[Any, Any], run: FlowRun | TaskRun, parameters: Mapping[str, Any]
    ) -> None:
        try:
            deployment = getattr(self.producer._trigger(), "deployment", None)
            sources = self.producer.filled(parameters)
            if isinstance(producer, Flow):
                add_tags(cast("FlowRun", run), load_tags(sources, deployment))
            else:
                from lineage_orch.producers import marked_in

                marked = marked_in(run)  # before a retry
                tag_task_run(cast("TaskRun", run), sources if marked is None else marked)
                run.tags = list(dict.fromkeys([*run.tags, trigger_tag(deployment, of_task=True)]))
        except Exception as error:  # noqa: BLE001 - a load is never harmed by what only helps to find it again
            from lineage_orch.producers import _logger

            _logger(producer, run).debug(
                "This run could not be tagged with its sources (%s): if it is killed before its completion hook, "
                "reconcile will not find it.",
                error,
            )


def tag_task_run(run: TaskRun, sources: Iterable[str]) -> None:
    """Have the tags of a task run that goes on name these sources, in place of those that they name; maybe none.

    Raises:
        ProducerError: there are too many of them.
    """
    tags = _source_tags(sorted(sources), of_task=True) or [NOTHING_NEW]
    ours = (_OF_TASK + _SOURCE, NOTHING_NEW)
    run.tags = [*(tag for tag in run.tags if not tag.startswith(ours)), *tags]


def add_tags(run: FlowRun, tags: Iterable[str]) -> None:
    """Add tags to a run, keeping those it has; asks nothing of the API if it has them all."""
    # The call replaces all tags.
    merged = list(dict.fromkeys([*run.tags, *tags]))
    if len(merged) == len(run.tags):
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, tags=merged)
    run.tags = merged


def tag_nothing_new(run: FlowRun) -> None:
    """Say on a completed run that none of its sources got new data, so that reconcile leaves it alone."""
    add_tags(run, [NOTHING_NEW])
