"""A trigger that builds nothing, and keeps what completed loads would have set off."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from lineage_orch.errors import LineageError, UnknownNodeError
from lineage_orch.lineage import Lineage
from lineage_orch.updates import LastLoad, SourceUpdate

if TYPE_CHECKING:
    from lineage_orch.loads.completion import Completion, Logger


class Triggered:
    """A trigger that builds nothing, and keeps what completed loads would have set off.

    Hand it to ``lineage_orch.triggers.using_trigger``, or use the pytest fixture ``triggered``. Flows run for real.
    What is told here is all that is downstream of the loaded sources; when a policy would hold a node is a question for
    ``plan_builds(..., now=)``.

    Args:
        lineage: the project, or a function that returns it.

    ``completions`` holds what each completed load reported, in order; ``clear()`` forgets it. A load with the
    fingerprint of the load before loads nothing here either; that is known also after ``clear()``.
    """

    def __init__(self, lineage: Lineage | Callable[[], Lineage]) -> None:
        self._lineage = lineage if callable(lineage) else lambda: lineage
        self.completions: list[Completion] = []
        self._places: dict[str, str] = {}
        self._cleared: list[Completion] = []

    def fire(self, completion: Completion, logger: Logger) -> None:
        """Keep a completion."""
        self.completions.append(completion)
        for update in completion.updates:
            if update.producer is not None and (place := _place_of_flow()) is not None:
                self._places[update.producer] = place

    def clear(self) -> None:
        """Forget what completed so far, but for the fingerprints."""
        self._cleared += self.completions
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
        last: dict[str, LastLoad] = {}
        for completions, tell in ((self._cleared, {}), (self.completions, found)):
            for update in (update for completion in completions for update in completion.updates):
                for source in self._resolve_source(update):
                    before = last.get(source, LastLoad())
                    load = (update.loaded_at, update.fingerprint, update.began_at)
                    if not before.is_repeated_by(*load):
                        tell[source] = None
                    last[source] = before.then(*load)
        return tuple(found)

    def _resolve_source(self, update: SourceUpdate) -> tuple[str, ...]:
        try:
            return self.lineage.resolve_sources(update.source)
        except LineageError as error:
            place = self._places.get(update.producer or "")
            by = f"{update.producer!r}{f' ({place})' if place else ''}" if update.producer else "a load"
            raise type(error)(f"{by} loaded {update.source!r}: {error}; correct its @produces_source") from None

    @property
    def node_ids(self) -> tuple[str, ...]:
        """The unique_ids of the models, snapshots and seeds downstream of them, sorted; ephemeral models left out."""
        lineage = self.lineage
        sources = self.source_ids
        return tuple(sorted(lineage.downstream(*sources) & lineage.nodes.keys())) if sources else ()

    @property
    def sources(self) -> set[str]:
        """The sources that were loaded, by their short names (``source_name.table``)."""
        return self._short(self.source_ids)

    @property
    def models(self) -> set[str]:
        """The models, snapshots and seeds downstream of them, by their short names."""
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
        """Fail unless exactly these models, snapshots and seeds are downstream of what was loaded.

        Args:
            expected: names as people write them: ``mart_orders``, ``package.mart_orders``, ``orders.v2``, unique_ids.

        Raises:
            AssertionError: with the difference, and for each unexpected node its path from a source; or
                with the right names if one is wrong.
        """
        __tracebackhide__ = True
        self._compare(
            [expected] if isinstance(expected, str) else expected, "Not these are downstream of what was loaded."
        )

    def assert_builds_nothing(self) -> None:
        """Fail if any model, snapshot or seed is downstream of what was loaded.

        Raises:
            AssertionError: with each such node and its path from a source.
        """
        __tracebackhide__ = True
        self._compare((), "Something is downstream of what was loaded.")

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
            lines += [f"    {short[each]}    {self._sources_above(each)}" for each in absent]
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

    def _sources_above(self, node: str) -> str:
        import networkx

        above = networkx.ancestors(self.lineage.graph, node)
        sources = sorted(self._short(each for each in above if each in self.lineage.sources))
        if not sources:
            return "downstream of no source at all"
        return f"downstream of {', '.join(sources)}, of which none was loaded"

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
