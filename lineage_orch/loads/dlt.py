"""Which sources a pipeline of dlt has filled, read from what its ``run()`` returns; dlt itself is not imported.

Tried on dlt 1.31.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lineage_orch.errors import ProducerError

# dlt's own tables: its state, versions and loads.
_OWN = "_dlt"


def sources_of(
    load_info: Any, *, source_name: str | Mapping[str, str] | None = None, tables: Iterable[str] | None = None
) -> tuple[str, ...]:
    """Return the sources that a load of dlt has filled, for ``mark_updated``: those of its load packages alone.

    ::

        mark_updated(*sources_of(pipeline.run(orders()), source_name="raw"))

    A table that was replaced, or merged into, counts with the tables nested in it, whose rows go with its own.

    Args:
        load_info: what ``pipeline.run()`` or ``pipeline.load()`` returned.
        source_name: what dbt calls the source with these tables, or that for each schema of dlt. Default: the name of
            the dataset.
        tables: the tables that dbt has as sources, if that is not all of them.

    Raises:
        ProducerError: ``load_info`` is something else, or a schema has no source name.
    """
    try:
        loaded = [(each, schema.name) for schema, names in _packages(load_info) for each in names]
        dataset = load_info.dataset_name
    except (AttributeError, KeyError, TypeError) as error:
        raise ProducerError(
            f"sources_of takes what pipeline.run() of dlt returns, got {type(load_info).__name__} ({error})"
        ) from None
    known = None if tables is None else set(tables)
    found: dict[str, None] = {}
    for table, schema in loaded:
        name = source_name.get(schema) if isinstance(source_name, Mapping) else source_name or dataset
        if name is None:
            raise ProducerError(
                f"sources_of was given no source name for the schema {schema!r} of dlt; add it to source_name"
            )
        if known is None or table in known:
            found[f"{name}.{table}"] = None
    return tuple(sorted(found))


def _packages(load_info: Any) -> Iterator[tuple[Any, set[str]]]:
    """Yield the schema of each load package, and the tables that it changed."""
    for package in load_info.load_packages:
        of_schema = package.schema.tables
        loaded = {job.job_file_info.table_name for job in package.jobs["completed_jobs"]}
        for name in of_schema:
            root = name
            while parent := of_schema[root].get("parent"):
                root = parent
            if root in loaded and of_schema[root].get("write_disposition") != "append":
                loaded.add(name)
        yield package.schema, {name for name in loaded if not name.startswith(_OWN)}
