"""The dbt profile as this library needs it: which target is built, and where in the warehouse that lies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

from lineage_orch.errors import DbtError


@dataclass(frozen=True)
class Profile:
    """One target of one profile.

    Attributes:
        folder: of its profiles.yml.
        name: the profile's.
        target: the target's name.
        output: the target's block, with the Jinja still in it. It may hold a password.
        vars: as in dbt's ``--vars``, for what the profile renders with them.
    """

    folder: Path
    name: str
    target: str
    output: Mapping[str, Any]
    vars: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Its profiles.yml."""
        return self.folder / "profiles.yml"

    @property
    def place(self) -> str:
        """``database.schema`` of the target, as far as the profile says; read without dbt and its adapters.

        Raises:
            DbtError: one of the two cannot be rendered: an environment variable is not set, say.
        """
        # The adapters' names for the two, with their aliases (Credentials._ALIASES of each).
        database = self._first("database", "dbname", "project", "catalog")
        schema = self._first("schema", "dataset")
        if self.output.get("type") == "duckdb":  # DuckDBCredentials.path_derived_database_name
            database = database or database_of_file(self._rendered(self.output.get("path")))
            schema = schema or "main"
        return ".".join(each for each in (database, schema) if each)

    @property
    def threads(self) -> int | None:
        """How many nodes dbt builds at a time, as far as the profile says."""
        try:
            return int(self._rendered(self.output.get("threads")))
        except (ValueError, DbtError):  # dbt says what is wrong with it
            return None

    def _first(self, *keys: str) -> str:
        return next((text for key in keys if (text := self._rendered(self.output.get(key)))), "")

    def _rendered(self, value: object) -> str:
        return render(_with_prefect(value), vars=self.vars, profiles_dir=self.folder) or ""

    @classmethod
    def find(
        cls, folder: Path, name: str | None, target: str | None, project_file: Path, vars: Mapping[str, Any]
    ) -> Profile:
        """Find a target in the profiles.yml of a folder.

        Args:
            target: the target's name; None for the profile's own.
            project_file: dbt_project.yml, for messages.
            vars: as in dbt's ``--vars``.

        Raises:
            DbtError: the file cannot be read, or lacks the profile or target.
        """
        path = folder / "profiles.yml"
        profiles = load_yaml(path)
        if not name:
            raise DbtError(f"{project_file} names no `profile`; name one of {path}")
        block = profiles.get(name)
        if not isinstance(block, Mapping):
            known = ", ".join(map(str, profiles.keys() - {"config"})) or "none"
            raise DbtError(f"no profile {name!r} (named in {project_file}) in {path}; it has: {known}")
        target = target or render(_with_prefect(block.get("target")), vars=vars, profiles_dir=folder) or "default"
        outputs = block.get("outputs")
        if not isinstance(outputs, Mapping) or target not in outputs:
            known = ", ".join(map(str, outputs)) if isinstance(outputs, Mapping) else "none"
            raise DbtError(f"profile {name!r} in {path} has no target {target!r}; it has: {known}")
        output = outputs[target]
        if not isinstance(output, Mapping):
            raise DbtError(f"target {target!r} in {path} is no mapping")
        return cls(folder, name, target, output, vars)


def of_cloud_job(folder: Path, job: int, target: str | None, vars: Mapping[str, Any]) -> Profile:
    """Return what stands for a profile where a job of dbt Cloud builds: its environment has the connection.

    The job stands for the place in the warehouse: the ledger is to be written when dbt Cloud cannot be reached, too.

    Args:
        target: the name that the target is to have; None for dbt Cloud's own default.
        vars: as in dbt's ``--vars``.
    """
    output = {"type": "dbt-cloud", "database": f"dbt-cloud job {job}"}
    return Profile(folder, "dbt Cloud", target or "default", output, vars)


def database_of_file(path: str) -> str:
    """Return the name of the database in a DuckDB file, as dbt-duckdb takes it from the path."""
    name = (path or ":memory:").removeprefix("md:").partition("?")[0].strip(":").replace("\\", "/")
    return PurePosixPath(name).stem


@contextmanager
def profiles_for_dbt(folder: Path, project_dir: Path) -> Iterator[Path]:
    """Give the folder of a profiles.yml that dbt can read, for as long as the block runs.

    That is the folder itself, unless the file names Prefect's variables or blocks: then it is a copy in which they
    are filled in, as prefect-dbt does. In the copy ``flags.PROFILES_DIR`` still means the folder of the profile itself.

    Raises:
        DbtError: Prefect's variables or blocks cannot be filled in.
    """
    if not _names_prefect((folder / "profiles.yml").read_text(encoding="utf-8")):
        yield folder
        return
    from dbt_common.events.base_types import EventLevel
    from prefect_dbt import PrefectDbtSettings

    settings = PrefectDbtSettings(project_dir=project_dir, profiles_dir=folder, log_level=EventLevel.INFO)
    resolved = settings.resolve_profiles_yml()
    try:
        copy = resolved.__enter__()
    except Exception as error:
        raise DbtError(
            f"{folder / 'profiles.yml'} names Prefect variables or blocks, which cannot be filled in: {error}; "
            "look at PREFECT_API_URL, and whether they exist"
        ) from error
    try:
        _anchor(Path(copy) / "profiles.yml", folder)
        yield Path(copy)
    finally:
        resolved.__exit__(None, None, None)


def _anchor(copy: Path, folder: Path) -> None:
    import yaml

    copy.chmod(0o600)  # the blocks may have filled in passwords
    copy.write_text(yaml.safe_dump(anchored(load_yaml(copy), folder), sort_keys=False), encoding="utf-8")


def anchored(value: Any, folder: Path) -> Any:
    """Say in each text of a profile which folder it was in (``flags.PROFILES_DIR``), since it moves."""
    if isinstance(value, str):
        return re.sub(r"\bflags\.PROFILES_DIR\b", lambda _: repr(folder.as_posix()), value)
    if isinstance(value, Mapping):
        return {key: anchored(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [anchored(each, folder) for each in value]
    return value


def _names_prefect(text: str) -> bool:
    return "prefect." in text


def _with_prefect(value: object) -> object:
    """Return a value with Prefect's variables and blocks filled in; where it names none, Prefect is not imported."""
    if not isinstance(value, str) or not _names_prefect(value):
        return value
    from prefect.utilities.asyncutils import run_coro_as_sync
    from prefect.utilities.templating import resolve_block_document_references, resolve_variables

    async def resolve() -> object:
        return await resolve_variables(await resolve_block_document_references(value))

    try:
        return run_coro_as_sync(resolve())
    except Exception as error:
        raise DbtError(f"cannot fill in {value!r} of profiles.yml from Prefect: {error}") from error


def load_yaml(path: Path) -> Mapping[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        DbtError: it cannot be read, or holds something else.
    """
    import yaml

    try:
        # The loader in C, where PyYAML has it, is ten times as fast.
        data = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DbtError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, Mapping):
        raise DbtError(f"{path} holds no YAML mapping")
    return data


def render(value: object, *, vars: Mapping[str, Any] | None = None, profiles_dir: Path | None = None) -> str | None:
    """Render what dbt renders in profiles.yml and dbt_project.yml, as far as it is needed here.

    In a sandbox, and with ``env_var``, ``var`` and ``flags.PROFILES_DIR`` alone: opening a project runs no code of it.

    Args:
        value: as in the file; None stays None.
        vars: what ``var`` finds, as in dbt's ``--vars``.
        profiles_dir: the folder of the profiles.yml, if it is of one.

    Raises:
        DbtError: it cannot be rendered; the message says why.
    """
    if value is None:
        return None
    text = str(value)
    if "{{" not in text and "{%" not in text:
        return text
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    def env_var(name: str, default: object = None) -> object:
        found = os.environ.get(name, default)
        if found is None:
            raise DbtError(f"env_var {name!r} is not set, and {text!r} gives it no default")
        return found

    def var(name: str, default: object = None) -> object:
        found = (vars or {}).get(name, default)
        if found is None:
            raise DbtError(f"var {name!r} is not set, and {text!r} gives it no default")
        return found

    environment = SandboxedEnvironment(undefined=StrictUndefined)
    # dbt's own filters (dbt_common.clients.jinja); what they turn a text into matters to adapters alone.
    for name in ("as_text", "as_bool", "as_native", "as_number"):
        environment.filters[name] = lambda given: given
    flags = SimpleNamespace(PROFILES_DIR=profiles_dir.as_posix()) if profiles_dir else None
    try:
        return environment.from_string(text).render(env_var=env_var, var=var, flags=flags)
    except TemplateError as error:
        raise DbtError(f"cannot render {text!r}: {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        # What an expression itself does wrong: jinja2 passes it on.
        raise DbtError(f"cannot render {text!r}: {type(error).__name__}: {error}") from None
