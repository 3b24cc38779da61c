"""A look at the sources by a run of ``build_affected``, for loads that nothing reports."""

from __future__ import annotations

from lineage_orch.errors import LineageOrchError
from lineage_orch.loads.completion import Logger
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.reports.status import short_names


def look(orchestrator: Orchestrator, logger: Logger) -> LineageOrchError | None:
    """Record the loads that a look at the sources finds; returns why there was none, which keeps nothing unbuilt."""
    try:
        seen = orchestrator.observe()
        names = short_names(orchestrator.lineage)
    except LineageOrchError as error:
        logger.error("The sources could not be looked at: %s", error)
        return error
    for line in seen.findings(names):
        logger.info("%s", line)
    for line in seen.complaints(names):
        logger.warning("%s", line)
    return None
