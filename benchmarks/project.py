"""Real dbt-duckdb projects of many small models, for the rows that run dbt."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.generate import DATA

EDITION = 1


def project(models: int, executable: str | None = None) -> Path:
    """Return a project with a source for every ten models, parsed, and with all its sources made.

    Args:
        models: how many.
        executable: the dbt that makes it; an older DuckDB cannot read what a newer one wrote.
    """
    folder = DATA / f"project_{models}_v{EDITION}{'_other_dbt' if executable else ''}"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _write(folder, models)
        environment = {**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DO_NOT_TRACK": "1"}
        for command in (["parse"], ["run-operation", "make_sources"]):
            subprocess.run(
                [executable or dbt(), *command, "--quiet"], cwd=folder, env=environment, check=True, timeout=600
            )
        (folder / "ready").touch()
    return folder


def dbt() -> str:
    return str(Path(sys.executable).parent / "dbt")


def _write(folder: Path, models: int) -> None:
    choose = random.Random(models)
    sources = [f"raw_{number:04d}" for number in range(max(1, models // 10))]
    (folder / "macros").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(
        "name: bench\nversion: '1.0'\nprofile: bench\nmodel-paths: [models]\nmodels:\n  +materialized: view\n"
    )
    (folder / "profiles.yml").write_text(
        "bench:\n  target: dev\n  outputs:\n    dev: {type: duckdb, path: bench.duckdb, threads: 2}\n"
    )
    (folder / "macros" / "make_sources.sql").write_text(
        "{% macro make_sources() %}\n  {% do run_query('create schema if not exists raw') %}\n"
        + "".join(
            f"  {{% do run_query('create or replace table raw.{name} as select 1 as id') %}}\n" for name in sources
        )
        + "{% endmacro %}\n"
    )
    staging = folder / "models" / "staging"
    staging.mkdir(parents=True)
    (staging / "_sources.yml").write_text(
        "sources:\n  - name: raw\n    tables:\n" + "".join(f"      - name: {name}\n" for name in sources)
    )
    made: list[str] = []
    listed: dict[Path, list[str]] = {}
    for number in range(models):
        if number < len(sources):
            name, place = f"stg_{number:04d}", staging
            body = f"select id from {{{{ source('raw', '{sources[number]}') }}}}"
        else:
            name, place = f"model_{number:04d}", folder / "models" / f"domain_{number // 100:02d}"
            near = made[-150:]
            parents = choose.sample(near, min(len(near), choose.randint(1, 3)))
            reads = "\nunion all\n".join(f"select id from {{{{ ref('{each}') }}}}" for each in parents)
            body = f"with input as (\n{reads}\n)\nselect distinct id from input where id is not null"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.sql").write_text(body + "\n")
        listed.setdefault(place, []).append(name)
        made.append(name)
    for place, names in listed.items():
        (place / "_models.yml").write_text(
            "models:\n"
            + "".join(
                f"  - name: {name}\n    description: The model {name}.\n    columns:\n      - name: id\n"
                "        description: The key.\n        data_tests: [not_null]\n"
                for name in names
            )
        )
