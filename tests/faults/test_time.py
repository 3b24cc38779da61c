"""Times of any zone, on days that are no day long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from lineage_orch import Ledger
from lineage_orch.ledger import NodeFact
from lineage_orch.ledger.snapshot import LedgerSnapshot
from lineage_orch.lineage import Lineage
from lineage_orch.plan import plan_builds
from lineage_orch.updates import SourceUpdate
from tests.manifests import manifest, node, source

BERLIN, AUCKLAND = ZoneInfo("Europe/Berlin"), ZoneInfo("Pacific/Auckland")
ORDERS = "source.shop.raw.orders"


@pytest.mark.parametrize(
    "at",
    [
        datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN),  # an hour that there was not
        datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),  # the same on the clock, an hour later
        datetime(2028, 2, 29, 23, 59, 59, 999_999, tzinfo=AUCKLAND),
        datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
)
def test_times_of_other_zones_are_one_instant(at: datetime) -> None:
    with Ledger("sqlite://", project="shop", target="dev") as ledger:
        ledger.record_updates([SourceUpdate(ORDERS, "1", at, began_at=at - timedelta(hours=1))], now=at)
        (moment,) = ledger.snapshot().source_history[ORDERS]
        assert moment.at == at.astimezone(UTC)
        assert moment.at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "built_at",
    [
        datetime(2026, 3, 28, 12, tzinfo=BERLIN),  # its next noon is 23 hours away
        datetime(2026, 10, 24, 12, tzinfo=BERLIN),  # and here 25
        datetime(2028, 2, 28, 12, tzinfo=BERLIN),
    ],
)
def test_day_of_policy_is_24_hours(built_at: datetime) -> None:
    daily = {"freshness": {"build_after": {"count": 1, "period": "day"}}}
    lineage = Lineage.from_manifest(manifest(source("raw.orders"), node("mart", "raw.orders", config=daily)))
    mart = NodeFact(1, built_at.astimezone(UTC), identity=lineage.identity("model.shop.mart"))
    ledger = LedgerSnapshot(tick=2, sources={ORDERS: 2}, nodes={"model.shop.mart": mart})
    plan = plan_builds(lineage, ledger, now=built_at + timedelta(hours=1))
    assert plan.next_due == built_at.astimezone(UTC) + timedelta(hours=24)
    at_noon = (built_at.astimezone(UTC) + timedelta(hours=24)).astimezone(BERLIN)
    assert plan_builds(lineage, ledger, now=at_noon).build == ("model.shop.mart",)


def test_year_of_history_leaves_newest_facts(in_memory: Path) -> None:
    began = datetime(2027, 6, 1, tzinfo=UTC)
    with Ledger(f"sqlite:///{in_memory / 'ledger.db'}", project="shop", target="dev") as ledger:
        for day in range(400):
            now = began + timedelta(days=day)
            ledger.record_updates([SourceUpdate(ORDERS, f"day {day}", now)], now=now)
            tick, snapshot = ledger.begin_build(now=now)
            ledger.record_built(tick, ["model.shop.mart"], built_at=now)
        assert len(snapshot.source_history[ORDERS]) in (90, 91, 92)
        assert ledger.snapshot().nodes["model.shop.mart"].tick == tick == 800
        assert not ledger.known_updates(["day 0"])
        assert ledger.known_updates(["day 399"])
