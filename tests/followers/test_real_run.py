"""One follower that is really run by Prefect, beside a build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.context import FlowRunContext

from lineage_orch import follows
from lineage_orch.testing import FakeDbt
from tests.followers.test_builds import SHOP
from tests.test_orchestrator import make, project

__all__ = ["make", "project"]


@pytest.mark.integration
def test_flows_that_follow_run_as_flow_runs_of_their_own(make: Any, prefect_server: None, tmp_path: Path) -> None:
    runs: list[tuple[str, list[str], Any]] = []

    @follows("mart")
    @flow(name="push")
    def push(sources: list[str]) -> None:
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
