"""Where a dbt project is, what it is called, and whether its manifest is up to date."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage_orch.dbt.command import check_flags
from lineage_orch.dbt.compat import PARTIAL_PARSE, parsed_by_same_call
from lineage_orch.dbt.executable import chosen_executable, release_of
from lineage_orch.dbt.inputs import OTHER_COMMAND, Inputs, Record, digest, files_of
from lineage_orch.dbt.profile import Profile, load_yaml, of_cloud_job, render
from lineage_orch.errors import DbtError, SettingsError
from lineage_orch.lineage.identity import overlay_vars
from lineage_orch.settings import DBT_CLOUD, LineageOrchSettings

if TYPE_CHECKING:
    from lineage_orch.ledger import Ledger

_RESOURCE_PATHS = {
    "model-paths": ("models",),
    "seed-paths": ("seeds",),
    "snapshot-paths": ("snapshots",),
    "test-paths": ("tests",),
    "analysis-paths": ("analyses",),
    "macro-paths": ("macros",),
    "function-paths": ("functions",),
}


@dataclass(frozen=True)
class DbtProject:
    """A dbt project on disk, and the target that is built.

    ``name``, ``target`` and ``place`` together name the ledger's scope: one warehouse, one ledger.

    Attributes:
        directory: the folder of its dbt_project.yml.
        name: as there.
        profile: the target that is built.
        target_path: where dbt writes its artifacts. Whoever sets neither a target nor vars shares the project's own
            with those who type dbt commands: so they share its partial parse too, which dbt throws away when
            ``--target`` or ``--vars`` come or go. Each other pair of the two has a folder of its own, and so has each
            job of dbt Cloud.
        shared_target_path: the project's own, whoever uses it.
        resource_paths: the folders of its models, seeds, and so on.
        packages: the folder in which its packages are installed.
        passed_target: the target to pass to dbt; None where dbt finds it by itself.
        vars: to pass to dbt.
        vars_of_code: the values that code reads: ``vars`` of dbt_project.yml with those that are passed over them.
        executable: the dbt that runs it; None for dbt-core in this process, and for a job of dbt Cloud.
    """

    directory: Path
    name: str
    profile: Profile = field(repr=False)
    target_path: Path
    shared_target_path: Path
    resource_paths: tuple[Path, ...]
    packages: Path
    passed_target: str | None
    vars: Mapping[str, Any] = field(repr=False)
    vars_of_code: Mapping[str, Any] = field(default_factory=dict, repr=False)
    executable: str | None = None

    @property
    def target(self) -> str:
        """The name of the target that is built."""
        return self.profile.target

    @property
    def profiles_dir(self) -> Path:
        """The folder of profiles.yml."""
        return self.profile.folder

    @cached_property
    def place(self) -> str:
        """``database.schema`` of the target: two people whose targets have the same name build in different ones.

        Raises:
            DbtError: it cannot be rendered from the profile.
        """
        return self.profile.place

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

    def has_ledger(self, url: str | None) -> bool:
        """Whether there is a ledger yet, which a question does not make; ``url``: as the setting ``ledger`` has it."""
        return url is not None or (self.state_dir / "ledger.db").exists()

    def open_ledger(self, url: str | None, **options: Any) -> Ledger:
        """Open the ledger, with ``options`` of :class:`~lineage_orch.ledger.Ledger`.

        Raises:
            DbtError: the place of the target cannot be rendered.
            LedgerError: it cannot be opened.
        """
        from lineage_orch.ledger import Ledger

        return Ledger(url or self.ledger_url, project=self.name, target=self.target, place=self.place, **options)

    @property
    def vars_args(self) -> list[str]:
        """The words that hand the vars to dbt."""
        return ["--vars", json.dumps(self.vars, default=str)] if self.vars else []

    @property
    def scope_args(self) -> list[str]:
        """What a user would pass too: dbt parses all anew when ``--target`` or ``--vars`` come or go."""
        return [*(["--target", self.passed_target] if self.passed_target else []), *self.vars_args]

    # The manifest -----------------------------------------------------------------------------------------

    def inputs(self) -> Inputs:
        """Return what a manifest that is made now is made from."""
        call = {
            "the profile": digest([self.profile.name, self.profile.output]),
            "the target": digest(self.target),
            "the place of the target": digest(self._place_or_none()),
            "vars": digest(self.vars),
            "the version of dbt": release_of(self.executable),
        }
        return Inputs(files_of(self.directory, self.resource_paths, self.packages), call)

    def _place_or_none(self) -> str | None:
        try:
            return self.place
        except DbtError:  # dbt says it better, should it ever be asked to parse
            return None

    def stale_because(self) -> str | None:
        """Return why the manifest is not what dbt would make of the project now; None if it is."""
        inputs = self.inputs()
        reason = self._record.differs(inputs)
        return None if reason == OTHER_COMMAND and self._is_made_as_ours(inputs) else reason

    def _is_made_as_ours(self, inputs: Inputs) -> bool:
        """Whether a manifest that another dbt command made is the one that ours would make.

        Beside one there is dbt's partial parse, which tells what dbt was called with. A manifest alone was put there by
        hand, or for a process without dbt, and is taken to be meant.
        """
        if not self._record.is_newer_than_all(inputs, self.directory, [self.profile.path]):
            return False
        if not self.manifest_path.with_name(PARTIAL_PARSE).exists():
            return True
        if "env_var" in json.dumps(self.profile.output, default=str):
            return False  # what it was then cannot be told
        return parsed_by_same_call(
            self.manifest_path,
            vars=self.vars,
            profile=os.environ.get("DBT_PROFILE"),
            target=self.passed_target or os.environ.get("DBT_TARGET"),
            version=release_of(self.executable),
        )

    def manifest_is_stale(self) -> bool:
        """Whether the manifest is missing, or made from something else than what is there now."""
        return self.stale_because() is not None

    def note_manifest(self, inputs: Inputs | None = None, made_by: str | None = None) -> None:
        """Note that the manifest, as it stands, was made from these inputs.

        Args:
            inputs: taken before it was made; by default those of now.
            made_by: the id of the dbt invocation that made it, if known.
        """
        self._record.write(inputs or self.inputs(), self.directory, made_by)

    @property
    def _record(self) -> Record:
        return Record(self.manifest_path)

    # Finding it -------------------------------------------------------------------------------------------

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
        project_file = directory / "dbt_project.yml"
        config = load_yaml(project_file)
        name = config.get("name")
        if not isinstance(name, str):
            raise DbtError(f"{project_file} has no `name`; give the project one")

        def rendered(key: str) -> str | None:
            return render(config.get(key), vars=settings.vars)

        if settings.dbt == DBT_CLOUD:
            profile = of_cloud_job(directory, _cloud_job(settings), settings.target, settings.vars)
        else:
            profile = Profile.find(
                _profiles_dir(settings, directory),
                os.environ.get("DBT_PROFILE") or rendered("profile"),
                settings.target or os.environ.get("DBT_TARGET"),
                project_file,
                settings.vars,
            )
        shared = directory / (os.environ.get("DBT_TARGET_PATH") or rendered("target-path") or "target")
        own = f"{profile.target}-{digest([profile.target, settings.vars])[:8]}"
        is_plain = not settings.target and not settings.vars
        if settings.dbt == DBT_CLOUD:  # what it makes of the project is another thing than what dbt here would
            own, is_plain = f"dbt-cloud-{settings.dbt_cloud_job}-{own}", False
        resource_paths = [
            directory / str(path) for key, default in _RESOURCE_PATHS.items() for path in config.get(key) or default
        ]
        return cls(
            directory=directory,
            name=name,
            profile=profile,
            target_path=shared if is_plain else directory / ".lineage_orch" / "target" / own,
            shared_target_path=shared,
            resource_paths=tuple(dict.fromkeys(resource_paths)),
            packages=directory / (rendered("packages-install-path") or "dbt_packages"),
            passed_target=settings.target,
            vars=settings.vars,
            vars_of_code=overlay_vars(_mapping(config.get("vars")), settings.vars),
            executable=chosen_executable(settings),
        )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


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


def _cloud_job(settings: LineageOrchSettings) -> int:
    if settings.dbt_cloud_job is None:
        raise SettingsError(
            "dbt 'dbt-cloud' needs a job to run: set dbt_cloud_job (LINEAGE_ORCH_DBT_CLOUD_JOB) to the number at the "
            "end of its address in dbt Cloud"
        )
    return settings.dbt_cloud_job


def _profiles_dir(settings: LineageOrchSettings, directory: Path) -> Path:
    named = settings.profiles_dir or os.environ.get("DBT_PROFILES_DIR")
    if named:
        profiles_dir = Path(named).expanduser().absolute()
        if not (profiles_dir / "profiles.yml").is_file():
            raise DbtError(f"no profiles.yml in {profiles_dir}; correct profiles_dir (or DBT_PROFILES_DIR)")
        return profiles_dir
    places = (directory, Path.cwd(), Path.home() / ".dbt")
    for place in places:
        if (place / "profiles.yml").is_file():
            return place
    looked = ", ".join(dict.fromkeys(map(str, places)))
    raise DbtError(f"no profiles.yml found (looked in {looked}); write one, or set profiles_dir")
