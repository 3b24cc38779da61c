"""The products are loaded every quarter of an hour."""

from ints.common.deploy_factory import deploy_factory
from ints.dummyjson_products.flows.api import export
from prefect.deployments.runner import RunnerDeployment


def deployments(pool: str | None = None) -> list[RunnerDeployment]:
    """Return the deployments of this integration."""
    return [deploy_factory(export, name="products", cron="*/15 * * * *", pool=pool)]
