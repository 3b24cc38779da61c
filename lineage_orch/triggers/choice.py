"""What a completed load sets off: a build in this process, or a run of a Prefect deployment."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

from lineage_orch.errors import TriggerError
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.updates import SourceUpdate

Logger = logging.Logger | logging.LoggerAdapter[Any]


@dataclass(frozen=True)
class Completion:
    """A producer's run that completed.

    ``updates``: what got new data. ``declared``: all sources that the producer declares. ``may_wait``: whether
    waiting for the build would harm nobody (no timeout and no concurrency lease covers the hook).
    """

    updates: tuple[SourceUpdate, ...]
    declared: tuple[str, ...] = ()
    may_wait: bool = True


@runtime_checkable
class Trigger(Protocol):
    """What a completed load sets off. ``fire`` is called in a thread where it may block."""

    def fire(self, completion: Completion, logger: Logger) -> None:
        """Set off the build; raises a LineageOrchError when that cannot be done."""
        ...


class InProcessTrigger:
    """Build in this process, as the Prefect flow ``build_affected``.

    The build runs in a thread of its own, outside the load's timeout, concurrency lease and event loop, and the
    load waits for it. Where waiting could harm the load (a timeout, a deployed run), or when the setting ``wait``
    is off, the build is a process of its own, and this process ends after it.

    Args:
        settings: by default read from the environment and pyproject.toml, at each completed load.
        overrides: single settings to replace.

    Raises:
        SettingsError: a setting cannot be read.
    """

    def __init__(self, settings: LineageOrchSettings | None = None, **overrides: Any) -> None:
        self._settings = settings.with_overrides(**overrides) if settings else None
        self._overrides = {} if settings else overrides
        if overrides:
            LineageOrchSettings(**overrides)  # a wrong name is told where it is written

    @property
    def settings(self) -> LineageOrchSettings:
        """The settings of the builds."""
        return self._settings or LineageOrchSettings(**self._overrides)

    def fire(self, completion: Completion, logger: Logger) -> None:
        """Build what the completion affects; raises TriggerError when the packages that build are missing."""
        settings = self.settings
        _check_builder()
        from lineage_orch.triggers import in_process

        if completion.may_wait and settings.wait:
            in_process.build_and_wait(completion, settings, logger)
        else:
            in_process.build_in_a_process(completion, settings, logger)


class DeploymentTrigger:
    """Launch a run of the ``build_affected`` deployment, and leave.

    The load's process needs only Prefect and this package. The run is linked to the load's as a subflow.

    Args:
        deployment: ``flow/name`` of the deployment.
        debounce: seconds from now until the run is due, so that loads that end together share it.
        attempts: how often the API is asked before giving up.
    """

    def __init__(self, deployment: str, *, debounce: float = 15.0, attempts: int = 2) -> None:
        if "/" not in deployment:
            raise TriggerError(
                f"the deployment {deployment!r} has no flow name; write it as flow/name, such as "
                f"'build-affected/{deployment}'"
            )
        self.deployment = deployment
        self.debounce = debounce
        self.attempts = attempts

    def fire(self, completion: Completion, logger: Logger) -> None:
        """Launch the run; raises TriggerError when the API refuses, or cannot be reached."""
        from lineage_orch.deployed.launch import launch

        launch(self.deployment, completion, logger, debounce=self.debounce, attempts=self.attempts)


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


@cache
def _check_builder() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("dbt", "prefect_dbt", "networkx") if find_spec(name) is None]
    if missing:
        raise TriggerError(
            f"building in this process needs {', '.join(missing)}, which is not installed here: pip install "
            "'lineage_orch[duckdb]' (or [dbt] and your adapter), or set LINEAGE_ORCH_DEPLOYMENT to the deployment "
            "that builds elsewhere"
        )
