"""What people write without us: a deployment for each source, that each load runs, on a Prefect server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from prefect import flow


@flow
def build_below(source: str) -> None:
    """Build all that is below one source."""
    subprocess.run(["dbt", "build", "--select", f"source:raw.{source}+"], check=True, stdout=subprocess.DEVNULL)


def serve() -> None:
    """Serve one deployment, one run at a time: DuckDB, as many a warehouse's locks, bears no more."""
    from prefect import serve
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    serve(build_below.to_deployment("dbt", concurrency_limit=one))


def load() -> None:
    """Make the loads: each runs its deployment when it has completed."""
    from prefect.deployments import run_deployment

    from benchmarks.peers.project import Load, loads, run_loads, write_source

    raw = Path(os.environ["PEERS_RAW"])

    @flow
    def load_table(source: str, number: int) -> None:
        write_source(raw, source, number)

    def load_one(load: Load) -> None:
        load_table(load.source, load.number)
        run_deployment("build-below/dbt", parameters={"source": load.source}, timeout=0)

    run_loads(raw, Path(os.environ["PEERS_DONE"]), load_one, loads(*json.loads(os.environ["PEERS_LOADS"])))


if __name__ == "__main__":
    {"serve": serve, "load": load}[sys.argv[1]]()
