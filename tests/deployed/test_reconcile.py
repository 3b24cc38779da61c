"""Which loads of Prefect's history are whose: a history in memory stands in for the server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed

from lineage_orch import Ledger, SourceUpdate
from lineage_orch.deployed.reconcile import Reconciliation, reconcile
from lineage_orch.errors import DbtError, UnknownSourceError
from lineage_orch.loads.tags import NOTHING_NEW, load_tags

IN_PROCESS = "triggers:in-process"


class History:
    """A Prefect server with flow runs that completed a moment ago, each found by its tags."""

    def __init__(self) -> None:
        self.runs: list[FlowRun] = []

    def add(self, name: str, tags: list[str], **parameters: Any) -> FlowRun:
        at = datetime.now(UTC) - timedelta(minutes=1)
        state = Completed(timestamp=at)  # type: ignore[arg-type]
        run = FlowRun(
            id=uuid4(),
            name=name,
            flow_id=uuid4(),
            tags=tags,
            parameters=parameters,
            state=state,
            state_type=state.type,
            end_time=at,
        )
        self.runs.append(run)
        return run

    def read_flow_runs(self, *, flow_run_filter: Any, offset: int, **_: Any) -> list[FlowRun]:
        wanted = set(flow_run_filter.tags.all_ or ()) if flow_run_filter.tags else {"none is running"}
        return [] if offset or not wanted else [run for run in self.runs if wanted <= set(run.tags)]

    def read_task_runs(self, **_: Any) -> list[Any]:
        return []

    def read_flow(self, _: Any) -> Any:
        return SimpleNamespace(name="load")


class Project:
    """What reconcile needs of an orchestrator: it knows crm.orders and crm.customers."""

    def __init__(self, name: str = "shop") -> None:
        self.project = SimpleNamespace(name=name)
        self.settings = SimpleNamespace(deployment=None)
        self.ledger = Ledger("sqlite://", project=name, target="dev")
        self.recorded: list[SourceUpdate] = []
        self.parses = True
        self.known = {"crm.orders", "crm.customers"}

    def record(self, updates: list[SourceUpdate]) -> None:
        self.recorded += updates
        self.ledger.record_updates(
            [SourceUpdate(f"source.x.{each.source}", each.update_id, each.loaded_at) for each in updates]
        )

    @property
    def lineage(self) -> Any:
        if not self.parses:
            raise DbtError("it does not parse")
        return self

    def resolve_sources(self, name: str) -> tuple[str, ...]:
        if name not in self.known:
            raise UnknownSourceError(name)
        return (name,)

    def reconcile(self, history: History) -> Reconciliation:
        return reconcile(self, client=history)  # type: ignore[arg-type]

    @property
    def sources(self) -> list[str]:
        return [update.source for update in self.recorded]


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def shop() -> Iterator[Project]:
    project = Project()
    yield project
    project.ledger.close()


def test_projects_on_one_server_are_apart(history: History, shop: Project) -> None:
    history.add("mine", load_tags(["crm.orders"], None, "shop"))
    history.add("theirs", load_tags(["crm.orders"], None, "other"))
    other = Project("other")
    assert [each.run_name for each in shop.reconcile(history).found] == ["mine"]
    assert [each.run_name for each in other.reconcile(history).found] == ["theirs"]
    assert shop.reconcile(history).found == ()
    other.ledger.close()


def test_source_unknown_to_manifest_is_kept_as_named(history: History, shop: Project) -> None:
    history.add("new", load_tags(["crm.of_tomorrow"], None, "shop"))
    found = shop.reconcile(history)
    assert shop.sources == ["crm.of_tomorrow"]
    assert found.unknown is None


def test_loads_without_project_are_taken_by_their_sources(history: History, shop: Project) -> None:
    history.add("of 0.1.0", [IN_PROCESS, "source:crm.orders"])
    history.add("elsewhere", [IN_PROCESS, "source:hr.people"])
    history.add("of a deployment", [IN_PROCESS, f"{IN_PROCESS}:other", "source:crm.customers"])
    found = shop.reconcile(history)
    assert [each.run_name for each in found.found] == ["of 0.1.0"]
    assert shop.sources == ["crm.orders"]
    assert found.unknown is not None
    assert "elsewhere" in found.unknown
    assert "hr.people" in found.unknown
    assert "of a deployment" not in found.unknown


def test_load_of_source_unknown_yet_is_taken_up_when_it_is_known(history: History, shop: Project) -> None:
    load = history.add("elsewhere", [IN_PROCESS, "source:crm.of_tomorrow", "source:hr.people"])
    found = shop.reconcile(history)
    assert found.found == ()
    assert "They are kept for when it is." in (found.unknown or "")
    assert shop.reconcile(history).found == ()  # once is enough
    history.runs.clear()  # by then the watermark is past it
    shop.parses = False
    assert shop.reconcile(history).found == ()
    shop.parses = True
    shop.known.add("crm.of_tomorrow")
    [taken_up] = shop.reconcile(history).found
    assert taken_up.sources == ("crm.of_tomorrow",)
    assert load.state is not None
    [recorded] = shop.recorded
    assert (recorded.source, recorded.update_id) == ("crm.of_tomorrow", str(load.state.id))
    assert shop.reconcile(history).found == ()
    assert len(shop.recorded) == 1


def test_whose_they_are_is_asked_again_when_project_parses(history: History, shop: Project) -> None:
    history.add("of 0.1.0", [IN_PROCESS, "source:crm.orders"])
    history.add("mine", load_tags(["crm.customers"], None, "shop"))
    shop.parses = False
    found = shop.reconcile(history)
    assert shop.sources == ["crm.customers"]  # which needs no manifest
    assert found.unknown is not None
    assert "it does not parse" in found.unknown
    shop.parses = True
    assert [each.run_name for each in shop.reconcile(history).found] == ["of 0.1.0"]


def test_template_of_deployments_tags_is_no_load_of_its_own(history: History, shop: Project) -> None:
    of_deployment = load_tags(["crm.{table}"], None, "shop")
    history.add("tagged", [*of_deployment, "source:crm.orders"], table="orders")
    history.add("killed before it was tagged", of_deployment, table="customers")
    history.add("with a default", of_deployment)
    shop.reconcile(history)
    assert sorted(shop.sources) == ["crm.customers", "crm.orders"]


def test_load_without_news_is_passed_over(history: History, shop: Project) -> None:
    history.add("nothing new", [*load_tags(["crm.orders"], None, "shop"), NOTHING_NEW])
    assert shop.reconcile(history).found == ()


def test_findings_are_said_in_line_each(history: History, shop: Project) -> None:
    history.add("mine", load_tags(["crm.orders"], None, "shop"))
    [line] = shop.reconcile(history).lines()
    assert line.startswith("The load 'mine' completed at ")
    assert line.endswith("UTC and was not reported: crm.orders recorded as loaded.")
