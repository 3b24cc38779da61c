"""A thousand updates a second from eight processes, or what is borne, for SOAK_LOAD_SECONDS (60). `make soak`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lineage_orch.ledger import Ledger

pytestmark = [pytest.mark.drill, pytest.mark.soak]

PROCESSES, PER_SECOND = 8, 125
# Each call a transaction of its own, at its time; one that comes late does not wait, until the time is over.
WRITE = """
import sys, time
from datetime import UTC, datetime
from lineage_orch.ledger import Ledger
from lineage_orch.updates import SourceUpdate
url, me, seconds, per_second, per_call = sys.argv[1], sys.argv[2], float(sys.argv[3]), *map(int, sys.argv[4:])
with Ledger(url, project="shop", target="prod") as ledger:
    ledger.snapshot(history_of=())
    print("ready", flush=True)
    sys.stdin.readline()
    began, slowest, number = time.monotonic(), 0.0, 0
    while number < seconds * per_second and time.monotonic() < began + seconds:
        time.sleep(max(0.0, began + number / per_second - time.monotonic()))
        at = time.monotonic()
        ledger.record_updates([
            SourceUpdate(f"source.shop.raw.t{me}_{each}", f"{number + each}", datetime.now(UTC))
            for each in range(per_call)
        ])
        slowest, number = max(slowest, time.monotonic() - at), number + per_call
    print(number, slowest)
"""


@pytest.mark.parametrize("per_call", [1, 50])
@pytest.mark.parametrize("engine", ["postgres", "sqlite"])
def test_thousand_updates_a_second_are_all_kept(
    engine: str, per_call: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    is_file = engine == "sqlite"
    url = f"sqlite:///{tmp_path / 'ledger.db'}" if is_file else request.getfixturevalue("postgres_database")
    seconds = os.environ.get("SOAK_LOAD_SECONDS", "60")
    with Ledger(url, project="shop", target="prod") as ledger:
        ledger.snapshot(history_of=())
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITE, url, str(each), seconds, str(PER_SECOND), str(per_call)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for each in range(PROCESSES)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0].split() for process in processes]
        took = time.monotonic() - began
        assert all(process.returncode == 0 for process in processes)
        snapshot = ledger.snapshot()
        kept = [tick for moments in snapshot.source_history.values() for tick, _ in moments]
        count = sum(int(each) for each, _ in said)
        assert sorted(kept) == list(range(1, count + 1)), "each has a tick of its own, and none is lost"
    slowest = max(float(each) for _, each in said)
    print(f"\n{engine}: {count:,} updates in {took:.1f} s, {count / took:,.0f} a second, {per_call} a call; ", end="")
    print(f"the slowest call took {slowest * 1000:.0f} ms")
