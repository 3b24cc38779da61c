"""Builds and dbt commands by hand, with real dbt on DuckDB."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lineage_orch import LineageError, Orchestrator
from tests.integration.real_prefect import wait_for
from tests.shop_project import Shop

pytestmark = pytest.mark.integration

DBT = Path(sys.executable).with_name("dbt")
Open = Callable[..., Orchestrator]


def names(ids: Any) -> set[str]:
    return {each.split(".")[-1] for each in ids}


@pytest.fixture
def opened(built_shop: Shop) -> Iterator[Open]:
    """Return a function that opens the project, of which everything was built once."""
    opened: list[Orchestrator] = []

    def open(**more: Any) -> Orchestrator:
        opened.append(Orchestrator(project_dir=built_shop.folder, **more))
        return opened[-1]

    yield open
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    "dbt",
    [
        pytest.param(None, id="in this process"),
        pytest.param(str(DBT), id="as a process", marks=pytest.mark.engine),
    ],
)
def test_selectors_are_those_of_dbt(built_shop: Shop, opened: Open, dbt: str | None) -> None:
    orchestrator = opened(dbt=dbt)
    report = orchestrator.build(select=["path:models/staging"], exclude=["stg_customers"], force=True)
    assert names(report.built) == {"stg_orders"}
    assert names(report.stale_below) == {"revenue", "order_count"}
    assert names(orchestrator.plan().build) == {"revenue", "order_count"}
    before = built_shop.built_at("stg_orders")
    assert names(orchestrator.build(select=["+revenue"], full_refresh=True).built) == {
        "stg_orders",
        "stg_customers",
        "revenue",
    }
    assert built_shop.built_at("stg_orders") > before
    with pytest.raises(LineageError, match="matches nothing"):
        orchestrator.build(select=["tag:none"])


@pytest.mark.engine
def test_typed_commands_are_recorded_as_dbt_reports_them(
    built_shop: Shop, opened: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    orchestrator = opened()
    said: list[str] = []
    code, report = orchestrator.run_dbt(["build", "-s", "stg_orders+", "--exclude", "order_count"], echo=said.append)
    assert code == 0
    assert names(report.built) == {"stg_orders", "revenue"}
    assert names(report.stale_below) == {"order_count"} == names(orchestrator.plan().build)
    assert any("Completed successfully" in each for each in said)

    built_shop.write_orders((1, 99, 10.0))  # of no customer
    code, report = orchestrator.run_dbt(["build", "-s", "stg_orders+"], echo=said.append)
    assert code == 1
    # The test reads stg_customers too, so dbt lets it keep back only what reads both.
    assert names(report.built) == {"order_count"}
    assert names(orchestrator.ledger.snapshot().failures) == {"stg_orders"}
    # Without tests it is built well, as `dbt_command = "run"` has it.
    code, report = orchestrator.run_dbt(["run", "-s", "stg_orders+"], echo=said.append)
    assert (code, names(report.built)) == (0, {"stg_orders", "revenue", "order_count"})
    assert orchestrator.plan().is_empty
    # A test that fails builds nothing.
    code, report = orchestrator.run_dbt(["test"], echo=said.append)
    assert (code, report.built) == (1, [])
    assert orchestrator.plan().is_empty

    capfd.readouterr()
    assert orchestrator.run_dbt(["ls", "-s", "stg_orders+", "--resource-type", "model", "--quiet"])[0] == 0
    assert capfd.readouterr().out.split() == [
        "shop.marts.order_count",
        "shop.staging.paid_orders",
        "shop.marts.revenue",
        "shop.staging.stg_orders",
    ]
    assert orchestrator.run_dbt(["build", "--no-such-option"], echo=said.append)[0] == 2


def test_interrupted_command_leaves_due_what_it_was_at(built_shop: Shop, opened: Open, tmp_path: Path) -> None:
    wait = tmp_path / "wait"
    wait.touch()
    command = [sys.executable, "-m", "lineage_orch.cli", "dbt", "--project-dir", str(built_shop.folder)]
    typed = subprocess.Popen(
        [*command, "--json", "--", "build", "-s", "stg_customers", "order_count", "--threads", "1"],
        env={**os.environ, "SHOP_WAIT": str(wait)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    ledger = opened().ledger
    wait_for("the slow model", lambda: "model.shop.order_count" in ledger.snapshot().debts)
    typed.send_signal(signal.SIGINT)
    out, err = typed.communicate(timeout=60)
    assert typed.returncode == 1, err
    assert out == ""
    assert "interrupted" in err
    assert names(opened().plan().build) >= {"order_count"}
    assert "model.shop.stg_customers" not in ledger.snapshot().debts, "it and its tests had ended well"


def test_answer_is_json_beside_what_dbt_says(built_shop: Shop) -> None:
    command = [sys.executable, "-m", "lineage_orch.cli", "dbt", "--project-dir", str(built_shop.folder), "--json"]
    ran = subprocess.run([*command, "--", "build", "-s", "revenue"], capture_output=True, text=True, check=True)
    answer = json.loads(ran.stdout)
    assert (answer["exit_code"], answer["built"]) == (0, ["model.shop.revenue"])
    assert "Completed successfully" in ran.stderr
