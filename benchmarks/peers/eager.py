"""Dagster: dagster-dbt with eager automation, its daemon, and loads that report their table as materialized.

Runs in an environment of its own, where lineage_orch is not.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtCliResource, dbt_assets

_PROJECT = Path(os.environ["DBT_PROJECT_DIR"])


class _Eager(DagsterDbtTranslator):
    def get_automation_condition(self, dbt_resource_props: Mapping[str, Any]) -> dg.AutomationCondition[Any]:
        return dg.AutomationCondition.eager()


@dbt_assets(manifest=_PROJECT / "target" / "manifest.json", dagster_dbt_translator=_Eager())
def models(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
    yield from dbt.cli(["build"], context=context).stream()


defs = dg.Definitions(
    assets=[models],
    resources={"dbt": DbtCliResource(project_dir=str(_PROJECT), profiles_dir=str(_PROJECT))},
    # As it is by default, every 30 seconds; only that it is switched on.
    sensors=[dg.AutomationConditionSensorDefinition("auto", target="*", default_status=dg.DefaultSensorStatus.RUNNING)],
)


def load() -> None:
    """Make the loads: each reports its table."""
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    from benchmarks.peers.project import Load, loads, run_loads, write_source

    raw = Path(os.environ["PEERS_RAW"])
    instance = dg.DagsterInstance.get()

    def load_one(load: Load) -> None:
        write_source(raw, load.source, load.number)
        instance.report_runless_asset_event(dg.AssetMaterialization(["raw", load.source]))

    run_loads(raw, Path(os.environ["PEERS_DONE"]), load_one, loads(*json.loads(os.environ["PEERS_LOADS"])))


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load()
    else:
        print(json.dumps(dg.__version__))
