"""A backfill: windows of the past are recorded by hand, slice by slice, so that their batches are built again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from lineage_orch.builds.workspace import Workspace
from lineage_orch.errors import LineageError, SettingsError, UnknownNodeError, UnknownSourceError
from lineage_orch.lineage import Lineage
from lineage_orch.plan import plan_graph
from lineage_orch.plan.windows import microbatch_models
from lineage_orch.reports.as_json import picked
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.updates import SourceUpdate, Window


@dataclass
class Backfill:
    """What a backfill did.

    Attributes:
        sources: unique_ids of the sources whose windows are recorded; for a model: those above it.
        node: unique_id of the model of which batches are built again; None for a backfill of sources.
        known: the slices that an earlier call recorded, which are built with the next if they are not built yet.
        done: the slices that were recorded now, and built as far as nothing held them.
        left: the slices that were not begun, since something failed before: the same call goes on with them.
        ok: whether nothing failed, of what it is about.
        reports: of the builds, one for each slice.
    """

    sources: tuple[str, ...]
    node: str | None
    known: list[Window] = field(default_factory=list)
    done: list[Window] = field(default_factory=list)
    left: list[Window] = field(default_factory=list)
    ok: bool = True
    reports: list[BuildReport] = field(default_factory=list)

    @classmethod
    def of(cls, lineage: Lineage, name: str) -> Backfill:
        """Return one of a source (or of all tables, ``source_name.*``) or a microbatch model, which has yet to begin.

        Raises:
            LineageError: nothing in the project has that name.
            SettingsError: nothing that dbt builds in batches has it, or is downstream of it.
        """
        models = {plan_graph(lineage).ids[number] for number in microbatch_models(lineage)}
        try:
            sources = lineage.resolve_sources(name)
        except UnknownSourceError as no_source:
            try:
                node = lineage.resolve_node(name)
            except UnknownNodeError as no_node:
                error: LineageError = no_source if "." in name else no_node
                raise error from None
            if node not in models:
                raise SettingsError(
                    f"{name} is no microbatch model, so it has no batches to build again; build it whole: "
                    f"lineage-orch build --select {name} --force"
                ) from None
            graph = plan_graph(lineage)
            above = graph.sources_above(graph.index[node])
            return cls(tuple(graph.ids[number] for number in sorted(above)), node)
        if models.isdisjoint(lineage.downstream(*sources)):
            raise SettingsError(f"no microbatch model is downstream of {name}, so there are no batches to build again")
        return cls(tuple(sources), None)

    def record(self, workspace: Workspace, window: Window, *, again: bool) -> bool:
        """Record one slice; returns whether it was not known.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        ledger, now = workspace.ledger, workspace.clock()
        load = f"backfill:{self.node or ''}:{window.start.isoformat()}:{window.end.isoformat()}"
        if self.node is not None:
            if not again and ledger.mark(load) is not None:
                return False
            ledger.ask_for([self.node], reason=f"backfill of {window}", window=window)
            ledger.set_mark(load, now.isoformat())
            return True
        if again:
            load = f"{load}:{uuid.uuid4().hex}"
        before = ledger.snapshot(history_of=()).tick
        updates = [
            SourceUpdate(source, load, now, window_start=window.start, window_end=window.end) for source in self.sources
        ]
        # It shows no more than before that the source moves.
        ledger.record_updates(updates, now=now, baseline=True)
        return ledger.snapshot(history_of=()).tick > before

    def take(self, lineage: Lineage, report: BuildReport) -> None:
        """Take what became of a slice: what failed in its build, or failed before and is not tried again now."""
        below = {self.node} if self.node else lineage.downstream(*self.sources)
        self.ok = self.ok and report.ok and below.isdisjoint(report.failing)
        self.reports.append(report)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            **picked(self, "sources", "node", "known", "done", "left"),
            "builds": [report.to_dict() for report in self.reports],
        }


def slices(window: Window, size: timedelta | None) -> Sequence[Window]:
    """Return a window in parts of a size, the last of which may be shorter; whole for None."""

    def cut() -> Iterator[Window]:
        start: datetime = window.start
        while start < window.end:
            end = window.end if size is None or window.end - start <= size else start + size
            yield Window(start, end)
            start = end

    return list(cut())
