"""What a run tells Prefect: which events, about what, by which run; and that it fails nothing."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from lineage_orch.deployed import run_artifacts, run_events
from lineage_orch.deployed.lateness import tell
from lineage_orch.deployed.run_artifacts import source_keys
from lineage_orch.deployed.telling import RunTeller
from lineage_orch.errors import LedgerUnavailableError
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.testing import FakeDbt
from lineage_orch.updates import SourceUpdate
from tests.manifests import manifest, node, source

LOGGER = logging.getLogger("run")
A, B = "source.shop.raw.a", "source.shop.raw.b"
STG, MART, HELD = "model.shop.stg", "model.shop.mart", "model.shop.held"
# raw.a -> stg -> mart; raw.b -> held
MANIFEST = manifest(
    source("raw.a"),
    source("raw.b"),
    node("stg", "raw.a", database="db", schema="main", alias="stg", relation_name='"db"."main"."stg"'),
    node(
        "mart",
        "stg",
        database="db",
        schema="main",
        alias="mart",
        config={"meta": {"lineage_orch": {"late_after": "2h"}}},
    ),
    node("held", "raw.b", config={"state": {"lag_tolerance": "8h"}}),
)


class Clock:
    now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


Emitted = list[dict[str, Any]]


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> Emitted:
    found: Emitted = []

    def emit(event: str, **rest: Any) -> None:
        found.append({"event": event, **rest})

    monkeypatch.setattr(run_events, "emit_event", emit)
    return found


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Orchestrator, FakeDbt]:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop: {target: prod, outputs: {prod: {type: duckdb, threads: 1}}}\n")
    (tmp_path / "m.json").write_text(json.dumps(MANIFEST))
    dbt = FakeDbt(lambda: Lineage.from_manifest(tmp_path / "m.json"))
    made = Orchestrator(
        project_dir=tmp_path, manifest=tmp_path / "m.json", dbt=dbt, ledger="sqlite://", clock=Clock(), target="prod"
    )
    return made, dbt


def run(orchestrator: Orchestrator, *loads: SourceUpdate) -> None:
    teller = RunTeller(orchestrator, None, LOGGER)
    orchestrator.record(loads)
    teller.loads()
    teller.build(orchestrator.build())


def load(source: str, update_id: str, flow_run_id: str | None = "11", fingerprint: str | None = None) -> SourceUpdate:
    return SourceUpdate(source, update_id, datetime.now(UTC), flow_run_id, "export", fingerprint)


def told(emitted: Emitted) -> list[tuple[str, str]]:
    return [(each["event"], each["resource"]["prefect.resource.id"]) for each in emitted]


def roles(event: dict[str, Any]) -> dict[str, str]:
    return {each["prefect.resource.id"]: each["prefect.resource.role"] for each in event["related"]}


def test_each_load_and_each_build_is_an_event(opened: tuple[Orchestrator, FakeDbt], emitted: Emitted) -> None:
    orchestrator, _ = opened
    run(orchestrator, load("raw.a", "1"), load("raw.b", "1", "12"))
    materialized = "prefect.asset.materialization.succeeded"
    assert told(emitted) == [
        ("lineage_orch.source.updated", f"lineage_orch.{A}"),
        (materialized, "duckdb://db/raw/a"),
        ("lineage_orch.source.updated", f"lineage_orch.{B}"),
        (materialized, "duckdb://db/raw/b"),
        ("lineage_orch.node.built", f"lineage_orch.{STG}"),
        (materialized, "duckdb://db/main/stg"),
        ("lineage_orch.node.built", f"lineage_orch.{MART}"),
        (materialized, "duckdb://db/main/mart"),
        ("lineage_orch.node.held", f"lineage_orch.{HELD}"),
    ]
    updated, asset, *_, built, of_node, mart, of_mart, held = emitted
    assert roles(of_mart)["duckdb://db/main/stg"] == "asset"
    assert updated["resource"]["prefect.resource.name"] == "raw.a"
    assert updated["resource"]["lineage_orch.project"] == "shop"
    assert updated["resource"]["lineage_orch.target"] == "prod"
    assert updated["payload"]["producer"] == "export"
    assert roles(updated) == {"prefect.flow-run.11": "load"}
    # A load and the models downstream of it, in one graph of assets.
    assert roles(asset) == {"prefect.flow-run.11": "flow-run", "export": "asset-materialized-by"}
    assert roles(of_node) == {"duckdb://db/raw/a": "asset", "dbt": "asset-materialized-by"}
    assert roles(built) == roles(mart) == {f"lineage_orch.{A}": "source", "prefect.flow-run.11": "load"}
    assert mart["payload"]["after"] >= 0
    assert (held["payload"]["reason"], held["payload"]["text"]) == (
        "lag_tolerance",
        "held is held: state.lag_tolerance",
    )


def test_load_is_told_once_and_only_if_it_brought_anything(
    opened: tuple[Orchestrator, FakeDbt], emitted: Emitted
) -> None:
    orchestrator, _ = opened
    run(orchestrator, load("raw.a", "1", fingerprint="same"))
    emitted.clear()
    run(orchestrator, load("raw.a", "1"), load("raw.a", "2", fingerprint="same"))
    assert told(emitted) == []
    # What was recorded beside any run is told by the next one; what was told is told by no other.
    orchestrator.record([load("raw.b", "3")])
    one, other = RunTeller(orchestrator, None, LOGGER), RunTeller(orchestrator, None, LOGGER)
    for teller in (one, other, one):
        teller.loads()
    assert [name for name, _ in told(emitted)].count("lineage_orch.source.updated") == 1


def test_failure_and_what_is_held_again(opened: tuple[Orchestrator, FakeDbt], emitted: Emitted) -> None:
    orchestrator, dbt = opened
    run(orchestrator, load("raw.b", "1"))
    emitted.clear()
    dbt.failing, dbt.messages = {MART}, {MART: "Binder Error:\n no column x"}
    run(orchestrator, load("raw.a", "1"))
    [failed] = [each for each in emitted if each["event"] == "lineage_orch.node.failed"]
    assert failed["payload"] == {
        "node": MART,
        "message": "Binder Error: no column x",
        "text": "mart failed: Binder Error: no column x",
    }
    assert roles(failed) == {f"lineage_orch.{A}": "source", "prefect.flow-run.11": "load"}
    # What waits for other loads, was told by the run that brought them; and what waits for the failure is not held.
    assert "lineage_orch.node.held" not in {name for name, _ in told(emitted)}


def test_late_and_recovered_are_events(opened: tuple[Orchestrator, FakeDbt], emitted: Emitted) -> None:
    orchestrator, dbt = opened
    dbt.failing = {MART}
    orchestrator.record([load("raw.a", "1")])
    orchestrator.build()
    clock: Any = orchestrator._clock
    clock.now += timedelta(hours=3)
    for _ in range(2):
        tell(orchestrator, LOGGER)
    dbt.failing = set()
    orchestrator.build()
    for _ in range(2):
        tell(orchestrator, LOGGER)
    assert told(emitted) == [
        ("lineage_orch.node.late", f"lineage_orch.{MART}"),
        ("lineage_orch.node.recovered", f"lineage_orch.{MART}"),
    ]
    assert emitted[0]["payload"]["late_by"] == pytest.approx(3600, abs=5)
    assert roles(emitted[0]) == {f"lineage_orch.{A}": "source"}


def test_run_emits_so_many_events(
    opened: tuple[Orchestrator, FakeDbt],
    emitted: Emitted,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(run_events, "MOST_EVENTS", 3)
    run(opened[0], load("raw.a", "1"))
    assert len(emitted) <= 5, "so many of the loads, and of the build"
    assert "One run emits 3 events at most" in caplog.text


def test_sources_have_one_key_each() -> None:
    keys = source_keys([A, "source.shop.raw.a_b", "source.shop.raw_a.b", "source.shop.RAW.Ü"], "shop-dev")
    assert keys[A] == "lineage-orch-loads-shop-dev-raw-a"
    assert len(set(keys.values())) == 4
    assert all(key.replace("-", "").isalnum() and key.islower() and key.isascii() for key in keys.values())


def test_api_that_fails_costs_the_artifacts_and_one_line(
    opened: tuple[Orchestrator, FakeDbt],
    emitted: Emitted,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    orchestrator, _ = opened
    calls: list[str] = []

    class Api:
        def __enter__(self) -> Api:
            return self

        def __exit__(self, *_: object) -> None: ...

        def create_artifact(self, artifact: Any) -> None:
            calls.append(artifact.key)
            raise httpx.ConnectError("All connection attempts failed")

    monkeypatch.setattr(run_artifacts, "get_client", lambda **_: Api())
    teller = RunTeller(orchestrator, uuid4(), LOGGER)
    orchestrator.record([load("raw.a", "1")])
    teller.build(orchestrator.build())
    assert calls == ["lineage-orch-build-shop-prod"]
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == (
        "Prefect takes no artifacts of this run, which did what its log says: All connection attempts failed"
    )


def test_ledger_that_cannot_be_read_any_more_fails_no_run(
    opened: tuple[Orchestrator, FakeDbt],
    emitted: Emitted,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    orchestrator, _ = opened
    teller = RunTeller(orchestrator, None, LOGGER)
    report = orchestrator.build()

    def away(*_: Any, **__: Any) -> Any:
        raise LedgerUnavailableError("the ledger is away")

    monkeypatch.setattr(orchestrator.ledger, "change_mark", away)
    teller.loads()
    teller.build(report)
    assert "What this run did is not told to Prefect: the ledger is away" in caplog.text
    assert emitted == []
