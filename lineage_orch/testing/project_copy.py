"""A throw-away copy of a dbt project and its DuckDB target, for a test to build into."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lineage_orch.dbt.profile import anchored, database_of_file
from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import DbtError
from lineage_orch.settings import LineageOrchSettings

_NOT_COPIED = shutil.ignore_patterns(
    "target", "logs", ".git", ".lineage_orch", "__pycache__", ".venv", "*.duckdb", "*.duckdb.wal", "*.db", "*.db.wal"
)


@dataclass(frozen=True)
class ProjectCopy:
    """A copy of a dbt project with a target of its own.

    ``project_dir``: the copy. ``warehouse``: its DuckDB file, which does not exist yet; put there the raw tables
    that a test needs. ``settings``: point to the copy, its profile and a ledger of its own.
    """

    project_dir: Path
    warehouse: Path
    settings: LineageOrchSettings


def copy_project(settings: LineageOrchSettings, folder: Path, *, manifest: Path | None = None) -> ProjectCopy:
    """Copy a dbt project into a folder, with a profile whose DuckDB file lies there too.

    All else of the profile stays, and still counts its paths from where it was (``flags.PROFILES_DIR``), so raw files
    are read where they lie. What dbt would write beside the database, it writes into the folder (``external_root``),
    and databases that the profile attaches are opened read-only.

    Args:
        settings: of the project to copy.
        folder: where to; it must be empty or not there yet.
        manifest: a manifest of the project as it stands, to start from.

    Raises:
        DbtError: the target is of another adapter than DuckDB, or the profile cannot be read.
        SettingsError: there is no dbt project.
    """
    project = DbtProject.find(settings)
    profile, output = project.profile.name, dict(project.profile.output)
    if output.get("type") != "duckdb":
        raise DbtError(
            f"a throw-away copy can be made of a DuckDB target only, and target {project.target!r} of profile "
            f"{profile!r} in {project.profiles_dir / 'profiles.yml'} is of type {output.get('type')!r}: a test would "
            "write to a real warehouse. Name a DuckDB target for tests (LINEAGE_ORCH_TARGET), or override the fixture "
            "`orchestrator` with one of your own, on a schema that tests may write to"
        )
    copy = folder / "project" / project.directory.name
    shutil.copytree(project.directory, copy, ignore=_NOT_COPIED)
    warehouse = folder / "warehouse" / f"{_database(output.get('path'), project.profiles_dir)}.duckdb"
    warehouse.parent.mkdir()
    _write_profile(folder / "profiles", profile, project, output, warehouse)
    own = settings.with_overrides(
        project_dir=copy,
        profiles_dir=folder / "profiles",
        target=project.target,
        manifest=None,
        ledger=f"sqlite:///{folder / 'ledger.db'}",
        deployment=None,
    )
    if manifest is not None:
        copied = DbtProject.find(own)
        copied.target_path.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest, copied.manifest_path)
        copied.note_manifest()
    return ProjectCopy(copy, warehouse, own)


def _write_profile(folder: Path, profile: str, project: DbtProject, output: Mapping[str, Any], warehouse: Path) -> None:
    import yaml

    mine = anchored(dict(output), project.profiles_dir)
    mine["path"] = str(warehouse)
    mine["external_root"] = str(warehouse.parent / "external")
    for attached in mine.get("attach") or ():
        if isinstance(attached, dict):
            attached["read_only"] = True
    (warehouse.parent / "external").mkdir()
    folder.mkdir()
    text = yaml.safe_dump({profile: {"target": project.target, "outputs": {project.target: mine}}}, sort_keys=False)
    (folder / "profiles.yml").write_text(text, encoding="utf-8")


def _database(path: object, profiles_dir: Path) -> str:
    """Return the name of the database, which dbt-duckdb takes from the file: sources may name it."""
    from jinja2 import TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    text = str(path or "memory")
    if "{{" in text:
        try:
            text = (
                SandboxedEnvironment()
                .from_string(text)
                .render(
                    env_var=lambda name, default="warehouse": os.environ.get(name, default),
                    flags=SimpleNamespace(PROFILES_DIR=profiles_dir.as_posix()),
                )
            )
        except TemplateError:
            text = "warehouse"
    return database_of_file(text) or "warehouse"
