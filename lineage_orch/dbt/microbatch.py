"""From when on dbt is to build microbatch models, so that no batch is left out.

By itself dbt builds the batch of now and ``lookback`` batches before it, whatever was built before. So a batch that
failed, or that nothing built while the model failed or waited, would be missing for good as soon as one build of later
batches succeeds. dbt 2 (2.0.0rc196) even counts the batch of now among the ``lookback`` ones: with the default of 1 it
builds that alone, and leaves out what came late on the day before; with 0 it builds none.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from lineage_orch.errors import SettingsError
from lineage_orch.ledger.snapshot import NodeFact
from lineage_orch.lineage import Lineage, Microbatch

_OF_THE_USER = ("--event-time-start", "--event-time-end", "--full-refresh")


def event_times(
    lineage: Lineage,
    nodes: Iterable[str],
    built: Mapping[str, NodeFact],
    missing: Collection[str],
    now: datetime,
    flags: Sequence[str],
    *,
    environ: Mapping[str, str] = os.environ,
) -> tuple[str, ...]:
    """Return the flags that make dbt build each batch since a model's last good build; none where it does so anyway.

    dbt has one span of time for a whole run, so it is that of the model that needs most. A batch that is built again
    is replaced.

    Args:
        lineage: the project.
        nodes: what is to be built.
        built: the last good build of each node that has one.
        missing: the nodes whose relation is not there: dbt builds those from their ``begin`` on.
        now: an aware datetime.
        flags: the user's own; with a span of time, or ``--full-refresh``, among them, nothing is added.
        environ: where dbt finds the same wishes.

    Raises:
        KeyError, ManifestError: as :meth:`Lineage.identity`.
    """
    models = [(node, batches) for node in nodes if (batches := lineage.microbatch(node)) is not None]
    if not models or _user_decides(flags, environ):
        return ()
    starts: list[datetime] = []
    is_needed = False
    for node, batches in models:
        usual = _batch(now, batches.batch_size, back=batches.lookback)
        if node in missing or batches.is_refreshed:
            starts.append(batches.begin or usual)
            continue
        start = min(_needed(batches, built.get(node), now) or usual, usual)
        is_needed |= start < _by_dbt(lineage, batches, now)
        starts.append(start)
    if not is_needed:
        return ()
    # dbt takes the end as exclusive, and in whole seconds.
    end = now.astimezone(UTC) + timedelta(seconds=1)
    return span_flags(min(starts), end)


def built_in_part(
    lineage: Lineage,
    nodes: Iterable[str],
    built: Mapping[str, NodeFact],
    missing: Collection[str],
    now: datetime,
    start: datetime | None,
    end: datetime | None,
) -> frozenset[str]:
    """Return the microbatch models among these of which a build of this span leaves batches that are due.

    Such a build is no good build of the model: what was loaded for the other batches is still to be built.

    Args:
        lineage: the project.
        nodes: what is built.
        built: the last good build of each node that has one.
        missing: the nodes whose relation is not there.
        now: an aware datetime.
        start: where the span begins; None for where dbt begins by itself: at ``begin`` where there is no relation yet,
            else as many batches before that of now as it looks back.
        end: where it ends, exclusive; None for now.

    Raises:
        KeyError, ManifestError: as :meth:`Lineage.identity`.
    """
    found = set()
    for node in nodes:
        if (batches := lineage.microbatch(node)) is None:
            continue
        is_new = node in missing or batches.is_refreshed
        by_dbt = _by_dbt(lineage, batches, now)
        needed = (batches.begin if is_new else _needed(batches, built.get(node), now)) or by_dbt
        begins = start or (needed if is_new else by_dbt)
        if begins > needed or (end is not None and end < now):
            found.add(node)
    return frozenset(found)


def moment(given: datetime | str, what: str) -> datetime:
    """Return a time of an event, of which dbt takes one without a time zone as UTC.

    Args:
        given: the time, or ISO 8601.
        what: what it is called in the message.

    Raises:
        SettingsError: it is none.
    """
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            raise SettingsError(f"{what} {given!r} is no time; write it as 2026-01-31 or 2026-01-31T09:00:00") from None
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)


def span_flags(start: datetime, end: datetime) -> tuple[str, ...]:
    """Return the flags that make dbt build the batches of this span; both aware, the end exclusive."""
    return ("--event-time-start", _shown(start), "--event-time-end", _shown(end))


def _user_decides(flags: Sequence[str], environ: Mapping[str, str]) -> bool:
    given = any(flag.partition("=")[0] in _OF_THE_USER or flag == "-f" for flag in flags)
    return given or any(environ.get("DBT_" + name[2:].upper().replace("-", "_")) for name in _OF_THE_USER)


def _by_dbt(lineage: Lineage, batches: Microbatch, now: datetime) -> datetime:
    """Return where the first batch begins that dbt builds by itself of a model that is there."""
    back = batches.lookback if lineage.dbt_major < 2 else batches.lookback - 1
    return _batch(now, batches.batch_size, back=back)


def _needed(batches: Microbatch, last: NodeFact | None, now: datetime) -> datetime | None:
    """Return where the first batch begins of which not all is known to be built."""
    if last is None:
        return batches.begin
    return _batch(min(last.built_at, now), batches.batch_size, back=max(batches.lookback - 1, 0))


def _batch(at: datetime, size: str, *, back: int) -> datetime:
    """Return the begin of the batch of a time, or of one so many batches before it."""
    at = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if size == "hour":
        return at - timedelta(hours=back)
    at = at.replace(hour=0)
    if size == "day":
        return at - timedelta(days=back)
    if size == "month":
        months = at.year * 12 + at.month - 1 - back
        return at.replace(year=months // 12, month=months % 12 + 1, day=1)
    return at.replace(year=at.year - back, month=1, day=1)


def _shown(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
