"""Several dbt projects in one ledger: a table that one builds and another reads is one thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lineage_orch.cli import main
from lineage_orch.deployed.build import set_off_readers
from lineage_orch.errors import LineageError, TriggerError
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.reports.wording import explanation_lines
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import SourceUpdate
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


def test_model_of_another_project_in_the_manifest_is_the_same_thing(opened: Open) -> None:
    """As dbt-loom, or dbt's own cross-project ``ref``, puts it there: with its relation, and no file."""
    there = model("fct", package="core", original_file_path="")
    (core, _), (ads, dbt) = opened("core"), opened("ads", there, model("mart", FCT, package="ads"))
    core.build()
    assert set(ads.lineage.sources) == {FCT}
    assert ads.observe().asked == ()
    core.record(["raw.a"])
    core.build()
    assert built(ads) == ["mart"]
    assert dbt.commands == [("fqn:core.[f]ct+",)]
    assert ads.ledger.snapshot().sources == {FCT: 1}
    assert not built(ads)
    ads.record(["core.fct"])  # by hand, under the name that people give it
    assert built(ads) == ["mart"]


def test_who_reads_it_is_told_of_what_was_built(opened: Open) -> None:
    (core, _), (ads, _) = opened("core"), opened("ads")
    ads.build()
    said: list[str] = []
    core.record(["raw.a"])
    assert core.build(progress=said.append).read_elsewhere == ["ads/prod"]
    assert said[-1].startswith(f"ads/prod reads what was built here ({READ}): `lineage-orch build` in that project")
    ads.ledger.set_mark("lineage_orch.deployment", "build-affected/ads")
    core.mark_stale(["fct"])
    core.build(progress=said.append)
    assert "a run of build-affected/ads builds what is below it" in said[-1]
    ads.build()
    assert core.ledger.read_elsewhere() == []


def test_explanation_goes_across(opened: Open, clock: Clock) -> None:
    (core, _), (ads, _) = opened("core"), opened("ads")
    core.build()
    ads.record(["raw.b"])
    lines = explanation_lines(ads.explain("mart"), clock.now)
    assert "core.fct is built by fct of project core (target prod), which was never built" in lines
    core.record([SourceUpdate("raw.a", "1", NOW, producer="export")])
    core.build()
    why = ads.explain("stg_fct")
    assert (
        "core.fct is built by fct of project core (target prod): last changed at tick 3 there (2026-01-01 00:00 UTC), "
        "after raw.a was loaded at tick 2 (2026-01-01 00:00 UTC) by export"
    ) in explanation_lines(why, clock.now)
    assert why.to_dict()["built_by"][READ]["because"][0]["producer"] == "export"
    item = next(each for each in ads.page().items if each.key == READ)
    assert any(line.startswith("core.fct is built by fct of project core") for line in item.lines)
    ads.build()
    assert ads.ledger.producers()[READ] == ["fct of project core"]


def test_command_line_knows_other_projects(
    opened: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (core, _), (ads, _) = opened("core"), opened("ads")
    core.build()
    back = source("ads.mart", package="core", relation_name='"w"."ads"."mart"')
    ads.record(["raw.b"])
    ads.build()
    opened("core", back, *CORE[:1], model("stg_a", "raw.a", "ads.mart", package="core"), *CORE[2:])
    monkeypatch.setenv("LINEAGE_ORCH_LEDGER", f"sqlite:///{tmp_path / 'ledger.db'}")

    def run(project: str, *args: str) -> Any:
        monkeypatch.setenv("LINEAGE_ORCH_MANIFEST", str(tmp_path / project / "prod.json"))
        capsys.readouterr()
        main([*args, "--project-dir", str(tmp_path / project), "--json"])
        return json.loads(capsys.readouterr().out)

    rows = {each["unique_id"]: each["producers"] for each in run("ads", "sources")["sources"]}
    assert rows == {READ: ["fct of project core"], "source.ads.raw.b": []}
    by = run("ads", "explain", "core.fct")
    assert (by["built_by"]["node"], by["built_by"]["tick"]) == (FCT, 0)
    assert by["lines"][1] == "core.fct is built by fct of project core (target prod), which was never built."
    (tmp_path / "loads.py").write_text(
        "from prefect import flow\nfrom lineage_orch import produces_source\n"
        "@produces_source('raw.a', 'raw.b', shared=True)\n@flow\ndef load_for_projects(): ...\n"
    )
    found = {each["code"]: each for each in run("ads", "check", "--producers", str(tmp_path / "loads.py"))["findings"]}
    assert set(found) == {"unknown-source"}, "of core.fct it is known who builds it"
    found = {each["code"]: each for each in run("core", "check", "--producers", str(tmp_path / "loads.py"))["findings"]}
    assert "core/prod: source.core.ads.mart -> core/prod: model.core.stg_a" in found["project-cycle"]["message"]
    assert "source-without-producer" not in found


def test_deployments_of_those_who_read_it_are_set_off(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []

    def launch(deployment: str, *_: Any, **__: Any) -> None:
        launched.append(deployment)
        if len(launched) > 1:
            raise TriggerError("Prefect has no deployment 'build-affected/ads'; deploy it")

    monkeypatch.setattr("lineage_orch.deployed.launch.launch", launch)
    (core, _), (ads, _) = opened("core"), opened("ads")
    core.record(["raw.a"])
    ads.build()
    core.build()
    warned: list[str] = []
    logger = SimpleNamespace(warning=lambda text, *args: warned.append(text % args))
    set_off_readers(core, logger)
    assert launched == [], "no one knows who builds it"
    ads.ledger.set_mark("lineage_orch.deployment", "build-affected/ads")
    for _ in range(2):
        set_off_readers(core, logger)
    assert launched == ["build-affected/ads"] * 2
    assert warned == [
        "ads/prod reads what was built here, and was not set off: Prefect has no deployment 'build-affected/ads'; "
        "deploy it. Its next run takes it in."
    ]
    ads.build()
    set_off_readers(core, logger)
    assert len(launched) == 2
