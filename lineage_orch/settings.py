"""Settings: passed in, then ``LINEAGE_ORCH_*``, then ``[tool.lineage_orch]`` of the nearest pyproject.toml."""

from __future__ import annotations

import json
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from lineage_orch.errors import SettingsError, did_you_mean
from lineage_orch.text import one_line

ENV_PREFIX = "LINEAGE_ORCH_"
DBT_CLOUD = "dbt-cloud"
"""The value of the setting ``dbt`` that has a job of dbt Cloud build."""
_PATHS = ("project_dir", "profiles_dir", "manifest")
# Their values may hold a password, and are in no message.
_SECRET = ("ledger", "dbt_cloud_token", "vars", "dbt_flags")
# Settings that were, and what stands in their place: set in old places, they break nothing, and a warning says so.
_REMOVED = {
    "hold_until_first_load": "a node always waits for the first load of a source that has a producer",
}


# What a text says, as an environment variable has it -------------------------------------------------------------


def _table(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    import yaml

    try:
        return yaml.safe_load(text) or {}  # JSON is YAML too
    except yaml.YAMLError as error:
        # Without the lines that it quotes.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        at = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"it is no YAML: {problem or 'it cannot be read'}{at}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _words(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("it should be a number")  # for which Python takes a bool
    return value


def _patterns(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return texts


_Table = Annotated[dict[str, Any], NoDecode, BeforeValidator(_table)]
_Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
_Int = Annotated[int, BeforeValidator(_number)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]


class LineageOrchSettings(BaseSettings):
    """Everything that can be set.

    Each may be passed in, or set as ``LINEAGE_ORCH_<NAME>``, or in ``[tool.lineage_orch]`` of the nearest
    ``pyproject.toml`` (from the working directory upwards) that has such a table. Relative paths in the
    ``pyproject.toml`` count from its folder.

    Raises:
        SettingsError: a value cannot be read, or a name is unknown; the message says where it stands.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", validate_default=False)

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
        "missing or made from anything else than what is there now.",
    )
    dbt: str | None = Field(
        None,
        description="What runs dbt: the path or name of an executable, of any dbt-core from 1.8 or of dbt 2, or "
        "`dbt-cloud`. Default: dbt-core in this process where it is installed, else `dbt`.",
    )
    dbt_cloud_job: _Int | None = Field(
        None, description="With `dbt-cloud`: the id of the job whose environment builds."
    )
    dbt_cloud_account: _Int | None = Field(None, description="With `dbt-cloud`: the id of the account.")
    dbt_cloud_token: SecretStr | None = Field(
        None,
        repr=False,
        description="With `dbt-cloud`: a service or personal token. Set it in the environment.",
    )
    dbt_cloud_host: str | None = Field(
        None, description="With `dbt-cloud`: the account's access URL. Default: `cloud.getdbt.com`."
    )
    dbt_cloud_credentials: str | None = Field(
        None,
        description="With `dbt-cloud`: the name of a `DbtCloudCredentials` block of Prefect, for the account, token "
        "and host that are not set.",
    )
    vars: _Table = Field({}, description="dbt's --vars, as a table, JSON or YAML.")
    dbt_command: Literal["build", "run"] = Field(
        "build", description="`build` runs models, snapshots, seeds and tests; `run` models alone."
    )
    dbt_flags: _Words = Field((), description="More flags for the dbt command, such as `--threads 4`.")
    ledger: str | None = Field(
        None,
        repr=False,
        description="The ledger's SQLAlchemy url, such as postgresql+psycopg://user@host/db. Default: a SQLite "
        "file in .lineage_orch beside dbt_project.yml.",
    )
    node_retries: _Int = Field(
        1,
        ge=0,
        description="How often a node that failed for a reason that passes (a lost connection, a timeout, a lock, a "
        "deadlock, throttling) is tried again in the same build, with what was skipped for it.",
    )
    node_retry_delay: _Seconds = Field(10.0, description="How many seconds a build waits before it does.")
    retry_on: Annotated[_Words, AfterValidator(_patterns)] = Field(
        (),
        description="Regular expressions of more reasons that pass, as dbt's messages have them: `ORA-03113`. An error "
        "of compilation never is one.",
    )
    settle: _Seconds = Field(
        60.0,
        le=366 * 86400,
        description="With `observe`: how many seconds a load takes at most, from the time that it writes into its rows "
        "to the last of them. A source whose newest row is younger is left to the next look.",
    )
    fail_on_carried: bool = Field(
        False,
        description="Whether a build fails that failed on nothing new, and only passes over nodes that failed in "
        "builds before and are not tried again yet.",
    )
    keep_days: _Int = Field(
        90, ge=1, description="How many days of history the ledger keeps; a longer `lag_tolerance` keeps more."
    )
    views: Literal["build", "pass_through"] = Field(
        "build", description="`pass_through`: new data flows through a view without building it again."
    )
    rebuild_changed_code: bool = Field(
        True, description="A node whose definition changed since its last good build is stale."
    )
    cutoff: Literal["marked", "auto", "off"] = Field(
        "marked",
        description="What came out the same makes nothing below it stale: `marked`, of the nodes with "
        "`meta: {lineage_orch: {cutoff: true}}`; `auto`, also where what is below takes longer than to find out.",
    )
    wait: bool = Field(
        True, description="In process: whether a load returns only when what it affects is built, held or failed."
    )
    deployment: str | None = Field(
        None, description="The build_affected deployment that loads trigger, as flow/name. Default: in process."
    )
    debounce: _Seconds = Field(
        15.0,
        description="With a deployment: how many seconds a build waits for more loads.",
    )
    patience: _Seconds = Field(
        0.0,
        le=86400,
        description="With a deployment: how many seconds new data waits for loads that are running, or scheduled "
        "within that time, so that one build takes them all. 0: it does not wait.",
    )
    page_url: str | None = Field(
        None,
        description="Where people read the page that `lineage-orch page` writes: each run of build_affected leaves a "
        "link to it in Prefect.",
    )
    producers: _Words = Field(
        (),
        description="Modules, files or folders where `check`, `sources` and `status` look for producers, "
        "and builds for the followers that they run.",
    )

    _passed: frozenset[str] = PrivateAttr(frozenset())

    def __init__(self, **values: Any) -> None:
        names = type(self).model_fields
        values = _without_removed(values, "passed in")
        for name in _REMOVED:
            if any(each.upper() == f"{ENV_PREFIX}{name.upper()}" for each in os.environ):
                _warn_of_removed(name, f"from {ENV_PREFIX}{name.upper()}")
        unknown = values.keys() - names.keys()
        if unknown:
            name = min(unknown)
            raise SettingsError(f"no setting {name!r}{did_you_mean(name, names) or ';'} there are: {', '.join(names)}")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(_unreadable(error, values))) from None
        self._passed = frozenset(values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values are looked for, the first first."""
        return tuple(
            _Place(settings_cls, read)
            for read in (init_settings, lambda: _handed_down.get() or {}, env_settings, lambda: _pyproject()[0])
        )

    def place(self, name: str) -> str:
        """Return where a setting comes from, for messages: ``from LINEAGE_ORCH_TARGET``, ``passed in``, ``default``."""
        return _place(name, self._passed) if name in self.model_fields_set else "default"

    def with_overrides(self, **overrides: Any) -> LineageOrchSettings:
        """Return these settings with some values replaced.

        Raises:
            SettingsError: a value cannot be read, or a name is unknown.
        """
        if not overrides:
            return self
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **overrides})

    def given(self) -> dict[str, Any]:
        """Return what was set, wherever. It may hold a password."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def dump(self) -> dict[str, Any]:
        """Return what was set, wherever, as JSON-ready values with absolute paths. It may hold a password.

        It holds no token: a process of its own gets that by its environment, see ``tokens``.
        """
        out = self.given()
        out.pop("dbt_cloud_token", None)
        for name in _PATHS:
            if out.get(name) is not None:
                out[name] = out[name].expanduser().absolute()
        return to_json(out)

    def tokens(self) -> dict[str, str]:
        """Return the environment variables that set, in another process, what ``dump`` leaves out."""
        if self.dbt_cloud_token is None:
            return {}
        return {f"{ENV_PREFIX}DBT_CLOUD_TOKEN": self.dbt_cloud_token.get_secret_value()}


def to_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of settings as JSON-ready ones; a date in ``vars`` as dbt's command line gets it."""
    ready: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return ready


_handed_down: ContextVar[Mapping[str, Any] | None] = ContextVar("lineage_orch_settings", default=None)


@contextmanager
def handing_down(settings: LineageOrchSettings) -> Iterator[None]:
    """Within the block (and its thread), what is not passed in is as in ``settings``, where they set it.

    So the settings of a load reach its build past the parameters of the flow run, which anyone may read who can
    open Prefect's UI: the ledger's url may hold a password.
    """
    token = _handed_down.set(settings.given())
    try:
        yield
    finally:
        _handed_down.reset(token)


class _Place(PydanticBaseSettingsSource):
    """One place of settings: what an earlier one has is left out, not merged, a table in ``vars`` neither."""

    def __init__(self, settings_cls: type[BaseSettings], read: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(settings_cls)
        self._read = read

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return one value: not used, since all are read at once."""
        return self._read().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in self._read().items() if name not in self.current_state}


def _place(name: str, passed: Iterable[str]) -> str:
    """Return where the value of a setting that was set stands, in words for people."""
    if name in passed:
        return "passed in"
    if name in (_handed_down.get() or {}):
        return "handed down"
    variable = f"{ENV_PREFIX}{name.upper()}"
    if any(each.upper() == variable for each in os.environ):
        return f"from {variable}"
    return f"from [tool.lineage_orch] of {_pyproject()[1]}"


# What a value should be, by the first letters of pydantic's type of an error.
_SHOULD = {
    "bool_": "it should be true or false",
    "dict_": "it should be a table",
    "float_": "it should be a number",
    "int_": "it should be a whole number",
    "path_": "it should be a path",
    "string_": "it should be a text",
    "tuple_": "it should be a list of texts",
}


def _unreadable(error: ValidationError, passed: Iterable[str]) -> Iterator[str]:
    """Yield, for each setting that cannot be read, its name, value, place and what it should be."""
    seen = set()
    for each in error.errors(include_url=False):
        name, *inside = each["loc"]
        if name in seen:
            continue
        seen.add(name)
        at = "".join(f"[{part!r}]" for part in inside if part != "[key]")
        what = next((what for kind, what in _SHOULD.items() if each["type"].startswith(kind)), "")
        what = what or one_line(each["msg"].removeprefix("Value error, ").replace("Input should", "it should", 1))
        shown = "" if name in _SECRET else f" {one_line(repr(each['input']), most=200)}"
        yield f"setting {name}{at}{shown} ({_place(str(name), passed)}): {what}"


def _without_removed(values: dict[str, Any], place: str) -> dict[str, Any]:
    for name in values.keys() & _REMOVED.keys():
        _warn_of_removed(name, place)
    return {name: value for name, value in values.items() if name not in _REMOVED}


def _warn_of_removed(name: str, place: str) -> None:
    warnings.warn(
        f"setting {name} ({place}) has no effect any more: {_REMOVED[name]}; take it out", UserWarning, stacklevel=4
    )


def _pyproject() -> tuple[dict[str, Any], Path | None]:
    """Return ``[tool.lineage_orch]`` of the nearest pyproject.toml upwards that has one, and the file."""
    found = find_table(Path.cwd())
    if found is None:
        return {}, None
    file, values = found
    values = _without_removed(values, f"from [tool.lineage_orch] of {file}")
    names = LineageOrchSettings.model_fields
    unknown = values.keys() - names.keys()
    if unknown:
        name = min(unknown)
        raise SettingsError(f"[tool.lineage_orch] in {file} has an unknown setting {name!r}{did_you_mean(name, names)}")
    for name in _PATHS:
        if isinstance(values.get(name), str):
            values[name] = file.parent / Path(values[name]).expanduser()
    if isinstance(values.get("ledger"), str):
        values["ledger"] = _anchored_url(values["ledger"], file.parent)
    if isinstance(values.get("dbt"), str) and "/" in values["dbt"]:
        values["dbt"] = str(file.parent / Path(values["dbt"]).expanduser())
    if isinstance(values.get("producers"), list):
        values["producers"] = [_anchored(each, file.parent) for each in values["producers"]]
    return values, file


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


def find_table(start: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the nearest pyproject.toml, from a folder upwards, with ``[tool.lineage_orch]``, and that table.

    Raises:
        SettingsError: a pyproject.toml on the way cannot be read.
    """
    import tomllib

    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # not TOML, not UTF-8, too long a number, too deep
            raise SettingsError(f"{path} cannot be read: {error}") from None
        tool = data.get("tool", {})
        if not isinstance(tool, dict):
            raise SettingsError(f"{path} cannot be read: `tool` is no table")
        table = tool.get("lineage_orch")
        if table is not None:
            if not isinstance(table, dict):
                raise SettingsError(f"tool.lineage_orch in {path} is no table; write [tool.lineage_orch]")
            return path, dict(table)
    return None
