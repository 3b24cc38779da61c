"""Pausing sources and nodes: what is loaded meanwhile is kept, and built once when they go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage_orch.cli.app import main
from lineage_orch.errors import UnknownNodeError
from lineage_orch.ledger import Pause
from lineage_orch.lineage import Lineage
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.plan import Held
from lineage_orch.reports.page import Page
from lineage_orch.reports.wording import explanation_lines
from lineage_orch.testing import FakeDbt
from tests.manifests import manifest, node, source

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MANIFEST = manifest(
    source("raw.a"),
    source("raw.b"),
    node("stg_a", "raw.a"),
    node("stg_b", "raw.b"),
    node("mart", "stg_a", "stg_b"),
    node("top", "mart"),
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
    (tmp_path / "m.json").write_text(json.dumps(MANIFEST))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


class Clock:
    now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shop(project: Path, clock: Clock) -> Iterator[Orchestrator]:
    """All loaded and built once."""
    dbt = FakeDbt(lambda: Lineage.from_manifest(MANIFEST))
    with Orchestrator(dbt=dbt, manifest=project / "m.json", clock=clock) as shop:
        shop.record(["raw.a", "raw.b"])
        assert built(shop) == ["mart", "stg_a", "stg_b", "top"]
        yield shop


def built(shop: Orchestrator) -> list[str]:
    return sorted(each.rpartition(".")[2] for each in shop.build().built)


def held(shop: Orchestrator) -> dict[str, Held]:
    return {node.rpartition(".")[2]: each for node, each in shop.plan().held.items()}


def said(shop: Orchestrator, name: str) -> str:
    return "\n".join(explanation_lines(shop.explain(name), NOON))


def test_load_of_paused_source_is_kept_and_built_when_it_goes_on(shop: Orchestrator) -> None:
    assert shop.pause(["raw.a"], reason="the shop moves") == ("source.shop.raw.a",)
    shop.record(["raw.a"])
    shop.record(["raw.a"])
    assert built(shop) == []
    assert held(shop) == {}
    assert "stg_a is up to date, but raw.a was loaded at tick" in said(shop, "stg_a")
    assert "raw.a is paused since 12:00 UTC (the shop moves): its loads are recorded, and build nothing." in said(
        shop, "mart"
    )
    shop.record(["raw.b"])
    assert built(shop) == ["mart", "stg_b", "top"]
    assert shop.resume(["raw.a"]) == (("source.shop.raw.a",), ())
    assert built(shop) == ["mart", "stg_a", "top"]
    assert built(shop) == []


def test_paused_node_is_held_with_what_is_stale_below_it(shop: Orchestrator) -> None:
    shop.pause(["mart"], reason="a column is wrong")
    shop.record(["raw.a"])
    assert built(shop) == ["stg_a"]
    assert held(shop) == {"mart": Held("paused", detail="a column is wrong")}
    assert said(shop, "mart").startswith("mart is paused: a column is wrong.")
    assert "It will build after `lineage-orch resume mart`." in said(shop, "mart")
    shop.mark_stale(["top"])
    assert held(shop)["top"] == Held("paused", ("model.shop.mart",))
    assert said(shop, "top").startswith("top is held: it waits for mart, which is paused.")
    shop.resume(["mart"])
    assert built(shop) == ["mart", "top"]


def test_pause_ends_by_itself(shop: Orchestrator, clock: Clock) -> None:
    end = NOON + timedelta(hours=2)
    shop.pause(["mart", "raw.b"], until=end)
    shop.record(["raw.b"])
    assert shop.plan().next_due == end  # also of the source: nothing is held for it
    shop.record(["raw.a"])
    assert built(shop) == ["stg_a"]
    assert held(shop) == {"mart": Held("paused", until=end)}
    assert "mart is paused until 14:00 UTC (in 2 h)" in said(shop, "mart")
    clock.now = end
    assert built(shop) == ["mart", "stg_b", "top"]
    assert shop.plan().pauses == {}


def test_all_nodes_are_paused(shop: Orchestrator) -> None:
    assert shop.pause(["*"]) == ("*",)
    shop.record(["raw.a"])
    assert built(shop) == []
    assert held(shop) == {"stg_a": Held("paused")}
    assert "It will build after `lineage-orch resume --all`." in said(shop, "stg_a")
    assert shop.resume(["stg_a"]) == ((), ("*",))
    assert shop.resume(["*"]) == (("*",), ())
    assert built(shop) == ["mart", "stg_a", "top"]


def test_first_build_waits_for_paused_parent(project: Path) -> None:
    dbt = FakeDbt(lambda: Lineage.from_manifest(MANIFEST))
    with Orchestrator(dbt=dbt, manifest=project / "m.json") as shop:
        shop.pause(["stg_a"])
        shop.record(["raw.a", "raw.b"])
        assert built(shop) == ["stg_b"]
        assert held(shop)["mart"] == Held("paused", ("model.shop.stg_a",))


def test_by_hand_a_paused_node_is_built_by_force(shop: Orchestrator) -> None:
    shop.pause(["mart"])
    shop.record(["raw.a"])
    assert built(shop) == ["stg_a"]
    assert shop.build(select=["mart"]).built == []
    assert shop.build(select=["mart"], force=True).built == ["model.shop.mart"]


def test_names_are_those_of_the_project_or_paused_before(shop: Orchestrator) -> None:
    with pytest.raises(UnknownNodeError):
        shop.pause(["raw.c"])
    assert shop.pause(["stg_*"]) == ("model.shop.stg_a", "model.shop.stg_b")
    shop.ledger.pause(["model.shop.gone"], now=NOON)
    assert shop.resume(["model.shop.gone"])[0] == ("model.shop.gone",)
    shop.forget(["stg_a"])
    assert set(shop.ledger.snapshot().pauses) == {"model.shop.stg_b"}


def test_pauses_are_in_status_plan_and_page(shop: Orchestrator) -> None:
    shop.pause(["raw.a"], reason="moving")
    shop.pause(["stg_b"], until=NOON + timedelta(days=1))
    status = {each["name"]: each for each in shop.status().to_dict()["nodes"]}
    assert status["stg_b"]["state"] == "up_to_date"
    pauses = shop.status().to_dict()["pauses"]
    assert pauses["source.shop.raw.a"] == {"since": "2026-03-02T12:00:00+00:00", "until": None, "reason": "moving"}
    assert shop.plan().pauses["model.shop.stg_b"] == Pause(NOON, NOON + timedelta(days=1))
    page: Page = shop.page()
    items = {each.name: each for each in page.items}
    assert (items["raw.a"].state, items["raw.a"].caption) == ("paused", "source · paused")
    assert items["raw.a"].lines[0] == "Paused since 12:00 UTC (moving): its loads are recorded, and build nothing."
    assert items["stg_b"].caption == "model · paused, up to date"


# The command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(shop: Orchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(
        "lineage_orch.orchestrator.choose_dbt", lambda *_: FakeDbt(lambda: Lineage.from_manifest(MANIFEST))
    )

    def run(*words: str, code: int = 0) -> str:
        assert main([*words, "--manifest", "m.json"]) == code
        out, err = capsys.readouterr()
        return out or err

    return run


def test_commands(run: Any) -> None:
    assert run("pause", "raw.a", "mart", "--reason", "moving") == "Paused until it is resumed: mart and raw.a.\n"
    run("record", "raw.a", "raw.b")
    plan = run("plan")
    assert "Paused: mart and raw.a since " in plan
    assert "`lineage-orch resume` lets them go on." in plan
    status = run("status")
    assert "(paused)" in next(line for line in status.splitlines() if line.startswith(" raw.a") or "raw.a  " in line)
    assert "It is paused since " in run("explain", "raw.a")
    assert run("resume", "mart") == "Resumed: mart. The next build takes up what is stale.\n"
    assert run("resume", "mart") == "None of it was paused.\n"
    assert json.loads(run("pause", "--all", "--until", "2h", "--json"))["paused"] == ["*"]
    assert "All nodes are paused still" in run("resume", "raw.a")
    assert json.loads(run("resume", "--all", "--json")) == {"resumed": ["*"], "still_paused": []}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pause",), "pause needs sources or nodes"),
        (("resume", "raw.a", "--all"), "resume needs sources or nodes"),
        (("pause", "raw.a", "--until", "soon"), "is no span such as 2h or 3d"),
        (("pause", "raw.a", "--until", "2020-01-01T00:00:00Z"), "nor a time to come"),
        (("pause", "raw.a", "--until", "2030-01-01T00:00:00"), "nor a time to come"),
    ],
)
def test_what_cannot_be_paused_is_told(run: Any, words: tuple[str, ...], message: str) -> None:
    assert message in run(*words, code=2)
