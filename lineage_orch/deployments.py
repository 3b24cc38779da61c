"""The dbt deployment: one run of ``build_affected`` at a time, for one dbt project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron, Interval, Schedule
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from lineage_orch.errors import SettingsError, did_you_mean
from lineage_orch.flows import build_affected
from lineage_orch.lineage.policy import read_duration
from lineage_orch.loads.tags import ALLOWS, BUILDS
from lineage_orch.settings import LineageOrchSettings, to_json
from lineage_orch.text import one_line

RESYNC = "17 * * * *"
"""Each hour, away from the full one, when loads come: a cron."""
When = str | timedelta | Literal[False] | None
_ANCHOR = datetime(2026, 1, 1, 0, 17, tzinfo=UTC)


def dbt_deployment(
    name: str = "dbt",
    *,
    resync: When = RESYNC,
    observe: When = None,
    allow: Iterable[str] = (),
    tags: Iterable[str] = (),
    description: str | None = None,
    work_pool_name: str | None = None,
    work_queue_name: str | None = None,
    job_variables: Mapping[str, Any] | None = None,
    **settings: Any,
) -> RunnerDeployment:
    """Return the deployment ``build-affected/<name>``, which loads trigger.

    A run builds what is stale, whatever set it off. The hourly schedule is a safety net, as controllers have one: it
    finds loads that were lost on the way, and what a build that was killed left stale.

    Hand it to ``serve(...)`` with your other deployments, or call ``.apply()`` on it for a work pool. One run at a
    time; the others wait on the server, without a process, until the one that runs takes over their work.

    Args:
        name: of the deployment; loads name it in the setting ``deployment``, as ``build-affected/<name>``.
        resync: when to look for what was lost, as a cron or an interval (``"6h"``); None or False: never.
        observe: when to look at the sources for loads that nothing reports, as a cron or an interval (``"15m"``), and
            then build; None or False: never.
        allow: the settings that whoever starts a run may replace among its parameters, such as ``dbt_flags``; all
            others are those of the deployment. Whoever may start runs may then run what these name.
        tags: more tags for its runs.
        description: for the UI.
        work_pool_name: for a worker; leave it out for ``serve``.
        work_queue_name: of that pool.
        job_variables: of that pool.
        settings: single settings of lineage_orch that replace those of the worker's environment and pyproject.toml.
            They are stored with the deployment, for all to read: the ledger's url and tokens are none of them.

    Raises:
        SettingsError: a setting is unknown or cannot be read, or is the ledger's url or a token; or ``resync``,
            ``observe`` or ``allow`` cannot be read.
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
    allow = tuple(allow)
    known = LineageOrchSettings.model_fields.keys() - {"ledger", "dbt_cloud_token"}
    for each in allow:
        if each not in known:
            raise SettingsError(
                f"allow names {each!r}, which is no setting that a run may replace{did_you_mean(each, known)}"
            )
    read = LineageOrchSettings(**settings)
    given = to_json({name: getattr(read, name) for name in settings})
    deployment = build_affected.to_deployment(
        name,
        schedules=_schedules("resync", resync) + _schedules("observe", observe, observe=True),
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        parameters={"settings": given} if given else {},
        tags=[BUILDS, *(f"{ALLOWS}{each}" for each in allow), *tags],
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


def _schedules(name: str, when: When, **parameters: Any) -> list[Schedule]:
    """Return a schedule for the argument of this name; ``parameters``: what its runs are given of their own.

    It has no slug: of schedules with slugs, Prefect's server keeps those that are not asked for any more.
    """
    if when is None or when is False:
        return []
    try:
        length = when if isinstance(when, timedelta) else read_duration(when)
        if length is None:
            return [Cron(str(when), parameters=parameters)]
        if length <= timedelta(0):
            raise ValueError("it is no time at all")
        # Counted from a fixed time: else each start of `serve` would put the next run off by an interval.
        return [Interval(length, anchor_date=_ANCHOR, parameters=parameters)]
    except (ValueError, OverflowError) as error:
        reason = one_line(error.errors()[0]["msg"] if isinstance(error, ValidationError) else error)
        raise SettingsError(
            f"{name} {when!r} cannot be read ({reason}); write a cron such as {RESYNC!r}, an interval such as '15m' or "
            "timedelta(hours=1), or None for no schedule"
        ) from None


def serve_dbt(name: str = "dbt", **options: Any) -> None:
    """Serve the dbt deployment alone, until interrupted; ``options`` are those of :func:`dbt_deployment`."""
    serve(dbt_deployment(name, **options))
