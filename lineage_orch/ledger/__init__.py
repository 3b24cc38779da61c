"""The durable clock: what was loaded and what was built, in the order of one logical clock."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Loaded at first use: a plan needs the snapshot, and no database.
_HOMES = {
    "Built": "snapshot",
    "Extent": "snapshot",
    "Failure": "snapshot",
    "History": "snapshot",
    "Holder": "snapshot",
    "Launch": "snapshot",
    "Ledger": "store",
    "LedgerSnapshot": "snapshot",
    "Load": "snapshot",
    "Moment": "snapshot",
    "NodeFact": "snapshot",
    "Pause": "snapshot",
    "Untested": "snapshot",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
