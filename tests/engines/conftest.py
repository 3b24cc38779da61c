"""Which of these tests each run has time for."""

from __future__ import annotations

import pytest

# What they show in `make test` too: the same tables and ledger, and that nothing is lost when dbt is killed.
ALWAYS = ("same_tables_and_same_ledger[dbt1-process]", "kill_of_dbt")
SLOW = ("dbt1-process", "dbt-cloud")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to ``make test-engines`` what would take `make test` minutes: each of these starts dbt many times."""
    for item in items:
        of_slow = "tests/engines/" in item.nodeid and any(engine in item.nodeid for engine in SLOW)
        if of_slow and not any(name in item.name for name in ALWAYS):
            item.add_marker("engine")
