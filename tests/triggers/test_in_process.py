"""How loads share builds, and how their settings reach them: without Prefect or dbt."""

from __future__ import annotations

import io
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lineage_orch import LineageOrchSettings, SourceUpdate
from lineage_orch.errors import BuildFailedError
from lineage_orch.ledger import Holder
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.settings import handing_down
from lineage_orch.triggers import Completion, child, in_process
from lineage_orch.triggers.in_process import _build_beside, _Builder, _Request


def request(name: str, **settings: Any) -> _Request:
    update = SourceUpdate(name, update_id=name, loaded_at=datetime.now(UTC))
    return _Request(Completion((update,)), LineageOrchSettings(**settings), "api", logging.getLogger("test"))


class SlowBuild:
    """A build that says what it builds, and goes on until it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def __call__(self, batch: list[_Request]) -> int:
        self.batches.append([each.completion.updates[0].source for each in batch])
        self.began.release()
        assert self.may_end.acquire(timeout=10)
        return len(self.batches)


def test_loads_during_build_share_next_one():
    build = SlowBuild()
    builder = _Builder("test", build)
    first = builder.submit(request("a.1"))
    assert build.began.acquire(timeout=10)
    later = [builder.submit(request(f"a.{number}")) for number in range(2, 27)]
    build.may_end.release()
    assert first.result(10) == 1
    # It came after the first build began, so it may not be told that the first one's end was its own.
    assert build.began.acquire(timeout=10)
    assert not any(each.done() for each in later)
    build.may_end.release()
    assert {each.result(10) for each in later} == {2}
    assert [len(batch) for batch in build.batches] == [1, 25]
    builder.join()


def test_builds_of_other_settings_are_builds_of_their_own():
    build = SlowBuild()
    builder = _Builder("test", build)
    build.may_end.release(3)
    builder.submit(request("a.1"))
    assert build.began.acquire(timeout=10)
    prod = [builder.submit(request("b.1", target="prod")), builder.submit(request("b.2", target="prod"))]
    for each in prod:
        each.result(10)
    builder.join()
    assert not any(name.startswith("a.") for batch in build.batches for name in batch if "b.1" in batch)


def test_failed_build_is_told_to_waiting_loads():
    def build(batch: list[_Request]) -> str:
        if batch[0].completion.updates[0].source == "a.bad":
            raise SystemExit(3)
        return "built"

    builder = _Builder("test", build)
    with pytest.raises(SystemExit):
        builder.submit(request("a.bad")).result(10)
    assert builder.submit(request("a.good")).result(10) == "built"


def test_settings_of_load_reach_its_build_before_environment(monkeypatch: pytest.MonkeyPatch):
    settings = LineageOrchSettings(dbt_command="build", ledger="sqlite:///of_the_load.db")
    monkeypatch.setenv("LINEAGE_ORCH_DBT_COMMAND", "run")
    monkeypatch.setenv("LINEAGE_ORCH_TARGET", "prod")
    with handing_down(settings):
        seen = LineageOrchSettings()
        assert LineageOrchSettings(ledger="sqlite:///passed_in.db").ledger == "sqlite:///passed_in.db"
    # Passed in by the load, though it is the default.
    assert seen.dbt_command == "build"
    assert seen.ledger == "sqlite:///of_the_load.db"
    assert seen.target == "prod"
    assert LineageOrchSettings().dbt_command == "run"


def test_settings_travel_with_absolute_paths(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text('[tool.lineage_orch]\nproject_dir = "dbt"\nvars = {day = 2026-01-01}\n')
    dumped = LineageOrchSettings(profiles_dir="profiles", dbt_flags="--threads 4").dump()
    assert dumped["project_dir"] == str(tmp_path / "dbt")
    assert dumped["profiles_dir"] == str(tmp_path / "profiles")
    assert dumped["dbt_flags"] == ["--threads", "4"]
    assert dumped["vars"] == {"day": "2026-01-01"}
    assert "target" not in dumped
    assert LineageOrchSettings(**dumped).dump() == dumped


def test_token_travels_in_environment_of_child(monkeypatch: pytest.MonkeyPatch):
    started: list[tuple[dict[str, str], bytes]] = []

    class Child:
        returncode = 0

        def __init__(self, command: list[str], *, env: dict[str, str], **_: Any) -> None:
            self.env = env

        def communicate(self, sent: bytes) -> None:
            started.append((self.env, sent))

    monkeypatch.setattr("lineage_orch.triggers.in_process.subprocess.Popen", Child)
    asked = request("a.1", dbt_cloud_token="s3cret")
    asked.prefect = {"PREFECT_API_URL": "api"}
    _build_beside([asked])
    ((environment, sent),) = started
    assert environment == {"PREFECT_API_URL": "api", "LINEAGE_ORCH_DBT_CLOUD_TOKEN": "s3cret"}
    assert b"s3cret" not in sent
    assert b"dbt_cloud_token" not in sent


@pytest.mark.parametrize(
    ("url", "anchored"),
    [
        ("sqlite:///state/ledger.db", "sqlite:///{folder}/state/ledger.db"),
        ("sqlite:////abs/ledger.db", "sqlite:////abs/ledger.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql+psycopg://u@host/db", "postgresql+psycopg://u@host/db"),
    ],
)
def test_ledger_file_in_pyproject_counts_from_its_folder(
    url: str, anchored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "pyproject.toml").write_text(f'[tool.lineage_orch]\nledger = "{url}"\n')
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert LineageOrchSettings().ledger == anchored.format(folder=tmp_path)


# Who builds what others loaded meanwhile ------------------------------------------------------------------------


class Someone:
    """An orchestrator over a ledger that has, or has not, a holder, and something due."""

    holder: Holder | None = None
    done = False

    def __init__(self, _: LineageOrchSettings) -> None:
        self.ledger = SimpleNamespace(holder=lambda: self.holder, set_mark=lambda *_: None)

    def __enter__(self) -> Someone:
        return self

    def __exit__(self, *_: object) -> None: ...

    def seems_done(self) -> bool:
        return self.done


@pytest.mark.parametrize(
    ("seconds_later", "done", "go_on"),
    [(None, False, False), (None, True, True), (-5, False, False), (5, False, True)],
    ids=["no one", "all is built", "one who was killed", "one who began since"],
)
def test_process_is_started_only_if_no_other_goes_on(
    seconds_later: float | None, done: bool, go_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process, "OTHERS_FIRST", 0.0)
    monkeypatch.setattr("lineage_orch.orchestrator.Orchestrator", Someone)
    monkeypatch.setattr(Someone, "done", done)
    if seconds_later is not None:
        holder = Holder("another", datetime.now(UTC) + timedelta(seconds=seconds_later))
        monkeypatch.setattr(Someone, "holder", holder)
    started: list[str] = []

    class Process:
        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(command[-1])

        def communicate(self, request: bytes) -> None:
            assert not json.loads(request)["updates"]

    monkeypatch.setattr("lineage_orch.triggers.in_process.subprocess.Popen", Process)
    in_process._build_beside([_Request(Completion(()), LineageOrchSettings(), {}, logging.getLogger("test"))])
    assert started == ([] if go_on else ["lineage_orch.triggers.child"])


def test_child_goes_on_while_more_comes_and_no_other_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = BuildFailedError("1 failed")
    failed.more = ("model.shop.a",)
    outcomes: list[Any] = [BuildReport(more=["model.shop.a"]), failed, BuildReport()]
    asked: list[dict[str, Any]] = []

    def build(**request: Any) -> BuildReport:
        asked.append(request)
        outcome = outcomes.pop(0)
        if isinstance(outcome, BuildFailedError):
            raise outcome
        return outcome

    monkeypatch.setattr(child, "build_affected", build)
    monkeypatch.setattr(child, "others_go_on", lambda _: False)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"updates": ["u"], "producers": [], "settings": {}})))
    assert child.main() == 1  # something failed
    assert asked == [{"updates": ["u"], "producers": []}, {}, {}]
