"""When a manifest is made anew, and where it lies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lineage_orch.dbt.current import CurrentLineage
from lineage_orch.dbt.process import ProcessDbt
from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import DbtMissingError, ManifestError
from lineage_orch.settings import LineageOrchSettings

MANIFEST = '{"metadata": {"invocation_id": "1"}, "nodes": {}, "sources": {}, "parent_map": {}, "child_map": {}}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text("name: shop\nprofile: p\n")
    (folder / "profiles.yml").write_text(
        "p: {target: dev, outputs: {dev: {type: duckdb, path: a.duckdb}, prod: {type: duckdb, path: b.duckdb}}}"
    )
    (folder / "models" / "a.sql").write_text("select '{{ env_var('REGION', 'eu') }}'")
    (folder / "models" / "sources.yml").write_text("sources: []")
    return folder


def find(folder: Path, **settings: object) -> DbtProject:
    return DbtProject.find(LineageOrchSettings(project_dir=folder, **settings))


def make(project: DbtProject) -> None:
    """Write a manifest, as `dbt parse` does, and note what it was made from."""
    inputs = project.inputs()
    project.target_path.mkdir(parents=True, exist_ok=True)
    project.manifest_path.write_text(MANIFEST)
    # Not what is told from times alone: the file system's times say that it is up to date.
    (project.target_path / "partial_parse.msgpack").write_bytes(b"not of dbt")
    project.note_manifest(inputs)


def test_manifest_is_up_to_date_when_nothing_differs(folder: Path) -> None:
    assert find(folder).stale_because() == "it has no manifest yet"
    make(find(folder))
    assert find(folder).stale_because() is None


def put_back_with_an_older_time(folder: Path) -> None:
    path = folder / "models" / "sources.yml"
    path.write_text("sources: [] # as it was")
    os.utime(path, (1, 1))  # cp -p, rsync -a


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "models" / "a.sql").write_text("select 22"), "models/a.sql changed"),
        (lambda f: (f / "models" / "b.sql").write_text("select 2"), "models/b.sql changed"),
        (lambda f: (f / "models" / "a.sql").unlink(), "models/a.sql changed"),
        (lambda f: [(f / "models" / f"{n}.sql").write_text("") for n in "bcd"], "models/b.sql and 2 more changed"),
        (put_back_with_an_older_time, "models/sources.yml changed"),
        (lambda f: (f / "dbt_project.yml").write_text("name: shop\nprofile: p\nx: 1\n"), "dbt_project.yml changed"),
        (lambda f: (f / "packages.yml").write_text("packages: []"), "packages.yml changed"),
        (
            lambda f: (f / "profiles.yml").write_text("p: {target: dev, outputs: {dev: {type: duckdb, path: c.db}}}"),
            "the profile changed",
        ),
        (lambda f: (f / "target" / "manifest.json").write_text(MANIFEST + " "), "made by another dbt command"),
        (lambda f: (f / "target" / "lineage_orch_inputs.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "target" / "lineage_orch_inputs.json").write_text("{}"), "written by another release"),
        (lambda f: shutil.rmtree(f / "target"), "it has no manifest yet"),
    ],
)
def test_manifest_is_stale_when_anything_differs(folder: Path, change: Callable[[Path], object], said: str) -> None:
    make(find(folder))
    change(folder)
    assert said in (find(folder).stale_because() or "")


def test_environment_variable_that_project_reads_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(find(folder))
    monkeypatch.setenv("OTHER", "1")
    assert find(folder).stale_because() is None
    monkeypatch.setenv("REGION", "us")
    assert find(folder).stale_because() == "REGION in the environment changed"


def test_files_of_editor_do_not_count(folder: Path) -> None:
    make(find(folder))
    (folder / "models" / ".a.sql.swp").write_text("")
    (folder / "models" / "a.sql~").write_text("")
    assert find(folder).stale_because() is None


def test_packages_count_by_file_or_by_project_file(folder: Path) -> None:
    linked = folder.parent / "linked"
    for package in (linked, folder / "dbt_packages" / "installed"):
        (package / "models").mkdir(parents=True)
        (package / "dbt_project.yml").write_text("name: x")
    (folder / "dbt_packages" / "linked").symlink_to(linked)
    make(find(folder))
    (folder / "dbt_packages" / "installed" / "models" / "x.sql").write_text("")
    assert find(folder).stale_because() is None
    (linked / "models" / "y.sql").write_text("")
    assert find(folder).stale_because() == "dbt_packages/linked/models/y.sql changed"


def test_copy_of_project_and_manifest_is_up_to_date(folder: Path, tmp_path: Path) -> None:
    make(find(folder))
    shutil.copytree(folder, tmp_path / "copy")
    assert find(tmp_path / "copy").stale_because() is None


def test_targets_and_vars_have_manifests_of_their_own(folder: Path) -> None:
    plain, prod = find(folder), find(folder, target="prod")
    assert plain.manifest_path == folder / "target" / "manifest.json"
    others = [prod, find(folder, target="dev"), find(folder, vars={"a": 1}), find(folder, vars={"a": 2})]
    assert len({each.manifest_path for each in [plain, *others]}) == 5
    assert all(each.target_path.is_relative_to(folder / ".lineage_orch" / "target") for each in others)
    make(plain)
    assert prod.stale_because() == "it has no manifest yet"


def test_dbt_target_shares_folder_and_is_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(find(folder))
    monkeypatch.setenv("DBT_TARGET", "prod")
    assert find(folder).passed_target is None
    assert find(folder).stale_because() == "the profile changed"


def test_manifest_newer_than_all_else_is_taken(folder: Path) -> None:
    project = find(folder)
    project.target_path.mkdir()
    project.manifest_path.write_text(MANIFEST)
    assert project.stale_because() is None
    put_back_with_an_older_time(folder)
    assert project.stale_because() == "its manifest was made by another dbt command"


def test_manifest_beside_unreadable_partial_parse_is_made_anew(folder: Path) -> None:
    project = find(folder)
    project.target_path.mkdir()
    (project.target_path / "partial_parse.msgpack").write_bytes(b"of some other release")
    project.manifest_path.write_text(MANIFEST)
    assert project.stale_because() == "its manifest was made by another dbt command"


def test_manifest_that_another_dbt_wrote_is_not_noted(folder: Path) -> None:
    project = find(folder)
    make(project)
    inputs = project.inputs()
    project.manifest_path.write_text(MANIFEST.replace('"1"', '"theirs"'))
    project.note_manifest(inputs, made_by="ours")
    assert project.stale_because() == "its manifest was made by another dbt command"


# Parsing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def current(folder: Path, said: list[str]) -> CurrentLineage:
    project = find(folder)

    def parse() -> None:
        said.append("parsed")
        project.target_path.mkdir(exist_ok=True)
        project.manifest_path.write_text(MANIFEST)

    return CurrentLineage(project, None, parse, progress=said.append)


def test_parse_announces_itself_and_why(folder: Path, current: CurrentLineage, said: list[str]) -> None:
    current.now()
    current.now()
    (folder / "models" / "b.sql").write_text("select 2")
    current.now()
    assert said == [
        "Parsing the dbt project (it has no manifest yet) ...",
        "parsed",
        "Parsing the dbt project (models/b.sql changed) ...",
        "parsed",
    ]


def test_parse_can_be_asked_for(current: CurrentLineage, said: list[str]) -> None:
    current.now()
    current.now(parse=True)
    assert said[2:] == ["Parsing the dbt project (asked for) ...", "parsed"]


@pytest.mark.parametrize("rest", [b"", MANIFEST.encode()[:-9], b"\xff{" + MANIFEST.encode()])
def test_manifest_that_cannot_be_read_is_made_anew(
    current: CurrentLineage, said: list[str], rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dbt that was killed while it wrote it, or whose disk was full, left it so: later than all else."""
    current.now()
    current.path.write_bytes(rest)
    assert find(current.path.parents[1]).stale_because() is None
    monkeypatch.setattr(CurrentLineage, "_is_being_written", lambda _: False)
    assert current.now().nodes == {}
    assert said[2:] == ["Parsing the dbt project (its manifest cannot be read) ...", "parsed"]


def test_manifest_that_was_given_is_never_made_anew(folder: Path, said: list[str]) -> None:
    given = folder / "given.json"
    given.write_text("{")
    with pytest.raises(ManifestError, match="cut off"):
        CurrentLineage(find(folder), given, lambda: said.append("parsed"), progress=said.append).now()
    assert said == []


def test_change_while_dbt_parses_is_parsed_next(folder: Path, said: list[str]) -> None:
    project = find(folder)

    def parse() -> None:
        (folder / "models" / f"new{len(said)}.sql").write_text("select 2")
        project.target_path.mkdir(exist_ok=True)
        project.manifest_path.write_text(MANIFEST)

    CurrentLineage(project, None, parse, progress=said.append).now()
    assert project.stale_because() == "models/new1.sql changed"


def test_process_without_dbt_uses_manifest_as_it_is(folder: Path, current: CurrentLineage, said: list[str]) -> None:
    current.now()
    (folder / "models" / "b.sql").write_text("select 2")
    read = LineageOrchSettings(project_dir=folder, dbt=str(folder / "no" / "dbt"))
    without = CurrentLineage(
        find(folder), None, ProcessDbt(find(folder), read, str(read.dbt)).parse, progress=said.append
    )
    without.now()
    assert said[2:] == [
        "Parsing the dbt project (models/b.sql changed) ...",
        f"The manifest {current.path} is used as it is (models/b.sql changed): there is no dbt here to parse with.",
    ]
    current.path.unlink()
    with pytest.raises(DbtMissingError, match="there is no dbt"):
        without.now()


def test_another_release_of_executable_parses_anew(folder: Path) -> None:
    def project() -> DbtProject:
        return DbtProject.find(LineageOrchSettings(project_dir=folder, dbt=str(dbt)))

    # dbt 2 is one file.
    dbt = folder / "venv" / "bin" / "dbt"
    dbt.parent.mkdir(parents=True)
    dbt.write_text("#!/bin/sh\n")
    dbt.chmod(0o755)
    project().target_path.mkdir(exist_ok=True)
    project().manifest_path.write_text(MANIFEST)
    project().note_manifest()
    assert project().stale_because() is None
    dbt.write_text("#!/bin/sh\n# newer\n")
    assert project().stale_because() == "the version of dbt changed"
    # dbt 1 is a package of the environment that it lies in.
    package = folder / "venv" / "lib" / "python3.12" / "site-packages" / "dbt_core-1.11.16.dist-info"
    package.mkdir(parents=True)
    project().note_manifest()
    dbt.write_text("#!/bin/sh\n# installed again\n")
    assert project().stale_because() is None
    package.rename(package.with_name("dbt_core-1.12.6.dist-info"))
    assert project().stale_because() == "the version of dbt changed"
