"""The fingerprint of a load: the same for the same content, and for nothing else."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineage_orch import ProducerError, fingerprint_of
from lineage_orch.loads.marks import mark, take_marks
from lineage_orch.updates import Window

plain = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.decimals() | st.datetimes()
rows = st.lists(st.tuples(plain, plain), min_size=1, max_size=5)


@given(content=rows, order=st.randoms(use_true_random=False))
def test_rows_in_any_order_have_one_fingerprint(content: list[tuple[Any, ...]], order: Any) -> None:
    shuffled = content.copy()
    order.shuffle(shuffled)
    assert fingerprint_of(content) == fingerprint_of(shuffled) == fingerprint_of(iter(content))


@given(content=rows, other=rows)
def test_rows_that_differ_have_another_fingerprint(
    content: list[tuple[Any, ...]], other: list[tuple[Any, ...]]
) -> None:
    same = sorted(map(repr, content)) == sorted(map(repr, other))
    assert (fingerprint_of(content) == fingerprint_of(other)) is same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([(1, 2)], [(2, 1)]),
        ([(1,)], [(1,), (1,)]),
        ([(1,), (1,)], [(2,), (2,)]),
        ([(None,)], [("None",)]),
        ([("1",)], [(1,)]),
        ([("ab", "c")], [("a", "bc")]),
        ([(1, 2), (3, 4)], [(1, 4), (3, 2)]),
        ([{"a": 1}], [{"a": 2}]),
        ("text", b"text"),
        ([], [()]),
    ],
)
def test_near_misses_are_told_apart(one: object, other: object) -> None:
    assert fingerprint_of(one) != fingerprint_of(other)


def test_cursor_is_as_list_of_its_rows() -> None:
    connection = sqlite3.connect(":memory:")
    cursor = connection.execute("select 1, 'a' union all select 2, null")
    assert fingerprint_of(cursor) == fingerprint_of([(2, None), (1, "a")])
    connection.close()


def test_parts_count_in_their_order() -> None:
    assert len({fingerprint_of("a"), fingerprint_of("a", "b"), fingerprint_of("b", "a"), fingerprint_of("ab")}) == 4


def test_file_is_its_content_and_folder_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"1\n")
    (tmp_path / "copy.csv").write_bytes(b"1\n")
    assert fingerprint_of(folder / "a.csv") == fingerprint_of(tmp_path / "copy.csv")
    before = fingerprint_of(folder)
    (folder / "a.csv").rename(folder / "b.csv")
    renamed = fingerprint_of(folder)
    (folder / "b.csv").write_bytes(b"2\n")
    assert len({before, renamed, fingerprint_of(folder)}) == 3
    with pytest.raises(FileNotFoundError):
        fingerprint_of(folder / "a.csv")


def test_fingerprint_is_same_in_every_process() -> None:
    code = "from lineage_orch import fingerprint_of; print(fingerprint_of([{'a': 1.5, 'b': {'x', 'y'}}], 'tag'))"
    told = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    }
    assert told == {fingerprint_of([{"b": {"y", "x"}, "a": 1.5}], "tag")}


class Frame:
    """As a data frame: it yields the names of its columns, whatever it holds."""

    def __iter__(self) -> Any:
        return iter(["a", "b"])


@pytest.mark.parametrize("value", [Frame(), [Frame()], object(), [(object(),)]])
def test_value_that_cannot_be_read_whole_is_refused(value: object) -> None:
    with pytest.raises(ProducerError, match=r"cannot read a .*\.(Frame|object); give it a Path, rows"):
        fingerprint_of(value)


def test_name_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(ProducerError, match=r"write Path\('.*a\.csv'\)"):
        fingerprint_of(str(tmp_path / "a.csv"))
    assert fingerprint_of("x" * 100_000), "no name of a file"
    with pytest.raises(ProducerError, match="given nothing"):
        fingerprint_of()


def test_plain_values_of_drivers_are_read() -> None:
    assert fingerprint_of([(Decimal("1.0"), datetime(2026, 1, 1, tzinfo=UTC), uuid4(), memoryview(b"x"), [1, 2])])


# What one run marked ---------------------------------------------------------------------------------------------


def marked(*calls: tuple[str, str | None]) -> Any:
    run = uuid4()
    for source, fingerprint in calls:
        mark(run, [source], fingerprint)
    return {source: each.fingerprint for source, each in (take_marks(run) or {}).items()}


def test_source_loaded_in_parts_has_fingerprint_of_all() -> None:
    assert marked(("a", "1"), ("b", None)) == {"a": "1", "b": None}
    assert marked(("a", "1"), ("a", "1")) == {"a": "1"}, "a retry says the same again"
    both = marked(("a", "1"), ("a", "2"))["a"]
    assert both not in ("1", "2", marked(("a", "2"), ("a", "1"))["a"], None)
    assert marked(("a", "1"), ("a", "2"))["a"] == both
    assert marked(("a", "1"), ("a", None), ("a", "1")) == {"a": None}, "one part is not known"


def test_source_loaded_in_parts_has_hull_of_their_windows() -> None:
    days = [datetime(2026, 3, day, tzinfo=UTC) for day in range(1, 6)]
    run = uuid4()
    mark(run, ["a", "b", "c"], None, Window(days[0], days[1]))
    mark(run, ["a"], None, Window(days[3], days[4]))
    mark(run, ["b", "d"])
    found = take_marks(run) or {}
    whole = Window(days[0], days[4])
    assert {source: each.window for source, each in found.items()} == {
        "a": whole,
        "b": None,  # one part is not known
        "c": Window(days[0], days[1]),
        "d": None,
    }
    mark(run, ["b"], None, Window(days[1], days[2]))
    mark(run, ["b", "d"])
    found = take_marks(run, Window(days[3], days[4])) or {}
    assert {source: each.window for source, each in found.items()} == {
        "b": Window(days[1], days[4]),
        "d": Window(days[3], days[4]),
    }
