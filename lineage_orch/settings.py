"""Settings: passed in, then ``LINEAGE_ORCH_*``, then ``[tool.lineage_orch]`` of the nearest pyproject.toml."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lineage_orch.errors import SettingsError, did_you_mean
from lineage_orch.setting_values import Reader, choice, flag, number, optional, path, table, text, whole_number, words

ENV_PREFIX = "LINEAGE_ORCH_"
_PATHS = ("project_dir", "profiles_dir", "manifest")


def _setting(read: Reader, description: str) -> dict[str, Any]:
    return {"read": read, "description": description}


# By hand, not with pydantic-settings: its import takes longer than all the rest of `lineage-orch sources`.
@dataclass(frozen=True, init=False)
class LineageOrchSettings:
    """Everything that can be set.

    Each may be passed in, or set as ``LINEAGE_ORCH_<NAME>``, or in ``[tool.lineage_orch]`` of the nearest
    ``pyproject.toml`` (from the working directory upwards) that has such a table. Relative paths in the
    ``pyproject.toml`` count from its folder.

    Raises:
        SettingsError: a value cannot be read, or a name is unknown; the message says where it stands.
    """

    project_dir: Path | None = field(
        default=None,
        metadata=_setting(
            optional(path), "The dbt project's folder. Default: the nearest folder upwards with a dbt_project.yml."
        ),
    )
    profiles_dir: Path | None = field(
        default=None,
        metadata=_setting(
            optional(path),
            "The folder of profiles.yml. Default: DBT_PROFILES_DIR, the project's folder, the working "
            "directory, ~/.dbt: the first that has one.",
        ),
    )
    target: str | None = field(
        default=None, metadata=_setting(optional(text), "dbt's target. Default: that of the profile.")
    )
    manifest: Path | None = field(
        default=None,
        metadata=_setting(
            optional(path),
            "A manifest.json to use as it is. Default: the project's own, made by `dbt parse` when it is "
            "missing or older than the project's files.",
        ),
    )
    vars: dict[str, Any] = field(
        default_factory=dict, metadata=_setting(table, "dbt's --vars, as a table, JSON or YAML.")
    )
    dbt_command: Literal["build", "run"] = field(
        default="build",
        metadata=_setting(
            choice("build", "run"), "`build` runs models, snapshots, seeds and tests; `run` models alone."
        ),
    )
    dbt_flags: tuple[str, ...] = field(
        default=(), metadata=_setting(words, "More flags for the dbt command, such as `--threads 4`.")
    )
    ledger: str | None = field(
        default=None,
        repr=False,
        metadata=_setting(
            optional(text),
            "The ledger's SQLAlchemy url, such as postgresql+psycopg://user@host/db. Default: a SQLite "
            "file in .lineage_orch beside dbt_project.yml.",
        ),
    )
    keep_days: int = field(
        default=90, metadata=_setting(whole_number(at_least=1), "How many days of history the ledger keeps.")
    )
    views: Literal["build", "pass_through"] = field(
        default="build",
        metadata=_setting(
            choice("build", "pass_through"),
            "`pass_through`: new data flows through a view without building it again.",
        ),
    )
    hold_until_first_load: bool = field(
        default=False,
        metadata=_setting(flag, "Hold a node while a source above it has a producer and was never loaded."),
    )
    rebuild_changed_code: bool = field(
        default=True,
        metadata=_setting(flag, "A node whose code changed since its last good build is out of date."),
    )
    wait: bool = field(
        default=True,
        metadata=_setting(flag, "In process: whether a load returns only when the build that it set off has ended."),
    )
    deployment: str | None = field(
        default=None,
        metadata=_setting(
            optional(text),
            "The build_affected deployment that loads trigger, as flow/name. Default: in process.",
        ),
    )
    debounce: float = field(
        default=15.0,
        metadata=_setting(number(at_least=0), "With a deployment: how many seconds a build waits for more loads."),
    )
    producers: tuple[str, ...] = field(
        default=(),
        metadata=_setting(words, "Modules, files or folders where `check`, `sources` and `status` look for producers."),
    )

    def __init__(self, **values: Any) -> None:
        names = {each.name: each for each in fields(self)}
        unknown = values.keys() - names.keys()
        if unknown:
            name = min(unknown)
            raise SettingsError(f"no setting {name!r}{did_you_mean(name, names) or ';'} there are: {', '.join(names)}")
        given = _first_of(
            {name: _Given(value, "passed in") for name, value in values.items()},
            {name: _Given(value, "handed down") for name, value in (_handed_down.get() or {}).items()},
            _from_environment(names),
            _from_pyproject(names),
        )
        unreadable = []
        for name, each in names.items():
            if name not in given:
                value = each.default_factory() if callable(each.default_factory) else each.default
            else:
                value, where = given[name]
                try:
                    value = each.metadata["read"](value)
                except ValueError as error:
                    # The ledger's url may hold a password.
                    shown = "" if name == "ledger" else f" {value!r}"
                    unreadable.append(f"setting {name}{shown} ({where}): {error}")
            object.__setattr__(self, name, value)
        if unreadable:
            raise SettingsError("; ".join(unreadable))
        object.__setattr__(self, "_given", tuple(name for name in names if name in given))

    def with_overrides(self, **overrides: Any) -> LineageOrchSettings:
        """Return these settings with some values replaced.

        Raises:
            SettingsError: a value cannot be read, or a name is unknown.
        """
        if not overrides:
            return self
        return type(self)(**{**{each.name: getattr(self, each.name) for each in fields(self)}, **overrides})

    def given(self) -> dict[str, Any]:
        """Return what was set, wherever. It may hold a password."""
        names: tuple[str, ...] = self.__dict__["_given"]
        return {name: getattr(self, name) for name in names}

    def dump(self) -> dict[str, Any]:
        """Return what was set, wherever, as JSON-ready values with absolute paths. It may hold a password."""
        out = self.given()
        for name in _PATHS:
            if out.get(name) is not None:
                out[name] = out[name].expanduser().absolute()
        return to_json(out)


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


class _Given(NamedTuple):
    """A value as it was set, and where, in words for people."""

    value: Any
    where: str


def _first_of(*places: Mapping[str, _Given]) -> dict[str, _Given]:
    out: dict[str, _Given] = {}
    for place in reversed(places):
        out.update(place)
    return out


def _from_environment(names: Iterable[str]) -> dict[str, _Given]:
    variables = {f"{ENV_PREFIX}{name.upper()}": name for name in names}
    # Written in any case, as in shells that do not care.
    return {
        variables[variable.upper()]: _Given(value, f"from {variable}")
        for variable, value in os.environ.items()
        if variable.upper() in variables
    }


def _from_pyproject(names: Iterable[str]) -> dict[str, _Given]:
    """Return ``[tool.lineage_orch]`` of the nearest pyproject.toml upwards that has one."""
    found = _find_table(Path.cwd())
    if found is None:
        return {}
    file, values = found
    unknown = values.keys() - set(names)
    if unknown:
        name = min(unknown)
        raise SettingsError(f"[tool.lineage_orch] in {file} has an unknown setting {name!r}{did_you_mean(name, names)}")
    for name in _PATHS:
        if isinstance(values.get(name), str):
            values[name] = file.parent / Path(values[name]).expanduser()
    if isinstance(values.get("ledger"), str):
        values["ledger"] = _anchored_url(values["ledger"], file.parent)
    if isinstance(values.get("producers"), list):
        values["producers"] = [_anchored(each, file.parent) for each in values["producers"]]
    return {name: _Given(value, f"from [tool.lineage_orch] of {file}") for name, value in values.items()}


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
    import tomllib

    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
