"""Record -> plan -> build -> record: with dbt replaced at its seam, everything else is real."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.errors import (
    BuildFailedError,
    DbtError,
    LedgerError,
    LedgerUnavailableError,
    SettingsError,
    UnknownSourceError,
)
from lineage_orch.ledger import Ledger
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.reports.wording import explanation_lines
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import SourceUpdate
from tests.manifests import manifest, node, source

A, B, C = "source.shop.raw.a", "source.shop.raw.b", "source.shop.raw.c"

# raw.a -> stg_a -> mart_ab -> top      raw.c -> stg_c
# raw.b -> stg_b -^
SHOP = (
    source("raw.a"),
    source("raw.b"),
    source("raw.c"),
    node("stg_a", "raw.a"),
    node("stg_b", "raw.b"),
    node("stg_c", "raw.c"),
    node("mart_ab", "stg_a", "stg_b"),
    node("top", "mart_ab"),
    node("test_stg_a", "stg_a", kind="test"),
    node("test_both", "stg_a", "stg_b", kind="test"),
)


def model(*names: str) -> set[str]:
    return {f"model.shop.{name}" for name in names}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (folder / "profiles.yml").write_text("shop:\n  target: dev\n  outputs:\n    dev: {type: duckdb}\n")
    return folder


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


Make = Callable[..., tuple[Orchestrator, FakeDbt]]


@pytest.fixture
def make(project: Path) -> Make:
    def make(*resources: dict[str, Any], **overrides: Any) -> tuple[Orchestrator, FakeDbt]:
        path = project / "manifest.json"
        path.write_text(json.dumps(manifest(*(resources or SHOP))))
        dbt = FakeDbt(lambda: Lineage.from_manifest(path))
        clock = overrides.pop("clock", Clock())
        return Orchestrator(project_dir=project, manifest=path, dbt=dbt, clock=clock, **overrides), dbt

    return make


def test_load_builds_what_is_downstream_and_nothing_else(make: Make) -> None:
    orchestrator, dbt = make()
    orchestrator.record(["raw.c"])
    report = orchestrator.build()
    assert set(report.built) == model("stg_c")
    assert dbt.commands == [("source:shop.raw.c+",)]
    assert orchestrator.plan().is_empty
    assert not orchestrator.build().runs


def test_failed_node_and_what_is_below_it_are_still_stale(make: Make) -> None:
    clock = Clock()
    orchestrator, dbt = make(clock=clock)
    orchestrator.record(["raw.a", "raw.b"])
    dbt.failing = model("mart_ab")
    report = orchestrator.build()
    assert set(report.built) == model("stg_a", "stg_b")
    assert list(report.failed) == ["model.shop.mart_ab"]
    assert set(report.blocked) == model("top")
    assert report.runs == 1, "nothing that failed is tried again in the same call"
    with pytest.raises(BuildFailedError, match=r"model\.shop\.mart_ab: it was told to"):
        report.raise_for_failures()

    dbt.failing = set()
    report = orchestrator.build()
    assert not report.runs, "it waits before it is tried again"
    assert list(report.failing) == ["model.shop.mart_ab"]
    assert report.next_due == clock.now + timedelta(minutes=10)
    clock.now += timedelta(minutes=10)
    report = orchestrator.build()
    assert report.built == ["model.shop.mart_ab", "model.shop.top"], "only what is stale"
    assert report.ok
    assert not orchestrator.ledger.snapshot().failures


def test_retry_does_not_wait(make: Make) -> None:
    orchestrator, dbt = make()
    orchestrator.record(["raw.a", "raw.b"])
    dbt.failing = model("mart_ab")
    orchestrator.build()
    dbt.failing = set()
    assert orchestrator.retry() == ("model.shop.mart_ab",)
    assert set(orchestrator.build().built) == model("mart_ab", "top")


def test_failed_test_blocks_what_is_below(make: Make) -> None:
    clock = Clock()
    orchestrator, dbt = make(clock=clock)
    orchestrator.record(["raw.a", "raw.b"])
    dbt.failing = {"test.shop.test_stg_a"}
    report = orchestrator.build()
    assert set(report.built) == model("stg_b")
    for _ in range(2):
        report = orchestrator.build()
        assert not report.built, "still blocked in later runs"
        assert "test_stg_a" in report.failing["model.shop.stg_a"]
    dbt.failing = set()
    clock.now += timedelta(hours=6)
    report = orchestrator.build()
    assert set(report.built) == model("mart_ab", "top")
    assert report.tested == ["model.shop.stg_a"], "which was built well, and only its test failed"


def test_failed_test_of_two_nodes_blocks_those_built_in_its_run(make: Make) -> None:
    orchestrator, dbt = make()
    orchestrator.record(["raw.a", "raw.b"])
    orchestrator.build()
    before = orchestrator.ledger.snapshot().nodes
    orchestrator.record(["raw.a"])
    dbt.failing = {"test.shop.test_both"}
    orchestrator.build()
    after = orchestrator.ledger.snapshot().nodes
    assert after["model.shop.stg_a"] == before["model.shop.stg_a"]
    assert after["model.shop.stg_b"] == before["model.shop.stg_b"]
    plan = orchestrator.plan()
    assert plan.held["model.shop.stg_a"].reason == "failing"
    assert "model.shop.stg_b" not in {*plan.build, *plan.held}, "it was not built in that run, so it is not blamed"


def test_update_that_lands_during_build_is_built_by_same_call(make: Make) -> None:
    orchestrator, dbt = make()
    landed = iter([lambda: orchestrator.record(["raw.a"])])
    dbt.before_build = lambda: next(landed, lambda: None)()
    orchestrator.record(["raw.a"])
    report = orchestrator.build()
    assert report.runs == 2
    assert set(dbt.built[1]) <= set(dbt.built[0])
    assert orchestrator.plan().is_empty


def test_failing_node_is_not_tried_early_for_new_data(make: Make) -> None:
    clock = Clock()
    orchestrator, dbt = make(clock=clock)
    dbt.failing = model("stg_c")
    landed = iter([lambda: orchestrator.record(["raw.c"])])
    dbt.before_build = lambda: next(landed, lambda: None)()
    orchestrator.record(["raw.c"])
    report = orchestrator.build()
    assert report.runs == 1
    dbt.failing = set()
    clock.now += timedelta(minutes=10)
    assert set(orchestrator.build().built) == model("stg_c")


def test_update_after_last_plan_is_seen_when_lock_is_free(make: Make) -> None:
    orchestrator, _ = make()
    real = orchestrator.ledger.build_lock
    late = iter([True])

    from contextlib import contextmanager

    @contextmanager
    def late_load(who: str) -> Any:
        with real(who) as held:
            yield held
            if next(late, False):
                orchestrator.record(["raw.c"])

    orchestrator.ledger.build_lock = late_load  # type: ignore[method-assign]
    orchestrator.record(["raw.a"])
    report = orchestrator.build()
    assert model("stg_a", "stg_c") <= set(report.built)
    assert orchestrator.plan().is_empty


def test_taken_lock_is_left_with_its_holder_named(make: Make) -> None:
    orchestrator, dbt = make()
    orchestrator.record(["raw.a"])
    other, _ = make()
    with other.ledger.build_lock("the night shift"):
        report = orchestrator.build()
    assert "the night shift" in (report.busy or "")
    assert "the night shift" in report.summary()
    assert not dbt.commands
    assert not orchestrator.build().busy


def test_call_ends_though_loads_keep_coming(make: Make) -> None:
    orchestrator, dbt = make()
    coming = iter(range(1000))

    def load() -> None:
        orchestrator.record([SourceUpdate("raw.c", f"c-{next(coming)}", datetime(2026, 1, 1, tzinfo=UTC))])

    dbt.before_build = load
    orchestrator.record(["raw.a"])
    report = orchestrator.build(rounds=3)
    assert report.runs == 4
    assert model("stg_a") <= set(report.built)
    assert set(report.more) == model("stg_c")
    assert report.handed_over
    assert "1 stale again by what was loaded meanwhile" in report.summary()
    assert set(orchestrator.plan().build) == model("stg_c")
    assert orchestrator.build(rounds=0).runs == 1
    dbt.before_build = lambda: None
    assert orchestrator.build(rounds=None).more == []


def test_call_ends_though_all_that_is_left_is_a_view_that_new_data_passes_through(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator, _ = make(source("raw.c"), node("seen_c", "raw.c", materialized="view"), views="pass_through")
    orchestrator.record(["raw.c"])
    orchestrator.build()
    ledger = orchestrator.ledger
    record_built, begin_build, begun = ledger.record_built, ledger.begin_build, iter(range(9))

    def and_load(*given: Any, **more: Any) -> None:
        record_built(*given, **more)
        orchestrator.record(["raw.c"])

    def begin(**given: Any) -> Any:
        next(begun)  # raises StopIteration where it goes on for ever
        return begin_build(**given)

    monkeypatch.setattr(ledger, "record_built", and_load)
    monkeypatch.setattr(ledger, "begin_build", begin)
    orchestrator.record(["raw.c"])
    assert set(orchestrator.build(rounds=0).more) == model("seen_c")


def test_what_was_stale_at_the_call_is_built_however_few_the_rounds(make: Make) -> None:
    orchestrator, dbt = make()
    dbt.missing = {"model.shop.stg_b"}
    dbt.before_build = lambda: orchestrator.record(["raw.c"]) and None
    orchestrator.record(["raw.a", "raw.b"])
    report = orchestrator.build(rounds=0)
    assert set(report.built) == model("stg_a", "stg_b", "mart_ab", "top")
    assert set(report.more) == model("stg_c")


def test_relation_that_is_gone_is_found_at_end_where_question_costs_a_process(make: Make) -> None:
    orchestrator, dbt = make()
    dbt.has_callbacks = False
    asked: list[int] = []
    missing_relations = dbt.missing_relations
    dbt.missing_relations = lambda lineage: asked.append(len(dbt.built)) or missing_relations(lineage)
    orchestrator.record(["raw.a", "raw.b"])
    orchestrator.build()
    assert asked == []  # all that the ledger knows was built in this call

    def want(node: str) -> None:
        if node == "model.shop.mart_ab":
            dbt.failing = {node} if dbt.missing else set()

    dbt.missing, dbt.before_node = {"model.shop.stg_b"}, want
    orchestrator.record(["raw.a"])
    report = orchestrator.build()
    assert asked == [2]  # when raw.a was built
    assert dbt.built[1:] == [["model.shop.stg_a"], ["model.shop.stg_b", "model.shop.mart_ab", "model.shop.top"]]
    assert report.failed == {}
    assert not orchestrator.ledger.snapshot().failures
    assert orchestrator.build().runs == 0


def test_gone_relation_that_cannot_be_built_is_tried_once(make: Make) -> None:
    orchestrator, dbt = make()
    dbt.has_callbacks = False
    orchestrator.record(["raw.a", "raw.b"])
    orchestrator.build()
    dbt.missing = dbt.failing = {"model.shop.stg_b"}
    orchestrator.record(["raw.a", "raw.b"])
    report = orchestrator.build()
    assert report.runs == 1
    assert set(report.failed) == model("stg_b")


def test_failing_node_is_no_reason_to_go_on(make: Make) -> None:
    orchestrator, dbt = make()
    dbt.failing = {"model.shop.stg_a"}
    dbt.before_build = lambda: orchestrator.record(["raw.a"]) and None
    orchestrator.record(["raw.a"])
    assert orchestrator.build(rounds=0).runs == 1


def test_load_waits_for_holder_of_lock_to_build_it(make: Make) -> None:
    orchestrator, dbt = make()
    other, _ = make()
    said: list[str] = []
    began, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert may_end.wait(10)
        dbt.before_build = lambda: None

    dbt.before_build = hold
    orchestrator.record(["raw.a"])
    holder = threading.Thread(target=orchestrator.build, kwargs={"who": "the night shift"})
    holder.start()
    assert began.wait(10)
    other.record(["raw.c"])
    reports: list[BuildReport] = []
    waiter = threading.Thread(
        target=lambda: reports.append(other.build(wait_for=["raw.c"], progress=said.append)), daemon=True
    )
    waiter.start()
    waiter.join(0.3)
    assert waiter.is_alive()
    may_end.set()
    waiter.join(10)
    holder.join(10)
    (report,) = reports
    assert "the night shift" in said[0]
    assert "raw.c" in said[0]
    assert not report.handed_over
    assert not orchestrator.plan().build


def test_waiting_load_returns_while_others_are_still_built(make: Make) -> None:
    orchestrator, _ = make()
    other, _ = make()
    orchestrator.record(["raw.c"])
    with orchestrator.ledger.build_lock("the night shift"):
        tick, _ = orchestrator.ledger.begin_build()
        other.record(["raw.a"])  # a stream of others' loads
        orchestrator.ledger.record_built(tick, ["model.shop.stg_c"], built_at=datetime.now(UTC))
        report = other.build(wait_for=["raw.c"])
    assert report.answered
    assert not report.handed_over
    assert not report.runs
    assert report.summary().startswith("The build was done by the night shift")


def test_waiting_load_is_told_what_failed_with_others(make: Make) -> None:
    clock = Clock()
    orchestrator, _ = make(clock=clock)
    orchestrator.record(["raw.c"])
    with orchestrator.ledger.build_lock("the night shift"):
        done: list[BuildReport] = []
        other, _ = make(clock=clock)
        waiter = threading.Thread(target=lambda: done.append(other.build(wait_for=["raw.c"])), daemon=True)
        waiter.start()
        waiter.join(0.3)
        assert waiter.is_alive()
        tick, _ = orchestrator.ledger.begin_build()
        orchestrator.ledger.record_failed(tick, {"model.shop.stg_c": "no such column"}, failed_at=clock.now)
        waiter.join(10)
    assert done[0].failing == {"model.shop.stg_c": "no such column"}
    assert "1 failed there (stg_c)" in done[0].summary()


def test_waiting_load_builds_itself_when_holder_died(make: Make) -> None:
    orchestrator, _ = make()
    other, _ = make()
    orchestrator.record(["raw.c"])
    done: list[BuildReport] = []
    with orchestrator.ledger.build_lock("the night shift"):
        waiter = threading.Thread(target=lambda: done.append(other.build(wait_for=["raw.c"])), daemon=True)
        waiter.start()
        waiter.join(0.3)
        assert waiter.is_alive()
    waiter.join(10)
    assert done[0].built == ["model.shop.stg_c"]
    assert done[0].busy is None


def test_same_update_twice_is_built_once(make: Make) -> None:
    orchestrator, dbt = make()
    update = SourceUpdate("raw.c", "load-1", datetime(2026, 1, 1, tzinfo=UTC))
    assert orchestrator.record([update]) == orchestrator.record([update, update])
    orchestrator.build()
    orchestrator.record([update])
    assert not orchestrator.build().runs
    assert len(dbt.commands) == 1


def test_load_with_same_fingerprint_builds_nothing(make: Make) -> None:
    orchestrator, dbt = make()

    def load(source: str, update_id: str, fingerprint: str | None) -> None:
        orchestrator.record(
            [SourceUpdate(source, update_id, datetime(2026, 1, 1, tzinfo=UTC), fingerprint=fingerprint)]
        )

    load("raw.*", "1", "etag")
    orchestrator.build()
    load("raw.*", "2", "etag")
    load("shop.raw.c", "3", "etag")
    assert orchestrator.ledger.unchanged_by("3") == (C,)
    assert orchestrator.plan().is_empty
    assert not orchestrator.build().runs
    load("raw.c", "4", None)
    assert set(orchestrator.build().built) == model("stg_c")
    load("raw.c", "5", "etag")
    assert set(orchestrator.build().built) == model("stg_c"), "what came in between is not known"
    assert len(dbt.commands) == 3


def test_plan_and_report_say_how_long_it_takes(make: Make) -> None:
    orchestrator, dbt = make(dbt_flags=("--threads", "2"))
    orchestrator.record(["raw.*"])
    dbt.seconds = {"model.shop.stg_a": 40.0, "model.shop.stg_b": 50.0, "test.shop.test_stg_a": 20.0}
    assert orchestrator.estimate(orchestrator.plan()) is None, "nothing was timed yet"
    assert orchestrator.build().timing is None
    assert orchestrator.ledger.median_seconds([*model("stg_a", "stg_b", "top")]) == {
        "model.shop.stg_a": 60.0,
        "model.shop.stg_b": 50.0,
    }
    orchestrator.record(["raw.a", "raw.b"])
    expected = orchestrator.estimate(orchestrator.plan())
    assert expected is not None
    # The two side by side; the other two after them, and never timed.
    assert (expected.nodes, expected.timed, expected.seconds, expected.threads) == (4, 2, 170.0, 2)
    report = orchestrator.build()
    assert report.expected == 170.0
    assert report.timing == "dbt took 1 s; about 3 min was expected, by the builds before."


def test_load_that_is_running_is_waited_for(make: Make) -> None:
    clock = Clock()
    orchestrator, _ = make(clock=clock, patience=300)
    orchestrator.record(["raw.*"])
    assert len(orchestrator.build().built) == 5
    orchestrator.loading = lambda: ["raw.b", "no.such"]
    clock.now += timedelta(hours=1)
    orchestrator.record(["raw.a"])
    report = orchestrator.build()
    assert set(report.built) == model("stg_a")
    [(held, why)] = report.held.items()
    assert (held, why.reason, why.until) == ("model.shop.mart_ab", "load_running", clock.now + timedelta(minutes=5))
    clock.now += timedelta(minutes=4)
    orchestrator.record(["raw.a"])
    assert orchestrator.plan().next_due == why.until, "however often it is loaded meanwhile"
    assert "is held: it waits for the load of raw.b" in explanation_lines(orchestrator.explain("mart_ab"))[0]
    clock.now += timedelta(minutes=1)
    assert set(orchestrator.build().built) == model("stg_a", "mart_ab", "top")
    orchestrator.record(["raw.a"])
    orchestrator.loading = list
    assert set(orchestrator.build().built) == model("stg_a", "mart_ab", "top")


def test_activity_is_beside_what_one_command_per_load_would_have_cost(make: Make) -> None:
    clock = Clock()
    orchestrator, dbt = make(clock=clock)
    dbt.seconds = dict.fromkeys(model("stg_a", "stg_b", "mart_ab", "top"), 10.0)
    start = clock.now

    def load(update_id: str, *sources: str, fingerprint: str | None = None) -> None:
        clock.now += timedelta(minutes=1)
        orchestrator.record([SourceUpdate(each, update_id, clock.now, fingerprint=fingerprint) for each in sources])

    load("1", "raw.a", "raw.b")
    orchestrator.build()
    load("2", "raw.a", fingerprint="etag")
    load("3", "raw.b")
    dbt.failing = {"model.shop.top"}
    orchestrator.build()
    load("4", "raw.a", fingerprint="etag")
    load("5", "raw.b")
    found = orchestrator.activity(start)
    assert (found.loads, found.unchanged, found.coalesced, found.runs, found.failed) == (5, 1, 1, 2, 1)
    assert (found.built, found.seconds, found.untimed) == (7, 70.0, 0)
    # Both sources: 4 nodes. One: 3 nodes, four times.
    assert (found.builds_by_load, found.seconds_by_load) == (16, 160.0)
    assert found.not_affected == 1
    assert found.to_dict()["method"].startswith("For comparison: one `dbt build -s source:x+` per load")
    assert orchestrator.activity(clock.now + timedelta(minutes=1)).loads == 0


def test_wrong_name_is_error_and_others_are_recorded(make: Make) -> None:
    orchestrator, _ = make()
    with pytest.raises(UnknownSourceError, match=r"no source 'raw\.aa'.*did you mean 'raw\.a'"):
        orchestrator.record(["raw.aa", "raw.c"])
    assert set(orchestrator.plan().build) == model("stg_c")


def test_wildcard_records_every_table(make: Make) -> None:
    orchestrator, _ = make()
    orchestrator.record(["raw.*"])
    assert set(orchestrator.ledger.snapshot().sources) == {A, B, C}


def test_held_nodes_are_reported_with_their_time(make: Make) -> None:
    clock = Clock()
    lagging = node("slow", "stg_c", config={"state": {"lag_tolerance": "4h"}})
    orchestrator, _ = make(*SHOP, lagging, clock=clock)
    orchestrator.record(["raw.c"])
    report = orchestrator.build()
    assert set(report.built) == model("stg_c")
    assert report.held["model.shop.slow"].reason == "lag_tolerance"
    assert report.next_due == clock.now + timedelta(hours=4)
    clock.now += timedelta(hours=4)
    assert orchestrator.build().built == ["model.shop.slow"]


def test_first_load_waits_for_every_source_with_producer(make: Make) -> None:
    orchestrator, _ = make()
    orchestrator.register_producers(["raw.*"])
    orchestrator.record(["raw.a"])
    report = orchestrator.build()
    assert set(report.built) == model("stg_a")
    assert report.held["model.shop.mart_ab"].waiting_for == (B,)
    orchestrator.record(["raw.b"])
    assert set(orchestrator.build().built) == model("stg_b", "mart_ab", "top")


def test_test_between_built_and_held_node_waits_for_held_one(make: Make) -> None:
    orchestrator, dbt = make()
    dbt.failing = {"test.shop.test_both"}  # as it would: stg_b does not exist
    orchestrator.register_producers(["raw.*"])
    orchestrator.record(["raw.a"])
    report = orchestrator.build()
    assert report.ok
    assert set(report.built) == model("stg_a")
    orchestrator.record(["raw.b"])
    assert "test.shop.test_both" in orchestrator.build().failed, "and then it runs"


def test_producers_of_setting_count_before_first_load(make: Make, tmp_path: Path) -> None:
    loads = tmp_path / "loads.py"
    loads.write_text(
        "from prefect import flow\nfrom lineage_orch import produces_source\n"
        "@produces_source('raw.b')\n@flow\ndef load_b():\n    pass\n"
    )
    orchestrator, _ = make(producers=[str(loads)])
    orchestrator.record(["raw.a"])
    report = orchestrator.build()
    assert set(report.built) == model("stg_a")
    assert report.held["model.shop.mart_ab"].waiting_for == (B,)


def test_adopt_declares_warehouse_as_loaded_and_built(make: Make) -> None:
    orchestrator, _ = make()
    orchestrator.register_producers(["raw.*"])
    orchestrator.adopt()
    assert orchestrator.plan().is_empty
    assert not orchestrator.plan().held
    orchestrator.record(["raw.a"])
    assert set(orchestrator.plan().build) == model("stg_a", "mart_ab", "top")


def test_load_that_lands_while_adopt_runs_is_still_news(make: Make) -> None:
    orchestrator, _ = make()
    other, _ = make()
    real = orchestrator.adoption

    def slow(select: Any = ()) -> Any:
        found = real(select)
        other.record(["raw.a"])
        return found

    orchestrator.adoption = slow  # type: ignore[method-assign]
    orchestrator.adopt()
    assert set(orchestrator.plan().build) == model("stg_a", "mart_ab", "top")


def test_adopt_builds_what_others_left_to_it(make: Make) -> None:
    orchestrator, _ = make()
    other, dbt = make()
    real = orchestrator.adoption

    def slow(select: Any = ()) -> Any:
        found = real(select)
        other.record(["raw.c"])
        assert other.build().busy, "it found the lock taken, and left"
        return found

    orchestrator.adoption = slow  # type: ignore[method-assign]
    orchestrator.adopt()
    assert not dbt.built
    assert orchestrator.plan().is_empty


def test_changed_code_is_built_after_first_build_is_known(make: Make, project: Path) -> None:
    orchestrator, _ = make()
    assert orchestrator.plan().is_empty
    orchestrator.record(["raw.c"])
    orchestrator.build()
    changed, _ = make(source("raw.c"), node("stg_c", "raw.c", checksum="other"), node("below", "stg_c"))
    plan = changed.plan()
    assert plan.changed_code == model("stg_c")
    assert set(changed.build().built) == model("stg_c", "below")
    assert changed.plan().is_empty


def test_views_pass_change_through_and_are_tested(make: Make) -> None:
    shop = (
        source("raw.a"),
        node("view_a", "raw.a", materialized="view"),
        node("mart", "view_a"),
        node("test_view", "view_a", kind="test"),
    )
    orchestrator, dbt = make(*shop, views="pass_through")
    orchestrator.record(["raw.a"])
    assert set(orchestrator.build().built) == model("view_a", "mart")
    orchestrator.record(["raw.a"])
    assert set(orchestrator.build().built) == model("mart"), "the view is not built again"
    assert any("resource_type:test" in selector for selector in dbt.commands[-1])
    assert orchestrator.plan().is_empty
    dbt.failing = {"test.shop.test_view"}
    orchestrator.record(["raw.a"])
    report = orchestrator.build()
    assert not report.built, "a failing test on the view blocks what is below it"
    dbt.failing = set()
    orchestrator.retry()
    assert set(orchestrator.build().built) == model("mart")


def test_kill_below_passed_view_builds_nothing_finished_again(make: Make) -> None:
    shop = (
        source("raw.a"),
        node("view_a", "raw.a", materialized="view"),
        node("first", "view_a"),
        node("second", "view_a"),
    )
    orchestrator, dbt = make(*shop, views="pass_through")
    orchestrator.record(["raw.a"])
    orchestrator.build()
    orchestrator.record(["raw.a"])

    def killed(node: str) -> None:
        if node == "model.shop.second":
            raise KeyboardInterrupt

    dbt.before_node = killed
    with pytest.raises(KeyboardInterrupt):
        orchestrator.build()
    dbt.before_node = lambda _: None
    assert orchestrator.build().built == ["model.shop.second"]


def test_history_is_kept_for_lag_longer_than_keep_days(make: Make) -> None:
    clock = Clock()
    lagging = {"config": {"state": {"lag_tolerance": "120d"}}}
    orchestrator, _ = make(
        source("raw.a"), node("slow", "raw.a", **lagging), node("fast", "raw.a"), keep_days=90, clock=clock
    )
    orchestrator.record(["raw.a"])
    orchestrator.build()
    first = clock.now
    for _ in range(12):  # every ten days
        orchestrator.record(["raw.a"])
        assert "model.shop.slow" not in orchestrator.build().built
        assert orchestrator.plan().next_due == first + timedelta(days=120)
        clock.now += timedelta(days=10)
    assert orchestrator.build().built == ["model.shop.slow"]


def test_lag_of_ages_is_held_alone(make: Make) -> None:
    lagging = {"config": {"state": {"lag_tolerance": "900000000d"}}}
    orchestrator, _ = make(source("raw.a"), node("slow", "raw.a", **lagging), node("fast", "raw.a"))
    orchestrator.record(["raw.a"])
    assert orchestrator.build().built == ["model.shop.fast"]


def test_source_without_models_runs_nothing_and_says_so(make: Make) -> None:
    orchestrator, dbt = make(source("raw.lonely"))
    orchestrator.record(["raw.lonely"])
    report = orchestrator.build()
    assert not dbt.commands
    assert report.summary() == "Nothing was due."
    assert orchestrator.without_nodes(["raw.lonely"]) == ("source.shop.raw.lonely",)


def test_ledger_failing_in_build_is_error_and_leaves_nodes_stale(make: Make) -> None:
    orchestrator, dbt = make()
    real = orchestrator.ledger.record_built

    def broken(*args: Any, **kwargs: Any) -> None:
        if "model.shop.stg_b" in args[1]:
            raise LedgerUnavailableError("the ledger went away")
        real(*args, **kwargs)

    orchestrator.ledger.record_built = broken  # type: ignore[method-assign]
    orchestrator.record(["raw.a", "raw.b"])
    with pytest.raises(LedgerError, match="went away"):
        orchestrator.build()
    orchestrator.ledger.record_built = real  # type: ignore[method-assign]
    report = orchestrator.build()
    assert "model.shop.stg_b" in report.built
    assert orchestrator.plan().is_empty
    assert len(dbt.commands) == 2


def test_dbt_run_leaves_out_what_it_does_not_build_and_says_so(make: Make) -> None:
    shop = (
        source("raw.a"),
        node("snap", "raw.a", kind="snapshot"),
        node("mart", "raw.a"),
        node("below", "snapshot.shop.snap"),
    )
    orchestrator, _ = make(*shop)
    orchestrator.record(["raw.a"])
    orchestrator.build()
    running, _ = make(*shop, dbt_command="run")
    running.record(["raw.a"])
    report = running.build()
    assert report.built == ["model.shop.mart"]
    assert "snapshot.shop.snap" in report.not_built
    assert not running.build().runs, "and what is below it is not built again and again"
    assert set(orchestrator.build().built) == {"snapshot.shop.snap", "model.shop.below"}


def test_fifty_loads_in_threads_are_all_built_in_few_runs(make: Make) -> None:
    orchestrator, dbt = make()
    reports = []

    def load(number: int) -> None:
        orchestrator.record([f"raw.{'abc'[number % 3]}"])
        reports.append(orchestrator.build())

    threads = [threading.Thread(target=load, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 50
    assert orchestrator.ledger.snapshot().tick >= 50
    assert orchestrator.plan().is_empty
    assert len(dbt.commands) <= 50


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "profiles.yml").unlink(), r"no profiles\.yml"),
        (lambda p: (p / "profiles.yml").write_text("other: {}"), r"no profile 'shop'.*it has: other"),
        (lambda p: (p / "profiles.yml").write_text("shop: {target: prod, outputs: {dev: {}}}"), r"no target 'prod'"),
        (lambda p: (p / "dbt_project.yml").write_text("a: [b"), r"dbt_project\.yml cannot be read"),
        (lambda p: (p / "dbt_project.yml").write_text("profile: shop"), r"has no `name`"),
    ],
)
def test_broken_project_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], Any], message: str
) -> None:
    monkeypatch.chdir(project.parent)
    monkeypatch.setenv("HOME", str(project.parent))
    spoil(project)
    with pytest.raises(DbtError, match=message):
        Orchestrator(project_dir=project, profiles_dir=project if (project / "profiles.yml").exists() else None)


def test_missing_project_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"no dbt_project\.yml in .* set LINEAGE_ORCH_PROJECT_DIR"):
        Orchestrator()


def test_ledger_may_be_given_by_url(project: Path, tmp_path: Path, make: Make) -> None:
    make()
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    orchestrator = Orchestrator(project_dir=project, manifest=project / "manifest.json", ledger=url)
    orchestrator.record(["raw.a"])
    assert Ledger(url, project="shop", target="dev").snapshot().sources.keys() == {A}
