"""``lineage-orch build``, ``record``, ``observe``, ``adopt`` and ``forget``: what changes the ledger."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lineage_orch.cli.common import DEFAULTS, DONE, FAILED, Common, confirm, names_in, now, print_result, progress
from lineage_orch.cli.live import nodes_shown
from lineage_orch.errors import SettingsError
from lineage_orch.text import count, few, listed

if TYPE_CHECKING:
    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.reports.build_report import BuildReport
    from lineage_orch.reports.tables import Parts


def build(
    *,
    dbt_flags: Annotated[
        str | None,
        Parameter(help='More flags for dbt, as one word: --dbt-flags "--threads 4".', allow_leading_hyphen=True),
    ] = None,
    until_done: Annotated[bool, Parameter(help="Go on for as long as more is loaded meanwhile.")] = False,
    select: Annotated[
        list[str] | None,
        Parameter(
            name=("--select", "-s"),
            consume_multiple=True,
            help="Only these: names, or selectors as dbt takes them; sources mean all that is downstream of them.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, Parameter(consume_multiple=True, help="Not these; written as those of --select.")
    ] = None,
    force: Annotated[bool, Parameter(help="Build all that is selected, be it up to date, held or failing.")] = False,
    full_refresh: Annotated[bool, Parameter(help="As --force, with dbt's --full-refresh in this build alone.")] = False,
    event_time_start: Annotated[
        str | None, Parameter(help="As --force, and of microbatch models the batches from here on: 2026-10-01. UTC.")
    ] = None,
    event_time_end: Annotated[str | None, Parameter(help="And up to here, exclusive.")] = None,
    common: Common = DEFAULTS,
) -> int:
    """Build all that is stale and due; or, with --select, what is stale of a selection.

    If another process builds already, it is left the work; a build of a selection waits for it to end. What is loaded
    while this builds is built for two rounds more, and then left to the next build: where loads trigger a deployment,
    to a run of it that is launched now.
    """
    from lineage_orch.builds.bounds import ROUNDS
    from lineage_orch.reports import tables

    with common.orchestrator(dbt_flags=dbt_flags) as orchestrator:
        report, names = build_shown(
            common,
            orchestrator,
            "lineage-orch build",
            rounds=None if until_done else ROUNDS,
            select=select or (),
            exclude=exclude or (),
            force=force,
            full_refresh=full_refresh,
            event_time_start=event_time_start,
            event_time_end=event_time_end,
        )
    print_result(common, report.to_dict(), tables.report_parts(report, names, now()))
    return _outcome(report, orchestrator)


def record(
    *source: Annotated[
        str,
        Parameter(
            help="source_name.table, package.source_name.table or unique_id; source_name.* means all its tables."
        ),
    ],
    loaded_at: Annotated[
        str | None,
        Parameter(help="When they were loaded, ISO 8601 with a time zone: 2026-10-16T09:30:00Z. Default: now."),
    ] = None,
    update_id: Annotated[
        str | None, Parameter(help="An id of this load; given twice, it counts once. Default: a new one.")
    ] = None,
    producer: Annotated[
        str | None, Parameter(help="Who loaded them; makes known that these sources have a producer.")
    ] = None,
    fingerprint: Annotated[
        str | None,
        Parameter(help="Of what was loaded, such as an ETag; the same as at the last load of a source: nothing new."),
    ] = None,
    from_: Annotated[
        str | None,
        Parameter(name="--from", help="All that is new lies in the event times from here on: 2026-01-01. UTC."),
    ] = None,
    to: Annotated[str | None, Parameter(help="And up to here, exclusive.")] = None,
    build: Annotated[bool, Parameter(help="Build at once what is downstream of them.")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Record that sources were loaded, for loads that no Prefect flow makes."""
    from lineage_orch.dbt.microbatch import moment
    from lineage_orch.reports import tables
    from lineage_orch.updates import SourceUpdate

    if not all(source) or not source:
        raise SettingsError("record needs one source or more, such as raw.orders")
    if update_id == "":
        raise SettingsError("--update-id is empty; give an id, or leave it out")
    if fingerprint == "":
        raise SettingsError("--fingerprint is empty; give one, or leave it out: then the load counts as new")
    at = _moment(loaded_at)
    load = update_id or uuid.uuid4().hex
    start, end = (None if given is None else moment(given, what) for given, what in ((from_, "--from"), (to, "--to")))
    if (start is None) != (end is None) or (start and end and start >= end):
        raise SettingsError("a window has two ends, the first before the other: give --from and --to")
    report: BuildReport | None = None
    names: Mapping[str, str] = {}
    with common.orchestrator() as orchestrator:
        tick = orchestrator.record(
            [
                SourceUpdate(
                    each, load, at, producer=producer, fingerprint=fingerprint, window_start=start, window_end=end
                )
                for each in source
            ]
        )
        unchanged = orchestrator.ledger.unchanged_by([load])
        if build:
            report, names = build_shown(common, orchestrator, "lineage-orch record --build", rounds=0, wait_for=source)
    parts: Parts = [f"Recorded {', '.join(source)} at tick {tick}."]
    if unchanged:
        parts.append(f"Nothing new in {few(unchanged)}, by the fingerprint: nothing is stale for it.")
    if report is not None:
        parts += tables.report_parts(report, names, now())
    data = {
        "sources": list(source),
        "update_id": load,
        "tick": tick,
        "unchanged": list(unchanged),
        "build": report.to_dict() if report else None,
    }
    print_result(common, data, parts)
    return _outcome(report, orchestrator)


def observe(
    *source: Annotated[
        str,
        Parameter(help="The sources to look at. Default: all that something is built from and no producer reports."),
    ],
    sources_json: Annotated[
        Path | None, Parameter(help="A sources.json that `dbt source freshness` wrote. Default: dbt is asked now.")
    ] = None,
    settle: Annotated[
        float | None,
        Parameter(
            help="How many seconds a load takes at most: a source whose newest row is younger is left to the next look."
        ),
    ] = None,
    all_: Annotated[bool, Parameter(name="--all", help="Look also at sources that a producer reports.")] = False,
    build: Annotated[bool, Parameter(help="Then build all that is stale and due.")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Look when sources were loaded, and record what is new, for loads that nothing reports.

    Asks `dbt source freshness` for the newest row of each, and can be repeated as often as you like. Exit code 1 if a
    source could not be looked at; the others are recorded all the same.
    """
    from lineage_orch.reports import tables

    report: BuildReport | None = None
    with common.orchestrator(settle=settle) as orchestrator:
        names = names_in(orchestrator)
        seen = orchestrator.observe(source, sources_json=sources_json, also_produced=all_)
        if build:
            report, _ = build_shown(
                common, orchestrator, "lineage-orch observe --build", rounds=0, wait_for=list(seen.recorded)
            )
    parts: Parts = list(seen.lines(names))
    if report is not None:
        parts += tables.report_parts(report, names, now())
    print_result(common, seen.to_dict() | {"build": report.to_dict() if report else None}, parts)
    if seen.errors or (source and seen.unseen):
        return FAILED
    return _outcome(report, orchestrator)


def adopt(
    *select: Annotated[
        str,
        Parameter(
            help="What to adopt: sources, with all that is downstream of them, or names and selectors of nodes as dbt "
            "takes them. Default: the whole project."
        ),
    ],
    forgive_failed: Annotated[
        list[str] | None,
        Parameter(
            help="A node whose last build failed, to be counted as built all the same; may be given several times."
        ),
    ] = None,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), help="Do not ask.")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Declare the warehouse as it stands as loaded and built: nothing of it is stale any more.

    For a warehouse that was built before lineage_orch came. Asks first. Nodes whose last build failed stay stale,
    unless they are named with --forgive-failed; so does what is not in the warehouse.
    """
    with common.orchestrator() as orchestrator:
        lineage, ledger = orchestrator.lineage, orchestrator.ledger
        names = names_in(orchestrator)
        forgiven = [lineage.resolve_node(each) for each in forgive_failed or ()]
        found = orchestrator.adoption(select)
        kept = sorted(names[each] for each in found.failed if each not in forgiven)
        if kept:
            progress(f"Failed in their last build, and stay stale unless named with --forgive-failed: {few(kept)}.")
        if found.missing:
            gone = few(sorted(names[each] for each in found.missing))
            progress(f"Not in the warehouse, and not counted as built: {gone}.")
        if not found.is_sure:
            progress("Which tables and views are in the warehouse is not known: all are taken to be there.")
        built = len(found.nodes) + len(found.failed) - len(kept)
        what = f"{count(found.sources, 'source')} as loaded and {count(built, 'node')} as built"
        if found.followers:
            what += f", {count(found.followers, 'follower')} as run"
        if not yes and not confirm(f"Declare {what} in {ledger.project}, target {ledger.target}?"):
            progress("Nothing was changed.")
            return FAILED
        done = orchestrator.adopt(select, forgive_failed=forgiven)
    data = {
        "tick": done.tick,
        "sources": len(done.sources),
        "nodes": len(done.nodes),
        "followers": len(done.followers),
        "still_stale": kept,
        "missing": sorted(names[each] for each in done.missing),
    }
    print_result(common, data, [f"Declared {what}, at tick {done.tick}."])
    return DONE


def backfill(
    name: Annotated[
        str,
        Parameter(
            help="A source (source_name.* for all its tables), or a microbatch model.", allow_leading_hyphen=False
        ),
    ],
    /,
    *,
    from_: Annotated[
        str, Parameter(name="--from", help="From which event time on: 2026-01-01. UTC, if it names no zone.")
    ],
    to: Annotated[str, Parameter(help="Up to here, exclusive.")],
    slice_: Annotated[
        str | None, Parameter(name="--slice", help="Build it in slices of this size, such as 7d. Default: all at once.")
    ] = None,
    again: Annotated[bool, Parameter(help="Build also the slices that an earlier call recorded.")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Build batches of the past again: of what is downstream of a source, or of a model and what is below it.

    Slice by slice. Called again, it goes on where it was interrupted, or failed.
    """
    from lineage_orch.lineage.policy import read_duration
    from lineage_orch.reports import tables

    size = read_duration(slice_) if slice_ is not None else None
    if slice_ is not None and size is None:
        raise SettingsError(f"--slice {slice_!r} is no span of time; write it as 7d or 12h")
    with common.orchestrator() as orchestrator:
        done = orchestrator.backfill(
            name, from_, to, size=size, again=again, who="lineage-orch backfill", progress=progress
        )
        names = names_in(orchestrator)
    known = f"; recorded before: {count(done.known, 'slice')}" if done.known else ""
    parts: Parts = [f"Backfilled {name} in {count(done.done, 'slice')}{known}."]
    if done.left:
        parts.append(f"Not begun, since a build failed: {count(done.left, 'slice')}; call it again to go on.")
    for report in done.reports[-1:]:
        parts += tables.report_parts(report, names, now())
    print_result(common, done.to_dict(), parts)
    return DONE if done.ok else FAILED


def retry(
    *node: Annotated[str, Parameter(help="A failing model, snapshot or seed. Default: all that fail.")],
    common: Common = DEFAULTS,
) -> int:
    """Let nodes that failed be tried again by the next build, without waiting for their time."""
    with common.orchestrator() as orchestrator:
        nodes = orchestrator.retry(node)
        names = names_in(orchestrator)
    said = f"Will be tried again: {listed((names.get(each, each) for each in nodes), most=8)}."
    print_result(common, {"nodes": list(nodes)}, [said if nodes else "No node is failing."])
    return DONE


def dbt(
    *args: Annotated[
        str,
        Parameter(
            help="The dbt command. After two dashes no word of it is taken for an option of this one.",
            allow_leading_hyphen=True,
        ),
    ],
    common: Common = DEFAULTS,
) -> int:
    """Run any dbt command on this project, under the build lock, and record what it built.

    Its exit code is dbt's. A command that builds nothing (ls, compile, docs, show, ...) is passed on as it is.
    """
    from lineage_orch.reports import tables

    if not args:
        raise SettingsError("dbt needs a command: lineage-orch dbt -- build --select revenue")
    # dbt's own lines, and in a terminal all that it says of itself, are what a person wants to see.
    out = sys.stderr if common.json else sys.stdout
    with common.orchestrator() as orchestrator:
        code, report = orchestrator.run_dbt(
            args, who="lineage-orch dbt", progress=progress, echo=lambda line: print(line, file=out, flush=True)
        )
        _hand_over(report, orchestrator)
        names = names_in(orchestrator) if report.runs else {}
    if report.runs:
        print_result(common, {"exit_code": code, **report.to_dict()}, tables.typed_parts(report, names))
    return code


def mark_stale(
    *select: Annotated[
        str,
        Parameter(
            help="Names or selectors of nodes, as dbt takes them; sources mean all that is downstream of them.",
            allow_leading_hyphen=False,
        ),
    ],
    common: Common = DEFAULTS,
) -> int:
    """Make nodes stale: the next build builds them, whoever calls it, and whatever their policies say.

    It is kept in the ledger until they are built well.
    """
    if not all(select) or not select:
        raise SettingsError("mark-stale needs one node or selector, or more, such as revenue or tag:daily")
    with common.orchestrator() as orchestrator:
        nodes = orchestrator.mark_stale(select)
        names = names_in(orchestrator)
    said = f"Stale from now on: {listed((names[each] for each in nodes), most=8)}."
    print_result(
        common, {"nodes": list(nodes)}, [said if nodes else "What is selected has no model, snapshot or seed."]
    )
    return DONE


def forget(
    *name: Annotated[str, Parameter(help="A source or node, named as elsewhere, or by its unique_id once it is gone.")],
    common: Common = DEFAULTS,
) -> int:
    """Take retired sources and nodes out of the ledger: their facts, producers and failures.

    A node that is still in the project counts as never built afterwards.
    """
    if not all(name) or not name:
        raise SettingsError("forget needs one source or node, or more, such as raw.orders")
    with common.orchestrator() as orchestrator:
        forgotten = orchestrator.forget(name)
    print_result(common, {"forgotten": list(forgotten)}, [f"Forgot {listed(name, most=8)}."])
    return DONE


def build_shown(
    common: Common, orchestrator: Orchestrator, who: str, **how: Any
) -> tuple[BuildReport, Mapping[str, str]]:
    """Build, and show each node as it ends; returns the report, and what people call what is in it."""
    with nodes_shown(common) as on_node:
        report = orchestrator.build(who=who, progress=progress, on_node=on_node, **how)
    _hand_over(report, orchestrator)
    return report, {} if report.busy else names_in(orchestrator)


def _hand_over(report: BuildReport, orchestrator: Orchestrator) -> None:
    """Leave what was loaded meanwhile to a run of the deployment, if there is one; else to the next build."""
    if not report.more or orchestrator.settings.deployment is None:
        return
    import logging

    from lineage_orch.deployed.launch import launch_build
    from lineage_orch.errors import TriggerError

    try:
        run = launch_build(orchestrator.settings.deployment, logging.getLogger(__name__))
    except TriggerError as error:
        progress(f"What was loaded meanwhile waits for the next build: {error}")
    else:
        progress(f"Run {run.name!r} of {orchestrator.settings.deployment} builds what was loaded meanwhile.")


def _outcome(report: BuildReport | None, orchestrator: Orchestrator) -> int:
    if report is None:
        return DONE
    return FAILED if report.failed or (orchestrator.settings.fail_on_carried and report.failing) else DONE


def _moment(text: str | None) -> datetime:
    if text is None:
        return now()
    example = "write it as 2026-10-16T09:30:00Z"
    try:
        moment = datetime.fromisoformat(text)
        in_utc = moment.astimezone(UTC)
    except (ValueError, OverflowError):  # or a time of some zone before the first, or after the last, of UTC
        raise SettingsError(f"--loaded-at {text!r} is no ISO 8601 time; {example}") from None
    if moment.tzinfo is None:
        raise SettingsError(f"--loaded-at {text!r} has no time zone; {example}")
    return in_utc
