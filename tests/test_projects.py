"""Several dbt projects in one ledger: a table that one builds and another reads is one thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.errors import LineageError
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.testing import FakeDbt
from tests.manifests import manifest, node, source

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FCT, READ = "model.core.fct", "source.ads.core.fct"


def model(name: str, *parents: str, package: str, **fields: Any) -> dict[str, Any]:
    return node(name, *parents, package=package, relation_name=f'"w"."{package}"."{name}"', **fields)


# core: raw.a -> stg_a -> fct        ads: core.fct -> stg_fct -> mart
#                                         raw.b    -> stg_b --^
CORE = (
    source("raw.a", package="core"),
    model("stg_a", "raw.a", package="core"),
    model("fct", "stg_a", package="core"),
    node("test_fct", "fct", kind="test", package="core"),
)
ADS = (
    source("core.fct", package="ads", relation_name="W.core.FCT"),
    source("raw.b", package="ads"),
    model("stg_fct", "core.fct", package="ads"),
    model("stg_b", "raw.b", package="ads"),
    model("mart", "stg_fct", "stg_b", package="ads"),
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


Open = Callable[..., tuple[Orchestrator, FakeDbt]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Open:
    """Opens a project, anew each time, over the one ledger."""

    def opened(name: str, *resources: dict[str, Any], target: str = "prod") -> tuple[Orchestrator, FakeDbt]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "dbt_project.yml").write_text(f"name: {name}\nprofile: all\n")
        outputs = "".join(f"    {each}: {{type: duckdb, schema: {each}_{name}}}\n" for each in ("prod", "dev"))
        (folder / "profiles.yml").write_text(f"all:\n  target: prod\n  outputs:\n{outputs}")
        path = folder / f"{target}.json"
        given = manifest(*(resources or {"core": CORE, "ads": ADS}[name]))
        path.write_text(json.dumps(given | {"metadata": given["metadata"] | {"adapter_type": "duckdb"}}))
        dbt = FakeDbt(lambda: Lineage.from_manifest(path))
        ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
        return Orchestrator(project_dir=folder, manifest=path, dbt=dbt, ledger=ledger, clock=clock, target=target), dbt

    return opened


def built(orchestrator: Orchestrator) -> list[str]:
    return [each.split(".", 2)[2] for each in orchestrator.build().built]


def test_build_of_one_project_is_update_of_the_other(opened: Open) -> None:
    (core, _), (ads, _) = opened("core"), opened("ads")
    core.record(["raw.a"])
    assert built(core) == ["stg_a", "fct"]
    ads.record(["raw.b"])
    plan = ads.plan()
    assert set(plan.because["model.ads.mart"]) == {READ, "source.ads.raw.b"}
    assert ads.ledger.snapshot().sources.keys() == {"source.ads.raw.b"}, "a question writes nothing"
    assert set(built(ads)) == {"stg_fct", "stg_b", "mart"}
    assert not built(ads)
    assert not built(core)
    core.record(["raw.a"])
    core.build()
    assert built(ads) == ["stg_fct", "mart"]


def test_what_was_never_built_there_is_waited_for(opened: Open) -> None:
    (core, dbt), (ads, _) = opened("core"), opened("ads")
    core.build()  # has nothing to build, and shows what it would
    ads.record(["raw.b"])
    report = ads.build()
    assert report.built == ["model.ads.stg_b"]
    assert {each.reason for each in report.held.values()} == {"first_load"}
    assert report.held["model.ads.mart"].waiting_for == (READ,)
    core.record(["raw.a"])
    dbt.failing = {"test.core.test_fct"}
    assert not core.build().ok
    assert not built(ads), "a build whose tests failed is no update"
    dbt.failing = set()
    core.retry()
    assert core.build().ok
    assert built(ads) == ["stg_fct", "mart"]


def test_updates_on_all_waits_for_the_other_project(opened: Open) -> None:
    both = {"config": {"freshness": {"build_after": {"count": 0, "period": "minute", "updates_on": "all"}}}}
    mart = model("mart", "stg_fct", "stg_b", package="ads", **both)
    (core, _), (ads, _) = opened("core"), opened("ads", *ADS[:-1], mart)
    core.record(["raw.a"])
    core.build()
    ads.record(["raw.b"])
    assert "mart" in built(ads)
    ads.record(["raw.b"])
    assert built(ads) == ["stg_b"]
    core.record(["raw.a"])
    core.build()
    assert built(ads) == ["stg_fct", "mart"]


@pytest.mark.parametrize("at", ["core builds", "core has built", "ads has recorded", "ads builds"])
def test_process_that_is_killed_loses_nothing_and_builds_nothing_twice(opened: Open, at: str) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    (core, dbt), (ads, ads_dbt) = opened("core"), opened("ads")
    ads.record(["raw.b"])
    ads.build()
    core.record(["raw.a"])
    if at == "core builds":
        dbt.before_node = lambda node: kill() if node == FCT else None
        with pytest.raises(Killed):
            core.build()
        assert not built(ads)
        core, _ = opened("core")
        assert built(core) == ["fct"]
    else:
        core.build()
    if at.startswith("ads"):
        if at == "ads builds":
            ads_dbt.before_node = lambda node: kill() if node == "model.ads.mart" else None
        else:
            ads_dbt.before_build = kill
        with pytest.raises(Killed):
            ads.build()
    ads, _ = opened("ads")
    assert built(ads) == (["mart"] if at == "ads builds" else ["stg_fct", "mart"])
    assert not built(ads)


def test_what_is_built_there_during_a_build_here_is_news_after_it(opened: Open) -> None:
    (core, _), (ads, dbt) = opened("core"), opened("ads")
    for each in (core, ads):
        each.record(["raw.a" if each is core else "raw.b"])
        each.build()
    ads.record(["raw.b"])

    def build_core() -> None:
        dbt.before_build = lambda: None
        core.record(["raw.a"])
        core.build()

    dbt.before_build = build_core
    report = ads.build()
    assert [each.split(".")[2] for each in dbt.built[-1]] == ["stg_fct", "mart"]
    assert report.runs == 2


def test_build_that_came_out_the_same_is_no_update(opened: Open) -> None:
    (core, _), (ads, _) = opened("core"), opened("ads")
    core.record(["raw.a"])
    core.build()
    ads.build()
    core.ledger.ask_for([FCT], reason="by hand")
    tick, _ = core.ledger.begin_build(now=NOW)
    core.ledger.record_built(tick, [FCT], built_at=NOW, unchanged=[FCT])
    assert ads.plan().is_empty


def test_development_and_production_do_not_mix(opened: Open) -> None:
    core_dev = tuple(
        each | {"relation_name": each["relation_name"].replace('"core"', '"dev_core"')}
        if "depends_on" in each
        else each
        for each in (*CORE[:3],)
    )
    (dev, _), (ads, _) = opened("core", *core_dev, target="dev"), opened("ads")
    dev.record(["raw.a"])
    dev.build()
    ads.record(["raw.b"])
    assert "source.ads.core.fct" not in ads.plan().sources
    prod, _ = opened("core")
    prod.record(["raw.a"])
    prod.build()
    assert "source.ads.core.fct" in ads.plan().sources


def test_adoption_takes_what_the_other_built_as_it_stands(opened: Open) -> None:
    (core, _), (ads, _) = opened("core"), opened("ads")
    core.adopt()
    ads.adopt()
    assert ads.plan().is_empty
    core.record(["raw.a"])
    core.build()
    assert built(ads) == ["stg_fct", "mart"]


def test_who_closes_a_circle_is_told_and_the_other_goes_on(opened: Open) -> None:
    (core, _), (ads, _) = opened("core"), opened("ads")
    for each in (core, ads):
        each.record(["raw.a" if each is core else "raw.b"])
        each.build()
    back = source("ads.mart", package="core", relation_name='"w"."ads"."mart"')
    closing, _ = opened("core", back, *CORE[:1], model("stg_a", "raw.a", "ads.mart", package="core"), *CORE[2:])
    circle = (
        r"circle: core/prod: source\.core\.ads\.mart -> core/prod: model\.core\.stg_a -> core/prod: model\.core\.fct "
    )
    for ask in (closing.plan, closing.build):
        with pytest.raises(LineageError, match=circle + r"-> ads/prod: source\.ads\.core\.fct -> .*; each build"):
            ask()
    ads.record(["raw.b"])
    assert built(ads) == ["stg_b", "mart"]


def test_history_that_was_pruned_makes_no_news(opened: Open, clock: Clock) -> None:
    (core, _), (ads, _) = opened("core"), opened("ads")
    core.record(["raw.a"])
    core.build()
    ads.build()
    for _ in range(3):
        clock.now += timedelta(days=100)
        ads.record(["raw.b"])
        ads.build()
    assert ads.ledger.prune(now=clock.now) == 0
    assert ads.ledger.built_elsewhere({READ: "w.core.fct"})[READ].is_known
    assert ads.plan().is_empty
