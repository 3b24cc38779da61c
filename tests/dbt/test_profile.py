"""Which target is built, and where in the warehouse that is, read from profiles.yml without dbt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lineage_orch.dbt.profile import Profile, _anchor, database_of_file, profiles_for_dbt, render
from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import DbtError
from lineage_orch.settings import LineageOrchSettings


def place(output: dict[str, Any], **vars: Any) -> str:
    return Profile(Path("/profiles"), "p", "dev", output, vars).place


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({"type": "duckdb", "path": "data/sales.duckdb"}, "sales.main"),
        ({"type": "duckdb", "path": "md:my_db?token=x", "schema": "gold"}, "my_db.gold"),
        ({"type": "duckdb"}, "memory.main"),
        ({"type": "duckdb", "path": "a.duckdb", "database": "b"}, "b.main"),
        ({"type": "postgres", "dbname": "dw", "schema": "ann"}, "dw.ann"),
        ({"type": "snowflake", "database": "DW", "schema": "ANN", "account": "x"}, "DW.ANN"),
        ({"type": "bigquery", "project": "acme", "dataset": "ann"}, "acme.ann"),
        ({"type": "databricks", "catalog": "main", "schema": "ann"}, "main.ann"),
        ({"type": "spark", "schema": "ann"}, "ann"),
    ],
)
def test_place_of_target(output: dict[str, Any], expected: str) -> None:
    assert place(output) == expected


def test_profiles_with_one_target_build_in_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    output = {"type": "duckdb", "path": "dw.duckdb", "schema": "{{ env_var('DEVELOPER', 'dev') | as_text }}"}
    assert place(output) == "dw.dev"
    monkeypatch.setenv("DEVELOPER", "ann")
    assert place(output) == "dw.ann"


def test_place_may_be_given_by_var() -> None:
    output = {"type": "postgres", "dbname": "dw", "schema": "{{ var('schema', 'x') }}"}
    assert (place(output), place(output, schema="ann")) == ("dw.x", "dw.ann")


def test_password_that_is_not_set_here_is_not_needed() -> None:
    output = {"type": "postgres", "dbname": "dw", "schema": "s", "password": "{{ env_var('NOT_SET_HERE') }}"}
    assert place(output) == "dw.s"


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_duckdb_without_file_is_called_memory(path: str) -> None:
    assert database_of_file(path) == "memory"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ env_var('NOT_SET_HERE') }}", "env_var 'NOT_SET_HERE' is not set"),
        ("{{ var('NOT_SET_HERE') }}", "var 'NOT_SET_HERE' is not set"),
        ("{{ nothing }}", "cannot render"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ }", "cannot render"),
        ("{{ env_var.__globals__['os'].system('touch pwned') }}", "cannot render"),
        ("{{ cycler.__init__.__globals__.os.system('touch pwned') }}", "cannot render"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot render"),
        ("{% import 'os' as os %}", "cannot render"),
    ],
)
def test_profile_that_cannot_be_rendered_runs_no_code(template: str, said: str) -> None:
    with pytest.raises(DbtError, match=said.replace("(", r"\(")):
        render(template)
    assert not Path("pwned").exists()


def write(folder: Path, profile: str, profiles: Any) -> None:
    (folder / "dbt_project.yml").write_text(yaml.safe_dump({"name": "shop", "profile": profile}))
    (folder / "profiles.yml").write_text(yaml.safe_dump(profiles))


def test_profile_in_project_file_runs_no_command(tmp_path: Path) -> None:
    write(tmp_path, "{{ cycler.__init__.__globals__.os.system('touch pwned') }}", {"p": {}})
    with pytest.raises(DbtError, match="cannot render"):
        DbtProject.find(LineageOrchSettings(project_dir=tmp_path))
    assert not (tmp_path / "pwned").exists()


def test_target_that_is_no_mapping(tmp_path: Path) -> None:
    write(tmp_path, "p", {"p": {"target": "dev", "outputs": {"dev": "duckdb"}}})
    with pytest.raises(DbtError, match=r"target 'dev' in .* is no mapping"):
        DbtProject.find(LineageOrchSettings(project_dir=tmp_path))


def test_profile_of_plain_yaml_is_read_where_it_lies(tmp_path: Path) -> None:
    write(tmp_path, "p", {"p": {"target": "dev", "outputs": {"dev": {"type": "duckdb"}}}})
    with profiles_for_dbt(tmp_path, tmp_path) as folder:
        assert folder == tmp_path


@pytest.mark.parametrize(
    ("given", "threads"), [(4, 4), ("{{ env_var('N', '8') }}", 8), (None, None), ("{{ env_var('NOT_SET') }}", None)]
)
def test_threads_of_profile(tmp_path: Path, given: object, threads: int | None) -> None:
    output = {"type": "duckdb"} | ({} if given is None else {"threads": given})
    write(tmp_path, "p", {"p": {"target": "dev", "outputs": {"dev": output}}})
    assert DbtProject.find(LineageOrchSettings(project_dir=tmp_path)).profile.threads == threads


def test_copied_profile_is_for_its_owner_alone(tmp_path: Path) -> None:
    copy = tmp_path / "profiles.yml"
    copy.write_text('shop: {target: dev, outputs: {dev: {type: duckdb, path: "{{ flags.PROFILES_DIR }}/x.db"}}}')
    copy.chmod(0o644)
    _anchor(copy, Path("/srv/dbt"))
    assert copy.stat().st_mode & 0o777 == 0o600
    assert "/srv/dbt" in copy.read_text()
