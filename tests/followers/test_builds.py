"""Builds start what follows them: dbt and Prefect are replaced at their seams, ledger and threads are real."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Completed, Failed

from lineage_orch.builds.workspace import Workspace
from lineage_orch.errors import LedgerError
from lineage_orch.followers import runs
from lineage_orch.followers.starts import Start
from lineage_orch.ledger import Ledger
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.followers import Follower
from lineage_orch.loads import following
from lineage_orch.loads.following import Following
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.testing import FakeDbt
from lineage_orch.testing.followed import Followed
from lineage_orch.updates import SourceUpdate, Window
from tests.manifests import leaf, manifest, node, source

PUSH = "follower.push"
SHOP = (
    source("raw.a"),
    source("raw.b"),
    node("stg_a", "raw.a"),
    node("stg_b", "raw.b"),
    node("mart", "stg_a", "stg_b"),
    node("top", "mart"),
    node("test_mart", "mart", kind="test"),
)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Push:
    """A flow that follows: in place of Prefect's."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self.windows: list[Any] = []
        self.state: Any = Completed()
        self.during: Callable[[], None] = lambda: None

    def fn(self, sources: list[str], window: Any) -> None: ...

    def __call__(self, *, return_state: bool, sources: list[str], window: Any) -> Any:
        assert return_state
        self.windows.append(window)
        self.runs.append(sources)
        self.during()
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


class World:
    """A project, a ledger, a dbt and one follower of its mart."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
        (folder / "profiles.yml").write_text("shop:\n  target: dev\n  outputs:\n    dev: {type: duckdb}\n")
        self.manifest = folder / "manifest.json"
        self.declare(*SHOP)
        self.clock = Clock()
        self.push = Push()
        self.said: list[str] = []
        self.loads = 0
        self.declared = {"push": Following("push", ("mart",))}
        monkeypatch.setattr(following, "_declared", {"push": self.push})
        monkeypatch.setattr("lineage_orch.builds.workspace.following_of", lambda _: self.declared["push"])
        self.dbt = FakeDbt(lambda: Lineage.from_manifest(self.manifest))

    def declare(self, *resources: Any) -> None:
        self.manifest.write_text(json.dumps(manifest(*resources)))

    def orchestrator(self) -> Orchestrator:
        return Orchestrator(project_dir=self.folder, manifest=self.manifest, dbt=self.dbt, clock=self.clock)

    def build(self, *loaded: str) -> Any:
        with self.orchestrator() as orchestrator:
            if loaded:
                orchestrator.record(loaded)
            return orchestrator.build(progress=self.said.append)

    def load(self, name: str, window: Window | None = None) -> None:
        """Record a load, with its window or without one, and build nothing."""
        self.loads += 1
        start, end = window or (None, None)
        with self.orchestrator() as orchestrator:
            orchestrator.record(
                [SourceUpdate(name, str(self.loads), self.clock.now, window_start=start, window_end=end)]
            )

    def ran_at(self) -> int:
        with self.orchestrator() as orchestrator:
            fact = orchestrator.ledger.snapshot().nodes.get(PUSH)
            return fact.tick if fact else 0


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    folder = tmp_path / "project"
    folder.mkdir()
    return World(folder, monkeypatch)


def test_follower_runs_once_for_a_build_with_the_sources_that_caused_it(world: World) -> None:
    report = world.build("raw.a", "raw.b")
    assert world.push.runs == [["raw.a", "raw.b"]], world.said
    assert (report.followed, report.follow_failed) == ([PUSH], {})
    assert report.summary() == "Built 4 nodes, 1 follower started."
    assert "The follower push runs, for the load of raw.a, raw.b." in world.said
    assert world.build().followed == []
    world.build("raw.a")
    assert world.push.runs == [["raw.a", "raw.b"], ["raw.a"]]


def test_follower_starts_before_the_rest_of_the_build_is_done(world: World) -> None:
    ran = threading.Event()
    world.push.during = ran.set
    seen: list[bool] = []

    def before_node(node: str) -> None:
        if node == "model.shop.top":
            seen.append(ran.wait(10))

    world.dbt.before_node = before_node
    world.build("raw.a", "raw.b")
    assert seen == [True]


def test_follower_waits_for_the_tests_of_what_it_follows(world: World) -> None:
    world.dbt.failing = {"test.shop.test_mart"}
    report = world.build("raw.a", "raw.b")
    assert world.push.runs == []
    assert report.followed == []
    world.dbt.failing = set()
    world.clock.now += timedelta(hours=1)
    world.build()
    assert len(world.push.runs) == 1


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (Failed(message="no disk"), "its run ended Failed: no disk"),
        (RuntimeError("no network"), "RuntimeError: no network"),
        (SystemError(), "SystemError:"),
    ],
)
def test_failed_follower_fails_no_build_and_is_tried_again(world: World, outcome: Any, why: str) -> None:
    world.push.state = outcome
    report = world.build("raw.a", "raw.b")
    report.raise_for_failures(carried=True)
    assert report.ok
    assert report.follow_failed == {PUSH: why}
    assert report.summary() == "Built 4 nodes, 1 follower started, of which 1 failed."
    assert f"The follower push failed: {why}. It is tried again later." in world.said
    assert report.next_due == world.clock.now + timedelta(minutes=10)
    report = world.build()
    report.raise_for_failures(carried=True)
    assert len(world.push.runs) == 1
    world.push.state = Completed()
    world.clock.now += timedelta(minutes=11)
    report = world.build()
    assert (len(world.push.runs), report.follow_failed) == (2, {})
    with world.orchestrator() as orchestrator:
        assert orchestrator.ledger.snapshot().failures == {}


def test_what_changes_while_it_runs_gets_one_run_more(world: World) -> None:
    def load_and_build_elsewhere() -> None:
        world.push.during = lambda: None
        for _ in range(3):
            world.build("raw.a")

    world.push.during = load_and_build_elsewhere
    report = world.build("raw.a", "raw.b")
    assert world.push.runs == [["raw.a", "raw.b"], ["raw.a"]]
    assert "The follower push runs in another process, which looks again when done." in world.said
    assert report.more == []
    with world.orchestrator() as orchestrator:
        assert orchestrator.plan().is_empty


def test_follower_that_ends_as_the_next_plan_is_made_runs_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    world.push.during = lambda: may_end.wait(10) and None
    begin_build = Ledger.begin_build

    def ends_just_after(ledger: Ledger, **options: Any) -> Any:
        begun = begin_build(ledger, **options)
        for thread in threading.enumerate():
            if thread.name == f"lineage_orch-{PUSH}":
                may_end.set()
                thread.join(10)
        return begun

    monkeypatch.setattr(Ledger, "begin_build", ends_just_after)
    world.build("raw.a", "raw.b")
    assert world.push.runs == [["raw.a", "raw.b"]]


def test_call_leaves_a_follower_that_is_stale_again_and_again_to_the_next(world: World) -> None:
    world.push.during = lambda: world.build("raw.a") and None
    report = world.build("raw.a", "raw.b")
    assert len(world.push.runs) == runs.MOST_RUNS
    assert report.more == [PUSH]
    assert report.handed_over


def test_kill_between_mart_and_follower_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def kill(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(runs.FollowerRuns, "start", kill)
        with pytest.raises(KilledError):
            world.build("raw.a", "raw.b")
    assert world.push.runs == []
    world.build()
    assert len(world.push.runs) == 1


def test_run_that_cannot_be_recorded_is_run_again_by_the_next_build(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Ledger.record_built

    def refuse(self: Ledger, tick: int, nodes: Any, **options: Any) -> None:
        if PUSH in nodes:
            raise LedgerError("the disk is full")
        record(self, tick, nodes, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record_built", refuse)
        report = world.build("raw.a", "raw.b")
    assert report.ok
    assert "The follower push is left to the next build: the disk is full" in world.said
    assert len(world.push.runs) == 1
    world.build()
    assert len(world.push.runs) == 2


def test_double_takes_the_place_of_what_runs(world: World) -> None:
    starts: list[Start] = []
    with runs.using_double(starts.append):
        world.build("raw.a", "raw.b")
        world.build()
    assert [each.follower.name for each in starts] == ["push"]
    assert starts[0].sources == ("raw.a", "raw.b")
    assert world.push.runs == []
    assert world.ran_at() == starts[0].tick


# Windows ---------------------------------------------------------------------------------------------------


def day(number: int) -> Window:
    return Window(datetime(2025, 12, number, tzinfo=UTC), datetime(2025, 12, number + 1, tzinfo=UTC))


@pytest.fixture
def windowed(world: World) -> World:
    """The world with a follower that takes a window, and has run once, for loads without one."""
    world.declared["push"] = Following("push", ("mart",), takes_window=True)
    world.build("raw.a", "raw.b")
    assert world.push.windows == [None]
    world.push.windows.clear()
    return world


def test_follower_is_told_hull_of_the_windows_of_loads(windowed: World) -> None:
    windowed.load("raw.a", day(3))
    windowed.load("raw.b", day(7))
    windowed.build()
    assert windowed.push.windows == [(day(3).start, day(7).end)]
    assert type(windowed.push.windows[0]) is tuple
    windowed.load("raw.a", day(4))
    windowed.load("raw.b")
    windowed.build()
    windowed.load("raw.a", day(5))
    windowed.build()
    assert windowed.push.windows[1:] == [None, tuple(day(5))]


def test_window_is_of_all_since_the_last_completed_run(windowed: World) -> None:
    windowed.push.state = Failed(message="no disk")
    windowed.load("raw.a", day(3))
    windowed.build()
    windowed.load("raw.a", day(9))
    windowed.build()
    windowed.push.state = Completed()
    windowed.clock.now += timedelta(minutes=11)
    windowed.build()
    assert windowed.push.windows == [tuple(day(3)), (day(3).start, day(9).end)]


def test_double_tells_windows(windowed: World) -> None:
    double = Followed()
    with runs.using_double(double):
        windowed.load("raw.a", day(3))
        windowed.build()
        windowed.build("raw.b")
    assert double.windows_of("push") == [day(3), None]
    assert double.windows_of("mail") == []


def test_ledger_is_asked_for_no_windows_where_no_follower_takes_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineage_orch.ledger.reading.extents_above", lambda *_: pytest.fail("asked"))
    world.load("raw.a", day(3))
    world.build("raw.b")
    assert world.push.windows == [None]


def test_selection_built_by_hand_starts_nothing_until_the_next_build(world: World) -> None:
    world.build("raw.a", "raw.b")
    with world.orchestrator() as orchestrator:
        orchestrator.record(["raw.a"])
        orchestrator.build(select=["mart", "stg_a"])
    assert len(world.push.runs) == 1
    world.build()
    assert len(world.push.runs) == 2


def test_flow_that_cannot_be_imported_is_a_failed_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Workspace, follower: Follower) -> Any:
        raise ImportError("no module")

    monkeypatch.setattr(Workspace, "flow_of", gone)
    assert world.build("raw.a", "raw.b").follow_failed == {PUSH: "ImportError: no module"}


# In a deployment -------------------------------------------------------------------------------------------


class Api:
    """Prefect's API, as far as followers ask it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.created: dict[str, Any] = {}
        self.asked = 0
        self.end: runs.deployments.End | None = None
        self.error: Exception | None = None
        monkeypatch.setattr(runs.deployments, "create_run", self.create)
        monkeypatch.setattr(runs.deployments, "end_of", lambda *_: self.end)

    def create(self, launch: Any) -> tuple[str, str]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        key = f"{launch.run_id}:{launch.follower}"
        self.created.setdefault(key, launch)
        return f"id of {key}", "brave-lion"


@pytest.fixture
def api(world: World, monkeypatch: pytest.MonkeyPatch) -> Api:
    world.declare(*SHOP, leaf("exposure", "board", "mart", meta={"lineage_orch": {"deployment": "board/prod"}}))
    world.declared["push"] = Following("push", ("top",), deployment="push/prod")
    monkeypatch.setattr(following, "_declared", {})
    return Api(monkeypatch)


BOARD = "exposure.shop.board"


def test_deployment_is_launched_once_and_recorded_when_it_is_done(world: World, api: Api) -> None:
    report = world.build("raw.a", "raw.b")
    (launch,) = api.created.values()
    assert (launch.follower, launch.deployment, launch.sources) == (BOARD, "board/prod", ("raw.a", "raw.b"))
    assert report.next_due == world.clock.now + timedelta(seconds=30)
    assert (
        "Run 'brave-lion' of board/prod was launched for exposure.shop.board, for the load of raw.a, raw.b."
        in world.said
    )
    world.build("raw.a")
    assert len(api.created) == 1, "it runs"
    api.end = runs.deployments.End(None, world.clock.now, 3.0)
    world.build()
    assert len(api.created) == 2, "one more for what came meanwhile"
    world.build()
    with world.orchestrator() as orchestrator:
        assert orchestrator.plan().is_empty
        assert orchestrator.ledger.launches() == {}
        assert orchestrator.ledger.snapshot().nodes[BOARD].seconds == 3.0


def test_kill_before_prefect_is_asked_or_answers_makes_one_run(world: World, api: Api) -> None:
    import httpx

    api.error = httpx.ConnectError("refused")
    world.build("raw.a", "raw.b")
    assert api.created == {}
    api.error = None
    world.build("raw.a")
    world.build()
    assert len(api.created) == 1
    assert api.asked == 2


def test_window_of_a_launch_outlives_a_kill_before_prefect_is_asked(world: World, api: Api) -> None:
    import httpx

    meta = {"lineage_orch": {"deployment": "board/prod", "window": True}}
    world.declare(*SHOP, leaf("exposure", "board", "mart", meta=meta))
    api.end = runs.deployments.End(None, world.clock.now, 3.0)
    world.build("raw.a", "raw.b")
    world.build()
    world.load("raw.a", day(3))
    api.error = httpx.ConnectError("refused")
    world.build()
    api.error = None
    world.load("raw.a", day(9))
    world.build()
    world.build()
    board = [each.window for each in api.created.values() if each.follower == BOARD]
    assert board == [None, day(3), day(9)]


def test_run_that_ends_badly_is_launched_again_later(world: World, api: Api) -> None:
    world.build("raw.a", "raw.b")
    api.end = runs.deployments.End("its run 'brave-lion' ended Crashed")
    report = world.build()
    assert report.follow_failed == {BOARD: "its run 'brave-lion' ended Crashed"}
    assert len(api.created) == 1
    world.clock.now += timedelta(minutes=11)
    world.build()
    assert len(api.created) == 2


def test_deployment_that_is_not_there_is_named(world: World, api: Api) -> None:
    api.error = runs.deployments.NoDeploymentError("Prefect has no deployment 'board/prod'")
    report = world.build("raw.a", "raw.b")
    assert report.ok
    assert report.follow_failed == {BOARD: "Prefect has no deployment 'board/prod'"}
    with world.orchestrator() as orchestrator:
        assert orchestrator.ledger.launches() == {}
