"""How long a plan takes: list scheduling over dbt's threads."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineage_orch.lineage import Lineage
from lineage_orch.plan import estimate, plan_graph
from tests.manifests import manifest, node, source

# raw.a -> a1, a2, a3 -> mart
SHOP = Lineage.from_manifest(
    manifest(source("raw.a"), *(node(each, "raw.a") for each in ("a1", "a2", "a3")), node("mart", "a1", "a2", "a3"))
)


def ids(lineage: Lineage) -> list[str]:
    graph = plan_graph(lineage)
    return list(graph.ids[graph.source_count :])


def seconds(lineage: Lineage, nodes: list[str], of: Mapping[str, float], threads: int) -> float | None:
    found = estimate(lineage, nodes, {f"model.shop.{name}": each for name, each in of.items()}, threads)
    return None if found is None else found.seconds


@pytest.mark.parametrize(("threads", "whole"), [(1, 16), (2, 12), (3, 8), (8, 8)])
def test_threads_share_what_does_not_wait(threads: int, whole: float) -> None:
    assert seconds(SHOP, ids(SHOP), dict.fromkeys(("a1", "a2", "a3", "mart"), 4.0), threads) == whole


def test_nodes_never_timed_count_as_the_others_do() -> None:
    found = estimate(SHOP, ids(SHOP), {"model.shop.a1": 1.0, "model.shop.mart": 5.0}, 1)
    assert found is not None
    assert (found.nodes, found.timed, found.seconds, found.threads) == (4, 2, 12.0, 1)
    assert estimate(SHOP, ids(SHOP), {}, 1) is None
    assert estimate(SHOP, [], {"model.shop.a1": 1.0}, 1) is None


def test_parents_outside_the_plan_are_not_waited_for() -> None:
    assert seconds(SHOP, ["model.shop.mart"], {"mart": 4}, 1) == 4


@given(st.lists(st.tuples(st.integers(1, 9), st.sets(st.integers(0, 11), max_size=3)), min_size=1, max_size=12))
def test_estimate_lies_between_its_bounds(made: list[tuple[int, set[int]]]) -> None:
    names = [f"n{at}" for at in range(len(made))]
    lineage = Lineage.from_manifest(
        manifest(
            *(
                node(name, *(names[each] for each in up if each < at))
                for at, (name, (_, up)) in enumerate(zip(names, made, strict=True))
            )
        )
    )
    took = {name: float(each) for name, (each, _) in zip(names, made, strict=True)}
    whole = sum(took.values())
    graph = plan_graph(lineage)
    path: dict[str, float] = {}
    for each in ids(lineage):
        above = (path[graph.ids[parent]] for parent in graph.parents[graph.index[each]])
        path[each] = took[each.rpartition(".")[2]] + max(above, default=0.0)
    assert seconds(lineage, ids(lineage), took, 1) == whole
    assert seconds(lineage, ids(lineage), took, 99) == max(path.values())
    some = seconds(lineage, ids(lineage), took, 3)
    assert some is not None
    # Graham's bound of list scheduling.
    assert max(max(path.values()), whole / 3) <= some <= whole / 3 + max(path.values()) * 2 / 3 + 1e-9
