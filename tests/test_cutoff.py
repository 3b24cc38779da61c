"""Builds over a warehouse that is simulated: what came out the same stops there, and no table is ever wrong for it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineage_orch import Ledger, Orchestrator
from lineage_orch.lineage import Lineage
from lineage_orch.plan import BuildPlan
from lineage_orch.reports.wording import explanation_lines
from tests import manifests
from tests.manifests import manifest, node, source
from tests.warehouse import Killed, Warehouse

MARK = {"meta": {"lineage_orch": {"cutoff": True}}}


@st.composite
def projects(draw: st.DrawFn) -> dict[str, Any]:
    resources = [manifests.source(f"raw.s{each}") for each in range(draw(st.integers(1, 3)))]
    for number in range(draw(st.integers(2, 9))):
        names = [each["unique_id"] for each in resources]
        parents = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        kinds = ["table", "table", "table", "view", "incremental", *(["ephemeral"] if number else [])]
        kind = draw(st.sampled_from(kinds))
        config = MARK if draw(st.integers(0, 2)) else {}
        resources.append(manifests.node(f"n{number}", *parents, materialized=kind, config=config))
    tested = [each["unique_id"] for each in resources if each["unique_id"].startswith("model.")]
    for number in range(draw(st.integers(0, 3))):
        some = draw(st.lists(st.sampled_from(tested), min_size=1, max_size=2, unique=True))
        resources.append(manifests.node(f"t{number}", *some, kind="test"))
    return manifests.manifest(*resources)


class Project:
    """A project with its warehouse and its ledger; ``restart`` is what a new process makes of them."""

    def __init__(self, given: dict[str, Any], folder: Any, **options: Any) -> None:
        import json

        folder.mkdir(parents=True, exist_ok=True)
        self.manifest = folder / "manifest.json"
        self.manifest.write_text(json.dumps(given), encoding="utf-8")
        (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n", encoding="utf-8")
        profile = "shop: {target: dev, outputs: {dev: {type: duckdb, path: w.duckdb}}}\n"
        (folder / "profiles.yml").write_text(profile, encoding="utf-8")
        self.lineage = Lineage.from_manifest(self.manifest)
        self.warehouse = Warehouse(self.lineage)
        self.ledger = Ledger("sqlite://", project="shop", target="dev")
        self.orchestrator = Orchestrator(
            project_dir=folder, manifest=self.manifest, dbt=self.warehouse, ledger=self.ledger, **options
        )

    def load(self, source: str, rows: str) -> None:
        self.warehouse.tables[source] = f"{source} {rows}"
        self.orchestrator.record([source])

    def built(self) -> list[list[str]]:
        """What each run of dbt built since the last question, in short."""
        runs = [[each.rpartition(".")[2] for each in run] for run in self.warehouse.built]
        self.warehouse.built.clear()
        return runs


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.data(), projects())
def test_tables_are_those_of_full_build_whatever_fails_or_is_killed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, given: dict[str, Any]
) -> None:
    project = Project(given, tmp_path_factory.mktemp("project"), node_retries=0)
    warehouse = project.warehouse
    tests = sorted(each for each in given["nodes"] if each.startswith("test."))
    nodes, sources = sorted(project.lineage.nodes), sorted(project.lineage.sources)
    for each in sources:
        project.load(each, "0")
    for _ in range(data.draw(st.integers(1, 10))):
        step = data.draw(st.sampled_from(["load", "load", "no news", "build", "build", "kill", "fail", "ask"]))
        if step == "load":
            project.load(data.draw(st.sampled_from(sources)), data.draw(st.sampled_from("012")))
        elif step == "no news":
            project.orchestrator.record([data.draw(st.sampled_from(sources))])
        elif step == "ask":
            project.ledger.ask_for([data.draw(st.sampled_from(nodes))], reason="a test")
        else:
            warehouse.failing = set()
            warehouse.unknown = set(data.draw(st.lists(st.sampled_from(nodes), max_size=1)))
            if step == "fail":
                warehouse.failing = set(data.draw(st.lists(st.sampled_from([*nodes, *tests]), max_size=2)))
                warehouse.wobble = set(data.draw(st.lists(st.sampled_from(nodes), max_size=2)))
            warehouse.life = data.draw(st.integers(0, 8)) if step == "kill" else None
            with suppress(Killed):
                project.orchestrator.build()
    warehouse.failing, warehouse.life, warehouse.unknown = set(), None, set()
    project.ledger.clear_failures(nodes)
    report = project.orchestrator.build()
    assert report.ok
    assert not report.waiting
    graph = project.lineage.built_graph
    below = {each for source in sources for each in project.lineage.downstream(source)}
    full = warehouse.full_build()
    for each in graph.ids[graph.source_count :]:
        if each in below and project.lineage.nodes[each].materialized != "view":
            assert warehouse.tables[each] == full[each], each
    assert project.orchestrator.build().runs == 0


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.data(), projects())
def test_no_node_is_built_without_news_above_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, given: dict[str, Any]
) -> None:
    """Of a table that is marked, as long as nothing fails, a build is seen below it only where it changed."""
    project = Project(given, tmp_path_factory.mktemp("project"))
    warehouse, lineage = project.warehouse, project.lineage
    graph = lineage.built_graph
    marked = {
        each
        for each in lineage.nodes
        if given["nodes"][each]["config"].get("meta") and lineage.nodes[each].materialized in ("table", "incremental")
    }
    for each in sorted(lineage.sources):
        project.load(each, "0")
    project.orchestrator.build()
    warehouse.built.clear()
    loaded: set[str] = set()
    changed: set[str] = set()
    make = warehouse.make

    def watch(node: str) -> None:
        """A node builds for a load of a source that it reads, or since a parent was built and is, or may be, new."""
        ids = [graph.ids[parent] for parent in graph.parents[graph.index[node]]]
        assert loaded.intersection(ids) or changed.intersection(ids), node
        before = warehouse.tables[node]
        make(node)
        if node not in marked or warehouse.tables[node] != before:
            changed.add(node)

    warehouse.before_node = watch
    for _ in range(data.draw(st.integers(1, 6))):
        loaded.clear()
        changed.clear()
        for each in data.draw(st.lists(st.sampled_from(sorted(lineage.sources)), min_size=1, unique=True)):
            loaded.add(each)
            project.load(each, data.draw(st.sampled_from("01")))
        report = project.orchestrator.build()
        assert len(report.built) == len(set(report.built)) == sum(map(len, warehouse.built)), "none is built twice"
        warehouse.built.clear()
        assert not set(report.unchanged_upstream) & set(report.built)


# -- by example -------------------------------------------------------------------------------------------------


def five_hundred_below() -> dict[str, Any]:
    resources = [source("raw.products"), node("stg", "raw.products", config=MARK)]
    for number in range(500):
        resources.append(node(f"m{number}", "stg" if number < 20 else f"m{number - 20}"))
    return manifest(*resources)


def test_load_that_changed_nothing_builds_its_direct_readers_alone(tmp_path: Any) -> None:
    project = Project(five_hundred_below(), tmp_path)
    project.load("source.shop.raw.products", "120 rows")
    first = project.orchestrator.build()
    assert (len(first.built), first.runs, first.unchanged) == (501, 1, [])
    project.load("source.shop.raw.products", "120 rows")
    said: list[str] = []
    report = project.orchestrator.build(progress=said.append)
    assert (report.built, report.runs) == (["model.shop.stg"], 1)
    assert report.unchanged == ["model.shop.stg"]
    assert len(report.unchanged_upstream) == 500
    assert report.summary() == "Built 1 node, 500 not built: unchanged upstream."
    assert "Came out as before: stg." in said
    why = "\n".join(explanation_lines(project.orchestrator.explain("m0")))
    assert "and reached stg (parent rebuilt, same content)" in why
    assert "Parents: stg (rebuilt, same content, tick 2)" in why
    assert "node rebuilt, same content" in "\n".join(explanation_lines(project.orchestrator.explain("m77")))


def test_load_that_changed_something_builds_all_of_it_in_second_stage(tmp_path: Any) -> None:
    project = Project(five_hundred_below(), tmp_path)
    for rows in ("a", "b", "c", "d"):
        project.load("source.shop.raw.products", rows)
        report = project.orchestrator.build()
        if not report.unchanged and report.runs > 1:
            break
    assert (len(report.built), report.runs, report.unchanged_upstream) == (501, 2, [])


def perhaps(plan: BuildPlan) -> list[str]:
    return [each.rpartition(".")[2] for each in plan.perhaps]


def small() -> dict[str, Any]:
    return manifest(source("raw.a"), node("stg", "raw.a", config=MARK), node("mart", "stg"))


def test_plan_and_status_and_explain_tell_perhaps_from_will(tmp_path: Any) -> None:
    project = Project(small(), tmp_path)
    project.load("source.shop.raw.a", "1")
    project.orchestrator.build()
    project.load("source.shop.raw.a", "1")
    assert perhaps(project.orchestrator.plan()) == ["mart"]
    states = {each.name: each.state for each in project.orchestrator.status().nodes}
    assert states == {"stg": "due", "mart": "perhaps"}
    why = project.orchestrator.explain("mart")
    assert (why.verdict, why.builds_when.kind) == ("perhaps", "upstream_changed")
    assert explanation_lines(why)[0] == "mart perhaps builds: stg builds first, and it if that comes out changed."


@pytest.mark.parametrize("flags", [["--full-refresh"], ["-f"], ["--full-refresh", "--threads", "2"]])
def test_full_refresh_builds_all_of_it(tmp_path: Any, flags: Iterable[str]) -> None:
    project = Project(small(), tmp_path, dbt_flags=list(flags))
    for _ in range(2):
        project.load("source.shop.raw.a", "1")
        assert project.orchestrator.build().runs == 1
    assert project.built()[-1] == ["stg", "mart"]


def test_what_failed_build_left_is_not_what_was_known(tmp_path: Any) -> None:
    """The mart is built of a new table, whose test then fails; so it is built again of the old one."""
    both = node("both", "stg", "far", kind="test")
    far = node("one", "raw.a"), node("two", "one"), node("far", "two")
    resources = source("raw.a"), node("stg", "raw.a", config=MARK), *far, node("mart", "stg"), both
    project = Project(manifest(*resources), tmp_path, node_retries=0)
    warehouse = project.warehouse
    project.load("source.shop.raw.a", "1")
    project.orchestrator.build()
    old = warehouse.tables["model.shop.stg"]
    rows = iter("23456789")
    while warehouse.made("model.shop.stg", warehouse.tables) == old:
        project.load("source.shop.raw.a", next(rows))
    warehouse.failing = {"test.shop.both"}
    # The mart has a reason of its own, so it does not wait.
    project.ledger.ask_for(["model.shop.mart"], reason="a test")
    project.orchestrator.build()
    assert (
        project.ledger.snapshot().nodes["model.shop.stg"].tick < project.ledger.snapshot().nodes["model.shop.mart"].tick
    )
    warehouse.failing = set()
    project.ledger.clear_failures(["model.shop.stg", "model.shop.far"])
    project.load("source.shop.raw.a", "1")
    project.orchestrator.build()
    assert warehouse.tables["model.shop.stg"] == old
    assert warehouse.tables == warehouse.full_build()


def test_loads_without_news_do_not_keep_waiting_what_has_news(tmp_path: Any) -> None:
    """A node with news of its own waits for a parent that waits; but not for ever, whatever is loaded meanwhile."""
    resources = source("raw.a"), source("raw.b"), node("stg", "raw.a", config=MARK), node("int", "stg")
    project = Project(manifest(*resources, node("mart", "int", "raw.b")), tmp_path)
    project.load("source.shop.raw.a", "1")
    project.load("source.shop.raw.b", "1")
    project.orchestrator.build()
    project.built()
    project.load("source.shop.raw.b", "2")
    project.warehouse.before_build = lambda: project.load("source.shop.raw.a", "1")
    project.load("source.shop.raw.a", "1")
    report = project.orchestrator.build()
    assert ["stg", "int", "mart"] in project.built()
    assert report.runs < 25


def test_ledger_knows_no_content_while_build_is_under_way(tmp_path: Any) -> None:
    project = Project(small(), tmp_path)
    project.load("source.shop.raw.a", "1")
    project.orchestrator.build()
    assert project.ledger.snapshot().nodes["model.shop.stg"].content
    project.load("source.shop.raw.a", "1")
    project.warehouse.life = 0
    with pytest.raises(Killed):
        project.orchestrator.build()
    assert project.ledger.snapshot().nodes["model.shop.stg"].content is None
    project.warehouse.life = None
    assert project.orchestrator.build().unchanged == []
    assert datetime.now(UTC) > project.ledger.snapshot().nodes["model.shop.mart"].built_at
