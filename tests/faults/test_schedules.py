"""Random schedules of faults: whatever is lost, killed or set wrong, in the end everything is built, and nothing twice.

``FAULT_SCHEDULES`` says how many (200; `make soak`: 10,000), ``FAULT_FIRST`` from which seed on, ``FAULT_SEED``
repeats one.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.plugs import plugged
from tests.faults.world import run_schedule


def test_nothing_is_lost_or_built_for_nothing(in_memory: Path) -> None:
    first = int(os.environ.get("FAULT_FIRST", "0"))
    seeds = range(first, first + int(os.environ.get("FAULT_SCHEDULES", "200")))
    if "FAULT_SEED" in os.environ:
        seeds = range(int(os.environ["FAULT_SEED"]), int(os.environ["FAULT_SEED"]) + 1)
    with plugged() as plug:
        for seed in seeds:
            world = run_schedule(seed, in_memory / "world", plug)
            plug.passed.clear()
    if len(seeds) == 1:
        print("\n".join(world.log))
