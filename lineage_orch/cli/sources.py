"""The command ``sources``: what loads each source, and what hangs on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from typing import TYPE_CHECKING

from lineage_orch.cli.app import _DEFAULTS, DONE, Common, _Producers, _put, _say
from lineage_orch.errors import ManifestError

if TYPE_CHECKING:
    from lineage_orch.dbt.project import DbtProject
    from lineage_orch.lineage import Lineage
    from lineage_orch.settings import LineageOrchSettings


def sources(*, producers: _Producers = None, common: Common = _DEFAULTS) -> int:
    """Show each source with its producers and the models below it."""
    from lineage_orch.reports.status import short_names

    lineage, known = _sources_of(common, producers)
    names = short_names(lineage)
    rows = [
        {
            "unique_id": source,
            "name": names[source],
            "has_producer": None if known is None else source in known,
            "producers": None if known is None else known.get(source, []),
            "models": list(models),
        }
        for source, models in sorted(lineage.source_map().items(), key=lambda item: names[item[0]])
    ]
    if common.json:
        _put(common, {"sources": rows}, None)
    else:
        from lineage_orch.reports import tables as render

        _put(common, {}, render.sources_parts(rows, names))
    return DONE


def _sources_of(common: Common, places: list[str] | None) -> tuple[Lineage, dict[str, list[str]] | None]:
    """Return the lineage, and the names of the known producers of each source that has one.

    The names are None where no ledger is asked for, and only the manifest is read.
    """
    from lineage_orch.lineage import Lineage

    if common.manifest is not None and common.ledger is None and places is None:
        return Lineage.from_manifest(common.manifest), None

    from lineage_orch.dbt.project import DbtProject

    settings = common.settings(producers=places)
    project = DbtProject.find(settings)
    lineage = _lineage_of(settings, project)
    known: dict[str, list[str]] = {}
    # A question makes no ledger.
    if settings.ledger is not None or (project.state_dir / "ledger.db").exists():
        from lineage_orch.ledger import Ledger

        url = settings.ledger or project.ledger_url
        with Ledger(url, project=project.name, target=project.target) as ledger:
            known = ledger.producers()
    return lineage, _add_found(known, lineage, settings.producers)


def _lineage_of(settings: LineageOrchSettings, project: DbtProject) -> Lineage:
    """Read the manifest; the orchestrator, and all that it brings, only if dbt must write it first or writes it now."""
    from lineage_orch.lineage import Lineage

    if settings.manifest is not None:
        return Lineage.from_manifest(settings.manifest)
    with suppress(ManifestError):
        if not project.manifest_is_stale():
            return Lineage.from_manifest(project.manifest_path)

    from lineage_orch.orchestrator import Orchestrator

    with redirect_stdout(sys.stderr), Orchestrator(settings) as orchestrator:
        return orchestrator.lineage


def _add_found(known: dict[str, list[str]], lineage: Lineage, places: Sequence[str]) -> dict[str, list[str]]:
    """Add the producers found in these places; what cannot be read is told, and left out."""
    if not places:
        return known
    from lineage_orch.errors import UnknownSourceError
    from lineage_orch.loads.discovery import find_producers

    with redirect_stdout(sys.stderr):  # what the modules print as they are imported
        found = find_producers(places)
    for failure in found.failures:
        _say(f"lineage-orch: {failure.place}: {failure.why}")
    for producer in found.producers:
        for name in producer.sources:
            if "{" in name:
                continue
            try:
                resolved = lineage.resolve_sources(name)
            except UnknownSourceError as error:
                _say(f"lineage-orch: {producer.where}: {error}")
                continue
            for source in resolved:
                if producer.name not in (names := known.setdefault(source, [])):
                    names.append(producer.name)
    return known
