"""What takes Prefect itself minutes to get over: `pytest -m drill`, before a release. Not part of `make test`."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from lineage_orch import Orchestrator, SourceUpdate
from lineage_orch.deployed.reconcile import reconcile_and_build
from tests.integration.real_prefect import RealPrefect, end, wait_for
from tests.shop_project import Shop

pytestmark = pytest.mark.drill

SHOP = "build-affected/shop"
# A place in the queue is freed 300 s after its holder was last heard of, and then asked for every 30 s.
PATIENCE = 420


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealPrefect]:
    server = RealPrefect.on_a_free_port(tmp_path / "prefect", {"SHOP_SLOW": "5", "TEST_KILL": str(tmp_path / "kill")})
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_runner_and_its_build_are_killed_together(server: RealPrefect, tmp_path: Path, parsed_shop: Path) -> None:
    shop = Shop(Path(shutil.copytree(parsed_shop, tmp_path / "shop")))
    serving = server.serve("orders/orders", SHOP, TEST_SHOP=str(shop.folder))
    updates = [SourceUpdate(f"crm.{name}", name, datetime.now(UTC)).to_dict() for name in ("orders", "customers")]
    killed = server.launch(SHOP, {"updates": updates})
    wait_for("dbt builds", lambda: "START python table model" in server.logs(killed), every=0.1)
    with Orchestrator(project_dir=shop.folder) as orchestrator:
        holder = orchestrator.ledger.holder()
        assert holder is not None
        found = re.search(r"process (\d+)", holder.who)
        assert found is not None
        for pid in (serving.pid, int(found[1])):
            os.kill(pid, signal.SIGKILL)
        serving.wait()
        assert not orchestrator.plan().is_empty

        again = server.serve("orders/orders", SHOP, TEST_SHOP=str(shop.folder))
        try:
            # One load comes by itself, and someone asks what is owed.
            load = server.ended(server.launch("orders/orders"))
            said: list[str] = []
            with temporary_settings({PREFECT_API_URL: server.url}):
                reconcile_and_build(orchestrator, deployment=SHOP, progress=said.append)
            builds = [run for run in server.runs(SHOP) if run["id"] != killed]
            assert len(builds) == 2
            assert server.run(killed)["state_name"] == "Running"
            ended = [server.ended(run["id"], seconds=PATIENCE)["state_name"] for run in builds]
            assert "Completed" in ended
            assert set(ended) <= {"Completed", "Coalesced"}
            assert {"stg_orders", "stg_customers", "revenue", "order_count"} <= shop.tables()
            assert orchestrator.plan().is_empty
            recorded = {each.update_id for _, each in orchestrator.ledger.recent_updates(10)}
            assert {"orders", "customers", load["state_id"]} == recorded
        finally:
            end(again)
