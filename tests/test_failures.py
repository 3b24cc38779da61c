"""What fails costs little: retries within a build, the wait after a failure, and tests that run alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.dbt import retries
from lineage_orch.dbt.engine import OnResult, Outcome, Result
from lineage_orch.errors import BuildFailedError, DbtError, SettingsError
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import SourceUpdate
from tests.manifests import manifest, node, source

# raw.a -> stg_a -> mart -> top      raw.b -> stg_b
SHOP = (
    source("raw.a"),
    source("raw.b"),
    node("stg_a", "raw.a"),
    node("stg_b", "raw.b"),
    node("mart", "stg_a"),
    node("top", "mart"),
    node("unique_stg_a", "stg_a", kind="test"),
    node("unique_mart", "mart", kind="test"),
)
DEADLOCK = "Database Error in model mart (models/mart.sql)\n  deadlock detected"


def model(*names: str) -> list[str]:
    return [f"model.shop.{name}" for name in names]


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Shop:
    """An orchestrator of a project that can be edited, its dbt, its clock, and how long it slept."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
        (folder / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
        self.path = folder / "manifest.json"
        self.write(*SHOP)
        self.clock = Clock()
        self.dbt = FakeDbt(lambda: Lineage.from_manifest(self.path))
        self.orchestrator = Orchestrator(
            project_dir=folder, manifest=self.path, dbt=self.dbt, clock=self.clock, **settings
        )

    def write(self, *resources: dict[str, Any]) -> None:
        self.path.write_text(json.dumps(manifest(*resources)))

    def edit(self, name: str) -> None:
        """Change the code of a node."""
        nodes = [dict(each) for each in SHOP]
        for each in nodes:
            if each["name"] == name:
                each["checksum"] = {"name": "sha256", "checksum": "corrected"}
        self.write(*nodes)

    def fail_test_of_mart(self) -> int:
        """Load, and build with a test on ``mart`` that fails; returns the tick of that build."""
        self.orchestrator.record(["raw.a"])
        self.dbt.failing = {"test.shop.unique_mart"}
        assert self.orchestrator.build().built == model("stg_a")
        return self.orchestrator.ledger.snapshot().failures["model.shop.mart"].tick

    def change_results(self, change: Callable[[Result], Result]) -> None:
        """Let dbt end otherwise than it is told to."""
        build = self.dbt.build

        def changed(select: Any, exclude: Any, on_result: OnResult, *flags: Any) -> Outcome:
            outcome = build(select, exclude, lambda each: on_result(change(each)), *flags)
            return replace(outcome, results=[change(each) for each in outcome.results])

        self.dbt.build = changed  # type: ignore[method-assign]

    def later(self) -> None:
        """Let all waits after failures be over."""
        self.clock.now += timedelta(hours=7)

    @property
    def failures(self) -> set[str]:
        return set(self.orchestrator.ledger.snapshot().failures)


MakeShop = Callable[..., Shop]


@pytest.fixture
def make(tmp_path: Path) -> MakeShop:
    return lambda **settings: Shop(tmp_path, **settings)


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(retries, "sleep", slept.append)
    return slept


# Retries within a build -------------------------------------------------------------------------------------


def test_transient_failure_costs_one_node_and_is_no_failure(make: MakeShop, slept: list[float]) -> None:
    shop = make()
    shop.dbt.failing, shop.dbt.messages = set(model("mart")), dict.fromkeys(model("mart"), DEADLOCK)
    shop.dbt.before_build = lambda: shop.dbt.failing.clear() if len(shop.dbt.commands) == 2 else None
    shop.orchestrator.record(["raw.a", "raw.b"])
    lines: list[str] = []
    report = shop.orchestrator.build(progress=lines.append)
    assert report.ok
    assert shop.dbt.built == [model("stg_a", "stg_b"), model("mart", "top")], "what was skipped comes with it"
    assert slept == [10]
    assert list(report.retried) == model("mart")
    assert shop.failures == set()
    assert any(line.startswith("Failed for a reason that may pass, and tried again in 10 seconds") for line in lines)
    assert "1 tried again (mart)" in report.summary()


def test_node_that_fails_again_is_recorded_once(make: MakeShop) -> None:
    shop = make(node_retries=2, node_retry_delay=0)
    shop.dbt.failing, shop.dbt.messages = set(model("mart")), dict.fromkeys(model("mart"), DEADLOCK)
    shop.orchestrator.record(["raw.a"])
    report = shop.orchestrator.build()
    assert list(report.failed) == model("mart")
    assert len(shop.dbt.commands) == 3
    assert report.blocked == model("top")
    assert shop.orchestrator.ledger.snapshot().failures["model.shop.mart"].count == 1


@pytest.mark.parametrize("settings", [{"node_retries": 0}, {}])
def test_failure_that_lasts_is_not_tried_again(make: MakeShop, settings: dict[str, Any], slept: list[float]) -> None:
    shop = make(**settings)
    shop.dbt.failing = set(model("mart"))
    shop.dbt.messages = dict.fromkeys(model("mart"), DEADLOCK if settings else "Compilation Error in model mart")
    shop.orchestrator.record(["raw.a"])
    assert not shop.orchestrator.build().ok
    assert (len(shop.dbt.commands), slept) == (1, [])


def test_failure_that_lasts_beside_a_transient_one_is_not_tried_with_it(make: MakeShop) -> None:
    shop = make()
    shop.dbt.failing, shop.dbt.messages = set(model("mart", "stg_b")), dict.fromkeys(model("mart"), DEADLOCK)
    shop.dbt.before_build = lambda: shop.dbt.failing.discard("model.shop.mart") if shop.dbt.built[1:] else None
    shop.orchestrator.record(["raw.a", "raw.b"])
    report = shop.orchestrator.build()
    assert shop.dbt.built == [model("stg_a"), model("mart", "top")]
    assert (list(report.failed), shop.failures) == (model("stg_b"), set(model("stg_b")))


def test_reasons_of_the_user_pass_too(make: MakeShop) -> None:
    shop = make(retry_on="ORA-03113")
    shop.dbt.failing, shop.dbt.messages = set(model("mart")), dict.fromkeys(model("mart"), "ORA-03113: end of file")
    shop.dbt.before_build = lambda: shop.dbt.failing.clear() if shop.dbt.built[1:] else None
    shop.orchestrator.record(["raw.a"])
    assert shop.orchestrator.build().ok


def test_reason_that_is_no_regular_expression_is_an_error_of_the_settings(make: MakeShop) -> None:
    with pytest.raises(SettingsError, match=r"setting retry_on .*'\(' is no regular expression"):
        make(retry_on=["("])


def test_dbt_that_could_not_start_is_started_again(make: MakeShop, slept: list[float]) -> None:
    shop = make()
    shop.orchestrator.record(["raw.b"])

    def locked() -> None:
        if len(shop.dbt.commands) == 1:
            raise DbtError('`dbt build` could not run: IO Error: Could not set lock on file "w.duckdb"')

    shop.dbt.before_build = locked
    report = shop.orchestrator.build()
    assert (report.built, report.runs, slept) == (model("stg_b"), 2, [10])

    shop.orchestrator.record(["raw.b"])
    shop.dbt.before_build = lambda: (_ for _ in ()).throw(DbtError("there is no dbt"))
    with pytest.raises(DbtError, match="there is no dbt"):
        shop.orchestrator.build()
    assert slept == [10]


# Failures that are carried along, and the history -----------------------------------------------------------


def test_build_that_only_carries_old_failures_is_red_where_that_is_asked_for(make: MakeShop) -> None:
    shop = make()
    shop.dbt.failing = set(model("mart"))
    shop.orchestrator.record(["raw.a"])
    shop.orchestrator.build()
    report = shop.orchestrator.build()
    assert report.ok
    said = "1 node failed in builds before, and is not tried again yet: model.shop.mart (it was told to)"
    assert report.carried() == said
    report.raise_for_failures()
    with pytest.raises(BuildFailedError, match=re.escape(said)):
        report.raise_for_failures(carried=True)


def test_history_tells_what_happened_and_by_whom(make: MakeShop) -> None:
    shop = make()
    shop.dbt.failing = set(model("mart"))
    start = shop.clock.now
    shop.orchestrator.record([SourceUpdate("raw.a", "1", start, producer="export")])
    shop.orchestrator.build(who="nightly")
    shop.dbt.failing.clear()
    shop.later()
    shop.orchestrator.build(who="by hand")
    found = shop.orchestrator.history(since=start)
    assert [(each.kind, each.unique_id.rpartition(".")[2], (each.by or "").split(",")[0]) for each in found] == [
        ("built", "top", "by hand"),
        ("built", "mart", "by hand"),
        ("built", "stg_a", "nightly"),
        ("failed", "mart", "nightly"),
        ("loaded", "a", "export"),
    ]
    assert [each.kind for each in shop.orchestrator.history(["mart"], since=start)] == ["built", "failed"]
    assert [each.message for each in shop.orchestrator.history(["mart"], since=start)] == [None, "it was told to"]
    assert shop.orchestrator.history(since=shop.clock.now + timedelta(hours=1)) == []


# Tests alone ------------------------------------------------------------------------------------------------


def test_node_whose_test_failed_is_only_tested_again(make: MakeShop) -> None:
    shop = make()
    built = shop.fail_test_of_mart()
    shop.later()
    plan = shop.orchestrator.plan()
    assert (plan.tests_only, plan.build) == (("model.shop.mart",), ("model.shop.top",))

    shop.orchestrator.build()  # fails still
    shop.later()
    shop.dbt.failing.clear()
    report = shop.orchestrator.build()
    assert shop.dbt.built == [model("stg_a", "mart"), [], model("top")]
    assert (report.tested, report.built) == (model("mart"), model("top"))
    facts = shop.orchestrator.ledger.snapshot().nodes
    assert facts["model.shop.mart"].tick == built, "at the tick of the run that built it"
    assert facts["model.shop.top"].tick > built
    assert shop.failures == set()
    assert shop.orchestrator.plan().is_empty


def test_node_with_nothing_below_it_costs_its_tests_alone(make: MakeShop) -> None:
    shop = make()
    shop.write(*(each for each in SHOP if each["name"] != "top"))
    shop.fail_test_of_mart()
    shop.dbt.failing.clear()
    shop.orchestrator.retry()
    report = shop.orchestrator.build()
    assert shop.dbt.commands[-1] == ("fqn:shop.mart,resource_type:test",)
    assert (shop.dbt.built[-1], report.summary()) == ([], "1 now passed its tests.")


def test_load_while_a_node_waits_for_its_tests_is_not_lost(make: MakeShop) -> None:
    shop = make()
    shop.fail_test_of_mart()
    shop.later()
    shop.dbt.failing.clear()
    # During the run of the tests.
    shop.dbt.before_build = lambda: shop.orchestrator.record(["raw.a"]) if len(shop.dbt.commands) == 2 else None
    shop.orchestrator.build()
    assert shop.dbt.built == [model("stg_a", "mart"), model("top"), model("stg_a", "mart", "top")]


def new_data(shop: Shop) -> None:
    shop.orchestrator.record(["raw.a"])


def changed_code(shop: Shop) -> None:
    shop.edit("mart")


def asked_for(shop: Shop) -> None:
    shop.orchestrator.ledger.ask_for(model("mart"), reason="by hand")


def gone_relation(shop: Shop) -> None:
    shop.dbt.missing = set(model("mart"))


@pytest.mark.parametrize("happens", [new_data, changed_code, asked_for, gone_relation])
def test_node_is_built_again_for_more_than_its_tests(make: MakeShop, happens: Callable[[Shop], None]) -> None:
    shop = make()
    shop.fail_test_of_mart()
    shop.later()
    shop.dbt.failing.clear()
    happens(shop)
    report = shop.orchestrator.build()
    assert "model.shop.mart" in report.built
    assert report.tested == []


def test_build_that_fails_after_a_failed_test_leaves_nothing_to_test(make: MakeShop) -> None:
    """What is there then may be neither the one nor the other, also when the code is what it was."""
    shop = make()
    shop.fail_test_of_mart()
    shop.edit("mart")
    shop.dbt.failing = set(model("mart"))
    shop.orchestrator.build()
    shop.write(*SHOP)
    shop.later()
    shop.dbt.failing.clear()
    assert shop.orchestrator.plan().tests_only == ()
    assert shop.orchestrator.build().built == model("mart", "top")


def test_test_that_cannot_be_run_lets_its_node_be_built_again(make: MakeShop) -> None:
    """An engine that cannot tell which relations are gone would else test what is not there for ever."""
    shop = make()
    shop.fail_test_of_mart()
    shop.later()
    shop.change_results(lambda each: replace(each, status="error") if each.status == "fail" else each)
    shop.orchestrator.build()
    shop.later()
    assert shop.orchestrator.plan().build == ("model.shop.mart", "model.shop.top")


def test_corrected_test_runs_at_once_and_alone(make: MakeShop) -> None:
    shop = make()
    shop.fail_test_of_mart()
    assert shop.orchestrator.plan().held["model.shop.mart"].reason == "failing"
    shop.write(*(each for each in SHOP if each["name"] != "unique_mart"), node("unique_mart_2", "mart", kind="test"))
    assert shop.orchestrator.build().tested == model("mart")
    assert shop.dbt.built[1:] == [model("top")]


def test_node_whose_only_test_is_gone_needs_no_dbt(make: MakeShop) -> None:
    shop = make()
    shop.write(*(each for each in SHOP if each["name"] != "top"))
    shop.fail_test_of_mart()
    shop.write(*(each for each in SHOP if each["name"] not in ("top", "unique_mart")))
    report = shop.orchestrator.build()
    assert (report.tested, report.runs) == (model("mart"), 0)


def test_transient_failure_of_a_test_does_not_build_its_node_again(make: MakeShop) -> None:
    shop = make()
    shop.orchestrator.record(["raw.a"])
    shop.dbt.failing = {"test.shop.unique_mart"}
    shop.change_results(
        lambda each: replace(each, status="error", message="deadlock detected") if each.status == "fail" else each
    )
    shop.dbt.before_build = lambda: shop.dbt.failing.clear() if len(shop.dbt.commands) > 1 else None
    report = shop.orchestrator.build()
    assert shop.dbt.built == [model("stg_a", "mart"), model("top")]
    assert report.ok, report.failed
    assert report.tested == model("mart")


# A day with a broken node -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("loads", "most"), [(24, 10), pytest.param(272, 12, marks=pytest.mark.drill)])
@pytest.mark.parametrize("broken", ["model.shop.mart", "test.shop.unique_mart"])
def test_broken_node_in_a_day_of_loads(make: MakeShop, loads: int, most: int, broken: str) -> None:
    shop = make()
    shop.dbt.failing = {broken}
    neighbours = red = 0
    for _ in range(loads):
        shop.clock.now += timedelta(days=1) / loads
        shop.orchestrator.record(["raw.a", "raw.b"])
        report = shop.orchestrator.build()
        neighbours += report.built == model("stg_a", "stg_b")
        red += not report.ok
    assert neighbours == loads, "its neighbours are built every time"
    assert 5 <= red <= most, "and only these runs are red"

    shop.edit("mart")
    shop.dbt.failing.clear()
    assert shop.orchestrator.build().built == model("mart", "top"), "at once when its code is corrected"
