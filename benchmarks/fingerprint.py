"""One more row: the fingerprint of a table, beside the sum of DuckDB's own hashes of its rows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Options, Outcome, Row, interleave, median, ratio, run_contender, seconds

_COLUMNS = (
    "i as id, i % 97 as shop, i * 7 as amount, i / 3.0 as price, 'name ' || (i % 100000) as name, "
    "date '2020-01-01' + (i % 2000)::integer as day, i % 3 = 0 as paid, md5((i % 5000)::varchar) as code, "
    "case when i % 5 = 0 then null else i end as maybe, timestamp '2026-01-01' + i * interval 1 second as at"
)


def query() -> str:
    """The query of a fingerprint of the table, as dbt's Jinja writes it."""
    from jinja2 import Environment

    from lineage_orch.dbt.fingerprint import inline_queries
    from lineage_orch.lineage import Lineage

    names = re.findall(r"as (\w+)(?:,|$)", _COLUMNS)
    node = {"name": "t", "database": "memory", "schema": "main", "alias": "t", "config": {"materialized": "table"}}
    manifest = {"metadata": {"adapter_type": "duckdb"}, "nodes": {"model.a.t": node}, "sources": {}}
    ((_, template),) = inline_queries(Lineage.from_manifest(manifest), {"model.a.t": ()})

    class Adapter:
        def get_columns_in_relation(self, _: str) -> list[Any]:
            return [type("Column", (), {"name": name, "data_type": "x"}) for name in names]

    class Api:
        class Relation:
            @staticmethod
            def create(**names: str) -> str:
                return names["identifier"]

    jinja = Environment(extensions=["jinja2.ext.do"]).from_string(template)
    return jinja.render(execute=True, adapter=Adapter(), api=Api, local_md5=lambda text: text.replace("'", ""))


def asked(rows: int, text: str) -> Callable[[], dict[str, Any]]:
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"create table t as select {_COLUMNS} from range({rows}) as r(i)")

    def work() -> dict[str, Any]:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            connection.execute(text).fetchall()
            times.append(time.perf_counter() - start)
        return {"seconds": min(times)}

    return work


def measure(options: Options) -> list[Outcome]:
    rows = 200_000 if options.quick else 10_000_000
    text = query()
    mine, bare = interleave(
        options.rounds,
        lambda: run_contender(asked, rows, text),
        lambda: run_contender(asked, rows, "select sum(hash(t)) from t"),
    )
    share = ratio(mine, bare)
    return [
        Outcome(
            f"{rows:,} rows of 10 columns: at most 1.5x",
            f"{share:.2f}x: {seconds(median(mine))} against {seconds(median(bare))}",
            share <= 1.5,
        )
    ]


ROWS = [Row("fingerprint", "the fingerprint of a DuckDB table (`cutoff`)", "`select sum(hash(t))`", measure)]
