"""Followers in the plan, by worked examples: what dbt builds is as without them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lineage_orch.errors import PolicyError
from lineage_orch.ledger import Launch
from lineage_orch.lineage import Lineage, Policy
from lineage_orch.lineage.followers import Follower, follower_policy
from lineage_orch.loads.following import Following
from lineage_orch.plan import BuildPlan, Held, Reason, plan_builds
from lineage_orch.plan.followers import followers_of, next_look
from tests.manifests import leaf, manifest, node, source
from tests.plan.test_plan import NOON, failure, hours, ledger, lineage_of

MARKED = {"meta": {"lineage_orch": {"cutoff": True}}}
PUSH = "follower.push"


@pytest.fixture
def shop() -> Lineage:
    return lineage_of(
        source("raw.a"),
        source("raw.b"),
        node("stg_a", "raw.a"),
        node("stg_b", "raw.b"),
        node("mart", "stg_a", "stg_b"),
        node("other", "stg_b"),
    )


def plan(lineage: Lineage, snapshot: Any, *follows: str, **options: Any) -> BuildPlan:
    words = {key: options.pop(key) for key in ("updates_on", "build_after", "lag_tolerance") if key in options}
    followers = followers_of(lineage, [Following("push", follows or ("mart",), **words)])
    options.setdefault("now", NOON)
    return plan_builds(lineage, snapshot, followers=followers, **options)


BUILT = {"stg_a": 5, "stg_b": 5, "mart": 5, "other": 5}
LOADS = {"raw.a": 1, "raw.b": 2}


def test_follower_runs_after_what_it_follows_is_built(shop: Lineage) -> None:
    found = plan(shop, ledger(LOADS))
    assert found.follow == (PUSH,)
    assert PUSH not in found.build
    without = plan_builds(shop, ledger(LOADS), now=NOON)
    assert (found.build, found.select, found.sources) == (without.build, without.select, without.sources)
    assert found.because[PUSH] == {"source.shop.raw.a", "source.shop.raw.b"}
    assert found.reasons[PUSH] == (Reason("parent", ("model.shop.mart",)), Reason("never_built"))


def test_follower_is_stale_until_its_last_completed_run_is_later(shop: Lineage) -> None:
    assert plan(shop, ledger(LOADS, BUILT)).follow == (PUSH,)
    assert plan(shop, ledger(LOADS, {**BUILT, PUSH: 5})).is_empty
    assert plan(shop, ledger(LOADS, {**BUILT, PUSH: 4})).follow == (PUSH,)


def test_due_follower_alone_asks_nothing_of_dbt(shop: Lineage) -> None:
    found = plan(shop, ledger(LOADS, BUILT))
    assert not found.is_empty
    assert found.needs_no_dbt
    assert found.select == ()


def test_parent_that_came_out_the_same_starts_nothing(shop: Lineage) -> None:
    found = plan(shop, ledger(LOADS, {**BUILT, "mart": 9, PUSH: 6}, unchanged_since={"mart": 5}))
    assert found.is_empty


def test_follower_waits_for_a_parent_that_may_come_out_the_same() -> None:
    lineage = lineage_of(source("raw.a"), node("mart", "raw.a", config=MARKED))
    snapshot = ledger({"raw.a": 7}, {"mart": 5, PUSH: 5}, identities={"mart": lineage.identity("model.shop.mart")})

    facts = {**snapshot.nodes, "model.shop.mart": snapshot.nodes["model.shop.mart"]._replace(content="abc")}
    found = plan(lineage, replace(snapshot, nodes=facts))
    # Nothing but the follower reads it: it is compared all the same.
    assert found.maybe_same == {"model.shop.mart"}
    assert (found.follow, found.perhaps) == ((), (PUSH,))


def test_failed_parent_holds_follower(shop: Lineage) -> None:
    found = plan(shop, ledger({"raw.a": 7, "raw.b": 2}, {**BUILT, PUSH: 5}, failures={"mart": failure(tick=8)}))
    assert found.follow == ()
    assert found.follow_held[PUSH].reason == "failing"
    assert found.follow_held[PUSH].waiting_for == ("model.shop.mart",)


def test_follower_that_failed_is_tried_again_later(shop: Lineage) -> None:
    snapshot = ledger(LOADS, BUILT, failures={PUSH: failure()})
    found = plan(shop, snapshot)
    assert found.follow_held[PUSH] == Held("failing", until=NOON + timedelta(minutes=10), detail=failure().message)
    assert found.next_due == NOON + timedelta(minutes=10)
    # It is no node of dbt's, and no build fails for it.
    assert (dict(found.held), dict(found.failures)) == ({}, {})
    assert plan(shop, snapshot, now=NOON + hours(1)).follow == (PUSH,)


def test_run_that_goes_on_is_followed_by_no_second_one(shop: Lineage) -> None:

    launch = Launch(PUSH, 5, "abc", NOON - timedelta(seconds=70), "push/prod")
    snapshot = replace(ledger(LOADS, {**BUILT, "mart": 8}), launches={PUSH: launch})
    found = plan(shop, snapshot)
    assert found.follow_held[PUSH] == Held("running", until=NOON + timedelta(seconds=50))
    assert found.is_empty
    here = plan(shop, ledger(LOADS, BUILT), running=[PUSH])
    assert here.follow_held == {PUSH: Held("running")}


@pytest.mark.parametrize(
    ("age", "after"),
    [(0, 30), (29, 30), (30, 60), (61, 120), (250, 480), (500, 960), (960, 1560), (2000, 2160)],
)
def test_run_that_goes_on_is_looked_at_ever_less_often(age: int, after: int) -> None:
    assert next_look(NOON, NOON + timedelta(seconds=age)) == NOON + timedelta(seconds=after)


def test_policies_of_nodes_hold_for_followers(shop: Lineage) -> None:
    snapshot = ledger({"raw.a": 7, "raw.b": 2}, {**BUILT, "stg_a": [(8, NOON)], PUSH: [(5, NOON - hours(1))]})
    follows = ("stg_a", "stg_b")
    held = plan(shop, snapshot, *follows, updates_on="all").follow_held
    assert held == {PUSH: Held("updates_on_all", ("model.shop.stg_b",))}
    assert plan(shop, snapshot, *follows, build_after="3h").follow_held == {
        PUSH: Held("build_after", until=NOON + hours(2))
    }
    assert plan(shop, snapshot, *follows, lag_tolerance="2h").follow_held == {
        PUSH: Held("lag_tolerance", until=NOON + hours(2))
    }
    assert plan(shop, snapshot, *follows).follow == (PUSH,)


def test_source_can_be_followed(shop: Lineage) -> None:
    assert plan(shop, ledger({"raw.a": 7}, {**BUILT, PUSH: 5}), "raw.a").follow == (PUSH,)
    assert plan(shop, ledger({"raw.a": 4}, {**BUILT, PUSH: 5}), "raw.a").follow == ()


def test_unknown_model_is_told_and_starts_nothing(shop: Lineage) -> None:
    found = plan(shop, ledger(LOADS), "mrt")
    assert found.follow == ()
    assert found.notes == (
        "@follows of the flow 'push': no node 'mrt' in the manifest that was passed in; did you mean 'mart'?",
    )


def test_selection_starts_no_follower(shop: Lineage) -> None:
    found = plan(shop, ledger(LOADS), only=["model.shop.mart"])
    assert "model.shop.mart" in found.build
    assert found.follow == ()


@pytest.mark.parametrize("where", ["meta", "config"])
def test_exposure_that_names_a_deployment_follows_what_it_depends_on(where: str) -> None:
    meta = {"lineage_orch": {"deployment": "push/prod", "build_after": "6h"}}
    fields: dict[str, Any] = {"meta": meta} if where == "meta" else {"config": {"enabled": True, "meta": meta}}
    lineage = lineage_of(
        source("raw.a"),
        node("eph", "raw.a", materialized="ephemeral"),
        node("mart", "raw.a"),
        leaf("exposure", "board", "mart", "eph", **fields),
        leaf("exposure", "other", "mart"),
    )
    assert followers_of(lineage, ()) == (
        Follower(
            "exposure.shop.board",
            "board",
            ("source.shop.raw.a", "model.shop.mart"),
            "push/prod",
            Policy(build_after=hours(6)),
        ),
    )


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (7, "meta.lineage_orch of exposure.shop.board is 7; it must be a block of keys"),
        ({"deployment": "prod"}, "is 'prod'; it must be flow/name of a Prefect deployment"),
        ({"deploy": "a/b"}, "has a key 'deploy'; there are: deployment, updates_on, build_after, lag_tolerance"),
        ({"deployment": "a/b", "window": "yes"}, "is 'yes'; it must be true or false"),
        ({"deployment": "a/b", "updates_on": "some"}, "updates_on in meta.lineage_orch of exposure.shop.board is"),
        ({"deployment": "a/b", "build_after": "soon"}, "is 'soon'; it must be a duration such as"),
    ],
)
def test_exposure_that_cannot_be_read_is_held_and_told(block: Any, message: str) -> None:
    lineage = Lineage.from_manifest(
        manifest(
            source("raw.a"), node("mart", "raw.a"), leaf("exposure", "board", "mart", meta={"lineage_orch": block})
        )
    )
    (follower,) = followers_of(lineage, ())
    assert message in (follower.error or "")
    found = plan_builds(lineage, ledger({"raw.a": 1}, {"mart": 5}), now=NOON, followers=(follower,))
    assert found.follow == ()
    assert found.follow_held["exposure.shop.board"].reason == "bad_config"
    assert found.notes == (follower.error,)


def test_times_of_followers_that_cannot_be_read() -> None:
    with pytest.raises(PolicyError, match="lag_tolerance in here is -1"):
        follower_policy("here", "any", None, -1)
