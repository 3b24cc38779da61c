"""What does not fit between a dbt project and its loads: each case broken on purpose, found with place and fix."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from lineage_orch.check.deployments import Deployment
from lineage_orch.check.findings import CODES, Finding
from lineage_orch.check.project import check
from lineage_orch.check.stubs import stub_sources
from lineage_orch.cli import app as cli
from lineage_orch.errors import DbtError, ManifestError, SettingsError
from lineage_orch.lineage import Lineage
from lineage_orch.loads.discovery import ImportFailure, Producer
from lineage_orch.loads.tags import BUILDS
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.testing import ProjectWarning, check_project
from tests.manifests import manifest, node, source

ALL = {"freshness": {"build_after": {"updates_on": "all"}}}


def lineage(*more: dict[str, Any]) -> Lineage:
    """raw.orders -> stg_orders -> mart <- stg_users <- raw.users."""
    return Lineage.from_manifest(
        manifest(
            source("raw.orders"),
            source("raw.users"),
            node("stg_orders", "raw.orders"),
            node("stg_users", "raw.users"),
            node("mart", "stg_orders", "stg_users"),
            *more,
        )
    )


def load(*sources: str, name: str = "load", line: int = 7, shared: bool = False) -> Producer:
    return Producer(name, "flow", sources, f"/repo/{name}.py", line, shared)


BOTH = (load("raw.orders", name="orders"), load("raw.users", name="users"))


def found(*args: Any, **options: Any) -> dict[str, Finding]:
    findings = check(*args, **options)
    assert len({each.code for each in findings}) == len(findings), list(map(str, findings))
    assert {each.code for each in findings} <= CODES.keys()
    return {each.code: each for each in findings}


def test_project_that_fits_has_no_findings() -> None:
    assert check(lineage(), BOTH) == []
    assert check(lineage(), [load("raw.*")]) == []
    assert check(lineage(), [load("raw.{table}")]) == []
    assert check(lineage(), [load("source.shop.raw.orders", "shop.raw.users")]) == []


# Names ------------------------------------------------------------------------------------------------------


def test_wrong_source_name_is_error_with_right_one_and_place() -> None:
    findings = check(lineage(), [load("raw.order", name="orders", line=12), BOTH[1]])
    error = findings[0]
    assert (error.code, error.severity, error.where) == ("unknown-source", "error", "/repo/orders.py:12")
    assert "the flow 'orders' declares 'raw.order'" in error.message
    assert "did you mean 'raw.orders'" in error.message
    assert "Correct its @produces_source" in error.message
    assert "source-without-producer" in {each.code for each in findings}  # raw.orders is left without one


def test_name_that_no_parameter_makes_right() -> None:
    assert (
        "whatever its parameters"
        in found(lineage(), [load("raw.*", name="a"), load("crm.{x}")])["unknown-source"].message
    )


def test_name_of_two_packages_must_say_which() -> None:
    twice = lineage(source("raw.orders", package="other"))
    error = found(twice, [load("raw.orders", "shop.raw.orders", "other.raw.orders", "raw.users")])
    assert "write package.source_name.table" in error["unknown-source"].message


def test_manifest_of_another_project_is_said_first_and_once() -> None:
    findings = check(lineage(), [load("crm.a"), load("crm.b", name="b")])
    assert [each.code for each in findings if each.severity == "error"] == [
        "other-project",
        "unknown-source",
        "unknown-source",
    ]
    assert (
        "of the dbt project 'shop'; is it the manifest of another project? Correct project_dir" in findings[0].message
    )
    assert "source-without-producer" not in {each.code for each in findings}


# Sources and producers --------------------------------------------------------------------------------------


def test_unclaimed_source_and_models_that_wait_for_it() -> None:
    findings = found(lineage(), BOTH[:1])
    unclaimed = findings["source-without-producer"]
    assert unclaimed.severity == "warning"
    assert unclaimed.subjects == ("source.shop.raw.users",)
    assert "no producer loads the source raw.users (2 nodes downstream of it)" in unclaimed.message
    assert '@produces_source("raw.users")' in unclaimed.message
    unreached = findings["unreached-models"]
    assert unreached.subjects == ("model.shop.stg_users",)
    assert "stg_users (1 of 3 nodes)" in unreached.message


def test_unreached_models_are_one_finding_however_many() -> None:
    many = lineage(*(node(f"m{number}") for number in range(9)), node("lookup", kind="seed"))
    message = found(many, BOTH)["unreached-models"].message
    assert "m0, m1, m2, m3, m4 and 4 more (9 of 12 nodes)" in message


def test_producer_without_models() -> None:
    warning = found(lineage(source("raw.unread")), [*BOTH, load("raw.unread", name="unread")])
    assert warning["producer-without-models"].where == "/repo/unread.py:7"
    assert "nothing in the dbt project is downstream of raw.unread" in warning["producer-without-models"].message


def test_producers_of_one_source_are_found_unless_declared() -> None:
    again = load("raw.orders", name="backfill", line=3)
    twice = found(lineage(), [*BOTH, again])["source-loaded-twice"]
    assert twice.severity == "error"
    assert "shared=True" in twice.message
    assert "the flow 'orders' (/repo/orders.py:7) and the flow 'backfill' (/repo/backfill.py:3)" in twice.message
    shared = [load("raw.orders", name=name, shared=True) for name in ("orders", "backfill")]
    assert check(lineage(), [*shared, BOTH[1]]) == []


def test_places_of_producers_not_given() -> None:
    assert found(lineage(), None)["no-producers"].severity == "error"
    assert "no producer was found" in {each.code: each for each in check(lineage(), [])}["no-producers"].message


def test_import_that_failed() -> None:
    error = found(lineage(), BOTH, failures=[ImportFailure("ints", "ints/bad.py:3", "it cannot be imported: X")])
    assert str(error["import-failed"]) == "ints/bad.py:3: it cannot be imported: X [import-failed]"
    assert error["import-failed"].severity == "error"


# Policies ---------------------------------------------------------------------------------------------------


def test_unreadable_policies_are_all_told() -> None:
    broken = lineage(
        node("a", "raw.orders", config={"freshness": {"build_after": {"count": "four", "period": "hour"}}}),
        node("b", "raw.orders", config={"state": {"lag_tolerance": "soon"}}),
        node("c", "raw.orders", config={"meta": {"lineage_orch": {"late_after": "soon"}}}),
        node("d", "raw.orders", config={"freshness": "often"}),
    )
    errors = [each for each in check(broken, BOTH) if each.severity == "error"]
    assert [(each.code, each.where) for each in errors] == [
        ("unreadable-policy", "models/a.sql"),
        ("unreadable-policy", "models/b.sql"),
        ("unreadable-policy", "models/d.sql"),
        ("unreadable-policy", "models/c.sql"),
    ]
    assert "config.state.lag_tolerance of model.shop.b is 'soon'" in errors[1].message
    assert "config.meta.lineage_orch.late_after of model.shop.c is 'soon'" in errors[3].message


def test_updates_on_all_with_parents_that_never_move() -> None:
    still = lineage(node("lookup", kind="seed"), node("stuck", "seed.shop.lookup", config=ALL))
    findings = found(still, BOTH)
    assert "stuck waits for new data of all its parents" in findings["updates-on-all-never-met"].message
    assert check(lineage(node("fine", "stg_orders", config=ALL)), BOTH) == []


# Deployments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "builds mart, stg_orders, stg_users on a schedule (cron 0 6 * * *), and so does every load of their"),
        ({"select": "mart"}, "and so does every load of their sources; take its schedule away"),
        ({"command": "dbt build --select stg_orders+"}, "dbt-nightly/prod builds stg_orders on a schedule"),
        ({"select": ["source:raw.users+"]}, "builds mart, stg_users on a schedule"),
        ({"select": "stg_orders,lonely"}, "leave them out of it"),
    ],
)
def test_schedule_for_what_loads_build_already(parameters: dict[str, Any], message: str) -> None:
    nightly = Deployment("dbt-nightly/prod", ("cron 0 6 * * *",), parameters)
    project = lineage(node("lonely"))
    warning = found(project, BOTH, deployments=[nightly], ignore=["unreached-models"])["redundant-schedule"]
    assert message in warning.message
    assert "cron 0 6 * * *" in warning.message


@pytest.mark.parametrize(
    "deployment",
    [
        Deployment("load-orders/prod", ("cron 0 6 * * *",), {}),  # not of dbt
        Deployment("build-affected/dbt", ("cron 0 * * * *",), {}, (BUILDS,)),  # ours, for what is held
        Deployment("dbt/lonely", ("cron 0 6 * * *",), {"select": "lonely"}),  # what no load builds
        Deployment("dbt/never", (), {}),
    ],
)
def test_schedules_that_are_needed(deployment: Deployment) -> None:
    assert check(lineage(node("lonely")), BOTH, deployments=[deployment], ignore=["unreached-models"]) == []


# What to leave out ------------------------------------------------------------------------------------------


def test_findings_can_be_left_out_by_code_or_by_name() -> None:
    project = lineage(source("fivetran.a"), node("stg_a", "fivetran.a"))
    assert check(project, BOTH, ignore=["source-without-producer", "unreached-models"]) == []
    assert set(found(project, BOTH, ignore=["unreached-models:stg_a"])) == {"source-without-producer"}
    # What loads it, if no flow does, builds what is downstream of it.
    assert check(project, BOTH, ignore=["source-without-producer:fivetran.*"]) == []
    assert set(found(project, BOTH, ignore=["source-without-producer:raw.*"])) == {
        "source-without-producer",
        "unreached-models",
    }
    with pytest.raises(SettingsError, match="no finding 'unknown-sorce'; did you mean 'unknown-source'"):
        check(project, BOTH, ignore=["unknown-sorce"])


# Stubs ------------------------------------------------------------------------------------------------------


def test_stubs_are_what_flows_declare_and_project_lacks() -> None:
    producers = [
        load("raw.orders", "raw.customers", "raw.ordrs", "raw.{table}", "raw.*"),
        load("crm.1st", "shop.crm.true", "source.shop.crm.deals", name="crm"),
        load("crm.deals", name="deals"),
    ]
    text = stub_sources(lineage(), producers)
    tables = {each["name"]: each["tables"] for each in yaml.safe_load(text)["sources"]}
    assert {name: [each["name"] for each in of] for name, of in tables.items()} == {
        "raw": ["customers", "ordrs"],
        "crm": ["1st", "true", "deals"],
    }
    assert tables["crm"][2]["description"] == (
        "Loaded by the flow 'crm' (/repo/crm.py:7) and the flow 'deals' (/repo/deals.py:7)"
    )
    assert "# There is a source raw already: put these tables there" in text
    assert "# A typo? Did you mean 'raw.orders'" in text
    assert stub_sources(lineage(), BOTH) == ""


# A whole project, from disk ---------------------------------------------------------------------------------

LOADS = """
from prefect import flow
from lineage_orch import produces_source

@produces_source("raw.orders")
@flow
def orders(): ...

@produces_source("raw.users")
@flow
def users(): ...
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dbt project with a manifest that is up to date, and two loads beside it; it is also the working directory."""
    folder = tmp_path / "repo"
    (folder / "target").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (folder / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
    (folder / "loads.py").write_text(LOADS)
    write_manifest(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LINEAGE_ORCH_PRODUCERS", "loads.py")
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it, and tables fold themselves to it
    return folder


def write_manifest(folder: Path, *resources: dict[str, Any]) -> None:
    made = manifest(
        *(resources or (source("raw.orders"), source("raw.users"), node("mart", "raw.orders", "raw.users")))
    )
    (folder / "target" / "manifest.json").write_text(json.dumps(made))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_check_project_passes_in_one_line(project: Path) -> None:
    assert check_project() == []
    assert check_project(project) == []
    assert check_project(LineageOrchSettings(project_dir=project), producers=["loads.py"]) == []
    assert not (project / ".lineage_orch").exists() or not list((project / ".lineage_orch").glob("ledger*"))


def test_check_project_fails_with_list(project: Path) -> None:
    edit(project / "loads.py", '"raw.users"', '"raw.user"')
    with (
        pytest.raises(AssertionError) as failed,
        pytest.warns(ProjectWarning, match="no producer loads the source raw.users"),
    ):
        check_project()
    first, *rest = str(failed.value).splitlines()
    assert first == "one thing does not fit between the dbt project and its loads:"
    assert rest[0].startswith("- loads.py:9: the flow 'users' declares 'raw.user': no source 'raw.user' in manifest ")
    assert "did you mean 'raw.users'" in rest[0]
    assert len(rest) == 1


def test_check_project_warns_unless_it_is_strict(project: Path) -> None:
    write_manifest(
        project, source("raw.orders"), source("raw.users"), node("mart", "raw.orders", "raw.users"), node("lonely")
    )
    with pytest.warns(ProjectWarning, match="no producer's load builds lonely"):
        assert [each.code for each in check_project()] == ["unreached-models"]
    with pytest.raises(AssertionError, match="one thing does not fit"):
        check_project(strict=True)
    assert check_project(strict=True, ignore=["unreached-models:lonely"]) == []


def test_check_project_fails_without_places_of_producers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINEAGE_ORCH_PRODUCERS")
    with pytest.raises(AssertionError, match="it is not said where the producers are"):
        check_project()


@pytest.mark.parametrize(
    ("producers", "code"),
    [("loads.py", 0), ("orders.py", 0), ("unknown.py", 1), ("twice.py", 1), ("missing.py", 1), (None, 1)],
)
@pytest.mark.parametrize("strict", [False, True])
def test_command_and_check_project_agree(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    producers: str | None,
    code: int,
    strict: bool,
) -> None:
    orders, users = LOADS.split('@produces_source("raw.users")')
    (project / "orders.py").write_text(orders)
    (project / "unknown.py").write_text(LOADS.replace("raw.users", "raw.user"))
    (project / "twice.py").write_text(f'{LOADS}\n\n@produces_source("raw.orders"){users.replace("users", "again")}')
    monkeypatch.delenv("LINEAGE_ORCH_PRODUCERS")
    if producers:
        monkeypatch.setenv("LINEAGE_ORCH_PRODUCERS", producers)
    if strict and producers == "orders.py":
        code = 1
    assert cli.main(["check", *(["--strict"] if strict else [])]) == code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProjectWarning)
        if code:
            with pytest.raises(AssertionError):
                check_project(strict=strict)
        else:
            check_project(strict=strict)


def test_findings_on_some_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(project, source("raw.orders"), source("raw.users"), source("crm.a"), node("mart", "raw.orders"))
    assert "raw.users" not in run(capsys, "check", "crm.*")[1]
    assert "no producer loads the source crm.a" in run(capsys, "check", "crm.*")[1]
    assert run(capsys, "check", "mart")[1].startswith("All fits: ")


def test_many_findings_of_one_kind_are_one_with_their_number(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [source(f"crm.t{number}") for number in range(9)]
    write_manifest(
        project, source("raw.orders"), source("raw.users"), *more, node("mart", "raw.orders", "raw.users", "crm.t3")
    )
    out = run(capsys, "check")[1]
    assert out.count("source-without-producer") == 1
    assert "9 times: no producer loads a source (crm.t0, crm.t1, crm.t2, crm.t3, crm.t4 and 4 more). The first: " in out
    assert "0 errors, 9 warnings" in out
    assert run(capsys, "check", "--limit", "0")[1].count("source-without-producer") == 9
    assert len(json.loads(run(capsys, "check", "--json")[1])["findings"]) == 9
    with pytest.raises(AssertionError, match="9 things do not fit") as failed:
        check_project(strict=True)
    assert len(str(failed.value).splitlines()) == 2


def test_importing_doubles_imports_nothing_heavy() -> None:
    heavy = ("prefect", "dbt", "networkx", "sqlalchemy")
    code = (
        "import sys, lineage_orch.testing, lineage_orch.check.project; "
        f"print(*(n for n in {heavy} if n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


# The commands -----------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_command_says_that_all_fits(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check") == (0, "All fits: 2 sources, 1 node, 2 producers.\n", "")


def test_command_fails_on_errors_with_place_and_fix(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(project / "loads.py", '"raw.users"', '"raw.user"')
    code, out, _ = run(capsys, "check")
    assert code == 1
    assert "error    unknown-source           loads.py:9  the flow 'users' declares 'raw.user'" in out
    assert "did you mean 'raw.users'" in out
    assert out.endswith("1 error, 1 warning (2 sources, 1 node, 2 producers).\n")


def test_warnings_fail_only_when_told_to(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "orders.py").write_text(LOADS.partition('@produces_source("raw.users")')[0])
    assert run(capsys, "check", "--producers", "orders.py")[0] == 0
    assert run(capsys, "check", "--producers", "orders.py", "--strict")[0] == 1
    leave = ("--ignore", "source-without-producer:raw.users")
    assert run(capsys, "check", "--producers", "orders.py", "--strict", *leave)[0] == 0


def test_json_holds_all_of_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "bad.py").write_text("print('noise')\nraise ValueError('broken')")
    code, out, err = run(capsys, "check", "--json", "--producers", "loads.py", "--producers", "bad.py")
    data = json.loads(out)
    assert (code, data["ok"]) == (1, False)
    (finding,) = data["findings"]
    assert (finding["code"], finding["severity"], finding["where"]) == ("import-failed", "error", "bad.py:2")
    assert finding["message"] == f"{project / 'bad.py'}: it cannot be imported: ValueError: broken"
    assert [each["sources"] for each in data["producers"]] == [["raw.orders"], ["raw.users"]]
    assert err == "noise\n"


def test_project_without_profile_names_place_and_fix(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(project / "dbt_project.yml", "profile: shop", "profile: stop")
    code, out, err = run(capsys, "check")
    assert (code, out) == (2, "")
    assert f"no profile 'stop' (named in {project / 'dbt_project.yml'})" in err
    assert "it has: shop" in err
    with pytest.raises(DbtError, match="no profile 'stop'"):
        check_project()


def test_manifest_that_is_none(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "other.json").write_text("{}")
    code, _, err = run(capsys, "check", "--manifest", "other.json")
    assert code == 2
    assert "other.json is no dbt manifest" in err
    with pytest.raises(ManifestError, match="no dbt manifest"):
        check_project(LineageOrchSettings(manifest=project / "other.json"))


def test_manifest_of_another_project_by_command(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "other.json").write_text(json.dumps(manifest(source("crm.deals"), node("deals", "crm.deals"))))
    code, out, _ = run(capsys, "check", "--manifest", "other.json")
    assert code == 1
    assert "none of the 2 sources that the producers name is in manifest other.json of the dbt project 'shop'" in out


def test_stub_sources_prints_yaml_and_nothing_else(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "stub-sources")
    assert (code, out) == (0, "")
    assert "Nothing is missing" in err
    edit(project / "loads.py", '"raw.users"', '"crm.deals"')
    code, out, err = run(capsys, "stub-sources")
    assert (code, err) == (0, "")
    assert yaml.safe_load(out)["sources"] == [
        {"name": "crm", "tables": [{"name": "deals", "description": "Loaded by the flow 'users' (loads.py:9)"}]}
    ]
    assert json.loads(run(capsys, "stub-sources", "--json")[1])["sources"][0]["name"] == "crm"


def test_asking_for_deployments_without_api_says_what_to_set(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        code, _, err = run(capsys, "check", "--deployments")
    assert code == 2
    assert "the Prefect API at http://127.0.0.1:9/api does not answer" in err


def test_deployments_are_read_from_api(prefect_server: None, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prefect import flow

    flow(name="dbt-nightly")(check_project).to_deployment(
        "check-test", cron="0 6 * * *", parameters={"project": "dbt build --select mart"}, _sync=True
    ).apply(_sync=True)
    code, out, _ = run(capsys, "check", "--deployments")
    assert code == 0
    assert "redundant-schedule" in out
    assert "the deployment dbt-nightly/check-test builds mart on a schedule (cron 0 6 * * *)" in out
