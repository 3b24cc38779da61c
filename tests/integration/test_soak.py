"""A soak: loads, builders and the server are killed at random for some minutes, and nothing may be lost.

``make soak``; SOAK_MINUTES (3) says for how long, SOAK_SEED repeats one.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from lineage_orch import Ledger, Orchestrator
from tests.integration.real_prefect import ROOT, RealPrefect, end, wait_for
from tests.shop_project import Shop

pytestmark = [pytest.mark.drill, pytest.mark.soak]

SHOP = "build-affected/shop"
LOADS = ROOT / "tests" / "integration" / "soak_loads.py"
ENDS = {"ok": 0, "killed-before": -signal.SIGKILL, "killed-after": -signal.SIGKILL}
RESYNC = 30  # seconds, where the default is an hour
# A load whose hook was lost is judged after a minute; then it waits for the next look, and its build.
PATIENCE = 60 + 2 * RESYNC + 120


def test_soak(tmp_path: Path, parsed_shop: Path) -> None:
    seed = int(os.environ.get("SOAK_SEED", str(random.randrange(10**6))))
    dice = random.Random(seed)
    shop = Shop(tmp_path / "shop")
    shutil.copytree(parsed_shop, shop.folder)
    server = RealPrefect.on_a_free_port(
        tmp_path / "prefect",
        {
            "TEST_SHOP": str(shop.folder),
            "TEST_RESYNC": str(RESYNC),
            "SHOP_SLOW": "1",
            "TEST_KILL": str(tmp_path / "no"),
        },
    )
    server.start()
    serving = None
    loaded = {"orders": 0, "customers": 0}  # what the last load that completed brought
    counts = dict.fromkeys([*ENDS, "builders killed", "servers killed"], 0)
    try:
        serving = server.serve(SHOP)
        with Ledger(Orchestrator(project_dir=shop.folder).project.ledger_url, project="shop", target="dev") as ledger:
            began = time.monotonic()
            until = began + 60 * float(os.environ.get("SOAK_MINUTES", "3"))
            number = 0
            while time.monotonic() < until:
                number += 1
                first = number <= len(loaded)
                table = list(loaded)[number - 1] if first else dice.choice(list(loaded))
                how = "ok" if first else dice.choices(list(ENDS), [5, 1, 2])[0]
                load = server.spawn([sys.executable, str(LOADS), table, str(number), how], "loads.log")
                if dice.random() < 0.3 and kill_builder(ledger):
                    counts["builders killed"] += 1
                code = load.wait(180)
                assert code == ENDS[how], (how, code, (server.folder / "loads.log").read_text()[-3000:])
                counts[how] += 1
                if how != "killed-before":
                    loaded[table] = number
                if not counts["servers killed"] and time.monotonic() > (began + until) / 2:
                    assert server.process is not None
                    os.killpg(server.process.pid, signal.SIGKILL)
                    server.process.wait()
                    time.sleep(2)
                    server.start()
                    counts["servers killed"] += 1

            # No load comes any more: what is left must be found and built all the same.
            def all_is_built() -> bool:
                with Orchestrator(project_dir=shop.folder) as orchestrator, suppress(duckdb.Error):  # it is being built
                    return orchestrator.plan().is_empty and in_tables(shop) == expected(loaded)
                return False

            waited = time.monotonic()
            with suppress(AssertionError):
                wait_for("all loads are in the tables", all_is_built, seconds=PATIENCE, every=2)
            waited = time.monotonic() - waited
            assert in_tables(shop) == expected(loaded), f"seed {seed}, {counts}"
            with Orchestrator(project_dir=shop.folder) as orchestrator:
                assert orchestrator.plan().is_empty, f"seed {seed}, {counts}"
            states = [run["state_name"] for run in server.runs(SHOP)]
            print(f"\nseed {seed}: {counts}; all built {waited:.0f} s after the last load; {number} loads had")
            print({state: states.count(state) for state in sorted(set(states))})
    finally:
        if serving is not None:
            end(serving)
        server.stop()


def kill_builder(ledger: Ledger) -> bool:
    """Kill whoever builds now; returns whether anyone did."""
    holder = ledger.holder()
    pid = re.search(r"process (\d+)", holder.who) if holder else None
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(int(pid[1]), signal.SIGKILL)
        return True
    return False


def expected(loaded: dict[str, int]) -> list[list[tuple[object, ...]]]:
    order, customer = float(loaded["orders"]), f"name-{loaded['customers']}"
    return [[(order,)], [(customer,)], [(customer, order)], [(1,)]]


def in_tables(shop: Shop) -> list[list[tuple[object, ...]]]:
    """What the tables say: each is built from the others, to the marts."""
    return [
        shop.query("select amount from stg_orders"),
        shop.query("select name from stg_customers"),
        shop.query("select name, revenue from revenue"),
        shop.query("select orders from order_count"),
    ]
