"""A dbt that builds nothing, and says that it did."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from lineage_orch.dbt.engine import DbtEngine, OnResult, Outcome, Result
from lineage_orch.dbt.freshness import Freshness, Seen
from lineage_orch.errors import DbtError, UnknownNodeError
from lineage_orch.lineage import Lineage
from lineage_orch.plan import plan_graph


class FakeDbt(DbtEngine):
    """A dbt that builds nothing, and says that it did: takes the place of ``DbtRunner`` in an ``Orchestrator``.

    It knows the selectors that a plan hands to dbt, and of those that people write a name with or without ``+``. It
    builds parents before children, runs the unit tests of a model before it and the data tests after it, and skips what
    is downstream of a failure, tests too, as ``dbt build`` does.

    Args:
        lineage: the project, or a function that returns it as of now.
        failing: unique_ids of nodes and tests that fail; change it between builds.
        missing: unique_ids of nodes whose relation is not in the warehouse, until they are built.

    ``contents_of`` holds what is in the tables, node -> fingerprint; what is not in it cannot be compared.
    ``commands`` holds the selectors of each build so far, ``flags`` what it was given beside them, and ``built`` the
    nodes of each, in order; ``messages`` what is said of those that fail, ``seconds`` how long nodes and tests are said
    to have taken. ``loaded`` holds when sources were loaded (aware; None: they have no rows), for who observes them at
    ``now()``, and ``unreadable`` why they cannot be asked.
    """

    has_callbacks = True

    def __init__(
        self, lineage: Lineage | Callable[[], Lineage], *, failing: Iterable[str] = (), missing: Iterable[str] = ()
    ) -> None:
        self._lineage = lineage if callable(lineage) else lambda: lineage
        self.failing = set(failing)
        self.missing = set(missing)
        self.messages: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.loaded: dict[str, datetime | None] = {}
        self.unreadable: dict[str, str] = {}
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.contents_of: dict[str, str] = {}
        self.commands: list[tuple[str, ...]] = []
        self.flags: list[tuple[str, ...]] = []
        self.built: list[list[str]] = []
        self.parses = 0
        self.before_build: Callable[[], None] = lambda: None
        self.before_node: Callable[[str], None] = lambda _: None
        self._busy = threading.Lock()

    def parse(self) -> None:
        """Count the call."""
        self.parses += 1

    def ls(self, selector: str) -> frozenset[str]:
        """Return the nodes that ``name``, ``+name``, ``name+``, ``+name+`` or ``tag:name`` selects; of others none."""
        lineage = self._lineage()
        if selector.startswith("tag:"):
            tags = lineage.tags()
            return frozenset(each for each in lineage.nodes if selector[4:] in tags.get(each, ()))
        graph = plan_graph(lineage)
        try:
            number = graph.index[lineage.resolve_node(selector.strip("+"))]
        except UnknownNodeError:
            return frozenset()
        found = {number}
        if selector.startswith("+"):
            found.update(graph.with_ancestors(number))
        if selector.endswith("+"):
            below = {number}
            for each in range(number + 1, len(graph.ids)):
                if not below.isdisjoint(graph.parents[each]):
                    below.add(each)
            found |= below
        return frozenset(graph.ids[each] for each in found)

    def missing_relations(self, lineage: Lineage) -> frozenset[str]:
        """Return the nodes of the project whose relation is not there."""
        return frozenset(self.missing & lineage.nodes.keys())

    def source_freshness(self, lineage: Lineage, sources: Sequence[str]) -> Freshness:
        """Return what ``loaded`` and ``unreadable`` say of these sources."""
        now = self.now()
        return Freshness(
            {each: Seen(self.loaded[each], now) for each in sources if each in self.loaded},
            {each: self.unreadable[each] for each in sources if each in self.unreadable},
        )

    def contents(self, lineage: Lineage, nodes: Mapping[str, Collection[str]]) -> dict[str, str]:
        """Return what is known of the contents of these nodes."""
        return {node: self.contents_of[node] for node in nodes if node in self.contents_of}

    def build(
        self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        """Build a selection; raises DbtError if another build is running."""
        if not self._busy.acquire(blocking=False):
            raise DbtError("two builds at once")
        try:
            self.flags.append(tuple(flags))
            return self._build(select, exclude, on_result)
        finally:
            self._busy.release()

    def _build(self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult) -> Outcome:
        lineage = self._lineage()
        self.commands.append(tuple(select))
        self.built.append([])
        self.before_build()
        nodes, tests = self._selected(lineage, select)
        if exclude:
            excluded = {lineage.selectors.test(test): test for test in tests}
            tests -= {excluded[selector] for selector in exclude if selector in excluded}
        results: list[Result] = []
        bad: set[str] = set()  # failed, or blocked by what failed
        missing: set[str] = set()  # not there to be tested
        blocked: set[str] = set()  # with a unit test that failed
        waiting = dict.fromkeys(tests)

        def end(unique_id: str, status: str) -> None:
            message = self.messages.get(unique_id, "it was told to") if status in ("error", "fail") else ""
            results.append(Result(unique_id, status, message, seconds=self.seconds.get(unique_id)))
            on_result(results[-1])

        def run_unit_tests(node: str) -> None:
            for test in [each for each in lineage.tests_on(node) if each in waiting and each.startswith("unit_test.")]:
                del waiting[test]
                end(test, "fail" if test in self.failing else "pass")
                if test in self.failing:
                    blocked.add(node)

        def run_tests(done: set[str]) -> None:
            for test in [each for each in waiting if not set(lineage.tested_by(each)) & (nodes - done)]:
                del waiting[test]
                read = set(lineage.tested_by(test))
                if read & missing:
                    end(test, "skipped")
                elif test in self.failing:
                    bad.update(read)
                    end(test, "fail")
                else:
                    end(test, "pass")

        done: set[str] = set()
        run_tests(done)
        for node in plan_graph(lineage).ids[plan_graph(lineage).source_count :]:
            if node not in nodes:
                continue
            self.before_node(node)
            graph = plan_graph(lineage)
            if not (is_blocked := any(graph.ids[parent] in bad for parent in graph.parents[graph.index[node]])):
                run_unit_tests(node)
            if is_blocked or node in blocked:
                bad.add(node)
                missing.add(node)
                end(node, "skipped")
            elif node in self.failing:
                bad.add(node)
                missing.add(node)
                end(node, "error")
            else:
                self.built[-1].append(node)
                self.missing.discard(node)
                end(node, "success")
            done.add(node)
            run_tests(done)
        return Outcome(tuple(results))

    def _selected(self, lineage: Lineage, select: Sequence[str]) -> tuple[set[str], set[str]]:
        selectors = lineage.selectors
        by_selector = {selectors.node(node): node for node in lineage.nodes}
        sources = {selectors.source(source): source for source in lineage.sources}
        nodes: set[str] = set()
        bearers: set[str] = set()
        tests: set[str] = set()
        for selector in select:
            if selector.endswith("+"):
                below = lineage.downstream(sources[selector[:-1]])
                nodes |= below & lineage.nodes.keys()
                tests |= {each for each in below if each.startswith(("test.", "unit_test."))}
                bearers.add(sources[selector[:-1]])
            elif selector in sources:
                bearers.add(sources[selector])
            elif selector in by_selector:
                nodes.add(by_selector[selector])
            elif selector.endswith(",resource_type:test"):
                bearers.add(by_selector[selector.removesuffix(",resource_type:test")])
            else:
                bearers.update(
                    each
                    for node in lineage.nodes
                    for each in lineage.ephemeral_above(node)
                    if selectors.test_bearer(each) == selector
                )
        tests |= {test for each in nodes | bearers for test in lineage.tests_on(each)}
        return nodes, tests
