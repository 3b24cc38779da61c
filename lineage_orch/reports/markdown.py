"""What a run did, as Markdown for Prefect's UI. Names and messages of others are shown as the text that they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lineage_orch.reports.activity import METHOD
from lineage_orch.reports.wording import Names, held_reason, short_name, until, when
from lineage_orch.text import count, few, one_line, roughly

if TYPE_CHECKING:
    from lineage_orch.ledger import Load
    from lineage_orch.reports.account import Account

Link = Callable[[str], str | None]
"""Returns the address of a flow run in Prefect's UI, by its id; None: not known."""

# A server refuses what is much larger.
LONGEST = 200_000
# So many rows a table has at most; where that is too long, so many.
_ROWS = (100, 10)
# How much of an error is shown in a row; the run's log has all of it.
_SAID = 300
# Each of them means something within a line of Markdown, in a cell of a table or in HTML.
_MARKS = re.compile(r"([\\`*_\[\]<>|~&$])")


def escaped(text: str, *, most: int | None = None) -> str:
    """Return a text in one line that Markdown shows as it is: no mark-up, no HTML, no link of its own.

    Args:
        most: at which length to cut it off, in characters.
    """
    return _MARKS.sub(r"\\\1", one_line(text, most=most)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def account_markdown(account: Account, names: Names, link: Link, now: datetime, *, longest: int = LONGEST) -> str:
    """Return what a run did, with a table for each kind of thing.

    Args:
        link: leads to the flow runs of loads.
        now: the time (UTC).
        longest: how long it may be, in bytes of UTF-8.
    """
    text = ""
    for rows in _ROWS:
        text = "\n\n".join(_parts(account, names, link, now, rows)) + "\n"
        if len(text.encode()) <= longest:
            return text
    return text.encode()[:longest].decode(errors="ignore")


def _parts(account: Account, names: Names, link: Link, now: datetime, most: int) -> list[str]:
    report = account.report

    def name(unique_id: str) -> str:
        return escaped(short_name(unique_id, names), most=_SAID)

    def listing(title: str, nodes: Sequence[str]) -> list[str]:
        return [f"**{title}** ({len(nodes)}): {few(map(name, nodes), most=most)}."] if nodes else []

    waits = [row.after for row in account.built if row.after is not None]
    parts = [f"# {escaped(report.summary())}"]
    if waits:
        parts.append(f"**From load to mart:** {_spread(waits)}.")
    if report.timing:
        parts.append(escaped(report.timing))
    loads = [
        (name(load.source), when(load.at), escaped(load.producer or "-", most=_SAID), _run(load, link), _news(load))
        for load in account.loads
    ]
    parts += _table("Loads that led to it", ("source", "loaded", "by", "flow run", "news"), loads, most)
    if (account.built or report.failed) and not loads:
        parts.append("No load led to this: definitions changed, relations were gone, or someone asked for it.")
    built = [
        (
            name(row.unique_id),
            "-" if row.seconds is None else f"{row.seconds:.1f} s",
            "-" if row.after is None else roughly(row.after.total_seconds()),
            "came out as before" if row.is_unchanged else "",
        )
        for row in account.built
    ]
    parts += _table("Built", ("node", "took", "after its load", ""), built, most)
    failed = [(name(each), escaped(why, most=_SAID)) for each, why in report.failed.items()]
    parts += _table("Failed", ("node or test", "dbt says"), failed, most)
    carried = [(name(each), escaped(why, most=_SAID)) for each, why in report.failing.items()]
    parts += _table("Failed in builds before, and not tried again yet", ("node", "dbt said"), carried, most)
    held = [
        (name(each), escaped(until(why.until, now)), escaped(held_reason(why, names), most=_SAID))
        for each, why in report.held.items()
        if each not in report.failed and each not in report.failing
    ]
    parts += _table("Held", ("node", "until", "why"), held, most)
    parts += listing("Not built, since what they read came out as before", report.unchanged_upstream)
    parts += listing("Passed their tests only now", report.tested)
    parts += listing("Stale again by what was loaded meanwhile", report.more)
    parts += listing("Planned, and without a result from dbt", report.unreported)
    parts += listing("Stale, and not built by dbt as it is called here", report.not_built)
    parts += listing("Followers started", report.followed)
    unfollowed = [(name(each), escaped(why, most=_SAID)) for each, why in report.follow_failed.items()]
    parts += _table("Followers that failed", ("follower", "why"), unfollowed, most)
    if account.loads:
        parts += listing("Not affected by these loads", account.not_affected)
    if (compared := account.compared) is not None:
        own = f" in {roughly(compared.seconds)}" if compared.seconds else ""
        other = f" in about {roughly(compared.seconds_by_load)}" if compared.seconds_by_load else ""
        parts.append(
            f"**What it saved:** {count(compared.built, 'node')} built{own}; one dbt command per load would have built "
            f"{compared.builds_by_load}{other}. {escaped(METHOD)}"
        )
    return parts


def load_rows(loads: Iterable[Load], link: Link) -> list[dict[str, Any]]:
    """Return the last loads of a source as the rows of a table."""
    return [
        {
            "loaded": when(load.at),
            "by": load.producer or "-",
            "flow run": (link(load.flow_run_id) or load.flow_run_id) if load.flow_run_id else "-",
            "news": _news(load),
            "tick": load.tick,
        }
        for load in loads
    ]


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> list[str]:
    if not rows:
        return []
    lines = [columns, ["---"] * len(columns), *rows[:most]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    more = [f"and {len(rows) - most} more."] if len(rows) > most else []
    return [f"## {title}", table, *more]


def _run(load: Load, link: Link) -> str:
    if load.flow_run_id is None:
        return "-"
    shown, address = escaped(load.flow_run_id[:8]), link(load.flow_run_id)
    return f"[{shown}](<{address}>)" if address else shown


def _news(load: Load) -> str:
    if load.baseline:
        return "adopted"
    return "nothing new" if load.unchanged else "yes"


def _spread(waits: Sequence[timedelta]) -> str:
    low, high = (roughly(each.total_seconds()) for each in (min(waits), max(waits)))
    return low if low == high else f"{low} to {high}"
