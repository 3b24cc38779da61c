"""The lineage page: what it says, that it says the same as the rest, and that names in it are text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import pytest

from lineage_orch.ledger import Failure, History, LedgerSnapshot, NodeFact
from lineage_orch.ledger.snapshot import Built, Failed, Load
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.policy import Promise
from lineage_orch.plan import plan_builds
from lineage_orch.reports.activity import activity, daily
from lineage_orch.reports.freshness import Promised
from lineage_orch.reports.looks import LOOKS
from lineage_orch.reports.page import KINDS, Page, ProducerNews, read_page, with_news, with_promises
from lineage_orch.reports.page_file import page_html
from lineage_orch.reports.picture import folded, folders_of, picture, slots, timeline
from lineage_orch.reports.status import NodeState, Status, status
from tests.manifests import leaf, manifest, node, source

NOW = datetime(2026, 10, 16, 13, 0, tzinfo=UTC)
HOURLY = {"freshness": {"build_after": {"count": 1, "period": "hour"}}}
EVIL = "<img src=x onerror=alert(1)>"
CLOSING = "</script></template><!--"

LINEAGE = Lineage.from_manifest(
    manifest(
        source("raw.orders"),
        source("raw.users"),
        source("raw.old"),
        node("stg_orders", "raw.orders", folder=["staging"], config={"tags": ["daily", "core"]}),
        node("eph", "stg_orders", materialized="ephemeral", folder=["marts"]),
        node("mart", "eph", folder=["marts"], version=2),
        node("hourly", "stg_orders", config=HOURLY, folder=["marts"]),
        node("broken", "stg_orders", folder=["marts"]),
        node("below", "broken", folder=["marts"]),
        node("stg_users", "raw.users", folder=["staging"]),
        node("countries", kind="seed"),
        node("test_orders", "stg_orders", kind="test"),
        leaf("exposure", "dashboard", "model.shop.mart.v2"),
    )
)
SNAPSHOT = LedgerSnapshot(
    tick=9,
    sources={"source.shop.raw.orders": 8, "source.shop.raw.users": 3},
    nodes={
        "model.shop.stg_orders": NodeFact(9, NOW),
        "model.shop.hourly": NodeFact(4, NOW),
        "model.shop.broken": NodeFact(4, NOW),
        "model.shop.below": NodeFact(4, NOW),
        "model.shop.stg_users": NodeFact(4, NOW),
    },
    producers=frozenset({"source.shop.raw.orders"}),
    failures={"model.shop.broken": Failure(2, NOW, NOW, 9, None, "Binder Error: no column x")},
    loaded_at={"source.shop.raw.orders": NOW - timedelta(hours=1)},
)
HISTORY = History(
    loads=[
        Load(1, "source.shop.raw.users", NOW - timedelta(days=3), None, True, update_id="a"),
        Load(5, "source.shop.raw.orders", NOW - timedelta(days=2), "load_orders", False, update_id="b"),
        Load(6, "source.shop.raw.orders", NOW - timedelta(hours=3), "load_orders", False, update_id="c"),
        Load(7, "source.shop.raw.users", NOW - timedelta(hours=2), "load_users", False, unchanged=True, update_id="d"),
        Load(8, "source.shop.raw.orders", NOW - timedelta(hours=1), "load_orders", False, update_id="e"),
    ],
    begun={4: NOW - timedelta(days=2, hours=1), 9: NOW - timedelta(minutes=30)},
    built=[
        Built(4, "model.shop.hourly", NOW - timedelta(days=2, hours=1), None, True),
        Built(9, "model.shop.stg_orders", NOW - timedelta(minutes=29), 12.5, False),
    ],
    failed=[Failed(9, "model.shop.broken", NOW - timedelta(minutes=28), 2, "Binder Error:\n no column x")],
)
PRODUCERS = {"source.shop.raw.orders": ["load_orders"], "raw.gone": ["load_gone"]}


def state_of(lineage: Lineage = LINEAGE, snapshot: LedgerSnapshot = SNAPSHOT) -> tuple[Page, Status]:
    plan = plan_builds(lineage, snapshot, now=NOW)
    found = status(lineage, snapshot, plan, None)
    page = read_page(
        lineage,
        snapshot,
        plan,
        found,
        HISTORY,
        title="shop (dev)",
        producers=PRODUCERS,
        since=NOW - timedelta(days=14),
        now=NOW,
        medians={"model.shop.stg_orders": 12.5},
    )
    return page, found


PAGE, STATUS = state_of()


def data_of(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


# What it says -------------------------------------------------------------------------------------------------


def test_states_are_those_of_status() -> None:
    said = {row["unique_id"]: row["state"] for row in STATUS.to_dict()["nodes"]}
    assert {each.key: each.state for each in PAGE.items if each.key in said} == said
    assert {each.name: each.state for each in PAGE.items if each.kind == "source"} == {
        "raw.orders": "loaded",
        "raw.users": "loaded",
        "raw.old": "no_producer",
    }
    assert sum(PAGE.states.values()) == len(said) + 3
    assert next(iter(PAGE.states)) == "failing"


def test_source_with_a_producer_that_was_never_loaded() -> None:
    page, _ = state_of(snapshot=LedgerSnapshot(producers=frozenset({"source.shop.raw.orders"})))
    assert next(each for each in page.items if each.name == "raw.orders").caption == "source · never loaded"


def test_what_is_downstream_is_what_the_lineage_says() -> None:
    keys = [each.key for each in PAGE.items]
    children: dict[str, list[str]] = {each: [] for each in keys}
    for a, b in PAGE.edges:
        children[keys[a]].append(keys[b])
    for unique_id in LINEAGE.sources:
        below, walk = set(), list(children[unique_id])
        for each in walk:
            below.add(each)
            walk += children[each]
        assert below == {each for each in LINEAGE.downstream(unique_id) if not each.startswith("test.")}


def test_hover_says_why_in_the_words_of_explain() -> None:
    items = {each.name: each for each in PAGE.items}
    assert items["mart.v2"].lines[0].startswith("mart.v2 will build: it was never built, and ")
    assert any("2 times in a row since 13:00 UTC (Binder Error: no column x)" in each for each in items["broken"].lines)
    assert any(each == "Policy: updates_on any, build_after 1 hour" for each in items["hourly"].lines)
    assert items["stg_orders"].lines[-1] == "Last built 2026-10-16 13:00 UTC, in 12.5 s."
    assert not any(line.startswith("Path:") for each in PAGE.items for line in each.lines)
    assert items["raw.orders"].lines == (
        "Last loaded 2026-10-16 12:00 UTC, at tick 8.",
        "Loaded by load_orders.",
        "6 models downstream.",
    )
    assert items["load_orders"].lines == ("Loads raw.orders.", "Last load 2026-10-16 12:00 UTC.")
    assert "load_gone" not in items


def test_producer_says_when_it_runs_and_that_its_last_run_failed() -> None:
    news = {
        "load_orders": ProducerNews("0 6 * * *", ("Last run fox: Failed at 06:00 UTC: no such host",), has_failed=True),
        "raw.orders": ProducerNews("never", (), has_failed=True),
    }
    page = with_news(PAGE, news)
    items = {each.name: each for each in page.items}
    assert items["load_orders"].caption == "producer · 0 6 * * * · last run failed"
    assert items["load_orders"].lines == (
        "Loads raw.orders.",
        "Last load 2026-10-16 12:00 UTC.",
        "Last run fox: Failed at 06:00 UTC: no such host",
    )
    assert items["raw.orders"].state == "loaded"
    assert next(iter(page.states)) == "load_failed"
    assert 's-load_failed t-bad"' in picture(page)


def late(unique_id: str, name: str, kind: Literal["source", "build"], by: timedelta | None) -> Promised:
    return Promised(
        unique_id, name, kind, "error" if by else "fresh", NOW - timedelta(hours=3), timedelta(hours=3),
        Promise(error_after=timedelta(hours=2)), by, ("source.shop.raw.orders",) if kind == "build" else (),
        will_be_late_by=None if by else timedelta(minutes=10),
    )  # fmt: skip


LATE = with_promises(
    PAGE,
    [
        late("model.shop.broken", "broken", "build", timedelta(hours=1)),
        late("source.shop.raw.users", "raw.users", "source", timedelta(hours=1)),
        late("model.shop.hourly", "hourly", "build", None),
    ],
)


def test_what_is_late_is_marked_beside_its_state() -> None:
    items = {each.name: each for each in LATE.items}
    assert {each.name for each in LATE.items if each.marks == ("late",)} == {"broken", "raw.users"}
    assert [each.state for each in LATE.items] == [each.state for each in PAGE.items]
    assert items["broken"].caption == "model · failing · late by 60 min"
    assert items["broken"].lines[0] == (
        "Late: broken has not taken in a load of raw.orders that is 3.0 h old, and it promises to in 2 hours."
    )
    assert items["raw.users"].caption == "source · loaded · late by 60 min"
    assert items["hourly"].lines[-1] == "Promise: will be late by 10 min; has not taken in raw.orders."
    assert LATE.states == {**PAGE.states, "late": 2}
    assert list(LATE.states)[:2] == ["failing", "late"]
    assert picture(LATE).count('class="s-late t-bad"') == 2
    (folders, *_) = folded(LATE)
    assert 'class="n k-folder s-late t-bad"' in folders.svg


def test_folders_tags_kinds_and_selectors() -> None:
    items = {each.name: each for each in PAGE.items}
    assert items["mart.v2"].folder == items["eph"].folder == ("shop", "marts")
    assert items["stg_orders"].tags == ("daily", "core")
    assert [items[name].kind for name in ("eph", "dashboard", "countries")] == ["ephemeral", "exposure", "seed"]
    assert items["raw.orders"].select == "--select source:shop.raw.orders+"
    assert items["stg_orders"].select == "--select fqn:shop.staging.stg_orders+"
    assert items["dashboard"].select == ""
    assert [KINDS.index(each.kind) for each in PAGE.items] == sorted(KINDS.index(each.kind) for each in PAGE.items)


def test_events_say_what_was_taken_in_and_what_came_out_the_same() -> None:
    shared = "and shared the build at tick 9 with an earlier load"
    assert [(each.kind, each.line, each.spared) for each in PAGE.events] == [
        ("build", "1 node built at tick 4: hourly", 0),
        ("load", "raw.orders was loaded by load_orders, at tick 5", 0),
        ("load", f"raw.orders was loaded by load_orders, at tick 6, {shared}", 1),
        ("load", "raw.users was loaded by load_users, at tick 7, and brought nothing new", 1),
        ("load", f"raw.orders was loaded by load_orders, at tick 8, {shared}", 1),
        ("build", "1 node built at tick 9 in 60 s, after 3 loads of raw.orders: stg_orders; 1 came out the same", 1),
        ("failure", "broken failed: Binder Error: no column x", 0),
    ]


def test_timeline_has_a_bar_for_what_is_near_hollow_where_it_led_to_no_build() -> None:
    found = slots(PAGE)
    assert [(each.kind, len(each.events)) for each in found] == [
        ("load", 1), ("load", 1), ("load", 1), ("load", 1), ("build", 1), ("build", 1), ("failure", 1),
    ]  # fmt: skip
    drawn = ET.fromstring(timeline(PAGE, found))
    rects = [each.get("class", "") for each in drawn.iter("rect")]
    assert sum(each.startswith("m ") for each in rects) == 7 + 2
    assert [each for each in rects if each.startswith("h ")] == ["h h-load"] * 3 + ["h h-build"] + ["h h-time"] * 2
    assert [int(each.get("data-m", "")) for each in drawn.iter("rect") if each.get("data-m")] == [*range(8), 9]
    assert "Oct 15" in [each.text for each in drawn.iter("text")]
    assert data_of(page_html(PAGE))["slots"][9] == [
        "2026-10-16",
        "3 loads, 1 with nothing new, 2 that shared a build",
        "1 node built, 1 of them as before; 1 failed",
        "12 s of dbt; one command per load: 2 min",
    ]


def test_days_add_up_to_what_the_report_says() -> None:
    since = NOW - timedelta(days=14)
    medians = {"model.shop.stg_orders": 12.5, "model.shop.hourly": 4.0}
    of_all = activity(LINEAGE, HISTORY, medians, since, NOW)
    days = daily(LINEAGE, HISTORY, medians, since, NOW)
    assert [each.date for each in days] == [(since + timedelta(days=each)).date() for each in range(15)]
    for name in ("loads", "unchanged", "coalesced", "built", "cut_off", "failed", "seconds", "seconds_by_load"):
        assert sum(getattr(each, name) for each in days) == getattr(of_all, name), name
    assert (of_all.loads, of_all.unchanged, of_all.coalesced, of_all.cut_off) == (4, 1, 2, 1)


def test_every_state_has_a_look_of_its_own() -> None:
    states = {*get_args(NodeState), "loaded", "never_loaded", "no_producer", "paused", "load_failed", "late"}
    assert set(LOOKS) == states
    shapes = [(each.mark, each.is_filled) for each in LOOKS.values()]
    words = [each.words for each in LOOKS.values()]
    assert len(set(shapes)) == len(shapes)
    assert len(set(words)) == len(words)


# Names are text -----------------------------------------------------------------------------------------------


def evil_page() -> Page:
    lineage = Lineage.from_manifest(
        manifest(
            source(f"{EVIL}/{CLOSING}"),
            node(EVIL, f"source.shop.{EVIL}.{CLOSING}", folder=[EVIL], config={"tags": [EVIL]}),
            leaf("exposure", CLOSING, f"model.shop.{EVIL}"),
        )
    )
    plan = plan_builds(lineage, LedgerSnapshot(), now=NOW)
    history = History(loads=[Load(1, EVIL, NOW, CLOSING, False)], failed=[Failed(1, EVIL, NOW, 1, EVIL + CLOSING)])
    return read_page(
        lineage, LedgerSnapshot(), plan, status(lineage, LedgerSnapshot(), plan, None), history, title=EVIL,
        producers={next(iter(lineage.sources)): [EVIL]}, since=NOW - timedelta(days=1), now=NOW, medians={},
    )  # fmt: skip


def test_names_are_escaped_in_the_page_and_in_the_picture() -> None:
    page = evil_page()
    html = page_html(page)
    assert "<img" not in html
    assert html.count("</script>") == 2
    assert html.count("<!--") == 0
    assert EVIL in [each["name"] for each in data_of(html)["items"]]
    drawn = ET.fromstring(picture(page))
    assert {each.tag.rpartition("}")[2] for each in drawn.iter()} <= {
        "svg",
        "style",
        "g",
        "path",
        "rect",
        "text",
        "title",
    }
    assert any(EVIL in (each.text or "") for each in drawn.iter())


@pytest.mark.parametrize("name", ["", "\x00\x07", "a" * 300, "数据模型", "𝒜 b", "\"quoted\" 'too'"])
def test_odd_names_make_well_formed_pictures(name: str) -> None:
    page, _ = state_of(Lineage.from_manifest(manifest(source("raw.orders"), node(name or "x", "raw.orders"))))
    ET.fromstring(picture(page))


def test_policy_allows_the_one_script_and_style_and_no_request() -> None:
    html = page_html(PAGE)
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert found
    style, script = re.search(r"<style>(.*?)</style>", html, re.S), re.search(r"<script>(.*?)</script>", html, re.S)
    assert style
    assert script
    assert found[1].startswith("default-src 'none'; ")
    for text in (style[1], script[1]):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in found[1]
    assert not re.search(r"\b(src|href)=|url\(|https?://(?!www\.w3\.org)", html)


# Drawings -----------------------------------------------------------------------------------------------------


def test_picture_has_each_item_and_edge_once() -> None:
    drawn = ET.fromstring(picture(PAGE))
    groups = [each for each in drawn.iter() if (each.get("class") or "").startswith("n ")]
    assert sorted(each.get("data-k", "") for each in groups) == sorted(str(each) for each in range(len(PAGE.items)))
    edges = [each for each in drawn.iter() if each.get("class") == "e"]
    assert {(each.get("data-a"), each.get("data-b")) for each in edges} == {(str(a), str(b)) for a, b in PAGE.edges}
    for group in groups:
        item = PAGE.items[int(group.get("data-k", ""))]
        assert (f"s-{item.state}" in group.get("class", "").split()) is bool(item.state)
    assert picture(PAGE) == picture(state_of()[0])


def many(folders: int, each: int) -> Page:
    """A page of so many folders, each with so many models; two of three read a source, the others the one before."""
    nodes = [
        node(
            f"m{folder}_{number}",
            "raw.orders" if number % 3 or not number else f"m{folder}_{number - 1}",
            folder=["marts", f"f{folder}"],
        )
        for folder in range(folders)
        for number in range(each)
    ]
    return state_of(Lineage.from_manifest(manifest(source("raw.orders"), source("raw.users"), *nodes)))[0]


def test_many_are_folded_by_folder_and_each_folder_can_be_opened() -> None:
    page = many(28, 30)
    views = list(folded(page))
    assert [each.title for each in views[:2]] == ["Folders", "producers"]
    names = sorted(set(folders_of(page)))
    assert [each.folder for each in views[1:]] == list(range(len(names)))
    opened = next(each for each in views if each.title == "shop/marts/f7")
    assert opened.svg.count('<g class="n k-model') == 30
    assert opened.svg.count('<g class="n k-folder') == 1  # the sources
    html = page_html(page)
    assert not data_of(html)["views"][0]["all"]
    assert html.count("<template ") == len(views)


def test_there_are_never_too_many_folders() -> None:
    page = many(300, 1)
    assert set(folders_of(page)) == {("producers",), ("shop", "marts"), ("shop", "sources", "raw")}


def test_folders_that_read_each_other_are_drawn() -> None:
    page, _ = state_of(
        Lineage.from_manifest(
            manifest(
                source("raw.orders"),
                node("a1", "raw.orders", folder=["a"]),
                node("b1", "a1", folder=["b"]),
                node("a2", "b1", folder=["a"]),
            )
        )
    )
    first, *_ = folded(page)
    assert first.svg.count('class="e back"') == 1


def test_small_project_has_one_drawing() -> None:
    assert [each["all"] for each in data_of(page_html(PAGE))["views"]] == [True]
