"""`make demo`: load one source after another, and see exactly the models downstream of it being built.

Nothing to set up: a stand-in for the API runs in this process, Prefect starts its temporary server, dbt builds
into a DuckDB file. All of it lives in `example_project/data/demo`, made anew at each run. With DUMMYJSON_BASE_URL
set, that service is loaded instead of the stand-in.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEMO = HERE / "data" / "demo"
LOG = DEMO / "demo.log"
SHOWN_LOG = LOG.relative_to(HERE.parent)
REPORT = DEMO / "product_sales.csv"


def _prepare() -> None:
    """Point everything that the demo touches into its own folder; before Prefect is imported, which reads it."""
    shutil.rmtree(DEMO, ignore_errors=True)
    (DEMO / "raw").mkdir(parents=True)
    os.environ |= {
        "EXAMPLE_RAW_DIR": str(DEMO / "raw"),
        "EXAMPLE_WAREHOUSE": str(DEMO / "warehouse.duckdb"),
        # A warehouse of its own has a ledger of its own: what was built is remembered beside what was built.
        "LINEAGE_ORCH_LEDGER": f"sqlite:///{DEMO / 'ledger.db'}",
        "DBT_TARGET_PATH": str(DEMO / "target"),
        "DBT_LOG_PATH": str(DEMO / "logs"),
        "PREFECT_HOME": str(DEMO / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
    for name in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE"):
        os.environ.pop(name, None)
    os.chdir(HERE)  # where pyproject.toml holds the settings of lineage_orch
    sys.path.insert(0, str(HERE.parent))


def _keep_the_log() -> None:
    """Send what Prefect and dbt log to a file: the transcript is the point here."""
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, sys.stderr.fileno())


class Demo:
    """Runs loads and tells what each of them set off, from the ledger and the warehouse."""

    def __init__(self) -> None:
        from rich.console import Console

        from lineage_orch import Orchestrator

        self.console = Console(highlight=False, soft_wrap=True)
        self.orchestrator = Orchestrator()

    def load(self, number: int, title: str, export: Any, source: str) -> None:
        """Run one load; print what it loaded, built, held and did not affect."""
        before, reported = self._ticks(), _written(REPORT)
        self.console.print(f"\n[bold]{number}. {title}[/bold]")
        started = time.monotonic()
        with self._built_shown(before):
            state = export(return_state=True)
        if not state.is_completed():
            why = (state.message or "it gave no reason").removeprefix("Flow run encountered an exception: ")
            self.fail(f"The load of {source} failed, so no model was built: {why}")
        self.console.print(f"   loaded       {source}: {state.result()} rows")
        plan = self.orchestrator.plan()
        if plan.build:
            self.fail(f"The load is complete, but {len(plan.build)} models were not built; {SHOWN_LOG} says why.")
        after = self._ticks()
        below = self._names(self.orchestrator.lineage.downstream(source))
        built = [name for name, tick in after.items() if tick != before[name]]
        held = {name: held for node, held in plan.held.items() if (name := _short(node)) in below}
        self.console.print(f"   built        {_list(built)}", style="green")
        if _written(REPORT) != reported:
            rows = len(REPORT.read_text(encoding="utf-8").splitlines()) - 1
            self.console.print(f"   followed by  sales-report: {rows} products in {REPORT.name}", style="green")
        for name, each in sorted(held.items()):
            waits = _list([_short(source) for source in each.waiting_for])
            self.console.print(f"   held         {name}: waits for the first load of {waits}", style="yellow")
        if same := [name for name in below if name in after and name not in {*built, *held}]:
            self.console.print(f"   unchanged    {_list(same)}: what they read came out the same", style="green")
        others = [name for name in after if name not in below]
        self.console.print(f"   not affected {_list(others, most=2)}", style="dim")
        self.console.print(f"   took         {time.monotonic() - started:.1f} s", style="dim")

    @contextmanager
    def _built_shown(self, before: dict[str, int]) -> Iterator[None]:
        """In a terminal, show each model as the ledger learns that it is built; all of them are printed after."""
        if not self.console.is_terminal:
            yield
            return
        from rich.live import Live

        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                built = [name for name, tick in self._ticks().items() if tick != before[name]]
                live.update("\n".join(f"   built        {name}" for name in built))

        with Live(console=self.console, transient=True) as live:
            watching = threading.Thread(target=watch)
            watching.start()
            try:
                yield
            finally:
                done.set()
                watching.join()

    def observe(self, number: int, title: str, source: str) -> None:
        """Look at the sources that no flow loads; print what was found and built."""
        self.console.print(f"\n[bold]{number}. {title}[/bold]")
        found = self.orchestrator.observe()
        if source not in {".".join(each.split(".")[-2:]) for each in found.recorded}:
            self.fail(f"{source} was not seen: " + " ".join(found.lines({each: each for each in found.asked})))
        self.console.print(f"   observed     {source}: it was written since the last look")
        built = sorted(_short(each) for each in self.orchestrator.build().built)
        self.console.print(f"   built        {_list(built)}", style="green")

    def query(self, title: str, sql: str) -> None:
        """Print the rows of a query on the warehouse."""
        import duckdb
        from rich import box
        from rich.table import Table

        with duckdb.connect(os.environ["EXAMPLE_WAREHOUSE"], read_only=True) as connection:
            cursor = connection.execute(sql)
            columns = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
        table = Table(*columns, title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE)
        for row in rows:
            table.add_row(*map(str, row))
        self.console.print(table)

    def fail(self, why: str) -> None:
        """End the demo with one line."""
        self.console.print(f"\n{why}", style="red")
        raise SystemExit(1)

    def _ticks(self) -> dict[str, int]:
        nodes = self.orchestrator.ledger.snapshot(history_of=()).nodes
        lineage = self.orchestrator.lineage
        return {_short(node): nodes[node].tick if node in nodes else 0 for node in lineage.nodes}

    def _names(self, unique_ids: frozenset[str]) -> set[str]:
        return {_short(each) for each in unique_ids}


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _short(unique_id: str) -> str:
    return unique_id.rpartition(".")[2]


def _list(names: list[str], most: int = 9) -> str:
    shown = sorted(names)[:most]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown) + more or "nothing"


def main() -> None:
    """Run the demo; exits with 1 and one line if a load or a build fails."""
    _prepare()
    _keep_the_log()
    started = time.monotonic()
    print("Starting: Prefect and dbt are imported, a temporary Prefect server comes up (half a minute) ...", flush=True)
    from example_project.api_server import generate, serve

    with ExitStack() as stack:
        shop = generate()
        if "DUMMYJSON_BASE_URL" not in os.environ:
            os.environ["DUMMYJSON_BASE_URL"] = stack.enter_context(serve(shop))
        from example_project.ints.dummyjson_carts.flows.api import export as export_carts
        from example_project.ints.dummyjson_posts.flows.api import export as export_posts
        from example_project.ints.dummyjson_products.flows.api import export as export_products
        from example_project.ints.dummyjson_users.flows.api import export as export_users
        from example_project.ints.finance_targets.write_targets import write_targets

        demo = Demo()
        products, carts, users = (f"external_sources.raw_{name}" for name in ("products", "carts", "users"))
        demo.load(1, "The products are loaded for the first time", export_products, products)
        demo.load(2, "Then the carts: what joins products and carts can be built now", export_carts, carts)
        demo.load(3, "Then the users: the last mart that was held is built", export_users, users)
        shop.update(generate(day=1))
        demo.load(
            4,
            "A day later the products come again: what is downstream of them is built, and nothing else",
            export_products,
            products,
        )
        demo.load(
            5, "The same products once more: nothing below the staging models is built", export_products, products
        )
        demo.load(6, "The posts, by a pipeline of dlt: what was held for them is built", export_posts, "blog.posts")
        write_targets(age=timedelta(minutes=5))
        demo.observe(7, "A script that reports nothing has written the targets: they are observed", "finance.targets")
        demo.query(
            "mart_product_sales, joined from two loads",
            "select product_id, title, category, units_sold, net_sales from mart_product_sales "
            "order by net_sales desc limit 5",
        )
        demo.query(
            "When each table was built: the fourth load left the others as they were",
            " union all ".join(
                f"select '{name}' as table_name, count(*) as rows, "
                f"strftime(max(built_at), '%H:%M:%S') as built_at_utc from {name}"
                for name in (
                    "stage_dummyjson__products",
                    "mart_product_sales",
                    "mart_customer_revenue",
                    "stage_dummyjson__carts",
                    "stage_dummyjson__users",
                    "mart_orders",
                    "mart_department_spend",
                )
            ),
        )
        demo.console.print(f"Done in {time.monotonic() - started:.0f} s. The log of Prefect and dbt: {SHOWN_LOG}")


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        print(f"The demo stopped: {error}\nThe whole story is in {SHOWN_LOG}.", flush=True)
        raise
