"""Loads that say in which event times all that is new lies: just these batches are built, and none is left out."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.dbt.engine import OnResult, Outcome, Result
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.plan import plan_graph
from lineage_orch.plan.windows import batch_begin, batches_in
from lineage_orch.reports.status import short_names
from lineage_orch.reports.tables import plan_parts, plan_to_dict, show
from lineage_orch.reports.wording import explanation_lines
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import SourceUpdate, Window
from tests.manifests import manifest, node, source

DAY = timedelta(days=1)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def batches(name: str, *parents: str, size: str = "day", lookback: int = 1, **config: Any) -> dict[str, Any]:
    of_batches = {"incremental_strategy": "microbatch", "batch_size": size, "lookback": lookback, "begin": "2026-01-01"}
    return node(name, *parents, materialized="incremental", config={**of_batches, **config})


class Warehouse(FakeDbt):
    """A dbt whose tables hold one value for each day: which versions of its sources' days it was made of.

    ``ran`` holds the days of each microbatch model that was built, in order.
    """

    def __init__(self, lineage: Lineage, clock: Clock) -> None:
        super().__init__(lineage)
        self.project = lineage
        self.clock = clock
        self.tables: dict[str, dict[datetime, Any]] = {}
        self.ran: list[tuple[str, Window]] = []

    @property
    def days(self) -> list[datetime]:
        """The days up to now."""
        return [BEGIN + number * DAY for number in range((self.clock.now - BEGIN).days + 1)]

    def build(
        self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        def make_first(result: Result) -> None:
            if result.status == "success" and result.unique_id in self.project.nodes:
                self.make(result.unique_id, flags)
            on_result(result)

        return super().build(select, exclude, make_first, flags)

    def make(self, unique_id: str, flags: Sequence[str]) -> None:
        whole = self.read(unique_id)
        model = self.project.microbatch(unique_id)
        if model is None:
            self.tables[unique_id] = whole
            return
        begin = BEGIN if unique_id not in self.tables else self.clock.now - model.lookback * DAY
        span = Window(min(begin, batch_begin(self.clock.now, model.batch_size, back=model.lookback)), self.clock.now)
        if "--event-time-start" in flags:
            times = [datetime.fromisoformat(f"{flags[number]}+00:00") for number in (1, 3)]
            span = Window(*times)
        elif unique_id not in self.tables:
            span = Window(BEGIN, self.clock.now)
        span = batches_in(span, model.batch_size)
        self.ran.append((unique_id.rpartition(".")[2], span))
        table = self.tables.setdefault(unique_id, {})
        table.update({day: value for day, value in whole.items() if span.start <= day < span.end})

    def read(self, unique_id: str) -> dict[datetime, Any]:
        """What a node makes of its parents as they are now."""
        graph = plan_graph(self.project)
        parents = [self.rows(graph.ids[each]) for each in graph.parents[graph.index[unique_id]]]
        rows = {day: tuple(parent.get(day) for parent in parents) for day in self.days}
        return {day: row for day, row in rows.items() if set(row) != {None}}

    def rows(self, unique_id: str) -> dict[datetime, Any]:
        found = self.project.nodes.get(unique_id)
        is_view = found is not None and found.materialized == "view"
        return self.read(unique_id) if is_view else self.tables.get(unique_id, {})

    def contents(self, lineage: Lineage, nodes: Any) -> dict[str, str]:
        return {node: repr(sorted(self.tables[node].items())) for node in nodes}

    def assert_true(self) -> None:
        """Every table is what a build of everything makes of its parents, which are so too."""
        for unique_id in self.project.nodes:
            assert self.rows(unique_id) == self.read(unique_id), unique_id


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Shop:
    """A project whose sources were all loaded and whose nodes are all built."""

    def __init__(self, folder: Path, *resources: dict[str, Any], **settings: Any) -> None:
        (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
        (folder / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
        path = folder / "manifest.json"
        path.write_text(json.dumps(manifest(*resources)))
        self.clock = Clock()
        self.dbt = Warehouse(Lineage.from_manifest(path), self.clock)
        self.orchestrator = Orchestrator(
            project_dir=folder, manifest=path, dbt=self.dbt, clock=self.clock, **{"ledger": "sqlite://", **settings}
        )
        self.loads = 0
        for each in self.dbt.project.sources:
            self.load(each.partition(".shop.")[2], Window(BEGIN, self.clock.now))
        self.orchestrator.build()
        assert self.orchestrator.plan().is_empty
        self.dbt.ran.clear()
        self.dbt.commands.clear()
        self.dbt.flags.clear()

    def load(self, name: str, new: Window, window: Window | None = None) -> None:
        """Let the days of ``new`` be others in a source, and record that with a window, or without one."""
        self.loads += 1
        table = self.dbt.tables.setdefault(f"source.shop.{name}", {})
        table.update({day: self.loads for day in self.dbt.days if new.start <= day < new.end})
        start, end = window or (None, None)
        update = SourceUpdate(name, str(self.loads), self.clock.now, window_start=start, window_end=end)
        self.orchestrator.record([update])

    def load_late(self, name: str, *ago: int) -> None:
        for each in ago:
            self.load(name, day(each), day(each))

    def build(self, **more: Any) -> list[tuple[str, str]]:
        """Build, and return which batches ran."""
        self.dbt.ran.clear()
        self.report = self.orchestrator.build(**more)
        return [(name, str(span)) for name, span in self.dbt.ran]

    def assert_true(self) -> None:
        assert self.orchestrator.plan().is_empty
        self.dbt.assert_true()


def day(ago: int, *, of: int = 1) -> Window:
    first = START.replace(hour=0) - ago * DAY
    return Window(first, first + of * DAY)


# raw.a -> stg_a -> daily -> report -> below      raw.b -> other
SHOP = (
    source("raw.a"),
    source("raw.b"),
    node("stg_a", "raw.a"),
    batches("daily", "stg_a"),
    node("report", "daily"),
    batches("below", "report", lookback=0),
    batches("other", "raw.b"),
)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, *SHOP)


def test_late_day_is_built_and_only_it(shop: Shop) -> None:
    shop.load_late("raw.a", 20)
    assert shop.build() == [("daily", "2026-02-09 to 2026-02-10"), ("below", "2026-02-09 to 2026-02-10")]
    assert shop.dbt.flags == [("--event-time-start", "2026-02-09T00:00:00", "--event-time-end", "2026-02-10T00:00:00")]
    shop.assert_true()


def test_loads_that_came_together_are_built_as_their_hull(shop: Shop) -> None:
    shop.load_late("raw.a", 20, 18)
    assert shop.build() == [("daily", "2026-02-09 to 2026-02-12"), ("below", "2026-02-09 to 2026-02-12")]
    shop.assert_true()


def test_day_that_dbt_builds_by_itself_needs_no_flags(shop: Shop) -> None:
    shop.load_late("raw.b", 1)
    assert shop.build() == [("other", "2026-02-28 to 2026-03-02")]
    assert shop.dbt.flags == [()]
    shop.assert_true()


def test_late_day_beside_a_load_without_window_is_not_forgotten(shop: Shop) -> None:
    shop.load("raw.b", day(0))
    assert shop.build() == [("other", "2026-02-28 to 2026-03-02")], "as dbt does by itself"
    shop.load("raw.b", day(0))
    shop.load_late("raw.b", 4)
    assert shop.build() == [("other", "2026-02-25 to 2026-03-02")]
    shop.assert_true()


def test_models_with_other_windows_run_after_each_other_in_two_calls(shop: Shop) -> None:
    shop.load_late("raw.a", 20)
    shop.load_late("raw.b", 9)
    assert sorted(shop.build()) == [
        ("below", "2026-02-09 to 2026-02-10"),
        ("daily", "2026-02-09 to 2026-02-10"),
        ("other", "2026-02-20 to 2026-02-21"),
    ]
    assert shop.report.runs == 2
    assert shop.orchestrator.plan().is_empty
    shop.load_late("raw.a", 20)
    shop.load_late("raw.b", 20)
    shop.build()
    assert shop.report.runs == 1


def test_window_reaches_what_was_held_meanwhile(tmp_path: Path) -> None:
    """A model that was built while the late day waited at its parent takes it in when that is built at last."""
    held = {"freshness": {"build_after": {"count": 2, "period": "day"}}}
    shop = Shop(
        tmp_path,
        source("raw.a"),
        source("raw.b"),
        node("slow", "raw.a", config=held),
        batches("daily", "slow", "raw.b"),
    )
    shop.load_late("raw.a", 20)
    shop.load_late("raw.b", 10)
    assert shop.build() == [("daily", "2026-02-19 to 2026-02-20")]
    shop.clock.now += 3 * DAY
    assert shop.build() == [("daily", "2026-02-09 to 2026-02-10")]


def test_window_of_paused_source_is_taken_in_with_others(tmp_path: Path) -> None:
    shop = Shop(tmp_path, source("raw.a"), source("raw.b"), batches("daily", "raw.a", "raw.b"))
    shop.orchestrator.pause(["raw.a"])
    shop.load_late("raw.a", 20)
    assert shop.build() == []
    shop.load_late("raw.b", 10)
    assert shop.build() == [("daily", "2026-02-09 to 2026-02-20")]
    shop.orchestrator.resume(["raw.a"])
    shop.assert_true()


def test_failed_window_is_still_due(shop: Shop) -> None:
    shop.dbt.failing = {"model.shop.daily"}
    shop.load_late("raw.a", 20)
    assert shop.build() == []
    shop.dbt.failing = set()
    shop.load_late("raw.a", 22)
    shop.orchestrator.retry()
    assert shop.build()[0] == ("daily", "2026-02-07 to 2026-02-10")
    shop.assert_true()


def test_users_own_event_times_win(tmp_path: Path) -> None:
    flags = ("--event-time-start", "2026-02-01", "--event-time-end", "2026-03-02")
    shop = Shop(tmp_path, *SHOP, dbt_flags=flags)
    shop.load_late("raw.a", 20)
    shop.load_late("raw.b", 9)
    shop.build()
    assert shop.dbt.flags == [()]
    assert shop.report.runs == 1


def test_old_batches_by_hand_do_not_take_in_late_days(shop: Shop) -> None:
    shop.load_late("raw.b", 20)
    shop.build(select=["other"], event_time_start="2026-02-25", event_time_end="2026-03-02")
    assert [each.rpartition(".")[2] for each in shop.orchestrator.plan().build] == ["other"]
    shop.build()
    shop.assert_true()


def test_batches_by_hand_are_due_in_what_reads_them(shop: Shop) -> None:
    shop.build(select=["daily"], event_time_start="2026-02-05", event_time_end="2026-02-06")
    assert shop.build() == [("below", "2026-02-05 to 2026-02-06")]


def test_plan_says_window(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.load_late("raw.a", 20)
    plan = shop.orchestrator.plan()
    assert {each.rpartition(".")[2]: str(extent) for each, extent in plan.batches.items()} == dict.fromkeys(
        ("daily", "below"), "2026-02-09 to 2026-02-10"
    )
    names = short_names(shop.dbt.project)
    show(plan_parts(plan, names, START, "build"))
    assert "raw.a, 2026-02-09 to 2026-02-10" in capsys.readouterr().out
    assert plan_to_dict(plan)["batches"]["model.shop.daily"] == {
        "start": "2026-02-09T00:00:00+00:00",
        "end": "2026-02-10T00:00:00+00:00",
        "is_open": False,
    }
    why = shop.orchestrator.explain("daily")
    assert "What is new for it lies in 2026-02-09 to 2026-02-10." in explanation_lines(why)
    assert why.to_dict()["batches"]["end"] == "2026-02-10T00:00:00+00:00"
    shop.load("raw.a", day(0))
    assert "What is new for it lies in 2026-02-09 to 2026-02-10, and elsewhere." in explanation_lines(
        shop.orchestrator.explain("daily")
    )
    shop.build()
    assert shop.orchestrator.explain("daily").batches is None


def test_plan_says_what_is_built_after_that(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.load_late("raw.a", 20)
    shop.load_late("raw.b", 9)
    plan = shop.orchestrator.plan()
    later = set(plan_to_dict(plan)["later"])
    assert later == {f"model.shop.{each}" for each in ("daily", "report", "below")} or later == {"model.shop.other"}
    show(plan_parts(plan, short_names(shop.dbt.project), START, "build"))
    assert "Then, with batches of its own" in capsys.readouterr().out
    states = {each.unique_id: each.state for each in shop.orchestrator.status().nodes}
    assert {states[each] for each in (*plan.build, *later)} == {"due"}
    assert {shop.orchestrator.explain(each).verdict for each in later} == {"build"}


def test_history_says_windows(shop: Shop) -> None:
    shop.load_late("raw.b", 9)
    shop.build()
    said = [each.to_dict() for each in shop.orchestrator.history(["other", "raw.b"], since=START - DAY)[:2]]
    assert [(each["kind"], each["window"]["start"]) for each in said] == [
        ("built", "2026-02-20T00:00:00+00:00"),
        ("loaded", "2026-02-20T00:00:00+00:00"),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_tables_are_always_those_of_a_full_build(tmp_path: Path, seed: int) -> None:
    """Whatever is loaded, in whatever windows, fails, waits or is built by hand: no day is left out in the end."""
    dice = random.Random(seed)
    sources = [f"raw.s{number}" for number in range(dice.randint(1, 3))]
    resources, names = [source(each) for each in sources], list[str]()
    for number in range(dice.randint(3, 7)):
        parents = dice.sample([*sources, *names], k=min(dice.randint(1, 2), len(sources) + len(names)))
        config: dict[str, Any] = dice.choice(
            [
                {},
                {},
                {"meta": {"lineage_orch": {"cutoff": True}}},
                {"freshness": {"build_after": {"count": 1, "period": "day"}}},
            ]
        )
        if dice.random() < 0.5:
            size = dice.choice(["day", "day", "month"])
            resources.append(batches(f"n{number}", *parents, size=size, lookback=dice.randint(0, 3), **config))
        else:
            resources.append(node(f"n{number}", *parents, materialized=dice.choice(["table", "view"]), config=config))
        names.append(f"n{number}")
    shop = Shop(tmp_path, *resources, views=dice.choice(["build", "pass_through"]) if seed % 2 else "build")
    for _ in range(25):
        what = dice.random()
        ago = dice.randint(0, 50)
        if what < 0.35:
            window = Window(
                *sorted((batch_begin(shop.clock.now - ago * DAY, "day"), batch_begin(shop.clock.now, "day") + DAY))[:2]
            )
            window = Window(window.start, min(window.start + dice.randint(1, 4) * DAY, window.end))
            shop.load(dice.choice(sources), window, window)
        elif what < 0.5:
            shop.load(dice.choice(sources), Window(batch_begin(shop.clock.now, "day"), shop.clock.now))
        elif what < 0.6:
            shop.clock.now += DAY
        elif what < 0.7:
            shop.dbt.failing = {f"model.shop.{each}" for each in dice.sample(names, k=dice.randint(0, 2))}
        elif what < 0.8:
            shop.build(select=[dice.choice(names)], force=dice.random() < 0.3)
        else:
            shop.build()
    shop.dbt.failing = set()
    shop.orchestrator.retry()
    shop.clock.now += 2 * DAY
    for each in sources:
        shop.load(each, Window(shop.clock.now - 2 * DAY, shop.clock.now))
    shop.build()
    shop.clock.now += DAY
    shop.build()
    shop.assert_true()
