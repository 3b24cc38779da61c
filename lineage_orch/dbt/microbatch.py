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
from types import MappingProxyType

from lineage_orch.errors import SettingsError
from lineage_orch.ledger.snapshot import OPEN, Extent, NodeFact
from lineage_orch.lineage import Lineage, Microbatch
from lineage_orch.plan.windows import batch_begin, due_window

_OF_THE_USER = ("--event-time-start", "--event-time-end", "--full-refresh")


def event_times(
    lineage: Lineage,
    nodes: Iterable[str],
    built: Mapping[str, NodeFact],
    missing: Collection[str],
    now: datetime,
    flags: Sequence[str],
    *,
    extents: Mapping[str, Extent] = MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
) -> tuple[str, ...]:
    """Return the flags that make dbt build each batch since a model's last good build; none where it does so anyway.

    dbt has one span of time for a whole run, so it is that of the model that needs most. A batch that is built again
    is replaced. Where loads gave windows, these are built as well; and of a model of which all that is new lies in
    windows, the batches that dbt builds by itself are enough: for other windows the plan makes a call of their own.

    Args:
        built: the last good build of each node that has one.
        missing: the nodes whose relation is not there: dbt builds those from their ``begin`` on.
        now: an aware datetime.
        flags: the user's own; with a span of time, or ``--full-refresh``, among them, nothing is added.
        extents: in which event times there is something new for a model, where windows are known.
        environ: where dbt finds the same wishes.

    Raises:
        KeyError, ManifestError: as :meth:`Lineage.identity`.
    """
    models = [(node, batches) for node in nodes if (batches := lineage.microbatch(node)) is not None]
    if not models or user_decides(flags, environ=environ):
        return ()
    starts: list[datetime] = []
    # dbt takes the end as exclusive, and in whole seconds.
    end = now.astimezone(UTC) + timedelta(seconds=1)
    is_needed = False
    for node, batches in models:
        usual = batch_begin(now, batches.batch_size, back=batches.lookback)
        if node in missing or batches.is_refreshed:
            starts.append(batches.begin or usual)
            continue
        extent = extents.get(node, OPEN)
        start = min((_needed(batches, built.get(node), now) if extent.is_open else None) or usual, usual)
        if extent.is_open and (window := due_window(batches, extent)) is not None:
            start = min(start, batch_begin(window.start, batches.batch_size))
            is_needed |= window.end > end
            end = max(end, window.end)
        is_needed |= start < _by_dbt(lineage, batches, now)
        starts.append(start)
    if not is_needed:
        return ()
    return span_flags(min(starts), end)


def built_in_part(
    lineage: Lineage,
    nodes: Iterable[str],
    built: Mapping[str, NodeFact],
    missing: Collection[str],
    now: datetime,
    start: datetime | None,
    end: datetime | None,
    extents: Mapping[str, Extent] = MappingProxyType({}),
) -> frozenset[str]:
    """Return the microbatch models among these of which a build of this span leaves batches that are due.

    Such a build is no good build of the model: what was loaded for the other batches is still to be built.

    Args:
        built: the last good build of each node that has one.
        missing: the nodes whose relation is not there.
        now: an aware datetime.
        start: where the span begins; None for where dbt begins by itself: at ``begin`` where there is no relation yet,
            else as many batches before that of now as it looks back.
        end: where it ends, exclusive; None for now.
        extents: in which event times there is something new for a model, where windows are known.

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
        window = due_window(batches, extents.get(node, OPEN))
        if window is not None:
            needed = min(needed, window.start)
        last = max(now, window.end if window else now)
        ends = end or batch_begin(now, batches.batch_size, back=-1)
        if begins > needed or ends < last:
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


def user_decides(flags: Sequence[str], *, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user's own flags (these, or dbt's variables) say which batches are built: they win over ours."""
    given = any(flag.partition("=")[0] in _OF_THE_USER or flag == "-f" for flag in flags)
    return given or any(environ.get("DBT_" + name[2:].upper().replace("-", "_")) for name in _OF_THE_USER)


def _by_dbt(lineage: Lineage, batches: Microbatch, now: datetime) -> datetime:
    """Return where the first batch begins that dbt builds by itself of a model that is there."""
    back = batches.lookback if lineage.dbt_major < 2 else batches.lookback - 1
    return batch_begin(now, batches.batch_size, back=back)


def _needed(batches: Microbatch, last: NodeFact | None, now: datetime) -> datetime | None:
    """Return where the first batch begins of which not all is known to be built."""
    if last is None:
        return batches.begin
    return batch_begin(min(last.built_at, now), batches.batch_size, back=max(batches.lookback - 1, 0))


def _shown(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
