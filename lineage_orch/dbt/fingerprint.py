"""What a build left in a table, as one short text: equal texts, equal content.

One query for all the nodes that are asked about: of each, how many rows it has, and the sum of a 64-bit hash of each
row. The sum is free of order, and, other than an xor, counts a row twice that is there twice; the hash is of a whole
row, so that two rows that swap a value are found. The columns are the warehouse's own, and their names and types count.

dbt itself writes and runs the query, from a template of its Jinja: the same over every engine and version of dbt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lineage_orch.dbt.compat import LOG
from lineage_orch.text import few, one_line

if TYPE_CHECKING:
    from lineage_orch.lineage import Lineage

# How many nodes go into one query: far below what a command line may hold.
_TOGETHER = 100


@dataclass(frozen=True)
class _Hash:
    """How an adapter's warehouse hashes a row.

    Attributes:
        row: the hash of a row, ``{}`` being its columns; of a type whose sum does not overflow.
        column: what stands for a column, ``{0}`` being its quoted name.
        between: what stands between two columns.
        last: what comes behind the last column.
        nested: what closes each ``column`` that opens a bracket, behind that.
        quote: the sign around a name.
        text: the type of texts.
        not_hashed: types that are not told apart rightly; a table with such a column counts as changed.
    """

    row: str
    column: str = "{0}"
    between: str = ", "
    last: str = ""
    nested: str = ""
    quote: str = '"'
    text: str = "varchar"
    not_hashed: tuple[str, ...] = ()


# Where each function is documented to give the same value for the same input, whatever the session.
_HASHES = {
    "duckdb": _Hash("hash({})"),
    # The text of a record tells a null from an empty text, and quotes what would blur its columns.
    "postgres": _Hash("hashtextextended(cast(row({}) as text), 0)"),
    "snowflake": _Hash("hash({})"),
    "bigquery": _Hash("cast(farm_fingerprint(to_json_string(struct({}))) as numeric)", quote="`", text="string"),
    # FNV has no end of a value: ('ab', 'c') and ('a', 'bc') are one, so hashes are hashed.
    "redshift": _Hash(
        "cast({} as decimal(38, 0))",
        column="fnv_hash(case when {0} is null then cast(1 as bigint) else fnv_hash({0}) end, ",
        between="",
        last="0",
        nested=")",
    ),
    # Nulls are passed over: in a row that is made good here, inside of a nested value it cannot be.
    "databricks": _Hash(
        "cast(xxhash64({}) as decimal(38, 0))",
        column="{0}, {0} is null",
        quote="`",
        text="string",
        not_hashed=("array", "map", "struct", "variant"),
    ),
}

_TEMPLATE = """{%- if execute -%}
{%- set parts = [] -%}
{%- for key, database, schema, identifier, ignored in nodes -%}
{%- set relation = api.Relation.create(database=database or none, schema=schema, identifier=identifier) -%}
{%- set columns = [] -%}
{%- set said = [] -%}
{%- set bad = [] -%}
{%- for each in adapter.get_columns_in_relation(relation) if each.name | lower not in ignored -%}
{%- do columns.append(column | replace("{0}", quote ~ (each.name | replace(quote, quote ~ quote)) ~ quote)) -%}
{%- do said.append(each.name ~ " " ~ each.data_type) -%}
{%- for kind in not_hashed if (each.data_type | lower).startswith(kind) -%}{%- do bad.append(kind) -%}{%- endfor -%}
{%- endfor -%}
{%- if columns and not bad -%}
{%- set whole = row | replace("{}", (columns | join(between)) ~ last ~ nested * (columns | length)) -%}
{%- do parts.append("select '" ~ key ~ "' as node_key, '" ~ local_md5(said | join(", ")) ~ "' as node_columns, 'rows '"
  ~ " || cast(count(*) as " ~ text ~ ") || ' sum ' || cast(coalesce(sum(" ~ whole ~ "), 0) as " ~ text ~ ")"
  ~ " as node_rows from " ~ relation) -%}
{%- endif -%}
{%- endfor -%}
{{ parts | join(" union all ") if parts else "select 'none' as node_key, '' as node_columns, '' as node_rows" }}
{%- endif -%}"""


def inline_queries(lineage: Lineage, nodes: Mapping[str, Collection[str]]) -> Iterator[tuple[list[str], str]]:
    """Yield queries for ``dbt show --inline``, each with the nodes that it asks about, in the order of their keys.

    Nothing for an adapter whose warehouse cannot be asked, and no node of which the manifest does not say where it is.

    Args:
        nodes: unique_ids -> the columns that do not count, in lower case.
    """
    how = _HASHES.get(lineage.adapter_type or "")
    if how is None:
        return
    places = {node: lineage.relation(node) for node in nodes}
    there = [node for node, place in places.items() if place.schema and place.identifier]
    for start in range(0, len(there), _TOGETHER):
        some = there[start : start + _TOGETHER]
        asked = [
            [str(key), places[node].database or "", places[node].schema, places[node].identifier, list(nodes[node])]
            for key, node in enumerate(some)
        ]
        # A literal of JSON is one of Jinja too, but for the pairs in which JSON escapes what is beyond 16 bits.
        given = {name: json.dumps(each, ensure_ascii=False) for name, each in {**asdict(how), "nodes": asked}.items()}
        yield some, "".join(f"{{%- set {name} = {each} -%}}" for name, each in given.items()) + _TEMPLATE


def as_show(query: str) -> list[str]:
    """Return the words of the dbt command that runs a query of these, and shows its rows as JSON."""
    return ["show", "--inline", query, "--output", "json", "--limit", "-1"]


def read_answer(lineage: Lineage, nodes: Sequence[str], shown: str) -> dict[str, str]:
    """Return node -> fingerprint, from the JSON that ``dbt show`` made of a query's rows; what is wrong is logged."""
    found: dict[str, str] = {}
    try:
        for row in json.loads(shown):
            # Snowflake writes their names in capitals.
            said = {name.lower(): value for name, value in row.items()}
            if said["node_key"] != "none":
                whole = f"{lineage.adapter_type} {said['node_columns']} {said['node_rows']}"
                found[nodes[int(said["node_key"])]] = hashlib.sha256(whole.encode()).hexdigest()[:32]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        LOG.warning("%s: dbt showed %r (%s)", counted_as_changed(nodes), shown[:200], one_line(error))
        return {}
    return found


def counted_as_changed(nodes: Sequence[str]) -> str:
    """Return how a log says that nodes could not be compared; why comes behind it."""
    return f"What is in {few(nodes)} could not be compared, so what reads it is built"
