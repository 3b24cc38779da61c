"""What a person asks for by hand: a build of a selection, and to make nodes stale."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.dbt.engine import OnResult, OnStart, Outcome, Result
from lineage_orch.errors import DbtError, LineageError, SettingsError
from lineage_orch.ledger import Ledger
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.testing import FakeDbt
from lineage_orch.triggers.in_process import others_go_on
from tests.manifests import manifest, node, source

DAILY = {
    "incremental_strategy": "microbatch",
    "batch_size": "day",
    "begin": "2026-01-01",
    "lookback": 1,
    "event_time": "at",
    "materialized": "incremental",
}
# raw.a -> stg_a -> mart_ab -> top      raw.c -> stg_c -> daily -> report
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
    node("daily", "stg_c", materialized="incremental", config=DAILY),
    node("report", "daily"),
    node("top_fits_stg_a", "stg_a", "top", kind="test"),
)


def model(*names: str) -> list[str]:
    return [f"model.shop.{name}" for name in names]


class SelectingDbt(FakeDbt):
    """A dbt that knows some selectors, and remembers the flags of each build."""

    def __init__(self, lineage: Any) -> None:
        super().__init__(lineage)
        self.selectors: dict[str, set[str]] = {}
        self.excluded: list[tuple[str, ...]] = []

    def ls(self, selector: str) -> frozenset[str]:
        return frozenset(self.selectors.get(selector, ()))

    def build(
        self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        self.excluded.append(tuple(exclude))
        return super().build(select, exclude, on_result, flags)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 2, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Shop:
    """A project whose sources were all loaded and whose nodes are all built, but for those of ``held``."""

    def __init__(self, folder: Path, *resources: dict[str, Any], **settings: Any) -> None:
        (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
        (folder / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
        path = folder / "manifest.json"
        path.write_text(json.dumps(manifest(*(resources or SHOP))))
        self.clock = Clock()
        self.dbt = SelectingDbt(lambda: Lineage.from_manifest(path))
        self.orchestrator = Orchestrator(project_dir=folder, manifest=path, dbt=self.dbt, clock=self.clock, **settings)
        self.said: list[str] = []

    def load(self, *sources: str) -> None:
        self.orchestrator.record(sources)

    def load_all(self) -> None:
        self.load("raw.a", "raw.b", "raw.c")
        self.orchestrator.build()
        assert self.orchestrator.plan().is_empty

    def build(self, *select: str, **more: Any) -> list[str]:
        self.report = self.orchestrator.build(select=select, progress=self.said.append, **more)
        return self.report.built

    @property
    def due(self) -> list[str]:
        return list(self.orchestrator.plan().build)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.load_all()
    return shop


# What is built ----------------------------------------------------------------------------------------------


def test_selection_builds_what_is_stale_of_it_alone(shop: Shop) -> None:
    shop.load("raw.a", "raw.c")
    assert shop.build("stg_a", "stg_b") == model("stg_a")
    assert set(shop.due) == set(model("stg_c", "daily", "report", "mart_ab", "top"))
    assert shop.report.stale_below == model("mart_ab", "top")


def test_nothing_below_is_stale_that_was_selected_too(shop: Shop) -> None:
    shop.load("raw.a")
    shop.dbt.selectors["stg_a+"] = set(model("stg_a", "mart_ab", "top"))
    assert set(shop.build("stg_a+")) == set(model("stg_a", "mart_ab", "top"))
    assert shop.report.stale_below == []
    assert shop.due == []


def test_what_is_up_to_date_is_not_built_and_that_is_said(shop: Shop) -> None:
    assert shop.build("stg_a") == []
    assert shop.report.runs == 0
    assert any("--force" in each for each in shop.said)


def test_forced_selection_is_built_and_what_is_below_is_stale(shop: Shop) -> None:
    assert shop.build("mart_ab", force=True) == model("mart_ab")
    assert shop.report.stale_below == model("top") == shop.due
    assert shop.dbt.flags[-1] == ()


def test_forced_build_ignores_policies_failures_and_first_loads(tmp_path: Path) -> None:
    weekly = {"freshness": {"build_after": {"count": 7, "period": "day"}}}
    shop = Shop(
        tmp_path,
        source("raw.a"),
        source("raw.b"),
        node("weekly", "raw.a", config=weekly),
        node("broken", "raw.a"),
        node("bad", "raw.a", config={"freshness": {"build_after": {"count": "x"}}}),
        node("first", "raw.b"),
    )
    shop.orchestrator.register_producers(["raw.a", "raw.b"])
    shop.dbt.failing = set(model("broken"))
    shop.load("raw.a")
    shop.orchestrator.build()
    shop.dbt.failing = set()
    shop.load("raw.a")
    names = ["weekly", "broken", "bad", "first"]
    assert shop.build(*names) == []
    reasons = {node.rpartition(".")[2]: held.reason for node, held in shop.report.held.items()}
    assert reasons == {"weekly": "build_after", "broken": "failing", "bad": "bad_config"}
    assert set(shop.build(*names, force=True)) == set(model(*names))
    assert not shop.report.held


def test_what_it_needs_and_was_never_built_comes_first(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.load("raw.a", "raw.b", "raw.c")
    assert shop.build("mart_ab") == model("stg_a", "stg_b", "mart_ab")
    assert set(shop.due) == set(model("stg_c", "daily", "report", "top"))


def test_sources_mean_what_is_downstream_and_excluded_is_left_out(shop: Shop) -> None:
    assert shop.build("raw.a", exclude=["top"], force=True) == model("stg_a", "mart_ab")
    assert set(shop.build(exclude=["raw.a", "raw.b"], force=True)) == set(model("stg_c", "daily", "report"))


def test_tests_that_also_read_what_is_now_older_are_left_out(shop: Shop) -> None:
    shop.build("stg_a", force=True)
    assert shop.dbt.excluded[-1], "top is made of the stg_a of before"
    shop.build("raw.a", force=True)
    assert not shop.dbt.excluded[-1]


def test_new_data_comes_through_views_that_were_not_selected(tmp_path: Path) -> None:
    shop = Shop(
        tmp_path,
        source("raw.a"),
        node("view", "raw.a", materialized="view"),
        node("mart", "view"),
        views="pass_through",
    )
    shop.load("raw.a")
    shop.orchestrator.build()
    shop.load("raw.a")
    assert shop.build("mart") == model("mart")
    assert shop.due == []


def test_forced_node_that_fails_is_tried_once_and_stays_due(shop: Shop) -> None:
    shop.dbt.failing = set(model("stg_a"))
    assert shop.build("stg_a", "mart_ab", force=True) == []
    assert shop.report.runs == 1
    assert list(shop.report.failed) == model("stg_a")
    # What dbt left there is not what the ledger told of it: up to date.
    assert shop.orchestrator.plan().held.keys() >= set(model("stg_a"))


def test_force_without_selection_is_refused(shop: Shop) -> None:
    with pytest.raises(SettingsError, match="say what to force"):
        shop.orchestrator.build(full_refresh=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *(
            ("top_", "did you mean 'top'"),
            ("raw.d", "no source 'raw.d'"),
            ("tag:none", "matches nothing in the project"),
        ),
        ("--vars=x", "no node '--vars=x'"),
    ],
)
def test_selection_that_matches_nothing_is_an_error(shop: Shop, name: str, said: str) -> None:
    shop.dbt.selectors["--vars=x"] = set(model("top"))  # dbt takes it for an option, and lists the whole project
    with pytest.raises(LineageError, match=said):
        shop.build(name)


# Flags ------------------------------------------------------------------------------------------------------


def test_full_refresh_is_handed_to_dbt_in_that_build_alone(shop: Shop) -> None:
    assert shop.build("daily", full_refresh=True) == model("daily")
    assert shop.dbt.flags[-1] == ("--full-refresh",)
    assert shop.report.stale_below == model("report")
    shop.orchestrator.build()
    assert shop.dbt.flags[-1] == ()


def test_old_batches_are_no_good_build_of_the_model_but_what_reads_it_is_stale(shop: Shop) -> None:
    before = shop.orchestrator.ledger.snapshot().nodes[model("daily")[0]]
    shop.load("raw.c")
    assert shop.build("daily", event_time_start="2026-01-05", event_time_end="2026-01-07") == model("daily")
    assert shop.dbt.flags[-1] == (
        "--event-time-start",
        "2026-01-05T00:00:00",
        "--event-time-end",
        "2026-01-07T00:00:00",
    )
    assert shop.orchestrator.ledger.snapshot().nodes[model("daily")[0]] == before
    assert shop.report.stale_below == model("report")
    assert set(shop.due) == set(model("stg_c", "daily", "report")), "what was loaded is not built by old batches"


def test_batches_up_to_now_are_a_good_build(shop: Shop) -> None:
    shop.load("raw.c")
    shop.build("raw.c", event_time_start="2026-01-20", event_time_end="2026-02-02")
    assert shop.due == []


def test_old_batches_that_fail_do_not_hold_the_model(shop: Shop) -> None:
    shop.dbt.failing = set(model("daily"))
    shop.build("daily", event_time_start="2026-01-05", event_time_end="2026-01-07")
    assert list(shop.report.failed) == model("daily")
    assert not shop.orchestrator.ledger.snapshot().failures


@pytest.mark.parametrize(
    ("select", "asked", "said"),
    [
        ("daily", {"event_time_start": "2026-01-01"}, "two ends"),
        ("daily", {"event_time_start": "2026-01-02", "event_time_end": "2026-01-01"}, "is not before"),
        ("daily", {"event_time_start": "today", "event_time_end": "2026-01-01"}, "is no time"),
        ("stg_a", {"event_time_start": "2026-01-01", "event_time_end": "2026-01-02"}, "none is selected"),
        ("daily", {"event_time_start": "2026-01-01", "event_time_end": "2026-01-02", "full_refresh": True}, "alone"),
    ],
)
def test_flags_that_go_ill_together_are_refused(shop: Shop, select: str, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        shop.build(select, **asked)


# The lock ---------------------------------------------------------------------------------------------------


def test_build_by_hand_waits_for_the_lock_and_says_for_whom(shop: Shop, tmp_path: Path) -> None:
    ledger = Ledger(shop.orchestrator.project.ledger_url, project="shop", target="dev")
    with ledger.build_lock("the nightly load") as held:
        assert held
        built: list[str] = []
        thread = threading.Thread(target=lambda: built.extend(shop.build("stg_a", force=True)))
        thread.start()
        deadline = time.monotonic() + 20
        while not shop.said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not built
    thread.join(timeout=20)
    assert built == model("stg_a")
    assert "the nightly load builds now; waiting until it is done" in shop.said[0]
    ledger.close()


def test_load_that_found_the_lock_taken_is_built_after_the_selection(shop: Shop) -> None:
    def load_and_leave() -> None:
        shop.dbt.before_build = lambda: None
        shop.load("raw.c")
        assert shop.orchestrator.build().busy

    shop.dbt.before_build = load_and_leave
    assert shop.build("top", force=True) == model("top")
    assert any("left their build to this call" in each for each in shop.said)
    assert shop.due == []
    assert [set(each) for each in shop.dbt.built[-2:]] == [set(model("top")), set(model("stg_c", "daily", "report"))]


def test_what_a_load_hands_over_is_built_by_whoever_builds_by_hand(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    # It took the lock while the load that hands over gave others the time to, and is to build its selection alone.
    began, may_end = threading.Event(), threading.Event()

    def build_until_let() -> None:
        began.set()
        assert may_end.wait(10)

    shop.load("raw.a", "raw.c")
    shop.dbt.before_build = build_until_let
    by_hand = threading.Thread(target=shop.build, args=("stg_c",))

    def meanwhile(_: float) -> None:
        by_hand.start()
        assert began.wait(10)

    monkeypatch.setattr("lineage_orch.triggers.in_process.time.sleep", meanwhile)
    goes_on = others_go_on(shop.orchestrator.settings)
    monkeypatch.undo()
    may_end.set()
    by_hand.join()
    assert goes_on
    assert not shop.due


def test_load_that_left_is_built_although_the_selection_could_not_run(shop: Shop) -> None:
    def load_and_break() -> None:
        shop.dbt.before_build = lambda: None
        shop.load("raw.c")
        assert shop.orchestrator.build().busy
        raise DbtError("no connection today")

    shop.dbt.before_build = load_and_break
    with pytest.raises(DbtError, match="no connection today"):
        shop.build("top", force=True)
    assert shop.due == []
    assert "model.shop.top" in shop.dbt.built[-1], "what was forced may be half built"


def test_what_is_stale_and_not_selected_is_let_be_when_nobody_came(shop: Shop) -> None:
    shop.load("raw.b", "raw.c")
    shop.build("stg_a", force=True)
    assert set(shop.due) >= set(model("stg_b", "stg_c"))


# mark_stale -------------------------------------------------------------------------------------------------


def test_marked_nodes_are_built_by_the_next_build(shop: Shop) -> None:
    shop.dbt.selectors["tag:daily"] = {*model("stg_a", "top"), "test.shop.top_fits_stg_a"}
    assert shop.orchestrator.mark_stale(["tag:daily"]) == tuple(model("stg_a", "top"))
    assert set(shop.due) == set(model("stg_a", "mart_ab", "top"))
    shop.orchestrator.build()
    assert shop.due == []


def test_marked_node_stays_due_until_it_is_built_well(shop: Shop) -> None:
    shop.orchestrator.mark_stale(["top"])
    shop.dbt.failing = set(model("top"))
    shop.orchestrator.build()
    shop.clock.now += timedelta(days=1)
    shop.dbt.failing = set()
    assert shop.due == model("top")
    assert shop.orchestrator.build().built == model("top")
    assert shop.due == []


# dbt commands -----------------------------------------------------------------------------------------------


class TypedDbt:
    """Takes the place of the dbt executable: its ``results`` are what a command says of each node and test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.results: dict[str, str] = {}
        self.code = 0
        self.cut_short = False
        self.meanwhile: Callable[[], None] = lambda: None
        self.passed_on: list[tuple[str, ...]] = []
        monkeypatch.setattr("lineage_orch.orchestrator.dbt_for_commands", lambda *_: self)

    def command(
        self, args: Sequence[str], on_start: OnStart, on_result: OnResult, *, echo: logging.Logger
    ) -> tuple[int, Outcome]:
        echo.info("dbt says hello")
        results = [Result(unique_id, status, status) for unique_id, status in self.results.items()]
        for each in results:
            on_start(each.unique_id)
            self.meanwhile()
            on_result(each)
        return self.code, Outcome(results, self.cut_short)

    def pass_on(self, args: Sequence[str]) -> int:
        self.passed_on.append(tuple(args))
        return 3


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> TypedDbt:
    return TypedDbt(monkeypatch)


def run_dbt(shop: Shop, command: str) -> int:
    code, shop.report = shop.orchestrator.run_dbt(command.split(), progress=shop.said.append, echo=shop.said.append)
    return code


def test_typed_build_is_recorded_as_dbt_reports_it(shop: Shop, typed: TypedDbt) -> None:
    shop.load("raw.a", "raw.c")
    typed.code = 1
    typed.results = {"model.shop.stg_a": "success", "model.shop.stg_c": "error", "model.shop.daily": "skipped"}
    assert run_dbt(shop, "build -s stg_a stg_c daily") == 1
    assert shop.report.built == model("stg_a")
    assert shop.report.stale_below == model("mart_ab", "top")
    assert any(each.endswith("  dbt says hello") for each in shop.said)
    failures = shop.orchestrator.ledger.snapshot().failures
    assert list(failures) == model("stg_c")
    plan = shop.orchestrator.plan()
    assert not {*plan.build, *plan.held} & set(model("stg_a"))


def test_typed_build_of_node_whose_test_failed_or_did_not_end_is_not_recorded(shop: Shop, typed: TypedDbt) -> None:
    shop.load("raw.a")
    typed.code = 1
    typed.results = {"model.shop.stg_a": "success", "test.shop.top_fits_stg_a": "fail"}
    run_dbt(shop, "build -s stg_a")
    assert shop.report.built == []
    assert list(shop.orchestrator.ledger.snapshot().failures) == model("stg_a")
    shop.orchestrator.retry()
    typed.results = {"model.shop.stg_a": "success"}
    typed.cut_short = True
    run_dbt(shop, "build -s stg_a")
    assert shop.report.built == []
    run_dbt(shop, "run -s stg_a")
    assert shop.report.built == model("stg_a"), "run selects no tests"


def test_typed_test_records_nothing(shop: Shop, typed: TypedDbt) -> None:
    typed.code = 1
    typed.results = {"test.shop.top_fits_stg_a": "fail"}
    assert run_dbt(shop, "test") == 1
    assert not shop.orchestrator.ledger.snapshot().failures
    assert shop.due == []


def test_node_that_begins_and_is_killed_is_due(shop: Shop, typed: TypedDbt) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    typed.results = {"model.shop.stg_b": "success", "model.shop.top": "success"}
    typed.meanwhile = kill
    with pytest.raises(KeyboardInterrupt):
        run_dbt(shop, "build --full-refresh -s stg_b top")
    assert set(shop.due) == set(model("stg_b", "mart_ab", "top"))


def test_load_during_typed_build_is_news(shop: Shop, typed: TypedDbt) -> None:
    def load() -> None:
        typed.meanwhile = lambda: None
        shop.load("raw.b")
        assert shop.orchestrator.build().busy

    typed.results = {"model.shop.stg_b": "success"}
    typed.meanwhile = load
    run_dbt(shop, "build -s stg_b")
    assert shop.report.built == model("stg_b")
    assert set(shop.dbt.built[-1]) == set(model("stg_b", "mart_ab", "top")), "the load found the lock taken and left"
    assert shop.due == []


def test_typed_build_of_the_last_batches_is_a_good_build_only_if_no_more_are_due(shop: Shop, typed: TypedDbt) -> None:
    typed.results = {"model.shop.daily": "success"}
    shop.load("raw.c")
    shop.orchestrator.build(select=["stg_c"])
    shop.clock.now += timedelta(days=20)
    run_dbt(shop, "build -s daily")
    assert set(shop.due) == set(model("daily", "report")), "dbt by itself builds two days"
    run_dbt(shop, "build -s daily --event-time-start 2026-01-30 --event-time-end 2026-02-22")
    assert shop.due == model("report")


def test_command_that_only_asks_is_passed_on_without_the_ledger(shop: Shop, typed: TypedDbt) -> None:
    tick = shop.orchestrator.ledger.snapshot().tick
    assert run_dbt(shop, "ls -s stg_a+") == 3
    assert typed.passed_on == [("ls", "-s", "stg_a+")]
    assert shop.orchestrator.ledger.snapshot().tick == tick
    run_dbt(shop, "brew")
    assert "nothing is recorded" in shop.said[-1]


def test_typed_command_of_dbt_cloud_is_refused(shop: Shop) -> None:
    shop.orchestrator.settings = shop.orchestrator.settings.model_copy(update={"dbt": "dbt-cloud"})
    with pytest.raises(SettingsError, match="no commands that are typed"):
        shop.orchestrator.run_dbt(["build"])
