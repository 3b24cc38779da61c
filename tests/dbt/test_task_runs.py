"""Nodes of a dbt process as task runs: what the server is told, in what order, and what happens when it cannot be."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from lineage_orch.dbt.engine import Result
from lineage_orch.dbt.task_runs import NodeTaskRuns

LOG = logging.getLogger("test_task_runs")


class Server:
    """Keeps what a client was called with."""

    def __init__(self, *, down: bool = False) -> None:
        self.down = down
        self.runs: dict[Any, list[str]] = {}
        self.names: dict[Any, str] = {}

    def create_task_run(self, task: Any, flow_run_id: Any, *, dynamic_key: str, id: Any, name: str, state: Any) -> None:
        if self.down:
            raise httpx.ConnectError("no server")
        self.runs[id] = [state.type.value]
        self.names[id] = name

    def set_task_run_state(self, run: Any, state: Any, *, force: bool) -> None:
        self.runs[run].append(state.name)

    @contextmanager
    def client(self) -> Any:
        yield self

    def shown(self) -> dict[str, list[str]]:
        return {self.names[run]: states for run, states in self.runs.items()}


def show(server: Server, flow_run_id: Any) -> None:
    with NodeTaskRuns(flow_run_id, LOG, server.client) as shown:  # type: ignore[arg-type]
        for name in ("good", "bad", "off", "stopped"):
            shown.started(f"model.shop.{name}")
        shown.started("test.shop.unique_good.123")
        shown.ended(Result("model.shop.good", "success"))
        shown.ended(Result("model.shop.bad", "partial success", "3 of 4"))
        shown.ended(Result("model.shop.off", "skipped"))
        shown.ended(Result("test.shop.unique_good.123", "pass"))


def test_nodes_are_task_runs() -> None:
    server = Server()
    show(server, uuid4())
    assert server.shown() == {
        "model good": ["RUNNING", "Completed"],
        "model bad": ["RUNNING", "Failed"],
        "model off": ["RUNNING", "Skipped"],
        "model stopped": ["RUNNING", "Cancelled"],
    }


def test_task_runs_are_shown_in_flow_run_only() -> None:
    server = Server()
    show(server, None)
    assert server.runs == {}


def test_server_that_is_down_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        show(Server(down=True), uuid4())
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "no server" in caplog.text
