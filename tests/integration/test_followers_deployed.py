"""Followers with a real Prefect server: a deployment that follows, and a soak of builders that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from lineage_orch import Orchestrator
from lineage_orch.lineage import Lineage
from lineage_orch.testing import FakeDbt
from tests.followers.test_builds import SHOP
from tests.integration.real_prefect import ROOT, RealPrefect, end, wait_for
from tests.manifests import leaf, manifest

pytestmark = pytest.mark.drill

SCRIPT = str(ROOT / "tests" / "integration" / "served_followers.py")
REPORT = "exposure.shop.report"


def write_project(folder: Path, *more: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (folder / "profiles.yml").write_text("shop:\n  target: dev\n  outputs:\n    dev: {type: duckdb}\n")
    (folder / "manifest.json").write_text(json.dumps(manifest(*SHOP, *more)))
    return folder


class Prod:
    """A project whose exposure names a deployment that is served, and a clock that the test turns on."""

    def __init__(self, folder: Path, server: RealPrefect) -> None:
        self.folder = folder
        self.server = server
        self.now = datetime.now(UTC)
        (folder / "mart").write_text("nothing")

    def build(self, *loaded: str) -> Any:
        path = self.folder / "manifest.json"
        dbt = FakeDbt(lambda: Lineage.from_manifest(path))
        if loaded:
            (self.folder / "mart").write_text(f"mart of {self.now}")
        with (
            temporary_settings({PREFECT_API_URL: self.server.url}),
            Orchestrator(project_dir=self.folder, manifest=path, dbt=dbt, clock=lambda: self.now) as orchestrator,
        ):
            orchestrator.record(loaded)
            return orchestrator.build()

    def runs(self) -> list[dict[str, Any]]:
        return self.server.runs("report/prod")

    def started(self) -> list[str]:
        file = self.folder / "runs"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def prod(tmp_path: Path, real_prefect: RealPrefect) -> Iterator[Prod]:
    exposure = leaf("exposure", "report", "mart", meta={"lineage_orch": {"deployment": "report/prod"}})
    folder = write_project(tmp_path / "project", exposure)
    server = real_prefect.telling(tmp_path / "logs")
    serving = server.spawn([sys.executable, SCRIPT, "serve", str(folder)], "serve.log")
    try:
        wait_for("it is served", lambda: server.deployment("report/prod"))
        yield Prod(folder, server)
    finally:
        end(serving)


def test_deployment_follows_once_for_what_came_and_again_after_it_was_killed(prod: Prod) -> None:
    (prod.folder / "wait").touch()
    report = prod.build("raw.a", "raw.b")
    assert (report.followed, report.follow_failed) == ([REPORT], {})
    wait_for("the run begins", prod.started)
    for _ in range(2):
        prod.now += timedelta(seconds=20)
        prod.build("raw.a")
    (run,) = prod.runs()
    assert run["parameters"] == {"sources": ["raw.a", "raw.b"]}
    assert {"lineage_orch:follower", f"lineage_orch:follower:{REPORT}"} <= set(run["tags"])
    (prod.folder / "wait").unlink()
    prod.server.ended(run["id"])
    # What came meanwhile gets one run, of the mart as it is then.
    (prod.folder / "wait").touch()
    assert prod.build().followed == [REPORT]
    wait_for("the next run begins", lambda: len(prod.started()) == 2)
    os.kill(int(prod.started()[1].split()[0]), signal.SIGKILL)
    assert prod.server.ended(prod.runs()[1]["id"])["state_type"] == "CRASHED"
    (prod.folder / "wait").unlink()
    report = prod.build()
    assert list(report.follow_failed) == [REPORT]
    assert report.next_due == prod.now + timedelta(minutes=10)
    prod.now += timedelta(minutes=11)
    assert prod.build().followed == [REPORT]
    prod.server.ended(prod.runs()[2]["id"])
    report = prod.build()
    assert (report.followed, report.next_due) == ([], None)
    assert len(prod.runs()) == 3
    assert (prod.folder / "report").read_text() == (prod.folder / "mart").read_text()


@pytest.mark.soak
def test_soak_of_builders_that_are_killed(tmp_path: Path, real_prefect: RealPrefect) -> None:
    seed = int(os.environ.get("SOAK_SEED", str(random.randrange(10**6))))
    dice = random.Random(seed)
    folder = write_project(tmp_path / "project")
    server = real_prefect.telling(tmp_path / "logs")
    kills = number = 0
    builders: list[Any] = []
    until = time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES", "3"))
    while time.monotonic() < until:
        builders = [each for each in builders if each.poll() is None]
        if len(builders) < 2:
            number += 1
            command = [sys.executable, SCRIPT, "build", str(folder), str(number), str(dice.randint(1, 6))]
            builders.append(server.spawn(command, "builders.log"))
        time.sleep(dice.random() * 4)
        if dice.random() < 0.4 and (working := [each for each in builders if each.poll() is None]):
            dice.choice(working).kill()
            kills += 1
    for each in builders:
        each.wait(240)
    last = server.spawn([sys.executable, SCRIPT, "build", str(folder), "last", "1"], "builders.log")
    assert last.wait(240) == 0, (tmp_path / "logs" / "builders.log").read_text()[-3000:]
    texts = {name: (folder / name).read_text() for name in ("raw", "mart", "report", "runs", "marts")}
    runs, marts = texts["runs"].count("\n"), texts["marts"].count("\n")
    print(f"seed {seed}: {number} builders, {kills} killed, {marts} marts built, {runs} reports run")
    assert texts["report"] == texts["mart"] == texts["raw"] == "last 0", f"seed {seed}"
    assert runs <= marts + kills, f"seed {seed}"
