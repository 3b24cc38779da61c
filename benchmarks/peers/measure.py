"""What came of the loads, from the files that the models left; and what the processes took."""

from __future__ import annotations

import csv
import os
import statistics
import threading
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Result:
    """What one contender did.

    Attributes:
        builds: Builds of nodes.
        waits: For each load and model below it, the seconds from the table's change to the first build that holds it,
            or a later load of its source.
        lost: Loads whose source came to no later load, and that some model below never held.
        peak: Bytes of all processes at once, at most (resident, shared pages shared out).
        processes: How many there were at once, at most.
    """

    builds: int = 0
    waits: list[float] = field(default_factory=list)
    lost: int = 0
    peak: int = 0
    processes: int = 0

    @property
    def median(self) -> float:
        """The median wait in seconds."""
        return statistics.median(self.waits)

    @property
    def slowest(self) -> float:
        """The wait that 95 % of the loads do not exceed, in seconds."""
        return sorted(self.waits)[int(len(self.waits) * 0.95)]


def result_of(notes: Path, written: Mapping[int, tuple[str, float]], below: Mapping[str, set[str]]) -> Result:
    """Read what each model held after each of its builds.

    Args:
        notes: the folder of the models' files.
        written: each load's source, and when its table was there.
        below: the marts below each source.
    """
    result = Result()
    # (model, source) -> [(time, newest load)]
    held: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for path in notes.glob("*.csv"):
        model = path.name.partition(".")[0]
        with path.open() as rows:
            for row in csv.DictReader(rows):
                held[model, row["source"]].append((float(row["at"]), int(row["load"])))
        result.builds += 1
    newest = {source: number for number, (source, _) in sorted(written.items())}
    for number, (source, at) in written.items():
        seen = [
            min((time for time, load in held[model, source] if load >= number), default=None) for model in below[source]
        ]
        if None in seen:
            result.lost += number == newest[source]
        elif seen:
            result.waits.append(max(each for each in seen if each is not None) - at)
    return result


class Usage(threading.Thread):
    """Samples, each second, what the processes take whose environment holds PEERS_RUN with this value."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.processes = 0
        self._mark = f"PEERS_RUN={mark}".encode()
        self._ended = threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._ended.wait(1.0):
            of_all = [_memory(pid) for pid in _family(self._mark)]
            self.peak = max(self.peak, sum(of_all))
            self.processes = max(self.processes, len(of_all))

    def stop(self) -> None:
        """Sample no more."""
        self._ended.set()
        self.join()


def _family(mark: bytes) -> list[int]:
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{each}/environ", "rb") as file:
            if mark in file.read():
                found.append(int(each))
    return found


def _memory(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0
