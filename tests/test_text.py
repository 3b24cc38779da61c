from __future__ import annotations

from datetime import timedelta

import pytest

from lineage_orch.text import count, few, listed, one_line, roughly, span


@pytest.mark.parametrize(
    ("things", "said"), [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes"), (["a"], "1 node"), (iter("ab"), "2 nodes")]
)
def test_count(things: object, said: str) -> None:
    assert count(things, "node") == said  # type: ignore[arg-type]


def test_count_takes_another_plural() -> None:
    assert [count(1, "query", "queries"), count(2, "query", "queries")] == ["1 query", "2 queries"]


def test_few() -> None:
    assert [few([]), few(["a"]), few("abc"), few("abcde"), few("abc", most=1)] == [
        "",
        "a",
        "a, b, c",
        "a, b, c and 2 more",
        "a and 2 more",
    ]


def test_listed() -> None:
    assert [listed([]), listed(["a"]), listed("ab", "or"), listed("abc"), listed("abcd"), listed("ab", most=1)] == [
        "",
        "a",
        "a or b",
        "a, b and c",
        "a, b, c and 1 more",
        "a and 1 more",
    ]


def test_error_in_one_line() -> None:
    assert one_line("  a\n\n b ") == "a b"
    assert one_line(ValueError("a\nb")) == "a b"
    assert one_line(ValueError()) == "ValueError"
    assert one_line("abcdef", most=3) == "abc"
    assert one_line("") == ""


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (timedelta(hours=1), "1 hour"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(days=2), "2 days"),
        (timedelta(seconds=61), "61 seconds"),
        (timedelta(0), "0 seconds"),
    ],
)
def test_span(length: timedelta, said: str) -> None:
    assert span(length) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.1, "1 s"), (59, "59 s"), (100, "2 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_roughly(seconds: float, said: str) -> None:
    assert roughly(seconds) == said
