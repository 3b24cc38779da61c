"""What to hand to dbt for a plan: the selectors of what it builds and tests, and of the tests it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from lineage_orch.lineage import Lineage


def select(
    lineage: Lineage, build: Collection[str], passed: Collection[str], sources: Collection[str]
) -> tuple[str, ...]:
    """Return the selectors that make ``dbt build`` build exactly ``build``.

    When that is all that hangs on ``sources``, the short form (``source:a.b.c+``); otherwise the exact nodes, and
    for their tests alone: the sources, the ephemeral models that the nodes are made of, and the views through
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


def left_out_tests(lineage: Lineage, selected: Iterable[str], is_absent: Callable[[str], bool]) -> tuple[str, ...]:
    """Return the tests on what is selected that cannot pass now, because they also read something absent.

    dbt's default (``--indirect-selection eager``) runs a test as soon as one of the nodes that it reads is
    selected. A test between a node that is built now and one that was never built, or that is held and so still
    made of old data, would fail for no fault of the first; it runs when the other is built.
    """
    found = dict.fromkeys(test for each in selected for test in lineage.tests_on(each) if test.startswith("test."))
    return tuple(test for test in found if any(map(is_absent, lineage.tested_by(test))))


def bearers(lineage: Lineage, build: Collection[str], passed: Collection[str], sources: Collection[str]) -> list[str]:
    """Return all whose tests a selection brings: sources, ephemeral models, nodes, passed views."""
    return [*sources, *_ephemeral_above(lineage, build), *build, *passed]


def _is_all_below(lineage: Lineage, build: Collection[str], sources: Collection[str]) -> bool:
    below = lineage.downstream(*sources)
    return below.issuperset(build) and sum(map(lineage.nodes.__contains__, below)) == len(build)


def _ephemeral_above(lineage: Lineage, build: Collection[str]) -> list[str]:
    return list(dict.fromkeys(ephemeral for each in build for ephemeral in lineage.ephemeral_above(each)))
