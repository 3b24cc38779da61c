"""Tags of Prefect runs: what says of a load which sources it fills and whose build it sets off.

By them a load that completed is found again in Prefect's history when its completion hook never ran. Light: a
load's process imports it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.flows import Flow

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

    from lineage_orch.producers import ProducerHook

# On runs of build_affected: all of a deployment; set off by a load; for the time when something held is due.
BUILDS = "lineage_orch:builds"
TRIGGERED = "lineage_orch:triggered"
WAKE_UP = "lineage_orch:wake-up"
# On runs of a load whose sources were found unchanged: nothing to build, however the run is found.
NOTHING_NEW = "lineage_orch:nothing-new"

_TRIGGERS = "triggers:"
_SOURCE = "source:"


def trigger_tag(deployment: str | None) -> str:
    """Return the tag of loads that set off this deployment (``flow/name``), or a build in their own process."""
    return _TRIGGERS + (deployment or "in-process")


def load_tags(sources: Iterable[str], deployment: str | None) -> list[str]:
    """Return the tags of a run that loads these sources."""
    return [trigger_tag(deployment), *(_SOURCE + source for source in sources)]


def producer_tags(flow: Flow[Any, Any], deployment: str | None = None) -> list[str]:
    """Return the tags for a deployment of a load: ``flow.to_deployment(..., tags=producer_tags(flow))``.

    Its runs have them from the start, so that they need not be tagged one by one; and the dbt deployment knows
    the load before its first run.

    Args:
        flow: a flow with ``@produces_source``; a name that holds parameters of the run is left out.
        deployment: what it sets off, as flow/name. Default: what its trigger or the settings say.

    Raises:
        ProducerError: it has no ``@produces_source``.
    """
    from lineage_orch.errors import ProducerError
    from lineage_orch.producers import producer_hook

    hook = producer_hook(flow)
    if hook is None:
        raise ProducerError(f"the flow {flow.name!r} has no @produces_source, so nothing can be said of its sources")
    sources = [source for source in hook.sources if "{" not in source]
    return load_tags(sources, deployment or getattr(hook._trigger(), "deployment", None))


def sources_in(tags: Iterable[str]) -> list[str]:
    """Return the sources that the tags of a load's run name."""
    return [tag.removeprefix(_SOURCE) for tag in tags if tag.startswith(_SOURCE)]


class TaggingHook:
    """The on_running hook of a producing flow: tags the run with its sources. One HTTP call, and none if tagged."""

    __name__ = "lineage_orch_tags"

    def __init__(self, producer: ProducerHook) -> None:
        self._producer = producer

    def __call__(self, flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> Any:
        """Tag the run; awaited by Prefect when the flow is async, so that its loop stays free."""
        if flow.isasync:
            return self._tag_async(flow, flow_run)
        self._tag(flow, flow_run)
        return None

    async def _tag_async(self, flow: Flow[Any, Any], run: FlowRun) -> None:
        import asyncio

        await asyncio.to_thread(self._tag, flow, run)

    def _tag(self, flow: Flow[Any, Any], run: FlowRun) -> None:
        try:
            from lineage_orch.producers import _with_defaults

            sources = self._producer.filled(_with_defaults(flow, run.parameters or {}))
            deployment = getattr(self._producer._trigger(), "deployment", None)
            add_tags(run, load_tags(sources, deployment))
        except Exception as error:  # noqa: BLE001 - a load is never harmed by what only helps to find it again
            from prefect.logging.loggers import flow_run_logger

            flow_run_logger(run, flow).debug(
                "This run could not be tagged with its sources (%s): if it is killed before its completion hook, "
                "reconcile will not find it.",
                error,
            )


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
