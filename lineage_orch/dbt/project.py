"""Where a dbt project is, what it is called, and whether its manifest is up to date."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineage_orch.dbt.command import check_flags
from lineage_orch.errors import DbtError, SettingsError
from lineage_orch.settings import LineageOrchSettings

_RESOURCE_PATHS = {
    "model-paths": ("models",),
    "seed-paths": ("seeds",),
    "snapshot-paths": ("snapshots",),
    "test-paths": ("tests",),
    "analysis-paths": ("analyses",),
    "macro-paths": ("macros",),
    "function-paths": ("functions",),
}
_PROJECT_FILES = ("dbt_project.yml", "packages.yml", "dependencies.yml", "package-lock.yml", "selectors.yml")


@dataclass(frozen=True)
class DbtProject:
    """A dbt project on disk, and the target that is built.

    ``name`` and ``target`` together name the ledger's scope: one warehouse, one ledger.
    """

    directory: Path
    profiles_dir: Path
    name: str
    target: str
    target_path: Path
    resource_paths: tuple[Path, ...]

    @property
    def manifest_path(self) -> Path:
        """Where dbt writes this project's manifest."""
        return self.target_path / "manifest.json"

    @property
    def state_dir(self) -> Path:
        """The folder of the default ledger: beside the project's file, where ``dbt clean`` does not reach."""
        return self.directory / ".lineage_orch"

    @property
    def ledger_url(self) -> str:
        """The default ledger."""
        return f"sqlite:///{self.state_dir / 'ledger.db'}"

    def manifest_is_stale(self) -> bool:
        """Whether the manifest is missing, or older than a file of the project."""
        try:
            made = self.manifest_path.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        return any(changed > made for changed in self._changes())

    def _changes(self) -> Iterator[int]:
        """Yield when each file, and each folder (for files that came or went), was last changed (ns)."""
        for name in _PROJECT_FILES:
            path = self.directory / name
            if path.exists():
                yield path.stat().st_mtime_ns
        stack = [path for path in self.resource_paths if path.is_dir()]
        while stack:
            folder = stack.pop()
            yield folder.stat().st_mtime_ns
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        if entry.name != "__pycache__":
                            stack.append(Path(entry.path))
                    else:
                        yield entry.stat().st_mtime_ns

    @classmethod
    def find(cls, settings: LineageOrchSettings) -> DbtProject:
        """Find the project and profile that the settings name.

        Raises:
            SettingsError: there is no dbt project where the settings say, or nearby; or ``dbt_flags`` would move the
                build away from the plan.
            DbtError: dbt_project.yml or profiles.yml cannot be read, or lacks the profile or target.
        """
        check_flags(settings.dbt_flags)
        directory = _project_dir(settings)
        config = _load_yaml(directory / "dbt_project.yml")
        name = config.get("name")
        if not isinstance(name, str):
            raise DbtError(f"{directory / 'dbt_project.yml'} has no `name`; give the project one")
        profiles_dir = _profiles_dir(settings, directory)
        target = settings.target or os.environ.get("DBT_TARGET")
        profile = os.environ.get("DBT_PROFILE") or _render(config.get("profile"))
        target = _target(profiles_dir / "profiles.yml", profile, target, directory)
        target_path = os.environ.get("DBT_TARGET_PATH") or _render(config.get("target-path")) or "target"
        resource_paths = [
            directory / str(path) for key, default in _RESOURCE_PATHS.items() for path in config.get(key) or default
        ]
        return cls(directory, profiles_dir, name, target, directory / target_path, tuple(dict.fromkeys(resource_paths)))


def _project_dir(settings: LineageOrchSettings) -> Path:
    if settings.project_dir is not None:
        directory = settings.project_dir.expanduser().absolute()
        if not (directory / "dbt_project.yml").is_file():
            raise SettingsError(f"no dbt project in {directory}: it has no dbt_project.yml; correct project_dir")
        return directory
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / "dbt_project.yml").is_file():
            return directory
    raise SettingsError(
        f"no dbt project: no dbt_project.yml in {here} or above; set LINEAGE_ORCH_PROJECT_DIR, or project_dir in "
        "[tool.lineage_orch] of pyproject.toml"
    )


def _profiles_dir(settings: LineageOrchSettings, directory: Path) -> Path:
    named = settings.profiles_dir or os.environ.get("DBT_PROFILES_DIR")
    if named:
        profiles_dir = Path(named).expanduser().absolute()
        if not (profiles_dir / "profiles.yml").is_file():
            raise DbtError(f"no profiles.yml in {profiles_dir}; mend profiles_dir (or DBT_PROFILES_DIR)")
        return profiles_dir
    places = (directory, Path.cwd(), Path.home() / ".dbt")
    for place in places:
        if (place / "profiles.yml").is_file():
            return place
    looked = ", ".join(dict.fromkeys(map(str, places)))
    raise DbtError(f"no profiles.yml found (looked in {looked}); write one, or set profiles_dir")


def _target(path: Path, profile: str | None, target: str | None, directory: Path) -> str:
    profiles = _load_yaml(path)
    if not profile:
        raise DbtError(f"{directory / 'dbt_project.yml'} names no `profile`; name one of {path}")
    block = profiles.get(profile)
    if not isinstance(block, Mapping):
        known = ", ".join(map(str, profiles.keys() - {"config"})) or "none"
        raise DbtError(f"no profile {profile!r} (named in {directory / 'dbt_project.yml'}) in {path}; it has: {known}")
    target = target or _render(block.get("target")) or "default"
    outputs = block.get("outputs")
    if not isinstance(outputs, Mapping) or target not in outputs:
        known = ", ".join(map(str, outputs)) if isinstance(outputs, Mapping) else "none"
        raise DbtError(f"profile {profile!r} in {path} has no target {target!r}; it has: {known}")
    return target


def _load_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        # The loader in C, where PyYAML has it, is ten times as fast.
        data = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DbtError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, Mapping):
        raise DbtError(f"{path} holds no YAML mapping")
    return data


def _render(value: object) -> str | None:
    """Render the only Jinja that dbt allows in these places and that we need: ``env_var``."""
    if value is None:
        return None
    text = str(value)
    if "{{" not in text:
        return text
    from jinja2 import Environment, TemplateError

    def env_var(name: str, default: str | None = None) -> str:
        found = os.environ.get(name, default)
        if found is None:
            raise DbtError(f"env_var {name!r} is not set, and {text!r} gives it no default")
        return found

    try:
        return Environment().from_string(text).render(env_var=env_var)
    except TemplateError as error:
        raise DbtError(f"cannot render {text!r}: {error}") from None
