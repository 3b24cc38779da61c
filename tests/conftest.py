"""What every test stands on: no settings from outside, one Prefect server, one parsed dbt project."""

# ruff: noqa: E402 - the environment is set before Prefect and dbt read it

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator

# Before Prefect or dbt is imported: no telemetry from tests, and no profile, results or server of the developer's.
for _name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[_name]
os.environ.update(
    PREFECT_HOME=tempfile.mkdtemp(prefix="lineage_orch_prefect_"),
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DBT_SEND_ANONYMOUS_USAGE_STATS="false",
)

# In the background of a script SIGINT is ignored, and what a process ignores its children ignore too: those that a test
# interrupts would go on.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests rewrite modules within the same second, which bytecode would not notice.
sys.dont_write_bytecode = True

from pathlib import Path

import pytest
from coverage import Coverage

from lineage_orch.loads.following import followers_declared_meanwhile_forgotten

# By name, so that it is there with `-p no:lineage_orch` too.
from lineage_orch.pytest_plugin import prefect_server  # noqa: F401
from tests.shop_project import Shop

atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)


_NOT_OF_ONE_ROOM = (
    "tests/docs/",
    "tests/example/",
    "tests/faults/",
    "tests/test_backfill.py",
    "tests/test_by_hand.py",
    "tests/test_cutoff.py",
    "tests/test_failures.py",
    "tests/test_pauses.py",
    "tests/test_projects.py",
    "tests/test_windows.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that two processes end at about the same time; coverage is of the fast tests.

    The burst of loads (``slowest``) runs beside what takes little: a Prefect server on SQLite that shares its two cores
    with other servers and with dbt now and then stands still for a minute ("database is locked"); then all goes on.

    The tracer would slow dbt and Prefect down, and much of what slow tests run is in other processes anyway. Most of
    all it slows down what is repeated at random, and whole days of many rooms, whose lines the rooms' own tests reach.
    """

    def turn(item: pytest.Item) -> int:
        if item.get_closest_marker("slowest"):
            return 0
        if not item.get_closest_marker("integration"):
            return 1
        return 2 if item.get_closest_marker("slow") else 3

    items.sort(key=turn)
    for item in items:
        is_slow = item.get_closest_marker("integration") or item.get_closest_marker("drill")
        is_at_random = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if is_slow or is_at_random or item.nodeid.startswith(_NOT_OF_ONE_ROOM):
            item.add_marker("not_covered")
        elif not {"prefect_server", "real_prefect"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("quick")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let no tracer run during a test that is ``not_covered``, nor while its fixtures are set up.

    pytest-cov's own ``no_cover`` stops one of two: in a process of xdist's, the one of the process that started it runs
    below the process' own, and goes on when that stops (seen with 7.1).
    """
    stopped = []
    if item.get_closest_marker("not_covered"):
        while tracer := Coverage.current():
            tracer.stop()
            stopped.append(tracer)
    try:
        return (yield)
    finally:
        for tracer in reversed(stopped):
            tracer.start()


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No LINEAGE_ORCH_* or DBT_* of the developer's shell, and a working directory below no pyproject.toml."""
    for name in os.environ:
        if name.startswith(("LINEAGE_ORCH_", "DBT_")) and name != "DBT_SEND_ANONYMOUS_USAGE_STATS":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_followers_of_other_tests() -> Iterator[None]:
    """What a test declares to follow a model is unknown to the others."""
    with followers_declared_meanwhile_forgotten():
        yield


@pytest.fixture(autouse=True)
def no_modules_from_other_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that a test wrote and imported is gone after it: the next ``loads.py`` is another one."""
    before = frozenset(sys.modules)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    # Only of what is new: there are thousands of modules, and thousands of tests.
    for name in sys.modules.keys() - before:
        if _lies_in(sys.modules[name], folder):
            del sys.modules[name]


def _lies_in(module: object, folder: str) -> bool:
    known = getattr(module, "__dict__", {})
    try:
        places = [known.get("__file__"), *(known.get("__path__") or ())]  # a folder without __init__.py has a path
    except KeyError:
        return True  # a folder in a package that is gone: it cannot even say where it lies
    return any(str(place).startswith(folder) for place in places)


@pytest.fixture(scope="session")
def parsed_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dbt project of ``tests/shop``, parsed once; read-only."""
    from lineage_orch import Orchestrator

    folder = tmp_path_factory.mktemp("parsed") / "shop"
    shutil.copytree(Path(__file__).parent / "shop", folder)
    with Orchestrator(project_dir=folder) as orchestrator:
        # Not by dbt itself: beside the manifest it is noted what it was made from, and a copy of both is up to date.
        assert orchestrator.lineage.nodes
    return folder


@pytest.fixture(scope="session")
def first_built_shop(parsed_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parsed project with both sources loaded and everything built once; read-only."""
    from lineage_orch import Orchestrator

    folder = tmp_path_factory.mktemp("built") / "shop"
    shutil.copytree(parsed_shop, folder)
    with Orchestrator(project_dir=folder) as orchestrator:
        orchestrator.record(["crm.orders", "crm.customers"])
        report = orchestrator.build()
    assert report.ok, report
    return folder


@pytest.fixture
def no_other_producers(monkeypatch: pytest.MonkeyPatch) -> None:
    """This test's producers are the only ones of the process: those of other tests load sources of their own."""
    monkeypatch.setattr("lineage_orch.loads.declaration._declared", {})


@pytest.fixture
def shop(parsed_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_other_producers: None) -> Shop:
    """A copy of the parsed project for one test; the settings of the environment point to it."""
    return _copy(parsed_shop, tmp_path, monkeypatch)


@pytest.fixture
def built_shop(
    first_built_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_other_producers: None
) -> Shop:
    """A copy of the project in which everything was built once; the settings of the environment point to it."""
    return _copy(first_built_shop, tmp_path, monkeypatch)


def _copy(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    folder = tmp_path / "shop"
    shutil.copytree(original, folder)  # with the files' times, so nothing is parsed again
    monkeypatch.setenv("LINEAGE_ORCH_PROJECT_DIR", str(folder))
    return Shop(folder)
