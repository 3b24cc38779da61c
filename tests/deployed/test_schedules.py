"""What the lineage page learns from Prefect of the producers: asked of a real server, and of one that is not there."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

from lineage_orch.deployed.schedules import producer_news
from lineage_orch.errors import LineageOrchError


def test_schedules_and_last_runs_of_flows(prefect_server: object) -> None:
    @flow(name="news of a load")
    def load(is_broken: bool) -> None:
        if is_broken:
            raise ValueError("no such\nhost")

    @flow(name="news of another load")
    def other() -> None: ...

    load(False)
    with pytest.raises(ValueError, match="no such"):
        load(True)
    other()
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("news of a load")
        client.create_deployment(
            flow_id,
            "nightly",
            schedules=[
                DeploymentScheduleCreate(schedule=CronSchedule(cron="0 6 * * *", timezone="Europe/Berlin")),
                DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(minutes=15))),
                DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=1)), active=False),
            ],
        )
        client.create_deployment(flow_id, "later", paused=True, schedules=[
            DeploymentScheduleCreate(schedule=RRuleSchedule(rrule="FREQ=WEEKLY;BYDAY=MO"))
        ])  # fmt: skip
    news = producer_news(["news of a load", "news of another load", "a script"])
    assert set(news) == {"news of a load", "news of another load"}
    found = news["news of a load"]
    assert (set(found.schedule.split(", ")), found.has_failed) == (
        {"0 6 * * * (Europe/Berlin)", "every 15 minutes"},
        True,
    )
    later, nightly = sorted(found.lines[:2])
    assert later == "Deployment later: FREQ=WEEKLY;BYDAY=MO (paused)."
    assert nightly.startswith("Deployment nightly: ")
    assert "every hour (off)" in nightly
    assert found.lines[2].startswith("Last run ")
    assert found.lines[2].endswith("no such host")
    assert ": Failed at 20" in found.lines[2]
    (line,) = news["news of another load"].lines
    assert ": Completed at 20" in line
    assert (news["news of another load"].schedule, news["news of another load"].has_failed) == ("", False)


def test_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(LineageOrchError, match=r"did not say when the loads run: .*refused"),
    ):
        producer_news(["load"])
    assert producer_news([]) == {}
