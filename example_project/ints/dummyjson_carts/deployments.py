"""The carts are loaded every ten minutes."""

from ints.common.deploy_factory import deploy_factory
from ints.dummyjson_carts.flows.api import export
from prefect.deployments.runner import RunnerDeployment


def deployments(pool: str | None = None) -> list[RunnerDeployment]:
    """Return the deployments of this integration."""
    return [deploy_factory(export, name="carts", cron="*/10 * * * *", pool=pool)]
