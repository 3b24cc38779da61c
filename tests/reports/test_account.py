"""What one run did, and how it is shown as Markdown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from lineage_orch.ledger import LedgerSnapshot, Load, NodeFact
from lineage_orch.lineage import Lineage
from lineage_orch.plan import Held
from lineage_orch.reports.account import Account, account, loads_wanted
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.reports.markdown import LONGEST, account_markdown, escaped, load_rows
from lineage_orch.reports.status import short_names
from tests.manifests import manifest, node, source

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
A, B = "source.shop.raw.a", "source.shop.raw.b"
STG, MART, OTHER, NEW = (f"model.shop.{name}" for name in ("stg", "mart", "other", "new"))
# raw.a -> stg -> mart; raw.a -> new; raw.b -> other
SHOP = Lineage.from_manifest(
    manifest(
        source("raw.a"),
        source("raw.b"),
        node("stg", "raw.a"),
        node("mart", "stg"),
        node("other", "raw.b"),
        node("new", "raw.a"),
    )
)
RUN = "11111111-2222-3333-4444-555555555555"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def load(tick: int, source: str, seconds: float, *, unchanged: bool = False, producer: str = "export") -> Load:
    return Load(tick, source, at(seconds), producer, False, unchanged, str(tick), RUN)


BEFORE = LedgerSnapshot(6, {A: 1, B: 2}, {STG: NodeFact(3, NOON), MART: NodeFact(3, NOON), OTHER: NodeFact(5, NOON)})
# Three loads of a, of which one brought nothing new; then all below it is built at tick 11, and another load comes.
AFTER = LedgerSnapshot(
    12,
    {A: 12, B: 2},
    {
        STG: NodeFact(11, at(70), changed=3, seconds=4.0),
        MART: NodeFact(11, at(90), seconds=16.0),
        NEW: NodeFact(11, at(80)),
        OTHER: NodeFact(5, NOON),
    },
)
LOADS = {A: [load(12, A, 85), load(9, A, 50), load(8, A, 40, unchanged=True), load(7, A, 30), load(1, A, 0)]}
REPORT = BuildReport(built=[STG, NEW, MART], unchanged=[STG], runs=1)


def made(report: BuildReport = REPORT) -> Account:
    medians = {STG: 4.0, MART: 16.0}
    return account(SHOP, BEFORE, AFTER, report, LOADS, medians, since=at(60), until=at(100))


def test_loads_that_nodes_took_in_are_asked_for() -> None:
    assert loads_wanted(SHOP, BEFORE, AFTER, [STG, MART]) == {A: 3}
    assert loads_wanted(SHOP, BEFORE, AFTER, [NEW]) == {A: 11}, "the newest alone, of what was never built"
    assert loads_wanted(SHOP, BEFORE, AFTER, [OTHER, "model.shop.gone"]) == {}


def test_each_mart_waited_since_the_oldest_load_that_it_took_in() -> None:
    found = made()
    assert [load.tick for load in found.loads] == [9, 8, 7, 1], "and not what came while it built"
    waited = {row.unique_id: row.after for row in found.built}
    assert waited == {STG: None, NEW: timedelta(seconds=30), MART: timedelta(seconds=60)}
    assert [row.is_unchanged for row in found.built] == [True, False, False]
    assert found.not_affected == (OTHER,)
    assert found.compared is not None
    # One command for each of four loads, three nodes each; the one never timed counts as the others do.
    assert (found.compared.builds_by_load, found.compared.seconds_by_load) == (12, 120.0)
    assert (found.compared.built, found.compared.seconds) == (3, 20.0)


def test_run_for_no_load_is_compared_with_nothing() -> None:
    found = account(SHOP, BEFORE, AFTER, REPORT, {}, {}, since=NOON, until=NOON)
    assert found.compared is None
    text = account_markdown(found, short_names(SHOP), lambda _: None, NOON)
    assert "No load led to this" in text
    assert "Not affected" not in text


def test_all_of_it_is_in_the_markdown() -> None:
    report = replace(
        REPORT,
        failed={"test.shop.not_null_mart.abc": "Got 3 results\nconfigured to fail if != 0"},
        failing={OTHER: "Binder Error"},
        held={
            NEW: Held("lag_tolerance", until=at(3600)),
            OTHER: Held("failing", until=at(300)),
        },
        unchanged_upstream=[OTHER],
        more=[MART],
        followed=["exposure.shop.dashboard"],
        follow_failed={"exposure.shop.dashboard": "it crashed"},
        seconds=20.4,
        expected=30.0,
    )
    text = account_markdown(made(report), short_names(SHOP), lambda run: f"https://ui/{run}", NOON)
    assert text.startswith("# Built 3 nodes, 1 not built: unchanged upstream, 1 failed (not\\_null\\_mart)")
    for line in (
        "**From load to mart:** 30 s to 1 min.",
        f"| raw.a | 2026-11-24 12:00 UTC | export | [11111111](<https://ui/{RUN}>) | yes |",
        f"| raw.a | 2026-11-24 12:00 UTC | export | [11111111](<https://ui/{RUN}>) | nothing new |",
        "| stg | 4.0 s | - | came out as before |",
        "| new | - | 30 s |  |",
        "| mart | 16.0 s | 1 min |  |",
        "| not\\_null\\_mart | Got 3 results configured to fail if != 0 |",
        "| other | Binder Error |",
        "| new | 13:00 UTC (in 1 h) | state.lag\\_tolerance |",
        "**Not built, since what they read came out as before** (1): other.",
        "**Stale again by what was loaded meanwhile** (1): mart.",
        "**Not affected by these loads** (1): other.",
        "**Followers started** (1): dashboard.",
        "| dashboard | it crashed |",
    ):
        assert line in text.splitlines(), line
    assert "3 nodes built in 20 s; one dbt command per load would have built 12 in about 2 min." in text


def test_names_and_messages_of_others_are_text() -> None:
    evil = "<img src=x onerror=alert(1)> | [x](javascript:1) `code` **b**\n# title https://a.b"
    text = escaped(evil)
    assert "\n" not in text
    assert "<" not in text.replace("&lt;", "")
    assert "&lt;img src=x onerror=alert(1)&gt; \\| \\[x\\](javascript:1) \\`code\\` \\*\\*b\\*\\* # title" in text
    producer = load(9, A, 50, producer=evil)
    found = replace(made(), loads=(producer,), report=replace(REPORT, failed={MART: evil}))
    shown = account_markdown(found, {MART: evil, A: evil}, lambda _: None, NOON)
    assert "<img" not in shown
    assert all(line.count(" | ") == 4 for line in shown.splitlines() if line.startswith("| ") and "2026" in line)


def test_markdown_is_as_long_as_a_server_takes() -> None:
    failed = {f"model.shop.{'long' * 60}_{number}": "why" * 200 for number in range(5000)}
    found = replace(made(), report=replace(REPORT, failed=failed), not_affected=tuple(failed))
    text = account_markdown(found, {}, lambda _: None, NOON)
    assert "and 4900 more." in text
    assert len(text.encode()) <= LONGEST
    short = account_markdown(found, {}, lambda _: None, NOON, longest=20_000)
    assert "and 4990 more." in short
    assert len(account_markdown(found, {}, lambda _: None, NOON, longest=1000).encode()) <= 1000


def test_last_loads_are_rows() -> None:
    first, second = load_rows([load(9, A, 50), Load(1, A, NOON, None, True)], lambda run: f"https://ui/{run}")
    assert first == {
        "loaded": "2026-11-24 12:00 UTC",
        "by": "export",
        "flow run": f"https://ui/{RUN}",
        "news": "yes",
        "tick": 9,
    }
    assert (second["by"], second["flow run"], second["news"]) == ("-", "-", "adopted")
