"""A completed load launches a run of the deployment that builds."""

from __future__ import annotations

from lineage_orch.deployed.launch import launch
from lineage_orch.errors import TriggerError
from lineage_orch.loads.completion import Completion, Logger


class DeploymentTrigger:
    """Launch a run of the ``build_affected`` deployment, and leave.

    The load's process needs only Prefect and this package. The run is linked to the load's as a subflow.

    Args:
        deployment: ``flow/name`` of the deployment.
        debounce: seconds from now until the run is due, so that loads that end together share it.
        attempts: how often the API is asked before giving up.

    Raises:
        TriggerError: the deployment's name holds no flow name.
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
        launch(self.deployment, completion, logger, debounce=self.debounce, attempts=self.attempts)
