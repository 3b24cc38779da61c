"""Where a plan ends a stage: at nodes that may come out as they were."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lineage_orch.ledger import LedgerSnapshot, Untested
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.policy import Cutoff, read_cutoff
from lineage_orch.plan import BuildPlan, plan_builds
from tests.manifests import leaf, manifest, node, source
from tests.plan.test_plan import NOON, ledger, short

MARKED = {"meta": {"lineage_orch": {"cutoff": True}}}


def marked(name: str, *parents: str, **config: Any) -> dict[str, Any]:
    return node(name, *parents, config={**MARKED, **config})


def lineage_of(*resources: dict[str, Any]) -> Lineage:
    return Lineage.from_manifest(manifest(*resources))


def chain(*more: dict[str, Any], **config: Any) -> Lineage:
    """raw.a -> stg (marked) -> mart -> top."""
    sources = source("raw.a"), source("raw.b")
    return lineage_of(*sources, marked("stg", "raw.a", **config), node("mart", "stg"), node("top", "mart"), *more)


def known(
    lineage: Lineage, snapshot: LedgerSnapshot, *names: str, seconds: dict[str, float] | None = None
) -> LedgerSnapshot:
    """The same, with identities, and with contents of these."""
    nodes = {
        each: fact._replace(
            identity=fact.identity or lineage.identity(each),
            content="same" if short([each])[0] in names else None,
            seconds=(seconds or {}).get(short([each])[0]),
        )
        for each, fact in snapshot.nodes.items()
    }
    return LedgerSnapshot(
        **{**{name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__}, "nodes": nodes}
    )


def plan(lineage: Lineage, snapshot: LedgerSnapshot, **options: Any) -> BuildPlan:
    return plan_builds(lineage, snapshot, now=NOON, **options)


BUILT = {"stg": 5, "mart": 5, "top": 5}


def test_stage_ends_at_marked_node_whose_content_is_known() -> None:
    lineage = chain()
    found = plan(lineage, known(lineage, ledger({"raw.a": 7}, BUILT), "stg"))
    assert short(found.build) == ["stg"]
    assert short(found.perhaps) == ["mart", "top"]
    assert set(found.because) == {"model.shop.stg"}
    assert set(short(found.reasons)) == {"stg", "mart", "top"}
    assert found.compared == {"model.shop.stg": ()}
    assert found.maybe_same == {"model.shop.stg"}


@pytest.mark.parametrize("cutoff", ["off", "auto"])
def test_setting_off_ends_no_stage_and_auto_keeps_marks(cutoff: Any) -> None:
    lineage = chain()
    found = plan(lineage, known(lineage, ledger({"raw.a": 7}, BUILT), "stg"), cutoff=cutoff)
    assert short(found.build) == (["stg"] if cutoff == "auto" else ["stg", "mart", "top"])


def test_any_doubt_is_change() -> None:
    lineage = chain()
    facts = ledger({"raw.a": 7}, BUILT)
    no_stage = ["stg", "mart", "top"]
    assert short(plan(lineage, known(lineage, facts)).build) == no_stage, "no content is known"
    other = ledger({"raw.a": 7}, BUILT, identities={"stg": "another"})
    assert short(plan(lineage, known(lineage, other, "stg")).build) == no_stage, "its identity changed"
    asked = ledger({"raw.a": 7}, BUILT, debts={"stg": 6})
    assert short(plan(lineage, known(lineage, asked, "stg")).build) == no_stage, "someone asked for it"
    gone = plan(lineage, known(lineage, facts, "stg"), missing_relations=["model.shop.stg"])
    assert short(gone.build) == no_stage, "its relation is gone"
    unseen = plan(lineage, known(lineage, other, "stg"), rebuild_changed_code=False)
    assert short(unseen.build) == no_stage, "its identity changed, and alone would not build it"
    # What was not compared before is compared from now on.
    assert plan(lineage, known(lineage, facts)).compared == {"model.shop.stg": ()}
    assert not plan(lineage, known(lineage, facts)).maybe_same


def test_node_with_reason_of_its_own_builds_at_once() -> None:
    lineage = chain(node("both", "stg", "raw.b"))
    found = plan(lineage, known(lineage, ledger({"raw.a": 7, "raw.b": 7}, {**BUILT, "both": 5}), "stg"))
    assert short(found.build) == ["stg", "both"]
    assert short(found.perhaps) == ["mart", "top"]


def test_node_with_reason_of_its_own_waits_for_parent_that_waits() -> None:
    """Built now, it would be built once more after its parent."""
    lineage = chain(node("both", "mart", "raw.b"), node("below", "both"))
    built = {**BUILT, "both": 5, "below": 5}
    found = plan(lineage, known(lineage, ledger({"raw.a": 7, "raw.b": 7}, built), "stg"))
    assert short(found.build) == ["stg"]
    assert sorted(short(found.perhaps)) == ["below", "both", "mart", "top"]


def test_node_that_is_only_tested_is_known_and_new_for_what_was_built_before_it() -> None:
    lineage = chain(node("tested", "raw.b"), node("before", "stg", "tested"), node("since", "stg", "tested"))
    facts = known(
        lineage, ledger({"raw.a": 9, "raw.b": 6}, {**BUILT, "tested": 5, "before": 5, "since": 8}), "stg", "tested"
    )
    last = Untested(7, NOON, lineage.identity("model.shop.tested"))
    found = plan(lineage, replace(facts, untested={"model.shop.tested": last}))
    assert short(found.tests_only) == ["tested"]
    assert (short(found.build), short(found.perhaps)) == (["stg", "before"], ["mart", "since", "top"])


def test_view_passes_on_what_its_parents_are() -> None:
    view = node("view", "stg", materialized="view", config=MARKED)
    lineage = chain(view, node("of_view", "view"), node("raw_view", "raw.a", materialized="view", config=MARKED))
    built = {**BUILT, "view": 5, "of_view": 5, "raw_view": 5}
    snapshot = known(lineage, ledger({"raw.a": 7}, built), "stg", "view", "raw_view")
    found = plan(lineage, snapshot)
    assert short(found.build) == ["stg", "raw_view"], "a view has no content of its own to compare"
    assert "of_view" in short(found.perhaps)
    assert found.compared.keys() == {"model.shop.stg"}
    passing = plan(lineage, snapshot, views="pass_through")
    assert (short(passing.build), short(passing.passed_through)) == (["stg"], ["raw_view"])
    assert "view" in short(passing.perhaps)


@pytest.mark.parametrize(
    ("materialized", "compared"),
    [("table", True), ("incremental", True), ("materialized_view", False), ("external", False), ("view", False)],
)
def test_only_what_keeps_its_content_is_compared(materialized: str, compared: bool) -> None:
    lineage = lineage_of(
        source("raw.a"), node("stg", "raw.a", materialized=materialized, config=MARKED), node("mart", "stg")
    )
    found = plan(lineage, known(lineage, ledger({"raw.a": 7}, {"stg": 5, "mart": 5}), "stg"))
    assert (found.maybe_same == {"model.shop.stg"}) is compared


def test_node_that_no_node_reads_is_not_compared() -> None:
    lineage = lineage_of(source("raw.a"), marked("mart", "raw.a"), leaf("exposure", "board", "mart"))
    found = plan(lineage, known(lineage, ledger({"raw.a": 7}, {"mart": 5}), "mart"))
    assert found.compared == {}


def test_test_that_reads_what_waits_runs_with_it() -> None:
    lineage = chain(node("relationship", "stg", "mart", kind="test"), node("not_null", "stg", kind="test"))
    found = plan(lineage, known(lineage, ledger({"raw.a": 7}, BUILT), "stg"))
    assert found.left_out_tests == ("test.shop.relationship",)
    assert found.tests_on("model.shop.stg") == {"test.shop.not_null"}


def test_held_node_is_held_all_the_same() -> None:
    lineage = chain(node("late", "stg", config={"freshness": {"build_after": {"count": 9, "period": "hour"}}}))
    found = plan(lineage, known(lineage, ledger({"raw.a": 7}, {**BUILT, "late": 5}), "stg"))
    assert found.held["model.shop.late"].until == NOON + timedelta(hours=9)


def test_load_after_which_all_came_out_same_is_fresh_enough_for_updates_on_all() -> None:
    """Else a mart of two sources would wait for both to change in the same round."""
    policy = {"state": {"require_fresh_data_from": "all"}}
    lineage = lineage_of(
        source("raw.a"),
        source("raw.b"),
        marked("stg_a", "raw.a"),
        marked("stg_b", "raw.b"),
        node("int_b", "stg_b"),
        node("mart", "stg_a", "int_b", config=policy),
    )
    builds = {"stg_a": 9, "stg_b": 9, "int_b": 5, "mart": 5}
    loads = {"raw.a": 7, "raw.b": 7}
    facts = known(lineage, ledger(loads, builds, unchanged_since={"stg_b": 5}))
    assert short(plan(lineage, facts).build) == ["mart"], "stg_b was built of the load, and is as it was"
    old = known(lineage, ledger({"raw.a": 7, "raw.b": 4}, {**builds, "stg_b": 5}))
    assert plan(lineage, old).held["model.shop.mart"].waiting_for == ("model.shop.int_b",)


# -- auto -------------------------------------------------------------------------------------------------------


def auto(seconds: dict[str, float], **config: Any) -> BuildPlan:
    lineage = lineage_of(source("raw.a"), node("stg", "raw.a", config=config), node("mart", "stg"), node("top", "mart"))
    return plan(lineage, known(lineage, ledger({"raw.a": 7}, BUILT), "stg", seconds=seconds), cutoff="auto")


def test_auto_compares_where_more_is_below_than_it_costs() -> None:
    assert short(auto({"stg": 3, "mart": 6, "top": 6}).build) == ["stg"]
    assert short(auto({"stg": 3, "mart": 4, "top": 3}).build) == ["stg", "mart", "top"], "a stage costs a start of dbt"
    assert short(auto({"mart": 60, "top": 60}).build) == ["stg", "mart", "top"], "what it takes itself is not known"
    no = {"meta": {"lineage_orch": {"cutoff": False}}}
    assert short(auto({"stg": 3, "mart": 60}, **no).build) == ["stg", "mart", "top"]


# -- meta -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "cutoff"),
    [
        ({}, None),
        ({"cutoff": None}, None),
        ({"cutoff": True}, Cutoff(True)),
        ({"cutoff": False}, Cutoff(False)),
        ({"cutoff": {"ignore": ["_Loaded_at", "b", "B"]}}, Cutoff(True, ("_loaded_at", "b"))),
        ({"cutoff": {"ignore": []}}, Cutoff(True)),
    ],
)
def test_cutoff_is_read_from_meta(block: Any, cutoff: Cutoff | None) -> None:
    assert read_cutoff("model.shop.stg", block) == cutoff


@pytest.mark.parametrize(
    ("block", "named"),
    [
        (True, "config.meta.lineage_orch of model.shop.stg is True; it must be a block of keys"),
        ({"cutof": True}, "config.meta.lineage_orch.cutof of model.shop.stg is True; it must be left out"),
        ({"cutoff": "yes"}, "is 'yes'; it must be true, false or {ignore: [column, ...]}"),
        ({"cutoff": {"ignored": []}}, "it must be true, false or {ignore: [column, ...]}"),
        (
            {"cutoff": {"ignore": "a"}},
            "meta.lineage_orch.cutoff.ignore of model.shop.stg is 'a'; it must be a list",
        ),
    ],
)
def test_what_cannot_be_read_is_said_and_holds_nothing(block: Any, named: str) -> None:
    resources = [source("raw.a"), node("stg", "raw.a", config={"meta": {"lineage_orch": block}}), node("mart", "stg")]
    lineage = lineage_of(*resources)
    found = plan(lineage, known(lineage, ledger({"raw.a": 7}, {"stg": 5, "mart": 5}), "stg"))
    assert short(found.build) == ["stg", "mart"]
    assert len(found.notes) == 1
    assert named in found.notes[0]
    assert plan(lineage, ledger({"raw.a": 7}), cutoff="off").notes == ()


@pytest.mark.parametrize("meta", [None, [], ["lineage_orch"], "lineage_orch", 1, 1.5, True, {"owner": "us"}])
def test_meta_of_others_says_nothing(meta: Any) -> None:
    lineage = lineage_of(source("raw.a"), node("stg", "raw.a", config={"meta": meta}, meta=meta), node("mart", "stg"))
    assert list(lineage.meta_blocks()) == []


def test_meta_beside_config_counts_where_config_has_none() -> None:
    """Old releases of dbt write it there."""
    lineage = lineage_of(
        source("raw.a"),
        node("stg", "raw.a", meta={"lineage_orch": {"cutoff": True}}),
        node("mart", "stg"),
    )
    assert dict(lineage.meta_blocks()) == {"model.shop.stg": {"cutoff": True}}
