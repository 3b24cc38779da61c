"""What to hand to dbt for a plan: the selectors of what it builds and tests, and of the tests it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable

from lineage_orch.lineage import Lineage


def select(
    lineage: Lineage, build: Collection[str], passed: Collection[str], sources: Collection[str]
) -> tuple[str, ...]:
    """Return the selectors that make ``dbt build`` build exactly ``build``.

    When that is all that is downstream of ``sources``, the short form (``source:a.b.c+``); otherwise the exact nodes,
    and for their tests alone: the sources, the ephemeral models that the nodes are made of, and the views through
    which the change passes. So bad data stops a build in the same places in both forms.

    Raises:
        LineageError: dbt's selectors cannot tell one of the nodes from another.
    """
    if sources and not passed and _is_all_below(lineage, build, sources):
        return tuple(lineage.selection(*sources).split(" "))
    selectors = lineage.selectors
    return (
        *(selectors.source(each) for each in sources if lineage.tests_on(each)),
        *(selectors.test_bearer(each) for each in _ephemeral_above(lineage, build) if lineage.tests_on(each)),
        *(selectors.node(each) for each in build),
        *(
            f"{selectors.node(each)},resource_type:test"
            for each in passed
            if any(test.startswith("test.") for test in lineage.tests_on(each))
        ),
    )


def left_out_data_tests(lineage: Lineage, selected: Iterable[str], is_old: Callable[[str], bool]) -> tuple[str, ...]:
    """Return the data tests on what is selected that cannot pass now, because they also read something old or absent.

    dbt's default (``--indirect-selection eager``) runs a test as soon as one of the nodes that it reads is
    selected. A test between a node that is built now and one that was never built, or that is held and so still
    made of old data, would fail for no fault of the first; it runs when the other is built.
    """
    found = dict.fromkeys(test for each in selected for test in lineage.tests_on(each) if test.startswith("test."))
    return tuple(test for test in found if any(map(is_old, lineage.tested_by(test))))


def left_out_unit_tests(lineage: Lineage, build: Iterable[str], absent: Container[str]) -> tuple[str, ...]:
    """Return the unit tests on what is built whose inputs are not there when they run.

    dbt runs a unit test just before its model, and asks the warehouse for the columns of each input that is given
    as rows. What the model itself reads is there by then: built before it, or earlier in the same run. The model's
    own relation (``this``) is not, on its first build; nor, for sure, is an input that the model does not read.
    """
    graph = lineage.built_graph

    def is_read_by(node: str, each: str) -> bool:
        return graph.index[each] in graph.parents[graph.index[node]]

    return tuple(
        test
        for node in build
        for test in lineage.tests_on(node)
        if test.startswith("unit_test.")
        and any(each in absent and not is_read_by(node, each) for each in lineage.unit_test_inputs(test))
    )


def bearers(lineage: Lineage, build: Collection[str], passed: Collection[str], sources: Collection[str]) -> list[str]:
    """Return all whose tests a selection brings: sources, ephemeral models, nodes, passed views."""
    return [*sources, *_ephemeral_above(lineage, build), *build, *passed]


def _is_all_below(lineage: Lineage, build: Collection[str], sources: Collection[str]) -> bool:
    below = lineage.downstream(*sources)
    return below.issuperset(build) and sum(map(lineage.nodes.__contains__, below)) == len(build)


def _ephemeral_above(lineage: Lineage, build: Collection[str]) -> list[str]:
    return list(dict.fromkeys(ephemeral for each in build for ephemeral in lineage.ephemeral_above(each)))
