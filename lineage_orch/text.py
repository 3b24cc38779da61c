"""Small wording for messages: counts, lists, spans of time, an error in one line. Pure, and imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta


def count(things: int | Iterable[object], noun: str, plural: str | None = None) -> str:
    """Return ``1 node``, ``2 nodes``: of a number, or of things that are counted.

    Args:
        things: how many there are, or the things themselves.
        noun: the word for one of them.
        plural: the word for several, where it is not the noun with an ``s``.
    """
    number = things if isinstance(things, int) else sum(1 for _ in things)
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def few(names: Iterable[str], *, most: int = 3) -> str:
    """Return ``a, b, c``, or ``a, b, c and 4 more``: the names themselves, without a joint before the last."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def listed(names: Iterable[str], joint: str = "and", *, most: int = 3) -> str:
    """Return ``a, b and c``, or ``a, b, c and 4 more``; empty for none."""
    known = list(names)
    shown = known[:most]
    if len(known) > most:
        shown.append(f"{len(known) - most} more")
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} {joint} {shown[-1]}"


def one_line(text: BaseException | str, *, most: int | None = None) -> str:
    """Return a message in one line, blanks and line ends run together; of a silent error, the name of its kind.

    Args:
        text: the message, or an error that has one.
        most: at which length to cut it off, in characters.
    """
    line = " ".join(str(text).split()) or (type(text).__name__ if isinstance(text, BaseException) else "")
    return line[:most]


def span(length: timedelta) -> str:
    """Return a span of time in the largest unit that says it whole: ``1 hour``, ``90 minutes``."""
    seconds = int(length.total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds and seconds % size == 0:
            return count(seconds // size, unit)
    return count(seconds, "second")


def roughly(seconds: float) -> str:
    """Return about how long something takes: ``8 s``, ``4 min``, ``2.5 h``."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
