"""Which relations of a project are in the warehouse, read from dbt's own cache of relations."""

from __future__ import annotations

from lineage_orch.lineage import Lineage

# dbt's own materializations, each of which makes one relation of the node's name. What another one makes is its secret.
MAKE_A_RELATION = frozenset(
    {"table", "view", "incremental", "snapshot", "seed", "materialized_view", "dynamic_table", "streaming_table"}
)


def missing_from_cache(lineage: Lineage) -> frozenset[str] | None:
    """Return the nodes whose relation dbt's cache lacks, after a dbt command has filled it in this process.

    Names are compared without regard to case, as warehouses fold them in different ways: what differs by case alone
    counts as there. A schema that dbt has not listed says nothing of its nodes.

    Returns:
        unique_ids; None if dbt has no adapter in this process.
    """
    from dbt.adapters.factory import FACTORY, get_adapter_by_type
    from dbt_common.exceptions import DbtBaseException

    kinds = list(FACTORY.adapters)
    if not kinds:
        return None
    adapter = get_adapter_by_type(kinds[-1])
    schemas: dict[tuple[str | None, str], frozenset[str] | None] = {}
    missing: list[str] = []
    for unique_id, node in lineage.nodes.items():
        relation = lineage.relation(unique_id)
        if node.materialized not in MAKE_A_RELATION or not relation.schema or not relation.identifier:
            continue
        where = relation.database, relation.schema
        if where not in schemas:
            try:
                # Without a connection it can answer from the cache alone, and says so where it cannot.
                found = adapter.list_relations(*where)
                schemas[where] = frozenset(str(each.identifier).casefold() for each in found)
            except DbtBaseException:
                schemas[where] = None
        known = schemas[where]
        if known is not None and relation.identifier.casefold() not in known:
            missing.append(unique_id)
    return frozenset(missing)
