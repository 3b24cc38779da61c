"""``lineage-orch pause`` and ``resume``: what is left as it stands for a while."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from lineage_orch.cli.common import DEFAULTS, DONE, Common, names_in, now, print_result, span_or_time
from lineage_orch.errors import SettingsError
from lineage_orch.text import listed

_Paused = Annotated[
    str, Parameter(help="A source or node, named as elsewhere; or a pattern such as 'crm.*', or a selector of dbt.")
]
_EVERYTHING = "*"


def pause(
    *name: _Paused,
    all_: Annotated[bool, Parameter(name="--all", help="All nodes, those to come too.")] = False,
    until: Annotated[
        str | None,
        Parameter(help="When it ends by itself: a span from now, such as 2h or 3d, or an ISO 8601 time with its zone."),
    ] = None,
    reason: Annotated[str | None, Parameter(help="Why, for those who read it in status, plan and page.")] = None,
    common: Common = DEFAULTS,
) -> int:
    """Pause sources, nodes or all: loads are recorded, and nothing is built for them until they are resumed.

    Of a paused source, new data makes nothing stale. A paused node is held, and so is what is stale below it; all else
    builds. `build --select ... --force` builds it all the same.
    """
    names = _named(name, all_, "pause")
    end = None if until is None else _until(until)
    with common.orchestrator() as orchestrator:
        paused = orchestrator.pause(names, until=end, reason=reason)
        known = names_in(orchestrator)
    for_how_long = "until it is resumed" if end is None else f"until {end:%Y-%m-%d %H:%M} UTC"
    said = "all nodes" if _EVERYTHING in paused else listed((known[each] for each in paused), most=8)
    data = {"paused": list(paused), "until": None if end is None else end.isoformat(), "reason": reason}
    print_result(common, data, [f"Paused {for_how_long}: {said}."])
    return DONE


def resume(
    *name: _Paused,
    all_: Annotated[bool, Parameter(name="--all", help="All that is paused.")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Let go on what was paused: the next build takes up all that became stale meanwhile, once."""
    names = _named(name, all_, "resume")
    with common.orchestrator() as orchestrator:
        resumed, left = orchestrator.resume(names)
        known = names_in(orchestrator)
    said = listed(("all nodes" if each == _EVERYTHING else known.get(each, each) for each in resumed), most=8)
    parts = [f"Resumed: {said}. The next build takes up what is stale." if resumed else "None of it was paused."]
    if _EVERYTHING in left:
        parts.append("All nodes are paused still: `lineage-orch resume --all` lets them go on.")
    print_result(common, {"resumed": list(resumed), "still_paused": list(left)}, parts)
    return DONE


def _named(names: Sequence[str], everything: bool, command: str) -> Sequence[str]:
    if not all(names) or bool(names) == everything:
        raise SettingsError(f"{command} needs sources or nodes, such as raw.orders, or --all")
    return [_EVERYTHING] if everything else names


def _until(text: str) -> datetime:
    moment = span_or_time(text, ago=False)
    if moment is None or moment <= now():
        raise SettingsError(
            f"--until {text!r} is no span such as 2h or 3d, nor a time to come such as 2030-10-16T09:30:00Z"
        )
    return moment
