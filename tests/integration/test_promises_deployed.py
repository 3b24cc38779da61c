"""A promise that is broken between two loads: on a real Prefect server a run looks at the deadline, and tells once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch import Orchestrator, SourceUpdate
from lineage_orch.loads.tags import DEADLINE
from tests.integration.real_prefect import RealPrefect, end, wait_for
from tests.shop_project import Shop

pytestmark = [pytest.mark.integration, pytest.mark.drill]

LATE = "build-affected/late"
PROMISED = 30  # seconds


@pytest.fixture
def shop(real_prefect: RealPrefect, tmp_path: Path, parsed_shop: Path) -> Iterator[tuple[RealPrefect, Shop]]:
    """A served project whose marts wait for an hour, and promise half a minute."""
    shutil.copytree(parsed_shop, tmp_path / "late")
    shop = Shop(tmp_path / "late")
    marts = f"marts:\n      +state: {{lag_tolerance: 1h}}\n      +meta: {{lineage_orch: {{late_after: {PROMISED}s}}}}"
    shop.edit("dbt_project.yml", "+materialized: table", f"+materialized: table\n    {marts}")
    server = real_prefect.telling(tmp_path, TEST_LATE=str(shop.folder))
    serving = server.serve(LATE)
    yield server, shop
    end(serving)


def events(server: RealPrefect, name: str) -> list[dict[str, Any]]:
    return server.post("/events/filter", {"filter": {"event": {"name": [name]}}})["events"]


def test_deadline_is_looked_at_and_told_once(shop: tuple[RealPrefect, Shop]) -> None:
    server, project = shop
    loaded_at = datetime.now(UTC)
    loads = [SourceUpdate(each, os.urandom(8).hex(), loaded_at).to_dict() for each in ("crm.orders", "crm.customers")]
    first = server.ended(server.launch(LATE, {"updates": loads}))
    assert "held" in first["state"]["message"]
    assert "Late: " not in server.logs(first["id"])

    def look() -> dict[str, Any] | None:
        return next((run for run in server.runs(LATE) if DEADLINE in run["tags"]), None)

    waiting = wait_for("a run for the deadline", look)
    due = datetime.fromisoformat(waiting["expected_start_time"])
    assert timedelta(seconds=PROMISED) < due - loaded_at < timedelta(seconds=PROMISED + 15)
    looked = server.ended(waiting["id"])
    told = "Late: revenue has not taken in a load of crm.customers and crm.orders"
    # A run sends its log a little after its end.
    wait_for("it is told that the mart is late", lambda: told in server.logs(looked["id"]))

    Orchestrator(project_dir=project.folder).mark_stale(["revenue", "order_count"])
    last = server.ended(server.launch(LATE))
    recovered = "Recovered: revenue has taken in what was loaded."
    wait_for("it is told that it has recovered", lambda: recovered in server.logs(last["id"]))
    assert "Late: " not in server.logs(last["id"])
    revenue = "lineage_orch.model.shop.revenue"
    for name in ("lineage_orch.node.late", "lineage_orch.node.recovered"):
        wait_for(name, lambda name=name: events(server, name))
        about = [each["resource"]["prefect.resource.id"] for each in events(server, name)]
        assert about.count(revenue) == 1, name
