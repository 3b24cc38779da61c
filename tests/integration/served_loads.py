"""Loads as a team would write them, and the deployments that the tests serve: ``python served_loads.py``."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId
from prefect.client.schemas.objects import State, TaskRun

from lineage_orch import DeploymentTrigger, InProcessTrigger, mark_updated, produces_source

TO_SHOP = DeploymentTrigger(
    os.environ.get("TEST_TRIGGERS", "build-affected/shop"), debounce=float(os.environ.get("TEST_DEBOUNCE", "2"))
)
TO_HELD = DeploymentTrigger("build-affected/held", debounce=0)


def die(*_: Any) -> None:
    """Kill this process at once, as the system would, when a file says so."""
    if Path(os.environ["TEST_KILL"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)


@produces_source("crm.orders", trigger=TO_SHOP)
@flow(name="orders", on_completion=[die])
def load_orders() -> int:
    """Load orders."""
    return 2


@produces_source("crm.{table}", trigger=TO_SHOP)
@flow(name="by-parameter")
async def load_table(table: str = "customers") -> None:
    """Load a table, with other work on its loop."""
    await asyncio.sleep(0.01)


@produces_source("crm.customers", trigger=TO_SHOP)
@task(name="customers-task")
def load_customers() -> int:
    """Load customers."""
    return 3


@flow(name="with-a-task")
def with_a_task() -> None:
    """Load by a task."""
    load_customers()


def die_when_it_is_known(_: Any, run: TaskRun, state: State) -> None:
    """Kill this process when the server shows the task run as Completed."""
    chosen = TaskRunFilter(id=TaskRunFilterId(any_=[run.id]))
    with get_client(sync_client=True) as client:
        while state.id not in [each.state_id for each in client.read_task_runs(task_run_filter=chosen)]:
            time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


@produces_source("crm.{table}", "crm.orders", trigger=TO_SHOP)
@task(name="some-table")
def load_some(table: str, updated: tuple[str, ...] | None = None) -> None:
    """Load a table, perhaps with nothing new in it."""
    if updated is not None:
        mark_updated(*updated)


@flow(name="tasks-without-hooks")
def tasks_without_hooks() -> None:
    """Load by tasks whose hooks never run."""
    unhooked = load_some.with_options(on_completion=[print])
    unhooked("customers")
    unhooked("customers", updated=("crm.orders",))
    unhooked("customers", updated=())


@flow(name="killed-in-a-task")
def killed_in_a_task() -> None:
    """Load by a task, and be killed before its hook runs."""
    load_customers.with_options(on_completion=[die_when_it_is_known, *load_customers.on_completion_hooks])()


@produces_source("crm.orders", "crm.customers", trigger=TO_SHOP)
@flow(name="nothing-new")
def load_nothing_new() -> None:
    """Find nothing new."""
    mark_updated()


@produces_source("crm.customers", trigger=TO_SHOP)
@flow(name="slow")
def load_slowly() -> None:
    """Load for as long as a file is there."""
    while Path(os.environ["TEST_SLOW"]).exists():
        time.sleep(0.2)


@produces_source("crm.*", trigger=TO_HELD)
@flow(name="for-held")
def load_for_held() -> None:
    """Load for the project that holds its models back."""


@produces_source("crm.customers", trigger=InProcessTrigger())
@flow(name="in-process", timeout_seconds=6)
def load_in_process() -> None:
    """Load, with a timeout that the build outlives."""


def main(*names: str) -> None:
    """Serve some of the loads and dbt deployments."""
    from prefect import serve

    from lineage_orch.deployments import dbt_deployment

    loads = {
        "orders/orders": lambda: load_orders.to_deployment("orders"),
        "for-held/for-held": lambda: load_for_held.to_deployment("for-held"),
        "in-process/in-process": lambda: load_in_process.to_deployment("in-process", concurrency_limit=1),
    }

    def deployment(name: str) -> Any:
        if name in loads:
            return loads[name]()
        short = name.removeprefix("build-affected/")
        seconds = float(os.environ.get("TEST_RESYNC", "0"))
        resync = timedelta(seconds=seconds) if seconds else None
        observe = os.environ.get("TEST_OBSERVE")
        project = os.environ[f"TEST_{short.upper()}"]
        return dbt_deployment(short, project_dir=project, resync=resync, observe=observe, allow=["patience"])

    serve(*map(deployment, names), limit=10)


def burst() -> None:
    """Run 25 loads in about 15 seconds, in this process."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        for number in range(25):
            if number % 3 == 0:
                pool.submit(load_orders)
            elif number % 3 == 1:
                pool.submit(asyncio.run, load_table("customers"))
            else:
                pool.submit(with_a_task)
            time.sleep(0.6)


if __name__ == "__main__":
    import sys

    what, *more = sys.argv[1:]
    if what == "serve":
        main(*more)
    else:
        runs = {
            "burst": burst,
            "nothing-new": load_nothing_new,
            "orders": load_orders,
            "held": load_for_held,
            "slow": load_slowly,
            "task": with_a_task,
            "tasks-without-hooks": tasks_without_hooks,
            "killed-in-a-task": killed_in_a_task,
        }
        runs[what]()
