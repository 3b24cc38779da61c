"""Several projects in one ledger: who builds what another reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lineage_orch.ledger import Ledger
from lineage_orch.ledger.others import BuiltElsewhere, Place, Published, ReadElsewhere
from lineage_orch.updates import SourceUpdate

NOW = datetime(2026, 5, 17, 12, 30, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
RAW, STG, FCT = "source.core.raw.orders", "model.core.stg_orders", "model.core.fct_orders"
READ, MART = "source.ads.core.fct_orders", "model.ads.mart"
CORE = Place("core", "prod", "w.core")

CORE_TABLES = {
    RAW: Published("w.raw.orders"),
    STG: Published("w.core.stg_orders", (RAW,)),
    FCT: Published("w.core.fct_orders", (STG,)),
}
ADS_TABLES = {READ: Published("w.core.fct_orders"), MART: Published("w.ads.mart", (READ,))}
ADS_READS = {READ: "w.core.fct_orders"}


def open_ledger(url: str, project: str, place: str | None = None, target: str = "prod") -> Ledger:
    return Ledger(url, project=project, target=target, place=f"w.{project}" if place is None else place)


def build(ledger: Ledger, *nodes: str, at: datetime = NOW, unchanged: tuple[str, ...] = ()) -> int:
    tick, _ = ledger.begin_build(now=at)
    ledger.record_built(tick, nodes, built_at=at, unchanged=unchanged)
    return tick


def check_two_projects(url: str) -> None:
    """What two projects of one ledger see of each other (SQLite here, PostgreSQL in the tests with real servers)."""
    with open_ledger(url, "core") as core, open_ledger(url, "ads") as ads:
        assert ads.built_elsewhere(ADS_READS) == {}
        core.publish(CORE_TABLES)
        assert ads.built_elsewhere(ADS_READS) == {READ: BuiltElsewhere(CORE, FCT, 0, None)}
        ads.publish(ADS_TABLES)
        assert core.read_elsewhere() == [], "nothing is new there before it is built"

        core.record_updates([SourceUpdate(RAW, "1", NOW, producer="export")], now=NOW)
        first = build(core, STG, FCT)
        built = BuiltElsewhere(CORE, FCT, first, NOW)
        assert ads.built_elsewhere(ADS_READS) == {READ: built}
        assert core.read_elsewhere() == [ReadElsewhere(Place("ads", "prod", "w.ads"), (READ,), None)]
        ads.set_mark("lineage_orch.deployment", "build-affected/ads")
        assert core.read_elsewhere()[0].deployment == "build-affected/ads"
        assert [each.producer for each in core.origins(built)] == ["export"]

        for _ in range(2):  # killed after it, and asked again
            assert ads.record_updates([built.update_of(READ)], now=LATER) == 1
        assert ads.built_elsewhere(ADS_READS) == {READ: replace(built, is_known=True)}
        assert core.read_elsewhere() == []
        assert ads.snapshot().sources == {READ: 1}
        assert ads.producers() == {READ: ["fct_orders of project core"]}

        build(core, FCT, at=LATER, unchanged=(FCT,))
        assert ads.built_elsewhere(ADS_READS)[READ].is_known, "it came out as it was"
        again = build(core, FCT, at=LATER)
        assert ads.built_elsewhere(ADS_READS) == {READ: BuiltElsewhere(CORE, FCT, again, LATER)}
        core.take_back(again, [FCT])
        assert ads.built_elsewhere(ADS_READS)[READ].is_known, "that build did not hold"
        core.publish({RAW: CORE_TABLES[RAW]})
        assert ads.built_elsewhere(ADS_READS) == {}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def test_what_one_project_builds_is_news_to_who_reads_it(url: str) -> None:
    check_two_projects(url)


def test_publishing_again_writes_what_differs(url: str) -> None:
    with open_ledger(url, "core") as core, open_ledger(url, "ads") as ads:
        core.publish(CORE_TABLES)
        core.publish({**CORE_TABLES, FCT: Published("w.core.renamed", (STG,))})
        assert ads.built_elsewhere(ADS_READS) == {}
        assert ads.built_elsewhere({READ: "w.core.renamed"})[READ].node == FCT


def test_dev_and_prod_meet_where_they_build_one_relation_alone(url: str) -> None:
    """By relation; and where both build it, that of the target of the same name."""
    prod, dev = open_ledger(url, "core"), open_ledger(url, "core", "w.dev_anna", target="dev")
    ads, ads_dev = open_ledger(url, "ads"), open_ledger(url, "ads", "w.dev_anna", target="dev")
    prod.publish(CORE_TABLES)
    dev.publish({FCT: Published("w.dev_anna.fct_orders", ())})
    assert ads.built_elsewhere(ADS_READS)[READ].scope == CORE
    assert ads_dev.built_elsewhere(ADS_READS)[READ].scope == CORE, "a source of production, read in development"
    dev.publish({FCT: Published("w.core.fct_orders", ())})
    build(prod, FCT)
    build(dev, FCT, at=LATER)
    assert ads.built_elsewhere(ADS_READS)[READ].scope == CORE
    assert ads_dev.built_elsewhere(ADS_READS)[READ].scope.target == "dev"
    staging = open_ledger(url, "ads", target="staging")
    assert staging.built_elsewhere(ADS_READS)[READ].scope.target == "dev", "the last that was built"
    for each in (prod, dev, ads, ads_dev, staging):
        each.close()


def test_other_target_of_same_project_and_place_is_no_other_project(url: str) -> None:
    with open_ledger(url, "core") as core, open_ledger(url, "core", target="nightly") as same:
        own = {**CORE_TABLES, "source.core.self.fct": Published("w.core.fct_orders")}
        core.publish(own)
        same.publish(own)
        build(same, FCT)
        assert core.built_elsewhere({"source.core.self.fct": "w.core.fct_orders"}) == {}
        assert core.cycle_through_others(own) is None


def test_cycle_between_projects_is_found_by_who_closes_it(url: str) -> None:
    with open_ledger(url, "core") as core, open_ledger(url, "ads") as ads, open_ledger(url, "web") as web:
        core.publish(CORE_TABLES)
        ads.publish(ADS_TABLES)
        assert ads.cycle_through_others(ADS_TABLES) is None
        web.publish({"source.web.ads.mart": Published("w.ads.mart"), "model.web.a": Published("w.web.a", ())})
        beside = {**CORE_TABLES, "source.core.ads.mart": Published("w.ads.mart")}
        beside["model.core.report"] = Published("w.core.report", ("source.core.ads.mart",))
        assert core.cycle_through_others(beside) is None, "two projects may read each other"
        closed = {**beside, STG: Published("w.core.stg_orders", (RAW, "source.core.ads.mart"))}
        found = core.cycle_through_others(closed)
        assert found is not None
        assert found[0] == found[-1]
        assert [(scope.project, each) for scope, each in found[:-1]] == [
            ("core", "source.core.ads.mart"),
            ("core", STG),
            ("core", FCT),
            ("ads", READ),
            ("ads", MART),
        ]


def test_ledger_of_one_project_asks_nothing(url: str) -> None:
    with open_ledger(url, "core") as core:
        assert core.built_elsewhere({RAW: "w.raw.orders"}) == {}
        assert core.read_elsewhere() == []
        assert core.cycle_through_others(CORE_TABLES) is None
        core.publish(CORE_TABLES)
        assert core.snapshot().tick == 0, "what is published is no event"
