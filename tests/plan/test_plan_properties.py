"""The plan of random graphs, policies and histories, against a second reading of the design's rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lineage_orch.ledger import LedgerSnapshot, Moment, NodeFact
from lineage_orch.lineage import Lineage
from lineage_orch.plan import BuildPlan, plan_builds
from tests import manifests
from tests.plan.plan_reference import Reference

START = datetime(2026, 1, 1, tzinfo=UTC)

BUILD_AFTER = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "count": st.integers(0, 12),
            "updates_on": st.sampled_from(["any", "all", None]),
        },
    ),
)
STATE = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "lag_tolerance": st.sampled_from([None, "0m", "90m", "4h", "1d"]),
            "require_fresh_data_from": st.sampled_from(["any", "all"]),
        },
    ),
)


@st.composite
def projects(draw: st.DrawFn) -> dict[str, Any]:
    """A random project: sources, seeds, and models, snapshots and ephemeral glass that read what came before."""
    resources = [manifests.source(f"raw.s{each}") for each in range(draw(st.integers(0, 4)))]
    resources += [manifests.node(f"seed{each}", kind="seed") for each in range(draw(st.integers(0, 1)))]
    for number in range(draw(st.integers(1, 9))):
        known = [each["unique_id"] for each in resources]
        parents = draw(st.lists(st.sampled_from(known), max_size=3, unique=True)) if known else []
        kind = draw(st.sampled_from(["model", "model", "model", "glass", "view", "snapshot"]))
        config: dict[str, Any] = {}
        after = draw(BUILD_AFTER)
        if after is not None:
            if "count" in after:
                after["period"] = draw(st.sampled_from(["minute", "hour", "day"]))
            config["freshness"] = {"build_after": after}
        if (state := draw(STATE)) is not None:
            config["state"] = state
        resources.append(
            manifests.node(
                f"n{number}",
                *parents,
                kind="snapshot" if kind == "snapshot" else "model",
                materialized={"glass": "ephemeral", "view": "view"}.get(kind),
                config=config,
            )
        )
    # The order inside a manifest means nothing: parents may come after their children.
    return manifests.manifest(*draw(st.permutations(resources)), child_map=draw(st.booleans()))


@dataclass
class Ledger:
    """A ledger by hand: the clock, and what was loaded and built at which tick."""

    now: datetime = START
    tick: int = 0
    sources: dict[str, list[Moment]] = field(default_factory=dict)
    nodes: dict[str, list[Moment]] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    producers: set[str] = field(default_factory=set)

    def load(self, source: str) -> None:
        self.tick += 1
        self.sources.setdefault(source, []).append(Moment(self.tick, self.now))

    def build(self, tick: int, node: str, checksum: str) -> None:
        self.nodes.setdefault(node, []).append(Moment(tick, self.now))
        self.checksums[node] = checksum

    def snapshot(self) -> LedgerSnapshot:
        return LedgerSnapshot(
            tick=self.tick,
            sources={each: history[-1].tick for each, history in self.sources.items()},
            nodes={each: NodeFact(*history[-1], self.checksums[each]) for each, history in self.nodes.items()},
            producers=frozenset(self.producers),
            source_history={each: tuple(history) for each, history in self.sources.items()},
            node_history={each: tuple(history) for each, history in self.nodes.items()},
        )


@st.composite
def ledgers(draw: st.DrawFn, manifest: dict[str, Any], *, code_changes: bool = False) -> Ledger:
    """A random history: loads, whole builds, builds that were cut off, nodes built by hand, producers."""
    ledger = Ledger()
    sources = [*manifest["sources"], "source.shop.raw.deleted"]
    lineage = Lineage.from_manifest(manifest)
    nodes = [*lineage.nodes, "model.shop.deleted"]
    ledger.producers.update(draw(st.lists(st.sampled_from(sources), max_size=2)))
    for _ in range(draw(st.integers(0, 16))):
        ledger.now += timedelta(minutes=draw(st.sampled_from([0, 1, 30, 60, 240, 1440])))
        step = draw(st.sampled_from(["load", "load", "build", "cut off", "by hand"]))
        if step == "load":
            ledger.load(draw(st.sampled_from(sources)))
            continue
        if step == "by hand":
            built = draw(st.lists(st.sampled_from(nodes), max_size=4, unique=True))
        else:
            built = list(plan_builds(lineage, ledger.snapshot(), now=ledger.now).build)
        if step == "cut off":
            built = built[: draw(st.integers(0, len(built)))]
        ledger.tick += 1
        tick = ledger.tick
        if draw(st.booleans()):  # a load lands while the build runs
            ledger.load(draw(st.sampled_from(sources)))
        for node in built:
            ledger.now += timedelta(minutes=1)
            changed = code_changes and draw(st.integers(0, 3)) == 0
            ledger.build(tick, node, "old code" if changed else f"code of {node.rpartition('.')[2]}")
    ledger.now += timedelta(minutes=draw(st.sampled_from([0, 1, 30, 60, 240, 1440])))
    return ledger


REASONS = {
    "first_load": {"first_load"},
    "all": {"updates_on_all"},
    "until": {"build_after", "lag_tolerance"},
}


def assert_as_the_reference(manifest: dict[str, Any], plan: BuildPlan, reference: Reference) -> None:
    verdicts = {each: reference.verdict(each) for each in reference.nodes()}
    assert set(plan.build) == {each for each, verdict in verdicts.items() if verdict[0] == "build"}
    assert len(plan.build) == len(set(plan.build))
    held = {each: verdict for each, verdict in verdicts.items() if verdict[0] in REASONS}
    assert set(plan.held) == set(held)
    for each, (kind, waiting_for, until) in held.items():
        assert plan.held[each].reason in REASONS[kind]
        assert set(plan.held[each].waiting_for) == waiting_for
        assert len(plan.held[each].waiting_for) == len(waiting_for)
        assert plan.held[each].until == until
    assert plan.next_due == min((until for *_, until in held.values() if until), default=None)
    assert {each: plan.because[each] for each in plan.build} == {each: reference.because(each) for each in plan.build}
    position = {each: number for number, each in enumerate(plan.build)}
    for each in plan.build:
        for parent in reference.parents(each):
            assert position.get(parent, -1) < position[each]


@settings(deadline=None, max_examples=250)
@given(st.data(), projects())
def test_the_plan_is_what_the_design_says(data: st.DataObject, manifest: dict[str, Any]) -> None:
    ledger = data.draw(ledgers(manifest))
    snapshot = ledger.snapshot()
    plan = plan_builds(Lineage.from_manifest(manifest), snapshot, now=ledger.now)
    assert_as_the_reference(manifest, plan, Reference(manifest, snapshot, ledger.now))


@settings(deadline=None, max_examples=150)
@given(st.data(), projects(), st.booleans())
def test_changed_code_and_first_loads_too(data: st.DataObject, manifest: dict[str, Any], first_load: bool) -> None:
    ledger = data.draw(ledgers(manifest, code_changes=True))
    snapshot = ledger.snapshot()
    plan = plan_builds(Lineage.from_manifest(manifest), snapshot, now=ledger.now, hold_until_first_load=first_load)
    reference = Reference(manifest, snapshot, ledger.now, first_load=first_load)
    assert_as_the_reference(manifest, plan, reference)
    assert plan.changed_code == {each for each in plan.build if reference.code_changed(each)}


@settings(deadline=None, max_examples=100)
@given(st.data(), projects())
def test_every_debt_is_paid_when_time_passes_and_all_load(data: st.DataObject, manifest: dict[str, Any]) -> None:
    """Load every source, wait long enough, build what is due: then nothing is owed, held or due."""
    ledger = data.draw(ledgers(manifest))
    lineage = Lineage.from_manifest(manifest)
    for source in manifest["sources"]:
        ledger.load(source)
    ledger.now += timedelta(days=30)
    plan = plan_builds(lineage, ledger.snapshot(), now=ledger.now)
    assert not plan.held
    below = lineage.downstream(*manifest["sources"]) & lineage.nodes.keys()
    assert below <= set(plan.build)
    ledger.tick += 1
    for node in plan.build:
        ledger.build(ledger.tick, node, f"code of {node.rpartition('.')[2]}")
    after = plan_builds(lineage, ledger.snapshot(), now=ledger.now)
    assert after.is_empty
    assert not after.held
    assert after.next_due is None


@settings(deadline=None, max_examples=100)
@given(st.data(), projects())
def test_a_plan_cut_off_anywhere_owes_exactly_the_rest(data: st.DataObject, manifest: dict[str, Any]) -> None:
    """``kill -9`` after k nodes: the next plan is the plan without them."""
    ledger = data.draw(ledgers(manifest, code_changes=True))
    lineage = Lineage.from_manifest(manifest)
    plan = plan_builds(lineage, ledger.snapshot(), now=ledger.now)
    done = data.draw(st.integers(0, len(plan.build)))
    ledger.tick += 1
    for node in plan.build[:done]:
        ledger.build(ledger.tick, node, f"code of {node.rpartition('.')[2]}")
    again = plan_builds(lineage, ledger.snapshot(), now=ledger.now)
    assert set(plan.build[done:]) <= set(again.build) | set(again.held)
    assert not set(plan.build[:done]) & set(again.build)
