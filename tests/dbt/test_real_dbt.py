"""What real dbt does, on DuckDB: the rules of this room hold against it, and not only against what was once heard."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lineage_orch import LineageOrchSettings, Orchestrator
from lineage_orch.dbt.in_process import DbtRunner
from lineage_orch.dbt.project import DbtProject

pytestmark = pytest.mark.integration

FILES = {
    "dbt_project.yml": "name: shop\nprofile: p\nmodels: {+materialized: table}\n",
    "profiles.yml": "p:\n  target: dev\n  outputs:\n"
    "    dev: {type: duckdb, path: '{{ flags.PROFILES_DIR }}/dev.duckdb'}\n"
    "    prod: {type: duckdb, path: '{{ flags.PROFILES_DIR }}/prod.duckdb', schema: gold}\n",
    "models/sources.yml": "sources:\n- {name: raw, schema: main, tables: [{name: t, config: {event_time: ts}}]}\n",
    "models/a.sql": "select * from {{ source('raw', 't') }}",
    "models/b.sql": "select * from {{ ref('a') }}",
}
A, B = "model.shop.a", "model.shop.b"

FIVE_DAYS = "select i as id, timestamp '2026-01-01' + interval (i - 1) day as ts from range(1, 6) r(i)"

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that writes a project, with a raw table of five rows, a day each."""

    def make(**files: str) -> Path:
        for name, text in (FILES | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for target in ("dev", "prod"):
            load(
                tmp_path,
                "select i as id, timestamp '2026-01-01' + interval (i - 1) day as ts from range(1, 6) r(i)",
                target,
            )
        return tmp_path

    return make


def load(folder: Path, rows: str, target: str = "dev") -> None:
    with duckdb.connect(str(folder / f"{target}.duckdb")) as connection:
        connection.execute(f"create or replace table main.t as {rows}")


def count(folder: Path, table: str, target: str = "dev") -> int:
    with duckdb.connect(str(folder / f"{target}.duckdb"), read_only=True) as connection:
        found: Any = connection.execute(f"select count(*) from {table}").fetchone()
        return int(found[0])


def dbt(folder: Path, *args: str) -> None:
    """Type a dbt command, as a user does."""
    subprocess.run([Path(sys.executable).with_name("dbt"), "--quiet", *args], cwd=folder, check=True)


@pytest.fixture
def opened() -> Iterator[list[Orchestrator]]:
    opened: list[Orchestrator] = []
    yield opened
    for each in opened:
        each.close()


def open_(opened: list[Orchestrator], folder: Path, **settings: Any) -> Orchestrator:
    opened.append(Orchestrator(project_dir=folder, **settings))
    return opened[-1]


@pytest.mark.drill  # a minute and more of processes
def test_dbt_parse_of_another_target_is_not_taken_for_ours(make: Make, opened: list[Orchestrator]) -> None:
    folder = make(**{"models/b.sql": "{{ config(enabled=target.name == 'dev') }} select * from {{ ref('a') }}"})
    dev = open_(opened, folder)
    assert dev.lineage.nodes.keys() == {A, B}
    dbt(folder, "parse", "--target", "prod")
    assert dev.project.stale_because() == "its manifest was made by another dbt command"
    assert dev.lineage.nodes.keys() == {A, B}
    prod = open_(opened, folder, target="prod")
    assert prod.lineage.nodes.keys() == {A}
    dbt(folder, "parse", "--target", "dev")
    assert prod.project.stale_because() is None
    prod.record(["raw.t"])
    assert prod.build().built == [A]
    assert (count(folder, "gold.a", "prod"), dev.plan().build) == (5, ())


def test_manifest_of_users_own_command_is_used_as_it_is(make: Make, opened: list[Orchestrator]) -> None:
    """If this fails on a new dbt, look at ``compat.parsed_by_same_call``: it parses more often than it need."""
    folder = make()
    dbt(folder, "parse")
    assert DbtProject.find(LineageOrchSettings(project_dir=folder)).stale_because() is None
    dbt(folder, "ls", "--select", "a")
    assert DbtProject.find(LineageOrchSettings(project_dir=folder)).stale_because() is None


def test_our_builds_and_users_commands_share_one_partial_parse(make: Make, opened: list[Orchestrator]) -> None:
    folder = make()
    dbt(folder, "parse")
    made = (folder / "target" / "partial_parse.msgpack").stat().st_mtime_ns
    orchestrator = open_(opened, folder)
    orchestrator.record(["raw.t"])
    assert orchestrator.build().built == [A, B]
    assert orchestrator.project.stale_because() is None  # our own run wrote the manifest, and noted it
    orchestrator._dbt.parse()
    dbt(folder, "parse")
    assert (folder / "target" / "partial_parse.msgpack").stat().st_mtime_ns == made  # nobody threw it away


def test_source_gone_from_older_file_is_gone_from_plan(make: Make, opened: list[Orchestrator]) -> None:
    import os

    folder = make()
    before = (folder / "models" / "sources.yml").stat()
    more = FILES["models/sources.yml"].replace("tables: [", "tables: [{name: gone}, ")
    (folder / "models" / "sources.yml").write_text(more)
    (folder / "models" / "c.sql").write_text("select * from {{ source('raw', 'gone') }}")
    orchestrator = open_(opened, folder)
    assert "source.shop.raw.gone" in orchestrator.lineage.sources
    (folder / "models" / "c.sql").unlink()
    (folder / "models" / "sources.yml").write_text(FILES["models/sources.yml"])
    os.utime(folder / "models" / "sources.yml", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "source.shop.raw.gone" not in orchestrator.lineage.sources


def test_relations_that_are_gone_are_found_in_dbts_own_cache(make: Make, opened: list[Orchestrator]) -> None:
    folder = make(**{"models/e.sql": "{{ config(materialized='ephemeral') }} select * from {{ ref('a') }}"})
    orchestrator = open_(opened, folder)
    runner = DbtRunner(orchestrator.project, orchestrator.settings)
    assert runner.missing_relations(orchestrator.lineage) == {A, B}
    orchestrator.record(["raw.t"])
    orchestrator.build()
    assert runner.missing_relations(orchestrator.lineage) == frozenset()
    with duckdb.connect(str(folder / "dev.duckdb")) as connection:
        connection.execute("drop table main.b")
    assert runner.missing_relations(orchestrator.lineage) == {B}
    assert json.loads((folder / "target" / "run_results.json").read_text())["args"]["which"] == "build"


def test_relations_of_unreachable_warehouse_are_unknown(
    make: Make, opened: list[Orchestrator], caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(**{"profiles.yml": FILES["profiles.yml"].replace("/dev.duckdb", "/nowhere/dev.duckdb")})
    orchestrator = open_(opened, folder)
    assert DbtRunner(orchestrator.project, orchestrator.settings).missing_relations(orchestrator.lineage) is None
    assert "Which relations are in the warehouse is not known: " in caplog.text


def test_prefect_variables_in_profile_are_filled_in(
    make: Make, opened: list[Orchestrator], prefect_server: object
) -> None:
    from prefect import flow
    from prefect.variables import Variable

    profiles = FILES["profiles.yml"].replace("schema: gold", "schema: '{{ prefect.variables.layer }}'")
    folder = make(**{"profiles.yml": profiles})
    Variable.set("layer", "silver", overwrite=True)
    prod = open_(opened, folder, target="prod")
    assert prod.project.place == "prod.silver"
    prod.record(["raw.t"])
    assert prod.build().built == [A, B]
    assert count(folder, "silver.a", "prod") == 5

    @flow
    def in_a_flow() -> list[str]:
        prod.record(["raw.t"])
        return prod.build().built

    assert in_a_flow() == [A, B]
