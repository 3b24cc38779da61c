"""What stands in the warehouse already is declared as loaded and built: a baseline."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from lineage_orch.builds.by_hand import selected
from lineage_orch.builds.workspace import Workspace
from lineage_orch.lineage import Lineage
from lineage_orch.updates import SourceUpdate


@dataclass(frozen=True)
class Adoption:
    """What ``adopt`` would declare as loaded and built, or has.

    Attributes:
        sources: The sources that count as loaded from now on (baselines); those that were loaded before are none of
            them.
        nodes: The nodes that count as built as they stand.
        failed: The nodes whose last build failed, which stay stale unless they are forgiven by name.
        missing: The nodes whose relation is not in the warehouse, which stay as they are.
        followers: The followers that count as run: all that they follow counts as loaded or built.
        tick: The tick of the adoption; None before it is done.
        is_sure: Whether the warehouse could be asked what is there; else all nodes are taken to be.
    """

    sources: tuple[str, ...]
    nodes: tuple[str, ...]
    failed: tuple[str, ...]
    missing: tuple[str, ...]
    followers: tuple[str, ...] = ()
    tick: int | None = None
    is_sure: bool = True


def adoption(workspace: Workspace, lineage: Lineage, select: Iterable[str] = ()) -> Adoption:
    """Return what would be declared; changes nothing.

    Args:
        select: names of sources or nodes, or selectors; none means the whole project.

    Raises:
        LineageError: a name is not in the manifest.
    """
    snapshot = workspace.facts(lineage)
    found = selected(lineage, workspace.dbt, tuple(select))
    answer = workspace.dbt.missing_relations(lineage)
    gone = answer or frozenset()
    nodes = tuple(each for each in found.nodes if each not in gone and each not in snapshot.failures)
    return Adoption(
        sources=tuple(each for each in found.sources if each not in snapshot.sources),
        nodes=nodes,
        failed=tuple(each for each in found.nodes if each not in gone and each in snapshot.failures),
        missing=tuple(each for each in found.nodes if each in gone),
        is_sure=answer is not None,
        followers=_followers_of(workspace, lineage, {*found.sources, *nodes}),
    )


def _followers_of(workspace: Workspace, lineage: Lineage, adopted: Collection[str]) -> tuple[str, ...]:
    """Return the followers of nothing else."""
    known = workspace.followers(lineage)
    return tuple(each.unique_id for each in known if each.parents and set(each.parents).issubset(adopted))


def declare(workspace: Workspace, lineage: Lineage, found: Adoption, since: int, forgiven: Collection[str]) -> Adoption:
    """Declare it; the build lock is held. Returns what was declared.

    Args:
        since: the tick of the ledger before that; what was loaded since is news.
        forgiven: unique_ids of the nodes whose failure is forgiven: they count as built.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    ledger = workspace.ledger
    now = workspace.clock()
    ledger.record_updates(
        [SourceUpdate(source, f"adopt:{uuid.uuid4().hex}", now) for source in found.sources], now=now, baseline=True
    )
    tick, snapshot = ledger.begin_build(now=now, history_of=())
    snapshot = workspace.seen_with(lineage, snapshot)
    # What is downstream of news is left as it is.
    late = [
        source
        for source in lineage.sources
        if snapshot.sources.get(source, 0) > since and source not in snapshot.baselines
    ]
    news = lineage.downstream(*late) if late else frozenset()
    forgivable = (each for each in found.failed if each in forgiven)
    nodes = tuple(node for node in (*found.nodes, *forgivable) if node not in news)
    ledger.record_built(tick, nodes, built_at=now, identities={node: lineage.identity_parts(node) for node in nodes})
    adopted = {*nodes, *lineage.sources} - {*late}
    followers = tuple(each for each in _followers_of(workspace, lineage, adopted) if each in found.followers)
    ledger.record_built(tick, followers, built_at=now)
    failed = tuple(each for each in found.failed if each not in forgiven)
    return replace(found, nodes=nodes, failed=failed, followers=followers, tick=tick)
