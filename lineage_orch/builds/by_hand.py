"""What a person asks for by hand: which nodes, and how they are to be built; and the wait for the build lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from lineage_orch.dbt.engine import DbtEngine
from lineage_orch.dbt.microbatch import built_in_part, moment, span_flags
from lineage_orch.errors import LineageError, SettingsError, UnknownNodeError, UnknownSourceError
from lineage_orch.ledger import Extent, Ledger, NodeFact
from lineage_orch.ledger.lock import BuildLock
from lineage_orch.lineage import Lineage
from lineage_orch.plan import plan_graph
from lineage_orch.plan.planner import Views
from lineage_orch.text import few
from lineage_orch.updates import Window

LEFT_TO_HOLDER = "lineage_orch.left_to_holder"
"""The mark in the ledger that a call changes when it finds the build lock taken, and leaves its build to the holder.

Who builds all that is stale finds that by itself; who builds by hand, and only what was asked for, looks here.
"""
REFRESHED_SPAN = (
    "a full refresh of a span of event times would leave that span alone in the table; give the one or the other"
)
"""The message of an error."""
_LOOK_AGAIN = 0.5  # seconds


@dataclass(frozen=True)
class Selected:
    """What names and selectors stand for.

    Attributes:
        sources: unique_ids.
        nodes: unique_ids, in the order of the manifest.
    """

    sources: tuple[str, ...]
    nodes: tuple[str, ...]


def selected(lineage: Lineage, dbt: DbtEngine, select: Collection[str] = (), exclude: Collection[str] = ()) -> Selected:
    """Return what is meant by names, or by selectors of dbt's own grammar, which dbt resolves.

    Args:
        dbt: asked (``ls``) for what is no plain name.
        select: names of sources (with all that is downstream of them) or of nodes, or selectors; none means the
            whole project.
        exclude: the same, for what is taken out again; none means nothing.

    Raises:
        LineageError: a name or selector matches nothing in the project.
        DbtError: dbt cannot read a selector, or could not run.
    """
    sources, nodes = _matched(lineage, dbt, select) if select else (set(lineage.sources), set(lineage.nodes))
    if exclude:
        without = _matched(lineage, dbt, exclude)
        sources, nodes = sources - without[0], nodes - without[1]
    return Selected(
        tuple(each for each in lineage.sources if each in sources),
        tuple(each for each in lineage.nodes if each in nodes),
    )


def _matched(lineage: Lineage, dbt: DbtEngine, names: Iterable[str]) -> tuple[set[str], set[str]]:
    sources: set[str] = set()
    nodes: set[str] = set()
    for name in names:
        try:
            found = lineage.resolve_sources(name)
        except UnknownSourceError as no_source:
            try:
                nodes.add(lineage.resolve_node(name))
            except UnknownNodeError as no_node:
                # What dbt would take for an option is no selector.
                listed = frozenset() if name.startswith("-") else dbt.ls(name)
                if not listed:
                    raise _matches_nothing(name, no_source, no_node) from None
                sources |= listed & lineage.sources.keys()
                nodes |= listed & lineage.nodes.keys()
        else:
            sources.update(found)
            nodes |= lineage.downstream(*found) & lineage.nodes.keys()
    return sources, nodes


def _matches_nothing(name: str, no_source: LineageError, no_node: LineageError) -> LineageError:
    if any(sign in name for sign in "+:@,*/ "):
        return LineageError(f"the selector {name!r} matches nothing in the project; try it with `dbt ls --select`")
    return no_source if "." in name else no_node


@dataclass(frozen=True)
class HandBuild:
    """A build that someone asked for by hand.

    Attributes:
        nodes: unique_ids of what was selected.
        force: whether they are built although they may be up to date, or held.
        flags: what dbt is told in this build alone.
        start: where the batches begin that are built of microbatch models; None where dbt is not told.
        end: where they end, exclusive.
    """

    nodes: frozenset[str]
    force: bool
    flags: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None

    @classmethod
    def of(
        cls,
        lineage: Lineage,
        nodes: Collection[str],
        *,
        force: bool,
        full_refresh: bool,
        event_time_start: datetime | str | None,
        event_time_end: datetime | str | None,
    ) -> HandBuild:
        """Make one of what a person said; a full refresh and a span of event times imply ``force``.

        Raises:
            SettingsError: what was said goes ill together, or with what was selected.
        """
        if event_time_start is None and event_time_end is None:
            return cls(frozenset(nodes), force or full_refresh, ("--full-refresh",) if full_refresh else ())
        if event_time_start is None or event_time_end is None:
            raise SettingsError("a span of event times has two ends; give event_time_start and event_time_end")
        start, end = moment(event_time_start, "event_time_start"), moment(event_time_end, "event_time_end")
        if start >= end:
            raise SettingsError(f"event_time_start {start:%Y-%m-%d %H:%M} is not before event_time_end; exchange them")
        if full_refresh:
            raise SettingsError(REFRESHED_SPAN)
        if nodes and all(lineage.microbatch(node) is None for node in nodes):
            raise SettingsError(
                f"event times say which batches of microbatch models to build, and none is selected ({few(nodes)}); "
                "leave them out"
            )
        return cls(frozenset(nodes), True, span_flags(start, end), start, end)

    def to_plan(self, lineage: Lineage, views: Views, done: Collection[str], tried: Collection[str]) -> Limits:
        """Return what a plan is to be limited to, and what it is to build in any case.

        Args:
            views: the setting. A view above what is selected, through which new data comes, is as good as selected.
            done: what was built for this already.
            tried: what failed for this already, for good.
        """
        left = self.nodes.difference(done)
        only = _with_views_above(lineage, left) if views == "pass_through" else left
        return Limits(only, left.difference(tried) if self.force else frozenset())

    def in_part(
        self,
        lineage: Lineage,
        nodes: Collection[str],
        built: Mapping[str, NodeFact],
        missing: Collection[str],
        now: datetime,
        extents: Mapping[str, Extent],
    ) -> frozenset[str]:
        """Return the microbatch models of which this leaves batches that are due; see :func:`built_in_part`."""
        if self.start is None:
            return frozenset()
        return built_in_part(lineage, nodes, built, missing, now, self.start, self.end, extents)

    @property
    def window(self) -> Window | None:
        """The batches that are built of microbatch models; None where dbt is not told."""
        return None if self.start is None or self.end is None else Window(self.start, self.end)


class Limits(NamedTuple):
    """``only`` and ``forced`` of :func:`lineage_orch.plan.plan_builds`."""

    only: frozenset[str] | None = None
    forced: frozenset[str] = frozenset()


def _with_views_above(lineage: Lineage, nodes: Collection[str]) -> frozenset[str]:
    """Return nodes and the views above them, up to the next table."""
    graph = plan_graph(lineage)
    found = {graph.index[node] for node in nodes if node in graph.index}
    stack = list(found)
    while stack:
        above = graph.views.intersection(graph.parents[stack.pop()]) - found
        found |= above
        stack += above
    return frozenset(graph.ids[number] for number in found)


@contextmanager
def build_lock_by_hand(
    ledger: Ledger, who: str, progress: Callable[[str], object]
) -> Iterator[tuple[BuildLock, str | None]]:
    """Hold the build lock of a ledger; while another has it, wait, and say for whom.

    Gives the lock, and what the mark ``LEFT_TO_HOLDER`` was before: if it is another after the lock was let go, others
    left their build to this holder.

    Args:
        who: names the holder for people that find it taken.
    """
    said = None
    while True:
        left = ledger.mark(LEFT_TO_HOLDER)
        with ledger.build_lock(who) as held:
            if held:
                yield held, left
                return
        holder = ledger.holder()
        name = holder.who if holder else "another process"
        if name != said:
            progress(f"{name} builds now; waiting until it is done. Ctrl-C leaves, and changes nothing.")
            said = name
        time.sleep(_LOOK_AGAIN)
