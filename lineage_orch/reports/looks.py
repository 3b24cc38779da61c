"""How each state looks in a picture: its words, its mark and its colour. One line here, and a state can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from lineage_orch.reports.wording import STATES

Tone = Literal["good", "due", "held", "bad", "flow", "plain"]
"""Of the colours in ``picture.css``, where ``.t-<tone>`` sets them; no two states share tone and mark."""


class Look(NamedTuple):
    """How a state looks.

    Attributes:
        words: what it is called.
        tone: its colour.
        mark: its mark, an SVG path around 0,0, of some 12 pixels.
        is_filled: whether the mark is filled, else it is stroked.
        is_dashed: whether the box around it is dashed: there is nothing there yet.
    """

    words: str
    tone: Tone
    mark: str
    is_filled: bool = False
    is_dashed: bool = False


_BARS = "M-4 -5h3v10h-3zM1 -5h3v10h-3z"
_CIRCLE = "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0"

LOOKS: Mapping[str, Look] = {
    # Of a producer: Prefect told of its last run.
    "load_failed": Look("last run failed", "bad", "M-6 -6H6V6H-6ZM-2.5 -2.5L2.5 2.5M2.5 -2.5L-2.5 2.5"),
    "failing": Look(STATES["failing"], "bad", "M-4.5 -4.5L4.5 4.5M4.5 -4.5L-4.5 4.5"),
    # Drawn beside the state, since it may be true in any: a promise on freshness that is broken.
    "late": Look("late", "bad", "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0M0 -3V0.5L2.5 2"),
    "held": Look(STATES["held"], "held", _BARS, is_filled=True),
    "due": Look(STATES["due"], "due", "M-4 -5L5 0L-4 5Z", is_filled=True),
    "perhaps": Look(STATES["perhaps"], "due", "M-4 -5L5 0L-4 5Z"),
    "tests_only": Look(STATES["tests_only"], "due", "M-4.5 -4.5H4.5V4.5H-4.5ZM-2 0L-0.5 2L2.5 -2"),
    "passed_through": Look(STATES["passed_through"], "flow", "M-5 0H5M1 -4L5 0L1 4"),
    "not_built": Look(STATES["not_built"], "plain", "M-5 0H5"),
    "never_built": Look(STATES["never_built"], "plain", _CIRCLE, is_dashed=True),
    "up_to_date": Look(STATES["up_to_date"], "good", "M-5 0L-1.5 4L5 -4"),
    # Of sources; those of nodes are ``status --json``'s.
    "paused": Look(STATES["paused"], "held", _BARS),
    "loaded": Look("loaded", "good", _CIRCLE, is_filled=True),
    "never_loaded": Look("never loaded", "plain", "M0 -6V1M0 4V6", is_dashed=True),
    "no_producer": Look("no producer", "plain", "M0 -6L6 0L0 6L-6 0Z", is_dashed=True),
}
"""Every state, what needs a look first."""


def classes(state: str) -> str:
    """Return the classes of what shows a state; empty for none."""
    if not state:
        return ""
    look = LOOKS[state]
    return f"s-{state} t-{look.tone}{' dashed' if look.is_dashed else ''}"


def mark(state: str) -> str:
    """Return the mark of a state, around 0,0, as SVG."""
    look = LOOKS[state]
    return f'<path class="{"gf" if look.is_filled else "gs"}" d="{look.mark}"/>'
