"""Test doubles that the library ships, at the seams where it has them."""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lineage_orch.dbt.engine import OnResult, Outcome, Result
from lineage_orch.errors import DbtError, LineageError, UnknownNodeError
from lineage_orch.lineage import Lineage
from lineage_orch.plan import plan_graph

if TYPE_CHECKING:
    from lineage_orch.check.findings import Finding
    from lineage_orch.settings import LineageOrchSettings
    from lineage_orch.triggers import Completion, Logger

# The warnings of `check` that fail a project's test: a source that is loaded by nobody, or by two.
_FAILING = frozenset({"source-without-producer", "source-loaded-twice", "no-producers"})


class FakeDbt:
    """A dbt that builds nothing, and says that it did: takes the place of ``DbtRunner`` in an ``Orchestrator``.

    It knows the selectors that a plan hands to dbt, builds parents before children, runs the tests on what it
    builds, and skips what hangs on a failure, as ``dbt build`` does.

    Args:
        lineage: the project, or a function that returns it as of now.
        failing: unique_ids of nodes and tests that fail; change it between builds.

    ``commands`` holds the selectors of each build so far, ``built`` the nodes of each, in order.
    """

    def __init__(self, lineage: Lineage | Callable[[], Lineage], *, failing: Iterable[str] = ()) -> None:
        self._lineage = lineage if callable(lineage) else lambda: lineage
        self.failing = set(failing)
        self.commands: list[tuple[str, ...]] = []
        self.built: list[list[str]] = []
        self.parses = 0
        self.before_build: Callable[[], None] = lambda: None
        self.before_node: Callable[[str], None] = lambda _: None
        self._busy = threading.Lock()

    def parse(self) -> None:
        """Count the call."""
        self.parses += 1

    def build(self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult) -> Outcome:
        """Build a selection; raises DbtError if another build is running."""
        if not self._busy.acquire(blocking=False):
            raise DbtError("two builds at once")
        try:
            return self._build(select, exclude, on_result)
        finally:
            self._busy.release()

    def _build(self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult) -> Outcome:
        lineage = self._lineage()
        self.commands.append(tuple(select))
        self.built.append([])
        self.before_build()
        nodes, tests = self._selected(lineage, select)
        excluded = {selector: test for test in tests for selector in (lineage.selectors.test(test),)}
        tests -= {excluded[selector] for selector in exclude if selector in excluded}
        results: list[Result] = []
        bad: set[str] = set()  # failed, or blocked by what failed
        missing: set[str] = set()  # not there to be tested
        waiting = dict.fromkeys(tests)

        def end(unique_id: str, status: str) -> None:
            message = "it was told to" if status in ("error", "fail") else ""
            results.append(Result(unique_id, status, message))
            on_result(results[-1])

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
            if any(graph.ids[parent] in bad for parent in graph.parents[graph.index[node]]):
                bad.add(node)
                missing.add(node)
                end(node, "skipped")
            elif node in self.failing:
                bad.add(node)
                missing.add(node)
                end(node, "error")
            else:
                self.built[-1].append(node)
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


class Triggered:
    """A trigger that builds nothing, and keeps what completed loads would have set off.

    Hand it to ``lineage_orch.triggers.using_trigger``, or use the pytest fixture ``triggered``. Flows run for real.
    What is told here is all that hangs on the loaded sources; when a policy would hold a node is a question for
    ``plan_builds(..., now=)``.

    Args:
        lineage: the project, or a function that returns it.

    ``completions`` holds what each completed load reported, in order; ``clear()`` forgets it.
    """

    def __init__(self, lineage: Lineage | Callable[[], Lineage]) -> None:
        self._lineage = lineage if callable(lineage) else lambda: lineage
        self.completions: list[Completion] = []
        self._places: dict[str, str] = {}

    def fire(self, completion: Completion, logger: Logger) -> None:
        """Keep a completion."""
        self.completions.append(completion)
        for update in completion.updates:
            if update.producer is not None and (place := _place_of_flow()) is not None:
                self._places[update.producer] = place

    def clear(self) -> None:
        """Forget what completed so far."""
        self.completions.clear()

    @property
    def lineage(self) -> Lineage:
        """The project."""
        return self._lineage()

    @property
    def source_ids(self) -> tuple[str, ...]:
        """The unique_ids of the sources that were loaded, in the order of their first load.

        Raises:
            UnknownSourceError: a load named a source that the project does not have; the message names the load.
        """
        found: dict[str, None] = {}
        for completion in self.completions:
            for update in completion.updates:
                try:
                    found.update(dict.fromkeys(self.lineage.resolve_sources(update.source)))
                except LineageError as error:
                    place = self._places.get(update.producer or "")
                    by = f"{update.producer!r}{f' ({place})' if place else ''}" if update.producer else "a load"
                    raise type(error)(f"{by} loaded {update.source!r}: {error}; mend its @produces_source") from None
        return tuple(found)

    @property
    def node_ids(self) -> tuple[str, ...]:
        """The unique_ids of the models, snapshots and seeds that hang on them, sorted; ephemeral models left out."""
        lineage = self.lineage
        sources = self.source_ids
        return tuple(sorted(lineage.downstream(*sources) & lineage.nodes.keys())) if sources else ()

    @property
    def sources(self) -> set[str]:
        """The sources that were loaded, by their short names (``source_name.table``)."""
        return self._short(self.source_ids)

    @property
    def models(self) -> set[str]:
        """The models, snapshots and seeds that hang on them, by their short names."""
        return self._short(self.node_ids)

    @property
    def select(self) -> str:
        """What dbt would be given to build all of them: ``"source:a.b.c+ ..."``; "" for nothing."""
        sources = self.source_ids
        return self.lineage.selection(*sources) if sources else ""

    def assert_loaded(self, *sources: str) -> None:
        """Fail unless exactly these sources were loaded (``source_name.*`` means all its tables).

        Raises:
            AssertionError: with the difference, or with the right names if one is wrong.
        """
        __tracebackhide__ = True  # the frames of the double say nothing to the reader of a failed test
        try:
            expected = set(self.lineage.resolve_sources(*sources))
            loaded = set(self.source_ids)
        except LineageError as error:
            raise AssertionError(str(error)) from None
        if expected != loaded:
            lines = ["The loads that completed did not load these sources."]
            lines += [f"  loaded, not expected:  {each}" for each in sorted(self._short(loaded - expected))]
            lines += [f"  expected, not loaded:  {each}" for each in sorted(self._short(expected - loaded))]
            raise AssertionError("\n".join([*lines, *self._if_none()]))

    def assert_builds(self, expected: Iterable[str]) -> None:
        """Fail unless exactly these models, snapshots and seeds hang on what was loaded.

        Args:
            expected: names as people write them: ``mart_orders``, ``package.mart_orders``, ``orders.v2``, unique_ids.

        Raises:
            AssertionError: with the difference, and for each node that nobody expected its path from a source; or
                with the right names if one is wrong.
        """
        __tracebackhide__ = True
        self._compare([expected] if isinstance(expected, str) else expected, "Not these hang on what was loaded.")

    def assert_builds_nothing(self) -> None:
        """Fail if any model, snapshot or seed hangs on what was loaded.

        Raises:
            AssertionError: with each such node and its path from a source.
        """
        __tracebackhide__ = True
        self._compare((), "Something hangs on what was loaded.")

    def _compare(self, expected: Iterable[str], headline: str) -> None:
        __tracebackhide__ = True
        try:
            wanted = {self._resolve_node(each) for each in expected}
            built = set(self.node_ids)
        except LineageError as error:
            raise AssertionError(str(error)) from None
        if wanted == built:
            return
        short = self._names()
        lines = [headline, f"  loaded: {', '.join(short[each] for each in self.source_ids) or 'nothing'}"]
        if unexpected := sorted(built - wanted):
            lines.append("  built, not expected:")
            lines += [f"    {short[each]}    {self._path(each)}" for each in unexpected]
        if absent := sorted(wanted - built):
            lines.append("  expected, not built:")
            lines += [f"    {short[each]}    {self._hangs_on(each)}" for each in absent]
        raise AssertionError("\n".join([*lines, *self._if_none()]))

    def _if_none(self) -> list[str]:
        if self.completions:
            return []
        return [
            "  No load completed. Did the flow end Completed, has it @produces_source, and did mark_updated() "
            "not say that nothing was new?"
        ]

    def _resolve_node(self, name: str) -> str:
        lineage = self.lineage
        try:
            return lineage.resolve_node(name)
        except UnknownNodeError:
            found = (each for each in lineage.graph if each == name or each.split(".", 2)[-1] == name)
            if any(each.startswith("model.") for each in found):
                raise UnknownNodeError(
                    f"{name!r} is ephemeral: dbt builds no table of it; expect the models that read it instead"
                ) from None
            raise

    def _path(self, node: str) -> str:
        import networkx

        lineage = self.lineage
        paths = (
            networkx.shortest_path(lineage.graph, source, node)
            for source in self.source_ids
            if node in lineage.downstream(source)
        )
        return " -> ".join(self._name(each) for each in min(paths, key=len))

    def _hangs_on(self, node: str) -> str:
        import networkx

        above = networkx.ancestors(self.lineage.graph, node)
        sources = sorted(self._short(each for each in above if each in self.lineage.sources))
        if not sources:
            return "hangs on no source at all"
        return f"hangs on {', '.join(sources)}, of which none was loaded"

    def _names(self) -> dict[str, str]:
        from lineage_orch.reports.status import short_names

        return short_names(self.lineage)

    def _name(self, unique_id: str) -> str:
        from lineage_orch.reports.wording import short_name

        return short_name(unique_id, self._names())

    def _short(self, unique_ids: Iterable[str]) -> set[str]:
        names = self._names()
        return {names[each] for each in unique_ids}


def _place_of_flow() -> str | None:
    """Return ``file:line`` of the flow whose completion hook is running, if it can be seen from here."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    fn: Any = getattr(getattr(context, "flow", None), "fn", None)
    code = getattr(inspect.unwrap(fn), "__code__", None) if fn is not None else None
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else None


def check_project(
    project: str | os.PathLike[str] | LineageOrchSettings | None = None,
    *,
    producers: Iterable[str | os.PathLike[str]] | None = None,
    lineage: Lineage | None = None,
    ignore: Iterable[str] = (),
    strict: bool = False,
) -> list[Finding]:
    """Fail when the project and its loads do not fit; a whole test in one line.

    It fails on errors (a producer that names an unknown source, an import that fails, an unreadable policy), on a
    source that no producer loads, on one that two load, and where nobody said where the producers are. All else is
    warned of. Nothing is run and nothing is built.

    Args:
        project: the dbt project's folder, or settings; by default what the environment and pyproject.toml say.
        producers: modules, files or folders to look in; by default the setting ``producers``.
        lineage: the project's lineage, if there is one already: then nothing is parsed.
        ignore: findings to leave out: codes, or ``code:pattern`` (see ``lineage_orch.check.findings``).
        strict: fail on everything.

    Returns:
        what was found and did not fail: warnings.

    Raises:
        AssertionError: with the list of what is wrong, each with its place and its mend.
        SettingsError, DbtError, ManifestError: there is no project, or it cannot be read.
    """
    __tracebackhide__ = True
    from lineage_orch.check.project import read_project
    from lineage_orch.settings import LineageOrchSettings

    overrides: dict[str, Any] = {}
    if producers is not None:
        overrides["producers"] = tuple(os.fspath(each) for each in producers)
    if isinstance(project, LineageOrchSettings):
        settings = project.with_overrides(**overrides)
    else:
        if project is not None:
            overrides["project_dir"] = project
        settings = LineageOrchSettings(**overrides)
    findings = read_project(settings, lineage=lineage).check(ignore=ignore)
    failing = [each for each in findings if strict or each.severity == "error" or each.code in _FAILING]
    left = [each for each in findings if each not in failing]
    for each in left:
        warnings.warn(str(each), ProjectWarning, stacklevel=2)
    if failing:
        many = f"{len(failing)} things do not fit" if len(failing) > 1 else "one thing does not fit"
        listed = "".join(f"\n- {each}" for each in failing)
        raise AssertionError(f"{many} between the dbt project and its loads:{listed}")
    return left


class ProjectWarning(UserWarning):
    """Something between a dbt project and its loads that may be meant so."""
