"""The plan of random graphs, policies and histories, against a second reading of the design's rule.

For more worlds than the suite has time for: ``LINEAGE_ORCH_WORLDS=2000 pytest tests/plan/test_plan_properties.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lineage_orch.ledger import Failure, LedgerSnapshot, Moment, NodeFact, Pause, Untested
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.followers import Follower, follower_policy
from lineage_orch.plan import BuildPlan, failure_digest, plan_builds
from tests import manifests
from tests.plan.plan_reference import UNREADABLE, Reference

START = datetime(2026, 1, 1, tzinfo=UTC)
WORLDS = int(os.environ.get("LINEAGE_ORCH_WORLDS", "50"))

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
            "lag_tolerance": st.sampled_from([None, "0m", "90m", "4h", "1d", UNREADABLE]),
            "require_fresh_data_from": st.sampled_from(["any", "all"]),
        },
    ),
)


@st.composite
def projects(draw: st.DrawFn, *, readable: bool = False, policies: bool = True) -> dict[str, Any]:
    """A random project: sources, seeds, and models, snapshots and ephemeral models that read what came before."""
    resources = [manifests.source(f"raw.s{each}") for each in range(draw(st.integers(0, 4)))]
    resources += [manifests.node(f"seed{each}", kind="seed") for each in range(draw(st.integers(0, 1)))]
    for number in range(draw(st.integers(1, 9))):
        known = [each["unique_id"] for each in resources]
        parents = draw(st.lists(st.sampled_from(known), max_size=3, unique=True)) if known else []
        kind = draw(st.sampled_from(["model", "model", "model", "ephemeral", "view", "view", "snapshot"]))
        config: dict[str, Any] = {}
        after = draw(BUILD_AFTER) if policies else None
        if after is not None:
            if "count" in after:
                after["period"] = draw(st.sampled_from(["minute", "hour", "day"]))
            config["freshness"] = {"build_after": after}
        if policies and (state := draw(STATE)) is not None:
            if readable and state.get("lag_tolerance") == UNREADABLE:
                del state["lag_tolerance"]
            config["state"] = state
        resources.append(
            manifests.node(
                f"n{number}",
                *parents,
                kind="snapshot" if kind == "snapshot" else "model",
                materialized={"ephemeral": "ephemeral", "view": "view"}.get(kind),
                config=config,
            )
        )
    # The order inside a manifest means nothing: parents may come after their children.
    return manifests.manifest(*draw(st.permutations(resources)), child_map=draw(st.booleans()))


@dataclass
class Ledger:
    """A ledger by hand: the clock, and what was loaded, built, asked for and failed at which tick."""

    lineage: Lineage
    now: datetime = START
    tick: int = 0
    sources: dict[str, list[Moment]] = field(default_factory=dict)
    facts: dict[str, NodeFact] = field(default_factory=dict)
    nodes: dict[str, list[Moment]] = field(default_factory=dict)
    producers: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    debts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    untested: dict[str, Untested] = field(default_factory=dict)
    pauses: dict[str, Pause] = field(default_factory=dict)

    def load(self, source: str, *, baseline: bool = False) -> None:
        self.tick += 1
        self.sources.setdefault(source, []).append(Moment(self.tick, self.now))
        if not baseline:
            self.moved.add(source)

    def build(self, tick: int, node: str, *, how: str = "current", is_unchanged: bool = False) -> None:
        before = self.facts.get(node)
        changed = before.changed_tick if before is not None and is_unchanged else None
        known = node in self.lineage.nodes
        checksum, identity = {
            "current": (None, self.lineage.identity(node) if known else "gone"),
            "other": (None, "another identity"),
            "old row": (self.lineage.nodes[node].checksum if known else "gone", None),
            "other old row": ("another checksum", None),
        }[how]
        self.facts[node] = NodeFact(tick, self.now, checksum, changed, identity)
        if changed is None:
            self.nodes.setdefault(node, []).append(Moment(tick, self.now))
        self.failures.pop(node, None)
        self.untested.pop(node, None)

    def pass_tests(self, node: str) -> None:
        last = self.untested.pop(node)
        self.facts[node] = NodeFact(last.tick, last.built_at, None, None, last.identity)
        self.nodes.setdefault(node, []).append(Moment(last.tick, last.built_at))
        self.failures.pop(node, None)

    def fail(self, tick: int, node: str, *, identity: str | None) -> None:
        before = self.failures.get(node)
        self.failures[node] = Failure(
            before.count + 1 if before else 1, before.since if before else self.now, self.now, tick, identity, "no"
        )

    def snapshot(self) -> LedgerSnapshot:
        return LedgerSnapshot(
            tick=self.tick,
            sources={each: history[-1].tick for each, history in self.sources.items()},
            nodes=dict(self.facts),
            producers=frozenset(self.producers),
            source_history={each: tuple(history) for each, history in self.sources.items()},
            node_history={each: tuple(history) for each, history in self.nodes.items()},
            baselines=frozenset(self.sources.keys() - self.moved),
            debts=dict(self.debts),
            failures=dict(self.failures),
            untested=dict(self.untested),
            producer_patterns=frozenset(self.patterns),
            pauses=dict(self.pauses),
        )


@st.composite
def ledgers(draw: st.DrawFn, lineage: Lineage, *, simple: bool = False) -> Ledger:
    """A random history: loads, whole builds, builds that were cut off, failures, debts, producers, clock jumps."""
    ledger = Ledger(lineage)
    sources = [*lineage.sources, "source.shop.raw.deleted"]
    nodes = [*lineage.nodes, "model.shop.deleted"]
    ledger.producers.update(draw(st.lists(st.sampled_from(sources), max_size=2)))
    if draw(st.integers(0, 5)) == 0:
        ledger.patterns.add("raw.*")
    hows = ["current"] if simple else ["current", "current", "current", "other", "old row", "other old row"]
    steps = ["load", "load", "load", "build", "build", "part", "baseline", "by hand"]
    steps += [] if simple else ["fail", "ask", "jump", "untested", "untested"]
    for _ in range(draw(st.integers(0, 16))):
        ledger.now += timedelta(minutes=draw(st.sampled_from([0, 1, 20, 60, 150, 600])))
        step = draw(st.sampled_from(steps))
        if step in ("load", "baseline"):
            ledger.load(draw(st.sampled_from(sources)), baseline=step == "baseline")
            continue
        if step == "jump":
            # A wrong clock, here or at a load: later and earlier than all else.
            ledger.now += draw(st.sampled_from([-1, 1])) * timedelta(days=draw(st.sampled_from([1, 1100])))
            continue
        ledger.tick += 1
        tick = ledger.tick
        some = draw(st.lists(st.sampled_from(nodes), max_size=3, unique=True))
        if step == "ask":
            ledger.debts.update(dict.fromkeys(some, tick))
        elif step == "untested":
            planned = plan_builds(lineage, ledger.snapshot(), now=ledger.now).build
            for node in (*some, *planned[-1:]):
                identity = lineage.identity(node) if node in lineage.nodes else "gone"
                ledger.untested[node] = Untested(
                    tick, ledger.now, draw(st.sampled_from([identity, identity, "another identity", None]))
                )
        elif step == "fail":
            for node in some:
                known = node in lineage.nodes
                identity = draw(st.sampled_from([None, "old", failure_digest(lineage, node) if known else "gone"]))
                for _ in range(draw(st.sampled_from([1, 1, 2, 9]))):
                    ledger.fail(tick, node, identity=identity)
        else:
            planned = plan_builds(lineage, ledger.snapshot(), now=ledger.now).build
            built: Iterable[str] = some
            if step != "by hand":
                built = planned if step == "build" else planned[: draw(st.integers(0, len(planned)))]
            if draw(st.integers(0, 3)) == 0:
                ledger.load(draw(st.sampled_from(sources)))  # while the build runs
            for node in built:
                ledger.now += timedelta(minutes=1)
                unchanged = not simple and draw(st.integers(0, 3)) == 0
                ledger.build(tick, node, how=draw(st.sampled_from(hows)), is_unchanged=unchanged)
    ledger.now += timedelta(minutes=draw(st.sampled_from([0, 1, 30, 60, 240, 1440])))
    if not simple and draw(st.booleans()):
        until = st.sampled_from([None, *(ledger.now + timedelta(hours=each) for each in (-1, 0, 1, 5))])
        for name in draw(st.lists(st.sampled_from([*sources, *nodes, *nodes, "*"]), max_size=2, unique=True)):
            ledger.pauses[name] = Pause(ledger.now, draw(until))
    return ledger


HELD = {"updates_on_all", "build_after", "lag_tolerance", "first_load", "failing", "bad_config", "failed", "paused"}


def assert_as_the_reference(plan: BuildPlan, reference: Reference) -> None:
    verdicts = {each: reference.verdict(each) for each in reference.nodes()}
    assert not plan.perhaps  # no node of these worlds is marked
    assert set(plan.build) == {each for each, verdict in verdicts.items() if verdict.kind == "build"}
    assert set(plan.tests_only) == {each for each, verdict in verdicts.items() if verdict.kind == "tests"}
    assert set(plan.passed_through) == {each for each, verdict in verdicts.items() if verdict.kind == "passed"}
    assert set(plan.not_built) == {each for each, verdict in verdicts.items() if verdict.kind == "not_built"}
    assert len(plan.build) == len(set(plan.build))
    held = {each: verdict for each, verdict in verdicts.items() if verdict.kind in HELD}
    assert set(plan.held) == set(held)
    for each, verdict in held.items():
        found = plan.held[each]
        assert (found.reason, set(found.waiting_for), found.until) == (
            verdict.kind,
            verdict.waiting_for,
            verdict.until,
        )
        assert len(found.waiting_for) == len(verdict.waiting_for)
    due = [verdict.until for verdict in held.values() if verdict.until]
    due += [
        pause.until
        for source, pause in reference.snapshot.pauses.items()
        if pause.until is not None
        and source in reference.paused & reference.manifest["sources"].keys()
        and any(
            reference.loaded(source) > reference.built(each)
            for each in reference.nodes()
            if source in reference.parents(each)
        )
    ]
    assert plan.next_due == min(due, default=None)
    planned = (*plan.build, *plan.tests_only, *plan.passed_through)
    assert {each: plan.because[each] for each in planned} == {each: reference.because(each) for each in planned}
    assert set(plan.because) == set(planned)
    assert set(plan.sources) == frozenset().union(*map(reference.because, planned))
    assert set(plan.reasons) == {*planned, *held}
    for each, reasons in plan.reasons.items():
        found_ways = {(reason.kind, frozenset(reason.subjects)) for reason in reasons}
        assert {way for way in found_ways if way[0] != "prerequisite"} == reference.reasons(each)
        assert len(found_ways) == len(reasons)
    assert plan.changed_code == {each for each in planned if reference.differs(each)}
    assert_parents_come_first(plan, reference)
    assert_all_is_there(plan, reference)


def assert_parents_come_first(plan: BuildPlan, reference: Reference) -> None:
    position = {each: number for number, each in enumerate(plan.build)}
    for each in plan.build:
        for parent in reference.parents(each):
            assert position.get(parent, -1) < position[each]


def assert_all_is_there(plan: BuildPlan, reference: Reference) -> None:
    """What a node of the plan reads exists, is built before it, or has no producer that it could wait for."""
    for each in plan.build:
        for parent in reference.parents(each):
            if reference.is_source(parent):
                assert reference.loaded(parent) or not reference.has_producer(parent)
            else:
                assert parent in (*plan.build, *plan.tests_only) or not reference.is_absent(parent)


def reference_of(
    manifest: dict[str, Any], lineage: Lineage, snapshot: LedgerSnapshot, now: datetime, **options: Any
) -> Reference:
    return Reference(
        manifest,
        snapshot,
        now,
        identities={each: lineage.identity(each) for each in lineage.nodes},
        failure_identities={each: failure_digest(lineage, each) for each in lineage.nodes},
        **options,
    )


@settings(deadline=None, max_examples=WORLDS)
@given(st.data(), projects(policies=False))
def test_plan_without_policies_is_what_design_says(data: st.DataObject, manifest: dict[str, Any]) -> None:
    lineage = Lineage.from_manifest(manifest)
    ledger = data.draw(ledgers(lineage, simple=True))
    plan = plan_builds(lineage, ledger.snapshot(), now=ledger.now)
    assert_as_the_reference(plan, reference_of(manifest, lineage, ledger.snapshot(), ledger.now))


@settings(deadline=None, max_examples=2 * WORLDS)
@given(st.data(), projects())
def test_plan_is_what_design_says(data: st.DataObject, manifest: dict[str, Any]) -> None:
    lineage = Lineage.from_manifest(manifest)
    ledger = data.draw(ledgers(lineage))
    some = st.lists(st.sampled_from([*lineage.nodes, "model.shop.deleted"]), max_size=2, unique=True)
    rarely = st.one_of(st.just([]), st.just([]), some)
    options = {
        "views": data.draw(st.sampled_from(["build", "pass_through"])),
        "rebuild_changed_code": data.draw(st.sampled_from([True, True, True, False])),
        "missing_relations": data.draw(rarely),
        "not_built": data.draw(rarely),
        "failed": data.draw(rarely),
    }
    plan = plan_builds(lineage, ledger.snapshot(), now=ledger.now, **options)
    assert_as_the_reference(plan, reference_of(manifest, lineage, ledger.snapshot(), ledger.now, **options))


@settings(deadline=None, max_examples=WORLDS)
@given(st.data(), projects(readable=True))
def test_everything_is_built_when_time_passes_and_all_load(data: st.DataObject, manifest: dict[str, Any]) -> None:
    """Load every source, wait long enough, build what is due: then nothing is stale, held or due."""
    lineage = Lineage.from_manifest(manifest)
    ledger = data.draw(ledgers(lineage))
    ledger.now += timedelta(days=40_000)  # later than any clock said before
    ledger.pauses.clear()
    for source in manifest["sources"]:
        ledger.load(source)
    built: set[str] = set()
    # What is new only as of now waits for its lag_tolerance: each level of the graph, for a start.
    for _ in range(len(lineage.nodes) + 1):
        ledger.now += timedelta(days=30)
        plan = plan_builds(lineage, ledger.snapshot(), now=ledger.now)
        ledger.tick += 1
        for node in plan.build:
            ledger.build(ledger.tick, node)
        for node in plan.tests_only:
            ledger.pass_tests(node)
        built |= {*plan.build, *plan.tests_only}
    assert lineage.downstream(*manifest["sources"]) & lineage.nodes.keys() <= built
    assert plan.is_empty
    assert not plan.held
    assert plan.next_due is None


@settings(deadline=None, max_examples=WORLDS)
@given(st.data(), projects(), st.sampled_from(["build", "pass_through"]))
def test_plan_that_was_built_leaves_nothing_to_build(data: st.DataObject, manifest: dict[str, Any], views: Any) -> None:
    """One plan holds all that its own builds make stale: it is never followed by another for the same cause."""
    lineage = Lineage.from_manifest(manifest)
    ledger = data.draw(ledgers(lineage))
    plan = plan_builds(lineage, ledger.snapshot(), now=ledger.now, views=views)
    ledger.tick += 1
    for node in (*plan.build, *plan.passed_through):
        ledger.build(ledger.tick, node)
    for node in plan.tests_only:
        ledger.pass_tests(node)
    again = plan_builds(lineage, ledger.snapshot(), now=ledger.now, views=views)
    assert again.is_empty


@settings(deadline=None, max_examples=WORLDS)
@given(st.data(), projects(), st.booleans())
def test_selection_is_built_with_what_it_needs_and_no_more(
    data: st.DataObject, manifest: dict[str, Any], force: bool
) -> None:
    lineage = Lineage.from_manifest(manifest)
    ledger = data.draw(ledgers(lineage))
    snapshot = ledger.snapshot()
    whole = plan_builds(lineage, snapshot, now=ledger.now)
    assert plan_builds(lineage, snapshot, now=ledger.now, only=lineage.nodes.keys()) == whole

    only = frozenset(data.draw(st.lists(st.sampled_from(sorted(lineage.nodes)), unique=True))) if lineage.nodes else ()
    plan = plan_builds(lineage, snapshot, now=ledger.now, only=only, forced=only if force else ())
    reference = reference_of(manifest, lineage, snapshot, ledger.now)
    assert_parents_come_first(plan, reference)
    assert plan.held.keys() <= set(only)
    if force:
        assert set(only) <= set(plan.build)
    else:
        assert_all_is_there(plan, reference)
        assert set(plan.build) <= set(whole.build), "what is not due as a whole is not due as a selection"
    for node in set(plan.build).difference(only):
        assert node not in snapshot.nodes, "what was not selected is built for those that need it, and is not there"


@settings(deadline=None, max_examples=WORLDS)
@given(st.data(), projects(policies=False))
def test_plan_cut_off_anywhere_is_taken_up_again(data: st.DataObject, manifest: dict[str, Any]) -> None:
    """``kill -9`` after k nodes: the next plan is the plan without them."""
    lineage = Lineage.from_manifest(manifest)
    ledger = data.draw(ledgers(lineage))
    plan = plan_builds(lineage, ledger.snapshot(), now=ledger.now)
    done = data.draw(st.integers(0, len(plan.build)))
    ledger.tick += 1
    for node in plan.tests_only:  # before what is below them
        ledger.pass_tests(node)
    for node in plan.build[:done]:
        ledger.build(ledger.tick, node)
    again = plan_builds(lineage, ledger.snapshot(), now=ledger.now)
    assert set(again.build) == set(plan.build[done:])


@settings(deadline=None, max_examples=WORLDS // 2)
@given(st.data(), projects())
def test_follower_is_planned_as_a_model_that_reads_the_same(data: st.DataObject, manifest: dict[str, Any]) -> None:
    """And what dbt builds is no other for it, but for what the follower needs and is not there."""
    lineage = Lineage.from_manifest(manifest)
    built = [*lineage.sources, *lineage.nodes]
    parents = data.draw(st.lists(st.sampled_from(built), min_size=1, max_size=3, unique=True)) if built else []
    updates_on = data.draw(st.sampled_from(["any", "all"]))
    lag, after = (data.draw(st.sampled_from([None, None, "4h", "1d"])) for _ in range(2))
    state = {"require_fresh_data_from": updates_on, "lag_tolerance": lag}
    count = {"4h": 4, "1d": 24}.get(after or "")
    freshness = {"build_after": {"count": count, "period": "hour"}} if count else None
    as_model = manifests.node("push", *parents, config={"state": state, "freshness": freshness})
    resources = [*manifest["sources"].values(), *manifest["nodes"].values()]
    with_model = Lineage.from_manifest(manifests.manifest(*resources, as_model))
    ledger = data.draw(ledgers(with_model))
    push = "model.shop.push"
    # A follower has no code, and no tests.
    if push in ledger.facts:
        ledger.facts[push] = ledger.facts[push]._replace(identity=None, checksum=None)
    if push in ledger.failures:
        ledger.failures[push] = replace(ledger.failures[push], identity=None)
    ledger.untested.pop(push, None)
    follower = Follower(push, "push", tuple(parents), None, follower_policy("here", updates_on, after, lag))
    mine = plan_builds(lineage, ledger.snapshot(), now=ledger.now, followers=[follower])
    other = plan_builds(with_model, ledger.snapshot(), now=ledger.now)
    assert {*mine.build, *mine.follow} == {*other.build}
    assert {**mine.held, **mine.follow_held} == other.held
    assert mine.next_due == other.next_due
    for each in mine.follow:
        assert (mine.because[each], mine.reasons[each]) == (other.because[each], other.reasons[each])
    if not mine.follow:
        alone = plan_builds(lineage, ledger.snapshot(), now=ledger.now)
        assert (mine.build, mine.select, mine.held) == (alone.build, alone.select, alone.held)
