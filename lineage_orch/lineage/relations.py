"""The names of relations in one form: two projects that write one table in two ways mean one table.

The rule, by what the warehouses do with a name: without quotes it is folded (to upper case by Snowflake and Oracle, to
lower case by the rest), in quotes it keeps its case where the warehouse tells names apart by it. So a name that is as
the warehouse would fold it is written in lower case, and any other in quotes, with its case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

# A part in any of dbt's quotes, or up to the next dot.
_PART = re.compile(r'"((?:[^"]|"")*)"|`([^`]*)`|\[([^\]]*)\]|([^.]+)')
_FOLDS_TO_UPPER = frozenset({"snowflake", "oracle"})
# Where "Orders" and "orders" are two tables. The others, DuckDB and Databricks among them, and those that are not known
# here, do not tell them apart.
_CASE_COUNTS_IN_QUOTES = frozenset({"postgres", "snowflake", "oracle", "bigquery"})
# Without quotes too.
_CASE_COUNTS = frozenset({"bigquery"})


def relation_key(relation_name: str, adapter_type: str | None) -> str:
    """Return ``database.schema.identifier`` of a manifest's ``relation_name`` in the one form that is compared.

    Args:
        relation_name: as the adapter renders it, in its quotes or without.
        adapter_type: dbt's name of the adapter; None where it is not known.
    """
    fold: Callable[[str], str] = str.upper if adapter_type in _FOLDS_TO_UPPER else str.lower

    def parts() -> Iterator[str]:
        for *in_quotes, plain in _PART.findall(relation_name):
            name = plain.strip() or "".join(in_quotes).replace('""', '"')
            counts = adapter_type in (_CASE_COUNTS if plain else _CASE_COUNTS_IN_QUOTES)
            yield f'"{name}"' if counts and name != fold(name) else name.lower()

    return ".".join(parts())
