"""The dbt project and the loads that all of them get."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCES = 8
MODELS = 40
LOADS = 60
SPAN = 300.0
"""Seconds from the first load to the last."""

# Each build of a model leaves a file with the newest load of each source that it holds: who counts builds and reads
# what a mart holds need not ask DuckDB, which one process at a time may open.
_NOTE = """{% macro note() %}
  {% set file = env_var('PEERS_NOTES') ~ '/' ~ this.identifier ~ '.' ~ invocation_id ~ '.csv' %}
  copy (select source, max(load) as load, epoch(now()) as at from {{ this }} group by source) to '{{ file }}'
{% endmacro %}
"""


@dataclass(frozen=True)
class Load:
    """One load: its number (1 and up, over all sources), its source, and when it begins (seconds)."""

    number: int
    source: str
    at: float


def names() -> list[str]:
    """Return the names of the sources."""
    return [f"raw_{number}" for number in range(SOURCES)]


def loads(count: int = LOADS, span: float = SPAN) -> list[Load]:
    """Return the loads: two in three of them come in bursts, as cron makes them."""
    choose = random.Random(60)
    bursts = [choose.uniform(0, span) for _ in range(max(1, count // 6))]
    moments = sorted(
        min(span, choose.choice(bursts) + choose.uniform(0, 4)) if number % 3 else choose.uniform(0, span)
        for number in range(count)
    )
    return [Load(number + 1, choose.choice(names()), at) for number, at in enumerate(moments)]


def write_project(folder: Path) -> None:
    """Write the project: a staging model for each source, intermediate models, and marts."""
    choose = random.Random(40)
    (folder / "macros").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "dbt_project.yml").write_text(
        "name: peers\nversion: '1.0'\nprofile: peers\nmodels:\n  +materialized: table\n  +post-hook: '{{ note() }}'\n"
    )
    (folder / "profiles.yml").write_text(
        "peers:\n  target: dev\n  outputs:\n"
        "    dev: {type: duckdb, path: '{{ env_var(\"PEERS_DATABASE\") }}', threads: 2}\n"
    )
    (folder / "macros" / "note.sql").write_text(_NOTE)
    (folder / "models" / "sources.yml").write_text(
        "sources:\n  - name: raw\n    config:\n      meta:\n"
        "        external_location: \"read_csv('{{ env_var('PEERS_RAW') }}/{name}.csv')\"\n    tables:\n"
        + "".join(f"      - name: {name}\n" for name in names())
    )
    made: list[str] = []
    for number in range(MODELS):
        if number < SOURCES:
            reads = [f"{{{{ source('raw', 'raw_{number}') }}}}"]
        else:
            near = made[-16:]
            reads = [f"{{{{ ref('{each}') }}}}" for each in choose.sample(near, choose.randint(1, 2))]
        body = "\nunion all\n".join(f"select source, load from {each}" for each in reads)
        (folder / "models" / f"model_{number:02d}.sql").write_text(body + "\n")
        made.append(f"model_{number:02d}")


def write_source(raw: Path, name: str, number: int) -> None:
    """Replace a source's table by one that holds this load."""
    partial = raw / f"{name}.{number}.partial"
    partial.write_text(f"source,load\n{name},{number}\n")
    os.replace(partial, raw / f"{name}.csv")


def run_loads(raw: Path, done: Path, load_one: Callable[[Load], None], plan: list[Load]) -> None:
    """Make each load at its time, and write down when its table was there, by the clock of this machine."""
    start = time.time()
    written: dict[int, tuple[str, float]] = {}
    for load in plan:
        time.sleep(max(0.0, start + load.at - time.time()))
        load_one(load)
        written[load.number] = (load.source, (raw / f"{load.source}.csv").stat().st_mtime)
    done.write_text(json.dumps(written))
