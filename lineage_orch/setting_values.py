"""How a setting's value is read: from text, as an environment variable has it, and from TOML or Python.

Each reader returns the value in its own type, or raises ValueError with words that say what is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Reader = Callable[[Any], Any]

_FLAGS = dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True) | dict.fromkeys(
    ("0", "false", "f", "no", "n", "off"), False
)


def optional(read: Reader) -> Reader:
    """Return a reader that takes None as well."""
    return lambda value: None if value is None else read(value)


def text(value: Any) -> str:
    """Read a text."""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def path(value: Any) -> Path:
    """Read a path, as it is."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError("must be a path")
    return Path(value)


def choice(*known: str) -> Reader:
    """Return a reader that takes one of these words."""

    def read(value: Any) -> Any:
        if value not in known:
            raise ValueError(f"must be {' or '.join(map(repr, known))}")
        return value

    return read


def flag(value: Any) -> bool:
    """Read yes or no."""
    known = _FLAGS.get(str(value).lower()) if isinstance(value, str | int) else None
    if known is None:
        raise ValueError("must be true or false")
    return known


def whole_number(*, at_least: int) -> Reader:
    """Return a reader of whole numbers from ``at_least`` up."""

    def read(value: Any) -> int:
        found = _float(value)
        if not found.is_integer() or found < at_least:
            raise ValueError(f"must be a whole number, {at_least} or more")
        return int(found)

    return read


def number(*, at_least: float) -> Reader:
    """Return a reader of numbers from ``at_least`` up."""

    def read(value: Any) -> float:
        found = _float(value)
        if not found >= at_least:
            raise ValueError(f"must be a number, {at_least} or more")
        return found

    return read


def _float(value: Any) -> float:
    """Return a number, or one that is none (nan), so that its reader has one message for both."""
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def table(value: Any) -> dict[str, Any]:
    """Read a mapping whose keys are texts; a text is read as YAML, which reads JSON too."""
    if isinstance(value, str):
        import yaml

        try:
            value = yaml.safe_load(value) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"neither JSON nor YAML: {error}") from None
    if not isinstance(value, Mapping):
        raise ValueError("must be a table: names and their values")
    for name in value:
        if not isinstance(name, str):
            raise ValueError(f"the name {name!r} in it must be a text; put it in quotes")
    return dict(value)


def words(value: Any) -> tuple[str, ...]:
    """Read a list of texts; a text is split as a shell does, or read as JSON if it begins with a bracket."""
    if isinstance(value, str):
        value = _json_list(value) if value.lstrip().startswith("[") else _split(value)
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError("must be a list of texts, or one text")
    for each in value:
        if not isinstance(each, str):
            raise ValueError(f"{each!r} in it must be a text; put it in quotes")
    return tuple(value)


def _split(value: str) -> list[str]:
    import shlex

    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"cannot be split into words: {error}") from None


def _json_list(value: str) -> Any:
    import json

    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"begins with a bracket, and is no JSON list: {error}") from None
