"""The posts are loaded every hour."""

from ints.common.deploy_factory import deploy_factory
from ints.dummyjson_posts.flows.api import export
from prefect.deployments.runner import RunnerDeployment


def deployments(pool: str | None = None) -> list[RunnerDeployment]:
    """Return the deployments of this integration."""
    return [deploy_factory(export, name="posts", cron="20 * * * *", pool=pool)]
