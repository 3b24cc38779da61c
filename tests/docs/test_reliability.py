"""The page on reliability names a test for each promise: it exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


def test_tests_that_page_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 40
    assert named - defined == set()


def test_each_row_of_a_table_names_a_test() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    head = {rows[0], *(line for line in rows if line.startswith("| When") or line.startswith("| What"))}
    assert len(rows) > 40
    assert [line for line in rows if line not in head and "`test_" not in line] == []
