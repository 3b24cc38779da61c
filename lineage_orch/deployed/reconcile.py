"""Loads that completed and never told us: found in Prefect's own run history.

A load may be killed between its Completed state and its completion hook, or Prefect's API may fail it there. Its
run, of a flow or of a task, is in the history, tagged with its sources.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectException

from lineage_orch.deployed.launch import launch
from lineage_orch.deployed.run_history import CompletedLoad, DeadRun, completed_loads, dead_runs
from lineage_orch.errors import LineageError, TriggerError
from lineage_orch.loads.tags import trigger_tag
from lineage_orch.triggers import Completion

if TYPE_CHECKING:
    from lineage_orch.orchestrator import Orchestrator

# The watermark in the ledger: until when (ISO, UTC) the history was read, for the loads that set off one deployment.
# Each has its own: else a look for the loads of one would pass over those of another.
WATERMARK = "lineage_orch.reconciled_until:{}"
# Read again each time: clocks differ, and a state may reach the server late.
OVERLAP = timedelta(minutes=10)
# How far back to look when there is no watermark yet.
FIRST_LOOK = timedelta(days=1)
# Longer than a hook takes that meets no trouble, and than the clocks of a load and of who looks are apart.
USUAL = timedelta(seconds=5)
# So many lost loads are told one by one.
_TOLD = 10


@dataclass(frozen=True)
class LostLoad:
    """A load that completed without a word to the ledger; its update is recorded now."""

    run_id: str
    run_name: str
    completed_at: datetime
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Reconciliation:
    """What the history told: loads that were lost, runs that are dead, and sources that the manifest lacks.

    ``late`` are the ids of the states of loads that completed within the grace and have told nothing yet, and
    ``look_again`` is when to look for them again.
    """

    since: datetime
    until: datetime
    found: tuple[LostLoad, ...] = ()
    dead: tuple[DeadRun, ...] = ()
    unknown: str | None = None
    late: frozenset[str] = frozenset()
    look_again: datetime | None = None

    def lines(self) -> list[str]:
        """Return what to tell people, one line each; empty if all was in order."""
        lines = [
            f"The load {load.run_name!r} completed at {load.completed_at:%Y-%m-%d %H:%M:%S} UTC and its hook has told "
            f"nothing: {', '.join(load.sources)} recorded as loaded."
            for load in self.found[:_TOLD]
        ]
        if rest := self.found[_TOLD:]:
            sources = sorted({source for load in rest for source in load.sources})
            lines.append(f"So did {len(rest)} more: {', '.join(sources)} recorded as loaded.")
        if self.unknown:
            lines.append(self.unknown)
        lines += [
            f"The run {run.run_name!r} is RUNNING by name, and its last sign of life was at "
            f"{run.last_heartbeat:%Y-%m-%d %H:%M:%S} UTC: its process is gone. "
            f"End it (the server takes some minutes over it) with: {run.mend}"
            for run in self.dead
        ]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "found": [
                {
                    "run_id": load.run_id,
                    "run_name": load.run_name,
                    "completed_at": load.completed_at.isoformat(),
                    "sources": list(load.sources),
                }
                for load in self.found
            ],
            "dead": [
                {
                    "run_id": run.run_id,
                    "run_name": run.run_name,
                    "last_heartbeat": run.last_heartbeat.isoformat(),
                    "mend": run.mend,
                }
                for run in self.dead
            ],
            "unknown": self.unknown,
            "look_again": self.look_again.isoformat() if self.look_again else None,
        }


def reconcile(
    orchestrator: Orchestrator,
    *,
    deployment: str | None = None,
    grace: timedelta = timedelta(0),
    client: SyncPrefectClient | None = None,
) -> Reconciliation:
    """Find loads that completed and that the ledger does not know, since the last look, and record them.

    A lost load counts for the sources among its tags. Those of a flow are all that it declares: what it marked with
    ``mark_updated`` died with it; those of a task are what it marked. A load whose hook did run is known by its
    update's id, and one that found nothing new by a tag. Nothing is built.

    Args:
        orchestrator: whose ledger and manifest.
        deployment: ``flow/name``: only loads that set this off. Default: the setting; without one, the loads that
            build in their own process.
        grace: leave out what completed within this time: its hook may still be at work. The result says when to look
            again.
        client: of Prefect's API; by default a new one.

    Returns:
        What was found, and which runs are RUNNING by name only.

    Raises:
        LedgerError: the ledger cannot be reached or written.
        httpx.HTTPError: Prefect's API cannot be reached, or failed.
    """
    deployment = deployment or orchestrator.settings.deployment
    now = datetime.now(UTC)
    until = now - grace
    watermark = WATERMARK.format(trigger_tag(deployment))
    known_until = orchestrator.ledger.mark(watermark)
    since = (datetime.fromisoformat(known_until) - OVERLAP) if known_until else now - FIRST_LOOK
    with nullcontext(client) if client is not None else get_client(sync_client=True) as api:
        unheard = _unknown_to(orchestrator, completed_loads(api, deployment, since, now))
        lost = [load for load in unheard if load.completed_at <= until]
        late = {load.state_id: load.completed_at for load in unheard if until < load.completed_at <= now - USUAL}
        dead = tuple(dead_runs(api, deployment, now))
        updates = [update for load in lost for update in load.updates(api)]
    unknown = None
    try:
        orchestrator.record(updates)
    except LineageError as error:
        unknown = f"A load in Prefect's history names a source that is not in the manifest: {error}"
    if known_until is None or until > datetime.fromisoformat(known_until):
        orchestrator.ledger.set_mark(watermark, until.isoformat())
    found = tuple(
        LostLoad(load.run_id, load.run_name, load.completed_at, load.sources)
        for load in sorted(lost, key=lambda load: load.completed_at)
    )
    look_again = max(late.values()) + grace + USUAL if late else None
    return Reconciliation(since, until, found, dead, unknown, frozenset(late), look_again)


def reconcile_and_build(
    orchestrator: Orchestrator, *, deployment: str | None = None, say: Callable[[str], Any]
) -> Reconciliation:
    """What ``lineage-orch reconcile`` does: find lost loads, and see to it that all that is owed gets built.

    With a deployment, a run of it is launched; without, it is built here. Also what a killed build left owed is
    taken up so.

    Args:
        orchestrator: whose ledger and manifest.
        deployment: ``flow/name``. Default: the setting; without one, loads that build in their own process.
        say: takes a line for people on each step.

    Raises:
        TriggerError: Prefect's API cannot be reached, or refused, or has no such deployment.
        BuildFailedError: something failed in a build here.
        LineageOrchError: the ledger, the manifest or dbt, as :meth:`Orchestrator.build` says.
    """
    deployment = deployment or orchestrator.settings.deployment
    try:
        found = reconcile(orchestrator, deployment=deployment)
    except (httpx.HTTPError, PrefectException) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise TriggerError(f"Prefect's run history could not be read ({text}); see PREFECT_API_URL") from error
    for line in found.lines() or ["No load was lost."]:
        say(line)
    plan = orchestrator.plan()
    if plan.is_empty and plan.next_due is None:
        say("Nothing is owed.")
    elif deployment is None:
        report = orchestrator.build(who="lineage-orch reconcile", say=say)
        say(report.summary())
        report.raise_for_failures()
    else:
        # Held nodes too: that run schedules the wake-up, if it was lost.
        run = launch(deployment, Completion(()), logging.getLogger(__name__), debounce=0, attempts=2)
        say(f"Run {run.name!r} of {deployment} builds what is owed.")
    return found


def _unknown_to(orchestrator: Orchestrator, loads: list[CompletedLoad]) -> list[CompletedLoad]:
    if not loads:
        return []
    # One update of a run is enough to know that its hook ran: it may have marked only some of its sources.
    known = orchestrator.ledger.known_updates(load.state_id for load in loads)
    return [load for load in loads if load.state_id not in known]
