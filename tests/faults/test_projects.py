"""Two projects that read each other, in one ledger: loads, builds and kills at random end as full builds of both."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch import Orchestrator
from lineage_orch.lineage import Lineage
from tests.manifests import manifest, node, source
from tests.warehouse import Killed, Warehouse

SEEDS = int(os.environ.get("PROJECTS_SEEDS", "2"))
MARK = {"meta": {"lineage_orch": {"cutoff": True}}}


def model(name: str, *parents: str, package: str, **config: Any) -> dict[str, Any]:
    return node(name, *parents, package=package, relation_name=f'"w"."{package}"."{name}"', config=config)


# core: raw.a -> stg_a -> fct            ads.mart -> report        core reads what ads makes of core's own table
#       raw.b -> stg_b -^                stg_b    -^
# ads:  core.fct -> stg_fct -> mart      core.report -> summary    and ads reads on
#       raw.c    -> stg_c   -^
RESOURCES = {
    "core": (
        source("raw.a", package="core"),
        source("raw.b", package="core"),
        source("ads.mart", package="core", relation_name='"w"."ads"."mart"'),
        model("stg_a", "raw.a", package="core", **MARK),
        model("stg_b", "raw.b", package="core"),
        model("fct", "stg_a", "stg_b", package="core", **MARK),
        model("report", "ads.mart", "stg_b", package="core"),
    ),
    "ads": (
        source("raw.c", package="ads"),
        source("core.fct", package="ads", relation_name='"w"."core"."fct"'),
        source("core.report", package="ads", relation_name='"w"."core"."report"'),
        model("stg_fct", "core.fct", package="ads", materialized="view"),
        model("stg_c", "raw.c", package="ads"),
        model("mart", "stg_fct", "stg_c", package="ads", **MARK),
        model("summary", "core.report", package="ads"),
    ),
}
READ = {
    "source.core.ads.mart": ("ads", "model.ads.mart"),
    "source.ads.core.fct": ("core", "model.core.fct"),
    "source.ads.core.report": ("core", "model.core.report"),
}


class OneOfTwo(Warehouse):
    """The tables of one project, which sees those of the other."""

    def __init__(self, lineage: Lineage, others: Mapping[str, Warehouse]) -> None:
        super().__init__(lineage)
        self._others = others

    def shown(self, each: str, tables: dict[str, str]) -> str:
        if each in READ:
            project, node_there = READ[each]
            return self._others[project].tables.get(node_there, "nothing")
        return super().shown(each, tables)


class World:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.warehouses: dict[str, Warehouse] = {}
        for name, resources in RESOURCES.items():
            (folder / name).mkdir()
            (folder / name / "dbt_project.yml").write_text(f"name: {name}\nprofile: all\n")
            (folder / name / "profiles.yml").write_text(
                f"all: {{target: prod, outputs: {{prod: {{type: duckdb, schema: {name}}}}}}}\n"
            )
            path = folder / name / "manifest.json"
            path.write_text(json.dumps(manifest(*resources)))
            self.warehouses[name] = OneOfTwo(Lineage.from_manifest(path), self.warehouses)

    @contextmanager
    def project(self, name: str) -> Iterator[Orchestrator]:
        """A process of its own each time."""
        with Orchestrator(
            project_dir=self.folder / name,
            manifest=self.folder / name / "manifest.json",
            dbt=self.warehouses[name],
            ledger=f"sqlite:///{self.folder / 'ledger.db'}",
            clock=lambda: self.now,
        ) as orchestrator:
            yield orchestrator

    def load(self, name: str) -> None:
        table = self.dice.choice(["a", "b"] if name == "core" else ["c"])
        self.warehouses[name].tables[f"source.{name}.raw.{table}"] = str(self.dice.random())
        with self.project(name) as it:
            it.record([f"raw.{table}"])

    def build(self, name: str) -> None:
        warehouse = self.warehouses[name]
        nodes = sorted(warehouse.lineage.nodes)
        warehouse.failing = set(self.dice.sample(nodes, self.dice.choice([0, 0, 0, 1])))
        warehouse.life = self.dice.choice([None, None, *range(6)])
        with suppress(Killed), self.project(name) as it:
            it.build()
        warehouse.life, warehouse.failing = None, set()

    def step(self) -> None:
        self.now += timedelta(minutes=self.dice.choice([0, 1, 30]))
        name = self.dice.choice(["core", "ads"])
        self.dice.choice([self.load, self.build, self.build])(name)

    def drain(self) -> None:
        for _ in range(6):
            built = 0
            for name in RESOURCES:
                with self.project(name) as it:
                    it.retry()
                    built += len(it.build().built)
            if not built:
                return
        raise AssertionError("they go on for ever")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_projects_end_as_full_builds_of_both(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, seed)
    for name in RESOURCES:
        world.build(name)
    for _ in range(20):
        world.step()
    for name in RESOURCES:
        world.load(name)
    world.drain()
    for name, warehouse in world.warehouses.items():
        with world.project(name) as it:
            plan = it.plan()
            assert not plan.held, name
        assert warehouse.tables.keys() >= warehouse.lineage.nodes.keys()
        assert warehouse.full_build() == warehouse.tables
