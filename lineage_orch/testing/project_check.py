"""A whole test in one line: the project and its loads fit."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lineage_orch.lineage import Lineage

if TYPE_CHECKING:
    from lineage_orch.check.findings import Finding
    from lineage_orch.settings import LineageOrchSettings


class ProjectWarning(UserWarning):
    """Something between a dbt project and its loads that may be meant so."""


def check_project(
    project: str | os.PathLike[str] | LineageOrchSettings | None = None,
    *,
    producers: Iterable[str | os.PathLike[str]] | None = None,
    lineage: Lineage | None = None,
    ignore: Iterable[str] = (),
    strict: bool = False,
) -> list[Finding]:
    """Fail when the project and its loads do not fit; a whole test in one line.

    It fails on what ``lineage-orch check`` exits with 1 for: the findings whose severity is error (``CODES`` of
    ``lineage_orch.check.findings``), such as a producer that names an unknown source, or a source that two load. All
    else is warned of. Nothing is run and nothing is built.

    Args:
        project: the dbt project's folder, or settings; by default what the environment and pyproject.toml say.
        producers: modules, files or folders to look in; by default the setting ``producers``.
        lineage: the project's lineage, if there is one already: then nothing is parsed.
        ignore: findings to leave out: codes, or ``code:pattern`` (see ``lineage_orch.check.findings``).
        strict: fail on everything.

    Returns:
        what was found and did not fail: warnings.

    Raises:
        AssertionError: with the list of what is wrong, each with its place and its fix.
        SettingsError, DbtError, ManifestError: there is no project, or it cannot be read.
    """
    __tracebackhide__ = True
    from lineage_orch.check.findings import folded
    from lineage_orch.check.project import read_project
    from lineage_orch.settings import LineageOrchSettings

    overrides: dict[str, Any] = {}
    if producers is not None:
        overrides["producers"] = tuple(os.fspath(each) for each in producers)
    if isinstance(project, LineageOrchSettings):
        settings = project.with_overrides(**overrides)
    else:
        if project is not None:
            overrides["project_dir"] = project
        settings = LineageOrchSettings(**overrides)
    read = read_project(settings, lineage=lineage)
    findings = read.check(ignore=ignore)
    failing = [each for each in findings if strict or each.severity == "error"]
    left = [each for each in findings if each not in failing]
    for each in folded(left, read.lineage):
        warnings.warn(str(each), ProjectWarning, stacklevel=2)
    if failing:
        many = f"{len(failing)} things do not fit" if len(failing) > 1 else "one thing does not fit"
        lines = "".join(f"\n- {each}" for each in folded(failing, read.lineage))
        raise AssertionError(f"{many} between the dbt project and its loads:{lines}")
    return left
