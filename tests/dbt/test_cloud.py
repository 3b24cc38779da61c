"""The engine over dbt Cloud, held against a stand-in that answers as the API is documented."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from prefect.exceptions import ObjectNotFound

from lineage_orch import Orchestrator
from lineage_orch.dbt.choice import choose_dbt
from lineage_orch.dbt.cloud import CloudDbt
from lineage_orch.dbt.cloud_api import CloudApi
from lineage_orch.dbt.engine import Outcome, Result
from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import DbtCloudUnavailableError, DbtError, SettingsError
from lineage_orch.settings import LineageOrchSettings
from tests.dbt.cloud_server import ACCOUNT, CANCELLED, ERROR, JOB, RUNNING, SUCCESS, TOKEN, Cloud, CloudRun

A, B, TEST = "model.shop.a", "model.shop.b", "test.shop.t"


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # No profiles.yml: dbt Cloud has the connection.
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def engine(cloud: Cloud, folder: Path) -> Callable[..., CloudDbt]:
    def made(patience: float = 20.0, grace: float = 5.0, **settings: Any) -> CloudDbt:
        read = LineageOrchSettings(project_dir=folder, **{**cloud.settings(), **settings})
        return CloudDbt(DbtProject.find(read), read, poll=0.02, patience=patience, grace=grace, settle=3, backoff=0.01)

    return made


def run_results(which: str = "build", fail_fast: bool = False, **statuses: str) -> dict[str, Any]:
    ids = {"a": A, "b": B, "t": TEST}
    results = [{"unique_id": ids[name], "status": status, "message": "why"} for name, status in statuses.items()]
    return {
        "metadata": {"invocation_id": "1", "dbt_version": "1.11.16"},
        "args": {"which": which, "fail_fast": fail_fast},
        "results": results,
    }


def works(*, status: int = SUCCESS, logs: str = "", **files: Any) -> Callable[[CloudRun], None]:
    def work(run: CloudRun) -> None:
        for command in run.body["steps_override"]:
            run.step(command, status, logs, **files)

    return work


def build(dbt: CloudDbt, *select: str, **more: Any) -> tuple[Outcome, list[Result]]:
    heard: list[Result] = []
    return dbt.build(select or ("a+",), more.pop("exclude", ()), heard.append, **more), heard


def waits(run: CloudRun) -> None:
    """A run that goes on until it is cancelled, and has built one node by then."""
    step = run.step(run.body["steps_override"][0], RUNNING)
    run.cancelled.wait(30)
    step.status = CANCELLED
    step.files["run_results.json"] = json.dumps(run_results(a="success", b="error")).encode()


# What is run --------------------------------------------------------------------------------------------------


def test_run_is_of_exact_selection(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works(run_results=run_results(a="success"))
    dbt = engine(dbt_flags=("--threads", "4"), vars={"day": "2026-01-31"})
    build(dbt, "source:shop.raw.orders+", "path:models/a?b.sql", exclude=["t[*]"], flags=["--event-time-start", "x y"])
    (run,) = cloud.runs
    (step,) = run.body["steps_override"]
    assert shlex.split(step) == [
        "dbt", "build", "--select", "source:shop.raw.orders+", "path:models/a?b.sql", "--exclude", "t[*]",
        "--vars", '{"day": "2026-01-31"}', "--event-time-start", "x y", "--threads", "4",
    ]  # fmt: skip
    assert "'t[*]'" in step  # no shell of theirs takes it for a pattern of files
    assert run.body["cause"].startswith("lineage_orch ")
    assert run.body["generate_docs_override"] is False
    assert "target_name_override" not in run.body


def test_target_is_name_that_target_gets(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works(run_results=run_results(a="success"))
    build(engine(target="prod"))
    assert cloud.runs[0].body["target_name_override"] == "prod"


def test_results_of_nodes_are_handed_on(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works(run_results=run_results(a="success", t="pass"), manifest={"nodes": {}})
    outcome, heard = build(engine())
    assert [(each.unique_id, each.status) for each in heard] == [(A, "success"), (TEST, "pass")]
    assert list(outcome.results) == heard
    assert not outcome.cut_short


def test_node_that_fails_is_result_and_no_error(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works(status=ERROR, run_results=run_results(a="success", b="error"))
    outcome, _ = build(engine())
    assert {each.unique_id: each.status for each in outcome.results} == {A: "success", B: "error"}
    assert not outcome.cut_short
    cloud.work = works(status=ERROR, run_results=run_results(fail_fast=True, a="success", b="error"))
    assert build(engine())[0].cut_short


def test_files_are_waited_for(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work, cloud.stored_after = works(run_results=run_results(a="success")), 0.2
    assert len(build(engine())[0].results) == 1
    assert sum("run_results" in each for each in cloud.asked) > 1


def test_results_are_those_of_our_step(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    def work(run: CloudRun) -> None:
        run.step("dbt run-operation build", run_results=run_results("run-operation", b="error"))
        run.step("dbt source freshness", ERROR, run_results=run_results("freshness", b="error"))
        run.step(run.body["steps_override"][0], SUCCESS, run_results=run_results(a="success"))
        run.step("dbt docs generate", run_results=run_results("generate", a="success", b="success"))

    cloud.work = work
    outcome, _ = build(engine())
    assert [each.unique_id for each in outcome.results] == [A]


def test_results_of_another_command_do_not_count(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    # As from a server that gives the files of the last step, whichever is asked for.
    cloud.work = works(run_results=run_results("generate", a="success", b="success"))
    with pytest.raises(DbtError, match="did not run to its end"):
        build(engine())


def test_manifest_of_run_is_what_is_planned_by_next(
    cloud: Cloud, engine: Callable[..., CloudDbt], folder: Path
) -> None:
    cloud.work = works(run_results=run_results(a="success"), manifest={"nodes": "new"})
    dbt = engine()
    build(dbt)
    project = DbtProject.find(LineageOrchSettings(project_dir=folder, **cloud.settings()))
    assert '"new"' in project.manifest_path.read_text(encoding="utf-8")
    assert not project.manifest_is_stale()
    assert not (folder / "target").exists()  # which is that of whoever types dbt commands here


def test_what_dbt_says_is_logged_once(
    cloud: Cloud, engine: Callable[..., CloudDbt], caplog: pytest.LogCaptureFixture
) -> None:
    cloud.work, cloud.stored_after = works(logs="one\n\x1b[31mtwo\x1b[0m\n", run_results=run_results(a="success")), 0.2
    with caplog.at_level(logging.INFO):
        build(engine())
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("one") == lines.count("two") == 1
    assert "Run 1 in dbt Cloud: Success" in lines
    assert any("/deploy/7/projects/1/runs/1/" in line for line in lines)


# What goes wrong ----------------------------------------------------------------------------------------------


def test_run_that_fails_before_its_first_node(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works(status=ERROR, logs="Compilation Error\n  no model 'nowhere'\n")
    with pytest.raises(
        DbtError, match=r"did not run to its end in run 1 .*Compilation Error no model 'nowhere'.*runs/1/"
    ):
        build(engine())


def test_step_before_ours_that_fails(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    def work(run: CloudRun) -> None:
        run.steps[-1].status, run.steps[-1].logs = ERROR, "no such package"

    cloud.work = work
    with pytest.raises(DbtError, match=r"dbt deps.* failed: no such package"):
        build(engine())


def test_hook_that_fails_at_end_keeps_what_was_built(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works(status=ERROR, logs="on-run-end failed", run_results=run_results(a="success"))
    heard: list[Result] = []
    with pytest.raises(DbtError, match=r"on-run-end failed; what finished before is recorded \(1 result\)"):
        engine().build(["a"], (), heard.append)
    assert [each.unique_id for each in heard] == [A]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "will not start job 12 .400.: no such step"),
        (401, "will not start job 12 .401.: no such step; is dbt_cloud_token"),
        (403, "will not start job 12 .403.: no such step; give the token the right"),
        (404, "will not start job 12 .404.: no such step; correct dbt_cloud_account"),
    ],
)
def test_refusal_says_what_to_do(status: int, said: str, cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.instead = [("POST", status, {}, "no such step")]
    with pytest.raises(DbtError, match=said) as raised:
        build(engine())
    assert TOKEN not in str(raised.value)
    # Nothing is asked twice, nothing cancelled.
    assert cloud.asked == ["POST /jobs/12/run/"]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_start_that_may_have_worked_is_not_made_again(
    status: int, cloud: Cloud, engine: Callable[..., CloudDbt]
) -> None:
    cloud.instead = [("POST", status, {}, "Sorry.")]
    with pytest.raises(DbtCloudUnavailableError, match=f"cannot start job 12 now .{status}.: Sorry."):
        build(engine())
    assert [each for each in cloud.asked if each.startswith("POST")] == ["POST /jobs/12/run/"]


def test_run_whose_start_was_not_answered_is_found(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    def work(run: CloudRun) -> None:
        time.sleep(0.3)
        works(run_results=run_results(a="success"))(run)

    cloud.work = work
    cloud.instead = [("POST", -1, {}, "")]
    assert len(build(engine())[0].results) == 1
    assert len(cloud.runs) == 1


def test_429_waits_as_long_as_it_is_told(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works(run_results=run_results(a="success"))
    cloud.instead = [
        ("POST", 429, {"Retry-After": "1"}, "Slow down."),
        ("GET", 429, {"Retry-After": "1"}, "Slow down."),
    ]
    began = time.monotonic()
    assert len(build(engine())[0].results) == 1
    assert time.monotonic() - began >= 2
    assert len(cloud.runs) == 1


def test_429_for_long_says_so(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.instead = [("POST", 429, {}, "Slow down.")] * 4
    with pytest.raises(DbtCloudUnavailableError, match=r"cannot start job 12 now .429.: Slow down."):
        build(engine())
    assert cloud.runs == []


def test_what_is_no_dbt_cloud_is_told(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.instead = [("POST", 200, {}, b"<html>Sign in</html>")]
    with pytest.raises(DbtError, match="does not answer as dbt Cloud does; set dbt_cloud_host"):
        build(engine())


def test_error_without_json_is_told(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.instead = [("POST", 403, {}, b"<html>no</html>")]
    with pytest.raises(DbtError, match=r"403.: Forbidden; give the token"):
        build(engine())


def test_no_server_is_told(engine: Callable[..., CloudDbt]) -> None:
    with pytest.raises(DbtCloudUnavailableError, match=r"does not answer at http://127.0.0.1:9: "):
        build(engine(dbt_cloud_host="http://127.0.0.1:9"))


def test_server_that_goes_and_comes_back_in_mid_run(
    cloud: Cloud, engine: Callable[..., CloudDbt], caplog: pytest.LogCaptureFixture
) -> None:
    def work(run: CloudRun) -> None:
        time.sleep(0.1)
        cloud.down()
        time.sleep(0.5)
        works(run_results=run_results(a="success"))(run)
        cloud.up()

    cloud.work = work
    with caplog.at_level(logging.WARNING):
        assert len(build(engine())[0].results) == 1
    assert sum("No answer about run 1" in record.getMessage() for record in caplog.records) == 1


def test_server_that_does_not_come_back(
    cloud: Cloud, engine: Callable[..., CloudDbt], caplog: pytest.LogCaptureFixture
) -> None:
    def work(run: CloudRun) -> None:
        time.sleep(0.1)
        cloud.down()
        run.cancelled.wait(30)

    cloud.work = work
    with pytest.raises(DbtCloudUnavailableError, match="run 1 of dbt Cloud is lost sight of"):
        build(engine(patience=0.5))
    assert "could not be cancelled" in caplog.text
    cloud.up()


# Cancelling ---------------------------------------------------------------------------------------------------


def test_run_that_is_cancelled_in_dbt_cloud(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = waits
    heard: list[Result] = []

    def cancel() -> None:
        while not (cloud.runs and len(cloud.runs[0].steps) > 3):
            time.sleep(0.01)
        cloud.runs[0].cancelled.set()

    threading.Thread(target=cancel).start()
    with pytest.raises(DbtError, match="it was cancelled in dbt Cloud; what finished before is recorded"):
        engine().build(["a"], (), heard.append)
    # What was stopped in the middle has not failed.
    assert [each.unique_id for each in heard] == [A]


@pytest.mark.parametrize("how", [KeyboardInterrupt, TimeoutError, SystemExit])
def test_whatever_ends_us_cancels_run_and_keeps_what_finished(
    how: type[BaseException], cloud: Cloud, engine: Callable[..., CloudDbt], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.work = waits
    dbt = engine()
    sleep, looks = time.sleep, 0

    def interrupted(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 5:
            raise how
        sleep(seconds)

    monkeypatch.setattr("lineage_orch.dbt.cloud.time.sleep", interrupted)
    heard: list[Result] = []
    with pytest.raises(how):
        dbt.build(["a"], (), heard.append)
    assert cloud.runs[0].cancelled.is_set()
    assert [each.unique_id for each in heard] == [A]


def test_interrupt_while_run_is_started_cancels_it(
    cloud: Cloud, engine: Callable[..., CloudDbt], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.work = waits
    start = CloudApi.start

    def interrupted(*args: Any, **more: Any) -> None:
        start(*args, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(CloudApi, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(engine())
    assert cloud.runs[0].cancelled.is_set()


def test_run_waits_for_run_of_same_job(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    def work(run: CloudRun) -> None:
        time.sleep(0.3 if run.id == 1 else 0)
        works(run_results=run_results(a="success"))(run)

    cloud.work = work
    cloud.start({"cause": "the schedule", "steps_override": ["dbt build"]})
    assert len(build(engine())[0].results) == 1
    assert [run.status for run in cloud.runs] == [SUCCESS, SUCCESS]


def test_dbt_ls_of_job_says_what_is_selected(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works(
        logs=f'10:00:00  Running with dbt=1.11\n{{"unique_id": "{A}"}}\n10:00:01  {{"unique_id": "{B}"}}\n'
    )
    assert engine().ls("tag:x y") == {A, B}
    assert shlex.split(cloud.runs[0].body["steps_override"][0])[:4] == ["dbt", "ls", "--select", "tag:x y"]
    cloud.work = works(status=ERROR, logs="no such method")
    with pytest.raises(DbtError, match=r"dbt Cloud cannot say what 'x:' selects: .*no such method"):
        engine().ls("x:")


# The manifest -------------------------------------------------------------------------------------------------


def test_parse_is_run_of_dbt_parse(cloud: Cloud, engine: Callable[..., CloudDbt], folder: Path) -> None:
    cloud.work = works(manifest={"nodes": {}})
    dbt = engine(vars={"day": 1})
    dbt.parse()
    assert cloud.runs[0].body["steps_override"] == ["""dbt parse --vars '{"day": 1}'"""]
    assert list((folder / ".lineage_orch" / "target").glob("dbt-cloud-12-default-*/manifest.json"))


def test_project_that_does_not_parse(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works(status=ERROR, logs="Compilation Error in a.sql")
    with pytest.raises(
        DbtError, match=r"job 12 of dbt Cloud cannot parse its dbt project: .*Compilation Error in a.sql"
    ):
        engine().parse()


def test_run_without_manifest_is_told(cloud: Cloud, engine: Callable[..., CloudDbt]) -> None:
    cloud.work = works()
    with pytest.raises(DbtError, match=r"stored no manifest.json of its run 1"):
        engine().parse()


def test_manifest_of_last_run_of_same_commit_needs_no_parse(
    cloud: Cloud, engine: Callable[..., CloudDbt], folder: Path
) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    run = cloud.start({"cause": "the schedule", "steps_override": []})
    cloud.work = works(manifest={"nodes": "parsed"})
    run.git_sha = git("rev-parse", "HEAD").strip()
    while not run.are_files_stored:
        time.sleep(0.01)
    run.step("dbt build", manifest={"nodes": "of the schedule"})
    engine().parse()
    assert len(cloud.runs) == 1
    git("commit", "--quiet", "--allow-empty", "-m", "second")
    engine().parse()
    assert len(cloud.runs) == 2


# Settings -----------------------------------------------------------------------------------------------------


def test_project_needs_no_profile_and_no_network(folder: Path) -> None:
    settings = LineageOrchSettings(project_dir=folder, dbt="dbt-cloud", dbt_cloud_job=JOB)
    project = DbtProject.find(settings)
    assert (project.target, project.place) == ("default", "dbt-cloud job 12")
    assert isinstance(choose_dbt(project, settings), CloudDbt)
    with Orchestrator(settings) as orchestrator:  # without a token, a manifest and dbt Cloud
        orchestrator.record(["raw.orders"])
        assert orchestrator.ledger.snapshot().unresolved


def test_missing_settings_are_named(folder: Path, engine: Callable[..., CloudDbt], monkeypatch: Any) -> None:
    with pytest.raises(SettingsError, match=r"set dbt_cloud_job .LINEAGE_ORCH_DBT_CLOUD_JOB."):
        DbtProject.find(LineageOrchSettings(project_dir=folder, dbt="dbt-cloud"))
    with pytest.raises(
        SettingsError, match="needs dbt_cloud_account and dbt_cloud_token: set LINEAGE_ORCH_DBT_CLOUD_ACC"
    ):
        engine(dbt_cloud_account=None, dbt_cloud_token=None).parse()
    monkeypatch.setattr("lineage_orch.dbt.choice.util.find_spec", lambda name: None)
    settings = LineageOrchSettings(project_dir=folder, dbt="dbt-cloud", dbt_cloud_job=JOB)
    with pytest.raises(SettingsError, match="needs requests"):
        choose_dbt(DbtProject.find(settings), settings)


def test_token_goes_over_https_alone() -> None:
    with pytest.raises(SettingsError, match="https alone"):
        CloudApi("http://cloud.getdbt.com", ACCOUNT, TOKEN)
    assert CloudApi("ab123.us1.dbt.com/", ACCOUNT, TOKEN).host == "https://ab123.us1.dbt.com"


def test_netrc_does_not_replace_token(
    cloud: Cloud, engine: Callable[..., CloudDbt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password other\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    cloud.work = works(run_results=run_results(a="success"))
    assert len(build(engine())[0].results) == 1


def test_token_is_nowhere_to_be_seen(
    cloud: Cloud, engine: Callable[..., CloudDbt], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = LineageOrchSettings(project_dir=folder, **cloud.settings())
    assert TOKEN not in repr(settings) + str(settings) + settings.model_dump_json() + str(settings.dump())
    assert "dbt_cloud_token" not in settings.dump()
    assert settings.tokens() == {"LINEAGE_ORCH_DBT_CLOUD_TOKEN": TOKEN}
    assert settings.with_overrides(target="prod").tokens() == settings.tokens()
    cloud.work = works(run_results=run_results(a="success"))
    with caplog.at_level(logging.DEBUG):
        build(engine())
    assert TOKEN not in caplog.text
    with pytest.raises(SettingsError) as raised:
        LineageOrchSettings(dbt_cloud_token=[TOKEN])
    assert TOKEN not in str(raised.value)


def test_token_of_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAGE_ORCH_DBT_CLOUD_TOKEN", TOKEN)
    monkeypatch.setenv("LINEAGE_ORCH_DBT_CLOUD_JOB", "12")
    settings = LineageOrchSettings()
    assert settings.tokens() == {"LINEAGE_ORCH_DBT_CLOUD_TOKEN": TOKEN}
    assert settings.dbt_cloud_job == 12


def test_deployment_takes_no_token() -> None:
    from lineage_orch.deployments import dbt_deployment

    with pytest.raises(SettingsError, match="a token is a secret"):
        dbt_deployment("dbt", dbt_cloud_token=TOKEN)


class Blocks:
    """Prefect's client, as far as blocks are read."""

    def __init__(self, **held: Any) -> None:
        self.held = held

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_block_document_by_name(self, name: str, kind: str, include_secrets: bool) -> Any:
        assert kind == "dbt-cloud-credentials"
        assert include_secrets
        if name not in self.held:
            raise ObjectNotFound(ValueError(name))
        return SimpleNamespace(data=self.held[name])


def test_credentials_come_from_block(
    cloud: Cloud, engine: Callable[..., CloudDbt], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"api_key": TOKEN, "account_id": ACCOUNT, "domain": cloud.host}
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda **_: Blocks(prod=held))
    cloud.work = works(run_results=run_results(a="success"))
    unset = {"dbt_cloud_account": None, "dbt_cloud_token": None, "dbt_cloud_host": None}
    assert len(build(engine(dbt_cloud_credentials="prod", **unset))[0].results) == 1
    with pytest.raises(DbtError, match=r"block 'test' .dbt_cloud_credentials. cannot be read from Prefect"):
        engine(dbt_cloud_credentials="test", **unset).parse()


def test_block_is_as_prefect_dbt_makes_it() -> None:
    from prefect_dbt.cloud import DbtCloudCredentials

    assert DbtCloudCredentials.get_block_type_slug() == "dbt-cloud-credentials"
    assert DbtCloudCredentials.model_fields.keys() >= {"api_key", "account_id", "domain"}


def test_run_that_killed_build_left_is_cancelled_by_next_of_its_ledger(
    cloud: Cloud, engine: Callable[..., CloudDbt], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.work = waits
    with monkeypatch.context() as killed:
        killed.setattr(CloudDbt, "_looks", Mock(side_effect=KeyboardInterrupt))
        killed.setattr(CloudDbt, "_cancel", Mock())
        with pytest.raises(KeyboardInterrupt):
            build(engine())
    cloud.work = works(run_results=run_results(a="success"))
    other = threading.Thread(target=build, args=[engine(ledger="sqlite:////elsewhere/ledger.db")])
    other.start()  # and waits for the first, which is none of its own
    while len(cloud.runs) < 2:
        time.sleep(0.01)
    assert not cloud.runs[0].cancelled.is_set()
    engine().end_left()
    assert build(engine())[0].results
    other.join()
    assert [run.cancelled.is_set() for run in cloud.runs] == [True, False, False]
    assert "Run 1 of job 12 in dbt Cloud is left of a build whose process is gone" in caplog.text


def test_runs_of_other_passwords_are_of_the_same_ledger(engine: Callable[..., CloudDbt]) -> None:
    urls = ["postgresql+psycopg://a:b@host/db", "postgresql+psycopg://c:d@host/db", "postgresql+psycopg://c:d@host/db2"]
    causes = [engine(ledger=url)._cause_of_builds for url in urls]
    assert causes[0] == causes[1] != causes[2]


def test_runs_that_cannot_be_listed_keep_no_build_from_running(
    cloud: Cloud, engine: Callable[..., CloudDbt], caplog: pytest.LogCaptureFixture
) -> None:
    cloud.instead = [("GET /runs/", 403, {}, "no")]
    engine().end_left()
    assert "Whether an earlier build left a run at work is not known" in caplog.text
