"""Which sources have a producer: those that are registered, and those that a declared pattern can mean."""

from __future__ import annotations

from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.lineage import Lineage
from lineage_orch.loads.declaration import can_mean


def producing_sources(lineage: Lineage, snapshot: LedgerSnapshot) -> frozenset[str]:
    """Return the unique_ids of the sources that have a producer.

    A producer may declare ``crm.*`` or ``crm.{table}``: it counts as one of every source that this can mean.
    """
    patterns = snapshot.producer_patterns
    return snapshot.producers.union(
        source for source in lineage.sources if any(can_mean(pattern, source) for pattern in patterns)
    )
