"""The deployments of the Prefect API that have a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lineage_orch.errors import SettingsError

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Deployment:
    """A Prefect deployment with a schedule: ``flow/name``, the schedules as text, and its parameters."""

    name: str
    schedules: tuple[str, ...]
    parameters: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    entrypoint: str | None = None

    @property
    def runs_dbt(self) -> bool:
        """Whether it looks like one that runs dbt, and is not ours, which may well have a schedule for what is held."""
        from lineage_orch.loads.tags import BUILDS  # with Prefect, which a check on its own does not need

        words = (self.name, self.entrypoint or "", *self.tags)
        return BUILDS not in self.tags and any("dbt" in word.lower() for word in words)


def scheduled_deployments() -> list[Deployment]:
    """Return the deployments of the Prefect API that have an active schedule.

    Raises:
        SettingsError: the API cannot be reached.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise SettingsError(
            "--deployments asks the Prefect API, and PREFECT_API_URL is not set; set it to your server's"
        )
    found: list[Deployment] = []
    try:
        with get_client(sync_client=True) as client:
            flows: dict[Any, str] = {}
            while page := client.read_deployments(limit=_PAGE, offset=len(found)):
                for each in page:
                    if each.flow_id not in flows:
                        flows[each.flow_id] = client.read_flow(each.flow_id).name
                    schedules = () if each.paused else tuple(_schedule(one) for one in each.schedules if one.active)
                    name = f"{flows[each.flow_id]}/{each.name}"
                    found.append(Deployment(name, schedules, each.parameters or {}, tuple(each.tags), each.entrypoint))
    # httpx's errors and Prefect's own have no common parent; each of them means the same here.
    except Exception as error:  # noqa: BLE001
        raise SettingsError(
            f"the Prefect API at {PREFECT_API_URL.value()} does not answer ({type(error).__name__}: {error}); "
            "correct PREFECT_API_URL, or leave out --deployments"
        ) from None
    return [each for each in found if each.schedules]


def _schedule(schedule: Any) -> str:
    of_it = schedule.schedule
    cron, interval = getattr(of_it, "cron", None), getattr(of_it, "interval", None)
    if cron:
        return f"cron {cron}"
    return f"every {interval}" if interval else "rrule"
