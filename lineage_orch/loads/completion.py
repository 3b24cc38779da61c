"""What happens when a load completes: the completion, and the protocol of what it sets off."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lineage_orch.updates import SourceUpdate

Logger = logging.Logger | logging.LoggerAdapter[Any]


@dataclass(frozen=True)
class Completion:
    """A producer's run that completed.

    ``updates``: what got new data. ``declared``: all that the producer declares: the sources of this run, and the
    templates and wildcards as written. ``may_wait``: whether waiting for the build would harm nothing (no timeout
    and no concurrency lease covers the hook).
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
