"""The durable clock: what was loaded and what was built, in the order of one logical clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lineage_orch.ledger.snapshot import (
    Built,
    Extent,
    Failure,
    History,
    Holder,
    Launch,
    LedgerSnapshot,
    Load,
    Moment,
    NodeFact,
    Pause,
    Untested,
)

if TYPE_CHECKING:
    from lineage_orch.ledger.store import Ledger

__all__ = [
    "Built",
    "Extent",
    "Failure",
    "History",
    "Holder",
    "Launch",
    "Ledger",
    "LedgerSnapshot",
    "Load",
    "Moment",
    "NodeFact",
    "Pause",
    "Untested",
]


def __getattr__(name: str) -> Any:
    # Loaded at first use: a plan needs the snapshot, and no database.
    if name != "Ledger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lineage_orch.ledger.store import Ledger

    return Ledger
