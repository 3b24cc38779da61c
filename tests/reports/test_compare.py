"""What a change of the project makes stale, from two manifests; and how it is told on a pull request."""

from __future__ import annotations

from typing import Any

from lineage_orch.lineage import Lineage
from lineage_orch.plan import Estimate
from lineage_orch.reports.compare import Comparison, compare, comparison_markdown
from tests.manifests import leaf, manifest, node, source

HOURLY = {"freshness": {"build_after": {"count": 1, "period": "hour"}}}
LAGGING = {"state": {"lag_tolerance": "4h"}}
CUTOFF = {"meta": {"lineage_orch": {"cutoff": True}}}
SOURCES = [source("raw.orders"), source("raw.users")]
SAME = [node("stg_users", "raw.users"), node("users", "stg_users")]


def read(*nodes: dict[str, Any]) -> Lineage:
    return Lineage.from_manifest(manifest(*SOURCES, *SAME, *nodes))


BEFORE = read(
    node("stg_orders", "raw.orders"),
    node("eph", "stg_orders", materialized="ephemeral", raw_code="select 1"),
    node("hourly", "stg_orders", config=HOURLY),
    node("lagging", "stg_orders", config=LAGGING),
    node("mart", "eph"),
    node("old", "stg_orders"),
    leaf("exposure", "dashboard", "model.shop.mart"),
)


def told(found: Comparison) -> dict[str, str]:
    """Return each stale node with why: its own changes, or what it is downstream of."""
    return {
        found.names[each.node]: "new"
        if each.is_new
        else ", ".join(part.part for part in each.changes) or f"below {', '.join(found.names[a] for a in each.below)}"
        for each in found.stale
    }


def test_what_changed_and_all_below_is_stale_and_nothing_is_held_back() -> None:
    after = read(
        node("stg_orders", "raw.orders", checksum="other"),
        node("eph", "stg_orders", materialized="ephemeral", raw_code="select 1"),
        node("hourly", "stg_orders", config=HOURLY),
        node("lagging", "stg_orders", config=LAGGING),
        node("mart", "eph"),
        node("added", "mart"),
        leaf("exposure", "dashboard", "model.shop.mart"),
    )
    found = compare(BEFORE, after, {"model.shop.mart": 40.0})
    below = "below stg_orders"
    assert told(found) == {
        "stg_orders": "file", "hourly": below, "lagging": below, "mart": below, "added": "new"
    }  # fmt: skip
    assert found.removed == ("model.shop.old",)
    assert found.readers == ("exposure.shop.dashboard",)
    assert found.nodes == 7
    assert [each.seconds for each in found.stale if each.node == "model.shop.mart"] == [40.0]


def test_ephemeral_model_that_changed_shows_in_its_readers() -> None:
    after = read(
        node("stg_orders", "raw.orders"),
        node("eph", "stg_orders", materialized="ephemeral", raw_code="select 2"),
        node("mart", "eph"),
    )
    assert told(compare(BEFORE, after)) == {"mart": "ephemeral model.shop.eph"}


def test_new_node_above_which_nothing_is_loaded_is_stale_too() -> None:
    after = read(node("countries", kind="seed"), node("names", "seed.shop.countries"))
    assert told(compare(read(), after)) == {"countries": "new", "names": "new"}


def test_what_may_come_out_the_same_makes_what_is_below_perhaps_stale() -> None:
    def project(code: str) -> Lineage:
        return read(
            node("stg_orders", "raw.orders", checksum=code),
            node("kept", "stg_orders", config=CUTOFF),
            node("mart", "kept"),
        )

    found = compare(project("a"), project("b"))
    assert [(each.node.rpartition(".")[2], each.perhaps) for each in found.stale] == [
        ("stg_orders", False), ("kept", False), ("mart", True)
    ]  # fmt: skip
    assert "| `mart` | perhaps: downstream of `stg_orders` |" in comparison_markdown(found)


def test_nothing_is_stale_of_the_same_project() -> None:
    found = compare(BEFORE, BEFORE)
    assert found.stale == found.removed == found.readers == ()
    assert comparison_markdown(found) == "### This change makes nothing stale\n"
    assert found.to_dict()["stale"] == []


def test_comment_for_a_pull_request() -> None:
    after = read(
        node("stg_orders", "raw.orders", checksum="other"),
        node("mart", "stg_orders"),
        leaf("exposure", "dashboard", "model.shop.mart"),
    )
    found = compare(BEFORE, after, {"model.shop.stg_orders": 20.0, "model.shop.mart": 100.0})
    assert comparison_markdown(found, Estimate(2, 1, 120.0, 4), note="a <note>") == (
        "### This change makes 2 of 4 nodes stale, about 2 min\n\n"
        "| node | why | time |\n|---|---|---:|\n"
        "| `stg_orders` | its file changed | 20 s |\n"
        "| `mart` | ephemeral model `eph` is no longer a part of it | 2 min |\n\n"
        "Read by 1 exposure: `dashboard`.\n\n"
        "Gone from the project, and still in the warehouse: `hourly`, `lagging`, `old`.\n\n"
        "Time: the medians of the last builds, tests included, on 4 threads; 1 node was never timed, and count as the "
        "median.\na &lt;note&gt;\n"
    )


def test_many_rows_are_folded_and_then_counted() -> None:
    def project(code: str) -> Lineage:
        return read(*(node(f"m{each:03}", "raw.orders", checksum=code) for each in range(230)))

    text = comparison_markdown(compare(project("a"), project("b")))
    assert "<details><summary>Which</summary>\n\n| node | why |\n" in text
    assert text.count("its file changed") == 200
    assert "\n\nand 30 more\n\n</details>" in text
    assert len(text) < 65_536


def test_names_are_text_in_markdown_whatever_they_hold() -> None:
    def project(code: str) -> Lineage:
        return read(
            node("<img src=x onerror=alert(1)>", "raw.orders", checksum=code),
            node("a`b`` | *c* [d](e)", "raw.orders", checksum=code),
        )

    text = comparison_markdown(compare(project("a"), project("b")))
    assert "| `<img src=x onerror=alert(1)>` |" in text
    assert "| ``` a`b`` \\| *c* [d](e) ``` |" in text
