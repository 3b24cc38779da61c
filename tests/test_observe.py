"""``Orchestrator.observe``: a look at the sources, and what the ledger keeps of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.errors import DbtError, LedgerUnavailableError
from lineage_orch.ledger import Ledger
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import SourceUpdate
from tests.manifests import manifest, node, source

A, B = "source.shop.raw.a", "source.shop.raw.b"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop:\n  target: dev\n  outputs:\n    dev: {type: duckdb}\n")
    (tmp_path / "manifest.json").write_text(
        json.dumps(manifest(source("raw.a"), source("raw.b"), node("stg_a", "raw.a"), node("stg_b", "raw.b")))
    )
    return tmp_path


@pytest.fixture
def dbt(project: Path) -> FakeDbt:
    dbt = FakeDbt(Lineage.from_manifest(project / "manifest.json"))
    dbt.now = lambda: NOW
    return dbt


Open = Callable[..., Orchestrator]


@pytest.fixture
def opened(project: Path, dbt: FakeDbt) -> Open:
    def opened(**settings: Any) -> Orchestrator:
        return Orchestrator(
            project_dir=project, manifest=project / "manifest.json", dbt=dbt, clock=lambda: NOW, **settings
        )

    return opened


def ticks(orchestrator: Orchestrator) -> dict[str, int]:
    return dict(orchestrator.ledger.snapshot().sources)


def test_load_that_nothing_reported_is_built_once(opened: Open, dbt: FakeDbt) -> None:
    orchestrator = opened()
    dbt.loaded = {A: ago(hours=2), B: ago(hours=1)}
    first = orchestrator.observe()
    assert first.recorded == {A: ago(hours=2), B: ago(hours=1)}
    assert set(orchestrator.build().built) == {"model.shop.stg_a", "model.shop.stg_b"}
    before = ticks(orchestrator)
    again = orchestrator.observe()
    assert (again.recorded, again.tick, ticks(orchestrator)) == ({}, None, before)
    assert again.lines({}) == ["Nothing new in 2 sources."]
    dbt.loaded[A] = ago(minutes=5)
    assert opened().observe().recorded == {A: ago(minutes=5)}
    assert orchestrator.build().built == ["model.shop.stg_a"]
    assert [update.update_id for _, update in orchestrator.ledger.recent_updates(1)] == [
        "observed:2026-03-01T11:55:00+00:00"
    ]


def test_look_that_dies_before_it_records_loses_nothing(
    opened: Open, dbt: FakeDbt, monkeypatch: pytest.MonkeyPatch
) -> None:
    dbt.loaded = {A: ago(hours=2), B: ago(hours=1)}

    def dies(*_: object, **__: object) -> int:
        raise LedgerUnavailableError("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "record_updates", dies)
        with pytest.raises(LedgerUnavailableError):
            opened().observe()
    assert ticks(opened()) == {}
    assert set(opened().observe().recorded) == {A, B}
    # One that dies after it has recorded, before anything was built: the next records nothing, and it is still stale.
    assert opened().observe().recorded == {}
    assert set(opened().plan().build) == {"model.shop.stg_a", "model.shop.stg_b"}


def test_two_looks_at_once_record_once(opened: Open, dbt: FakeDbt) -> None:
    dbt.loaded = {A: ago(hours=2)}
    look = dbt.source_freshness

    def while_another_looks(*args: Any) -> Any:
        found = look(*args)
        dbt.source_freshness = look  # type: ignore[method-assign]
        opened().observe()
        return found

    dbt.source_freshness = while_another_looks  # type: ignore[method-assign]
    orchestrator = opened()
    orchestrator.observe()
    assert len(orchestrator.ledger.recent_updates()) == 1


def test_producer_s_sources_are_left_to_it_unless_asked_for(opened: Open, dbt: FakeDbt) -> None:
    orchestrator = opened()
    orchestrator.record([SourceUpdate("raw.a", "flow", ago(hours=1), producer="load")])
    tick = ticks(orchestrator)[A]
    dbt.loaded = {A: ago(minutes=30), B: ago(minutes=30)}
    assert orchestrator.observe().asked == (B,)
    assert ticks(orchestrator)[A] == tick
    assert orchestrator.observe(also_produced=True).recorded == {A: ago(minutes=30)}
    dbt.loaded[A] = ago(minutes=20)
    assert orchestrator.observe(["raw.a"]).recorded == {A: ago(minutes=20)}
    # What the flow itself loads next was seen when it completed.
    orchestrator.record([SourceUpdate("raw.a", "flow 2", ago(minutes=5), producer="load")])
    dbt.loaded[A] = ago(minutes=7)
    assert orchestrator.observe(["raw.a"]).recorded == {}


def test_adopted_warehouse_is_no_news(opened: Open, dbt: FakeDbt) -> None:
    dbt.loaded = {A: ago(hours=2), B: ago(seconds=-1)}
    orchestrator = opened(settle=0)
    orchestrator.adopt()
    assert orchestrator.observe().recorded == {B: ago(seconds=-1)}


def test_id_that_was_pruned_is_not_news_again(opened: Open, dbt: FakeDbt) -> None:
    dbt.loaded = {A: ago(hours=2)}
    orchestrator = opened(keep_days=1)
    orchestrator.observe()
    orchestrator.build()
    orchestrator.ledger.prune(now=NOW + timedelta(days=30))
    assert orchestrator.observe().recorded == {}


def test_errors_of_some_do_not_stop_the_others(opened: Open, dbt: FakeDbt) -> None:
    dbt.loaded, dbt.unreadable = {A: ago(hours=2)}, {B: "Catalog Error: no table b"}
    seen = opened().observe()
    assert (set(seen.recorded), seen.errors) == ({A}, {B: "Catalog Error: no table b"})
    assert seen.complaints({B: "raw.b"}) == ["raw.b could not be looked at: Catalog Error: no table b"]


def test_file_of_a_dbt_that_ran_elsewhere(opened: Open, dbt: FakeDbt, tmp_path: Path) -> None:
    path = tmp_path / "sources.json"
    row = {"unique_id": A, "status": "pass", "max_loaded_at": "2026-03-01T10:00:00Z"}
    # Young when it was looked at, however old the file is.
    young = row | {"unique_id": B, "max_loaded_at": "2026-03-01T10:59:30Z"}
    rows = [each | {"snapshotted_at": "2026-03-01T11:00:00Z"} for each in (row, young)]
    path.write_text(json.dumps({"results": rows}))
    seen = opened().observe(sources_json=path)
    assert (seen.recorded, set(seen.young)) == ({A: ago(hours=2)}, {B})
    with pytest.raises(DbtError, match="no such"):
        opened().observe(sources_json=tmp_path / "no such.json")


def test_nothing_to_look_at_asks_nothing(opened: Open, dbt: FakeDbt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbt, "source_freshness", None)
    orchestrator = opened()
    orchestrator.register_producers(["raw.*"])
    assert orchestrator.observe().asked == ()
