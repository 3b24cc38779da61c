"""What a run of ``build_affected`` tells of promises on freshness: what is late, and what has recovered, once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from lineage_orch.deployed.run_events import RunEvents
from lineage_orch.errors import LineageOrchError
from lineage_orch.loads.completion import Logger
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.reports.freshness import LATE_MARK, Lateness, lateness
from lineage_orch.reports.status import short_names
from lineage_orch.reports.wording import late_line, recovered_line


@contextmanager
def telling(
    orchestrator: Orchestrator, logger: Logger, watch: Callable[[datetime], Any] = lambda _: None
) -> Iterator[None]:
    """At the end of the block, however it ends, tell what became late and what recovered.

    Args:
        watch: is called with the next deadline (UTC), if there is one, so that someone looks then.
    """
    try:
        yield
    finally:
        try:
            deadline = tell(orchestrator, logger)
            if deadline is not None:
                watch(deadline)
        except LineageOrchError as error:  # of a look that only tells: the build is what it is
            logger.warning("Whether anything is late could not be said: %s", error)


def tell(orchestrator: Orchestrator, logger: Logger) -> datetime | None:
    """Tell what became late and what recovered since that was told last; returns the next deadline (UTC), if any.

    Raises:
        LineageOrchError: the manifest or ledger cannot be read, or the ledger not be written.
    """
    # As it was parsed last: a project that does not parse builds nothing, which is when this matters.
    report = orchestrator.freshness(as_parsed=True)
    if not report.rows:
        return None
    found = Lateness()

    def told(mark: str | None) -> str:
        nonlocal found
        found, new = lateness(mark, report)
        return new

    # What others told meanwhile is in the mark; what is told here is in it before it is told.
    orchestrator.ledger.change_mark(LATE_MARK, told)
    names = short_names(orchestrator.lineage_as_parsed)
    RunEvents(orchestrator, logger).lateness(found)
    for row in found.late:
        logger.warning("%s", late_line(row, names))
    for row in found.recovered:
        logger.info("%s", recovered_line(row))
    return report.next_deadline
