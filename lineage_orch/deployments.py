"""The dbt deployment: one run of ``build_affected`` at a time, for one dbt project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from lineage_orch.errors import SettingsError
from lineage_orch.flows import build_affected
from lineage_orch.loads.tags import BUILDS
from lineage_orch.settings import LineageOrchSettings, to_json


def dbt_deployment(
    name: str = "dbt",
    *,
    tags: Iterable[str] = (),
    description: str | None = None,
    work_pool_name: str | None = None,
    work_queue_name: str | None = None,
    job_variables: Mapping[str, Any] | None = None,
    **settings: Any,
) -> RunnerDeployment:
    """Return the deployment ``build-affected/<name>``, which loads trigger; it needs no schedule.

    Hand it to ``serve(...)`` with your other deployments, or call ``.apply()`` on it for a work pool. One run at a
    time; the others wait on the server, without a process, until the one that runs takes over their work.

    Args:
        name: of the deployment; loads name it in the setting ``deployment``, as ``build-affected/<name>``.
        tags: more tags for its runs.
        description: for the UI.
        work_pool_name: for a worker; leave it out for ``serve``.
        work_queue_name: of that pool.
        job_variables: of that pool.
        settings: single settings of lineage_orch that replace those of the worker's environment and pyproject.toml.
            They are stored with the deployment, for all to read: the ledger's url and tokens are none of them.

    Raises:
        SettingsError: a setting is unknown or cannot be read, or is the ledger's url or a token.
    """
    if "/" in name:
        raise SettingsError(f"the deployment's name {name!r} holds a slash; leave out its flow's name, build-affected/")
    if "ledger" in settings:
        raise SettingsError(
            "the ledger's url may hold a password, and a deployment's parameters are for all to read: set "
            "LINEAGE_ORCH_LEDGER in the environment of the dbt worker"
        )
    if "dbt_cloud_token" in settings:
        raise SettingsError(
            "a token is a secret, and a deployment's parameters are for all to read: set LINEAGE_ORCH_DBT_CLOUD_TOKEN "
            "in the environment of the dbt worker, or name a block in dbt_cloud_credentials"
        )
    read = LineageOrchSettings(**settings)
    given = to_json({name: getattr(read, name) for name in settings})
    deployment = build_affected.to_deployment(
        name,
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        parameters={"settings": given} if given else {},
        tags=[BUILDS, *tags],
        description=description,
        work_pool_name=work_pool_name,
        work_queue_name=work_queue_name,
        job_variables=dict(job_variables) if job_variables else None,
        # The installed package, wherever the worker runs.
        entrypoint_type=EntrypointType.MODULE_PATH,
        _sync=True,  # type: ignore[call-arg]
    )
    assert isinstance(deployment, RunnerDeployment)
    return deployment


def serve_dbt(name: str = "dbt", **options: Any) -> None:
    """Serve the dbt deployment alone, until interrupted; ``options`` are those of :func:`dbt_deployment`."""
    serve(dbt_deployment(name, **options))
