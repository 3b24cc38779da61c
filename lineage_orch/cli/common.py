"""What the commands have in common: their options, their exit codes, and how they answer.

With ``--json``, stdout holds one JSON value and nothing else. Progress, warnings and questions go to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from lineage_orch.errors import SettingsError

if TYPE_CHECKING:
    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.settings import LineageOrchSettings

DONE, FAILED, BAD_USAGE = 0, 1, 2

_COMMON = Group("Common options", sort_key=1)


@Parameter(name="*", group=_COMMON)
@dataclass(frozen=True)
class Common:
    """The options that all commands take; what is None comes from the environment or pyproject.toml."""

    project_dir: Annotated[
        Path | None,
        Parameter(help="The dbt project's folder. Default: the nearest folder upwards with a dbt_project.yml."),
    ] = None
    profiles_dir: Annotated[Path | None, Parameter(help="The folder of profiles.yml.")] = None
    target: Annotated[str | None, Parameter(help="dbt's target. Default: that of the profile.")] = None
    manifest: Annotated[
        Path | None, Parameter(help="A manifest.json to use as it is, instead of the project's own.")
    ] = None
    ledger: Annotated[
        str | None, Parameter(help="The ledger's SQLAlchemy url. Default: a SQLite file beside dbt_project.yml.")
    ] = None
    vars: Annotated[str | None, Parameter(help="dbt's --vars, as YAML or JSON.", allow_leading_hyphen=True)] = None
    parse: Annotated[bool, Parameter(help="Parse the dbt project anew, however new its manifest is.")] = False
    json: Annotated[bool, Parameter(help="Print JSON for programs.")] = False

    def settings(self, **more: Any) -> LineageOrchSettings:
        """Return the settings, these options first; raises SettingsError."""
        from lineage_orch.settings import LineageOrchSettings

        return LineageOrchSettings(**self.given() | {name: value for name, value in more.items() if value is not None})

    def given(self) -> dict[str, Any]:
        """Return the settings among these options that were given."""
        names = ("project_dir", "profiles_dir", "target", "manifest", "ledger", "vars")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @contextmanager
    def orchestrator(self, **more: Any) -> Iterator[Orchestrator]:
        """Open the project; while it is open, what others print to stdout (dbt does) goes to stderr.

        Raises:
            SettingsError: there is no project, or ``--parse`` is given although a manifest is to be used as it is.
        """
        from lineage_orch.orchestrator import Orchestrator

        with redirect_stdout(sys.stderr), Orchestrator(self.settings(**more), progress=progress) as orchestrator:
            if self.parse:
                if orchestrator.settings.manifest is not None:
                    raise SettingsError(
                        "--parse has dbt write the project's own manifest, and the setting manifest "
                        f"({orchestrator.settings.place('manifest')}) names another to use as it is: leave out one"
                    )
                orchestrator.parse()
            yield orchestrator


DEFAULTS = Common()
Producers = Annotated[
    list[str] | None,
    Parameter(
        help="A module, file or folder with the flows; may be given several times. Default: the setting producers."
    ),
]


_NAMES = (
    "Only these: names of sources or nodes, or patterns such as 'stg_*'; with a + behind it all downstream too, with "
    "one in front all upstream"
)
Named = Annotated[str, Parameter(help=f"{_NAMES}. Default: all.")]
Selected = Annotated[str, Parameter(help=f"{_NAMES}; or a selector of dbt, such as tag:daily. Default: all.")]
Limit = Annotated[int | None, Parameter(help="At most so many rows in each table. Default: all.")]
Since = Annotated[
    str,
    Parameter(
        help="From when: a span up to now, such as 12h or 7d, or an ISO 8601 time with its zone.", show_default=True
    ),
]


def print_result(common: Common, data: Mapping[str, Any], parts: Any) -> None:
    """Print the answer to stdout: ``data`` with ``--json``, else ``parts`` for people."""
    if common.json:
        print(json.dumps(data, indent=2 if sys.stdout.isatty() else None))
    else:
        from lineage_orch.reports import tables

        tables.show(parts)


def progress(line: str) -> None:
    """Print a line to stderr: what is being done, or a warning."""
    print(line, file=sys.stderr, flush=True)


def confirm(question: str) -> bool:
    """Ask a question on stderr, and return whether stdin says yes.

    Raises:
        SettingsError: stdin is closed.
    """
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise SettingsError("there is no terminal to ask on; pass --yes to go on without")
    return answer.strip().lower() in ("y", "yes")


def names_in(orchestrator: Orchestrator) -> Mapping[str, str]:
    """Return what people call the sources and nodes of the project, by unique_id."""
    from lineage_orch.reports.status import short_names

    return short_names(orchestrator.lineage)


def span_or_time(text: str, *, ago: bool) -> datetime | None:
    """Return the time (UTC) that is meant by a span from now, or up to now, or by ISO 8601 with a zone; None: none."""
    from lineage_orch.lineage.policy import read_duration

    with suppress(ValueError, OverflowError):
        span = read_duration(text)
        moment = datetime.fromisoformat(text) if span is None else now() - span if ago else now() + span
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    return None


def now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)
