"""The parts of other packages that they do not promise to keep: here it fails when one is gone, and says which."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lineage_orch.dbt import compat


def test_prefect_dbt_still_makes_its_callback_where_we_listen() -> None:
    from prefect_dbt import PrefectDbtRunner

    assert callable(getattr(PrefectDbtRunner, compat.CALLBACK, None))


def test_prefect_dbt_still_asks_its_settings_for_profile() -> None:
    from prefect_dbt import PrefectDbtSettings

    assert callable(getattr(PrefectDbtSettings, "resolve_profiles_yml", None))


def test_dbt_duckdb_can_still_be_told_to_close_its_file() -> None:
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    assert callable(DuckDBConnectionManager.env)
    assert callable(DuckDBConnectionManager.close_all_connections)


def test_dbt_still_lists_relations_and_keeps_its_adapters() -> None:
    from dbt.adapters.base import BaseAdapter
    from dbt.adapters.factory import FACTORY, get_adapter_by_type

    assert isinstance(FACTORY.adapters, dict)
    assert callable(get_adapter_by_type)
    assert callable(BaseAdapter.list_relations)


def test_runner_without_listening_is_said_and_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Runner:
        pass

    runner: Any = Runner
    assert compat.listening_runner(runner, lambda event: None) is Runner
    assert "nodes are recorded when the whole dbt command has ended" in caplog.text


def test_listener_hears_each_event_before_prefect_does() -> None:
    heard: list[str] = []

    class Runner:
        def _create_unified_callback(self, *args: Any, **kwargs: Any) -> Any:
            return lambda event: heard.append(f"prefect {event}")

    runner: Any = Runner
    listening: Any = compat.listening_runner(runner, lambda event: heard.append(f"we {event}"))
    listening()._create_unified_callback(1, a=2)("e")
    assert heard == ["we e", "prefect e"]


def test_dbt_duckdb_that_cannot_be_told_is_said_in_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = SimpleNamespace(DuckDBConnectionManager=object)
    monkeypatch.setitem(sys.modules, "dbt.adapters.duckdb.connections", other)
    with caplog.at_level(logging.WARNING):
        compat.close_duckdb()
    assert "stays locked for other processes" in caplog.text


def test_duckdb_modules_are_emptied_at_exit() -> None:
    ending = """
import atexit, logging, sys, types
from lineage_orch.dbt import compat
module = sys.modules["dbt.adapters.duckdb.connections"] = types.ModuleType("dbt.adapters.duckdb.connections")
module.held = object()
atexit.register(lambda: print("held:", module.held))  # runs after what is registered later
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
compat._forget_duckdb_at_exit()
"""
    said = subprocess.run([sys.executable, "-c", ending], capture_output=True, text=True, check=True).stdout
    assert "modules are emptied" in said
    assert "held: None" in said


def test_settings_in_place_use_plain_profile_where_it_lies(tmp_path: Path) -> None:
    from dbt_common.events.base_types import EventLevel
    from prefect_dbt import PrefectDbtSettings

    (tmp_path / "profiles.yml").write_text("p: {outputs: {}}")
    settings = compat.settings_in_place(PrefectDbtSettings)(
        profiles_dir=tmp_path, project_dir=tmp_path, log_level=EventLevel.INFO
    )
    with settings.resolve_profiles_yml() as folder:
        assert Path(folder) == tmp_path
