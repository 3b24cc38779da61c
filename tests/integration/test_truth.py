"""What the ledger says is built is what stands in the warehouse: hard cases, each with real dbt on DuckDB.

Over dbt in this process here; over each other dbt by ``make test-engines``, ``test-dbt112`` and ``test-dbt2``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import duckdb
import pytest

from lineage_orch import Orchestrator, SettingsError, SourceUpdate
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.reports.wording import explanation_lines
from tests.dbts import DBT_1, IN_PROCESS, in_process_and, new_warehouse, setting_of, with_macros_parsed

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PROJECT = """
name: tiny
version: "1.0"
profile: tiny
flags: {send_anonymous_usage_stats: false}
models:
  tiny:
    +materialized: table
"""
PROFILE = """
tiny:
  target: dev
  outputs:
    dev: {type: duckdb, path: "{{ env_var('TINY_WAREHOUSE') }}", schema: main, threads: 1}
    prod: {type: duckdb, path: "{{ env_var('TINY_WAREHOUSE') }}", schema: prod, threads: 1}
"""
SOURCES = """
sources:
  - name: raw
    schema: raw
    tables: [{name: orders}, {name: customers}, {name: countries}]
"""


def as_written(text: str) -> str:
    """The text of a file, as it is written in a test: to the last character what dbt compares with its last parse."""
    return dedent(text).strip() + "\n"


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Tiny:
    """A small dbt project, its warehouse, and an orchestrator that is opened anew for each call."""

    folder: Path
    warehouse: Path
    settings: dict[str, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    def write(self, **files: str) -> None:
        """Write files; ``models__a_sql`` is ``models/a.sql``."""
        for name, text in files.items():
            head, _, ending = name.rpartition("_")
            path = self.folder / f"{head.replace('__', '/')}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(as_written(text), encoding="utf-8")

    def load(self, table: str, sql: str, *, source: str = "raw") -> None:
        """Fill a raw table, and say so of a source that reads it."""
        with duckdb.connect(str(self.warehouse)) as connection:
            connection.execute("create schema if not exists raw")
            connection.execute(f"create or replace table raw.{table} as {sql}")
        self.record(f"{source}.{table}")

    def record(self, *sources: str) -> None:
        with self.open() as orchestrator:
            orchestrator.record(sources)

    def open(self, **more: Any) -> Orchestrator:
        return Orchestrator(project_dir=self.folder, clock=self.clock, **{**self.settings, **more})

    def build(self, **more: Any) -> BuildReport:
        with self.open(**more) as orchestrator:
            return orchestrator.build()

    def due(self, **more: Any) -> set[str]:
        with self.open(**more) as orchestrator:
            return {each.split(".")[-1] for each in orchestrator.plan().build}

    def held(self) -> dict[str, str]:
        with self.open() as orchestrator:
            return {each.split(".")[-1]: why.reason for each, why in orchestrator.plan().held.items()}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            return connection.execute(sql).fetchall()


Make = Callable[..., Tiny]


@pytest.fixture(params=in_process_and())
def engine(request: pytest.FixtureRequest) -> str:
    """The dbt that a test runs over."""
    return str(request.param)


@pytest.fixture
def make(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_other_producers: None) -> Make:
    def make(**files: str) -> Tiny:
        folder = tmp_path / "tiny"
        folder.mkdir()
        warehouse = tmp_path / "warehouse.duckdb"
        new_warehouse(warehouse)
        monkeypatch.setenv("TINY_WAREHOUSE", str(warehouse))
        tiny = Tiny(folder, warehouse, {"dbt": setting_of(engine)})
        if engine == IN_PROCESS:
            monkeypatch.setenv("TINY_WAREHOUSE", warehouse.name)  # from the working directory: the same in each test
            written = {"dbt_project.yml": as_written(PROJECT), "profiles.yml": as_written(PROFILE)}
            with_macros_parsed(folder, written)
        tiny.write(**{"dbt_project_yml": PROJECT, "profiles_yml": PROFILE, "models__sources_yml": SOURCES, **files})
        return tiny

    return make


ORDERS = "select 1 as id, 10 as amount, 'a' as status"
STAGE = "select * from {{ source('raw', 'orders') }}"
MART = "select count(*) as n from {{ ref('stage') }}"


def built(report: BuildReport) -> set[str]:
    return {each.split(".")[-1] for each in report.built}


# What dbt did -----------------------------------------------------------------------------------------------


def test_microbatch_with_failed_batch_is_still_stale(make: Make, engine: str) -> None:
    tiny = make(
        models__daily_sql="""
            {{ config(materialized='incremental', incremental_strategy='microbatch', event_time='day',
                      batch_size='day', begin='2026-01-01') }}
            select day, 1 / (case when {{ var('bad', false) }} and day = date '2026-01-02'
                             then error('no') else 1 end) as n
            from {{ source('raw', 'orders') }}
        """,
        models__below_sql="select count(*) as n from {{ ref('daily') }}",
        models__times_yml="""
            sources:
              - name: raw
                schema: raw
                tables: [{name: orders, config: {event_time: day}}]
        """,
        models__sources_yml="models: []",
    )
    tiny.load("orders", "select date '2026-01-01' + i::int as day from range(3) t(i)")
    flags = ("--event-time-start", "2026-01-01", "--event-time-end", "2026-01-04")
    report = tiny.build(vars={"bad": True}, dbt_flags=flags)
    assert "daily" not in built(report)
    assert any("daily" in each for each in report.failed)
    if engine == IN_PROCESS:
        assert report.failed["model.tiny.daily"] == "PARTIAL SUCCESS (2/3); failed batches: 2026-01-02"
    assert {"daily", "below"} <= tiny.due(vars={"bad": False}, dbt_flags=flags), "the failed day is still missing"
    report = tiny.build(vars={"bad": False}, dbt_flags=flags)
    assert {"daily", "below"} <= built(report)
    assert tiny.query("select count(*) from daily") == [(3,)]


@pytest.mark.parametrize("how", ["failed", "killed", "late"])
def test_microbatch_model_leaves_out_no_batch(make: Make, how: str) -> None:
    """dbt by itself builds the batch of now and ``lookback`` before it, whatever became of those before."""
    today = datetime.now(UTC).date()
    begin = f"{today - timedelta(days=6)}"
    tiny = make(
        models__daily_sql=f"""
            {{{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='day',
                      batch_size='day', begin='{begin}') }}}}
            select day, 1 / (case when {{{{ var('bad', false) }}}} and day = date '{today - timedelta(days=4)}'
                             then error('no') else 1 end) as n
            from {{{{ source('raw', 'orders') }}}}
        """,
        models__sources_yml="""
            sources: [{name: raw, schema: raw, tables: [{name: orders, config: {event_time: day}}]}]
        """,
    )
    week = f"select date '{begin}' + i::int as day from range(7) t(i)"
    if how == "late":
        tiny.load("orders", f"{week} where i < 2")
        tiny.clock.ahead = -timedelta(days=5)
        assert built(tiny.build()) == {"daily"}
        tiny.clock.ahead = timedelta()
    tiny.load("orders", week)
    if how != "late":
        assert not built(tiny.build(vars={"bad": True}))
    if how == "killed":  # nothing says that it failed, and its relation is there
        with tiny.open() as orchestrator:
            orchestrator.forget(["daily"])
    assert built(tiny.build(vars={"bad": False})) == {"daily"}
    assert tiny.query("select count(*) from daily") == [(7,)]


def test_late_day_is_built_and_only_it(make: Make) -> None:
    """dbt by itself leaves out a row that comes later than ``lookback``, until a full refresh (dbt-core #10899)."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    begin, late = today - timedelta(days=29), today - timedelta(days=20)
    batches = f"""
        {{{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='day', batch_size='day',
                  begin='{begin:%F}') }}}}
        select day, n, '{{{{ invocation_id }}}}' as run from"""
    tiny = make(
        models__daily_sql=f"{batches} {{{{ source('raw', 'orders') }}}}",
        models__flat_sql="select * from {{ ref('daily') }}",
        models__below_sql=f"{batches} {{{{ ref('flat') }}}}",
        models__sources_yml="""
            sources: [{name: raw, schema: raw, tables: [{name: orders, config: {event_time: day}}]}]
            models: [{name: flat, config: {event_time: day}}]
        """,
    )
    tiny.load("orders", f"select timestamp '{begin:%F}' + i * interval 1 day as day, 1 as n from range(30) t(i)")
    assert built(tiny.build()) == {"daily", "flat", "below"}
    with duckdb.connect(str(tiny.warehouse)) as connection:
        connection.execute(f"update raw.orders set n = 2 where day = '{late:%F}'")
    with tiny.open() as orchestrator:
        end = late + timedelta(days=1)
        orchestrator.record([SourceUpdate("raw.orders", "late", datetime.now(UTC), window_start=late, window_end=end)])
    report = tiny.build()
    assert built(report) == {"daily", "flat", "below"}
    assert report.runs == 1
    for table in ("daily", "below"):
        assert tiny.query(f"select sum(n), count(*), count(distinct day) from {table}") == [(31, 30, 30)]
        runs = tiny.query(f"select count(*), min(day), max(n) from {table} group by run order by 1")
        assert [(days, most) for days, _, most in runs] == [(1, 2), (29, 1)], "one batch by the second run"
        assert runs[0][1] == late.replace(tzinfo=None)
    assert tiny.due() == set()


@pytest.mark.parametrize("how", ["flag", "project"])
def test_fail_fast_leaves_nodes_with_skipped_tests_stale(make: Make, how: str, engine: str) -> None:
    flags = "flags: {send_anonymous_usage_stats: false, fail_fast: true}"
    project = PROJECT if how == "flag" else PROJECT.replace("flags: {send_anonymous_usage_stats: false}", flags)
    tiny = make(
        dbt_project_yml=project,
        models__a_sql=STAGE,
        models__b_sql=STAGE,
        models__below_sql="select * from {{ ref('b') }}",
        models__tests_yml="""
            models:
              - name: a
                columns: [{name: status, data_tests: [accepted_values: {arguments: {values: ['a']}}]}]
              - name: b
                columns: [{name: id, data_tests: [not_null, unique]}, {name: status, data_tests: [not_null]}]
        """,
    )
    if how == "flag":
        tiny.settings["dbt_flags"] = ("--fail-fast",)
    tiny.load("orders", "select 1 as id, 10 as amount, 'bad' as status from range(2)")
    report = tiny.build()
    assert not report.ok
    # dbt 2 takes a test that --fail-fast stops for one that passed, now and then, and builds what is below.
    stale = {"a", "b"} if engine == "dbt2" else {"a", "b", "below"}
    assert not stale & built(report), "a test that was skipped has not passed"
    tiny.clock.ahead = timedelta(hours=7)
    again = tiny.build()
    assert not stale & {*built(again), *again.tested}, "bad rows do not go past a test"
    tiny.load("orders", ORDERS)
    tiny.clock.ahead = timedelta(hours=14)
    assert {"a", "b", "below"} <= built(tiny.build())


def test_dbt_run_does_not_build_below_snapshot_again(make: Make) -> None:
    tiny = make(
        models__below_sql="select * from {{ ref('history') }}",
        models__stage_sql=STAGE,
        snapshots__history_yml="""
            snapshots:
              - name: history
                relation: ref('stage')
                config: {unique_key: id, strategy: check, check_cols: all}
        """,
    )
    tiny.load("orders", ORDERS)
    assert {"stage", "history", "below"} <= built(tiny.build())
    tiny.load("orders", ORDERS)
    first = tiny.build(dbt_command="run")
    assert built(first) == {"stage"}
    assert not tiny.build(dbt_command="run").built
    assert {"history", "below"} <= built(tiny.build()), "what `run` leaves out is still stale for `build`"


# What a node is ---------------------------------------------------------------------------------------------


def shop(make: Make, **more: str) -> Tiny:
    tiny = make(
        **{
            "macros__money_sql": "{% macro cents(c) %}{{ dollars(c) }}{% endmacro %}",
            "macros__dollars_sql": "{% macro dollars(c) %}({{ c }} / 100){% endmacro %}",
            "models__middle_sql": "{{ config(materialized='ephemeral') }} select id, amount from {{ ref('stage') }}",
            "models__stage_sql": STAGE,
            "models__mart_sql": "select id, {{ cents('amount') }} as dollars from {{ ref('middle') }}",
            "models__other_sql": "select id, {{ var('region', 0) }} as region from {{ ref('stage') }}",
            **more,
        }
    )
    tiny.load("orders", ORDERS)
    assert {"stage", "mart", "other"} <= built(tiny.build())
    assert not tiny.due()
    return tiny


def test_macro_makes_exactly_its_readers_stale(make: Make) -> None:
    tiny = shop(make)
    tiny.write(macros__dollars_sql="{% macro dollars(c) %}({{ c }} / 100.0){% endmacro %}")
    assert tiny.due() == {"mart"}
    with tiny.open() as orchestrator:
        text = "\n".join(explanation_lines(orchestrator.explain("mart")))
    assert "dollars" in text
    assert built(tiny.build()) == {"mart"}
    assert not tiny.due()


def test_macro_that_is_called_only_while_dbt_runs(make: Make) -> None:
    """What dbt says of such calls differs from command to command, so that it does not count."""
    tiny = shop(
        make,
        macros__inner_sql="{% macro inner() %}2{% endmacro %}",
        macros__outer_sql="{% macro outer() %}{% if execute %}{{ inner() }}{% else %}1{% endif %}{% endmacro %}",
        models__direct_sql="select {% if execute %}{{ inner() }}{% else %}1{% endif %} as n from {{ ref('stage') }}",
        models__through_sql="select {{ outer() }} as n from {{ ref('stage') }}",
    )
    tiny.write(models__unrelated_sql="select 1 as n")
    assert not tiny.due(), "another parse changes nothing"
    tiny.write(macros__inner_sql="{% macro inner() %}3{% endmacro %}")
    assert tiny.due() == {"direct", "through"}
    assert tiny.build().runs == 1
    assert not tiny.due()


def test_ephemeral_model_makes_exactly_its_readers_stale(make: Make) -> None:
    tiny = shop(make)
    tiny.write(
        models__middle_sql="{{ config(materialized='ephemeral') }} select id, 2 as amount from {{ ref('stage') }}"
    )
    assert built(tiny.build()) == {"mart"}
    assert not tiny.due()


def test_value_of_var_makes_exactly_its_readers_stale(make: Make) -> None:
    tiny = shop(make)
    assert tiny.due(vars={"region": 7}) == {"other"}
    assert built(tiny.build(vars={"region": 7})) == {"other"}
    assert not tiny.due(vars={"region": 7})


@pytest.mark.parametrize("config", ["+schema: gold", "+alias: stage_two", "+materialized: view"])
def test_moved_relation_is_built_with_its_readers(make: Make, config: str) -> None:
    tiny = shop(make)
    tiny.write(dbt_project_yml=f"{PROJECT.rstrip()}\n    stage:\n      {config}\n")
    assert {"stage", "mart", "other"} <= tiny.due()
    report = tiny.build()
    assert report.ok
    assert {"stage", "mart", "other"} <= built(report)
    assert not tiny.due()


def test_docs_meta_and_tags_change_nothing(make: Make) -> None:
    tiny = shop(make)
    tiny.write(
        models__docs_yml="""
            models:
              - name: stage
                description: what it is
                config: {meta: {owner: us}, tags: [nightly]}
        """,
        models__unrelated_md="{% docs x %} words {% enddocs %}",
    )
    assert not tiny.due()


def test_new_latest_version_is_read_by_its_readers(make: Make) -> None:
    versions = """
        models:
          - name: stage
            latest_version: {latest}
            versions: [{v: 1}, {v: 2}]
    """
    tiny = make(
        models__stage_v1_sql=STAGE,
        models__stage_v2_sql=f"{STAGE} where id > 0",
        models__mart_sql=MART,
        models__versions_yml=versions.replace("{latest}", "1"),
    )
    tiny.load("orders", ORDERS)
    assert tiny.build().ok
    tiny.write(models__versions_yml=versions.replace("{latest}", "2"))
    assert "mart" in tiny.due()


@pytest.mark.parametrize("how", ["failed", "gone"])
def test_failed_build_of_changed_code_is_built_again(make: Make, how: str) -> None:
    """The table is not what the ledger tells of any more, also where the code is what it was, and nothing is loaded."""
    values = (
        "models: [{name: stage, columns: [{name: status, data_tests: [accepted_values: {arguments: {values: [X]}}]}]}]"
    )
    tiny = shop(make, models__tests_yml=values.replace("X", "a"))
    if how == "failed":
        tiny.write(models__stage_sql="select id, amount, 'bad' as status from {{ source('raw', 'orders') }}")
    else:
        tiny.write(models__tests_yml=values.replace("X", "b"))
        with duckdb.connect(str(tiny.warehouse)) as connection:
            connection.execute("drop table stage")
    assert not tiny.build().ok
    assert tiny.held()["stage"] == "failing"
    tiny.write(models__stage_sql=STAGE, models__tests_yml=values.replace("X", "a"))
    report = tiny.build()
    assert report.ok
    # What was built as it should be, and failed its test alone, is tested again.
    assert ("stage" in built(report)) == (how == "failed")
    assert report.tested == ([] if how == "failed" else ["model.tiny.stage"])
    assert tiny.query("select status from stage") == [("a",)]
    assert not tiny.due()


def test_test_whose_macro_is_put_right_is_tried_at_once(make: Make) -> None:
    fails = "{% test even(model, column_name) %} select * from {{ model }} where {{ wrong() }} {% endtest %}"
    tiny = make(
        models__stage_sql=STAGE,
        models__tests_yml="models: [{name: stage, columns: [{name: id, data_tests: [even]}]}]",
        tests__generic__even_sql=fails,
        macros__wrong_sql="{% macro wrong() %}true{% endmacro %}",
    )
    tiny.load("orders", ORDERS)
    assert not tiny.build().ok
    assert tiny.held() == {"stage": "failing"}
    tiny.write(macros__wrong_sql="{% macro wrong() %}id % 2 = 7{% endmacro %}")
    report = tiny.build()
    assert (report.built, report.tested) == ([], ["model.tiny.stage"])
    assert not tiny.due()


# What is there ----------------------------------------------------------------------------------------------


def test_first_load_builds_what_it_needs_first(make: Make) -> None:
    tiny = make(
        seeds__codes_csv="code,name\na,first",
        models__stage_sql=STAGE,
        models__stage_countries_sql="select * from {{ source('raw', 'countries') }}",
        models__mart_sql="""
            select s.id, c.name, k.name as country from {{ ref('stage') }} s
            join {{ ref('codes') }} c on c.code = s.status cross join {{ ref('stage_countries') }} k
        """,
    )
    with duckdb.connect(str(tiny.warehouse)) as connection:
        connection.execute("create schema raw; create table raw.countries as select 'here' as name")
    tiny.load("orders", ORDERS)
    report = tiny.build()
    assert report.ok, report.failed
    assert {"codes", "stage", "stage_countries", "mart"} <= built(report)
    assert not tiny.due()


def test_table_dropped_by_hand_is_built_again(make: Make) -> None:
    tiny = shop(make)
    with duckdb.connect(str(tiny.warehouse)) as connection:
        connection.execute("drop table other")
    with tiny.open() as orchestrator:
        assert {each.split(".")[-1] for each in orchestrator.plan(check_relations=True).build} == {"other"}
    assert built(tiny.build()) == {"other"}


def test_seed_that_changed_is_built_with_its_readers(make: Make) -> None:
    tiny = shop(
        make, seeds__codes_csv="code\na", models__names_sql="select * from {{ ref('codes') }}, {{ ref('stage') }}"
    )
    tiny.write(seeds__codes_csv="code\nb")
    assert {"codes", "names"} == built(tiny.build())


# adopt ------------------------------------------------------------------------------------------------------


def test_updates_on_all_ignores_adopted_sources(make: Make) -> None:
    tiny = make(
        models__stage_sql=STAGE,
        models__static_sql="select * from {{ source('raw', 'countries') }}",
        models__mart_sql="""
            {{ config(freshness={'build_after': {'count': 0, 'period': 'day', 'updates_on': 'all'}}) }}
            select s.id, c.name from {{ ref('stage') }} s cross join {{ ref('static') }} c
        """,
    )
    with duckdb.connect(str(tiny.warehouse)) as connection:
        connection.execute("create schema raw; create table raw.countries as select 'here' as name")
        connection.execute(f"create table raw.orders as {ORDERS}")
        for name, sql in (
            ("stage", ORDERS),
            ("static", "select 'here' as name"),
            ("mart", "select 1 as id, 'x' as name"),
        ):
            connection.execute(f"create table {name} as {sql}")
    with tiny.open() as orchestrator:
        orchestrator.adopt()
    assert not tiny.due()
    tiny.load("orders", ORDERS)
    assert {"stage", "mart"} == built(tiny.build())


def test_adopt_skips_failures_and_missing_tables(make: Make) -> None:
    tiny = make(
        models__stage_sql=STAGE, models__broken_sql="select nothing from {{ ref('stage') }}", models__mart_sql=MART
    )
    tiny.load("orders", ORDERS)
    assert not tiny.build().ok
    with duckdb.connect(str(tiny.warehouse)) as connection:
        connection.execute("drop table mart")
    with tiny.open() as orchestrator:
        orchestrator.adopt()
        plan = orchestrator.plan(check_relations=True)
    still = {each.split(".")[-1] for each in (*plan.build, *plan.held)}
    assert still == {"broken", "mart"}


# Time, targets, files ---------------------------------------------------------------------------------------


def test_wrong_clock_holds_nothing_for_years(make: Make) -> None:
    tiny = make(
        models__stage_sql=STAGE,
        models__mart_sql="""
            {{ config(freshness={'build_after': {'count': 1, 'period': 'hour'}}) }}
            select count(*) as n from {{ ref('stage') }}
        """,
    )
    tiny.clock.ahead = timedelta(days=3 * 365)
    tiny.load("orders", ORDERS)
    assert "mart" in built(tiny.build())
    tiny.clock.ahead = timedelta()
    tiny.load("orders", ORDERS)
    with tiny.open() as orchestrator:
        plan = orchestrator.plan()
    assert plan.next_due is None or plan.next_due < datetime.now(UTC) + timedelta(hours=2)


def test_manifest_of_another_target_is_not_used(make: Make, tmp_path: Path) -> None:
    tiny = make(
        models__stage_sql=STAGE,
        models__mart_sql="""
            {{ config(freshness=({'build_after': {'count': 9, 'period': 'day'}} if target.name == 'prod' else none)) }}
            select count(*) as n from {{ ref('stage') }}
        """,
    )
    tiny.settings["target"] = "prod"
    tiny.load("orders", ORDERS)
    assert "mart" in built(tiny.build())
    tiny.load("orders", ORDERS)
    assert built(tiny.build()) == {"stage"}
    dbt(tiny, "parse", "--target", "dev")
    assert tiny.held() == {"mart": "build_after"}
    assert not tiny.build().built


def dbt(tiny: Tiny, *arguments: str) -> None:
    subprocess.run(
        [tiny.settings["dbt"] or DBT_1, *arguments],
        cwd=tiny.folder,
        env={**os.environ, "DBT_PROFILES_DIR": str(tiny.folder)},
        check=True,
        capture_output=True,
    )


def test_developers_with_one_target_have_scope_each(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make(
        models__stage_sql=STAGE,
        profiles_yml=PROFILE.replace("schema: main", "schema: \"dbt_{{ env_var('DEVELOPER') }}\""),
    )
    monkeypatch.setenv("DEVELOPER", "ann")
    tiny.load("orders", ORDERS)
    assert built(tiny.build()) == {"stage"}
    tiny.record("raw.orders")
    monkeypatch.setenv("DEVELOPER", "bob")
    assert not tiny.build().built, "what was loaded for ann is no news for bob"
    monkeypatch.setenv("DEVELOPER", "ann")
    assert tiny.due() == {"stage"}


@pytest.mark.parametrize(
    "flags", [("--target", "prod"), ("--target=prod",), ("-t", "prod"), ("--select", "mart"), ("--exclude", "mart")]
)
def test_flags_that_would_move_build_are_refused(make: Make, flags: tuple[str, ...]) -> None:
    tiny = make(models__stage_sql=STAGE)
    with pytest.raises(SettingsError, match=flags[0].split("=")[0]):
        tiny.open(dbt_flags=flags)


def test_wish_of_environment_for_less_than_whole_tables_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make(models__mart_sql="select * from {{ source('raw', 'orders') }}")
    tiny.load("orders", ORDERS)
    monkeypatch.setenv("DBT_EMPTY", "1")
    with pytest.raises(SettingsError, match="DBT_EMPTY may not be set where builds run"):
        tiny.build()
    assert tiny.due() == {"mart"}
    monkeypatch.delenv("DBT_EMPTY")
    assert built(tiny.build()) == {"mart"}
    assert tiny.query("select count(*) from main.mart") == [(1,)]


def test_file_restored_with_older_time_is_seen(make: Make) -> None:
    tiny = shop(make)
    older = tiny.folder / "older.yml"
    older.write_text(SOURCES.replace(", {name: countries}", ""))
    os.utime(older, (1_600_000_000, 1_600_000_000))
    shutil.copy2(older, tiny.folder / "models" / "sources.yml")
    older.unlink()
    with tiny.open() as orchestrator:
        assert "source.tiny.raw.countries" not in orchestrator.lineage.sources


# Loads before all that can fail -----------------------------------------------------------------------------


def test_update_is_recorded_while_project_does_not_parse(make: Make) -> None:
    tiny = make(models__stage_sql="select {{ nonsense", models__mart_sql=MART)
    with duckdb.connect(str(tiny.warehouse)) as connection:
        connection.execute(f"create schema raw; create table raw.orders as {ORDERS}")
    tiny.record("raw.orders")
    tiny.write(models__stage_sql=STAGE)
    assert {"stage", "mart"} <= tiny.due()
    assert {"stage", "mart"} <= built(tiny.build())


# Shapes of real projects ---------------------------------------------------------------------------------------


JAFFLE_SHOP = {
    "dbt_project_yml": PROJECT + "    staging:\n      +materialized: view\n",
    "models__sources_yml": """
        sources:
          - name: ecom
            schema: raw
            tables:
              - {name: customers}
              - {name: items}
              - {name: orders}
              - {name: products}
    """,
    "seeds__stores_csv": "id,name,tax_rate\n1,Philadelphia,0.06\n2,Brooklyn,0.04",
    "macros__cents_to_dollars_sql": """
        {% macro cents_to_dollars(column_name) -%}
            {{ return(adapter.dispatch('cents_to_dollars')(column_name)) }}
        {%- endmacro %}
        {% macro default__cents_to_dollars(column_name) -%}
            ({{ column_name }} / 100)::numeric(16, 2)
        {%- endmacro %}
    """,
    "models__staging__stg_customers_sql": """
        with source as (select * from {{ source('ecom', 'customers') }}),
        renamed as (select id as customer_id, name as customer_name from source)
        select * from renamed
    """,
    "models__staging__stg_locations_sql": "select id as location_id, name, tax_rate from {{ ref('stores') }}",
    "models__staging__stg_items_sql": """
        select id as order_item_id, order_id, sku as product_id from {{ source('ecom', 'items') }}
    """,
    "models__staging__stg_orders_sql": """
        select id as order_id, store_id as location_id, customer as customer_id,
          {{ dbt.date_trunc('day', 'ordered_at') }} as ordered_at, {{ cents_to_dollars('order_total') }} as order_total
        from {{ source('ecom', 'orders') }}
    """,
    "models__staging__stg_products_sql": """
        select sku as product_id, name as product_name, coalesce(type = 'jaffle', false) as is_food_item,
          {{ cents_to_dollars('price') }} as product_price
        from {{ source('ecom', 'products') }}
    """,
    "models__marts__order_items_sql": """
        select i.order_item_id, i.order_id, o.ordered_at, p.product_name, p.product_price, p.is_food_item
        from {{ ref('stg_items') }} i
        left join {{ ref('stg_orders') }} o using (order_id) left join {{ ref('stg_products') }} p using (product_id)
    """,
    "models__marts__orders_sql": """
        select o.order_id, o.customer_id, l.name as location, o.order_total, count(i.order_item_id) as count_items,
          sum(i.product_price) as subtotal
        from {{ ref('stg_orders') }} o
        left join {{ ref('order_items') }} i using (order_id) left join {{ ref('stg_locations') }} l using (location_id)
        group by all
    """,
    "models__marts__customers_sql": """
        with of_customer as (
          select customer_id, count(*) as count_orders, sum(subtotal) as lifetime_spend
          from {{ ref('orders') }} group by 1
        )
        select c.customer_id, c.customer_name, o.lifetime_spend,
          case when o.count_orders > 1 then 'returning' else 'new' end as customer_type
        from {{ ref('stg_customers') }} c left join of_customer o using (customer_id)
    """,
    "models__marts__products_sql": "select * from {{ ref('stg_products') }}",
    "models__tests_yml": """
        models:
          - name: stg_orders
            columns: [{name: order_id, data_tests: [not_null, unique]}]
          - name: order_items
            columns:
              - name: order_item_id
                data_tests: [not_null, unique]
              - name: order_id
                data_tests: [relationships: {arguments: {to: ref('stg_orders'), field: order_id}}]
          - name: customers
            columns:
              - name: customer_type
                data_tests: [accepted_values: {arguments: {values: [new, returning]}}]
        unit_tests:
          - name: prices_of_items
            model: order_items
            given:
              - {input: ref('stg_items'), rows: [{order_item_id: 1, order_id: 1, product_id: a}]}
              - {input: ref('stg_orders'), rows: [{order_id: 1}]}
              - {input: ref('stg_products'), rows: [{product_id: a, product_price: 2}]}
            expect: {rows: [{order_item_id: 1, product_price: 2}]}
        exposures:
          - {name: board, type: dashboard, owner: {email: a@b.c}, depends_on: ["ref('customers')", "ref('products')"]}
    """,
    "tests__adds_up_sql": "select * from {{ ref('orders') }} where order_total < subtotal",
}
RAW = {
    "customers": "select 1 as id, 'Ann' as name union all select 2, 'Bob'",
    "items": "select i as id, 1 + i % 3 as order_id, 'JAF-00' || (1 + i % 2) as sku from range(6) t(i)",
    "orders": "select i as id, 1 + i % 2 as store_id, 1 + i % 2 as customer, 3000 as order_total, "
    "timestamp '2026-01-01 09:00' + to_days(i::int) as ordered_at from range(1, 4) t(i)",
    "products": "select 'JAF-001' as sku, 'nutellaphone' as name, 'jaffle' as type, 1100 as price "
    "union all select 'JAF-002', 'chai', 'beverage', 550",
}
# Order, and what each load builds.
LOADS = {
    "customers": {"stg_customers"},
    "items": {"stg_items"},
    "products": {"stg_products", "products"},
    "orders": {"stores", "stg_locations", "stg_orders", "order_items", "orders", "customers"},
}


def test_jaffle_shop_loads_end_green_whatever_their_order(make: Make) -> None:
    """One producer for all tables by a template: models and unit tests wait for what was never loaded."""
    tiny = make(**JAFFLE_SHOP)
    with tiny.open() as orchestrator:
        orchestrator.register_producers(["ecom.{table}"])
    for table, builds in LOADS.items():
        tiny.load(table, RAW[table], source="ecom")
        report = tiny.build()
        assert report.ok, (table, report.failed)
        assert (built(report), report.runs) == (builds, 1)
    tiny.load("items", f"{RAW['items']} where i < 5", source="ecom")
    assert built(tiny.build()) == {"stg_items", "order_items", "orders", "customers"}
    assert tiny.query("select order_id, location, count_items, subtotal::double from orders order by 1") == [
        (1, "Brooklyn", 2, 16.5),
        (2, "Philadelphia", 2, 16.5),
        (3, "Brooklyn", 1, 11.0),
    ]
    assert tiny.query("select customer_name, customer_type, lifetime_spend::double from customers order by 1") == [
        ("Ann", "new", 16.5),
        ("Bob", "returning", 27.5),
    ]
    with tiny.open() as orchestrator:
        facts = orchestrator.ledger.snapshot().nodes.items()
    ticks = [(node.split(".")[-1], fact.tick) for node, fact in facts if fact.changed_tick == fact.tick]
    again = {"stg_items", "order_items", "orders", "customers"}
    # Each load takes one tick, the run that it sets off the next, and the look for more after it another.
    at = {name: 3 + 3 * number for number, builds in enumerate([*LOADS.values(), again]) for name in builds}
    assert dict(ticks) == at
    assert not tiny.due()
    # Another dbt reads the same of the same files: nothing to build for it.
    tiny.settings["dbt"] = None
    with tiny.open() as orchestrator:
        orchestrator.parse()
    assert not tiny.due()
