"""Short random schedules with real processes: workers of dbt 2 that are killed, come together, fail, and lose hooks.

``make soak``; SOAK_SCHEDULES (300) says how many, SOAK_SEED repeats one. It needs dbt 2 (LINEAGE_ORCH_TEST_DBT2, see
``make test-dbt2``), which starts in a fifth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import duckdb
import pytest

from lineage_orch import Orchestrator
from lineage_orch.updates import SourceUpdate
from tests.integration.soak_worker import LOG, note, work, write_raw

pytestmark = [pytest.mark.drill, pytest.mark.soak]

DBT_2 = os.environ.get("LINEAGE_ORCH_TEST_DBT2", "")
SOURCES = ("t0", "t1", "t2")
READ = """-- depends_on: {{ source('raw', 'NAME') }}
select version::int as v from read_csv('{{ env_var('SHOP_RAW') }}/NAME.csv')"""
FILES = {
    "dbt_project.yml": "name: shop\nprofile: shop\nmodels: {shop: {+materialized: table}}\n",
    "profiles.yml": "shop: {target: dev, outputs: {dev: {type: duckdb, threads: 2, "
    "path: \"{{ env_var('SHOP_WAREHOUSE') }}\"}}}\n",
    "models/schema.yml": "sources: [{name: raw, tables: [{name: t0}, {name: t1}, {name: t2}]}]\n"
    "models: [{name: stg_t1, columns: [{name: v, data_tests: [unique]}]}]\n",
    **{f"models/stg_{name}.sql": READ.replace("NAME", name) for name in SOURCES},
    "models/mart.sql": "select a.v as a, b.v as b from {{ ref('stg_t0') }} a, {{ ref('stg_t1') }} b",
    "models/top.sql": "select m.*, c.v as c from {{ ref('mart') }} m, {{ ref('stg_t2') }} c",
}


class Schedule:
    """What happens by one seed, to a project of its own."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.dice = random.Random(seed)
        self.folder = folder
        self.log: list[str] = []
        self.versions = dict.fromkeys(SOURCES, "0")
        self.loads: list[SourceUpdate] = []
        # Its server forks: a worker begins in some hundredths of a second, and has no threads of this process.
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["tests.integration.soak_worker"])

    def start(self, source: str | None = None, version: str = "") -> BaseProcess:
        update = None
        if source is not None:
            self.versions[source] = version
            update = SourceUpdate(f"source.shop.raw.{source}", f"load {len(self.loads)}", datetime.now(UTC))
            self.loads.append(update)
        process = self.processes.Process(target=work, args=(self.folder, DBT_2, update, version))
        process.start()
        return process

    def end(self, process: BaseProcess) -> None:
        process.join(120)
        assert process.exitcode == 0, self.log

    def step(self, number: int) -> None:
        source = self.dice.choice(SOURCES)
        what = self.dice.choice(["load", "load", "kill", "kill", "two", "lose", "break", "build"])
        self.log.append(f"{what} {source}")
        if what == "load":
            self.end(self.start(source, str(number)))
        elif what == "build":
            self.end(self.start())
        elif what == "two":
            other = self.dice.choice([each for each in SOURCES if each != source])
            both = self.start(source, str(number)), self.start(other, str(number))
            for each in both:
                self.end(each)
        elif what == "break":
            self.end(self.start(source, "broken"))
        elif what == "lose":
            self.loads.append(SourceUpdate(f"source.shop.raw.{source}", f"load {len(self.loads)}", datetime.now(UTC)))
            self.versions[source] = str(number)
            write_raw(self.folder, source, str(number))
        else:
            process = self.start(source, str(number))
            time.sleep(self.dice.uniform(0, 1.5))
            process.kill()
            process.join()
            if process.exitcode:
                note(self.folder, f"killed {process.pid}")

    def heal(self) -> None:
        for source in SOURCES:  # also what a killed load had not written
            version = self.versions[source]
            write_raw(self.folder, source, "99" if version == "broken" else version)
            self.versions[source] = "99" if version == "broken" else version
            self.loads.append(SourceUpdate(f"source.shop.raw.{source}", f"load {len(self.loads)}", datetime.now(UTC)))
        with Orchestrator(project_dir=self.folder, dbt=DBT_2, node_retries=0) as it:
            it.record(self.loads)
            for _ in range(20):
                it.retry()
                self.end(self.start())
                if it.plan().is_empty and not it.ledger.snapshot().failures:
                    break
                time.sleep(0.5)  # a dbt whose worker was killed ends soon
            assert it.plan().is_empty, it.plan()

    def check(self) -> None:
        with duckdb.connect(str(self.folder / "shop.duckdb"), read_only=True) as connection:
            rows = connection.execute("select a, b, c from top").fetchall()
        assert rows == [tuple(int(self.versions[each]) for each in SOURCES)]
        lines = (self.folder / LOG).read_text().splitlines()
        building: set[str] = set()
        for line in lines:
            what, pid, *_ = line.split()
            if what == "begins":
                assert not building, f"two builds at once: {lines}"
                building.add(pid)
            else:
                building.discard(pid)
        self.end(self.start())
        assert (self.folder / LOG).read_text().splitlines() == lines, "nothing was left, and something was built"


def test_short_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not DBT_2:
        pytest.skip("LINEAGE_ORCH_TEST_DBT2 names no dbt 2; `make test-dbt2` sets one up")
    folder = tmp_path / "shop"
    monkeypatch.setenv("SHOP_WAREHOUSE", str(folder / "shop.duckdb"))
    monkeypatch.setenv("SHOP_RAW", str(folder / "raw"))
    template = tmp_path / "template"
    for name, text in FILES.items():
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        (template / name).write_text(text, encoding="utf-8")
    (template / "raw").mkdir()
    for source in SOURCES:
        write_raw(template, source, "0")
    seeds = range(int(os.environ.get("SOAK_SCHEDULES", "300")))
    if "SOAK_SEED" in os.environ:
        seeds = range(int(os.environ["SOAK_SEED"]), int(os.environ["SOAK_SEED"]) + 1)
    for seed in seeds:
        shutil.copytree(template, folder)
        schedule = Schedule(seed, folder)
        try:
            for number in range(1, schedule.dice.randint(3, 7)):
                schedule.step(number)
            schedule.heal()
            schedule.check()
        except BaseException as error:
            error.add_note(f"SOAK_SEED={seed} repeats it, but for the time of its kills: {schedule.log}")
            raise
        shutil.rmtree(folder)
    print(f"\n{len(seeds)} schedules with real processes")
