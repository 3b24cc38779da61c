"""The one seam to dbt: parse a project, build a selection, and hear of each node as it finishes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lineage_orch.dbt.freshness import Freshness
from lineage_orch.errors import DbtError

if TYPE_CHECKING:
    from lineage_orch.lineage import Lineage


@dataclass(frozen=True, slots=True)
class Result:
    """How one node or test ended for good; the end of one batch of a microbatch model is no result.

    Attributes:
        unique_id: of the node or test.
        status: dbt's: success, error, partial success, pass, warn, fail, skipped, ...
        message: dbt's, which may have many lines.
        failed_batches: of a microbatch model: where each batch that failed begins, as ``2026-01-31`` (with the
            time, where that is not midnight).
        seconds: how long dbt was at it, as it says (``execution_time``); None where it says nothing.
    """

    unique_id: str
    status: str
    message: str = ""
    failed_batches: tuple[str, ...] = ()
    seconds: float | None = None


OnStart = Callable[[str], None]
OnResult = Callable[[Result], None]

# dbt.contracts.results: RunStatus, TestStatus. A test that only warns holds nothing back: its severity says so (dbt
# docs, "severity"). "no-op" is what dbt says of exposures and saved queries, which it does not build.
BUILT = frozenset({"success"})
PASSED = frozenset({"pass", "warn"})
FAILED = frozenset({"error", "fail", "runtime error", "partial success"})


@dataclass(frozen=True)
class Outcome:
    """How a dbt command ended.

    Attributes:
        results: the final result of every node and test that it selected.
        cut_short: dbt stopped at the first failure (``--fail-fast``). Some of its releases then say nothing of what
            they had selected and not yet run.
    """

    results: Sequence[Result] = field(default_factory=tuple)
    cut_short: bool = False


class DbtEngine(Protocol):
    """What the orchestrator needs of dbt. ``lineage_orch.testing.FakeDbt`` is one that builds nothing.

    An engine of your own derives from it: the questions have an answer here, that of an engine which cannot tell.

    Attributes:
        has_callbacks: dbt runs in this process, and calls back. Otherwise each command is a process or a job of its
            own, so that a question may cost seconds.
        tells_assets: in a Prefect run, this tells Prefect by itself which assets a build made of nodes.
    """

    has_callbacks: bool = False
    tells_assets: bool = False

    def version(self) -> str:
        """Return dbt's version, such as ``1.11.16``; "" if it is not known. Raises DbtError if dbt does not answer."""
        return ""

    def end_left(self) -> None:
        """End what a build that was killed has left at work elsewhere.

        Called once the build lock is held, before the project is parsed: no other build of this ledger is at work.
        """
        return

    def parse(self) -> str | None:
        """Write the project's manifest anew; raises DbtError if it does not parse.

        Returns:
            the id of the dbt invocation, if this engine noted by itself what the manifest was made from.
        """
        raise NotImplementedError

    def build(
        self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        """Build a selection; ``flags`` are what this one build needs beside those of the settings.

        ``on_result`` is called as each node or test finishes, in the thread that ran it. Raises DbtError if dbt
        could not run at all, SettingsError if its environment asks for less than whole tables, or for those of another
        place; a node or test that fails is a result, not an error.
        """
        raise NotImplementedError

    def ls(self, selector: str) -> frozenset[str]:
        """Return the unique_ids of the resources that a selector of dbt's grammar matches, as ``dbt ls`` does.

        Raises:
            DbtError: dbt cannot read the selector, or could not run.
        """
        return frozenset()

    def missing_relations(self, lineage: Lineage) -> frozenset[str] | None:
        """Return the unique_ids of the nodes whose relation is not in the warehouse; None if it cannot be told now.

        A node that makes no relation, or one of another kind than dbt's own materializations, is never missing.
        """
        return None

    def source_freshness(self, lineage: Lineage, sources: Sequence[str]) -> Freshness:
        """Return when these sources (unique_ids) were loaded last, as ``dbt source freshness`` says.

        A source for which dbt has no config to go by is in none of its parts.

        Raises:
            DbtError: dbt could not run, or could not be asked for any of them.
        """
        raise DbtError(
            "this way to run dbt cannot say when a source was loaded; hand in the sources.json of a `dbt source "
            "freshness` that ran elsewhere (--sources-json)"
        )

    def contents(self, lineage: Lineage, nodes: Mapping[str, Collection[str]]) -> Mapping[str, str]:
        """Return a fingerprint of what is in the tables of these nodes now: equal ones, equal content.

        Args:
            lineage: the project.
            nodes: unique_ids -> the columns that do not count, in lower case.

        Returns:
            unique_id -> fingerprint, without the nodes of which it cannot be told: any doubt counts as a change. What
            went wrong is in the log.
        """
        return {}
