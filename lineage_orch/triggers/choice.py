"""Which trigger a completed load has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lineage_orch.loads.completion import Trigger
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.triggers.deployment import DeploymentTrigger
from lineage_orch.triggers.in_process import InProcessTrigger

_override: list[Trigger] = []


def choose_trigger(own: Trigger | None = None) -> Trigger:
    """Return what a completed load sets off: that of ``using_trigger``, its decorator's own, what the settings say.

    Raises:
        SettingsError: a setting cannot be read.
    """
    if _override:
        return _override[-1]
    if own is not None:
        return own
    settings = LineageOrchSettings()
    if settings.deployment is not None:
        return DeploymentTrigger(settings.deployment, debounce=settings.debounce)
    return InProcessTrigger(settings)


@contextmanager
def using_trigger(trigger: Trigger) -> Iterator[Trigger]:
    """Within the block, every completed load of this process sets off ``trigger`` instead of what the settings say."""
    _override.append(trigger)
    try:
        yield trigger
    finally:
        _override.remove(trigger)
