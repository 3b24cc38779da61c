"""Settings: passed in, then ``LINEAGE_ORCH_*``, then ``[tool.lineage_orch]`` of the nearest pyproject.toml."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from lineage_orch.errors import SettingsError, did_you_mean

ENV_PREFIX = "LINEAGE_ORCH_"
_PATHS = ("project_dir", "profiles_dir", "manifest")


def _about(description: str) -> dict[str, str]:
    return {"description": description}


# No pydantic-settings: its import takes longer than all the rest of `lineage-orch sources`. msgspec, which reads the
# manifest anyway, reads the values.
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
        metadata=_about("The dbt project's folder. Default: the nearest folder upwards with a dbt_project.yml."),
    )
    profiles_dir: Path | None = field(
        default=None,
        metadata=_about(
            "The folder of profiles.yml. Default: DBT_PROFILES_DIR, the project's folder, the working "
            "directory, ~/.dbt: the first that has one."
        ),
    )
    target: str | None = field(default=None, metadata=_about("dbt's target. Default: that of the profile."))
    manifest: Path | None = field(
        default=None,
        metadata=_about(
            "A manifest.json to use as it is. Default: the project's own, made by `dbt parse` when it is "
            "missing or older than the project's files."
        ),
    )
    vars: dict[str, Any] = field(default_factory=dict, metadata=_about("dbt's --vars, as a table, JSON or YAML."))
    dbt_command: Literal["build", "run"] = field(
        default="build", metadata=_about("`build` runs models, snapshots, seeds and tests; `run` models alone.")
    )
    dbt_flags: tuple[str, ...] = field(
        default=(), metadata=_about("More flags for the dbt command, such as `--threads 4`.")
    )
    ledger: str | None = field(
        default=None,
        repr=False,
        metadata=_about(
            "The ledger's SQLAlchemy url, such as postgresql+psycopg://user@host/db. Default: a SQLite "
            "file in .lineage_orch beside dbt_project.yml."
        ),
    )
    keep_days: Annotated[int, msgspec.Meta(ge=1)] = field(
        default=90, metadata=_about("How many days of history the ledger keeps.")
    )
    views: Literal["build", "pass_through"] = field(
        default="build", metadata=_about("`pass_through`: new data flows through a view without building it again.")
    )
    hold_until_first_load: bool = field(
        default=False, metadata=_about("Hold a node while a source above it has a producer and was never loaded.")
    )
    rebuild_changed_code: bool = field(
        default=True, metadata=_about("A node whose code changed since its last good build is out of date.")
    )
    wait: bool = field(
        default=True,
        metadata=_about("In process: whether a load returns only when the build that it set off has ended."),
    )
    deployment: str | None = field(
        default=None,
        metadata=_about("The build_affected deployment that loads trigger, as flow/name. Default: in process."),
    )
    debounce: Annotated[float, msgspec.Meta(ge=0)] = field(
        default=15.0, metadata=_about("With a deployment: how many seconds a build waits for more loads.")
    )
    producers: tuple[str, ...] = field(
        default=(),
        metadata=_about("Modules, files or folders where `check`, `sources` and `status` look for producers."),
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
                    value = _read(name, value)
                except (ValueError, AttributeError, msgspec.MsgspecError) as error:
                    # Of an object that is no mapping msgspec asks for its keys; in older releases its own error is no
                    # ValueError.
                    # The ledger's url may hold a password.
                    shown = "" if name == "ledger" else f" {value!r}"
                    unreadable.append(f"setting {name}{shown} ({where}): {_in_words(name, error)}")
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


# The values, as msgspec reads them -------------------------------------------------------------------------------

_HINTS = get_type_hints(LineageOrchSettings, include_extras=True)


def _read(name: str, value: Any) -> Any:
    """Return a value in its setting's type; raises ValueError, or an error of msgspec."""
    hint = _HINTS[name]
    if isinstance(value, str) and (say := _SAID.get(getattr(hint, "__origin__", hint))):
        value = say(value)
    return msgspec.convert(value, hint, strict=False, dec_hook=lambda kind, given: kind(given))


def _in_words(name: str, error: Exception) -> str:
    message = str(error).replace("`$", f"`{name}")  # as in: at `$[1]`
    if get_origin(_HINTS[name]) is Literal:
        message += f" (write {' or '.join(map(repr, get_args(_HINTS[name])))})"
    return message


_FLAGS = dict.fromkeys(("t", "yes", "y", "on"), True) | dict.fromkeys(("f", "no", "n", "off"), False)


def _flag(text: str) -> bool | str:
    return _FLAGS.get(text.lower(), text)


def _number(text: str) -> float | str:
    try:
        return float(text)  # " 7 ", "+7" and ".5" too
    except ValueError:
        return text


def _table(text: str) -> Any:
    return msgspec.yaml.decode(text.encode()) or {}  # JSON is YAML too


def _words(text: str) -> Any:
    import shlex

    return msgspec.json.decode(text) if text.lstrip().startswith("[") else shlex.split(text)


# What a text, as environment variables have it, says beyond what msgspec takes; by the type that is asked for.
_SAID: dict[Any, Callable[[str], Any]] = {bool: _flag, int: _number, float: _number, dict: _table, tuple: _words}
