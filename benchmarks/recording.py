"""Row 6: recording one update in a SQLite file, beside a bare commit of one row with the same settings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.generate import DATA
from benchmarks.harness import Options, Outcome, Row, cpu, interleave, median, run_contender, seconds

_COMMITS = 300


def _folder() -> Any:
    import tempfile

    DATA.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir=DATA)


def both() -> Callable[[], dict[str, float]]:
    """One of ours, one bare, and so on: what a disk does changes from one second to the next."""
    import sqlite3

    from lineage_orch.ledger import Ledger
    from lineage_orch.updates import SourceUpdate

    def work() -> dict[str, float]:
        with _folder() as folder, Ledger(f"sqlite:///{folder}/ledger.db", project="shop", target="dev") as ledger:
            now = datetime.now(UTC)
            bare = sqlite3.connect(f"{folder}/bare.db", isolation_level=None)
            bare.execute("PRAGMA journal_mode=WAL")
            bare.execute("PRAGMA synchronous=FULL")
            bare.execute("CREATE TABLE updates (source TEXT, update_id TEXT, loaded_at INTEGER, producer TEXT)")

            def recorded(number: int) -> None:
                source = f"source.shop.raw.table_{number % 40}"
                ledger.record_updates([SourceUpdate(source, f"update {number}", now, producer="load")])

            def committed(number: int) -> None:
                bare.execute("BEGIN IMMEDIATE")
                row = (f"source.shop.raw.table_{number % 40}", f"update {number}", 1763800000000000, "load")
                bare.execute("INSERT INTO updates VALUES (?, ?, ?, ?)", row)
                bare.execute("COMMIT")

            times: dict[str, list[float]] = {"seconds": [], "bare": [], "cpu": [], "bare_cpu": []}
            for number in range(_COMMITS + 20):
                for one, wall, used in ((recorded, "seconds", "cpu"), (committed, "bare", "bare_cpu")):
                    start, cpu = time.perf_counter(), time.process_time()
                    one(number)
                    if number >= 20:
                        times[wall].append(time.perf_counter() - start)
                        times[used].append(time.process_time() - cpu)
            bare.close()
            return {name: statistics.median(each) for name, each in times.items()}

    return work


def measure(options: Options) -> list[Outcome]:
    runs = interleave(options.rounds, lambda: run_contender(both))[0]
    share = statistics.median(run.seconds / run.said["bare"] for run in runs)
    bare, bare_cpu = (median(runs, lambda run, name=name: run.said[name]) for name in ("bare", "bare_cpu"))
    return [
        Outcome(
            "at most 3x",
            f"{share:.2f}x: {seconds(median(runs))} against {seconds(bare)} (CPU {seconds(median(runs, cpu))} against "
            f"{seconds(bare_cpu)}); medians of {_COMMITS} commits of each, in turn, in each process",
            share <= 3,
        )
    ]


ROWS = [Row("record", "recording one update (SQLite file, durable)", "a bare SQLite commit of one row", measure)]
