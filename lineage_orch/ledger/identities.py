"""Identities: the parts of what a node was built from, each set of parts once, under its digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, bindparam, select, update

from lineage_orch.ledger.schema import builds, identities, nodes
from lineage_orch.ledger.scope import Scope

Identities = Mapping[str, Mapping[str, str]] | None
"""Node to the parts of what it was built from; None: of none is known what."""


def keep_identities(scope: Scope, parts: Identities) -> dict[str, str]:
    """Keep the parts of identities; return node to digest."""
    # Only builds need it: who records a load has no use for the reader of manifests.
    from lineage_orch.lineage.identity import digest

    digests: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for node, of_node in (parts or {}).items():
        name = digests[node] = digest(of_node)
        written = json.dumps(dict(of_node), sort_keys=True, separators=(",", ":"))
        rows[name] = scope.row(digest=name, parts=written)
    scope.insert_new(identities, list(rows.values()))
    return digests


def take_identities(scope: Scope, parts: Mapping[str, Mapping[str, str]]) -> None:
    """Give the last good builds of these nodes that have no identity theirs."""
    query = select(nodes.c.node, nodes.c.tick).where(nodes.c.identity.is_(None))
    unknown = {row.node: row.tick for row in scope.chunks(query, nodes.c.node, parts)}
    digests = keep_identities(scope, {node: parts[node] for node in sorted(unknown)})
    rows = [{"its": node, "at": tick, "digest": digests[node]} for node, tick in unknown.items()]
    for table in (nodes, builds) if rows else ():
        its_build = scope.mine(table, table.c.node == bindparam("its"), table.c.tick == bindparam("at"))
        scope.execute(update(table).where(its_build).values(identity=bindparam("digest")), rows)


def identity_parts(scope: Scope, node: str) -> dict[str, str] | None:
    """Return the parts of a node's identity at its last good build; None if they are not known."""
    its_own = and_(nodes.c.scope_id == identities.c.scope_id, nodes.c.identity == identities.c.digest)
    query = select(identities.c.parts).join(nodes, its_own).where(scope.mine(nodes, nodes.c.node == node))
    found = scope.execute(query).scalar()
    return None if found is None else dict(json.loads(found))
