"""What fails costs little: retries within a build, the wait after a failure, and tests that run alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.dbt import retries
from lineage_orch.errors import DbtError, SettingsError
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.testing import FakeDbt
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
