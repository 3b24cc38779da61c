"""The branches of the deployment mode that a healthy server never takes."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Scheduled

from lineage_orch import DbtError, SettingsError, SourceUpdate, TriggerError
from lineage_orch.deployed import launch, reconcile
from lineage_orch.deployed.build import MAX_ROUNDS, DeployedBuild
from lineage_orch.deployed.queue import WaitingRuns, out_of_date, schedule_wake_up, to_take_over, wake_up_time
from lineage_orch.deployed.run_history import LoadsOf, dead_runs
from lineage_orch.deployments import dbt_deployment
from lineage_orch.loads.tags import BUILDS, DEADLINE, TRIGGERED, WAKE_UP
from lineage_orch.plan import Held
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.reports.freshness import FreshnessReport
from lineage_orch.triggers import Completion

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)
LOGGER = logging.getLogger("test")
COMPLETION = Completion((SourceUpdate("crm.orders", "1", NOW),), ("crm.orders",))


def refused(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1/api")
    return httpx.HTTPStatusError(
        "refused", request=request, response=httpx.Response(status, text="no", request=request)
    )


# --- launching


class LaunchApi:
    """A Prefect server with one deployment, that knows what it made by its keys; each call raises the next error."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.made: list[dict[str, Any]] = []

    def __enter__(self) -> LaunchApi:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_deployment_by_name(self, name: str) -> Any:
        return SimpleNamespace(id=name)

    def create_flow_run_from_deployment(self, deployment: str, **options: Any) -> Any:
        self.made.append(options)
        if self.errors:
            raise self.errors.pop(0)
        return SimpleNamespace(name="quick-fox")


def answer(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[dict[str, Any]]:
    """Return what runs are created with."""
    api = LaunchApi(*errors)
    monkeypatch.setattr(launch, "BACKOFF", 0.0)
    monkeypatch.setattr(launch, "get_client", lambda **_: api)
    return api.made


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), refused(503), refused(429)]
)
def test_passing_error_is_tried_once_more(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    api = answer(monkeypatch, error)
    run = launch.launch("build-affected/x", COMPLETION, LOGGER, debounce=5, attempts=2)
    assert run.name == "quick-fox"
    assert len(api) == 2
    # One idempotency key: nothing is made twice.
    assert api[0]["idempotency_key"] == api[1]["idempotency_key"]
    assert api[0]["state"].state_details.scheduled_time == api[1]["state"].state_details.scheduled_time
    assert api[0]["tags"] == [TRIGGERED]


def test_trigger_that_fails_says_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, *[httpx.ConnectError("refused")] * 3)
    with pytest.raises(TriggerError, match=r"after 2 attempts: refused\. Nothing is lost.*lineage-orch reconcile"):
        launch.launch("build-affected/x", COMPLETION, LOGGER, debounce=5, attempts=2)


@pytest.mark.parametrize("status", [401, 409, 422])
def test_lasting_error_is_told_at_once(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    api = answer(monkeypatch, refused(status))
    with pytest.raises(TriggerError, match=f"HTTP {status}.*no"):
        launch.launch("build-affected/x", COMPLETION, LOGGER, debounce=5, attempts=2)
    assert len(api) == 1


def test_missing_deployment_is_named_without_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, ObjectNotFound(refused(404)))

    with pytest.raises(TriggerError, match=r"no deployment 'build-affected/x'.*lineage-orch serve --name x"):
        launch.launch("build-affected/x", COMPLETION, LOGGER, debounce=5, attempts=2)


# --- the queue


class FakeApi:
    """A Prefect server that knows flow runs by their id."""

    def __init__(self, runs: list[FlowRun], *, bulk: bool = True) -> None:
        self.runs = runs
        self.bulk = bulk
        self.cancelled: list[UUID] = []

    def read_flow_runs(self, *, limit: int, offset: int, **_: Any) -> list[FlowRun]:
        return self.runs[offset : offset + limit]

    def read_flow_run(self, run_id: UUID) -> FlowRun:
        return next(run for run in self.runs if run.id == run_id)

    def request(self, method: str, path: str, *, json: Any) -> httpx.Response:
        if not self.bulk:
            raise refused(404)
        ids = [UUID(each) for each in json["flow_runs"]["id"]["any_"]]
        assert len(ids) <= 50
        self.cancelled += ids
        return httpx.Response(200, json={"results": [{"status": "ACCEPT"}] * len(ids)})

    def set_flow_run_state(self, run_id: UUID, state: Any) -> Any:
        self.cancelled.append(run_id)
        return SimpleNamespace(status=SimpleNamespace(value="ACCEPT"))


def waiting(due: datetime = NOW, tags: tuple[str, ...] = (TRIGGERED,), **parameters: Any) -> FlowRun:
    state = Scheduled(scheduled_time=due)
    return FlowRun(
        id=uuid4(),
        flow_id=uuid4(),
        tags=list(tags),
        parameters=parameters,
        state=state,
        state_type=state.type,
        state_name=state.name,
        expected_start_time=due,
    )


def queue(api: FakeApi, warnings: list[str] | None = None) -> WaitingRuns:
    return WaitingRuns(api, uuid4(), uuid4(), None, (warnings if warnings is not None else []).append)  # type: ignore[arg-type]


@pytest.mark.parametrize("bulk", [True, False])
def test_queue_of_many_pages_is_read_and_dismissed_whole(bulk: bool) -> None:
    api = FakeApi([waiting() for _ in range(450)], bulk=bulk)
    api.runs[7] = api.runs[7].model_copy(update={"state": Cancelled(), "state_name": "Cancelled"})
    runs = queue(api)
    read = runs.read()
    assert len(read) == 450
    if not bulk:  # a server without the bulk call: each is looked at again before it is touched
        api.runs[7].state_type = Cancelled().type
    assert runs.dismiss(read, "done") == (450 if bulk else 449)
    assert len(set(api.cancelled)) == (450 if bulk else 449)


def test_unreadable_waiting_run_is_told_once() -> None:
    warnings: list[str] = []
    runs = queue(
        FakeApi([waiting(updates="all"), waiting(updates=[{"source": "a.b"}]), waiting(full_refresh=True)]), warnings
    )
    assert runs.read() == []
    assert runs.read() == []
    assert len(warnings) == 3
    assert "full_refresh" in warnings[2]


def test_which_runs_are_taken_over() -> None:
    later = NOW + timedelta(minutes=5)
    by_load, by_person = waiting(later), waiting(later, tags=())
    wake_up, due = waiting(later, tags=(WAKE_UP,)), waiting(NOW - timedelta(seconds=1), tags=())
    read = queue(FakeApi([by_load, by_person, wake_up, due])).read()
    assert {run.id for run in to_take_over(read, NOW)} == {by_load.id, due.id}
    assert {run.id for run in to_take_over(read, NOW, started=True)} == {due.id}
    assert [run.id for run in out_of_date(read, NOW, None)] == [wake_up.id]
    assert [run.id for run in out_of_date(read, NOW, later + timedelta(hours=1))] == [wake_up.id]
    assert out_of_date(read, NOW, later) == []


def test_look_of_run_that_is_taken_over_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[str] = []

    def observe() -> Any:
        looks.append("look")
        raise DbtError("the warehouse is away")

    orchestrator: Any = SimpleNamespace(record=lambda _: 1, register_producers=lambda _: None, observe=observe)
    build = DeployedBuild(FakeApi([]), waiting(), uuid4(), None, LOGGER)  # type: ignore[arg-type]
    plain, looking = queue(FakeApi([waiting(), waiting(observe=True)])).read()
    assert build._record(orchestrator, [plain]) == [plain]
    assert looks == []
    # One that fails keeps nothing from being built.
    assert build._record(orchestrator, [plain, looking]) == [plain, looking]
    assert looks == ["look"]
    assert "The sources could not be looked at: the warehouse is away" in caplog.text


# --- wake-ups, reconcile, deployments


def test_nodes_due_together_share_wake_up() -> None:
    held = [Held("lag_tolerance", until=NOW + timedelta(seconds=second)) for second in (0, 2, 15, 16, 3600)]
    held.append(Held("updates_on_all", waiting_for=("source.shop.crm.orders",)))
    assert wake_up_time(held, NOW, timedelta(seconds=15)) == NOW + timedelta(seconds=15)
    assert wake_up_time(held, NOW, timedelta(0)) == NOW
    assert wake_up_time([], NOW, timedelta(seconds=15)) == NOW


def test_wake_up_that_is_over_does_not_stand_for_new_one() -> None:
    keys: list[str] = []

    class Api:
        def create_flow_run_from_deployment(self, *_: Any, idempotency_key: str, **__: Any) -> Any:
            keys.append(idempotency_key)
            return SimpleNamespace(state_type=Cancelled().type if len(keys) == 1 else Scheduled().type)

    schedule_wake_up(Api(), uuid4(), NOW, settings=None, run_id=uuid4())  # type: ignore[arg-type]
    assert len(set(keys)) == 2


class Stream:
    """An orchestrator while loads keep coming: each dbt run finds something stale again."""

    def __init__(self) -> None:
        self.settings = SimpleNamespace(debounce=0.0)
        self.ledger = SimpleNamespace(read_elsewhere=tuple)
        self.runs = 0

    def freshness(self, *, as_parsed: bool) -> FreshnessReport:
        return FreshnessReport(NOW)

    def build(self, *, who: str, progress: Any, rounds: int) -> BuildReport:
        self.runs += 1 + rounds
        return BuildReport(built=["model.shop.a"], runs=1 + rounds, more=["model.shop.a"])


def test_run_in_stream_of_loads_ends_and_new_one_is_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Api(FakeApi):
        def create_flow_run_from_deployment(self, *_: Any, **options: Any) -> Any:
            made.append(options)
            return SimpleNamespace(name="next-owl", state_type=options["state"].type)

    api = Api([waiting()])
    build = DeployedBuild(api, waiting(), uuid4(), None, LOGGER)  # type: ignore[arg-type]
    monkeypatch.setattr(build, "_learn", lambda _: None)
    monkeypatch.setattr(build, "_record", lambda _, runs: runs)
    stream: Any = Stream()
    report = build.build(stream, who="a run")
    assert stream.runs == 1 + MAX_ROUNDS
    assert report.handed_over
    [run] = made
    assert abs(run["state"].state_details.scheduled_time - datetime.now(UTC)) < timedelta(seconds=30)
    assert run["tags"] == [WAKE_UP]


@pytest.mark.parametrize(("known", "looks"), [((), True), (("1",), True), (("1", "2"), False)])
def test_unreported_load_is_looked_for_by_one_more_run(known: tuple[str, ...], looks: bool) -> None:
    made: list[dict[str, Any]] = []

    class Api(FakeApi):
        def create_flow_run_from_deployment(self, *_: Any, **options: Any) -> Any:
            made.append(options)
            return SimpleNamespace(name="late-owl", state_type=options["state"].type)

    orchestrator: Any = SimpleNamespace(ledger=SimpleNamespace(known_updates=lambda _: frozenset(known)))
    build = DeployedBuild(Api([]), waiting(), uuid4(), None, LOGGER)  # type: ignore[arg-type]
    build._late, build._look_again = frozenset({"1", "2"}), NOW
    build._wake_up(orchestrator, BuildReport(), [])
    assert len(made) == looks
    for run in made:
        assert run["state"].state_details.scheduled_time == NOW
        assert run["tags"] == [WAKE_UP]


@pytest.mark.parametrize(("waits", "looks"), [((), True), ((NOW,), False), ((NOW + timedelta(hours=1),), True)])
def test_deadline_is_looked_at_by_one_more_run_unless_one_comes_before(
    waits: tuple[datetime, ...], looks: bool
) -> None:
    made: list[dict[str, Any]] = []

    class Api(FakeApi):
        def create_flow_run_from_deployment(self, *_: Any, **options: Any) -> Any:
            made.append(options)
            return SimpleNamespace(name="late-owl", state_type=options["state"].type)

    build = DeployedBuild(Api([waiting(due) for due in waits]), waiting(), uuid4(), None, LOGGER)  # type: ignore[arg-type]
    build._watch(NOW + timedelta(minutes=5))
    assert [run["tags"] for run in made] == [[WAKE_UP, DEADLINE]] * looks
    for run in made:
        after = run["state"].state_details.scheduled_time - NOW - timedelta(minutes=5)
        assert timedelta(0) < after <= timedelta(seconds=10), "just after, when it is broken"


def test_look_at_a_deadline_is_not_dismissed_by_each_load() -> None:
    later = NOW + timedelta(minutes=5)
    read = queue(FakeApi([waiting(later, tags=(WAKE_UP, DEADLINE)), waiting(NOW, tags=(WAKE_UP, DEADLINE))])).read()
    assert out_of_date(read, NOW, None) == []
    assert [run.due for run in to_take_over(read, NOW)] == [NOW], "one that is due is taken over as any other"


@pytest.mark.parametrize(
    ("heartbeat", "dead"), [(timedelta(hours=2), True), (timedelta(minutes=3), False), (None, False)]
)
def test_dead_run_is_told_with_command_that_ends_it(heartbeat: timedelta | None, dead: bool) -> None:
    run = waiting().model_copy(update={"start_time": NOW - timedelta(hours=3), "name": "old-owl"})

    class Api(FakeApi):
        def request(self, method: str, path: str, *, json: Any) -> httpx.Response:
            assert json["filter"]["resource"]["id"] == [f"prefect.flow-run.{run.id}"]
            events = [] if heartbeat is None else [{"occurred": (NOW - heartbeat).isoformat()}]
            return httpx.Response(200, json={"events": events})

    found = tuple(dead_runs(Api([run]), [LoadsOf("x")], NOW))  # type: ignore[arg-type]
    assert bool(found) is dead
    if found:
        [line] = reconcile.Reconciliation(NOW, NOW, dead=found).lines()
        assert f"prefect flow-run cancel {run.id}" in line
        assert "old-owl" in line


def test_dbt_deployment_is_one_at_time_and_holds_no_secret() -> None:
    deployment = dbt_deployment("shop", target="prod", tags=["x"])
    assert deployment.full_name == "build-affected/shop"
    assert deployment.entrypoint == "lineage_orch.flows.build_affected"
    assert deployment.tags == [BUILDS, "x"]
    assert deployment.concurrency_limit == 1
    assert deployment.concurrency_options is not None
    assert deployment.concurrency_options.collision_strategy.value == "ENQUEUE"
    assert deployment.parameters == {"settings": {"target": "prod"}}
    assert [each.schedule.cron for each in deployment.schedules or ()] == ["17 * * * *"]
    assert not dbt_deployment(resync=None).schedules
    assert not dbt_deployment(resync=False).schedules
    [hours] = dbt_deployment(resync=timedelta(hours=6)).schedules or ()
    assert hours.schedule.interval == timedelta(hours=6)
    with pytest.raises(SettingsError, match="resync 'hourly' cannot be read"):
        dbt_deployment(resync="hourly")
    [_, looks] = dbt_deployment(observe="15m").schedules or ()
    assert (looks.schedule.interval, looks.parameters) == (timedelta(minutes=15), {"observe": True})
    [looks] = dbt_deployment(observe="*/5 * * * *", resync=None).schedules or ()
    assert (looks.schedule.cron, looks.parameters) == ("*/5 * * * *", {"observe": True})
    for unreadable in ("often", "0m", "99999999999d"):
        with pytest.raises(SettingsError, match=f"observe '{unreadable}' cannot be read"):
            dbt_deployment(observe=unreadable)
    assert dbt_deployment(allow=["dbt_flags"]).tags == [BUILDS, "lineage_orch:allows:dbt_flags"]
    with pytest.raises(SettingsError, match="allow names 'flags'"):
        dbt_deployment(allow=["flags"])
    with pytest.raises(SettingsError, match="LINEAGE_ORCH_LEDGER"):
        dbt_deployment(ledger="postgresql+psycopg://me:secret@db/x")
    with pytest.raises(SettingsError, match="did you mean 'target'"):
        dbt_deployment(tarket="prod")
    with pytest.raises(SettingsError, match="slash"):
        dbt_deployment("build-affected/shop")
