"""Which flags a build may take, which nodes it builds, and how it is shown."""

from __future__ import annotations

import pytest

from lineage_orch.dbt.command import check_environment, check_flags, not_built_by, shown_command, threads_in
from lineage_orch.errors import SettingsError
from lineage_orch.lineage import Lineage
from lineage_orch.settings import LineageOrchSettings
from tests.manifests import manifest, node, source


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--target", "prod"], "dbt_flags may not hold --target: set `target` (LINEAGE_ORCH_TARGET)"),
        (["--target=prod"], "dbt_flags may not hold --target: "),
        (["-t", "prod"], "dbt_flags may not hold -t: set `target`"),
        (["-tprod"], "dbt_flags may not hold -t: set `target`"),
        (["-xtprod"], "set `target`"),
        (["--threads", "4", "-s", "a"], "the plan says what to build"),
        (["--select=a"], "the plan says what to build"),
        (["-m", "a"], "the plan says what to build"),
        (["--models", "a"], "the plan says what to build"),
        (["--exclude", "a"], "enabled: false"),
        (["--selector", "nightly"], "the plan says what to build"),
        (["--vars", "{password: x}"], "set `vars` (LINEAGE_ORCH_VARS)"),
        (["--profile", "p"], "DBT_PROFILE"),
        (["--profiles-dir", "p"], "LINEAGE_ORCH_PROFILES_DIR"),
        (["--project-dir=p"], "LINEAGE_ORCH_PROJECT_DIR"),
        (["--target-path", "p"], "DBT_TARGET_PATH"),
        (["--state", "p"], "for that, call dbt itself"),
        (["--defer"], "for that, call dbt itself"),
        (["--favor-state"], "for that, call dbt itself"),
        (["--empty"], "recorded as built"),
        (["--sample=3 days"], "recorded as built"),
    ],
)
def test_flag_that_moves_build_is_refused(flags: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_flags(flags)
    assert said in str(caught.value)


@pytest.mark.parametrize("variable", ["DBT_DEFER", "DBT_FAVOR_STATE", "DBT_EMPTY", "DBT_SAMPLE"])
def test_variable_that_moves_build_is_refused(variable: str) -> None:
    for no in ("", "0", "False", "no"):
        check_environment([], environ={variable: no})
    with pytest.raises(SettingsError, match=f"^{variable} may not be set where builds run: .*; unset {variable} here$"):
        check_environment(["--threads", "4"], environ={variable: "1 day" if variable == "DBT_SAMPLE" else "1"})


def test_flag_replaces_variable() -> None:
    check_environment(["--no-empty", "--no-defer"], environ={"DBT_EMPTY": "1", "DBT_DEFER": "true"})


def test_refused_flag_does_not_show_its_value() -> None:
    with pytest.raises(SettingsError) as caught:
        check_flags(["--vars={password: hunter2}"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        ["--threads", "4", "-x", "--full-refresh", "-f", "-q"],
        ["--no-defer", "--no-favor-state", "--no-partial-parse"],
        ["--event-time-start", "2026-01-01", "--indirect-selection=cautious"],
        ["--log-path", "/tmp/t", "--warn-error-options", "{silence: [x]}"],
    ],
)
def test_other_flags_are_allowed(flags: list[str]) -> None:
    check_flags(flags)


SHOP = Lineage.from_manifest(
    manifest(
        source("raw.a"),
        node("model", "raw.a"),
        node("snap", "raw.a", kind="snapshot"),
        node("seed", kind="seed"),
    )
)
MODEL, SNAP, SEED = "model.shop.model", "snapshot.shop.snap", "seed.shop.seed"


@pytest.mark.parametrize(
    ("command", "flags", "not_built"),
    [
        ("build", [], set()),
        ("run", [], {SNAP, SEED}),
        ("build", ["--threads", "2", "--resource-type", "model"], {SNAP, SEED}),
        ("build", ["--resource-type", "model", "seed"], {SNAP}),
        ("build", ["--resource-type=model", "--resource-types", "test", "--resource-type", "seed"], {SNAP}),
        ("build", ["--resource-type", "all"], set()),
        ("build", ["--exclude-resource-type", "snapshot", "test"], {SNAP}),
        ("build", ["--exclude-resource-types=unit_test"], set()),
    ],
)
def test_command_leaves_out_what_it_does_not_build(command: str, flags: list[str], not_built: set[str]) -> None:
    assert not_built_by(command, flags, SHOP, environ={}) == not_built


def test_resource_types_of_environment_yield_to_flags() -> None:
    environ = {"DBT_RESOURCE_TYPES": "model seed"}
    assert not_built_by("build", [], SHOP, environ=environ) == {SNAP}
    assert not_built_by("build", ["--resource-type", "model"], SHOP, environ=environ) == {SNAP, SEED}
    assert not_built_by("build", [], SHOP, environ={"DBT_EXCLUDE_RESOURCE_TYPES": "seed"}) == {SEED}


def test_shown_command_is_whole_command_without_secrets() -> None:
    settings = LineageOrchSettings(
        target="prod",
        vars={"password": "hunter2", "day": 1},
        dbt_flags=("--threads", "4", "--log-path", "a b"),
        dbt_command="build",
    )
    assert shown_command(settings, ["source:shop.raw.a+"], ["one_test"]) == (
        "dbt build --select source:shop.raw.a+ --exclude one_test --target prod "
        """--vars '{"password": "...", "day": "..."}' --threads 4 --log-path 'a b'"""
    )


def test_shown_command_of_plain_settings_is_short() -> None:
    assert shown_command(LineageOrchSettings(), ["source:shop.raw.a+"]) == "dbt build --select source:shop.raw.a+"


@pytest.mark.parametrize(
    ("flags", "threads"),
    [
        ((), None),
        (("--threads", "4"), 4),
        (("--threads=4", "--full-refresh"), 4),
        (("--threads", "2", "--threads=8"), 8),
        (("--threads", "many"), None),
        (("--threads",), None),
    ],
)
def test_threads_in_flags(flags: tuple[str, ...], threads: int | None) -> None:
    assert threads_in(flags) == threads
