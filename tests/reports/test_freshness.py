"""How promises are kept: what is late, by how much, and what of it is told."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.deployed.lateness import telling
from lineage_orch.errors import DbtError
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.policy import Promise
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.reports import tables
from lineage_orch.reports.freshness import FreshnessReport, FreshnessState, Promised, lateness
from lineage_orch.reports.wording import late_line, recovered_line
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import SourceUpdate
from tests.manifests import manifest, node, source

START = datetime(2026, 11, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)
A, B = "source.shop.raw.a", "source.shop.raw.b"
STG, MART, HELD = "model.shop.stg", "model.shop.mart", "model.shop.held"
DAILY = {"warn_after": {"count": 12, "period": "hour"}, "error_after": {"count": 1, "period": "day"}}
# raw.a -> stg -> mart (2 h); raw.b -> held (4 h, and waits 8 h)
SHOP = (
    source("raw.a", config={"freshness": DAILY}),
    source("raw.b"),
    node("stg", "raw.a"),
    node("mart", "stg", config={"meta": {"lineage_orch": {"late_after": "2h"}}}),
    node("held", "raw.b", config={"state": {"lag_tolerance": "8h"}, "meta": {"lineage_orch": {"late_after": "4h"}}}),
)


class Clock:
    now = START

    def __call__(self) -> datetime:
        return self.now


Opened = tuple[Orchestrator, FakeDbt, Clock]


@pytest.fixture(autouse=True)
def no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events go nowhere: emitting would start a server."""
    monkeypatch.setattr("lineage_orch.deployed.run_events.emit_event", lambda *_, **__: None)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Opened]:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb, threads: 1}}}\n")

    def make(*resources: dict[str, Any]) -> Opened:
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps(manifest(*(resources or SHOP))))
        dbt, clock = FakeDbt(lambda: Lineage.from_manifest(path)), Clock()
        return Orchestrator(project_dir=tmp_path, manifest=path, dbt=dbt, clock=clock, ledger="sqlite://"), dbt, clock

    return make


def states(report: FreshnessReport) -> dict[str, FreshnessState]:
    return {row.unique_id: row.state for row in report.rows}


def of(report: FreshnessReport, unique_id: str) -> Promised:
    (row,) = report.only([unique_id]).rows
    return row


def test_source_is_late_when_nothing_is_loaded_and_build_when_nothing_is_built(make: Callable[..., Opened]) -> None:
    orchestrator, dbt, clock = make()
    # Nothing was loaded yet: of a source that is not known, and nothing waits.
    assert states(orchestrator.freshness()) == {A: "unknown", MART: "fresh", HELD: "fresh"}
    assert orchestrator.freshness().next_deadline is None
    orchestrator.record(["raw.a"])
    dbt.failing = {MART}
    orchestrator.build()
    clock.now += 2 * HOUR
    report = orchestrator.freshness()
    assert report.ok
    assert of(report, MART).age == 2 * HOUR
    assert report.next_deadline == clock.now, "so old it may be, and no older"

    clock.now += HOUR
    report = orchestrator.freshness()
    mart = of(report, MART)
    assert (mart.state, mart.since, mart.age, mart.late_by) == ("error", START, 3 * HOUR, HOUR)
    assert mart.waits_for == (A,)
    assert of(report, A).state == "fresh"
    assert not report.ok
    assert report.next_deadline == START + 12 * HOUR

    dbt.failing = set()
    orchestrator.retry()
    orchestrator.build()
    clock.now = START + 13 * HOUR
    report = orchestrator.freshness()
    assert states(report) == {A: "warn", MART: "fresh", HELD: "fresh"}, "it has all that came"
    assert of(report, A).late_by == HOUR
    assert report.ok, "a warning fails no check"
    assert report.next_deadline == START + 24 * HOUR
    assert of(report, MART).age == timedelta(0)


def test_load_that_parent_took_in_and_node_did_not_is_its_age(make: Callable[..., Opened]) -> None:
    orchestrator, dbt, clock = make()
    orchestrator.record(["raw.a"])
    orchestrator.build()
    clock.now += HOUR
    orchestrator.record(["raw.a"])
    dbt.failing = {MART}
    for _ in range(3):
        orchestrator.build()
        clock.now += HOUR
    assert of(orchestrator.freshness(), MART).since == START + HOUR


def test_baseline_is_no_load_of_a_known_time(make: Callable[..., Opened]) -> None:
    orchestrator, _, clock = make()
    orchestrator.adopt()
    clock.now += 100 * HOUR
    assert states(orchestrator.freshness()) == {A: "unknown", MART: "fresh", HELD: "fresh"}


def test_new_code_without_a_load_makes_nothing_late(make: Callable[..., Opened]) -> None:
    orchestrator, _, clock = make()
    orchestrator.record(["raw.a"])
    orchestrator.build()
    make(*SHOP[:3], node("mart", "stg", checksum="new", config={"meta": {"lineage_orch": {"late_after": "2h"}}}))
    clock.now += 9 * HOUR
    assert orchestrator.plan().build == (MART,)
    assert of(orchestrator.freshness(), MART).state == "fresh"


def test_what_will_be_late_is_foreseen(make: Callable[..., Opened]) -> None:
    orchestrator, dbt, clock = make()
    dbt.seconds = {STG: 1200.0, MART: 600.0}
    orchestrator.record(["raw.a", "raw.b"])
    orchestrator.build()
    orchestrator.record(["raw.a", "raw.b"])
    clock.now += HOUR * 1.75
    report = orchestrator.freshness()
    mart, held = of(report, MART), of(report, HELD)
    # It is to be built now, after its parent: 30 minutes, of which 15 are left.
    assert (mart.state, mart.expected_at) == ("fresh", clock.now + HOUR / 2)
    assert mart.will_be_late_by == HOUR / 4
    # Held for 8 hours, and how long it takes is not known.
    assert (held.expected_at, held.will_be_late_by) == (START + 8 * HOUR, 4 * HOUR)
    names = {MART: "mart", HELD: "held", A: "raw.a", B: "raw.b"}
    shown = tables.freshness_parts(report, report, names)
    assert isinstance(shown[0], tables.Table)
    assert list(map(list, shown[0].rows)) == [
        ["raw.a", "its data", "fresh", "1.8 h", "12 hours / 1 day", ""],
        ["held", "its build", "fresh", "1.8 h", "4 hours", "will be late by 4.0 h; has not taken in raw.b"],
        ["mart", "its build", "fresh", "1.8 h", "2 hours", "will be late by 15 min; has not taken in raw.a"],
    ]
    assert shown[1:] == ["3 promises: 3 fresh."]
    data = report.to_dict()
    assert data["promises"][2] == {
        "unique_id": MART,
        "name": "mart",
        "kind": "build",
        "state": "fresh",
        "since": START.isoformat(),
        "age": 6300.0,
        "warn_after": None,
        "error_after": 7200.0,
        "late_by": None,
        "waits_for": [A],
        "expected_at": "2026-11-23T02:15:00+00:00",
        "will_be_late_by": 900.0,
    }


def test_project_that_promises_nothing_reads_no_ledger(make: Callable[..., Opened]) -> None:
    orchestrator, _, _ = make(source("raw.a"), node("stg", "raw.a", config={"freshness": {"warn_after": "x"}}))
    report = orchestrator.freshness()
    assert report.rows == ()
    assert report.unreadable
    cannot, nothing = tables.freshness_parts(report, report, {})
    assert "config.freshness.warn_after of model.shop.stg is 'x'" in str(cannot)
    assert "Nothing is promised" in str(nothing)


# What is told ---------------------------------------------------------------------------------------------------------


def report_of(at: int, **rows: FreshnessState) -> FreshnessReport:
    moment = START + at * HOUR
    promise = Promise(HOUR, 2 * HOUR)
    made = (Promised(name, name, "build", state, moment, HOUR, promise) for name, state in rows.items())
    return FreshnessReport(moment, tuple(made))


def test_each_breach_and_recovery_is_told_once() -> None:
    mark: str | None = None

    def told(report: FreshnessReport) -> tuple[str, str]:
        nonlocal mark
        found, mark = lateness(mark, report)
        return ",".join(row.unique_id for row in found.late), ",".join(row.unique_id for row in found.recovered)

    assert told(report_of(0, a="fresh", b="warn")) == ("b", "")
    assert told(report_of(1, a="fresh", b="warn")) == ("", "")
    assert told(report_of(2, a="error", b="error")) == ("a,b", ""), "and again when it becomes an error"
    assert told(report_of(3, a="warn", b="unknown")) == ("", "")
    assert told(report_of(4, a="error", b="error")) == ("", "")
    assert told(report_of(3, a="fresh", b="fresh")) == ("", ""), "one that was overtaken"
    assert told(report_of(5, a="fresh", b="error")) == ("", "a")
    assert told(report_of(6, a="fresh", b="fresh")) == ("", "b")
    assert told(report_of(7, a="fresh", b="warn")) == ("b", "")
    assert told(report_of(8, a="fresh")) == ("", ""), "what promises nothing any more"


def test_lines_for_people() -> None:
    names = {A: "raw.a"}
    late = Promised(MART, "mart", "build", "error", START, 3 * HOUR, Promise(None, 2 * HOUR), HOUR, (A,))
    assert late_line(late, names) == (
        "Late: mart has not taken in a load of raw.a that is 3.0 h old, and it promises to in 2 hours."
    )
    assert recovered_line(late) == "Recovered: mart has taken in what was loaded."
    old = Promised(A, "raw.a", "source", "warn", START, 3 * HOUR, Promise(2 * HOUR, 9 * HOUR), HOUR)
    assert late_line(old, names) == "Late: no load of the source raw.a for 3.0 h, and it promises one in 2 hours."
    assert recovered_line(old) == "Recovered: the source raw.a was loaded again."


def test_week_tells_each_breach_and_each_recovery_once(
    make: Callable[..., Opened], caplog: pytest.LogCaptureFixture
) -> None:
    """Loads at random, a mart that fails for half a day at a time, a look after each build and at each deadline."""
    orchestrator, dbt, clock = make()
    chance = random.Random(17)
    caplog.set_level(logging.INFO)
    late: set[str] = set()
    breaches: list[tuple[str, str]] = []
    recoveries: list[str] = []
    for hour in range(0, 7 * 24, 3):
        clock.now = START + hour * HOUR
        for name, often in (("raw.a", 0.2), ("raw.b", 0.2)):
            if chance.random() < often:
                orchestrator.record([SourceUpdate(name, f"{name}-{hour}", clock.now)])
        dbt.failing = {MART} if hour % 24 < 12 else set()
        with telling(orchestrator, logging.getLogger("week")):
            orchestrator.build()
        seen = {row.unique_id: row for row in orchestrator.freshness().rows}
        before = set(late)
        # Counted in another way: whoever is late and was not, and who is not any more.
        for unique_id, row in seen.items():
            for state in ("warn", "error"):
                key = f"{unique_id} {state}"
                if row.state == state and key not in late:
                    late |= {key, f"{unique_id} warn"} if state == "error" else {key}
                    breaches.append((row.name, state))
            if row.state == "fresh" and any(key.startswith(f"{unique_id} ") for key in before):
                late -= {key for key in late if key.startswith(f"{unique_id} ")}
                recoveries.append(row.name)
    lines = [record.getMessage() for record in caplog.records if record.name == "week"]
    told_late = [line for line in lines if line.startswith("Late: ")]
    told_recovered = [line for line in lines if line.startswith("Recovered: ")]
    assert len(told_late) == len(breaches) > 8, (told_late, breaches)
    assert len(told_recovered) == len(recoveries) > 4
    for name in ("mart", "held", "source raw.a"):
        assert any(name in line for line in told_late), name
    assert {state for _, state in breaches} == {"warn", "error"}


def test_what_is_late_is_told_when_dbt_cannot_run(
    make: Callable[..., Opened], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator, dbt, clock = make()
    orchestrator.record(["raw.a"])
    clock.now += 3 * HOUR
    monkeypatch.setattr(dbt, "build", lambda *_: (_ for _ in ()).throw(DbtError("dbt is not there")))
    watched: list[datetime] = []
    with pytest.raises(DbtError, match="not there"), telling(orchestrator, logging.getLogger("run"), watched.append):
        orchestrator.build()
    assert "Late: mart has not taken in a load of raw.a that is 3.0 h old" in caplog.text
    assert watched == [START + 12 * HOUR]


def test_what_is_late_is_told_when_the_project_does_not_parse(
    make: Callable[..., Opened], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator, _, clock = make()
    orchestrator.record(["raw.a"])
    clock.now += 3 * HOUR

    def no_lineage(_: object) -> Lineage:
        raise DbtError("the dbt project does not parse")

    monkeypatch.setattr(Orchestrator, "lineage", property(no_lineage))
    monkeypatch.setattr("lineage_orch.dbt.current.CurrentLineage.now", no_lineage)
    with pytest.raises(DbtError, match="does not parse"), telling(orchestrator, logging.getLogger("run")):
        orchestrator.build()
    assert "Late: mart has not taken in a load of raw.a" in caplog.text


def test_look_that_fails_does_not_hide_what_the_build_did(
    make: Callable[..., Opened], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator, _, _ = make()
    monkeypatch.setattr(orchestrator, "freshness", lambda **_: (_ for _ in ()).throw(DbtError("no profile")))
    with telling(orchestrator, logging.getLogger("run")):
        pass
    assert "Whether anything is late could not be said: no profile" in caplog.text
