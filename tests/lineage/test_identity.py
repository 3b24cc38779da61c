"""What a node is made of: which change of the project is a change of which node, and of which part of it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineage_orch.errors import ManifestError
from lineage_orch.lineage import Lineage, Relation, changed_parts, overlay_vars
from tests.manifests import manifest, node, source


def macro(name: str, sql: str = "", *calls: str, package: str = "shop") -> dict[str, Any]:
    """An entry of ``macros`` that calls others, by unique_id or by name in the same package."""
    called = [each if "." in each else f"macro.{package}.{each}" for each in calls]
    return {
        "unique_id": f"macro.{package}.{name}",
        "package_name": package,
        "name": name,
        "macro_sql": sql or f"code of {name}",
        "depends_on": {"macros": called},
    }


def model(name: str, *parents: str, macros: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """A model with what dbt writes of where it is."""
    found = node(name, *parents, **{"alias": name, "schema": "main", "database": "db", **fields})
    found["depends_on"]["macros"] = [each if "." in each else f"macro.shop.{each}" for each in macros]
    return found


def project(*resources: dict[str, Any], macros: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """A manifest with macros."""
    return {**manifest(*resources), "macros": {each["unique_id"]: each for each in macros}}


def changes(before: Mapping[str, Any], after: Mapping[str, Any], **given: Any) -> dict[str, tuple[str, ...]]:
    """What changed between two manifests: the parts, by the names of the nodes."""
    old, new = Lineage.from_manifest(before, **given), Lineage.from_manifest(after, **given)
    for each in old.nodes:
        assert (old.identity(each) == new.identity(each)) == (old.identity_parts(each) == new.identity_parts(each))
    return {
        each.split(".", 2)[2]: found
        for each in old.nodes
        if (found := changed_parts(old.identity_parts(each), new.identity_parts(each)))
    }


def one(config: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A manifest with one model, and a reader of it."""
    return project(model("mart", config=config, **fields), model("reader", "mart"))


def with_code(code: str, **fields: Any) -> dict[str, Any]:
    return project(model("mart", raw_code=code, **fields))


def parts(data: Mapping[str, Any], name: str = "mart", **given: Any) -> dict[str, str]:
    return Lineage.from_manifest(data, **given).identity_parts(f"model.shop.{name}")


# The file and the config ----------------------------------------------------------------------------------


def test_file_that_changed() -> None:
    assert changes(one(checksum="old"), one(checksum="new")) == {"mart": ("file",)}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tags", ["nightly"]),
        ("meta", {"owner": "sales"}),
        ("group", "sales"),
        ("docs", {"show": False}),
        ("access", "public"),
        ("description", "new words"),
        ("persist_docs", {"relation": True}),
        ("freshness", {"build_after": {"count": 1, "period": "day"}}),
        ("state", {"lag_tolerance": "4h"}),
        ("enabled", True),
        ("full_refresh", False),
        # What a release of dbt brings, or writes out: not set, or the default.
        ("some_new_key", None),
        ("some_new_key", {"enabled": None, "alias": None}),
        ("lookback", 1),
        ("on_schema_change", "ignore"),
        ("post-hook", []),
        ("contract", {"enforced": False, "alias_types": True}),
    ],
)
def test_config_that_alters_no_relation(key: str, value: object) -> None:
    assert changes(one(), one({key: value})) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("materialized", "incremental"),
        ("unique_key", ["id"]),
        ("incremental_strategy", "merge"),
        ("on_schema_change", "fail"),
        ("partition_by", {"field": "day"}),
        ("cluster_by", ["day"]),
        ("batch_size", "day"),
        ("begin", "2024-01-01"),
        ("lookback", 3),
        ("event_time", "at"),
        ("post-hook", [{"sql": "grant ...", "transaction": True, "index": None}]),
        ("pre-hook", [{"sql": "set ...", "transaction": True, "index": None}]),
        ("grants", {"select": ["bi"]}),
        ("sql_header", "set x = 1;"),
        ("contract", {"enforced": True}),
        ("a_key_of_some_adapter", False),
    ],
)
def test_config_that_alters_relation(key: str, value: object) -> None:
    assert changes(one(), one({key: value})) == {"mart": (f"config {key}",)}


def test_config_is_kept_as_fingerprint() -> None:
    found = parts(one({"materialized": "table", "post-hook": [{"sql": "set password = 'hunter2'"}]}))
    assert found["config materialized"] == "table"
    assert "hunter2" not in json.dumps(found)


def test_config_with_id_or_time_of_run() -> None:
    first = {"query_tag": "00270b2d-2914-4cad-a560-64c5b9a31a24", "label": "at 2026-11-24T17:23:45.409796+00:00"}
    second = {"query_tag": "6c3f3769-f24d-490a-9722-df3808b05540", "label": "at 2026-11-25T07:00:00.000001+00:00"}
    assert changes(one(first), one(second)) == {}
    assert changes(one(first), one({**first, "label": "at 2026-11-24"})) == {"mart": ("config label",)}


def test_contract_by_its_columns() -> None:
    def enforced(data_type: str, **column: Any) -> dict[str, Any]:
        columns = {"id": {"name": "id", "data_type": data_type, "constraints": [], **column}}
        return one({"contract": {"enforced": True}}, columns=columns)

    assert changes(enforced("int"), enforced("text")) == {"mart": ("config contract",)}
    assert changes(enforced("int"), enforced("int", constraints=[{"type": "not_null"}])) == {
        "mart": ("config contract",)
    }
    assert changes(enforced("int"), enforced("int", description="new", meta={"a": 1}, tags=["b"])) == {}
    free = {"id": {"name": "id", "data_type": "int"}}
    assert changes(one(columns=free), one(columns={"id": {"name": "id", "data_type": "text"}})) == {}


def test_snapshot_by_its_own_code_and_not_file_that_it_shares() -> None:
    def snapshot(checksum: str, code: str) -> dict[str, Any]:
        return project(model("history", kind="snapshot", checksum=checksum, raw_code=code))

    assert changes(snapshot("a", "select 1"), snapshot("b", "select 1")) == {}
    assert changes(snapshot("a", "select 1"), snapshot("a", "select 2")) == {"history": ("file",)}


def test_file_is_the_same_whatever_release_of_dbt_makes_its_checksum() -> None:
    # Up to 1.11 of the file as it is, since then of the file with its white space made one.
    old = one(checksum="of the file", raw_code="select 1,\n  2")
    assert changes(old, one(checksum="with one space", raw_code="select 1,\n  2")) == {}
    assert changes(old, one(checksum="with one space", raw_code="select 1,\n 2")) == {"mart": ("file",)}


def test_config_that_dbt_1_and_dbt_2_write_in_two_ways() -> None:
    seeds = [project(model("colours", kind="seed", config={"materialized": each})) for each in ("seed", None)]
    assert changes(*seeds) == {}
    day, midnight, later = (one({"begin": each}) for each in ("2026-11-22", "2026-11-22T00:00:00", "2026-11-23"))
    assert changes(day, midnight) == {}
    assert changes(day, later) == {"mart": ("config begin",)}
    columns = [
        {"id": {"name": "id", "data_type": "int", "constraints": [{"type": "not_null", "warn_unenforced": each}]}}
        for each in (True, None)
    ]
    assert changes(*(one({"contract": {"enforced": True}}, columns=each) for each in columns)) == {}


def test_snapshot_of_dbt_2_is_the_macro_that_it_makes_of_the_block() -> None:
    code = "\n{{ config(unique_key='id') }}\nselect 1\n"

    def of_dbt_2(inner: str) -> dict[str, Any]:
        block = macro("snapshot_history", f"{{% snapshot history %}}{inner}{{%- endsnapshot -%}}")
        block["unique_id"] = "snapshot.shop.snapshot_history"
        history = model("history", kind="snapshot", raw_code=f"{inner} and another", macros=(block["unique_id"],))
        return project(history, macros=(block,))

    of_dbt_1 = project(model("history", kind="snapshot", raw_code=code))
    assert changes(of_dbt_1, of_dbt_2(code)) == {}
    assert changes(of_dbt_2(code), of_dbt_2("select 2")) == {"history": ("file",)}


# The relation and the parents -----------------------------------------------------------------------------


def test_relation_that_moved_is_change_of_its_readers_too() -> None:
    assert changes(one(), one(schema="gold")) == {"mart": ("relation",), "reader": ("parents",)}
    assert changes(one(), one(alias="dim")) == {"mart": ("relation",), "reader": ("parents",)}
    assert parts(one(schema="gold"))["relation"] == "db.gold.mart"


def test_relation_of_node() -> None:
    lineage = Lineage.from_manifest(project(model("mart", alias="dim", schema="gold", database=None)))
    assert lineage.relation("model.shop.mart") == Relation(None, "gold", "dim")
    bare = Lineage.from_manifest(manifest(node("mart")))
    assert bare.relation("model.shop.mart") == Relation(None, None, "mart")


def test_quotes_that_changed() -> None:
    quoted, plain = '"db"."main"."mart"', "db.main.mart"
    assert changes(one(relation_name=quoted), one(relation_name=plain)) == {"mart": ("config quoting",)}


def test_another_parent_and_another_version() -> None:
    versions = [model("dim", version=1, alias="dim_v1"), model("dim", version=2, alias="dim_v2")]

    def reading(version: int) -> dict[str, Any]:
        return project(*versions, model("mart", f"model.shop.dim.v{version}"), model("other", "model.shop.dim.v1"))

    assert changes(reading(1), reading(2)) == {"mart": ("parents",)}


def test_order_of_parents() -> None:
    both = [model("a"), model("b")]
    assert changes(project(*both, model("mart", "a", "b")), project(*both[::-1], model("mart", "b", "a"))) == {}


def test_source_that_moved() -> None:
    def reading(relation: str) -> dict[str, Any]:
        return project(source("raw.orders", relation_name=relation), model("mart", "raw.orders"), model("other"))

    assert changes(reading('"db"."raw"."orders"'), reading('"db"."new"."orders"')) == {"mart": ("parents",)}
    assert changes(reading("'orders.json'"), reading("'orders_v2.json'")) == {"mart": ("parents",)}
    # The same file on two machines.
    assert changes(reading("'/data/a/shop/orders.json'"), reading("'/srv/shop/orders.json'")) == {}
    assert changes(reading("'s3://a/orders.json'"), reading("'s3://b/orders.json'")) == {"mart": ("parents",)}


def test_event_time_of_parent_counts_for_microbatch() -> None:
    def reading(event_time: str) -> dict[str, Any]:
        batches = {"materialized": "incremental", "incremental_strategy": "microbatch"}
        return project(
            model("stg", config={"event_time": event_time}), model("mart", "stg", config=batches), model("other", "stg")
        )

    assert changes(reading("at"), reading("loaded_at")) == {"stg": ("config event_time",), "mart": ("parents",)}


# Ephemeral models -----------------------------------------------------------------------------------------


def test_ephemeral_models_are_parts_of_their_readers() -> None:
    def shop(code: str) -> dict[str, Any]:
        return project(
            model("stg"),
            model("inner", "stg", materialized="ephemeral", checksum=code),
            model("outer", "inner", materialized="ephemeral"),
            model("mart", "outer"),
            model("other", "stg"),
            model("below", "mart"),
        )

    assert changes(shop("old"), shop("new")) == {"mart": ("ephemeral model.shop.inner",)}


def test_ephemeral_model_brings_what_it_calls_and_reads() -> None:
    def shop(sql: str, *parents: str) -> dict[str, Any]:
        return project(
            model("a"),
            model("b"),
            model("inner", *parents, macros=("cents",), materialized="ephemeral", raw_code="{{ var('rate') }}"),
            model("mart", "inner"),
            macros=(macro("cents", sql),),
        )

    assert changes(shop("old", "a"), shop("new", "a")) == {"mart": ("macro macro.shop.cents",)}
    assert changes(shop("old", "a"), shop("old", "b")) == {"mart": ("parents",)}
    assert "var rate" in parts(shop("old", "a"), vars={"rate": 2})


def test_ephemeral_model_that_becomes_table() -> None:
    def shop(materialized: str) -> dict[str, Any]:
        return project(model("a"), model("inner", "a", materialized=materialized), model("mart", "inner"))

    before, after = Lineage.from_manifest(shop("ephemeral")), Lineage.from_manifest(shop("table"))
    assert changed_parts(before.identity_parts("model.shop.mart"), after.identity_parts("model.shop.mart")) == (
        "ephemeral model.shop.inner",
        "parents",
    )


def test_long_chain_of_ephemeral_models() -> None:
    chain = [model("n0")]
    chain += [model(f"n{each}", f"n{each - 1}", materialized="ephemeral") for each in range(1, 3000)]
    found = parts(project(*chain, model("mart", "n2999")))
    assert sum(name.startswith("ephemeral ") for name in found) == 2999


# Macros ---------------------------------------------------------------------------------------------------


def test_macro_two_levels_deep_is_part_of_its_users_alone() -> None:
    def shop(sql: str) -> dict[str, Any]:
        macros = macro("outer", "", "inner"), macro("inner", "", "innermost"), macro("innermost", sql)
        return project(model("mart", macros=("outer",)), model("other"), macros=macros)

    assert changes(shop("old"), shop("new")) == {"mart": ("macro macro.shop.innermost",)}


@pytest.mark.parametrize(
    ("code", "used"),
    [
        ("{% if execute %}{{ cents ('a') }}{% endif %}", {"shop.cents", "shop.inner"}),
        ("{{ cents('a') if execute else 1 }}", {"shop.cents", "shop.inner"}),
        ("{% if execute %}{{ utils.star('a') }}{% endif %}", {"utils.star", "utils.default__star"}),
        ("{% if execute %}{{ utils.star('a') }}{{ today() }}{% endif %}",
         {"utils.star", "utils.default__star", "shop.duckdb__today"}),
        ("{% if execute %}{{ star('a') }}{% endif %} select cents(1)", set()),
        ("{% if execute %}1{% endif %}{# cents('a') #}", set()),
    ],
)  # fmt: skip
def test_macros_that_dbt_did_not_see_are_known_by_name(code: str, used: set[str]) -> None:
    macros = (
        macro("cents", "{% macro cents(c) %}{{ inner(c) }}{% endmacro %}"),
        macro("inner"),
        macro("star", "{% macro star() %}{{ adapter.dispatch('star', 'utils')() }}{% endmacro %}", package="utils"),
        macro("default__star", package="utils"),
        macro("today", "{% macro today() %}{{ adapter.dispatch('today', 'dbt')() }}{% endmacro %}", package="dbt"),
        macro("duckdb__today"),
        macro("unused"),
    )
    data = project(model("mart", raw_code=code), macros=macros)
    assert {each for each in parts(data) if each.startswith("macro ")} == {f"macro macro.{each}" for each in used}


def test_macros_that_call_each_other() -> None:
    macros = macro("even", "", "odd"), macro("odd", "", "even")
    assert {"macro macro.shop.even", "macro macro.shop.odd"} < parts(
        project(model("mart", macros=("even",)), macros=macros)
    ).keys()


def test_macros_of_dbt_are_no_parts_but_lead_to_project() -> None:
    def shop(sql: str) -> dict[str, Any]:
        macros = (
            macro("materialization_table_default", "", "create_table_as", package="dbt"),
            macro("create_table_as", "", "macro.shop.duckdb__create_table_as", package="dbt"),
            macro("duckdb__create_table_as", sql),
            macro("postgres__x", package="dbt_postgres"),
            macro("surrogate_key", package="dbt_utils"),
        )
        called = ("macro.dbt_postgres.postgres__x", "macro.dbt_utils.surrogate_key")
        return project(model("mart", macros=called), model("a_view", materialized="view"), macros=macros)

    assert changes(shop("old"), shop("new")) == {"mart": ("macro macro.shop.duckdb__create_table_as",)}
    named = {each for each in parts(shop("old")) if each.startswith("macro ")}
    assert named == {"macro macro.shop.duckdb__create_table_as", "macro macro.dbt_utils.surrogate_key"}


def test_macro_of_project_with_name_of_dbts() -> None:
    def shop(sql: str) -> dict[str, Any]:
        macros = (
            macro("materialization_table_default", "", "create_indexes", package="dbt"),
            macro("create_indexes", package="dbt"),
            macro("create_indexes", sql),
        )
        return project(model("mart"), model("a_view", materialized="view"), macros=macros)

    assert changes(shop("old"), shop("new")) == {"mart": ("macro macro.shop.create_indexes",)}


def test_materialization_and_strategies_of_ones_own() -> None:
    def shop(sql: str) -> dict[str, Any]:
        macros = (
            macro("materialization_mine_default", sql, "helper"),
            macro("helper", sql),
            macro("get_incremental_delta_sql", sql),
            macro("snapshot_hashed_strategy", sql),
        )
        return project(
            model("by_mine", materialized="mine"),
            model("by_delta", materialized="incremental", config={"incremental_strategy": "delta"}),
            model("by_merge", materialized="incremental", config={"incremental_strategy": "merge"}),
            model("history", kind="snapshot", config={"strategy": "hashed"}),
            macros=macros,
        )

    assert changes(shop("old"), shop("new")) == {
        "by_mine": ("macro macro.shop.helper", "macro macro.shop.materialization_mine_default"),
        "by_delta": ("macro macro.shop.get_incremental_delta_sql",),
        "history": ("macro macro.shop.snapshot_hashed_strategy",),
    }


def test_macros_that_hooks_call_by_name() -> None:
    def shop(sql: str) -> dict[str, Any]:
        hooks = [{"sql": "{{ grant_to('a') }}; select grant(1)"}, {"sql": "select grant_to(1)"}]
        return project(model("mart", config={"post-hook": hooks}), macros=(macro("grant_to", sql), macro("other", sql)))

    assert changes(shop("old"), shop("new")) == {"mart": ("macro macro.shop.grant_to",)}


# Variables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("{{ var('start') }}", "start"),
        ('{{ var("start", 3) }}', "start"),
        ("{{ var(\n  'start' ) }}", "start"),
        ("{% if var.has_var('start') %}", "start"),
        ("{{ myvar('start') }}", None),
        ("{# {{ var('start') }} #}", None),
        ("{{ var(name) }}", None),
        ("select variance from start", None),
    ],
)
def test_vars_that_code_names(code: str, name: str | None) -> None:
    found = [each for each in parts(with_code(code), vars={"start": 1}) if each.startswith("var ")]
    assert found == ([] if name is None else [f"var {name}"])


def test_var_by_its_value() -> None:
    data = with_code("{{ var('start') }}")
    assert parts(data, vars={"start": 1}) != parts(data, vars={"start": 2})
    assert parts(data, vars={"other": 1}) == parts(data)
    assert parts(data, vars={"shop": {"start": 1}}) == parts(data, vars={"start": 1})
    assert parts(data, vars={"crm": {"start": 1}}) == parts(data)
    assert "secret" not in str(parts(data, vars={"start": "secret"}))


def test_vars_of_macros_and_hooks() -> None:
    hooked = {"post-hook": [{"sql": "insert {{ var('in_hook') }}"}]}
    data = project(
        model("mart", macros=("rate",), config=hooked), model("other"), macros=(macro("rate", "{{ var('in_macro') }}"),)
    )
    given = {"in_hook": 1, "in_macro": 2}
    assert {"var in_hook", "var in_macro"} < parts(data, vars=given).keys()
    assert not [each for each in parts(data, "other", vars=given) if each.startswith("var ")]


def test_env_var_by_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_code("{{ env_var('SHOP_REGION', 'eu') }}")
    monkeypatch.delenv("SHOP_REGION", raising=False)
    unset = parts(data)
    monkeypatch.setenv("SHOP_REGION", "secret-us")
    assert changed_parts(unset, parts(data)) == ("env_var SHOP_REGION",)
    assert "secret" not in str(parts(data))


def test_meta_counts_where_code_asks_for_it() -> None:
    def reading(code: str, owner: str) -> dict[str, Any]:
        return with_code(code, config={"meta": {"owner": owner}})

    asks = "{{ config.meta_get('owner') }}"
    assert changes(reading(asks, "a"), reading(asks, "b")) == {"mart": ("config meta",)}
    asks_not = "select meta, {{ var('a') }}"
    assert changes(reading(asks_not, "a"), reading(asks_not, "b")) == {}


def test_vars_that_are_given_win_over_those_of_package() -> None:
    of_project = {"start": 1, "rate": 2, "shop": {"start": 3, "end": 4}}
    assert overlay_vars(of_project, {"start": 9}) == {"start": 9, "rate": 2, "shop": {"end": 4}}


# The manifest ---------------------------------------------------------------------------------------------


def shuffled(data: Any, by: random.Random) -> Any:
    if isinstance(data, dict):
        keys = list(data)
        by.shuffle(keys)
        return {key: shuffled(data[key], by) for key in keys}
    return [shuffled(each, by) for each in data] if isinstance(data, list) else data


def test_identity_from_file_and_from_dict_in_any_order(tmp_path: Path) -> None:
    data = project(
        source("raw.orders"),
        model(
            "stg", "raw.orders", config={"post-hook": [{"sql": "a"}, {"sql": "b"}], "partition_by": {"a": 1, "b": 2}}
        ),
        model("inner", "stg", materialized="ephemeral", macros=("outer",)),
        model("mart", "inner", "stg", raw_code="{{ var('x') }}"),
        macros=(macro("outer", "", "inner"), macro("inner")),
    )
    given = {"x": {"b": 1, "a": 2}}
    expected = {
        each: Lineage.from_manifest(data, vars=given).identity(each) for each in ("model.shop.stg", "model.shop.mart")
    }
    for seed in range(5):
        path = tmp_path / f"manifest_{seed}.json"
        path.write_text(json.dumps(shuffled(data, random.Random(seed))))
        lineage = Lineage.from_manifest(path, vars=given)
        assert {each: lineage.identity(each) for each in expected} == expected


def test_identity_from_file_so_large_that_it_is_read_in_pieces(tmp_path: Path) -> None:
    # What looks like the end of an entry stands in the code, too.
    code = '{"a": {}, "model.b": 1}, "test.c" -- {{ var("x") }}' + "select 1 " * 300
    names = [f"m{each}" for each in range(3000)]
    configs = [{"unique_key": f"k{each % 7}", "contract": {"enforced": each % 3 == 0}} for each in range(3000)]
    columns = [{"id": {"name": "id", "data_type": f"char({each})"}} for each in range(3000)]
    models = [
        model(name, above, raw_code=code, config=config, columns=each, macros=("outer",))
        for name, above, config, each in zip(names, ["raw.orders", *names], configs, columns, strict=False)
    ]
    data = project(source("raw.orders"), *models, macros=(macro("outer"),))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(data))
    assert path.stat().st_size > 2 * (4 << 20)
    read, given = Lineage.from_manifest(path, vars={"x": 1}), Lineage.from_manifest(data, vars={"x": 1})
    assert all(read.identity_parts(each) == given.identity_parts(each) for each in given.nodes)
    assert {"config contract", "macro macro.shop.outer", "var x"} < read.identity_parts("model.shop.m0").keys()


@pytest.mark.parametrize("missing", ["macros", "config", "depends_on", "checksum", "columns"])
def test_identity_where_manifest_lacks_something(missing: str) -> None:
    data = project(model("mart"))
    data.pop(missing, None)
    data["nodes"]["model.shop.mart"].pop(missing, None)
    assert len(Lineage.from_manifest(data).identity("model.shop.mart")) == 32


def test_identity_where_sections_are_null() -> None:
    data = {**project(model("mart", config=None, columns=None, raw_code=None)), "macros": None, "functions": None}
    data["nodes"]["model.shop.mart"]["config"] = None
    assert "relation" in Lineage.from_manifest(data).identity_parts("model.shop.mart")


def test_identity_of_file_that_is_not_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("\ufeff" + json.dumps(project(model("mart", config={"weight": float("nan")}))), encoding="utf-8")
    assert "config materialized" in Lineage.from_manifest(path).identity_parts("model.shop.mart")


def test_identity_of_file_that_dbt_wrote_again(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    data = project(model("mart", checksum="old"))
    path.write_bytes(msgspec.json.encode(data))
    same, changed, gone = (Lineage.from_manifest(path) for _ in range(3))
    path.write_bytes(msgspec.json.encode({**data, "metadata": {**data["metadata"], "generated_at": "later"}}))
    assert same.identity("model.shop.mart")
    path.write_bytes(msgspec.json.encode(project(model("mart", checksum="new"))))
    with pytest.raises(ManifestError, match=r"written anew.*model\.shop\.mart changed; read it again"):
        changed.identity("model.shop.mart")
    path.unlink()
    with pytest.raises(ManifestError, match="cannot be read again"):
        gone.identity("model.shop.mart")


def test_identity_of_what_is_no_node() -> None:
    lineage = Lineage.from_manifest(project(source("raw.orders"), model("mart")))
    with pytest.raises(KeyError, match=r"raw\.orders"):
        lineage.identity("source.shop.raw.orders")


def test_identity_is_read_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(msgspec.json.encode(project(source("raw.orders"), model("mart", "raw.orders"))))
    lineage = Lineage.from_manifest(path)
    path.unlink()
    assert lineage.source_map() == {"source.shop.raw.orders": ("model.shop.mart",)}
    assert lineage.built_graph.parents == ((), (0,))
