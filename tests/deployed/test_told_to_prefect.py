"""What a run of build_affected leaves in Prefect, read back from a server: artifacts, events, assets."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
)
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Running

from lineage_orch import Orchestrator, SourceUpdate, build_affected, produces_source
from lineage_orch.deployed.build import DeployedBuild
from lineage_orch.lineage import Lineage
from lineage_orch.loads.tags import DEADLINE, WAKE_UP
from lineage_orch.testing import FakeDbt
from tests.manifests import manifest, node, source

pytestmark = pytest.mark.usefixtures("prefect_server")

# crm.orders -> stg_orders -> revenue
MANIFEST = manifest(
    source("crm.orders"),
    node("stg_orders", "crm.orders", database="db", schema="main", alias="stg_orders"),
    node("revenue", "stg_orders", database="db", schema="main", alias="revenue"),
    node("other", database="db", schema="main", alias="other"),
)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_other_producers: None) -> FakeDbt:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
    (tmp_path / "m.json").write_text(json.dumps(MANIFEST))
    dbt = FakeDbt(Lineage.from_manifest(tmp_path / "m.json"))
    monkeypatch.setattr("lineage_orch.orchestrator.choose_dbt", lambda *_: dbt)
    monkeypatch.setenv("LINEAGE_ORCH_PROJECT_DIR", str(tmp_path))
    monkeypatch.setenv("LINEAGE_ORCH_MANIFEST", str(tmp_path / "m.json"))
    return dbt


@produces_source("crm.orders")
@flow(name="orders of the shop")
def load_orders() -> None: ...


def last_run(name: str) -> FlowRun:
    with get_client(sync_client=True) as client:
        chosen = FlowFilter(name={"any_": [name]})
        return client.read_flow_runs(flow_filter=chosen, sort=FlowRunSort.START_TIME_DESC, limit=1)[0]


def artifacts_of(run_id: UUID) -> dict[str, Artifact]:
    with get_client(sync_client=True) as client:
        chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        return {str(each.key): each for each in client.read_artifacts(artifact_filter=chosen)}


def events_of(run_id: UUID, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """The events that name a run, as soon as they are there: they are on their way for a while."""
    body = {"filter": {"related": {"id": [f"prefect.flow-run.{run_id}"]}, "order": "ASC"}, "limit": 50}
    found: list[dict[str, Any]] = []
    for _ in range(60):
        with get_client(sync_client=True) as client:
            found = client.request("POST", "/events/filter", json=body).json()["events"]
        if wanted(found):
            return found
        time.sleep(0.5)
    raise AssertionError([event["event"] for event in found])


def test_run_leaves_what_it_did(shop: FakeDbt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAGE_ORCH_PAGE_URL", "https://lineage.example/shop.html")
    monkeypatch.setenv("PREFECT_UI_URL", "https://prefect.example")

    load_orders()

    load, build = last_run("orders of the shop"), last_run("build-affected")
    assert "lineage_orch:for:crm.orders" in build.tags
    left = artifacts_of(build.id)
    assert left.keys() == {
        "lineage-orch-build-shop-dev",
        "lineage-orch-loads-shop-dev-crm-orders",
        "lineage-orch-page-shop-dev",
    }
    text = str(left["lineage-orch-build-shop-dev"].data)
    assert text.startswith("# Built 2 nodes.\n")
    assert f"[{str(load.id)[:8]}](<https://prefect.example/runs/flow-run/{load.id}>)" in text
    assert "| crm.orders |" in text.replace("\\_", "_")
    assert "**From load to mart:**" in text
    assert "one dbt command per load would have built 2" in text
    assert left["lineage-orch-page-shop-dev"].data == (
        "[The lineage of shop (dev)](<https://lineage.example/shop.html>)"
    )
    [last, *before] = json.loads(str(left["lineage-orch-loads-shop-dev-crm-orders"].data))
    assert last["by"] == "orders of the shop"
    assert last["flow run"] == f"https://prefect.example/runs/flow-run/{load.id}"
    assert before == []

    def names(events: list[dict[str, Any]]) -> list[str]:
        return [event["event"] for event in events if event["event"].startswith("lineage_orch")]

    events = events_of(build.id, lambda events: names(events).count("lineage_orch.node.built") == 2)
    assert names(events) == ["lineage_orch.source.updated", *["lineage_orch.node.built"] * 2]
    by_name = {(event["event"], event["resource"]["prefect.resource.id"]): event for event in events}
    updated = by_name["lineage_orch.source.updated", "lineage_orch.source.shop.crm.orders"]
    assert updated["resource"]["lineage_orch.target"] == "dev"
    assert updated["payload"]["flow_run_id"] == str(load.id)
    assert f"prefect.flow-run.{load.id}" in {each["prefect.resource.id"] for each in updated["related"]}
    mart = by_name["lineage_orch.node.built", "lineage_orch.model.shop.revenue"]
    roles = {each["prefect.resource.id"]: each["prefect.resource.role"] for each in mart["related"]}
    assert roles["lineage_orch.source.shop.crm.orders"] == "source"
    assert roles[f"prefect.flow-run.{load.id}"] == "load"
    assert roles[f"prefect.flow-run.{build.id}"] == "flow-run"

    # One graph of assets: what the load made is what the model downstream of it was made of.
    made = {
        event["resource"]["prefect.resource.id"]: {each["prefect.resource.id"] for each in event["related"]}
        for event in events
        if event["event"] == "prefect.asset.materialization.succeeded"
    }
    assert made.keys() == {"duckdb://db/crm/orders", "duckdb://db/main/stg_orders", "duckdb://db/main/revenue"}
    assert f"prefect.flow-run.{load.id}" in made["duckdb://db/crm/orders"]
    assert "duckdb://db/crm/orders" in made["duckdb://db/main/stg_orders"]
    assert "duckdb://db/main/stg_orders" in made["duckdb://db/main/revenue"]


@pytest.fixture
def chat() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a webhook, and what is posted there."""
    posted: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", posted
        server.shutdown()


def test_recipe_posts_to_chat(
    shop: FakeDbt, chat: tuple[str, list[dict[str, Any]]], request: pytest.FixtureRequest
) -> None:
    url, posted = chat
    page = (Path(__file__).parents[2] / "docs" / "in-prefect.md").read_text(encoding="utf-8")
    recipe: dict[str, Any] = {"__name__": "recipe"}
    exec(page.partition("```python\n# chat.py\n")[2].partition("```")[0], recipe)
    recipe["post_to_chat"](url, "dev")
    request.addfinalizer(lambda: Automation.read(name="Tell the chat of dev").delete())
    shop.failing, shop.messages = {"model.shop.revenue"}, {"model.shop.revenue": 'Binder Error: no column "x"'}

    load_orders()

    for _ in range(60):
        if posted:
            break
        time.sleep(0.5)
    assert posted == [{"text": 'revenue failed: Binder Error: no column "x"'}]


def test_deadline_leaves_one_run_on_the_server(shop: FakeDbt, tmp_path: Path) -> None:
    """However many runs of a deployment see it coming."""
    late = node("revenue", "stg_orders", config={"meta": {"lineage_orch": {"late_after": "2h"}}})
    (tmp_path / "m.json").write_text(json.dumps(manifest(source("crm.orders"), node("stg_orders", "crm.orders"), late)))
    shop.failing = {"model.shop.revenue"}
    now = datetime.now(UTC)
    with get_client(sync_client=True) as client, Orchestrator(dbt=shop) as orchestrator:
        deployment = client.create_deployment(client.create_flow(build_affected), f"late-{uuid4().hex}")
        orchestrator.record([SourceUpdate("crm.orders", "1", now)])

        def run() -> None:
            made = client.create_flow_run_from_deployment(deployment, state=Running())
            DeployedBuild(client, made, deployment, None, logging.getLogger("run")).build(orchestrator, who="a run")

        def waiting() -> list[FlowRun]:
            runs = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])))
            return [each for each in runs if DEADLINE in each.tags]

        run()
        run()
        [left] = waiting()
        assert left.state is not None
        assert left.state.is_scheduled()
        assert set(left.tags) >= {WAKE_UP, DEADLINE}
        due = left.expected_start_time
        assert due is not None
        assert timedelta(hours=2) < due - now < timedelta(hours=2, seconds=10)
