"""What a build shows while it runs: a line for each node as it ends, and in a terminal how far it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lineage_orch.cli.common import Common, progress
from lineage_orch.text import count, one_line, roughly

if TYPE_CHECKING:
    from lineage_orch.builds.run import NodeEnd, OnNode

# How much of an error is shown in a line; the report at the end has more.
_SAID = 200


@contextmanager
def nodes_shown(common: Common) -> Iterator[OnNode]:
    """Give what to call with each node's end: it shows it on stderr; with ``--json`` it shows nothing."""
    if common.json:
        yield lambda _: None
    elif not sys.stderr.isatty():
        yield lambda end: progress(_line(end))
    else:
        from rich.console import Console

        console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
        # What is printed meanwhile, by dbt too, stands above this line.
        with console.status("Building ...") as status:

            def show(end: NodeEnd) -> None:
                console.print(_line(end), style=_STYLES.get(_word(end)))
                about = "" if end.seconds is None else f", about {roughly(end.seconds)} in all"
                status.update(f"{end.number} of {count(end.of, 'node')}{about}")

            yield show


_STYLES = {"built": "green", "failed": "red", "skipped": "yellow"}


def _word(end: NodeEnd) -> str:
    from lineage_orch.dbt.engine import BUILT, FAILED

    status = end.result.status
    return "built" if status in BUILT else "failed" if status in FAILED else status


def _line(end: NodeEnd) -> str:
    """Return ``  built    stg_orders  1.2 s``; of what failed, why."""
    from lineage_orch.reports.wording import short_name

    result = end.result
    seconds = "" if result.seconds is None else f"  {result.seconds:.1f} s"
    why = f": {one_line(result.message, most=_SAID)}" if _word(end) == "failed" and result.message else ""
    return f"  {_word(end):<8} {short_name(result.unique_id, {})}{seconds}{why}"
