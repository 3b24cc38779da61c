"""Row 10: from the trigger to dbt's first node, in process, by dbt 2, and by the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Options,
    Outcome,
    Row,
    Run,
    interleave,
    median,
    ratio,
    run_command,
    run_contender,
    seconds,
)
from benchmarks.prefect_server import prefect_server
from benchmarks.project import dbt, project

_MODELS = 500
_STARTS = ("NodeStart", "LogStartLine")


def ours(one: str, other: str) -> Callable[[], dict[str, float]]:
    """Two loads in one process, the second one timed: from the call of the trigger to dbt's own event."""
    from prefect import flow

    import lineage_orch.dbt.in_process
    from lineage_orch import InProcessTrigger, produces_source
    from lineage_orch.dbt.log_lines import LogReader

    os.chdir(os.environ["LINEAGE_ORCH_PROJECT_DIR"])  # the path of the warehouse is relative
    fired: list[float] = []
    started: list[float] = []

    class Timed(InProcessTrigger):
        def fire(self, *args: Any) -> None:
            fired.append(time.perf_counter())
            started.clear()
            super().fire(*args)

    listener = lineage_orch.dbt.in_process._listener

    def listening(on_result: Any) -> Any:
        inner = listener(on_result)

        def listen(event: Any) -> None:
            if event.info.name in _STARTS and not started:
                started.append(time.perf_counter())
            inner(event)

        return listen

    lineage_orch.dbt.in_process._listener = listening
    read = LogReader.read

    def reading(self: LogReader, line: str) -> Any:
        found = read(self, line)
        if found is not None and found.started is not None and not started:
            started.append(time.perf_counter())
        return found

    LogReader.read = reading  # type: ignore[method-assign]

    @produces_source(one, trigger=Timed())
    @flow
    def first() -> None: ...

    @produces_source(other, trigger=Timed())
    @flow
    def second() -> None: ...

    def work() -> dict[str, float]:
        first()
        cold = started[0] - fired[0]
        second()
        return {"seconds": started[0] - fired[1], "cold": cold}

    return work


def command(folder: str, source: str, executable: str | None = None) -> Callable[[], dict[str, float]]:
    def work() -> dict[str, float]:
        start = time.perf_counter()
        args = [executable or dbt(), "build", "--select", f"source:{source.removeprefix('source.')}+"]
        args += ["--log-format", "json", "--log-level", "debug"]
        with subprocess.Popen(args, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = None
            for line in process.stdout:
                if found is None and _is_start(line):
                    found = time.perf_counter() - start
        if found is None:
            raise RuntimeError("dbt told of no node")
        return {"seconds": found}

    return work


def _small_sources(folder: Path) -> tuple[str, str]:
    """The two sources with the fewest models below: only the way to the first of them is measured."""
    from lineage_orch.lineage import Lineage

    lineage = Lineage.from_manifest(folder / "target" / "manifest.json")
    one, other, *_ = sorted(lineage.sources, key=lambda source: (len(lineage.downstream(source)), source))
    return one, other


def _is_start(line: str) -> bool:
    # Read as JSON only where it may be one: dbt waits for whoever reads its lines.
    return any(f'"{name}"' in line for name in _STARTS) and json.loads(line)["info"]["name"] in _STARTS


def _measure(options: Options, executable: str | None) -> tuple[list[Run], list[Run]]:
    with prefect_server() as environment, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        shutil.copytree(project(_MODELS, executable), folder)
        one, other = _small_sources(folder)
        build = [
            executable or dbt(),
            "build",
            "--quiet",
            "--select",
            *(f"+source:{each[7:]}+" for each in (one, other)),
        ]
        run_command(build, cwd=folder)  # what these need exists, and the partial parse is warm

        def load() -> Any:
            shutil.rmtree(folder / ".lineage_orch", ignore_errors=True)
            more = {**environment, "LINEAGE_ORCH_PROJECT_DIR": str(folder)}
            if executable:
                more["LINEAGE_ORCH_DBT"] = executable
            return run_contender(ours, one, other, environment=more)

        return interleave(options.rounds, load, lambda: run_contender(command, str(folder), other, executable))


def measure(options: Options) -> list[Outcome]:
    mine, theirs = _measure(options, None)
    share = ratio(mine, theirs)
    cold = median(mine, lambda run: run.said["cold"])
    return [
        Outcome(
            "at most 1/3",
            f"1/{1 / share:.1f}: {seconds(median(mine))} against {seconds(median(theirs))}; "
            f"the first build of a process, which imports dbt: {seconds(cold)}",
            share <= 1 / 3,
        )
    ]


def measure_dbt_2(options: Options) -> list[Outcome]:
    executable = os.environ.get("LINEAGE_ORCH_TEST_DBT2")
    if executable is None:
        raise RuntimeError("LINEAGE_ORCH_TEST_DBT2 names no dbt 2; .ci/get_dbt2.py sets one up")
    mine, theirs = _measure(options, executable)
    share = ratio(mine, theirs)
    cold = median(mine, lambda run: run.said["cold"])
    return [
        Outcome(
            "at most 1.3",
            f"{share:.2f}: {seconds(median(mine))} against {seconds(median(theirs))}; "
            f"the first build of a process: {seconds(cold)}",
            share <= 1.3,
        )
    ]


ROWS = [
    Row(
        "first-node",
        f"trigger to dbt's first node, in process, second build, {_MODELS} models",
        "`dbt build --select ...` as a command, warm partial parse",
        measure,
    ),
    Row(
        "first-node-dbt2",
        f"trigger to dbt's first node, dbt 2 as a process, second build, {_MODELS} models",
        "`dbt build --select ...` of the same dbt 2",
        measure_dbt_2,
    ),
]
