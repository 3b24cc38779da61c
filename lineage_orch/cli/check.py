"""``lineage-orch check`` and ``stub-sources``: what does not fit between the dbt project and the loads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lineage_orch.cli.common import DEFAULTS, DONE, FAILED, Common, Producers, print_result, progress
from lineage_orch.errors import SettingsError

if TYPE_CHECKING:
    from lineage_orch.check.findings import Finding
    from lineage_orch.check.project import Deployment, Project
    from lineage_orch.reports.tables import Parts


def check(
    *,
    producers: Producers = None,
    strict: Annotated[bool, Parameter(help="Take warnings for errors.", negative="")] = False,
    ignore: Annotated[
        list[str] | None,
        Parameter(
            help="A finding to leave out, by its code, or code:pattern for some sources or models only; may be given "
            "several times.",
            negative="",
        ),
    ] = None,
    deployments: Annotated[
        bool,
        Parameter(help="Also ask the Prefect API for dbt deployments with a needless schedule.", negative=""),
    ] = False,
    common: Common = DEFAULTS,
) -> int:
    """Check that the loads and the dbt project fit, for CI; nothing is run. Exit code 1 if there are errors.

    Imports the modules with the flows, to read their decorators.
    """
    project = _read(common, producers)
    found = project.check(deployments=_deployments() if deployments else (), ignore=ignore or ())
    errors = [each for each in found if strict or each.severity == "error"]
    data = {
        "ok": not errors,
        "findings": [each.to_dict() | ({"severity": "error"} if strict else {}) for each in found],
        "producers": [
            {"name": each.name, "kind": each.kind, "where": each.where, "sources": list(each.sources)}
            for each in (project.found.producers if project.found else ())
        ],
    }
    print_result(common, data, None if common.json else _parts(found, errors, project))
    return FAILED if errors else DONE


def stub_sources(*, producers: Producers = None, common: Common = DEFAULTS) -> int:
    """Print, as YAML for models/__sources.yaml, the sources that the flows declare and the dbt project lacks."""
    from lineage_orch.check.stubs import stub_sources

    project = _read(common, producers)
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


def _read(common: Common, producers: Sequence[str] | None) -> Project:
    from lineage_orch.check.project import read_project

    lineage = None
    if common.parse:
        with common.orchestrator(ledger="sqlite://") as orchestrator:
            lineage = orchestrator.lineage
    # What dbt and the imported modules print is not the answer.
    with redirect_stdout(sys.stderr):
        return read_project(common.settings(producers=tuple(producers) if producers else None), lineage=lineage)


def _parts(found: Sequence[Finding], errors: Sequence[Finding], project: Project) -> Parts:
    from lineage_orch.reports.tables import Table
    from lineage_orch.text import count

    looked_at = f"{count(len(project.lineage.sources), 'source')}, {count(len(project.lineage.nodes), 'node')}"
    if project.found is not None:
        looked_at += f", {count(len(project.found.producers), 'producer')}"
    if not found:
        return [f"All fits: {looked_at}."]
    table = Table("Findings", ["", "code", "where", "what"])
    for each in found:
        table.rows.append(["error" if each in errors else "warning", each.code, each.where or "-", each.message])
    warnings = len(found) - len(errors)
    return [table, f"{count(len(errors), 'error')}, {count(warnings, 'warning')} ({looked_at})."]


def _deployments() -> list[Deployment]:
    """Return the deployments of the Prefect API that have an active schedule.

    Raises:
        SettingsError: the API cannot be reached.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from lineage_orch.check.project import Deployment

    if not PREFECT_API_URL.value():
        raise SettingsError(
            "--deployments asks the Prefect API, and PREFECT_API_URL is not set; set it to your server's"
        )
    found: list[Deployment] = []
    try:
        with get_client(sync_client=True) as client:
            flows: dict[Any, str] = {}
            while page := client.read_deployments(limit=_PAGE, offset=len(found)):
                for each in page:
                    if each.flow_id not in flows:
                        flows[each.flow_id] = client.read_flow(each.flow_id).name
                    schedules = () if each.paused else tuple(_schedule(one) for one in each.schedules if one.active)
                    name = f"{flows[each.flow_id]}/{each.name}"
                    found.append(Deployment(name, schedules, each.parameters or {}, tuple(each.tags), each.entrypoint))
    # httpx's errors and Prefect's own have no common parent; each of them means the same here.
    except Exception as error:  # noqa: BLE001
        raise SettingsError(
            f"the Prefect API at {PREFECT_API_URL.value()} does not answer ({type(error).__name__}: {error}); "
            "correct PREFECT_API_URL, or leave out --deployments"
        ) from None
    return [each for each in found if each.schedules]


_PAGE = 200


def _schedule(schedule: Any) -> str:
    of_it = schedule.schedule
    cron, interval = getattr(of_it, "cron", None), getattr(of_it, "interval", None)
    if cron:
        return f"cron {cron}"
    return f"every {interval}" if interval else "rrule"
