"""``lineage-orch check`` and ``stub-sources``: what does not fit between the dbt project and the loads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lineage_orch.cli.common import DEFAULTS, DONE, FAILED, Common, Named, Producers, print_result, progress
from lineage_orch.errors import DbtError, LedgerError, SettingsError

if TYPE_CHECKING:
    from lineage_orch.check.findings import Finding
    from lineage_orch.check.project import Project
    from lineage_orch.reports.tables import Parts


def check(
    *name: Named,
    producers: Producers = None,
    strict: Annotated[bool, Parameter(help="Take warnings for errors.")] = False,
    ignore: Annotated[
        list[str] | None,
        Parameter(
            help="A finding to leave out, by its code, or code:pattern for some sources or models only; may be given "
            "several times."
        ),
    ] = None,
    limit: Annotated[
        int, Parameter(help="How many findings of one code are told one by one; more are folded into one. 0: all.")
    ] = 3,
    deployments: Annotated[
        bool, Parameter(help="Also ask the Prefect API for dbt deployments with a needless schedule.")
    ] = False,
    common: Common = DEFAULTS,
) -> int:
    """Check that the loads and the dbt project fit, for CI; nothing is run. Exit code 1 if there are errors.

    Imports the modules with the flows, to read their decorators.
    """
    from lineage_orch.check.deployments import scheduled_deployments

    project = _with_others(common, read_checked(common, producers))
    found = project.check(deployments=scheduled_deployments() if deployments else (), ignore=ignore or ())
    if name:
        only = frozenset(each for one in name for each in project.lineage.named(one)) | set(name)
        found = [each for each in found if not only.isdisjoint(each.subjects)]
    errors = [each for each in found if strict or each.severity == "error"]
    data = {
        "ok": not errors,
        "findings": [each.to_dict() | ({"severity": "error"} if strict else {}) for each in found],
        "producers": [
            {"name": each.name, "kind": each.kind, "where": each.where, "sources": list(each.sources)}
            for each in (project.found.producers if project.found else ())
        ],
    }
    print_result(common, data, None if common.json else findings_parts(found, errors, project, limit))
    return FAILED if errors else DONE


def stub_sources(*, producers: Producers = None, common: Common = DEFAULTS) -> int:
    """Print, as YAML for models/__sources.yaml, the sources that the flows declare and the dbt project lacks."""
    from lineage_orch.check.stubs import stub_sources

    project = read_checked(common, producers)
    if project.found is None:
        raise SettingsError(
            "it is not said where the producers are; give --producers, or set producers in [tool.lineage_orch]"
        )
    for failure in project.found.failures:
        progress(f"lineage-orch: {failure.place}: {failure.why}")
    stubs = stub_sources(project.lineage, project.found.producers)
    if common.json:
        import yaml

        print_result(common, {"sources": (yaml.safe_load(stubs) or {}).get("sources", [])}, None)
    elif stubs:
        sys.stdout.write(stubs)
    else:
        progress("Nothing is missing: the project has every source that the flows declare.")
    return FAILED if project.found.failures else DONE


def read_checked(common: Common, producers: Sequence[str] | None = None) -> Project:
    """Return the project and producers that the options name, read as for `check`."""
    from lineage_orch.check.project import read_project

    lineage = None
    if common.parse:
        with common.orchestrator(ledger="sqlite://") as orchestrator:
            lineage = orchestrator.lineage
    # What dbt and the imported modules print is not the answer.
    with redirect_stdout(sys.stderr):
        return read_project(common.settings(producers=tuple(producers) if producers else None), lineage=lineage)


def _with_others(common: Common, project: Project) -> Project:
    """Add what the ledger knows of other projects; where it cannot be asked, as in CI, that is told and left out."""
    from lineage_orch.check.project import ask_others

    settings = common.settings()
    if settings.manifest is not None and settings.ledger is None:
        return project
    try:
        return replace(project, others=ask_others(settings, project.lineage))
    except (LedgerError, DbtError, SettingsError) as error:
        progress(f"lineage-orch: other projects of the ledger were not looked at: {error}")
        return project


def findings_parts(found: Sequence[Finding], errors: Sequence[Finding], project: Project, limit: int = 3) -> Parts:
    """Return findings for people, `limit` of one code one by one (0: all), and how many there are."""
    from lineage_orch.check.findings import folded
    from lineage_orch.reports.tables import Table
    from lineage_orch.text import count

    looked_at = f"{count(len(project.lineage.sources), 'source')}, {count(len(project.lineage.nodes), 'node')}"
    if project.found is not None:
        looked_at += f", {count(len(project.found.producers), 'producer')}"
    if not found:
        return [f"All fits: {looked_at}."]
    table = Table("Findings", ["", "code", "where", "what"])
    grave = {each.code for each in errors}
    for each in folded(found, project.lineage, most=limit or len(found)):
        severity = "error" if each.code in grave else "warning"
        table.rows.append([severity, each.code, each.where or "-", each.message])
    warnings = len(found) - len(errors)
    return [table, f"{count(len(errors), 'error')}, {count(warnings, 'warning')} ({looked_at})."]
