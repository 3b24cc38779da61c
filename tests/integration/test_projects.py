"""Two real dbt projects in one warehouse and one ledger: what the second has is what a full build of both makes."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dbt.cli.main import dbtRunner

from lineage_orch import Orchestrator, SourceUpdate
from lineage_orch.reports.wording import explanation_lines
from tests.integration.real_prefect import RealPrefect, end, wait_for

pytestmark = pytest.mark.integration

# raw.orders -> stg_orders -> fct_orders          core.fct_orders    -> stg_fct_orders    -> roi
# raw.people -> stg_people -> dim_people          core.dim_people    -> stg_dim_people    -^
#                                                 raw.spend          -> stg_spend         -^
PROJECTS = {
    "core": {
        "sources": {"raw": ["orders", "people"]},
        "stg_orders": "select id, person, amount from {{ source('raw', 'orders') }}",
        "stg_people": "select person, upper(name) as name from {{ source('raw', 'people') }}",
        "fct_orders": "select person, sum(amount) as amount from {{ ref('stg_orders') }} group by person",
        "dim_people": "select person, name from {{ ref('stg_people') }}",
    },
    "ads": {
        "sources": {"raw": ["spend"], "core": ["fct_orders", "dim_people"]},
        "stg_spend": "select person, spend from {{ source('raw', 'spend') }}",
        "stg_fct_orders": "select person, amount from {{ source('core', 'fct_orders') }}",
        "stg_dim_people": "select person, name from {{ source('core', 'dim_people') }}",
        "roi": "select p.name, f.amount / s.spend as roi from {{ ref('stg_dim_people') }} p "
        "join {{ ref('stg_fct_orders') }} f using (person) join {{ ref('stg_spend') }} s using (person)",
    },
}


def write_project(folder: Path, name: str, files: dict[str, Any]) -> Path:
    root = folder / name
    (root / "models").mkdir(parents=True)
    (root / "dbt_project.yml").write_text(
        f"name: {name}\nprofile: all\nmodels: {{+materialized: table}}\nflags: {{send_anonymous_usage_stats: false}}\n"
    )
    (root / "profiles.yml").write_text(
        "all:\n  target: prod\n  outputs:\n    prod:\n      type: duckdb\n"
        f"      path: \"{{{{ env_var('TEST_WAREHOUSE') }}}}\"\n      schema: {name}\n      keep_open: false\n"
    )
    lines = ["sources:"]
    for source, tables in files["sources"].items():
        listed = ", ".join(f"{{name: {table}}}" for table in tables)
        lines += [f"  - name: {source}", f"    schema: {source}", f"    tables: [{listed}]"]
    (root / "models" / "sources.yml").write_text("\n".join(lines) + "\n")
    for model, sql in files.items():
        if model != "sources":
            (root / "models" / f"{model}.sql").write_text(f"{sql}\n")
    return root


class Warehouse:
    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path)) as connection:
            for statement in statements:
                connection.execute(statement)
            return connection.fetchall()

    def load(self) -> None:
        self.run(
            "create schema raw",
            "create table raw.orders as select * from (values (1, 1, 10.0), (2, 2, 20.0)) t(id, person, amount)",
            "create table raw.people as select * from (values (1, 'ann'), (2, 'bob')) t(person, name)",
            "create table raw.spend as select * from (values (1, 2.0), (2, 4.0)) t(person, spend)",
        )

    def tables(self, schema: str) -> dict[str, list[tuple[Any, ...]]]:
        names = self.run(f"select table_name from information_schema.tables where table_schema = '{schema}'")
        return {name: sorted(self.run(f"from {schema}.{name}")) for (name,) in names}


def last(report: Any) -> set[str]:
    assert report.ok, report
    return {each.rpartition(".")[2] for each in report.built}


@pytest.mark.drill  # half a minute and more of dbt
def test_tables_of_second_project_equal_full_build_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {name: write_project(tmp_path, name, files) for name, files in PROJECTS.items()}
    warehouse = Warehouse(tmp_path / "w.duckdb")
    monkeypatch.setenv("TEST_WAREHOUSE", str(warehouse.path))
    warehouse.load()
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    core, ads = (Orchestrator(project_dir=folder, profiles_dir=folder, ledger=ledger) for folder in folders.values())
    with core, ads:
        core.record(["raw.orders", "raw.people"])
        ads.record(["raw.spend"])
        report = core.build()
        assert last(report) == {"stg_orders", "stg_people", "fct_orders", "dim_people"}
        assert last(ads.build()) == {"stg_spend", "stg_fct_orders", "stg_dim_people", "roi"}
        assert ads.plan().is_empty

        warehouse.run("insert into raw.orders values (3, 1, 30.0)")
        core.record(["raw.orders"])
        said: list[str] = []
        report = core.build(progress=said.append)
        assert last(report) == {"stg_orders", "fct_orders"}
        assert report.read_elsewhere == ["ads/prod"]
        assert [each for each in said if each.startswith("ads/prod reads what was built here (")], said
        why = "\n".join(explanation_lines(ads.explain("roi")))
        assert "core.fct_orders is built by fct_orders of project core (target prod): last changed at tick" in why
        assert "after raw.orders was loaded at tick" in why
        assert last(ads.build()) == {"stg_fct_orders", "roi"}

        people = folders["core"] / "models" / "stg_people.sql"
        people.write_text(people.read_text().replace("upper(name)", "lower(name)"))
        later = core.manifest_path.stat().st_mtime_ns + 1_000_000_000
        os.utime(people, ns=(later, later))
        assert last(core.build()) == {"stg_people", "dim_people"}
        assert last(ads.build()) == {"stg_dim_people", "roi"}

    full = Warehouse(tmp_path / "full.duckdb")
    copies = (f"create table raw.{table} as from w.raw.{table}" for table in ("orders", "people", "spend"))
    full.run(f"attach '{warehouse.path}' as w (read_only)", "create schema raw", *copies)
    monkeypatch.setenv("TEST_WAREHOUSE", str(full.path))
    for folder in folders.values():
        args = ["--quiet", "build", "--project-dir", str(folder), "--profiles-dir", str(folder)]
        assert dbtRunner().invoke([*args, "--target-path", str(folder / "full")]).success
    assert warehouse.tables("ads") == full.tables("ads")
    assert warehouse.tables("ads")["roi"] == [("ann", 20.0), ("bob", 5.0)]


@pytest.mark.drill
def test_run_of_first_project_launches_deployment_of_second(real_prefect: RealPrefect, tmp_path: Path) -> None:
    folders = {name: write_project(tmp_path, name, files) for name, files in PROJECTS.items()}
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.load()
    server = real_prefect.telling(
        tmp_path,
        TEST_WAREHOUSE=str(warehouse.path),
        LINEAGE_ORCH_LEDGER=f"sqlite:///{tmp_path / 'ledger.db'}",
        **{f"TEST_{name.upper()}": str(folder) for name, folder in folders.items()},
    )
    core, ads = "build-affected/core", "build-affected/ads"
    serving = server.serve(core, ads)

    def update(source: str) -> dict[str, Any]:
        return SourceUpdate(source, os.urandom(8).hex(), datetime.now(UTC)).to_dict()

    try:
        # The first has nothing to build yet, and shows what it will; so the second waits for it.
        assert server.ended(server.launch(core))["state_name"] == "Completed"
        assert server.ended(server.launch(ads, {"updates": [update("raw.spend")]}))["state_name"] == "Completed"
        loads = {"updates": [update("raw.orders"), update("raw.people")]}
        first = server.launch(core, loads)
        assert server.ended(first)["state_name"] == "Completed", server.logs(first)
        child = wait_for("the second project is set off", lambda: server.child_of(first))
        assert server.ended(child["id"])["state_name"] == "Completed", server.logs(child["id"])
        assert warehouse.tables("ads")["roi"] == [("ANN", 5.0), ("BOB", 5.0)]
        server.settle(ads)
        assert server.ended(server.launch(core))["state_name"] == "Completed"
        server.settle(core)
        assert len(server.runs(ads)) == 2, "nothing is new there"
    finally:
        end(serving)
