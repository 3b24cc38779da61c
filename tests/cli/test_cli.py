"""The command line: exit codes, JSON on stdout alone, one line per error, and no heavy imports."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lineage_orch.cli.app import main
from lineage_orch.dbt.engine import DbtEngine, OnResult, Outcome, Result
from lineage_orch.ledger import Ledger
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.plan import plan_graph
from lineage_orch.updates import SourceUpdate
from tests.manifests import manifest, node, source

NOW = datetime(2026, 10, 16, tzinfo=UTC)
HOURLY = {"freshness": {"build_after": {"count": 1, "period": "hour"}}}
MANIFEST = manifest(
    source("raw.orders"),
    source("raw.users"),
    node("stg_orders", "raw.orders"),
    node("stg_users", "raw.users"),
    node("mart", "stg_orders", "stg_users"),
    node("hourly", "stg_orders", config=HOURLY),
)


class FakeDbt(DbtEngine):
    """A noisy dbt that builds what it is told to; what is in ``broken`` fails, and all below it is skipped."""

    broken: frozenset[str] = frozenset()

    def __init__(self, *_: object) -> None:
        pass

    def parse(self) -> None:
        raise AssertionError("the manifest is given; nothing is to be parsed")

    def build(
        self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        print("dbt prints to stdout")
        lineage = Lineage.from_manifest(MANIFEST)
        chosen: set[str] = set()
        for each in select:
            name = each.removeprefix("source:").removeprefix("fqn:").removesuffix("+")
            chosen |= lineage.downstream(name) if each.startswith("source:") else {f"model.{name}"}
        results: list[Result] = []
        bad: set[str] = set()
        graph = plan_graph(lineage)
        for unique_id in (each for each in graph.ids if each in chosen):
            parents = {graph.ids[number] for number in graph.parents[graph.index[unique_id]]}
            status = "error" if unique_id in self.broken else "skipped" if parents & bad else "success"
            bad |= {unique_id} if status != "success" else set()
            results.append(Result(unique_id, status, "Binder Error: no column x" if status == "error" else ""))
            on_result(results[-1])
        return Outcome(results)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text(
        "shop: {target: dev, outputs: {dev: {type: duckdb}, prod: {type: duckdb}}}\n"
    )
    (tmp_path / "m.json").write_text(json.dumps(MANIFEST))
    monkeypatch.setattr("lineage_orch.orchestrator.choose_dbt", FakeDbt)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the project; gives (exit code, stdout, stderr)."""

    def run(command: str, *args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([command, *args, "--manifest", str(project / "m.json")])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def good(answer: tuple[int, str, str]) -> str:
    code, out, err = answer
    assert code == 0, err
    return out


def data(answer: tuple[int, str, str]) -> Any:
    assert answer[0] in (0, 1), answer[2]
    return json.loads(answer[1])


def error(answer: tuple[int, str, str]) -> str:
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert err.startswith("lineage-orch: ")
    assert err.count("\n") == 1, err
    return err


# What was loaded gets built -------------------------------------------------------------------------------


def test_load_its_plan_its_build_and_its_status(run: Run) -> None:
    assert "Nothing to build now." in good(run("plan"))
    assert "Recorded raw.orders at tick 1." in good(run("record", "raw.orders"))

    out = good(run("plan"))
    assert sorted(line.split(maxsplit=1) for line in out.splitlines()[3:7]) == [
        ["hourly", "raw.orders"],
        ["mart", "raw.orders"],
        ["stg_orders", "raw.orders"],
        ["stg_users", "needed by mart"],
    ]
    plan = data(run("plan", "--json"))
    assert set(plan["build"]) == {f"model.shop.{each}" for each in ("stg_orders", "stg_users", "hourly", "mart")}
    assert plan["because"]["model.shop.mart"] == ["source.shop.raw.orders"]
    assert {"kind": "prerequisite", "subjects": ["model.shop.mart"]} in plan["reasons"]["model.shop.stg_users"]

    code, out, err = run("build")
    assert (code, out.splitlines()[0]) == (0, "Built 4 nodes.")
    assert "dbt prints to stdout" in err
    assert "dbt build --select fqn:shop.stg_orders" in err
    assert "Nothing was due." in good(run("build"))

    status = good(run("status"))
    assert "Nodes: 4 up to date." in status
    states = {each["name"]: each["state"] for each in data(run("status", "--json"))["nodes"]}
    assert states == {
        "stg_orders": "up_to_date",
        "hourly": "up_to_date",
        "mart": "up_to_date",
        "stg_users": "up_to_date",
    }


def test_held_nodes_are_shown_with_reason_and_time(run: Run) -> None:
    good(run("record", "raw.orders", "--build"))
    good(run("record", "raw.orders"))
    out = good(run("plan"))
    assert "Held: 1 node" in out
    assert "(in 1 h)" in out
    assert "freshness.build_after" in out
    plan = data(run("plan", "--json"))
    assert plan["held"]["model.shop.hourly"]["reason"] == "build_after"
    assert plan["next_due"] == plan["held"]["model.shop.hourly"]["until"]
    assert "hourly is held until" in good(run("explain", "hourly"))
    assert "held: until" in good(run("status"))


def test_history_and_carried_failures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDbt, "broken", frozenset({"model.shop.mart"}))
    good(run("record", "raw.*", "--producer", "export"))
    assert run("build")[0] == 1
    out = good(run("history", "mart", "--since", "1h"))
    assert "failed" in out
    assert "stg_orders" not in out
    events = data(run("history", "--json"))["events"]
    assert {each["kind"] for each in events} == {"loaded", "built", "failed"}
    assert {each["by"] for each in events if each["kind"] == "loaded"} == {"export"}
    code, _, err = run("history", "--since", "lately")
    assert code == 2
    assert "--since 'lately' is no span such as 12h or 7d" in err

    good(run("build"))
    monkeypatch.setenv("LINEAGE_ORCH_FAIL_ON_CARRIED", "true")
    assert run("build")[0] == 1


def test_build_prints_json_and_nothing_else(run: Run) -> None:
    good(run("record", "raw.*"))
    report = data(run("build", "--json"))
    assert len(report["built"]) == 4
    assert report["failed"] == {}


def test_load_with_same_fingerprint_is_told_as_nothing_new(run: Run) -> None:
    assert "Nothing new" not in good(run("record", "raw.orders", "--fingerprint", "etag", "--build"))
    out = good(run("record", "raw.orders", "raw.users", "--fingerprint", "etag"))
    assert "Nothing new in source.shop.raw.orders, by the fingerprint" in out
    again = data(run("record", "raw.orders", "--fingerprint", "etag", "--build", "--json"))
    assert again["unchanged"] == ["source.shop.raw.orders"]
    assert again["build"]["built"] == ["model.shop.stg_users", "model.shop.mart"], "that of the users was their first"
    assert "--fingerprint is empty" in error(run("record", "raw.orders", "--fingerprint", ""))


def test_load_that_nothing_reports_is_observed_and_built(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 where a source could not be looked at; what was seen of the others counts."""
    at = {"snapshotted_at": "2026-10-15T10:00:00Z", "max_loaded_at": "2026-10-15T09:00:00Z"}
    orders = {"unique_id": "source.shop.raw.orders", "status": "pass", **at}
    users = {"unique_id": "source.shop.raw.users", "status": "runtime error", "error": "no such table"}
    file = project / "sources.json"
    file.write_text(json.dumps({"results": [orders]}))
    looked = ("observe", "--sources-json", str(file))
    out = good(run(*looked, "--build"))
    assert "raw.orders was loaded at 2026-10-15 09:00:00 UTC." in out
    assert "dbt does not look at raw.users: set loaded_at_field" in out
    assert "Built 4 nodes." in out
    assert "Nothing new in 1 source." in good(run(*looked))
    assert run(*looked, "raw.users")[0] == 1
    file.write_text(json.dumps({"results": [orders | {"max_loaded_at": "2026-10-15T09:59:30Z"}, users]}))
    code, out, _ = run(*looked)
    assert code == 1
    assert "raw.orders is left to the next look: its newest row is 30 seconds old" in out
    assert "raw.users could not be looked at: no such table" in out
    found = data(run(*looked, "--settle", "10", "--json"))
    assert found["recorded"] == {"source.shop.raw.orders": "2026-10-15T09:59:30+00:00"}
    assert found["errors"] == {"source.shop.raw.users": "no such table"}
    assert (found["tick"], found["build"]) == (4, None)
    assert "this way to run dbt cannot say when a source was loaded" in error(run("observe"))
    assert "did you mean" in error(run(*looked, "raw.order"))
    assert "setting settle -1.0" in error(run(*looked, "--settle", "-1"))


def test_report_of_last_days(run: Run) -> None:
    good(run("record", "raw.orders", "--build"))
    out = good(run("report"))
    assert "nodes built " in out
    assert "one dbt command per load" in out
    assert data(run("report", "--since", "12h", "--json"))["loads"] == 1
    assert "--since 'week' is no span such as 12h or 7d" in error(run("report", "--since", "week"))


def test_failed_build_is_exit_code_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDbt, "broken", frozenset({"model.shop.stg_orders"}))
    good(run("record", "raw.orders"))
    code, out, _ = run("build")
    assert code == 1
    assert "Binder Error: no column x" in out
    assert "waits for stg_orders, which failed" in out
    code, out, _ = run("build", "--json")
    assert code == 0, "nothing new failed"
    assert json.loads(out)["failing"].keys() == {"model.shop.stg_orders"}
    code, out, _ = run("record", "raw.users", "--build", "--json")
    assert code == 0
    assert json.loads(out)["build"]["built"] == ["model.shop.stg_users"]
    monkeypatch.setattr(FakeDbt, "broken", frozenset())
    assert "Nothing was due" in good(run("build")), "it waits before it is tried again"
    assert data(run("retry", "stg_orders", "--json")) == {"nodes": ["model.shop.stg_orders"]}
    assert "Built 3 nodes." in good(run("build"))


def test_build_of_a_selection_names_what_is_stale_below(run: Run) -> None:
    good(run("record", "raw.*", "--build"))
    assert "--force" in run("build", "-s", "stg_orders")[2]
    out = good(run("build", "-s", "stg_orders", "stg_users", "--force"))
    assert "Built: stg_orders, stg_users" in out
    assert "Stale now, since it reads what was built: hourly and mart." in out
    report = data(run("build", "--select", "stg_orders", "--exclude", "mart", "--full-refresh", "--json"))
    assert report["built"] == ["model.shop.stg_orders"]
    assert report["stale_below"] == ["model.shop.hourly", "model.shop.mart"]


def test_marked_nodes_are_stale(run: Run) -> None:
    good(run("record", "raw.*", "--build"))
    assert data(run("mark-stale", "mart", "--json")) == {"nodes": ["model.shop.mart"]}
    assert data(run("plan", "--json"))["build"] == ["model.shop.mart"]
    assert "Stale from now on: mart." in good(run("mark-stale", "mart"))
    assert "did you mean 'mart'" in error(run("mark-stale", "marts"))


def test_build_in_stream_of_loads_ends_and_says_what_is_left(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = iter(range(4))  # loads, one in each dbt run
    build = FakeDbt.build

    def build_while_loads_come(self: FakeDbt, *args: Any) -> Outcome:
        if (number := next(coming, None)) is not None:
            [path] = project.rglob("*.db")
            with Ledger(f"sqlite:///{path}", project="shop", target="dev") as ledger:
                ledger.record_updates([SourceUpdate("source.shop.raw.users", f"{number}", datetime.now(UTC))])
        return build(self, *args)

    launched: list[str] = []

    def launch(deployment: str, *_: Any, **__: Any) -> Any:
        launched.append(deployment)
        return SimpleNamespace(name="next-owl")

    monkeypatch.setattr(FakeDbt, "build", build_while_loads_come)
    monkeypatch.setattr("lineage_orch.deployed.launch.launch", launch)
    good(run("record", "raw.orders", "raw.users"))
    out = good(run("build"))
    assert "left to the next build" in out
    assert "the next build takes them up: stg_users and mart." in out
    assert launched == []

    coming = iter(range(10, 20))
    monkeypatch.setenv("LINEAGE_ORCH_DEPLOYMENT", "build-affected/shop")
    code, _, err = run("build")
    assert code == 0
    assert launched == ["build-affected/shop"]
    assert "Run 'next-owl' of build-affected/shop builds what was loaded meanwhile." in err
    assert data(run("build", "--until-done", "--json"))["more"] == []
    assert len(launched) == 1


def test_build_that_another_process_does_is_exit_code_0(run: Run, project: Path) -> None:

    good(run("record", "raw.orders"))
    with (
        Ledger(f"sqlite:///{project}/.lineage_orch/ledger.db", project="shop", target="dev") as ledger,
        ledger.build_lock("the night shift") as held,
    ):
        assert held
        assert "the night shift" in good(run("build"))
        assert "the night shift" in data(run("build", "--json"))["busy"]
        assert "Build lock: taken by the night shift since" in good(run("status"))


# Explain --------------------------------------------------------------------------------------------------


def test_explain(run: Run) -> None:
    assert good(run("explain", "mart")).startswith("mart was never built, and no source above it was ever loaded")
    good(run("record", "raw.orders", "--loaded-at", "2026-01-02T03:04:05+01:00"))
    out = good(run("explain", "shop.mart"))
    assert "raw.orders was loaded at tick 1 (2026-01-02 02:04 UTC)" in out
    assert "Path: raw.orders -> stg_orders -> mart" in out
    answer = data(run("explain", "model.shop.mart", "--json"))
    assert answer["verdict"] == "build"
    assert answer["lines"][0].startswith("mart will build")
    assert answer["sources"][0]["path"] == ["source.shop.raw.orders", "model.shop.stg_orders", "model.shop.mart"]


# Sources --------------------------------------------------------------------------------------------------


def test_sources_of_manifest_alone(run: Run) -> None:
    out = good(run("sources"))
    assert "producers" not in out
    assert "raw.orders  3: stg_orders, hourly, mart" in out
    rows = data(run("sources", "--json"))["sources"]
    assert rows[1] == {
        "unique_id": "source.shop.raw.users",
        "name": "raw.users",
        "has_producer": None,
        "producers": None,
        "models": ["model.shop.stg_users", "model.shop.mart"],
        "followers": [],
    }


def test_sources_with_their_producers(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ("--ledger", f"sqlite:///{project}/.lineage_orch/ledger.db")
    good(run("record", "raw.orders", "--producer", "nightly import"))
    assert "nightly import" in good(run("sources", *ledger))
    monkeypatch.setenv("LINEAGE_ORCH_MANIFEST", str(project / "m.json"))
    assert main(["sources", "--json"]) == 0
    rows = data(run("sources", "--json", *ledger))["sources"]
    assert [(each["has_producer"], each["producers"]) for each in rows] == [(True, ["nightly import"]), (False, [])]


def test_sources_where_there_is_no_ledger_yet(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINEAGE_ORCH_MANIFEST", str(project / "m.json"))
    assert main(["sources", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"][0]["producers"] == []
    assert not (project / ".lineage_orch").exists()


def test_modules_that_print_do_not_spoil_answer(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "loud_loads.py").write_text("print('hello')\n")
    monkeypatch.setenv("LINEAGE_ORCH_MANIFEST", str(project / "m.json"))
    for ledger in ([], ["--ledger", f"sqlite:///{project}/ledger.db"]):
        assert main(["sources", "--json", "--producers", "loud_loads.py", *ledger]) == 0
        assert json.loads(capsys.readouterr().out)["sources"]


def test_project_without_sources(run: Run, project: Path) -> None:
    (project / "m.json").write_text(json.dumps(manifest(node("alone"))))
    assert good(run("sources")) == "The project has no sources.\n"
    assert "Nothing to build now." in good(run("plan"))
    assert "alone" in good(run("status"))


# Record and adopt -----------------------------------------------------------------------------------------


def test_page_and_picture_are_files(run: Run, project: Path, tmp_path: Path) -> None:
    good(run("record", "raw.orders", "--producer", "load_orders"))
    page, picture = tmp_path / "out.html", tmp_path / "out.svg"
    page.write_text("what was there")
    assert good(run("page", "-o", str(page))) == f"Wrote {page}: 7 items, 6 edges.\n"
    assert page.read_text().startswith("<!DOCTYPE html>")
    found = data(run("page", "--output", str(picture), "--json"))
    assert found["states"] == {"due": 4, "loaded": 1, "no_producer": 1}
    assert picture.read_text().startswith("<svg ")
    assert not [each for each in tmp_path.iterdir() if "out." in each.name and each not in (page, picture)]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "page.pdf"], "--output page.pdf is neither .html nor .svg"),
        (["-o", "no/such/folder/page.html"], "--output no/such/folder/page.html cannot be written: No such file"),
        (["--days", "0"], "--days 0 is less than one day"),
    ],
)
def test_pages_that_cannot_be(run: Run, args: list[str], message: str) -> None:
    assert message in error(run("page", *args))


def test_same_update_id_counts_once(run: Run) -> None:
    first = data(run("record", "raw.orders", "--update-id", "monday", "--json"))
    again = data(run("record", "raw.orders", "--update-id", "monday", "--json"))
    told = {"sources": ["raw.orders"], "update_id": "monday", "tick": 1, "unchanged": [], "build": None}
    assert first == again == told


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "record needs one source or more"),
        ([""], "record needs one source or more"),
        (["raw.order"], "did you mean 'raw.orders'"),
        (["raw.orders", "--update-id", ""], "--update-id is empty"),
        (["raw.orders", "--loaded-at", "yesterday"], "'yesterday' is no ISO 8601 time"),
        (["raw.orders", "--loaded-at", "2026-01-01T00:00:00"], "has no time zone; write it as"),
    ],
)
def test_records_that_cannot_be(run: Run, args: list[str], message: str) -> None:
    assert message in error(run("record", *args))


def test_record_with_window(run: Run) -> None:
    good(run("record", "raw.orders", "--from", "2026-03-01", "--to", "2026-03-02"))
    (event,) = data(run("history", "--json"))["events"]
    assert event["window"] == {"start": "2026-03-01T00:00:00+00:00", "end": "2026-03-02T00:00:00+00:00"}
    for args in (["--from", "2026-03-01"], ["--from", "2026-03-02", "--to", "2026-03-01"]):
        assert "the first before the other" in error(run("record", "raw.orders", *args))


def test_adopt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    code, out, err = run("adopt")
    assert (code, out) == (1, "")
    assert "Declare 2 sources as loaded and 4 nodes as built in shop, target dev? [y/N]" in err
    assert "2 sources" not in good(run("status"))

    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert "Declared 2 sources as loaded and 4 nodes as built, at tick 3." in good(run("adopt"))
    assert "Nodes: 4 up to date." in good(run("status"))
    assert data(run("adopt", "--yes", "--json"))["nodes"] == 4


def test_adopt_says_what_failed_and_forgives_it_by_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDbt, "broken", frozenset({"model.shop.stg_orders", "model.shop.stg_users"}))
    good(run("record", "raw.*"))
    assert run("build")[0] == 1
    code, out, err = run("adopt", "raw.orders", "raw.users", "--forgive-failed", "stg_orders", "--yes", "--json")
    assert code == 0, err
    assert "stay stale unless named with --forgive-failed: stg_users." in err
    done = json.loads(out)
    assert (done["still_stale"], done["missing"], done["sources"]) == (["stg_users"], [], 0)
    assert data(run("explain", "stg_users", "--json"))["verdict"] == "held"
    assert data(run("explain", "stg_orders", "--json"))["verdict"] == "up_to_date"


def test_forget(run: Run) -> None:
    good(run("record", "raw.orders", "--build"))
    assert good(run("forget", "raw.orders", "mart")) == "Forgot raw.orders and mart.\n"
    status = data(run("status", "--json"))
    assert {each["name"]: each["tick"] for each in status["sources"]}["raw.orders"] == 0
    assert {each["name"]: each["tick"] for each in status["nodes"]}["mart"] == 0
    assert data(run("forget", "mart", "--json")) == {"forgotten": ["model.shop.mart"]}
    assert "forget needs one source or node" in error(run("forget"))
    assert "no source 'raw.order'" in error(run("forget", "raw.order"))


def test_plan_asks_warehouse_where_it_is_told_to(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Orchestrator.plan
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(Orchestrator, "plan", lambda self, **options: asked.append(options) or plan(self))
    good(run("plan", "--check-relations"))
    assert asked == [{"check_relations": True}]


def test_parse(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parsed: list[Orchestrator] = []
    monkeypatch.setattr(Orchestrator, "parse", lambda self: parsed.append(self))
    assert "names another to use as it is" in error(run("plan", "--parse"))
    (project / "target").mkdir()
    (project / "target" / "manifest.json").write_text(json.dumps(MANIFEST))
    for command in ("plan", "status", "sources", "build"):
        assert main([command, "--parse"]) == 0, capsys.readouterr().err
    assert main(["check", "--parse", "--ignore", "no-producers"]) == 0
    assert len(parsed) == 5


def test_parse_is_told(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def parse(_: FakeDbt) -> None:
        (project / "target").mkdir(exist_ok=True)
        (project / "target" / "manifest.json").write_text(json.dumps(MANIFEST))

    monkeypatch.setattr(FakeDbt, "parse", parse)
    for args in (["plan"], ["plan", "--parse"]):
        assert main([*args, "--project-dir", str(project)]) == 0
        assert "Parsing the dbt project (" in capsys.readouterr().err


def test_adopt_without_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, out, err = run("adopt", "--json")
    assert (code, out) == (2, "")
    assert "pass --yes" in err


# Bad usage and bad projects -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["plan", "--colour"], "--colour"),
        (["explain"], "requires an argument"),
        (["explain", "mrat"], "did you mean 'mart'?"),
        (["plan", "--target", "nowhere"], "has no target 'nowhere'; it has: dev, prod"),
        (["plan", "--vars", "{"], "setting vars"),
        (["plan", "--project-dir", "nowhere"], "it has no dbt_project.yml"),
        (["plan", "--profiles-dir", "nowhere"], "no profiles.yml in"),
        (["plan", "--ledger", "what is this"], "the ledger's url cannot be read"),
        (["status", "--ledger", "sqlite:////dev/null/ledger.db"], "/dev/null"),
    ],
)
def test_errors_are_one_line_on_stderr_and_exit_code_2(run: Run, args: list[str], message: str) -> None:
    assert message in error(run(*args))


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recrod"]) == 2
    assert 'Did you mean "record"?' in capsys.readouterr().err


def test_manifest_that_is_none(run: Run, project: Path) -> None:
    (project / "m.json").write_text("{")
    os.utime(project / "m.json", (0, 0))  # not one that dbt is writing just now, and worth waiting for
    for command in ("plan", "sources", "status"):
        assert "m.json" in error(run(command))


def test_broken_policy_names_node(run: Run, project: Path) -> None:
    bad = manifest(source("a.b"), node("m", "a.b", config={"state": {"lag_tolerance": "soon"}}))
    (project / "m.json").write_text(json.dumps(bad))
    good(run("record", "a.b"))
    assert "config.state.lag_tolerance of model.shop.m is 'soon'" in good(run("plan"))
    assert data(run("plan", "--json"))["held"]["model.shop.m"]["reason"] == "bad_config"


def test_help_tells_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--help"], ["build", "--help"], []):
        assert main(args) == 0
        assert "Exit codes: 0 done" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


# Some of it only ---------------------------------------------------------------------------------------------


def test_promises_on_freshness(run: Run, project: Path) -> None:
    assert "Nothing is promised" in good(run("freshness"))
    soon = {"meta": {"lineage_orch": {"late_after": "2h"}}}
    promising = manifest(source("raw.orders"), node("stg_orders", "raw.orders", config=soon))
    (project / "m.json").write_text(json.dumps(promising))
    good(run("record", "raw.orders", "--loaded-at", "2026-10-16T00:00:00Z"))
    code, out, err = run("freshness", "--json")
    data = json.loads(out)
    assert (code, err, data["ok"]) == (1, "", False)
    assert data["promises"][0]["waits_for"] == ["source.shop.raw.orders"]
    code, out, _ = run("freshness", "stg_*", "--late")
    assert code == 1
    assert "has not taken in raw.orders" in out
    assert "0 promises: none." in good(run("freshness", "raw.orders"))
    good(run("build"))
    assert "1 promise: 1 fresh." in good(run("freshness"))


def test_status_of_some(run: Run) -> None:
    good(run("record", "raw.orders"))
    shown = data(run("status", "stg_*", "raw.users", "--json"))
    assert [each["name"] for each in shown["nodes"]] == ["stg_orders", "stg_users"]
    assert [each["name"] for each in shown["sources"]] == ["raw.users"]
    shown = data(run("status", "--held", "--json"))
    assert (shown["nodes"], shown["sources"]) == ([], [])
    assert {each["name"] for each in data(run("status", "--stale", "--json"))["nodes"]} == {
        "stg_orders", "stg_users", "mart", "hourly",
    }  # fmt: skip
    out = good(run("status", "--limit", "1"))
    assert "3 more, left out by --limit 1." in out
    assert "Nodes: 4 due." in out


def test_plan_of_some(run: Run) -> None:
    good(run("record", "raw.orders"))
    out = good(run("plan", "hourly", "mart"))
    assert "To build: 2 of 4 nodes" in out
    assert "stg_orders" not in out
    whole, some = data(run("plan", "--json")), data(run("plan", "mart", "--json"))
    assert some["build"] == list(some["reasons"]) == list(some["because"]) == ["model.shop.mart"]
    assert some["select"] == whole["select"]


def test_failing_and_held_nodes_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDbt, "broken", frozenset({"model.shop.stg_orders"}))
    good(run("record", "raw.orders"))
    assert run("build")[0] == 1
    assert [each["name"] for each in data(run("status", "--failing", "--json"))["nodes"]] == ["stg_orders"]
    both = data(run("status", "--failing", "--held", "--json"))["nodes"]
    assert {each["name"] for each in both} == {"stg_orders", "mart", "hourly"}


def test_sources_of_some_and_long_cells(run: Run, project: Path) -> None:
    assert [each["name"] for each in data(run("sources", "raw.u*", "--json"))["sources"]] == ["raw.users"]
    assert [each["name"] for each in data(run("sources", "+hourly", "--json"))["sources"]] == ["raw.orders"]
    many = [source(f"raw.t{number}") for number in range(12)]
    (project / "m.json").write_text(
        json.dumps(manifest(*many, *(node(f"m{number}", "raw.t0") for number in range(99))))
    )
    out = good(run("sources"))
    assert "99: m0, m1, m2, m3, m4 and 94 more" in out
    assert "m98" in good(run("sources", "raw.t0"))
    assert "no source or node 'raw.t99'" in error(run("sources", "raw.t99"))


def test_explain_of_a_source(run: Run) -> None:
    assert good(run("explain", "raw.users")).splitlines()[0] == (
        "raw.users was never loaded, and no producer of it is known."
    )
    good(run("record", "raw.orders", "--producer", "load_orders"))
    out = good(run("explain", "raw.orders"))
    assert out.startswith("raw.orders was loaded at tick 1 (")
    assert ", by load_orders.\nDownstream of it: 3 nodes.\nDue: " in out
    assert out.endswith("To build them all by hand: dbt build --select source:shop.raw.orders+\n")
    answer = data(run("explain", "source.shop.raw.orders", "--json"))
    assert answer["downstream"]["model.shop.mart"] == "due"
    assert "Downstream of it: 2 nodes: hourly, mart" in good(run("explain", "stg_orders"))
    assert data(run("explain", "stg_orders", "--json"))["downstream"] == ["model.shop.hourly", "model.shop.mart"]
    assert "Downstream" not in good(run("explain", "mart"))
    assert "no node 'nothing'" in error(run("explain", "nothing"))


# Tables ---------------------------------------------------------------------------------------------------


def test_tables_fit_80_columns_and_cut_nothing_off(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a_model_whose_name_is_so_long_that_it_alone_would_fill_a_good_part_of_a_line_and_more"
    (project / "m.json").write_text(
        json.dumps(manifest(source("raw.orders"), node(long, "raw.orders"), node("[b]", long)))
    )
    monkeypatch.setenv("COLUMNS", "80")
    good(run("record", "raw.orders"))
    for command in ("sources", "status", "plan"):
        out = good(run(command))
        assert max(map(len, out.splitlines())) <= 80 or command == "plan"
        assert "[b]" in out
    monkeypatch.delenv("COLUMNS")
    out = good(run("status"))
    assert long in out
    assert all(line == line.rstrip() for line in out.splitlines())


# Start-up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["sources", "--json", "--manifest", "m.json"],
        *[
            [command, "--json", "--manifest", "m.json", "--ledger", "sqlite:///.lineage_orch/ledger.db"]
            for command in ("sources", "plan", "status")
        ],
    ],
)
def test_fast_commands_import_nothing_heavy(project: Path, run: Run, args: list[str]) -> None:
    if "--ledger" in args:
        good(run("record", "raw.orders", "--producer", "export"))
    # What reads the ledger needs its one road, SQLAlchemy.
    heavy = ["dbt", "prefect", "networkx", *([] if "--ledger" in args else ["sqlalchemy"])]
    code = (
        "import sys; from lineage_orch.cli.app import main; assert main(sys.argv[1:]) == 0; "
        f"print([each for each in {heavy} if each in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=project, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_reader_that_leaves_early(project: Path) -> None:
    shell = f'"{sys.executable}" -m lineage_orch.cli sources --manifest m.json | true; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", shell], cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_producers_are_found_where_their_flows_are(run: Run, tmp_path: Path) -> None:
    loads = tmp_path / "loads.py"
    loads.write_text(
        "from prefect import flow\nfrom lineage_orch import produces_source\n"
        "@produces_source('raw.orders')\n@flow(name='load-orders')\ndef load_orders():\n    pass\n"
        "@produces_source('raw.ordres')\n@flow(name='typo')\ndef typo():\n    pass\n"
    )
    code, out, err = run("sources", "--producers", str(loads), "--json")
    assert code == 0
    rows = {each["name"]: each for each in json.loads(out)["sources"]}
    assert rows["raw.orders"]["producers"] == ["load-orders"]
    assert rows["raw.users"]["producers"] == []
    assert "no source 'raw.ordres'" in err
    code, out, _ = run("status", "--producers", str(loads), "--json")
    assert code == 0
    assert {each["name"]: each["has_producer"] for each in json.loads(out)["sources"]} == {
        "raw.orders": True,
        "raw.users": False,
    }


# What a change makes stale ----------------------------------------------------------------------------------


def test_plan_compares_with_a_manifest_of_before_and_makes_no_ledger(project: Path, run: Run) -> None:
    changed = [node("mart", "stg_orders", "stg_users", checksum="other"), node("new", "mart")]
    before = manifest(*(each for kind in ("sources", "nodes") for each in MANIFEST[kind].values()))
    (project / "before.json").write_text(json.dumps(before))
    kept = [each for each in MANIFEST["nodes"].values() if each["name"] != "mart"]
    (project / "m.json").write_text(json.dumps(manifest(*MANIFEST["sources"].values(), *kept, *changed)))
    assert good(run("plan", "--compare", "before.json")) == (
        "### This change makes 2 of 5 nodes stale\n\n"
        "| node | why |\n|---|---|\n| `mart` | its file changed |\n| `new` | new |\n"
    )
    assert [each["node"] for each in data(run("plan", "--compare", "before.json", "--json"))["stale"]] == [
        "model.shop.mart",
        "model.shop.new",
    ]
    assert not (project / ".lineage_orch").exists()

    with Ledger(f"sqlite:///{project}/.lineage_orch/ledger.db", project="shop", target="dev") as ledger:
        tick, _ = ledger.begin_build()
        ledger.record_built(tick, ["model.shop.mart"], built_at=NOW, seconds={"model.shop.mart": 90.0})
    assert good(run("plan", "--compare", "before.json")).startswith(
        "### This change makes 2 of 5 nodes stale, about 3 min"
    )


def test_plan_compares_without_times_where_the_ledger_cannot_be_reached(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINEAGE_ORCH_LEDGER", "sqlite:///.")
    (project / "before.json").write_text(json.dumps(MANIFEST))
    out = good(run("plan", "--compare", "before.json"))
    assert out.startswith("### This change makes nothing stale\n\nHow long it takes is not known: the ledger ")
    assert "leave these out" in error(run("plan", "mart", "--compare", "before.json"))
    assert "no manifest at" in error(run("plan", "--compare", "nowhere.json"))
