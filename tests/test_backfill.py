"""`lineage-orch backfill`: windows of the past, recorded by hand and built slice by slice."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from lineage_orch.builds.backfill import slices
from lineage_orch.cli.app import main
from lineage_orch.errors import LineageError, SettingsError
from tests.manifests import node
from tests.test_windows import DAY, SHOP, Shop, day


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, *SHOP, node("plain", "raw.b"))


def ran(shop: Shop, name: str) -> list[str]:
    return [str(window) for each, window in shop.dbt.ran if each == name]


def test_source_is_backfilled_slice_by_slice(shop: Shop) -> None:
    lines: list[str] = []
    done = shop.orchestrator.backfill("raw.a", "2026-01-05", "2026-01-20", size=7 * DAY, progress=lines.append)
    of_slices = ["2026-01-05 to 2026-01-12", "2026-01-12 to 2026-01-19", "2026-01-19 to 2026-01-20"]
    assert ran(shop, "daily") == ran(shop, "below") == of_slices
    assert (list(map(str, done.done)), done.known, done.left) == (of_slices, [], [])
    assert "Slice 2 of 3: 2026-01-12 to 2026-01-19" in lines
    assert shop.orchestrator.plan().is_empty
    assert not ran(shop, "other")


def test_backfill_that_was_done_is_done_once(shop: Shop) -> None:
    for _ in range(2):
        done = shop.orchestrator.backfill("raw.a", "2026-01-05", "2026-01-19", size=7 * DAY)
    assert (len(done.known), done.done) == (2, [])
    assert len(ran(shop, "daily")) == 2
    assert shop.orchestrator.backfill("raw.a", "2026-01-05", "2026-01-19", size=7 * DAY, again=True).done
    assert len(ran(shop, "daily")) == 4
    assert not shop.orchestrator.backfill("raw.b", "2026-01-05", "2026-01-19", size=7 * DAY).known, "another source"


def test_backfill_goes_on_where_it_failed(shop: Shop) -> None:
    shop.dbt.before_build = lambda: shop.dbt.failing.update({"model.shop.daily"} if len(shop.dbt.commands) == 2 else ())
    done = shop.orchestrator.backfill("raw.a", "2026-01-05", "2026-01-26", size=7 * DAY)
    assert ran(shop, "daily") == ["2026-01-05 to 2026-01-12"]
    assert (done.ok, list(map(str, done.left))) == (False, ["2026-01-19 to 2026-01-26"])
    shop.dbt.failing = set()
    shop.orchestrator.retry()
    done = shop.orchestrator.backfill("raw.a", "2026-01-05", "2026-01-26", size=7 * DAY)
    assert (done.ok, len(done.known), len(done.done)) == (True, 2, 1)
    assert ran(shop, "daily")[1:] == ["2026-01-12 to 2026-01-26"], "with what is still due"
    assert shop.orchestrator.plan().is_empty


def test_what_was_recorded_and_not_built_is_built_when_it_is_called_again(shop: Shop) -> None:
    shop.dbt.failing = {"model.shop.daily"}
    assert not shop.orchestrator.backfill("raw.a", "2026-01-05", "2026-01-12").ok
    shop.dbt.failing = set()
    assert not shop.orchestrator.backfill("raw.a", "2026-01-05", "2026-01-12").ok, "it waits, for it failed just now"
    shop.orchestrator.retry()
    assert shop.orchestrator.backfill("raw.a", "2026-01-05", "2026-01-12").ok
    assert ran(shop, "daily") == ["2026-01-05 to 2026-01-12"]


def test_model_is_backfilled_with_what_is_below_it(shop: Shop) -> None:
    for _ in range(2):
        done = shop.orchestrator.backfill("daily", "2026-01-05", "2026-01-07", size=DAY)
    assert ran(shop, "daily") == ran(shop, "below") == ["2026-01-05 to 2026-01-06", "2026-01-06 to 2026-01-07"]
    assert (done.node, len(done.known)) == ("model.shop.daily", 2)
    assert "model.shop.stg_a" not in {each for built in shop.dbt.built[-2:] for each in built}
    assert shop.orchestrator.plan().is_empty


def test_unrelated_failure_does_not_stop_backfill(shop: Shop) -> None:
    shop.dbt.failing = {"model.shop.other"}
    shop.load("raw.b", day(0))
    shop.build()
    assert shop.orchestrator.backfill("raw.a", "2026-01-05", "2026-01-19", size=7 * DAY).ok


@pytest.mark.parametrize(
    ("name", "times", "why"),
    [
        ("daily", ("2026-01-05", "2026-01-05"), "is of no time"),
        ("daily", ("soon", "2026-01-05"), "start 'soon' is no time"),
        ("report", ("2026-01-04", "2026-01-05"), "report is no microbatch model"),
    ],
)
def test_backfill_of_nothing_is_refused(shop: Shop, name: str, times: tuple[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        shop.orchestrator.backfill(name, *times)


def test_backfill_of_unknown_name_is_refused(shop: Shop) -> None:
    for name in ("raw.z", "zzz"):
        with pytest.raises(LineageError, match=name):
            shop.orchestrator.backfill(name, "2026-01-04", "2026-01-05")


def test_slices_fill_window() -> None:
    for size in (None, DAY, 3 * DAY, 40 * DAY, timedelta(hours=7)):
        parts = slices(day(20, of=10), size)
        assert (parts[0].start, parts[-1].end) == day(20, of=10)
        assert all(one.end == then.start for one, then in pairwise(parts))
        assert all(size is None or part.end - part.start <= size for part in parts)


def test_command(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lineage_orch.orchestrator.choose_dbt", lambda *_: shop.dbt)
    monkeypatch.setattr("lineage_orch.orchestrator.Ledger", lambda *_, **__: shop.orchestrator.ledger)
    monkeypatch.setattr(shop.orchestrator.ledger, "close", lambda: None)
    common = ["--project-dir", str(tmp_path), "--manifest", str(tmp_path / "manifest.json")]
    monkeypatch.delenv("COLUMNS", raising=False)
    span = ["--from", "2026-01-05", "--to", "2026-01-19", "--slice", "1w"]
    assert main(["backfill", "raw.a", *span, *common]) == 0
    assert "Backfilled raw.a in 2 slices." in capsys.readouterr().out
    assert main(["backfill", "raw.a", *span, *common, "--json"]) == 0
    assert [each["start"] for each in json.loads(capsys.readouterr().out)["known"]] == [
        "2026-01-05T00:00:00+00:00",
        "2026-01-12T00:00:00+00:00",
    ]
    assert main(["backfill", "raw.a", *span[:-1], "weekly", *common]) == 2
    assert "--slice 'weekly' is no span of time" in capsys.readouterr().err
    assert main(["history", *common]) == 0
    assert "raw.a (2026-01-05 to 2026-01-12)" in capsys.readouterr().out
