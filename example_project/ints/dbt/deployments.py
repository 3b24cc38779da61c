"""One deployment for all of dbt: what a load affects is built when it completes; once an hour, what was lost."""

from ints.common.deploy_factory import in_this_folder
from prefect.deployments.runner import RunnerDeployment

from lineage_orch.deployments import dbt_deployment


def deployments(pool: str | None = None) -> list[RunnerDeployment]:
    """Return the deployment `build-affected/ints`."""
    job_variables = in_this_folder() if pool else None
    return [dbt_deployment("ints", tags=["ints"], work_pool_name=pool, job_variables=job_variables)]
