"""What is said of a dbt project and its loads: the findings, and which of them to leave out."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lineage_orch.errors import SettingsError, did_you_mean
from lineage_orch.lineage import Lineage

Severity = Literal["error", "warning"]

# Every code of a finding, and what it means.
CODES: Mapping[str, str] = {
    "import-failed": "a module or folder of `producers` cannot be read",
    "other-project": "no producer names a source of this project",
    "unknown-source": "a producer names a source that the project does not have",
    "unreadable-policy": "a freshness or state config cannot be read",
    "no-producers": "it is not said where the producers are, or there are none",
    "source-without-producer": "no producer loads a source",
    "source-loaded-twice": "two producers load one source",
    "producer-without-models": "no model is downstream of what a producer loads",
    "unreached-models": "models that no producer's load builds",
    "updates-on-all-never-met": "`updates_on: all`, on parents that no producer moves",
    "redundant-schedule": "a dbt deployment has a schedule for what loads build already",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    ``code``: one of :data:`CODES`. ``where``: ``file:line`` of the producer, or None. ``message``: what is wrong, and
    the fix. ``subjects``: the unique_ids or names of all that it is about.
    """

    code: str
    severity: Severity
    message: str
    where: str | None = None
    subjects: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{f'{self.where}: ' if self.where else ''}{self.message} [{self.code}]"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-ready values."""
        return {
            "code": self.code,
            "severity": self.severity,
            "where": self.where,
            "message": self.message,
            "subjects": list(self.subjects),
        }


# What to leave out ------------------------------------------------------------------------------------------


def ignore_rules(ignore: Iterable[str]) -> list[tuple[str, str]]:
    """Read ``code`` and ``code:pattern`` as pairs of a code and a pattern.

    Raises:
        SettingsError: there is no such code.
    """
    rules = []
    for rule in ignore:
        code, _, pattern = rule.partition(":")
        if code not in CODES:
            raise SettingsError(
                f"ignore: there is no finding {code!r}{did_you_mean(code, CODES)} (there are: {', '.join(CODES)})"
            )
        rules.append((code, pattern or "*"))
    return rules


def loaded_elsewhere(rules: Collection[tuple[str, str]], lineage: Lineage) -> frozenset[str]:
    """Return the sources that need no producer."""
    patterns = [pattern for code, pattern in rules if code == "source-without-producer"]
    return frozenset(each for each in lineage.sources if any(_matches(each, pattern, lineage) for pattern in patterns))


def without(finding: Finding, rules: Collection[tuple[str, str]], lineage: Lineage) -> Finding | None:
    """Return a finding unless all its subjects are to be ignored."""
    patterns = [pattern for code, pattern in rules if code == finding.code]
    if not patterns:
        return finding
    if "*" in patterns:
        return None
    left = [each for each in finding.subjects if not any(_matches(each, pattern, lineage) for pattern in patterns)]
    return finding if left else None


def _matches(subject: str, pattern: str, lineage: Lineage) -> bool:
    spelled = [subject]
    if source := lineage.sources.get(subject):
        spelled += [f"{source.source_name}.{source.table}", f"{source.package}.{source.source_name}.{source.table}"]
    if node := lineage.nodes.get(subject):
        spelled += [node.name, f"{node.package}.{node.name}"]
    return any(fnmatch.fnmatchcase(each, pattern) for each in spelled)
