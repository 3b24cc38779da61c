"""What was loaded, built and failed of late, and by which run: data, rendered elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from lineage_orch.lineage.followers import is_follower
from lineage_orch.reports.as_json import as_json
from lineage_orch.updates import Window

if TYPE_CHECKING:
    from lineage_orch.ledger import History


@dataclass(frozen=True, slots=True)
class Event:
    """One load, good build or failed build.

    Attributes:
        at: when it ended (UTC).
        tick: of the load, or of the run of builds.
        kind: ``loaded``, ``built`` or ``failed``.
        unique_id: of the source or node; a name that no manifest knows as it was given.
        by: who did it: the producer, or the run of builds; None: not known.
        message: of a failure: what dbt said.
        window: of a load: in which event times all that was new lay; of a build: where what it took in lay; None: not
            known.
    """

    at: datetime
    tick: int
    kind: Literal["loaded", "built", "failed"]
    unique_id: str
    by: str | None
    message: str | None = None
    window: Window | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON-ready values."""
        data: dict[str, Any] = as_json(self)
        return data


def of_nodes(history: History) -> History:
    """Return a history without what followers did."""
    return replace(
        history,
        built=[each for each in history.built if not is_follower(each.node)],
        failed=[each for each in history.failed if not is_follower(each.node)],
    )


def events(history: History, only: Collection[str] | None = None) -> list[Event]:
    """Return what happened, the newest first; of these unique_ids and names alone, if given."""

    def found() -> Iterator[Event]:
        for load in history.loads:
            yield Event(load.at, load.tick, "loaded", load.source, load.producer, window=load.window)
        for built in history.built:
            window = None if built.extent.is_open else built.extent.window
            yield Event(built.at, built.tick, "built", built.node, history.who.get(built.tick), window=window)
        for failed in history.failed:
            yield Event(failed.at, failed.tick, "failed", failed.node, history.who.get(failed.tick), failed.message)

    mine = (each for each in found() if only is None or each.unique_id in only)
    return sorted(mine, key=lambda each: (each.tick, each.at, each.unique_id), reverse=True)
