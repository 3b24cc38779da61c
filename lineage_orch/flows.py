"""``build_affected``: the Prefect flow that records updates and builds what they affect."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed

from lineage_orch.errors import LineageError
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.updates import SourceUpdate


@flow(name="build-affected", persist_result=False)
def build_affected(
    updates: list[dict[str, Any]] | None = None,
    producers: list[str] | None = None,
    settings: dict[str, Any] | None = None,
) -> State[BuildReport] | BuildReport:
    """Record these updates, and build all that the ledger owes.

    Deploy it once per dbt project. In a deployment it also does the work of the runs that wait with it, finds loads
    whose hook never ran, and schedules a run for the time when something held is due.

    Args:
        updates: each as :meth:`SourceUpdate.to_dict` writes it.
        producers: the sources that a producer is known to load, updated now or not.
        settings: single settings that replace those of the environment and pyproject.toml.

    Raises:
        BuildFailedError: dbt ran, and some nodes or tests failed; they are named.
        DbtError: dbt could not be run.
        LedgerError: the ledger cannot be reached.
        UnknownSourceError: an update names no source of the manifest; all else was built first.
    """
    logger = get_run_logger()
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    who = f"flow run {flow_run.name!r}" if flow_run else "a flow run"
    with Orchestrator(**(settings or {})) as orchestrator:
        unknown: LineageError | None = None
        try:
            orchestrator.register_producers(producers or ())
        except LineageError as error:
            # Not this load's own, perhaps; that one says so when it completes.
            logger.warning("A producer declares a source that is not in the manifest: %s", error)
        loads = [SourceUpdate.from_dict(each) for each in updates or ()]
        try:
            orchestrator.record(loads)
        except LineageError as error:
            # One wrong name must not keep the others waiting: what could be recorded is.
            logger.error("%s", error)
            unknown = error
        else:
            for source in orchestrator.without_nodes(load.source for load in loads):
                logger.info("No model hangs on %s: nothing is built for it.", source)
        if flow_run is not None and flow_run.deployment_id is not None:
            from lineage_orch.deployed.build import DeployedBuild

            with get_client(sync_client=True) as client:
                deployed = DeployedBuild(client, flow_run, flow_run.deployment_id, settings, logger)
                report = deployed.build(orchestrator, who=who)
        else:
            report = orchestrator.build(who=who, say=logger.info)
    report.raise_for_failures()
    if unknown is not None:
        raise unknown
    logger.info("%s", report.summary())
    return Completed(name="HandedOver" if report.busy else "Completed", message=report.summary(), data=report)
