"""Tables for people, from data: with no look at the ledger or at dbt."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from lineage_orch.reports.activity import METHOD
from lineage_orch.reports.as_json import as_json, extent_to_dict, failure_to_dict, picked
from lineage_orch.reports.follower_wording import follower_rows
from lineage_orch.reports.freshness import FreshnessState
from lineage_orch.reports.status import NodeState
from lineage_orch.reports.wording import (
    STATES,
    Names,
    held_reason,
    held_until,
    named,
    pauses_line,
    promise_detail,
    short_name,
    short_reasons,
    until,
    when,
)
from lineage_orch.text import count, few, listed, one_line, roughly, span

if TYPE_CHECKING:
    import rich.table

    from lineage_orch.ledger import Failure
    from lineage_orch.plan import BuildPlan, Estimate, Held
    from lineage_orch.reports.activity import Activity
    from lineage_orch.reports.build_report import BuildReport
    from lineage_orch.reports.freshness import FreshnessReport
    from lineage_orch.reports.history import Event
    from lineage_orch.reports.status import Status


@dataclass
class Table:
    """A table of plain text, for :func:`show`."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)


_Value = TypeVar("_Value")

# More rows than this that say the same, or names in a list, are folded into a number; the JSON has all.
_FOLDED = 20

# How much of an error is shown in a row; the whole of it is in the JSON.
_SAID = 200

# What the renderers below return: lines of text, and tables.
Parts = list[str | Table]


def plan_to_dict(
    plan: BuildPlan, expected: Estimate | None = None, only: Collection[str] | None = None
) -> dict[str, Any]:
    """Return a plan, and how long it is expected to take, as JSON-ready values; times are ISO 8601, UTC.

    With ``only``, what it says of these nodes alone; the other keys are still those of the whole plan.
    """
    whole = {
        **picked(plan, *_OF_PLAN),
        "batches": {node: extent_to_dict(each) for node, each in plan.batches.items()},
        "failures": {node: failure_to_dict(each) for node, each in plan.failures.items()},
        "estimate": as_json(expected),
    }
    if only is None:
        return whole
    for key in ("build", "perhaps", "later", "tests_only", "passed_through", "not_built", "changed_code"):
        whole[key] = [each for each in whole[key] if each in only]
    for key in ("failures", "held", "reasons", "because", "batches"):
        whole[key] = {node: each for node, each in whole[key].items() if node in only}
    return whole


_OF_PLAN = (
    *("build", "tests_only", "perhaps", "later", "passed_through", "held", "reasons", "not_built", "left_out_tests"),
    *("because", "changed_code", "select", "follow", "follow_held", "pauses", "next_due"),
)


def plan_parts(
    plan: BuildPlan,
    names: Names,
    now: datetime,
    command: str,
    expected: Estimate | None = None,
    only: Collection[str] | None = None,
) -> Parts:
    """Return a plan for people: what builds and for what, how long it takes, what is held, and the dbt command.

    With ``only``, of these nodes alone, and without the time and the command, which are those of the whole plan.
    """
    parts: Parts = []

    def mine(nodes: Iterable[str]) -> list[str]:
        return [each for each in nodes if only is None or each in only]

    build = Table(f"To build: {count(len(plan.build), 'node')}", ["node", "because of"])
    if plan.needs_no_dbt:
        parts.append("Nothing to build now.")
    else:
        hows = dict.fromkeys(plan.tests_only, " (tests only)")
        hows |= dict.fromkeys(plan.passed_through, " (passed through)")
        for node in mine((*plan.build, *hows)):
            build.rows.append([short_name(node, names) + hows.get(node, ""), _because(plan, node, names)])
        if only is not None:
            build.title = f"To build: {len(build.rows)} of {count(len(plan.build), 'node')}"
        parts.append(build if build.rows else f"{build.title}.")
    if expected is not None and only is None:
        untimed = expected.nodes - expected.timed
        guess = f", of which {untimed} were never timed," if untimed else ","
        parts.append(
            f"{count(expected.nodes, 'node')}{guess} about {roughly(expected.seconds)} on "
            f"{count(expected.threads, 'thread')}."
        )
    if later := [each for each in mine(plan.perhaps) if each in plan.later]:
        table = Table(f"Then, with batches of its own: {count(later, 'node')}", ["node", "because of"])
        table.rows += [[short_name(node, names), _because(plan, node, names)] for node in later]
        parts.append(table)
    if perhaps := [each for each in mine(plan.perhaps) if each not in plan.later]:
        table = Table(f"Perhaps after that: {count(len(perhaps), 'node')}", ["node", "if this comes out changed"])
        for node in perhaps:
            above = (each for reason in plan.reasons[node] for each in reason.subjects)
            table.rows.append([short_name(node, names), named(above, names)])
        parts.append(table)
    if only is None and (line := pauses_line(plan.pauses, names, now)):
        parts.append(line)
    parts += _failed_parts(_of(plan.failures, only), plan.held, names, now)
    parts += _held_parts(_of(plan.held, only), names, now)
    if only is None:
        parts += _follow_parts(plan, names, now)
    parts += plan.notes
    if not_built := named(mine(plan.not_built), names):
        parts.append(f"Stale, and not built by dbt {command} as it is called here: {not_built}.")
    if plan.select and only is None:
        if len(plan.select) > _FOLDED:
            shown, left = shlex.join(plan.select[:3]), len(plan.select) - 3
            parts.append(f"dbt {command} --select {shown} and {left} more selectors; --json has all.")
        else:
            parts.append(f"dbt {command} --select {shlex.join(plan.select)}")
    return parts


def _follow_parts(plan: BuildPlan, names: Names, now: datetime) -> Parts:
    parts: Parts = []
    if plan.follow:
        table = Table(f"To run then: {count(plan.follow, 'follower')}", ["follower", "after", "because of"])
        for each in plan.follow:
            follows = named(plan.followers[each].parents, names)
            reasons = short_reasons(plan.reasons[each], plan.because[each], names)
            table.rows.append([plan.followers[each].name, follows, reasons])
        parts.append(table)
    if plan.follow_held:
        table = Table(f"Not run now: {count(plan.follow_held, 'follower')}", ["follower", "until", "reason"])
        for each, held in plan.follow_held.items():
            table.rows.append([plan.followers[each].name, until(held.until, now), held_reason(held, names)])
        parts.append(table)
    return parts


def _because(plan: BuildPlan, node: str, names: Names) -> str:
    """Why a node builds, and of a microbatch model in which window there is something new, if that is known."""
    reasons = short_reasons(plan.reasons[node], plan.because[node], names)
    return f"{reasons}, {plan.batches[node]}" if node in plan.batches else reasons


def status_parts(status: Status, now: datetime, shown: Status | None = None) -> Parts:
    """Return the ledger for people: its clock, a table of sources and one of nodes; of ``shown`` alone, if given."""
    shown = shown or status
    names = {source.unique_id: source.name for source in status.sources}
    names |= {node.unique_id: node.name for node in status.nodes}
    states = Counter(node.state for node in status.nodes)
    counts = [f"{states[state]} {STATES[state]}" for state in get_args(NodeState) if states[state]]
    parts: Parts = [f"Tick {status.tick}. Nodes: {', '.join(counts) or 'none'}."]
    if status.next_due is not None:
        parts.append(f"The next held node is due at {until(status.next_due, now)}.")
    if status.holder is not None:
        parts.append(f"Build lock: taken by {status.holder.who} since {when(status.holder.since)}.")
    if line := pauses_line(status.pauses, names, now):
        parts.append(line)
    if never := [source.name for source in status.sources if source.has_producer and not source.tick]:
        parts.append(f"With a producer, and never loaded: {listed(never, most=8)}.")
    if status.unresolved:
        loads = listed((f"{name} (tick {tick})" for name, tick in status.unresolved.items()), most=8)
        parts.append(f"Loaded, and no source of the manifest: {loads}. They count as soon as dbt knows the source.")
    if status.unmatched:
        parts.append(f"Declared by a producer, and no source of the manifest: {listed(status.unmatched, most=8)}.")
    sources = Table("Sources", ["source", "tick", "last loaded", "producer", "models"])
    for source in shown.sources:
        loaded = when(source.loaded_at) if source.tick else "never"
        if source.paused is not None:
            loaded += " (paused)"
        producer = "yes" if source.has_producer else "-"
        sources.rows.append([source.name, str(source.tick or "-"), loaded, producer, str(source.models_below)])
    nodes = Table("Nodes", ["node", "state", "tick", "last built"])
    for node in shown.nodes:
        state = STATES[node.state]
        if node.held is not None:
            state = f"held: {held_until(node.held, names, now)}"
        elif node.paused is not None:
            state += " (paused)"
        nodes.rows.append([node.name, state, str(node.tick or "-"), when(node.built_at) if node.built_at else "never"])
    followers = Table("Followers", ["follower", "follows", "runs", "state", "last run"])
    followers.rows += follower_rows(shown.followers, names, now)
    parts += [each for each in (sources, nodes, followers) if each.rows]
    failures = {node.unique_id: node.failure for node in shown.nodes if node.failure is not None}
    held = {node.unique_id: node.held for node in shown.nodes if node.held is not None}
    return parts + _failed_parts(failures, held, names, now)


def report_parts(report: BuildReport, names: Names, now: datetime) -> Parts:
    """Return what a build did, for people."""
    parts: Parts = [report.summary()]
    if report.built:
        parts.append("Built: " + few((short_name(each, names) for each in report.built), most=_FOLDED))
    if report.timing:
        parts.append(report.timing)
    for each in report.followed:
        why = report.follow_failed.get(each)
        parts.append(
            f"Follower {short_name(each, names)}: " + (f"failed, and is tried again later: {why}" if why else "started")
        )
    if report.unchanged:
        parts.append("Came out as before: " + few((short_name(each, names) for each in report.unchanged), most=_FOLDED))
    if report.unchanged_upstream:
        same = named(report.unchanged_upstream, names, most=8)
        parts.append(f"Not built, unchanged upstream: {same}.")
    if report.failed:
        failed = Table("Failed", ["node or test", "dbt says"])
        for node, message in report.failed.items():
            failed.rows.append([short_name(node, names), one_line(message)])
        parts.append(failed)
    for node, batches in report.partial.items():
        parts.append(f"{short_name(node, names)}: of its batches, these failed: {listed(batches)}; it is still stale.")
    for title, nodes in (
        ("Stale again by what was loaded meanwhile; the next build takes them up", report.more),
        ("Stale, and not built by dbt as it is called here", report.not_built),
        ("Planned, and without a result from dbt; still stale", report.unreported),
        ("Built by dbt without being planned, and not recorded", report.unplanned),
        ("Stale now, since it reads what was built", report.stale_below),
    ):
        if nodes:
            parts.append(f"{title}: {named(nodes, names, most=8)}.")
    return parts + _held_parts(
        {node: each for node, each in report.held.items() if node not in report.failed}, names, now
    )


def typed_parts(report: BuildReport, names: Names) -> Parts:
    """Return what was recorded of a dbt command that a person typed, for people; dbt has told the rest."""
    parts: Parts = []
    for title, nodes in (
        ("Recorded as built", report.built),
        ("Stale now, since it reads what was built", report.stale_below),
    ):
        if nodes:
            parts.append(f"{title}: {named(nodes, names, most=8)}.")
    return parts or ["Nothing was built, or nothing well: nothing is recorded as built."]


def limited(parts: Parts, limit: int | None) -> Parts:
    """Return the parts with no more than so many rows in each table, and what is left out as a number; None: all."""
    out: Parts = []
    for part in parts:
        if isinstance(part, Table) and limit is not None and len(part.rows) > limit:
            left_out = len(part.rows) - limit
            out += [replace(part, rows=part.rows[:limit]), f"{left_out} more, left out by --limit {limit}."]
        else:
            out.append(part)
    return out


def activity_parts(found: Activity) -> Parts:
    """Return what happened in some days, for people."""
    loads = Table(f"Since {found.since:%Y-%m-%d %H:%M} UTC", ["what", "how many"])
    for what, number in (
        ("loads", found.loads),
        ("loads that brought nothing new", found.unchanged),
        ("loads that shared a build with an earlier one (coalesced)", found.coalesced),
        ("build runs", found.runs),
        ("nodes built", found.built),
        ("nodes built that came out as before (cut off)", found.cut_off),
        ("nodes downstream of no load (not affected)", found.not_affected),
        ("nodes that failed", found.failed),
    ):
        loads.rows.append([what, str(number)])
    cost = Table("Compared", ["how", "nodes built", "time in dbt"])
    cost.rows.append(["as it was", str(found.built), roughly(found.seconds) if found.seconds else "not known"])
    by_load = roughly(found.seconds_by_load) if found.seconds_by_load else "not known"
    cost.rows.append(["one dbt command per load", str(found.builds_by_load), by_load])
    untimed = [f"Of {count(found.untimed, 'build')} it is not known how long it took."] if found.untimed else []
    return [loads, cost, *untimed, METHOD]


def freshness_parts(report: FreshnessReport, shown: FreshnessReport, names: Names) -> Parts:
    """Return how promises are kept, for people; of ``shown`` alone."""
    parts: Parts = [f"A promise that cannot be read: {why}" for why in (report.unreadable or {}).values()]
    if not report.rows:
        return [
            *parts,
            "Nothing is promised: no source has a `freshness`, and no model one, or a `meta.lineage_orch.late_after`.",
        ]
    table = Table("Promises", ["source or node", "late is", "state", "age", "at most", "what else"])
    for row in shown.rows:
        limits = (row.promise.warn_after, row.promise.error_after)
        age = "-" if row.age is None else roughly(row.age.total_seconds()) if row.since else "nothing waits"
        at_most = " / ".join(span(each) for each in limits if each is not None)
        kind = {"source": "its data", "build": "its build"}[row.kind]
        table.rows.append([row.name, kind, row.state, age, at_most, promise_detail(row, names)])
    counts = Counter(row.state for row in shown.rows)
    kept = ", ".join(f"{counts[state]} {state}" for state in get_args(FreshnessState) if counts[state])
    return [*parts, *([table] if table.rows else []), f"{count(len(shown.rows), 'promise')}: {kept or 'none'}."]


def history_parts(events: Sequence[Event], names: Names) -> Parts:
    """Return what was loaded, built and failed, for people."""
    if not events:
        return ["Nothing was loaded, built or failed in that time."]
    table = Table("History", ["when", "tick", "what", "source or node", "by", "dbt says"])
    for (kind, by, said, _), group in groupby(events, key=_alike):
        alike = list(group)
        of = dict.fromkeys(short_name(each.unique_id, names) for each in alike)
        if len(of) > _FOLDED:
            ticks = dict.fromkeys(str(each.tick) for each in (alike[-1], alike[0]))
            table.rows.append([when(alike[0].at), "-".join(ticks), kind, f"{len(of)}: {few(of)}", by, said])
            continue
        for each in alike:
            name = short_name(each.unique_id, names) + (f" ({each.window})" if each.window else "")
            table.rows.append([when(each.at), str(each.tick), kind, name, by, said])
    return [table]


def _alike(event: Event) -> tuple[str, str, str, int]:
    """What many events in a row have in common: of loads the producer, of builds and failures the run."""
    said = one_line(event.message or "", most=_SAID)
    return event.kind, event.by or "-", said, 0 if event.kind == "loaded" else event.tick


def sources_parts(rows: Sequence[Mapping[str, Any]], names: Names, *, most: int = 5) -> Parts:
    """Return each source with its producers and the models below it, for people: up to ``most`` by name.

    ``rows`` are those of ``lineage-orch sources --json``: ``unique_id``, ``name``, ``has_producer``,
    ``producers`` (both None where no ledger was read), ``models`` and ``followers``.
    """
    if not rows:
        return ["The project has no sources."]
    knows_producers = any(row["has_producer"] is not None for row in rows)
    has_followers = any(row["followers"] for row in rows)
    columns = ["source", *(["producers"] if knows_producers else []), "models below"]
    table = Table("Sources", [*columns, *(["followed by"] if has_followers else [])])
    for row in rows:
        known = ", ".join(row["producers"] or ()) or ("yes" if row["has_producer"] else "-")
        models = few((short_name(each, names) for each in row["models"]), most=most)
        below = f"{len(row['models'])}: {models}" if models else "none"
        cells = [row["name"], *([known] if knows_producers else []), below]
        table.rows.append([*cells, *([", ".join(row["followers"]) or "-"] if has_followers else [])])
    return [table]


def show(parts: Parts) -> None:
    """Print to stdout: as wide as the terminal, or, into a file or pipe, each row on a line of its own."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        from rich.console import Console

        console = Console(markup=False, highlight=False, emoji=False)
        # Captured, since rich on its own ends the process when the reader of a pipe leaves.
        with console.capture() as captured:
            for part in _spaced(parts, _rich):
                console.print(part)
        text = captured.get()
    else:
        text = "\n".join(_spaced(parts, _plain)) + "\n"
    sys.stdout.write(text)


def _spaced(parts: Parts, render: Callable[[Table], Any]) -> Iterator[Any]:
    """Yield the parts, with an empty line between a table and what is beside it."""
    for index, part in enumerate(parts):
        if index and not (isinstance(part, str) and isinstance(parts[index - 1], str)):
            yield ""
        yield part if isinstance(part, str) else render(part)


def _plain(table: Table) -> str:
    # Not by rich, which takes seconds for some thousands of rows.
    widths = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
    rule = ["-" * width for width in widths]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (table.columns, rule, *table.rows)
    )
    return "\n".join((table.title, *lines))


def _rich(table: Table) -> rich.table.Table:
    from rich import box
    from rich.table import Table as RichTable

    shown = RichTable(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for column in table.columns:
        # Never cut a name off: what does not fit goes on in the next line.
        shown.add_column(column, overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def _of(values: Mapping[str, _Value], only: Collection[str] | None) -> Mapping[str, _Value]:
    return values if only is None else {node: each for node, each in values.items() if node in only}


def _failed_parts(failures: Mapping[str, Failure], held: Mapping[str, Held], names: Names, now: datetime) -> Parts:
    if not failures:
        return []
    table = Table(f"Failed: {count(len(failures), 'node')}", ["node", "times", "since", "tried again", "dbt says"])
    for node, failure in failures.items():
        due = held[node].until if node in held else None
        again = until(due, now) if due else "when what it reads builds" if node in held else "by the next build"
        said = one_line(failure.message, most=_SAID)
        table.rows.append([short_name(node, names), str(failure.count), when(failure.since), again, said])
    return [table]


def _held_parts(held: Mapping[str, Held], names: Names, now: datetime) -> Parts:
    if not held:
        return []
    table = Table(f"Held: {count(len(held), 'node')}", ["node", "until", "reason"])
    behind = {node for node, each in held.items() if each.reason in ("failed", "failing") and each.waiting_for}
    alike: dict[tuple[str, str], list[str]] = {}
    for node, each in held.items():
        # Of many, for which node each of them waits says less than how many there are.
        many = len(behind) > _FOLDED and node in behind
        reason = "waits for what failed" if many else held_reason(each, names)
        alike.setdefault((until(each.until, now), reason), []).append(short_name(node, names))
    for (end, reason), nodes in alike.items():
        table.rows += [[node, end, reason] for node in _folded(nodes)]
    return [table]


def _folded(names: Sequence[str]) -> list[str]:
    """Return the names that one row each is worth: many of which the same is to be said are one, with their number."""
    return [*names] if len(names) <= _FOLDED else [f"{len(names)}: {few(names)}"]
