"""A load that changed nothing, and one that changed a row: real dbt-duckdb, 500 tables below one source."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import ENVIRONMENT, Options, Outcome, Row, median, run_contender, seconds
from benchmarks.project import dbt

_BELOW = 500
_READERS = 3
_MARKED = "{{ config(materialized='table', meta={'lineage_orch': {'cutoff': true}}) }}"


def write_project(folder: Path, below: int) -> None:
    """A source, three tables that read it and whose content is compared, and tables below these in layers of ten."""
    models = folder / "models"
    models.mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(
        "name: noop\nversion: '1.0'\nprofile: noop\nmodel-paths: [models]\nmodels:\n  +materialized: table\n"
    )
    (folder / "profiles.yml").write_text(
        "noop:\n  target: dev\n  outputs:\n    dev: {type: duckdb, path: noop.duckdb, threads: 2}\n"
    )
    (models / "sources.yml").write_text("sources:\n  - name: raw\n    schema: main\n    tables: [{name: orders}]\n")
    layer = [f"stg_{number}" for number in range(_READERS)]
    for name in layer:
        (models / f"{name}.sql").write_text(_MARKED + "\nselect id, amount from {{ source('raw', 'orders') }}\n")
    for start in range(0, below, 10):
        names = [f"mart_{number:03d}" for number in range(start, min(start + 10, below))]
        for number, name in enumerate(names):
            (models / f"{name}.sql").write_text(
                f"select id, amount from {{{{ ref('{layer[number % len(layer)]}') }}}}\n"
            )
        layer = names


def loads(folder: str) -> Callable[[], dict[str, Any]]:
    """Build all, then answer a load that changed a row, and then one that changed nothing."""
    import duckdb

    from lineage_orch import Orchestrator

    os.chdir(folder)  # the path of the warehouse is relative

    def write(amount: int) -> None:
        with duckdb.connect("noop.duckdb") as warehouse:
            warehouse.execute(
                f"create or replace table orders as select range as id, {amount} as amount from range(1000)"
            )

    def work() -> dict[str, Any]:
        said: dict[str, Any] = {}
        with Orchestrator(project_dir=folder, profiles_dir=folder) as orchestrator:
            for name, amount in (("first", 1), ("changed", 2), ("same", 2)):
                write(amount)
                orchestrator.record(["raw.orders"])
                start = time.perf_counter()
                report = orchestrator.build()
                said |= {name: time.perf_counter() - start, f"{name}_built": len(report.built), "runs": report.runs}
        return {"seconds": said["same"], **said}

    return work


def measure(options: Options) -> list[Outcome]:
    below = 50 if options.quick else _BELOW
    runs = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "project"
            write_project(folder, below)
            command = [dbt(), "parse", "--quiet"]
            subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, timeout=600)
            runs.append(run_contender(loads, str(folder)))
            shutil.rmtree(folder)
    share = median(runs, lambda run: run.said["same"] / run.said["changed"])
    changed = median(runs, lambda run: run.said["changed"])
    said = runs[0].said
    return [
        Outcome(
            f"{below} models below: one run of dbt, only direct readers built",
            f"{said['same_built']} built in {said['runs']} run (a load that changed a row: {said['changed_built']})",
            said["runs"] == 1 and said["same_built"] == _READERS,
        ),
        Outcome(
            "at most 1/10 of its seconds",
            f"1/{1 / share:.1f}: {seconds(median(runs))} against {seconds(changed)}",
            share <= 1 / 10,
        ),
    ]


ROWS = [Row("no-op", "a load that changed nothing, `cutoff` on its readers", "a load that changed a row", measure)]
