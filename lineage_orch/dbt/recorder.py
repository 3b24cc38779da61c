"""From dbt's results to the ledger: which nodes were built well, recorded as they finish."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from lineage_orch.dbt.engine import FAILED, GOOD, Result
from lineage_orch.errors import LedgerError

Record = Callable[[str], None]


class BuildRecorder:
    """Hears the results of one dbt run and records each node once it is built well.

    A node is built well when it succeeded and no error-severity test on it failed in that run. So it is recorded
    when it and the last of its tests have finished: after a ``kill -9`` only nodes in flight are built again.

    ``tests`` maps each node that is being built to the tests on it that run too, and ``passed`` each view through
    which the change flows to those on it: it is not built, so it is recorded when its tests have passed, before
    what hangs on it. ``record`` writes one node to the ledger; it is called in dbt's threads. After it raised
    LedgerError once it is not called again: the build goes on, ``ledger_error`` holds the error, and what is not
    recorded stays owed.
    """

    def __init__(
        self,
        tests: Mapping[str, Collection[str]],
        record: Record,
        *,
        passed: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._record = record
        self._open: dict[str, set[str]] = {node: {node, *of_node} for node, of_node in tests.items()}
        self._passed = dict(passed or {})
        self._open |= {view: set(of_view) for view, of_view in self._passed.items()}
        self._nodes_of: dict[str, list[str]] = {}
        for node, of_node in [*tests.items(), *self._passed.items()]:
            for test in of_node:
                self._nodes_of.setdefault(test, []).append(node)
        self._bad: set[str] = set()
        self.built: list[str] = []
        self.failed: dict[str, str] = {}
        self.passed: list[str] = []
        self.ledger_error: LedgerError | None = None
        for view in self._passed:
            self._close(view)

    def on_result(self, result: Result) -> None:
        """Take the result of a node or test as it finishes."""
        with self._lock:
            self._take(result, final=False)

    def finish(self, results: Sequence[Result]) -> None:
        """Take the final results, for what no event told of, and for tests that were not selected after all."""
        with self._lock:
            for result in results:
                self._take(result, final=True)
            succeeded = {result.unique_id for result in results if result.status in GOOD}
            for node in list(self._open):
                if node in succeeded or node in self._passed:
                    self._open[node].clear()
                    self._close(node)

    @property
    def unbuilt(self) -> list[str]:
        """The nodes of this run that were not built well, and the views whose tests failed."""
        return [node for node in self._open if node not in self.built and node not in self.passed]

    def _take(self, result: Result, *, final: bool) -> None:
        affected = [result.unique_id] if result.unique_id in self._open else self._nodes_of.get(result.unique_id, [])
        if result.status in FAILED:
            self._bad.update(affected)
            if final or result.unique_id not in self.failed:
                self.failed[result.unique_id] = _first_line(result)
            return
        if result.unique_id in self._open and result.status not in GOOD:
            self._bad.add(result.unique_id)  # skipped, or cut short: not built
            return
        for node in affected:
            self._open[node].discard(result.unique_id)
            self._close(node)

    def _close(self, node: str) -> None:
        done = self.passed if node in self._passed else self.built
        if self._open[node] or node in self._bad or node in done or self.ledger_error is not None:
            return
        try:
            self._record(node)
        except LedgerError as error:
            self.ledger_error = error
        else:
            done.append(node)


def _first_line(result: Result) -> str:
    lines: Iterable[str] = (line.strip() for line in result.message.splitlines())
    text = " ".join(line for line in lines if line)
    return text or result.status
