"""``lineage-orch init``: from a dbt project and flows to settings, decorators, a ledger that knows what stands."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lineage_orch.cli.builds import build_shown
from lineage_orch.cli.check import findings_parts, read_checked
from lineage_orch.cli.common import DEFAULTS, DONE, FAILED, Common, confirm, now, print_result, progress
from lineage_orch.errors import LineageError, SettingsError
from lineage_orch.text import count, few, listed

if TYPE_CHECKING:
    from lineage_orch.lineage import Lineage
    from lineage_orch.loads.written import WrittenFlow, WrittenFlows
    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.reports.tables import Parts

# How many flows get their lines shown one by one, and names of sources.
_SHOWN = 20


def init(
    *,
    adopt: Annotated[
        bool, Parameter(help="Declare what stands in the warehouse as loaded and built, as `adopt` does.")
    ] = False,
    build: Annotated[bool, Parameter(help="Build the whole project now, from raw tables that are there.")] = False,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), help="Do not ask.")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Set a repository up: find the dbt project and the flows, write the settings, say what to decorate, and check.

    Run it in the folder of the repository. It adds [tool.lineage_orch] to pyproject.toml where there is none yet, and
    changes no other line and no flow, whose files are read and not run. Of a ledger that is empty it asks whether what
    stands in the warehouse counts as loaded and built. Run it again after each step: what is done stays as it is.
    """
    from lineage_orch.loads.written import written_flows

    if adopt and build:
        raise SettingsError("--adopt and --build exclude each other: what stands counts as built, or is built anew")
    here = Path.cwd()
    flows = written_flows(here)
    for file, why in flows.unread:
        progress(f"{_short(file, here)} is left out: {why}")
    places = sorted({_short(flow.file, here).partition("/")[0] for flow in flows.flows})
    data, parts = _set_up(common, here, places, yes=yes)
    if data is None:
        progress("Nothing was changed.")
        return FAILED
    with common.orchestrator() as orchestrator:
        data |= _decorators(orchestrator.lineage, flows, here, parts)
        data["baseline"], failed = _baseline(common, orchestrator, parts, adopt=adopt, build=build, yes=yes)
    if any(flow.sources is not None for flow in flows.flows):
        project = read_checked(common, None if "producers" in data["settings"] else places)
        found = project.check()
        errors = [each for each in found if each.severity == "error"]
        data["findings"] = [each.to_dict() for each in found]
        parts += findings_parts(found, errors, project)
        failed |= bool(errors)
    else:
        data["findings"] = None
        parts.append(
            "No flow says yet what it loads: decorate one, and run `lineage-orch init` again, which checks it."
        )
    print_result(common, data, parts)
    return FAILED if failed else DONE


# The settings ---------------------------------------------------------------------------------------------------------


def _set_up(common: Common, here: Path, places: Sequence[str], *, yes: bool) -> tuple[dict[str, Any] | None, Parts]:
    """Find the settings, or write them; returns what is known of them, or None if the answer was no."""
    from lineage_orch.settings import find_table

    found = find_table(here)
    if found is not None:
        file, values = found
        said: Parts = [f"{_short(file, here)} has [tool.lineage_orch] already, and stays as it is."]
        if places and "producers" not in values:
            said.append(f"Add to it where the flows are: producers = {json.dumps(places, ensure_ascii=False)}")
        return {"pyproject": str(file), "written": False, "settings": values}, said
    file = here / "pyproject.toml"
    values = {"project_dir": _short(_project_dir(common, here), here)}
    for name in ("profiles_dir", "target"):
        if (given := getattr(common, name)) is not None:
            values[name] = str(given)
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    if places:
        lines.append(f"producers = {json.dumps(places, ensure_ascii=False)}")
    table = "\n".join(["[tool.lineage_orch]", *lines, ""])
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    after = f"{before.rstrip()}\n\n{table}" if before.strip() else table
    try:
        tomllib.loads(after)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"[tool.lineage_orch] cannot be added at the end of {file} ({error}); add it:\n{table}"
        ) from None
    progress(f"To be added to {_short(file, here)}:\n\n{table}")
    if not yes and not confirm("Write it?"):
        return None, []
    try:
        file.write_text(after, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror or error}") from None
    settings = tomllib.loads(table)["tool"]["lineage_orch"]
    return {"pyproject": str(file), "written": True, "settings": settings}, [
        f"Wrote [tool.lineage_orch] into {_short(file, here)}."
    ]


def _project_dir(common: Common, here: Path) -> Path:
    """Return the folder of the one dbt project in a folder or below it.

    Raises:
        SettingsError: there is none, or there are several and it is not said which.
    """
    from lineage_orch.loads.discovery import folders_with

    if common.project_dir is not None:
        return common.project_dir.absolute()
    found = list(folders_with(here, "dbt_project.yml"))
    if not found:
        raise SettingsError(
            f"no dbt_project.yml in {here} or below it; run this in the folder of the repository, or give --project-dir"
        )
    if len(found) > 1:
        raise SettingsError(
            f"more than one dbt project below {here}: {few((_short(each, here) for each in found), most=8)}; say which "
            "with --project-dir"
        )
    return found[0]


# The decorators -------------------------------------------------------------------------------------------------------


def _decorators(lineage: Lineage, flows: WrittenFlows, here: Path, parts: Parts) -> dict[str, Any]:
    """Add what to write above which flow to the parts; returns the same as JSON-ready values."""
    from lineage_orch.check.suggest import suggest
    from lineage_orch.reports.status import short_names

    declared = frozenset(_declared(lineage, flows.flows))
    open_sources = [each for source, each in lineage.sources.items() if source not in declared]
    bare = [flow for flow in flows.flows if flow.sources is None]
    suggested = suggest(bare, open_sources, here)
    names = short_names(lineage)
    parts.append(
        f"{count(lineage.sources, 'source')} and {count(lineage.nodes, 'node')} in the dbt project; "
        f"{count(flows.flows, 'flow')} below {here}, {len(flows.flows) - len(bare)} decorated."
    )
    if suggested:
        parts.append("\nWhat these flows seem to load, by their names; write it above them if it is so:")
        for flow, sources in list(suggested.items())[:_SHOWN]:
            parts.append(f"\n{_short(flow.file, here)}:{flow.line}  {flow.function}")
            parts += [] if flow.is_imported else ["    from lineage_orch import produces_source"]
            parts.append(f"    {_decorator(sources)}")
        if len(suggested) > _SHOWN:
            parts.append(f"\nand {len(suggested) - _SHOWN} more: run this again after these, or with --json.")
        parts.append("")
    covered = {source for sources in suggested.values() for name in sources for source in lineage.resolve_sources(name)}
    rest = sorted(names[each.unique_id] for each in open_sources if each.unique_id not in covered)
    if rest:
        parts.append(
            f"Loaded by no flow that is known: {listed(rest, most=_SHOWN)}. `lineage-orch record` tells of a load from "
            "elsewhere, `lineage-orch observe` looks for it."
        )
    return {
        "flows": [
            {
                "name": flow.name,
                "where": f"{_short(flow.file, here)}:{flow.line}",
                "declares": None if flow.sources is None else list(flow.sources),
                "suggested": list(suggested.get(flow, ())),
            }
            for flow in flows.flows
        ],
        "sources_without_flow": rest,
    }


def _declared(lineage: Lineage, flows: Sequence[WrittenFlow]) -> Iterator[str]:
    """Yield the sources that some flow declares."""
    from lineage_orch.loads.declaration import can_mean, is_template

    for name in dict.fromkeys(name for flow in flows for name in flow.sources or ()):
        if is_template(name):
            yield from (each for each in lineage.sources if can_mean(name, each))
        else:
            with suppress(LineageError):  # the check at the end tells
                yield from lineage.resolve_sources(name)


def _decorator(sources: Collection[str]) -> str:
    return f"@produces_source({', '.join(json.dumps(each, ensure_ascii=False) for each in sources)})"


# The ledger -----------------------------------------------------------------------------------------------------------


def _baseline(
    common: Common, orchestrator: Orchestrator, parts: Parts, *, adopt: bool, build: bool, yes: bool
) -> tuple[str | None, bool]:
    """Let the ledger begin with what stands; returns what was done, ``adopt`` or ``build``, and whether that failed."""
    from lineage_orch.reports import tables

    snapshot = orchestrator.ledger.snapshot(history_of=())
    if snapshot.nodes and not (adopt or build):
        parts.append(f"The ledger knows of {count(snapshot.nodes, 'built node')} already.")
        return None, False
    if build:
        report, names = build_shown(
            common, orchestrator, "lineage-orch init --build", select=list(orchestrator.lineage.nodes), force=True
        )
        parts += tables.report_parts(report, names, now())
        return "build", bool(report.failed)
    found = orchestrator.adoption()
    if not found.is_sure and not adopt:
        parts.append(
            "What stands in the warehouse cannot be asked, so nothing counts as built: if all of it is there, "
            "`lineage-orch adopt` declares it; else the first load of each source builds what is downstream of it."
        )
        return None, False
    if not found.nodes:
        parts.append(
            "Nothing of the project stands in the warehouse: the first load builds what is downstream of it, or "
            "`lineage-orch init --build` all of it now."
        )
        return None, False
    what = f"{count(found.sources, 'source')} as loaded and {count(found.nodes, 'node')} as built"
    there = f"Of {count(orchestrator.lineage.nodes, 'node')}, {len(found.nodes)} stand in the warehouse."
    if not (adopt or yes) and not confirm(f"{there} Declare {what}?"):
        parts.append(f"{there} None counts as built: the first load of each source builds what is downstream of it.")
        return None, False
    done = orchestrator.adopt()
    parts.append(f"Declared {what}, at tick {done.tick}.")
    return "adopt", False


def _short(path: Path, here: Path) -> str:
    """Return a path as it is said from a folder, with slashes; absolute where it lies elsewhere."""
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)
