"""The users are loaded on the hour."""

from ints.common.deploy_factory import deploy_factory
from ints.dummyjson_users.flows.api import export
from prefect.deployments.runner import RunnerDeployment


def deployments(pool: str | None = None) -> list[RunnerDeployment]:
    """Return the deployments of this integration."""
    return [deploy_factory(export, name="users", cron="0 * * * *", pool=pool)]
