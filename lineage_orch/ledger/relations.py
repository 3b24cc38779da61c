"""What the projects of one ledger read and build, by relation: so one of them sees what another built.

Each project publishes its own tables when it builds, and knows nothing of the others. Who reads a table asks who builds
one of that name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

from sqlalchemy import Row, and_, func, insert, select

from lineage_orch.ledger.loads import UNRESOLVED
from lineage_orch.ledger.marks import mark
from lineage_orch.ledger.others import DEPLOYMENT, BuiltElsewhere, Origin, Place, Published, ReadElsewhere
from lineage_orch.ledger.schema import builds, nodes, relations, scopes, updates
from lineage_orch.ledger.scope import Scope, in_chunks


def is_published(scope: Scope, tables: Mapping[str, Published]) -> bool:
    """Whether what a scope reads and builds is written already."""
    return _written(scope) == _as_rows(tables)


def publish(scope: Scope, tables: Mapping[str, Published]) -> None:
    """Write what a scope reads and builds, in place of what it did."""
    wanted, written = _as_rows(tables), _written(scope)
    changed = [each for each in wanted if written.get(each) != wanted[each]]
    scope.delete(relations.c.unique_id, (each for each in written if written[each] != wanted.get(each)))
    rows = [scope.row(unique_id=each, relation=wanted[each][0], parents=wanted[each][1]) for each in changed]
    if rows:
        scope.execute(insert(relations), rows)


def _as_rows(tables: Mapping[str, Published]) -> dict[str, tuple[str, str | None]]:
    return {
        unique_id: (each.relation, None if each.parents is None else json.dumps(each.parents))
        for unique_id, each in tables.items()
    }


def _written(scope: Scope) -> dict[str, tuple[str, str | None]]:
    query = select(relations.c.unique_id, relations.c.relation, relations.c.parents)
    rows = scope.execute(query.where(scope.mine(relations)))
    return {row.unique_id: (row.relation, row.parents) for row in rows}


def built_elsewhere(scope: Scope, read: Mapping[str, str]) -> dict[str, BuiltElsewhere]:
    """Return which nodes of other scopes build what a scope reads.

    Where several build one relation, those of a target of the same name come first, and of these the one that was built
    last. A scope of the same project and place, under another target, is none of the others: it builds the same tables.

    Args:
        scope: of who reads.
        read: source to its relation.
    """
    if not read or not _has_others(scope):
        return {}
    me = scope.name
    found: dict[str, list[tuple[tuple[bool, float, int], BuiltElsewhere]]] = {}
    for row in _builders(scope, read.values()):
        other = Place(row.project, row.target, row.place)
        if _are_others(me, other):
            each = BuiltElsewhere(other, row.unique_id, row.tick or 0, row.built_at)
            at = 0.0 if row.built_at is None else row.built_at.timestamp()
            found.setdefault(row.relation, []).append(((row.target == me.target, at, -row.scope_id), each))
    best = {relation: max(some, key=itemgetter(0))[1] for relation, some in found.items()}
    of_source = {source: best[relation] for source, relation in read.items() if relation in best}
    query = select(updates.c.update_id, updates.c.source)
    ids = {each.update_id for each in of_source.values()}
    known = {(row.update_id, row.source) for row in scope.chunks(query, updates.c.update_id, ids)}
    return {source: replace(each, is_known=(each.update_id, source) in known) for source, each in of_source.items()}


def read_elsewhere(scope: Scope) -> list[ReadElsewhere]:
    """Return the scopes that have not taken in yet what this one built."""
    if not _has_others(scope):
        return []
    here = relations.alias("here")
    found: dict[int, dict[str, str]] = {}
    for row in scope.execute(
        select(relations.c.scope_id, relations.c.unique_id, relations.c.relation)
        .join(here, here.c.relation == relations.c.relation)
        .where(scope.mine(here, here.c.parents.is_not(None)))
        .where(relations.c.scope_id != scope.id, relations.c.parents.is_(None))
    ):
        found.setdefault(row.scope_id, {})[row.unique_id] = row.relation
    out: list[ReadElsewhere] = []
    for scope_id, read in sorted(found.items()):
        other = scope.other(scopes.c.id == scope_id)
        assert other is not None
        builders = sorted(built_elsewhere(other, read).items())
        new = [source for source, each in builders if each.scope == scope.name and each.tick and not each.is_known]
        if new:
            out.append(ReadElsewhere(other.name, tuple(new), mark(other, DEPLOYMENT)))
    return out


def find_cycle(scope: Scope, tables: Mapping[str, Published]) -> list[tuple[Place, str]] | None:
    """Return a cycle of tables that goes through other scopes, beginning here; None if there is none.

    Args:
        scope: of whose tables these are.
        tables: what is read and built there by now.
    """
    read = {unique_id: each.relation for unique_id, each in tables.items() if each.parents is None}
    starts = built_elsewhere(scope, read)
    if not starts:
        return None
    rows = scope.execute(
        select(scopes.c.project, scopes.c.target, scopes.c.place, relations)
        .join(scopes, scopes.c.id == relations.c.scope_id)
        .where(relations.c.scope_id != scope.id)
    )
    me = scope.name
    of_scope: dict[Place, dict[str, Published]] = {me: dict(tables)}
    for row in rows:
        parents = None if row.parents is None else tuple(json.loads(row.parents))
        of_scope.setdefault(Place(row.project, row.target, row.place), {})[row.unique_id] = Published(
            row.relation, parents
        )
    return _cycle_from([(me, each) for each in sorted(starts)], of_scope)


def _cycle_from(
    starts: Sequence[tuple[Place, str]], of_scope: Mapping[Place, Mapping[str, Published]]
) -> list[tuple[Place, str]] | None:
    """Walk upstream from sources, depth first; return the tables of a cycle that leads through two scopes or more."""
    builders: dict[str, list[tuple[Place, str]]] = {}
    for scope, tables in of_scope.items():
        for unique_id, each in tables.items():
            if each.parents is not None:
                builders.setdefault(each.relation, []).append((scope, unique_id))

    def above(scope: Place, unique_id: str) -> list[tuple[Place, str]]:
        each = of_scope[scope].get(unique_id)
        if each is None:
            return []
        if each.parents is not None:
            return [(scope, parent) for parent in each.parents]
        others = [found for found in builders.get(each.relation, ()) if _are_others(scope, found[0])]
        same = [found for found in others if found[0].target == scope.target]
        return same or others

    done: set[tuple[Place, str]] = set()
    for start in starts:
        # What is read above each other, each with what is left to be looked at above it.
        path = {start: iter(above(*start))} if start not in done else {}
        while path:
            table = next(reversed(path))
            parent = next(path[table], None)
            if parent is None:
                del path[table]
                done.add(table)
            elif parent in path:
                walked = [*path]
                # As the data flows: from what is read to what reads it.
                return [*walked[walked.index(parent) :], parent][::-1]
            elif parent not in done:
                path[parent] = iter(above(*parent))
    return None


def origins(scope: Scope, place: Place, node: str) -> list[Origin]:
    """Return the loads of its own scope that the last good build of a node there took in, the newest first."""
    there = scope.other(
        scopes.c.project == place.project, scopes.c.target == place.target, scopes.c.place == place.place
    )
    if there is None:
        return []
    ticks = (
        select(builds.c.tick)
        .where(there.mine(builds, builds.c.node == node, builds.c.tick == builds.c.changed_tick))
        .order_by(builds.c.tick.desc())
        .limit(2)
    )
    built = [*there.execute(ticks).scalars()]
    if not built:
        return []
    before = built[1] if len(built) > 1 else 0
    above = _sources_above(there, node)
    query = (
        select(updates.c.source, updates.c.tick, updates.c.loaded_at, updates.c.producer)
        .where(there.mine(updates, updates.c.tick > before, updates.c.tick < built[0]))
        .where(UNRESOLVED, ~updates.c.unchanged)
        .order_by(updates.c.tick.desc())
    )
    return [Origin(*row) for row in there.execute(query) if row.source in above]


def _sources_above(scope: Scope, node: str) -> frozenset[str]:
    """Return the sources of a scope above one of its nodes, as it published them."""
    query = select(relations.c.unique_id, relations.c.parents)
    found: set[str] = set()
    seen = {node}
    level: Collection[str] = [node]
    while level:
        parents: set[str] = set()
        for row in scope.chunks(query, relations.c.unique_id, level):
            if row.parents is None:
                found.add(row.unique_id)
            else:
                parents.update(json.loads(row.parents))
        level = parents - seen
        seen |= parents
    return frozenset(found)


def _builders(scope: Scope, names: Iterable[str]) -> Iterator[Row[Any]]:
    """Yield the nodes of other scopes that build these relations, with when each was built and changed last."""
    last_change = and_(
        builds.c.scope_id == nodes.c.scope_id, builds.c.node == nodes.c.node, builds.c.tick == nodes.c.changed_tick
    )
    query = (
        select(
            relations.c.relation,
            relations.c.unique_id,
            relations.c.scope_id,
            scopes.c.project,
            scopes.c.target,
            scopes.c.place,
            nodes.c.changed_tick.label("tick"),
            # A history that was pruned keeps the time of the last build.
            func.coalesce(builds.c.built_at, nodes.c.built_at, type_=nodes.c.built_at.type).label("built_at"),
        )
        .join(scopes, scopes.c.id == relations.c.scope_id)
        .outerjoin(nodes, and_(nodes.c.scope_id == relations.c.scope_id, nodes.c.node == relations.c.unique_id))
        .outerjoin(builds, last_change)
        .where(relations.c.scope_id != scope.id, relations.c.parents.is_not(None))
    )
    for some in in_chunks(names):
        yield from scope.execute(query.where(relations.c.relation.in_(some)))


def _are_others(me: Place, scope: Place) -> bool:
    return (scope.project, scope.place) != (me.project, me.place)


def _has_others(scope: Scope) -> bool:
    return scope.execute(select(scopes.c.id).where(scopes.c.id != scope.id).limit(1)).first() is not None
