"""dbt itself as the oracle of ``downstream``, ``selection`` and ``plan.select``, on a project with nasty names."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage_orch.ledger import LedgerSnapshot, NodeFact
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.records import ManifestWarning
from lineage_orch.lineage.selectors import fqn_matches
from lineage_orch.plan import BuildPlan, plan_builds

pytestmark = pytest.mark.integration

NOW = datetime(2026, 1, 1, tzinfo=UTC)

SOURCES_YML = """
version: 2
sources:
  - name: raw
    tables:
      - name: plain
        columns: [{name: id, data_tests: [not_null]}]
      - name: "a b"
      - name: "a.b"
      - name: "a,b"
      - name: "a+b"
      - name: "a:b"
      - name: "a@b"
      - name: "axb"
      - name: "star*"
      - name: "star"
      - name: "start"
      - name: "what?"
      - name: "[x]"
      - name: "x"
      - name: "naïve_表"
      - name: unused
      - name: "off"
        config: {enabled: false}
  - name: "my crm.eu"
    tables: [{name: "the table"}]
  - name: "my crm_eu"
    tables: [{name: "the table"}]
"""

MODELS_YML = """
version: 2
models:
  - name: stg_plain
    columns:
      - name: id
        data_tests:
          - unique
          - relationships: {arguments: {to: "ref('stg_x')", field: id}}
          - relationships: {arguments: {to: "source('raw', 'axb')", field: id}, name: to_source}
  - name: versioned
    latest_version: 2
    versions:
      - v: 1
      - v: 2
        defined_in: newest_of_them
      - v: 10
  - name: "off_model"
    config: {enabled: false}
    columns: [{name: id, data_tests: [unique]}]
  - name: under_off
    columns: [{name: id, data_tests: [unique]}]
  - name: mart
    columns:
      - name: id
      - name: made_on
        granularity: day
    time_spine: {standard_granularity_column: made_on}
unit_tests:
  - name: adds_up
    model: mart
    given:
      - input: ref('stg_plain')
        rows: [{id: 1}]
      - input: ref('glass')
        rows: [{id: 1}]
      - input: ref('colours')
        rows: [{id: 1}]
    expect: {rows: [{id: 1}]}
exposures:
  - name: board
    type: dashboard
    owner: {email: a@b.c}
    depends_on: ["ref('mart')", "source('raw', 'plain')"]
semantic_models:
  - name: marts
    model: ref('mart')
    defaults: {agg_time_dimension: made_on}
    entities: [{name: id, type: primary}]
    dimensions: [{name: made_on, type: time, type_params: {time_granularity: day}}]
    measures: [{name: how_many, agg: count, expr: id}]
metrics:
  - name: how_many
    label: How many
    type: simple
    type_params: {measure: how_many}
saved_queries:
  - name: nightly
    query_params: {metrics: [how_many], group_by: ["TimeDimension('id__made_on', 'day')"]}
"""

# file: what it reads. A name in quotes is a source table of `raw`.
MODELS = {
    "models/staging/stg_plain.sql": "{{ source('raw', 'plain') }}",
    "models/staging/stg_x.sql": "{{ source('raw', '[x]') }} join {{ source('raw', 'x') }}",
    "models/staging/space.sql": "{{ source('raw', 'a b') }}",
    "models/staging/dot.sql": "{{ source('raw', 'a.b') }} join {{ source('raw', 'a,b') }}",
    "models/staging/plus.sql": "{{ source('raw', 'a+b') }} join {{ source('raw', 'a:b') }}",
    "models/staging/at.sql": "{{ source('raw', 'a@b') }} join {{ source('raw', 'axb') }}",
    "models/staging/stars.sql": "{{ source('raw', 'star*') }}",
    "models/staging/starry.sql": "{{ source('raw', 'star') }} join {{ source('raw', 'what?') }}",
    "models/staging/unicode_ö.sql": "{{ source('raw', 'naïve_表') }} join {{ source('raw', 'start') }}",
    "models/crm/eu.sql": "{{ source('my crm.eu', 'the table') }}",
    "models/crm/us.sql": "{{ source('my crm_eu', 'the table') }}",
    # A model named like a folder with models in it, beside it and above it.
    "models/crm.sql": "{{ ref('eu') }}",
    "models/a/a.sql": "{{ ref('stg_plain') }}",
    "models/a/b.sql": "{{ ref('stg_x') }}",
    "models/a/a2/a2.sql": "{{ ref('a') }}",
    "models/nasty.sql": "{{ ref('stg_plain') }}",
    "models/nasty/in_nasty.sql": "{{ ref('nasty') }}",
    # Dots split a name like a folder: this is `dotted` in a folder, and `dotted.name` beside it.
    "models/dotted.name.sql": "{{ ref('stg_plain') }}",
    "models/dotted/name2.sql": "{{ ref('stg_plain') }}",
    "models/dotted.sql": "{{ ref('stg_x') }}",
    "models/dotted.name.more.sql": "{{ ref('stg_x') }}",
    "models/x.y.sql": "{{ ref('stg_x') }}",
    "models/x/y2.sql": "{{ ref('stg_x') }}",
    "models/with space.sql": "{{ ref('stg_x') }}",
    "models/with_space.sql": "{{ ref('stg_plain') }}",
    "models/with.space.sql": "{{ ref('stg_plain') }}",
    "models/glass.sql": "{{ config(materialized='ephemeral') }} -- {{ ref('glass2') }}",
    "models/glass2.sql": "{{ config(materialized='ephemeral') }} -- {{ source('raw', 'axb') }}",
    "models/only_glass.sql": "{{ config(materialized='ephemeral') }} -- {{ ref('mart') }}",
    "models/grow.sql": "{{ config(materialized='incremental') }} -- {{ ref('glass') }}",
    "models/versioned_v1.sql": "{{ ref('stg_plain') }}",
    "models/newest_of_them.sql": "{{ ref('stg_x') }}",
    "models/versioned_v10.sql": "{{ ref('glass') }}",
    # Named as dbt also calls version 1 of `versioned`, and in a folder named like the versioned model.
    "models/looks/versioned_v1_.sql": "{{ ref('stg_plain') }}",
    "models/deep/versioned/v1.sql": "{{ ref('stg_x') }}",
    "models/versioned/v3.sql": "{{ ref('stg_plain') }}",
    "models/reads_versions.sql": "{{ ref('versioned') }} join {{ ref('versioned', v=1) }}",
    "models/mart.sql": "{{ ref('stg_plain') }} join {{ ref('glass') }} join {{ ref('colours') }}",
    "models/off_model.sql": "{{ ref('stg_plain') }}",
    "models/under_off.sql": "{{ ref('stg_plain') }}",
    "models/shop/shop.sql": "{{ ref('stg_x') }}",
    "models/same/same.sql": "{{ ref('stg_plain') }}",
    "models/no_parents.sql": "nothing",
    "pkg/models/same/same2.sql": "{{ ref('same_in_both') }}",
    "pkg/models/same_in_both.sql": "{{ source('raw', 'plain') }}",
    "models/same_in_both.sql": "{{ source('raw', 'plain') }}",
    "pkg/models/both_v1.sql": "{{ source('raw', 'plain') }}",
    "pkg/models/both_v2.sql": "{{ ref('both', v=1) }}",
    "models/both_v1.sql": "{{ source('raw', 'axb') }}",
    "models/both_v2.sql": "{{ ref('shop', 'both', v=1) }}",
}
BOTH_YML = """
version: 2
models:
  - {name: both, latest_version: 2, versions: [{v: 1}, {v: 2}]}
"""
SNAPSHOTS = """
{% snapshot snap_one %}{{ config(unique_key='id', strategy='check', check_cols='all', target_schema='s') }}
select * from {{ ref('stg_plain') }}{% endsnapshot %}
{% snapshot snap_two %}{{ config(unique_key='id', strategy='check', check_cols='all', target_schema='s') }}
select * from {{ ref('stg_x') }}{% endsnapshot %}
"""


def write_project(root: Path) -> None:
    files = {
        "dbt_project.yml": "name: shop\nprofile: p\nmodel-paths: [models]\n"
        "flags: {require_resource_names_without_spaces: false}\n",
        "profiles.yml": "p: {target: dev, outputs: {dev: {type: duckdb, path: db.duckdb}}}\n",
        "packages.yml": "packages: [{local: pkg}]\n",
        "pkg/dbt_project.yml": "name: pkg\nprofile: p\nmodels: {+schema: in_pkg}\n",
        "pkg/models/both.yml": BOTH_YML,
        "pkg/models/sources.yml": "sources: [{name: raw, tables: [{name: plain}, {name: axb}]}]",
        "models/both.yml": BOTH_YML,
        "models/sources.yml": SOURCES_YML,
        "models/models.yml": MODELS_YML,
        "seeds/colours.csv": "id,name\n1,red\n",
        "seeds/a2/colours2.csv": "id,name\n1,red\n",
        "snapshots/snaps.sql": SNAPSHOTS,
        "tests/singular.sql": "select * from {{ ref('mart') }} where false",
        "tests/a/b/deep.sql": "select * from {{ ref('nasty') }} where false",
        "tests/nasty/on_source.sql": "select * from {{ source('raw', 'star') }} where false",
        "analyses/look.sql": "select * from {{ ref('mart') }}",
    }
    files |= {name: f"select 1 as id, current_date as made_on -- {reads}" for name, reads in MODELS.items()}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@dataclass
class Project:
    """The parsed project: dbt's own manifest, and ours."""

    root: Path
    manifest: Any
    lineage: Lineage

    def ls(self, *select: str, mode: str = "eager") -> set[str]:
        """The unique_ids that a real ``dbt ls`` selects."""
        from dbt.cli.main import dbtRunner

        result = dbtRunner(manifest=self.manifest).invoke(
            [
                *("--quiet", "ls", *places(self.root), "--resource-type", "all", "--indirect-selection", mode),
                *("--output", "json", "--output-keys", "unique_id", "--select", *select),
            ]
        )
        assert result.success, result.exception
        return {json.loads(each)["unique_id"] for each in result.result}

    @cached_property
    def selector(self) -> Any:
        from dbt.compilation import Linker
        from dbt.graph import Graph, NodeSelector

        linker = Linker()
        linker.link_graph(self.manifest)
        return NodeSelector(Graph(linker.graph), self.manifest)

    def select(self, selectors: Iterable[str]) -> set[str]:
        """What ``ls`` selects, from dbt's own NodeSelector, without the cost of a command."""
        from dbt.flags import get_flags
        from dbt.graph.cli import parse_union

        # dbt keeps the flags of its last command; a command of another test may have had another mode.
        object.__setattr__(get_flags(), "INDIRECT_SELECTION", "eager")
        found, _ = self.selector.select_nodes(parse_union(list(selectors), True))
        return set(found)


def places(root: Path) -> list[str]:
    return ["--project-dir", str(root), "--profiles-dir", str(root), "--log-path", str(root / "logs")]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    from dbt.cli.main import dbtRunner

    root = tmp_path_factory.mktemp("nasty")
    write_project(root)
    for command in ("deps", "parse"):
        result = dbtRunner().invoke(["--quiet", command, *places(root)])
        assert result.success, result.exception
    return Project(root, result.result, Lineage.from_manifest(root / "target/manifest.json"))


def a_plan(project: Project, build: Iterable[str]) -> BuildPlan:
    """A plan that builds just these nodes, whatever the ledger would have to say for it."""
    chosen = set(build)
    return BuildPlan(
        build=tuple(each for each in project.lineage.nodes if each in chosen),
        perhaps=(),
        held={},
        because={each: frozenset() for each in chosen},
        reasons=dict.fromkeys(chosen, ()),
        next_due=None,
        passed_through=(),
        not_built=(),
        tests_only=(),
        failures={},
        compared={},
        maybe_same=frozenset(),
        notes=(),
        _lineage=project.lineage,
    )


def built_by(project: Project, selected: set[str]) -> set[str]:
    return selected & project.lineage.nodes.keys()


# The closure ----------------------------------------------------------------------------------------------


def test_project_is_as_nasty_as_it_should_be(project: Project) -> None:
    nodes = project.lineage.nodes
    assert {"model.shop.a", "model.shop.a2", "model.shop.crm", "model.shop.with space"} <= nodes.keys()
    assert {"model.shop.dotted.name", "model.shop.dotted", "model.shop.versioned.v10"} <= nodes.keys()
    assert {"model.shop.same_in_both", "model.pkg.same_in_both"} <= nodes.keys()
    assert {"model.shop.both.v1", "model.pkg.both.v1", "snapshot.shop.snap_two"} <= nodes.keys()
    kinds = {each.partition(".")[0] for each in project.lineage.downstream("shop.raw.plain")}
    leaves = {"analysis", "exposure", "metric", "semantic_model", "saved_query", "unit_test", "test"}
    assert kinds == leaves | {"model", "snapshot"}
    assert "source.shop.raw.off" not in project.lineage.sources
    assert "model.shop.off_model" not in nodes


def test_closure_of_every_source_is_that_of_dbt_ls(project: Project) -> None:
    """Every source by a real ``dbt ls``; one of them in all four indirect-selection modes."""
    lineage = project.lineage
    for source in lineage.sources:
        expected = {source, *lineage.downstream(source)}
        assert project.ls(lineage.selection(source)) == expected, source
        assert project.select([lineage.selection(source)]) == expected, source
    for mode in ("cautious", "buildable", "empty"):
        expected = {"source.shop.raw.plain", *lineage.downstream("shop.raw.plain")}
        assert project.ls(lineage.selection("shop.raw.plain"), mode=mode) == expected


def test_selection_of_several_sources_is_their_union(project: Project) -> None:
    chance = random.Random(1)
    lineage = project.lineage
    for _ in range(100):
        sources = chance.sample([*lineage.sources], chance.randint(2, 6))
        assert project.select(lineage.selection(*sources).split(" ")) == {
            *sources,
            *lineage.downstream(*sources),
        }
    assert project.ls(lineage.selection(*sources)) == {*sources, *lineage.downstream(*sources)}


def test_manifest_of_dbt_itself_needs_no_warning(project: Project) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ManifestWarning)
        Lineage.from_manifest(project.root / "target/manifest.json")


@pytest.mark.parametrize("loss", ["child_map", "childless", "sorted"])
def test_manifest_that_lost_something_has_same_closures(project: Project, loss: str) -> None:
    data = json.loads((project.root / "target/manifest.json").read_bytes())
    if loss == "child_map":
        del data["child_map"]
    elif loss == "childless":
        data["child_map"] = {parent: each for parent, each in data["child_map"].items() if each}
    else:
        data = json.loads(json.dumps(data, sort_keys=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lineage = Lineage.from_manifest(data)
    for source in project.lineage.sources:
        assert lineage.downstream(source) == project.lineage.downstream(source)


# Selectors ------------------------------------------------------------------------------------------------


def test_selector_of_every_node_selects_it_alone(project: Project) -> None:
    for node in project.lineage.nodes:
        selector = project.lineage.selectors.node(node)
        assert built_by(project, project.select([selector])) == {node}, selector


def test_source_without_plus_brings_itself_and_its_tests(project: Project) -> None:
    lineage = project.lineage
    for source in lineage.sources:
        found = project.select([lineage.selectors.source(source)])
        assert found == {source, *lineage.tests_on(source)}


def test_random_build_sets_are_selected_precisely(project: Project) -> None:
    chance = random.Random(2)
    nodes = [*project.lineage.nodes]
    for number in range(300):
        chosen = set(chance.sample(nodes, chance.randint(1, len(nodes))))
        select = a_plan(project, chosen).select
        assert built_by(project, project.select(select)) == chosen
        if number % 40 == 0:
            assert built_by(project, project.ls(*select)) == chosen


def test_real_plans_select_what_they_build(project: Project) -> None:
    chance = random.Random(3)
    lineage = project.lineage
    short = 0
    for number in range(200):
        updated = chance.sample([*lineage.sources], chance.randint(1, 5))
        snapshot = LedgerSnapshot(
            tick=9,
            sources=dict.fromkeys(updated, 5),
            nodes={each: NodeFact(6 if number % 2 and chance.random() < 0.3 else 4, NOW) for each in lineage.nodes},
        )
        plan = plan_builds(lineage, snapshot, now=NOW)
        assert bool(plan.select) == bool(plan.build)
        if not plan.build:
            continue
        selected = project.select(plan.select)
        assert built_by(project, selected) == set(plan.build)
        if number % 40 == 0:
            assert project.ls(*plan.select) == selected
        if set(plan.build) == lineage.downstream(*plan.sources) & lineage.nodes.keys():
            short += 1
            assert plan.select == tuple(f"{lineage.selectors.source(each)}+" for each in plan.sources)
        # Whatever the form, the tests of what is built and of what was loaded run with it.
        tests = {test for each in (*plan.build, *plan.sources) for test in lineage.tests_on(each)}
        assert tests <= selected
    assert 50 < short < 180


def test_view_that_is_passed_through_is_not_built_but_tested(project: Project) -> None:
    lineage = project.lineage
    snapshot = LedgerSnapshot(
        tick=9, sources={"source.shop.raw.plain": 5}, nodes={each: NodeFact(4, NOW) for each in lineage.nodes}
    )
    plan = plan_builds(lineage, snapshot, now=NOW, views="pass_through")
    assert "model.shop.stg_plain" in plan.passed_through
    assert "snapshot.shop.snap_one" in plan.build
    selected = project.ls(*plan.select)
    assert built_by(project, selected) == set(plan.build)
    data_tests = {each for node in plan.passed_through for each in lineage.tests_on(node) if each.startswith("test.")}
    assert data_tests <= selected


# dbt's own matching rule ----------------------------------------------------------------------------------

PART = st.text("ab.*?[]-!v1_", min_size=1, max_size=4)


@settings(deadline=None, max_examples=800)
@given(
    st.lists(PART, min_size=1, max_size=4).map(".".join),
    st.lists(PART, min_size=3, max_size=5).map(tuple),
    st.booleans(),
    st.integers(0, 4),
)
def test_fqn_matches_is_rule_of_installed_dbt(
    selector: str, fqn: tuple[str, ...], is_versioned: bool, near: int
) -> None:
    from dbt.graph.selector_methods import QualifiedNameSelectorMethod

    if near > 1:  # a selector that is nearly the name itself
        selector = ".".join(fqn[: near + 1] if near > 2 else fqn[1:])
    method = QualifiedNameSelectorMethod.__new__(QualifiedNameSelectorMethod)
    expected = bool(method.node_is_match(selector, list(fqn), is_versioned))
    assert fqn_matches(selector, fqn, is_versioned) is expected
