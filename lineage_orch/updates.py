"""One load of one source: what a producer reports, and what travels to the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self


class Window(NamedTuple):
    """A span of event time, half open: from ``start`` (UTC) up to ``end``, which is not in it."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, start: datetime, end: datetime) -> Self:
        """Return the window between two times, to whole seconds that hold it: dbt takes no others.

        Raises:
            ValueError: one has no time zone, or the first is not before the other, or it has no end in earnest.
        """
        for time in (start, end):
            if time.utcoffset() is None:
                raise ValueError(f"{time!r} of a window has no time zone; use datetime(..., tzinfo=UTC)")
        if start >= end:
            raise ValueError(f"a window begins before it ends, got {start} to {end}")
        if start.year < 2 or end.year > 9998:
            raise ValueError(f"a window has two ends, got {start} to {end}; without a known window, give none")
        # Prefect's times are pendulum's, which subtract in a way of their own.
        start, end = (datetime.fromisoformat(time.isoformat()).astimezone(UTC) for time in (start, end))
        return cls(start.replace(microsecond=0), end + timedelta(microseconds=-end.microsecond % 1_000_000))

    def __or__(self, other: Window) -> Window:
        """Return their hull: the smallest window that holds both, with what is between them."""
        return Window(min(self.start, other.start), max(self.end, other.end))

    def __str__(self) -> str:
        """Return ``2026-03-01 to 2026-03-02``, with the times where one of them is not midnight."""
        return " to ".join(_day_or_time(each) for each in self)


@dataclass(frozen=True, slots=True)
class SourceUpdate:
    """One load of one source.

    Attributes:
        source: a unique_id, or a name as people write it (``source_name.table``, with or without the package).
        update_id: makes the record idempotent: the same ``(source, update_id)`` twice is one update.
        loaded_at: when the load completed (aware), kept in UTC.
        flow_run_id: the flow run that loaded it, for people who ask later.
        producer: the name of the flow or task that loaded it.
        fingerprint: of what was loaded. The same as that of the source's last load: nothing new. None, or empty: not
            known, which counts as new.
        began_at: when the load began (aware), if that is known: from then on what is in the table is in doubt.
        window_start, window_end: the event times (aware, half open) in which all that is new lies; None: not known.

    Raises:
        ValueError: an empty name or id, a time without a time zone, or a window with one end or none before the other.
    """

    source: str
    update_id: str
    loaded_at: datetime
    flow_run_id: str | None = None
    producer: str | None = None
    fingerprint: str | None = None
    began_at: datetime | None = None
    window_start: datetime | None = None
    window_end: datetime | None = None

    def __post_init__(self) -> None:
        if not self.source or not self.update_id:
            raise ValueError(
                f"an update needs a source and an update_id, got source={self.source!r}, update_id={self.update_id!r}"
            )
        for name, time in (("loaded_at", self.loaded_at), ("began_at", self.began_at)):
            if time is not None and time.tzinfo is None:
                raise ValueError(
                    f"{name} of the update of {self.source!r} has no time zone: {time!r}; use datetime.now(UTC)"
                )
            try:
                _ = time and time.astimezone(UTC)
            except OverflowError:
                raise ValueError(f"{name} of the update of {self.source!r} is {time}: no time in UTC") from None
        if (self.window_start is None) != (self.window_end is None):
            raise ValueError(f"the window of the update of {self.source!r} has one end; give both, or none")
        try:
            _ = self.window
        except ValueError as error:
            raise ValueError(f"the update of {self.source!r}: {error}") from None
        if self.fingerprint == "":
            object.__setattr__(self, "fingerprint", None)

    @property
    def window(self) -> Window | None:
        """The event times in which all that is new lies; None: not known."""
        if self.window_start is None or self.window_end is None:
            return None
        return Window.of(self.window_start, self.window_end)

    def to_dict(self) -> dict[str, Any]:
        """Return the update as JSON-ready values, for the parameters of a flow run."""
        out: dict[str, Any] = {
            "source": self.source,
            "update_id": self.update_id,
            "loaded_at": self.loaded_at.astimezone(UTC).isoformat(),
        }
        for name in _OPTIONAL_TEXTS:
            if (text := getattr(self, name)) is not None:
                out[name] = text
        for name in _OPTIONAL_TIMES:
            if (time := getattr(self, name)) is not None:
                out[name] = time.astimezone(UTC).isoformat()
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SourceUpdate:
        """Read what :meth:`to_dict` wrote.

        Keys that this release does not know are ignored, so that a newer load can talk to an older worker.
        Raises ``ValueError`` that names the missing or unreadable key.
        """
        given: dict[str, Any] = {name: str(data[name]) for name in _OPTIONAL_TEXTS if data.get(name) is not None}
        given |= {name: _time(data, name) for name in _OPTIONAL_TIMES if data.get(name) is not None}
        try:
            return cls(
                source=str(data["source"]),
                update_id=str(data["update_id"]),
                loaded_at=_time(data, "loaded_at"),
                **given,
            )
        except KeyError as missing:
            raise ValueError(f"the update {dict(data)!r} has no {missing.args[0]!r}") from None


_OPTIONAL_TEXTS = ("flow_run_id", "producer", "fingerprint")
_OPTIONAL_TIMES = ("began_at", "window_start", "window_end")


class LastLoad(NamedTuple):
    """What is kept of the loads of a source, to know whether the next one brings anything new.

    Attributes:
        loaded_at: the latest time of any of its loads; long ago: there was none.
        fingerprint: of what stands in its table since then; None: not known.
    """

    loaded_at: datetime = datetime.min.replace(tzinfo=UTC)
    fingerprint: str | None = None

    def is_repeated_by(self, loaded_at: datetime, fingerprint: str | None, began_at: datetime | None = None) -> bool:
        """Whether a load brought what is there already. Any doubt means that it did not."""
        in_order = min(began_at or loaded_at, loaded_at) >= self.loaded_at
        return fingerprint is not None and fingerprint == self.fingerprint and in_order

    def then(self, loaded_at: datetime, fingerprint: str | None, began_at: datetime | None = None) -> LastLoad:
        """Return this with one more load, which may have been reported after a later one, or begun before its end.

        Which of the two stands in the table is not known then.
        """
        in_order = min(began_at or loaded_at, loaded_at) >= self.loaded_at
        return LastLoad(max(loaded_at, self.loaded_at), fingerprint if in_order else None)


def _time(data: Mapping[str, Any], key: str) -> datetime:
    value = data[key]
    try:
        return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"{key} of the update of {data['source']!r} is {value!r}, which is no time") from None


def _day_or_time(at: datetime) -> str:
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%d}" if not (at.hour or at.minute or at.second) else f"{at:%Y-%m-%d %H:%M:%S}"
