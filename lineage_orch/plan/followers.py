"""The followers of a project, as the planner takes them: what flows declare, by the names of the manifest. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from lineage_orch.errors import LineageError, PolicyError, UnknownNodeError
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.followers import Follower, exposure_followers, follower_policy
from lineage_orch.loads.following import Following

# After so long a run that goes on is looked at first; then each time that it is twice as old, and at least so often.
_FIRST_LOOK = timedelta(seconds=30)
_LAST_LOOKS = timedelta(minutes=10)


def followers_of(lineage: Lineage, declared: Iterable[Following]) -> tuple[Follower, ...]:
    """Return the followers of a project, sorted by unique_id: the exposures that are, and the flows that declare it.

    A flow that follows what the manifest does not know is one that never runs, with what is wrong.
    """
    found = {each.unique_id: each for each in exposure_followers(lineage)}
    for each in declared:
        unique_id = f"follower.{each.name}"
        place = f"@follows of the flow {each.name!r}"
        parents: tuple[str, ...] = ()
        try:
            parents = tuple(dict.fromkeys(one for name in each.follows for one in _named(lineage, name)))
            policy = follower_policy(place, each.updates_on, each.build_after, each.lag_tolerance)
        except LineageError as error:
            found[unique_id] = Follower(unique_id, each.name, (), each.deployment, error=f"{place}: {error}")
        except PolicyError as error:
            found[unique_id] = Follower(unique_id, each.name, parents, each.deployment, error=str(error))
        else:
            found[unique_id] = Follower(
                unique_id, each.name, parents, each.deployment, policy, takes_window=each.takes_window
            )
    return tuple(found[unique_id] for unique_id in sorted(found))


def _named(lineage: Lineage, name: str) -> tuple[str, ...]:
    try:
        return (lineage.resolve_node(name),)
    except UnknownNodeError as no_node:
        try:
            return lineage.resolve_sources(name)
        except LineageError:
            raise no_node from None


def next_look(started_at: datetime, now: datetime) -> datetime:
    """Return when to look next at a run that goes on: each look costs a process, and most runs are short."""
    age = max(now - started_at, timedelta(0))
    wait = _FIRST_LOOK
    while wait <= age:
        wait += min(wait, _LAST_LOOKS)
    return started_at + wait
