"""Loads as a team would write them, and the deployments that the tests serve: ``python served_loads.py``."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from prefect import flow, task

from lineage_orch import DeploymentTrigger, mark_updated, produces_source

TO_SHOP = DeploymentTrigger("build-affected/shop", debounce=float(os.environ.get("TEST_DEBOUNCE", "2")))
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


@produces_source("crm.orders", "crm.customers", trigger=TO_SHOP)
@flow(name="nothing-new")
def load_nothing_new() -> None:
    """Find nothing new."""
    mark_updated()


@produces_source("crm.*", trigger=TO_HELD)
@flow(name="for-held")
def load_for_held() -> None:
    """Load for the project that holds its models back."""


def main() -> None:
    """Serve the loads and two dbt deployments."""
    from prefect import serve

    from lineage_orch.deployments import dbt_deployment

    serve(
        load_orders.to_deployment("orders"),
        load_for_held.to_deployment("for-held"),
        dbt_deployment("shop", project_dir=os.environ["TEST_SHOP"]),
        dbt_deployment("held", project_dir=os.environ["TEST_HELD"]),
        limit=10,
    )


def burst() -> None:
    """Run twelve loads in about five seconds, in this process."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        for number in range(12):
            if number % 3 == 0:
                pool.submit(load_orders)
            elif number % 3 == 1:
                pool.submit(asyncio.run, load_table("customers"))
            else:
                pool.submit(with_a_task)
            time.sleep(0.35)


if __name__ == "__main__":
    import sys

    {"serve": main, "burst": burst, "nothing-new": load_nothing_new, "orders": load_orders, "held": load_for_held}[
        sys.argv[1]
    ]()
