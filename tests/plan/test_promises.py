"""What is promised, and which loads a node has not taken in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage_orch.errors import PolicyError
from lineage_orch.ledger import LedgerSnapshot, NodeFact
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.policy import Promise, read_cutoff, read_policy, read_promise
from lineage_orch.plan import finish_times, not_taken_in, read_promises
from tests.manifests import manifest, node, source

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOURS_2 = {"count": 2, "period": "hour"}
DAY = {"count": 1, "period": "day"}
NOT_SAID = {"count": None, "period": None}
MART = "model.shop.mart"


@pytest.mark.parametrize(
    ("freshness", "block", "promise"),
    [
        (None, None, None),
        ({}, {}, None),
        ({"build_after": HOURS_2}, {"cutoff": True}, None),
        # As dbt writes it of a source that has none.
        ({"warn_after": NOT_SAID, "error_after": NOT_SAID, "filter": None}, None, None),
        ({"warn_after": HOURS_2, "error_after": None}, None, Promise(timedelta(hours=2))),
        ({"warn_after": HOURS_2, "error_after": DAY}, None, Promise(timedelta(hours=2), timedelta(days=1))),
        ({"error_after": {"count": 30, "period": "minute"}}, None, Promise(None, timedelta(minutes=30))),
        (None, {"late_after": "2h"}, Promise(None, timedelta(hours=2))),
        (
            {"warn_after": HOURS_2, "error_after": DAY},
            {"late_after": "4 hours"},
            Promise(timedelta(hours=2), timedelta(hours=4)),
        ),
    ],
)
def test_promises_are_read_from_freshness_and_meta(freshness: Any, block: Any, promise: Promise | None) -> None:
    assert read_promise(MART, freshness, block) == promise


@pytest.mark.parametrize(
    ("freshness", "block", "said"),
    [
        ("often", None, "config.freshness of model.shop.mart is 'often'; it must be a block of keys"),
        ({"warn_after": "2h"}, None, "config.freshness.warn_after of model.shop.mart is '2h'"),
        ({"error_after": {"count": "2", "period": "hour"}}, None, "config.freshness.error_after.count"),
        ({"error_after": {"count": 2, "period": "week"}}, None, "must be one of minute, hour, day"),
        (None, True, "config.meta.lineage_orch of model.shop.mart is True"),
        (None, {"late_after": 2}, "meta.lineage_orch.late_after of model.shop.mart is 2; it must be a duration"),
        (None, {"late_after": "soon"}, "'soon'; it must be a duration such as '45m', '4h' or '7d'"),
    ],
)
def test_what_cannot_be_read_is_named(freshness: Any, block: Any, said: str) -> None:
    with pytest.raises(PolicyError, match="Correct it in the model") as raised:
        read_promise(MART, freshness, block)
    assert said in str(raised.value)


def test_what_cannot_be_read_is_told_and_promises_nothing_and_holds_nothing() -> None:
    lineage = Lineage.from_manifest(
        manifest(
            source("raw.a", freshness={"warn_after": HOURS_2}),
            source("raw.b", config={"freshness": {"error_after": DAY}}, freshness={"error_after": HOURS_2}),
            source("raw.c", config={"freshness": {"error_after": {"count": -1, "period": "day"}}}),
            source("raw.d", config={"freshness": None}),
            node("late", "raw.a", config={"meta": {"lineage_orch": {"cutoff": True, "late_after": "2h"}}}),
            node("wrong", "late", config={"meta": {"lineage_orch": {"cutoff": True, "late_after": "soon"}}}),
            node("mart", "late", config={"freshness": {"error_after": "soon"}}),
            node("rest", "late"),
        )
    )
    promises = read_promises(lineage)
    assert promises.of_sources == {
        "source.shop.raw.a": Promise(timedelta(hours=2)),
        "source.shop.raw.b": Promise(None, timedelta(days=1)),
    }
    assert promises.of_nodes == {"model.shop.late": Promise(None, timedelta(hours=2))}
    assert promises.unreadable.keys() == {"source.shop.raw.c", "model.shop.wrong", MART}
    # What says when a node builds, and whether it is compared, is read all the same.
    read_policy(MART, {"error_after": "soon"}, None)
    assert read_cutoff("model.shop.wrong", {"cutoff": True, "late_after": "soon"}) is not None


def test_each_node_of_a_plan_has_its_own_end() -> None:
    lineage = Lineage.from_manifest(manifest(source("raw.a"), node("stg", "raw.a"), node("mart", "stg"), node("x")))
    order = ["model.shop.stg", "model.shop.x", MART]
    took = {"model.shop.stg": 10.0, MART: 5.0, "model.shop.x": 1.0}
    assert finish_times(lineage, order, took, 1) == {"model.shop.stg": 10, "model.shop.x": 11, MART: 16}
    assert finish_times(lineage, order, took, 2) == {"model.shop.stg": 10, "model.shop.x": 1, MART: 15}
    assert finish_times(lineage, order, {}, 2) == {}


# What a node has not taken in -----------------------------------------------------------------------------------------


@dataclass
class Version:
    """The content of a node: as of which tick it read its sources, and which content of each node that it reads."""

    tick: int
    read: list[Version]


@dataclass
class World:
    """Loads and builds, and what came of them: which content was read by which."""

    lineage: Lineage
    tick: int = 0
    loads: dict[str, list[int]] = field(default_factory=dict)
    content: dict[str, Version] = field(default_factory=dict)
    builds: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def load(self, source: str) -> None:
        self.tick += 1
        self.loads.setdefault(source, []).append(self.tick)

    def build(self, nodes: list[tuple[str, bool]]) -> None:
        """One run: nodes, parents first, each with whether it came out as it was."""
        self.tick += 1
        for unique_id, same in nodes:
            parents = self.parents(unique_id)
            if any(each not in self.content for each in parents):
                continue  # a build needs what it reads
            read = [self.content[each] for each in parents]
            if same and unique_id in self.content:
                self.content[unique_id].tick, self.content[unique_id].read = self.tick, read
                changed = self.builds[unique_id][-1][1]
            else:
                self.content[unique_id] = Version(self.tick, read)
                changed = self.tick
            self.builds.setdefault(unique_id, []).append((self.tick, changed))

    def parents(self, unique_id: str, kind: str = "model.") -> list[str]:
        built = self.lineage.built_graph
        above = (built.ids[each] for each in built.parents[built.index[unique_id]])
        return [each for each in above if each.startswith(kind)]

    def missing(self, unique_id: str, content: Version | None) -> set[int]:
        """The ticks of the loads that a content of a node does not hold."""
        loads = {tick for each in self.parents(unique_id, "source.") for tick in self.loads.get(each, ())}
        found = {tick for tick in loads if content is None or tick > content.tick}
        parents = self.parents(unique_id)
        for parent, read in zip(parents, content.read if content else [None] * len(parents), strict=True):
            found |= self.missing(parent, read)
        return found

    def snapshot(self) -> LedgerSnapshot:
        nodes = {each: NodeFact(of[-1][0], NOON, changed=of[-1][1]) for each, of in self.builds.items()}
        return LedgerSnapshot(self.tick, {each: ticks[-1] for each, ticks in self.loads.items()}, nodes)

    def last_as_at(self, unique_id: str, tick: int) -> int | None:
        built = self.builds[unique_id]
        content = [changed for at, changed in built if at <= tick]
        return max((at for at, changed in built if content and changed == content[-1]), default=None)


DIAMOND = Lineage.from_manifest(
    manifest(
        source("raw.a"),
        source("raw.b"),
        node("a", "raw.a"),
        node("b", "raw.b"),
        node("left", "a"),
        node("right", "a", "b"),
        node("mart", "left", "right", "raw.b"),
        node("last", "mart"),
    )
)
NODES = [each for each in DIAMOND.built_graph.ids if each.startswith("model.")]
RUNS = st.dictionaries(st.sampled_from(NODES), st.booleans(), min_size=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(["source.shop.raw.a", "source.shop.raw.b"]), RUNS), max_size=14))
def test_what_is_not_taken_in_is_what_no_build_read(happened: list[Any]) -> None:
    world = World(DIAMOND)
    for each in happened:
        if isinstance(each, str):
            world.load(each)
        else:
            world.build([(unique_id, each[unique_id]) for unique_id in NODES if unique_id in each])
    found = not_taken_in(DIAMOND, world.snapshot(), NODES, world.last_as_at)
    for unique_id in NODES:
        loads = {tick for name, up_to in found[unique_id].items() for tick in world.loads[name] if tick > up_to}
        assert loads == world.missing(unique_id, world.content.get(unique_id)), unique_id


def test_a_chain_of_thousands_is_walked_without_recursion() -> None:
    names = [f"n{number}" for number in range(2000)]
    lineage = Lineage.from_manifest(
        manifest(source("raw.a"), node("n0", "raw.a"), *(node(b, a) for a, b in pairwise(names)))
    )
    world = World(lineage)
    world.load("source.shop.raw.a")
    world.build([(f"model.shop.{name}", False) for name in names])
    world.load("source.shop.raw.a")
    last = "model.shop.n1999"
    assert not_taken_in(lineage, world.snapshot(), [last], world.last_as_at) == {last: {"source.shop.raw.a": 2}}
