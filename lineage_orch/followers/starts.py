"""Which of the due followers of a plan may start: each as soon as all that it follows, and is in the plan, is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lineage_orch.lineage.followers import Follower
from lineage_orch.plan import BuildPlan
from lineage_orch.updates import Window


@dataclass(frozen=True)
class Start:
    """A follower that is due.

    Attributes:
        follower: which.
        tick: that of the run of builds that found it due: what it is recorded at.
        run_id: the random id of that run.
        sources: the names of the sources whose loads caused it.
        window: the event times in which all that is new for it lies, if it takes a window; None: not known.
    """

    follower: Follower
    tick: int
    run_id: str
    sources: tuple[str, ...] = ()
    window: Window | None = None


class Starts:
    """The due followers of one plan, started one by one while dbt builds.

    Args:
        start: starts a follower, by its unique_id; called once for each, maybe in dbt's threads.
    """

    def __init__(self, plan: BuildPlan, start: Callable[[str], None]) -> None:
        self._start = start
        planned = {*plan.build, *plan.tests_only, *plan.passed_through}
        self._follows = {each: planned.intersection(plan.followers[each].parents) for each in plan.follow}
        # Of those that did not start yet, what they wait for.
        self._waits_for = {each: set(nodes) for each, nodes in self._follows.items()}

    def begin(self) -> None:
        """Start those that wait for nothing."""
        for follower in [each for each, nodes in self._waits_for.items() if not nodes]:
            self._go(follower)

    def recorded(self, node: str) -> None:
        """Start those that waited for this node alone: it is in the ledger, built well."""
        for follower, nodes in list(self._waits_for.items()):
            if node in nodes:
                nodes.discard(node)
                if not nodes:
                    self._go(follower)

    def taken_back(self, node: str) -> None:
        """Let those that did not start yet wait for this node again: it was not built well after all."""
        for follower, nodes in self._waits_for.items():
            if node in self._follows[follower]:
                nodes.add(node)

    def _go(self, follower: str) -> None:
        del self._waits_for[follower]
        self._start(follower)
