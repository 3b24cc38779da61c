"""What a run of the deployment may be told by whoever starts it.

Whoever may start a run chooses its parameters, in Prefect's UI too. The settings among them name the project whose code
runs, the dbt that runs it, its flags and variables, the modules that are imported, and the ledger: so they are the
deployment's own, as it stores them, but for those that it lets its runs replace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lineage_orch.errors import SettingsError
from lineage_orch.loads.completion import Logger
from lineage_orch.loads.tags import ALLOWS, TRIGGERED, WAKE_UP
from lineage_orch.text import listed

_ABSENT = object()


def settings_of_run(
    given: Mapping[str, Any],
    stored: Mapping[str, Any],
    *,
    deployment_tags: Iterable[str],
    run_tags: Iterable[str],
    logger: Logger,
) -> dict[str, Any]:
    """Return the settings with which a run of the deployment builds.

    A run that a load or an earlier run set off, before the deployment was stored anew, builds as the deployment says
    now, with a warning: what it brings must not be lost.

    Args:
        given: the settings among the run's parameters.
        stored: those that the deployment stores.
        deployment_tags: of the deployment, which say what its runs may replace.

    Raises:
        SettingsError: a person's run replaces what it may not; names alone are told, since a value may be secret.
    """
    allowed = {tag.removeprefix(ALLOWS) for tag in deployment_tags if tag.startswith(ALLOWS)}
    replaced = sorted(
        name for name in {*given, *stored} - allowed if given.get(name, _ABSENT) != stored.get(name, _ABSENT)
    )
    if not replaced:
        return dict(given)
    if {TRIGGERED, WAKE_UP}.isdisjoint(run_tags):
        names = ", ".join(map(repr, replaced))
        raise SettingsError(
            f"this run was started with another {listed(replaced, most=9)} than its deployment stores, which a run may "
            f"not replace. Start it without, or deploy with dbt_deployment(..., allow=[{names}])"
        )
    logger.warning(
        "This run was set off with another %s than its deployment stores; it builds as the deployment says.",
        listed(replaced, most=9),
    )
    return {name: value for name, value in given.items() if name in allowed} | {
        name: value for name, value in stored.items() if name not in allowed or name not in given
    }
