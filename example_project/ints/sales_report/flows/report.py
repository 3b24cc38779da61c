"""After the marts: what the products sold, as a CSV file for those who want one."""

import os
import sys
from pathlib import Path

import duckdb
from prefect import flow

from lineage_orch import follows

# A flow is also loaded by its path ("report.py:write_report"), from any folder: then nothing else finds the monorepo.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from ints.common.rest_api import raw_dir

DATA = Path(__file__).resolve().parents[3] / "data"


@follows("mart_product_sales")
@flow(name="sales-report")
def write_report() -> int:
    """Write the report; return how many products are in it."""
    warehouse = os.environ.get("EXAMPLE_WAREHOUSE") or str(DATA / "warehouse.duckdb")
    report = raw_dir().parent / "product_sales.csv"
    partial = report.with_suffix(".partial")
    with duckdb.connect(warehouse) as connection:
        rows = connection.sql(
            "select product_id, title, category, units_sold, net_sales from mart_product_sales order by product_id"
        )
        rows.write_csv(str(partial))
        count = len(rows)
    os.replace(partial, report)  # the old report or the new one, never a part
    return count


if __name__ == "__main__":
    write_report()
