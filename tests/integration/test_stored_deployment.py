"""A deployment that an earlier release stored is run by this one: its entry point and its parameters, as stored."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.flows import load_flow_from_entrypoint

from lineage_orch import Orchestrator
from tests.shop_project import Shop

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]

# As release 0.1.0 stored it, and as a load of that release hands its update over.
ENTRYPOINT = "lineage_orch.flows.build_affected"
UPDATE = {"source": "crm.customers", "update_id": "1", "loaded_at": "2025-03-01T12:00:00+00:00", "producer": "load"}


def test_stored_deployment_of_0_1_0_still_builds(built_shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    before = built_shop.built_at("stg_customers")
    settings = {"project_dir": str(built_shop.folder), "hold_until_first_load": True}
    parameters = {"updates": [UPDATE], "producers": ["crm.customers"], "settings": settings}
    stored = load_flow_from_entrypoint(ENTRYPOINT)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(stored, parameters=json.loads(json.dumps(parameters)))
    with caplog.at_level(logging.INFO):
        run_flow(stored, flow_run=run)
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run.id).state.is_completed()
    assert built_shop.built_at("stg_customers") > before
    with Orchestrator() as orchestrator:
        [recorded] = [each for _, each in orchestrator.ledger.recent_updates(5) if each.update_id == "1"]
    assert recorded.loaded_at == datetime(2025, 3, 1, 12, tzinfo=UTC)
