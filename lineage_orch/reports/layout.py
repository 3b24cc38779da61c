"""Where the nodes of a picture stand: in layers from left to right, with few crossings and no overlap.

Sugiyama's method in its plain form (Sugiyama, Tagawa, Toda 1981): longest path for the layers; a chain of bends for
what passes other layers, one for all edges of a node, so that a fan of them stays a bundle; barycentres in sweeps for
the order; and for the heights the nearest places to the neighbours that keep order and distance, which is isotonic
regression. The same graph gives the same picture.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

# How often the order, and then the heights, are gone over.
_SWEEPS = 16
_SETTLINGS = 12
# A chain of bends pulls so much harder than a node: long edges run straight.
_BEND_WEIGHT = 3.0


@dataclass(frozen=True)
class Layout:
    """Places in layers.

    Attributes:
        layer: of each node, from 0 at the left.
        y: the middle of each node; the topmost has half a height, so that no node reaches above 0.
        bends: of each edge (parent, child), its height in each layer that it passes.
        height: of the whole, in the same unit as ``y``.
    """

    layer: Mapping[str, int]
    y: Mapping[str, float]
    bends: Mapping[tuple[str, str], tuple[float, ...]]
    height: float


def layered(
    nodes: Sequence[str], edges: Iterable[tuple[str, str]], *, height: float, gap: float, bend: float
) -> Layout:
    """Return places for a graph without a circle.

    Args:
        nodes: names, in the order that decides where nothing else does.
        edges: parent, child; an edge to itself, or of a name that is no node, is passed over.
        bend: the room that a passing edge takes.

    Raises:
        ValueError: the edges run in a circle.
    """
    position = {each: number for number, each in enumerate(nodes)}
    pairs = sorted({(position[a], position[b]) for a, b in edges if a in position and b in position and a != b})
    layer = _layers(len(nodes), pairs)
    graph = _Chains(layer, pairs)
    columns = _ordered(graph)
    y = _heights(graph, columns, len(nodes), height, gap, bend)
    top = min((y[each] - height / 2 for each in range(len(nodes))), default=0.0)
    top = min([top, *(each - bend / 2 for each in y[len(nodes) :])])
    y = [each - top for each in y]
    low = max((y[each] + height / 2 for each in range(len(nodes))), default=0.0)
    low = max([low, *(each + bend / 2 for each in y[len(nodes) :])])
    return Layout(
        {name: layer[number] for name, number in position.items()},
        {name: y[number] for name, number in position.items()},
        {(nodes[a], nodes[b]): tuple(y[each] for each in graph.way(a, b)) for a, b in pairs},
        low,
    )


def _layers(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The longest path to each; what has nothing above it stands right before the first that reads it."""
    layer = depths(count, pairs)
    before: dict[int, int] = {}
    for a, b in pairs:
        before[a] = min(layer[b] - 1, before.get(a, layer[b] - 1))
    read = {b for _, b in pairs}
    return [depth if each in read else before.get(each, depth) for each, depth in enumerate(layer)]


def depths(count: int, edges: Collection[tuple[int, int]]) -> list[int]:
    """Return how many edges the longest path to each of so many nodes has.

    Raises:
        ValueError: the edges run in a circle.
    """
    import networkx

    graph: networkx.DiGraph[int] = networkx.DiGraph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(edges)
    found = [0] * count
    try:
        for depth, nodes in enumerate(networkx.topological_generations(graph)):
            for each in nodes:
                found[each] = depth
    except networkx.NetworkXUnfeasible:
        raise ValueError("the edges run in a circle") from None
    return found


class _Chains:
    """The graph with a bend in each layer that an edge passes; all edges of one node share its bends."""

    def __init__(self, layer: Sequence[int], pairs: Sequence[tuple[int, int]]) -> None:
        self.layer = list(layer)
        self.up: list[list[int]] = [[] for _ in layer]
        self.down: list[list[int]] = [[] for _ in layer]
        self._bends: dict[int, list[int]] = {}
        self._start = list(layer)
        for a, b in pairs:
            chain = self._bends.setdefault(a, [a])
            while len(chain) < layer[b] - layer[a]:
                self.layer.append(layer[a] + len(chain))
                self.up.append([])
                self.down.append([])
                self._join(chain[-1], len(self.layer) - 1)
                chain.append(len(self.layer) - 1)
            self._join(chain[layer[b] - layer[a] - 1], b)

    def _join(self, a: int, b: int) -> None:
        self.down[a].append(b)
        self.up[b].append(a)

    def way(self, a: int, b: int) -> list[int]:
        """The bends between two nodes."""
        return self._bends[a][1 : self._start[b] - self._start[a]]


def _ordered(graph: _Chains) -> list[list[int]]:
    """Return the layers, each in an order with few crossings."""
    columns: list[list[int]] = [[] for _ in range(max(graph.layer, default=-1) + 1)]
    seen: set[int] = set()
    # What is connected stands together: depth first from each start, both ways.
    for start in range(len(graph.layer)):
        stack = [start]
        while stack:
            each = stack.pop()
            if each not in seen:
                seen.add(each)
                columns[graph.layer[each]].append(each)
                stack += reversed([*graph.down[each], *graph.up[each]])
    best, fewest = [list(column) for column in columns], _crossings(graph, columns)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        forward = sweep % 2 == 0
        beside = graph.up if forward else graph.down
        for column, before in _steps(columns, forward):
            place = {each: number for number, each in enumerate(before)}
            own = {each: number for number, each in enumerate(column)}
            column.sort(key=lambda each: (_mean(place, beside[each], own[each]), own[each]))
        crossings = _crossings(graph, columns)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    return best


def _steps(columns: Sequence[list[int]], forward: bool) -> Iterable[tuple[list[int], list[int]]]:
    pairs = list(zip(columns[1:], columns[:-1], strict=True))
    return pairs if forward else [(before, column) for column, before in reversed(pairs)]


def _mean(place: Mapping[int, int], beside: Sequence[int], own: int) -> float:
    return sum(place[each] for each in beside) / len(beside) if beside else float(own)


def _crossings(graph: _Chains, columns: Sequence[Sequence[int]]) -> int:
    """Count the pairs of edges that cross between neighbouring layers."""
    found = 0
    for column, below in pairwise(columns):
        place = {each: number for number, each in enumerate(below)}
        ends: list[int] = []
        for each in column:
            mine = sorted(place[child] for child in graph.down[each])
            found += sum(len(ends) - bisect_right(ends, end) for end in mine)
            for end in mine:
                insort(ends, end)
    return found


def _heights(
    graph: _Chains, columns: Sequence[Sequence[int]], count: int, height: float, gap: float, bend: float
) -> list[float]:
    """Return the middle of each node and bend: as near to its neighbours as order and distance allow."""
    offsets: list[list[float]] = []
    y = [0.0] * len(graph.layer)
    for column in columns:
        at, mine = 0.0, []
        for number, each in enumerate(column):
            if number:
                before = column[number - 1]
                sizes = [height if node < count else bend for node in (before, each)]
                at += sum(sizes) / 2 + (gap if before < count or each < count else 0)
            mine.append(at)
        offsets.append(mine)
        for each, offset in zip(column, mine, strict=True):
            y[each] = offset - at / 2
    weights = [1.0 if each < count else _BEND_WEIGHT for each in range(len(graph.layer))]
    for turn in range(_SETTLINGS):
        order = range(len(columns)) if turn % 2 == 0 else range(len(columns) - 1, -1, -1)
        for number in order:
            column, mine = columns[number], offsets[number]
            targets = []
            for each in column:
                beside = [*graph.up[each], *graph.down[each]]
                targets.append(sum(y[other] for other in beside) / len(beside) if beside else y[each])
            moved = _isotonic(
                [target - offset for target, offset in zip(targets, mine, strict=True)],
                [weights[each] for each in column],
            )
            for each, offset, base in zip(column, mine, moved, strict=True):
                y[each] = base + offset
    return y


def _isotonic(wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the nearest values, by weighted squares, that never fall (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(wanted, weights, strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (first, of_first, many), (second, of_second, more) = pools[-2:]
            whole = of_first + of_second
            pools[-2:] = [((first * of_first + second * of_second) / whole, whole, many + more)]
    return [value for value, _, many in pools for _ in range(many)]
