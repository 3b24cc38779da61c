"""Runs contenders in fresh processes, A B A B, and takes medians of the ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Nothing of the developer's own settings, and no telemetry. Python may keep what it compiled, as pip does for whatever
# it installs: else ours, which runs from a checkout, would be compiled anew in each process, and no other.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PREFECT_", "DBT_", "LINEAGE_ORCH_")) and name != "PYTHONDONTWRITEBYTECODE"
} | {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
}
LIMIT_SECONDS = 900


@dataclass(frozen=True)
class Run:
    """One process: what its work took by its own clock, and all that it took by the system's."""

    seconds: float
    cpu: float
    whole: float
    """Wall seconds from start to end of the process."""
    whole_cpu: float
    peak: int
    """Bytes."""
    said: Mapping[str, Any]


@dataclass
class Outcome:
    """One goal, and how near we came."""

    goal: str
    measured: str
    met: bool | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    rounds: int
    quick: bool
    manifest: Path | None = None
    """Measure the readers on this one, in place of generated ones."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return (1_000,) if self.quick else (1_000, 10_000)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    what: str
    against: str
    measure: Callable[[Options], list[Outcome]]


def run_contender(contender: Callable[..., Any], *args: Any, environment: Mapping[str, str] | None = None) -> Run:
    """Call ``contender(*args)`` in a fresh process; what it returns is the work, timed there.

    The work returns JSON-ready values, which come back in ``Run.said``.
    """
    target = f"{contender.__module__}:{contender.__name__}"
    return run_command(
        [sys.executable, "-m", "benchmarks.child", target, json.dumps(args)], speaks=True, environment=environment
    )


def run_command(
    command: Sequence[str],
    *,
    speaks: bool = False,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run a command as a process of its own; ``speaks``: its last line of stdout is JSON."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=out, stderr=err, cwd=cwd or ROOT, env={**ENVIRONMENT, **(environment or {})}
        )
        timer = threading.Timer(LIMIT_SECONDS, child.kill)
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        whole = time.perf_counter() - start
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text = out.read().decode("utf-8", "replace")
        if child.returncode:
            raise RuntimeError(
                f"{' '.join(command)} ended with {child.returncode}:\n{text[-2000:]}\n"
                f"{err.read().decode('utf-8', 'replace')[-4000:]}"
            )
    said = json.loads(text.strip().splitlines()[-1]) if speaks else {}
    cpu = usage.ru_utime + usage.ru_stime
    # Linux counts in KiB, macOS in bytes.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    peak = said.get("peak") or peak
    return Run(said.get("seconds", whole), said.get("cpu", cpu), whole, cpu, peak, said)


def interleave(rounds: int, *calls: Callable[[], Run]) -> list[list[Run]]:
    """Run the calls in turn, so often; return the runs of each."""
    runs: list[list[Run]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, of_call in zip(calls, runs, strict=True):
            of_call.append(call())
    return runs


def median(runs: Sequence[Run], of: Callable[[Run], float] = lambda run: run.seconds) -> float:
    return statistics.median(map(of, runs))


def ratio(ours: Sequence[Run], theirs: Sequence[Run], of: Callable[[Run], float] = lambda run: run.seconds) -> float:
    """Return the median, over the rounds, of ours / theirs: what the machine does beside hits both of a round."""
    return statistics.median(of(mine) / of(other) for mine, other in zip(ours, theirs, strict=True))


def cpu(run: Run) -> float:
    return run.cpu


def peak(run: Run) -> float:
    return run.peak


def check_agreement(*runs: Sequence[Run]) -> None:
    """Raise unless all contenders came to the same result."""
    said = {json.dumps(run.said.get("result"), sort_keys=True) for of_one in runs for run in of_one}
    if len(said) > 1:
        raise RuntimeError(f"the contenders do not agree: {said}")


def seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 0.995 else f"{value * 1e3:,.1f} ms"


def megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"
