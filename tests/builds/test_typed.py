"""Which dbt commands may be typed, and what they build."""

from __future__ import annotations

import pytest

from lineage_orch.builds.typed import TypedCommand
from lineage_orch.errors import SettingsError


@pytest.mark.parametrize("command", ["build -s a", "run", "seed --full-refresh", "snapshot", "test", "run-operation m"])
def test_what_builds_or_reads_what_is_built_runs_under_the_lock(command: str) -> None:
    assert TypedCommand.of(command.split(), {}).is_locked


@pytest.mark.parametrize(
    "command",
    [
        "ls -s state:modified --state p",
        "docs generate",
        "source freshness",
        "compile --defer",
        "build --help",
        "--version",
    ],
)
def test_what_only_asks_is_passed_on(command: str) -> None:
    typed = TypedCommand.of(command.split(), {})
    assert not typed.is_locked
    assert typed.is_known
    assert typed.args == tuple(command.split())


def test_unknown_command_is_known_to_be_unknown() -> None:
    typed = TypedCommand.of(["brew"], {})
    assert not typed.is_locked
    assert not typed.is_known


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("build --target prod", "give it before the --: lineage-orch dbt --target ... -- build"),
        ("build -t prod", "each target has a ledger scope of its own"),
        ("run --vars={a: 1}", "LINEAGE_ORCH_VARS"),
        ("ls --profiles-dir p", "LINEAGE_ORCH_PROFILES_DIR"),
        ("build --defer --state p", "another warehouse"),
        ("build --empty", "a part of their rows"),
        ("run --sample=3days", "a part of their rows"),
        ("retry", "whatever was run last"),
        ("clone --state p", "copies"),
        ("--log-level debug build", "begin with the command"),
        ("", "begin with the command"),
        ("build -f --event-time-start 2026-01-01", "that span alone"),
    ],
)
def test_what_would_leave_the_ledger_is_refused(command: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        TypedCommand.of(command.split(" ") if command else [], {})


@pytest.mark.parametrize("variable", ["DBT_DEFER", "DBT_EMPTY", "DBT_SAMPLE"])
def test_wishes_of_the_environment_are_refused_too(variable: str) -> None:
    TypedCommand.of(["build"], {variable: "false"})
    with pytest.raises(SettingsError, match="for that, call dbt itself"):
        TypedCommand.of(["build"], {variable: "true"})


def test_selection_and_state_are_free() -> None:
    TypedCommand.of(["build", "-s", "state:modified+", "--exclude", "a", "--state", "p"], {})


def test_span_of_event_times_is_read() -> None:
    typed = TypedCommand.of(["run", "--event-time-start=2026-01-01", "--event-time-end", "2026-01-03"], {})
    assert (f"{typed.start:%m-%d}", f"{typed.end:%m-%d}") == ("01-01", "01-03")
    assert TypedCommand.of(["run"], {"DBT_EVENT_TIME_START": "2026-01-01"}).start == typed.start
    refreshed = TypedCommand.of(["run", "-f"], {}).start
    assert refreshed is not None
    assert refreshed.year == 1
    assert TypedCommand.of(["run"], {}).start is None
