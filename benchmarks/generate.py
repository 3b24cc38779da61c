"""Manifests with realistic bytes: about 20 KB per model, always the same for the same number of models.

A project of domains: each has sources, a staging model on each, layers of intermediate models, and marts that read
some of another domain. Every model has code, compiled code, described columns and two or three tests; beside them
stand macros, docs, exposures, ``parent_map`` and ``child_map``. The shape is that of dbt 1.11 (manifest v12), and
dbt's own classes read it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / ".data"
# In the names of the files: raise it when what is generated changes.
EDITION = 1
PACKAGE = "warehouse"
DOMAIN = 100
"""Models per domain: a tenth of them staging, half intermediate, the rest marts."""

_WORDS = (
    "order", "customer", "product", "invoice", "payment", "shipment", "session", "event",
    "campaign", "ticket", "account", "region", "store", "supplier", "refund", "basket", "visit",
    "contract", "employee", "inventory", "price", "discount", "channel", "segment", "forecast",
    "budget", "ledger", "batch",
)  # fmt: skip
_DOCS = {"show": True, "node_color": None}
_CONFIG: dict[str, Any] = {
    "enabled": True, "alias": None, "schema": None, "database": None, "tags": [], "meta": {}, "group": None,
    "materialized": "table", "incremental_strategy": None, "batch_size": None, "lookback": 1, "begin": None,
    "persist_docs": {}, "post-hook": [], "pre-hook": [], "quoting": {}, "column_types": {}, "full_refresh": None,
    "unique_key": None, "on_schema_change": "ignore", "on_configuration_change": "apply", "grants": {},
    "packages": [], "docs": _DOCS, "contract": {"enforced": False, "alias_types": True}, "event_time": None,
    "concurrent_batches": None, "access": "protected", "freshness": None,
}  # fmt: skip
_TEST_CONFIG: dict[str, Any] = {
    "enabled": True, "alias": None, "schema": "dbt_test__audit", "database": None, "tags": [], "meta": {},
    "group": None, "materialized": "test", "severity": "ERROR", "store_failures": None,
    "store_failures_as": None, "where": None, "limit": None, "fail_calc": "count(*)", "warn_if": "!= 0",
    "error_if": "!= 0",
}  # fmt: skip


def manifest_path(models: int) -> Path:
    """Return the manifest of so many models, written at the first call.

    By a process of its own: a child's peak memory is never below that of the process that forked it.
    """
    path = DATA / f"manifest_{models}_v{EDITION}.json"
    if not path.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.generate", str(models)], cwd=DATA.parent.parent, check=True)
    return path


def _write(path: Path, models: int) -> None:
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(_Project(models).pieces())
    unfinished.rename(path)


class _Project:
    def __init__(self, models: int) -> None:
        self._models = models
        self._random = random.Random(models)
        self._parents: dict[str, list[str]] = {}
        self._children: dict[str, list[str]] = {}

    def pieces(self) -> Iterator[str]:
        """Yield the JSON, in the order in which dbt writes the sections."""
        metadata = {
            "dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json", "dbt_version": "1.11.16",
            "generated_at": "2026-11-22T10:00:00.000000Z", "invocation_id": "5363ea59-2da9-4212-9308-dd5e91e3b718",
            "env": {}, "project_name": PACKAGE, "project_id": "52e2b356b2b0bade408c5d8ef6aa0066", "user_id": None,
            "send_anonymous_usage_stats": False, "adapter_type": "duckdb",
        }  # fmt: skip
        yield '{"metadata": ' + json.dumps(metadata)
        sources = list(self._sources())
        yield from _section("nodes", self._nodes([unique_id for unique_id, _ in sources]))
        yield from _section("sources", iter(sources))
        yield from _section("macros", self._macros())
        yield from _section("docs", self._docs())
        yield from _section("exposures", self._exposures())
        for name in ("metrics", "groups", "selectors", "disabled"):
            yield f', "{name}": {{}}'
        yield ', "parent_map": ' + json.dumps(self._parents)
        yield ', "child_map": ' + json.dumps(self._children)
        for name in ("group_map", "saved_queries", "semantic_models", "unit_tests", "functions"):
            yield f', "{name}": {{}}'
        yield "}"

    # The graph ----------------------------------------------------------------------------------------------

    def _link(self, child: str, parents: list[str]) -> None:
        self._parents[child] = parents
        self._children.setdefault(child, [])
        for parent in parents:
            self._children.setdefault(parent, []).append(child)

    def _sources(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(max(1, self._models // 10)):
            system, table = f"system_{number // 10:04d}", f"raw_{self._word()}_{number:05d}"
            unique_id = f"source.{PACKAGE}.{system}.{table}"
            self._link(unique_id, [])
            path = f"models/staging/{system}/_{system}__sources.yml"
            yield unique_id, {
                "database": "dev", "schema": system, "name": table, "resource_type": "source",
                "package_name": PACKAGE, "path": path, "original_file_path": path, "unique_id": unique_id,
                "fqn": [PACKAGE, "staging", system, system, table], "source_name": system,
                "source_description": self._prose(30), "loader": "prefect", "identifier": table, "quoting": {},
                "loaded_at_field": None, "loaded_at_query": None, "freshness": None, "external": None,
                "description": self._prose(40), "columns": self._columns(6), "meta": {}, "source_meta": {},
                "tags": [], "config": {"enabled": True}, "patch_path": None, "unrendered_config": {},
                "relation_name": f'"dev"."{system}"."{table}"', "created_at": 1763800000.123456,
                "doc_blocks": [],
            }  # fmt: skip

    def _nodes(self, sources: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        choose = self._random
        last_mart: list[str] = []
        made = 0
        for domain in range(-(-self._models // DOMAIN)):
            own_sources = sources[domain * DOMAIN // 10 : (domain + 1) * DOMAIN // 10] or sources[-1:]
            size = min(DOMAIN, self._models - made)
            staging: list[str] = []
            inner: list[str] = []
            marts: list[str] = []
            for place in range(size):
                if place < max(1, size // 10):
                    layer, parents = "staging", [own_sources[place % len(own_sources)]]
                elif place < size * 6 // 10:
                    known = staging + inner[-20:]
                    layer, parents = "intermediate", choose.sample(known, min(len(known), choose.randint(1, 3)))
                else:
                    known = (inner or staging) + marts[-5:]
                    layer, parents = "marts", choose.sample(known, min(len(known), choose.randint(2, 4)))
                    if last_mart and choose.random() < 0.1:
                        parents.append(choose.choice(last_mart))
                unique_id, model = self._model(made, domain, layer, parents)
                {"staging": staging, "intermediate": inner, "marts": marts}[layer].append(unique_id)
                made += 1
                yield unique_id, model
                yield from self._tests(unique_id, model, choose.choice((2, 2, 3)))
            last_mart = marts[-10:]

    def _exposures(self) -> Iterator[tuple[str, dict[str, Any]]]:
        models = [each for each in self._parents if each.startswith("model.")]
        for number in range(self._models // 50):
            unique_id = f"exposure.{PACKAGE}.dashboard_{number:04d}"
            parents = self._random.sample(models, min(3, len(models)))
            self._link(unique_id, parents)
            yield unique_id, {
                "name": f"dashboard_{number:04d}", "resource_type": "exposure", "package_name": PACKAGE,
                "path": "marts/_exposures.yml", "original_file_path": "models/marts/_exposures.yml",
                "unique_id": unique_id, "fqn": [PACKAGE, "marts", f"dashboard_{number:04d}"], "type": "dashboard",
                "owner": {"email": "team@example.com", "name": "A Team"}, "description": self._prose(30),
                "label": None, "maturity": None, "meta": {}, "tags": [], "config": {"enabled": True, "tags": [],
                "meta": {}}, "unrendered_config": {}, "url": None, "depends_on": {"macros": [], "nodes": parents},
                "refs": [], "sources": [], "metrics": [], "created_at": 1763800000.5,
            }  # fmt: skip

    # The bytes ----------------------------------------------------------------------------------------------

    def _model(self, number: int, domain: int, layer: str, parents: list[str]) -> tuple[str, dict[str, Any]]:
        choose = self._random
        prefix = {"staging": "stg", "intermediate": "int", "marts": "fct"}[layer]
        name = f"{prefix}_{self._word()}_{self._word()}_{number:05d}"
        unique_id = f"model.{PACKAGE}.{name}"
        self._link(unique_id, parents)
        folder = f"domain_{domain:03d}"
        chance = choose.random()
        materialized = "ephemeral" if chance < 0.05 else "view" if chance < 0.15 else "table"
        columns = self._columns(choose.randint(9, 13))
        raw, compiled = self._code(parents, list(columns))
        path = f"{layer}/{folder}/{name}.sql"
        return unique_id, {
            "database": "dev", "schema": f"main_{layer}", "name": name, "resource_type": "model",
            "package_name": PACKAGE, "path": path, "original_file_path": f"models/{path}", "unique_id": unique_id,
            "fqn": [PACKAGE, layer, folder, name], "alias": name,
            "checksum": {"name": "sha256", "checksum": f"{choose.getrandbits(256):064x}"},
            "config": {**_CONFIG, "materialized": materialized, "tags": [layer]}, "tags": [layer],
            "description": self._prose(60), "columns": columns, "meta": {}, "group": None, "docs": _DOCS,
            "patch_path": f"{PACKAGE}://models/{layer}/{folder}/_{folder}__models.yml", "build_path": None,
            "unrendered_config": {"materialized": materialized, "tags": [layer]}, "created_at": 1763800001.25,
            "relation_name": f'"dev"."main_{layer}"."{name}"', "raw_code": raw, "doc_blocks": [],
            "language": "sql",
            "refs": [
                {"name": each.rpartition(".")[2], "package": None, "version": None}
                for each in parents if each.startswith("model.")
            ],
            "sources": [each.split(".")[2:] for each in parents if each.startswith("source.")], "metrics": [],
            "functions": [], "depends_on": {"macros": ["macro.dbt.is_incremental"], "nodes": parents},
            "compiled_path": f"target/compiled/{PACKAGE}/models/{path}", "compiled": True,
            "compiled_code": compiled, "extra_ctes_injected": True, "extra_ctes": [],
            "contract": {"enforced": False, "alias_types": True, "checksum": None}, "access": "protected",
            "constraints": [], "version": None, "latest_version": None, "deprecation_date": None,
            "primary_key": [], "time_spine": None,
        }  # fmt: skip

    def _tests(self, model_id: str, model: dict[str, Any], count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        columns = list(model["columns"])
        for kind, column in zip(("not_null", "unique", "accepted_values"), columns[:count], strict=False):
            name = f"{kind}_{model['name']}_{column}"
            short = f"{self._random.getrandbits(40):010x}"
            unique_id = f"test.{PACKAGE}.{name}.{short}"
            self._link(unique_id, [model_id])
            path = model["patch_path"].partition("://")[2]
            keyed = {"column_name": column, "model": "{{ get_where_subquery(ref('" + model["name"] + "')) }}"}
            relation = model["relation_name"]
            yield unique_id, {
                "database": "dev", "schema": "main_dbt_test__audit", "name": name, "resource_type": "test",
                "package_name": PACKAGE, "path": f"{name}.sql", "original_file_path": path,
                "unique_id": unique_id, "fqn": [*model["fqn"][:-1], name], "alias": name,
                "checksum": {"name": "none", "checksum": ""}, "config": _TEST_CONFIG, "tags": [],
                "description": "", "columns": {}, "meta": {}, "group": None, "docs": _DOCS, "patch_path": None,
                "build_path": None, "unrendered_config": {}, "created_at": 1763800002.5, "relation_name": None,
                "raw_code": "{{ test_" + kind + "(**_dbt_generic_test_kwargs) }}", "doc_blocks": [],
                "language": "sql", "refs": [{"name": model["name"], "package": None, "version": None}],
                "sources": [], "metrics": [], "functions": [],
                "depends_on": {
                    "macros": [f"macro.dbt.test_{kind}", "macro.dbt.get_where_subquery"], "nodes": [model_id],
                },
                "compiled_path": f"target/compiled/{PACKAGE}/{path}/{name}.sql", "compiled": True,
                "compiled_code": f"\n    \n    \n\n\n\nselect {column}\nfrom {relation}\n"
                f"where {column} is null\n\n\n", "extra_ctes_injected": True, "extra_ctes": [],
                "contract": {"enforced": False, "alias_types": True, "checksum": None}, "column_name": column,
                "file_key_name": f"models.{model['name']}", "attached_node": model_id,
                "test_metadata": {"name": kind, "kwargs": keyed, "namespace": None},
            }  # fmt: skip

    def _columns(self, count: int) -> dict[str, Any]:
        names = [f"{self._word()}_{kind}" for kind in ("id", "name", "at", "count", "amount", "status", "flag")]
        names += [f"{self._word()}_{self._word()}_{number}" for number in range(count)]
        return {
            name: {
                "name": name, "description": self._prose(18), "meta": {}, "data_type": "varchar",
                "constraints": [], "quote": None, "config": {"meta": {}, "tags": []}, "tags": [],
                "granularity": None, "doc_blocks": [],
            }
            for name in dict.fromkeys(names[:count])
        }  # fmt: skip

    def _code(self, parents: list[str], columns: list[str]) -> tuple[str, str]:
        raw: list[str] = ["{{ config(tags=['nightly']) }}\n\nwith "]
        compiled: list[str] = ["\n\nwith "]
        for number, parent in enumerate(parents):
            parts = parent.split(".")
            call = f"source('{parts[2]}', '{parts[3]}')" if parts[0] == "source" else f"ref('{parts[-1]}')"
            raw.append(f"input_{number} as (\n    select * from {{{{ {call} }}}}\n),\n\n")
            compiled.append(f'input_{number} as (\n    select * from "dev"."main"."{parts[-1]}"\n),\n\n')
        body: list[str] = []
        for step in range(3):
            body.append(f"step_{step} as (\n    select\n")
            for column in columns:
                body.append(f"        coalesce(t.{column}, '{self._word()}') as \"{column}\",  -- {self._prose(3)}\n")
            body.append(f"    from input_0 as t\n    where t.{columns[0]} is not null and t.amount > {step}\n),\n\n")
        body.append("final as (\n    select * from step_2\n)\n\nselect * from final\n")
        return "".join(raw + body), "".join(compiled + body)

    def _macros(self) -> Iterator[tuple[str, dict[str, Any]]]:
        # dbt's own and those of packages: about a thousand in any project.
        for number in range(400 + self._models // 100):
            name = f"{self._word()}_{self._word()}_{number:04d}"
            unique_id = f"macro.dbt.{name}"
            yield unique_id, {
                "name": name, "resource_type": "macro", "package_name": "dbt", "path": f"macros/{name}.sql",
                "original_file_path": f"macros/{name}.sql", "unique_id": unique_id,
                "macro_sql": "{% macro " + name + "(relation) %}\n" + self._prose(90) + "\n{% endmacro %}",
                "depends_on": {"macros": []}, "description": "", "meta": {}, "docs": _DOCS, "config": {"meta": {},
                "docs": _DOCS}, "patch_path": None, "arguments": [], "created_at": 1763800000.0,
                "supported_languages": None,
            }  # fmt: skip

    def _docs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(self._models // 20):
            name = f"doc_{self._word()}_{number:05d}"
            yield f"doc.{PACKAGE}.{name}", {
                "name": name, "resource_type": "doc", "package_name": PACKAGE, "path": "docs.md",
                "original_file_path": "models/docs.md", "unique_id": f"doc.{PACKAGE}.{name}",
                "block_contents": self._prose(150),
            }  # fmt: skip

    def _word(self) -> str:
        return self._random.choice(_WORDS)

    def _prose(self, words: int) -> str:
        # A quotation and a line end now and then: what a reader of JSON must unescape.
        text = " ".join(self._random.choices(_WORDS, k=words))
        return f'The "{text[:12]}" of\n{text}' if words > 25 else text


def _section(name: str, entries: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    yield f', "{name}": {{'
    comma = ""
    for unique_id, entry in entries:
        yield f"{comma}{json.dumps(unique_id)}: {json.dumps(entry)}"
        comma = ", "
    yield "}"


if __name__ == "__main__":
    for each in sys.argv[1:] or ["1000"]:
        target = DATA / f"manifest_{int(each)}_v{EDITION}.json"
        if not target.exists():
            _write(target, int(each))
