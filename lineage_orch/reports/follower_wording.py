"""Followers in plain words: what each follows, when it ran, and why it runs next or waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from lineage_orch.lineage.followers import Follower
from lineage_orch.reports.followers import FollowerState, FollowerStatus
from lineage_orch.reports.wording import held_reason, held_until, named, short_reasons, until, when
from lineage_orch.text import one_line

STATES: Mapping[FollowerState, str] = {
    "due": "due",
    "perhaps": "perhaps due",
    "running": "runs",
    "failing": "failing",
    "held": "held",
    "up_to_date": "up to date",
    "never_run": "never run",
}


def follower_state(status: FollowerStatus, names: Mapping[str, str], now: datetime) -> str:
    """Return its state in a few words."""
    held = status.held
    if held is None or status.state == "running":
        return STATES[status.state]
    return f"{STATES[status.state]}: {held_until(held, names, now)}"


def follower_lines(status: FollowerStatus, names: Mapping[str, str], now: datetime) -> list[str]:
    """Return in plain words why a follower runs next, waits, or is up to date; times are UTC."""
    follower, held, failure = status.follower, status.held, status.failure
    follows = named(follower.parents, names, most=8)
    why = short_reasons(status.reasons, status.because, names)
    last = (
        f"its last Completed run, at {when(status.ran_at)} after tick {status.tick}" if status.tick else "it never ran"
    )
    if follower.error is not None:
        first = f"{follower.name} does not run: {follower.error}."
    elif status.state == "due":
        first = f"{follower.name} will run as soon as what it follows is built: {why} ({last})."
    elif status.state == "perhaps":
        first = f"{follower.name} perhaps runs: if what is built first comes out changed ({last})."
    elif status.state == "running":
        run = f", flow run {status.flow_run_id}," if status.flow_run_id else ""
        first = (
            f"A run of {follower.name}{run} goes on. If what it follows is newer than that, one more comes after it."
        )
    elif held is not None:
        at = f" until {until(held.until, now)}" if held.until else ""
        first = f"{follower.name} is held{at}: {held_reason(held, names)}."
    elif status.tick:
        first = f"{follower.name} is up to date: nothing that it follows changed since {last}."
    else:
        first = f"{follower.name} never ran, and nothing that it follows was built."
    lines = [first, f"It follows {follows or 'nothing that is known'}, and runs {_where(follower)}."]
    if failure is not None:
        times = "the last time" if failure.count == 1 else f"{failure.count} times in a row"
        lines.append(f"It failed {times}, at {when(failure.last_at)}: {one_line(failure.message)}")
    return lines


def _where(follower: Follower) -> str:
    return f"as {follower.deployment}" if follower.deployment else "in the process that builds"


def follower_rows(statuses: Sequence[FollowerStatus], names: Mapping[str, str], now: datetime) -> list[list[str]]:
    """Return a row for each follower: its name, what it follows, where it runs, its state, and its last run."""
    return [
        [
            each.follower.name,
            named(each.follower.parents, names),
            each.follower.deployment or "in process",
            follower_state(each, names, now),
            when(each.ran_at) if each.ran_at else "never",
        ]
        for each in statuses
    ]
