"""Real dbt, real processes, real signals: what a crash loses, and what a burst of loads builds."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from lineage_orch.ledger import Ledger

pytestmark = pytest.mark.integration

PROFILE = """shop:
  target: dev
  outputs:
    dev: {type: duckdb, path: '{folder}/warehouse.duckdb', threads: 2, keep_open: false}
"""

# A build in a process of its own: it prints what it did, and when each dbt run began and ended.
BUILD = """
import json, sys, time
from pathlib import Path
from lineage_orch import Orchestrator

folder = Path(sys.argv[1])
orchestrator = Orchestrator(project_dir=folder)
real, spans = orchestrator._dbt.build, []
def build(*args):
    began = time.time()
    try:
        return real(*args)
    finally:
        spans.append((began, time.time()))
orchestrator._dbt.build = build
for load in sys.argv[2:]:
    source, _, version = load.partition("=")
    file = folder / "raw" / f"{source}.csv"
    if version:
        part = file.with_suffix(f".{version}.part")
        part.write_text(f"version\\n{version}\\n")
        part.rename(file)
    orchestrator.record([f"raw.{source}"])
    orchestrator.build()
if len(sys.argv) == 2:
    orchestrator.build()
print(json.dumps(spans))
"""


def write_project(folder: Path, sources: int, models: dict[str, str]) -> None:
    (folder / "models").mkdir(parents=True)
    (folder / "raw").mkdir()
    (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\nmodels: {+materialized: table}\n")
    (folder / "profiles.yml").write_text(PROFILE.replace("{folder}", str(folder)))
    tables = [{"name": f"t{number}"} for number in range(sources)]
    location = f"{folder}/raw/{{name}}.csv"
    raw = {"name": "raw", "config": {"meta": {"external_location": location}}, "tables": tables}
    (folder / "models" / "sources.yml").write_text(json.dumps({"sources": [raw]}))  # YAML reads JSON
    for name, text in models.items():
        (folder / "models" / name).write_text(text)
    for number in range(sources):
        (folder / "raw" / f"t{number}.csv").write_text("version\n0\n")


def start(folder: Path, *loads: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(folder), *loads]
    environment = {**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> list[list[float]]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def test_kill_9_loses_only_nodes_in_flight(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    log = tmp_path / "built.log"
    slow = f"""
import time

def model(dbt, session):
    dbt.config(materialized="table")
    {{parent}}
    with open({str(log)!r}, "a") as log:
        log.write("{{name}}\\n")
    time.sleep(0.25)
    return session.sql("select 1 as one")
"""
    models = {
        f"m{number}.py": slow.format(
            name=f"m{number}",
            parent='dbt.source("raw", "t0")' if number < 4 else f'dbt.ref("m{number - 4}")',
        )
        for number in range(12)
    }
    # m0 has a test, so that it is finished only when the test is.
    checks = {"models": [{"name": "m0", "columns": [{"name": "one", "data_tests": ["unique"]}]}]}
    write_project(folder, 1, {**models, "checks.yml": json.dumps(checks)})
    ledger = Ledger(f"sqlite:///{folder}/.lineage_orch/ledger.db", project="shop", target="dev")

    first = start(folder, "t0")
    deadline = time.monotonic() + 120
    while len(ledger.snapshot().nodes) < 4:
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    finished = {node.rpartition(".")[2] for node in ledger.snapshot().nodes}
    assert len(finished) < 12, "the kill came too late to show anything"
    finish(start(folder))

    times = Counter(log.read_text().split())
    assert set(times) == {f"m{number}" for number in range(12)}, "nothing owed is lost"
    assert {name for name in finished if times[name] > 1} == set(), "nothing finished is built again"
    assert sum(count > 1 for count in times.values()) <= 4, "only what was in flight (two threads, and one test)"
    assert len(ledger.snapshot().nodes) == 12


@pytest.mark.drill  # half a minute and more of processes
def test_fifty_loads_of_ten_sources_in_five_processes(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    models = {f"stg{n}.sql": f"select * from {{{{ source('raw', 't{n}') }}}}" for n in range(10)}
    union = " union all ".join(f"select {n} as n, version from {{{{ ref('stg{n}') }}}}" for n in range(10))
    write_project(folder, 10, {**models, "mart.sql": union})
    # Two sources a process, each loaded five times: no two processes write one file.
    processes = [
        start(folder, *(f"t{source}={version}" for version in range(1, 6) for source in (2 * each, 2 * each + 1)))
        for each in range(5)
    ]
    spans = sorted(span for process in processes for span in finish(process))

    ledger = Ledger(f"sqlite:///{folder}/.lineage_orch/ledger.db", project="shop", target="dev")
    assert len(ledger.recent_updates(1000)) == 50, "every update is recorded"
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as warehouse:
        rows = warehouse.execute("select n, version from mart order by n").fetchall()
    assert rows == [(n, 5) for n in range(10)], "every node was built after the last update that reaches it"
    assert all(ends <= begins for (_, ends), (begins, _) in itertools.pairwise(spans)), "never two at once"
    assert len(spans) <= 15, "a few dbt runs, not fifty"
