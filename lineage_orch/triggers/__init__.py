"""What a completed load sets off: a build in this process, or a run of a Prefect deployment."""

from __future__ import annotations

from lineage_orch.triggers.choice import (
    Completion,
    DeploymentTrigger,
    InProcessTrigger,
    Logger,
    Trigger,
    choose_trigger,
    using_trigger,
)

__all__ = [
    "Completion",
    "DeploymentTrigger",
    "InProcessTrigger",
    "Logger",
    "Trigger",
    "choose_trigger",
    "using_trigger",
]
