"""What is said of a dbt project and its loads: the findings, and which of them to leave out."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lineage_orch.errors import SettingsError, did_you_mean
from lineage_orch.lineage import Lineage
from lineage_orch.text import few

Severity = Literal["error", "warning"]


class Code(NamedTuple):
    """A kind of finding: how grave it is, for ``lineage-orch check`` and ``check_project`` alike, and what it means."""

    severity: Severity
    meaning: str


# Warnings may be meant so: what no flow of ours loads, say. Where it is not known what the loads are, nothing was
# compared, and a check that looks at nothing must not look like a good one.
CODES: Mapping[str, Code] = {
    "import-failed": Code("error", "a module or folder of `producers` cannot be read"),
    "other-project": Code("error", "no producer names a source of this project"),
    "unknown-source": Code("error", "a producer names a source that the project does not have"),
    "unreadable-policy": Code("error", "a freshness or state config, or a `late_after`, cannot be read"),
    "project-cycle": Code("error", "projects of one ledger read each other in a circle"),
    "bad-follower": Code("error", "a follower cannot be read, or follows what the project does not have"),
    "no-producers": Code("error", "it is not said where the producers are, or there are none"),
    "source-loaded-twice": Code("error", "two producers load one source"),
    "source-without-producer": Code("warning", "no producer loads a source"),
    "producer-without-models": Code("warning", "no model is downstream of what a producer loads"),
    "unreached-models": Code("warning", "models that no producer's load builds"),
    "updates-on-all-never-met": Code("warning", "`updates_on: all`, on parents that no producer moves"),
    "redundant-schedule": Code("warning", "a dbt deployment has a schedule for what loads build already"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    ``code``: one of :data:`CODES`. ``where``: ``file:line`` of the producer, or None. ``message``: what is wrong, and
    the fix. ``subjects``: the unique_ids or names of all that it is about.
    """

    code: str
    message: str
    where: str | None = None
    subjects: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        return CODES[self.code].severity

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


def folded(findings: Iterable[Finding], lineage: Lineage, *, most: int = 3) -> list[Finding]:
    """Return findings for people: of more than ``most`` of one code, one that counts and names them.

    Hundreds of sources may lack a producer on the day on which a project starts with the first.

    Args:
        most: how many of one code are told one by one.
    """
    from lineage_orch.reports.status import short_names

    names = short_names(lineage)
    by_code: dict[str, list[Finding]] = {}
    for each in findings:
        by_code.setdefault(each.code, []).append(each)
    out: list[Finding] = []
    for code, found in by_code.items():
        if len(found) <= most:
            out += found
            continue
        subjects = tuple(dict.fromkeys(subject for each in found for subject in each.subjects))
        listed = few((names.get(each, each) for each in subjects), most=5)
        first = found[0]
        place = f"{first.where}: " if first.where else ""
        message = f"{len(found)} times: {CODES[code].meaning} ({listed}). The first: {place}{first.message}"
        out.append(Finding(code, message, None, subjects))
    return out


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
