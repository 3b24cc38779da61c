"""The places of a picture: parents left of children, nothing on top of another, the same for the same graph."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from lineage_orch.reports.layout import Layout, layered

HEIGHT, GAP, BEND = 40.0, 10.0, 8.0


def place(nodes: list[str], edges: list[tuple[str, str]]) -> Layout:
    return layered(nodes, edges, height=HEIGHT, gap=GAP, bend=BEND)


def random_graph(seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    of = random.Random(seed)
    nodes = [f"n{number}" for number in range(of.randrange(1, 40))]
    return nodes, [
        (nodes[of.randrange(child)], nodes[child]) for child in range(1, len(nodes)) for _ in range(of.randrange(4))
    ]


@pytest.mark.parametrize("seed", range(40))
def test_nothing_lies_on_another_and_edges_run_right(seed: int) -> None:
    nodes, edges = random_graph(seed)
    found = place(nodes, edges)
    assert all(found.layer[a] < found.layer[b] for a, b in edges)
    for layer in set(found.layer.values()):
        taken = [(found.y[each], HEIGHT) for each in nodes if found.layer[each] == layer]
        # An edge that passes the layer takes room of its own; those of one parent share it.
        passing = {
            (a, found.bends[a, b][layer - found.layer[a] - 1])
            for a, b in edges
            if found.layer[a] < layer < found.layer[b]
        }
        taken = sorted([*taken, *((y, BEND) for _, y in passing)])
        assert all(second - first > (tall + other) / 2 - 1e-6 for (first, tall), (second, other) in pairwise(taken))
    assert all(HEIGHT / 2 - 1e-6 <= y <= found.height - HEIGHT / 2 + 1e-6 for y in found.y.values())
    assert all(len(ys) == found.layer[b] - found.layer[a] - 1 for (a, b), ys in found.bends.items())


def test_same_graph_gives_the_same_picture() -> None:
    nodes, edges = random_graph(7)
    assert place(nodes, edges) == place(nodes, list(reversed(edges)))


def test_chain_is_straight_and_two_of_them_do_not_cross() -> None:
    found = place(["a", "b", "c", "x", "y", "z"], [("a", "b"), ("b", "c"), ("x", "y"), ("y", "z")])
    assert len({found.y[each] for each in "abc"}) == len({found.y[each] for each in "xyz"}) == 1
    assert found.layer == {"a": 0, "b": 1, "c": 2, "x": 0, "y": 1, "z": 2}


def test_crossings_that_need_not_be_are_gone() -> None:
    # As written, each of the three edges crosses the others.
    found = place(["a", "b", "c", "z", "y", "x"], [("a", "x"), ("b", "y"), ("c", "z")])
    order = sorted("abc", key=found.y.__getitem__)
    partner = {"a": "x", "b": "y", "c": "z"}
    assert sorted("xyz", key=found.y.__getitem__) == [partner[each] for each in order]


def test_what_has_nothing_above_it_stands_beside_its_reader() -> None:
    found = place(["source", "stage", "mart", "seed"], [("source", "stage"), ("stage", "mart"), ("seed", "mart")])
    assert found.layer["seed"] == 1


def test_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="circle"):
        place(["a", "b"], [("a", "b"), ("b", "a")])


def test_nothing_has_no_height() -> None:
    assert place([], []).height == 0
