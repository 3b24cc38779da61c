"""Which tables a fingerprint tells apart: the queries that dbt is handed, on a real DuckDB and a real PostgreSQL."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import duckdb
import pytest
from jinja2 import Environment

from lineage_orch.dbt.fingerprint import as_show, inline_queries, read_answer
from lineage_orch.lineage import Lineage
from tests.manifests import manifest, node

Run = Callable[[str], list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Column:
    """As dbt's adapters give it."""

    name: str
    data_type: str


@dataclass
class World:
    """A warehouse, and what of dbt's Jinja the query asks for."""

    adapter: str
    run: Run

    def fingerprint(self, table: str, ignore: Sequence[str] = ()) -> str | None:
        given = manifest(node(table, database="db", schema="main", alias=table))
        given["metadata"]["adapter_type"] = self.adapter
        lineage = Lineage.from_manifest(given)
        ((nodes, query),) = inline_queries(lineage, {f"model.shop.{table}": ignore})
        rows = [
            dict(zip(("node_key", "node_columns", "node_rows"), row, strict=True)) for row in self.run(self.sql(query))
        ]
        return read_answer(lineage, nodes, json.dumps(rows)).get(nodes[0])

    def sql(self, query: str, columns: Sequence[Column] | None = None) -> str:
        world = self

        class Adapter:
            def get_columns_in_relation(self, relation: str) -> list[Column]:
                return list(columns) if columns is not None else world.columns(relation)

        class Api:
            class Relation:
                @staticmethod
                def create(*, database: str, schema: str, identifier: str) -> str:
                    return f'"{identifier}"'

        def local_md5(text: str) -> str:
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

        environment = Environment(extensions=["jinja2.ext.do"])
        return environment.from_string(query).render(execute=True, adapter=Adapter(), api=Api(), local_md5=local_md5)

    def columns(self, relation: str) -> list[Column]:
        name = relation.strip('"')
        query = f"select column_name, data_type from information_schema.columns where table_name = '{name}'"
        return [Column(*row) for row in self.run(f"{query} order by ordinal_position")]


@pytest.fixture
def on_duckdb() -> Iterator[World]:
    with duckdb.connect() as connection:
        yield World("duckdb", lambda sql: connection.execute(sql).fetchall())


@pytest.fixture
def on_postgres(request: pytest.FixtureRequest) -> Iterator[World]:
    import psycopg

    url = request.getfixturevalue("postgres_database").replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(url, autocommit=True) as connection:

        def run(sql: str) -> list[tuple[Any, ...]]:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

        yield World("postgres", run)


@pytest.fixture(params=["duckdb", pytest.param("postgres", marks=pytest.mark.integration)])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(f"on_{request.param}")
    return found


_names = itertools.count()

ROWS = ["(1, 'a', 'x')", "(2, 'b', 'y')", "(3, null, '')", "(4, '', null)"]


def made(world: World, rows: Sequence[str], columns: str = "id integer, name varchar(20), more varchar(20)") -> str:
    """Return the fingerprint of a new table; of the same name each time, since that does not count."""
    with suppress(Exception):
        world.run("drop table t")
    world.run(f"create table t ({columns})")
    if rows:
        world.run(f"insert into t values {', '.join(rows)}")
    found = world.fingerprint("t")
    assert found
    return found


def test_same_rows_in_any_order_are_same(world: World) -> None:
    assert len({made(world, rows) for rows in itertools.permutations(ROWS)}) == 1


@pytest.mark.parametrize(
    ("what", "rows"),
    [
        ("a row is gone", ROWS[:-1]),
        ("a row is doubled", [*ROWS, ROWS[0]]),
        ("two rows are doubled, which an xor would not see", [*ROWS, ROWS[0], ROWS[0]]),
        ("one row is doubled and another gone", [*ROWS[:-1], ROWS[0]]),
        ("two rows swap a value", ["(1, 'b', 'x')", "(2, 'a', 'y')", *ROWS[2:]]),
        ("two rows swap another", ["(1, 'a', 'y')", "(2, 'b', 'x')", *ROWS[2:]]),
        ("a row swaps two values", ["(1, 'x', 'a')", *ROWS[1:]]),
        ("a null where there was an empty text", [*ROWS[:2], "(3, null, null)", ROWS[3]]),
        ("one null", ["(null, 'a', 'x')", *ROWS[1:]]),
        ("a null and an empty text change places", [*ROWS[:2], "(3, '', null)", "(4, null, '')"]),
        ("a value moves to the next column", ["(1, 'ax', '')", *ROWS[1:]]),
        ("a comma moves", ["(1, 'a,x', '')", *ROWS[1:]]),
        ("a text that says null", ["(1, 'a', 'x')", "(2, 'b', 'y')", "(3, 'NULL', '')", "(4, '', null)"]),
        ("no rows", []),
    ],
)
def test_rows_that_differ_are_told_apart(world: World, what: str, rows: list[str]) -> None:
    assert made(world, rows) != made(world, ROWS), what


def test_thousands_of_small_changes_are_all_told_apart(world: World) -> None:
    """Tables of rows (i, i % 7), each with the values of two rows swapped, or one value raised."""
    world.run("create table base as select i as id, i % 7 as value from generate_series(1, 200) as t(i)")
    seen = {world.fingerprint("base")}
    for number in range(1, 120):
        other = number % 3 + 1
        world.run(
            "create table t as select id, "
            f"case id when {number} then value + {other} when {number + other} then value - {other} else value end "
            "as value from base"
        )
        seen.add(world.fingerprint("t"))
        world.run("drop table t")
    assert len(seen) == 120


def test_columns_count_by_name_type_and_order(world: World) -> None:
    same = made(world, ["(1, 2)"], "a integer, b integer")
    for columns in (
        "a integer, c integer",
        "b integer, a integer",
        "a bigint, b integer",
        "A integer, b integer, c text",
    ):
        rows = ["(1, 2, null)"] if columns.count(",") == 2 else ["(1, 2)"]
        assert made(world, rows, columns) != same, columns


def test_ignored_columns_do_not_count(world: World) -> None:
    world.run('create table t (id integer, "_Loaded_At" timestamp)')
    world.run("insert into t values (1, '2026-01-01'), (2, '2026-01-02')")
    before = world.fingerprint("t", ["_loaded_at"]), world.fingerprint("t")
    world.run("update t set \"_Loaded_At\" = '2026-02-02'")
    assert world.fingerprint("t", ["_loaded_at"]) == before[0]
    assert world.fingerprint("t") != before[1]
    world.run("update t set id = 3 where id = 2")
    assert world.fingerprint("t", ["_loaded_at"]) != before[0]
    assert world.fingerprint("t", ["_loaded_at", "id"]) is None, "of no column nothing is known"


def test_odd_names_and_types_can_be_asked(world: World) -> None:
    columns = """"odd ""name" integer, "{}" text, "{0} it's" double precision, "select" date, "ä" boolean"""
    rows = ["(1, '{{ x }}', 1.5, '2026-01-01', true)", "(null, null, null, null, null)"]
    assert made(world, rows, columns) == made(world, rows[::-1], columns) != made(world, rows[:1], columns)
    world.run("drop table t")
    world.run("create table t (a integer[], b json, c numeric(38, 2), d timestamp with time zone, e interval)")
    nested = "insert into t values ({}, '{{\"a\": 1}}', 12345678901234567890.12, '2026-01-01 00:00:00+00', '1 day')"
    array = "array[{}]" if world.adapter == "postgres" else "[{}]"
    found = set()
    for inside in ("1, null", "null, 1", "1", "1, 1"):
        world.run("delete from t")
        world.run(nested.format(array.format(inside)))
        found.add(world.fingerprint("t"))
    assert len(found - {None}) == 4


# -- what cannot be run here ------------------------------------------------------------------------------------

SQL = {
    "snowflake": (
        "select '0' as node_key, '{md5}' as node_columns, 'rows ' || cast(count(*) as varchar) || ' sum ' || "
        'cast(coalesce(sum(hash("ID", "Odd ""name")), 0) as varchar) as node_rows from "t"'
    ),
    "bigquery": (
        "select '0' as node_key, '{md5}' as node_columns, 'rows ' || cast(count(*) as string) || ' sum ' || "
        'cast(coalesce(sum(cast(farm_fingerprint(to_json_string(struct(`ID`, `Odd "name`))) as numeric)), 0) '
        'as string) as node_rows from "t"'
    ),
    "redshift": (
        "select '0' as node_key, '{md5}' as node_columns, 'rows ' || cast(count(*) as varchar) || ' sum ' || "
        'cast(coalesce(sum(cast(fnv_hash(case when "ID" is null then cast(1 as bigint) else fnv_hash("ID") end, '
        'fnv_hash(case when "Odd ""name" is null then cast(1 as bigint) else fnv_hash("Odd ""name") end, 0)) '
        'as decimal(38, 0))), 0) as varchar) as node_rows from "t"'
    ),
    "databricks": (
        "select '0' as node_key, '{md5}' as node_columns, 'rows ' || cast(count(*) as string) || ' sum ' || "
        'cast(coalesce(sum(cast(xxhash64(`ID`, `ID` is null, `Odd "name`, `Odd "name` is null) as decimal(38, 0))), 0) '
        'as string) as node_rows from "t"'
    ),
}


def lineage_on(adapter: str, *names: str) -> Lineage:
    given = manifest(*(node(each, database="db", schema="main", alias=each) for each in names or ("t",)))
    given["metadata"]["adapter_type"] = adapter
    return Lineage.from_manifest(given)


@pytest.mark.parametrize("adapter", SQL)
def test_query_of_each_warehouse(adapter: str) -> None:
    ((_, query),) = inline_queries(lineage_on(adapter), {"model.shop.t": ["_loaded_at"]})
    columns = [Column("ID", "NUMBER(38,0)"), Column("_LOADED_AT", "DATE"), Column('Odd "name', "TEXT")]
    md5 = hashlib.md5(b'ID NUMBER(38,0), Odd "name TEXT', usedforsecurity=False).hexdigest()
    assert World(adapter, lambda _: []).sql(query, columns).strip() == SQL[adapter].format(md5=md5)


def test_name_of_manifest_is_a_text_of_the_template_whatever_is_in_it() -> None:
    name = """t\U0001f600"%}{{ 1 / 0 }}'; drop table t; --"""
    given = manifest(node("t", database="db", schema="main", alias=name))
    given["metadata"]["adapter_type"] = "duckdb"
    ((_, query),) = inline_queries(Lineage.from_manifest(given), {"model.shop.t": [name.lower()]})
    sql = World("duckdb", lambda _: []).sql(query, [Column("id", "int"), Column(name, "int")])
    assert sql.strip().endswith(f' as node_rows from "{name}"')  # dbt's own Relation quotes it, this World does not
    assert sql.count(name) == 1


def test_types_that_are_not_hashed_rightly_count_as_changed() -> None:
    """Of a null inside of an array, Spark's hash takes no notice."""
    ((_, query),) = inline_queries(lineage_on("databricks"), {"model.shop.t": []})
    sql = World("databricks", lambda _: []).sql(query, [Column("a", "int"), Column("b", "ARRAY<INT>")])
    assert "'none' as node_key" in sql
    shown = '[{"node_key": "none", "node_columns": "", "node_rows": ""}]'
    assert read_answer(lineage_on("databricks"), ["a"], shown) == {}


@pytest.mark.parametrize("adapter", ["sqlserver", "trino", "spark", None])
def test_other_warehouses_are_not_asked(adapter: str) -> None:
    assert list(inline_queries(lineage_on(adapter), {"model.shop.t": []})) == []


def test_many_nodes_are_asked_in_some_queries() -> None:
    names = [f"m{each}" for each in range(250)]
    queries = list(inline_queries(lineage_on("duckdb", *names), {f"model.shop.{each}": [] for each in names}))
    assert [len(nodes) for nodes, _ in queries] == [100, 100, 50]
    assert max(len(each) for _, query in queries for each in as_show(query)) < 100_000  # of one word on Linux: 131,072


@pytest.mark.parametrize(
    "shown",
    ["", "[", "{}", "[1]", '[{"a": 1}]', '[{"node_key": "7", "node_columns": "", "node_rows": ""}]'],
)
def test_answer_that_is_none_counts_as_changed(shown: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read_answer(lineage_on("duckdb"), ["model.shop.t"], shown) == {}
    if shown != "{}":
        assert "What is in model.shop.t could not be compared, so what reads it is built" in caplog.text


def test_columns_of_snowflake_answer_are_in_capitals() -> None:
    shown = '[{"NODE_KEY": "0", "NODE_COLUMNS": "c", "NODE_ROWS": "rows 1 sum 2"}]'
    low = shown.lower()
    lineage = lineage_on("snowflake")
    assert read_answer(lineage, ["a"], shown) == read_answer(lineage, ["a"], low) != {}
