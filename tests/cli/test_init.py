"""``lineage-orch init``: what a newcomer's repository becomes, step by step."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.cli.app import main
from lineage_orch.lineage import Lineage
from lineage_orch.testing import FakeDbt
from tests.manifests import manifest, node, source

MANIFEST = manifest(
    source("raw.orders"),
    source("raw.users"),
    source("crm.accounts"),
    node("stg_orders", "raw.orders"),
    node("stg_users", "raw.users"),
    node("stg_accounts", "crm.accounts"),
    node("mart", "stg_orders", "stg_users"),
)
BARE = "from prefect import flow\n\n\n@flow\ndef load_{0}():\n    pass\n"


@pytest.fixture
def fake_dbt(monkeypatch: pytest.MonkeyPatch) -> FakeDbt:
    fake = FakeDbt(lambda: Lineage.from_manifest(MANIFEST))
    monkeypatch.setattr("lineage_orch.orchestrator.choose_dbt", lambda *_: fake)
    return fake


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_other_producers: None, fake_dbt: FakeDbt) -> Path:
    dbt = tmp_path / "analytics"
    (dbt / "target").mkdir(parents=True)
    (dbt / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (dbt / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
    (dbt / "target" / "manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "flows").mkdir()
    for name in ("orders", "users"):
        (tmp_path / "flows" / f"{name}.py").write_text(BARE.format(name))
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n\n[tool.ruff]\nline-length = 100')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


def data(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main(["init", "--yes", "--json", *words]) == code
    return json.loads(capsys.readouterr().out)


def test_first_hour(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = data(capsys)
    text = (repository / "pyproject.toml").read_text()
    assert tomllib.loads(text)["tool"] == {
        "ruff": {"line-length": 100},
        "lineage_orch": {"project_dir": "analytics", "producers": ["flows"]},
    }
    assert [(each["where"], each["suggested"]) for each in first["flows"]] == [
        ("flows/orders.py:4", ["raw.orders"]),
        ("flows/users.py:4", ["raw.users"]),
    ]
    assert first["sources_without_flow"] == ["crm.accounts"]
    assert (first["written"], first["baseline"], first["findings"]) == (True, "adopt", None)

    for name in ("orders", "users"):
        bare = BARE.format(name)
        decorated = bare.replace("@flow", f'@produces_source("raw.{name}")\n@flow')
        lines = "from lineage_orch import produces_source\n" + decorated
        (repository / "flows" / f"{name}.py").write_text(lines)
    again = data(capsys)
    assert (repository / "pyproject.toml").read_text() == text
    assert (again["written"], again["baseline"]) == (False, None)
    assert [each["declares"] for each in again["flows"]] == [["raw.orders"], ["raw.users"]]
    assert {each["code"] for each in again["findings"]} == {"source-without-producer", "unreached-models"}
    assert data(capsys) == again


def test_lines_to_write_are_shown(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--yes"]) == 0
    out, err = capsys.readouterr()
    assert 'producers = ["flows"]' in err
    lines = out.splitlines()
    at = lines.index("flows/orders.py:4  load_orders")
    assert lines[at + 1 : at + 3] == [
        "    from lineage_orch import produces_source",
        '    @produces_source("raw.orders")',
    ]
    assert "Declared 3 sources as loaded and 4 nodes as built, at tick 4." in lines
    assert lines[-1].startswith("No flow says yet what it loads")


def test_wrong_decorator_fails_its_check(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = BARE.format("orders").replace("@flow", '@produces_source("raw.order")\n@flow')
    (repository / "flows" / "orders.py").write_text(f"from lineage_orch import produces_source\n{text}")
    found = data(capsys, code=1)["findings"]
    assert [each["code"] for each in found if each["severity"] == "error"] == ["unknown-source"]


def test_settings_without_producers_are_told_of_them(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "pyproject.toml").write_text('[tool.lineage_orch]\nproject_dir = "analytics"\n')
    for name in ("orders", "users"):
        text = BARE.format(name).replace("@flow", f'@produces_source("raw.{name}")\n@flow')
        (repository / "flows" / f"{name}.py").write_text(f"from lineage_orch import produces_source\n{text}")
    assert main(["init", "--yes"]) == 0
    out = capsys.readouterr().out
    assert 'Add to it where the flows are: producers = ["flows"]' in out
    assert "0 errors" in out


def test_no_answer_changes_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (repository / "pyproject.toml").read_text()
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)
    assert main(["init"]) == 1
    assert capsys.readouterr().err.endswith("Nothing was changed.\n")
    assert (repository / "pyproject.toml").read_text() == before
    assert not (repository / "analytics" / ".lineage_orch").exists()


def test_empty_warehouse_is_left_to_first_loads(
    repository: Path, fake_dbt: FakeDbt, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_dbt.missing = set(Lineage.from_manifest(MANIFEST).nodes)
    assert data(capsys)["baseline"] is None
    assert fake_dbt.built == []
    assert data(capsys, "--build")["baseline"] == "build"
    assert len(fake_dbt.built[0]) == 4


def test_warehouse_that_cannot_be_asked_is_not_taken_as_built(
    repository: Path, fake_dbt: FakeDbt, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fake_dbt, "missing_relations", lambda _: None)
    assert data(capsys)["baseline"] is None
    assert data(capsys, "--adopt")["baseline"] == "adopt"


@pytest.mark.parametrize(
    ("files", "words", "message"),
    [
        ([], (), "no dbt_project.yml in"),
        (["a/dbt_project.yml", "b/dbt_project.yml"], (), "more than one dbt project below"),
        (["a/dbt_project.yml"], ("--adopt", "--build"), "exclude each other"),
    ],
)
def test_what_cannot_be_set_up_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: list[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--yes", *words]) == 2
    assert message in capsys.readouterr().err


def test_pyproject_that_cannot_take_it_stays_as_it_is(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "pyproject.toml").write_text("tool = {ruff = {}}\n")
    assert main(["init", "--yes"]) == 2
    assert "cannot be added at the end of" in capsys.readouterr().err
    assert (repository / "pyproject.toml").read_text() == "tool = {ruff = {}}\n"
