"""The words of the field, and none of the house's own: in names, messages, comments and pages alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lineage_orch

ROOT = Path(lineage_orch.__file__).resolve().parents[1]

# Each with what to write in its place.
INSTEAD = {
    r"mend(s|ed|ing)?": "fix, correct, hint",
    r"glass": "ephemeral",
    r"hangs? on": "is downstream of, depends on",
    r"nobody|somebody": "no one by name: say who, or use the passive",
    r"owed|owes?": "stale",
    r"grip": "lock handle",
    r"slips? of the pen": "typo",
    r"without a word": "not reported",
    r"told nothing": "not reported",
    r"left alone": "not affected",
}
# One sentence of the pages may explain the idea by what is owed.
MOST = {"lineage_orch": 0, "docs": 1}


@pytest.mark.parametrize(("folder", "suffix"), [("lineage_orch", "*.py"), ("docs", "*.md")])
def test_words_are_those_of_field(folder: str, suffix: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r} -> {instead}"
        for path in sorted((ROOT / folder).rglob(suffix))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for word, instead in INSTEAD.items()
        for match in re.finditer(rf"\b({word})\b", line, flags=re.I)
    ]
    assert len(found) <= MOST[folder], "\n".join(found)
