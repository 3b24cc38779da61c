"""The events that a run of ``build_affected`` emits, for Prefect's automations, and those of Prefect's assets.

A load's process knows no manifest, so not what a source is called in the warehouse: what it loaded is told by the run
that builds for it. Emitting is a matter of a queue in this process, and fails nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prefect.events import emit_event
from prefect.types.names import MAX_ASSET_KEY_LENGTH, RESTRICTED_ASSET_CHARACTERS

from lineage_orch.loads.completion import Logger
from lineage_orch.plan import plan_graph
from lineage_orch.reports.as_json import as_json, iso
from lineage_orch.reports.status import short_names
from lineage_orch.reports.wording import held_reason, late_line, recovered_line, short_name
from lineage_orch.text import one_line

if TYPE_CHECKING:
    from lineage_orch.ledger import LedgerSnapshot, Load
    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.reports.account import Account
    from lineage_orch.reports.freshness import Lateness

PREFIX = "lineage_orch."
"""Before the name of each event, and before the unique_id of what it is about, which makes the id of its resource."""

# The mark in the ledger up to whose tick loads were told.
TOLD = "lineage_orch.told_loads_until"
# So many events a run emits at most: of what thousands of nodes do, the artifact and the ledger tell.
MOST_EVENTS = 1000
# Prefect drops an event that names more than 100 things, those of its run among them.
_MOST_RELATED = 40
# How many loads are told, of those that came since the last run that told any.
_MOST_LOADS = 500
_SAID = 1000


class RunEvents:
    """Emits what a run has to tell."""

    def __init__(self, orchestrator: Orchestrator, logger: Logger) -> None:
        self._orchestrator = orchestrator
        self._logger = logger
        self._lineage = orchestrator.lineage_as_parsed
        self._names = short_names(self._lineage)
        self._left = MOST_EVENTS

    # What happened ----------------------------------------------------------------------------------------

    def lateness(self, found: Lateness) -> None:
        """Emit ``node.late`` and ``node.recovered``, and the same of sources."""
        told = [("late", row, late_line(row, self._names)) for row in found.late]
        told += [("recovered", row, recovered_line(row)) for row in found.recovered]
        for what, row, text in told:
            kind = "source" if row.kind == "source" else "node"
            related = [self._related(source, "source") for source in row.waits_for]
            self._emit(f"{kind}.{what}", row.unique_id, {**row.to_dict(), "text": text}, related)

    def loads(self, before: LedgerSnapshot, own: Collection[str]) -> list[Load]:
        """Emit ``source.updated`` for what was loaded and not told yet, and that its asset was made; returns the loads.

        Each load is told by one run: the mark in the ledger says up to which. A load that brought nothing new, and a
        baseline, are not told.

        Args:
            own: the ids of the updates that the run brought, of which some are in it already. The first run that tells
                any tells these, and what came since.
        """
        ledger = self._orchestrator.ledger
        until = ledger.snapshot(history_of=()).tick
        since: int | None = None

        def told(mark: str | None) -> str:
            nonlocal since
            since = None if mark is None else int(mark)
            return str(max(since or 0, until))

        ledger.change_mark(TOLD, told)
        found = [
            load
            for load in ledger.loads_since(since or 0, limit=_MOST_LOADS)
            if load.tick <= until and load.source in self._lineage.sources and not load.baseline and not load.unchanged
            if since is not None or load.tick > before.tick or load.update_id in own
        ]
        for load in reversed(found):
            run = _run(load.flow_run_id, "load")
            payload = {
                "source": load.source,
                "loaded_at": iso(load.at),
                "update_id": load.update_id,
                "producer": load.producer,
                "flow_run_id": load.flow_run_id,
            }
            self._emit("source.updated", load.source, payload, run)
            self._materialized(load.source, [*_run(load.flow_run_id, "flow-run"), *_by(load.producer or "a load")])
        return found

    def build(self, account: Account, told: Iterable[Load], *, models: bool) -> None:
        """Emit ``node.built``, ``node.failed``, and ``node.held`` for what waits below what was loaded.

        Args:
            told: the loads that this run told: what is held below others was told by the run that told them.
            models: that the assets of nodes were made is told here: what runs dbt does not tell it itself.
        """
        report, lineage = account.report, self._lineage
        loads: dict[str, list[Load]] = {}
        for load in account.loads:
            loads.setdefault(load.source, []).append(load)
        for row in account.built:
            if not self._left:
                return
            after = None if row.after is None else row.after.total_seconds()
            payload = {"node": row.unique_id, "seconds": row.seconds, "unchanged": row.is_unchanged, "after": after}
            self._emit("node.built", row.unique_id, payload, self._caused_by(row.unique_id, loads))
            if models:
                self._materialized(row.unique_id, [*self._upstream(row.unique_id), *_by("dbt")])
        for unique_id, why in report.failed.items():
            message = one_line(why, most=_SAID)
            text = f"{short_name(unique_id, self._names)} failed: {message}"
            payload = {"node": unique_id, "message": message, "text": text}
            self._emit("node.failed", unique_id, payload, self._caused_by(unique_id, loads))
        sources = {load.source for load in told}
        below = lineage.downstream(*sources) if sources else frozenset()
        for unique_id, held in report.held.items():
            if unique_id in below and held.reason not in ("failed", "failing"):
                text = f"{short_name(unique_id, self._names)} is held: {held_reason(held, self._names)}"
                payload = {"node": unique_id, **as_json(held), "text": text}
                waits = [self._related(each, "waits-for") for each in held.waiting_for]
                self._emit("node.held", unique_id, payload, waits)

    # How it is told ---------------------------------------------------------------------------------------

    def _emit(
        self, event: str, unique_id: str, payload: Mapping[str, Any], related: Iterable[Mapping[str, str]] = ()
    ) -> None:
        if not self._left:
            return
        self._left -= 1
        if not self._left:
            self._logger.info("One run emits %d events at most; the rest is in its artifact.", MOST_EVENTS)
        project = self._orchestrator.project
        resource = {
            **self._resource(unique_id),
            "lineage_orch.project": project.name,
            "lineage_orch.target": project.target,
        }
        some = list(map(dict, related))[:_MOST_RELATED]
        emit_event(event=f"{PREFIX}{event}", resource=resource, related=some, payload=dict(payload))

    def _resource(self, unique_id: str) -> dict[str, str]:
        return {
            "prefect.resource.id": PREFIX + unique_id,
            "prefect.resource.name": self._names.get(unique_id, unique_id),
        }

    def _related(self, unique_id: str, role: str) -> dict[str, str]:
        return {**self._resource(unique_id), "prefect.resource.role": role}

    def _caused_by(self, unique_id: str, loads: Mapping[str, list[Load]]) -> list[dict[str, str]]:
        """The sources above a node whose loads the run took in, and the flow runs of these loads."""
        graph = self._lineage.built_graph
        read = [unique_id] if unique_id in graph.index else list(self._lineage.tested_by(unique_id))
        above = {source for each in read for source in self._sources_above(each)} & loads.keys()
        runs = dict.fromkeys(load.flow_run_id for source in sorted(above) for load in loads[source])
        sources = [self._related(source, "source") for source in sorted(above)[: _MOST_RELATED // 2]]
        return [*sources, *(each for run in runs for each in _run(run, "load"))]

    def _sources_above(self, unique_id: str) -> Iterable[str]:
        graph = plan_graph(self._lineage)
        return (graph.ids[number] for number in graph.sources_above(graph.index[unique_id]))

    # Assets -----------------------------------------------------------------------------------------------

    def _materialized(self, unique_id: str, related: list[dict[str, str]]) -> None:
        key = self._asset(unique_id)
        if key is not None and self._left:
            self._left -= 1
            resource = {"prefect.resource.id": key, "prefect.resource.name": self._names.get(unique_id, unique_id)}
            emit_event("prefect.asset.materialization.succeeded", resource=resource, related=related[:_MOST_RELATED])

    def _upstream(self, unique_id: str) -> list[dict[str, str]]:
        graph = self._lineage.built_graph
        keys = (self._asset(graph.ids[parent]) for parent in graph.parents[graph.index[unique_id]])
        return [{"prefect.resource.id": key, "prefect.resource.role": "asset"} for key in keys if key is not None]

    def _asset(self, unique_id: str) -> str | None:
        lineage = self._lineage
        source = lineage.sources.get(unique_id)
        relation = source.relation_name if source is not None else str(lineage.relation(unique_id))
        return asset_key(lineage.adapter_type, relation) if lineage.adapter_type and relation else None


def asset_key(adapter_type: str, relation_name: str) -> str:
    """Return the key of the asset that a relation is, as prefect-dbt makes it (``utilities.format_resource_id``).

    Not taken from there: where dbt runs as a process, prefect-dbt is perhaps not installed.
    """
    path = relation_name.replace('"', "").replace(".", "/")
    for character in RESTRICTED_ASSET_CHARACTERS:
        path = path.replace(character, "")
    return f"{adapter_type}://{path}"[:MAX_ASSET_KEY_LENGTH]


def _run(flow_run_id: str | None, role: str) -> list[dict[str, str]]:
    if flow_run_id is None:
        return []
    return [{"prefect.resource.id": f"prefect.flow-run.{flow_run_id}", "prefect.resource.role": role}]


def _by(tool: str) -> list[dict[str, str]]:
    return [{"prefect.resource.id": tool, "prefect.resource.role": "asset-materialized-by"}]
