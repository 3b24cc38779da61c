"""``lineage-orch``: what will build and why, at the command line.

Exit codes:

    0  done (also when another process holds the build lock: it says who, and that process builds)
    1  something failed: a node or test in a build, or an answer of "no"
    2  bad usage or a bad project: a wrong option, an unknown source, no ledger, dbt that cannot run

With ``--json``, stdout holds one JSON value and nothing else; messages go to stderr.

Nothing heavy is imported before a command needs it: ``--help`` and what only asks (``sources``, ``plan``, ``status``,
``explain``) load no dbt, no Prefect and, where the ledger is a SQLite file, no SQLAlchemy.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from lineage_orch import __version__
from lineage_orch.errors import BuildFailedError, LineageOrchError, SettingsError

if TYPE_CHECKING:
    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.reports.build_report import BuildReport
    from lineage_orch.settings import LineageOrchSettings

DONE, FAILED, BAD_USAGE = 0, 1, 2

app = App(
    name="lineage-orch",
    help="Build exactly the dbt models that hang on a source, when its load completes.",
    help_epilogue="Exit codes: 0 done (or left to the process that builds now); 1 something failed; 2 bad usage or "
    "a bad project. All common options but --json can also be set as LINEAGE_ORCH_<NAME>, or in "
    "[tool.lineage_orch] of pyproject.toml.",
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(show_default=False),
)
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
    json: Annotated[bool, Parameter(help="Print JSON for programs.", negative="")] = False

    def settings(self, **more: Any) -> LineageOrchSettings:
        """Return the settings, these options first; raises SettingsError."""
        from lineage_orch.settings import LineageOrchSettings

        names = ("project_dir", "profiles_dir", "target", "manifest", "ledger", "vars")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return LineageOrchSettings(**given, **{name: value for name, value in more.items() if value is not None})

    @contextmanager
    def orchestrator(self, **more: Any) -> Iterator[Orchestrator]:
        """Open the project; while it is open, what others print to stdout (dbt does) goes to stderr."""
        from lineage_orch.orchestrator import Orchestrator

        with redirect_stdout(sys.stderr), Orchestrator(self.settings(**more)) as orchestrator:
            yield orchestrator


_DEFAULTS = Common()
_Producers = Annotated[
    list[str] | None,
    Parameter(
        help="A module, file or folder with the flows; may be given several times. Default: the setting producers.",
        negative="",
    ),
]

# Commands -------------------------------------------------------------------------------------------------


@app.command
def plan(*, common: Common = _DEFAULTS) -> int:
    """Show what a build would do now (a dry run): what would build and for which sources, what is held and why."""
    from lineage_orch.reports import tables as render

    with common.orchestrator() as orchestrator:
        plan = orchestrator.plan()
        names = _names(orchestrator)
        data = render.plan_to_dict(plan)
        parts = render.plan_parts(plan, names, _now(), orchestrator.settings.dbt_command)
    _put(common, data, parts)
    return DONE


@app.command
def build(
    *,
    dbt_flags: Annotated[
        str | None,
        Parameter(help='More flags for dbt, as one word: --dbt-flags "--threads 4".', allow_leading_hyphen=True),
    ] = None,
    common: Common = _DEFAULTS,
) -> int:
    """Build all that is due, until nothing is. If another process builds already, leave it the work."""
    from lineage_orch.reports import tables as render

    with common.orchestrator(dbt_flags=dbt_flags) as orchestrator:
        report = orchestrator.build(who="lineage-orch build", say=_say)
        names = {} if report.busy else _names(orchestrator)
    _put(common, report.to_dict(), render.report_parts(report, names, _now()))
    return _outcome(report)


@app.command
def status(*, producers: _Producers = None, common: Common = _DEFAULTS) -> int:
    """Show what the ledger knows of each source and node, what is owed, and who builds."""
    from lineage_orch.reports import tables as render

    with common.orchestrator(producers=producers) as orchestrator:
        status = orchestrator.status()
    _put(common, status.to_dict(), render.status_parts(status, _now()))
    return DONE


@app.command
def explain(
    node: Annotated[str, Parameter(help="A model, snapshot or seed: its name, package.name, name.v2 or unique_id.")],
    /,
    *,
    common: Common = _DEFAULTS,
) -> int:
    """Say why a node will build, is held or is up to date, and what would make it build."""
    with common.orchestrator() as orchestrator:
        explanation = orchestrator.explain(node)
    lines = explanation.lines()
    _put(common, {**explanation.to_dict(), "lines": lines}, lines)
    return DONE


# Imported when it is called, as those below; so the list of commands has its first line from here.
app.command(
    "lineage_orch.cli.sources:sources",
    help="Show each source with its producers and the models below it.\n\nProducers are those that the ledger knows, "
    "and those found where --producers or the setting producers says. With --manifest, and neither --ledger nor "
    "--producers, nothing but that file is read.",
)


@app.command
def record(
    *source: Annotated[
        str,
        Parameter(
            help="source_name.table, package.source_name.table or unique_id; source_name.* means all its tables."
        ),
    ],
    loaded_at: Annotated[
        str | None,
        Parameter(help="When they were loaded, ISO 8601 with a time zone: 2026-10-16T09:30:00Z. Default: now."),
    ] = None,
    update_id: Annotated[
        str | None, Parameter(help="An id of this load; given twice, it counts once. Default: a new one.")
    ] = None,
    producer: Annotated[
        str | None, Parameter(help="Who loaded them; makes known that these sources have a producer.")
    ] = None,
    build: Annotated[bool, Parameter(help="Build at once what hangs on them.", negative="")] = False,
    common: Common = _DEFAULTS,
) -> int:
    """Record that sources were loaded, for loads that no Prefect flow makes."""
    from lineage_orch.reports import tables as render
    from lineage_orch.updates import SourceUpdate

    if not all(source) or not source:
        raise SettingsError("record needs one source or more, such as raw.orders")
    if update_id == "":
        raise SettingsError("--update-id is empty; give an id, or leave it out")
    at = _moment(loaded_at)
    load = update_id or _new_id()
    report: BuildReport | None = None
    names: Mapping[str, str] = {}
    with common.orchestrator() as orchestrator:
        tick = orchestrator.record([SourceUpdate(each, load, at, producer=producer) for each in source])
        if build:
            report = orchestrator.build(who="lineage-orch record --build", say=_say)
            names = {} if report.busy else _names(orchestrator)
    parts: render.Parts = [f"Recorded {', '.join(source)} at tick {tick}."]
    if report is not None:
        parts += render.report_parts(report, names, _now())
    data = {"sources": list(source), "update_id": load, "tick": tick, "build": report.to_dict() if report else None}
    _put(common, data, parts)
    return DONE if report is None else _outcome(report)


@app.command
def adopt(
    *,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), help="Do not ask.", negative="")] = False,
    common: Common = _DEFAULTS,
) -> int:
    """Declare the warehouse as it stands as loaded and built: nothing is owed any more.

    For a warehouse that was built before lineage_orch came. Asks first.
    """
    with common.orchestrator() as orchestrator:
        lineage, ledger = orchestrator.lineage, orchestrator.ledger
        count = f"{len(lineage.sources)} sources as loaded and {len(lineage.nodes)} nodes as built"
        if not yes and not _confirm(f"Declare {count} in {ledger.project}, target {ledger.target}?"):
            _say("Nothing was changed.")
            return FAILED
        tick = orchestrator.adopt()
    data = {"tick": tick, "sources": len(lineage.sources), "nodes": len(lineage.nodes)}
    _put(common, data, [f"Declared {count}, at tick {tick}. Nothing is owed."])
    return DONE


# More, in files of their own.
app.command("lineage_orch.cli.check:check", help="Check that the loads and the dbt project fit, for CI.")
app.command(
    "lineage_orch.cli.check:stub_sources",
    help="Print, as YAML, the sources that the flows declare and the dbt project lacks.",
)
app.command(
    "lineage_orch.cli.production:reconcile",
    help="Find loads in Prefect's history that completed and whose hook never ran, and have them built.",
)
app.command("lineage_orch.cli.production:serve", help="Serve the dbt deployment, which loads trigger.")


# Their parts ----------------------------------------------------------------------------------------------


def _names(orchestrator: Orchestrator) -> Mapping[str, str]:
    from lineage_orch.reports.status import short_names

    return short_names(orchestrator.lineage)


def _outcome(report: BuildReport) -> int:
    return DONE if report.ok else FAILED


def _moment(text: str | None) -> datetime:
    if text is None:
        return _now()
    example = "write it as 2026-10-16T09:30:00Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"--loaded-at {text!r} is no ISO 8601 time; {example}") from None
    if moment.tzinfo is None:
        raise SettingsError(f"--loaded-at {text!r} has no time zone; {example}")
    return moment.astimezone(UTC)


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    import uuid

    return uuid.uuid4().hex


def _confirm(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise SettingsError("there is nobody to ask; pass --yes to go on without")
    return answer.strip().lower() in ("y", "yes")


def _put(common: Common, data: Mapping[str, Any], parts: Any) -> None:
    if common.json:
        print(json.dumps(data, indent=2 if sys.stdout.isatty() else None))
    else:
        from lineage_orch.reports import tables as render

        render.show(parts)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# Entry ----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lineage-orch`` with these arguments (by default the process's) and return its exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = app(
                list(sys.argv[1:] if argv is None else argv),
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
            sys.stdout.flush()
        except CycloptsError as error:
            return _fail(str(error), BAD_USAGE)
        except BuildFailedError as error:
            return _fail(str(error), FAILED)
        except LineageOrchError as error:
            return _fail(str(error), BAD_USAGE)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("lineage_orch"):
                raise
            return _fail(f"{error.name} is not installed here: pip install 'lineage_orch[duckdb]'", BAD_USAGE)
        except BrokenPipeError:
            # The reader (`| head`) has left. Python must not meet the closed pipe again when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except KeyboardInterrupt:
            return _fail("interrupted; what was not built stays owed", FAILED)
    return code if isinstance(code, int) else DONE


def _fail(message: str, code: int) -> int:
    _say(f"lineage-orch: {' '.join(message.split())}")
    return code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"lineage-orch: warning: {message}")
