"""``build_affected``: the Prefect flow that records updates and builds what they affect."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.logging import get_logger
from prefect.states import Completed, Failed

from lineage_orch.deployed.lateness import telling
from lineage_orch.deployed.observe import look
from lineage_orch.deployed.telling import RunTeller
from lineage_orch.errors import LineageError, LineageOrchError, SettingsError, TriggerError
from lineage_orch.loads.completion import Logger
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.text import one_line
from lineage_orch.updates import SourceUpdate


@flow(name="build-affected", persist_result=False)
def build_affected(
    updates: list[dict[str, Any]] | None = None,
    producers: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    observe: bool = False,
) -> State[BuildReport] | BuildReport:
    """Record these updates, and build all that is stale.

    Deploy it once per dbt project. In a deployment it also does the work of the runs that wait with it, finds loads
    whose hook never ran, and schedules a run for the time when something held is due, or for what loads that keep
    coming left when it had built for a few rounds. Elsewhere it returns when its own updates are built, held or
    failed, by itself or by whoever holds the lock; what became stale meanwhile is named in the report's ``more``.

    Args:
        updates: each as :meth:`SourceUpdate.to_dict` writes it.
        producers: the sources, templates and wildcards that a producer is known to load, updated now or not.
        settings: single settings that replace those of the environment and pyproject.toml. In a deployment: as it
            stores them, but for those that it allows to be replaced.
        observe: first look when sources were loaded that no producer reports, and record what is new.

    Raises:
        BuildFailedError: dbt ran, and some nodes or tests failed; they are named.
        DbtError: dbt could not be run; if it could not be asked for the sources, all else was built first.
        LedgerError: the ledger cannot be reached.
        SettingsError: a setting cannot be read, or may not be replaced by a run of this deployment.
        TriggerError: an update cannot be read; nothing was recorded.
        UnknownSourceError: an update names no source of the manifest; all else was built first.
    """
    logger = get_run_logger()
    try:
        with _node_failures_in_one_line():
            report = _record_and_build(updates or [], producers or [], settings, logger, observe=observe)
    except LineageOrchError as error:
        # As a state, and not raised: Prefect logs what a flow raises with its traceback, forty lines before the one
        # that says what is wrong. Whoever calls this flow gets the error raised all the same.
        logger.debug("Where that was raised:", exc_info=True)
        failed: State[Any] = Failed(message=str(error), data=error)
        return failed
    logger.info("%s", report.summary())
    if report.timing:
        logger.info("%s", report.timing)
    return Completed(name="HandedOver" if report.handed_over else "Completed", message=report.summary(), data=report)


# A deployment that was stored by an earlier release still hands these in.
_RETIRED = ("hold_until_first_load",)


def _known(settings: Mapping[str, Any], logger: Logger) -> dict[str, Any]:
    """Return the stored settings without those that are none any more, which is said."""
    retired = [name for name in _RETIRED if name in settings and name not in LineageOrchSettings.model_fields]
    if retired:
        logger.warning(
            "The parameters of this deployment hold %s, which is no setting any more and is passed over; "
            "deploy it again to be rid of this line.",
            ", ".join(retired),
        )
    return {name: value for name, value in settings.items() if name not in retired}


class _NodeFailures(logging.Filter):
    """Takes the traceback from what Prefect logs of a dbt node that failed: twenty lines of prefect-dbt's own frames.

    The line itself stays, and at debug level the traceback too.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and _OF_A_NODE.match(str(error)) and not _TASK_RUNS.isEnabledFor(logging.DEBUG):
            record.exc_info = None
        return True


_TASK_RUNS = get_logger("task_runs")
# As prefect_dbt.core.runner raises it in the task that stands for the node.
_OF_A_NODE = re.compile(r"Node \S+ finished with status ")


@contextmanager
def _node_failures_in_one_line() -> Iterator[None]:
    shorten = _NodeFailures()
    _TASK_RUNS.addFilter(shorten)
    try:
        yield
    finally:
        _TASK_RUNS.removeFilter(shorten)


def _trusted(settings: dict[str, Any], flow_run: FlowRun, deployment_id: UUID, logger: Logger) -> dict[str, Any]:
    """Return the settings that a run of a deployment may have; raises SettingsError, as build_affected says."""
    from lineage_orch.deployed.run_settings import settings_of_run

    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment(deployment_id)
    except (httpx.HTTPError, PrefectException) as error:
        raise SettingsError(
            f"this run's settings could not be compared with its deployment's: Prefect's API failed ({one_line(error)})"
        ) from error
    stored = (deployment.parameters or {}).get("settings") or {}
    return settings_of_run(settings, stored, deployment_tags=deployment.tags, run_tags=flow_run.tags, logger=logger)


def _read(updates: Iterable[Mapping[str, Any]]) -> list[SourceUpdate]:
    try:
        return [SourceUpdate.from_dict(each) for each in updates]
    except ValueError as error:
        raise TriggerError(
            f"the updates among this run's parameters cannot be read: {error}; start it with what SourceUpdate.to_dict "
            "writes"
        ) from None


def _record_and_build(
    updates: Iterable[Mapping[str, Any]],
    producers: Iterable[str],
    settings: dict[str, Any] | None,
    logger: Logger,
    *,
    observe: bool,
) -> BuildReport:
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    who = f"flow run {flow_run.name!r}" if flow_run else "a flow run"
    if flow_run is not None and flow_run.deployment_id is not None:
        settings = _trusted(settings or {}, flow_run, flow_run.deployment_id, logger)
    with Orchestrator(**_known(settings or {}, logger)) as orchestrator:
        loads = _read(updates)
        teller = RunTeller(orchestrator, flow_run.id if flow_run else None, logger, loads)
        unknown: LineageError | None = None
        try:
            orchestrator.record(loads)  # before all that can fail
        except LineageError as error:
            # One wrong name must not keep the others waiting: what could be recorded is.
            logger.error("%s", error)
            unknown = error
        for source in orchestrator.ledger.unchanged_by(load.update_id for load in loads):
            logger.info("Nothing new in %s: the load has the fingerprint of the one before.", source)
        try:
            orchestrator.register_producers(producers)
        except LineageError as error:
            # Not this load's own, perhaps; that one says so when it completes.
            logger.warning("A producer declares a source that is not in the manifest: %s", error)
        not_looked = look(orchestrator, logger) if observe else None
        teller.loads()
        if flow_run is not None and flow_run.deployment_id is not None:
            from lineage_orch.deployed.build import DeployedBuild

            with get_client(sync_client=True) as client:
                deployed = DeployedBuild(client, flow_run, flow_run.deployment_id, settings, logger)
                report = deployed.build(orchestrator, who=who)
        else:
            with telling(orchestrator, logger):
                if loads:
                    # It ends with what it brought: whoever brings more stays for it as well, and builds it.
                    brought = {load.source for load in loads}
                    report = orchestrator.build(who=who, progress=logger.info, rounds=0, wait_for=brought)
                else:
                    report = orchestrator.build(who=who, progress=logger.info)
        teller.build(report)
        for load in loads:
            with suppress(LineageError):  # said above, or by the build
                for source in orchestrator.without_nodes([load.source]):
                    logger.info("No model is downstream of %s: nothing is built for it.", source)
    report.raise_for_failures(carried=orchestrator.settings.fail_on_carried)
    if (carried := report.carried()) is not None:
        logger.warning("%s", carried)
    for failure in (unknown, not_looked):
        if failure is not None:
            raise failure
    return report
