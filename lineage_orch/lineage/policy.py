"""When a stale node may build and when it is late, by dbt's freshness configs, and whether its content is compared.

Read from the places where dbt reads them: ``config.freshness`` (dbt docs, "freshness": ``build_after``, ``warn_after``,
``error_after``) and ``config.state`` (dbt docs, "lag_tolerance" and "require_fresh_data_from"). Where both name the
same thing, ``state``, the newer block, wins. What dbt has no config for is in ``config.meta.lineage_orch``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from lineage_orch.errors import PolicyError
from lineage_orch.text import one_line

UpdatesOn = Literal["any", "all"]

_PERIODS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
_UNITS = {
    unit: length
    for units, length in (
        (("s", "second", "seconds"), timedelta(seconds=1)),
        (("m", "minute", "minutes"), timedelta(minutes=1)),
        (("h", "hour", "hours"), timedelta(hours=1)),
        (("d", "day", "days"), timedelta(days=1)),
        (("w", "week", "weeks"), timedelta(weeks=1)),
    )
    for unit in units
}
_NOT_SO_LONG = "a time of less than a million years"
# So many digits are far beyond a million years; Python refuses to read some thousands of them.
_DURATION = re.compile(r"\s*(\d{1,99})\s*([a-z]+)\s*")


@dataclass(frozen=True, slots=True)
class Policy:
    """When a stale node may build.

    ``updates_on``: whether one fresh parent is enough, or all that move must be fresh. ``build_after``: the
    least time since the node's last good build. ``lag_tolerance``: the least time since data for it began to
    wait. None: no such limit.
    """

    updates_on: UpdatesOn = "any"
    build_after: timedelta | None = None
    lag_tolerance: timedelta | None = None


DEFAULT_POLICY = Policy()

# The materializations whose relation keeps, from the end of its build to the next, what the build left in it. What a
# view or a materialized view shows may change in between; of one that is none of dbt's own nothing is known.
KEEPS_CONTENT = frozenset({"table", "incremental", "snapshot", "seed"})


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Whether the content of a node is compared with that of the build before.

    ``takes_part``: so its meta says. ``ignore``: the columns that do not count, in lower case, sorted.
    """

    takes_part: bool
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Promise:
    """How old the last load of a source, or the oldest load that a node has not taken in, may become.

    ``warn_after``, ``error_after``: older than this, it is late; None: no such limit. One of them is given.
    """

    warn_after: timedelta | None = None
    error_after: timedelta | None = None


def read_policy(node_id: str, freshness: object, state: object) -> Policy:
    """Read the policy of a node from its ``config.freshness`` and ``config.state``.

    Raises:
        PolicyError: a value cannot be read; the message names the node, the key and the value.
    """
    if freshness is None and state is None:
        return DEFAULT_POLICY
    build_after: timedelta | None = None
    updates_on: UpdatesOn = "any"
    after = _block(node_id, "freshness", freshness).get("build_after")
    if after is not None:
        block = _block(node_id, "freshness.build_after", after)
        build_after = _count_of(node_id, "freshness.build_after", block)
        updates_on = _any_or_all(node_id, "freshness.build_after.updates_on", block.get("updates_on"), "any")
    state_block = _block(node_id, "state", state)
    updates_on = _any_or_all(
        node_id, "state.require_fresh_data_from", state_block.get("require_fresh_data_from"), updates_on
    )
    lag = state_block.get("lag_tolerance")
    lag_tolerance = None if lag is None else _duration(node_id, "state.lag_tolerance", lag)
    return Policy(updates_on, build_after, lag_tolerance)


def read_cutoff(node_id: str, block: object) -> Cutoff | None:
    """Read ``cutoff`` of a node from its ``meta.lineage_orch``; None where that says nothing of it.

    Raises:
        PolicyError: a value cannot be read, or a key is not known; the message names the node, the key and the value.
    """
    key = "meta.lineage_orch"
    keys = _block(node_id, key, block)
    if unknown := sorted(map(str, keys.keys() - {"cutoff", "late_after"})):
        left_out = "left out: the keys are `cutoff` and `late_after`"
        raise _unreadable(node_id, f"{key}.{unknown[0]}", keys.get(unknown[0]), left_out)
    value = keys.get("cutoff")
    if value is None or isinstance(value, bool):
        return None if value is None else Cutoff(value)
    if not isinstance(value, Mapping) or set(value) != {"ignore"}:
        raise _unreadable(node_id, f"{key}.cutoff", value, "true, false or {ignore: [column, ...]}")
    ignore = value["ignore"]
    if not isinstance(ignore, list | tuple) or not all(isinstance(each, str) for each in ignore):
        raise _unreadable(node_id, f"{key}.cutoff.ignore", ignore, "a list of columns")
    return Cutoff(True, tuple(sorted({each.lower() for each in ignore})))


def read_promise(unique_id: str, freshness: object, block: object = None) -> Promise | None:
    """Read what a source or node promises; None where it promises nothing.

    Args:
        freshness: its ``config.freshness``. dbt 1 leaves ``warn_after`` and ``error_after`` out of that of a model.
        block: its ``meta.lineage_orch``, whose ``late_after`` stands for ``error_after``, and wins over it.

    Raises:
        PolicyError: a value cannot be read; the message names the source or node, the key and the value.
    """
    limits: dict[str, timedelta | None] = {}
    keys = _block(unique_id, "freshness", freshness)
    for name in ("warn_after", "error_after"):
        key = f"freshness.{name}"
        limits[name] = _count_of(unique_id, key, _block(unique_id, key, keys.get(name)))
    late_after = _block(unique_id, "meta.lineage_orch", block).get("late_after")
    if late_after is not None:
        limits["error_after"] = _duration(unique_id, "meta.lineage_orch.late_after", late_after)
    return Promise(**limits) if any(each is not None for each in limits.values()) else None


def _block(node_id: str, key: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _unreadable(node_id, key, value, "a block of keys")
    return value


def _count_of(node_id: str, key: str, block: Mapping[str, Any]) -> timedelta | None:
    count, period = block.get("count"), block.get("period")
    if count is None and period is None:
        return None
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise _unreadable(node_id, f"{key}.count", count, "a whole number, such as 4")
    if not isinstance(period, str) or period not in _PERIODS:
        raise _unreadable(node_id, f"{key}.period", period, "one of minute, hour, day")
    return _times(node_id, f"{key}.count", count, _PERIODS[period])


def _any_or_all(node_id: str, key: str, value: object, default: UpdatesOn) -> UpdatesOn:
    if value is None:
        return default
    if value == "any":
        return "any"
    if value == "all":
        return "all"
    raise _unreadable(node_id, key, value, "any or all")


def read_duration(text: str) -> timedelta | None:
    """Return a time such as ``15m``, ``4h`` or ``7 days``; None if the text is none.

    Raises:
        OverflowError: it is longer than a million years.
    """
    match = _DURATION.fullmatch(text.lower())
    return int(match[1]) * _UNITS[match[2]] if match is not None and match[2] in _UNITS else None


def _duration(node_id: str, key: str, value: object) -> timedelta:
    try:
        length = read_duration(value) if isinstance(value, str) else None
    except OverflowError:
        raise _unreadable(node_id, key, value, _NOT_SO_LONG) from None
    if length is None:
        raise _unreadable(node_id, key, value, "a duration such as '45m', '4h' or '7d'")
    return length


def _times(node_id: str, key: str, count: int, unit: timedelta) -> timedelta:
    try:
        return count * unit
    except OverflowError:
        raise _unreadable(node_id, key, count, _NOT_SO_LONG) from None


def _unreadable(node_id: str, key: str, value: object, expected: str) -> PolicyError:
    return PolicyError(
        f"config.{key} of {node_id} is {one_line(repr(value), most=200)}; it must be {expected}. Correct it in the "
        "model, its properties file or dbt_project.yml"
    )
