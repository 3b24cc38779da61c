"""Which dbt runs a project: dbt-core in this process, an executable, or a job of dbt Cloud."""

from __future__ import annotations

from importlib import util
from typing import TYPE_CHECKING

from lineage_orch.dbt.engine import DbtEngine
from lineage_orch.dbt.executable import chosen_executable, named_executable
from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import SettingsError
from lineage_orch.settings import DBT_CLOUD, LineageOrchSettings

if TYPE_CHECKING:
    from lineage_orch.dbt.process import ProcessDbt


def choose_dbt(project: DbtProject, settings: LineageOrchSettings) -> DbtEngine:
    """Return what runs dbt for a project, as the setting ``dbt`` says.

    With no such setting: dbt-core 1.x in this process where it and prefect-dbt are installed, else the ``dbt`` beside
    this Python, else the one on PATH. Nothing is run or imported here: that there is none is said when one is needed.

    Raises:
        SettingsError: ``dbt`` is ``dbt-cloud``, and what talks to it is not installed.
    """
    if settings.dbt == DBT_CLOUD:
        if util.find_spec("requests") is None:
            raise SettingsError(
                "dbt 'dbt-cloud' needs requests, which is not installed: pip install 'lineage_orch[cloud]'"
            )
        from lineage_orch.dbt.cloud import CloudDbt

        return CloudDbt(project, settings)
    executable = chosen_executable(settings)
    if executable is None:
        from lineage_orch.dbt.in_process import DbtRunner

        return DbtRunner(project, settings)
    from lineage_orch.dbt.process import ProcessDbt

    return ProcessDbt(project, settings, executable)


def dbt_for_commands(project: DbtProject, settings: LineageOrchSettings) -> ProcessDbt:
    """Return what runs the dbt commands that a person types: the executable of the setting, or that beside this Python.

    Raises:
        SettingsError: ``dbt`` is ``dbt-cloud``.
    """
    if settings.dbt == DBT_CLOUD:
        raise SettingsError(
            "dbt Cloud runs jobs, and no commands that are typed here; use `lineage-orch build --select ...`"
        )
    from lineage_orch.dbt.process import ProcessDbt

    return ProcessDbt(project, settings, named_executable(settings))
