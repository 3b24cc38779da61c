"""How a load of this monorepo is deployed: with a cron of its own, and not a word about dbt."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect.deployments.runner import RunnerDeployment
from prefect.flows import Flow

from lineage_orch.tagging import producer_tags

# What a completed load sets off; ints/dbt/deployments.py makes it.
DBT_DEPLOYMENT = os.environ.get("LINEAGE_ORCH_DEPLOYMENT", "build-affected/ints")


# Where flows are found, and pyproject.toml is read.
HERE = Path(__file__).resolve().parents[2]


def in_this_folder(**env: str) -> dict[str, Any]:
    """Return the job variables by which a process work pool runs flows in this monorepo on this machine."""
    return {"working_dir": str(HERE), "env": env}


def deploy_factory(
    flow: Flow[Any, Any], *, name: str, cron: str, pool: str | None = None, tags: Iterable[str] = ()
) -> RunnerDeployment:
    """Return the deployment of a load."""
    return flow.to_deployment(
        name,
        cron=cron,
        tags=["ints", *producer_tags(flow, DBT_DEPLOYMENT), *tags],
        work_pool_name=pool,
        # In a pool, a load needs to know whom to tell. Nothing else of dbt concerns it.
        job_variables=in_this_folder(LINEAGE_ORCH_DEPLOYMENT=DBT_DEPLOYMENT) if pool else None,
        _sync=True,
    )
