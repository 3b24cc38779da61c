"""``lineage-orch reconcile`` and ``serve``: what production needs of the command line."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lineage_orch.cli.common import DEFAULTS, DONE, Common, print_result, progress


def reconcile(*, common: Common = DEFAULTS) -> int:
    """Find loads in Prefect's history that completed and whose hook never ran, and see to it that they are built.

    With a deployment, each run of it does this first. Here, a run of it is launched if anything is stale; without a
    deployment, it is built here.
    """
    from lineage_orch.deployed.reconcile import reconcile_and_build

    with common.orchestrator() as orchestrator:
        found = reconcile_and_build(orchestrator, progress=progress)
    print_result(common, found.to_dict(), [])
    return DONE


def serve(
    *,
    name: Annotated[str, Parameter(help="The deployment's name; loads trigger build-affected/NAME.")] = "dbt",
    resync: Annotated[
        str, Parameter(help="When to look for what was lost, and build what is stale: a cron, an interval, or `off`.")
    ] = "17 * * * *",
    observe: Annotated[
        str | None,
        Parameter(
            help="When to look at the sources for loads that nothing reports, as the command `observe` does, and then "
            "build: an interval such as 15m, or a cron. Default: never."
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        Parameter(help="A setting that whoever starts a run may replace; may be given several times. Default: none."),
    ] = None,
    common: Common = DEFAULTS,
) -> int:
    """Serve the dbt deployment, which loads trigger, until interrupted; once an hour it looks for what was lost."""
    from lineage_orch.deployments import serve_dbt
    from lineage_orch.orchestrator import Orchestrator

    # A worker that cannot reach its ledger, or has no project, should say so now, and not at the first load.
    with Orchestrator(common.settings()) as orchestrator:
        orchestrator.ledger.snapshot(history_of=())
    given = common.given()
    if given.pop("ledger", None) is not None:
        progress("--ledger is not handed on to the runs, whose parameters are for all to read; set LINEAGE_ORCH_LEDGER")
    serve_dbt(name, resync=None if resync == "off" else resync, observe=observe, allow=allow or (), **given)
    return DONE
