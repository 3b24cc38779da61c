"""``lineage-orch build``, ``record``, ``adopt`` and ``forget``: what changes the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lineage_orch.cli.common import DEFAULTS, DONE, FAILED, Common, confirm, names_in, now, print_result, progress
from lineage_orch.errors import SettingsError
from lineage_orch.text import count, few, listed

if TYPE_CHECKING:
    from lineage_orch.reports.build_report import BuildReport
    from lineage_orch.reports.tables import Parts


def build(
    *,
    dbt_flags: Annotated[
        str | None,
        Parameter(help='More flags for dbt, as one word: --dbt-flags "--threads 4".', allow_leading_hyphen=True),
    ] = None,
    common: Common = DEFAULTS,
) -> int:
    """Build all that is due, until nothing is. If another process builds already, leave it the work."""
    from lineage_orch.reports import tables

    with common.orchestrator(dbt_flags=dbt_flags) as orchestrator:
        report = orchestrator.build(who="lineage-orch build", say=progress)
        names = {} if report.busy else names_in(orchestrator)
    print_result(common, report.to_dict(), tables.report_parts(report, names, now()))
    return _outcome(report)


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
    build: Annotated[bool, Parameter(help="Build at once what is downstream of them.", negative="")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Record that sources were loaded, for loads that no Prefect flow makes."""
    from lineage_orch.reports import tables
    from lineage_orch.updates import SourceUpdate

    if not all(source) or not source:
        raise SettingsError("record needs one source or more, such as raw.orders")
    if update_id == "":
        raise SettingsError("--update-id is empty; give an id, or leave it out")
    at = _moment(loaded_at)
    load = update_id or _new_id()
    report: BuildReport | None = None
    names: Mapping[str, str] = {}
    with common.orchestrator() as orchestrator:
        tick = orchestrator.record([SourceUpdate(each, load, at, producer=producer) for each in source])
        if build:
            report = orchestrator.build(who="lineage-orch record --build", say=progress)
            names = {} if report.busy else names_in(orchestrator)
    parts: Parts = [f"Recorded {', '.join(source)} at tick {tick}."]
    if report is not None:
        parts += tables.report_parts(report, names, now())
    data = {"sources": list(source), "update_id": load, "tick": tick, "build": report.to_dict() if report else None}
    print_result(common, data, parts)
    return DONE if report is None else _outcome(report)


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
            help="A node whose last build failed, to be counted as built all the same; may be given several times.",
            negative="",
        ),
    ] = None,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), help="Do not ask.", negative="")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Declare the warehouse as it stands as loaded and built: nothing of it is stale any more.

    For a warehouse that was built before lineage_orch came. Asks first. Nodes whose last build failed stay stale,
    unless they are named with --forgive-failed; so does what is not in the warehouse.
    """
    with common.orchestrator() as orchestrator:
        adopting: Any = orchestrator
        lineage, ledger = orchestrator.lineage, orchestrator.ledger
        names = names_in(orchestrator)
        failures = [each for each in ledger.snapshot(history_of=()).failures if each in lineage.nodes]
        forgiven = {lineage.resolve_node(each) for each in forgive_failed or ()}
        kept = sorted(names[each] for each in failures if each not in forgiven)
        if kept:
            progress(f"Failed in their last build, and stay stale unless named with --forgive-failed: {few(kept)}.")
        if forgiven:
            progress(f"Forgiven, although their last build may have failed: {few(names[each] for each in forgiven)}.")
        whole = f"{count(lineage.sources, 'source')} as loaded and {count(lineage.nodes, 'node')} as built"
        what = f"{listed(select)} as loaded and built" if select else whole
        if not yes and not confirm(f"Declare {what} in {ledger.project}, target {ledger.target}?"):
            progress("Nothing was changed.")
            return FAILED
        options: dict[str, Any] = {"select": select} if select else {}
        options |= {"forgive_failed": sorted(forgiven)} if forgiven else {}
        tick = adopting.adopt(**options)
        adopted = [each for each, fact in ledger.snapshot(history_of=()).nodes.items() if fact.tick == tick]
    if select:
        said = f"Declared {listed(select)} as loaded and built: {count(adopted, 'node')}, at tick {tick}."
    else:
        loaded = count(lineage.sources, "source")
        said = f"Declared {loaded} as loaded and {count(adopted, 'node')} as built, at tick {tick}."
        said += "" if len(adopted) < len(lineage.nodes) else " Nothing is stale."
    print_result(common, {"tick": tick, "nodes": len(adopted), "stay_stale": kept}, [said])
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
        forgetting: Any = orchestrator
        forgetting.forget(name)
    print_result(common, {"forgotten": list(name)}, [f"Forgot {listed(name, most=8)}."])
    return DONE


def _outcome(report: BuildReport) -> int:
    return DONE if report.ok else FAILED


def _moment(text: str | None) -> datetime:
    if text is None:
        return now()
    example = "write it as 2026-10-16T09:30:00Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"--loaded-at {text!r} is no ISO 8601 time; {example}") from None
    if moment.tzinfo is None:
        raise SettingsError(f"--loaded-at {text!r} has no time zone; {example}")
    return moment.astimezone(UTC)


def _new_id() -> str:
    import uuid

    return uuid.uuid4().hex
