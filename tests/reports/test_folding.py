"""What many rows have in common is said once, with their number: tables of 700 models can be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lineage_orch.ledger import Pause
from lineage_orch.lineage import Lineage
from lineage_orch.plan import Held, plan_builds
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.reports.history import Event
from lineage_orch.reports.tables import Table, history_parts, plan_parts, report_parts
from lineage_orch.reports.wording import pauses_line
from tests.manifests import manifest, node, source
from tests.plan.test_plan import ledger

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
MANY = [f"model.shop.m{number}" for number in range(675)]


def rows(parts: list[str | Table], title: str) -> list[list[str]]:
    (table,) = (each for each in parts if isinstance(each, Table) and each.title.startswith(title))
    return [list(row) for row in table.rows]


def test_report_of_a_large_build_is_short() -> None:
    report = BuildReport(built=MANY[:500], failed={MANY[500]: "no"})
    report.held = {each: Held("failed", (MANY[500 + number % 7],)) for number, each in enumerate(MANY[501:])}
    parts = report_parts(report, {}, NOW)
    (built,) = (each for each in parts if isinstance(each, str) and each.startswith("Built: "))
    assert built.endswith(", m19 and 480 more")
    assert rows(parts, "Held: 174 nodes") == [["174: m501, m502, m503 and 171 more", "-", "waits for what failed"]]


def test_few_held_nodes_are_told_one_by_one() -> None:
    report = BuildReport(held={each: Held("failed", (MANY[9],)) for each in MANY[:3]})
    assert rows(report_parts(report, {}, NOW), "Held")[0] == ["m0", "-", "waits for m9, which failed"]


def test_history_folds_a_run_and_a_burst_of_loads() -> None:
    done = [Event(NOW, 400, "built", each, "build 1") for each in MANY[:385]]
    loads = [
        Event(NOW - timedelta(minutes=number), 399 - number, "loaded", f"source.shop.raw.t{number}", "crm")
        for number in range(385)
    ]
    assert rows(history_parts([*done, *loads], {}), "History") == [
        ["2026-03-02 12:00 UTC", "400", "built", "385: m0, m1, m2 and 382 more", "build 1", ""],
        ["2026-03-02 12:00 UTC", "15-399", "loaded", "385: raw.t0, raw.t1, raw.t2 and 382 more", "crm", ""],
    ]
    of_one = [Event(NOW, number, "loaded", "source.shop.raw.t", "crm") for number in range(99)]
    assert len(rows(history_parts(of_one, {}), "History")) == 99


def test_plan_shows_a_command_that_can_be_read() -> None:
    resources = [source("raw.a"), source("raw.b")]
    resources += [node(f"m{number}", "raw.a", *(["raw.b"] if number % 2 else [])) for number in range(60)]
    lineage = Lineage.from_manifest(manifest(*resources))
    plan = plan_builds(lineage, ledger(loads={"raw.a": 5, "raw.b": 1}, builds={"m1": 6}), now=NOW)
    assert len(plan.select) > 20
    line = next(each for each in plan_parts(plan, {}, NOW, "build") if str(each).startswith("dbt build"))
    assert str(line).endswith(f" and {len(plan.select) - 3} more selectors; --json has all.")


def test_pauses_alike_are_told_together() -> None:
    pauses = {f"source.shop.crm.t{number}": Pause(NOW) for number in range(385)} | {"*": Pause(NOW, reason="moving")}
    line = pauses_line(pauses, {}, NOW)
    assert line is not None
    assert line.startswith("Paused: all nodes since 12:00 UTC (moving); crm.t0, ")
    assert "and 377 more since 12:00 UTC" in line
