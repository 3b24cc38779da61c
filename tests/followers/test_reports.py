"""Followers in what people read: status, explain, plan, sources, check, the page; and what forgets and adopts them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.check.findings import Finding
from lineage_orch.check.project import check
from lineage_orch.cli import app as cli
from lineage_orch.errors import UnknownNodeError
from lineage_orch.followers.runs import using_double
from lineage_orch.ledger import Launch
from lineage_orch.lineage import Lineage
from lineage_orch.loads.following import Following
from lineage_orch.plan import plan_builds
from lineage_orch.plan.followers import followers_of
from lineage_orch.reports import tables
from lineage_orch.reports.follower_wording import follower_lines
from lineage_orch.reports.status import status
from lineage_orch.testing.followed import Followed
from tests.followers.test_builds import PUSH, SHOP, World, world
from tests.manifests import leaf, manifest
from tests.plan.test_plan import NOON, failure, ledger

__all__ = ["world"]

BOARD = leaf("exposure", "board", "top", meta={"lineage_orch": {"deployment": "board/prod"}})
LINEAGE = Lineage.from_manifest(manifest(*SHOP, BOARD))
LOADS = {"raw.a": 7, "raw.b": 2}
BUILT = {"stg_a": 5, "stg_b": 5, "mart": 5, "top": 5}


def said(snapshot: Any, **words: Any) -> dict[str, str]:
    """The first line that explains each follower."""
    followers = followers_of(LINEAGE, [Following("push", ("mart",), **words)])
    plan = plan_builds(LINEAGE, snapshot, now=NOON, followers=followers)
    found = status(LINEAGE, snapshot, plan, None).followers
    return {each.follower.name: follower_lines(each, {}, NOON)[0] for each in found}


def test_each_state_of_a_follower_is_explained() -> None:
    new = ledger(LOADS, {**BUILT, PUSH: 5})
    assert said(new)["push"] == (
        "push will run as soon as what it follows is built: raw.a (its last Completed run, at 2026-03-01 12:00 UTC "
        "after tick 5)."
    )
    assert said(ledger({}, {}))["push"] == "push never ran, and nothing that it follows was built."
    assert said(ledger({"raw.a": 1, "raw.b": 1}, {**BUILT, PUSH: 5}))["push"] == (
        "push is up to date: nothing that it follows changed since its last Completed run, at 2026-03-01 12:00 UTC "
        "after tick 5."
    )
    assert said(new, build_after="6h")["push"] == ("push is held until 18:00 UTC (in 6 h): freshness.build_after.")
    launch = Launch(PUSH, 5, "abc", NOON, "push/prod", flow_run_id="7f0c")
    assert said(replace(new, launches={PUSH: launch}))["push"] == (
        "A run of push, flow run 7f0c, goes on. If what it follows is newer than that, one more comes after it."
    )
    assert said(new, build_after="soon")["push"] == (
        "push does not run: follower not read: build_after in @follows of the flow 'push' is 'soon'; it must be a "
        "duration such as '45m', '4h' or '7d'."
    )
    failed = said(ledger(LOADS, BUILT, failures={PUSH: failure()}))
    assert failed["push"].startswith("push is held until 12:10 UTC (in 10 min): failed before: Database Error")
    assert failed["board"].startswith("board will run as soon as what it follows is built: raw.a")


def test_status_and_plan_show_followers() -> None:
    followers = followers_of(LINEAGE, [Following("push", ("mart",), build_after="6h")])
    snapshot = ledger(LOADS, {**BUILT, PUSH: 5})
    plan = plan_builds(LINEAGE, snapshot, now=NOON, followers=followers)
    found = status(LINEAGE, snapshot, plan, None)
    (table,) = (each for each in tables.status_parts(found, NOON) if getattr(each, "title", "") == "Followers")
    assert table.rows == [  # type: ignore[union-attr]
        ["board", "top", "board/prod", "due", "never"],
        ["push", "mart", "in process", "held: until 18:00 UTC (in 6 h)", "2026-03-01 12:00 UTC"],
    ]
    assert [each["state"] for each in found.to_dict()["followers"]] == ["due", "held"]
    shown = {each.title: each.rows for each in tables.plan_parts(plan, {}, NOON, "build") if not isinstance(each, str)}
    assert shown["To run then: 1 follower"] == [["board", "top", "raw.a and raw.b"]]
    assert shown["Not run now: 1 follower"] == [["push", "18:00 UTC (in 6 h)", "freshness.build_after"]]
    data = tables.plan_to_dict(plan)
    assert (data["follow"], list(data["follow_held"])) == (["exposure.shop.board"], [PUSH])


def test_due_follower_alone_is_nothing_to_build() -> None:
    followers = followers_of(LINEAGE, [])
    snapshot = ledger({"raw.a": 1, "raw.b": 1}, BUILT)
    parts = tables.plan_parts(plan_builds(LINEAGE, snapshot, now=NOON, followers=followers), {}, NOON, "build")
    assert parts[0] == "Nothing to build now."
    assert parts[1].title == "To run then: 1 follower"  # type: ignore[union-attr]


def test_check_names_what_cannot_be_followed() -> None:
    broken = leaf("exposure", "broken", "top", meta={"lineage_orch": {"deployment": "prod"}})
    found = check(
        Lineage.from_manifest(manifest(*SHOP, broken)),
        None,
        declared=[Following("push", ("mrt",), where="/repo/push.py:7"), Following("mail", ("mart",))],
    )
    bad = [each for each in found if each.code == "bad-follower"]
    assert bad == [
        Finding(
            "bad-follower",
            "follower not read: deployment in meta.lineage_orch of exposure.shop.broken is 'prod'; it must be "
            "flow/name of a Prefect deployment",
            None,
            ("exposure.shop.broken",),
        ),
        Finding(
            "bad-follower",
            "@follows of the flow 'push': no node 'mrt' in the manifest that was passed in; did you mean 'mart'?",
            "/repo/push.py:7",
            (PUSH,),
        ),
    ]
    assert bad[0].severity == "error"


def test_page_shows_followers_below_what_they_follow(world: World) -> None:
    world.declare(*SHOP, BOARD)
    world.build("raw.a", "raw.b")
    with world.orchestrator() as orchestrator:
        page = orchestrator.page()
    items = {each.key: each for each in page.items}
    assert (items[PUSH].kind, items[PUSH].state) == ("follower", "up_to_date")
    assert items["exposure.shop.board"].caption.startswith("exposure · ")
    numbers = {each.key: number for number, each in enumerate(page.items)}
    assert (numbers["model.shop.mart"], numbers[PUSH]) in page.edges
    assert (numbers["model.shop.top"], numbers["exposure.shop.board"]) in page.edges
    assert not any("push" in each.line for each in page.events)
    with world.orchestrator() as orchestrator:
        assert orchestrator.activity(datetime(2025, 12, 1, tzinfo=UTC)).built == 4


def test_explanation_and_names(world: World) -> None:
    world.build("raw.a", "raw.b")
    with world.orchestrator() as orchestrator:
        assert orchestrator.explain_follower("push") == orchestrator.explain_follower(PUSH)
        with pytest.raises(UnknownNodeError, match="no follower 'pus'; did you mean 'push'"):
            orchestrator.explain_follower("pus")
        assert [each.name for each in orchestrator.followers()] == ["push"]


def test_failed_follower_is_tried_at_once_when_a_person_says_so(world: World) -> None:
    world.push.state = RuntimeError("no network")
    world.build("raw.a", "raw.b")
    with world.orchestrator() as orchestrator:
        assert orchestrator.retry(["push"]) == (PUSH,)
        orchestrator.build()
    assert len(world.push.runs) == 2


def test_forgotten_follower_is_one_that_never_ran(world: World) -> None:
    world.build("raw.a", "raw.b")
    with world.orchestrator() as orchestrator:
        assert orchestrator.forget(["push"]) == (PUSH,)
        assert orchestrator.plan().follow == (PUSH,)


def test_adopted_follower_waits_for_the_next_change(world: World) -> None:
    with world.orchestrator() as orchestrator:
        assert orchestrator.adoption().followers == (PUSH,)
        assert orchestrator.adopt().followers == (PUSH,)
        assert orchestrator.plan().is_empty
        assert orchestrator.adopt(["raw.a"]).followers == (PUSH,)
        assert orchestrator.adopt(["stg_a"]).followers == ()
    assert world.push.runs == []
    world.build("raw.a")
    assert len(world.push.runs) == 1


def test_follower_of_what_is_loaded_meanwhile_is_not_adopted(world: World) -> None:
    with world.orchestrator() as orchestrator:
        real = orchestrator.adoption

        def slow(select: Any = ()) -> Any:
            found = real(select)
            orchestrator.record(["raw.a"])
            return found

        orchestrator.adoption = slow  # type: ignore[method-assign]
        assert orchestrator.adopt().followers == ()
        assert PUSH in orchestrator.plan().follow


def test_sources_name_what_follows_below_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(*SHOP, BOARD)))
    code = cli.main(["sources", "--manifest", str(tmp_path / "manifest.json"), "--json"])
    rows = json.loads(capsys.readouterr().out)["sources"]
    assert (code, [each["followers"] for each in rows]) == (0, [["board"], ["board"]])
    cli.main(["sources", "--manifest", str(tmp_path / "manifest.json")])
    assert "followed by" in capsys.readouterr().out


def test_double_says_what_ran_otherwise_than_expected(world: World) -> None:
    double = Followed()
    with using_double(double):
        world.build("raw.a", "raw.b")
    double.assert_ran("push")
    assert double.sources_of("push") == {"raw.a", "raw.b"}
    with pytest.raises(AssertionError, match=r"(?s)not expected:  push.*not ran:  mail.*raw.a and raw.b"):
        double.assert_ran("mail")
    double.clear()
    with pytest.raises(AssertionError, match="None ran"):
        double.assert_ran("push")


def test_time_alone_makes_what_is_held_due(world: World) -> None:
    world.declared["push"] = Following("push", ("mart",), build_after=timedelta(hours=6))
    world.build("raw.a", "raw.b")
    report = world.build("raw.a")
    assert len(world.push.runs) == 1
    assert report.next_due == world.clock.now + timedelta(hours=6)
    world.clock.now += timedelta(hours=7)
    world.build()
    assert len(world.push.runs) == 2
