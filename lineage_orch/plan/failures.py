"""When a node that failed is tried again."""

from __future__ import annotations

from datetime import timedelta

from lineage_orch.lineage import Lineage
from lineage_orch.lineage.identity import digest

_FIRST_WAIT = timedelta(minutes=5)
_LONGEST_WAIT = timedelta(hours=6)


def wait_after(failures: int) -> timedelta:
    """Return how long a node waits after so many failures in a row: min(2^k x 5 min, 6 h)."""
    # 2^7 x 5 min is more than 6 h already, and 2^10000 is no time at all.
    return min((1 << min(failures, 7)) * _FIRST_WAIT, _LONGEST_WAIT)


def failure_identity(lineage: Lineage, node_id: str) -> dict[str, str]:
    """Return, by parts, what can make a node fail beside its data: its own identity, and the tests on it.

    Kept with a failure (``Ledger.record_failed``): while it is the same, the node is expected to fail again.
    """
    tests = {f"test {test}": lineage.test_definition(test) for test in lineage.tests_on(node_id)}
    return {**lineage.identity_parts(node_id), **tests}


def failure_digest(lineage: Lineage, node_id: str) -> str:
    """Return the digest of :func:`failure_identity`, as the ledger keeps it in ``Failure.identity``."""
    return digest(failure_identity(lineage, node_id))
