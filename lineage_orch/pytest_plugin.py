"""Fixtures that test a project's loads and models; pytest finds them by itself (``docs/testing-your-project.md``).

Nothing heavy is imported until a fixture is used: in a project that has nothing to do with dbt, this costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from lineage_orch.ledger import Ledger
    from lineage_orch.lineage import Lineage
    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.settings import LineageOrchSettings
    from lineage_orch.testing import Triggered
    from lineage_orch.testing.followed import Followed
    from lineage_orch.testing.project_copy import ProjectCopy

_MARKER = "produces"
# mypy takes the plain word for a type.
_ARGS: Literal["args"] = "args"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the ini values."""
    group = parser.getgroup("lineage_orch", "lineage_orch: dbt models and the flows that load their sources")
    group.addoption(
        "--lineage-orch-project-dir", metavar="DIR", help="The dbt project's folder, for lineage_orch's fixtures."
    )
    group.addoption(
        "--lineage-orch-producers",
        metavar="PLACE",
        action="append",
        help="A module, file or folder where producers are looked for; may be given several times.",
    )
    parser.addini("lineage_orch_project_dir", "The dbt project's folder, for lineage_orch's fixtures.", default="")
    parser.addini(
        "lineage_orch_producers",
        "Modules, files and folders where producers are looked for.",
        type=_ARGS,
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(*sources): the test fails unless the loads that it runs complete for exactly these dbt sources; "
        "nothing is built (lineage_orch).",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests with the marker the double of the trigger."""
    for item in items:
        names = getattr(item, "fixturenames", None)
        if names is not None and "triggered" not in names and item.get_closest_marker(_MARKER) is not None:
            names.append("triggered")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Compare what a test with the marker loaded with what the marker says."""
    result = yield
    marker = item.get_closest_marker(_MARKER)
    if marker is not None:
        double = getattr(item, "funcargs", {}).get("triggered")
        if double is None:
            pytest.fail(f"@pytest.mark.{_MARKER} stands on something that takes no fixtures", pytrace=False)
        with _plainly(f"@pytest.mark.{_MARKER}({', '.join(map(repr, marker.args))})"):
            double.assert_loaded(*marker.args)
    return result


@contextmanager
def _plainly(headline: str | None = None) -> Iterator[None]:
    """Say what is wrong with a project in its own words, without a traceback through the library."""
    from lineage_orch.errors import LineageOrchError

    wrong: str | None = None
    try:
        yield
    except LineageOrchError as error:
        wrong = f"{headline or type(error).__name__}: {error}"
    except AssertionError as error:
        if headline is None:
            raise
        wrong = f"{headline}: {error}"
    if wrong is not None:  # out of the except block, or pytest would show that error as well
        pytest.fail(wrong, pytrace=False)


# The project ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def lineage_orch_project(pytestconfig: pytest.Config) -> Path:
    """The folder of your dbt project.

    From --lineage-orch-project-dir, the ini value lineage_orch_project_dir, or the settings (LINEAGE_ORCH_PROJECT_DIR,
    [tool.lineage_orch] of pyproject.toml); else the nearest folder above with a dbt_project.yml. Override it in your
    conftest.py to say otherwise.
    """
    from lineage_orch.errors import SettingsError
    from lineage_orch.settings import LineageOrchSettings

    given, said_by = _project_dir(pytestconfig)
    with _plainly():
        folder = given or LineageOrchSettings().project_dir
        if folder is None:
            here = pytestconfig.invocation_params.dir
            places = (here, *here.parents, pytestconfig.rootpath)
            folder = next((each for each in places if (each / "dbt_project.yml").is_file()), None)
        if folder is None:
            raise SettingsError(
                f"no dbt project: no dbt_project.yml in {here}, {pytestconfig.rootpath} or above; name its folder with "
                f"lineage_orch_project_dir in {pytestconfig.inipath or 'pytest.ini'}, with --lineage-orch-project-dir, "
                "or as project_dir in [tool.lineage_orch] of pyproject.toml, or override the fixture "
                "lineage_orch_project"
            )
        if not (folder / "dbt_project.yml").is_file():
            raise SettingsError(
                f"no dbt project in {folder}: it has no dbt_project.yml; correct {said_by or 'the setting project_dir'}"
            )
    return folder.absolute()


def _project_dir(config: pytest.Config) -> tuple[Path | None, str]:
    option = config.getoption("--lineage-orch-project-dir")
    if option:
        return config.invocation_params.dir / option, "--lineage-orch-project-dir"
    ini = config.getini("lineage_orch_project_dir")
    if ini:
        return _ini_folder(config) / ini, f"lineage_orch_project_dir in {config.inipath}"
    return None, ""


def _ini_folder(config: pytest.Config) -> Path:
    return config.inipath.parent if config.inipath is not None else config.rootpath


@pytest.fixture(scope="session")
def lineage_orch_settings(pytestconfig: pytest.Config, lineage_orch_project: str | Path) -> LineageOrchSettings:
    """The settings of your project, as its own pyproject.toml and the environment say.

    ``[tool.lineage_orch]`` is looked for from the dbt project's folder upwards, then from where pytest was started.
    """
    from lineage_orch.settings import LineageOrchSettings

    project = Path(lineage_orch_project).absolute()
    overrides: dict[str, Any] = {"project_dir": project}
    option: list[str] | None = pytestconfig.getoption("--lineage-orch-producers")
    places: list[str] = option or pytestconfig.getini("lineage_orch_producers")
    if places:
        root = pytestconfig.invocation_params.dir if option else _ini_folder(pytestconfig)
        # A module's name is no path: it stays as it is.
        overrides["producers"] = tuple(str(root / each) if (root / each).exists() else each for each in places)
    with _plainly(), chdir(_settings_folder(project)):
        return LineageOrchSettings(**overrides)


def _settings_folder(project: Path) -> Path:
    from lineage_orch.settings import find_table

    return project if find_table(project) is not None else Path.cwd()


@pytest.fixture(scope="session")
def lineage_orch_manifest(lineage_orch_settings: LineageOrchSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest.json of your project as it stands now, parsed at most once per test run (pytest-xdist included).

    It is made in a temporary folder, and your ``target`` is not touched. The setting ``manifest`` names one to use as
    it is.
    """
    settings = lineage_orch_settings
    with _plainly():
        if settings.manifest is not None:
            return settings.manifest
        from lineage_orch.dbt.project import DbtProject

        with chdir(settings.project_dir or Path.cwd()):
            project = DbtProject.find(settings)
        return _parsed(project, settings, _shared_folder(tmp_path_factory))


def _shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of this test run share: those of xdist have theirs one below."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "lineage_orch"
    folder.mkdir(exist_ok=True)
    return folder


def _parsed(project: Any, settings: LineageOrchSettings, folder: Path) -> Path:
    import shutil
    from dataclasses import replace

    from filelock import FileLock

    from lineage_orch.dbt.choice import choose_dbt

    made = folder / "target" / "manifest.json"
    ready = folder / "manifest.json"
    with FileLock(folder / "manifest.lock"):
        if not ready.exists():
            if project.manifest_is_stale():
                made.parent.mkdir(exist_ok=True)
                with _environment(DBT_LOG_PATH=str(folder / "logs")):
                    choose_dbt(replace(project, target_path=made.parent), settings).parse()
                shutil.copyfile(made, folder / "manifest.part")
            else:
                shutil.copyfile(project.manifest_path, folder / "manifest.part")
            (folder / "manifest.part").replace(ready)
    return ready


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def lineage(lineage_orch_manifest: str | Path) -> Lineage:
    """Which models of your project are downstream of which source: a lineage_orch.Lineage."""
    from lineage_orch.lineage import Lineage

    with _plainly():
        return Lineage.from_manifest(lineage_orch_manifest)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A fresh, empty lineage_orch.Ledger in memory, for one test."""
    from lineage_orch.ledger import Ledger

    made = Ledger("sqlite://", project="tests", target="tests")
    yield made
    made.close()


# Loads ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server for this test session alone; if a prefect_test_harness is active already, that one."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with ExitStack() as stack:
        if not _harness_is_active():
            stack.enter_context(prefect_test_harness(server_startup_timeout=180))
        # Without heartbeats a flow run costs a tenth of a second instead of a whole one.
        stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        yield


def _harness_is_active() -> bool:
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL

    # The harness alone names its database so.
    database = PREFECT_SERVER_DATABASE_CONNECTION_URL.value()
    return bool(PREFECT_API_URL.value()) and str(database or "").endswith("/prefect-test.db")


@pytest.fixture
def triggered(request: pytest.FixtureRequest, prefect_server: None) -> Iterator[Triggered]:
    """Run loads for real, and nothing is built: see what they would have set off.

    ``triggered.sources``, ``.models``, ``.select``, ``.assert_loaded("a.b")``, ``.assert_builds({"model"})``,
    ``.assert_builds_nothing()``, ``.clear()``. The test also fails when a load names a source that the project lacks.
    """
    from lineage_orch.testing import Triggered
    from lineage_orch.triggers import using_trigger

    project: Lineage = request.getfixturevalue("lineage")
    double = Triggered(project)
    with using_trigger(double):
        yield double
    with _plainly():
        double.source_ids  # noqa: B018 - resolves all names, and says which is wrong


@pytest.fixture
def followed() -> Iterator[Followed]:
    """What follows models (``@follows``, exposures with a deployment) does not run: see what would have.

    ``followed.names``, ``.assert_ran("push-sales")``, ``.sources_of("push-sales")``, ``.clear()``.
    """
    from lineage_orch.followers.runs import using_double
    from lineage_orch.testing.followed import Followed

    double = Followed()
    with using_double(double):
        yield double


# Builds -----------------------------------------------------------------------------------------------------


@pytest.fixture
def lineage_orch_copy(
    lineage_orch_settings: LineageOrchSettings,
    lineage_orch_manifest: str | Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ProjectCopy]:
    """A copy of your dbt project for one test, with a DuckDB file of its own.

    ``.project_dir``, ``.warehouse`` (the file; put raw tables there), ``.settings``. For another adapter than DuckDB it
    fails, with what to do.
    """
    from lineage_orch.testing.project_copy import copy_project

    # Both would lead a copy back to where the original writes.
    with _plainly(), _environment(DBT_TARGET_PATH=None, DBT_LOG_PATH=None):
        with chdir(lineage_orch_settings.project_dir or Path.cwd()):
            copy = copy_project(
                lineage_orch_settings, tmp_path_factory.mktemp("lineage_orch"), manifest=Path(lineage_orch_manifest)
            )
        yield copy


@pytest.fixture
def orchestrator(request: pytest.FixtureRequest, lineage_orch_copy: ProjectCopy) -> Iterator[Orchestrator]:
    """A lineage_orch.Orchestrator on a throw-away copy of your project and its DuckDB target; dbt is real.

    Loads that complete in the test build there too, unless the test also uses ``triggered``.
    """
    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.triggers import InProcessTrigger, using_trigger

    with ExitStack() as stack:
        made = stack.enter_context(Orchestrator(lineage_orch_copy.settings))
        if "triggered" not in request.fixturenames:
            stack.enter_context(using_trigger(InProcessTrigger(lineage_orch_copy.settings)))
        yield made
