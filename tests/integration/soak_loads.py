"""The loads of the soak: ``python soak_loads.py orders 7 killed-after`` writes raw data that says 7."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from prefect import flow

from lineage_orch import DeploymentTrigger, produces_source
from tests.shop_project import Shop

TRIGGER = DeploymentTrigger("build-affected/shop", debounce=2, attempts=3)
SHOP = Shop(Path(os.environ["TEST_SHOP"]))


def die(*_: Any) -> None:
    """Kill this process at once, as the system would."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_when_told(*_: Any) -> None:
    """Die between Completed and the hook that reports the load."""
    if sys.argv[3] == "killed-after":
        die()


@produces_source("crm.orders", trigger=TRIGGER)
@flow(name="soak-orders", on_completion=[die_when_told])
def orders(number: int) -> None:
    """Load one order, whose amount is the number of the load."""
    if sys.argv[3] == "killed-before":
        die()
    SHOP.write_orders((1, 1, number))


@produces_source("crm.customers", trigger=TRIGGER)
@flow(name="soak-customers", on_completion=[die_when_told])
def customers(number: int) -> None:
    """Load one customer, whose name is the number of the load."""
    if sys.argv[3] == "killed-before":
        die()
    SHOP.write_customers((1, f"name-{number}"))


if __name__ == "__main__":
    {"orders": orders, "customers": customers}[sys.argv[1]](int(sys.argv[2]))
