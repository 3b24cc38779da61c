"""What a completed load sets off: a build in this process, or a run of a Prefect deployment; and the hook itself."""

from __future__ import annotations

from lineage_orch.loads.completion import Completion, Logger, Trigger
from lineage_orch.triggers.choice import choose_trigger, using_trigger
from lineage_orch.triggers.deployment import DeploymentTrigger
from lineage_orch.triggers.in_process import InProcessTrigger

__all__ = [
    "Completion",
    "DeploymentTrigger",
    "InProcessTrigger",
    "Logger",
    "Trigger",
    "choose_trigger",
    "using_trigger",
]
