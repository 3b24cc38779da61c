"""The process engine over what real dbts said (``fixtures``: trimmed to the lines that count), and over a fake one."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lineage_orch.dbt.choice import choose_dbt
from lineage_orch.dbt.engine import BUILT, FAILED, PASSED, Result
from lineage_orch.dbt.in_process import DbtRunner
from lineage_orch.dbt.log_lines import LogReader, plain
from lineage_orch.dbt.process import ProcessDbt
from lineage_orch.dbt.project import DbtProject
from lineage_orch.dbt.run_results import final_results, read_run_results
from lineage_orch.errors import DbtError
from lineage_orch.settings import LineageOrchSettings

FIXTURES = Path(__file__).parent / "fixtures"


def heard(name: str) -> tuple[LogReader, list[Result]]:
    log, ended = LogReader(), []
    for text in (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        line = log.read(text)
        if line is not None and line.ended is not None:
            ended.append(line.ended)
    return log, ended


def final(name: str) -> dict[str, Result]:
    log, _ = heard(name)
    written = read_run_results(FIXTURES / f"{name}.run_results.json", log.invocation_id)
    assert written is not None
    return {unique_id.split(".")[2]: each for unique_id, each in final_results(log, written).items()}


# What dbt said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "version"), [("dbt1_microbatch", "1.11.16"), ("dbt2_microbatch", "2.0.0-preview.196")]
)
def test_first_line_names_version(name: str, version: str) -> None:
    log, _ = heard(name)
    assert (log.version, log.major) == (version, int(version[0]))


@pytest.mark.parametrize("name", ["dbt1_microbatch", "dbt2_microbatch"])
def test_microbatch_model_ends_once_and_has_failed(name: str) -> None:
    _, ended = heard(name)
    (events,) = [each for each in ended if each.unique_id == "model.shop.events"]
    assert events.status in FAILED
    assert final(name)["events"].status in FAILED
    assert final(name)["colours"].status in BUILT


def test_dbt1_names_failed_batches() -> None:
    assert final("dbt1_microbatch")["events"].failed_batches == ("2026-11-23",)


def test_dbt2_results_lack_failed_microbatch_model() -> None:
    log, _ = heard("dbt2_microbatch")
    written = read_run_results(FIXTURES / "dbt2_microbatch.run_results.json", log.invocation_id)
    assert written is not None
    assert "model.shop.events" not in written.results  # when this fails, dbt 2 has changed
    message = final("dbt2_microbatch")["events"].message
    assert "bad day" in message
    assert "<unknown>" not in message
    assert not message.startswith("[error]")


@pytest.mark.parametrize("name", ["dbt1_unit_test", "dbt2_unit_test"])
def test_unit_test_that_fails_skips_its_model(name: str) -> None:
    results = final(name)
    assert results["revenue"].status in FAILED | {"skipped"}
    by_id = {each.unique_id: each.status for each in results.values()}
    assert by_id.get("unit_test.shop.revenue.adds_up", "fail") in FAILED
    assert results["stg_orders"].status in BUILT


@pytest.mark.parametrize("name", ["dbt1_fail_fast", "dbt2_fail_fast"])
def test_fail_fast_keeps_what_ended_well_before(name: str) -> None:
    results = final(name)
    assert results["positive"].status in FAILED
    assert "ompilation" not in results["positive"].message
    assert any(each.status in BUILT | PASSED for each in results.values())
    # Nothing that did not run counts as built, passed or failed.
    _, ended = heard(name)
    ran = {each.unique_id for each in ended}
    for result in results.values():
        assert result.unique_id in ran or result.status not in BUILT | PASSED | FAILED, result


def test_dbt2_calls_everything_error_when_it_is_interrupted() -> None:
    log, _ = heard("dbt2_interrupted")
    written = read_run_results(FIXTURES / "dbt2_interrupted.run_results.json", log.invocation_id)
    assert written is not None
    assert {each.status for each in written.results.values()} == {"error"}  # when this fails, dbt 2 has changed
    assert log.cancelled
    results = final("dbt2_interrupted")
    assert results["stg_orders"].status in BUILT
    assert results["slow"].status == "cancelled"


def test_colours_and_stacks_are_left_out() -> None:
    stack = "\n   0: <unknown>\n   1: start_thread\n             at ./nptl/pthread_create.c:442:8\n   2: clone3\n"
    assert plain(f"\x1b[31mno such\x1b[0m table{stack}") == "no such table"
    assert plain("rows:\n  1: a b\n  end") == "rows:\n  1: a b\n  end"


def test_results_of_another_command_do_not_count(tmp_path: Path) -> None:
    path = FIXTURES / "dbt1_unit_test.run_results.json"
    assert read_run_results(path, "another") is None
    assert read_run_results(path, "") is None
    assert read_run_results(tmp_path / "none.json", "another") is None
    cut_off = tmp_path / "cut.json"
    cut_off.write_bytes(path.read_bytes()[:100])
    assert read_run_results(cut_off, "another") is None


# A fake dbt ---------------------------------------------------------------------------------------------------


Fake = Callable[..., ProcessDbt]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """A ProcessDbt over an executable with this body of Python."""
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: p\n", encoding="utf-8")
    (tmp_path / "profiles.yml").write_text("p: {target: dev, outputs: {dev: {type: duckdb}}}\n", encoding="utf-8")

    def make(body: str, **options: object) -> ProcessDbt:
        executable = tmp_path / "dbt"
        head = f"#!{sys.executable}\nimport os, pathlib, signal, subprocess, sys, time\n"
        head += f"FIXTURES = pathlib.Path({str(FIXTURES)!r})\n"
        head += f"os.chdir({str(tmp_path)!r})\n" if "pids" in body else ""
        head += "TARGET = pathlib.Path(dict(zip(sys.argv, sys.argv[1:])).get('--target-path', ''))\n"
        head += "def copy(name):\n    TARGET.mkdir(parents=True, exist_ok=True)\n"
        head += "    (TARGET / 'run_results.json').write_bytes((FIXTURES / f'{name}.run_results.json').read_bytes())\n"
        head += "def say(name): print((FIXTURES / f'{name}.jsonl').read_text(), end='', flush=True)\n"
        executable.write_text(head + textwrap.dedent(body), encoding="utf-8")
        executable.chmod(0o755)
        settings = LineageOrchSettings(project_dir=tmp_path, vars={"a": "b; c $d"}, dbt_flags=("--threads", "4"))
        return ProcessDbt(DbtProject.find(settings), settings, str(executable), **options)  # type: ignore[arg-type]

    return make


def test_arguments_pass_by_no_shell(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    fake("import json; pathlib.Path('args').write_text(json.dumps(sys.argv[1:]))").build(
        ["a b", "$(touch x)"], ["--odd"], lambda _: None
    )
    import json

    args = json.loads(Path("args").read_text(encoding="utf-8"))  # dbt runs where this process does
    assert args[:5] == ["build", "--select", "a b", "$(touch x)", "--exclude"]
    assert json.loads(args[args.index("--vars") + 1]) == {"a": "b; c $d"}
    assert args[args.index("--threads") + 1] == "4"
    assert args[args.index("--log-format") + 1] == "json"


def test_node_ends_are_passed_on_as_they_happen(fake: Fake) -> None:
    at: list[float] = []
    fake("say('dbt2_unit_test'); time.sleep(1); sys.exit(1)").build(["*"], [], lambda _: at.append(time.monotonic()))
    assert time.monotonic() - at[0] > 0.9


def test_final_results_are_those_of_file_of_this_command(fake: Fake, tmp_path: Path) -> None:
    copy = "copy('{}')\n"
    own = copy.format("dbt1_fail_fast") + "say('dbt1_fail_fast'); sys.exit(1)"
    outcome = fake(own).build(["*"], [], lambda _: None)
    status = {each.unique_id: each.status for each in outcome.results}
    assert status["test.shop.warns"] == "skipped"  # which the log had called a warning
    assert outcome.cut_short
    other = fake(copy.format("dbt1_microbatch") + "say('dbt1_fail_fast'); sys.exit(1)").build(["*"], [], lambda _: None)
    assert {each.unique_id: each.status for each in other.results}["test.shop.warns"] == "warn"


def test_dbt_that_does_not_begin_says_why(fake: Fake) -> None:
    with pytest.raises(DbtError, match="unexpected argument '--threads'"):
        fake("print(\"error: unexpected argument '--threads' found\", file=sys.stderr); sys.exit(2)").build(
            ["*"], [], lambda _: None
        )
    with pytest.raises(DbtError, match="does not parse"):
        fake("sys.exit(2)").parse()


def test_kill_of_dbt_is_error_that_keeps_what_finished(fake: Fake) -> None:
    ended: list[Result] = []
    with pytest.raises(DbtError, match="SIGKILL"):
        fake("say('dbt2_unit_test'); os.kill(os.getpid(), signal.SIGKILL)").build(["*"], [], ended.append)
    assert any(each.status in BUILT for each in ended)


def test_missing_executable_is_error_that_names_setting(fake: Fake, tmp_path: Path) -> None:
    dbt = fake("")
    dbt.executable = str(tmp_path / "nowhere")
    with pytest.raises(DbtError, match="LINEAGE_ORCH_DBT"):
        dbt.parse()


def test_silence_is_said_and_nothing_is_stopped_for_it(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fake("time.sleep(1.2)", silence=0.3).build(["*"], [], lambda _: None)
    assert sum("has said nothing" in each.message for each in caplog.records) >= 2


def test_log_lines_keep_their_levels(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="lineage_orch.dbt"), pytest.raises(DbtError):
        fake("say('dbt2_interrupted'); print('no json'); sys.exit(1)").build(["*"], [], lambda _: None)
    levels = {each.message: each.levelno for each in caplog.records}
    assert levels["Running with dbt-fusion=2.0.0-preview.196"] == logging.INFO
    assert levels["no json"] == logging.INFO
    assert logging.ERROR in levels.values()
    assert logging.DEBUG in levels.values()


def test_interrupt_lets_dbt_end_and_takes_what_it_still_says(fake: Fake) -> None:
    body = """
    def end(*_):
        say('dbt2_interrupted'); sys.exit(1)
    signal.signal(signal.SIGINT, end)
    say('dbt2_microbatch')
    time.sleep(60)
    """
    ended: list[str] = []

    def on_result(result: Result) -> None:
        ended.append(result.unique_id)
        if len(ended) == 1:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fake(body, grace=20).build(["*"], [], on_result)
    assert time.monotonic() - began < 15
    assert "model.shop.stg_orders" in ended


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_until(true: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


STUBBORN = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen(['sleep', '300'])
pathlib.Path('pids').write_text(f'{os.getpid()} {child.pid}')
say('dbt2_microbatch')
time.sleep(300)
"""


def pids(folder: Path) -> list[int]:
    return [int(each) for each in (folder / "pids").read_text(encoding="utf-8").split()]


def test_dbt_that_does_not_end_is_killed_with_all_it_started(fake: Fake, tmp_path: Path) -> None:
    def interrupt(_: Result) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake(STUBBORN, grace=0.5).build(["*"], [], interrupt)
    wait_until(lambda: not any(map(alive, pids(tmp_path))))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_dbt_dies_with_this_process(fake: Fake, tmp_path: Path, how: signal.Signals) -> None:
    dbt = fake(STUBBORN, grace=1.0)
    program = f"""
from lineage_orch.dbt.process import ProcessDbt
from lineage_orch.dbt.project import DbtProject
from lineage_orch.settings import LineageOrchSettings
settings = LineageOrchSettings(project_dir={str(tmp_path)!r})
ProcessDbt(DbtProject.find(settings), settings, {dbt.executable!r}, grace=1.0).build(["*"], [], lambda _: None)
"""
    us = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    wait_until(lambda: (tmp_path / "pids").exists() and len(pids(tmp_path)) == 2, 60)
    us.send_signal(how)
    us.wait(20)
    wait_until(lambda: not any(map(alive, pids(tmp_path))))


# Which dbt ----------------------------------------------------------------------------------------------------


def test_setting_chooses(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("")

    def chosen(dbt: str | None) -> object:
        settings = LineageOrchSettings(project_dir=tmp_path, dbt=dbt)
        return choose_dbt(DbtProject.find(settings), settings)

    assert isinstance(chosen(None), DbtRunner)  # dbt-core is installed here
    named = chosen("/opt/dbt2/bin/dbt")
    assert isinstance(named, ProcessDbt)
    assert named.executable == "/opt/dbt2/bin/dbt"
    monkeypatch.setattr("lineage_orch.dbt.executable._is_importable", lambda: False)
    assert isinstance(chosen(None), ProcessDbt)


def test_path_in_pyproject_counts_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.lineage_orch]\ndbt = "venv/bin/dbt"\n', encoding="utf-8")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert LineageOrchSettings().dbt == str(tmp_path / "venv/bin/dbt")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Core:\n  - installed: 1.11.16\n  - latest:    1.12.6", "1.11.16"),
        ("dbt-fusion 2.0.0-preview.196", "2.0.0-preview.196"),
        ("dbt 2.0.9", "2.0.9"),
    ],
)
def test_version_is_read(fake: Fake, said: str, version: str) -> None:
    assert fake(f"print({said!r})").version() == version
    with pytest.raises(DbtError, match="names no version"):
        fake("print('hello')").version()
