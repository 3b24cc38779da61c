"""lineage_orch on a Prefect server: one dbt deployment, and loads that trigger it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def serve() -> None:
    """Serve the dbt deployment."""
    from lineage_orch.deployments import serve_dbt

    serve_dbt()


def load() -> None:
    """Make the loads: a flow for each source."""
    from prefect import flow

    from benchmarks.peers.project import Load, loads, run_loads, write_source
    from lineage_orch import DeploymentTrigger, produces_source

    raw = Path(os.environ["PEERS_RAW"])
    trigger = DeploymentTrigger("build-affected/dbt", debounce=float(os.environ["PEERS_DEBOUNCE"]))

    @produces_source("raw.{source}", trigger=trigger)
    @flow
    def load_table(source: str, number: int) -> None:
        write_source(raw, source, number)

    def load_one(load: Load) -> None:
        load_table(load.source, load.number)

    run_loads(raw, Path(os.environ["PEERS_DONE"]), load_one, loads(*json.loads(os.environ["PEERS_LOADS"])))


if __name__ == "__main__":
    {"serve": serve, "load": load}[sys.argv[1]]()
