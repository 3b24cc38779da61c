"""The dbt command that a build runs: which flags it may take, which nodes it builds, and how it is shown to people."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lineage_orch.errors import SettingsError
from lineage_orch.settings import LineageOrchSettings

if TYPE_CHECKING:
    from lineage_orch.lineage import Lineage

_SELECTS = "the plan says what to build; to leave a node out for good, set `enabled: false` in its config"
_DEFERS = "what is deferred to is in another warehouse than the ledger tells of; for that, call dbt itself"
_PART = "tables with a part of their rows would be recorded as built; for that, call dbt itself"
# What would move the build elsewhere, or away from the plan, behind the back of the ledger -> what to do instead.
REFUSED = {
    "--target": "set `target` (LINEAGE_ORCH_TARGET): each target has a ledger scope of its own",
    "--profile": "name it in dbt_project.yml, or set DBT_PROFILE",
    "--profiles-dir": "set `profiles_dir` (LINEAGE_ORCH_PROFILES_DIR)",
    "--project-dir": "set `project_dir` (LINEAGE_ORCH_PROJECT_DIR)",
    "--target-path": "set `target-path` in dbt_project.yml, or DBT_TARGET_PATH",
    "--vars": "set `vars` (LINEAGE_ORCH_VARS)",
    "--select": _SELECTS,
    "--models": _SELECTS,
    "--model": _SELECTS,
    "--exclude": _SELECTS,
    "--selector": _SELECTS,
    "--state": _DEFERS,
    "--defer": _DEFERS,
    "--defer-state": _DEFERS,
    "--favor-state": _DEFERS,
    "--empty": _PART,
    "--sample": _PART,
}
# dbt.cli.params: the variables that dbt takes for such flags. It reads them in each command.
REFUSED_VARIABLES = {
    "DBT_DEFER": "--defer",
    "DBT_FAVOR_STATE": "--favor-state",
    "DBT_EMPTY": "--empty",
    "DBT_SAMPLE": "--sample",
}
# dbt.cli.params: the short options, and those among them that take no value.
_SHORT = {"t": "--target", "s": "--select", "m": "--models", "f": "--full-refresh"}
_SHORT_WITHOUT_VALUE = frozenset("xqdfhV")

_FULL_REFRESH = {"--full-refresh": True, "--no-full-refresh": False}
# What dbt's command line takes for true in an environment variable.
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"", "0", "false", "f", "no", "n", "off"})

_RUN_BUILDS = frozenset({"model"})
_BUILD_BUILDS = frozenset({"model", "snapshot", "seed"})


def check_flags(flags: Sequence[str]) -> None:
    """Make sure that none of the flags moves the build away from the plan and its ledger.

    Args:
        flags: as in the setting ``dbt_flags``.

    Raises:
        SettingsError: one does; the message says what to set instead.
    """
    for flag in flags:
        for option in options(flag):
            if option in REFUSED:
                # Only the option: what is beside it may be a secret.
                said = flag if flag.startswith("--") else flag[:2]
                raise SettingsError(f"dbt_flags may not hold {said.partition('=')[0]}: {REFUSED[option]}")


def check_environment(flags: Sequence[str], *, environ: Mapping[str, str] = os.environ) -> None:
    """Make sure that dbt finds no wish in its environment that moves the build away from the plan and its ledger.

    Args:
        flags: as in the setting ``dbt_flags``; ``--no-defer`` and such replace the variable.
        environ: the environment of dbt.

    Raises:
        SettingsError: it does; the message names the variable.
    """
    given = {option for flag in flags for option in options(flag)}
    for variable, option in REFUSED_VARIABLES.items():
        if is_set(environ, variable) and f"--no-{option[2:]}" not in given:
            raise SettingsError(f"{variable} may not be set where builds run: {REFUSED[option]}; unset {variable} here")


def is_set(environ: Mapping[str, str], variable: str) -> bool:
    """Whether dbt takes a variable of its environment for a yes, or for a value."""
    return environ.get(variable, "").lower() not in _FALSE


def options(flag: str) -> Iterator[str]:
    """Yield the long names of the options in one word of a command line: ``--select=a``, ``-sa``, ``-xs``."""
    if flag.startswith("--"):
        yield flag.partition("=")[0]
    elif flag.startswith("-"):
        for letter in flag[1:]:
            if letter in _SHORT:
                yield _SHORT[letter]
            if letter not in _SHORT_WITHOUT_VALUE:
                return


def threads_in(flags: Sequence[str]) -> int | None:
    """Return how many threads these flags give dbt, which count before those of the profile; None if none does."""
    words = [word for flag in flags for word in flag.split("=", 1)]
    given = [after for word, after in pairwise(words) if word == "--threads"]
    return int(given[-1]) if given and given[-1].isdecimal() and int(given[-1]) else None


def is_full_refresh(flags: Iterable[str], *, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the dbt command is asked to build incremental models anew, by its flags or DBT_FULL_REFRESH.

    Args:
        flags: as in the setting ``dbt_flags``.
        environ: where dbt finds DBT_FULL_REFRESH, which a flag replaces.
    """
    said = [option for flag in flags for option in options(flag) if option in _FULL_REFRESH]
    return _FULL_REFRESH[said[-1]] if said else environ.get("DBT_FULL_REFRESH", "").lower() in _TRUE


def not_built_by(
    command: str, flags: Sequence[str], lineage: Lineage, *, environ: Mapping[str, str] = os.environ
) -> frozenset[str]:
    """Return the unique_ids of the nodes that this dbt command will not build, whatever is selected.

    ``dbt run`` builds models alone; ``--resource-type`` and ``--exclude-resource-type`` restrict ``dbt build``.

    Args:
        command: build or run.
        flags: as in the setting ``dbt_flags``.
        environ: where dbt finds DBT_RESOURCE_TYPES and DBT_EXCLUDE_RESOURCE_TYPES, which the flags replace.
    """
    if command == "run":
        builds = _RUN_BUILDS
    else:
        builds = _BUILD_BUILDS
        only = (
            option_values(flags, "--resource-type", "--resource-types") or environ.get("DBT_RESOURCE_TYPES", "").split()
        )
        if only and not {"all", "default"} & set(only):
            builds &= set(only)
        without = option_values(flags, "--exclude-resource-type", "--exclude-resource-types")
        builds -= set(without or environ.get("DBT_EXCLUDE_RESOURCE_TYPES", "").split())
    return frozenset(node for node in lineage.nodes if node.partition(".")[0] not in builds)


def option_values(flags: Iterable[str], *names: str) -> list[str]:
    """Return the values of an option that may be given more than once, and take more than one each."""
    values: list[str] = []
    taking = False
    for word in flags:
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            taking = name in names
            if taking and equals:
                values += value.split()
        elif taking:
            values += word.split()
    return values


def selection(settings: LineageOrchSettings, select: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Return the words of the command that builds a selection: ``build --select ... --exclude ...``."""
    return [settings.dbt_command, "--select", *select, *(["--exclude", *exclude] if exclude else [])]


def shown_command(
    settings: LineageOrchSettings, select: Sequence[str], exclude: Sequence[str] = (), flags: Sequence[str] = ()
) -> str:
    """Return the whole dbt command for people, fit for a shell; of ``vars`` only the names: a value may be secret.

    Args:
        settings: whose command, target, vars and flags it has.
        flags: what this build needs beside those of the settings.
    """
    words = ["dbt", *selection(settings, select, exclude)]
    if settings.target:
        words += ["--target", settings.target]
    if settings.vars:
        words += ["--vars", _names_only(settings.vars)]
    words += [*flags, *settings.dbt_flags]
    return " ".join(word if word == "--select" else shlex.quote(word) for word in words)


def _names_only(given: Mapping[str, Any]) -> str:
    return json.dumps(dict.fromkeys(given, "..."))
