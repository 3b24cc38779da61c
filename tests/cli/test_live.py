"""What a build shows while it runs, and the completion of the shell."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lineage_orch.cli.app import main
from lineage_orch.lineage import Lineage
from lineage_orch.testing import FakeDbt
from tests.manifests import manifest, node, source

MANIFEST = manifest(
    source("raw.a"),
    node("stg_a", "raw.a"),
    node("mart", "stg_a"),
    node("top", "mart"),
    node("test_stg_a", "stg_a", kind="test"),
    node("test_mart", "mart", kind="test"),
)


@pytest.fixture
def dbt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDbt:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
    (tmp_path / "m.json").write_text(json.dumps(MANIFEST))
    fake = FakeDbt(lambda: Lineage.from_manifest(MANIFEST))
    fake.seconds = {"model.shop.stg_a": 1.26}
    fake.failing = {"test.shop.test_mart"}
    fake.messages = {"test.shop.test_mart": "Got 3 results,\n  configured to fail"}
    monkeypatch.setattr("lineage_orch.orchestrator.choose_dbt", lambda *_: fake)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINEAGE_ORCH_MANIFEST", "m.json")
    monkeypatch.delenv("COLUMNS", raising=False)
    return fake


LINES = [
    "  built    stg_a  1.3 s",
    "  built    mart",
    "  failed   test_mart: Got 3 results, configured to fail",
    "  skipped  top",
]


def test_each_node_is_a_line_where_no_terminal_is(dbt: FakeDbt, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "raw.a", "--build"]) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    first = lines.index(LINES[0])
    assert lines[first : first + 4] == LINES
    assert LINES[0] not in out


def test_json_comes_alone(dbt: FakeDbt, capsys: pytest.CaptureFixture[str]) -> None:
    main(["record", "raw.a"])
    assert main(["build", "--json"]) == 1
    out, err = capsys.readouterr()
    json.loads(out.partition("\n")[2])
    assert "built " not in err


def test_terminal_shows_how_far_it_is(dbt: FakeDbt, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    main(["record", "raw.a"])
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    # A spinner draws some times per second; here at each line.
    dbt.before_node = lambda _: time.sleep(0.15)
    assert main(["build"]) == 1
    shown = terminal.getvalue()
    for line in LINES:
        assert line in shown
    assert "1 of 3 nodes" in shown
    assert shown.index("Building ...") < shown.index(LINES[0])


def test_completion_is_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lineage-orch.bash"
    assert main(["--install-completion", "--shell", "bash", "--output", str(file)]) == 0
    assert {"mark-stale", "pause", "--full-refresh"} <= set(
        file.read_text().replace('"', " ").replace("'", " ").split()
    )
    subprocess.run(["bash", "-n", str(file)], check=True)
