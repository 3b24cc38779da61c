"""Row 12: from a completed load to the RUNNING state of the dbt deployment's run, served with a poll of one second.

What is served in its name does nothing: neither side waits for dbt.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.harness import ENVIRONMENT, ROOT, Options, Outcome, Row, interleave, median, run_contender, seconds
from benchmarks.hook import hand_written_load
from benchmarks.prefect_server import ended, prefect_server

_RUNS = 10
_DEPLOYMENT = "build-affected/dbt"


def ours(debounce: float, runs: int) -> Callable[[], dict[str, float]]:
    from prefect import flow

    from lineage_orch import DeploymentTrigger, produces_source

    @produces_source("raw.orders", trigger=DeploymentTrigger(_DEPLOYMENT, debounce=debounce))
    @flow
    def load() -> None: ...

    return lambda: _measured(load, runs)


def by_hand() -> Callable[[], dict[str, float]]:
    load = hand_written_load()
    return lambda: _measured(load, _RUNS)


def _measured(load: Any, runs: int) -> dict[str, float]:
    import random
    import time

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    waits, late = [], []
    with get_client(sync_client=True) as client:
        for _ in range(runs):
            time.sleep(random.uniform(0, 1))  # at no fixed time between two polls
            completed = load(return_state=True)
            parent = FlowRunFilterParentFlowRunId(any_=[completed.state_details.flow_run_id])
            while True:
                [run] = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
                if run.state_type is not None and run.state_type.value == "COMPLETED":
                    break
                time.sleep(0.2)
            waits.append((run.start_time - completed.timestamp).total_seconds())
            late.append((run.start_time - run.expected_start_time).total_seconds())
    return {"seconds": statistics.median(waits), "late": statistics.median(late)}


@contextmanager
def _served(environment: Mapping[str, str]) -> Iterator[None]:
    more = {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.served"],
        env={**ENVIRONMENT, **environment, **more},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        run_contender(served, environment=environment)
        yield
    finally:
        ended(process)


def served() -> Callable[[], None]:
    """Wait until the deployment is there."""

    def work() -> None:
        import time

        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            for _ in range(300):
                if client.read_deployments():
                    break
                time.sleep(0.2)
            else:
                raise RuntimeError("the deployment was not served within a minute")
        time.sleep(2)  # the runner has begun to look

    return work


def measure(options: Options) -> list[Outcome]:
    with prefect_server() as environment, _served(environment):
        mine, theirs = interleave(
            options.rounds,
            lambda: run_contender(ours, 0.0, _RUNS, environment=environment),
            lambda: run_contender(by_hand, environment=environment),
        )
        debounced = run_contender(ours, 15.0, 2, environment=environment)
    wait, wait_by_hand = (median(runs, lambda run: run.said["seconds"]) for runs in (mine, theirs))
    return [
        Outcome(
            "no slower (within 10 %, what chance does to a poll of 1 s)",
            f"{wait / wait_by_hand:.2f}x: {seconds(wait)} against {seconds(wait_by_hand)}, the poll and the start of "
            "a process on both sides",
            wait <= 1.1 * wait_by_hand,
        ),
        Outcome(
            "with the default debounce of 15 s: on time",
            f"RUNNING {seconds(debounced.said['seconds'])} after the load, {debounced.said['late']:+.2f} s from the "
            "time it was due: poll and process start are hidden in the debounce",
            abs(debounced.said["late"]) <= 1,
        ),
    ]


ROWS = [
    Row(
        "trigger",
        "from a completed load to the dbt deployment's run RUNNING",
        "a bare run_deployment(timeout=0) in an on_completion hook",
        measure,
    )
]
