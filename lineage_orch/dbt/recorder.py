"""From dbt's results to the ledger: which nodes were built well, recorded as they finish."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from lineage_orch.dbt.engine import BUILT, FAILED, PASSED, Result
from lineage_orch.dbt.retries import Retries
from lineage_orch.errors import LedgerError
from lineage_orch.text import count, listed, one_line

Record = Callable[[str], None]


class BuildRecorder:
    """Hears the results of one dbt run, and records each node once it is built well.

    A node is built well when it succeeded and each test on it that the run selected passed or warned. It is recorded
    when it and the last of its tests have finished, so a ``kill -9`` loses only the nodes in flight. A test that was
    skipped, cancelled or not reported leaves its nodes stale. What is recorded and proved bad later in the run (dbt's
    final result differs from what it said first; a test failed that was not planned) is taken back.

    Args:
        tests: each node that is to be built -> the tests on it that run too.
        record: writes one node to the ledger. It and the other callables are called in dbt's threads, one at a time.
        take_back: takes the record of one node back.
        passed: each node that is not built, and only tested -> the tests on it: a view through which the change flows,
            or what an earlier run built. It is recorded when its tests have passed, before what is below it.
        tested_by: returns the nodes that a test reads; asked for tests that are not in ``tests``.
        check: makes sure that the build lock is still held; called before each record (it keeps to its own pace).
            When it raises LedgerError, nothing more is recorded.
        record_failed: takes each node that failed itself or through a test -> a message of one line; called once,
            at the end, if there is any.
        retries: says which of them failed for a reason that passes and are tried again; these are not recorded as
            failed.

    After one of the callables raised LedgerError none is called again: the build goes on, ``ledger_error`` holds the
    error, and what is not recorded is still stale.

    Attributes:
        built: the nodes that were recorded, in that order.
        passed: the nodes that were only tested, and recorded.
        failed: each node and test that failed -> its message in one line.
        retried: the nodes among them that are tried again.
        unproved: each node that succeeded, and is not recorded since these tests on it were skipped, cancelled or
            not reported.
        unreported: nodes and tests that were planned, and of which dbt's final results do not tell.
        unplanned: nodes that dbt ran unplanned. They are not recorded: what they read may be stale.
        ledger_error: why recording stopped, if it did.
    """

    def __init__(
        self,
        tests: Mapping[str, Collection[str]],
        record: Record,
        take_back: Record | None = None,
        *,
        passed: Mapping[str, Collection[str]] | None = None,
        tested_by: Callable[[str], Iterable[str]] = lambda _: (),
        check: Callable[[], None] | None = None,
        record_failed: Callable[[Mapping[str, str]], None] | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._record = record
        self._take_back = take_back
        self._tested_by = tested_by
        self._check = check
        self._record_failed = record_failed
        self._retries = retries
        self._tests = {node: set(of_node) for node, of_node in tests.items()}
        self._views = {view: set(of_view) for view, of_view in (passed or {}).items()}
        # What each must still hear of before it is recorded.
        self._open = {node: {node, *of_node} for node, of_node in self._tests.items()}
        self._open |= {view: set(of_view) for view, of_view in self._views.items()}
        self._seconds: dict[str, float] = {}
        self._nodes_of: dict[str, list[str]] = {}
        for node, of_node in [*self._tests.items(), *self._views.items()]:
            for test in of_node:
                self._nodes_of.setdefault(test, []).append(node)
        # Node -> what spoils it: its own unique_id, or a test's -> why, in one line; "" where it was only skipped.
        self._bad: dict[str, dict[str, str]] = {}
        # The nodes and tests that failed for a reason that passes.
        self._transient: set[str] = set()
        self._succeeded: set[str] = set()
        # The tests that could not be run, which is another thing than rows that they found.
        self._broken: set[str] = set()
        self.built: list[str] = []
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}
        self.retried: frozenset[str] = frozenset()
        self.unproved: dict[str, tuple[str, ...]] = {}
        self.unreported: tuple[str, ...] = ()
        self.unplanned: tuple[str, ...] = ()
        self.ledger_error: LedgerError | None = None
        for view in self._views:
            self._close(view)

    def on_result(self, result: Result) -> None:
        """Take the result of a node or test as it finishes."""
        with self._lock:
            self._take(result)

    def finish(self, results: Sequence[Result], *, cut_short: bool = False) -> None:
        """Take the final results, which count where they differ from what was heard before.

        A test of which they do not tell was not selected (by ``--indirect-selection cautious``, say), and holds
        nothing back; in a run that was ``cut_short`` it may have been, so there its nodes stay stale.
        """
        with self._lock:
            final = {result.unique_id: result for result in results}
            for result in results:
                self._take(result)
            self.unreported = tuple(
                each for each in dict.fromkeys([*self._tests, *self._nodes_of]) if each not in final
            )
            self.unplanned = tuple(
                unique_id
                for unique_id, result in final.items()
                if result.status in BUILT | FAILED
                and unique_id not in self._open
                and unique_id.startswith(("model.", "snapshot.", "seed."))
            )
            if not cut_short:
                for test in set(self._nodes_of) - final.keys():
                    self._done_with(test)
            for node, of_node in self._open.items():
                if of_node and node not in of_node and not self._bad.get(node):
                    self.unproved[node] = tuple(sorted(of_node))
            failed = {node: why for node, each in self._bad.items() for why in list(filter(None, each.values()))[:1]}
            if self._retries is not None:
                passing = {
                    node: why
                    for node, why in failed.items()
                    if all(cause in self._transient for cause, said in self._bad[node].items() if said)
                }
                self.retried = self._retries.take(passing)
            lasting = {node: why for node, why in failed.items() if node not in self.retried}
            if lasting and (record_failed := self._record_failed) is not None:
                self._tell_ledger(lambda: record_failed(lasting))

    def seconds_of(self, node: str) -> dict[str, float]:
        """Return how long dbt was at a node and its tests, as far as heard; a test of two nodes counts half for each.

        Under the node's unique_id; empty if dbt did not say it of the node itself. It may be asked while the node is
        recorded.
        """
        if node not in self._seconds:
            return {}
        tests = self._tests.get(node) or ()
        shares = (self._seconds.get(each, 0.0) / len(self._nodes_of[each]) for each in tests)
        return {node: self._seconds[node] + sum(shares)}

    @property
    def unbuilt(self) -> list[str]:
        """The nodes of this run that were not built well, and the views whose tests failed."""
        done = {*self.built, *self.passed}
        return [node for node in self._open if node not in done]

    @property
    def untested(self) -> list[str]:
        """The nodes that succeeded themselves, and whose tests did not pass."""
        return [node for node in self._tests if node in self._succeeded and node not in self.built]

    @property
    def untestable(self) -> list[str]:
        """The nodes that were only tested, and of which a test could not be run: what it reads may be gone."""
        return [node for node, tests in self._views.items() if node not in self.passed and tests & self._broken]

    @property
    def done_with(self) -> list[str]:
        """The nodes of ``unbuilt`` that this run has shown not to come to a good end for now.

        Not those that are tried again; nor, where there are any, those that did not fail: they may only have been
        skipped for them.
        """
        if not self.retried:
            return self.unbuilt
        return [node for node in self.unbuilt if node not in self.retried and any(self._bad.get(node, {}).values())]

    @property
    def notes(self) -> list[str]:
        """What people should know of this run beside what was built and what failed, a line each."""
        notes = [
            f"{node} was built, and is still stale: {listed(map(_name, tests))} did not run to the end."
            for node, tests in self.unproved.items()
        ]
        if nodes := [each for each in self.unreported if each in self._tests]:
            notes.append(f"Planned, and not reported by dbt: {listed(nodes, most=10)}. Still stale.")
        if tests := [each for each in self.unreported if each not in self._tests]:
            notes.append(f"Not selected by dbt: {count(tests, 'test')} ({listed(map(_name, tests))}).")
        if self.unplanned:
            notes.append(
                f"Run by dbt, and not planned: {listed(self.unplanned, most=10)}. Not recorded, so what is stale of it "
                "is built again."
            )
        return notes

    def _take(self, result: Result) -> None:
        unique_id, status = result.unique_id, result.status
        if result.seconds is not None:
            self._seconds[unique_id] = result.seconds
        if self._retries is not None and self._retries.is_transient(result):
            self._transient.add(unique_id)
        else:
            self._transient.discard(unique_id)
        for marked, holds in (
            (self._succeeded, unique_id in self._tests and status in BUILT),
            (self._broken, status in FAILED - {"fail"} and unique_id not in self._transient),
        ):
            (marked.add if holds else marked.discard)(unique_id)
        if status in FAILED:
            self.failed[unique_id] = _in_one_line(result)
            if unique_id in self._tests:
                self._spoil(unique_id, unique_id, self.failed[unique_id])
            else:
                nodes = self._nodes_of.get(unique_id)
                for node in self._tested_by(unique_id) if nodes is None else nodes:
                    if node in self._open:
                        self._spoil(node, unique_id, f"{_name(unique_id)}: {self.failed[unique_id]}")
        elif unique_id in self._tests:
            if status in BUILT:
                self._done_with(unique_id)
            else:
                self._spoil(unique_id, unique_id, "")  # skipped, cancelled, a no-op: not built
        elif status in PASSED:
            self._done_with(unique_id)
        else:
            # A test that was skipped: should an event have said otherwise, the final result counts.
            for node in self._nodes_of.get(unique_id, ()):
                self._open[node].add(unique_id)
                self._undo(node)

    def _done_with(self, unique_id: str) -> None:
        self.failed.pop(unique_id, None)
        for node in [unique_id] if unique_id in self._tests else self._nodes_of.get(unique_id, []):
            self._bad.get(node, {}).pop(unique_id, None)
            self._open[node].discard(unique_id)
            self._close(node)

    def _spoil(self, node: str, cause: str, why: str) -> None:
        self._bad.setdefault(node, {})[cause] = why
        self._undo(node)

    def _undo(self, node: str) -> None:
        done = self._done(node)
        if node in done:
            done.remove(node)
            if self._take_back is not None:
                take_back = self._take_back
                self._tell_ledger(lambda: take_back(node))

    def _close(self, node: str) -> None:
        ready = not self._open[node] and not self._bad.get(node) and node not in self._done(node)
        if ready and self._tell_ledger(lambda: self._record(node), checked=True):
            self._done(node).append(node)

    def _done(self, node: str) -> list[str]:
        return self.passed if node in self._views else self.built

    def _tell_ledger(self, tell: Callable[[], object], *, checked: bool = False) -> bool:
        """Write to the ledger unless that failed before; returns whether it was written."""
        if self.ledger_error is not None:
            return False
        try:
            if checked and self._check is not None:
                self._check()
            tell()
        except LedgerError as error:
            self.ledger_error = error
            return False
        return True


def _in_one_line(result: Result) -> str:
    text = one_line(result.message) or result.status
    if result.failed_batches:
        text += f"; failed batches: {', '.join(result.failed_batches)}"
    return text


def _name(test_id: str) -> str:
    """Return the name that people know a test by: the unique_id's third part, or a unit test's last."""
    parts = test_id.split(".")
    return parts[-1] if parts[0] == "unit_test" else parts[2] if len(parts) > 2 else test_id
