"""The commands that ask, and change nothing: ``plan``, ``status``, ``explain``, ``history``, ``report`` and others."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lineage_orch.cli.common import (
    DEFAULTS,
    DONE,
    FAILED,
    Common,
    Limit,
    Named,
    Producers,
    Selected,
    Since,
    names_in,
    now,
    print_result,
    progress,
    span_or_time,
)
from lineage_orch.errors import (
    LedgerError,
    LineageOrchError,
    ManifestError,
    SettingsError,
    UnknownNodeError,
    UnknownSourceError,
)
from lineage_orch.text import count, few

if TYPE_CHECKING:
    from lineage_orch.dbt.project import DbtProject
    from lineage_orch.lineage import Lineage
    from lineage_orch.loads.following import Following
    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.reports.page import Page
    from lineage_orch.settings import LineageOrchSettings


# Up to so many sources, each is shown with all of its models.
_FEW = 10


def plan(
    *name: Selected,
    check_relations: Annotated[
        bool, Parameter(help="Ask the warehouse too whether each table and view is still there, as a build does.")
    ] = False,
    compare: Annotated[
        Path | None,
        Parameter(
            help="A manifest.json of before a change: say instead what the change makes stale, as Markdown for a pull "
            "request. Of the ledger, where there is one, only the usual times are read."
        ),
    ] = None,
    limit: Limit = None,
    common: Common = DEFAULTS,
) -> int:
    """Show what a build would do now (a dry run): what would build and for which sources, what is held and why."""
    from lineage_orch.reports import tables

    if compare is not None:
        if name or check_relations or limit is not None:
            raise SettingsError("--compare goes with no names, --check-relations or --limit; leave these out")
        return _compare(compare, common)
    with common.orchestrator() as orchestrator:
        plan = orchestrator.plan(check_relations=check_relations)
        only = orchestrator.named(name) if name else None
        expected = orchestrator.estimate(plan)
        data = tables.plan_to_dict(plan, expected, only)
        command, names = orchestrator.settings.dbt_command, names_in(orchestrator)
        parts = [] if common.json else tables.plan_parts(plan, names, now(), command, expected, only)
    print_result(common, data, tables.limited(parts, limit))
    return DONE


def _compare(before: Path, common: Common) -> int:
    from lineage_orch.dbt.command import threads_in
    from lineage_orch.lineage import Lineage
    from lineage_orch.plan import estimate
    from lineage_orch.reports.compare import compare, comparison_markdown

    with common.orchestrator() as orchestrator:
        new, settings, project = orchestrator.lineage, orchestrator.settings, orchestrator.project
        seconds: dict[str, float] = {}
        note = ""
        if project.has_ledger(settings.ledger):
            try:
                seconds = orchestrator.ledger.median_seconds(new.nodes)
            except LedgerError as error:
                note = f"How long it takes is not known: {error}"
        found = compare(Lineage.from_manifest(before, vars=project.vars_of_code), new, seconds)
        threads = threads_in(settings.dbt_flags) or project.profile.threads or 1
        expected = estimate(new, (each.node for each in found.stale), seconds, threads)
    if common.json:
        print_result(common, found.to_dict(expected), None)
    else:
        print(comparison_markdown(found, expected, note=note), end="")
    return DONE


def status(
    *name: Selected,
    stale: Annotated[bool, Parameter(help="Only nodes that are stale: due, held, failing, or not built here.")] = False,
    held: Annotated[bool, Parameter(help="Only nodes that are held.")] = False,
    failing: Annotated[bool, Parameter(help="Only nodes that fail.")] = False,
    limit: Limit = None,
    producers: Producers = None,
    common: Common = DEFAULTS,
) -> int:
    """Show what the ledger knows of each source and node, what is stale, and who builds."""
    from lineage_orch.reports import tables
    from lineage_orch.reports.status import STALE, NodeState

    states: set[NodeState] = set()
    states |= STALE if stale else set()
    states |= {"held"} if held else set()
    states |= {"failing"} if failing else set()
    with common.orchestrator(producers=producers) as orchestrator:
        status = orchestrator.status()
        shown = status.only(orchestrator.named(name) if name else None, states)
    parts = [] if common.json else tables.status_parts(status, now(), shown)
    print_result(common, shown.to_dict(), tables.limited(parts, limit))
    return DONE


def explain(
    node: Annotated[
        str,
        Parameter(
            help="A model, snapshot or seed: its name, package.name, name.v2 or unique_id; or a source or follower."
        ),
    ],
    /,
    *,
    common: Common = DEFAULTS,
) -> int:
    """Say why a node will build, is held or is up to date, and what would make it build; or what a source reaches."""
    from lineage_orch.reports.wording import explanation_lines

    with common.orchestrator() as orchestrator:
        try:
            explanation = orchestrator.explain(node)
        except UnknownNodeError as no_node:
            data, lines = _explain_other(orchestrator, node, no_node)
        else:
            data, lines = explanation.to_dict(), explanation_lines(explanation)
            names, nodes = names_in(orchestrator), orchestrator.lineage.nodes
            below = sorted(each for each in orchestrator.lineage.named(f"{explanation.node}+") if each in nodes)
            below.remove(explanation.node)
            data["downstream"] = below
            if below:
                lines.append(
                    f"Downstream of it: {count(below, 'node')}: {few((names[each] for each in below), most=8)}"
                )
    print_result(common, {**data, "lines": lines}, lines)
    return DONE


def _explain_other(
    orchestrator: Orchestrator, name: str, no_node: UnknownNodeError
) -> tuple[dict[str, Any], list[str]]:
    """Explain a source or a follower; raises ``no_node`` if the name is neither's."""
    with suppress(UnknownSourceError):
        return _explain_source(orchestrator, orchestrator.lineage.resolve_source(name))
    from lineage_orch.reports.follower_wording import follower_lines

    try:
        status = orchestrator.explain_follower(name)
    except UnknownNodeError:
        raise no_node from None
    return status.to_dict(), follower_lines(status, names_in(orchestrator), now())


def _explain_source(orchestrator: Orchestrator, source: str) -> tuple[dict[str, Any], list[str]]:
    from lineage_orch.reports.as_json import picked
    from lineage_orch.reports.wording import source_lines

    lineage = orchestrator.lineage
    status = orchestrator.status().only(lineage.named(f"{source}+"))
    (row,) = (each for each in status.sources if each.unique_id == source)
    producers = orchestrator.ledger.producers().get(source, [])
    by = orchestrator.built_by().get(source)
    data = {
        "source": source,
        **picked(row, "name", "tick", "loaded_at", "has_producer", "paused"),
        "producers": producers,
        "built_by": by.to_dict() if by else None,
        "downstream": {each.unique_id: each.state for each in status.nodes},
        "select": lineage.selection(source),
    }
    return data, source_lines(status, row, producers, lineage.selection(source), now(), by)


def sources(*name: Named, limit: Limit = None, producers: Producers = None, common: Common = DEFAULTS) -> int:
    """Show each source with its producers, the models below it, and what follows these.

    Producers are those that the ledger knows, and those found where --producers or the setting producers says. With
    --manifest, and neither --ledger nor --producers, nothing but that file is read.
    """
    from lineage_orch.plan.followers import followers_of
    from lineage_orch.reports.status import short_names

    lineage, known, declared = _sources_of(common, producers)
    followers = followers_of(lineage, declared)
    names = short_names(lineage)
    only = frozenset(each for one in name for each in lineage.named(one)) if name else lineage.sources.keys()
    rows = [
        {
            "unique_id": source,
            "name": names[source],
            "has_producer": None if known is None else source in known,
            "producers": None if known is None else known.get(source, []),
            "models": list(models),
            "followers": [each.name for each in followers if not below.isdisjoint(each.parents)],
        }
        for source, models in sorted(lineage.source_map().items(), key=lambda item: names[item[0]])
        if source in only
        for below in [{source, *lineage.downstream(source)} if followers else frozenset()]
    ]
    if common.json:
        print_result(common, {"sources": rows}, None)
    else:
        from lineage_orch.reports import tables

        # Of few sources, all that is below them.
        parts = tables.sources_parts(rows, names, most=len(names) if len(rows) < _FEW else 5)
        print_result(common, {}, tables.limited(parts, limit))
    return DONE


def report(*, since: Since = "7d", common: Common = DEFAULTS) -> int:
    """Show what was loaded and built in the last days, and what one dbt command per load would have cost."""
    from lineage_orch.reports import tables

    start = _since(since)
    with common.orchestrator() as orchestrator:
        found = orchestrator.activity(start)
        if (kept := orchestrator.settings.keep_days) < (found.until - found.since).days:
            progress(
                f"The ledger keeps {count(kept, 'day')} of history (setting keep_days); what is older is not counted."
            )
    print_result(common, found.to_dict(), tables.activity_parts(found))
    return DONE


def history(
    *name: Selected,
    since: Since = "7d",
    limit: Limit = None,
    common: Common = DEFAULTS,
) -> int:
    """Show what was loaded, built and failed of late, when and by which run, the newest first."""
    from lineage_orch.reports import tables

    start = _since(since)
    with common.orchestrator() as orchestrator:
        events = orchestrator.history(name, since=start)
        names = names_in(orchestrator)
    parts = [] if common.json else tables.history_parts(events, names)
    print_result(common, {"events": [each.to_dict() for each in events]}, tables.limited(parts, limit))
    return DONE


def _since(text: str) -> datetime:
    moment = span_or_time(text, ago=True)
    if moment is None:
        raise SettingsError(f"--since {text!r} is no span such as 12h or 7d, nor a time such as 2026-10-16T09:30:00Z")
    return moment


def freshness(
    *name: Selected,
    late: Annotated[bool, Parameter(help="Only what is late.")] = False,
    limit: Limit = None,
    common: Common = DEFAULTS,
) -> int:
    """Show how promises on freshness are kept: dbt's `freshness`, and `late_after`; exit 1 where one is broken.

    A source is late when its last load is older than it promises; a node when the oldest load that it has not taken in
    is. The ledger knows it: nothing is asked of the warehouse.
    """
    from lineage_orch.reports import tables

    with common.orchestrator() as orchestrator:
        report = orchestrator.freshness()
        shown = report.only(orchestrator.named(name) if name else None, late=late)
        parts = [] if common.json else tables.freshness_parts(report, shown, names_in(orchestrator))
    print_result(common, shown.to_dict(), tables.limited(parts, limit))
    return DONE if shown.ok else FAILED


def page(
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The file: .html for the page, .svg for the picture alone.")
    ] = Path("lineage.html"),
    days: Annotated[int, Parameter(help="Of how many days the timeline shows loads, builds and failures.")] = 14,
    producers: Producers = None,
    common: Common = DEFAULTS,
) -> int:
    """Write the lineage as a page: what is stale, held or failing, and why, from producers to exposures.

    One file that needs no network and opens from the disk. It shows names, states and the ledger's history to whoever
    can read it.
    """
    if (ending := output.suffix.lower()) not in (".html", ".htm", ".svg"):
        raise SettingsError(f"--output {output} is neither .html nor .svg; name a file that ends in one of these")
    if days < 1:
        raise SettingsError(f"--days {days} is less than one day")
    with common.orchestrator(producers=producers) as orchestrator:
        known = orchestrator.ledger.producers()
        _add_found(known, orchestrator.lineage, orchestrator.settings.producers)
        page = orchestrator.page(days=days, producers=known)
    if os.environ.get("PREFECT_API_URL"):
        page = _with_schedules(page, known)
    if ending == ".svg":
        from lineage_orch.reports.picture import picture

        text = picture(page)
    else:
        from lineage_orch.reports.page_file import page_html

        text = page_html(page)
    try:
        # A file that people look at is there whole, or as it was.
        beside = output.with_name(f".{output.name}.{os.getpid()}")
        beside.write_text(text, encoding="utf-8")
        beside.replace(output)
    except OSError as error:
        raise SettingsError(f"--output {output} cannot be written: {error.strerror or error}") from error
    data = {"output": str(output), "items": len(page.items), "edges": len(page.edges), "states": page.states}
    print_result(common, data, [f"Wrote {output}: {count(page.items, 'item')}, {count(page.edges, 'edge')}."])
    return DONE


def _with_schedules(page: Page, known: Mapping[str, Sequence[str]]) -> Page:
    """Add when the producers run, and how their last run ended; where Prefect's API does not say so, do without."""
    from lineage_orch.deployed.schedules import producer_news
    from lineage_orch.reports.page import with_news

    try:
        return with_news(page, producer_news({name for names in known.values() for name in names}))
    except LineageOrchError as error:
        progress(f"lineage-orch: {error}")
        return page


def _sources_of(
    common: Common, places: list[str] | None
) -> tuple[Lineage, dict[str, list[str]] | None, tuple[Following, ...]]:
    """Return the lineage, the names of the known producers of each source that has one, and what flows follow.

    The names are None where no ledger is asked for, and only the manifest is read.
    """
    from lineage_orch.lineage import Lineage

    if common.manifest is not None and common.ledger is None and places is None and not common.parse:
        return Lineage.from_manifest(common.manifest), None, ()

    from lineage_orch.dbt.project import DbtProject

    settings = common.settings(producers=places)
    project = DbtProject.find(settings)
    lineage = _lineage_of(common, settings, project)
    known: dict[str, list[str]] = {}
    if project.has_ledger(settings.ledger):
        from lineage_orch.builds.elsewhere import built_elsewhere

        with project.open_ledger(settings.ledger) as ledger:
            known = ledger.producers()
            for source, each in built_elsewhere(ledger, lineage).items():
                if each.name not in (names := known.setdefault(source, [])):
                    names.append(each.name)
    return lineage, known, _add_found(known, lineage, settings.producers)


def _lineage_of(common: Common, settings: LineageOrchSettings, project: DbtProject) -> Lineage:
    """Read the manifest; the orchestrator, and all that it brings, only if dbt must write it first or writes it now."""
    from lineage_orch.lineage import Lineage

    if not common.parse:
        if settings.manifest is not None:
            return Lineage.from_manifest(settings.manifest)
        with suppress(ManifestError):
            if not project.manifest_is_stale():
                return Lineage.from_manifest(project.manifest_path)
    with common.orchestrator() as orchestrator:
        return orchestrator.lineage


def _add_found(known: dict[str, list[str]], lineage: Lineage, places: Sequence[str]) -> tuple[Following, ...]:
    """Add the producers found in these places, and return the followers; what cannot be read is told, and left out."""
    if not places:
        return ()
    from lineage_orch.loads.declaration import is_template
    from lineage_orch.loads.discovery import find_producers

    with redirect_stdout(sys.stderr):  # what the modules print as they are imported
        found = find_producers(places)
    for failure in found.failures:
        progress(f"lineage-orch: {failure.place}: {failure.why}")
    for producer in found.producers:
        for name in producer.sources:
            if is_template(name):
                continue
            try:
                resolved = lineage.resolve_sources(name)
            except UnknownSourceError as error:
                progress(f"lineage-orch: {producer.where}: {error}")
                continue
            for source in resolved:
                if producer.name not in (names := known.setdefault(source, [])):
                    names.append(producer.name)
    return found.followers
