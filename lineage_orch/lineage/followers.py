"""Followers: what runs when models are fresh, and dbt does not build. Data; and those that dbt's exposures name.

An exposure is one with ``meta: {lineage_orch: {deployment: "flow/name"}}`` (dbt 2: ``config.meta``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lineage_orch.errors import PolicyError
from lineage_orch.lineage.policy import DEFAULT_POLICY, Policy, UpdatesOn, read_duration

if TYPE_CHECKING:
    from lineage_orch.lineage.graph import Lineage

_KEYS = ("deployment", "updates_on", "build_after", "lag_tolerance", "window")


@dataclass(frozen=True, slots=True)
class Follower:
    """A flow that runs when what it follows is fresh.

    Attributes:
        unique_id: under which the ledger keeps it: ``follower.NAME`` of a flow, an exposure's own.
        name: what people call it: of the flow, or of the exposure.
        parents: the unique_ids of the nodes and sources that it follows.
        deployment: ``flow/name`` of the Prefect deployment that runs it; None: it runs in the process that builds.
        policy: when it may run.
        error: what is wrong with it, so that it does not run; None: nothing.
        takes_window: whether it is told in which event times there is something new for it.
    """

    unique_id: str
    name: str
    parents: tuple[str, ...]
    deployment: str | None = None
    policy: Policy = DEFAULT_POLICY
    error: str | None = None
    takes_window: bool = False


def is_follower(unique_id: str) -> bool:
    """Whether a name of the ledger is that of a follower, known now or not: what is built is no exposure."""
    return unique_id.startswith(("follower.", "exposure."))


def exposure_followers(lineage: Lineage) -> Iterator[Follower]:
    """Yield the exposures that name a deployment; one whose meta cannot be read, with what is wrong."""
    for unique_id, name, block in lineage.exposure_blocks():
        parents = lineage.read_by(unique_id)
        place = f"meta.lineage_orch of {unique_id}"
        try:
            if not isinstance(block, Mapping):
                raise _unreadable(place, block, "a block of keys")
            if unknown := sorted(map(str, block.keys() - set(_KEYS))):
                raise PolicyError(f"follower not read: {place} has a key {unknown[0]!r}; there are: {', '.join(_KEYS)}")
            deployment = block.get("deployment")
            if not isinstance(deployment, str) or "/" not in deployment:
                raise _unreadable(f"deployment in {place}", deployment, "flow/name of a Prefect deployment")
            policy = follower_policy(
                place, block.get("updates_on", "any"), block.get("build_after"), block.get("lag_tolerance")
            )
            if not isinstance(takes_window := block.get("window", False), bool):
                raise _unreadable(f"window in {place}", takes_window, "true or false")
        except PolicyError as error:
            yield Follower(unique_id, name, parents, error=str(error))
        else:
            yield Follower(unique_id, name, parents, deployment, policy, takes_window=takes_window)


def follower_policy(place: str, updates_on: object, build_after: object, lag_tolerance: object) -> Policy:
    """Return when a follower may run.

    Args:
        place: where these stand, for messages.
        updates_on: ``any`` or ``all``, as of a model.
        build_after: the least time since its last Completed run: ``"6h"``, or a timedelta.
        lag_tolerance: the least time since data for it began to wait; the same.

    Raises:
        PolicyError: a value cannot be read; the message names the place, the key and the value.
    """
    if updates_on not in ("any", "all"):
        raise _unreadable(f"updates_on in {place}", updates_on, "any or all")
    on: UpdatesOn = "all" if updates_on == "all" else "any"
    return Policy(on, _time(f"build_after in {place}", build_after), _time(f"lag_tolerance in {place}", lag_tolerance))


def _time(what: str, value: Any) -> timedelta | None:
    if value is None or (isinstance(value, timedelta) and value >= timedelta(0)):
        return value
    try:
        length = read_duration(value) if isinstance(value, str) else None
    except OverflowError:
        length = None
    if length is None:
        raise _unreadable(what, value, "a duration such as '45m', '4h' or '7d'")
    return length


def _unreadable(what: str, value: object, expected: str) -> PolicyError:
    return PolicyError(f"follower not read: {what} is {value!r}; it must be {expected}")
