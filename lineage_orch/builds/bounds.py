"""Where a call ends: how much it builds, and how long it waits for another that builds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import chain
from typing import Any

from lineage_orch.builds.workspace import Workspace, resolved
from lineage_orch.errors import ManifestError
from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.plan import BuildPlan
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.text import few

logger = logging.getLogger(__name__)

ROUNDS = 2
"""How many more dbt runs one call makes for what is loaded while it builds."""
# Seconds between two looks at a lock that another has, and how often a call that waits for it says so.
_LOOK_AGAIN = 1.0
_SAY_AGAIN = 300.0


class Bound:
    """How much one call builds: all that was stale when it began, and some rounds of what became stale since.

    Args:
        rounds: how many; None: until nothing is stale.
    """

    def __init__(self, rounds: int | None) -> None:
        self._rounds = rounds
        self._first: LedgerSnapshot | None = None

    def lets(self, snapshot: LedgerSnapshot, plan: Callable[[LedgerSnapshot], BuildPlan]) -> bool:
        """Whether the call goes on.

        Args:
            snapshot: the ledger now, by which something is to be built.
            plan: what of a ledger is to be built, without what this call tried.
        """
        if self._first is None:
            self._first = snapshot
        elif self._rounds is not None and plan(_as_loaded_then(snapshot, self._first)).needs_no_dbt:
            self._rounds -= 1
            return self._rounds >= 0
        return True


class Wait:
    """The wait of a call that found the lock taken, for others to answer the loads of some sources up to now.

    Args:
        report: what the call did; takes what became of the loads.
    """

    def __init__(
        self, workspace: Workspace, sources: Collection[str], report: BuildReport, progress: Callable[[str], Any]
    ) -> None:
        self._workspace = workspace
        self._sources = sorted(set(sources))
        self._report = report
        self._progress = progress
        self._first: LedgerSnapshot | None = None
        self._say_at = 0.0

    def is_over(self) -> bool:
        """Whether they are answered, which the report then says; sleeps a while if not."""
        began = time.monotonic()
        if self._is_answered():
            self._progress(self._report.summary())
            return True
        if began >= self._say_at:
            self._say_at = began + _SAY_AGAIN
            self._progress(
                f"{self._report.busy} builds now: waiting until what is downstream of {few(self._sources)} is built."
            )
        # A look reads the ledger and plans: cheap for most projects, and never most of what a waiting process does.
        time.sleep(max(_LOOK_AGAIN, 10 * (time.monotonic() - began)))
        return False

    def _is_answered(self) -> bool:
        try:
            found = self._workspace.as_last_parsed()
        except ManifestError as error:
            logger.debug("What others build cannot be said now: %s", error)
            return False
        if found is None:
            return False  # whoever builds has it parsed
        lineage, snapshot = found
        self._first = first = self._first or snapshot
        below = lineage.downstream(*chain.from_iterable(resolved(lineage, self._sources).values()))
        failed = {each: fact for each, fact in snapshot.failures.items() if fact.tick > first.tick}
        plan = self._workspace.plan(lineage, _as_loaded_then(snapshot, first), failed)
        if not below.isdisjoint((*plan.build, *plan.perhaps, *plan.tests_only, *plan.passed_through)):
            return False
        self._report.answered = True
        self._report.failing = {node: fact.message for node, fact in failed.items() if node in below}
        self._report.held = {node: held for node, held in plan.held.items() if node in below}
        self._report.next_due = plan.next_due
        return True


def _as_loaded_then(snapshot: LedgerSnapshot, then: LedgerSnapshot) -> LedgerSnapshot:
    """Return a snapshot without what was loaded and asked for since an earlier one."""
    return replace(snapshot, sources=then.sources, debts=then.debts)
