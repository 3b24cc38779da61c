"""dbt itself on what a change of the project is a change of: each file is changed, and dbt parses."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.lineage import Lineage, changed_parts

pytestmark = pytest.mark.integration

FILES = {
    "dbt_project.yml": """
name: shop
version: "1.0"
profile: shop
flags: {send_anonymous_usage_stats: false}
vars: {in_config: silver}
models:
  shop:
    +materialized: table
    marts: {+meta: {owner: a}}
""",
    "profiles.yml": """
shop:
  target: dev
  outputs:
    dev: {type: duckdb, path: warehouse.duckdb}
""",
    "macros/money.sql": """
{% macro cents(column) %}{{ rounded(column) }}{% endmacro %}
{% macro rounded(column) %}round({{ scaled(column) }}){% endmacro %}
{% macro scaled(column) %}{{ return(adapter.dispatch('scaled', 'shop')(column)) }}{% endmacro %}
{% macro default__scaled(column) %}{{ column }} * {{ var('scale', 100) }}{% endmacro %}
""",
    "macros/other.sql": """
{% macro hooked() %}select 1{% endmacro %}
{% macro in_ephemeral() %}1{% endmacro %}
{% macro unused() %}1{% endmacro %}
{% test is_even(model, column_name) %}select * from {{ model }} where {{ column_name }} % 2 = 1{% endtest %}
""",
    "models/sources.yml": """
sources:
  - name: crm
    schema: crm
    tables: [{name: orders}, {name: customers}]
""",
    "models/stg_orders.sql": "select {{ cents('amount') }} as amount from {{ source('crm', 'orders') }}",
    "models/stg_customers.sql": "select * from {{ source('crm', 'customers') }}",
    "models/inner_one.sql": """
{{ config(materialized='ephemeral') }} select {{ in_ephemeral() }} from {{ ref('stg_orders') }}
""",
    "models/outer_one.sql": "{{ config(materialized='ephemeral') }} select * from {{ ref('inner_one') }}",
    "models/marts/revenue.sql": "select * from {{ ref('outer_one') }} where day > '{{ var('start', '2024-01-01') }}'",
    "models/marts/people.sql": "select * from {{ ref('stg_customers') }} join {{ ref('dim') }} using (id)",
    "models/marts/first_people.sql": "select * from {{ ref('dim', v=1) }}",
    "models/marts/dim_v1.sql": "select 1 as id",
    "models/marts/dim_v2.sql": "select 2 as id",
    "models/marts/grow.sql": """
{{ config(materialized='incremental', unique_key='id') }} select 1 as id, {{ dbt.current_timestamp() }} as at
""",
    "models/marts/marts.yml": """
models:
  - name: dim
    latest_version: 2
    versions: [{v: 1}, {v: 2}]
  - name: people
    description: People.
    columns: [{name: id, data_type: integer}]
  - name: revenue
    config: {post_hook: "{{ hooked() }}"}
""",
    "snapshots/history.yml": """
snapshots:
  - name: history
    relation: ref('stg_customers')
    config: {strategy: check, unique_key: id, check_cols: all}
""",
    "seeds/colours.csv": "id\n1\n",
    "docs/words.md": "{% docs a_word %}One.{% enddocs %}",
}

MARTS = "models/marts/marts.yml"
SHOWN = "macros/shown.sql"
SAME_SCHEMAS = "{% macro generate_schema_name(custom_schema_name, node) %}main{% endmacro %}"
OTHER_ALIASES = """
{% macro generate_alias_name(custom_alias_name=none, node=none) -%}
{{ dbt.default__generate_alias_name(custom_alias_name, node) | trim }}{{ '_x' if node.name == 'grow' }}
{%- endmacro %}
"""


@dataclass
class Project:
    """The project, and what dbt made of it before anything was changed."""

    root: Path
    before: Lineage

    def parse(self, *flags: str) -> None:
        from dbt.cli.main import dbtRunner

        places = ("--project-dir", str(self.root), "--profiles-dir", str(self.root))
        result = dbtRunner().invoke(["--quiet", *flags, "parse", *places])
        assert result.success, result.exception

    def lineage(self, **given: Any) -> Lineage:
        found = Lineage.from_manifest(self.root / "target" / "manifest.json", **given)
        assert found.identity("seed.shop.colours")  # read now, before the next parse
        return found

    def changed(self, files: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Write the files, have them parsed, and return what changed, by the names of the nodes."""
        for file, text in files.items():
            (self.root / file).parent.mkdir(exist_ok=True)
            (self.root / file).write_text(text, encoding="utf-8")
        self.parse()
        return differences(self.before, self.lineage())


def differences(old: Lineage, new: Lineage) -> dict[str, tuple[str, ...]]:
    return {
        node.split(".", 2)[2]: found
        for node in old.nodes.keys() & new.nodes.keys()
        if (found := changed_parts(old.identity_parts(node), new.identity_parts(node)))
    }


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("identity") / "shop"
    for file, text in FILES.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text, encoding="utf-8")
    project = Project(root, Lineage.from_manifest({"nodes": {}, "sources": {}, "metadata": {}}))
    project.parse()
    project.before = project.lineage()
    return project


@pytest.fixture
def project(pristine: Project, tmp_path: Path) -> Project:
    """A copy in another folder, with dbt's partial parse of the first."""
    shutil.copytree(pristine.root, tmp_path / "copy")
    return Project(tmp_path / "copy", pristine.before)


def edit(file: str, old: str, new: str) -> dict[str, str]:
    assert old in FILES[file]
    return {file: FILES[file].replace(old, new)}


def test_parsed_again_in_another_folder_in_part_and_in_full(project: Project) -> None:
    assert project.changed({}) == {}
    project.parse("--no-partial-parse")
    assert differences(project.before, project.lineage()) == {}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            edit("dbt_project.yml", "marts: {", "marts: {+schema: gold, "),
            {
                "revenue": ("relation",),
                "people": ("parents", "relation"),
                "first_people": ("parents", "relation"),
                "dim.v1": ("relation",),
                "dim.v2": ("relation",),
                "grow": ("relation",),
            },
            id="schema",
        ),
        pytest.param(edit(MARTS, "config: {", "config: {alias: money, "), {"revenue": ("relation",)}, id="alias"),
        pytest.param(
            edit(MARTS, "config: {", "config: {materialized: view, "),
            {"revenue": ("config materialized",)},
            id="materialized",
        ),
        pytest.param(
            edit(MARTS, "latest_version: 2", "latest_version: 1"), {"people": ("parents",)}, id="latest_version"
        ),
        pytest.param(
            edit("models/inner_one.sql", "select", "select 2 as two,"),
            {"revenue": ("ephemeral model.shop.inner_one",)},
            id="ephemeral",
        ),
        pytest.param(
            edit("macros/other.sql", "in_ephemeral() %}1", "in_ephemeral() %}2"),
            {"revenue": ("macro macro.shop.in_ephemeral",)},
            id="macro of an ephemeral model",
        ),
        pytest.param(
            edit("macros/money.sql", "round(", "floor("),
            {"stg_orders": ("macro macro.shop.rounded",)},
            id="macro, two deep",
        ),
        pytest.param(
            {SHOWN: "{% macro duckdb__scaled(column) %}{{ column }}{% endmacro %}"},
            # What is dispatched may be any of these: one that comes along is one more.
            {"stg_orders": ("macro macro.shop.duckdb__scaled",)},
            id="dispatch of one's own",
        ),
        pytest.param(
            {SHOWN: "{% macro default__current_timestamp() %}now(){% endmacro %}"},
            # dbt's own snapshots ask for the time, too.
            {
                "grow": ("macro macro.shop.default__current_timestamp",),
                "history": ("macro macro.shop.default__current_timestamp",),
            },
            id="dispatch of dbt's",
        ),
        pytest.param(
            {SHOWN: "{% macro get_incremental_default_sql(arg_dict) %}{% endmacro %}"},
            {"grow": ("macro macro.shop.get_incremental_default_sql",)},
            id="incremental strategy",
        ),
        pytest.param(
            {SHOWN: "{% materialization incremental, adapter='duckdb' %}{% endmaterialization %}"},
            {"grow": ("macro macro.shop.materialization_incremental_duckdb",)},
            id="materialization",
        ),
        pytest.param({SHOWN: SAME_SCHEMAS}, {}, id="schemas made another way"),
        pytest.param({SHOWN: OTHER_ALIASES}, {"grow": ("relation",)}, id="aliases made another way"),
        pytest.param(
            edit("macros/other.sql", "select 1", "select 2"),
            {"revenue": ("macro macro.shop.hooked",)},
            id="hook's macro",
        ),
        pytest.param(edit(MARTS, "hooked() }}", "hooked() }};"), {"revenue": ("config post-hook",)}, id="hook"),
        pytest.param(
            edit("models/marts/grow.sql", "unique_key='id'", "unique_key='at'"),
            {"grow": ("config unique_key", "file")},
            id="unique_key",
        ),
        pytest.param(
            edit(MARTS, "description: People.", "config: {contract: {enforced: true}}"),
            {"people": ("config contract",)},
            id="contract",
        ),
        pytest.param(
            edit("snapshots/history.yml", "check_cols: all", "check_cols: [id]"),
            {"history": ("config check_cols",)},
            id="snapshot",
        ),
        pytest.param(
            edit("models/sources.yml", "schema: crm", "schema: crm2"),
            {"stg_orders": ("parents",), "stg_customers": ("parents",)},
            id="source moved",
        ),
        pytest.param(edit("seeds/colours.csv", "1", "2"), {"colours": ("file",)}, id="seed"),
    ],
)
def test_change_of_project(project: Project, files: dict[str, str], expected: dict[str, tuple[str, ...]]) -> None:
    assert project.changed(files) == expected


def test_changes_of_nothing_that_is_built(project: Project) -> None:
    files = {
        **edit(MARTS, "description: People.", "description: All of them."),
        **edit("docs/words.md", "One.", "Another."),
        **edit("dbt_project.yml", "marts: {+meta: {owner: a}", "marts: {+tags: [nightly], +meta: {owner: b}"),
        **edit("snapshots/history.yml", "snapshots:", "# A comment.\nsnapshots:"),
        **edit("macros/money.sql", "{% macro cents", "-- A comment.\n\n{% macro cents"),
        "models/new.sql": "select 1 as one from {{ ref('revenue') }}",
        "analyses/look.sql": "select 1",
    }
    # A macro that nothing calls, and the code of a generic test; and that test on a column.
    unused = FILES["macros/other.sql"].replace("unused() %}1", "unused() %}2").replace("% 2 = 1", "% 2 != 0")
    tested = files[MARTS].replace("{name: id, data", "{name: id, description: d, data_tests: [unique, is_even], data")
    assert unused != FILES["macros/other.sql"]
    assert tested != files[MARTS]
    assert project.changed({**files, "macros/other.sql": unused, MARTS: tested}) == {}


def test_vars_of_code_of_its_macros_and_of_configs(project: Project) -> None:
    given = {"start": "2025-01-01", "scale": 10, "unread": 1}
    with_vars = project.lineage(vars=given)
    assert differences(project.before, with_vars) == {"revenue": ("var start",), "stg_orders": ("var scale",)}
    other = project.lineage(vars={**given, "scale": 100, "unread": 2})
    assert differences(with_vars, other) == {"stg_orders": ("var scale",)}
