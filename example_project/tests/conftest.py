"""What the example's tests stand on: where its dbt project is, and a stand-in for the API that it loads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[1]
# Where the loads' own imports count from, as they do when the example is run.
sys.path.insert(0, str(EXAMPLE))


def pytest_configure(config: pytest.Config) -> None:
    """Make the plugin's marker known where the plugin is left out."""
    if not config.pluginmanager.has_plugin("lineage_orch"):
        config.addinivalue_line("markers", "produces(*sources): of the pytest plugin of lineage_orch")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without the plugin (`-p no:lineage_orch`) there are no fixtures to write these tests with."""
    if not config.pluginmanager.has_plugin("lineage_orch"):
        for item in items:
            if item.path.is_relative_to(EXAMPLE):
                item.add_marker(pytest.mark.skip(reason="needs the pytest plugin of lineage_orch"))


@pytest.fixture(scope="session")
def lineage_orch_project() -> Path:
    """The tests are run from anywhere, and always mean this project."""
    return EXAMPLE / "ints" / "dbt" / "flows"


@pytest.fixture(scope="session")
def api() -> Iterator[str]:
    """The API, served on this machine."""
    import api_server

    with api_server.serve() as base_url:
        yield base_url


@pytest.fixture(autouse=True)
def surroundings(api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test loads from the stand-in, into raw files of its own; dbt reads them there."""
    monkeypatch.setenv("DUMMYJSON_BASE_URL", api)
    monkeypatch.setenv("EXAMPLE_RAW_DIR", str(tmp_path / "raw"))
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
