"""What is made of ``dbt source freshness``, over the files that real dbts wrote (``fixtures``)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lineage_orch.dbt.freshness import Freshness, Seen, parse_sources_json, read_sources_json
from lineage_orch.dbt.observation import observe, to_look_at
from lineage_orch.errors import DbtError, UnknownSourceError
from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.lineage import Lineage
from tests.manifests import manifest, node, source

FIXTURES = Path(__file__).parent / "fixtures"
A, B, C, UNREAD = (f"source.shop.raw.{name}" for name in ("a", "b", "c", "unread"))
LINEAGE = Lineage.from_manifest(
    manifest(
        *(source(f"raw.{name}") for name in ("a", "b", "c", "unread")),
        *(node(f"stg_{name}", f"raw.{name}") for name in "abc"),
    )
)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTLE = timedelta(minutes=10)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def recorded(known: LedgerSnapshot, settle: timedelta = SETTLE, **loaded: datetime | None) -> dict[str, str]:
    found = Freshness({f"source.shop.raw.{name}": Seen(at, NOW) for name, at in loaded.items()})
    _, updates = observe(found, (A, B, C), LINEAGE, known, settle)
    return {update.source: update.update_id for update in updates}


def known(at: datetime) -> LedgerSnapshot:
    """A ledger whose last load of A was at this time."""
    return LedgerSnapshot(tick=1, sources={A: 1}, loaded_at={A: at})


@pytest.mark.parametrize("dbt", ["dbt1", "dbt2"])
def test_dbt_1_and_dbt_2_say_the_same(dbt: str) -> None:
    found = read_sources_json(FIXTURES / f"{dbt}_sources.json")
    assert not found.errors
    loaded = {name.rpartition(".")[2]: seen.loaded_at for name, seen in found.seen.items()}
    # No rows: 0001-01-01 in the one file, 1970-01-01 in the other.
    assert loaded.pop("empty") is None
    assert {name: f"{at:%m-%d %H:%M:%S.%f%z}" for name, at in loaded.items() if at is not None} == {
        "ahead": "11-24 23:41:31.400199+0000",
        "aware": "11-24 20:41:31.393004+0000",
        "by_day_cast": "11-24 00:00:00.000000+0000",
        "by_query": "11-24 20:41:31.432965+0000",
        "filtered": "11-24 20:41:31.436303+0000",
        "fresh": "11-24 20:41:31.361083+0000",
        "late": "11-22 20:41:31.373065+0000",
        # Older than error_after: dbt calls that "error", which is none here.
        "very_late": "08-26 20:41:31.385053+0000",
    }
    assert all(seen.at.tzinfo is UTC for seen in found.seen.values())


def test_source_that_could_not_be_asked_is_told_as_older_dbts_write_it() -> None:
    text = json.dumps({"results": [{"unique_id": A, "error": "Binder Error:\n  no x", "status": "runtime error"}]})
    assert parse_sources_json(text.encode()) == Freshness(errors={A: "Binder Error: no x"})


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"results": [{"unique_id": "a"}]}', b'{"results": 1}'])
def test_file_that_is_no_sources_json_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "sources.json").write_bytes(text)
    with pytest.raises(DbtError, match=r"sources\.json is no sources\.json, or is cut off"):
        read_sources_json(tmp_path / "sources.json")
    with pytest.raises(DbtError, match="No such file"):
        read_sources_json(tmp_path / "gone.json")


def test_first_look_is_first_load_and_same_time_is_same_id() -> None:
    first = recorded(LedgerSnapshot(), a=ago(hours=1))
    assert first == {A: "observed:2026-03-01T11:00:00+00:00"}
    assert recorded(known(ago(hours=1)), a=ago(hours=1)) == {}
    assert recorded(known(ago(hours=1)), a=ago(minutes=30)) == {A: "observed:2026-03-01T11:30:00+00:00"}


def test_empty_table_was_not_loaded() -> None:
    assert recorded(LedgerSnapshot(), a=None) == {}


def test_row_that_a_known_load_brought_is_no_news() -> None:
    # The flow that loaded it completed after its newest row was made, and so did adopt.
    assert recorded(known(ago(hours=1)), a=ago(hours=1, minutes=11)) == {}
    # It may be of a load that was at work when that one completed.
    assert set(recorded(known(ago(hours=1)), a=ago(hours=1, minutes=9))) == {A}


def test_young_row_is_left_until_it_has_settled() -> None:
    found = Freshness({A: Seen(ago(minutes=9), NOW), B: Seen(ago(minutes=10), NOW)})
    observation, updates = observe(found, (A, B), LINEAGE, LedgerSnapshot(), SETTLE)
    assert [update.source for update in updates] == [B]
    assert observation.young == {A: timedelta(minutes=9)}
    assert observation.lines({A: "raw.a", B: "raw.b"})[1] == (
        "raw.a is left to the next look: its newest row is 9 minutes old, and may be of a load at work."
    )
    assert set(recorded(LedgerSnapshot(), timedelta(0), a=ago(minutes=9))) == {A}


def test_time_of_a_wrong_zone_does_not_wait_for_ever() -> None:
    assert set(recorded(LedgerSnapshot(), a=ago(hours=-3))) == {A}
    assert set(recorded(LedgerSnapshot(), a=ago(minutes=-3))) == set()


def test_looks_at_what_is_read_and_no_producer_reports() -> None:
    snapshot = LedgerSnapshot(producers=frozenset({A}), producer_patterns=frozenset({"raw.{c}"}))
    assert to_look_at(LINEAGE, LedgerSnapshot()) == (A, B, C)
    assert to_look_at(LINEAGE, LedgerSnapshot(producers=frozenset({A}))) == (B, C)
    assert to_look_at(LINEAGE, snapshot) == ()
    assert to_look_at(LINEAGE, snapshot, also_produced=True) == (A, B, C)
    assert to_look_at(LINEAGE, snapshot, ["raw.a", "raw.unread", "raw.a"]) == (A, UNREAD)
    with pytest.raises(UnknownSourceError, match="did you mean"):
        to_look_at(LINEAGE, snapshot, ["raw.aa"])


def test_what_dbt_does_not_look_at_is_named_once_with_what_to_set() -> None:
    found = Freshness({A: Seen(NOW, NOW), "source.other.x.y": Seen(NOW, NOW)}, {UNREAD: "not asked for"})
    observation, _ = observe(found, (A, B, C), LINEAGE, LedgerSnapshot(), SETTLE)
    assert observation.errors == {}
    names = {each: each.removeprefix("source.shop.") for each in LINEAGE.sources}
    assert observation.complaints(names) == [
        "dbt does not look at raw.b and raw.c: set loaded_at_field (or loaded_at_query), and freshness with warn_after "
        "or error_after, in the config of the source.",
        "Not in the manifest, and passed over: source.other.x.y. Is the sources.json of this project?",
    ]
