"""Which runs of a producer set off what, on a real Prefect server: a recording trigger stands in for the build."""

from __future__ import annotations

import asyncio
import logging
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import CancelledRun
from prefect.flow_engine import run_flow
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Cancelled, Completed, Failed, State
from prefect.transactions import transaction

from lineage_orch import Ledger, ProducerError, SourceUpdate, TriggerError, mark_updated, produces_source
from lineage_orch.deployed import reconcile as reconciling
from lineage_orch.deployed.run_history import LoadsOf, completed_loads
from lineage_orch.loads.marks import _marked
from lineage_orch.loads.tags import sources_in
from lineage_orch.triggers import Completion, using_trigger
from tests.integration.real_prefect import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


class Recorder:
    """A trigger that remembers what it was given."""

    deployment: str | None = None

    def __init__(self) -> None:
        self.completions: list[Completion] = []
        self.threads: list[threading.Thread] = []

    def fire(self, completion: Completion, logger: object) -> None:
        self.completions.append(completion)
        self.threads.append(threading.current_thread())

    @property
    def sources(self) -> list[str]:
        return [update.source for completion in self.completions for update in completion.updates]


@pytest.fixture
def fired() -> Iterator[Recorder]:
    recorder = Recorder()
    with using_trigger(recorder):
        yield recorder


# Flows -------------------------------------------------------------------------------------------------------


def test_completed_flow_is_one_update_of_each_of_its_sources(fired: Recorder):
    @produces_source("crm.orders", "crm.customers")
    @flow
    def load() -> str:
        return "done"

    assert load() == "done"
    (completion,) = fired.completions
    assert [update.source for update in completion.updates] == ["crm.orders", "crm.customers"]
    assert completion.declared == ("crm.orders", "crm.customers")
    update = completion.updates[0]
    assert update.producer == "load"
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(update.flow_run_id)
    # The time and the id are those of the state that the server shows.
    assert run.state.type == "COMPLETED"
    assert update.update_id == str(run.state.id)
    assert abs((update.loaded_at - run.end_time).total_seconds()) < 0.01


def test_runs_are_updates_of_their_own(fired: Recorder):
    @produces_source("crm.orders")
    @flow
    def load() -> None: ...

    load()
    load()
    assert len({completion.updates[0].update_id for completion in fired.completions}) == 2


def test_async_flow_fires_beside_its_event_loop(fired: Recorder):
    loop_thread = threading.current_thread()

    @produces_source("crm.{table}")
    @flow
    async def load(table: str = "orders") -> None:
        mark_updated("crm.orders")

    asyncio.run(load())
    assert fired.sources == ["crm.orders"]
    assert fired.threads[0] is not loop_thread


def test_retries_are_one_update(fired: Recorder):
    attempts = []

    @produces_source("crm.orders")
    @flow(retries=2)
    def load() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise RuntimeError("not yet")

    load()
    assert len(attempts) == 3
    assert fired.sources == ["crm.orders"]


def test_subflow_fires_for_itself_and_its_parent_does_not(fired: Recorder):
    @produces_source("crm.orders")
    @flow
    def load() -> None: ...

    @flow
    def parent() -> list[str]:
        load()
        return list(fired.sources)

    assert parent() == ["crm.orders"]
    assert fired.sources == ["crm.orders"]


def test_copy_made_by_with_options_fires_under_its_own_name(fired: Recorder):
    @produces_source("crm.orders")
    @flow
    def load() -> None: ...

    load.with_options(name="nightly", retries=1)()
    assert [completion.updates[0].producer for completion in fired.completions] == ["nightly"]


def test_flow_that_runner_loads_from_its_entrypoint_fires(
    fired: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    code = """
        from enum import Enum
        from prefect import flow
        from lineage_orch import produces_source

        class Table(Enum):
            ORDERS = "orders"

        @produces_source("crm.{table}")
        @flow
        def load(table: Table): ...
    """
    (tmp_path / "loads_of_a_runner.py").write_text(textwrap.dedent(code))
    loaded = load_flow_from_entrypoint("loads_of_a_runner.py:load", use_placeholder_flow=False)
    # As a runner does it: the run is made first, its parameters are JSON, and then the engine takes it up.
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(loaded, parameters={"table": "orders"})
    run_flow(loaded, flow_run=run)
    assert fired.sources == ["crm.orders"]
    assert fired.completions[0].updates[0].flow_run_id == str(run.id)


def fail() -> None:
    raise RuntimeError("the API is down")


def crash() -> None:
    raise SystemExit(3)


def cancel() -> None:
    raise CancelledRun("enough")


ENDINGS = {
    "raised": (fail, None),
    "crashed": (crash, None),
    "cancelled": (cancel, None),
    "failed state": (lambda: None, Failed(message="no")),
    "cancelled state": (lambda: None, Cancelled()),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["flow", "async flow", "task"])
def test_run_that_does_not_end_completed_triggers_nothing(fired: Recorder, ending: str, kind: str):
    end, state = ENDINGS[ending]

    def load() -> State | None:
        end()
        return state

    async def load_async() -> State | None:
        return load()

    def run() -> None:
        if kind == "flow":
            produces_source("crm.orders")(flow(load))(return_state=True)
        elif kind == "async flow":
            asyncio.run(produces_source("crm.orders")(flow(load_async))(return_state=True))
        else:
            produces_source("crm.orders")(task(load))(return_state=True)

    try:
        run()
    except (SystemExit, CancelledRun):
        assert state is None
    assert fired.completions == []


def test_completed_state_that_flow_returns_counts(fired: Recorder):
    @produces_source("crm.orders")
    @flow
    def load() -> State:
        return Completed(message="42 rows", name="Loaded")

    assert load(return_state=True).name == "Loaded"
    assert fired.sources == ["crm.orders"]


def test_own_trigger_goes_before_what_settings_say():
    own = Recorder()

    @produces_source("crm.orders", trigger=own)
    @flow
    def load() -> None: ...

    load()
    assert own.sources == ["crm.orders"]


# Tasks -------------------------------------------------------------------------------------------------------


class Region(Enum):
    EAST = "east"


def test_tasks_called_submitted_and_mapped_fire_each(fired: Recorder):
    @produces_source("{region}.{table}")
    @task
    def load(table: str, region: Region = Region.EAST) -> None: ...

    @flow
    def parent() -> None:
        load("called")
        load.submit("submitted").wait()
        load.map(["mapped_1", "mapped_2"]).wait()

    parent()
    assert sorted(fired.sources) == ["east.called", "east.mapped_1", "east.mapped_2", "east.submitted"]
    flow_runs = {update.flow_run_id for completion in fired.completions for update in completion.updates}
    assert len(flow_runs) == 1
    assert None not in flow_runs


def test_async_tasks_fire_each_with_its_own_parameters(fired: Recorder):
    @produces_source("{region}.{table}")
    @task
    async def load(table: str, region: Region = Region.EAST) -> None: ...

    @flow
    async def parent() -> None:
        await asyncio.gather(load("one"), load("two"))
        load.submit("three").wait()

    asyncio.run(parent())
    assert sorted(fired.sources) == ["east.one", "east.three", "east.two"]


def test_task_run_is_tagged_with_its_sources_when_it_ends(fired: Recorder):
    @produces_source("crm.{table}", "crm.orders")
    @task(tags=["mine"])
    def load(table: str, updated: list[str] | None = None) -> None:
        if updated is not None:
            mark_updated(*updated)

    @produces_source("erp.{table}")
    @task
    async def load_async(table: str = "stock") -> None: ...

    @flow
    async def parent() -> None:
        load("customers")
        load.submit("customers", ["crm.orders"]).wait()
        load("customers", [])
        await load_async()

    asyncio.run(parent())
    assert tags_of_tasks(fired, 4) == [
        ["lineage_orch:nothing-new", "mine", "task-triggers:in-process"],
        ["mine", "task-source:crm.customers", "task-source:crm.orders", "task-triggers:in-process"],
        ["mine", "task-source:crm.orders", "task-triggers:in-process"],
        ["task-source:erp.stock", "task-triggers:in-process"],
    ]


def tags_of_tasks(fired: Recorder, count: int) -> list[list[str]]:
    """Return the tags of the task runs of the flow run that fired, when so many of them are known as Completed."""
    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(fired.completions[0].updates[0].flow_run_id)]))

    def tags() -> list[list[str]]:
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=flow_run)
        found = sorted(sorted(run.tags) for run in runs if run.state_name == "Completed")
        return found if len(found) == count else []

    # The states of tasks reach the server a little later.
    return wait_for("the tasks are completed", tags, seconds=30)


def test_task_run_with_many_sources_reaches_server(fired: Recorder):
    # Prefect drops an event with more than 100 tags, and then the task is RUNNING for ever.
    many = [f"crm.table_{number}" for number in range(300)]

    @produces_source(*many)
    @task
    def all_of_them() -> None: ...

    @produces_source("crm.*")
    @task
    def marked() -> None:
        mark_updated(*many)

    @flow
    def parent() -> None:
        all_of_them()
        marked()

    parent()
    for tags in tags_of_tasks(fired, 2):
        assert sorted(sources_in(tags, of_task=True)) == sorted(many)


def test_retried_task_keeps_what_it_marked(fired: Recorder):
    attempts = []

    @produces_source("crm.orders", "crm.customers")
    @task(retries=1)
    def load() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            mark_updated("crm.orders")
            raise RuntimeError("not yet")

    @flow
    def parent() -> None:
        load()

    parent()
    assert fired.sources == ["crm.orders"]
    [tags] = tags_of_tasks(fired, 1)
    assert sources_in(tags, of_task=True) == ["crm.orders"]


def test_history_tells_of_loads_as_their_hooks_did(fired: Recorder):
    start = datetime.now(UTC)
    fired.deployment = "for/this-test"

    @produces_source("crm.orders")
    @task(name="named", task_run_name="of today")
    def renamed() -> None: ...

    @produces_source("crm.customers")
    @task
    def rolled_back() -> None: ...

    @produces_source("crm.stock")
    @flow
    def parent() -> None:
        renamed()
        with suppress(ZeroDivisionError), transaction():
            rolled_back()
            raise ZeroDivisionError

    parent()

    def found() -> Any:
        with get_client(sync_client=True) as client:
            # The task that is rolled back ends Completed first, and then again.
            ended = {run.state_name for run in client.read_task_runs(flow_run_filter=of_parent)}
            loads = completed_loads(client, LoadsOf("for/this-test"), start, datetime.now(UTC))
            return ended >= {"Completed", "RolledBack"} and [
                update for load in loads for update in load.updates(client)
            ]

    told = {update.source: update for completion in fired.completions for update in completion.updates}
    of_parent = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(told["crm.stock"].flow_run_id)]))
    history = {update.source: update for update in wait_for("the history", found, seconds=30)}
    assert history.keys() == {"crm.orders", "crm.stock"}
    # It says no more of when a load began: without a fingerprint that is of no use.
    assert history["crm.stock"] == replace(told["crm.stock"], began_at=None)
    assert history["crm.orders"].update_id == told["crm.orders"].update_id
    assert history["crm.orders"].producer == "renamed"  # the history has no names of tasks


def test_load_whose_hook_may_be_at_work_is_looked_at_again(fired: Recorder, monkeypatch: pytest.MonkeyPatch):
    fired.deployment = "for/looking-again"
    monkeypatch.setattr(reconciling, "USUAL", timedelta(0))
    monkeypatch.setattr(reconciling, "OVERLAP", timedelta(0))

    @produces_source("crm.orders")
    @flow
    def load() -> None: ...

    load()
    [told] = fired.completions[0].updates
    recorded: list[SourceUpdate] = []
    with Ledger("sqlite://", project="shop", target="dev") as ledger:
        orchestrator: Any = SimpleNamespace(
            ledger=ledger, settings=SimpleNamespace(deployment=fired.deployment), record=recorded.extend
        )
        early = reconciling.reconcile(orchestrator, grace=timedelta(hours=1))
        assert (early.found, recorded) == ((), [])
        assert early.late == {told.update_id}
        assert early.look_again == told.loaded_at + timedelta(hours=1)
        # A look for the loads of another deployment passes over none of this one's.
        assert reconciling.reconcile(orchestrator, deployment="for/another").found == ()
        late = reconciling.reconcile(orchestrator)
    assert recorded == [replace(told, began_at=None)]
    assert late.look_again is None


def test_times_of_prefect_can_be_recorded(fired: Recorder):
    @produces_source("source.shop.crm.orders")
    @task
    def load() -> None: ...

    load()
    # Of a type of Prefect's own, for tasks.
    [update] = fired.completions[0].updates
    with Ledger("sqlite://", project="shop", target="dev") as ledger:
        ledger.record_updates([update])
        assert ledger.recent_updates() == [(1, update)]


@pytest.mark.parametrize("kind", [flow, task])
def test_load_without_its_hook_may_still_mark(fired: Recorder, kind: Any):
    @produces_source("crm.orders", "crm.customers")
    @kind
    def load() -> None:
        mark_updated("crm.orders")

    assert load.with_options(on_completion=[print])(return_state=True).is_completed()
    assert fired.completions == []


def test_task_outside_flow_fires(fired: Recorder):
    @produces_source("crm.{table}")
    @task
    def load(table: str) -> None: ...

    load("orders")
    assert fired.sources == ["crm.orders"]
    assert fired.completions[0].updates[0].flow_run_id is None


def test_cached_result_triggers_nothing(fired: Recorder):
    key = uuid4().hex

    @produces_source("crm.orders")
    @task(persist_result=True, cache_key_fn=lambda *_: key)
    def load() -> int:
        return 1

    first = load(return_state=True)
    second = load(return_state=True)
    assert (first.name, second.name) == ("Completed", "Cached")
    assert fired.sources == ["crm.orders"]


def test_retry_of_parent_does_not_report_its_loaded_child_anew(fired: Recorder):
    attempts = []

    @produces_source("crm.orders")
    @flow(persist_result=True)
    def load() -> int:
        return 1

    @flow(retries=1)
    def parent() -> None:
        load()
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("not yet")

    parent()
    # The hook may be called again; the update is the same one, and the ledger takes it once.
    assert len({update.update_id for completion in fired.completions for update in completion.updates}) == 1


# Parameters --------------------------------------------------------------------------------------------------


def test_names_are_filled_from_parameters_and_defaults(fired: Recorder):
    @produces_source("{region}.{table}", "crm.fixed")
    @flow
    def load(table: str, region: Region = Region.EAST) -> None: ...

    load("orders")
    load(table="orders", region="east")
    assert fired.sources == ["east.orders", "crm.fixed"] * 2


# mark_updated ------------------------------------------------------------------------------------------------


def test_mark_updated_narrows_run_to_what_got_new_data(fired: Recorder):
    @produces_source("crm.orders", "crm.customers", "erp.*")
    @flow
    def load() -> None:
        mark_updated("crm.orders")
        mark_updated("erp.stock")

    load()
    assert sorted(fired.sources) == ["crm.orders", "erp.stock"]
    assert fired.completions[0].declared == ("crm.orders", "crm.customers", "erp.*")


def test_mark_updated_without_source_means_no_new_data(fired: Recorder, caplog: pytest.LogCaptureFixture):
    @produces_source("crm.orders")
    @flow
    def load() -> None:
        mark_updated()

    load()
    assert fired.completions == []
    assert "No source got new data" in caplog.text


def test_fingerprint_is_of_the_sources_it_was_given_for(fired: Recorder):
    @produces_source("crm.*", "erp.stock")
    @flow(retries=1)
    def load() -> None:
        mark_updated("crm.orders", "crm.customers", fingerprint="etag")
        mark_updated("erp.stock")
        if not attempts:
            attempts.append(1)
            raise RuntimeError("once")

    attempts: list[int] = []
    load()
    (completion,) = fired.completions
    assert {update.source: update.fingerprint for update in completion.updates} == {
        "crm.orders": "etag",
        "crm.customers": "etag",
        "erp.stock": None,
    }
    assert all(SourceUpdate.from_dict(update.to_dict()) == update for update in completion.updates)


def test_fingerprint_is_text_and_of_a_source(fired: Recorder):
    @produces_source("crm.orders")
    @task
    def load(*sources: str, fingerprint: Any) -> None:
        mark_updated(*sources, fingerprint=fingerprint)

    @flow
    def around(*sources: str, fingerprint: Any) -> None:
        load(*sources, fingerprint=fingerprint)

    around("crm.orders", fingerprint="etag")
    around("crm.orders", fingerprint="")
    assert [each.fingerprint for completion in fired.completions for each in completion.updates] == ["etag", None]
    with pytest.raises(ProducerError, match=r"fingerprint as text, got 7; lineage_orch\.fingerprint_of"):
        around("crm.orders", fingerprint=7)
    with pytest.raises(ProducerError, match="name the source that it is of"):
        around(fingerprint="etag")


def test_window_is_that_of_parameters_unless_run_says_another(fired: Recorder, caplog: pytest.LogCaptureFixture):
    @produces_source("crm.orders", "crm.customers", window=("start", "end"))
    @flow
    def load(start: date, end: datetime | None = None, mark: bool = False) -> None:
        if mark:
            mark_updated("crm.orders", window=(datetime(2026, 3, 5, tzinfo=UTC), datetime(2026, 3, 6, tzinfo=UTC)))
            mark_updated("crm.customers")

    load(date(2026, 3, 1), datetime(2026, 3, 2, 12, tzinfo=UTC))
    load(date(2026, 3, 1), datetime(2026, 3, 2, 12, tzinfo=UTC), mark=True)
    load(date(2026, 3, 1))
    load(date(2026, 3, 1), datetime(2026, 2, 1, tzinfo=UTC))
    windows = [{update.source: str(update.window) for update in each.updates} for each in fired.completions]
    of_parameters = "2026-03-01 to 2026-03-02 12:00:00"
    assert windows == [
        {"crm.orders": of_parameters, "crm.customers": of_parameters},
        {"crm.orders": "2026-03-05 to 2026-03-06", "crm.customers": of_parameters},
        {"crm.orders": "None", "crm.customers": "None"},
        {"crm.orders": "None", "crm.customers": "None"},
    ]
    assert "The load counts without a window: the parameters start" in caplog.text
    for update in fired.completions[0].updates:
        assert SourceUpdate.from_dict(update.to_dict()) == update


def test_window_of_task_is_that_of_its_parameters(fired: Recorder):
    @produces_source("crm.orders", window=("start", "end"))
    @task
    def load(start: str, end: str) -> None: ...

    @flow
    def around() -> None:
        load("2026-03-01", "2026-03-02")

    around()
    assert [str(update.window) for each in fired.completions for update in each.updates] == ["2026-03-01 to 2026-03-02"]


def test_window_is_two_times_and_of_a_source(fired: Recorder):
    @produces_source("crm.orders")
    @flow
    def load(window: Any, *sources: str) -> None:
        mark_updated(*sources, window=window)

    march = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    for wrong in (march[::-1], march[:1], (date(2026, 3, 1), date(2026, 3, 2)), "march"):
        with pytest.raises(ProducerError, match="takes a window as two times"):
            load(wrong, "crm.orders")
    with pytest.raises(ProducerError, match="got a window and no source"):
        load(march)


def test_run_is_narrowed_for_itself_alone(fired: Recorder):
    @produces_source("crm.orders", "crm.customers")
    @flow
    def load(all_of_it: bool) -> None:
        if not all_of_it:
            mark_updated("crm.orders")

    load(all_of_it=False)
    load(all_of_it=True)
    assert fired.sources == ["crm.orders", "crm.orders", "crm.customers"]


def test_task_and_subflow_mark_for_flow_that_called_them(fired: Recorder):
    @task
    def extract(table: str) -> None:
        mark_updated(f"crm.{table}")

    @flow
    def part() -> None:
        extract("customers")

    @produces_source("crm.*")
    @flow
    def load() -> None:
        extract.submit("orders").wait()
        part()

    load()
    assert sorted(fired.sources) == ["crm.customers", "crm.orders"]


def test_producing_task_marks_for_itself_not_for_its_flow(fired: Recorder):
    @produces_source("crm.orders", "crm.customers")
    @task
    def extract() -> None:
        mark_updated("crm.orders")

    @produces_source("erp.stock")
    @flow
    def load() -> None:
        extract()

    load()
    assert fired.sources == ["crm.orders", "erp.stock"]


def test_mark_updated_fits_template(fired: Recorder):
    @produces_source("crm.{table}", "crm.customers")
    @flow
    def load(table: str) -> None:
        mark_updated(f"crm.{table}")

    load("orders")
    assert fired.sources == ["crm.orders"]


def test_mark_updated_takes_fuller_or_shorter_name(fired: Recorder):
    @produces_source("shop.crm.orders", "crm.customers", "shop.erp.*")
    @flow
    def load() -> None:
        mark_updated("crm.orders", "source.shop.crm.customers", "erp.stock")

    load()
    assert len(fired.sources) == 3


@pytest.mark.parametrize("wrong", ["crm.ordrs", "orders", "erp.orders", "crm"])
def test_mark_updated_of_undeclared_source_fails_run(fired: Recorder, wrong: str):
    @produces_source("crm.orders", "crm.customers")
    @flow
    def load() -> None:
        mark_updated(wrong)

    with pytest.raises(ProducerError, match=r"declares 'crm\.orders', 'crm\.customers'"):
        load()
    assert fired.completions == []


def test_marks_of_runs_are_not_kept_after_them(fired: Recorder):
    @produces_source("crm.orders")
    @flow
    def load(fails: bool) -> None:
        mark_updated("crm.orders")
        if fails:
            raise RuntimeError

    before = len(_marked)
    load(fails=False)
    assert len(_marked) == before


# A hook that fails -------------------------------------------------------------------------------------------


class Broken:
    """A trigger that cannot do its work."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def fire(self, completion: Completion, logger: Any) -> None:
        raise self.error


@pytest.mark.parametrize("kind", ["flow", "async flow", "task"])
@pytest.mark.parametrize("error", [TriggerError("no such deployment; deploy it"), ZeroDivisionError("a bug")])
def test_failing_hook_is_logged_and_load_stays_completed(kind: str, error: Exception, caplog: pytest.LogCaptureFixture):
    def load() -> None: ...

    async def load_async() -> None: ...

    with using_trigger(Broken(error)):
        if kind == "flow":
            state = produces_source("crm.orders")(flow(load))(return_state=True)
        elif kind == "async flow":
            state = asyncio.run(produces_source("crm.orders")(flow(load_async))(return_state=True))
        else:
            state = produces_source("crm.orders")(task(load))(return_state=True)
    assert state.is_completed()
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "The load is complete, but" in record.getMessage()
    if isinstance(error, TriggerError):
        assert "no such deployment; deploy it" in record.getMessage()
        assert record.exc_info is None
    else:
        assert "lineage-orch reconcile" in record.getMessage()
        assert record.exc_info[1] is error


def test_setting_that_cannot_be_read_is_told_in_log_of_load(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("LINEAGE_ORCH_KEEP_DAYS", "many")

    @produces_source("crm.orders")
    @flow
    def load() -> None: ...

    assert load(return_state=True).is_completed()
    errors = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert any("LINEAGE_ORCH_KEEP_DAYS" in each and "'many'" in each for each in errors), errors


# Whether to wait ---------------------------------------------------------------------------------------------


def test_plain_load_may_wait_for_its_build(fired: Recorder):
    @produces_source("crm.orders")
    @task
    def extract() -> None: ...

    @produces_source("crm.orders")
    @flow
    def load() -> None:
        extract()

    @flow
    def parent() -> None:
        load()

    parent()
    assert [completion.may_wait for completion in fired.completions] == [True, True]


def test_load_under_timeout_does_not_wait(fired: Recorder):
    @produces_source("crm.orders")
    @task
    def extract() -> None: ...

    @produces_source("crm.orders")
    @flow
    def load() -> None:
        extract()
        extract.submit().wait()

    @flow(timeout_seconds=600)
    def parent() -> None:
        load()

    parent()
    assert [completion.may_wait for completion in fired.completions] == [False] * 3


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_load_in_deployed_run_does_not_wait(fired: Recorder, kind: str):
    @produces_source("crm.orders")
    @task
    def extract() -> None: ...

    @produces_source("crm.orders")
    @flow(name="deployed load")
    def load() -> None:
        extract()

    @produces_source("crm.orders")
    @flow(name="deployed load")
    async def load_async() -> None:
        extract()

    chosen = load if kind == "sync" else load_async
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(chosen), name=f"waits-{kind}")
        run = client.create_flow_run_from_deployment(deployment)
    result = run_flow(chosen, flow_run=run)
    if kind == "async":
        asyncio.run(result)
    assert [completion.may_wait for completion in fired.completions] == [False, False]
