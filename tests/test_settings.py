"""Settings: where each value comes from, how it is read, and what is said when it cannot be."""

from __future__ import annotations

import pickle
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lineage_orch import LineageOrchSettings, SettingsError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pyproject(folder: Path, *lines: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text("\n".join(["[tool.lineage_orch]", *lines, ""]))
    return path


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("target", "prod", "prod"),
        ("target", "", ""),
        ("manifest", "a/manifest.json", Path("a/manifest.json")),
        ("vars", "{currency: EUR}", {"currency": "EUR"}),
        ("vars", '{"currency": "EUR"}', {"currency": "EUR"}),
        ("vars", "", {}),
        ("dbt_command", "run", "run"),
        ("dbt_flags", "--threads 4 --vars '{a: b}'", ("--threads", "4", "--vars", "{a: b}")),
        ("dbt_flags", ' ["--threads", "4"]', ("--threads", "4")),
        ("dbt_flags", "", ()),
        ("keep_days", " 7 ", 7),
        ("keep_days", "7.0", 7),
        ("keep_days", "+07", 7),
        ("debounce", "0", 0.0),
        ("debounce", "1e3", 1000.0),
        ("debounce", ".5", 0.5),
        *[("wait", text, True) for text in ("true", "True", "1", "yes", "y", "on", "T")],
        *[("wait", text, False) for text in ("false", "FALSE", "0", "no", "n", "off", "f")],
    ],
)
def test_texts_of_environment(name: str, text: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LINEAGE_ORCH_{name.upper()}", text)
    read = getattr(LineageOrchSettings(), name)
    assert read == value
    assert type(read) is type(value) or isinstance(value, Path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("target", 5, "setting target 5 (passed in): it should be a text"),
        ("manifest", 5, "setting manifest 5 (passed in): it should be a path"),
        ("dbt_command", "test", "setting dbt_command 'test' (passed in): it should be 'build' or 'run'"),
        ("dbt_command", None, "setting dbt_command None (passed in): it should be 'build' or 'run'"),
        ("keep_days", 0, "setting keep_days 0 (passed in): it should be greater than or equal to 1"),
        ("keep_days", 7.5, "setting keep_days 7.5 (passed in): it should be a whole number"),
        ("keep_days", "week", "setting keep_days 'week' (passed in): it should be a whole number"),
        ("keep_days", True, "setting keep_days True (passed in): it should be a number"),
        ("debounce", -1, "setting debounce -1 (passed in): it should be greater than or equal to 0"),
        ("debounce", "nan", "setting debounce 'nan' (passed in): it should be a finite number"),
        ("debounce", [], "setting debounce [] (passed in): it should be a number"),
        ("wait", "maybe", "setting wait 'maybe' (passed in): it should be true or false"),
        ("wait", 2, "setting wait 2 (passed in): it should be true or false"),
        ("wait", None, "setting wait None (passed in): it should be true or false"),
        ("vars", "{a: 1", "setting vars (passed in): it is no YAML: expected ',' or '}'"),
        ("vars", "[1]", "setting vars (passed in): it should be a table"),
        ("vars", range(0, 3), "setting vars (passed in): it should be a table"),
        ("vars", {1: 2}, "setting vars[1] (passed in): it should be a text"),
        ("dbt_flags", 5, "setting dbt_flags (passed in): it should be a list of texts"),
        ("dbt_flags", ["a", 1], "setting dbt_flags[1] (passed in): it should be a text"),
        ("dbt_flags", '"a', "setting dbt_flags (passed in): No closing quotation"),
        ("producers", "[a", "setting producers '[a' (passed in): "),
    ],
)
def test_unreadable_value_is_told_with_name_and_place(name: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        LineageOrchSettings(**{name: value})
    assert str(raised.value).startswith(said)


def test_unreadable_values_are_told_at_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pyproject(here, 'keep_days = "x"')
    monkeypatch.setenv("LINEAGE_ORCH_VIEWS", "x")
    with pytest.raises(SettingsError) as raised:
        LineageOrchSettings(wait="x")
    assert str(raised.value).split("; ") == [
        f"setting keep_days 'x' (from [tool.lineage_orch] of {path}): it should be a whole number",
        "setting views 'x' (from LINEAGE_ORCH_VIEWS): it should be 'build' or 'pass_through'",
        "setting wait 'x' (passed in): it should be true or false",
    ]


@pytest.mark.parametrize(("name", "what"), [("vars", "nested too deep"), ("retry_on", "nested too deep"), ("wait", "")])
def test_value_without_end_is_told_in_few_words(name: str, what: str) -> None:
    with pytest.raises(SettingsError, match=rf"setting {name} .*{what}") as raised:
        LineageOrchSettings(**{name: "[" * 100_000})
    assert len(str(raised.value)) < 300


def test_url_of_ledger_is_never_shown() -> None:
    settings = LineageOrchSettings(ledger="postgresql://me:secret@host/db")
    assert "secret" not in f"{settings} {settings!r}"
    with pytest.raises(SettingsError) as raised:
        LineageOrchSettings(ledger=["secret"])
    assert str(raised.value) == "setting ledger (passed in): it should be a text"


def test_first_place_that_names_setting_counts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyproject(here, 'target = "file"', 'views = "pass_through"', "keep_days = 1", "vars = {of = 'file', too = 1}")
    monkeypatch.setenv("LINEAGE_ORCH_TARGET", "environment")
    monkeypatch.setenv("LINEAGE_ORCH_KEEP_DAYS", "2")
    settings = LineageOrchSettings(keep_days=3, vars={"of": "me"})
    assert (settings.target, settings.views, settings.keep_days) == ("environment", "pass_through", 3)
    assert settings.vars == {"of": "me"}


def test_variables_of_any_case_are_read_and_others_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("lineage_orch_Target", "prod")
    monkeypatch.setenv("LINEAGE_ORCH_SOMETHING", "else")
    assert LineageOrchSettings().target == "prod"


def test_nearest_pyproject_with_table_counts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyproject(here, 'project_dir = "dbt"', 'producers = ["flows.py", "a.module"]')
    (here / "flows.py").touch()
    below = here / "below"
    below.mkdir()
    (below / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    monkeypatch.chdir(below)
    settings = LineageOrchSettings()
    assert settings.project_dir == here / "dbt"
    assert settings.producers == (str(here / "flows.py"), "a.module")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.lineage_orch]\nkeep_day = 3", r"pyproject.toml has an unknown setting 'keep_day'; did you mean 'keep_"),
        ("[tool]\nlineage_orch = 3", r"pyproject.toml is no table; write \[tool.lineage_orch\]"),
        ("tool = 3", r"pyproject.toml cannot be read: `tool` is no table"),
        ("[tool", r"pyproject.toml cannot be read: "),
        ("a = " + "9" * 5_000, r"pyproject.toml cannot be read: .* digits"),
        pytest.param("a = " + "[" * 5_000, r"pyproject.toml cannot be read: .*recursion", id="deep"),
    ],
)
def test_pyproject_that_cannot_be_used(text: str, said: str, here: Path) -> None:
    (here / "pyproject.toml").write_text(text)
    with pytest.raises(SettingsError, match=said):
        LineageOrchSettings()


def test_unknown_names_are_told_with_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no setting 'manfest'; did you mean 'manifest'\? there are: project_dir,"):
        LineageOrchSettings(manfest="m.json")
    with pytest.raises(SettingsError, match="no setting 'nonsense'; there are: project_dir,"):
        LineageOrchSettings().with_overrides(nonsense=1)


def test_settings_do_not_change() -> None:
    settings = LineageOrchSettings(target="dev")
    with pytest.raises(ValidationError, match="frozen"):
        settings.target = "prod"  # type: ignore[misc]
    changed = settings.with_overrides(target="prod", keep_days=3)
    assert (settings.target, changed.target, changed.keep_days) == ("dev", "prod", 3)
    assert settings.with_overrides() is settings
    again = pickle.loads(pickle.dumps(changed))
    assert again == changed
    assert again.dump() == changed.dump()


def test_given_settings_can_be_asked_for() -> None:
    settings = LineageOrchSettings(wait=True, project_dir="dbt", vars={"day": date(2026, 1, 1)}, dbt_flags="-x")
    assert settings.given() == {
        "project_dir": Path("dbt"),
        "vars": {"day": date(2026, 1, 1)},
        "dbt_flags": ("-x",),
        "wait": True,
    }
    assert settings.dump() == {
        "project_dir": str(Path.cwd() / "dbt"),
        "vars": {"day": "2026-01-01"},
        "dbt_flags": ["-x"],
        "wait": True,
    }


def test_removed_setting_is_warned_of_and_breaks_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"hold_until_first_load \({}\) has no effect any more"
    with pytest.warns(UserWarning, match=said.format("passed in")):
        assert LineageOrchSettings(hold_until_first_load=True).given() == {}
    path = pyproject(here, "hold_until_first_load = true", "keep_days = 3")
    with pytest.warns(UserWarning, match=said.format(rf"from \[tool.lineage_orch\] of {path}")):
        assert LineageOrchSettings().given() == {"keep_days": 3}
    path.unlink()
    monkeypatch.setenv("LINEAGE_ORCH_HOLD_UNTIL_FIRST_LOAD", "1")
    with pytest.warns(UserWarning, match=said.format("from LINEAGE_ORCH_HOLD_UNTIL_FIRST_LOAD")):
        LineageOrchSettings()


def test_setting_says_where_it_comes_from(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pyproject(here, "keep_days = 3")
    monkeypatch.setenv("LINEAGE_ORCH_DBT_FLAGS", "--threads 4")
    settings = LineageOrchSettings(target="dev")
    assert [settings.place(each) for each in ("target", "dbt_flags", "keep_days", "views")] == [
        "passed in",
        "from LINEAGE_ORCH_DBT_FLAGS",
        f"from [tool.lineage_orch] of {path}",
        "default",
    ]


def test_reading_settings_needs_nothing_that_is_not_in_load() -> None:
    code = (
        "import sys, lineage_orch; print('pydantic' in sys.modules); lineage_orch.LineageOrchSettings(vars={}); "
        "print([each for each in ('yaml', 'sqlalchemy', 'prefect', 'dbt', 'networkx') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "[]"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ledger", 5.25),
        ("vars", "{token: 5.25"),
        ("vars", "token: [5.25"),
        ("vars", [5.25]),
        ("dbt_flags", 5.25),
        ("dbt_flags", "'5.25"),
        ("dbt_flags", ["--x", 5.25]),
    ],
)
def test_value_that_may_be_secret_is_in_no_message(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as raised:
        LineageOrchSettings(**{name: value})
    assert f"setting {name}" in str(raised.value)
    assert "5.25" not in str(raised.value)
