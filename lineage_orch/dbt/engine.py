"""The one seam to dbt: parse a project, build a selection, and hear of each node as it finishes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

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
    """

    unique_id: str
    status: str
    message: str = ""
    failed_batches: tuple[str, ...] = ()


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


class Dbt(Protocol):
    """What the orchestrator needs of dbt. ``lineage_orch.testing.FakeDbt`` is one that builds nothing."""

    def parse(self) -> str | None:
        """Write the project's manifest anew; raises DbtError if it does not parse.

        Returns:
            the id of the dbt invocation, if this engine noted by itself what the manifest was made from.
        """
        ...

    def build(
        self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        """Build a selection; ``flags`` are what this one build needs beside those of the settings.

        ``on_result`` is called as each node or test finishes, in the thread that ran it. Raises DbtError if dbt
        could not run at all; a node or test that fails is a result, not an error.
        """
        ...


@runtime_checkable
class KnowsRelations(Protocol):
    """A ``Dbt`` that can tell which relations are in the warehouse."""

    def missing_relations(self, lineage: Lineage) -> frozenset[str] | None:
        """Return the unique_ids of the nodes whose relation is not in the warehouse; None if it cannot be told now."""
        ...


def missing_relations(dbt: Dbt, lineage: Lineage) -> frozenset[str] | None:
    """Return what ``KnowsRelations.missing_relations`` does; None of an engine that cannot tell."""
    return dbt.missing_relations(lineage) if isinstance(dbt, KnowsRelations) else None


@runtime_checkable
class ListsSelections(Protocol):
    """A ``Dbt`` that can tell what a selector of dbt's grammar means."""

    def list_selected(self, selector: str) -> frozenset[str]:
        """Return the unique_ids of the resources that a selector matches; raises DbtError where it cannot be read."""
        ...


def list_selected(dbt: Dbt, selector: str) -> frozenset[str]:
    """Return what ``ListsSelections.list_selected`` does; nothing of an engine that cannot tell."""
    return dbt.list_selected(selector) if isinstance(dbt, ListsSelections) else frozenset()
