"""What a producer declares: the names of the sources that it loads, as they were written.

A name may be a template (``crm.{table}``: filled from the parameters of a run) or a wildcard (``crm.*``: all tables).
Both are patterns: what they mean is known when a run has parameters, or a manifest has sources. That a name is one
of these, and what it can mean, is decided here and nowhere else.

The hook that ``@produces_source`` leaves on a flow or task carries a :class:`Declaration` as ``declaration``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from lineage_orch.errors import ProducerError
from lineage_orch.updates import Window

RIGHT_ORDER = """write

    @produces_source("source_name.table")
    @flow
    def load(): ...
"""


@dataclass(frozen=True)
class Declaration:
    """The sources of one producer, as written, and what is said of them.

    ``shared``: others may load them too. ``window``: the parameters of a run that say from when on and up to when, in
    event time, it loads.
    """

    sources: tuple[str, ...]
    shared: bool = False
    window: tuple[str, str] | None = None

    @classmethod
    def of(cls, *sources: str, shared: bool = False, window: tuple[str, str] | None = None) -> Declaration:
        """Return a declaration of these names, each once.

        Raises:
            ProducerError: there are none, or one cannot be the name of a source; or the window is no two names.
        """
        if not sources:
            raise ProducerError(f"@produces_source names no source; {RIGHT_ORDER}")
        for source in sources:
            _check_name(source)
        if window is not None and (
            isinstance(window, str) or len(window) != 2 or not all(isinstance(each, str) for each in window)
        ):
            raise ProducerError(
                f'@produces_source takes as window the names of two parameters, ("start", "end"), got {window!r}'
            )
        return cls(tuple(dict.fromkeys(sources)), shared, window)

    def __or__(self, other: Declaration) -> Declaration:
        """Return what both declare: that of this one first.

        Raises:
            ProducerError: their windows differ.
        """
        if self.window != other.window:
            raise ProducerError(
                f"@produces_source stands twice above a flow or task, with the windows {self.window} and "
                f"{other.window}; give both the same, or say them inside the run: mark_updated(..., window=...)"
            )
        sources = tuple(dict.fromkeys([*self.sources, *other.sources]))
        return Declaration(sources, self.shared or other.shared, self.window)

    def check_parameters(self, producer: str, known: Iterable[str]) -> None:
        """See to it that each ``{parameter}`` is one of those that the producer's function has.

        Raises:
            ProducerError: it is not; the message names it, the producer and what there is.
        """
        parameters = list(known)
        for source in self.sources:
            for name in _fields(source):
                if name not in parameters:
                    raise ProducerError(
                        f"the source {source!r} holds {{{name}}}, and {producer!r} has no parameter of that name; "
                        f"it has: {', '.join(parameters) or 'none'}"
                    )
        for name in self.window or ():
            if name not in parameters:
                raise ProducerError(
                    f"the window names the parameter {name!r}, and {producer!r} has none of that name; "
                    f"it has: {', '.join(parameters) or 'none'}"
                )

    @property
    def needs_parameters(self) -> bool:
        """Whether the parameters of a run are needed to say which sources it loads, or of which window."""
        return self.window is not None or any(map(is_template, self.sources))

    def filled(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the sources with the parameters of a run filled in; wildcards stay.

        Raises:
            ProducerError: the value of a parameter is not known.
        """
        return tuple(dict.fromkeys(_fill(source, parameters) for source in self.sources))

    def window_in(self, parameters: Mapping[str, Any]) -> Window | None:
        """Return the window that a run loads, as its parameters say; None where they leave an end open.

        A day stands for its first moment, and a time without a time zone is UTC, as dbt takes it.

        Raises:
            ProducerError: they are no times, or the first is not before the other.
        """
        if self.window is None:
            return None
        start, end = (parameters.get(name) for name in self.window)
        if start is None or end is None:
            return None
        try:
            return Window.of(_time_of(start), _time_of(end))
        except ValueError as error:
            raise ProducerError(
                f"the parameters {self.window[0]} = {start!r} and {self.window[1]} = {end!r} are no window: {error}"
            ) from None


def _time_of(value: Any) -> datetime:
    at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def declaration_of(producer: object) -> Declaration | None:
    """Return what ``@produces_source`` declared of a flow or task, or None if it stands above neither.

    The completion hook carries it, and the running hook too: ``with_options(on_completion=[...])`` drops the first.
    """
    hooks = (*getattr(producer, "on_completion_hooks", ()), *getattr(producer, "on_running_hooks", ()))
    found = (getattr(hook, "declaration", None) for hook in hooks)
    return next((each for each in found if isinstance(each, Declaration)), None)


# Names -----------------------------------------------------------------------------------------------------------


def is_template(name: str) -> bool:
    """Whether a name holds ``{parameters}`` of a run."""
    return "{" in name


def is_wildcard(name: str) -> bool:
    """Whether a name means all tables of a source (``source_name.*``)."""
    return name.endswith(".*")


def is_pattern(name: str) -> bool:
    """Whether a name may mean several sources."""
    return is_template(name) or is_wildcard(name)


def can_mean(declared: str, source: str) -> bool:
    """Whether a declared name, template or wildcard can mean this source of a manifest.

    Args:
        declared: as written: ``crm.{table}``, ``crm.*``, ``crm.orders``, with or without package.
        source: its unique_id, ``source.package.source_name.table``.
    """
    return _pattern(declared).fullmatch(source.removeprefix("source.")) is not None


def covers(declared: str, marked: str) -> bool:
    """Whether a name is one of the declared (templates filled), however much of the full name each of them spells."""
    declared, marked = declared.removeprefix("source."), marked.removeprefix("source.")
    if "." not in marked:
        return False
    if is_wildcard(declared):
        return any(_same(declared[:-2], marked[:dot]) for dot, each in enumerate(marked) if each == ".")
    return _same(declared, marked)


def _same(one: str, other: str) -> bool:
    """Whether one name is the other, with or without its package in front."""
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


@lru_cache(maxsize=1024)
def _pattern(declared: str) -> re.Pattern[str]:
    """Return what matches ``package.source_name.table`` of each source that a declared name can mean."""
    declared = declared.removeprefix("source.")
    try:
        parts = list(string.Formatter().parse(declared))
    except ValueError:  # a name that no decorator of this release let through
        return re.compile(re.escape(declared))
    # A parameter is one part of a name, unless it is to hold all of it: "{source}".
    whole = not any("." in literal for literal, *_ in parts)
    hole = ".+" if whole else r"[^.]+"
    text = "".join(re.escape(literal) + (hole if name is not None else "") for literal, name, *_ in parts)
    if is_wildcard(declared):
        text = text.removesuffix(re.escape("*")) + r"[^.]+"
    return re.compile(rf"(?:[^.]+\.)?{text}")


def _check_name(source: object) -> None:
    if not isinstance(source, str):
        raise ProducerError(f"@produces_source takes the names of sources, not {source!r}; {RIGHT_ORDER}")
    if "." not in source and not is_template(source):
        raise ProducerError(
            f"{source!r} is no source; a source is named source_name.table (or source_name.* for all tables)"
        )


def _fields(source: str) -> list[str]:
    try:
        parts = [part for part in string.Formatter().parse(source) if part[1] is not None]
    except ValueError as error:
        raise _unreadable(source, error) from None
    # A format may hold parameters as well: {day:{how}}.
    return [each for _, name, how, _ in parts for each in (name or "", *_fields(how or ""))]


def _fill(source: str, parameters: Mapping[str, Any]) -> str:
    values = {}
    for name in _fields(source):
        if name not in parameters:
            raise ProducerError(
                f"the source {source!r} holds {{{name}}}, and the run's value of it is not known here; "
                "name the source with mark_updated(...) inside the run"
            )
        value = parameters[name]
        values[name] = getattr(value, "value", value)  # an Enum stands for its value
    try:
        return source.format(**values) if values else source
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # the formats of values are their own affair
        raise _unreadable(
            source, f"{error}, for {', '.join(f'{name} = {values[name]!r}' for name in values)}"
        ) from None


def _unreadable(source: str, why: object) -> ProducerError:
    return ProducerError(f"the source {source!r} cannot be read: {why}")


# The declarations of this process ----------------------------------------------------------------------------------

# By name, as written; the value says whose it was first.
_declared: dict[str, str] = {}


def register(declaration: Declaration, producer: str) -> None:
    """Remember what a producer of this process declares: known before its first load."""
    for source in declaration.sources:
        _declared.setdefault(source, producer)


def declared_sources() -> tuple[str, ...]:
    """Return the names that the producers imported in this process declare, as written, patterns too."""
    return tuple(_declared)


def registered_meanwhile_forgotten() -> AbstractContextManager[None]:
    """Within the block, declarations are registered as ever; after it, the register is what it was before."""
    return restored(_declared)


@contextmanager
def restored(register: dict[Any, Any]) -> Iterator[None]:
    """After the block, let a register be what it was before."""
    before = dict(register)
    try:
        yield
    finally:
        register.clear()
        register.update(before)
