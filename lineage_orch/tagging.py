"""``producer_tags``: the tags for a deployment of a load."""

from __future__ import annotations

from typing import Any

from prefect.flows import Flow

from lineage_orch.errors import ProducerError
from lineage_orch.loads.tags import load_tags
from lineage_orch.triggers.hook import producer_hook, sets_off

__all__ = ["producer_tags"]


def producer_tags(flow: Flow[Any, Any], deployment: str | None = None) -> list[str]:
    """Return the tags for a deployment of a load: ``flow.to_deployment(..., tags=producer_tags(flow))``.

    Its runs have them from the start, so that they need not be tagged one by one; and the dbt deployment knows
    the load before its first run: a template such as ``crm.{table}`` stands for each source that it can mean.

    Args:
        flow: a flow with ``@produces_source``.
        deployment: what it sets off, as flow/name. Default: what its trigger or the settings say.

    Raises:
        ProducerError: it has no ``@produces_source``, or too many sources.
    """
    hook = producer_hook(flow)
    if hook is None:
        raise ProducerError(f"the flow {flow.name!r} has no @produces_source, so nothing can be said of its sources")
    told = sets_off(hook.chosen_trigger())
    if deployment is not None:
        told["deployment"] = deployment
    return load_tags(hook.declaration.sources, **told)
