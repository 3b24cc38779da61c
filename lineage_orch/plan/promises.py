"""What sources and nodes promise, and which loads a node has not taken in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from lineage_orch.errors import PolicyError
from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.policy import Promise, read_promise
from lineage_orch.plan.graph import plan_graph
from lineage_orch.plan.reasons import IN_PLAN

LastAsAt = Callable[[str, int], int | None]
"""Returns, of a node and a tick, the tick of the last good build that left its content as it was then; None: not known.
"""


@dataclass(frozen=True)
class Promises:
    """What a project promises.

    Attributes:
        of_sources: how old the last load of a source may become, by its unique_id.
        of_nodes: how old the oldest load that a node has not taken in may become, by its unique_id.
        unreadable: what is wrong with those that cannot be read, by unique_id; they promise nothing, and hold nothing.
    """

    of_sources: Mapping[str, Promise]
    of_nodes: Mapping[str, Promise]
    unreadable: Mapping[str, str]

    def __bool__(self) -> bool:
        """Whether anything is promised."""
        return bool(self.of_sources or self.of_nodes)


def read_promises(lineage: Lineage) -> Promises:
    """Return what the sources and nodes of a project promise."""
    unreadable: dict[str, str] = {}

    def read(configs: Mapping[str, tuple[object, object]]) -> dict[str, Promise]:
        found: dict[str, Promise] = {}
        for unique_id, (freshness, block) in configs.items():
            try:
                promise = read_promise(unique_id, freshness, block)
            except PolicyError as error:
                unreadable[unique_id] = str(error)
            else:
                if promise is not None:
                    found[unique_id] = promise
        return found

    blocks = dict(lineage.meta_blocks())
    freshness = {unique_id: config for unique_id, config, _ in lineage.freshness_configs()}
    nodes = {node: (freshness.get(node), blocks.get(node)) for node in lineage.nodes if node in freshness | blocks}
    return Promises(
        read({source: (config, None) for source, config in lineage.source_freshness_configs()}),
        read(nodes),
        unreadable,
    )


def not_taken_in(
    lineage: Lineage, snapshot: LedgerSnapshot, nodes: Collection[str], last_as_at: LastAsAt
) -> dict[str, dict[str, int]]:
    """Return for each node the sources whose newest loads it has not taken in -> the tick up to which it has.

    What a node holds is what its parents held when it was built last: loads that a parent took in later, or had not
    taken in by then, are not in it; but for a parent that was built since and came out as it was.

    Args:
        lineage: the project.
        snapshot: the ledger now.
        nodes: unique_ids of nodes.
        last_as_at: what the ledger knows of earlier builds; asked only of parents that changed after a node was built,
            and of what is above these.
    """
    graph = plan_graph(lineage)
    start = graph.source_count
    newest = [snapshot.sources.get(source, 0) for source in graph.ids[:start]]
    built: dict[tuple[int, int], int] = {}
    # What a node, as it was at a tick, had not taken in.
    known: dict[tuple[int, int], dict[int, int]] = {}

    def last_build(number: int, at: int) -> int:
        if (number, at) not in built:
            node = graph.ids[number]
            fact = snapshot.nodes.get(node)
            if fact is not None and fact.changed_tick <= at:
                built[number, at] = fact.tick
            elif at == IN_PLAN:
                built[number, at] = 0
            else:
                # Where that is not kept any more, or it was no parent then, nothing shows that it lacked anything.
                built[number, at] = last_as_at(node, at) or at
        return built[number, at]

    def nodes_read(number: int, at: int) -> list[tuple[int, int]]:
        tick = last_build(number, at)
        return [(each, tick) for each in graph.parents[number] if each >= start] if tick else []

    def lacking(number: int, at: int) -> dict[int, int]:
        tick = last_build(number, at)
        if not tick:
            return {source: 0 for source in graph.sources_above(number) if newest[source]}
        found = {each: tick for each in graph.parents[number] if each < start and newest[each] > tick}
        for read in nodes_read(number, at):
            for source, up_to in known[read].items():
                found[source] = min(up_to, found.get(source, up_to))
        return found

    for node in nodes:
        # Parents first, without recursion: chains are thousands of nodes long.
        stack = [(graph.index[node], IN_PLAN)]
        while stack:
            if stack[-1] in known:
                stack.pop()
            elif unknown := [read for read in nodes_read(*stack[-1]) if read not in known]:
                stack += unknown
            else:
                number, at = stack.pop()
                known[number, at] = lacking(number, at)
    return {
        node: {graph.ids[source]: tick for source, tick in known[graph.index[node], IN_PLAN].items()} for node in nodes
    }
