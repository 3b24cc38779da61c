"""One follower that is really run by Prefect, beside a build."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.utilities.callables import parameter_schema

from lineage_orch import follows
from lineage_orch.followers.deployments import create_run
from lineage_orch.ledger import Launch
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import Window
from tests.followers.test_builds import SHOP
from tests.test_orchestrator import make, project

__all__ = ["make", "project"]


@pytest.mark.integration
def test_deployment_is_given_the_causes_that_its_flow_takes(prefect_server: None) -> None:
    @flow(name="push-days")
    def push_days(window: tuple[datetime, datetime] | None, sources: list[str]) -> None: ...

    @flow(name="mail-all")
    def mail_all() -> None: ...

    window = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
    with get_client(sync_client=True) as client:
        for each in (push_days, mail_all):
            schema = parameter_schema(each.fn).model_dump()
            client.create_deployment(client.create_flow(each), name="prod", parameter_openapi_schema=schema)

        def given(launch: Launch) -> dict[str, Any]:
            run_id, _ = create_run(launch)
            assert create_run(launch)[0] == run_id
            return client.read_flow_run(UUID(run_id)).parameters

        launch = Launch("follower.push", 3, "a", datetime.now(UTC), "push-days/prod", ("raw.a",), window)
        parameters = given(launch)
        assert parameters == {
            "sources": ["raw.a"],
            "window": ["2026-03-01T00:00:00+00:00", "2026-03-02T00:00:00+00:00"],
        }
        assert push_days.validate_parameters(parameters)["window"] == tuple(window)
        assert given(replace(launch, run_id="b", window=None)) == {"sources": ["raw.a"], "window": None}
        assert given(replace(launch, run_id="c", deployment="mail-all/prod")) == {}


@pytest.mark.integration
def test_flows_that_follow_run_as_flow_runs_of_their_own(make: Any, prefect_server: None, tmp_path: Path) -> None:
    runs: list[tuple[str, list[str], Any]] = []

    @follows("mart")
    @flow(name="push")
    def push(sources: list[str], window: tuple[datetime, datetime] | None) -> None:
        assert window is None
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        runs.append((context.flow_run.state.name, sources, context.flow_run.parent_task_run_id))

    @follows("stg_a")
    @flow(name="mail")
    async def mail() -> None:
        runs.append(("mail", [], None))

    @follows("top")
    @flow(name="broken")
    def broken() -> None:
        raise ValueError("no disk")

    @flow
    def nightly() -> Any:
        orchestrator, dbt = make(*SHOP)
        assert isinstance(dbt, FakeDbt)
        orchestrator.record(["raw.a", "raw.b"])
        report = orchestrator.build()
        orchestrator.close()
        return report

    report = nightly()
    assert sorted(runs) == [("Running", ["raw.a", "raw.b"], None), ("mail", [], None)]
    assert report.ok
    assert report.followed == ["follower.broken", "follower.mail", "follower.push"]
    assert report.follow_failed == {
        "follower.broken": "its run ended Failed: Flow run encountered an exception: ValueError: no disk"
    }
