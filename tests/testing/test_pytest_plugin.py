"""The fixtures, as a project that is not this one meets them: a repository of its own, run by its own pytest.

Most runs are in this process, and share its Prefect server; those that need a real dbt are processes of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import filelock  # noqa: F401
import networkx  # noqa: F401
import pytest
import yaml

import lineage_orch.producers  # noqa: F401

# Imported here, in the outer run: what an inner one imports first is forgotten when it ends, and imported again.
from lineage_orch.dbt.project import DbtProject
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.testing.project_copy import copy_project
from tests.manifests import manifest, node, source

pytest_plugins = ["pytester"]

# Hypothesis costs each inner run more than all else, and is used by none.
# In one process: what was imported before is not rewritten anew, and pytest warns of it now and then.
NOT_REWRITTEN = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
# The outer run takes warnings for errors, a user's run need not.
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-W", "default::UserWarning", "-W", NOT_REWRITTEN)
# What the tests before it left open is found in whichever run the garbage collector comes by.
QUICK += ("-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning")
SHOP = Path(__file__).parents[1] / "shop"
INI = """
[pytest]
lineage_orch_project_dir = dbt
lineage_orch_producers = loads.py
pythonpath = .
"""
LOADS = """
from prefect import flow
from lineage_orch import mark_updated, produces_source

@produces_source("raw.orders")
@flow
def orders(fail: bool = False, etag: str = ""):
    if etag:
        mark_updated("raw.orders", fingerprint=etag)
    if fail:
        raise ValueError("no connection")

@produces_source("raw.users", "raw.teams")
@flow
def users(teams: bool = True):
    if not teams:
        mark_updated("raw.users")

@produces_source("raw.nothing")
@flow
def nothing(): ...
"""
RESOURCES = (
    source("raw.orders"),
    source("raw.users"),
    source("raw.teams"),
    source("raw.nothing"),
    node("stg_orders", "raw.orders"),
    node("glass", "stg_orders", materialized="ephemeral"),
    node("stg_users", "raw.users"),
    node("stg_teams", "raw.teams"),
    node("mart", "glass", "stg_users"),
    node("lookup", kind="seed"),
)


@pytest.fixture
def repo(pytester: pytest.Pytester) -> pytest.Pytester:
    """A repository with a dbt project, whose manifest is up to date, and some loads."""
    dbt = pytester.mkdir("dbt")
    (dbt / "models").mkdir()
    (dbt / "target").mkdir()
    (dbt / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (dbt / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb, path: x.duckdb}}}\n")
    write_manifest(dbt, *RESOURCES)
    pytester.makeini(INI)
    (pytester.path / "loads.py").write_text(textwrap.dedent(LOADS))
    return pytester


def write_manifest(dbt: Path, *resources: dict[str, Any]) -> None:
    (dbt / "target" / "manifest.json").write_text(json.dumps(manifest(*resources)))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def run(repo: pytest.Pytester, tests: str, *args: str) -> pytest.RunResult:
    repo.makepyfile(test_it=textwrap.dedent(tests))
    made = repo.path / "dbt" / "target" / "manifest.json"
    if made.exists():
        os.utime(made)  # up to date, so that no dbt runs inside the inner run
    return repo.runpytest_inprocess(*QUICK, *args)


def said(result: pytest.RunResult) -> str:
    """What was printed, without the line breaks that pytest makes."""
    return result.stdout.str()


# What it costs, and what it brings --------------------------------------------------------------------------


def test_unrelated_project_pays_next_to_nothing() -> None:
    code = "import pytest, lineage_orch.pytest_plugin, sys; print(*sys.modules)"
    times = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
        )
        (line,) = re.findall(r"\| +(\d+) \| +lineage_orch\.pytest_plugin$", done.stderr, flags=re.M)
        times.append(int(line) / 1000)
        ours = {name for name in done.stdout.split() if name.startswith("lineage_orch")}
        assert ours == {"lineage_orch", "lineage_orch.pytest_plugin"}
    assert min(times) < 15, f"milliseconds: {times}"


def test_fixtures_and_marker_are_listed(repo: pytest.Pytester) -> None:
    listed = said(run(repo, "", "--fixtures"))
    for name in (
        "lineage_orch_project [session scope]",
        "lineage_orch_settings [session scope]",
        "lineage_orch_manifest [session scope]",
        "lineage [session scope]",
        "ledger",
        "orchestrator",
        "lineage_orch_copy",
        "prefect_server [session scope]",
        "triggered",
    ):
        assert f"{name} -- " in listed
    assert "no docstring available" not in listed.partition("lineage_orch.pytest_plugin")[2].partition("-- ")[0]
    assert "@pytest.mark.produces(*sources): the test fails unless" in said(run(repo, "", "--markers"))


def test_plugin_switched_off_hinders_nothing(repo: pytest.Pytester) -> None:
    (repo.path / "tox.ini").write_text("[pytest]\n")
    run(repo, "def test_x(): pass", "-p", "no:lineage_orch").assert_outcomes(passed=1)
    assert "fixture 'lineage' not found" in said(run(repo, "def test_x(lineage): pass", "-p", "no:lineage_orch"))


# The project ------------------------------------------------------------------------------------------------


def test_lineage_ledger_and_plan(repo: pytest.Pytester) -> None:
    result = run(
        repo,
        """
        from datetime import UTC, datetime
        from lineage_orch import SourceUpdate, plan_builds

        NOW = datetime(2026, 1, 1, tzinfo=UTC)

        def test_places(lineage_orch_project, lineage_orch_manifest, lineage_orch_settings, request):
            assert lineage_orch_project == request.config.rootpath / "dbt"
            assert lineage_orch_settings.project_dir == lineage_orch_project
            assert lineage_orch_settings.producers == (str(request.config.rootpath / "loads.py"),)
            assert not lineage_orch_manifest.is_relative_to(lineage_orch_project)

        def test_lineage(lineage):
            assert "model.shop.mart" in lineage.downstream("raw.orders")

        def test_plan(lineage, ledger):
            orders = lineage.resolve_source("raw.orders")
            ledger.record_updates([SourceUpdate(orders, "1", NOW)])
            plan = plan_builds(lineage, ledger.snapshot(), now=NOW)
            assert set(plan.build) == {"model.shop.stg_orders", "model.shop.stg_users", "model.shop.mart"}

        def test_each_test_has_its_own_ledger(ledger):
            assert ledger.snapshot().tick == 0
            test_plan_records(ledger)

        def test_plan_records(ledger):
            ledger.record_updates([SourceUpdate("source.shop.raw.orders", "1", NOW)])
            assert ledger.snapshot().tick == 1
        """,
    )
    result.assert_outcomes(passed=5)


def test_fixtures_of_project_override_ours(repo: pytest.Pytester) -> None:
    repo.makeconftest(
        """
        import pytest

        @pytest.fixture
        def lineage():
            return "their lineage"

        @pytest.fixture
        def ledger(tmp_path):
            return tmp_path / "their_ledger"
        """
    )
    result = run(
        repo,
        """
        def test_theirs(lineage, ledger):
            assert lineage == "their lineage"
            assert ledger.name == "their_ledger"
        """,
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("way", ["option", "ini", "environment", "pyproject", "conftest", "upwards"])
def test_project_can_be_named_in_all_ways(repo: pytest.Pytester, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args: list[str] = []
    (repo.path / "tox.ini").write_text(INI if way == "ini" else "[pytest]\n")
    if way == "option":
        args = ["--lineage-orch-project-dir", "dbt"]
    elif way == "environment":
        monkeypatch.setenv("LINEAGE_ORCH_PROJECT_DIR", "dbt")
    elif way == "pyproject":
        (repo.path / "pyproject.toml").write_text('[tool.lineage_orch]\nproject_dir = "dbt"\n')
    elif way == "conftest":
        repo.makeconftest(
            "import pytest\n@pytest.fixture(scope='session')\n"
            "def lineage_orch_project(pytestconfig): return str(pytestconfig.rootpath / 'dbt')"
        )
    elif way == "upwards":
        (repo.path / "dbt" / "deeper").mkdir()
        monkeypatch.chdir(repo.path / "dbt" / "deeper")
        args = [str(repo.path)]
    run(repo, "def test_x(lineage): assert len(lineage.sources) == 4", *args).assert_outcomes(passed=1)


def test_settings_are_those_of_dbt_project(repo: pytest.Pytester) -> None:
    (repo.path / "dbt" / "pyproject.toml").write_text("[tool.lineage_orch]\nkeep_days = 3\n")
    test = "def test_x(lineage_orch_settings): assert lineage_orch_settings.keep_days == 3"
    run(repo, test).assert_outcomes(passed=1)


# Loads ------------------------------------------------------------------------------------------------------


def test_loads_run_and_nothing_is_built(repo: pytest.Pytester, prefect_server: None) -> None:
    result = run(
        repo,
        """
        import loads
        import pytest
        from prefect import flow
        from lineage_orch import DeploymentTrigger, produces_source
        from lineage_orch.testing import check_project

        def test_what_a_load_sets_off(triggered):
            loads.orders()
            assert triggered.sources == {"raw.orders"}
            assert triggered.models == {"stg_orders", "mart"}
            assert triggered.select == "source:shop.raw.orders+"
            triggered.assert_builds({"stg_orders", "mart"})
            triggered.assert_builds(["model.shop.stg_orders", "shop.mart"])
            triggered.assert_loaded("raw.orders")
            triggered.clear()
            triggered.assert_builds_nothing()

        def test_loads_add_up(triggered):
            loads.orders()
            loads.users()
            triggered.assert_builds({"stg_orders", "stg_users", "stg_teams", "mart"})
            assert len(triggered.completions) == 2

        def test_what_is_marked(triggered):
            loads.users(teams=False)
            triggered.assert_builds({"stg_users", "mart"})

        def test_load_that_comes_again(triggered):
            loads.orders(etag="etag")
            triggered.clear()
            loads.orders(etag="etag")
            triggered.assert_builds_nothing()
            assert len(triggered.completions) == 1
            loads.orders(etag="other")
            triggered.assert_loaded("raw.orders")

        def test_a_load_that_fails(triggered):
            assert loads.orders(fail=True, return_state=True).is_failed()
            triggered.assert_builds_nothing()

        def test_a_source_that_is_not_read(triggered):
            loads.nothing()
            assert triggered.sources == {"raw.nothing"}
            triggered.assert_builds_nothing()

        def test_a_trigger_of_its_own_fires_not(triggered):
            @produces_source("raw.orders", trigger=DeploymentTrigger("no/such"))
            @flow
            def elsewhere(): ...

            elsewhere()
            triggered.assert_loaded("raw.orders")

        @pytest.mark.produces("raw.orders")
        def test_marked():
            loads.orders()

        @pytest.mark.produces("raw.*")
        class TestMarked:
            def test_all(self):
                loads.orders()
                loads.users()
                loads.nothing()

        @pytest.mark.produces()
        def test_that_nothing_is_loaded():
            loads.orders(fail=True, return_state=True)

        def test_project(lineage_orch_settings, lineage):
            check_project(lineage_orch_settings, lineage=lineage)
        """,
        "--strict-markers",
    )
    result.assert_outcomes(passed=11, warnings=1)
    assert "nothing in the dbt project is downstream of raw.nothing" in said(result)


def test_failures_show_difference_and_paths(repo: pytest.Pytester, prefect_server: None) -> None:
    result = run(
        repo,
        """
        import loads
        import pytest

        def test_difference(triggered):
            loads.orders()
            triggered.assert_builds({"stg_orders", "stg_teams", "lookup"})

        def test_something(triggered):
            loads.orders()
            triggered.assert_builds_nothing()

        def test_no_load(triggered):
            triggered.assert_builds({"mart"})

        def test_unknown(triggered):
            triggered.assert_builds({"marts"})

        def test_ephemeral(triggered):
            triggered.assert_builds({"glass"})

        @pytest.mark.produces("raw.orders", "raw.nothing")
        def test_marker():
            loads.orders()
            loads.users(teams=False)

        @pytest.mark.produces("raw.order")
        def test_wrong_marker():
            pass
        """,
        "-p",
        "no:randomly",
    )
    result.assert_outcomes(failed=7)
    text = said(result)
    for line in (
        "built, not expected:",
        "mart    raw.orders -> stg_orders -> glass -> mart",
        "expected, not built:",
        "stg_teams    downstream of raw.teams, of which none was loaded",
        "lookup    downstream of no source at all",
        "Something is downstream of what was loaded.",
        "No load completed. Did the flow end Completed, has it @produces_source",
        "no node 'marts' in",
        "did you mean 'mart'?",
        "'glass' is ephemeral: dbt builds no table of it",
        "@pytest.mark.produces('raw.orders', 'raw.nothing'): The loads that completed did not load these sources.",
        "loaded, not expected:  raw.users",
        "expected, not loaded:  raw.nothing",
        "no source 'raw.order' in",
    ):
        assert line in text, line
    assert "lineage_orch/testing/triggered.py" not in text.replace(os.sep, "/"), "frames of the double are hidden"


def test_there_is_one_server_however_many_ask(repo: pytest.Pytester, prefect_server: None) -> None:
    from prefect.settings import PREFECT_API_URL

    result = run(
        repo,
        f"""
        from prefect.settings import PREFECT_API_URL

        def test_the_harness_that_is_active_is_used(prefect_server):
            assert PREFECT_API_URL.value() == {PREFECT_API_URL.value()!r}
        """,
    )
    result.assert_outcomes(passed=1)


# Broken on purpose ------------------------------------------------------------------------------------------

USES_ALL = """
import loads
from lineage_orch.testing import check_project

def test_project(lineage_orch_settings, lineage):
    check_project(lineage_orch_settings, lineage=lineage)

def test_load(triggered):
    loads.orders()
"""


def test_wrong_source_name_in_decorator(repo: pytest.Pytester, prefect_server: None) -> None:
    edit(repo.path / "loads.py", '@produces_source("raw.orders")', '@produces_source("raw.order")')
    result = run(repo, USES_ALL)
    result.assert_outcomes(failed=1, passed=1, errors=1)
    text = said(result)
    assert "- loads.py:5: the flow 'orders' declares 'raw.order': no source 'raw.order' in manifest" in text
    assert f"'orders' ({repo.path / 'loads.py'}:5) loaded 'raw.order': no source 'raw.order' in manifest" in text
    assert text.count("did you mean 'raw.orders'") >= 2
    assert "correct its @produces_source" in text


def test_unclaimed_source(repo: pytest.Pytester, prefect_server: None) -> None:
    edit(repo.path / "loads.py", ', "raw.teams"', "")
    result = run(repo, USES_ALL)
    result.assert_outcomes(passed=2, warnings=3)  # beside it: raw.nothing is not read, stg_teams not built
    result = run(repo, USES_ALL.replace("lineage=lineage)", "lineage=lineage, strict=True)"))
    result.assert_outcomes(failed=1, passed=1)
    assert "no producer loads the source raw.teams (1 node downstream of it)" in said(result)
    assert 'write @produces_source("raw.teams") above the @flow that loads it' in said(result)


def test_import_error(repo: pytest.Pytester) -> None:
    (repo.path / "loads.py").write_text("x = 1\nimport no_such_thing\n")
    result = run(repo, USES_ALL.replace("import loads", ""), "-k", "test_project")
    result.assert_outcomes(failed=1, deselected=1)
    assert "loads.py:2: " in said(result)
    assert "it cannot be imported: ModuleNotFoundError: No module named 'no_such_thing'; install" in said(result)


def test_manifest_of_another_project(repo: pytest.Pytester, prefect_server: None) -> None:
    write_manifest(repo.path / "dbt", source("crm.deals"), node("deals", "crm.deals"))
    result = run(repo, USES_ALL)
    result.assert_outcomes(failed=1, passed=1, errors=1)
    text = said(result)
    assert "none of the 4 sources that the producers name is in manifest" in text
    assert "is it the manifest of another project? Correct project_dir or manifest" in text
    assert "no source 'raw.orders' in manifest" in text


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda dbt: edit(dbt / "dbt_project.yml", "profile: shop", "profile: stop"),
            "DbtError: no profile 'stop' (named in {dbt}/dbt_project.yml) in {dbt}/profiles.yml; it has: shop",
        ),
        (lambda dbt: (dbt / "profiles.yml").unlink(), "DbtError: no profiles.yml found (looked in {dbt}, "),
        (
            lambda dbt: edit(dbt.parent / "tox.ini", "= dbt", "= dbd"),
            "SettingsError: no dbt project in {repo}/dbd: it has no dbt_project.yml; correct lineage_orch_project_dir "
            "in {repo}/tox.ini",
        ),
        (
            lambda dbt: edit(dbt.parent / "tox.ini", "lineage_orch_project_dir = dbt", ""),
            "name its folder with lineage_orch_project_dir in {repo}/tox.ini, with --lineage-orch-project-dir",
        ),
        (
            lambda dbt: (dbt / "target" / "manifest.json").write_text("{"),
            "ManifestError: manifest ",
        ),
    ],
    ids=["profile", "profiles.yml", "project-dir", "nowhere", "manifest"],
)
def test_broken_project_is_told_in_its_own_words(
    repo: pytest.Pytester, break_it: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(repo.path))  # no profiles.yml in ~/.dbt
    dbt = repo.path / "dbt"
    break_it(dbt)
    result = run(repo, "def test_x(lineage): pass")
    result.assert_outcomes(errors=1)
    text = said(result)
    assert message.format(repo=repo.path, dbt=dbt) in text
    assert "Traceback" not in text
    assert "pytest_plugin.py" not in text


def test_another_adapter_than_duckdb(repo: pytest.Pytester) -> None:
    (repo.path / "dbt" / "profiles.yml").write_text("shop: {target: prod, outputs: {prod: {type: snowflake}}}\n")
    result = run(repo, "def test_x(orchestrator): pass")
    result.assert_outcomes(errors=1)
    assert "target 'prod' of profile 'shop' in" in said(result)
    assert "a test would write to a real warehouse" in said(result)


# The throw-away copy ----------------------------------------------------------------------------------------


def test_copy_runs_no_code_of_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = "{{ cycler.__init__.__globals__.os.system('touch pwned') }}/shop.duckdb"
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    profile = {"shop": {"target": "dev", "outputs": {"dev": {"type": "duckdb", "path": path}}}}
    (tmp_path / "profiles.yml").write_text(json.dumps(profile))
    copy_project(LineageOrchSettings(project_dir=tmp_path), tmp_path / "copy")
    assert not Path("pwned").exists()


def test_copy_reads_what_project_reads_and_writes_nowhere_else(repo: pytest.Pytester, tmp_path: Path) -> None:
    dbt = repo.path / "dbt"
    (dbt / "profiles.yml").write_text(
        textwrap.dedent(
            """
            shop:
              target: dev
              outputs:
                prod: {type: snowflake}
                dev:
                  type: duckdb
                  path: "{{ flags.PROFILES_DIR }}/data/sales.duckdb"
                  external_root: "{{ flags.PROFILES_DIR }}/external"
                  threads: 3
                  settings: {file_search_path: "{{ env_var('RAW', flags.PROFILES_DIR ~ '/../raw') }}"}
                  attach: [{path: other.duckdb, alias: other}]
            """
        )
    )
    for name in ("sales.duckdb", "logs/dbt.log", ".lineage_orch/ledger.db"):
        (dbt / name).parent.mkdir(exist_ok=True)
        (dbt / name).write_text("theirs")
    (tmp_path / "copy").mkdir()
    copy = copy_project(LineageOrchSettings(project_dir=dbt), tmp_path / "copy", manifest=dbt / "target/manifest.json")

    assert copy.warehouse == tmp_path / "copy" / "warehouse" / "sales.duckdb"  # dbt names the database after the file
    assert not copy.warehouse.exists()
    assert copy.settings.ledger == f"sqlite:///{tmp_path / 'copy' / 'ledger.db'}"
    assert sorted(path.name for path in copy.project_dir.iterdir()) == [
        ".lineage_orch",
        "dbt_project.yml",
        "models",
        "profiles.yml",
    ]
    assert copy.settings.profiles_dir is not None
    profiles = yaml.safe_load((copy.settings.profiles_dir / "profiles.yml").read_text())
    assert profiles == {
        "shop": {
            "target": "dev",
            "outputs": {
                "dev": {
                    "type": "duckdb",
                    "path": str(copy.warehouse),
                    "external_root": str(tmp_path / "copy" / "warehouse" / "external"),
                    "threads": 3,
                    "settings": {"file_search_path": f"{{{{ env_var('RAW', '{dbt.as_posix()}' ~ '/../raw') }}}}"},
                    "attach": [{"path": "other.duckdb", "alias": "other", "read_only": True}],
                }
            },
        }
    }


def test_target_path_for_all_projects_is_not_that_of_copy(
    repo: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "elsewhere"))
    copy = copy_project(
        LineageOrchSettings(project_dir=repo.path / "dbt"),
        tmp_path / "copy",
        manifest=repo.path / "dbt" / "target" / "manifest.json",
    )
    project = DbtProject.find(copy.settings)
    assert project.target_path.is_relative_to(copy.project_dir)
    assert not project.manifest_is_stale()


# With a real dbt, in processes of their own -----------------------------------------------------------------

REAL = """
import json, os, pathlib
import duckdb
import pytest

SEEN = pathlib.Path(__file__).parent / "seen"

WORKER = os.environ["PYTEST_XDIST_WORKER"]

def test_manifest(lineage_orch_manifest):
    made = json.loads(lineage_orch_manifest.read_text())["metadata"]["invocation_id"]
    SEEN.mkdir(exist_ok=True)
    (SEEN / WORKER).write_text(made)

@pytest.mark.skipif(WORKER != "gw0", reason="once is enough")
def test_build(orchestrator, lineage_orch_copy):
    orchestrator.record(["crm.*"])
    report = orchestrator.build()
    assert report.ok, report.failed
    assert orchestrator.plan().is_empty
    with duckdb.connect(str(lineage_orch_copy.warehouse), read_only=True) as warehouse:
        assert warehouse.execute("select count(*) from revenue").fetchone()[0] > 0
"""


@pytest.mark.integration
def test_workers_parse_once_and_leave_project_as_it_is(pytester: pytest.Pytester) -> None:
    folder = pytester.path / "shop"
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("target", "logs", "*.duckdb", ".user.yml"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    pytester.makeini("[pytest]\nlineage_orch_project_dir = shop\n")
    pytester.makepyfile(test_real=REAL)
    # Both workers run all tests, so both want the manifest at the same time.
    result = pytester.runpytest_subprocess("--dist=each", "--tx=2*popen", *QUICK)
    result.assert_outcomes(passed=3, skipped=1)
    seen = {path.name: path.read_text() for path in (pytester.path / "seen").iterdir()}
    assert set(seen) == {"gw0", "gw1"}
    assert len(set(seen.values())) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
