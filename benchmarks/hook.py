"""Row 7: what the hook itself costs the load's process, with a deployment that builds."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Options, Outcome, Row, interleave, median, ratio, run_command, run_contender, seconds
from benchmarks.prefect_server import prefect_server

_RUNS = 12
_DEPLOYMENT = "build-affected/dbt"
_DEPLOY = "from lineage_orch.deployments import dbt_deployment; dbt_deployment('dbt').apply()"


def ours() -> Callable[[], dict[str, float]]:
    from prefect import flow

    from lineage_orch import DeploymentTrigger, produces_source

    @produces_source("raw.orders", trigger=DeploymentTrigger(_DEPLOYMENT))
    @flow
    def load() -> None: ...

    return lambda: _measured(load)


def hand_written_load() -> Any:
    """Return a load with the trigger that one would write by hand."""
    from prefect import flow
    from prefect.deployments import run_deployment

    def hook(flow: Any, run: Any, state: Any) -> None:
        updates = [{"source": "raw.orders", "update_id": str(state.id), "loaded_at": state.timestamp.isoformat()}]
        run_deployment(_DEPLOYMENT, parameters={"updates": updates}, timeout=0)

    @flow(on_completion=[hook])
    def load() -> None: ...

    return load


def by_hand() -> Callable[[], dict[str, float]]:
    load = hand_written_load()
    return lambda: _measured(load)


def _measured(load: Any) -> dict[str, float]:
    import httpx

    calls = 0

    def counted(send: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            return send(*args, **options)

        return call

    httpx.Client.send = counted(httpx.Client.send)  # type: ignore[method-assign]
    httpx.AsyncClient.send = counted(httpx.AsyncClient.send)  # type: ignore[method-assign]
    (hook,) = load.on_completion_hooks
    times: list[float] = []
    used: list[float] = []
    asked: list[int] = []

    def timed(flow: Any, run: Any, state: Any) -> None:
        before, wall, cpu = calls, time.perf_counter(), time.process_time()
        hook(flow, run, state)
        times.append(time.perf_counter() - wall)
        used.append(time.process_time() - cpu)
        asked.append(calls - before)

    load.on_completion_hooks = [timed]
    for _ in range(_RUNS):
        load()
    return {
        "seconds": statistics.median(times[2:]),
        "cpu": statistics.median(used[2:]),
        "calls": statistics.median(asked[2:]),
        "first": times[0],
    }


def measure(options: Options) -> list[Outcome]:
    with prefect_server() as environment:
        run_command([sys.executable, "-c", _DEPLOY], environment=environment)
        mine, theirs = interleave(
            options.rounds,
            lambda: run_contender(ours, environment=environment),
            lambda: run_contender(by_hand, environment=environment),
        )
    share = ratio(mine, theirs)
    asked, asked_by_hand = (median(runs, lambda run: run.said["calls"]) for runs in (mine, theirs))
    first, first_by_hand = (median(runs, lambda run: run.said["first"]) for runs in (mine, theirs))
    return [
        Outcome(
            "at most 1.1x",
            f"{share:.2f}x (CPU {ratio(mine, theirs, lambda run: run.cpu):.2f}x): {seconds(median(mine))} against "
            f"{seconds(median(theirs))}; the first one of a process: {seconds(first)} against {seconds(first_by_hand)}",
            share <= 1.1,
        ),
        Outcome(
            "no more HTTP calls",
            f"{asked:.0f} against {asked_by_hand:.0f}; beside the hook, one call when the run begins, which tags it "
            "with its sources (none for a deployment with `producer_tags`)",
            asked <= asked_by_hand,
        ),
    ]


ROWS = [
    Row(
        "hook",
        "the hook's own cost in the load's process, deployment trigger",
        "a bare run_deployment(timeout=0) in an on_completion hook",
        measure,
    )
]
