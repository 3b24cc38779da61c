"""Settings: passed in, then ``LINEAGE_ORCH_*``, then ``[tool.lineage_orch]`` of the nearest pyproject.toml."""

from __future__ import annotations

import json
import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from lineage_orch.errors import SettingsError, did_you_mean

ENV_PREFIX = "LINEAGE_ORCH_"
_PATHS = ("project_dir", "profiles_dir", "manifest")


class LineageOrchSettings(BaseSettings):
    """Everything that can be set.

    Each may be passed in, or set as ``LINEAGE_ORCH_<NAME>``, or in ``[tool.lineage_orch]`` of the nearest
    ``pyproject.toml`` (from the working directory upwards) that has such a table. Relative paths in the
    ``pyproject.toml`` count from its folder.

    Raises:
        SettingsError: a value cannot be read, or a name is unknown; the message says where it stands.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    project_dir: Path | None = Field(
        None, description="The dbt project's folder. Default: the nearest folder upwards with a dbt_project.yml."
    )
    profiles_dir: Path | None = Field(
        None,
        description="The folder of profiles.yml. Default: DBT_PROFILES_DIR, the project's folder, the working "
        "directory, ~/.dbt: the first that has one.",
    )
    target: str | None = Field(None, description="dbt's target. Default: that of the profile.")
    manifest: Path | None = Field(
        None,
        description="A manifest.json to use as it is. Default: the project's own, made by `dbt parse` when it is "
        "missing or older than the project's files.",
    )
    vars: Annotated[dict[str, Any], NoDecode] = Field(
        default_factory=dict, description="dbt's --vars, as a table, JSON or YAML."
    )
    dbt_command: Literal["build", "run"] = Field(
        "build", description="`build` runs models, snapshots, seeds and tests; `run` models alone."
    )
    dbt_flags: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="More flags for the dbt command, such as `--threads 4`."
    )
    ledger: str | None = Field(
        None,
        repr=False,
        description="The ledger's SQLAlchemy url, such as postgresql+psycopg://user@host/db. Default: a SQLite "
        "file in .lineage_orch beside dbt_project.yml.",
    )
    keep_days: int = Field(90, ge=1, description="How many days of history the ledger keeps.")
    views: Literal["build", "pass_through"] = Field(
        "build", description="`pass_through`: new data flows through a view without building it again."
    )
    hold_until_first_load: bool = Field(
        False, description="Hold a node while a source above it has a producer and was never loaded."
    )
    rebuild_changed_code: bool = Field(
        True, description="A node whose code changed since its last good build is out of date."
    )
    wait: bool = Field(
        True, description="In process: whether a load returns only when the build that it set off has ended."
    )
    deployment: str | None = Field(
        None, description="The build_affected deployment that loads trigger, as flow/name. Default: in process."
    )
    debounce: float = Field(15.0, ge=0, description="With a deployment: how many seconds a build waits for more loads.")
    producers: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Modules, files or folders where `check`, `sources` and `status` look for producers."
    )

    def __init__(self, **values: Any) -> None:
        unknown = values.keys() - type(self).model_fields.keys()
        if unknown:
            name = min(unknown)
            raise SettingsError(
                f"no setting {name!r}{did_you_mean(name, type(self).model_fields) or ';'} "
                f"there are: {', '.join(type(self).model_fields)}"
            )
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_explain(error, values)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Set the order of the sources: passed in, handed down, environment, pyproject.toml."""
        return init_settings, _HandedDown(settings_cls), env_settings, _NearestPyproject(settings_cls)

    @field_validator("vars", mode="before")
    @classmethod
    def _read_vars(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        import yaml

        try:
            return yaml.safe_load(value) or {}  # YAML reads JSON too
        except yaml.YAMLError as error:
            raise ValueError(f"neither JSON nor YAML: {error}") from None

    @field_validator("dbt_flags", "producers", mode="before")
    @classmethod
    def _read_words(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return shlex.split(value)

    def with_overrides(self, **overrides: Any) -> LineageOrchSettings:
        """Return these settings with some values replaced.

        Raises:
            SettingsError: a value cannot be read, or a name is unknown.
        """
        if not overrides:
            return self
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **overrides})

    def dump(self) -> dict[str, Any]:
        """Return what was set, wherever, as JSON-ready values with absolute paths. It may hold a password."""
        out = self.model_dump(mode="json", include=self.model_fields_set)
        for name in _PATHS:
            if out.get(name) is not None:
                out[name] = str(getattr(self, name).expanduser().absolute())
        return out


_handed_down: ContextVar[Mapping[str, Any] | None] = ContextVar("lineage_orch_settings", default=None)


@contextmanager
def handing_down(settings: LineageOrchSettings) -> Iterator[None]:
    """Within the block (and its thread), what is not passed in is as in ``settings``, where they set it.

    So the settings of a load reach its build past the parameters of the flow run, which anyone may read who can
    open Prefect's UI: the ledger's url may hold a password.
    """
    token = _handed_down.set({name: getattr(settings, name) for name in settings.model_fields_set})
    try:
        yield
    finally:
        _handed_down.reset(token)


class _HandedDown(PydanticBaseSettingsSource):
    """What :func:`handing_down` gives."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # __call__ answers for all fields at once

    def __call__(self) -> dict[str, Any]:
        return dict(_handed_down.get() or {})


class _NearestPyproject(PydanticBaseSettingsSource):
    """``[tool.lineage_orch]`` of the nearest pyproject.toml upwards that has one."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # __call__ answers for all fields at once

    def __call__(self) -> dict[str, Any]:
        found = _find_table(Path.cwd())
        if found is None:
            return {}
        path, table = found
        unknown = table.keys() - self.settings_cls.model_fields.keys()
        if unknown:
            name = min(unknown)
            raise SettingsError(
                f"[tool.lineage_orch] in {path} has an unknown setting {name!r}"
                f"{did_you_mean(name, self.settings_cls.model_fields)}"
            )
        for name in _PATHS:
            if isinstance(table.get(name), str):
                table[name] = path.parent / Path(table[name]).expanduser()
        if isinstance(table.get("ledger"), str):
            table["ledger"] = _anchored_url(table["ledger"], path.parent)
        if isinstance(table.get("producers"), list):
            table["producers"] = [_anchored(each, path.parent) for each in table["producers"]]
        return table


def _anchored(producer: object, folder: Path) -> object:
    """A path counts from the pyproject.toml; a module's name stays as it is."""
    if isinstance(producer, str) and (folder / producer).exists():
        return str(folder / producer)
    return producer


def _anchored_url(url: str, folder: Path) -> str:
    """Let a SQLite file count from the pyproject.toml: else each working directory had a ledger of its own."""
    scheme, slashes, file = url.partition(":///")
    if not slashes or not scheme.startswith("sqlite") or not file or file.startswith(("/", ":memory:", "file:")):
        return url
    return f"{scheme}:///{folder / file}"


def _find_table(start: Path) -> tuple[Path, dict[str, Any]] | None:
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} cannot be read: {error}") from None
        table = data.get("tool", {}).get("lineage_orch")
        if table is not None:
            if not isinstance(table, dict):
                raise SettingsError(f"tool.lineage_orch in {path} is no table; write [tool.lineage_orch]")
            return path, dict(table)
    return None


def _explain(error: ValidationError, passed: dict[str, Any]) -> str:
    lines = []
    for each in error.errors(include_url=False):
        name = str(each["loc"][0]) if each["loc"] else "settings"
        if name in passed:
            where = "passed in"
        elif (env := f"{ENV_PREFIX}{name.upper()}") in {key.upper() for key in os.environ}:
            where = f"from {env}"
        else:
            where = "from [tool.lineage_orch] of pyproject.toml"
        shown = "" if name == "ledger" else f" {each['input']!r}"
        lines.append(f"setting {name}{shown} ({where}): {each['msg']}")
    return "; ".join(lines)
