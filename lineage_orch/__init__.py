"""lineage_orch: build exactly the dbt models downstream of a source, when its load completes.

The public names, each loaded when it is first used: a load needs no dbt, no networkx and no SQLAlchemy, and
pays for none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineage_orch.errors import (
        BuildFailedError,
        DbtError,
        LedgerError,
        LineageError,
        LineageOrchError,
        ManifestError,
        PolicyError,
        ProducerError,
        SettingsError,
        TriggerError,
        UnknownNodeError,
        UnknownSourceError,
    )
    from lineage_orch.flows import build_affected
    from lineage_orch.ledger import Ledger, LedgerSnapshot
    from lineage_orch.lineage import Lineage
    from lineage_orch.loads.fingerprints import fingerprint_of
    from lineage_orch.loads.following import follows
    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.plan import BuildPlan, Held, plan_builds
    from lineage_orch.producers import mark_updated, produces_source
    from lineage_orch.reports.build_report import BuildReport
    from lineage_orch.settings import LineageOrchSettings
    from lineage_orch.triggers import DeploymentTrigger, InProcessTrigger
    from lineage_orch.updates import SourceUpdate

__version__ = "0.1.0"

_HOMES = {
    "errors": (
        "BuildFailedError",
        "DbtError",
        "LedgerError",
        "LineageError",
        "LineageOrchError",
        "ManifestError",
        "PolicyError",
        "ProducerError",
        "SettingsError",
        "TriggerError",
        "UnknownNodeError",
        "UnknownSourceError",
    ),
    "flows": ("build_affected",),
    "ledger": ("Ledger", "LedgerSnapshot"),
    "lineage": ("Lineage",),
    "loads.fingerprints": ("fingerprint_of",),
    "loads.following": ("follows",),
    "orchestrator": ("Orchestrator",),
    "plan": ("BuildPlan", "Held", "plan_builds"),
    "producers": ("mark_updated", "produces_source"),
    "reports.build_report": ("BuildReport",),
    "settings": ("LineageOrchSettings",),
    "triggers": ("DeploymentTrigger", "InProcessTrigger"),
    "updates": ("SourceUpdate",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BuildFailedError",
    "BuildPlan",
    "BuildReport",
    "DbtError",
    "DeploymentTrigger",
    "Held",
    "InProcessTrigger",
    "Ledger",
    "LedgerError",
    "LedgerSnapshot",
    "Lineage",
    "LineageError",
    "LineageOrchError",
    "LineageOrchSettings",
    "ManifestError",
    "Orchestrator",
    "PolicyError",
    "ProducerError",
    "SettingsError",
    "SourceUpdate",
    "TriggerError",
    "UnknownNodeError",
    "UnknownSourceError",
    "build_affected",
    "fingerprint_of",
    "follows",
    "mark_updated",
    "plan_builds",
    "produces_source",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith(__name__):
            raise
        raise ModuleNotFoundError(
            f"lineage_orch.{name} needs {missing.name}, which is not installed here: pip install "
            "'lineage_orch[duckdb]' (or [dbt] and the adapter of your warehouse)",
            name=missing.name,
        ) from missing
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
